"""The linear learner: its equations, asking and learning, the bias, what must not matter, errors."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from live import live

from alberta_nb.learners.linear import LinearLearner, weighted_sum
from alberta_nb.loops.supervised import StepSizeTrackingConfig, run_learning_loop
from alberta_nb.normalizers import EMANormalizer, Normalizer, WelfordNormalizer
from alberta_nb.optimizers.autostep import Autostep
from alberta_nb.optimizers.base import Optimizer, OptimizerUpdate
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.optimizers.lms import LMS
from alberta_nb.optimizers.obgd import ObGD
from alberta_nb.streams.sources import ArraySource
from alberta_nb.streams.synthetic import SuttonExperiment1Stream
from alberta_nb.types import Settings, TimeStep

RNG = np.random.default_rng(0)
XS = RNG.standard_normal((200, 5))
YS = XS @ [1.0, -2.0, 0.5, 0.0, 0.0] + 3.0
OPTIMIZERS = [LMS(0.05), IDBD(0.05, 0.01), Autostep(0.05, 0.02), ObGD(0.5)]
NORMALIZERS = [WelfordNormalizer(), EMANormalizer(decay=0.95)]
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
each_normalizer = pytest.mark.parametrize("normalizer", NORMALIZERS, ids=lambda n: type(n).__name__)


# --- the contract ---


def test_defaults() -> None:
    learner = LinearLearner()
    assert (learner.optimizer, learner.normalizer, learner.use_bias) == (LMS(0.01), None, True)
    state = learner.init(3)
    assert state.weights.shape == (3,) and state.bias.shape == () and state.normalizer_state is None
    assert not np.any(state.weights) and state.bias == 0


@pytest.mark.parametrize("normalizer", [None, *NORMALIZERS])
@each_optimizer
def test_shapes_and_types(optimizer: Optimizer, normalizer: Normalizer | None) -> None:
    learner = LinearLearner(optimizer, normalizer)
    state = learner.init(5)
    result = learner.update(state, XS[0], YS[0])
    assert result.prediction.shape == result.error.shape == learner.predict(state, XS[0]).shape == (1,)
    assert result.metrics.shape == ((3,) if normalizer is None else (4,))
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, result.state)
    assert jax.tree.all(same)
    assert all(a.dtype in (jnp.float32, jnp.uint32) for a in jax.tree.leaves(result))


@pytest.mark.parametrize("normalizer", [None, *NORMALIZERS])
@each_optimizer
def test_config_round_trip(optimizer: Optimizer, normalizer: Normalizer | None) -> None:
    learner = LinearLearner(optimizer, normalizer, use_bias=False)
    assert LinearLearner.from_config(json.loads(json.dumps(learner.to_config()))) == learner


def test_equal_settings_are_equal_and_share_a_structure() -> None:
    assert LinearLearner(IDBD(0.1, 0.2)) == LinearLearner(IDBD(0.1, 0.2)) != LinearLearner(IDBD(0.1, 0.3))
    assert LinearLearner(IDBD(0.1, 0.2)).structure == LinearLearner(IDBD(0.3, 0.4)).structure
    assert LinearLearner(IDBD(0.1), use_bias=False).structure != LinearLearner(IDBD(0.1)).structure


@pytest.mark.parametrize("target", [2, 2.0, [2.0], np.float64(2.0), np.array([2]), jnp.float32(2.0)])
def test_a_target_is_a_number_or_an_array_of_one(target: Any) -> None:
    learner = LinearLearner(LMS(0.5))
    result = learner.update(learner.init(2), [1, 2], target)
    assert result.state.weights.tolist() == [1.0, 2.0] and result.error.tolist() == [2.0]


# --- the equations ---


def test_by_hand(float64: None) -> None:
    learner = LinearLearner(LMS(0.1))
    state = learner.init(2).replace(weights=jnp.array([1.0, -1.0]), bias=jnp.float64(0.5))
    result = learner.update(state, jnp.array([2.0, 3.0]), 1.0)
    np.testing.assert_allclose(result.prediction, [2.0 - 3.0 + 0.5])
    np.testing.assert_allclose(result.error, [1.5])
    np.testing.assert_allclose(result.metrics, [2.25, 1.5, 0.1])
    np.testing.assert_allclose(result.state.weights, [1.0 + 0.1 * 1.5 * 2.0, -1.0 + 0.1 * 1.5 * 3.0])
    np.testing.assert_allclose(result.state.bias, 0.5 + 0.15)
    assert state.weights.tolist() == [1.0, -1.0]  # the old state is a value


def test_the_step_goes_against_the_gradient(float64: None) -> None:
    learner, x = LinearLearner(IDBD(0.1, 0.0)), jnp.asarray(XS[0])
    state = learner.init(5).replace(weights=jnp.asarray(XS[1]), bias=jnp.float64(0.3))
    alphas = jnp.asarray(np.exp(XS[2] - 2))
    state = state.replace(optimizer_state=state.optimizer_state.replace(log_step_sizes=jnp.log(alphas)))
    slope = jax.grad(lambda w, b: 0.5 * (2.0 - weighted_sum(w, b, x)) ** 2, argnums=(0, 1))(state.weights, state.bias)
    after = learner.update(state, x, 2.0).state
    np.testing.assert_allclose(after.weights - state.weights, -alphas * slope[0], rtol=1e-12)
    np.testing.assert_allclose(after.bias - state.bias, -0.1 * slope[1], rtol=1e-12)


@pytest.mark.parametrize("optimizer", [LMS(0.05), IDBD(0.05, 0.01), Autostep(0.05, 0.02)])
def test_one_step_removes_the_stated_fraction_of_the_error(float64: None, optimizer: Optimizer) -> None:
    learner = LinearLearner(optimizer)
    *_, state = live(learner, XS[:50], YS[:50])
    result = learner.update(state, XS[50], YS[50])
    sizes = learner.step_sizes(result.state)
    removed = sizes["bias_step_sizes"] + jnp.sum(sizes["step_sizes"] * XS[50] ** 2)
    after = YS[50] - learner.predict(result.state, XS[50])
    np.testing.assert_allclose(after, (1.0 - removed) * result.error, rtol=1e-9)


@each_normalizer
def test_a_normaliser_acts_before_everything_else(float64: None, normalizer: Normalizer) -> None:
    scaled, state = [], normalizer.init(5)
    for x in XS:
        z, state = normalizer.normalize(state, jnp.asarray(7.0 * x + 50.0))
        scaled.append(z)
    inside, metrics, last = live(LinearLearner(IDBD(0.05, 0.01), normalizer), 7.0 * XS + 50.0, YS)
    outside, plain, _ = live(LinearLearner(IDBD(0.05, 0.01)), np.stack(scaled), YS)
    np.testing.assert_allclose(inside, outside, atol=1e-12)
    np.testing.assert_allclose(metrics[:, :3], plain, atol=1e-12)
    np.testing.assert_allclose(metrics[-1, 3], np.mean(normalizer.moments(state)[1]), rtol=1e-12)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.allclose(a, b)), last.normalizer_state, state))


# --- asking and learning ---


@each_optimizer
def test_predict_is_what_update_reports(optimizer: Optimizer) -> None:
    learner = LinearLearner(optimizer)
    *_, state = live(learner, XS[:50], YS[:50])
    assert learner.predict(state, XS[50]) == learner.update(state, XS[50], YS[50]).prediction


@each_normalizer
def test_predict_uses_the_frozen_statistics(normalizer: Normalizer) -> None:
    learner, xs = LinearLearner(LMS(0.05), normalizer), 10.0 * XS + 100.0
    *_, state = live(learner, xs[:50], YS[:50])
    result = learner.update(state, xs[50], YS[50])
    asked = learner.predict(state, xs[50])
    by_hand = weighted_sum(state.weights, state.bias, normalizer.normalize_only(state.normalizer_state, xs[50]))
    np.testing.assert_allclose(asked, [by_hand], rtol=1e-5)
    assert abs(asked - result.prediction) > 1e-4  # the sample itself moves the statistics
    later = state.replace(normalizer_state=result.state.normalizer_state)
    np.testing.assert_allclose(learner.predict(later, xs[50]), result.prediction, rtol=1e-4)


def test_predict_and_update_inside_compiled_functions() -> None:
    learner = LinearLearner(IDBD(0.05, 0.01), WelfordNormalizer())
    state = learner.init(5)
    result = jax.jit(lambda s, x, y: learner.update(s, x, y))(state, XS[0], YS[0])
    assert jnp.allclose(result.error, learner.update(state, XS[0], YS[0]).error)
    xs = jnp.asarray(XS[:7], jnp.float32)
    many = jax.vmap(learner.predict, (None, 0))(result.state, xs)
    assert jnp.allclose(many[:, 0], jnp.stack([learner.predict(result.state, x)[0] for x in xs]), atol=1e-6)
    batch = jax.tree.map(lambda a: jnp.stack([a, a]), state)
    assert jax.vmap(learner.update, (0, None, None))(batch, xs[0], 1.0).error.shape == (2, 1)


@each_optimizer
def test_update_by_update_equals_the_loop(optimizer: Optimizer) -> None:
    learner = LinearLearner(optimizer, EMANormalizer())
    state, rows = learner.init(5), []
    for x, y in zip(XS[:40], YS[:40], strict=True):
        result = learner.update(state, x, y)
        state, rows = result.state, [*rows, result.metrics]
    looped, metrics = run_learning_loop(learner, ArraySource(XS[:40], YS[:40]))
    np.testing.assert_allclose(metrics, np.stack(rows), rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(looped.weights, state.weights, rtol=2e-5, atol=1e-5)


# --- the bias ---


@each_optimizer
def test_the_bias_is_one_more_input(float64: None, optimizer: Optimizer) -> None:
    errors, metrics, state = live(LinearLearner(optimizer), XS, YS)
    with_one = np.column_stack([XS, np.ones(200)])
    same, same_metrics, same_state = live(LinearLearner(optimizer, use_bias=False), with_one, YS)
    np.testing.assert_allclose(same, errors, atol=1e-12)
    np.testing.assert_allclose(same_metrics, metrics, atol=1e-12)
    np.testing.assert_allclose(same_state.weights, [*state.weights, state.bias], atol=1e-12)
    assert same_state.bias == 0.0


@each_optimizer
def test_without_a_bias_it_stays_zero(optimizer: Optimizer) -> None:
    *_, state = live(LinearLearner(optimizer, use_bias=False), XS, YS)
    assert state.bias == 0.0


# --- the metrics ---


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("optimizer", OPTIMIZERS[:3], ids=lambda o: type(o).__name__)
def test_mean_step_size_is_the_true_mean(float64: None, optimizer: Optimizer, use_bias: bool) -> None:
    learner = LinearLearner(optimizer, use_bias=use_bias)
    _, metrics, state = live(learner, XS, YS)
    sizes = learner.step_sizes(state)
    used = [*sizes["step_sizes"], *([sizes["bias_step_sizes"]] if use_bias else [])]
    np.testing.assert_allclose(metrics[-1, 2], np.mean(used), rtol=1e-12)
    assert sizes["step_sizes"].shape == (5,) and sizes["bias_step_sizes"].shape == ()


def test_mean_step_size_hides_the_story() -> None:
    learner = LinearLearner(IDBD(0.05, 0.01), use_bias=False)
    _, metrics, history = run_learning_loop(
        learner, SuttonExperiment1Stream(), 20_000, jax.random.key(0), step_size_tracking=StepSizeTrackingConfig(100)
    )
    sizes = np.asarray(history.step_sizes)
    np.testing.assert_allclose(metrics[::100, 2], sizes.mean(axis=1), rtol=1e-4)
    assert sizes[-1, :5].mean() > 10 * sizes[-1, 5:].mean()


# --- what must not matter ---


@each_optimizer
def test_order_of_inputs(float64: None, optimizer: Optimizer) -> None:
    order = np.array([3, 0, 4, 1, 2])
    learner = LinearLearner(optimizer)
    errors, metrics, state = live(learner, XS, YS)
    same, same_metrics, same_state = live(learner, XS[:, order], YS)
    np.testing.assert_allclose(same, errors, atol=1e-12)
    np.testing.assert_allclose(same_metrics, metrics, atol=1e-12)
    np.testing.assert_allclose(same_state.weights, state.weights[order], atol=1e-12)
    sizes, same_sizes = (learner.step_sizes(s)["step_sizes"] for s in (state, same_state))
    np.testing.assert_allclose(same_sizes, sizes[order], atol=1e-12)


@each_optimizer
def test_silent_inputs(float64: None, optimizer: Optimizer) -> None:
    learner = LinearLearner(optimizer)
    errors, _, state = live(learner, XS, YS)
    same, _, wider = live(learner, np.column_stack([XS, np.zeros((200, 3))]), YS)
    np.testing.assert_allclose(same, errors, atol=1e-12)
    np.testing.assert_allclose(wider.weights, [*state.weights, 0.0, 0.0, 0.0], atol=1e-12)
    sizes, wider_sizes = (learner.step_sizes(s)["step_sizes"] for s in (state, wider))
    np.testing.assert_allclose(wider_sizes[:5], sizes, atol=1e-12)


@each_optimizer
def test_signs(float64: None, optimizer: Optimizer) -> None:
    learner, flip = LinearLearner(optimizer), np.array([1.0, -1.0, 1.0, 1.0, -1.0])
    errors, metrics, state = live(learner, XS, YS)
    same, _, mirrored = live(learner, XS * flip, YS)
    np.testing.assert_allclose(same, errors, atol=1e-12)
    np.testing.assert_allclose(mirrored.weights, state.weights * flip, atol=1e-12)
    other, other_metrics, turned = live(learner, XS, -YS)
    np.testing.assert_allclose(other, -errors, atol=1e-12)
    np.testing.assert_allclose(other_metrics[:, 2], metrics[:, 2], atol=1e-12)
    np.testing.assert_allclose(turned.weights, -state.weights, atol=1e-12)
    for kind in ("step_sizes", "bias_step_sizes"):
        np.testing.assert_allclose(learner.step_sizes(turned)[kind], learner.step_sizes(state)[kind], atol=1e-12)


# --- errors ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": LMS}, "optimizer must be an instance of Optimizer"),
        ({"optimizer": WelfordNormalizer()}, "optimizer must be an instance of Optimizer"),
        ({"normalizer": LMS(0.1)}, "normalizer must be an instance of Normalizer"),
        ({"use_bias": 1}, "use_bias must be True or False"),
    ],
)
def test_errors_of_settings(settings: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        LinearLearner(**settings)


@pytest.mark.parametrize(
    ("feature_dim", "error"), [(0, ValueError), (-3, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_errors_of_init(feature_dim: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="feature_dim"):
        LinearLearner().init(feature_dim)


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (XS[0, :4], 1.0, ValueError, r"observation must have shape \(5,\), got \(4,\)"),
        (XS[:2], 1.0, ValueError, r"observation must have shape \(5,\), got \(2, 5\)"),
        (["a"] * 5, 1.0, TypeError, "observation must be numeric"),
        (XS[0], [1.0, 2.0], ValueError, r"target must have shape \(1,\), got \(2,\)"),
        (XS[0], "warm", TypeError, "target must be numeric"),
        (XS[0], None, TypeError, "target must be numeric"),
    ],
)
def test_errors_of_examples(x: Any, y: Any, error: type[Exception], message: str) -> None:
    learner = LinearLearner()
    with pytest.raises(error, match=message):
        learner.update(learner.init(5), x, y)


def test_errors_of_states() -> None:
    learner = LinearLearner(IDBD(), EMANormalizer())
    state = learner.init(5)
    for other in (LinearLearner(), LinearLearner(IDBD()), LinearLearner(IDBD(), WelfordNormalizer())):
        with pytest.raises(TypeError, match="state must come from this learner.*IDBDState.*EMANormalizerState"):
            learner.update(other.init(5), XS[0], 1.0)
        with pytest.raises(TypeError, match="state must come from this learner"):
            learner.predict(other.init(5), XS[0])
    with pytest.raises(TypeError, match="state must be a LearnerState, got IDBDState"):
        learner.update(state.optimizer_state, XS[0], 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"state must hold one learner, got weights \(3, 5\)"):
        learner.predict(jax.tree.map(lambda a: jnp.stack([a] * 3), state), XS[0])
    assert jnp.isfinite(learner.update(state, XS[0], 1.0).error).all()


class Silent(Optimizer):
    """An optimizer that forgets to report its mean step size."""

    def init(self, feature_dim: int) -> Any:
        return LMS().init(feature_dim)

    def update(self, state: Any, error: Any, observation: Any, bias_input: float = 1.0) -> OptimizerUpdate:
        return OptimizerUpdate(weight_delta=0 * observation, bias_delta=0 * error, new_state=state, metrics={"mean": 0})


def test_an_optimizer_must_report_its_mean_step_size() -> None:
    learner = LinearLearner(Silent())
    with pytest.raises(ValueError, match="Silent must report 'mean_step_size', got .'mean'."):
        learner.step(learner.init(2), TimeStep(observation=jnp.ones(2), target=jnp.ones(1)))
    assert isinstance(learner, Settings)


# --- what is given is what is read ---

KINDS = ["float16", "longdouble", "int64", "uint64", ">f4", ">f8", ">i4", ">i8", "int8", "uint16", "bool", "uint32"]


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_every_kind_are_read_cold_and_warm(kind: str, warm: bool) -> None:
    learner, x = LinearLearner(LMS(0.0625 if warm else 0.125), use_bias=False), np.array([0, 1, 1], kind)
    jax.clear_caches()
    state = learner.init(3).replace(weights=jnp.array([1.0, 2.0, 3.0]))
    plain = x.astype(np.float32)
    if warm:  # a native call has compiled it
        learner.update(state, plain, 1.0), learner.predict(state, plain)
    got, asked = learner.update(state, x, x[1]), learner.predict(state, x)
    assert np.array_equal(got.state.weights, learner.update(state, plain, 1.0).state.weights)
    assert asked.tolist() == learner.predict(state, plain).tolist() == [5.0]


def test_targets_and_observations_of_64_bits_keep_their_value() -> None:
    learner = LinearLearner(LMS(0.1), use_bias=False)
    state = learner.init(3).replace(weights=jnp.ones(3))
    for big in (3_000_000_000, 2**40, -(2**33), np.uint64(2**63), np.array([2**40]), 10**25):
        assert float(learner.update(state, np.zeros(3), big).error[0]) == np.float32(float(np.squeeze(big)))
        assert float(learner.predict(state, [big if np.ndim(big) == 0 else 2**40, 0, 0])[0]) > 0 or big < 0  # type: ignore[operator]
    assert float(learner.predict(state, np.array([1_700_000_000_000, 0, 0]))[0]) == np.float32(1.7e12)


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float16, jnp.int8])
def test_arrays_of_jax_are_read(kind: Any) -> None:
    learner, x = LinearLearner(LMS(0.1)), jnp.ones(3, kind)
    state = learner.init(3)
    want = learner.update(state, np.ones(3, np.float32), 1.0).state.weights
    assert np.array_equal(learner.update(state, x, x[:1]).state.weights, want)
    assert np.array_equal(learner.update(state, np.asarray(x), x[0]).state.weights, want)  # numpy knows JAX's types


def test_masked_arrays_and_states_of_lists_are_refused() -> None:
    learner = LinearLearner()
    state = learner.init(3)
    with pytest.raises(TypeError, match="observation must have no mask, got a masked array: fill it"):
        learner.update(state, np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0]), 1.0)
    with pytest.raises(TypeError, match="target must have no mask"):
        learner.update(state, [1.0, 2.0, 3.0], np.ma.masked)
    lists = jax.tree.map(lambda a: np.asarray(a).tolist(), state)
    for call in (lambda: learner.update(lists, [1.0, 2.0, 3.0], 1.0), lambda: learner.predict(lists, [1.0, 2.0, 3.0])):
        with pytest.raises(TypeError, match="state must hold arrays, got a list for weights: lists become arrays by"):
            call()
    back = jax.tree.map(jnp.asarray, lists, is_leaf=lambda part: isinstance(part, list))  # what the message says
    assert learner.update(back, [1.0, 2.0, 3.0], 1.0).error == 1.0


def test_updates_can_be_mapped_over_states() -> None:
    learner = LinearLearner()
    states = jax.vmap(lambda _: learner.init(3))(jnp.arange(4))
    found = jax.vmap(lambda s, x: learner.update(s, x, 1.0).error)(states, jnp.ones((4, 3), jnp.bfloat16))
    assert found.shape == (4, 1)
