"""The benchmark: its contenders compute the same numbers, its races are fair, its files are whole."""

import dataclasses
import json
import platform
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from alberta_nb import (
    IDBD,
    LMS,
    TDIDBD,
    ArraySource,
    Autostep,
    AutoTDIDBD,
    LinearLearner,
    MLPLearner,
    ObGD,
    ObGDBounding,
    RandomWalkChain,
    RandomWalkStream,
    TDArraySource,
    TDLinearLearner,
    run_horde_learning_loop,
    run_learning_loop,
    run_mlp_learning_loop,
    run_td_learning_loop,
)
from bench import __main__ as command
from bench import beside, horde, linear, networks, numba_horde, numba_loops, races, report, service, td

ROOT = Path(races.ROOT)
KEPT = ROOT / "nbs" / "images" / "bench.json"
D = 20
OPTIMIZERS = [LMS(0.005), IDBD(0.005, meta_step_size=0.001), Autostep(0.005)]
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
PYTHON_PAGES = {
    f.__name__: f
    for f in (numba_loops.walk_page, numba_loops.lms_page, numba_loops.idbd_page, numba_loops.autostep_page)
}
needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")


def page_sets() -> list:
    """The page loops as Python runs them, and as numba compiles them."""
    return [
        pytest.param(lambda: PYTHON_PAGES, id="python"),
        pytest.param(lambda: numba_loops.numba_pages(False), id="numba", marks=needs_numba),
        pytest.param(lambda: numba_loops.numba_pages(True), id="numba-reordered", marks=needs_numba),
    ]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes for a smoke run, and no processes of its own."""
    monkeypatch.setattr(races.Plan, "steps", lambda self, n: min(n, 64))

    def fresh_process(program: str, *args: object) -> list[float]:
        return [0.5] if program == service.FIRST_CALL else [200.0, 201.0]

    monkeypatch.setattr(service, "fresh_process", fresh_process)


# --- the same numbers ---


def assert_same(metrics: np.ndarray, weights: np.ndarray, learner_state: object, ours: np.ndarray) -> None:
    np.testing.assert_allclose(metrics, ours, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(weights, np.append(learner_state.weights, learner_state.bias), rtol=1e-3, atol=1e-3)


@each_optimizer
def test_plain_arrays_equals_the_library(optimizer) -> None:
    random = np.random.default_rng(0)
    x, y = random.standard_normal((200, D)).astype(np.float32), random.standard_normal(200).astype(np.float32)
    state, ours = run_learning_loop(LinearLearner(optimizer), ArraySource(x, y))
    (weights, bias, _), metrics = linear.plain_arrays(optimizer, jnp.asarray(x), jnp.asarray(y))
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
    (weights, bias, _), metrics = linear.plain_walk(optimizer, D, 15, jax.random.key(3))
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
    learn = numba_loops.numba_learner(optimizer, D, pages)
    learn(examples, targets, metrics)
    state, ours = run_learning_loop(LinearLearner(optimizer), stream, rows, jax.random.key(7))
    assert_same(metrics, learn.args[0], state, ours)


@pytest.mark.parametrize("optimizer", OPTIMIZERS[:2], ids=["LMS", "IDBD"])
def test_numba_walk_pages_join_up(optimizer, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = numba_loops.numba_walk(optimizer, D, 400, 0, PYTHON_PAGES)
    assert metrics.shape == (400, 3) and np.isfinite(metrics).all()
    assert metrics[-100:, 0].mean() < 0.1 * metrics[:20, 0].mean()
    monkeypatch.setattr(numba_loops, "NUMBA_PAGE", 16 * 41)
    assert np.isfinite(numba_loops.numba_walk(optimizer, D, 33, 0, PYTHON_PAGES)).all()


def test_numba_learner_knows_its_optimizers() -> None:
    with pytest.raises(TypeError, match="optimizer must be LMS, IDBD or Autostep"):
        numba_loops.numba_learner(ObGD(), D, PYTHON_PAGES)


@pytest.mark.parametrize("d", [20, 1000])
def test_settings_are_stable(d: int) -> None:
    for optimizer in linear.bench_optimizers(d).values():
        errors = linear.plain_walk(optimizer, d, 400, jax.random.key(0))[1][:, 0]
        assert np.isfinite(errors).all() and errors[-100:].mean() < 2 * errors[:100].mean()


def transitions() -> tuple[np.ndarray, ...]:
    """500 of 20 features, an episode's end now and then."""
    random = np.random.default_rng(0)
    x, rewards = random.standard_normal((501, 20), np.float32), random.standard_normal(500, np.float32)
    return x[:-1], rewards, x[1:], np.where(np.arange(500) % 50 == 49, 0.0, 0.9).astype(np.float32)


@pytest.mark.parametrize("optimizer", [TDIDBD(0.001, 1e-6, 0.8), AutoTDIDBD(0.001, 1e-4, 0.8, 10000.0)])
def test_plain_transitions_equal_the_library(optimizer) -> None:
    rows = transitions()
    ours = run_td_learning_loop(TDLinearLearner(optimizer), TDArraySource(*rows)).metrics
    np.testing.assert_allclose(ours, td.plain_transitions(optimizer, rows)[1], rtol=1e-4, atol=2e-5)
    if isinstance(optimizer, TDIDBD):
        by_hand = td.numba_tdidbd(optimizer, rows, lambda page: page)()  # as Python, step by step
        np.testing.assert_allclose(ours, by_hand, rtol=1e-4, atol=2e-5)


def test_the_plain_chain_learns_the_same_values() -> None:
    walk, slow = RandomWalkChain(19, left_reward=-1.0), TDIDBD(0.002, 0.0, 0.8)
    ours = run_td_learning_loop(TDLinearLearner(slow), walk, 400_000, jax.random.key(0)).state
    weights, bias, _ = td.plain_chain(slow, 400_000, jax.random.key(0))[0]
    for w, b in ((ours.weights, ours.bias), (weights, bias)):
        assert np.abs(np.asarray(w + b) - np.linspace(-0.9, 0.9, 19)).max() < 0.12


@pytest.mark.parametrize(("optimizer", "lamda"), [(LMS(1.0), 0.0), (LMS(1.0), 0.8), (Autostep(0.001), 0.8)])
def test_the_plain_network_equals_the_library(optimizer, lamda) -> None:
    x = np.random.default_rng(0).standard_normal((200, 20), np.float32)
    y = np.tanh(x[:, :5].sum(axis=1))
    learner = MLPLearner((16, 16), optimizer, bounder=ObGDBounding(), gamma=0.9, lamda=lamda)
    start = learner.init(20, jax.random.key(1))
    ours = run_mlp_learning_loop(learner, ArraySource(x, y), learner_state=start).metrics
    carry = networks.plain_network_start(learner, 20, jax.random.key(1))
    step = jax.jit(lambda carry, row: networks.plain_network_learn(learner, carry, *row))
    np.testing.assert_allclose(jax.lax.scan(step, carry, (x, y))[1], ours, atol=5e-4)


def test_the_plain_horde_and_numba_s_equal_the_library() -> None:
    learner, rows = horde.bench_horde_learner(4), horde.horde_rows(4, 60)
    rows[1][::5, 1] = np.nan
    state = learner.init(20, jax.random.key(0))
    ours = run_horde_learning_loop(learner, state, *rows).per_demon_metrics
    scales, start = horde.plain_start(learner, state)
    theirs = horde.plain_horde(scales, start, tuple(map(jnp.asarray, rows)))[1]
    np.testing.assert_allclose(ours, theirs, rtol=5e-3, atol=5e-3)
    few = tuple(a[1:3] for a in rows)
    by_hand = numba_horde.numba_horde(learner, state, few, lambda page: page)()
    ours = run_horde_learning_loop(learner, state, *few).per_demon_metrics
    np.testing.assert_allclose(ours, by_hand, rtol=2e-4, atol=2e-5)


# --- the races ---


def test_contenders_take_turns_and_medians_decide() -> None:
    order: list[str] = []
    values = {"library": iter([9.0, 1.0, 2.0, 3.0]), "other": iter([9.0, 10.0, 4.0, 6.0])}

    def contender(name: str):
        return lambda: order.append(name) or next(values[name])

    race = races.Race(
        "w", "us", {"library": contender("library"), "other": contender("other"), "gone": None}, {"other": 3.1}
    )
    rows = races.race_rows("a", race, races.run_race(race, 3))
    assert order == ["library", "other"] * 4
    assert (rows[0]["library"], rows[0]["value"], rows[0]["ratio"]) == (2.0, 6.0, 3.0)
    assert (rows[0]["ratio_low"], rows[0]["ratio_high"], rows[0]["met"]) == (2.0, 10.0, False)
    assert rows[1]["against"] == "gone" and np.isnan(rows[1]["value"]) and rows[1]["met"] is None


def test_timed_counts_in_its_unit() -> None:
    value = races.timed(lambda: time.sleep(0.02), 10, 1e3)()
    assert 2.0 <= value < 50.0


def test_smoke_run_of_the_linear_parts(tiny: None) -> None:
    frame = races.bench("abcde", quick=True, repeats=1)
    assert list(dict.fromkeys(frame.part)) == list("abcde")
    assert (frame.library > 0).all()
    assert set(frame.against) >= {"plain loop", "numba", "vmap of the plain loop", "pure run", "limit"}
    assert frame.value.notna().all() == (find_spec("numba") is not None)
    goals = {(r.part, r.workload, r.against): r.target for r in frame.itertuples()}
    assert goals["a", "LMS, d=20", "plain loop"] == 20 and goals["a", "Autostep, d=20", "plain loop"] == 15
    assert goals["a", "IDBD, d=20", "numba"] == 1.5 and goals["c", "30 seeds", "vmap of the plain loop"] == 8
    text = report.bench_table(frame)
    assert all(f"({part})" in text for part in "abcde") and "peak memory" in text
    assert max(map(len, text.splitlines())) <= 120
    assert "2 x a jitted call of as many arrays" in text and "1.5 x the plain loop's" in text


@pytest.mark.parametrize("parts", ["fg", "hi", "jk"])
def test_smoke_run_of_the_others(tiny: None, parts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(horde, "SIZES", (20, 8, 8))
    (name, (network, least)), *_ = networks.NETWORKS.items()
    monkeypatch.setattr(networks, "NETWORKS", {name: (dataclasses.replace(network, hidden_sizes=(8,)), least)})
    frame = races.bench(parts, quick=True, repeats=1)
    assert "".join(dict.fromkeys(frame.part)) == parts and (frame.library > 0).all()


def stand_in(*args: object) -> dict:
    """Contenders that cost nothing."""
    return {"library": lambda: 1.0}


def test_all_sizes_and_targets_without_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the full run would race, without racing."""
    for name in ("walk_contenders", "array_contenders", "seed_contenders"):
        monkeypatch.setattr(linear, name, stand_in)
    least = {r.workload: r.targets for part in "abc" for r in races.WORKLOADS[part][1](races.Plan())}
    assert least["1000 seeds"] == {"vmap of the plain loop": 3.0}
    walks = {r.workload: r.targets["plain loop"] for r in races.WORKLOADS["a"][1](races.Plan())}
    assert len(walks) == 9 and walks["LMS, d=100"] == 8.0 and walks["Autostep, d=1000"] == 2.5
    assert [r.targets["numba"] for r in races.WORKLOADS["b"][1](races.Plan())] == [1.0] * 3 + [2.0] * 3


def test_rows_are_those_that_are_kept(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Part, workload and rival are the names by which an old and a new bench.json are compared."""
    monkeypatch.setattr(races, "run_race", lambda race, repeats: {name: [1.0] for name in race.contenders})
    monkeypatch.setattr(linear, "longest_compiled_call", lambda run: run)
    frame, kept = races.bench(), report.read_bench(KEPT)
    keys = ["part", "workload", "against", "unit"]
    assert frame[keys].to_numpy().tolist() == kept[keys].to_numpy().tolist()
    assert (frame.target.notna() == kept.target.notna()).all() and frame.target.notna().sum() == 49


def test_without_numba_its_rows_are_absent(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_loops, "find_spec", lambda name: None if name == "numba" else find_spec(name))
    frame = races.bench("b", quick=True, repeats=1)
    numba = frame[frame.against.str.startswith("numba")]
    assert len(numba) == 6 and numba.ratio.isna().all() and numba.met.isna().all()
    assert "absent" in report.bench_table(frame)


def test_a_part_of_the_races_and_the_library_alone(tiny: None) -> None:
    frame = races.bench("b", rows="IDBD", quick=True, repeats=1, library=True)
    assert set(frame.workload) == {"IDBD, d=20"} and frame.value.isna().all() and (frame.library > 0).all()


def test_limits_are_measured_beside_the_library() -> None:
    limit, said = races.limited(3.0, "a stick", lambda: 2.0)
    assert limit() == 6.0 and said == "3 x a stick"
    assert races.jitted_call({"a": jnp.ones(3), "n": np.uint32(1)}, 5)() > 0
    assert horde.numpy_sweep(10, 2)() > 0


def test_the_pure_run_is_the_compiled_call() -> None:
    learner, stream = LinearLearner(IDBD(0.005)), RandomWalkStream(20)

    def run() -> tuple:
        return tuple(run_learning_loop(learner, stream, 10_000, jax.random.key(0)))

    call = races.longest_compiled_call(run)
    assert call is not None and sum(leaf.size for leaf in jax.tree.leaves(call())) >= 30_000  # all metrics are in it
    assert races.longest_compiled_call(lambda: time.sleep(0.01)) is None


def test_a_chapter_can_add_a_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(races, "WORKLOADS", dict(races.WORKLOADS))

    @races.workload("t", "a test")
    def toy(plan: races.Plan):
        yield races.Race("toy", "us", {"library": lambda: 1.0, "other": lambda: 3.0}, {"other": 2.0})

    frame = races.bench(["t"], repeats=2)
    assert frame.ratio.tolist() == [3.0] and frame.met.tolist() == [True]


@pytest.mark.parametrize("bad", [{"only": "z"}, {"only": []}, {"repeats": 0}, {"repeats": -1}])
def test_bad_arguments_are_named(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        races.bench(**bad)


def test_a_fresh_process_prints_numbers_and_tells_of_failure() -> None:
    assert races.fresh_process("import sys, alberta_nb.types; print(1, sys.argv[1])", 2.5) == [1.0, 2.5]
    with pytest.raises(RuntimeError, match="no such thing"):
        races.fresh_process("raise SystemExit('no such thing')")


def test_first_call_and_memory_programs_run() -> None:
    assert races.fresh_process(service.FIRST_CALL, "library")[0] > 0
    small, large = races.fresh_process(service.MEMORY, 20_000, 60_000)
    assert 20 < small <= large < 4000


# --- table, files, command ---


@pytest.fixture
def frame() -> pd.DataFrame:
    contenders = {"library": lambda: 2.0, "plain loop": lambda: 40.0, "pure run": lambda: 1.6, "numba": None}
    race = races.Race("LMS, d=20", "us/step", contenders, {"plain loop": 20.0, "pure run": 1 / 1.3, "numba": 1.5})
    return pd.DataFrame(races.race_rows("a", race, races.run_race(race, 2))).astype({"met": "boolean"})


def test_table_tells_ratio_target_and_verdict(frame: pd.DataFrame) -> None:
    plain, pure, numba = report.bench_table(frame).splitlines()[2:]
    assert plain.split()[-4:] == ["20x", "20-20", "20x", "met"]
    assert "1/1.25x" in pure and pure.endswith("1/1.3x  met")
    assert "absent" in numba and not numba.endswith(("met", "missed"))


def test_files_are_whole_and_say_nothing_private(frame: pd.DataFrame, tmp_path) -> None:
    folder = tmp_path / "new" / "folder"
    report.write_bench(frame, folder, quick=True, repeats=2)
    report.write_bench(frame, folder, quick=True, repeats=3)
    assert sorted(p.name for p in folder.iterdir()) == ["bench.json", "bench.png"]
    content = json.loads((folder / "bench.json").read_text())
    assert content["settings"] == {"quick": True, "repeats": 3}
    assert content["rows"][0]["ratio"] == 20.0 and content["rows"][2]["value"] is None
    assert content["machine"]["versions"]["jax"] == jax.__version__ and content["machine"]["cores"] >= 1
    text = json.dumps(content)
    assert str(tmp_path) not in text and (not platform.node() or platform.node() not in text)
    assert (folder / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_new_over_old(frame: pd.DataFrame, tmp_path) -> None:
    report.write_bench(frame, tmp_path)
    text = report.compared(frame.assign(library=2.4, value=20.0), tmp_path / "bench.json")
    assert "1.200  plain loop" in text and "0.500" in text and "1 of 1 races more than 5% slower: (a) LMS, d=20" in text
    assert "slower: none" in report.compared(frame, tmp_path / "bench.json")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="other.json is no bench.json"):
        report.compared(frame, tmp_path / "other.json")


def test_the_kept_run_can_be_shown() -> None:
    kept = report.read_bench(KEPT).astype({"met": "boolean"})
    assert "49 of 49 targets met" in report.summary(kept) or "targets met" in report.summary(kept)


def test_the_command(tiny: None, tmp_path, capsys: pytest.CaptureFixture) -> None:
    words = ["--quick", "--only", "b,d", "--repeats", "1", "--output", str(tmp_path), "--against", str(KEPT)]
    assert command.main(words) == 0
    out = capsys.readouterr().out
    assert "linear learner, arrays given" in out and "targets met" in out and "a repeated short run" in out
    assert "new / old" in out and json.loads((tmp_path / "bench.json").read_text())["settings"]["quick"] is True


def test_the_command_names_bad_arguments(capsys: pytest.CaptureFixture) -> None:
    assert command.main(["--only", "x"]) == 2
    assert command.main(["--repeats", "0"]) == 2
    assert command.main(["--rows", "no such race", "--only", "d"]) == 2
    err = capsys.readouterr().err
    assert "only must name parts" in err and "rows must be part of the name" in err


def test_another_checkout_can_be_measured(tmp_path) -> None:
    """The package is chosen by a folder; the benchmark stays this one."""
    (tmp_path / "alberta_nb").symlink_to(ROOT / "alberta_nb")
    say = "import sys; from bench.__main__ import choose_package; choose_package(sys.argv[1]); import alberta_nb, bench"
    code = [sys.executable, "-c", f"{say}; print(alberta_nb.__file__); print(bench.__file__)", str(tmp_path)]
    out = subprocess.run(code, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert out[0].startswith(str(tmp_path)) and out[1].startswith(str(ROOT))


def test_two_checkouts_side_by_side(capsys: pytest.CaptureFixture) -> None:
    text = beside.race_beside(str(ROOT), ["b"], "(b) LMS, d=20", True, 2)
    (row,) = text.splitlines()[1:]
    assert row.startswith("(b) LMS, d=20") and "us/step" in row
    with pytest.raises(ValueError, match="worker of the benchmark has failed"):
        beside.race_beside(str(ROOT), ["z"], "", True, 1)
