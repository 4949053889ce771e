"""Networks: gradients by hand, sparse start, bounders, the learner, its loops, and what must hold for all of them."""

import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from files import HASTILY, run_python
from live import live as meet

import alberta_nb
from alberta_nb.learners.linear import LinearLearner
from alberta_nb.learners.mlp import DivergenceWarning, MLPLearner, MLPLearnerState, MLPUpdateResult
from alberta_nb.learners.network import MLPParams, forward, gradient, layer_norm
from alberta_nb.learners.sparse_init import sparse_init
from alberta_nb.loops import blocks as blocks_module
from alberta_nb.loops import run as run_module
from alberta_nb.loops.mlp import run_mlp_learning_loop, run_mlp_learning_loop_batched
from alberta_nb.loops.supervised import NormalizerTrackingConfig
from alberta_nb.native.kernel import native_loops
from alberta_nb.native.outer import RankOne, dense, row_norms, size_sum
from alberta_nb.native.rewrite import short_vectors
from alberta_nb.normalizers import EMANormalizer, WelfordNormalizer
from alberta_nb.optimizers.autostep import Autostep
from alberta_nb.optimizers.base import Optimizer, OptimizerUpdate
from alberta_nb.optimizers.bounders import AGCBounding, Bounder, ObGDBounding, bounder_from_config
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.optimizers.lms import LMS
from alberta_nb.optimizers.obgd import ObGD
from alberta_nb.streams.sources import ArraySource
from alberta_nb.streams.synthetic import RandomWalkStream

RNG = np.random.default_rng(0)
XS = RNG.standard_normal((150, 5))
YS = np.tanh(XS @ [1.0, -2.0, 0.5, 0.0, 0.0]) + 3.0
KEY = jax.random.key(0)
TRACED = {"gamma": 0.9, "lamda": 0.8}
SMALL = {"hidden_sizes": (16, 8), "sparsity": 0.5}
STREAM = RandomWalkStream(6)


def live(learner: Any, xs: Any = XS, ys: Any = YS, state: Any = None) -> tuple[np.ndarray, np.ndarray, Any]:
    """Errors, metrics and the last state; a network starts from KEY."""
    return meet(learner, xs, ys, state, KEY if isinstance(learner, MLPLearner) else None)


def from_zero(learner: MLPLearner, feature_dim: int) -> MLPLearnerState:
    """The first state with weights of 0, where a linear learner starts."""
    state = learner.init(feature_dim, KEY)
    return state.replace(params=jax.tree.map(jnp.zeros_like, state.params))


def largest_gap(a: Any, b: Any) -> float:
    gaps = jax.tree.map(lambda x, y: float(jnp.max(jnp.abs(x - y), initial=0.0)), a, b)
    return max(jax.tree.leaves(gaps), default=0.0)


# --- rank one ---


def test_rank_one_is_the_outer_product() -> None:
    r = RankOne(rows=jnp.array([1.0, -2.0]), columns=jnp.array([3.0, 0.5, -1.0]))
    table = np.outer([1.0, -2.0], [3.0, 0.5, -1.0])
    assert r.shape == table.shape and np.array_equal(dense(r), table)
    assert np.array_equal(dense(2.0 * r), 2 * table) and np.array_equal(dense(r * jnp.float32(2.0)), 2 * table)
    assert np.array_equal(dense(np.float32(2.0) * r), 2 * table)
    assert np.array_equal(jnp.ones((2, 3)) + r, 1 + table)
    assert size_sum(r) == np.abs(table).sum() == size_sum(jnp.asarray(table))
    assert np.allclose(row_norms(r), np.linalg.norm(table, axis=1)) and np.allclose(row_norms(table), row_norms(r))


@pytest.mark.parametrize("shape", [(), (1,), (7,), (1, 5), (5, 1), (33, 7), (128, 20), (3, 4, 5)])
def test_sum_of_any_shape(shape: tuple[int, ...], float64: None) -> None:
    x = RNG.standard_normal(shape)
    assert np.isclose(short_vectors(jnp.sum)(x), x.sum(), rtol=1e-12, atol=1e-12)


# --- the network ---


@pytest.mark.parametrize("seed", range(12))
def test_gradients_equal_jax_grad_on_random_architectures(seed: int, float64: None) -> None:
    rng = np.random.default_rng(seed)
    sizes = (int(rng.integers(1, 9)), *rng.integers(1, 12, int(rng.integers(0, 5))).tolist(), 1)
    slope, norm = float(rng.choice([0.0, 0.01, 0.3, 1.0])), bool(rng.integers(2))
    pairs = list(zip(sizes[1:], sizes[:-1], strict=True))
    params = MLPParams(
        weights=tuple(jnp.asarray(rng.standard_normal(shape)) for shape in pairs),
        biases=tuple(jnp.asarray(rng.standard_normal(shape[0])) for shape in pairs),
    )
    x = jnp.asarray(rng.standard_normal(sizes[0]))
    y, features, layers = forward(params, x, slope, norm)
    by_hand = jax.tree.map(lambda p, g: dense(g), params, gradient(params, features, layers, slope, norm))
    value, grads = jax.value_and_grad(lambda p: forward(p, x, slope, norm)[0])(params)
    assert y == value and largest_gap(by_hand, grads) < 1e-9 * max(1.0, *(jnp.max(jnp.abs(g)) for g in grads.arrays()))


def test_layer_norm_oracles(float64: None) -> None:
    a = jnp.asarray(RNG.standard_normal(50))
    normed, _ = layer_norm(a, 0.0)
    assert abs(normed.mean()) < 1e-14 and abs((normed**2).mean() - 1) < 1e-12
    assert np.allclose(layer_norm(3.0 * a + 7.0, 0.0)[0], normed, atol=1e-12)
    assert np.allclose(layer_norm(a)[0], (a - a.mean()) / np.sqrt(a.var() + 1e-5))


# --- sparse start ---


@pytest.mark.parametrize(
    "fan_in, sparsity, zeros", [(7, 0.9, 6), (128, 0.9, 115), (3, 0.9, 2), (100, 0.55, 55), (4, 0, 0), (9, 1, 8)]
)
@pytest.mark.parametrize("init_type", ["uniform", "normal"])
def test_sparse_init_has_so_many_zeros(fan_in: int, sparsity: float, zeros: int, init_type: str) -> None:
    w = np.asarray(sparse_init(KEY, (200, fan_in), sparsity, init_type))
    assert w.shape == (200, fan_in) and ((w == 0).sum(axis=1) == zeros).all()
    if init_type == "uniform":
        assert np.abs(w).max() <= 1 / np.sqrt(fan_in)
    kept = w[w != 0]
    spread = 1 / np.sqrt(3 * fan_in) if init_type == "uniform" else 1 / np.sqrt(fan_in)
    assert abs(kept.std() / spread - 1) < 5 / np.sqrt(2 * kept.size)
    assert abs(kept.mean()) < 5 * spread / np.sqrt(kept.size)


def test_sparse_init_has_its_zeros_anywhere() -> None:
    share = (np.asarray(sparse_init(KEY, (20_000, 10), 0.7)) == 0).mean(axis=0)
    assert np.abs(share - 0.7).max() < 5 * np.sqrt(0.7 * 0.3 / 20_000)


def test_sparse_init_takes_both_kinds_of_keys() -> None:
    new, old = sparse_init(jax.random.key(3), (4, 9)), sparse_init(jax.random.PRNGKey(3), (4, 9))
    assert np.array_equal(new, old)


# --- bounders ---

STEPS = (RankOne(rows=jnp.array([1.0, 3.0]), columns=jnp.array([2.0, -1.0, 0.5])), jnp.array([1.0, 3.0]))
PARAMS = (jnp.array([[10.0, 0.0, 0.0], [0.1, 0.0, 0.0]]), jnp.array([0.0, 0.5]))


@pytest.mark.parametrize("bounder", [ObGDBounding(), AGCBounding(0.1), AGCBounding(10.0)])
def test_factored_and_dense_steps_are_bounded_alike(bounder: Bounder) -> None:
    for error in (jnp.float32(0.3), jnp.float32(-20.0)):
        factored, report = bounder.bound(STEPS, error, PARAMS)
        plain, same = bounder.bound(tuple(dense(s) for s in STEPS), error, PARAMS)
        assert np.allclose(report, same) and 0 < report <= 1
        for a, b in zip(factored, plain, strict=True):
            assert np.allclose(dense(a), b, rtol=1e-6)


def test_obgd_bounding_is_the_published_bound() -> None:
    total = 4.0 * 3.5 + 4.0
    for error in (0.3, -20.0):
        steps, factor = ObGDBounding(3.0).bound(STEPS, jnp.float32(error), PARAMS)
        assert np.isclose(factor, min(1.0, 1 / (3.0 * max(abs(error), 1.0) * total)))
        assert np.allclose(dense(steps[0]), factor * dense(STEPS[0]))
    small = tuple(1e-4 * s for s in STEPS)
    assert ObGDBounding().bound(small, jnp.float32(1.0), PARAMS)[1] == 1.0


def test_agc_limits_every_unit_by_itself() -> None:
    error, clip, eps = -2.0, 0.1, 1e-3
    steps, report = AGCBounding(clip, eps).bound(STEPS, jnp.float32(error), PARAMS)
    weights = np.linalg.norm(PARAMS[0], axis=1)
    moved = 2.0 * np.linalg.norm(dense(steps[0]), axis=1)
    assert (moved <= clip * np.maximum(weights, eps) * (1 + 1e-6)).all()
    before = np.array([1.0, 3.0]) * np.linalg.norm([2.0, -1.0, 0.5])
    factors = np.minimum(1.0, clip * weights / (2.0 * before))
    assert not np.isclose(*factors), "the two rows have weights of different length, so factors of their own"
    assert np.allclose(dense(steps[0]), factors[:, None] * dense(STEPS[0]))
    bias = min(1.0, clip * 0.5 / (2.0 * np.sqrt(10.0)))
    assert np.allclose(steps[1], bias * np.array([1.0, 3.0])) and np.isclose(report, (factors.sum() + bias) / 3)
    scaled = (STEPS[0] * jnp.array([1.0, 100.0]), STEPS[1])
    alone = AGCBounding(clip, eps).bound(scaled, jnp.float32(error), PARAMS)[0]
    assert np.allclose(dense(alone[0])[0], dense(steps[0])[0]), "a unit does not see its neighbours"


def test_the_report_multiplies_nothing() -> None:
    class Twice(ObGDBounding):
        def bound(self, steps: Any, error: Any, params: Any) -> Any:
            steps, report = super().bound(steps, error, params)
            return steps, 7.0 * report

    a, b = live(MLPLearner(bounder=ObGDBounding(), **SMALL)), live(MLPLearner(bounder=Twice(), **SMALL))
    assert np.array_equal(a[0], b[0]) and np.allclose(7 * a[1][:, 2], b[1][:, 2])


@pytest.mark.parametrize("bounder", [ObGDBounding(3.0), AGCBounding(0.02, 1e-2)])
def test_bounder_configs(bounder: Bounder) -> None:
    config = json.loads(json.dumps(bounder.to_config()))
    assert config["type"] == type(bounder).__name__ and bounder_from_config(config) == bounder
    with pytest.raises(ValueError, match="type"):
        bounder_from_config({"type": "LMS"})


# --- the contract of the seeds ---


def test_signatures_and_defaults() -> None:
    want = {
        "hidden_sizes": (128, 128), "optimizer": None, "step_size": 1.0, "bounder": None, "gamma": 0.0, "lamda": 0.0,
        "normalizer": None, "sparsity": 0.9, "leaky_relu_slope": 0.01, "use_layer_norm": True, "head_optimizer": None,
    }  # fmt: skip
    found = {name: p.default for name, p in inspect.signature(MLPLearner).parameters.items()}
    assert found == want and list(found) == list(want)
    assert MLPLearner().optimizer == LMS(1.0) and MLPLearner(step_size=0.1).optimizer == LMS(0.1)
    for loop, key in ((run_mlp_learning_loop, "key"), (run_mlp_learning_loop_batched, "keys")):
        names = ["learner", "stream", "num_steps", key, "learner_state", "normalizer_tracking"]
        assert list(inspect.signature(loop).parameters)[:6] == names


def test_results_have_the_shapes_of_the_contract() -> None:
    for normalizer, columns in ((None, 3), (EMANormalizer(), 4)):
        learner = MLPLearner(normalizer=normalizer, **SMALL)
        state = learner.init(5, KEY)
        result = learner.update(state, XS[0], YS[0])
        assert isinstance(result, MLPUpdateResult) and isinstance(result.state, MLPLearnerState)
        assert result.prediction.shape == result.error.shape == (1,) and result.metrics.shape == (columns,)
        assert learner.predict(state, XS[0]).shape == (1,) and result.metrics[2] == 1.0
        assert np.isclose(result.metrics[0], result.error[0] ** 2) and result.metrics[1] == result.error[0]
        assert [w.shape for w in state.params.weights] == [(16, 5), (8, 16), (1, 8)]
        assert not any(b.any() for b in state.params.biases) and state.traces is None
        assert jax.tree.structure(result.state) == jax.tree.structure(state)
    assert all(name in alberta_nb.__all__ for name in ("MLPLearner", "ObGDBounding", "AGCBounding", "sparse_init"))


def test_configs_give_the_learner_back() -> None:
    optimizer, bounder, normalizer = IDBD(0.02, meta_gradient="loss"), AGCBounding(), WelfordNormalizer()
    learner = MLPLearner((32,), optimizer, 0.5, bounder, 0.9, 0.8, normalizer, 0.7, 0.2, False, LMS())
    text = json.dumps(learner.to_config())
    assert MLPLearner.from_config(json.loads(text)) == learner
    assert MLPLearner.from_config(json.loads(json.dumps(MLPLearner().to_config()))) == MLPLearner()


def test_structure_holds_no_swept_number() -> None:
    a, b = MLPLearner(step_size=0.1, sparsity=0.5), MLPLearner(step_size=0.2)
    assert a.structure == b.structure and a != b
    a, b = MLPLearner(gamma=0.9, lamda=0.8), MLPLearner(gamma=0.5, lamda=0.1)
    assert a.structure == b.structure != MLPLearner().structure and a.structure.has_traces
    assert MLPLearner(gamma=0.9).structure == MLPLearner().structure, "lamda is 0: no traces"


# --- oracles ---

LINEAR = {
    "LMS": (LinearLearner(LMS(0.05)), {"optimizer": LMS(0.05)}),
    "IDBD": (LinearLearner(IDBD(0.05, 0.01)), {"optimizer": IDBD(0.05, 0.01, meta_gradient="loss")}),
    "Autostep": (LinearLearner(Autostep(0.3, 0.02)), {"optimizer": Autostep(0.3, 0.02)}),
    "two Autosteps": (
        LinearLearner(Autostep(0.3, 0.02)),
        {"optimizer": Autostep(0.1), "head_optimizer": Autostep(0.3, 0.02)},
    ),
    "ObGD": (LinearLearner(ObGD(0.5)), {"optimizer": LMS(0.5), "bounder": ObGDBounding()}),
    "ObGD with traces": (
        LinearLearner(ObGD(0.5, 3.0, 0.9, 0.8)), {"optimizer": LMS(0.5), "bounder": ObGDBounding(3.0), **TRACED},
    ),
}  # fmt: skip


@pytest.mark.parametrize("normalizer", [None, WelfordNormalizer()])
@pytest.mark.parametrize("name", LINEAR)
def test_no_hidden_layer_is_the_linear_learner(name: str, normalizer: Any, float64: None) -> None:
    linear, settings = LINEAR[name]
    linear = LinearLearner(linear.optimizer, normalizer)
    network = MLPLearner((), normalizer=normalizer, **settings)
    errors, _, end = live(linear)
    same, _, state = live(network, state=from_zero(network, 5))
    assert np.abs(errors - same).max() < 1e-12
    assert largest_gap(end.weights, state.params.weights[0][0]) < 1e-12
    assert largest_gap(end.bias, state.params.biases[0][0]) < 1e-12


def reference(learner: MLPLearner, decay: float, lr: float, kappa: float, resets: tuple[int, ...] = ()) -> list[float]:
    """Errors of the published algorithm, with jax.grad, tables, and a trace that is wiped after each step in resets."""
    params = learner.init(5, KEY).params
    traces, errors = jax.tree.map(jnp.zeros_like, params), []
    value = jax.jit(jax.value_and_grad(lambda p, x: forward(p, x, learner.leaky_relu_slope, learner.use_layer_norm)[0]))
    for t, (x, y) in enumerate(zip(XS, YS, strict=True)):
        v, g = value(params, jnp.asarray(x))
        traces = jax.tree.map(lambda z, g: decay * z + g, traces, g)
        delta = float(y - v)
        m = max(abs(delta), 1.0) * sum(float(jnp.abs(z).sum()) for z in jax.tree.leaves(traces)) * lr * kappa
        alpha = lr / m if m > 1 else lr
        params = jax.tree.map(lambda p, z, s=alpha * delta: p + s * z, params, traces)
        if t in resets:
            traces = jax.tree.map(jnp.zeros_like, traces)
        errors.append(delta)
    return errors


@pytest.mark.parametrize("traced", [{}, TRACED])
@pytest.mark.parametrize("norm", [True, False])
def test_the_published_algorithm(traced: dict[str, float], norm: bool, float64: None) -> None:
    learner = MLPLearner(bounder=ObGDBounding(), use_layer_norm=norm, **SMALL, **traced)
    paper = reference(learner, traced.get("gamma", 0.0) * traced.get("lamda", 0.0), 1.0, 2.0)
    assert np.allclose(live(learner)[0], paper, rtol=1e-9, atol=1e-11)


def test_an_inactive_bound_is_lms(float64: None) -> None:
    learner = MLPLearner(step_size=1e-5, bounder=ObGDBounding(), **SMALL)
    errors, metrics, _ = live(learner)
    assert (metrics[:, 2] == 1).all() and np.array_equal(errors, live(MLPLearner(step_size=1e-5, **SMALL))[0])


def test_credit_does_not_leak_between_episodes(float64: None) -> None:
    learner = MLPLearner(bounder=ObGDBounding(), **SMALL, **TRACED)
    ends = (4, 30, 31, 90)
    paper = reference(learner, 0.72, 1.0, 2.0, resets=ends)
    for how in ("gamma", "reset"):
        state, errors = learner.init(5, KEY), []
        for t, (x, y) in enumerate(zip(XS, YS, strict=True)):
            result = learner.update(state, x, y, gamma=0.0 if t in ends and how == "gamma" else None)
            state = learner.reset_traces(result.state) if t in ends and how == "reset" else result.state
            errors.append(float(result.error[0]))
        assert np.allclose(errors, paper, rtol=1e-9, atol=1e-11)
    assert not np.allclose(errors, live(learner)[0]), "the ends mattered"


def test_frozen_trace_is_the_discounted_sum_of_gradients(float64: None) -> None:
    learner = MLPLearner(step_size=0.0, **SMALL, **TRACED)
    state, gammas = learner.init(5, KEY), RNG.uniform(0.0, 1.0, 20)
    grad = jax.jit(jax.grad(lambda p, x: forward(p, x)[0]))
    want = jax.tree.map(jnp.zeros_like, state.params)
    led_in = 0.9
    for x, gamma in zip(XS[:20], gammas, strict=True):
        want = jax.tree.map(lambda z, g, d=led_in * 0.8: d * z + g, want, grad(state.params, jnp.asarray(x)))
        state, led_in = learner.update(state, x, 1.0, gamma=gamma).state, gamma
    assert largest_gap(state.traces, want) < 1e-10 and np.isclose(state.discount, gammas[-1])


def test_autostep_has_one_bound_over_the_network(float64: None) -> None:
    learner = MLPLearner((8, 8), Autostep(2.0), sparsity=0.0)
    state, errors = learner.init(5, KEY), []
    for _ in range(6):
        result = learner.update(state, XS[0], 1.0)
        x, features, layers = forward(state.params, jnp.asarray(XS[0]))
        g = jax.tree.map(lambda p, g: dense(g), state.params, gradient(state.params, features, layers))
        sizes = [s.step_sizes for s in result.state.optimizer_states]
        total = sum(float(jnp.sum(a * z * z)) for a, z in zip(sizes, g.arrays(), strict=True))
        assert total <= 1 + 1e-12
        errors.append(abs(float(result.error[0])))
        state = result.state
    assert errors[-1] < 0.2 * errors[0], "a repeated sample is learned, not swung around"


def test_sign_and_order(float64: None) -> None:
    for optimizer in (LMS(0.02), IDBD(0.02, meta_gradient="loss"), Autostep()):
        learner = MLPLearner(optimizer=optimizer, bounder=ObGDBounding(), use_layer_norm=True, **SMALL, **TRACED)
        start = learner.init(5, KEY)
        errors, _, end = live(learner, state=start)
        w, b = start.params.weights, start.params.biases
        order = np.array([3, 0, 4, 1, 2])
        turned = start.replace(params=MLPParams(weights=(w[0][:, order], *w[1:]), biases=b))
        assert np.abs(live(learner, XS[:, order], YS, turned)[0] - errors).max() < 1e-9
        mirrored = start.replace(params=MLPParams(weights=(*w[:-1], -w[-1]), biases=b))
        back, _, last = live(learner, XS, -YS, mirrored)
        assert np.abs(back + errors).max() < 1e-9
        sizes, mirrored_sizes = (
            [getattr(s, "step_sizes", getattr(s, "log_step_sizes", 0.0)) for s in state.optimizer_states]
            for state in (end, last)
        )
        assert largest_gap(sizes, mirrored_sizes) < 1e-8


def test_head_optimizer_moves_the_head_only(float64: None) -> None:
    learner = MLPLearner(optimizer=LMS(0.0), head_optimizer=Autostep(0.1), **SMALL)
    start = learner.init(5, KEY)
    _, _, end = live(learner, state=start)
    kinds = [type(s).__name__ for s in start.optimizer_states]
    assert kinds == ["LMSState", "LMSState", "AutostepParamState"] * 2
    for i, (a, b) in enumerate(zip(start.params.arrays(), end.params.arrays(), strict=True)):
        assert np.array_equal(a, b) == (i not in (2, 5))


def test_factored_and_dense_paths_agree(float64: None) -> None:
    class Dense(LMS):
        scales_gradients = False

    for bounder in (None, ObGDBounding(), AGCBounding()):
        pair = [MLPLearner(optimizer=kind(0.01), bounder=bounder, **SMALL) for kind in (LMS, Dense)]
        assert np.allclose(live(pair[0])[0], live(pair[1])[0], rtol=1e-9)


@pytest.mark.parametrize("normalizer", [WelfordNormalizer(), EMANormalizer(decay=0.95)])
def test_predict_uses_the_frozen_statistics(normalizer: Any) -> None:
    learner = MLPLearner(step_size=0.01, normalizer=normalizer, **SMALL)
    xs = 100.0 + 10.0 * XS
    _, _, state = live(learner, xs)
    asked, result = learner.predict(state, xs[0]), learner.update(state, xs[0], 0.0)
    later = learner.predict(state.replace(normalizer_state=result.state.normalizer_state), xs[0])
    assert np.allclose(later, result.prediction, atol=1e-5) and abs(asked[0] - later[0]) < 0.5
    assert np.isclose(result.metrics[3], result.state.normalizer_state.var.mean())


# --- loops ---


def test_step_by_step_and_in_a_loop() -> None:
    for settings in ({"bounder": ObGDBounding()}, {"optimizer": Autostep(), **TRACED}, {"normalizer": EMANormalizer()}):
        learner = MLPLearner(step_size=0.01, **SMALL, **settings)
        state = first = learner.init(5, KEY)
        source = ArraySource(XS, YS)
        rows = []
        for x, y in zip(XS, YS, strict=True):
            result = learner.update(state, x, y)
            rows.append(result.metrics)
            state = result.state
        end, metrics = run_mlp_learning_loop(learner, source, learner_state=first)
        assert np.allclose(metrics, rows, rtol=2e-3, atol=2e-4)
        assert largest_gap(end.params, state.params) < 1e-3


def test_native_and_plain_paths_agree() -> None:
    for settings in ({}, TRACED, {"optimizer": Autostep()}):
        learner = MLPLearner(bounder=ObGDBounding(), **SMALL, **settings)
        runs = []
        for on in (True, False):
            with native_loops(on):
                runs.append(run_mlp_learning_loop(learner, STREAM, 300, KEY)[1])
        assert np.allclose(*runs, rtol=5e-3, atol=2e-3)


def test_split_and_resume() -> None:
    learner = MLPLearner(bounder=ObGDBounding(), normalizer=EMANormalizer(), **SMALL, **TRACED)
    state, metrics = (whole := run_mlp_learning_loop(learner, STREAM, 200, KEY))
    half = run_mlp_learning_loop(learner, STREAM, 120, KEY)
    rest = run_mlp_learning_loop(learner, STREAM, 80, learner_state=half[0], stream_state=half.stream_state)
    assert np.array_equal(metrics, np.concatenate([half[1], rest[1]]))
    assert largest_gap(state, rest[0]) == 0 and rest.stream_state.steps == whole.stream_state.steps == 200
    keys = jax.random.split(KEY, 3)
    whole = run_mlp_learning_loop_batched(learner, STREAM, 200, keys)
    half = run_mlp_learning_loop_batched(learner, STREAM, 120, keys)
    rest = run_mlp_learning_loop_batched(learner, STREAM, 80, learner_state=half.states, stream_state=half.stream_state)
    assert np.array_equal(whole.metrics, np.concatenate([half.metrics, rest.metrics], axis=1))


@pytest.mark.parametrize("raw", [False, True])
def test_a_seed_of_a_batch_is_a_single_run(raw: bool) -> None:
    learner = MLPLearner(bounder=ObGDBounding(), normalizer=WelfordNormalizer(), **SMALL)
    keys = jax.random.split(jax.random.PRNGKey(5) if raw else jax.random.key(5), 4)
    options = {"normalizer_tracking": NormalizerTrackingConfig(50), "record_every": 7}
    batch = run_mlp_learning_loop_batched(learner, STREAM, 300, keys, **options)
    assert batch.metrics.shape == (4, 42, 4) and batch.normalizer_history.means.shape == (4, 6, 6)
    for k in (0, 3):
        state, metrics, history = run_mlp_learning_loop(learner, STREAM, 300, keys[k], **options)
        assert np.array_equal(metrics, batch.metrics[k])
        assert largest_gap(state, jax.tree.map(lambda a, k=k: a[k], batch.states)) == 0
        assert np.array_equal(history.variances, batch.normalizer_history.variances[k])
    assert not np.allclose(batch.metrics[0], batch.metrics[1])


def test_seeds_apart_equal_seeds_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    class Beside(MLPLearner):
        seeds = "together"

    keys, settings = jax.random.split(KEY, 3), {"bounder": ObGDBounding(), **SMALL, **TRACED}
    apart = run_mlp_learning_loop_batched(MLPLearner(**settings), STREAM, 200, keys, record_every=10)
    beside = run_mlp_learning_loop_batched(Beside(**settings), STREAM, 200, keys, record_every=10)
    assert np.allclose(apart.metrics, beside.metrics, rtol=5e-3, atol=2e-3)


def test_loops_on_a_source_and_skipped_steps() -> None:
    xs = XS.copy()
    xs[20, 1] = np.nan
    source, learner = ArraySource(xs, YS), MLPLearner(bounder=ObGDBounding(), **SMALL)
    one = run_mlp_learning_loop(learner, source, key=KEY, non_finite="skip")
    assert one.skipped == 1 and np.isnan(one[1][20]).all() and np.isfinite(np.delete(one[1], 20, axis=0)).all()
    keys = jax.random.split(KEY, 2)
    both = run_mlp_learning_loop_batched(learner, source, keys=keys, non_finite="skip")
    assert both.metrics.shape == (2, 150, 3) and np.array_equal(both.skipped, [1, 1])
    with pytest.raises(alberta_nb.NonFiniteError) as caught:
        run_mlp_learning_loop_batched(learner, source, keys=keys)
    assert caught.value.step == 20 and caught.value.result.metrics.shape == (2, 20, 3)
    assert np.array_equal(caught.value.result.metrics, both.metrics[:, :20])
    start = ArraySource(xs[20:], YS[20:])
    with pytest.raises(alberta_nb.NonFiniteError) as caught:
        run_mlp_learning_loop_batched(learner, start, keys=keys)
    assert caught.value.step == 0 and caught.value.result.metrics.shape == (2, 0, 3)


def test_seeds_apart_in_blocks_and_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, keys = MLPLearner(bounder=ObGDBounding(), normalizer=EMANormalizer(), **SMALL), jax.random.split(KEY, 3)
    options = {"normalizer_tracking": NormalizerTrackingConfig(20), "record_every": 3}
    whole = run_mlp_learning_loop_batched(learner, STREAM, 200, keys, **options)
    monkeypatch.setattr(run_module, "PAGE_ROWS", 48)
    monkeypatch.setattr(run_module, "BLOCK_NUMBERS", 1)
    cut = run_mlp_learning_loop_batched(learner, STREAM, 200, keys, **options)
    assert jax.tree.structure(cut) == jax.tree.structure(whole) and cut.steps == whole.steps == 200
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(cut), jax.tree.leaves(whole), strict=True))

    calls, block = [], blocks_module.run_seeds

    def stop_at_second(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return block(*args)

    monkeypatch.setattr(blocks_module, "run_seeds", stop_at_second)
    stopped = run_mlp_learning_loop_batched(learner, STREAM, 200, keys, **options)
    assert stopped.interrupted and stopped.steps == 48 and stopped.metrics.shape == (3, 16, 4)
    assert np.array_equal(stopped.metrics, whole.metrics[:, :16])
    monkeypatch.setattr(blocks_module, "run_seeds", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    nothing = run_mlp_learning_loop_batched(learner, STREAM, 200, keys)
    assert nothing.interrupted and nothing.metrics.shape == (3, 0, 4) and nothing.steps == 0


def test_seeds_apart_keep_64_bits_in_their_threads(float64: None) -> None:
    keys = jax.random.split(KEY, 3)
    batch = run_mlp_learning_loop_batched(MLPLearner(bounder=ObGDBounding(), **SMALL), STREAM, 50, keys)
    assert batch.metrics.dtype == jnp.float64 and all(a.dtype == jnp.float64 for a in batch.states.params.arrays())


def test_learners_that_differ_in_numbers_compile_once() -> None:
    traced: list[Any] = []

    class Counting(ObGDBounding):
        def bound(self, steps: Any, error: Any, params: Any) -> Any:
            traced.append(steps)
            return super().bound(steps, error, params)

    settings = {"bounder": Counting(), "hidden_sizes": (11,)}
    run_mlp_learning_loop(MLPLearner(step_size=0.1, gamma=0.9, lamda=0.1, **settings), STREAM, 100, KEY)
    count = len(traced)
    assert count > 0
    other = MLPLearner(step_size=0.2, gamma=0.8, lamda=0.9, sparsity=0.5, **settings)
    run_mlp_learning_loop(other, STREAM, 150, KEY)
    run_mlp_learning_loop_batched(other, STREAM, 150, jax.random.split(KEY, 2))
    assert len(traced) == count


# --- errors ---


class NoForm(Optimizer):
    def init(self, feature_dim: int) -> Any:
        return None

    def update(self, state: Any, error: Any, observation: Any, bias_input: float = 1.0) -> OptimizerUpdate:
        raise AssertionError


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"hidden_sizes": 128}, "hidden_sizes must be a tuple"),
        ({"hidden_sizes": (128, 0)}, r"hidden_sizes\[1\] must be 1 or more"),
        ({"hidden_sizes": (1.5,)}, r"hidden_sizes\[0\] must be a whole number"),
        ({"sparsity": 1.5}, r"sparsity must be a finite number in \[0.0, 1.0\]"),
        ({"sparsity": -0.1}, "sparsity"),
        ({"gamma": 1.1}, "gamma"),
        ({"lamda": float("nan")}, "lamda"),
        ({"leaky_relu_slope": -1.0}, "leaky_relu_slope"),
        ({"step_size": -1.0}, "step_size"),
        ({"use_layer_norm": 1}, "use_layer_norm must be True or False"),
        ({"optimizer": ObGD()}, "optimizer: ObGD works on linear learners only"),
        ({"head_optimizer": NoForm()}, "head_optimizer: NoForm works on linear learners only"),
        ({"optimizer": "LMS"}, "optimizer must be an instance of Optimizer"),
        ({"bounder": LMS()}, "bounder must be an instance of Bounder"),
        ({"normalizer": LMS()}, "normalizer must be an instance of Normalizer"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        MLPLearner(**settings)


def test_states_of_other_learners() -> None:
    learner = MLPLearner(**SMALL)
    state = learner.init(5, KEY)
    wrong = [
        LinearLearner().init(5),
        MLPLearner(**SMALL, **TRACED).init(5, KEY),
        MLPLearner(optimizer=Autostep(), **SMALL).init(5, KEY),
        MLPLearner(normalizer=EMANormalizer(), **SMALL).init(5, KEY),
        MLPLearner((16,)).init(5, KEY),
        MLPLearner((16, 9)).init(5, KEY),
        jax.tree.map(lambda a: jnp.stack([a, a]), state),
    ]
    for other in wrong:
        with pytest.raises((TypeError, ValueError), match="state must"):
            learner.update(other, XS[0], 1.0)
        with pytest.raises((TypeError, ValueError), match="learner_state"):
            run_mlp_learning_loop(learner, RandomWalkStream(5), 10, KEY, learner_state=other)
    with pytest.raises(ValueError, match=r"learner_state.* must have shape"):
        run_mlp_learning_loop(learner, RandomWalkStream(6), 10, KEY, learner_state=state)


def test_bad_input() -> None:
    learner = MLPLearner(**SMALL)
    state = learner.init(5, KEY)
    calls = [
        (lambda: learner.init(0, KEY), "feature_dim"),
        (lambda: learner.init(5, 0), "key must come from"),
        (lambda: learner.predict(state, XS[0, :4]), "observation must have shape"),
        (lambda: learner.update(state, XS[0], [1.0, 2.0]), "target must have shape"),
        (lambda: learner.update(state, XS[0], 1.0, gamma=[0.1, 0.2]), "gamma must have shape"),
        (lambda: sparse_init(KEY, (3,)), "shape must be a pair"),
        (lambda: sparse_init(KEY, (0, 3)), "fan_out"),
        (lambda: sparse_init(KEY, (3, 3), 2.0), "sparsity"),
        (lambda: sparse_init(KEY, (3, 3), init_type="zeros"), "init_type"),
        (lambda: ObGDBounding(-1.0), "kappa"),
        (lambda: AGCBounding(0.0), "clip_factor"),
        (lambda: AGCBounding(eps=float("inf")), "eps"),
        (lambda: run_mlp_learning_loop(learner, STREAM, 10), "key is needed"),
        (lambda: run_mlp_learning_loop(learner, STREAM, 10, jax.random.split(KEY, 2)), "takes many"),
        (lambda: run_mlp_learning_loop_batched(learner, STREAM, 10, KEY), "keys must have shape"),
        (lambda: run_mlp_learning_loop_batched(learner, STREAM, 10), "keys is needed"),
        (lambda: run_mlp_learning_loop(LinearLearner(), STREAM, 10, KEY), "learner must have init"),
        (lambda: run_mlp_learning_loop(learner, STREAM, 10, KEY, None, NormalizerTrackingConfig(5)), "needs a learner"),
        (
            lambda: run_mlp_learning_loop(
                MLPLearner(normalizer=EMANormalizer(), **SMALL), STREAM, 10, KEY, None, NormalizerTrackingConfig(11)
            ),
            "interval",
        ),
    ]
    for call, message in calls:
        with pytest.raises((TypeError, ValueError), match=message):
            call()


@pytest.mark.parametrize("num_steps", [None, 200, 600])
def test_looks_at_a_file_whose_length_nobody_knows(num_steps: int | None, tmp_path: Path) -> None:
    path = tmp_path / "numbers.csv"
    np.savetxt(path, np.random.default_rng(0).normal(size=(300, 3)), delimiter=",", header="a,b,t", comments="")
    looks = alberta_nb.DiagnosticsConfig(50, 10)
    result = run_mlp_learning_loop(
        MLPLearner((4,), bounder=ObGDBounding()), alberta_nb.TableSource(path, "t"), num_steps, KEY, diagnostics=looks
    )
    assert result.steps == min(num_steps or 300, 300)
    assert result.diagnostics_history.recording_indices.tolist() == list(range(0, result.steps, 50))


# --- what is given is what is read ---


def test_numbers_of_every_kind_are_read() -> None:
    learner, x = MLPLearner((4,), LMS(0.01), gamma=0.9, lamda=0.8), np.array([0, 1, 1, 0, 1])
    state = learner.init(5, KEY)
    want = learner.update(state, x.astype(np.float32), 1.0, 0.5)
    for kind in ("float16", "longdouble", "int64", ">f4", ">i8", "bool"):
        got = learner.update(state, x.astype(kind), x[1].astype(kind), np.array(0.5, ">f8"))
        assert all(map(np.array_equal, jax.tree.leaves(got), jax.tree.leaves(want)))
    assert float(learner.update(state, x, 3_000_000_000).error[0]) > 2.9e9
    for wrong, error in ((1.5, ValueError), (-0.5, ValueError), (np.float32(2), ValueError), (True, TypeError)):
        with pytest.raises(error, match="^gamma must"):
            learner.update(state, x, 1.0, wrong)
    lists = jax.tree.map(lambda a: np.asarray(a).tolist(), state)
    with pytest.raises(TypeError, match="state must hold arrays, got a list for biases: lists become arrays by"):
        learner.update(lists, x, 1.0)


def test_lists_of_keys_are_keys() -> None:
    learner = MLPLearner((4,), bounder=ObGDBounding())
    for keys in (jax.random.split(KEY, 2), jax.random.split(jax.random.PRNGKey(0), 2)):
        one, two = (run_mlp_learning_loop_batched(learner, STREAM, 20, k) for k in (keys, list(keys)))
        assert np.array_equal(one.metrics, two.metrics)
        with pytest.raises(
            TypeError, match="key must be one key, got a list; run_mlp_learning_loop_batched takes many"
        ):
            run_mlp_learning_loop(learner, STREAM, 20, list(keys))  # type: ignore[arg-type]


# --- a network that diverges says so ---


def told(make: Any) -> list[Any]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        make()
    return found


BARE = {
    "mlp": lambda **more: MLPLearner((4,), **more),
    "linear": lambda **more: MLPLearner((), **more),
    "heads": lambda **more: alberta_nb.MultiHeadMLPLearner(2, (4,), **more),
    "horde": lambda **more: alberta_nb.HordeLearner(alberta_nb.horde_from_columns(["a"], [0.9]), (4,), **more),
}


@pytest.mark.parametrize("name", BARE)
def test_a_network_that_will_diverge_says_so_where_it_is_made(name: str) -> None:
    make = BARE[name]
    for more in ({}, {"step_size": 1}, {"step_size": 2.0}, {"step_size": np.float32(1)}):
        (found,) = told(lambda more=more: make(**more))
        assert found.category is DivergenceWarning and found.filename == __file__
        assert "bounder=ObGDBounding()" in str(found.message)
    fine = [{"bounder": ObGDBounding()}, {"bounder": AGCBounding()}, {"optimizer": LMS(1.0)}, {"step_size": 0.5}]
    for more in fine:
        assert not told(lambda more=more: make(**more))


def test_a_warning_comes_once_for_a_place_and_not_from_within() -> None:
    learner = MLPLearner((4,))
    inside = [
        lambda: learner.structure,
        lambda: MLPLearner.from_config(learner.to_config()),
        lambda: learner.init(2, KEY),
    ]
    for call in inside:
        assert not told(call)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        for _ in range(3):
            MLPLearner((4,))
    assert len(found) == 1
    assert not told(lambda: MLPLearner((), head_optimizer=LMS(0.1)))  # nothing is left that it could move


MODES = """
import sys, jax
for name, value in zip(sys.argv[1::2], sys.argv[2::2]):
    jax.config.update(name, value)
import numpy as np
import alberta_nb as nb
from alberta_nb.learners.baselines import ChangeLearner, Scored
x, key, raw = np.ones(3), jax.random.key(0), jax.random.PRNGKey(0)
stream, norm, bound = nb.RandomWalkStream(3), nb.EMANormalizer(), nb.ObGDBounding()
auto, adam = nb.Autostep("auto"), nb.LMS(0.01)
try:
    adam = nb.from_optax("adam", learning_rate=0.01)
except ValueError as error:
    assert "strict" in sys.argv and "mixes dtypes" in str(error), error
net = nb.MLPLearner((20,), auto, bounder=bound, normalizer=norm, gamma=0.9, lamda=0.5)
heads = nb.MultiHeadMLPLearner(2, (20,), nb.LMS(0.1), per_head_gamma_lamda=(0.9, 0.8))
bank = nb.LearnerBank((net, nb.MLPLearner((), adam), nb.PopArt(nb.LinearLearner(auto, norm))))
for learner in (nb.LinearLearner(adam), nb.PopArt(nb.LinearLearner(nb.IDBD())), Scored(nb.LinearLearner(auto)),
                ChangeLearner(nb.LinearLearner(nb.LMS("auto")))):
    nb.run_learning_loop(learner, stream, 20, key)
for learner in (net, nb.PopArt(net), nb.PopArt(nb.MLPLearner((), adam)), bank):
    nb.run_mlp_learning_loop(learner, stream, 20, raw)
gvfs = [nb.GVFSpec(f"d{g}", nb.DemonType.PREDICTION, g, 0.5, 0) for g in (0.0, 0.9)]
horde = nb.HordeLearner(nb.create_horde_spec(gvfs), (4,), nb.LMS(0.1))
td = nb.TDLinearLearner(nb.TDIDBD()), nb.PopArt(nb.TDLinearLearner(nb.TDLambda(0.1)))
calls = [(net, 1.0), (nb.PopArt(net), 1.0), (heads, x[:2]), (nb.PopArt(heads), x[:2])]
calls += [(horde, x[:2], x), (nb.PopArt(horde), x[:2], x), *((one, 1.0, x, 0.9) for one in td)]
for learner, *given in calls:
    state = learner.init(3, *([] if learner in td else [key]))
    for _ in range(2):
        state = learner.update(state, x, *given).state
    assert np.isfinite(learner.predict(state, x)).all()
"""


@pytest.mark.parametrize(
    "mode",
    [
        ("jax_numpy_rank_promotion", "raise", "jax_numpy_dtype_promotion", "strict"),
        ("jax_default_prng_impl", "rbg"),
        ("jax_default_prng_impl", "unsafe_rbg"),
    ],
)
def test_learners_run_in_every_mode_of_jax(mode: tuple[str, ...]) -> None:
    done = run_python("-c", MODES, *mode, **HASTILY)
    assert done.returncode == 0, done.stderr
