"""Streams and sources of transitions: exact values, page and step, borders, episodes, what is refused."""

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from jax import lax

from alberta_nb import (
    ArraySource,
    BoyanChain,
    Chain,
    GymSource,
    IteratorSource,
    MarkovChain,
    RandomWalkChain,
    RelevanceRing,
    ReturnSource,
    ScaledStreamWrapper,
    ScanStream,
    SensorStream,
    Settings,
    Stream,
    TableSource,
    TDArraySource,
    TDIteratorSource,
    TDLambda,
    TDLinearLearner,
    TDSequenceSource,
    TDSource,
    TDTableSource,
    TDTimeStep,
    TraceConditioningStream,
    ideal_returns,
    native_loops,
    rms_value_error,
    run_td_learning_loop,
    tail_weights,
)
from alberta_nb.loops.engine import History
from alberta_nb.loops.run import run_loop
from alberta_nb.loops.start import StreamPosition, stream_start
from alberta_nb.streams.base import TDStream, watch
from alberta_nb.streams.chains import borders, fall
from alberta_nb.streams.dialect import TableError
from alberta_nb.types import State

KEY = jax.random.key(3)
MACHINE = [[0.95, 0.04, 0.01], [0.10, 0.80, 0.10], [0.30, 0.00, 0.70]]
CHAINS: list[Chain] = [
    RandomWalkChain(),
    RandomWalkChain(19, left_reward=-1.0),
    RandomWalkChain(1, left_reward=2.0),
    BoyanChain(),
    RelevanceRing(flip_interval=30),
    RelevanceRing(3, num_noise=0, forward=0.5),
    MarkovChain(MACHINE, rewards=[1.0, 0.5, -5.0]),
    MarkovChain([[0.5, 0.2, 0.3], [0.2, 0.5, 0.3]], np.arange(6).reshape(2, 3), starts=[0.3, 0.7], gamma=1.0),
    MarkovChain([[0.0, 1.0], [1.0, 0.0]], [0.0, 1.0], features=[[1.0, 0.5, 2.0], [0.0, 1.0, -1.0]], gamma=0.5),
    MarkovChain([[1.0]], [1.0]),
    TraceConditioningStream(min_pause=5, max_pause=9),
    TraceConditioningStream(2, 0, 0, 3, representation="tapped", units=4),
    TraceConditioningStream(representation="presence"),
]
STREAMS: list[Stream] = [*CHAINS, SensorStream(), ScaledStreamWrapper(BoyanChain(), [1.0, 2.0, 3.0, 4.0])]
each_chain = pytest.mark.parametrize("chain", CHAINS, ids=lambda c: type(c).__name__)
each_stream = pytest.mark.parametrize("stream", STREAMS, ids=lambda s: type(s).__name__)


@each_stream
def test_what_the_loops_accept(stream: Stream) -> None:
    assert isinstance(stream, TDStream)
    time_step, _ = stream.step(stream.init(KEY), jnp.uint32(0))
    assert isinstance(time_step, TDTimeStep) and time_step.reward.shape == time_step.gamma.shape == (1,)
    assert time_step.observation.shape == time_step.next_observation.shape == (stream.feature_dim,)


class Weights(State):
    """The state of a smallest TD learner: weights, trace, and the discount that leads into the next step."""

    weights: Any
    trace: Any
    gamma: Any


class Learned(State):
    state: Weights
    metrics: Any


class TD(Settings):
    """TD(lambda) without a bias, for this file: enough to see streams and sources run in the engine."""

    step_size: float = 0.02
    lamda: float = 0.8

    def init(self, feature_dim: int) -> Weights:
        zeros = jnp.zeros(feature_dim)
        return Weights(weights=zeros, trace=zeros, gamma=jnp.zeros(()))

    def step(self, state: Weights, seen: TDTimeStep) -> Learned:
        gamma, value = seen.gamma[0], jnp.sum(state.weights * seen.observation)
        after = jnp.where(gamma == 0, 0.0, jnp.abs(gamma) * jnp.sum(state.weights * seen.next_observation))
        error = seen.reward[0] + after - value
        trace = state.gamma * self.lamda * state.trace + seen.observation
        weights = state.weights + self.step_size * error * trace
        new = Weights(weights=weights, trace=trace, gamma=jnp.maximum(gamma, 0.0))
        return Learned(state=new, metrics=jnp.stack([error * error, error]))


def weights_of(learner: TD, state: Weights) -> Any:
    return state.weights


def numpy_td(seen: TDTimeStep, step_size: float = 0.02, lamda: float = 0.8) -> np.ndarray:
    """The same learner in float64, by hand."""
    x, r, following, g = (np.asarray(a, np.float64) for a in jax.tree.leaves(seen))
    weights, trace, before = np.zeros(x.shape[1]), np.zeros(x.shape[1]), 0.0
    for t in range(len(x)):
        error = r[t, 0] + abs(g[t, 0]) * (following[t] @ weights) - x[t] @ weights
        trace = before * lamda * trace + x[t]
        weights, before = weights + step_size * error * trace, max(g[t, 0], 0.0)
    return weights


def together(pages: Any) -> TDTimeStep:
    return jax.tree.map(lambda *parts: np.concatenate(parts), *pages)


def equal(a: Any, b: Any) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(jax.tree.map(np.array_equal, a, b))


def close(a: Any, b: Any, atol: float = 1e-5) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: np.allclose(x, y, rtol=1e-5, atol=atol), a, b))


def paged(stream: Stream, state: Any, first: int, rows: int) -> tuple[Any, Any]:
    """A page of noise, and a walk through it: the time steps and the states."""

    def body(state: Any, given: Any) -> tuple[Any, Any]:
        time_step, state = stream.advance(state, *given)
        return state, (time_step, state)

    @jax.jit
    def run(state: Any) -> Any:
        idx = jnp.uint32(first) + jnp.arange(rows, dtype=jnp.uint32)
        return lax.scan(body, state, (stream.noise(state, jnp.uint32(first), rows), idx))[1]

    return run(state)


# --- every stream ---


@each_stream
def test_protocol_and_shapes(stream: Stream) -> None:
    assert isinstance(stream, ScanStream) and isinstance(stream, Settings) and stream.paged
    state = stream.init(KEY)
    seen, after = stream.step(state, 0)
    d = stream.feature_dim
    assert isinstance(seen, TDTimeStep)
    assert [a.shape for a in jax.tree.leaves(seen)] == [(d,), (1,), (d,), (1,)]
    assert {a.dtype for a in jax.tree.leaves(seen)} == {jnp.dtype(jnp.float32)}
    assert not any(a.weak_type for a in jax.tree.leaves((state, after, seen)))
    assert [(a.shape, a.dtype) for a in jax.tree.leaves(after)] == [(a.shape, a.dtype) for a in jax.tree.leaves(state)]


@each_stream
def test_config_round_trip(stream: Stream) -> None:
    again = Settings.from_config(json.loads(json.dumps(stream.to_config())))
    assert again == stream and hash(again) == hash(stream)


@each_stream
@pytest.mark.parametrize("first", [0, 4_000_000_000])
def test_page_and_step_give_the_same_numbers(stream: Stream, first: int) -> None:
    start = state = stream.init(KEY)
    whole, parts = paged(stream, start, first, 40), []
    for idx in range(first, first + 40):
        seen, state = stream.step(state, idx)
        parts.append((seen, state))
    assert close(whole, jax.tree.map(lambda *a: jnp.stack(a), *parts))
    if not isinstance(stream, SensorStream):  # whose products and sums may be rounded together or not
        assert equal(whole, jax.tree.map(lambda *a: jnp.stack(a), *parts))
    middle = jax.tree.map(lambda a: a[24], whole[1])
    assert close(jax.tree.map(lambda a: a[25:], whole), paged(stream, middle, first + 25, 15))


@each_stream
def test_one_step_ends_where_the_next_begins(stream: Stream) -> None:
    seen, _ = watch(stream, KEY, 400)
    goes_on = np.asarray(seen.gamma[:-1, 0]) > 0
    assert np.array_equal(seen.next_observation[:-1][goes_on], seen.observation[1:][goes_on])


@each_stream
def test_noise_is_a_pure_function_of_keys_and_idx(stream: Stream) -> None:
    start = stream.init(KEY)
    later = jax.tree.map(lambda a: a[-1], paged(stream, start, 0, 40)[1])
    rows = stream.noise(start, jnp.uint32(100), 20)
    assert equal(rows, stream.noise(later, jnp.uint32(100), 20))
    assert equal(jax.tree.map(lambda a: a[7:8], rows), stream.noise(start, jnp.uint32(107), 1))


@each_stream
def test_advance_uses_only_what_one_native_loop_can_hold(stream: Stream) -> None:
    state = stream.init(KEY)
    row = jax.tree.map(lambda a: a[0], stream.noise(state, jnp.uint32(0), 1))
    text = str(jax.make_jaxpr(stream.advance)(state, row, jnp.uint32(0)))
    for name in (
        "sort",
        "scatter",
        "dot_general",
        "random_",
        "while",
        "scan[",
        "erf_inv",
        "callback",
        " exp",
        "cumsum",
    ):
        assert name not in text, f"advance uses {name}"


@each_stream
def test_loops_on_both_paths_and_in_batches(stream: Stream) -> None:
    learner, found = TD(), []
    start = learner.init(stream.feature_dim)
    right = numpy_td(watch(stream, KEY, 600)[0])
    for native in (True, False):
        with native_loops(native):
            run = run_loop(learner, stream, 600, start, stream_start(stream, KEY))
        found.append(run.learner_state.weights)
    assert np.allclose(found[0], right, rtol=1e-3, atol=1e-4) and np.allclose(found[1], right, rtol=1e-3, atol=1e-4)
    keys = jax.random.split(KEY, 3)
    position = StreamPosition(state=jax.vmap(stream.init)(keys), steps=jnp.zeros(3, jnp.uint32))
    many = run_loop(learner, stream, 600, jax.tree.map(lambda a: jnp.stack([a] * 3), start), position, seeds="together")
    one = run_loop(learner, stream, 600, start, stream_start(stream, keys[2]))
    assert np.allclose(many.learner_state.weights[2], one.learner_state.weights, rtol=1e-4, atol=1e-5)


@each_stream
def test_a_run_in_two_parts(stream: Stream) -> None:
    learner = TD()
    whole = run_loop(learner, stream, 300, learner.init(stream.feature_dim), stream_start(stream, KEY))
    first = run_loop(learner, stream, 111, learner.init(stream.feature_dim), stream_start(stream, KEY))
    second = run_loop(learner, stream, 189, first.learner_state, first.position)
    assert close((whole.learner_state, whole.position), (second.learner_state, second.position))


@each_stream
def test_float64(stream: Stream) -> None:
    narrow = watch(stream, KEY, 50)[0]
    with jax.enable_x64(True):
        wide = watch(stream, KEY, 50)[0]
        assert {a.dtype for a in jax.tree.leaves(wide)} == {jnp.dtype(jnp.float64)}
    assert close(narrow, wide)


# --- every chain: what it does is what its matrix says ---


@each_chain
def test_jump_and_reward_are_the_tables(chain: Chain) -> None:
    n, m = chain.model.transitions.shape
    grid = 10_000
    u = (jnp.arange(grid) + 0.5) / grid
    to = jax.vmap(lambda at: jax.vmap(lambda v: chain.jump(at, v))(u))(jnp.arange(n))
    shares = np.stack([np.bincount(row, minlength=m) for row in to]) / grid
    assert shares.shape == (n, m) and np.allclose(shares, chain.model.transitions, atol=1.01 / grid)
    paid = jax.vmap(lambda at: jax.vmap(lambda j: chain.reward(at, j, jnp.uint32(0)))(jnp.arange(m)))(jnp.arange(n))
    assert np.allclose(np.where(shares > 0, paid - chain.model.rewards, 0), 0, atol=1e-6)


@each_chain
def test_observations_are_the_state_features(chain: Chain) -> None:
    seen, states = watch(chain, KEY, 300)
    at = np.append(chain.init(KEY).at, states.at[:-1])
    quiet = chain.feature_dim - getattr(chain, "num_noise", 0)
    assert np.allclose(np.asarray(seen.observation)[:, :quiet], chain.state_features[at][:, :quiet], atol=1e-6)
    ended = np.asarray(seen.gamma[:, 0]) == 0
    assert not np.asarray(seen.next_observation)[ended, :quiet].any()
    assert set(np.unique(seen.gamma)) <= {0.0, np.float32(chain.model.gamma)}
    assert chain.model.starts[np.asarray(states.at)[ended]].all()


@each_chain
def test_values_solve_the_equations(chain: Chain) -> None:
    model, v = chain.model, chain.true_values
    n = len(v)
    again = np.sum(model.transitions * model.rewards, axis=1) + model.gamma * model.transitions[:, :n] @ v
    assert v.dtype == np.float64 and np.allclose(v, again, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("chain", [CHAINS[k] for k in (0, 1, 3, 6, 7, 8, 10)], ids=lambda c: type(c).__name__)
def test_what_comes_is_what_was_solved(chain: Chain) -> None:
    steps, n = 60_000, len(chain.true_values)
    seen, states = watch(chain, KEY, steps)
    at = np.append(chain.init(KEY).at, states.at[:-1])
    gammas = np.asarray(seen.gamma, np.float64)[:, 0]
    returns, sure = ideal_returns(np.asarray(seen.reward)[:, 0], gammas), tail_weights(gammas, steps) < 1e-4
    counts = np.bincount(at, minlength=n)
    assert np.allclose(counts / steps, chain.state_weights, atol=0.012)
    for state in np.flatnonzero(counts > 300):
        found = returns[sure & (at == state)]
        # neighbouring returns share their future: about one in twenty is new
        spread = 4.5 * found.std() / np.sqrt(max(len(found) / 20, 1)) + 1e-5
        assert abs(found.mean() - chain.true_values[state]) < spread


# --- values by hand ---


def test_random_walks() -> None:
    assert np.allclose(RandomWalkChain().true_values, np.arange(1, 6) / 6, atol=1e-15)
    assert np.allclose(RandomWalkChain(19, left_reward=-1.0).true_values, np.arange(-9, 10) / 10, atol=1e-14)
    weights = RandomWalkChain().state_weights  # expected visits 1, 2, 3, 2, 1 in an episode of 9 steps
    assert np.allclose(weights, np.array([1, 2, 3, 2, 1]) / 9)
    seen, _ = watch(RandomWalkChain(), KEY, 20_000)
    ended = np.asarray(seen.gamma[:, 0]) == 0
    assert abs(1 / ended.mean() - 9) < 0.4
    assert set(np.unique(np.asarray(seen.reward)[ended])) == {0.0, 1.0} and not np.asarray(seen.reward)[~ended].any()
    assert np.asarray(seen.observation)[np.flatnonzero(ended[:-1]) + 1, 2].all()


def test_boyan() -> None:
    chain = BoyanChain()
    assert np.allclose(chain.true_values, -2.0 * np.arange(13), atol=1e-12)
    assert np.allclose(chain.state_features @ [-24, -16, -8, 0], chain.true_values)
    assert chain.state_features[11].tolist() == [0.75, 0.25, 0, 0]


def test_ring() -> None:
    ring = RelevanceRing()
    v = ring.true_values
    assert np.allclose(v[:9], v[1:] * 0.81 / 0.91) and np.isclose(v[9] * 0.91, 0.9 + 0.81 * v[0])
    assert ring.true_values_at(999).tolist() == v.tolist() and ring.true_values_at(1000).tolist() == (-v).tolist()
    assert ring.true_values_at(np.arange(3000)).shape == (3000, 10)
    assert ring.state_features.shape == (10, 30) and ring.feature_dim == 30
    seen, states = watch(ring, KEY, 4000)
    paid = np.flatnonzero(seen.reward[:, 0])
    assert np.array_equal(np.asarray(seen.reward)[paid, 0], np.where(paid // 1000 % 2, -1, 1))
    assert (np.asarray(states.at)[paid] == 0).all() and abs(len(paid) / 4000 - 0.09) < 0.01
    extra = np.asarray(seen.observation)[:, 10:]
    assert abs(extra.mean()) < 0.02 and abs(extra.std() - 1) < 0.02


def test_ring_references() -> None:
    """Fixed-step TD of spec: .952 (lambda 0, a .005) and .940 (lambda .9, a .02).

    The error is that of a prediction at a random step: over time, states and noise features.
    """
    ring, found = RelevanceRing(), []
    position = StreamPosition(state=jax.vmap(ring.init)(jax.random.split(KEY, 8)), steps=jnp.zeros(8, jnp.uint32))
    every = 7  # has no factor in common with the 1000 steps between flips
    for step_size, lamda in ((0.005, 0.0), (0.02, 0.9)):
        learner = TD(step_size, lamda)
        state = jax.tree.map(lambda a: jnp.stack([a] * 8), learner.init(30))
        history = (History(every, weights_of),)
        run = run_loop(learner, ring, 50_000, state, position, seeds="together", record_every=1000, histories=history)
        w, idx = np.asarray(run.histories[0], np.float64), np.arange(0, 50_000, every)
        squares = np.mean((w[..., :10] - ring.true_values_at(idx)) ** 2, axis=2) + np.sum(w[..., 10:] ** 2, axis=2)
        found.append(np.sqrt(squares[:, idx >= 25_000].mean(axis=1)).mean())
    assert np.allclose(found, [0.952, 0.940], atol=0.01), found


def test_rms_value_error() -> None:
    assert rms_value_error([[1.0, 3.0], [1.0, 1.0]], [1.0, 1.0]).tolist() == [np.sqrt(2), 0]
    assert rms_value_error([1.0, 3.0], [1.0, 1.0], [3.0, 1.0]) == 1


def test_borders() -> None:
    row = borders(np.full(10, 0.1))
    assert row.shape == (9,) and fall(jnp.float32(1 - 2**-23), row) == 9 and fall(jnp.float32(0.0), row) == 0
    assert borders(np.array([1.0])).shape == (0,)
    assert fall(jnp.float32(1 - 2**-23), borders(np.array([0.3, 0.7 - 1e-9, 0.0, 0.0]))) == 1
    assert fall(jnp.float32(0.0), borders(np.array([0.0, 0.0, 1.0]))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"transitions": [[0.5, 0.4]], "rewards": [0, 0]},
            r"row \[0\] must be probabilities with sum 1, got sum \[0.9\]",
        ),
        ({"transitions": [[1.5, -0.5]], "rewards": [0, 0]}, "must be probabilities"),
        ({"transitions": [[1.0], [1.0]], "rewards": [0]}, r"shape \(n, m\) with m >= n >= 1, got \(2, 1\)"),
        ({"transitions": [[0.5, 0.5], [1.0]], "rewards": [0, 0]}, "transitions must have rows of one length"),
        ({"transitions": [[1.0]], "rewards": [0.0, 1.0]}, r"rewards must have shape \(1, 1\), got \(1, 2\)"),
        ({"transitions": [[1.0]], "rewards": [np.nan]}, "rewards must be finite"),
        ({"transitions": [[1.0]], "rewards": [0], "features": [[1.0], [2.0]]}, r"features must have shape \(1, d\)"),
        ({"transitions": [[1.0]], "rewards": [0], "gamma": 1.0}, r"gamma must be below 1: from state \[0\] no end"),
        ({"transitions": [[1.0]], "rewards": [0], "gamma": 1.5}, "gamma must be a finite number"),
        ({"transitions": [[1.0]], "rewards": [0], "starts": 1}, "starts must be below 1"),
        ({"transitions": [[1.0]], "rewards": [0], "starts": [0.5]}, "starts must be a state or 1 probabilities"),
    ],
)
def test_what_is_no_chain(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MarkovChain(**arguments)


def test_what_is_no_number() -> None:
    with pytest.raises(TypeError, match="transitions must be numbers"):
        MarkovChain([["a"]], [0])  # type: ignore[arg-type]
    for wrong in ({"n_states": 0}, {"left_reward": np.inf}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RandomWalkChain(**wrong)
    for wrong in ({"num_noise": -1}, {"forward": 0.0}, {"flip_interval": 0}, {"gamma": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RelevanceRing(**wrong)
    for wrong in ({"cue_steps": 0}, {"max_pause": 3}, {"representation": "x"}, {"trace_decay": 0.0}, {"gamma": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TraceConditioningStream(**wrong)
    for wrong in ({"periods": ()}, {"periods": (1.0,)}, {"memory": 0.0}, {"gamma": -0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SensorStream(**wrong)


def test_luck_decides_where_a_chain_with_two_traps_stays() -> None:
    traps = MarkovChain(np.eye(2), [0.0, 1.0])
    with pytest.raises(ValueError, match="depends on luck"):
        _ = traps.state_weights
    assert np.allclose(traps.true_values, [0, 10])


# --- conditioning and sensors ---


def test_trials() -> None:
    stream = TraceConditioningStream(cue_steps=3, silence=5, min_pause=4, max_pause=6, representation="presence")
    seen, states = watch(stream, KEY, 5000)
    cue, reward = np.asarray(seen.observation).T
    assert set(np.unique(seen.reward)) == {0, 1} and (seen.gamma == np.float32(0.9)).all()
    assert np.array_equal(np.asarray(seen.reward)[:-1, 0], reward[1:])
    (onset,) = np.nonzero(np.diff(cue, prepend=0) > 0)
    assert {len(part) for part in np.split(cue, onset)[1:-1]} == {13, 14, 15}
    assert (cue[:, None][onset[:-1] + np.arange(3)[:, None]] == 1).all() and (reward[onset[:-1] + 8] == 1).all()
    lengths = np.diff(onset)
    assert np.allclose([(lengths == k).mean() for k in (13, 14, 15)], 1 / 3, atol=0.1)


def test_representations() -> None:
    tapped = TraceConditioningStream(representation="tapped", units=6).state_features
    assert np.array_equal(tapped[:6], np.eye(6)) and not tapped[6:].any()
    micro = TraceConditioningStream(units=5, trace_decay=0.8).state_features
    height, k = 0.8**3, 4
    assert np.isclose(micro[3, k - 1], height * np.exp(-((height - k / 5) ** 2) / (2 * 0.08**2)) / np.sqrt(2 * np.pi))


def test_sensors() -> None:
    stream = SensorStream(periods=[6.0, 40.0], memory=30.0, gamma=0.8)
    assert stream.periods == (6.0, 40.0) and stream.feature_dim == 4
    seen, _ = watch(stream, KEY, 40_000)
    x, following = np.asarray(seen.observation, np.float64), np.asarray(seen.next_observation, np.float64)
    assert np.allclose(x.std(axis=0), 1, atol=0.1)
    assert np.allclose(np.asarray(seen.reward)[:, 0], following[:, :2].sum(axis=1), atol=1e-5)
    turned = (x[:, :2] + 1j * x[:, 2:]) * np.exp(-1 / 30 + 2j * np.pi / np.array([6.0, 40.0]))
    left = following - np.concatenate([turned.real, turned.imag], axis=1)
    assert np.allclose(left.std(axis=0), np.sqrt(1 - np.exp(-2 / 30)), rtol=0.02)
    returns = ideal_returns(np.asarray(seen.reward)[:, 0], 0.8)
    fitted = np.linalg.lstsq(x[:-100], returns[:-100], rcond=None)[0]
    assert np.allclose(fitted, stream.true_weights(), atol=0.12)


# --- returns ---


def test_ideal_returns_against_the_sum() -> None:
    rng = np.random.default_rng(0)
    r, g = rng.normal(size=30), np.where(rng.random(30) < 0.1, 0.0, rng.random(30))
    slow = [sum(np.prod(g[t:k]) * r[k] for k in range(t, 30)) for t in range(30)]
    assert np.allclose(ideal_returns(r, g), slow, atol=1e-14)
    assert np.allclose(ideal_returns(r[:, None], g[:, None])[:, 0], slow)
    several = ideal_returns(r[:, None], [[0.0, 0.5, 0.9]])
    assert several.shape == (30, 3) and np.allclose(several[:, 1], ideal_returns(r, 0.5))
    assert np.array_equal(several[:, 0], r)


def test_the_tail_is_linear_and_a_break_begins_one() -> None:
    r, g = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([0.5, -0.5, 0.5, 0.0, 0.9])
    assert ideal_returns(r, g, tail=10).tolist() == [1 + 0.5 * 7, 7, 5, 4, 14]
    assert np.allclose(ideal_returns(r, g, tail=10), ideal_returns(r, g) + 10 * tail_weights(g, 5))
    assert tail_weights([[0.5, 0.9]], 3).shape == (3, 2)


def test_a_hole_is_forgotten_at_an_end() -> None:
    found = ideal_returns([1.0, np.nan, 1.0], [0.0, 0.9, 0.9])
    assert found[0] == 1 and np.isnan(found[1]) and found[2] == 1


@pytest.mark.parametrize(
    ("rewards", "gammas", "message"),
    [
        ([], 0.9, "rewards must have shape"),
        (1.0, 0.9, "rewards must have shape"),
        ([1.0, 2.0], [[0.9]], "gammas must be a number or have 1 dimensions"),
        ([1.0, 2.0], [0.9, 0.9, 0.9], "must fit rewards"),
        ([1.0, 2.0], 1.1, "must lie in"),
        ([1.0, 2.0], [0.5, np.nan], "must lie in"),
    ],
)
def test_returns_that_cannot_be(rewards: Any, gammas: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ideal_returns(rewards, gammas)


# --- sources ---


@pytest.fixture(scope="module")
def walked() -> TDTimeStep:
    return jax.tree.map(np.asarray, watch(RandomWalkChain(), KEY, 500)[0])


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    table = pd.DataFrame(rng.normal(size=(60, 3)).astype(np.float32), columns=["u", "v", "rain"])
    return table.assign(place="here", keep=np.where(rng.random(60) < 0.2, 0.0, 0.9))


def test_arrays_iterators_and_streams_are_equal(walked: TDTimeStep) -> None:
    leaves, right = jax.tree.leaves(walked), numpy_td(walked)
    flat = [leaves[0], leaves[1][:, 0].tolist(), leaves[2], leaves[3][:, 0]]
    items = [
        TDTimeStep(observation=a, reward=b, next_observation=c, gamma=d) for a, b, c, d in zip(*leaves, strict=True)
    ]
    for source in (
        TDArraySource(*leaves),
        TDArraySource(*flat),
        TDIteratorSource(zip(*leaves, strict=True)),
        TDIteratorSource(iter(items), feature_dim=5),
    ):
        assert isinstance(source, TDSource) and source.feature_dim == 5
        assert source.time_step is TDTimeStep
        assert equal(together(source.pages(17, 64)), jax.tree.map(lambda a: a[17:], walked))
    for source in (TDArraySource(*leaves), TDIteratorSource(zip(*leaves, strict=True))):
        run = run_loop(TD(), source, 500, TD().init(5), StreamPosition(state=None, steps=np.zeros((), np.uint32)))  # type: ignore[arg-type]
        assert np.allclose(run.learner_state.weights, right, atol=1e-5)
    assert TDArraySource(*leaves).finite
    assert not TDArraySource(leaves[0], leaves[1], leaves[2] * np.nan, leaves[3]).finite


def test_the_learner_of_the_book(walked: TDTimeStep) -> None:
    learner = TDLinearLearner(TDLambda(0.02, 0.8), use_bias=False)
    leaves = jax.tree.leaves(walked)
    streamed = run_td_learning_loop(learner, RandomWalkChain(), 500, KEY)
    for source in (TDArraySource(*leaves), TDIteratorSource(zip(*leaves, strict=True), num_steps=500)):
        run = run_td_learning_loop(learner, source, 500, record_every=100)
        assert np.allclose(run.state.weights, streamed.state.weights, atol=1e-6) and len(run.metrics) == 5
    assert np.allclose(streamed.state.weights, numpy_td(walked), atol=1e-5)
    cut = run_td_learning_loop(learner, GymSource(Corridor(3), lambda o: 1, gamma=0.5), 300)
    seen = next(GymSource(Corridor(3), lambda o: 1, gamma=0.5).pages(0, 300))
    assert np.allclose(cut.state.weights, numpy_td(seen), atol=1e-5)


def test_a_series(frame: pd.DataFrame) -> None:
    x, r, g = frame[["u", "v"]].to_numpy(), frame["rain"].to_numpy(), frame["keep"].to_numpy()
    source = TDSequenceSource(x, r, g)
    assert (source.num_steps, source.feature_dim) == (59, 2)
    seen = together(source.pages(0, 7))
    assert np.array_equal(seen.observation, x[:-1]) and np.array_equal(seen.next_observation, x[1:])
    assert np.array_equal(seen.reward[:, 0], r[1:]) and np.allclose(seen.gamma[:, 0], g[1:])
    assert (together(TDSequenceSource(x, r, 0.5).pages(0, 7)).gamma == 0.5).all()


@pytest.mark.parametrize("first", [0, 1, 6, 7, 8, 13, 57, 58])
@pytest.mark.parametrize("piece_rows", [1, 2, 7, 1000])
def test_borders_of_pieces_and_pages(tmp_path: Any, frame: pd.DataFrame, first: int, piece_rows: int) -> None:
    frame.to_csv(tmp_path / "river.csv", index=False)
    x, r, g = frame[["u", "v", "rain"]], frame["rain"], frame["keep"]
    fixed, column = TDSequenceSource(x, r, 0.9), TDSequenceSource(x, r, g)
    for table in (frame, tmp_path / "river.csv"):
        for source, right in (
            (TDTableSource(table, "rain", 0.9, ["u", "v", "rain"], piece_rows), fixed),
            (TDTableSource(table, "rain", "keep", piece_rows=piece_rows), column),
        ):
            for rows in (1, 5, 64):
                pages = list(source.pages(first, rows))
                assert all(0 < len(page.reward) <= rows for page in pages)
                assert close(together(pages), together(right.pages(first, 100)))
    assert list(fixed.pages(59, 4)) == list(TDTableSource(frame, "rain", 0.9).pages(59, 4)) == []


def test_table_columns(frame: pd.DataFrame) -> None:
    assert TDTableSource(frame, "rain", "keep").features == ["u", "v", "rain"]
    assert TDTableSource(frame, "rain", 0.9, (name for name in "vu")).features == ["v", "u"]
    source = TDTableSource(frame, "rain", 0.9)
    assert source.features == ["u", "v", "rain", "keep"] and (source.num_steps, source.feature_dim) == (59, 4)


def test_sources_of_targets_become_returns(frame: pd.DataFrame) -> None:
    x, y = frame[["u", "v"]].to_numpy(), frame["rain"].to_numpy()
    pairs = IteratorSource(zip(x, y, strict=True))
    for inner in (ArraySource(x, y), TableSource(frame, "rain", ["u", "v"], piece_rows=7), pairs):
        source = ReturnSource(inner, 0.8)
        seen = together(source.pages(0, 10))
        assert np.array_equal(seen.observation, x[:-1]) and np.array_equal(seen.next_observation, x[1:])
        assert np.array_equal(seen.reward[:, 0], y[:-1]) and (seen.gamma == np.float32(0.8)).all()
    assert ReturnSource(ArraySource(x, y), 0.8).num_steps == 59 and source.num_steps is None


def test_an_iterator_is_read_no_further_than_asked() -> None:
    def endless() -> Any:
        while True:
            yield [1.0], 1.0, [1.0], 0.5

    source = TDIteratorSource(endless())
    position = StreamPosition(state=None, steps=np.zeros((), np.uint32))  # type: ignore[arg-type]
    first = run_loop(TD(0.1, 0.0), source, 300, TD().init(1), position)
    second = run_loop(TD(0.1, 0.0), source, 300, first.learner_state, first.position)
    assert np.allclose(second.learner_state.weights, 2.0, atol=1e-4)


X, R = np.zeros((3, 2)), np.zeros(3)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: TDArraySource(X, np.zeros(2), X, 0.9),
            ValueError,
            r"targets must have shape \(3,\)|rewards must have",
        ),
        (lambda: TDArraySource(X, R, np.zeros((3, 1)), 0.9), ValueError, r"next_observations must have shape \(3, 2\)"),
        (
            lambda: TDArraySource(X, R, X, [0.9, 0.9]),
            ValueError,
            r"gammas must have shape \(3,\) or \(3, 1\), got \(2,\)",
        ),
        (lambda: TDArraySource(X, R, X, [0.9, 1.2, 0.9]), ValueError, r"gammas must lie in .* got \[1.2.*\] at 1"),
        (lambda: TDArraySource(X, R, X, 2.0), ValueError, "gammas must lie in"),
        (lambda: TDArraySource(X, R, [["a", "b"]] * 3, 0.9), TypeError, "next_observations must be numeric"),
        (lambda: TDSequenceSource(X[:1], R[:1], 0.9), ValueError, "observations must have two rows or more"),
        (lambda: TDSequenceSource(X, R[:2], 0.9), ValueError, r"rewards must have shape \(3,\)"),
        (lambda: TDIteratorSource([(1, 2)]), TypeError, r"transition 0 must be \(observation, reward"),
        (
            lambda: TDIteratorSource([(X[0], 0.0, X[0, :1], 0.9)]),
            ValueError,
            r"next_observation must have shape \(2,\)",
        ),
        (lambda: TDIteratorSource([(X[0], R, X[0], 0.9)]), ValueError, "reward must be one number"),
        (lambda: TDIteratorSource([(X, 0.0, X, 0.9)]), ValueError, "transition 0: observation must have 1 dimensions"),
        (lambda: TDIteratorSource([(X[0], 0.0, X[0], 1.9)]), ValueError, "transition 0: gamma must lie in"),
        (lambda: TDIteratorSource([]), ValueError, "is empty"),
        (lambda: ReturnSource(TDArraySource(X, R, X, 0.9), 0.9), TypeError, "source must be a source of observations"),
        (lambda: ReturnSource(ArraySource(X, R), 1.5), ValueError, "gamma must be a finite number"),
        (lambda: ReturnSource(ArraySource(X[:1], R[:1]), 0.5), ValueError, "two rows or more"),
        (lambda: TDTableSource(pd.DataFrame(X, columns=["a", "b"]), "c", 0.9), TableError, "c"),
        (lambda: TDTableSource(pd.DataFrame(X, columns=["a", "b"]), "a", "g"), TableError, "g"),
        (lambda: TDTableSource(pd.DataFrame(X, columns=["a", "b"]), "a", 1.9), ValueError, "gamma must be a finite"),
        (lambda: TDTableSource(pd.DataFrame({"a": [1.0]}), "a", 0.9), ValueError, "must have two rows or more, got 1"),
        (lambda: TDTableSource(pd.DataFrame({"a": ["x"]}), "a", 0.9), ValueError, "features must name a column"),
        (lambda: GymSource(object()), TypeError, "env must be a Gymnasium environment"),
        (lambda: GymSource(Corridor(3), lambda o: 1, gamma=2.0), ValueError, "gamma must be a finite number"),
        (lambda: GymSource(Corridor(3), 1), TypeError, "policy must be a function"),
        (lambda: GymSource(Corridor(3)), ValueError, "policy must be given"),
        (lambda: GymSource(Corridor(3), lambda o: 1, features=3), TypeError, "features must be a function"),
        (
            lambda: GymSource(Corridor(3, lambda c: {"cell": c}), lambda o: 1),
            TypeError,
            "features must be given: .* dict",
        ),
    ],
)
def test_sources_name_what_is_wrong(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_bad_discount_in_a_column_is_named_with_its_row() -> None:
    frame = pd.DataFrame({"a": np.arange(9.0), "g": [0.9] * 6 + [1.9] + [0.9] * 2})
    with pytest.raises(ValueError, match=r"column 'g' must lie in .* at 6"):
        list(TDTableSource(frame, "a", "g", piece_rows=4).pages(0, 3))


# --- environments ---


class Corridor:
    """Four cells; action 1 goes right; the way out pays 1. After `limit` steps an episode is cut off."""

    def __init__(self, limit: int, show: Any = lambda cell: np.eye(4, dtype=np.float32)[cell % 4]):
        self.limit, self.show, self.seeds = limit, show, []  # type: ignore[var-annotated]

    def reset(self, seed: int | None = None) -> Any:
        self.cell = self.steps = 0
        self.seeds.append(seed)
        return self.show(self.cell), {}

    def step(self, action: Any) -> Any:
        self.cell, self.steps = self.cell + action, self.steps + 1
        return self.show(self.cell), float(self.cell == 4), self.cell == 4, self.steps == self.limit, {}


@pytest.mark.parametrize(
    ("limit", "gammas"),
    [(100, [0.5, 0.5, 0.5, 0]), (3, [0.5, 0.5, -0.5]), (4, [0.5, 0.5, 0.5, 0]), (1, [-0.5])],
    ids=["termination", "truncation", "both at once", "every step"],
)
def test_termination_and_truncation(limit: int, gammas: list[float]) -> None:
    env = Corridor(limit)
    seen = next(GymSource(env, lambda o: 1, gamma=0.5, seed=7).pages(0, 12))
    n = len(gammas)
    assert seen.gamma[: 12 // n * n, 0].tolist() == gammas * (12 // n)
    cells = seen.observation.argmax(axis=1)
    assert cells.tolist() == [t % n for t in range(12)]
    goes_on = seen.gamma[:-1, 0] > 0
    assert np.array_equal(seen.next_observation[:-1][goes_on], seen.observation[1:][goes_on])
    cut = seen.gamma[:, 0] < 0
    assert (seen.next_observation[cut].argmax(axis=1) == n).all()  # the final observation, not the next first one
    assert env.seeds[0] == 7 and set(env.seeds[1:]) <= {None}


def test_a_trace_stops_where_an_episode_was_cut() -> None:
    seen = next(GymSource(Corridor(3), lambda o: 1, gamma=0.5).pages(0, 9))
    state = TD(0.1, 1.0).init(4)
    for t in range(4):
        state = TD(0.1, 1.0).step(state, jax.tree.map(lambda a, t=t: a[t], seen)).state
    assert state.trace.tolist() == [1, 0, 0, 0]


def test_observations_are_copied_and_features_are_used() -> None:
    shared = np.zeros(2)

    def show(cell: int) -> np.ndarray:
        shared[:] = (cell, 1)
        return shared

    seen = next(GymSource(Corridor(100, show), lambda o: 1, gamma=0.5).pages(0, 4))
    assert seen.observation[:, 0].tolist() == [0, 1, 2, 3] and seen.next_observation[:, 0].tolist() == [1, 2, 3, 4]
    seen = next(GymSource(Corridor(100, show), lambda o: 1, features=lambda o: o[:1] * 2).pages(0, 3))
    assert seen.observation.tolist() == [[0], [2], [4]]
    flat = GymSource(Corridor(100, lambda cell: np.full((2, 3), cell)), lambda o: 1)
    assert flat.feature_dim == 6


def test_an_environment_can_be_learned_from_and_continued() -> None:
    source = GymSource(Corridor(100), lambda o: 1, gamma=0.5)
    position = StreamPosition(state=None, steps=np.zeros((), np.uint32))  # type: ignore[arg-type]
    run = run_loop(TD(0.1, 0.5), source, 1500, TD().init(4), position)
    run = run_loop(TD(0.1, 0.5), source, 500, run.learner_state, run.position)
    assert np.allclose(run.learner_state.weights, [0.125, 0.25, 0.5, 1.0], atol=1e-3)


def test_a_name_needs_gymnasium(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r"CartPole-v1: needs gymnasium, in the extra `gym`"):
        GymSource("CartPole-v1")


def test_gymnasium_itself() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    source = GymSource("CartPole-v1", seed=1)
    seen = next(source.pages(0, 300))
    assert seen.observation.shape == (300, 4) and (seen.gamma == 0).any() and np.isfinite(seen.observation).all()
    assert equal(seen, next(GymSource("CartPole-v1", seed=1).pages(0, 300)))

    class Coin(gymnasium.Env):
        observation_space, action_space = gymnasium.spaces.Discrete(3, start=1), gymnasium.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return 1, {}

        def step(self, action: Any) -> Any:
            return int(2 + action), 1.0, False, False, {}

    timed = gymnasium.wrappers.TimeLimit(Coin(), 2)
    seen = next(GymSource(timed, gamma=0.9, seed=0).pages(0, 10))
    assert np.allclose(seen.gamma[:, 0], [0.9, -0.9] * 5) and set(seen.next_observation.argmax(axis=1)) == {1, 2}
    assert seen.observation[::2].tolist() == [[1, 0, 0]] * 5
    with pytest.raises(ValueError, match="env must be one environment"):
        GymSource(gymnasium.make_vec("CartPole-v1", num_envs=2))


def test_flags_and_masks_are_no_discounts() -> None:
    x = np.ones((3, 2))
    for flags in (np.array([True, False, True], object), np.array(True, object), [np.bool_(True)] * 3, True):
        with pytest.raises(TypeError, match="gammas must hold discounts, got flags"):
            TDArraySource(x, np.ones(3), x, flags)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="gammas must hold discounts, got flags"):
            TDSequenceSource(x, np.ones(3), flags)  # type: ignore[arg-type]
    for masked in (np.ma.masked, np.ma.array(0.9, mask=True), [0.9, np.ma.masked, 0.5]):
        with pytest.raises(TypeError, match="gammas must have no mask"):
            TDArraySource(x, np.ones(3), x, masked)
    with pytest.raises(TypeError, match="transition 0: gamma must hold discounts, got flags"):
        TDIteratorSource([(x[0], 1.0, x[0], np.array([False], object))])
    assert TDArraySource(x, np.ones(3), x, np.array([1, 0.5, 0], object)).rows["gamma"].ravel().tolist() == [1, 0.5, 0]


def test_truncated_of_an_item_passes_the_gate() -> None:
    def source(cut: Any) -> TDIteratorSource:
        x = np.ones(2)
        return TDIteratorSource(
            [TDTimeStep(observation=x, reward=1.0, next_observation=x, gamma=0.5, truncated=cut)], 2
        )  # type: ignore[arg-type]

    for cut, gamma in ((True, -0.5), ([0], 0.5), (np.nan, np.nan), (np.array([2], object), -0.5), (np.inf, np.nan)):
        assert np.array_equal(next(source(cut).pages(0, 1)).gamma, [[gamma]], equal_nan=True)
    for cut, error, what in (
        ("no", TypeError, "numeric"),
        (np.ma.masked, TypeError, "no mask"),
        ([0, 1], ValueError, "shape"),
    ):
        with pytest.raises(error, match=f"transition 0: truncated must .*{what}"):
            next(source(cut).pages(0, 1))
    learner, x = TDLinearLearner(), np.ones(2)
    for cut in (np.nan, -np.inf):
        with pytest.raises(ValueError, match="truncated must be a finite number"):
            learner.update(learner.init(2), x, 1.0, x, 0.5, truncated=cut)
    assert learner.update(learner.init(2), x, 1.0, x, 0.5, truncated=True).state is not None


@pytest.mark.parametrize("kind", ["bool", "boolean", "object", "csv"])
def test_a_column_of_flags_is_no_discount(kind: str, tmp_path: Any) -> None:
    flags = pd.Series([True, False, True, True]).astype("bool" if kind == "csv" else kind)
    table: Any = pd.DataFrame({"x": np.arange(4.0), "r": np.ones(4), "done": flags, "g": [1, 0, 1, 1]})
    if kind == "csv":
        table.to_csv(tmp_path / "a.csv", index=False)
        table = tmp_path / "a.csv"
    with pytest.raises(TypeError, match="column 'done' must hold discounts, got flags"):
        TDTableSource(table, "r", "done", ["x"])
    assert TDTableSource(table, "r", "g", ["x"]).num_steps in (3, None)


def test_traced_discounts_are_refused_by_name() -> None:
    for make in (lambda g: TDArraySource(X, X[:, 0], X, g), lambda g: TDSequenceSource(X, X[:, 0], g)):
        with pytest.raises(TypeError, match="gammas is being traced"):
            jax.jit(lambda g, make=make: make(g).feature_dim)(0.9)
