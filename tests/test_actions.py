"""A learner that acts: it chooses from what there is to see, before the world moves."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alberta_nb.learners.bank import LearnerBank
from alberta_nb.learners.base import Acting
from alberta_nb.learners.linear import LinearLearner
from alberta_nb.learners.td import TDLinearLearner
from alberta_nb.loops import engine
from alberta_nb.loops import run as run_module
from alberta_nb.loops.supervised import run_learning_loop, run_learning_loop_batched
from alberta_nb.loops.td import run_td_learning_loop, run_td_learning_loop_batched
from alberta_nb.native import noise as numbers
from alberta_nb.native.kernel import native_loops
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.optimizers.lms import LMS
from alberta_nb.optimizers.td_lambda import TDLambda
from alberta_nb.streams.base import World, watch
from alberta_nb.types import State, TDTimeStep, TimeStep

KEY = jax.random.key(0)
ROOMS = 6


class RingState(State):
    key: jax.Array
    choice_key: jax.Array
    at: jax.Array


class Ring(World):
    """Rooms in a ring: an action goes one room on (1) or back (0), and slips sometimes; room 0 pays."""

    feature_dim: int = ROOMS
    slip: float = 0.2
    poison: float = 2.0  # where a chance is above it, the reward is NaN

    def start(self, key: Any) -> RingState:
        keys = numbers.split(key, 2)
        return RingState(key=keys[0], choice_key=keys[1], at=jnp.int32(0))

    def noise(self, state: Any, idx: Any, rows: int) -> Any:
        return numbers.uniform(state.key, idx, rows, 2)

    def observe(self, state: Any) -> Any:
        return jnp.where(jnp.arange(ROOMS) == state.at, 1.0, 0.0)

    def advance(self, state: Any, noise: Any, idx: Any, action: Any = 0) -> tuple[TDTimeStep, RingState]:
        move = jnp.where(noise[0] < self.slip, 0, 2 * action - 1)
        new = state.replace(at=(state.at + move) % ROOMS)
        reward = jnp.where(noise[1] > self.poison, jnp.nan, jnp.where(new.at == 0, 1.0, 0.0) + 0.1 * noise[1])
        there = self.observe(new)
        step = TDTimeStep(
            observation=self.observe(state), reward=reward[None], next_observation=there, gamma=jnp.full(1, 0.9)
        )
        return step, new


class Greedy(TDLinearLearner):
    """Goes where the value of the next room is higher, or anywhere with probability 0.3."""

    def noise(self, key: Any, idx: Any, rows: int) -> Any:
        return numbers.uniform(key, idx, rows, 2)

    def act(self, state: Any, observation: Any, noise: Any) -> Any:
        on, back = (jnp.sum(state.weights * jnp.roll(observation, k)) for k in (1, -1))
        return jnp.where(noise[0] < 0.3, jnp.where(noise[1] < 0.5, 0, 1), jnp.where(on > back, 1, 0))


GREEDY = Greedy(TDLambda(0.1, 0.8), use_bias=False)


def by_hand(learner: Any, world: Any, steps: int, key: Any, skip: bool = False) -> tuple[Any, np.ndarray, list[int]]:
    """The loop as one would write it: look, choose, let the world move, learn."""
    place, state, rows, taken = world.init(key), learner.init(world.feature_dim), [], []
    for t in range(steps):
        chance = learner.noise(place.choice_key, jnp.uint32(t), 1)[0]
        action = learner.act(state, world.observe(place), chance)
        time_step, place = world.advance(place, world.noise(place, jnp.uint32(t), 1)[0], jnp.uint32(t), action)
        taken.append(int(action))
        if skip and not np.isfinite(time_step.reward).all():
            rows.append(np.full(4, np.nan))
            continue
        result = learner.step(state, time_step)
        state = result.state
        rows.append(np.asarray(result.metrics))
    return state, np.array(rows), taken


def close(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-10), a, b)


def test_the_loop_is_the_loop_by_hand() -> None:
    with jax.enable_x64(True):
        state, rows, taken = by_hand(GREEDY, Ring(), 300, KEY)
        result = run_td_learning_loop(GREEDY, Ring(), 300, KEY)
        close(result.state, state)
        np.testing.assert_allclose(result.metrics, rows, atol=1e-10)
        assert 0.05 < np.mean(taken) < 0.95
        with native_loops(False):
            close(run_td_learning_loop(GREEDY, Ring(), 300, KEY).state, state)


def test_it_learns_to_stay_near_the_room_that_pays() -> None:
    paid = run_td_learning_loop(GREEDY, Ring(slip=0.0), 3_000, KEY)
    _, states = watch(Ring(slip=0.0), KEY, 600)  # who only looks takes the default action: round and round
    assert np.bincount(states.at, minlength=ROOMS).min() > 90
    values = np.asarray(paid.state.weights)
    assert values.argmin() in (2, 3, 4) and {values.argmax()} <= {0, 1, 5}


def test_a_life_may_be_cut_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "PAGE_NUMBERS", 1)
    whole = run_td_learning_loop(GREEDY, Ring(), 301, KEY)
    first = run_td_learning_loop(GREEDY, Ring(), 77, KEY)
    rest = run_td_learning_loop(GREEDY, Ring(), 224, learner_state=first.state, stream_state=first.stream_state)
    assert np.array_equal(np.concatenate([first.metrics, rest.metrics]), whole.metrics)
    assert jax.tree.all(jax.tree.map(np.array_equal, rest.state, whole.state))


@pytest.mark.parametrize("seeds", ["together", "per core"])
def test_many_seeds_equal_single_runs(seeds: str) -> None:
    class Here(Greedy):
        pass

    Here.seeds = seeds  # type: ignore[attr-defined]
    learner, keys = Here(TDLambda(0.1, 0.8), use_bias=False), jax.random.split(KEY, 3)
    batch = run_td_learning_loop_batched(learner, Ring(), 200, keys, record_every=10)
    for k in range(3):
        one = run_td_learning_loop(learner, Ring(), 200, keys[k], record_every=10)
        np.testing.assert_allclose(batch.metrics[k], one.metrics, atol=1e-5)
    assert len({float(w) for w in batch.states.weights[:, 0]}) == 3


def test_a_skipped_step_moves_the_world_and_not_the_learner() -> None:
    world = Ring(poison=0.9)
    with jax.enable_x64(True):
        state, rows, _ = by_hand(GREEDY, world, 200, KEY, skip=True)
        result = run_td_learning_loop(GREEDY, world, 200, KEY, non_finite="skip")
        np.testing.assert_allclose(result.metrics, rows, atol=1e-10)
        close(result.state, state)
    assert result.skipped == np.isnan(rows[:, 0]).sum() > 5


class Arm(World):
    """One lever that pays what the action says: nothing is learned from it but that."""

    feature_dim: int = 1

    def start(self, key: Any) -> RingState:
        return RingState(key=key, choice_key=numbers.split(key, 2)[1], at=jnp.int32(0))

    def noise(self, state: Any, idx: Any, rows: int) -> Any:
        return jnp.zeros((rows, 0))

    def observe(self, state: Any) -> Any:
        return {"seen": state.at}  # anything that jax can nest

    def advance(self, state: Any, noise: Any, idx: Any, action: Any = (0.0, 0.0)) -> tuple[TimeStep, RingState]:
        step = TimeStep(observation=jnp.ones(1), target=jnp.asarray(action[0] + 10.0 * action[1])[None])
        return step, state.replace(at=state.at + 1)


class Teller(LinearLearner):
    """Acts by two numbers: what it sees, and how many steps there have been."""

    def noise(self, key: Any, idx: Any, rows: int) -> Any:
        return (jnp.asarray(idx, jnp.uint32) + jnp.arange(rows, dtype=jnp.uint32)).astype(float)

    def act(self, state: Any, observation: Any, noise: Any) -> Any:
        return noise, observation["seen"].astype(float)


def test_actions_and_observations_of_any_shape() -> None:
    teller = Teller(LMS(0.0))
    told = run_learning_loop(teller, Arm(), 50, KEY).metrics[:, 1]
    np.testing.assert_allclose(told, 11.0 * np.arange(50), atol=1e-4)
    many = run_learning_loop_batched(teller, Arm(), 50, jax.random.split(KEY, 2)).metrics[..., 1]
    np.testing.assert_allclose(many, np.stack([11.0 * np.arange(50)] * 2), atol=1e-4)


def test_who_cannot_act_is_told_before_anything_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a block was compiled")

    monkeypatch.setattr(engine, "run_block", never)
    assert isinstance(GREEDY, Acting) and not isinstance(TDLinearLearner(), Acting)
    with pytest.raises(TypeError, match="moved by actions.*noise.*act.*got TDLinearLearner"):
        run_td_learning_loop(TDLinearLearner(), Ring(), 10, KEY)
    with pytest.raises(TypeError, match="moved by actions.*got LearnerBank"):
        run_learning_loop(LearnerBank((Teller(), Teller(IDBD()))), Arm(), 10, KEY)
    with pytest.raises(NotImplementedError, match="Bare has no observe"):

        class Bare(World):
            pass

        Bare().observe(None)


def test_chances_are_looked_at_before_anything_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a block was compiled")

    monkeypatch.setattr(engine, "run_block", never)

    class Forgetful(Greedy):
        def noise(self, key: Any, idx: Any, rows: int) -> Any:
            return numbers.uniform(key, idx, 1, 2)

    with pytest.raises(ValueError, match=r"noise of a Forgetful must have one row for each step.*\(1, 2\)"):
        run_td_learning_loop(Forgetful(TDLambda(0.1)), Ring(), 10, KEY)

    class KeylessState(State):
        key: jax.Array
        at: jax.Array

    class Keyless(Ring):
        def start(self, key: Any) -> Any:
            return KeylessState(key=key, at=jnp.int32(0))

    with pytest.raises(TypeError, match="the state of a Keyless must have a choice_key.*got none"):
        run_td_learning_loop(GREEDY, Keyless(), 10, KEY)

    class Walked(Ring):
        paged = False  # type: ignore[assignment]

    with pytest.raises(TypeError, match="a World must have noise and advance, got a Walked that is not paged"):
        run_td_learning_loop(GREEDY, Walked(), 10, KEY)
