"""Temporal differences: the contract, the equations, the ends of episodes, the loops, errors."""

import dataclasses
import functools
import inspect
import json
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alberta_nb as ab
from alberta_nb.learners.td import td_step
from alberta_nb.loops.guard import first_bad, is_finite
from alberta_nb.native import noise
from alberta_nb.native.kernel import native_loops
from alberta_nb.optimizers.td_lambda import TRACES, discounted
from alberta_nb.optimizers.tdidbd import error_slope
from alberta_nb.types import TDTimeStep

RNG = np.random.default_rng(0)
D, STEPS, KEY = 4, 60, jax.random.key(3)
KEYS = jax.random.split(jax.random.key(0), 3)
XS = RNG.standard_normal((STEPS + 1, D))
REWARDS = RNG.standard_normal(STEPS)
GAMMAS = np.where(np.arange(STEPS) % 13 == 12, 0.0, RNG.uniform(0.5, 1.0, STEPS))  # an end after every 13 steps


def td_optimizers(alpha: float = 0.05, lamda: float = 0.8, theta: float = 0.01) -> dict[str, ab.TDOptimizer]:
    return {
        "accumulating": ab.TDLambda(alpha, lamda),
        "replacing": ab.TDLambda(alpha, lamda, "replacing"),
        "true online": ab.TrueOnlineTD(alpha, lamda),
        "semi": ab.TDIDBD(alpha, theta, lamda),
        "ordinary": ab.TDIDBD(alpha, theta, lamda, use_semi_gradient=False),
        "published": ab.AutoTDIDBD(alpha, theta, lamda),
        "updated": ab.AutoTDIDBD(alpha, theta, lamda, overshoot="updated", initial_normalizer=0.0),
        "a rule": ab.WithTraces(ab.Autostep(alpha, theta), lamda),
    }


OPTIMIZERS = td_optimizers()
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
each_setting = pytest.mark.parametrize("use_bias", [True, False])


def transitions(xs: Any = XS, rewards: Any = REWARDS, gammas: Any = GAMMAS) -> TDTimeStep:
    """A chain of transitions, where each one begins where the last one ended."""
    xs, rewards, gammas = (jnp.asarray(a, float) for a in (xs, rewards, gammas))
    return TDTimeStep(observation=xs[:-1], reward=rewards[:, None], next_observation=xs[1:], gamma=gammas[:, None])


@functools.partial(jax.jit, static_argnums=0)
def scan_rows(learner: Any, state: Any, rows: TDTimeStep) -> Any:
    def one(state: Any, row: TDTimeStep) -> Any:
        result = learner.step(state, row)
        return result.state, (result.state, result.td_error[0], result.metrics)

    return jax.lax.scan(one, state, rows)


def live(learner: Any, rows: TDTimeStep) -> tuple[Any, np.ndarray, Any]:
    """The last state, the TD errors, and the state after every step."""
    last, (states, errors, _) = scan_rows(learner, learner.init(rows.observation.shape[-1]), rows)
    return last, np.asarray(errors), states


def gap(a: Any, b: Any) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.asarray(x, float) - np.asarray(y, float)).max()) for x, y in pairs)


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


# --- the contract of the interface ---

FIELDS = {
    ab.TDLearnerState: {"weights", "bias", "optimizer_state"},
    ab.TDUpdateResult: {"state", "prediction", "td_error", "metrics"},
    ab.TDOptimizerUpdate: {"weight_delta", "bias_delta", "new_state", "metrics"},
    ab.TDTimeStep: {"observation", "reward", "next_observation", "gamma"},
    ab.TDIDBDState: {
        "log_step_sizes", "eligibility_traces", "h_traces", "meta_step_size", "trace_decay", "bias_log_step_size",
        "bias_eligibility_trace", "bias_h_trace",
    },
    ab.AutoTDIDBDState: {
        "log_step_sizes", "eligibility_traces", "h_traces", "normalizers", "meta_step_size", "trace_decay",
        "normalizer_decay", "bias_log_step_size", "bias_eligibility_trace", "bias_h_trace", "bias_normalizer",
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", FIELDS, ids=lambda k: k.__name__)
def test_state_fields(kind: type) -> None:
    assert FIELDS[kind] <= {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]


def test_settings_and_their_defaults() -> None:
    def first(kind: Any, n: int) -> list[Any]:
        return [(p.name, p.default) for p in inspect.signature(kind).parameters.values()][:n]

    idbd = [("initial_step_size", 0.01), ("meta_step_size", 0.01), ("trace_decay", 0.0)]
    assert first(ab.TDIDBD, 4) == [*idbd, ("use_semi_gradient", True)]
    assert first(ab.AutoTDIDBD, 4) == [*idbd, ("normalizer_decay", 10_000.0)]
    assert (ab.AutoTDIDBD().overshoot, ab.AutoTDIDBD().initial_normalizer) == ("published", 1.0)
    assert (ab.TDLambda(), ab.TrueOnlineTD()) == (ab.TDLambda(0.01, 0.0, "accumulating"), ab.TrueOnlineTD(0.01, 0.0))
    learner = ab.TDLinearLearner()
    assert (learner.optimizer, learner.normalizer, learner.use_bias) == (ab.TDIDBD(), None, True)
    names = [*inspect.signature(ab.TDOptimizer.update).parameters][1:6]
    assert names == ["state", "td_error", "observation", "next_observation", "gamma"]
    names = [*inspect.signature(ab.TDLinearLearner.update).parameters][1:]
    assert names == ["state", "observation", "reward", "next_observation", "gamma", "rho", "truncated"]
    names = [*inspect.signature(ab.run_td_learning_loop).parameters][:5]
    assert names == ["learner", "stream", "num_steps", "key", "learner_state"]


@pytest.mark.parametrize("normalizer", [None, ab.WelfordNormalizer()])
@each_optimizer
def test_shapes_and_types(name: str, normalizer: Any) -> None:
    learner = ab.TDLinearLearner(OPTIMIZERS[name], normalizer)
    state = learner.init(D)
    assert isinstance(state, ab.TDLearnerState) and not np.any(state.weights)
    result = learner.update(state, XS[0], 1.0, XS[1], 0.9)
    assert result.prediction.shape == result.td_error.shape == learner.predict(state, XS[0]).shape == (1,)
    assert result.metrics.shape == (4,)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, result.state))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(result.state))
    sizes, traces = learner.step_sizes(result.state), learner.traces(result.state)
    assert sizes["step_sizes"].shape == traces["eligibility_traces"].shape == (D,)
    assert sizes["bias_step_sizes"].shape == traces["bias_eligibility_traces"].shape == ()
    same_as_lists = learner.update(state, list(XS[0]), [1.0], list(XS[1]), [0.9])
    assert same(result, same_as_lists)


@each_optimizer
def test_an_optimizer_by_hand(name: str) -> None:
    optimizer = OPTIMIZERS[name]
    move = optimizer.update(optimizer.init(D), jnp.ones(1), jnp.ones(D), jnp.ones(D), jnp.full(1, 0.9))
    assert move.weight_delta.shape == (D,) and move.bias_delta.shape == ()
    assert {"mean_step_size", "mean_eligibility_trace"} <= set(move.metrics)
    assert type(optimizer).from_config(json.loads(json.dumps(optimizer.to_config()))) == optimizer


@each_optimizer
def test_settings_that_live_in_the_state_share_one_compilation(name: str) -> None:
    one, other = (ab.TDLinearLearner(td_optimizers(*s)[name]) for s in ((0.1, 0.5, 0.001), (0.2, 0.9, 0.01)))
    assert one.structure == other.structure and one != other


@each_setting
def test_the_metrics_are_what_they_say(float64: None, use_bias: bool) -> None:
    learner = ab.TDLinearLearner(ab.TDLambda(0.05, 0.8), use_bias=use_bias)
    _, (states, errors, metrics) = scan_rows(learner, learner.init(D), transitions())
    z = np.abs(states.optimizer_state.eligibility_traces)
    bias_z = np.abs(states.optimizer_state.bias_eligibility_trace)
    mean = (z.sum(1) + bias_z) / (D + 1) if use_bias else z.mean(1)
    assert np.allclose(metrics, np.column_stack([errors**2, errors, np.full(STEPS, 0.05), mean]), rtol=1e-12)


# --- the equations, against plain loops in numpy ---


def by_the_book(settings: Any, xs: Any = XS, rewards: Any = REWARDS, gammas: Any = GAMMAS) -> np.ndarray:
    """Kearney et al. 2019, Algorithms 3, 4 and 6, line by line; the weights after every step."""
    n, auto = xs.shape[1], isinstance(settings, ab.AutoTDIDBD)
    theta, lamda = settings.meta_step_size, settings.trace_decay
    w, h, z, b, was = np.zeros(n), np.zeros(n), np.zeros(n), np.full(n, np.log(settings.initial_step_size)), 0.0
    eta = np.full(n, getattr(settings, "initial_normalizer", 0.0))
    weights = []
    for x, r, y, gamma in zip(xs[:-1], rewards, xs[1:], gammas, strict=True):
        d, new_z = r + gamma * (w @ y) - w @ x, was * lamda * z + x
        slope = gamma * y - x
        if auto:
            seen = z if settings.overshoot == "published" else new_z
            a, signal = np.exp(b), np.abs(d * slope * h)
            eta = np.maximum(signal, eta - a * slope * seen * (np.abs(d * x * h) - eta) / settings.normalizer_decay)
            b = b - theta / np.where(eta > 0, eta, 1.0) * d * slope * h
            b = b - np.log(max(-np.sum(np.exp(b) * slope * seen), 1.0))
        elif settings.use_semi_gradient:
            b = b + theta * d * x * h
        else:
            b = b - theta * d * slope * h
        a, z, was = np.exp(b), new_z, gamma
        w = w + a * d * z
        decay = x if not auto and settings.use_semi_gradient else -slope
        h = h * np.maximum(1.0 - a * z * decay, 0.0) + a * d * z
        weights.append(w)
    return np.array(weights)


@each_setting
def test_a_rule_with_traces_is_its_td_optimizer(float64: None, use_bias: bool) -> None:
    """Any rule learns values: behind the trace, LMS is TD(lambda) and IDBD is TDIDBD, bit for bit."""
    pairs = [
        (ab.WithTraces(ab.LMS(0.05), 0.8), ab.TDLambda(0.05, 0.8)),
        (ab.WithTraces(ab.LMS(0.05), 0.8, "replacing"), ab.TDLambda(0.05, 0.8, "replacing")),
        (ab.WithTraces(ab.IDBD(0.05, 0.01), 0.8), ab.TDIDBD(0.05, 0.01, 0.8)),
    ]
    for given, known in pairs:
        learners = [ab.TDLinearLearner(optimizer, use_bias=use_bias) for optimizer in (given, known)]
        (ours, errors, _), (theirs, same_errors, _) = (live(learner, transitions()) for learner in learners)
        assert same((ours.weights, ours.bias, errors), (theirs.weights, theirs.bias, same_errors))
        sizes = [learner.step_sizes(state) for learner, state in zip(learners, (ours, theirs), strict=True)]
        assert same(*sizes)


def test_a_td_learner_takes_a_rule_alone() -> None:
    learner = ab.TDLinearLearner(ab.IDBD(0.05))  # type: ignore[arg-type]
    assert learner == ab.TDLinearLearner(ab.WithTraces(ab.IDBD(0.05), 0.0))
    assert ab.TDLinearLearner.from_config(json.loads(json.dumps(learner.to_config()))) == learner


@each_setting
@pytest.mark.parametrize("name", ["semi", "ordinary", "published", "updated"])
def test_step_size_learners_equal_the_published_algorithms(float64: None, name: str, use_bias: bool) -> None:
    optimizer = td_optimizers(0.2, 0.8, 0.02)[name]
    states = live(ab.TDLinearLearner(optimizer, use_bias=use_bias), transitions())[2]
    xs = np.column_stack([XS, np.ones(STEPS + 1)]) if use_bias else XS
    expected = by_the_book(optimizer, xs)
    assert gap(states.weights, expected[:, :D]) < 1e-12
    assert not use_bias or gap(states.bias, expected[:, D]) < 1e-12
    assert np.ptp(states.optimizer_state.log_step_sizes[-1]) > 0.01, "the step sizes have learned"


@each_optimizer
def test_the_bias_is_one_more_input(float64: None, name: str) -> None:
    with_bias = live(ab.TDLinearLearner(OPTIMIZERS[name]), transitions())
    rows = transitions(np.column_stack([XS, np.ones(STEPS + 1)]))
    as_input = live(ab.TDLinearLearner(OPTIMIZERS[name], use_bias=False), rows)
    assert gap(with_bias[1], as_input[1]) < 1e-12
    assert gap(with_bias[0].bias, as_input[0].weights[-1]) < 1e-12
    assert np.all(live(ab.TDLinearLearner(OPTIMIZERS[name], use_bias=False), transitions())[0].bias == 0.0)


@pytest.mark.parametrize("trace", TRACES)
def test_traces_by_hand(trace: str) -> None:
    optimizer = ab.TDLambda(0.1, 0.5, trace)
    state, seen = optimizer.init(2), []
    for x in ([1.0, 0.0], [0.0, 1.0], [2.0, 1.0]):
        state = optimizer.update(state, jnp.ones(()), jnp.array(x), jnp.zeros(2), 0.8).new_state
        seen.append(state.eligibility_traces.tolist())
    last = [0.16 + 2.0, 0.4 + 1.0] if trace == "accumulating" else [2.0, 1.0]
    assert np.allclose(seen, [[1.0, 0.0], [0.4, 1.0], last])


# --- equivalences ---


@each_setting
def test_without_traces_and_discount_td_is_supervised(float64: None, use_bias: bool) -> None:
    """gamma = lambda = 0: LMS, IDBD and Autostep, with the reward as the target."""
    pairs = [
        (ab.TDLambda(0.05), ab.LMS(0.05), 0.0),
        (ab.TrueOnlineTD(0.05), ab.LMS(0.05), 0.0),
        (ab.TDIDBD(0.05, 0.02), ab.IDBD(0.05, 0.02), 0.0),
        (ab.TDIDBD(0.05, 0.02, use_semi_gradient=False), ab.IDBD(0.05, 0.02), 0.0),
        (
            ab.AutoTDIDBD(0.2, 0.02, normalizer_decay=50.0, overshoot="updated", initial_normalizer=0.0),
            ab.Autostep(0.2, 0.02, tau=50.0),
            1e-13,
        ),
    ]
    for td, supervised, tolerance in pairs:
        old, new = supervised.init(D), td.init(D)
        w, b = np.zeros(D), 0.0
        for x, y, r in zip(XS[:-1], XS[1:], REWARDS, strict=True):  # outside of compiled functions: no fused products
            error = jnp.asarray(r - w @ x - b)
            plain = supervised.update(old, error, jnp.asarray(x), float(use_bias))
            move = td.update(new, error, jnp.asarray(x), jnp.asarray(y), jnp.zeros(()), float(use_bias))
            old, new = plain.new_state, move.new_state
            assert gap(move.weight_delta, plain.weight_delta) <= tolerance
            assert gap(move.bias_delta, plain.bias_delta) <= tolerance
            w, b = w + np.asarray(plain.weight_delta), b + float(plain.bias_delta)
        assert gap(td.step_sizes(new), supervised.step_sizes(old)) <= tolerance


@each_setting
def test_a_meta_step_of_zero_is_td_lambda(float64: None, use_bias: bool) -> None:
    plain = live(ab.TDLinearLearner(ab.TDLambda(0.02, 0.8), use_bias=use_bias), transitions())
    for name in ("semi", "ordinary", "published", "updated"):
        optimizer = td_optimizers(0.02, 0.8, 0.0)[name]
        last, errors, states = live(ab.TDLinearLearner(optimizer, use_bias=use_bias), transitions())
        assert np.allclose(states.optimizer_state.log_step_sizes, np.log(0.02), rtol=1e-14), "M stayed 1"
        assert gap(errors, plain[1]) < 1e-13 and gap(last.weights, plain[0].weights) < 1e-13


def test_at_gamma_0_both_gradients_are_one() -> None:
    both = [ab.TDIDBD(0.05, 0.02, 0.7, use_semi_gradient=semi) for semi in (True, False)]
    states = [o.init(D) for o in both]
    for x, y, r in zip(XS[:-1], XS[1:], REWARDS, strict=True):
        moves = [
            o.update(s, jnp.float32(r), jnp.float32(x), jnp.float32(y), 0.0) for o, s in zip(both, states, strict=True)
        ]
        states = [m.new_state for m in moves]
        assert same(*moves)


def test_h_is_the_derivative_of_the_weight(float64: None) -> None:
    """One feature: nothing is dropped, so h is dw/db, with the next value in the derivative or held constant."""
    xs, b = np.abs(XS[:, :1]) * 0.5, float(np.log(0.2))

    def last_weight(b: Any, semi: bool) -> Any:
        w, z, was = jnp.zeros(1), jnp.zeros(1), 0.0
        for x, y, r, gamma in zip(xs[:-1], xs[1:], REWARDS, GAMMAS, strict=True):
            next_value = gamma * jnp.sum(w * y)
            next_value = jax.lax.stop_gradient(next_value) if semi else next_value
            z = was * 0.8 * z + x
            w, was = w + jnp.exp(b) * (r + next_value - jnp.sum(w * x)) * z, gamma
        return w[0]

    for semi in (True, False):
        optimizer = ab.TDIDBD(float(np.exp(b)), 0.0, 0.8, use_semi_gradient=semi)
        last, _, states = live(ab.TDLinearLearner(optimizer, use_bias=False), transitions(xs))
        seen = states.optimizer_state.eligibility_traces[:, 0]
        removed = 0.2 * seen * (xs[:-1, 0] if semi else xs[:-1, 0] - GAMMAS * xs[1:, 0])
        assert removed.max() < 1.0, "the positive part did not cut"
        slope = jax.jvp(lambda b, semi=semi: last_weight(b, semi), (b,), (1.0,))[1]
        assert abs(float(last.optimizer_state.h_traces[0]) - float(slope)) < 1e-12


def lambda_returns(w: np.ndarray, xs: Any, rewards: Any, gammas: Any, lamda: float) -> np.ndarray:
    """The lambda-returns of an episode with frozen weights, from its end backwards (Sutton and Barto, Eq. 12.18)."""
    returns, g = np.zeros(len(rewards)), 0.0
    for t in reversed(range(len(rewards))):
        next_value = w @ xs[t + 1]
        g = rewards[t] + gammas[t] * ((1 - lamda) * next_value + lamda * (g if t + 1 < len(rewards) else next_value))
        returns[t] = g
    return returns


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_the_backward_view_is_the_forward_view(float64: None, gamma: float) -> None:
    w, alpha, lamda = RNG.standard_normal(D), 0.1, 0.7
    gammas = np.full(STEPS, gamma)
    gammas[-1] = 0.0
    optimizer, total = ab.TDLambda(alpha, lamda), np.zeros(D)
    state = optimizer.init(D)
    for x, r, y, g in zip(XS[:-1], REWARDS, XS[1:], gammas, strict=True):
        move = optimizer.update(state, jnp.asarray(r + g * (w @ y) - w @ x), jnp.asarray(x), jnp.asarray(y), g)
        state, total = move.new_state, total + np.asarray(move.weight_delta)
    forward = alpha * (lambda_returns(w, XS, REWARDS, gammas, lamda) - XS[:-1] @ w) @ XS[:-1]
    assert gap(total, forward) < 1e-13


def online_lambda_return(xs: Any, rewards: Any, gammas: Any, alpha: float, lamda: float) -> np.ndarray:
    """Weights after each step: begin anew at every horizon, with all returns cut there (Sutton and Barto, 12.4)."""
    weights = [np.zeros(xs.shape[1])]  # w of horizon 0
    for horizon in range(1, len(rewards) + 1):
        w = weights[0]
        for k in range(horizon):
            g = 0.0
            for t in reversed(range(k, horizon)):  # next values with the weights that saw that state first
                value = weights[t] @ xs[t + 1]
                g = rewards[t] + gammas[t] * ((1 - lamda) * value + lamda * (value if t + 1 == horizon else g))
            w = w + alpha * (g - w @ xs[k]) * xs[k]
        weights.append(w)
    return np.array(weights[1:])


@each_setting
def test_true_online_td_is_the_online_lambda_return_algorithm(float64: None, use_bias: bool) -> None:
    learner = ab.TDLinearLearner(ab.TrueOnlineTD(0.1, 0.8), use_bias=use_bias)
    states = live(learner, transitions())[2]
    xs = np.column_stack([XS, np.ones(STEPS + 1)]) if use_bias else XS
    expected, start = [], 0
    ends = [*(np.flatnonzero(GAMMAS == 0.0) + 1), STEPS]
    assert len(ends) == 5
    w = np.zeros(xs.shape[1])
    for end in ends:  # each episode begins with the weights of the last
        here = slice(start, end)
        shifted = REWARDS[here] + GAMMAS[here] * (xs[start + 1 : end + 1] @ w) - xs[here] @ w
        expected.append(w + online_lambda_return(xs[start : end + 1], shifted, GAMMAS[here], 0.1, 0.8))
        w, start = expected[-1][-1], end
    found = np.column_stack([states.weights, states.bias]) if use_bias else np.asarray(states.weights)
    assert gap(found, np.concatenate(expected)) < 1e-14
    assert gap(found[:13], expected[0]) < 2e-15, "no shift of the origin in the first episode"


def test_true_online_without_traces_is_td_0() -> None:
    rows = transitions()
    one, other = (live(ab.TDLinearLearner(o), rows) for o in (ab.TrueOnlineTD(0.1, 0.0), ab.TDLambda(0.1, 0.0)))
    assert gap(one[1], other[1]) < 1e-5


def test_scaling_and_mirroring(float64: None) -> None:
    rows, scaled, mirrored = (transitions(rewards=c * REWARDS) for c in (1.0, 10.0, -1.0))
    for name, optimizer in td_optimizers(0.05, 0.8, 0.02).items():
        base, turned = (live(ab.TDLinearLearner(optimizer), r) for r in (rows, mirrored))
        sizes = ab.TDLinearLearner(optimizer).step_sizes
        assert gap(base[1], -turned[1]) < 1e-13, "mirrored rewards mirror the errors"
        assert gap(sizes(base[0]), sizes(turned[0])) < 1e-13
        large = live(ab.TDLinearLearner(optimizer), scaled)
        if name in ("semi", "ordinary", "published"):
            assert gap(sizes(base[0]), sizes(large[0])) > 1e-5, "these have a unit"
        else:
            assert gap(10.0 * base[1], large[1]) < 1e-11
            assert gap(base[0].optimizer_state.eligibility_traces, large[0].optimizer_state.eligibility_traces) < 1e-13


def test_order_and_silence(float64: None) -> None:
    order = np.array([2, 0, 3, 1])
    for optimizer in OPTIMIZERS.values():
        learner = ab.TDLinearLearner(optimizer)
        base = live(learner, transitions())
        permuted = live(learner, transitions(XS[:, order]))
        assert gap(base[1], permuted[1]) < 1e-13 and gap(base[0].weights[order], permuted[0].weights) < 1e-13
        silent = live(learner, transitions(np.column_stack([XS, np.zeros((STEPS + 1, 2))])))
        assert gap(base[1], silent[1]) < 1e-13 and not np.any(silent[0].weights[D:])


@pytest.mark.parametrize("overshoot", ["published", "updated"])
def test_weights_and_bias_share_one_bound(float64: None, overshoot: str) -> None:
    optimizer = ab.AutoTDIDBD(2.0, 0.01, 0.8, overshoot=overshoot, initial_normalizer=0.0)
    learner = ab.TDLinearLearner(optimizer)
    _, _, states = live(learner, transitions())
    o, slope = states.optimizer_state, XS[:-1] - GAMMAS[:, None] * XS[1:]
    z, bias_z = np.asarray(o.eligibility_traces), np.asarray(o.bias_eligibility_trace)
    if overshoot == "published":  # the trace before the step
        z, bias_z = (np.concatenate([np.zeros_like(a[:1]), a[:-1]]) for a in (z, bias_z))
    removed = np.sum(np.asarray(o.step_sizes) * slope * z, 1) + np.asarray(o.bias_step_size) * (1 - GAMMAS) * bias_z
    assert removed.max() < 1.0 + 1e-12 and np.sum(removed > 1.0 - 1e-12) > 0
    assert gap(np.exp(o.log_step_sizes), o.step_sizes) < 1e-14


def test_repeated_sample_is_learned_in_one_step(float64: None) -> None:
    rows = transitions(np.ones((6, D)), np.ones(5), np.zeros(5))
    errors = live(ab.TDLinearLearner(ab.AutoTDIDBD(2.0, overshoot="updated", initial_normalizer=0.0)), rows)[1]
    assert np.allclose(errors, [1.0, 0.0, 0.0, 0.0, 0.0], atol=1e-14)
    errors = live(ab.TDLinearLearner(ab.AutoTDIDBD(2.0)), rows)[1]
    assert abs(errors[1]) > 5.0, "as printed, the first step is never checked"


# --- fixed points ---


@pytest.mark.parametrize("lamda", [0.0, 0.7])
def test_long_run_average_is_the_fixed_point(float64: None, lamda: float) -> None:
    """w = (Phi' D (I - gamma P_lambda) Phi)^-1 Phi' D r_lambda, with fewer features than states."""
    gamma, n = 0.8, 5
    P = np.array([[0.1 + 0.5 * ((j - i) % n == 1) + 0.1 * (i == 0) * (j == 3) for j in range(n)] for i in range(n)])
    P /= P.sum(1, keepdims=True)
    reward, phi = np.arange(n) - 2.0, np.array([[1.0, 0.0], [1.0, 0.5], [0.0, 1.0], [-0.5, 1.0], [0.5, -1.0]])
    mu = np.linalg.matrix_power(P, 500)[0]
    back = np.linalg.inv(np.eye(n) - gamma * lamda * P)
    P_lambda, r_lambda = (1 - lamda) * back @ P, back @ reward
    A = phi.T @ np.diag(mu) @ (np.eye(n) - gamma * P_lambda) @ phi
    w = np.linalg.solve(A, phi.T @ (mu * r_lambda))
    states, draws = [0], np.random.default_rng(1).random(200_000)
    for u in draws:
        states.append(int(np.searchsorted(P[states[-1]].cumsum(), u)))
    rows = transitions(phi[states], reward[states[:-1]], np.full(len(draws), gamma))
    for optimizer in (ab.TDLambda(0.01, lamda), ab.TrueOnlineTD(0.01, lamda)):
        found = live(ab.TDLinearLearner(optimizer, use_bias=False), rows)[2].weights[20_000:].mean(0)
        assert gap(found, w) < 0.03 * np.abs(w).max() + 0.02


# --- the ends of episodes ---


@each_optimizer
def test_the_reward_at_the_end_is_credited_to_the_whole_episode(float64: None, name: str) -> None:
    learner = ab.TDLinearLearner(td_optimizers(0.1, 1.0, 0.01)[name], use_bias=False)
    state, e = learner.init(5), np.eye(5)
    for t in range(3):  # three states, a reward of 1 at the end, lambda = gamma = 1
        state = learner.update(state, e[t], float(t == 2), e[t + 1], float(t < 2)).state
    assert np.allclose(state.weights, [0.1, 0.1, 0.1, 0.0, 0.0], atol=1e-15)
    state = learner.update(state, e[4], 0.0, e[3], 1.0).state
    assert learner.traces(state)["eligibility_traces"].tolist() == e[4].tolist(), "a new episode starts clean"
    assert np.allclose(state.weights, [0.1, 0.1, 0.1, 0.0, 0.0], atol=1e-15)


@each_setting
@each_optimizer
def test_a_second_episode_knows_nothing_of_the_first_trace(float64: None, name: str, use_bias: bool) -> None:
    """What an optimizer does after an end does not depend on its trace before."""
    optimizer = OPTIMIZERS[name]
    learner = ab.TDLinearLearner(optimizer, use_bias=use_bias)
    state = scan_rows(learner, learner.init(D), transitions(gammas=np.where(np.arange(STEPS) == STEPS - 1, 0.0, 0.9)))[
        0
    ]
    wild = state.replace(
        optimizer_state=state.optimizer_state.replace(
            eligibility_traces=100.0 * jnp.ones(D), bias_eligibility_trace=jnp.asarray(7.0)
        )
    )
    after = [learner.update(s, XS[3], 1.0, XS[4], 0.9).state for s in (state, wild)]
    leaks = getattr(optimizer, "overshoot", None) == "published"  # lines 7 and 10 see the old trace, as printed
    assert same(*after) is not leaks


@each_optimizer
def test_a_cut_counts_the_future_and_ends_the_trace(float64: None, name: str) -> None:
    """A negative discount: the error of its size, and a clean trace afterwards."""
    learner = ab.TDLinearLearner(OPTIMIZERS[name], ab.EMANormalizer())
    state = scan_rows(learner, learner.init(D), transitions(gammas=np.full(STEPS, 0.9)))[0]
    cut, whole = (learner.update(state, XS[0], 1.0, XS[1], gamma) for gamma in (-0.9, 0.9))
    assert gap(cut.td_error, whole.td_error) == gap(cut.state.weights, whole.state.weights) == 0.0
    after = learner.update(cut.state, XS[5], 1.0, XS[6], 0.9).state
    scaled = learner.normalizer.normalize_only(after.normalizer_state, XS[5])
    assert gap(learner.traces(after)["eligibility_traces"], scaled) < 1e-15


@pytest.mark.parametrize("normalizer", [None, ab.EMANormalizer()])
@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, 1e30])
@each_optimizer
def test_nothing_comes_after_the_end(name: str, junk: float, normalizer: Any) -> None:
    learner = ab.TDLinearLearner(OPTIMIZERS[name], normalizer)
    state = scan_rows(learner, learner.init(D), transitions(gammas=np.full(STEPS, 0.9)))[0]
    clean, dirty = (learner.update(state, XS[0], 1.0, end, 0.0) for end in (np.zeros(D), np.full(D, junk)))
    assert same(clean, dirty) and np.isfinite(dirty.metrics).all()
    optimizer = OPTIMIZERS[name]
    moves = [
        optimizer.update(state.optimizer_state, jnp.ones(()), jnp.ones(D), jnp.full(D, end), jnp.zeros(()))
        for end in (0.0, junk)
    ]
    assert same(*moves)


def test_discounted_and_slopes() -> None:
    assert discounted(jnp.zeros(()), jnp.array([jnp.nan, jnp.inf])).tolist() == [0.0, 0.0]
    assert np.isnan(discounted(jnp.ones(()), jnp.array([jnp.nan]))[0])
    x, y = jnp.array([1.0, 2.0]), jnp.array([jnp.inf, 4.0])
    assert error_slope(x, y, jnp.zeros(()), False).tolist() == [1.0, 2.0]
    assert error_slope(x, y, jnp.float32(0.5), False).tolist() == [-np.inf, 0.0]
    assert error_slope(x, y, jnp.float32(0.5), True) is x


# --- the normaliser ---


def test_both_ends_are_scaled_with_the_same_statistics(float64: None) -> None:
    normalizer = ab.WelfordNormalizer()
    learner = ab.TDLinearLearner(ab.TDLambda(0.1, 0.5), normalizer, use_bias=True)
    state = scan_rows(learner, learner.init(D), transitions(gammas=np.full(STEPS, 0.9)))[0]
    result = learner.update(state, XS[5], 0.3, XS[6], 0.9)
    statistics = normalizer.update_only(state.normalizer_state, XS[5])
    ends = [normalizer.normalize_only(statistics, x) for x in (XS[5], XS[6])]
    value, next_value = (float(state.weights @ x + state.bias) for x in ends)
    assert abs(float(result.td_error[0]) - (0.3 + 0.9 * next_value - value)) < 1e-12
    assert same(result.state.normalizer_state, statistics), "the next observation joins them one step later"
    frozen = learner.predict(result.state, XS[6])
    scaled = normalizer.normalize_only(result.state.normalizer_state, XS[6])
    assert abs(float(frozen[0]) - float(result.state.weights @ scaled + result.state.bias)) < 1e-12


# --- the loops ---


class Walk(ab.Stream):
    """Random features that lead from one step to the next, ends now and then, and nonsense after the ends."""

    feature_dim: int = 5
    junk: float = float("nan")

    def start(self, key: Any) -> Any:
        return {"key": key, "x": jnp.zeros(self.feature_dim)}

    def noise(self, state: Any, idx: Any, rows: int) -> Any:
        return noise.normal(state["key"], idx, rows, self.feature_dim + 2)

    def advance(self, state: Any, row: Any, idx: Any) -> Any:
        gamma = jnp.where(row[-1] > 1.5, 0.0, 0.9)
        following = 0.5 * state["x"] + row[: self.feature_dim]
        step = TDTimeStep(
            observation=state["x"],
            reward=row[-2:-1] + state["x"][:1],
            next_observation=jnp.where(gamma == 0.0, self.junk, following),
            gamma=gamma[None],
        )
        return step, state | {"x": following}


WORLD = Walk()


class Given(ab.Source):
    """Transitions that lie in memory."""

    time_step = TDTimeStep

    def __init__(self, rows: TDTimeStep):
        self.rows = jax.tree.map(np.asarray, rows)
        self.num_steps, self.feature_dim = self.rows.observation.shape

    def pages(self, first: int, rows: int) -> Iterator[Any]:
        for start in range(first, self.num_steps or 0, rows):
            yield jax.tree.map(lambda a, start=start: a[start : start + rows], self.rows)


def learner_of(name: str, **settings: Any) -> ab.TDLinearLearner:
    return ab.TDLinearLearner(td_optimizers(0.02, 0.8, 0.01)[name], **settings)


@each_optimizer
def test_loop_step_by_step_and_scan_agree(name: str) -> None:
    learner = learner_of(name, normalizer=ab.EMANormalizer())
    result = ab.run_td_learning_loop(learner, WORLD, 50, KEY)
    state, metrics = result
    assert metrics.shape == (50, 4) and np.isfinite(metrics).all()
    world, by_hand = WORLD.init(KEY), learner.init(5)
    for t in range(50):
        step, world = WORLD.step(world, t)
        one = learner.update(by_hand, step.observation, step.reward, step.next_observation, step.gamma)
        by_hand = one.state
        assert np.allclose(metrics[t], one.metrics, rtol=1e-4, atol=1e-5)
    assert gap(state.weights, by_hand.weights) < 1e-5


@each_optimizer
def test_native_and_plain_paths_agree(name: str) -> None:
    learner = learner_of(name)
    fast = ab.run_td_learning_loop(learner, WORLD, 3_000, KEY)
    with native_loops(False):
        plain = ab.run_td_learning_loop(learner, WORLD, 3_000, KEY)
    assert gap(fast.state.weights, plain.state.weights) < 1e-4
    assert gap(fast.metrics[:, 1], plain.metrics[:, 1]) < 1e-3


@each_optimizer
def test_a_run_in_two_pieces_is_the_same_run(name: str) -> None:
    learner = learner_of(name, normalizer=ab.WelfordNormalizer())
    whole = ab.run_td_learning_loop(learner, WORLD, 700, KEY)
    part = ab.run_td_learning_loop(learner, WORLD, 301, KEY)
    rest = ab.run_td_learning_loop(learner, WORLD, 399, learner_state=part.state, stream_state=part.stream_state)
    assert same((rest.state, rest.stream_state), (whole.state, whole.stream_state))
    assert np.array_equal(np.concatenate([part.metrics, rest.metrics]), whole.metrics)


@each_optimizer
def test_each_seed_of_a_batch_equals_a_single_run(name: str) -> None:
    learner, tracking = learner_of(name), ab.TraceTrackingConfig(50)
    batch = ab.run_td_learning_loop_batched(learner, WORLD, 200, KEYS, trace_tracking=tracking)
    assert batch.metrics.shape == (3, 200, 4) and batch.trace_history.eligibility_traces.shape == (3, 4, 5)
    for k in range(3):
        single = ab.run_td_learning_loop(learner, WORLD, 200, KEYS[k], trace_tracking=tracking)
        assert np.allclose(batch.metrics[k], single.metrics, rtol=1e-3, atol=1e-4)
        assert gap(batch.trace_history.eligibility_traces[k], single[2].eligibility_traces) < 1e-4
        assert gap(batch.trace_history.bias_eligibility_traces[k], single[2].bias_eligibility_traces) < 1e-4
    raw = ab.run_td_learning_loop_batched(learner, WORLD, 200, jax.random.key_data(KEYS), trace_tracking=tracking)
    assert same(raw.states, batch.states)


def test_tracking_of_everything() -> None:
    learner = learner_of("updated", normalizer=ab.EMANormalizer())
    result = ab.run_td_learning_loop(
        learner, WORLD, 100, KEY, None, ab.StepSizeTrackingConfig(10), ab.NormalizerTrackingConfig(20),
        ab.TraceTrackingConfig(25, include_bias=False),
    )  # fmt: skip
    _, metrics, sizes, moments, traces = result
    assert sizes.step_sizes.shape == sizes.normalizers.shape == (10, 5) and moments.means.shape == (5, 5)
    assert traces.eligibility_traces.shape == (4, 5) and traces.bias_eligibility_traces is None
    assert traces.recording_indices.tolist() == [0, 25, 50, 75]
    for t in (25, 75):
        state = ab.run_td_learning_loop(learner, WORLD, t + 1, KEY).state
        assert gap(traces.eligibility_traces[t // 25], learner.traces(state)["eligibility_traces"]) < 1e-5
        mean = np.abs([*state.optimizer_state.eligibility_traces, state.optimizer_state.bias_eligibility_trace]).mean()
        assert abs(float(metrics[t, 3]) - mean) < 1e-5
    batch = ab.run_td_learning_loop_batched(learner, WORLD, 100, KEYS, trace_tracking=ab.TraceTrackingConfig(25))
    assert batch.step_size_history is None and batch.trace_history.bias_eligibility_traces.shape == (3, 4)


def test_record_every_and_progress(capsys: pytest.CaptureFixture[str]) -> None:
    learner = learner_of("semi")
    every = ab.run_td_learning_loop(learner, WORLD, 1_000, KEY).metrics
    means = ab.run_td_learning_loop(learner, WORLD, 1_000, KEY, record_every=100, progress=True).metrics
    assert np.allclose(means, np.asarray(every).reshape(10, 100, 4).mean(1), rtol=1e-3, atol=1e-5)
    assert "1.00k" in capsys.readouterr().err


def test_a_source_of_transitions() -> None:
    learner, rows = learner_of("accumulating"), transitions()
    result = ab.run_td_learning_loop(learner, Given(rows), record_every=10)
    assert result.metrics.shape == (6, 4) and result.steps == STEPS
    assert gap(result.state.weights, live(learner, rows)[0].weights) < 1e-5
    first = ab.run_td_learning_loop(learner, Given(rows), 20)
    rest = ab.run_td_learning_loop(learner, Given(rows), learner_state=first.state, stream_state=first.stream_state)
    assert gap(rest.state, result.state) < 1e-6
    batch = ab.run_td_learning_loop_batched(learner, Given(rows), keys=KEYS)
    assert gap(batch.states.weights[1], result.state.weights) < 1e-5


# --- numbers that are not numbers ---


def test_what_is_read_has_to_be_finite() -> None:
    step = TDTimeStep(
        observation=jnp.ones(2), reward=jnp.ones(1), next_observation=jnp.array([jnp.nan, 1.0]), gamma=jnp.zeros(1)
    )
    assert is_finite(step) and not is_finite(step.replace(gamma=jnp.ones(1)))
    assert not is_finite(step.replace(reward=jnp.full(1, jnp.inf)))
    assert not is_finite(step.replace(gamma=jnp.full(1, jnp.nan)))
    page = jax.tree.map(lambda a: np.stack([np.asarray(a)] * 3), step)
    assert first_bad(page) == 3
    page.gamma[2] = 0.5
    assert first_bad(page) == 2


def test_nonsense_after_an_end_is_no_reason_to_stop() -> None:
    learner = learner_of("semi")
    dirty, clean = (ab.run_td_learning_loop(learner, Walk(junk=junk), 500, KEY) for junk in (float("nan"), 0.0))
    assert same(dirty.state, clean.state) and same(dirty.metrics, clean.metrics)
    rows = transitions()
    nonsense = np.where(GAMMAS[:, None] == 0.0, np.nan, XS[1:])
    source = Given(rows.replace(next_observation=nonsense.astype(np.float32)))
    given = [ab.run_td_learning_loop(learner, s) for s in (source, Given(rows))]
    assert same(given[0].state, given[1].state)


def test_non_finite_steps() -> None:
    learner = learner_of("semi")
    rows = jax.tree.map(np.array, transitions())
    rows.reward[20] = np.nan
    with pytest.raises(ab.NonFiniteError, match="step 20") as caught:
        ab.run_td_learning_loop(learner, Given(rows))
    assert caught.value.result.metrics.shape == (20, 4)
    skipped = ab.run_td_learning_loop(learner, Given(rows), non_finite="skip")
    assert skipped.skipped == 1 and np.isfinite(skipped.state.weights).all()

    class Broken(Walk):
        def advance(self, state: Any, row: Any, idx: Any) -> Any:
            step, state = super().advance(state, row, idx)
            return step.replace(reward=jnp.where(idx == 30, jnp.inf, step.reward)), state

    with pytest.raises(ab.NonFiniteError, match="step 30"):
        ab.run_td_learning_loop(learner, Broken(), 100, KEY)
    assert ab.run_td_learning_loop(learner, Broken(), 100, KEY, non_finite="skip").skipped == 1


# --- banks and sweeps ---


def test_a_sweep_compiles_as_one_and_equals_single_runs() -> None:
    learners = [ab.TDLinearLearner(ab.TDLambda(a, lamda)) for a in (0.01, 0.05) for lamda in (0.0, 0.9)]
    learners.append(ab.TDLinearLearner(ab.TrueOnlineTD(0.05, 0.9)))
    bank = ab.LearnerBank(tuple(learners))
    assert [len(members) for members in bank.groups.values()] == [4, 1]
    swept = ab.sweep(learners, WORLD, 200, KEYS)
    assert swept.metrics.shape == (3, 200, 5, 4)
    single = ab.run_td_learning_loop(learners[3], WORLD, 200, KEYS[1])
    assert np.allclose(swept.metrics[1, :, 3], single.metrics, rtol=1e-3, atol=1e-4)
    by_td_loop = ab.run_td_learning_loop_batched(bank, WORLD, 200, KEYS)
    assert same(by_td_loop.states, swept.states)
    assert np.isfinite(ab.sweep_table(swept, range(5))["mean"]).all()


# --- errors ---


def wrong_loops() -> list[Any]:
    tracking = ab.TraceTrackingConfig(10)
    td, supervised, run = learner_of("semi"), ab.LinearLearner(), ab.run_td_learning_loop
    source = ab.ArraySource(np.ones((4, 5)), np.ones(4))
    bank = ab.LearnerBank((td,))
    return [
        (TypeError, "learner must learn from transitions", lambda: run(supervised, WORLD, 10, KEY)),
        (ValueError, "whose target has shape", lambda: ab.run_learning_loop(supervised, WORLD, 10, KEY)),
        (ValueError, "whose reward has shape", lambda: run(td, ab.RandomWalkStream(5), 10, KEY)),
        (ValueError, "must give TDTimeSteps for a TDLinearLearner, got", lambda: run(td, source)),
        (ValueError, "must give TimeSteps", lambda: ab.run_learning_loop(supervised, Given(transitions()))),
        (TypeError, "num_steps is needed", lambda: run(td, WORLD, None, KEY)),
        (TypeError, "key is needed", lambda: run(td, WORLD, 10)),
        (ValueError, "trace_tracking.interval", lambda: run(td, WORLD, 9, KEY, trace_tracking=tracking)),
        (ValueError, "traces\\(state\\)", lambda: run(bank, WORLD, 99, KEY, trace_tracking=tracking)),
        (TypeError, "learner_state must be a TDLearnerState", lambda: run(td, WORLD, 10, KEY, supervised.init(5))),
        (TypeError, "learners must learn from one kind", lambda: ab.LearnerBank((td, supervised))),
    ]  # fmt: skip


@pytest.mark.parametrize("case", range(len(wrong_loops())))
def test_loops_refuse(case: int) -> None:
    error, message, call = wrong_loops()[case]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "step_size must be", lambda: ab.TDLambda(-0.1)),
        (ValueError, "trace_decay must be", lambda: ab.TDLambda(0.1, 1.1)),
        (ValueError, "trace must be one of", lambda: ab.TDLambda(0.1, 0.9, "dutch")),
        (ValueError, "step_size must be", lambda: ab.TrueOnlineTD(float("nan"))),
        (ValueError, "trace_decay must be", lambda: ab.TrueOnlineTD(0.1, -1.0)),
        (ValueError, "initial_step_size must be", lambda: ab.TDIDBD(0.0)),
        (ValueError, "meta_step_size must be", lambda: ab.TDIDBD(0.1, -1.0)),
        (TypeError, "use_semi_gradient must be", lambda: ab.TDIDBD(use_semi_gradient="yes")),  # type: ignore[arg-type]
        (ValueError, "outside log_step_size_bounds", lambda: ab.TDIDBD(1e-6).init(2)),
        (ValueError, "outside log_step_size_bounds", lambda: ab.AutoTDIDBD(1e-6).init(2)),
        (ValueError, "normalizer_decay must be", lambda: ab.AutoTDIDBD(normalizer_decay=0.5)),
        (ValueError, "overshoot must be one of", lambda: ab.AutoTDIDBD(overshoot="old")),
        (ValueError, "initial_normalizer must be", lambda: ab.AutoTDIDBD(initial_normalizer=-1.0)),
        (ValueError, "feature_dim must be", lambda: ab.TDLambda().init(0)),
        (TypeError, "optimizer must be an instance of TDOptimizer", lambda: ab.TDLinearLearner(ab.EMANormalizer())),  # type: ignore[arg-type]
        (
            TypeError,
            "must be an Optimizer with init_for_shape and move, got ObGD",
            lambda: ab.TDLinearLearner(ab.ObGD()),
        ),
        (TypeError, "must be an Optimizer with .*, got TDLambda", lambda: ab.WithTraces(ab.TDLambda())),  # type: ignore[arg-type]
        (ValueError, "trace_decay must be", lambda: ab.WithTraces(ab.LMS(), 1.1)),
        (ValueError, "trace must be one of", lambda: ab.WithTraces(ab.LMS(), 0.9, "dutch")),
        (TypeError, "TDOptimizer must define a rule", ab.TDOptimizer),
        (TypeError, "optimizer must be an instance of Optimizer", lambda: ab.LinearLearner(ab.TDIDBD())),
        (TypeError, "normalizer must be", lambda: ab.TDLinearLearner(None, ab.LMS())),
    ],
)
def test_settings_out_of_range(error: type[Exception], message: str, call: Any) -> None:
    with pytest.raises(error, match=message):
        call()


def test_updates_out_of_shape() -> None:
    learner = learner_of("semi")
    state, x = learner.init(2), np.ones(2)
    for error, message, args in [
        (ValueError, "observation must have shape", (np.ones(3), 1.0, x, 0.9)),
        (ValueError, "next_observation must have shape", (x, 1.0, np.ones(3), 0.9)),
        (ValueError, "reward must have shape", (x, np.ones(2), x, 0.9)),
        (ValueError, "gamma must have shape", (x, 1.0, x, np.ones(2))),
        (ValueError, "gamma must be a finite number in \\[-1.0, 1.0\\]", (x, 1.0, x, 1.5)),
        (TypeError, "reward must be numeric", (x, "one", x, 0.9)),
    ]:
        with pytest.raises(error, match=message):
            learner.update(state, *args)
    with pytest.raises(TypeError, match="state must be a TDLearnerState, got LearnerState"):
        learner.update(ab.LinearLearner().init(2), x, 1.0, x, 0.9)
    with pytest.raises(TypeError, match="state must come from this learner"):
        learner.update(learner_of("published").init(2), x, 1.0, x, 0.9)
    with pytest.raises(TypeError, match="state must be a LearnerState, got TDLearnerState"):
        ab.LinearLearner().predict(state, x)


def test_an_optimizer_must_report() -> None:
    class SilentTD(ab.TDLambda):
        def update(self, *args: Any, **kwargs: Any) -> Any:
            return super().update(*args, **kwargs).replace(metrics={})

    learner = ab.TDLinearLearner(SilentTD())
    row = jax.tree.map(lambda a: a[0], transitions())
    with pytest.raises(ValueError, match="SilentTD must report 'mean_step_size'"):
        td_step(learner, learner.init(D), row)


def test_truncated_says_what_a_negative_discount_says() -> None:
    """An explicit field and the old sign give the same numbers: in one update, in a Horde, and in the loops."""
    rng = np.random.default_rng(5)
    xs, rewards = rng.standard_normal((61, D)), rng.standard_normal(60)
    ends, cuts = rng.random(60) < 0.1, rng.random(60) < 0.2
    cuts[3] = ends[3] = True  # an end is an end, cut off or not
    gammas = np.where(ends, 0.0, 0.9)
    learner = ab.TDLinearLearner(ab.TDLambda(0.1, 0.8))
    a = b = learner.init(D)
    for t in range(60):
        a = learner.update(a, xs[t], rewards[t], xs[t + 1], np.where(cuts[t], -1, 1) * gammas[t]).state
        b = learner.update(b, xs[t], rewards[t], xs[t + 1], gammas[t], truncated=bool(cuts[t])).state
    assert same_numbers(a, b) and np.abs(a.weights).max() > 0.1
    signed = np.where(cuts, -gammas, gammas)
    sources = (
        ab.TDArraySource(xs[:-1], rewards, xs[1:], signed),
        ab.TDArraySource(xs[:-1], rewards, xs[1:], gammas, truncated=cuts),
    )
    rows = [
        ab.TDTimeStep(
            observation=xs[t], reward=rewards[t, None], next_observation=xs[t + 1], gamma=gammas[t, None], truncated=cut
        )
        for t, cut in enumerate(cuts[:, None].astype(float))
    ]
    runs = [ab.run_td_learning_loop(learner, source) for source in (*sources, ab.TDIteratorSource(rows))]
    assert same_numbers(runs[1].state, runs[2].state)
    ratios = [ab.OffPolicyTimeStep(**vars(row), rho=np.ones(1)) for row in rows]
    of_ratios = ab.run_td_learning_loop(learner, ab.TDIteratorSource(ratios)).state
    assert np.allclose(of_ratios.weights, runs[0].state.weights, atol=1e-6)
    with pytest.raises(TypeError, match="transition 60 must be a TDTimeStep as the first is"):
        ab.run_td_learning_loop(learner, ab.TDIteratorSource([*rows[:60], ratios[0]]))
    assert same_numbers(runs[0].state, runs[1].state) and np.allclose(runs[0].state.weights, a.weights, atol=1e-5)
    spec = ab.create_horde_spec([ab.GVFSpec(f"{g}", "prediction", g, 0.8) for g in (0.0, 0.9, 1.0)])
    horde = ab.HordeLearner(spec, (), ab.LMS(0.01))
    start, cumulants = horde.init(D, KEY), np.repeat(rewards[:, None], 3, axis=1)
    signed = np.where(cuts & ~ends, -1.0, 1.0)[:, None] * np.asarray(spec.gammas)
    transitions = xs[:-1], cumulants, xs[1:]
    old = ab.run_horde_learning_loop(horde, start, *transitions, gammas=signed, terminated=ends)
    new = ab.run_horde_learning_loop(horde, start, *transitions, truncated=cuts, terminated=ends)
    state = start
    for t in range(60):
        row = [part[t] for part in transitions]
        state = horde.update(state, *row, terminated=ends[t], truncated=cuts[t]).state
    assert same_numbers(old.state, new.state) and not same_numbers(old.state, start)
    assert all(np.allclose(p, q, atol=1e-6) for p, q in zip(jax.tree.leaves(state), jax.tree.leaves(new.state)))
    uncut = ab.run_horde_learning_loop(horde, start, *transitions, terminated=ends)
    assert not same_numbers(uncut.state, new.state)
    with pytest.raises(ValueError, match=r"truncated must have shape \(60, 1\), got"):
        ab.run_horde_learning_loop(horde, start, *transitions, truncated=cuts[:-1])
    with pytest.raises(ValueError, match="truncated must have shape"):
        learner.update(a, xs[0], 0.0, xs[1], 0.9, truncated=np.ones(2))


def same_numbers(a: Any, b: Any) -> bool:
    return all(np.array_equal(p, q) for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


# --- what is given is what is read ---


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("kind", ["float16", "longdouble", "int64", ">f4", ">i8", "uint8", "bool"])
def test_transitions_of_every_kind_are_read_cold_and_warm(kind: str, warm: bool) -> None:
    learner, x = ab.TDLinearLearner(ab.TDLambda(0.25 if warm else 0.125, 0.5)), np.array([0, 1, 1, 0], kind)
    jax.clear_caches()
    state, plain = learner.init(D), x.astype(np.float32)
    if warm:
        learner.update(state, plain, 1.0, plain, 0.5, rho=1.0)
    got = learner.update(state, x, x[1:2], x, np.array(0.5, np.longdouble), rho=x[1], truncated=x[0])
    want = learner.update(state, plain, 1.0, plain, 0.5, rho=1.0, truncated=0.0)
    assert all(map(np.array_equal, jax.tree.leaves(got), jax.tree.leaves(want)))
    assert float(learner.update(state, x, 2**33, x, 0.5).td_error[0]) == 2.0**33


@pytest.mark.parametrize(
    "gamma", [1.5, -1.5, np.float32(1.5), np.float16(1.5), np.array([1.5]), np.array(2, ">i4"), np.nan]
)
def test_discounts_of_every_kind_are_range_checked(gamma: Any) -> None:
    learner = ab.TDLinearLearner(ab.TDC())
    with pytest.raises(ValueError, match=r"gamma must be a finite number in \[-1.0, 1.0\], got"):
        learner.update(learner.init(D), XS[0], 1.0, XS[1], gamma)


@pytest.mark.parametrize("rho", [-1, -1.0, np.float32(-1), np.array([-1.0]), np.inf, np.nan])
def test_ratios_of_every_kind_are_range_checked(rho: Any) -> None:
    learner = ab.TDLinearLearner(ab.TDC())
    with pytest.raises(ValueError, match=r"rho must be a finite number in \[0.0, inf\), got"):
        learner.update(learner.init(D), XS[0], 1.0, XS[1], 0.9, rho=rho)


@pytest.mark.parametrize("flag", [True, np.False_, np.array([True]), jnp.array([True])])
def test_a_flag_is_no_discount(flag: Any) -> None:
    learner = ab.TDLinearLearner()
    state = learner.init(D)
    with pytest.raises(TypeError, match="gamma must hold discounts, got flags .*terminated, 0.0, discount"):
        learner.update(state, XS[0], 1.0, XS[1], flag)
    learner.update(state, XS[0], 1.0, XS[1], 0.5, truncated=flag)


class OwnTD:
    """Transitions as a stranger writes them: every number is ()."""

    feature_dim = 2

    def init(self, key: Any) -> Any:
        return key

    def step(self, state: Any, idx: Any) -> Any:
        x = jnp.stack([jnp.sin(idx * 0.1), jnp.cos(idx * 0.1)])
        gamma = jnp.where(idx % 5 == 4, 0.0, 0.9)
        return TDTimeStep(observation=x, reward=x[0], next_observation=-x, gamma=gamma), state


class OwnTDWithAxes(OwnTD):
    """The same, with every number (1,)."""

    def step(self, state: Any, idx: Any) -> Any:
        time_step, state = super().step(state, idx)
        return time_step.replace(reward=time_step.reward.reshape(1), gamma=time_step.gamma.reshape(1)), state


def test_numbers_without_an_axis_are_numbers() -> None:
    learner = ab.TDLinearLearner(ab.TDLambda(0.1, 0.5))
    for run, key in ((ab.run_td_learning_loop, KEY), (ab.run_td_learning_loop_batched, list(KEYS))):
        one, two = (run(learner, stream(), 40, key) for stream in (OwnTD, OwnTDWithAxes))  # type: ignore[operator]
        assert all(map(np.array_equal, jax.tree.leaves(one[:2]), jax.tree.leaves(two[:2])))
    time_step = OwnTD().step(KEY, jnp.uint32(3))[0]
    assert learner.step(learner.init(2), time_step).td_error.shape == (1,)
