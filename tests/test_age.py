"""How old a state is: told beside its numbers, kept by all that hands it on, and never in the way."""

import copy
import pickle
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from alberta_nb.framework.core.lifecycle import agent_age_s as age_there
from files import parts_of, same, zipped

import alberta_nb as ab
from alberta_nb.learners.age import Clock, clock_in, with_clock

KEY, X = jax.random.key(0), np.ones(3, np.float32)
DEMONS = ab.create_horde_spec([ab.GVFSpec("a", "prediction", 0.5, 0.5, 0)])
LINEAR = ab.LinearLearner(ab.IDBD(0.05))
LEARNERS: dict[str, tuple[Any, tuple[Any, ...], tuple[Any, ...]]] = {
    "linear": (LINEAR, (), (X, 1.0)),
    "td": (ab.TDLinearLearner(), (), (X, 1.0, X, 0.9)),
    "network": (ab.MLPLearner((4,), ab.LMS(0.1), gamma=0.9, lamda=0.5), (KEY,), (X, 1.0)),
    "heads": (ab.MultiHeadMLPLearner(2, (4,), ab.LMS(0.1)), (KEY,), (X, np.array([1.0, np.nan]))),
    "horde": (ab.HordeLearner(DEMONS, (4,), ab.LMS(0.1)), (KEY,), (X, np.ones(1), X)),
}


def two_steps(name: str) -> tuple[Any, Any]:
    """The first state of a learner, and the one after two updates."""
    learner, key, event = LEARNERS[name]
    first = state = learner.init(3, *key)
    for _ in range(2):
        state = learner.update(state, *event).state
    return first, state


@pytest.mark.parametrize("name", LEARNERS)
def test_updates_hand_it_on(name: str) -> None:
    before = time.time()
    first = LEARNERS[name][0].init(3, *LEARNERS[name][1])
    assert before <= first.birth_timestamp <= time.time()
    first, state = two_steps(name)
    assert (int(first.step_count), int(state.step_count)) == (0, 2), "a state stays as it is"
    assert state.step_count.dtype == np.int32 and state.step_count.shape == ()
    assert state.birth_timestamp == first.birth_timestamp and state.uptime_s == ab.agent_uptime_s(state) == 0.0
    assert 0 <= ab.agent_age_s(first) - ab.agent_age_s(state) + 1 < 2 and age_there is ab.agent_age_s
    assert jax.tree.structure(first) == jax.tree.structure(state) and "_clock" not in vars(state)


@pytest.mark.parametrize("name", LEARNERS)
def test_copies_pickles_and_files_keep_it(name: str, tmp_path: Path) -> None:
    state = two_steps(name)[1]
    ab.save(tmp_path / "a", LEARNERS[name][0], state)
    kept = [copy.copy(state), copy.deepcopy(state), pickle.loads(pickle.dumps(state)), ab.load(tmp_path / "a").state]
    kept.append(state.replace(normalizer_state=state.normalizer_state))
    for other in kept:
        assert clock_in(other) == clock_in(state) != None and same(other, state)  # noqa: E711
    old = type(state).__new__(type(state))
    old.__setstate__(dict(vars(state)))  # as a pickle of an older version does
    assert clock_in(old) is None and same(old, state) and old.step_count == 0


@pytest.mark.parametrize("batched", [False, True])
def test_loops_add_to_it(batched: bool) -> None:
    stream, key = ab.RandomWalkStream(3), jax.random.split(KEY, 2) if batched else KEY
    run = ab.run_learning_loop_batched if batched else ab.run_learning_loop
    state = two_steps("linear")[1]
    before, began = clock_in(state), time.perf_counter()
    first = run(LINEAR, stream, 100, key, state)
    taken = time.perf_counter() - began
    assert first[0].step_count == 102 and 0 < first[0].uptime_s <= taken and clock_in(state) == before
    second = run(LINEAR, stream, 50, None, first[0], stream_state=first.stream_state)
    assert second[0].step_count == 152 and second[0].uptime_s > first[0].uptime_s
    assert first[0].birth_timestamp == second[0].birth_timestamp == state.birth_timestamp
    now = time.time()
    fresh = [run(LINEAR, stream, 10, key)[0] for _ in range(2)]  # their first state is one that is kept
    assert all(one.birth_timestamp >= now and one.step_count == 10 for one in fresh)
    assert same(fresh[0], fresh[1]) and fresh[0].birth_timestamp != fresh[1].birth_timestamp


@pytest.mark.parametrize("name", ["network", "heads", "horde", "td"])
def test_every_loop(name: str) -> None:
    learner, key, _ = LEARNERS[name]
    rows, state = np.ones((10, 3), np.float32), learner.init(3, *key)
    made = {
        "network": lambda: ab.run_mlp_learning_loop(learner, ab.RandomWalkStream(3), 10, KEY, state),
        "heads": lambda: ab.run_multi_head_learning_loop(learner, state, rows, rows[:, :2]),
        "horde": lambda: ab.run_horde_learning_loop(learner, state, rows, rows[:, :1], rows),
        "td": lambda: ab.run_td_learning_loop(
            learner, ab.TDArraySource(rows, rows[:, 0], rows, 0.9), None, None, state
        ),
    }[name]().state
    assert made.step_count == 10 and made.uptime_s > 0 and made.birth_timestamp == state.birth_timestamp


def test_a_run_that_is_taken_up_is_one_life(tmp_path: Path) -> None:
    rows = np.ones((50, 3), np.float32)

    def run(ends: int | None = None) -> Any:
        pairs = ((x, 1.0 if k != ends else float("nan")) for k, x in enumerate(rows))
        return ab.run_learning_loop(LINEAR, ab.IteratorSource(pairs), None, checkpoint=tmp_path / "a")

    with pytest.raises(ab.NonFiniteError) as error:
        run(30)
    first, last = error.value.result.state, run().state
    assert (int(first.step_count), int(last.step_count)) == (30, 50) and last.uptime_s > first.uptime_s
    assert first.birth_timestamp == last.birth_timestamp
    assert clock_in(run().state) == clock_in(last) == clock_in(ab.load(tmp_path / "a").state)


def test_it_compiles_nothing_and_changes_nothing() -> None:
    calls: list[int] = []

    @jax.jit
    def traced(state: Any) -> Any:
        calls.append(1)
        return state.replace(bias=state.bias + 1)

    state = LINEAR.init(3)
    for clock in (None, Clock(1.0), Clock(2.0, 3.0, 4)):
        made = traced(with_clock(copy.copy(state), clock))
        assert clock_in(made) is None and float(made.bias) == 1
    assert len(calls) == 1


def test_where_nobody_knows_life_begins_when_somebody_asks() -> None:
    state, before = jax.jit(lambda state: state)(two_steps("linear")[1]), time.time()
    assert state.step_count == 0 and before <= state.birth_timestamp <= time.time()
    assert state.birth_timestamp == state.birth_timestamp
    assert with_clock(state, Clock(0.0, 0.0, 2**40)).step_count == 2**31 - 1
    assert ab.agent_age_s(with_clock(state, Clock(time.time() + 100))) == 0.0, "the clock was set back"
    for other in (ab.PopArt(LINEAR).init(3), jnp.ones(3), None):
        for ask in (ab.agent_age_s, ab.agent_uptime_s):
            with pytest.raises(TypeError, match="state must be that of a linear, .*, got a"):
                ask(other)


def test_a_file_says_it_of_a_life_that_has_begun(tmp_path: Path) -> None:
    first, state = two_steps("linear")
    path = tmp_path / "a"
    ab.save(path, LINEAR, first)
    assert "clock" not in parts_of(path.read_bytes())[0] and clock_in(ab.load(path).state) is None
    ab.save(path, LINEAR, state)
    header, members = parts_of(path.read_bytes())
    assert header["clock"] == [state.birth_timestamp, 0.0, 2]
    for wrong in ([1.0, 2.0], "now", [1.0, -1.0, 2], [1.0, 2.0, 3.5], [True, None, 1], {"birth": 1.0}):
        path.write_bytes(zipped(header | {"clock": wrong}, members))
        with pytest.raises(ValueError, match=f"{path}: its clock must be"):
            ab.load(path)
