"""Autostep and ObGD: the published tables, what must not change, the bounds, the tracking problem, errors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alberta_nb.learners.linear import LinearLearner
from alberta_nb.loops.supervised import run_learning_loop_batched
from alberta_nb.optimizers.autostep import Autostep, AutostepParamState, autostep_overshoot
from alberta_nb.optimizers.base import Optimizer, OptimizerUpdate, optimizer_from_config
from alberta_nb.optimizers.lms import LMS
from alberta_nb.optimizers.obgd import ObGD, obgd_bound
from alberta_nb.streams.synthetic import RandomWalkStream, SuttonExperiment1Stream
from alberta_nb.types import TimeStep

RNG = np.random.default_rng(0)
XS = RNG.standard_normal((300, 5))
YS = XS @ [1.0, -2.0, 0.5, 0.0, 0.0] + 1.5 + 0.1 * RNG.standard_normal(300)
BOTH: list[Optimizer] = [Autostep(0.05, 0.02), ObGD()]


def live(optimizer: Optimizer, xs: Any, ys: Any, use_bias: bool = True) -> tuple[np.ndarray, Any, np.ndarray]:
    """Predictions, the last learner state, and the metrics of a linear learner that sees (xs, ys) in order."""
    learner = LinearLearner(optimizer, use_bias=use_bias)

    @jax.jit
    def run(data: tuple) -> tuple:
        def step(state: Any, example: tuple) -> tuple:
            result = learner.step(state, TimeStep(observation=example[0], target=example[1][None]))
            return result.state, (result.prediction[0], result.metrics)

        return jax.lax.scan(step, learner.init(xs.shape[1]), data)

    state, (predictions, metrics) = run((jnp.asarray(xs), jnp.asarray(ys)))
    return np.asarray(predictions), state, np.asarray(metrics)


# --- the contract ---


def test_defaults_and_fields() -> None:
    assert Autostep() == Autostep(initial_step_size=0.01, meta_step_size=0.01, tau=10000.0) == Autostep(0.01, 0.01, 1e4)
    assert ObGD() == ObGD(step_size=1.0, kappa=2.0, gamma=0.0, lamda=0.0) == ObGD(1.0, 2.0, 0.0, 0.0)
    state = Autostep().init(3)
    shapes = {"step_sizes": (3,), "traces": (3,), "normalizers": (3,)}
    scalars = ("meta_step_size", "tau", "bias_step_size", "bias_trace", "bias_normalizer")
    for name, shape in (shapes | dict.fromkeys(scalars, ())).items():
        assert getattr(state, name).shape == shape
        assert not getattr(state, name).weak_type, "a weakly typed leaf would compile the second call again"
    obgd = ObGD().init(3)
    assert obgd.traces.shape == (3,) and obgd.bias_trace.shape == ()
    assert all(not leaf.weak_type for leaf in jax.tree.leaves(obgd))


@pytest.mark.parametrize("optimizer", BOTH)
def test_update_keeps_shapes_and_types(optimizer: Optimizer) -> None:
    state = optimizer.init(4)
    result = optimizer.update(state, jnp.array(0.5), jnp.ones(4))
    assert isinstance(result, OptimizerUpdate)
    assert result.weight_delta.shape == (4,) and result.bias_delta.shape == ()
    assert result.metrics["mean_step_size"].shape == ()
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(result.new_state), strict=True):
        assert (old.shape, old.dtype) == (new.shape, new.dtype)
    sizes, bias = optimizer.step_sizes(result.new_state)
    assert sizes.shape in ((4,), ()) and bias.shape == ()


@pytest.mark.parametrize("optimizer", [Autostep(0.1, 0.02, 500.0), ObGD(0.5, 3.0, 0.9, 0.8)])
def test_config_round_trip(optimizer: Optimizer) -> None:
    config = optimizer.to_config()
    assert config["type"] == type(optimizer).__name__
    assert optimizer_from_config(config) == optimizer
    assert hash(optimizer_from_config(config)) == hash(optimizer)


def test_autostep_of_an_array_of_any_shape() -> None:
    state = Autostep(0.2).init_for_shape((3, 2))
    assert isinstance(state, AutostepParamState)
    step, new = Autostep(0.2).update_from_gradient(state, jnp.full((3, 2), 0.1), jnp.array(2.0))
    # The error is the caller's to multiply.
    assert step.shape == (3, 2) and np.allclose(step, 0.02)
    assert np.allclose(new.traces, 0.2 * 2.0 * 0.1)


def test_obgd_has_no_form_for_arrays() -> None:
    for call in (lambda: ObGD().init_for_shape((2,)), lambda: ObGD().update_from_gradient(None, jnp.ones(2))):
        with pytest.raises(NotImplementedError, match="ObGD works on linear learners only"):
            call()


# --- Autostep: the published table ---


def autostep_table(xs: np.ndarray, ys: np.ndarray, alpha: float, mu: float, tau: float) -> tuple[np.ndarray, ...]:
    """Table 1 of Mahmood et al. 2012, element by element; the last column of xs is the bias's 1."""
    n = xs.shape[1]
    w, h, v, a = np.zeros(n), np.zeros(n), np.zeros(n), np.full(n, alpha)
    predictions = []
    for x, y in zip(xs, ys, strict=True):
        predictions.append(w @ x)
        delta = y - w @ x
        for i in range(n):
            signal = delta * x[i] * h[i]
            v[i] = max(abs(signal), v[i] + a[i] * x[i] ** 2 * (abs(signal) - v[i]) / tau)
            if v[i] != 0:
                a[i] *= np.exp(mu * signal / v[i])
        a /= max(np.sum(a * x**2), 1.0)
        w, h = w + a * delta * x, h * (1 - a * x**2) + a * delta * x
    return np.array(predictions), a, h, v


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("alpha", "mu", "tau"), [(0.01, 0.01, 1e4), (0.3, 0.1, 50.0), (5.0, 0.02, 1.0)])
def test_autostep_equals_the_published_table(alpha: float, mu: float, tau: float) -> None:
    predictions, state, _ = live(Autostep(alpha, mu, tau), XS, YS)
    expected = autostep_table(np.column_stack([XS, np.ones(len(XS))]), YS, alpha, mu, tau)
    found = state.optimizer_state
    assert np.allclose(predictions, expected[0], rtol=1e-9, atol=1e-11)
    for weights, bias, both in (
        (found.step_sizes, found.bias_step_size, expected[1]),
        (found.traces, found.bias_trace, expected[2]),
        (found.normalizers, found.bias_normalizer, expected[3]),
    ):
        assert np.allclose(np.append(weights, bias), both, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_autostep_without_bias_ignores_it() -> None:
    predictions, state, metrics = live(Autostep(0.3, 0.1), XS, YS, use_bias=False)
    assert np.allclose(predictions, autostep_table(XS, YS, 0.3, 0.1, 1e4)[0], rtol=1e-9, atol=1e-11)
    assert float(state.bias) == 0.0
    assert np.isclose(metrics[-1, 2], np.mean(state.optimizer_state.step_sizes), rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_autostep_with_meta_step_zero_is_lms_while_nothing_overshoots() -> None:
    predictions, state, _ = live(Autostep(0.005, 0.0), XS, YS)
    assert np.allclose(predictions, live(LMS(0.005), XS, YS)[0], rtol=1e-12)
    assert np.array_equal(state.optimizer_state.step_sizes, np.full(5, 0.005))


# --- Autostep: the bound ---


@pytest.mark.usefixtures("float64")
def test_autostep_learns_a_repeated_sample_in_one_step() -> None:
    x = np.array([0.6, -1.1, 0.3, 1.4])
    for alpha in (2.0, 2000.0):
        predictions, _, _ = live(Autostep(alpha), np.tile(x, (5, 1)), np.full(5, 1.756))
        assert predictions[0] == 0 and np.allclose(predictions[1:], 1.756, rtol=1e-12)
        found = Autostep(alpha).update(Autostep(alpha).init(4), 1.756, x).new_state
        assert np.isclose(np.sum(found.step_sizes * x**2) + found.bias_step_size, 1.0, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_autostep_never_passes_the_target() -> None:
    rng, optimizer = np.random.default_rng(3), Autostep(1.0, 0.5)
    state, update = optimizer.init(3), jax.jit(optimizer.update)
    for _ in range(200):
        x, error = 10 ** rng.uniform(-3, 3) * rng.standard_normal(3), rng.standard_normal()
        move = update(state, error, x)
        state = move.new_state
        ratio = 1 - (np.sum(move.weight_delta * x) + move.bias_delta) / error
        assert -1e-12 <= ratio <= 1 + 1e-12
        assert np.sum(state.step_sizes * x**2) + state.bias_step_size <= 1 + 1e-12


@pytest.mark.usefixtures("float64")
def test_autostep_has_one_bound_over_all_arrays() -> None:
    optimizer, gradients = Autostep(2.0), [jnp.array([[0.6, -1.1], [0.3, 1.4]]), jnp.array([1.5]), jnp.array(1.0)]
    states = [optimizer.init_for_shape(g.shape) for g in gradients]
    error = jnp.array(1.756)
    steps, new = optimizer.update_from_gradients(states, gradients, error)
    # What the prediction moves by on the same sample is the error: learned, and not learned three times.
    assert np.isclose(sum(float(jnp.sum(s * g)) for s, g in zip(steps, gradients, strict=True)), 1.0, rtol=1e-12)
    assert np.isclose(autostep_overshoot([s.step_sizes for s in new], gradients), 1.0, rtol=1e-12)
    alone = [optimizer.update_from_gradient(s, g, error)[0] for s, g in zip(states, gradients, strict=True)]
    assert np.isclose(sum(float(jnp.sum(s * g)) for s, g in zip(alone, gradients, strict=True)), 3.0, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_autostep_arrays_equal_the_linear_form() -> None:
    optimizer = Autostep(0.3, 0.1, 50.0)
    linear, arrays = optimizer.init(5), [optimizer.init_for_shape((5,)), optimizer.init_for_shape(())]
    rng = np.random.default_rng(4)
    for _ in range(50):
        x, error = jnp.asarray(rng.standard_normal(5)), jnp.asarray(rng.standard_normal())
        move = optimizer.update(linear, error, x)
        steps, arrays = optimizer.update_from_gradients(arrays, [x, jnp.ones(())], error)
        linear = move.new_state
        assert np.allclose(move.weight_delta, error * steps[0], rtol=1e-12)
        assert np.allclose(move.bias_delta, error * steps[1], rtol=1e-12)
        # Without an error the gradients hold it as a factor.
        implicit, _ = optimizer.update_from_gradients(arrays, [error * x, error * jnp.ones(())])
        assert all(np.isfinite(step).all() for step in implicit)
    assert np.allclose(linear.step_sizes, arrays[0].step_sizes, rtol=1e-12)
    assert np.allclose(linear.bias_normalizer, arrays[1].normalizers, rtol=1e-12)


# --- Autostep: what must not change ---


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("unit", [1e-6, -1.0, 1e6])
def test_autostep_does_not_see_the_unit_of_the_target(unit: float) -> None:
    predictions, state, _ = live(Autostep(0.05, 0.02), XS, YS)
    other, moved, _ = live(Autostep(0.05, 0.02), XS, unit * YS)
    assert np.allclose(other, unit * predictions, rtol=1e-9)
    assert np.allclose(moved.optimizer_state.step_sizes, state.optimizer_state.step_sizes, rtol=1e-9)


def test_autostep_powers_of_two_change_no_bit() -> None:
    predictions, state, _ = live(Autostep(0.05, 0.02), XS, YS)
    other, moved, _ = live(Autostep(0.05, 0.02), XS, 64 * YS)
    assert np.array_equal(other, 64 * predictions)
    assert np.array_equal(moved.optimizer_state.step_sizes, state.optimizer_state.step_sizes)


@pytest.mark.usefixtures("float64")
def test_autostep_unit_of_one_input() -> None:
    optimizer, scale = Autostep(0.05, 0.02), np.array([1.0, 100.0, 1.0, 1e-3, 1.0])
    state = optimizer.init(5)
    scaled = state.replace(step_sizes=state.step_sizes / scale**2)
    w = other = np.zeros(5)
    update = jax.jit(optimizer.update)
    for x, y in zip(XS[:100], YS[:100], strict=True):
        move = update(state, y - w @ x, x)
        moved = update(scaled, y - other @ (scale * x), scale * x)
        w, other, state, scaled = w + move.weight_delta, other + moved.weight_delta, move.new_state, moved.new_state
        assert np.allclose(w, scale * other, rtol=1e-8, atol=1e-12)
    assert np.allclose(state.step_sizes, scale**2 * scaled.step_sizes, rtol=1e-8)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("optimizer", BOTH)
def test_order_of_inputs_and_silent_inputs_do_not_matter(optimizer: Optimizer) -> None:
    predictions, state, _ = live(optimizer, XS, YS)
    order = np.array([3, 0, 4, 1, 2])
    other, moved, _ = live(optimizer, XS[:, order], YS)
    assert np.allclose(other, predictions, rtol=1e-9, atol=1e-12)
    assert np.allclose(moved.weights, state.weights[order], rtol=1e-9, atol=1e-12)
    other, moved, _ = live(optimizer, np.pad(XS, ((0, 0), (0, 3))), YS)
    assert np.allclose(other, predictions, rtol=1e-9, atol=1e-12)
    assert np.array_equal(moved.weights[5:], np.zeros(3))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("optimizer", BOTH)
def test_a_mirrored_target_mirrors_the_predictions(optimizer: Optimizer) -> None:
    predictions, _, metrics = live(optimizer, XS, YS)
    other, _, mirrored = live(optimizer, XS, -YS)
    assert np.allclose(other, -predictions, rtol=1e-12)
    assert np.allclose(mirrored[:, 2], metrics[:, 2], rtol=1e-12)


def test_autostep_silence_changes_nothing() -> None:
    optimizer = Autostep(0.05)
    for x, error in ((jnp.zeros(3), 1.0), (jnp.ones(3), 0.0)):
        move = optimizer.update(optimizer.init(3), error, x)
        assert np.array_equal(move.weight_delta, np.zeros(3))
        assert np.array_equal(move.new_state.step_sizes, np.full(3, 0.05, np.float32))
    slope = jax.grad(lambda e: optimizer.update(optimizer.init(3), e, jnp.ones(3)).weight_delta.sum())(0.0)
    assert np.isfinite(slope), "v = 0 must not poison a gradient"


# --- ObGD ---


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("step_size", "kappa", "gamma", "lamda"), [(1.0, 2.0, 0, 0), (0.05, 2.0, 0, 0), (0.1, 3.0, 0.9, 0.8)]
)
def test_obgd_equals_the_published_algorithm(step_size: float, kappa: float, gamma: float, lamda: float) -> None:
    w, z, expected = np.zeros(6), np.zeros(6), []
    for x, y in zip(np.column_stack([XS, np.ones(len(XS))]), YS, strict=True):
        expected.append(w @ x)
        delta, z = y - w @ x, gamma * lamda * z + x
        m = max(abs(delta), 1.0) * np.abs(z).sum() * step_size * kappa
        w = w + (step_size / m if m > 1 else step_size) * delta * z
    predictions, state, _ = live(ObGD(step_size, kappa, gamma, lamda), XS, YS)
    assert np.allclose(predictions, expected, rtol=1e-11, atol=1e-12)
    assert np.allclose(np.append(state.optimizer_state.traces, state.optimizer_state.bias_trace), z, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_obgd_with_a_sleeping_bound_is_lms() -> None:
    predictions, _, metrics = live(ObGD(1e-3), XS, YS)
    assert np.allclose(predictions, live(LMS(1e-3), XS, YS)[0], rtol=1e-13, atol=1e-15)
    assert np.array_equal(metrics[:, 2], np.full(len(XS), 1e-3))


@pytest.mark.usefixtures("float64")
def test_obgd_no_sample_moves_more_than_one_over_kappa() -> None:
    rng, optimizer = np.random.default_rng(5), ObGD(step_size=1e6, kappa=3.0)
    state, update = optimizer.init(4), jax.jit(optimizer.update)
    for _ in range(300):
        x, error = 10 ** rng.uniform(-3, 3) * rng.standard_normal(4), 10 ** rng.uniform(-3, 5)
        move = update(state, error, x)
        assert np.abs(move.weight_delta).sum() + abs(move.bias_delta) <= min(error, 1.0) / 3 + 1e-12
        after = abs(error - np.sum(move.weight_delta * x) - move.bias_delta)
        assert after <= max(error, max(np.abs(x).max(), 1.0) / 3) * (1 + 1e-12)


@pytest.mark.usefixtures("float64")
def test_obgd_inputs_within_one_never_overshoot() -> None:
    rng = np.random.default_rng(6)
    for _ in range(100):
        x, error = rng.uniform(-1, 1, 4), 10 ** rng.uniform(-2, 2)
        move = ObGD(kappa=1.0).update(ObGD(kappa=1.0).init(4), error, x)
        assert 0 <= 1 - (np.sum(move.weight_delta * x) + move.bias_delta) / error <= 1


def test_obgd_bound_floor() -> None:
    assert float(obgd_bound(jnp.array(0.0), 4.0, 1.0, 2.0)) == 1 / 8
    assert float(obgd_bound(jnp.array(-10.0), 4.0, 1.0, 2.0)) == np.float32(1 / 80)
    assert float(obgd_bound(jnp.array(0.5), 4.0, 0.01, 2.0)) == np.float32(0.01)
    assert float(obgd_bound(jnp.array(5.0), 0.0, 1.0, 2.0)) == 1.0


# --- reference numbers ---


class Tracking(RandomWalkStream):
    """The idealised tracking problem of Sutton 1992b and Mahmood et al. 2012: five of twenty weights walk."""

    feature_dim: int = 20
    drift_rate: float = 1.0
    noise_std: float = 1.0

    def start(self, key: jax.Array) -> Any:
        state = super().start(key)
        return state.replace(true_weights=0.0 * state.true_weights)

    def move(self, weights: jax.Array, change: Any) -> jax.Array:
        return super().move(weights, jnp.where(jnp.arange(20) < 5, change, 0.0))


def tracking_error(optimizer: Optimizer, stream: Tracking) -> tuple[float, float]:
    """Mean squared error of the last 10,000 of 30,000 steps, and its standard error, over ten seeds."""
    learner, keys = LinearLearner(optimizer, use_bias=False), jax.random.split(jax.random.key(0), 10)
    error = np.asarray(run_learning_loop_batched(learner, stream, 30_000, keys, record_every=10_000).metrics[:, -1, 0])
    return float(error.mean()), float(error.std(ddof=1) / np.sqrt(10))


@pytest.mark.parametrize(("alpha", "reference"), [(0.005, 554.0), (0.02, 166.0), (0.04, 115.6), (0.05, 115.2)])
def test_tracking_lms(alpha: float, reference: float) -> None:
    mean, error = tracking_error(LMS(alpha), Tracking())
    closed_form = 1 + (20 * alpha**2 + 5) / (alpha * (2 - 22 * alpha))
    assert abs(mean - closed_form) < 4 * error
    # The reference is a mean of ten seeds too: twice the variance.
    assert abs(mean - reference) < 4 * np.sqrt(2) * error


def test_tracking_kalman_bound() -> None:
    rng, seeds, steps = np.random.default_rng(0), 10, 6000
    w, m, p, total = np.zeros((seeds, 5)), np.zeros((seeds, 5)), np.zeros((seeds, 5, 5)), np.zeros(seeds)
    for t in range(steps):
        w, p = w + rng.standard_normal((seeds, 5)), p + np.eye(5)
        x = rng.standard_normal((seeds, 5))
        error = np.sum((w - m) * x, 1) + rng.standard_normal(seeds)
        px = np.einsum("sij,sj->si", p, x)
        gain = px / (1 + np.sum(x * px, 1))[:, None]
        m, p = m + gain * error[:, None], p - gain[:, :, None] * px[:, None, :]
        total += error**2 * (t >= 500)
    total /= steps - 500
    assert abs(total.mean() - 22.7) < 4 * total.std(ddof=1) / np.sqrt(seeds)


def test_tracking_autostep_lies_between_and_keeps_its_curve() -> None:
    std = 10.0
    # The same draws, so the same learning: rounding is all that may differ.
    for mu in (0.01, 0.1):
        mean, error = tracking_error(Autostep(0.005, mu), Tracking())
        assert 36.7 < mean < 113 - 4 * error
        for stream, start in (
            (Tracking(noise_std=std, drift_rate=std), 0.005),
            (Tracking(noise_std=std, feature_std=std), 0.005 / std**2),
        ):
            scaled, _ = tracking_error(Autostep(start, mu), stream)
            assert abs(scaled / std**2 / mean - 1) < 1e-3


def test_autostep_on_suttons_task() -> None:
    learner, keys = LinearLearner(Autostep(0.05), use_bias=False), jax.random.split(jax.random.key(1), 10)
    result = run_learning_loop_batched(learner, SuttonExperiment1Stream(), 30_000, keys, record_every=10_000)
    error = np.median(np.asarray(result.metrics[:, -1, 0]))
    assert abs(error - 2.2) < 0.15


# --- errors ---


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Autostep(initial_step_size=0.0), ValueError, r"initial_step_size .* \(0.0, inf\), got 0.0"),
        (lambda: Autostep(initial_step_size=float("nan")), ValueError, "initial_step_size .* got nan"),
        (lambda: Autostep(meta_step_size=-0.1), ValueError, "meta_step_size .* got -0.1"),
        (lambda: Autostep(tau=0.5), ValueError, "tau .* got 0.5"),
        (lambda: Autostep(tau="long"), TypeError, "tau must be a number, got 'long'"),
        (lambda: ObGD(step_size=-1.0), ValueError, "step_size .* got -1.0"),
        (lambda: ObGD(kappa=float("inf")), ValueError, "kappa .* got inf"),
        (lambda: ObGD(gamma=1.5), ValueError, r"gamma .* \[0.0, 1.0\], got 1.5"),
        (lambda: ObGD(lamda=-0.1), ValueError, "lamda .* got -0.1"),
        (lambda: Autostep().init(0), ValueError, "feature_dim must be 1 or more, got 0"),
        (lambda: ObGD().init(1.5), TypeError, "feature_dim must be a whole number, got 1.5"),
    ],
)
def test_errors_of_settings(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("optimizer", BOTH)
def test_errors_of_examples(optimizer: Optimizer) -> None:
    state = optimizer.init(3)
    for wrong in (jnp.ones(4), jnp.ones(()), jnp.ones((1, 3))):
        with pytest.raises(ValueError, match=r"observation must have shape \(3,\), got"):
            optimizer.update(state, jnp.array(1.0), wrong)
    with pytest.raises(ValueError, match="error must have shape"):
        optimizer.update(state, jnp.ones(2), jnp.ones(3))
    # The learner's result holds its error with shape (1,): that is accepted.
    assert optimizer.update(state, jnp.ones(1), jnp.ones(3)).weight_delta.shape == (3,)


def test_errors_of_arrays() -> None:
    optimizer = Autostep()
    states = [optimizer.init_for_shape((2, 3)), optimizer.init_for_shape((3,))]
    with pytest.raises(ValueError, match="got 2 states for 1 gradients"):
        optimizer.update_from_gradients(states, [jnp.ones((2, 3))], jnp.array(1.0))
    for wrong in ([jnp.ones((2, 3)), jnp.ones(2)], [jnp.ones((3, 2)), jnp.ones(3)]):
        with pytest.raises(ValueError, match=r"gradients must have the shapes \[\(2, 3\), \(3,\)\] of the states, got"):
            optimizer.update_from_gradients(states, wrong, jnp.array(1.0))
