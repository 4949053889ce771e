"""Sweeps in blocks: the same bits for any split and executor, kept blocks, lost workers, what cannot be sent."""

import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alberta_nb as nb
from alberta_nb.experiments.many import as_they_come, cut, file_of, plan, run_block, run_many, seed_keys
from alberta_nb.experiments.sweep import sweep
from alberta_nb.learners.bank import BankResult, LearnerBank
from alberta_nb.streams.sources import ArraySource, IteratorSource
from alberta_nb.streams.synthetic import SuttonExperiment1Stream
from alberta_nb.types import Settings

WORLD, ROOT = SuttonExperiment1Stream(), jax.random.key(3)
KEYS = seed_keys(ROOT, 10)
LINEAR = [nb.LinearLearner(nb.LMS(0.03)), nb.LinearLearner(nb.IDBD(0.03, 0.01)), nb.LinearLearner(nb.LMS(0.01))]
NETWORK = nb.MLPLearner((4,), nb.Autostep(0.01))
RUNS = {"linear": (LINEAR[1], WORLD), "network": (NETWORK, WORLD)}
ASKED: dict[str, Any] = {"num_steps": 60, "key": ROOT, "seeds": 10, "record_every": 20}


def squared(y: Any) -> Any:
    return y * y


class Called(Settings):
    """A learner that has a function among its settings."""

    function: Any

    def init(self, feature_dim: int) -> Any:
        return jnp.zeros(())

    def step(self, state: Any, time_step: Any) -> BankResult:
        y = self.function(time_step.target)
        return BankResult(state=state + 1, metrics=jnp.concatenate([y * y, y, y]))


class Pipe(Executor):
    """An executor that does what is sent through a pipe, here, but loses the first so many."""

    def __init__(self, losses: int = 0, error: Callable[[str], Exception] = BrokenExecutor):
        self.losses, self.error, self.sent = losses, error, 0

    def submit(self, fn: Any, /, *args: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.sent += 1
        if self.losses:
            self.losses -= 1
            future.set_exception(self.error("gone"))
        else:
            fn, args = pickle.loads(pickle.dumps((fn, args)))
            try:
                future.set_result(fn(*args))
            except BaseException as error:
                future.set_exception(error)
        return future


@pytest.fixture(scope="module")
def whole() -> Any:
    return run_many(RUNS, blocks=1, **ASKED)


def same(these: Any, those: Any) -> bool:
    return all(np.array_equal(these[name].metrics, those[name].metrics) for name in those)


def test_any_split_and_any_choice_of_seeds_give_the_same_bits(whole: Any) -> None:
    for blocks in (2, 7, 10):
        assert same(run_many(RUNS, blocks=blocks, **ASKED), whole)
    some = run_many(RUNS, **ASKED | {"seeds": [7, 2]})
    for name in RUNS:
        assert np.array_equal(some[name].metrics, whole[name].metrics[np.array([7, 2])])


def test_numbers_are_those_of_a_loop(whole: Any) -> None:
    key = jax.random.fold_in(ROOT, 4)
    alone = nb.run_mlp_learning_loop(NETWORK, WORLD, 60, key, record_every=20).metrics
    np.testing.assert_allclose(whole["network"].metrics[4], alone, rtol=2e-5, atol=2e-5)
    alone = nb.run_learning_loop(LINEAR[1], WORLD, 60, jax.random.split(key)[1], record_every=20).metrics
    np.testing.assert_allclose(whole["linear"].metrics[4], alone, rtol=2e-5, atol=2e-5)
    result = whole["linear"]
    assert result.states is None and result.steps == 60 and not np.any(result.skipped)
    assert list(result.to_frame())[:2] == ["seed", "step"] and len(result.to_frame()) == 30


@pytest.mark.parametrize("wide", [False, True])
def test_sweep_in_blocks_is_the_sweep(wide: bool) -> None:
    with jax.enable_x64(wide):
        plain = sweep(LINEAR, WORLD, 60, KEYS, record_every=20)
        found = [sweep(LINEAR, WORLD, 60, KEYS, blocks=b, record_every=20) for b in (1, (3, 2))]
        sent = sweep(LINEAR, WORLD, 60, KEYS, executor=Pipe(), record_every=20)
    for result in (*found, sent):
        assert result.metrics.dtype == plain.metrics.dtype and np.array_equal(result.metrics, found[0].metrics)
        np.testing.assert_allclose(result.metrics, plain.metrics, rtol=1e-12 if wide else 2e-5)


def test_a_network_shares_its_experience_with_who_is_in_another_block() -> None:
    mixed = [LINEAR[0], NETWORK]
    plain = sweep(mixed, WORLD, 60, KEYS, record_every=20).metrics
    for blocks in ((1, 1), (2, 2)):
        found = sweep(mixed, WORLD, 60, KEYS, blocks=blocks, record_every=20)
        np.testing.assert_allclose(found.metrics, plain, rtol=2e-5, atol=2e-5)


def test_skipped_and_the_end_of_a_source_are_told() -> None:
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    x[7] = np.nan
    source = ArraySource(x, np.ones(50, np.float32))
    found = sweep(LINEAR, source, None, KEYS[:2], blocks=(2, 3), non_finite="skip")
    assert found.steps == 50 and np.asarray(found.skipped).tolist() == [1, 1]
    plain = sweep(LINEAR, source, None, KEYS[:2], non_finite="skip")
    np.testing.assert_allclose(found.metrics, plain.metrics, rtol=2e-5, atol=1e-6)


def test_every_cell_is_in_one_block() -> None:
    bank = LearnerBank(tuple(nb.LinearLearner(nb.LMS(0.001 * k)) for k in range(1, 41)) + (NETWORK,))
    for n, blocks in ((1, None), (24, None), (25, None), (30, 7), (9, (9, 41))):
        cells = [(s, i) for seeds, members in cut(bank, n, blocks) for s in seeds for i in members]  # type: ignore[arg-type]
        assert sorted(cells) == [(s, i) for s in range(n) for i in range(41)]
    assert all(len(members) <= 16 for _, members in cut(bank, 1, None))


def test_lost_workers_are_replaced_while_blocks_get_done(whole: Any) -> None:
    class KilledWorker(Exception):
        """As dask names it."""

    for error in (BrokenExecutor, KilledWorker):
        pipe = Pipe(losses=3, error=error)
        assert same(run_many(RUNS, executor=pipe, blocks=2, retries=1, **ASKED), whole)
        assert pipe.sent == 4 + 3
    pipe = Pipe(losses=100)
    with pytest.raises(RuntimeError, match="workers were lost 2 times in a row"):
        run_many(RUNS, executor=pipe, blocks=2, retries=1, **ASKED)
    assert pipe.sent == 2 * 4


def test_an_error_of_a_block_is_no_loss() -> None:
    pipe, bad = Pipe(), ArraySource(np.full((5, 2), np.nan, np.float32), np.ones(5, np.float32))
    with pytest.raises(nb.NonFiniteError):
        sweep(LINEAR, bad, 5, KEYS, executor=pipe, blocks=2)
    assert pipe.sent == 2


def test_ctrl_c_cancels_what_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hands(Executor):
        futures: list[Future[Any]] = []

        def submit(self, fn: Any, /, *args: Any, **named: Any) -> Future[Any]:
            self.futures.append(Future())
            if len(self.futures) == 1:
                self.futures[0].set_exception(KeyboardInterrupt())
            return self.futures[-1]

    hands = Hands()
    with pytest.raises(KeyboardInterrupt):
        sweep(LINEAR, WORLD, 60, KEYS, executor=hands, blocks=5)
    assert [future.cancelled() for future in hands.futures] == [False, True, True, True, True]


def test_an_interrupted_block_is_no_block(monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(LearnerBank(tuple(LINEAR)), WORLD, 60, KEYS, False, 1, {})
    monkeypatch.setattr(
        "alberta_nb.experiments.many.run_learning_loop_batched",
        lambda *a, **k: nb.BatchedLearningResult((None, jnp.zeros((24, 3, 3, 3))), interrupted=True),
    )
    with pytest.raises(KeyboardInterrupt):
        run_block(made.blocks[0])


def test_done_blocks_are_read_and_damaged_ones_computed_again(tmp_path: Path, whole: Any) -> None:
    class Nobody(Executor):
        """Nothing may be asked of it."""

    folder = tmp_path / "new" / "folder"
    run_many(RUNS, folder=folder, blocks=2, **ASKED)
    files = sorted(folder.iterdir())
    assert len(files) == 4
    assert same(run_many(RUNS, folder=folder, blocks=2, executor=Nobody(), **ASKED), whole)
    data = bytearray(files[0].read_bytes())
    data[len(data) // 2] ^= 1
    files[0].write_bytes(data)
    with pytest.warns(UserWarning, match="computed again"):
        assert same(run_many(RUNS, folder=folder, blocks=2, **ASKED), whole)
    assert same(run_many(RUNS, folder=folder, blocks=2, executor=Nobody(), **ASKED), whole)
    assert sorted(folder.iterdir()) == files


def test_a_file_is_of_all_that_its_numbers_depend_on(tmp_path: Path) -> None:
    def name(learner: Any = LINEAR[0], world: Any = WORLD, steps: int = 60, keys: Any = KEYS, **options: Any) -> str:
        return file_of(tmp_path, plan(LearnerBank((learner,)), world, steps, keys, False, 1, options).blocks[0]).name

    rows, others = np.zeros((9, 2), np.float32), np.ones((9, 2), np.float32)
    source = [ArraySource(table, np.ones(9, np.float32)) for table in (rows, rows, others)]
    assert name() == name() and name(world=source[0], steps=9) == name(world=source[1], steps=9)
    with jax.enable_x64(True):
        wide = name()
    names = [
        name(), name(LINEAR[1]), name(LINEAR[2]), name(steps=61), name(keys=KEYS[1:]), name(record_every=2), wide,
        name(world=SuttonExperiment1Stream(change_interval=21)), name(world=source[0], steps=9),
        name(world=source[2], steps=9), name(keys=jax.random.key_data(KEYS)), name(non_finite="skip"),
    ]  # fmt: skip
    assert len(set(names)) == len(names)


def test_what_cannot_be_sent_is_named() -> None:
    lambdas = [LINEAR[0], Called(lambda y: y)]
    for executor in (None, ThreadPoolExecutor(1)):  # which send nothing
        assert sweep(lambdas, WORLD, 60, KEYS, executor=executor, blocks=1).metrics.shape == (10, 60, 2, 3)
    with pytest.raises(TypeError, match=r"learners\[1\], a Called, cannot be sent to a worker.*no lambdas"):
        sweep(lambdas, WORLD, 60, KEYS, executor=Pipe(), blocks=1)
    with pytest.raises(TypeError, match="stream, a IteratorSource, cannot be sent"):
        sweep(LINEAR, IteratorSource(iter([]), 2), None, KEYS, executor=Pipe())
    assert sweep([Called(squared)], WORLD, 60, KEYS, executor=Pipe()).metrics.shape == (10, 60, 1, 3)


def test_wrong_arguments_are_named() -> None:
    for error, match, options in (
        (TypeError, "executor must be a concurrent.futures.Executor, got int", {"executor": 2}),
        (ValueError, "blocks must be 10 or less, got 11", {"blocks": 11}),
        (ValueError, r"blocks\[1\] must be 3 or less, got 4", {"blocks": (1, 4)}),
        (TypeError, "blocks must be", {"blocks": "all"}),
        (ValueError, "retries must be", {"blocks": 1, "retries": -1}),
        (TypeError, "blocks take the options record_every and non_finite", {"blocks": 1, "learner_state": None}),
        (ValueError, "non_finite must be", {"blocks": 1, "non_finite": "never"}),
    ):
        with pytest.raises(error, match=match):
            sweep(LINEAR, WORLD, 60, KEYS, **options)  # type: ignore[arg-type]
    for match, seeds in (("seeds must", []), ("seeds must", 0), ("seeds must", [-1])):
        with pytest.raises(ValueError, match=match):
            seed_keys(ROOT, seeds)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="runs must hold one run"):
        run_many({}, **ASKED)


@pytest.mark.parametrize("learner", [*LINEAR, NETWORK], ids=lambda one: type(one).__name__)
def test_learners_travel(learner: Any) -> None:
    assert pickle.loads(pickle.dumps(learner)) == learner


def test_all_learners_and_streams_that_need_no_arguments_travel() -> None:
    told = 0
    for name in nb.__all__:
        kind = getattr(nb, name)
        if isinstance(kind, type) and issubclass(kind, Settings) and kind is not Settings:
            try:
                made = kind()
            except (TypeError, ValueError):
                continue  # it needs something
            told += 1
            assert pickle.loads(pickle.dumps(made)) == made, name
    assert told > 25


def test_spawned_processes_one_of_which_is_killed(whole: Any) -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        assert same(run_many(RUNS, executor=pool, blocks=7, **ASKED), whole)
        victim = next(iter(pool._processes.values()))
        threading.Timer(0.02, victim.kill).start()
        assert same(run_many(RUNS, executor=pool, blocks=7, **ASKED), whole)
        victim.join()
        assert same(run_many(RUNS, executor=pool, blocks=2, **ASKED), whole)  # though the pool is broken
    assert victim.exitcode == -9


@pytest.fixture
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        yield client


def test_a_cluster_of_two_processes_one_of_which_is_killed(client: Any, whole: Any) -> None:
    workers = set(client.run(os.getpid).values())
    threading.Timer(0.5, os.kill, (min(workers), 9)).start()
    assert same(run_many(RUNS, executor=client.get_executor(), blocks=7, **ASKED), whole)
    client.wait_for_workers(2)
    assert workers - set(client.run(os.getpid).values()) == {min(workers)}


def test_nothing_left_running_when_nobody_listens() -> None:
    made = plan(LearnerBank(tuple(LINEAR)), WORLD, 60, KEYS, False, 5, {})
    pipe = Pipe()
    coming = as_they_come(dict(enumerate(made.blocks)), pipe, 0)
    next(coming)
    coming.close()
    assert pipe.sent == 5
