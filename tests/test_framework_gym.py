"""Gymnasium environments as streams, for programs that come from alberta_framework."""

import gc
import subprocess
import sys
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alberta_nb as ab

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra gym")
from alberta_nb.framework.streams.gymnasium import (  # noqa: E402
    GymnasiumStream,
    PredictionMode,
    TDStream,
    collect_trajectory,
    learn_from_trajectory,
    learn_from_trajectory_normalized,
    make_epsilon_greedy_policy,
    make_gymnasium_stream,
    make_random_policy,
)
from gymnasium import spaces  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
KEY = jax.random.key(0)


class Scripted(gymnasium.Env):
    """Episodes of 3 steps: the first is terminated, the second truncated, and so on. It writes into what it showed."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Discrete(3)

    def __init__(self) -> None:
        self.episode, self.closed, self.seeds, self.shown = 0, 0, [], np.zeros(2)

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        self.episode, self.at = self.episode + 1, 0
        self.shown[:] = self.episode, 0
        return self.shown, {}

    def step(self, action):
        assert self.action_space.contains(action) and self.at < 3, "an episode that has ended"
        self.at += 1
        self.shown[:] = self.episode, self.at
        ended, odd = self.at == 3, self.episode % 2 == 1
        return self.shown, np.float64(10 * self.episode + self.at + action), ended and odd, ended and not odd, {}

    def close(self) -> None:
        self.closed += 1


def steps(count: int) -> list[tuple[int, int, bool]]:
    """Episode, time, and whether the step is the last of an episode that is terminated."""
    return [(k // 3 + 1, k % 3, k % 6 == 2) for k in range(count)]


def turn(observation: np.ndarray) -> int:
    return int(observation[1]) % 3


@pytest.mark.parametrize("with_action", [False, True])
@pytest.mark.parametrize("mode", [*PredictionMode, "value without an estimator"])
def test_targets(mode: PredictionMode | str, with_action: bool, float64: None) -> None:
    asked = []

    def worth(x: np.ndarray) -> jax.Array:
        asked.append(np.array(x))
        return jnp.array([x[0] + 0.5 * x[1]])

    blind = not isinstance(mode, PredictionMode)
    stream = GymnasiumStream(Scripted(), PredictionMode.VALUE if blind else mode, turn, 0.9, with_action)
    if not blind:
        stream.set_value_estimator(worth)
    for (episode, at, terminated), found in zip(steps(14), stream, strict=False):
        one_hot = np.eye(3)[at].tolist() if with_action else []
        assert found.observation.tolist() == [episode, at, *one_hot]
        reward = 10 * episode + at + 1 + at
        if mode is PredictionMode.NEXT_STATE:
            wanted = [episode, at + 1]
        elif mode is PredictionMode.VALUE and not terminated:
            wanted = [reward + 0.9 * (episode + 0.5 * (at + 1))]
        else:
            wanted = [reward]
        np.testing.assert_allclose(found.target, wanted, rtol=1e-14)
        assert found.target.shape == (stream.target_dim,) and found.observation.shape == (stream.feature_dim,)
    if mode is PredictionMode.VALUE and with_action:  # (o', a'), with the action that is taken next
        assert [row.tolist() for row in asked[:2]] == [[1, 1, 0, 1, 0], [1, 2, 0, 0, 1]]
    assert bool(asked) == (mode is PredictionMode.VALUE)
    assert (stream.step_count, stream.episode_count) == (14, 4)


def test_an_action_is_chosen_once(float64: None) -> None:
    calls: list[list[float]] = []
    stream = GymnasiumStream(Scripted(), "value", lambda o: calls.append(o.tolist()) or 0)
    stream.set_value_estimator(lambda x: 0.0)
    list(islice(stream, 6))
    assert calls == [[1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2], [2, 3]]  # once more where the clock stops
    next(stream)
    assert calls[7:] == [[3, 0], [3, 1]]


def test_td_stream(float64: None) -> None:
    stream = TDStream(Scripted(), turn, gamma=0.5)
    assert stream.mode is PredictionMode.VALUE and stream.feature_dim == 2 and stream.target_dim == 1
    assert float(next(stream).target[0]) == 11
    stream.update_value_function(lambda x: 100.0)
    assert [float(t.target[0]) for t in islice(stream, 3)] == [63, 15, 71]
    stream.update_value_function(None)
    assert float(next(stream).target[0]) == 23


def test_the_protocol_of_that_name() -> None:
    """Called, it is that class; as a protocol it is what it was, for who inherits from it too."""
    made = ab.TDStream(Scripted(), policy=turn)
    assert type(made) is TDStream and isinstance(ab.RandomWalkChain(5), ab.TDStream)
    assert not isinstance(made, ab.TDStream) and not isinstance(ab.RandomWalkStream(2), int)

    class Mine(ab.TDStream):
        def __init__(self, size: int, *, scale: float = 1.0):
            self.size, self.scale = size, scale

        feature_dim = property(lambda self: self.size)

        def init(self, key):
            return key

        def step(self, state, idx):
            one, x = jnp.ones(1), jnp.full(self.size, self.scale)
            return ab.TDTimeStep(observation=x, reward=one, next_observation=x, gamma=0 * one), state

    class Pair(ab.TDStream, tuple):  # a base whose own __new__ wants what it is given
        pass

    mine = Mine(3, scale=0.5)
    assert isinstance(mine, ab.TDStream) and ab.run_td_learning_loop(ab.TDLinearLearner(), mine, 9, KEY)[1].shape == (
        9,
        4,
    )
    assert Pair((1, 2)) == (1, 2)


def test_loops_play_what_they_learn() -> None:
    stream, learner = GymnasiumStream(Scripted(), policy=turn), ab.LinearLearner(ab.LMS(1e-7))
    state = learner.init(stream.feature_dim)
    first = ab.run_learning_loop(learner, stream, 700, learner_state=state)
    assert stream.step_count == 700 == first.steps
    again = ab.run_learning_loop(learner, stream, 5, learner_state=first[0], stream_state=first.stream_state)
    assert stream.step_count == 705 and len(again[1]) == 5
    by_hand = GymnasiumStream(Scripted(), policy=turn)
    for time_step in islice(by_hand, 700):
        state = learner.update(state, time_step.observation, time_step.target).state
    np.testing.assert_allclose(first[0].weights, state.weights, rtol=1e-4)
    many = ab.run_learning_loop_batched(learner, stream, 20, jax.random.split(KEY, 3))
    assert many.metrics.shape == (3, 20, 3) and stream.step_count == 725
    network = ab.MLPLearner((4,), bounder=ab.ObGDBounding())
    assert ab.run_mlp_learning_loop(network, stream, 20, KEY)[1].shape == (20, 3)
    with pytest.raises(ValueError, match="TDTimeSteps.*GymnasiumStream"):
        ab.run_td_learning_loop(ab.TDLinearLearner(), stream, 5)


def test_targets_of_several_numbers_in_a_loop() -> None:
    stream, heads = GymnasiumStream(Scripted(), "next_state", turn), ab.MultiHeadMLPLearner(2, (), step_size=0.001)
    state = heads.init(stream.feature_dim, KEY)
    live = ab.run_learning_loop(heads, stream, 30, learner_state=state)
    kept = learn_from_trajectory(heads, *collect_trajectory(Scripted(), turn, 30, "next_state"), learner_state=state)
    assert live[1].shape == (30, 2, 3)
    np.testing.assert_allclose(live[1], kept[1], rtol=1e-5)
    with pytest.raises(ValueError, match="must give 3 targets.*2"):
        three = ab.MultiHeadMLPLearner(3, (), step_size=0.001)
        ab.run_learning_loop(three, stream, 5, learner_state=three.init(stream.feature_dim, KEY))
    with pytest.raises(ValueError, match="HeadsTimeSteps"):
        ab.run_learning_loop(ab.LinearLearner(), stream, 5)


def test_what_was_played_before_a_failure_is_learned() -> None:
    def tired(observation: np.ndarray, calls: list = []) -> int:  # noqa: B006
        calls.append(0)
        if len(calls) == 40:
            raise RuntimeError("no more")
        return 0

    stream = GymnasiumStream(Scripted(), policy=tired)
    with pytest.raises(RuntimeError, match="no more") as caught:
        ab.run_learning_loop(ab.LinearLearner(ab.LMS(1e-4)), stream, 100)
    assert caught.value.result.steps == stream.step_count == 39
    assert next(stream).observation.tolist()[:2] == [14, 0]  # the step that failed is made now


@pytest.mark.parametrize("seed", [0, 7])
def test_seeds(seed: int) -> None:
    def played(seed: int) -> list[np.ndarray]:
        return [np.asarray(part) for part in collect_trajectory("CartPole-v1", None, 80, seed=seed)]

    one, two, other = played(seed), played(seed), played(seed + 1)
    assert np.array_equal(one[0], two[0]) and not np.array_equal(one[0], other[0])
    env = Scripted()
    list(islice(GymnasiumStream(env, seed=seed), 7))
    assert env.seeds == [seed, None, None]
    assert type(make_random_policy(env)(None)) is int and make_random_policy(Mixed())(None)[1].shape == (2,)
    drawn = [[int(make_random_policy(env, s)(None)) for _ in range(2)] for s in range(30)]
    assert len({tuple(pair) for pair in drawn}) > 2
    mine, first = make_random_policy(env, seed), [make_random_policy(env, seed)(None) for _ in range(1)]
    make_random_policy(env, seed + 1)(None), env.action_space.seed(3), env.action_space.sample()
    assert mine(None) == first[0], "nobody else draws from a policy's numbers"


def test_epsilon() -> None:
    def shares(epsilon: float, base=lambda o: 2) -> np.ndarray:
        policy = make_epsilon_greedy_policy(base, Scripted(), epsilon, seed=1)
        return np.bincount([policy(None) for _ in range(3_000)], minlength=3) / 3_000

    assert shares(0.0).tolist() == [0, 0, 1]
    np.testing.assert_allclose(shares(0.3), [0.1, 0.1, 0.8], atol=0.03)
    np.testing.assert_allclose(shares(1.0), [1 / 3] * 3, atol=0.04)
    np.testing.assert_allclose(shares(0.0, None), [1 / 3] * 3, atol=0.04)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="epsilon"):
            make_epsilon_greedy_policy(lambda o: 0, Scripted(), wrong)


class Mixed(Scripted):
    observation_space = spaces.Dict(a=spaces.Discrete(3, start=1), b=spaces.Box(0, 255, (2, 2), np.uint8))
    action_space = spaces.Tuple((spaces.Discrete(2, start=5), spaces.Box(-1, 1, (2,))))

    def reset(self, *, seed=None, options=None):
        return {"a": 2, "b": np.arange(4, dtype=np.uint8).reshape(2, 2)}, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return {"a": 3, "b": np.full((2, 2), 255, np.uint8)}, 1, False, False, {}


@pytest.mark.parametrize("action", [(6, [0.5, -1.0]), (jnp.int32(6), jnp.array([0.5, -1.0])), [np.int8(6), (0.5, -1)]])
def test_spaces_of_several_parts(action: object) -> None:
    stream = GymnasiumStream(Mixed(), "next_state", lambda o: action)
    found = next(stream)
    assert found.observation.tolist() == [0, 1, 0, 0, 1, 2, 3, 0, 1, 0.5, -1] and stream.feature_dim == 11
    assert found.target.tolist() == [0, 0, 1, 255, 255, 255, 255]
    assert found.observation.dtype == found.target.dtype == jnp.float32


def test_environments_are_closed() -> None:
    gymnasium.register("Scripted-v0", Scripted, disable_env_checker=True)
    try:
        for make in (make_gymnasium_stream, GymnasiumStream, TDStream):
            stream = make("Scripted-v0")
            env = stream.env.unwrapped
            next(stream)
            assert not env.closed
            del stream
            gc.collect()
            assert env.closed == 1
        made: list[Scripted] = []
        gymnasium.register("Kept-v0", lambda: made.append(Scripted()) or made[-1], disable_env_checker=True)
        for make in (make_gymnasium_stream, GymnasiumStream):
            with pytest.raises(TypeError, match="policy"):
                make("Kept-v0", policy=3)
        gc.collect()
        assert [env.closed for env in made] == [1, 1], "where the settings are refused, too"
        env = Scripted()
        collect_trajectory(env, turn, 4)
        assert not env.closed, "who made it closes it"
        stream = GymnasiumStream(env)
        stream.close()
        assert env.closed == 1
    finally:
        for name in ("Scripted-v0", "Kept-v0"):
            gymnasium.registry.pop(name, None)


def test_settings_of_an_environment() -> None:
    stream = make_gymnasium_stream("FrozenLake-v1", "value", lambda cell: 2, seed=1, is_slippery=False)
    cells = [int(np.argmax(t.observation[:16])) for t in islice(stream, 3)]
    assert cells == [0, 1, 2] and stream.feature_dim == 20


@pytest.mark.parametrize(
    "settings, error, match",
    [
        ({"mode": "rewards"}, ValueError, "mode must be.*'rewards'"), ({"mode": None}, ValueError, "mode"),
        ({"gamma": 1.5}, ValueError, "gamma"), ({"policy": 3}, TypeError, "policy must be a function"),
        ({"seed": -1}, ValueError, "seed"), ({"seed": "a"}, TypeError, "seed"), ({"env": 3}, TypeError, "env must be"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(settings: dict, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        GymnasiumStream(**{"env": Scripted()} | settings)


@pytest.mark.parametrize("action", [3, -1, 0.5, [0, 1], None, "left", float("nan")])
def test_actions_that_do_not_fit(action: object) -> None:
    with pytest.raises(ValueError, match="policy must give an action of Discrete"):
        next(GymnasiumStream(Scripted(), policy=lambda o: action))


@pytest.mark.parametrize(
    "space, given, taken",
    [
        (spaces.Box(-2.0, 2.0, (1,)), jnp.float32(0.5), [0.5]), (spaces.Box(-9, 9, (2, 2)), range(4), [0, 1, 2, 3]),
        (spaces.MultiDiscrete([2, 3]), [1.0, 2.0], [0, 1, 0, 0, 1]), (spaces.MultiBinary(2), [True, False], [1, 0]),
        (spaces.Dict(a=spaces.Discrete(2)), {"a": jnp.array([1])}, [0, 1]), (spaces.Text(3, charset="ab"), "ba", None),
    ],
)  # fmt: skip
def test_actions_of_all_kinds(space: spaces.Space, given: object, taken: list[float] | None) -> None:
    env = Mixed()
    env.action_space = space
    seen = next(GymnasiumStream(env, policy=lambda o: given)).observation[7:]
    assert seen.shape == (3,) if taken is None else seen.tolist() == taken
    for _ in range(5):
        next(GymnasiumStream(env, seed=None))
    if isinstance(space, spaces.Box | spaces.MultiDiscrete):
        for wrong in (np.ones(3), "left", None):
            with pytest.raises(ValueError, match="policy must give an action of"):
                next(GymnasiumStream(env, policy=lambda o, wrong=wrong: wrong))


def test_environments_that_do_not_fit() -> None:
    class Long(Scripted):
        observation_space = spaces.Sequence(spaces.Discrete(2))

    class Bare:
        reset = step = Scripted.step

    for env in (Long(), Bare()):
        with pytest.raises(TypeError, match="observation_space must be a space"):
            GymnasiumStream(env)
    with pytest.raises(TypeError, match="estimator must be a function"):
        TDStream(Scripted()).update_value_function(3.0)
    stream = TDStream(Scripted())
    stream.update_value_function(lambda x: x)
    with pytest.raises(ValueError, match="one number"):
        next(stream)


def test_trajectories() -> None:
    observations, targets = collect_trajectory(Scripted(), turn, 9, include_action_in_features=False)
    assert observations.shape == (9, 2) and targets.shape == (9, 1)
    assert targets[:4, 0].tolist() == [11, 13, 15, 21]
    assert np.array_equal(targets, collect_trajectory(Scripted(), turn, 9, PredictionMode.VALUE)[1])
    scaled = ab.LinearLearner(ab.LMS(0.1), normalizer=ab.EMANormalizer())
    state, metrics = learn_from_trajectory_normalized(scaled, observations, targets)
    assert metrics.shape == (9, 4)
    half, _ = learn_from_trajectory(scaled, observations[:5], targets[:5, 0])
    both, _ = learn_from_trajectory(scaled, observations[5:], targets[5:], learner_state=half)
    np.testing.assert_allclose(both.weights, state.weights, rtol=1e-6)
    network = ab.MLPLearner((4,), bounder=ab.ObGDBounding())
    assert learn_from_trajectory(network, observations, targets)[1].shape == (9, 3)
    with pytest.raises(ValueError, match="normalizer"):
        learn_from_trajectory_normalized(ab.LinearLearner(), observations, targets)
    with pytest.raises(ValueError, match="targets must have shape"):
        learn_from_trajectory(scaled, *collect_trajectory(Scripted(), turn, 9, "next_state"))
    for wrong in (0, -1, 2.5):
        with pytest.raises((ValueError, TypeError), match="num_steps"):
            collect_trajectory(Scripted(), turn, wrong)


def test_without_gymnasium_the_names_are_there() -> None:
    program = "import sys\nsys.modules['gymnasium'] = sys.modules['gymnasium.spaces'] = None\n"
    program += "from alberta_nb.framework.streams.gymnasium import GymnasiumStream, make_gymnasium_stream\n"
    program += "for make in (GymnasiumStream, make_gymnasium_stream):\n    try:\n        make('CartPole-v1')\n"
    program += "    except ImportError as error:\n        assert 'alberta_nb[gym]' in str(error)\n"
    program += "    else:\n        raise AssertionError\n"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
