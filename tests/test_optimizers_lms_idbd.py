"""LMS and IDBD: the interface of the seeds, the oracles in 64 bit, Sutton's numbers, and what happens to bad input."""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

import alberta_nb as ab
from alberta_nb.learners.linear import LinearLearner
from alberta_nb.loops.supervised import run_learning_loop_batched
from alberta_nb.optimizers.base import Optimizer, OptimizerUpdate, mean_step_size, optimizer_from_config
from alberta_nb.optimizers.idbd import IDBD, IDBDParamState, IDBDState, idbd_rule, idbd_step
from alberta_nb.optimizers.lms import LMS, LMSState
from alberta_nb.streams.synthetic import RandomWalkStream, SuttonExperiment1Stream


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


double = pytest.mark.usefixtures("x64")


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@functools.partial(jax.jit, static_argnums=0)
def walk(learner: LinearLearner, state: Any, xs: Array, targets: Array) -> tuple[Any, Array]:
    """The learner's last state and its predictions, example by example."""

    def step(state: Any, row: Any) -> tuple[Any, Array]:
        result = learner.update(state, *row)
        return result.state, result.prediction[0]

    return jax.lax.scan(step, state, (xs, targets))


def live(optimizer: Optimizer, xs: Any, targets: Any, use_bias: bool = True, logs: Array | None = None) -> Any:
    """Predictions and last state; `logs` replaces the first log step sizes of the weights."""
    learner = LinearLearner(optimizer=optimizer, use_bias=use_bias)
    state = learner.init(xs.shape[1])
    if logs is not None:
        state = state.replace(optimizer_state=state.optimizer_state.replace(log_step_sizes=logs))
    state, predictions = walk(learner.structure, state, jnp.asarray(xs), jnp.asarray(targets))
    return predictions, state


def close(a: Any, b: Any, tolerance: float = 1e-12) -> bool:
    return bool(np.max(np.abs(np.asarray(a) - np.asarray(b))) < tolerance)


# --- the interface ---


def test_names_and_defaults_of_the_seeds() -> None:
    assert LMS() == LMS(step_size=0.01) == LMS(0.01)
    assert IDBD() == IDBD(initial_step_size=0.01, meta_step_size=0.01, h_decay_mode="prediction_grads")
    assert IDBD(0.05, 0.001, "loss_grads").h_decay_mode == "loss_grads"
    assert IDBD().meta_gradient == "prediction" and IDBD().log_step_size_bounds is None
    assert isinstance(LMS(), Optimizer) and isinstance(IDBD(), Optimizer)


def test_settings_are_values() -> None:
    assert IDBD(0.05) == IDBD(0.05) != IDBD(0.06) and hash(IDBD(0.05)) == hash(IDBD(0.05))
    with pytest.raises(dataclasses.FrozenInstanceError):
        LMS().step_size = 0.1  # type: ignore[misc]


@pytest.mark.parametrize(
    "optimizer",
    [LMS(0.2), IDBD(0.05, 0.002, "loss_grads", "loss", (-8.0, None)), IDBD(log_step_size_bounds=(None, 1.0))],
)
def test_configurations_survive_json(optimizer: Optimizer) -> None:
    config = json.loads(json.dumps(optimizer.to_config()))
    assert config["type"] == type(optimizer).__name__
    assert (
        optimizer_from_config(config)
        == Optimizer.from_config(config)
        == type(optimizer).from_config(config)
        == optimizer
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "LSM"}, r"config\['type'\] must be one of .*got 'LSM'"),
        ({"type": "LMS", "alpha": 1.0}, r"LMS has no setting \['alpha'\]"),
        ({"type": "IDBD", "meta_gradient": "both"}, "meta_gradient must be one of"),
    ],
)
def test_bad_configurations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimizer_from_config(config)


def test_states() -> None:
    state = IDBD(0.05, 0.002).init(3)
    assert isinstance(state, IDBDState) and isinstance(LMS().init(3), LMSState)
    assert [f.name for f in dataclasses.fields(LMS().init(3))] == ["step_size"]
    assert state.log_step_sizes.shape == state.traces.shape == (3,)
    assert state.bias_step_size.shape == state.bias_trace.shape == state.meta_step_size.shape == ()
    assert np.allclose(np.exp(state.log_step_sizes), 0.05) and np.isclose(state.bias_step_size, 0.05)
    assert np.isclose(state.meta_step_size, 0.002) and not state.traces.any() and not state.bias_trace.any()
    assert all(leaf.dtype == jnp.float32 and not leaf.weak_type for leaf in jax.tree.leaves(state))
    assert state.replace(traces=jnp.ones(3)).traces.sum() == 3.0 and state.traces.sum() == 0.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.traces = jnp.ones(3)
    with pytest.raises(TypeError):
        LMSState(jnp.zeros(()))  # type: ignore[misc]


@pytest.mark.parametrize("optimizer", [LMS(0.1), IDBD(0.1, 0.01)])
def test_an_update_answers_with_shapes_and_metrics(optimizer: Optimizer) -> None:
    state = optimizer.init(3)
    answer = optimizer.update(state, jnp.float32(0.5), jnp.array([1.0, 0.0, -2.0]))
    assert isinstance(answer, OptimizerUpdate)
    assert answer.weight_delta.shape == (3,) and answer.bias_delta.shape == ()
    assert np.isclose(answer.metrics["mean_step_size"], 0.1)
    assert jax.tree.structure(answer.new_state) == jax.tree.structure(state)
    assert [a.aval for a in jax.tree.leaves(answer.new_state)] == [a.aval for a in jax.tree.leaves(state)]


@pytest.mark.parametrize("optimizer", [LMS(0.1), IDBD(0.1, 0.01)])
def test_the_reported_step_size_is_the_true_mean(optimizer: Optimizer) -> None:
    result = LinearLearner(optimizer=optimizer).update(LinearLearner(optimizer=optimizer).init(2), jnp.ones(2), 1.0)
    assert np.isclose(result.metrics[2], 0.1)
    assert mean_step_size(jnp.array([1.0, 3.0]), jnp.float32(8.0)) == 4.0
    assert mean_step_size(jnp.array([1.0, 3.0]), jnp.float32(8.0), 0.0) == 2.0


def test_step_sizes_can_be_read() -> None:
    weights, bias = IDBD(0.3).step_sizes(IDBD(0.3).init(2))
    assert np.allclose(weights, 0.3) and weights.shape == (2,) and np.isclose(bias, 0.3)
    assert all(np.isclose(a, 0.2) for a in LMS(0.2).step_sizes(LMS(0.2).init(2)))


def test_a_sweep_over_settings_makes_its_states_by_vmap() -> None:
    starts, thetas = jnp.array([0.01, 0.1]), jnp.array([0.001, 0.002])
    states = jax.vmap(lambda a, theta: IDBD(a, theta).init(3))(starts, thetas)
    assert states.log_step_sizes.shape == (2, 3) and np.allclose(np.exp(states.log_step_sizes[:, 0]), starts)
    assert np.allclose(states.meta_step_size, thetas)


# --- the base class ---


class Silent(Optimizer):
    """Never moves: the least that an optimizer can be."""

    def init(self, feature_dim: int) -> Any:
        return LMSState(step_size=jnp.zeros(()))

    def update(self, state: Any, error: Array, observation: Array, bias_input: float = 1.0) -> OptimizerUpdate:
        still = jnp.zeros_like(observation)
        return OptimizerUpdate(
            weight_delta=still, bias_delta=jnp.zeros(()), new_state=state, metrics={"mean_step_size": jnp.zeros(())}
        )


class Nameless(Optimizer):
    """Its memory holds no step size under a name that tells."""

    def init_for_shape(self, shape: tuple[int, ...]) -> Any:
        return jnp.zeros(shape)

    def move(self, memories: Any, error: Any, zs: Any, xs: Any) -> Any:
        return memories, [0.5 * z for z in zs]


def test_an_optimizer_of_ones_own() -> None:
    learner = LinearLearner(optimizer=Silent())
    assert not learner.update(learner.init(3), jnp.ones(3), 1.0).state.weights.any()
    assert LinearLearner.from_config(learner.to_config()) == learner


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Optimizer(), TypeError, "Optimizer must define init_for_shape and move"),
        (lambda: Silent().init_for_shape((2,)), NotImplementedError, "Silent .* no per-parameter form"),
        (
            lambda: Silent().update_from_gradient(None, jnp.ones(2)),
            NotImplementedError,
            "Silent .* no per-parameter form",
        ),
        (lambda: Nameless().step_sizes(Nameless().init(2)), NotImplementedError, "Nameless does not say its step"),
    ],
)
def test_what_an_optimizer_lacks_is_said(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_arrays_and_states_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="got 1 states for 2 gradients"):
        LMS().update_from_gradients([LMS().init_for_shape((2,))], [jnp.ones(2), jnp.ones(3)])


# --- bad settings ---


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LMS(-0.1), ValueError, r"step_size must be a finite number in \[0.0, inf\), got -0.1"),
        (lambda: LMS(math.nan), ValueError, "step_size must be a finite number .* got nan"),
        (lambda: LMS(math.inf), ValueError, "step_size must be a finite number .* got inf"),
        (lambda: LMS("0.1"), TypeError, "step_size must be a number or 'auto', got '0.1'"),  # type: ignore[arg-type]
        (lambda: LMS(True), TypeError, "step_size must be a number, got True"),
        (lambda: IDBD(0.0), ValueError, r"initial_step_size must be a finite number in \(0.0, inf\), got 0.0"),
        (lambda: IDBD(0.1, -1.0), ValueError, "meta_step_size must be a finite number"),
        (lambda: IDBD(h_decay_mode="none"), ValueError, "h_decay_mode must be one of .* got 'none'"),
        (lambda: IDBD(meta_gradient="both"), ValueError, "meta_gradient must be one of .* got 'both'"),
        (lambda: IDBD(log_step_size_bounds=(2.0, -10.0)), ValueError, "log_step_size_bounds must have low < high"),
        (lambda: IDBD(log_step_size_bounds=(1.0, 1.0)), ValueError, "log_step_size_bounds must have low < high"),
        (lambda: IDBD(log_step_size_bounds=(-math.inf, 2.0)), ValueError, "log_step_size_bounds: low must be a finite"),
        (
            lambda: IDBD(log_step_size_bounds=(-10.0, math.nan)),
            ValueError,
            "log_step_size_bounds: high must be a finite",
        ),
        (lambda: IDBD(log_step_size_bounds=("a", None)), TypeError, "log_step_size_bounds: low must be a number"),  # type: ignore[arg-type]
        (lambda: IDBD(log_step_size_bounds=-10.0), TypeError, r"must be None or a pair \(low, high\), got -10.0"),  # type: ignore[arg-type]
        (lambda: IDBD(log_step_size_bounds=(-10.0,)), TypeError, r"must be None or a pair"),  # type: ignore[arg-type]
        (lambda: IDBD(1e-5).init(3), ValueError, r"initial_step_size 1e-05 has logarithm -11.51, outside"),
        (lambda: IDBD(20.0).init_for_shape((3,)), ValueError, r"initial_step_size 20.0 has logarithm 2.996, outside"),
        (
            lambda: IDBD(log_step_size_bounds=(-2.0, 0.0)).init(3),
            ValueError,
            r"outside log_step_size_bounds \(-2.0, 0.0\)",
        ),
        (lambda: IDBD().init(0), ValueError, "feature_dim must be 1 or more, got 0"),
        (lambda: LMS().init(2.5), TypeError, "feature_dim must be a whole number, got 2.5"),  # type: ignore[arg-type]
    ],
)
def test_bad_settings_are_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_large_and_small_starts_within_the_bounds() -> None:
    assert np.isclose(np.exp(IDBD(20.0).init(2).log_step_sizes[0]), 20.0)  # no upper bound on linear learners
    assert np.isclose(IDBD(1e-5, log_step_size_bounds=(None, None)).init(2).log_step_sizes[0], math.log(1e-5))


# A compiled function knows the template of the settings, with swept ones at their defaults: these bounds exclude 0.01.
NARROW = [((-4.0, -3.0), 0.03), ((-2.0, 0.0), 0.5), ((-3.0, None), 0.1), ((None, -5.0), 0.005)]


def td_with(bounds: Any, start: float) -> list[ab.TDOptimizer]:
    kinds = (ab.TDIDBD, ab.AutoTDIDBD)
    made = [kind(start, 0.001, 0.5, log_step_size_bounds=bounds) for kind in kinds]
    return [*made, ab.WithTraces(IDBD(start, 0.001, log_step_size_bounds=bounds), 0.5)]


def test_bounds_that_exclude_the_default_start_in_supervised_loops() -> None:
    bounds, start = NARROW[0]
    rule, world, key = IDBD(start, 0.001, log_step_size_bounds=bounds), RandomWalkStream(3), jax.random.key(0)
    assert np.isfinite(LinearLearner(rule).update(LinearLearner(rule).init(2), jnp.ones(2), 1.0).error[0])
    run = ab.run_learning_loop(LinearLearner(rule), world, 20, key)
    assert np.isclose(run.metrics[0, 2], start, rtol=1e-5)
    logs = np.asarray(run.state.optimizer_state.log_step_sizes)
    assert (logs >= bounds[0]).all() and (logs <= bounds[1]).all()
    net = ab.MLPLearner((4,), rule, bounder=ab.ObGDBounding())
    assert np.isfinite(ab.run_mlp_learning_loop(net, world, 20, key).metrics).all()
    heads = ab.MultiHeadMLPLearner(2, (4,), rule, bounder=ab.ObGDBounding())
    state = heads.update(heads.init(3, key), np.ones(3), np.ones(2)).state
    assert all(np.isfinite(array).all() for array in state.params.arrays())
    swept = ab.sweep([LinearLearner(rule), LinearLearner(rule)], world, 5, jax.random.split(key, 2))
    assert np.isfinite(swept.metrics).all()


def test_bounds_that_exclude_the_default_start_in_td_loops() -> None:
    spec = ab.create_horde_spec([ab.GVFSpec("soon", "prediction", 0.5, 0.5)])
    for optimizer in td_with(*NARROW[0]):
        run = ab.run_td_learning_loop(ab.TDLinearLearner(optimizer), ab.RandomWalkChain(5), 20, jax.random.key(0))
        assert np.isfinite(run.metrics).all()
        horde = ab.HordeLearner(spec, (), optimizer)
        state = horde.update(horde.init(3, jax.random.key(0)), np.ones(3), np.ones(1), np.ones(3)).state
        assert np.isfinite(state.params.weights[-1]).all()


FAR = [
    *(IDBD(start, log_step_size_bounds=bounds) for bounds, start in NARROW),
    *(optimizer for bounds, start in NARROW for optimizer in td_with(bounds, start)),
    IDBD(1e-5, log_step_size_bounds=(None, -9.0)),
    ab.SwiftTD(0.9, bound=1.0),
    ab.SwiftTD(1e-12, min_step_size=1e-13),
    ab.SwiftTD(0.001, bound=0.002),
    ab.Autostep(1e3, 0.0, 1.0),
    ab.ObGD(0.0, 0.0, 1.0, 1.0),
    ab.ScaledLMS(0.0, 0.0, 1e-3),
    ab.TDC(0.0, 1.0, 0.0),
]


@pytest.mark.parametrize("optimizer", FAR)
def test_a_template_is_as_good_as_the_settings(optimizer: Any) -> None:
    shapes = [jax.tree.map(jnp.shape, made.init(3)) for made in (optimizer, optimizer.structure)]
    assert jax.tree.leaves(shapes[0]) == jax.tree.leaves(shapes[1])
    assert optimizer.structure.structure == optimizer.structure


def test_a_first_step_size_at_its_bound_is_inside() -> None:
    for log in (-4.0, -3.0):  # the logarithm of the exponential may miss it by a rounding
        state = IDBD(math.exp(log), log_step_size_bounds=(-4.0, -3.0)).init(2)
        assert np.asarray(state.log_step_sizes).tolist() == [log, log]


# --- LMS ---


@double
def test_lms_is_the_gradient_step() -> None:
    xs, targets = normal(0, 50, 4), normal(1, 50)
    w, b = np.zeros(4), 0.0
    predictions, state = live(LMS(0.07), xs, targets)
    for x, target, prediction in zip(np.asarray(xs), np.asarray(targets), predictions, strict=True):
        assert abs(prediction - (w @ x + b)) < 1e-13
        error = target - (w @ x + b)
        w, b = w + 0.07 * error * x, b + 0.07 * error
    assert close(state.weights, w) and close(state.bias, b)


@double
@pytest.mark.parametrize("fraction", [0.5, 1.0, 1.8, 2.2])
def test_lms_removes_its_fraction_of_the_error(fraction: float) -> None:
    x = jnp.array([1.0, 3.0, -0.5])
    learner = LinearLearner(optimizer=LMS(fraction / (float(jnp.sum(x * x)) + 1.0)))
    result = learner.update(learner.init(3), x, 2.0)
    assert abs(2.0 - learner.predict(result.state, x)[0] - (1.0 - fraction) * 2.0) < 1e-12


# --- IDBD against an independent transcription of Figure 2 ---


def figure_2(xs: np.ndarray, targets: np.ndarray, start: float, theta: float, low: float) -> Any:
    """Sutton's Figure 2 in plain loops, the bias as a last input that is always 1."""
    n = xs.shape[1]
    w, h, beta = np.zeros(n), np.zeros(n), np.full(n, math.log(start))
    for x, target in zip(xs, targets, strict=True):
        delta = target - w @ x
        for i in range(n):
            beta[i] = max(beta[i] + theta * delta * x[i] * h[i], low)
            alpha = math.exp(beta[i])
            w[i] += alpha * delta * x[i]
            h[i] = h[i] * max(0.0, 1.0 - alpha * x[i] ** 2) + alpha * delta * x[i]
    return w, h, beta


@double
@pytest.mark.parametrize(("start", "theta", "low"), [(0.05, 0.01, -10.0), (0.2, 0.05, -10.0), (0.01, 0.3, -5.0)])
def test_idbd_is_figure_2(start: float, theta: float, low: float) -> None:
    xs, targets = normal(2, 300, 4), normal(3, 300) + 1.0
    with_one = np.column_stack([xs, np.ones(300)])
    w, h, beta = figure_2(with_one, np.asarray(targets), start, theta, low)
    _, state = live(IDBD(start, theta, log_step_size_bounds=(low, None)), xs, targets)
    opt = state.optimizer_state
    assert close(state.weights, w[:4], 1e-10) and close(state.bias, w[4], 1e-10)
    assert close(opt.traces, h[:4], 1e-10) and close(opt.bias_trace, h[4], 1e-10)
    assert close(opt.log_step_sizes, beta[:4], 1e-10) and close(jnp.log(opt.bias_step_size), beta[4], 1e-10)


@double
def test_the_six_lines_are_figure_2() -> None:
    xs, targets = normal(2, 300, 4), normal(3, 300) + 1.0
    w, h, beta = figure_2(np.asarray(xs), np.asarray(targets), 0.05, 0.01, -math.inf)
    now = jnp.zeros(4), jnp.full(4, jnp.log(0.05)), jnp.zeros(4)
    for x, target in zip(xs, targets, strict=True):
        now = idbd_step(*now, x, target, jnp.asarray(0.01))
    assert close(now[0], w, 1e-10) and close(now[1], beta, 1e-10) and close(now[2], h, 1e-10)


def test_old_memory_first_then_the_new_step_size() -> None:
    log_alpha, alpha, h = idbd_rule(
        jnp.log(0.1), jnp.float32(0.1), jnp.float32(0.1), *map(jnp.float32, (0.9, 0.9, 1.0))
    )
    assert np.isclose(log_alpha, math.log(0.1) + 0.009) and np.isclose(alpha, 0.1 * math.exp(0.009))
    assert np.isclose(h, 0.1 * (1 - alpha) + 0.9 * alpha)


def test_a_step_that_overwrites_everything_forgets_everything() -> None:
    _, alpha, h = idbd_rule(jnp.log(0.5), jnp.float32(7.0), *map(jnp.float32, (0.0, 1.0, 2.0, 4.0)))
    assert np.isclose(h, 2.0 * alpha)


def test_the_lower_bound_holds() -> None:
    optimizer = IDBD(0.05, 1.0)
    state = optimizer.init(2).replace(traces=jnp.array([-1e3, 0.0]))
    new = optimizer.update(state, jnp.float32(1.0), jnp.ones(2)).new_state
    assert new.log_step_sizes[0] == -10.0 and np.isclose(new.log_step_sizes[1], math.log(0.05))


# --- the derivation ---


def last_weights(shift: Array, xs: Any, targets: Any, betas: Any) -> Array:
    """Weights after LMS with log step sizes betas + shift."""

    def step(w: Array, row: Any) -> tuple[Array, None]:
        x, target, beta = row
        return w + jnp.exp(beta + shift) * (target - jnp.sum(w * x)) * x, None

    return jax.lax.scan(step, jnp.zeros(xs.shape[1]), (xs, targets, betas))[0]


def sensitivities(xs: Any, targets: Any, betas: Any) -> tuple[Array, Array]:
    """The exact matrix S by its recursion, and IDBD's h, along the same weights."""

    def step(carry: Any, row: Any) -> tuple[Any, None]:
        (w, S, h), (x, target, beta) = carry, row
        alpha, error = jnp.exp(beta), target - jnp.sum(w * x)
        S = S + jnp.diag(alpha * error * x) - jnp.outer(alpha * x, x @ S)
        h = idbd_rule(beta, h, jnp.zeros(()), error * x, error * x, x * x)[2]
        return (w + alpha * error * x, S, h), None

    n = xs.shape[1]
    return jax.lax.scan(step, (jnp.zeros(n), jnp.zeros((n, n)), jnp.zeros(n)), (xs, targets, betas))[0][1:]


def derivatives(xs: Any, targets: Any, betas: Any, step: float = 1e-5) -> tuple[Array, Array]:
    """The matrix dw_j / dbeta_i by jax.jvp, and by central differences."""
    n = xs.shape[1]
    walk = functools.partial(last_weights, xs=xs, targets=targets, betas=betas)
    by_jvp = [jax.jvp(walk, (jnp.zeros(n),), (knob,))[1] for knob in jnp.eye(n)]
    by_differences = [(walk(step * knob) - walk(-step * knob)) / (2 * step) for knob in jnp.eye(n)]
    return jnp.stack(by_jvp, 1), jnp.stack(by_differences, 1)


@double
def test_the_exact_sensitivities_of_dense_inputs() -> None:
    xs, betas = normal(4, 60, 5), math.log(0.04) + 0.3 * normal(5, 60, 5)
    targets = xs @ normal(6, 5) + 0.3 * normal(7, 60)
    S, h = sensitivities(xs, targets, betas)
    by_jvp, by_differences = derivatives(xs, targets, betas)
    assert close(S, by_jvp, 1e-12) and close(S, by_differences, 6e-10)
    gap = np.abs(h - np.diag(S))
    assert 1e-3 < gap.max() < 0.3 * np.abs(np.diag(S)).max()  # the dropped terms: small, and not zero


@double
@pytest.mark.parametrize("kind", ["one feature", "one-hot"])
def test_the_memory_is_the_derivative_where_nothing_is_dropped(kind: str) -> None:
    n = 1 if kind == "one feature" else 4
    which = np.random.default_rng(8).integers(0, n, 80)
    xs = jax.nn.one_hot(which, n) * np.clip(normal(9, 80, 1), -2.0, 2.0)
    targets, betas = normal(10, 80), jnp.full((80, n), math.log(0.2))
    _, h = sensitivities(xs, targets, betas)
    by_jvp, by_differences = derivatives(xs, targets, betas)
    assert close(h, np.diag(by_jvp), 1e-13) and close(h, np.diag(by_differences), 1e-8)
    # and the optimizer keeps this h when theta is 0
    _, state = live(IDBD(0.2, 0.0), xs, targets, use_bias=False)
    assert close(state.optimizer_state.traces, h, 1e-13)


# --- invariances ---

XS, YS = normal(11, 300, 4), normal(12, 300)


def idbd_run(xs: Any, ys: Any, theta: float = 0.02, logs: Array | None = None) -> tuple[Array, Array]:
    predictions, state = live(IDBD(0.05, theta), xs, ys, use_bias=False, logs=logs)
    return predictions, jnp.exp(state.optimizer_state.log_step_sizes)


@double
@pytest.mark.parametrize("use_bias", [True, False])
def test_theta_zero_is_lms(use_bias: bool) -> None:
    ys = XS[:, 0] + YS
    (a, left), (b, right) = live(IDBD(0.05, 0.0), XS, ys, use_bias), live(LMS(0.05), XS, ys, use_bias)
    assert close(a, b) and close(left.weights, right.weights) and close(left.bias, right.bias)


@double
def test_sign_order_and_silence() -> None:
    ys, order = 2.0 * XS[:, 0] + 0.1 * YS, np.array([2, 0, 3, 1])
    predictions, alphas = idbd_run(XS, ys)
    negative, same_alphas = idbd_run(XS, -ys)
    assert close(negative, -predictions) and close(same_alphas, alphas)
    permuted, permuted_alphas = idbd_run(XS[:, order], ys)
    assert close(permuted, predictions) and close(permuted_alphas, alphas[order])
    silent, silent_alphas = idbd_run(jnp.column_stack([XS, jnp.zeros((300, 2))]), ys)
    assert close(silent, predictions) and close(silent_alphas[:4], alphas) and close(silent_alphas[4:], 0.05)


@double
def test_units_of_inputs_matter_only_through_the_start() -> None:
    ys, c = 2.0 * XS[:, 0] + 0.1 * YS, jnp.array([10.0, 0.1, 3.0, 1.0])
    predictions, alphas = idbd_run(XS, ys)
    scaled, scaled_alphas = idbd_run(XS * c, ys, logs=jnp.log(0.05 / c**2))
    assert close(scaled, predictions, 1e-10) and close(scaled_alphas * c**2, alphas, 1e-10)


@double
def test_units_of_the_target_matter_through_theta() -> None:
    ys = 2.0 * XS[:, 0] + 0.1 * YS
    predictions, alphas = idbd_run(XS, ys)
    scaled, scaled_alphas = idbd_run(XS, 3.0 * ys, theta=0.02 / 9.0)
    assert close(scaled, 3.0 * predictions, 1e-11) and close(scaled_alphas, alphas, 1e-12)
    assert not close(idbd_run(XS, 3.0 * ys)[0], 3.0 * predictions, 0.1)


@double
@pytest.mark.parametrize("optimizer", [LMS(0.05), IDBD(0.05, 0.05)])
def test_the_bias_is_a_weight_whose_input_is_one(optimizer: Optimizer) -> None:
    ys = XS[:, 0] + YS + 1.0
    (a, with_bias), (b, without) = (
        live(optimizer, XS, ys),
        live(optimizer, jnp.column_stack([XS, jnp.ones(300)]), ys, use_bias=False),
    )
    assert close(a, b) and close(with_bias.bias, without.weights[4])
    assert without.bias == 0.0


def test_idbd_finds_the_kalman_gain() -> None:
    """One input that is always 1: the step size settles at the gain of the filter that knows the variances."""

    @jax.jit
    def settle(q: Array, key: Array) -> Array:
        walk, jitter = jax.random.normal(key, (2, 150_000))

        def weigh(carry: Any, now: Array) -> tuple[Any, Array]:
            truth, belief, log_alpha, h = carry
            truth = truth + jnp.sqrt(q) * now[0]
            error = truth + now[1] - belief
            log_alpha, alpha, h = idbd_rule(log_alpha, h, jnp.float32(0.003), error, error, jnp.float32(1.0))
            return (truth, belief + alpha * error, log_alpha, h), alpha

        start = jnp.float32(0.0), jnp.float32(0.0), jnp.log(0.1), jnp.float32(0.0)
        return jnp.mean(jax.lax.scan(weigh, start, (walk, jitter))[1][75_000:])

    q = jnp.array([0.01, 0.1, 1.0])
    gain = (jnp.sqrt(q**2 + 4 * q) - q) / 2
    assert np.allclose(jax.vmap(settle)(q, jax.random.split(jax.random.key(0), 3)), gain, rtol=0.03)


# --- parameters of any shape ---


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4)])
def test_parameters_of_any_shape(shape: tuple[int, ...]) -> None:
    gradient = jnp.ones(shape)
    step, state = LMS(0.1).update_from_gradient(LMS(0.1).init_for_shape(shape), gradient, jnp.float32(0.5))
    assert step.shape == shape and np.allclose(step, 0.1)  # the error is the caller's
    assert state.step_size == jnp.float32(0.1)
    start = IDBD(0.1).init_for_shape(shape)
    assert isinstance(start, IDBDParamState) and start.log_step_sizes.shape == start.traces.shape == shape
    step, state = IDBD(0.1).update_from_gradient(start, gradient, jnp.float32(0.5))
    assert step.shape == shape and np.allclose(step, 0.1) and np.allclose(state.traces, -0.05)


def test_lms_needs_no_error() -> None:
    x, state = jnp.array([1.0, -2.0]), LMS(0.1).init_for_shape((2,))
    assert np.array_equal(LMS(0.1).update_from_gradient(state, x)[0], LMS(0.1).update_from_gradient(state, x, 3.0)[0])


@double
@pytest.mark.parametrize("h_decay_mode", ["prediction_grads", "loss_grads"])
@pytest.mark.parametrize("meta_gradient", ["prediction", "loss"])
@pytest.mark.parametrize("with_error", [True, False])
def test_the_network_form_step_by_step(h_decay_mode: str, meta_gradient: str, with_error: bool) -> None:
    """The six steps that the seeds list, and for meta_gradient="loss" the loss gradient in step 2."""
    optimizer = IDBD(0.05, 0.05, h_decay_mode, meta_gradient)
    state = optimizer.init_for_shape((2, 3))
    beta, h = np.full((2, 3), math.log(0.05)), np.zeros((2, 3))
    for k in range(40):
        z, error = np.asarray(normal(20 + k, 2, 3)), float(normal(80 + k)) if with_error else None
        g = z if error is None else -error * z
        decay = z**2 if h_decay_mode == "prediction_grads" else g**2
        beta = np.clip(beta + 0.05 * (z if meta_gradient == "prediction" else g) * h, -10.0, 2.0)
        alpha = np.exp(beta)
        h = h * np.maximum(0.0, 1.0 - alpha * decay) + alpha * g
        step, state = optimizer.update_from_gradient(
            state, jnp.asarray(z), None if error is None else jnp.asarray(error)
        )
        assert close(step, alpha * z) and close(state.log_step_sizes, beta) and close(state.traces, h)


def test_the_network_bounds() -> None:
    optimizer = IDBD(1.0, 1.0)
    state = optimizer.init_for_shape((2,)).replace(h=jnp.array([-1e3, 1e3]))
    _, state = optimizer.update_from_gradient(state, jnp.ones(2), jnp.float32(1.0))
    assert state.log_step_sizes.tolist() == [2.0, -10.0]


def test_the_loss_form_on_a_linear_unit_is_linear_idbd_bit_for_bit() -> None:
    optimizer = IDBD(0.05, 0.05, meta_gradient="loss", log_step_size_bounds=(-10.0, None))
    linear, network = optimizer.init(4), optimizer.init_for_shape((4,))
    for x, error in zip(np.float32(XS[:60]), np.float32(YS[:60]), strict=True):
        move = optimizer.update(linear, error, x)
        step, network = optimizer.update_from_gradient(network, x, error)
        linear = move.new_state
        assert np.array_equal(linear.log_step_sizes, network.log_step_sizes)
        assert np.array_equal(linear.traces, -network.traces) and np.array_equal(linear.traces, network.h)
        assert np.allclose(move.weight_delta, error * step, rtol=1e-6)


# --- Sutton 1992 ---

WORLD = SuttonExperiment1Stream()
KEYS = jax.random.split(jax.random.key(0), 30)


def sutton_mse(alpha: float, n: int = 20) -> float:
    """The exact error of LMS in Sutton's first experiment (the page on LMS derives it)."""
    kept = (1.0 - alpha) ** 20
    return (1.0 - kept) / (1.0 - 0.6 * kept) / (5.0 * alpha * (2.0 - (n + 2) * alpha))


def late_mse(optimizer: Optimizer, logs: Array | None = None) -> np.ndarray:
    """The mean squared error of the last 10,000 of 30,000 steps, for 30 seeds."""
    learner = LinearLearner(optimizer=optimizer, use_bias=False)
    state = learner.init(20)
    if logs is not None:
        state = state.replace(optimizer_state=state.optimizer_state.replace(log_step_sizes=logs))
    result = run_learning_loop_batched(learner, WORLD, 30_000, KEYS, learner_state=state, record_every=10_000)
    return np.asarray(result.metrics[:, -1, 0])


@pytest.mark.parametrize(
    ("alpha", "reference"), [(0.01, 4.00), (0.02, 3.54), (0.03, 3.35), (0.04, 3.39), (0.05, 3.63), (0.07, 5.50)]
)
def test_experiment_1_lms(alpha: float, reference: float) -> None:
    mse = late_mse(LMS(alpha))
    error = mse.std(ddof=1) / np.sqrt(30)
    assert abs(mse.mean() - sutton_mse(alpha)) < 4 * error
    assert abs(mse.mean() - reference) < 4 * np.hypot(error, max(0.015, 1.2 * error))


@pytest.mark.parametrize(
    ("theta", "reference"), [(0.001, 2.03), (0.0025, 1.79), (0.005, 1.63), (0.01, 1.54), (0.0125, 1.52)]
)
def test_experiment_1_idbd(theta: float, reference: float) -> None:
    mse = late_mse(IDBD(0.05, theta))
    assert abs(np.median(np.nan_to_num(mse, nan=np.inf)) - reference) < 0.05


def test_experiment_2() -> None:
    learner = LinearLearner(optimizer=IDBD(0.05, 0.001), use_bias=False)
    result = run_learning_loop_batched(learner, WORLD, 250_000, KEYS[:10], record_every=250_000)
    alphas = np.exp(result.states.optimizer_state.log_step_sizes)
    relevant, irrelevant = alphas[:, :5], alphas[:, 5:]
    assert abs(relevant.mean() - 0.1313) < 0.004 and abs(relevant.mean() - 0.13) < 0.015
    assert abs(irrelevant.mean() - 0.00755) < 0.0003 and irrelevant.max() < 0.0085


@pytest.mark.parametrize(
    ("alpha", "reference"), [(0.05, 1.98), (0.09, 1.52), (0.13, 1.374), (0.15, 1.378), (0.20, 1.64)]
)
def test_figure_5(alpha: float, reference: float) -> None:
    logs = jnp.where(jnp.arange(20) < 5, math.log(alpha), -60.0)  # e^-60: the irrelevant ones do not move
    mse = late_mse(IDBD(0.05, 0.0, log_step_size_bounds=(None, None)), logs)
    error = mse.std(ddof=1) / np.sqrt(30)
    assert abs(mse.mean() - sutton_mse(alpha, n=5)) < 4 * error
    assert abs(mse.mean() - reference) < 4 * np.hypot(error, 0.005)


def test_only_the_loss_form_learns_which_inputs_matter() -> None:
    class NetworkForm(Optimizer):
        inner: Optimizer = IDBD()

        def init(self, feature_dim: int) -> Any:
            return self.inner.init_for_shape((feature_dim,))

        def update(self, state: Any, error: Array, observation: Array, bias_input: float = 0.0) -> OptimizerUpdate:
            step, state = self.inner.update_from_gradient(state, observation, error)
            metrics = {"mean_step_size": jnp.mean(jnp.exp(state.log_step_sizes))}
            return OptimizerUpdate(
                weight_delta=error * step, bias_delta=jnp.zeros(()), new_state=state, metrics=metrics
            )

    prediction = late_mse(NetworkForm(IDBD(0.05, 0.005, meta_gradient="prediction")))
    loss = late_mse(NetworkForm(IDBD(0.05, 0.005, meta_gradient="loss")))
    assert np.median(np.nan_to_num(prediction, nan=np.inf)) > 3.35  # no better than the best LMS
    assert abs(np.median(loss) - 1.63) < 0.05  # linear IDBD


# --- the idealised tracking problem ---


class FiveWalk(RandomWalkStream):
    """Only the first five weights walk."""

    def changes(self, state: Any, idx: Any, rows: int) -> Array:
        return super().changes(state, idx, rows) * (jnp.arange(self.feature_dim) < 5)


@pytest.mark.parametrize(("alpha", "reference"), [(0.005, 554.0), (0.02, 166.0), (0.04, 115.6), (0.05, 115.2)])
def test_tracking_with_lms(alpha: float, reference: float) -> None:
    exact = 1.0 + (20 * alpha**2 + 5.0) / (alpha * (2.0 - 22 * alpha))
    learner = LinearLearner(optimizer=LMS(alpha), use_bias=False)
    world = FiveWalk(20, drift_rate=1.0, noise_std=1.0)
    metrics = run_learning_loop_batched(learner, world, 30_000, KEYS, record_every=10_000).metrics
    mse = np.asarray(metrics[:, -1, 0])
    assert abs(mse.mean() - exact) < 4 * mse.std(ddof=1) / np.sqrt(30)
    assert abs(reference - exact) < 4 * mse.std(ddof=1) / np.sqrt(10)  # the reference had ten seeds
