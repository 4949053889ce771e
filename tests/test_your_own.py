"""A rule of a reader's own, normalised LMS: in all five learners and everything around them, and what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alberta_nb as ab
from alberta_nb.native.kernel import native_loops
from alberta_nb.native.outer import dense
from alberta_nb.types import in_state, scalar

RNG = np.random.default_rng(0)
D, STEPS, KEY = 4, 40, jax.random.key(0)
KEYS = jax.random.split(KEY, 3)
XS, YS = RNG.normal(size=(STEPS, D)), RNG.normal(size=STEPS)
WORLD = ab.RandomWalkStream(D, drift_rate=0.01)
RING = ab.RelevanceRing()


class OwnMemory(ab.State):
    step_size: jax.Array


class OwnNLMS(ab.Optimizer):
    "The page's rule."

    step_size: float = in_state(default=0.1)
    splits_error = True

    def init_for_shape(self, shape: tuple[int, ...]) -> OwnMemory:
        return OwnMemory(step_size=scalar(self.step_size))

    def move(self, memories: Any, error: Any, zs: Any, xs: Any) -> Any:
        power: Any = sum(jnp.sum(x * x) for x in xs)
        share = 1.0 / jnp.where(power == 0.0, 1.0, power)
        return memories, [memory.step_size * share * z for memory, z in zip(memories, zs, strict=True)]


class OwnBound(ab.Bounder):
    "The page's bound."

    limit: float = 0.1

    def bound(self, steps: Any, error: Any, params: Any) -> Any:
        squares: Any = sum(jnp.sum(dense(step) ** 2) for step in steps)
        factor = self.limit / jnp.maximum(self.limit, jnp.abs(error) * jnp.sqrt(squares))
        return tuple(factor * step for step in steps), factor


class OwnStream(ab.Settings):
    "A stream with nothing but init and step."

    period: float = 50.0
    feature_dim = 2

    def init(self, key: Any) -> Any:
        return jax.random.uniform(key) * self.period

    def step(self, state: Any, idx: Any) -> Any:
        phase = 2.0 * jnp.pi * (idx + state) / self.period
        x = jnp.stack([jnp.sin(phase), jnp.cos(phase)])
        return ab.TimeStep(observation=x, target=3.0 * x[:1] - x[1:]), state


def from_zero(learner: Any, feature_dim: int = D) -> Any:
    state = learner.init(feature_dim, KEY)
    return state.replace(params=jax.tree.map(jnp.zeros_like, state.params))


def by_hand(alpha: float, use_bias: bool = True) -> tuple[np.ndarray, float]:
    w, b = np.zeros(D), 0.0
    for x, y in zip(XS, YS, strict=True):
        share = alpha * (y - w @ x - b) / (x @ x + use_bias)
        w, b = w + share * x, b + share * use_bias
    return w, b


# --- five learners ---


@pytest.mark.parametrize("use_bias", [True, False])
def test_linear_is_the_rule_by_hand(use_bias: bool, float64: None) -> None:
    learner = ab.LinearLearner(OwnNLMS(0.3), use_bias=use_bias)
    state = learner.init(D)
    for x, y in zip(XS, YS, strict=True):
        result = learner.update(state, x, y)
        left = y - learner.predict(result.state, x)
        assert np.allclose(left, 0.7 * result.error, atol=1e-12)
        assert np.isclose(result.metrics[2], 0.3)
        state = result.state
    w, b = by_hand(0.3, use_bias)
    assert np.allclose(state.weights, w, atol=1e-12) and np.isclose(state.bias, b, atol=1e-12)


def test_td_without_a_future_is_linear_and_a_held_target_loses_alpha(float64: None) -> None:
    learner, w_b = ab.TDLinearLearner(OwnNLMS(0.3)), by_hand(0.3)
    state = learner.init(D)
    for x, y in zip(XS, YS, strict=True):
        state = learner.update(state, x, y, x, 0.0).state
    assert np.allclose(state.weights, w_b[0], atol=1e-12) and np.isclose(state.bias, w_b[1], atol=1e-12)
    result = learner.update(state, XS[0], 1.0, XS[1], 0.9)
    target = 1.0 + 0.9 * learner.predict(state, XS[1])
    assert np.allclose(target - learner.predict(result.state, XS[0]), 0.7 * result.td_error, atol=1e-12)


def test_traces_carry_it_back(float64: None) -> None:
    learner = ab.TDLinearLearner(ab.WithTraces(OwnNLMS(0.3), 0.8), use_bias=False)
    state, w, z, into = learner.init(D), np.zeros(D), np.zeros(D), 0.0
    for t in range(STEPS - 1):
        state = learner.update(state, XS[t], YS[t], XS[t + 1], 0.9).state
        z = into * 0.8 * z + XS[t]
        w = w + 0.3 * (YS[t] + 0.9 * w @ XS[t + 1] - w @ XS[t]) * z / (XS[t] @ XS[t])
        into = 0.9
    assert np.allclose(state.weights, w, atol=1e-12)


def test_a_network_without_hidden_layers_is_linear(float64: None) -> None:
    learner, w_b = ab.MLPLearner((), OwnNLMS(0.3)), by_hand(0.3)
    state = from_zero(learner)
    for x, y in zip(XS, YS, strict=True):
        state = learner.update(state, x, y).state
    assert np.allclose(state.params.weights[0][0], w_b[0], atol=1e-12)
    assert np.isclose(state.params.biases[0][0], w_b[1], atol=1e-12)


def test_a_deep_network_loses_alpha_to_first_order(float64: None) -> None:
    gaps = []
    for alpha in (1e-3, 1e-4):
        learner = ab.MLPLearner((16, 16), OwnNLMS(alpha))
        state = learner.init(D, KEY)
        result = learner.update(state, XS[0], YS[0])
        left = YS[0] - learner.predict(result.state, XS[0])
        gaps.append(abs(float(left[0] / result.error[0]) - (1.0 - alpha)))
    assert gaps[0] < 1e-4 and gaps[1] < 0.02 * gaps[0]  # of second order


def test_heads_are_linear_learners_and_a_silent_one_stays(float64: None) -> None:
    learner, w_b = ab.MultiHeadMLPLearner(2, (), OwnNLMS(0.3)), by_hand(0.3)
    state = from_zero(learner)
    for x, y in zip(XS, YS, strict=True):
        state = learner.update(state, x, np.array([np.nan, y])).state
    assert np.allclose(state.params.weights[-1][1], w_b[0], atol=1e-12)
    assert not state.params.weights[-1][0].any() and np.isclose(state.params.biases[-1][1], w_b[1], atol=1e-12)


def test_a_trunk_with_one_head_is_a_network_normalised_twice(float64: None) -> None:
    learner = ab.MultiHeadMLPLearner(1, (16,), OwnNLMS(1e-4))
    state = learner.init(D, KEY)
    result = learner.update(state, XS[0], YS[:1])
    left = YS[0] - learner.predict(result.state, XS[0])
    assert abs(float(left[0] / result.errors[0]) - (1.0 - 2e-4)) < 1e-5
    loud = learner.update(state, XS[0], 1e3 * YS[:1])  # the error must not stand in the power
    ratio = (loud.state.params.weights[0] - state.params.weights[0]) * result.errors[0] / loud.errors[0]
    assert np.allclose(ratio, result.state.params.weights[0] - state.params.weights[0], rtol=1e-6, atol=1e-12)


def test_demons_are_td_learners_with_their_own_lamda(float64: None) -> None:
    lamdas = 0.0, 0.8
    spec = ab.create_horde_spec([ab.GVFSpec(str(lam), "prediction", 0.9, lam) for lam in lamdas])
    horde = ab.HordeLearner(spec, (), ab.WithTraces(OwnNLMS(0.3)))
    alone = [ab.TDLinearLearner(ab.WithTraces(OwnNLMS(0.3), lam)) for lam in lamdas]
    many, each = from_zero(horde), [learner.init(D) for learner in alone]
    for t in range(STEPS - 1):
        many = horde.update(many, XS[t], np.full(2, YS[t]), XS[t + 1]).state
        each = [a.update(s, XS[t], YS[t], XS[t + 1], 0.9).state for a, s in zip(alone, each, strict=True)]
    assert np.allclose(many.params.weights[-1], [state.weights for state in each], atol=1e-12)


def test_a_rule_alone_in_a_horde_without_traces_is_the_same(float64: None) -> None:
    spec = ab.create_horde_spec([ab.GVFSpec("a", "prediction", 0.9, 0.0)])
    pair = [ab.HordeLearner(spec, (), optimizer) for optimizer in (OwnNLMS(0.3), ab.WithTraces(OwnNLMS(0.3)))]
    states = [from_zero(horde) for horde in pair]
    for t in range(STEPS - 1):
        states = [a.update(s, XS[t], YS[t : t + 1], XS[t + 1]).state for a, s in zip(pair, states, strict=True)]
    assert np.allclose(*(state.params.weights[-1] for state in states), atol=1e-12)


# --- what is around them ---


def test_configurations() -> None:
    for learner in (
        ab.LinearLearner(OwnNLMS(0.3)),
        ab.TDLinearLearner(ab.WithTraces(OwnNLMS(0.3), 0.5)),
        ab.MLPLearner((8,), OwnNLMS(0.3), bounder=OwnBound(0.2)),
        ab.MultiHeadMLPLearner(2, (8,), OwnNLMS(0.3)),
    ):
        assert type(learner).from_config(learner.to_config()) == learner
    assert OwnNLMS(0.3) != OwnNLMS(0.4) and ab.optimizer_from_config(OwnNLMS(0.3).to_config()) == OwnNLMS(0.3)


def test_native_plain_single_and_batched() -> None:
    learner = ab.LinearLearner(OwnNLMS(0.3))
    fast = ab.run_learning_loop(learner, WORLD, 1_000, KEYS[0])
    with native_loops(False):
        plain = ab.run_learning_loop(learner, WORLD, 1_000, KEYS[0])
    batch = ab.run_learning_loop_batched(learner, WORLD, 1_000, KEYS)
    assert np.allclose(fast.state.weights, plain.state.weights, atol=1e-4)
    assert np.allclose(fast.state.weights, batch.states.weights[0], atol=1e-4)
    td = ab.TDLinearLearner(ab.WithTraces(OwnNLMS(0.02), 0.8))
    alone = ab.run_td_learning_loop(td, RING, 1_000, KEYS[1])
    both = ab.run_td_learning_loop_batched(td, RING, 1_000, KEYS)
    assert np.allclose(alone.state.weights, both.states.weights[1], atol=1e-4)


def test_bank_sweep_and_stepper() -> None:
    sizes = (0.1, 0.3, 1.0)
    learners = [ab.LinearLearner(OwnNLMS(size)) for size in sizes]
    assert len(ab.LearnerBank(tuple(learners)).groups) == 1
    run = ab.sweep([*learners, ab.LinearLearner(ab.LMS(0.1))], WORLD, 500, KEYS)
    alone = ab.run_learning_loop_batched(learners[1], WORLD, 500, KEYS)
    assert np.allclose(run.metrics[:, :, 1, 0], alone.metrics[:, :, 0], rtol=1e-3, atol=1e-4)
    nets = [ab.MLPLearner((8,), OwnNLMS(size)) for size in sizes]
    assert ab.sweep(nets, WORLD, 100, KEYS).metrics.shape == (3, 100, 3, 3)

    stepper, state = ab.Stepper(learners[1], D), learners[1].init(D)
    for x, y in zip(XS, YS, strict=True):
        stepper.update(x, y)
        state = learners[1].update(state, np.float32(x), np.float32(y)).state
    assert np.allclose(stepper.state.weights, state.weights, atol=1e-5)


def test_tracking_and_diagnostics() -> None:
    track = ab.StepSizeTrackingConfig(100)
    linear = ab.run_learning_loop(ab.LinearLearner(OwnNLMS(0.3)), WORLD, 300, KEY, step_size_tracking=track)
    values = ab.run_td_learning_loop(ab.TDLinearLearner(OwnNLMS(0.3)), RING, 300, KEY, step_size_tracking=track)
    for run, d in ((linear, D), (values, 30)):
        assert run[2].step_sizes.shape == (3, d) and np.allclose(run[2].step_sizes, 0.3)
        assert np.allclose(run[2].bias_step_sizes, 0.3)
    learner = ab.MLPLearner((8,), OwnNLMS(0.1))
    look = ab.diagnose(learner, learner.init(D, KEY), ab.TimeStep(observation=XS, target=YS))
    assert np.allclose(look.step_sizes, 0.1)
    assert 0.8 < look.overshoot_ratio < 0.95


def test_a_minimal_stream_and_a_minimal_bound() -> None:
    learner = ab.LinearLearner(OwnNLMS(0.5), use_bias=False)
    state = ab.run_learning_loop(learner, OwnStream(), 500, KEY).state
    assert np.allclose(state.weights, [3.0, -1.0], atol=1e-3)
    assert ab.run_learning_loop_batched(learner, OwnStream(), 100, KEYS).metrics.shape == (3, 100, 3)
    for optimizer in (OwnNLMS(1.0), ab.LMS(1.0)):
        leashed = ab.MLPLearner((16,), optimizer, bounder=OwnBound(0.01))
        before = leashed.init(D, KEY)
        after = leashed.update(before, XS[0], 100.0).state
        pairs = zip(before.params.arrays(), after.params.arrays(), strict=True)
        assert np.isclose(np.sqrt(sum(float(np.sum((b - a) ** 2)) for a, b in pairs)), 0.01, rtol=1e-3)


# --- what is refused ---


def test_mistakes() -> None:
    with pytest.raises(TypeError, match="must define init_for_shape and move"):
        type("Empty", (ab.Optimizer,), {})()
    with pytest.raises(TypeError, match="optimizer must be"):
        ab.LinearLearner("OwnNLMS")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="optimizer must be an Optimizer"):
        ab.WithTraces(ab.TDLambda(0.1))  # type: ignore[arg-type]
    learner = ab.LinearLearner(OwnNLMS())
    with pytest.raises(TypeError, match="must come from this learner"):
        learner.update(ab.LinearLearner(ab.LMS()).init(D), XS[0], 1.0)
    with pytest.raises(ValueError, match="OwnNLMS has no setting"):
        ab.Optimizer.from_config({"type": "OwnNLMS", "alpha": 0.1})


def test_a_memory_without_step_sizes_says_so() -> None:
    class Silent(ab.State):
        rate: jax.Array

    class SilentRule(ab.Optimizer):
        "Its memory does not tell."

        def init_for_shape(self, shape: tuple[int, ...]) -> Silent:
            return Silent(rate=scalar(0.1))

        def move(self, memories: Any, error: Any, zs: Any, xs: Any) -> Any:
            return memories, [memory.rate * z for memory, z in zip(memories, zs, strict=True)]

    learner = ab.LinearLearner(SilentRule())
    result = learner.update(learner.init(D), XS[0], 1.0)
    assert np.isclose(result.metrics[2], 0.1, rtol=1e-4)  # measured: the step over the direction
    with pytest.raises(NotImplementedError, match="SilentRule does not say its step sizes"):
        learner.step_sizes(result.state)
