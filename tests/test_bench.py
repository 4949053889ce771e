"""The benchmark: its contenders compute the same numbers, its races are fair, its files are whole."""

import argparse
import json
import platform
import time
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from alberta_nb.apps import bench as b
from alberta_nb.learners.linear import LinearLearner
from alberta_nb.loops.supervised import run_learning_loop
from alberta_nb.optimizers.autostep import Autostep
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.optimizers.lms import LMS
from alberta_nb.optimizers.obgd import ObGD
from alberta_nb.streams.sources import ArraySource
from alberta_nb.streams.synthetic import RandomWalkStream

D = 20
OPTIMIZERS = [LMS(0.005), IDBD(0.005, meta_step_size=0.001), Autostep(0.005)]
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
PYTHON_PAGES = {f.__name__: f for f in (b.walk_page, b.lms_page, b.idbd_page, b.autostep_page)}
needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")


def page_sets() -> list:
    """The page loops as Python runs them, and as numba compiles them."""
    return [
        pytest.param(lambda: PYTHON_PAGES, id="python"),
        pytest.param(lambda: b.numba_pages(False), id="numba", marks=needs_numba),
        pytest.param(lambda: b.numba_pages(True), id="numba-reordered", marks=needs_numba),
    ]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes for a smoke run, and no processes of its own."""
    monkeypatch.setattr(b.Plan, "steps", lambda self, n: 64)
    monkeypatch.setattr(b, "fresh_process", lambda program, *args: [0.5] if program == b.FIRST_CALL else [200.0, 201.0])


# --- the same numbers ---


def assert_same(metrics: np.ndarray, weights: np.ndarray, learner_state: object, ours: np.ndarray) -> None:
    np.testing.assert_allclose(metrics, ours, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(weights, np.append(learner_state.weights, learner_state.bias), rtol=1e-3, atol=1e-3)


@each_optimizer
def test_plain_arrays_equals_the_library(optimizer) -> None:
    random = np.random.default_rng(0)
    x, y = random.standard_normal((200, D)).astype(np.float32), random.standard_normal(200).astype(np.float32)
    state, ours = run_learning_loop(LinearLearner(optimizer), ArraySource(x, y))
    (weights, bias, _), metrics = b.plain_arrays(optimizer, jnp.asarray(x), jnp.asarray(y))
    assert_same(metrics, np.append(weights, bias), state, ours)


@each_optimizer
def test_plain_walk_is_the_world_that_it_says(optimizer) -> None:
    """Step by step, from public calls alone, with the library's own learner."""
    key, start = jax.random.split(jax.random.key(3))
    truth = jax.random.normal(start, (D,))
    learner = LinearLearner(optimizer)
    state, rows = learner.init(D), []
    for _ in range(15):
        key, drift, inputs, noise = jax.random.split(key, 4)
        truth = truth + 0.001 * jax.random.normal(drift, (D,))
        x = jax.random.normal(inputs, (D,))
        result = learner.update(state, x, truth @ x + 0.1 * jax.random.normal(noise))
        state = result.state
        rows.append(result.metrics)
    (weights, bias, _), metrics = b.plain_walk(optimizer, D, 15, jax.random.key(3))
    assert_same(metrics, np.append(weights, bias), state, np.array(rows))


def taken_apart(stream: RandomWalkStream, key: jax.Array, rows: int) -> tuple[np.ndarray, ...]:
    """The library's world by its public interface: first weights, drift, examples (inputs and noise), targets."""
    start = stream.init(key)

    def step(state, idx):
        time_step, state = stream.step(state, idx)
        return state, (time_step.observation, time_step.target[0], stream.true_weights(state))

    x, y, weights = map(np.array, jax.lax.scan(step, start, jnp.arange(rows, dtype=jnp.uint32))[1])
    truth = np.array(stream.true_weights(start))
    drift = np.diff(np.vstack([truth, weights]), axis=0)
    return truth, drift, np.column_stack([x, y - np.sum(weights * x, axis=1)]), y


@pytest.mark.parametrize("pages", page_sets())
@each_optimizer
def test_page_loops_equal_the_library_in_its_own_world(optimizer, pages) -> None:
    stream, rows, pages = RandomWalkStream(D), 200, pages()
    truth, drift, examples, y = taken_apart(stream, jax.random.key(7), rows)
    targets, metrics = np.empty(rows, np.float32), np.empty((rows, 3), np.float32)
    pages["walk_page"](truth, drift, examples, targets, np.float32(1), np.float32(1))
    np.testing.assert_allclose(targets, y, atol=1e-4)
    assert (examples[:, -1] == 1).all()
    learn = b.numba_learner(optimizer, D, pages)
    learn(examples, targets, metrics)
    state, ours = run_learning_loop(LinearLearner(optimizer), stream, rows, jax.random.key(7))
    assert_same(metrics, learn.args[0], state, ours)


@pytest.mark.parametrize("optimizer", OPTIMIZERS[:2], ids=["LMS", "IDBD"])
def test_numba_walk_pages_join_up(optimizer, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = b.numba_walk(optimizer, D, 400, 0, PYTHON_PAGES)
    assert metrics.shape == (400, 3) and np.isfinite(metrics).all()
    assert metrics[-100:, 0].mean() < 0.1 * metrics[:20, 0].mean()
    monkeypatch.setattr(b, "NUMBA_PAGE", 16 * 41)
    assert np.isfinite(b.numba_walk(optimizer, D, 33, 0, PYTHON_PAGES)).all()


def test_numba_learner_knows_its_optimizers() -> None:
    with pytest.raises(TypeError, match="optimizer must be LMS, IDBD or Autostep"):
        b.numba_learner(ObGD(), D, PYTHON_PAGES)


@pytest.mark.parametrize("d", [20, 1000])
def test_settings_are_stable(d: int) -> None:
    for optimizer in b.bench_optimizers(d).values():
        errors = b.plain_walk(optimizer, d, 400, jax.random.key(0))[1][:, 0]
        assert np.isfinite(errors).all() and errors[-100:].mean() < 2 * errors[:100].mean()


# --- the races ---


def test_contenders_take_turns_and_medians_decide() -> None:
    order: list[str] = []
    values = {"library": iter([9.0, 1.0, 2.0, 3.0]), "other": iter([9.0, 10.0, 4.0, 6.0])}

    def contender(name: str):
        return lambda: order.append(name) or next(values[name])

    race = b.Race(
        "w", "us", {"library": contender("library"), "other": contender("other"), "gone": None}, {"other": 3.1}
    )
    rows = b.race_rows("a", race, b.run_race(race, 3))
    assert order == ["library", "other"] * 4
    assert (rows[0]["library"], rows[0]["value"], rows[0]["ratio"]) == (2.0, 6.0, 3.0)
    assert (rows[0]["ratio_low"], rows[0]["ratio_high"], rows[0]["met"]) == (2.0, 10.0, False)
    assert rows[1]["against"] == "gone" and np.isnan(rows[1]["value"]) and rows[1]["met"] is None


def test_timed_counts_in_its_unit() -> None:
    value = b.timed(lambda: time.sleep(0.02), 10, 1e3)()
    assert 2.0 <= value < 50.0


def test_smoke_run_of_every_part(tiny: None) -> None:
    frame = b.bench(quick=True, repeats=1)
    assert list(dict.fromkeys(frame.part)) == list("abcde")
    assert (frame.library > 0).all()
    assert set(frame.against) >= {"plain loop", "numba", "vmap of the plain loop", "pure run", "limit"}
    assert frame.value.notna().all() == (find_spec("numba") is not None)
    goals = {(r.part, r.workload, r.against): r.target for r in frame.itertuples()}
    assert goals["a", "LMS, d=20", "plain loop"] == 20 and goals["a", "Autostep, d=20", "plain loop"] == 15
    assert goals["a", "IDBD, d=20", "numba"] == 1.5 and goals["c", "30 seeds", "vmap of the plain loop"] == 8
    text = b.bench_table(frame)
    assert all(f"({part})" in text for part in "abcde") and "peak memory" in text
    assert max(map(len, text.splitlines())) <= 120


def test_all_sizes_and_targets_without_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the full run would race, without racing."""
    monkeypatch.setattr(b, "walk_contenders", lambda *args: {"library": lambda: 1.0})
    monkeypatch.setattr(b, "array_contenders", lambda *args: {"library": lambda: 1.0})
    monkeypatch.setattr(b, "seed_contenders", lambda *args: {"library": lambda: 1.0})
    least = {r.workload: r.targets for part in "abc" for r in b.WORKLOADS[part][1](b.Plan())}
    assert least["1000 seeds"] == {"vmap of the plain loop": 3.0}
    walks = {r.workload: r.targets["plain loop"] for r in b.WORKLOADS["a"][1](b.Plan())}
    assert len(walks) == 9 and walks["LMS, d=100"] == 8.0 and walks["Autostep, d=1000"] == 2.5
    assert [r.targets["numba"] for r in b.WORKLOADS["b"][1](b.Plan())] == [1.0] * 3 + [2.0] * 3


def test_without_numba_its_rows_are_absent(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(b, "find_spec", lambda name: None if name == "numba" else find_spec(name))
    frame = b.bench("b", quick=True, repeats=1)
    numba = frame[frame.against.str.startswith("numba")]
    assert len(numba) == 6 and numba.ratio.isna().all() and numba.met.isna().all()
    assert "absent" in b.bench_table(frame)


def test_a_chapter_can_add_a_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(b, "WORKLOADS", dict(b.WORKLOADS))

    @b.workload("t", "a test")
    def toy(plan: b.Plan):
        yield b.Race("toy", "us", {"library": lambda: 1.0, "other": lambda: 3.0}, {"other": 2.0})

    frame = b.bench(["t"], repeats=2)
    assert frame.ratio.tolist() == [3.0] and frame.met.tolist() == [True]


@pytest.mark.parametrize("bad", [{"only": "z"}, {"only": []}, {"repeats": 0}, {"repeats": -1}])
def test_bad_arguments_are_named(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        b.bench(**bad)


def test_a_fresh_process_prints_numbers_and_tells_of_failure() -> None:
    assert b.fresh_process("import sys, alberta_nb.types; print(1, sys.argv[1])", 2.5) == [1.0, 2.5]
    with pytest.raises(RuntimeError, match="no such thing"):
        b.fresh_process("raise SystemExit('no such thing')")


def test_first_call_and_memory_programs_run() -> None:
    assert b.fresh_process(b.FIRST_CALL, "library")[0] > 0
    small, large = b.fresh_process(b.MEMORY, 20_000, 60_000)
    assert 20 < small <= large < 4000


# --- table, files, command ---


@pytest.fixture
def frame() -> pd.DataFrame:
    contenders = {"library": lambda: 2.0, "plain loop": lambda: 40.0, "pure run": lambda: 1.6, "numba": None}
    race = b.Race("LMS, d=20", "us/step", contenders, {"plain loop": 20.0, "pure run": 1 / 1.3, "numba": 1.5})
    return pd.DataFrame(b.race_rows("a", race, b.run_race(race, 2))).astype({"met": "boolean"})


def test_table_tells_ratio_target_and_verdict(frame: pd.DataFrame) -> None:
    plain, pure, numba = b.bench_table(frame).splitlines()[2:]
    assert plain.split()[-4:] == ["20x", "20-20", "20x", "met"]
    assert "1/1.25x" in pure and pure.endswith("1/1.3x  met")
    assert "absent" in numba and not numba.endswith(("met", "missed"))


def test_files_are_whole_and_say_nothing_private(frame: pd.DataFrame, tmp_path) -> None:
    folder = tmp_path / "new" / "folder"
    b.write_bench(frame, folder, quick=True, repeats=2)
    b.write_bench(frame, folder, quick=True, repeats=3)
    assert sorted(p.name for p in folder.iterdir()) == ["bench.json", "bench.png"]
    content = json.loads((folder / "bench.json").read_text())
    assert content["settings"] == {"quick": True, "repeats": 3}
    assert content["rows"][0]["ratio"] == 20.0 and content["rows"][2]["value"] is None
    assert content["machine"]["versions"]["jax"] == jax.__version__ and content["machine"]["cores"] >= 1
    text = json.dumps(content)
    assert str(tmp_path) not in text and (not platform.node() or platform.node() not in text)
    assert (folder / "bench.png").read_bytes().startswith(b"\x89PNG")


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    b.add_arguments(parser)
    return parser.parse_args(words)


def test_the_command(tiny: None, tmp_path, capsys: pytest.CaptureFixture) -> None:
    assert b.run(arguments("--quick", "--only", "b,d", "--repeats", "1", "--output", str(tmp_path))) == 0
    out = capsys.readouterr().out
    assert "linear learner, arrays given" in out and "targets met" in out and "a repeated short run" in out
    assert json.loads((tmp_path / "bench.json").read_text())["settings"]["quick"] is True


def test_the_command_names_bad_arguments(capsys: pytest.CaptureFixture) -> None:
    assert b.run(arguments("--only", "x")) == 2
    assert b.run(arguments("--repeats", "0")) == 2
    assert "only must name parts" in capsys.readouterr().err
