"""The supervised loops: what they return, what they refuse, and one life lived in several ways."""

import copy
import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alberta_nb as ab
from alberta_nb.experiments.sweep import sweep
from alberta_nb.learners.bank import LearnerBank
from alberta_nb.learners.linear import LinearLearner
from alberta_nb.loops import engine
from alberta_nb.loops import run as run_module
from alberta_nb.loops.guard import NonFiniteError
from alberta_nb.loops.start import StreamPosition
from alberta_nb.loops.supervised import (
    BatchedLearningResult,
    LearningResult,
    NormalizerHistory,
    NormalizerTrackingConfig,
    StepSizeHistory,
    StepSizeTrackingConfig,
    run_learning_loop,
    run_learning_loop_batched,
)
from alberta_nb.normalizers import EMANormalizer, WelfordNormalizer
from alberta_nb.optimizers.autostep import Autostep
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.optimizers.lms import LMS
from alberta_nb.streams.sources import ArraySource, Source
from alberta_nb.streams.synthetic import AbruptChangeStream, RandomWalkStream
from alberta_nb.types import TimeStep

D = 5
KEY = jax.random.key(0)
WORLD = RandomWalkStream(D, drift_rate=0.01)
PLAIN = LinearLearner(IDBD(0.02, 0.002))
SCALED = LinearLearner(IDBD(0.02, 0.002), normalizer=EMANormalizer())
BOTH = {"step_size_tracking": StepSizeTrackingConfig(10), "normalizer_tracking": NormalizerTrackingConfig(7)}


def same(a: Any, b: Any) -> bool:
    """Whether two pytrees agree in every bit, NaN included."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def close(a: Any, b: Any) -> bool:
    """Whether two pytrees agree to rounding: they were compiled in different ways."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.allclose(x, y, rtol=1e-4, atol=1.5e-5, equal_nan=True) for x, y in pairs)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Pages of 64 steps, blocks of two pages: a run of some hundred steps crosses many of both."""
    monkeypatch.setattr(run_module, "PAGE_NUMBERS", 1)
    monkeypatch.setattr(run_module, "BLOCK_NUMBERS", 2 * 64 * 2 * (2 * D + 1))
    monkeypatch.setattr(run_module, "GIVEN_NUMBERS", 64 * 2 * (2 * D + 1))
    return 256


class BrokenWorld(RandomWalkStream):
    """A random walk whose sensor fails at one step."""

    at: int = 7
    value: float = np.nan

    def advance(self, state: Any, noise: Any, idx: Any) -> tuple[Any, Any]:
        time_step, state = super().advance(state, noise, idx)
        bad = jnp.where(idx == self.at, self.value, time_step.observation[0])
        return time_step.replace(observation=time_step.observation.at[0].set(bad)), state


class Drum:
    """A user's stream: init and step, a key of either kind in its state, and the clock in its target."""

    feature_dim = 3

    def init(self, key: Any) -> Any:
        return key, jnp.zeros(())

    def step(self, state: Any, idx: Any) -> tuple[Any, Any]:
        key, beats = state
        key, now = jax.random.split(key)
        observation = jax.random.normal(now, (3,))
        target = observation[:1] + idx.astype(jnp.float32) / 1000
        return TimeStep(observation=observation, target=target), (key, beats + 1)


def arrays(n: int = 500, d: int = D, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    return x, x.sum(axis=1) + 0.1 * rng.standard_normal(n)


# What comes back


@pytest.mark.parametrize("tracked", [(), ("step_size_tracking",), ("normalizer_tracking",), tuple(BOTH)])
def test_result_is_a_tuple_of_two_three_or_four(tracked: tuple[str, ...]) -> None:
    result = run_learning_loop(SCALED, WORLD, 100, KEY, **{name: BOTH[name] for name in tracked})  # type: ignore[arg-type]
    assert isinstance(result, tuple) and isinstance(result, LearningResult)
    assert len(result) == 2 + len(tracked)
    state, metrics, *histories = result
    assert state is result.state and metrics is result.metrics
    assert metrics.shape == (100, 4) and metrics.dtype == jnp.float32
    kinds = {"step_size_tracking": StepSizeHistory, "normalizer_tracking": NormalizerHistory}
    assert [type(h) for h in histories] == [kinds[name] for name in tracked]
    assert (result.steps, result.skipped, result.interrupted) == (100, 0, False)
    assert isinstance(result.stream_state, StreamPosition) and int(result.stream_state.steps) == 100


def test_result_is_a_pytree() -> None:
    result = run_learning_loop(PLAIN, WORLD, 100, KEY)
    moved = jax.tree.map(np.asarray, result)
    assert isinstance(moved, LearningResult) and same(moved, result) and moved.steps == 100
    assert isinstance(moved.metrics, np.ndarray)


def test_metric_columns() -> None:
    state, metrics, sizes, moments = run_learning_loop(
        SCALED, WORLD, 100, KEY, None, StepSizeTrackingConfig(10), NormalizerTrackingConfig(10)
    )
    squared, error, mean_step_size, mean_var = np.asarray(metrics).T
    assert np.allclose(squared, error**2, rtol=1e-6)
    all_sizes = np.column_stack([sizes.step_sizes, sizes.bias_step_sizes])
    assert np.allclose(mean_step_size[sizes.recording_indices], all_sizes.mean(axis=1), rtol=1e-5)
    assert np.allclose(mean_var[moments.recording_indices], moments.variances.mean(axis=1), rtol=1e-5)
    assert run_learning_loop(PLAIN, WORLD, 100, KEY).metrics.shape == (100, 3)


def test_lms_reports_its_step_size() -> None:
    metrics = run_learning_loop(LinearLearner(LMS(0.03)), WORLD, 10, KEY).metrics
    assert np.allclose(metrics[:, 2], 0.03)


@pytest.mark.parametrize(("num_steps", "interval"), [(99, 10), (7, 7)])
def test_history_rows(num_steps: int, interval: int) -> None:
    steps, norms = StepSizeTrackingConfig(interval), NormalizerTrackingConfig(interval)
    _, metrics, sizes, moments = run_learning_loop(SCALED, WORLD, num_steps, KEY, None, steps, norms)
    rows = num_steps // interval
    assert sizes.step_sizes.shape == (rows, D) and sizes.bias_step_sizes.shape == (rows,)
    assert moments.means.shape == moments.variances.shape == (rows, D)
    for history in (sizes, moments):
        assert history.recording_indices.tolist() == [k * interval for k in range(rows)]
    assert metrics.shape == (num_steps, 4)


def test_histories_hold_what_the_steps_left_behind() -> None:
    _, _, sizes, moments = run_learning_loop(SCALED, WORLD, 40, KEY, **BOTH)  # type: ignore[arg-type]
    for k, step in enumerate(sizes.recording_indices.tolist()):
        state = run_learning_loop(SCALED, WORLD, step + 1, KEY).state
        assert np.allclose(sizes.step_sizes[k], SCALED.step_sizes(state)["step_sizes"], rtol=1e-6)
        assert np.allclose(sizes.bias_step_sizes[k], state.optimizer_state.bias_step_size, rtol=1e-6)
    for k, step in enumerate(moments.recording_indices.tolist()):
        state = run_learning_loop(SCALED, WORLD, step + 1, KEY).state
        # a mean near 0 is a sum of terms of size 1, so its rounding is theirs
        assert np.allclose(moments.means[k], state.normalizer_state.mean, rtol=1e-6, atol=3e-7)
        assert np.allclose(moments.variances[k], state.normalizer_state.var, rtol=1e-6)


def test_history_fields_by_optimizer() -> None:
    def history(optimizer: Any, **options: Any) -> StepSizeHistory:
        return run_learning_loop(LinearLearner(optimizer), WORLD, 20, KEY, None, StepSizeTrackingConfig(5, **options))[
            2
        ]

    fixed = history(LMS(0.05), include_bias=False)
    assert fixed.bias_step_sizes is None and fixed.normalizers is None
    assert fixed.step_sizes.shape == (4, D) and np.allclose(fixed.step_sizes, 0.05)
    auto = history(Autostep())
    assert auto.normalizers is not None and auto.normalizers.shape == (4, D) and auto.bias_step_sizes.shape == (4,)


def test_welford_tracking_equals_numpy_on_the_prefix() -> None:
    x, y = arrays(200)
    learner = LinearLearner(LMS(0.01), normalizer=WelfordNormalizer())
    _, _, history = run_learning_loop(learner, ArraySource(x, y), normalizer_tracking=NormalizerTrackingConfig(20))
    for k, step in enumerate(history.recording_indices.tolist()):
        assert np.allclose(history.means[k], x[: step + 1].mean(axis=0), atol=1e-5)
        if step > 0:
            assert np.allclose(history.variances[k], x[: step + 1].var(axis=0, ddof=1), rtol=1e-4)


def test_tracking_changes_nothing() -> None:
    watched = run_learning_loop(SCALED, WORLD, 300, KEY, **BOTH)  # type: ignore[arg-type]
    unwatched = run_learning_loop(SCALED, WORLD, 300, KEY)
    assert close((watched.state, watched.metrics), (unwatched.state, unwatched.metrics))


# Batches


@pytest.fixture(scope="module")
def batch() -> BatchedLearningResult:
    return run_learning_loop_batched(SCALED, WORLD, 300, jax.random.split(KEY, 3), **BOTH)  # type: ignore[arg-type]


def test_batch_fields(batch: BatchedLearningResult) -> None:
    assert batch.metrics.shape == (3, 300, 4)
    assert batch.states.weights.shape == (3, D) and batch.states.bias.shape == (3,)
    sizes, moments = batch.step_size_history, batch.normalizer_history
    assert sizes is not None and sizes.step_sizes.shape == (3, 30, D)
    assert sizes.bias_step_sizes is not None and sizes.bias_step_sizes.shape == (3, 30)
    assert sizes.recording_indices.tolist() == [list(range(0, 300, 10))] * len(sizes.step_sizes)
    assert moments is not None and moments.means.shape == moments.variances.shape == (3, 42, D)
    assert moments.recording_indices.tolist() == [[7 * k for k in range(42)]] * len(moments.means)
    assert batch.steps == 300 and not batch.interrupted and np.asarray(batch.skipped).tolist() == [0] * 3
    assert batch.stream_state is not None and batch.stream_state.steps.tolist() == [300] * 3
    short = run_learning_loop_batched(PLAIN, WORLD, 10, jax.random.split(KEY, 3))
    assert short.step_size_history is None and short.normalizer_history is None


def test_each_seed_equals_a_single_run(batch: BatchedLearningResult) -> None:
    for k, key in enumerate(jax.random.split(KEY, 3)):
        state, metrics, sizes, moments = run_learning_loop(SCALED, WORLD, 300, key, **BOTH)  # type: ignore[arg-type]
        scale = float(jnp.abs(metrics).max())
        assert np.allclose(batch.metrics[k], metrics, rtol=1.5e-5, atol=1.5e-5 * scale)
        assert np.allclose(batch.states.weights[k], state.weights, atol=1.5e-5)
        assert np.allclose(batch.step_size_history.step_sizes[k], sizes.step_sizes, rtol=1e-4)  # type: ignore[union-attr]
        assert np.allclose(batch.normalizer_history.means[k], moments.means, atol=1e-5)  # type: ignore[union-attr]


def test_keys_of_both_kinds() -> None:
    keys = jax.random.split(KEY, 3)
    assert same(
        run_learning_loop_batched(PLAIN, WORLD, 100, keys),
        run_learning_loop_batched(PLAIN, WORLD, 100, jax.random.key_data(keys)),
    )
    new, old = (run_learning_loop(PLAIN, WORLD, 100, key) for key in (jax.random.key(3), jax.random.PRNGKey(3)))
    assert same(new, old)
    assert not same(new.metrics, run_learning_loop(PLAIN, WORLD, 100, KEY).metrics)


def test_batch_from_one_state_or_from_many() -> None:
    keys = jax.random.split(KEY, 3)
    learned = run_learning_loop(PLAIN, WORLD, 200, KEY).state
    one = run_learning_loop_batched(PLAIN, WORLD, 50, keys, learned)
    many = run_learning_loop_batched(PLAIN, WORLD, 50, keys, jax.tree.map(lambda a: jnp.stack([a] * 3), learned))
    assert same(one, many)
    single = run_learning_loop(PLAIN, WORLD, 50, keys[2], learned)
    assert np.allclose(one.states.weights[2], single.state.weights, atol=1.5e-5)


def test_bank_in_a_batch() -> None:
    bank = LearnerBank((PLAIN, LinearLearner(LMS(0.01)), LinearLearner(IDBD(0.05, 0.01))))
    keys = jax.random.split(KEY, 2)
    result = run_learning_loop_batched(bank, WORLD, 100, keys, step_size_tracking=StepSizeTrackingConfig(50))
    assert result.metrics.shape == (2, 100, 3, 3)
    assert result.step_size_history is not None and result.step_size_history.step_sizes.shape == (2, 2, 3, D)
    alone = run_learning_loop(PLAIN, WORLD, 100, keys[1])
    assert np.allclose(result.metrics[1, :, 0], alone.metrics, rtol=1e-4, atol=1e-4)


# The same life, lived in other ways


def test_step_by_step_scan_and_loop_agree() -> None:
    stream_state, state, rows = WORLD.init(KEY), PLAIN.init(D), []
    for t in range(60):
        time_step, stream_state = WORLD.step(stream_state, t)
        result = PLAIN.update(state, time_step.observation, time_step.target)
        state = result.state
        rows.append(np.asarray(result.metrics))

    def step(carry: Any, idx: Any) -> tuple[Any, Any]:
        time_step, world = WORLD.step(carry[1], idx)
        result = PLAIN.step(carry[0], time_step)
        return (result.state, world), result.metrics

    start = (PLAIN.init(D), WORLD.init(KEY))
    scanned, scan_rows = jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(60, dtype=jnp.uint32)))(start)
    looped = run_learning_loop(PLAIN, WORLD, 60, KEY)
    for metrics, last in ((np.stack(rows), state), (scan_rows, scanned[0])):
        assert np.allclose(looped.metrics, metrics, rtol=1e-5, atol=1.5e-5)
        assert np.allclose(looped.state.weights, last.weights, atol=1.5e-5)
    assert same(looped.stream_state.state, stream_state)


@pytest.mark.parametrize("world", [WORLD, AbruptChangeStream(D, change_interval=37)], ids=["walk", "abrupt"])
def test_a_run_in_two_pieces_is_the_same_run(world: Any) -> None:
    whole = run_learning_loop(PLAIN, world, 5_000, KEY)
    for cut in (1, 100, 4_097):
        first = run_learning_loop(PLAIN, world, cut, KEY)
        rest = run_learning_loop(PLAIN, world, 5_000 - cut, learner_state=first.state, stream_state=first.stream_state)
        assert same((rest.state, rest.stream_state), (whole.state, whole.stream_state))
        assert same(np.concatenate([first.metrics, rest.metrics]), whole.metrics)


def test_a_batch_in_two_pieces_is_the_same_batch() -> None:
    keys = jax.random.split(KEY, 3)
    whole = run_learning_loop_batched(PLAIN, WORLD, 300, keys)
    first = run_learning_loop_batched(PLAIN, WORLD, 111, keys)
    rest = run_learning_loop_batched(PLAIN, WORLD, 189, learner_state=first.states, stream_state=first.stream_state)
    assert same((rest.states, rest.stream_state), (whole.states, whole.stream_state))
    assert same(np.concatenate([first.metrics, rest.metrics], axis=1), whole.metrics)


def test_resumed_from_a_file(tmp_path: Any) -> None:
    whole = run_learning_loop(SCALED, WORLD, 200, KEY)
    first = run_learning_loop(SCALED, WORLD, 100, KEY)
    leaves, tree = jax.tree.flatten((first.state, first.stream_state))
    np.savez(tmp_path / "life.npz", *leaves)
    with np.load(tmp_path / "life.npz") as stored:
        state, position = jax.tree.unflatten(tree, [stored[name] for name in stored.files])
    rest = run_learning_loop(SCALED, WORLD, 100, learner_state=state, stream_state=position)
    assert same((rest.state, rest.stream_state), (whole.state, whole.stream_state))


@pytest.mark.usefixtures("small_blocks")
def test_pages_and_blocks_cannot_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    paged = run_learning_loop(SCALED, WORLD, 1_000, KEY, record_every=30, **BOTH)  # type: ignore[arg-type]
    full = run_learning_loop(SCALED, WORLD, 1_000, KEY)
    monkeypatch.undo()
    whole = run_learning_loop(SCALED, WORLD, 1_000, KEY, record_every=30, **BOTH)  # type: ignore[arg-type]
    assert close(paged, whole)
    assert close(full.metrics, run_learning_loop(SCALED, WORLD, 1_000, KEY).metrics)
    assert whole[2].step_sizes.shape == (100, D) and whole[3].means.shape == (142, D)


def test_a_user_stream_by_hand_in_a_loop_and_in_a_batch() -> None:
    drum, learner = Drum(), LinearLearner(LMS(0.05))
    for key in (jax.random.key(5), jax.random.PRNGKey(5)):
        world, state, rows = drum.init(key), learner.init(3), []
        for t in range(50):
            time_step, world = drum.step(world, jnp.uint32(t))
            result = learner.update(state, time_step.observation, time_step.target)
            state = result.state
            rows.append(np.asarray(result.metrics))
        looped = run_learning_loop(learner, drum, 50, key)
        assert np.allclose(looped.metrics, np.stack(rows), rtol=1e-4, atol=1.5e-5)
        assert float(looped.stream_state.state[1]) == 50
        first = run_learning_loop(learner, drum, 20, key)
        rest = run_learning_loop(learner, drum, 30, learner_state=first.state, stream_state=first.stream_state)
        assert same(rest.state, looped.state), "the clock of a continued run goes on"
    for keys in (jax.random.split(jax.random.key(5), 3), jax.random.split(jax.random.PRNGKey(5), 3)):
        batch = run_learning_loop_batched(learner, drum, 50, keys)
        alone = run_learning_loop(learner, drum, 50, keys[1])
        assert np.allclose(batch.metrics[1], alone.metrics, rtol=1e-4, atol=1.5e-5)


# Sources


def test_array_source() -> None:
    x, y = arrays()
    learner, source = LinearLearner(LMS(0.02)), ArraySource(x, y)
    whole = run_learning_loop(learner, source)
    assert whole.steps == 500 and whole.metrics.shape == (500, 3)
    state = learner.init(D)
    for row, target in zip(x[:30].astype(np.float32), y[:30].astype(np.float32), strict=True):
        state = learner.update(state, row, target).state
    short = run_learning_loop(learner, source, 30)
    assert np.allclose(short.state.weights, state.weights, atol=1e-6)
    rest = run_learning_loop(learner, source, learner_state=short.state, stream_state=short.stream_state)
    assert rest.steps == 470 and same(rest.state, whole.state)
    assert same(np.concatenate([short.metrics, rest.metrics]), whole.metrics)
    with pytest.raises(ValueError, match="num_steps is 501, but the source has 500"):
        run_learning_loop(learner, source, 501)


def test_source_in_a_batch_gives_every_seed_the_same() -> None:
    x, y = arrays(100)
    states = [run_learning_loop(PLAIN, WORLD, 100, key).state for key in jax.random.split(KEY, 2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    batch = run_learning_loop_batched(PLAIN, ArraySource(x, y), keys=jax.random.split(KEY, 2), learner_state=stacked)
    assert batch.metrics.shape == (2, 100, 3)
    for k, state in enumerate(states):
        alone = run_learning_loop(PLAIN, ArraySource(x, y), learner_state=state)
        assert np.allclose(batch.metrics[k], alone.metrics, rtol=1e-4, atol=1.5e-5)


class Once(Source):
    """Rows that can be asked for only once, as a queue gives them, and whose number nobody knows."""

    feature_dim = 2

    def __init__(self, n: int):
        self.rows = iter(np.arange(2 * n, dtype=np.float32).reshape(n, 2) / n)

    def pages(self, first: int, rows: int) -> Iterator[TimeStep]:
        while page := list(itertools.islice(self.rows, min(rows, 17))):
            observations = np.stack(page)
            yield TimeStep(observation=observations, target=observations[:, :1])  # type: ignore[arg-type]


@pytest.mark.parametrize("record_every", [1, 4])
def test_a_source_without_a_length(record_every: int) -> None:
    result = run_learning_loop(LinearLearner(LMS(0.1)), Once(100), record_every=record_every)
    assert result.steps == 100 and result.metrics.shape == (100 // record_every, 3)
    assert run_learning_loop(LinearLearner(LMS(0.1)), Once(100), 30).steps == 30
    tracking = StepSizeTrackingConfig(10)
    assert run_learning_loop(LinearLearner(LMS(0.1)), Once(45), step_size_tracking=tracking)[2].step_sizes.shape == (
        4,
        2,
    )


# Fewer rows


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("every", [7, 100])
def test_record_every_gives_means_across_pages_and_blocks(every: int) -> None:
    full = np.asarray(run_learning_loop(SCALED, WORLD, 1_000, KEY).metrics, np.float64)
    result = run_learning_loop(SCALED, WORLD, 1_000, KEY, record_every=every)
    rows = 1_000 // every
    means = full[: rows * every].reshape(rows, every, 4).mean(axis=1)
    assert result.metrics.shape == (rows, 4)
    assert np.allclose(result.metrics, means, rtol=2e-6, atol=1e-6)


def test_record_every_of_a_batch_and_of_a_source() -> None:
    keys = jax.random.split(KEY, 3)
    full = np.asarray(run_learning_loop_batched(PLAIN, WORLD, 300, keys).metrics)
    windows = run_learning_loop_batched(PLAIN, WORLD, 300, keys, record_every=40)
    assert np.allclose(windows.metrics, full[:, :280].reshape(3, 7, 40, 3).mean(axis=2), rtol=1e-5, atol=1e-6)
    x, y = arrays(90)
    full = np.asarray(run_learning_loop(PLAIN, ArraySource(x, y)).metrics)
    windows = run_learning_loop(PLAIN, ArraySource(x, y), record_every=40)
    assert np.allclose(windows.metrics, full[:80].reshape(2, 40, 3).mean(axis=1), rtol=1e-5, atol=1e-6)


def test_a_window_longer_than_the_run_gives_no_row() -> None:
    result = run_learning_loop(PLAIN, WORLD, 100, KEY, record_every=101)
    assert result.metrics.shape == (0, 3)
    assert close(result.state, run_learning_loop(PLAIN, WORLD, 100, KEY).state)


# Ctrl-C


engine_run_block = engine.run_block


def interrupt_after(monkeypatch: pytest.MonkeyPatch, blocks: int) -> None:
    real, made = engine_run_block, itertools.count()

    def run_block(*args: Any, **kwargs: Any) -> Any:
        if next(made) >= blocks:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(engine, "run_block", run_block)


def test_ctrl_c_returns_what_was_learned(small_blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_learning_loop(SCALED, WORLD, 1_000, KEY, **BOTH)  # type: ignore[arg-type]
    interrupt_after(monkeypatch, 2)
    stopped = run_learning_loop(SCALED, WORLD, 1_000, KEY, **BOTH)  # type: ignore[arg-type]
    assert stopped.interrupted and stopped.steps == 2 * small_blocks
    assert same(stopped.metrics, whole.metrics[: stopped.steps])
    assert stopped[2].step_sizes.shape == (stopped.steps // 10, D) and stopped[3].means.shape == (stopped.steps // 7, D)
    monkeypatch.setattr(engine, "run_block", engine_run_block)
    left = 1_000 - stopped.steps
    rest = run_learning_loop(
        SCALED, WORLD, left, learner_state=stopped.state, stream_state=stopped.stream_state, **BOTH
    )  # type: ignore[arg-type]
    assert not rest.interrupted and same((rest.state, rest.stream_state), (whole.state, whole.stream_state))


def test_ctrl_c_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "BLOCK_NUMBERS", 1)
    keys = jax.random.split(KEY, 2)
    rows = run_module._page_size(2 * (2 * D + 1))[0]
    whole = run_learning_loop_batched(PLAIN, WORLD, 3 * rows, keys)
    interrupt_after(monkeypatch, 1)
    stopped = run_learning_loop_batched(PLAIN, WORLD, 3 * rows, keys)
    assert stopped.interrupted and stopped.steps == rows
    assert same(stopped.metrics, whole.metrics[:, :rows])


def test_ctrl_c_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_after(monkeypatch, 0)
    stopped = run_learning_loop(SCALED, WORLD, 1_000, KEY, **BOTH)  # type: ignore[arg-type]
    assert stopped.interrupted and stopped.steps == 0 and stopped.metrics.shape == (0, 4)
    assert stopped[2].step_sizes.shape == stopped[3].means.shape == (0, D)
    assert same(stopped.state, SCALED.init(D))
    batch = run_learning_loop_batched(SCALED, WORLD, 1_000, jax.random.split(KEY, 3), **BOTH)  # type: ignore[arg-type]
    assert batch.interrupted and batch.metrics.shape == (3, 0, 4)


# Numbers that are not numbers


@pytest.mark.parametrize(("at", "value"), [(0, np.nan), (300, -np.inf)])
def test_non_finite_step_of_a_stream_raises(at: int, value: float) -> None:
    world = BrokenWorld(D, drift_rate=0.01, at=at, value=value)
    with pytest.raises(NonFiniteError, match=f"step {at}: observation or target is not finite") as caught:
        run_learning_loop(SCALED, world, 400, KEY, **BOTH)  # type: ignore[arg-type]
    error = caught.value
    assert isinstance(error, ValueError) and error.step == at
    assert isinstance(error.result, LearningResult) and error.result.steps == at
    assert error.result.metrics.shape == (at, 4) and np.isfinite(error.result.metrics).all()
    assert error.result[2].step_sizes.shape == (at // 10, D)
    healthy = run_learning_loop(SCALED, WORLD, max(at, 1), KEY)
    if at:
        assert np.allclose(error.result.state.weights, healthy.state.weights, atol=1.5e-5)


def test_the_step_of_a_continued_run_counts_from_the_stream_start() -> None:
    world = BrokenWorld(D, drift_rate=0.01, at=300, value=np.nan)
    first = run_learning_loop(SCALED, world, 250, KEY)
    with pytest.raises(NonFiniteError) as caught:
        run_learning_loop(SCALED, world, 250, learner_state=first.state, stream_state=first.stream_state)
    assert caught.value.step == 300 and caught.value.result.steps == 50


def test_skip_on_a_stream() -> None:
    world = BrokenWorld(D, drift_rate=0.01, at=7, value=np.nan)
    result = run_learning_loop(SCALED, world, 100, KEY, non_finite="skip", step_size_tracking=StepSizeTrackingConfig(1))
    assert result.skipped == 1 and result.steps == 100
    assert np.flatnonzero(np.isnan(result.metrics).any(axis=1)).tolist() == [7]
    assert np.isfinite(result.state.weights).all()
    assert same(result[2].step_sizes[7], result[2].step_sizes[6]), "nothing was learned"
    windows = run_learning_loop(SCALED, world, 100, KEY, non_finite="skip", record_every=5)
    means = np.nanmean(np.asarray(result.metrics).reshape(20, 5, 4), axis=1)
    assert np.allclose(windows.metrics, means, rtol=1e-5, atol=1e-6) and windows.skipped == 1


def test_skip_in_a_batch_is_each_seeds_own() -> None:
    class SometimesBroken(RandomWalkStream):
        def advance(self, state: Any, noise: Any, idx: Any) -> tuple[Any, Any]:
            time_step, state = super().advance(state, noise, idx)
            return time_step.replace(target=jnp.where(noise[1][0] > 2.0, jnp.inf, time_step.target)), state

    keys = jax.random.split(KEY, 3)
    world = SometimesBroken(D)
    batch = run_learning_loop_batched(PLAIN, world, 300, keys, non_finite="skip")
    counts = np.isnan(batch.metrics[:, :, 0]).sum(axis=1)
    assert np.asarray(batch.skipped).tolist() == counts.tolist() and len(set(counts.tolist())) > 1 and counts.min() > 0
    for k, key in enumerate(keys):
        alone = run_learning_loop(PLAIN, world, 300, key, non_finite="skip")
        assert alone.skipped == counts[k]
        assert np.allclose(batch.states.weights[k], alone.state.weights, atol=1.5e-5)
    with pytest.raises(NonFiniteError) as caught:
        run_learning_loop_batched(PLAIN, world, 300, keys)
    first_bad = int(np.isnan(batch.metrics[:, :, 0]).any(axis=0).argmax())
    assert caught.value.step == first_bad and isinstance(caught.value.result, BatchedLearningResult)
    assert caught.value.result.metrics.shape == (3, first_bad, 3)


@pytest.mark.filterwarnings("error")
def test_sources_with_holes() -> None:
    x, y = arrays(300)
    x[20, 1], y[200], y[201] = np.nan, np.inf, -np.inf
    learner = LinearLearner(LMS(0.02))
    with pytest.raises(NonFiniteError) as caught:
        run_learning_loop(learner, ArraySource(x, y), step_size_tracking=StepSizeTrackingConfig(10))
    assert caught.value.step == 20 and caught.value.result.metrics.shape == (20, 3)
    skipping = run_learning_loop(learner, ArraySource(x, y), non_finite="skip")
    good = np.isfinite(x).all(axis=1) & np.isfinite(y)
    assert skipping.skipped == 3 and np.array_equal(np.isnan(skipping.metrics[:, 0]), ~good)
    assert same(skipping.state, run_learning_loop(learner, ArraySource(x[good], y[good])).state)
    y[0] = np.nan
    with pytest.raises(NonFiniteError) as caught:
        run_learning_loop(learner, ArraySource(x, y), record_every=10)
    assert caught.value.step == 0 and caught.value.result.metrics.shape == (0, 3)


@pytest.mark.filterwarnings("error")
def test_large_numbers_are_numbers() -> None:
    result = run_learning_loop(LinearLearner(LMS(0.0)), ArraySource(np.full((10, 2), 3e38), np.full(10, -3e38)))
    assert result.skipped == 0 and result.steps == 10


def test_an_exploding_learner_is_shown_as_it_is() -> None:
    result = run_learning_loop(LinearLearner(LMS(100.0)), WORLD, 100, KEY, non_finite="show")
    assert result.steps == 100 and not np.isfinite(result.metrics[-1, 0])
    with pytest.raises(NonFiniteError, match="the state that the learner makes of it") as caught:
        run_learning_loop(LinearLearner(LMS(100.0)), WORLD, 100, KEY)
    assert caught.value.what == "state" and 0 < caught.value.result.steps == caught.value.step < 100
    assert np.isfinite(caught.value.result.state.weights).all()


# The bar


def test_progress_shows_steps_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = run_learning_loop(PLAIN, WORLD, 100, KEY)
    assert capsys.readouterr() == ("", "")
    shown = run_learning_loop(PLAIN, WORLD, 100, KEY, progress=True)
    out, err = capsys.readouterr()
    assert "100" in err and "step" in err and out == ""
    assert same(quiet, shown)


# Bad input, named before anything compiles


@pytest.mark.parametrize("interval", [0, -1, 101])
@pytest.mark.parametrize("name", list(BOTH))
def test_intervals_are_checked(name: str, interval: int) -> None:
    config = StepSizeTrackingConfig if name == "step_size_tracking" else NormalizerTrackingConfig
    tracking: Any = {name: config(interval)}
    with pytest.raises(ValueError, match=f"{name}.interval must be"):
        run_learning_loop(SCALED, WORLD, 100, KEY, **tracking)
    with pytest.raises(ValueError, match=f"{name}.interval must be"):
        run_learning_loop_batched(SCALED, WORLD, 100, jax.random.split(KEY, 2), **tracking)
    if interval == 101:
        with pytest.raises(ValueError, match=f"{name}.interval must be at most num_steps"):
            run_learning_loop(SCALED, ArraySource(*arrays(100)), **tracking)


def wrong_calls() -> list[tuple[str, type[Exception], str, Any]]:
    keys = jax.random.split(KEY, 3)
    other = LinearLearner(LMS())
    position = StreamPosition(state=WORLD.init(KEY), steps=jnp.uint32(0))
    source = ArraySource(*arrays(20))

    def one(*args: Any, **kwargs: Any) -> Any:
        return lambda: run_learning_loop(*args, **kwargs)

    def many(*args: Any, **kwargs: Any) -> Any:
        return lambda: run_learning_loop_batched(*args, **kwargs)

    class Unhashable(Drum):
        __hash__ = None  # type: ignore[assignment]

    class Short(Drum):
        feature_dim = 4

    class Two(Drum):
        def step(self, state: Any, idx: Any) -> tuple[Any, Any]:
            time_step, state = super().step(state, idx)
            return time_step.replace(target=jnp.concatenate([time_step.target] * 2)), state

    return [
        ("no learner", TypeError, "learner must have init and step", one(LMS(), WORLD, 10, KEY)),
        ("no stream", TypeError, "stream must have feature_dim", one(PLAIN, [1, 2], 10, KEY)),
        ("unhashable", TypeError, "stream must be hashable", one(PLAIN, Unhashable(), 10, KEY)),
        ("no num_steps", TypeError, "num_steps is needed", one(PLAIN, WORLD, key=KEY)),
        ("num_steps 0", ValueError, "num_steps must be 1 or more", one(PLAIN, WORLD, 0, KEY)),
        ("num_steps float", TypeError, "num_steps must be a whole number", one(PLAIN, WORLD, 1e3, KEY)),
        ("too many", ValueError, "clock ends at 2\\^32", one(PLAIN, WORLD, 2**32 + 1, KEY)),
        ("no key", TypeError, "key is needed", one(PLAIN, WORLD, 10)),
        ("not a key", TypeError, "key must come from jax.random", one(PLAIN, WORLD, 10, 0)),
        ("many keys", ValueError, "key must be one key", one(PLAIN, WORLD, 10, keys)),
        ("many raw keys", ValueError, "key must be one key", one(PLAIN, WORLD, 10, jax.random.key_data(keys))),
        ("no keys", TypeError, "keys is needed", many(PLAIN, WORLD, 10)),
        ("one key", ValueError, "keys must have shape", many(PLAIN, WORLD, 10, KEY)),
        ("empty keys", ValueError, "keys must have shape", many(PLAIN, WORLD, 10, keys[:0])),
        ("grid of keys", ValueError, "keys must have shape", many(PLAIN, WORLD, 10, keys[None])),
        (
            "state dim",
            ValueError,
            r"learner_state.weights must have shape \(5,\)",
            one(PLAIN, WORLD, 10, KEY, PLAIN.init(4)),
        ),
        ("state kind", TypeError, "learner_state must be a LearnerState", one(PLAIN, WORLD, 10, KEY, other.init(D))),
        ("no state", TypeError, "learner_state must be a LearnerState", one(PLAIN, WORLD, 10, KEY, jnp.zeros(D))),
        (
            "seeds",
            ValueError,
            "learner_state.weights",
            many(PLAIN, WORLD, 10, keys, jax.vmap(lambda _: PLAIN.init(D))(keys[:2])),
        ),
        (
            "batch state",
            ValueError,
            "learner_state.weights",
            one(PLAIN, WORLD, 10, KEY, jax.vmap(lambda _: PLAIN.init(D))(keys)),
        ),
        ("position", TypeError, "stream_state must be", one(PLAIN, WORLD, 10, stream_state=WORLD.init(KEY))),
        (
            "other stream",
            ValueError,
            "stream_state",
            one(LinearLearner(), RandomWalkStream(4), 10, stream_state=position),
        ),
        (
            "single position",
            ValueError,
            "stream_state",
            many(PLAIN, WORLD, 10, stream_state=position.replace(steps=jnp.zeros(2))),
        ),
        ("source position", ValueError, "stream_state must be", one(PLAIN, source, 10, stream_state=position)),
        (
            "stream position",
            TypeError,
            "stream_state",
            one(PLAIN, WORLD, 10, stream_state=position.replace(state=None)),
        ),
        ("record_every", ValueError, "record_every must be 1 or more", one(PLAIN, WORLD, 10, KEY, record_every=0)),
        ("policy", ValueError, "non_finite must be", one(PLAIN, WORLD, 10, KEY, non_finite="ignore")),
        ("tracking", TypeError, "step_size_tracking must be", one(PLAIN, WORLD, 10, KEY, None, 5)),
        (
            "float interval",
            TypeError,
            "interval must be a whole",
            one(PLAIN, WORLD, 10, KEY, None, StepSizeTrackingConfig(2.5)),
        ),  # type: ignore[arg-type]
        (
            "no normalizer",
            ValueError,
            "needs a learner with a normalizer",
            one(PLAIN, WORLD, 10, KEY, None, None, NormalizerTrackingConfig(5)),
        ),
        ("short steps", ValueError, "observation has shape", one(LinearLearner(), Short(), 10, KEY)),
        ("two targets", ValueError, "target has shape", one(LinearLearner(), Two(), 10, KEY)),
    ]


@pytest.mark.parametrize(("error", "message", "call"), [pytest.param(*case[1:], id=case[0]) for case in wrong_calls()])
def test_bad_input_is_named_and_nothing_is_compiled(
    error: type[Exception], message: str, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a block was compiled")

    monkeypatch.setattr(engine, "run_block", never)
    with pytest.raises(error, match=message):
        call()


def test_a_clock_near_its_end_goes_on() -> None:
    position = run_learning_loop(PLAIN, WORLD, 1, KEY).stream_state.replace(steps=jnp.uint32(2**32 - 50))
    result = run_learning_loop(PLAIN, WORLD, 49, stream_state=position)
    assert result.steps == 49 and np.isfinite(result.metrics).all() and result.stream_state.steps == 2**32 - 1
    for more in (50, 51):
        with pytest.raises(ValueError, match="clock ends"):
            run_learning_loop(PLAIN, WORLD, more, stream_state=position)


def test_states_from_outside_are_converted() -> None:
    state = run_learning_loop(PLAIN, WORLD, 100, KEY).state
    foreign = jax.tree.map(np.asarray, state)
    assert same(run_learning_loop(PLAIN, WORLD, 50, KEY, foreign), run_learning_loop(PLAIN, WORLD, 50, KEY, state))
    by_hand = state.replace(bias=0.25, weights=np.zeros(D))
    assert run_learning_loop(PLAIN, WORLD, 50, KEY, by_hand).state.bias.dtype == jnp.float32


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
def test_results_can_be_copied_and_stored(make: Any) -> None:
    one = run_learning_loop(SCALED, WORLD, 50, KEY, **BOTH)
    many = run_learning_loop_batched(SCALED, WORLD, 50, jax.random.split(KEY, 2), **BOTH)
    for result in (one, many, run_learning_loop(PLAIN, WORLD, 50, KEY)):
        again = make(result)
        assert type(again) is type(result) and again.names == result.names and same(again, result)
        assert same(again.normalizer_history, result.normalizer_history) and again.steps == 50
    error = make(NonFiniteError(17, one))
    assert str(error).startswith("step 17:") and error.step == 17 and same(error.result, one)


def test_numpy_counts_are_counts() -> None:
    source = ArraySource(np.ones((9, 2)), np.ones(9))
    assert run_learning_loop(LinearLearner(), source, np.int64(5)).steps == 5
    assert run_learning_loop(PLAIN, WORLD, np.uint8(250), KEY).metrics.shape == (250, 3)


# --- arguments of numpy, lists of keys, classes, numbers without an axis ---


@pytest.mark.parametrize("whole", [np.int8, np.uint8, np.int64, np.array, jnp.array])
def test_whole_numbers_of_every_kind_are_arguments(whole: Any) -> None:
    want = run_learning_loop(SCALED, WORLD, 120, KEY, record_every=40, step_size_tracking=StepSizeTrackingConfig(60))
    got = run_learning_loop(
        SCALED, WORLD, whole(120), KEY, record_every=whole(40), step_size_tracking=StepSizeTrackingConfig(whole(60))
    )
    assert same(got[:2], want[:2]) and same(got.step_size_history, want.step_size_history) and got.steps == 120
    rows = ArraySource(np.ones((50, 3)), np.ones(50))
    assert run_learning_loop(PLAIN, rows, whole(20)).steps == 20 == run_learning_loop(PLAIN, rows, whole(20)).steps
    assert run_learning_loop(PLAIN, rows, (np.arange(50) < 20).sum()).steps == 20


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_a_list_of_keys_is_an_array_of_keys(make: Any) -> None:
    keys = [make(i) for i in range(3)]
    want = run_learning_loop_batched(PLAIN, WORLD, 20, jnp.stack(keys))
    for given in (keys, tuple(keys)):
        assert same(run_learning_loop_batched(PLAIN, WORLD, 20, given)[:2], want[:2])  # type: ignore[arg-type]
    if make is jax.random.PRNGKey:
        assert same(run_learning_loop_batched(PLAIN, WORLD, 20, list(map(np.asarray, keys)))[:2], want[:2])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="key must be one key, got a list; run_learning_loop_batched takes many"):
        run_learning_loop(PLAIN, WORLD, 20, keys)  # type: ignore[arg-type]
    for wrong in ([], [keys[0], 3], [jax.random.key(0), jax.random.PRNGKey(0)]):
        with pytest.raises(TypeError, match="keys must be keys of one kind, got"):
            run_learning_loop_batched(PLAIN, WORLD, 20, wrong)  # type: ignore[arg-type]


def test_a_class_is_no_learner_and_no_stream() -> None:
    with pytest.raises(TypeError, match=r"learner must be an instance, got the class: LinearLearner\(...\)"):
        run_learning_loop(LinearLearner, WORLD, 10, KEY)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"stream must be an instance, got the class: RandomWalkStream\(...\)"):
        run_learning_loop(PLAIN, RandomWalkStream, 10, KEY)  # type: ignore[arg-type]


class Stranger:
    """A world whose targets are numbers without an axis."""

    feature_dim = 2
    axes: tuple[int, ...] = ()

    def init(self, key: Any) -> Any:
        return key

    def step(self, state: Any, idx: Any) -> Any:
        x = jnp.stack([jnp.sin(idx * 0.1), jnp.cos(idx * 0.1)])
        return TimeStep(observation=x, target=(x[0] - x[1]).reshape(self.axes)), state


class StrangerWithAxes(Stranger):
    axes = (1,)


def test_targets_without_an_axis_are_targets() -> None:
    for run, key in ((run_learning_loop, KEY), (run_learning_loop_batched, jax.random.split(KEY, 2))):
        one, two = (run(PLAIN, world, 40, key, non_finite="skip") for world in (Stranger(), StrangerWithAxes()))
        assert same(one[:2], two[:2])
    bank = LearnerBank([PLAIN, SCALED])
    assert run_learning_loop(bank, Stranger(), 10, KEY).metrics.shape == (10, 2, 4)


# --- as data frames ---


def test_results_as_data_frames() -> None:
    stream, keys = RandomWalkStream(3), jax.random.split(jax.random.key(0), 2)
    scaled = LinearLearner(IDBD(0.02), normalizer=EMANormalizer())
    run = run_learning_loop(scaled, stream, 25, keys[0], record_every=4)
    frame = run.to_frame()
    assert list(frame.columns) == ["step", "squared_error", "error", "mean_step_size", "normalizer_mean_var"]
    assert frame["step"].tolist() == [0, 4, 8, 12, 16, 20] and np.array_equal(frame["error"], run.metrics[:, 1])
    tracking = StepSizeTrackingConfig(10)
    bank = sweep([scaled, LinearLearner(LMS(0.1))], stream, 25, keys, step_size_tracking=tracking)
    frame = bank.to_frame()
    assert list(frame.columns[:3]) == ["seed", "step", "learner"] and len(frame) == 2 * 25 * 2
    one = frame.query("seed == 1 and step == 7 and learner == 1")
    assert one["squared_error"].item() == bank.metrics[1, 7, 1, 0] and np.isnan(one["normalizer_mean_var"].item())
    sizes = bank.step_size_history.to_frame()
    assert list(sizes.columns) == ["seed", "step", "learner", "feature", "step_sizes", "bias_step_sizes"]
    one = sizes.query("seed == 1 and step == 10 and learner == 0 and feature == 2")
    assert one["step_sizes"].item() == bank.step_size_history.step_sizes[1, 1, 0, 2]
    assert one["bias_step_sizes"].item() == bank.step_size_history.bias_step_sizes[1, 1, 0]
    for copied in (pickle.loads(pickle.dumps(run)), jax.tree.map(lambda a: a, run), run.replace(steps=25)):
        assert copied.to_frame().equals(run.to_frame())
    assert list(LearningResult((None, run.metrics)).to_frame().columns) == ["step", *(f"metric {k}" for k in range(4))]


def test_heads_as_data_frames() -> None:
    x, y = np.ones((9, 2)), np.full((9, 3), np.nan)
    y[4, 1] = 2.0
    heads = ab.MultiHeadMLPLearner(3, (4,), LMS(0.1))
    frame = ab.run_multi_head_learning_loop_batched(heads, x, y, jax.random.split(jax.random.key(0), 2)).to_frame()
    assert list(frame.columns) == ["seed", "step", "head", "squared_error", "error", "mean_step_size"]
    assert frame.dropna()[["seed", "step", "head"]].to_numpy().tolist() == [[0, 4, 1], [1, 4, 1]]
