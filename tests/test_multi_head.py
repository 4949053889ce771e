"""Many heads on one trunk: exact masks, the trunk's gradient, bounds, traces, settings, and the loop."""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alberta_nb import (
    IDBD,
    LMS,
    TDIDBD,
    AGCBounding,
    Autostep,
    Bounder,
    EMANormalizer,
    LinearLearner,
    MLPLearner,
    MLPParams,
    MultiHeadMLPLearner,
    NonFiniteError,
    ObGDBounding,
    from_optax,
    multi_head_metrics_to_dicts,
    native_loops,
    run_multi_head_learning_loop,
    run_multi_head_learning_loop_batched,
)
from alberta_nb.horde.multi_head import HeadsTimeStep, heads_forward, move_trunk
from alberta_nb.learners.base import state_like
from alberta_nb.types import Settings

RNG = np.random.default_rng(0)
XS = RNG.standard_normal((80, 5))
YS = np.tanh(XS @ RNG.standard_normal((5, 3)))
HOLES = np.where(RNG.random(YS.shape) < 0.3, np.nan, YS)
HOLES[::9] = np.nan
KEY = jax.random.key(0)
SMALL = {"hidden_sizes": (16, 8), "sparsity": 0.5}
TRACED = {"per_head_gamma_lamda": (0.0, 0.7, 0.4)}


@functools.partial(jax.jit, static_argnums=0)
def scan_rows(learner: Any, state: Any, xs: Any, ys: Any) -> Any:
    def one(state: Any, row: Any) -> Any:
        result = learner.step(state, HeadsTimeStep(observation=row[0], targets=row[1]))
        return result.state, (result.errors, result.per_head_metrics, result.trunk_bounding_metric)

    return jax.lax.scan(one, state, (xs, ys))


def live(learner: Any, xs: Any = XS, ys: Any = YS, state: Any = None) -> tuple[Any, np.ndarray, np.ndarray]:
    """The last state, all errors and all metrics of a learner that meets the rows one after the other."""
    state = learner.init(xs.shape[1], KEY) if state is None else state
    state, (errors, metrics, _) = scan_rows(learner, state, jnp.asarray(xs, float), jnp.asarray(ys, float))
    return state, np.asarray(errors), np.asarray(metrics)


def same_bits(a: Any, b: Any) -> bool:
    def same(x: Any, y: Any) -> bool:
        return np.asarray(x).tobytes() == np.asarray(y).tobytes()

    return jax.tree.all(jax.tree.map(same, a, b))


def head(state: Any, i: int) -> Any:
    """All that belongs to one head."""
    part = (state.params.weights[-1], state.params.biases[-1], state.head_optimizer_states, state.traces, state.decays)
    return jax.tree.map(lambda a: a[i], part)


VARIANTS: list[dict[str, Any]] = [
    {"optimizer": LMS(0.05), "bounder": ObGDBounding()},
    {"optimizer": IDBD(0.02), "bounder": AGCBounding(), **TRACED},
    {"optimizer": LMS(0.05), "head_optimizer": Autostep(), **TRACED},
]
NAMES = ["lms-obgd", "idbd-agc-traces", "lms-autostep-traces"]
variants = pytest.mark.parametrize("variant", VARIANTS, ids=NAMES)


# --- what a silent head does ---


@variants
def test_silent_head_keeps_every_bit_and_is_not_there_for_the_trunk(variant: dict[str, Any], float64: None) -> None:
    learner = MultiHeadMLPLearner(3, **SMALL | variant)
    before, _, _ = live(learner, XS[:20], HOLES[:20])
    # a negative zero is a bit pattern too
    weights = before.params.weights[-1].at[1, 0].set(-0.0)
    before = before.replace(params=before.params.replace(weights=(*before.params.weights[:-1], weights)))
    result = learner.update(before, XS[20], [1.0, np.nan, -1.0])
    assert same_bits(head(before, 1), head(result.state, 1))
    assert not same_bits(head(before, 0), head(result.state, 0))
    assert np.isnan(result.errors).tolist() == [False, True, False] and np.isnan(result.per_head_metrics[1]).all()
    assert np.isfinite(result.predictions).all()
    moved = [
        not same_bits(a, b) for a, b in zip(before.params.weights[:-1], result.state.params.weights[:-1], strict=True)
    ]
    assert all(moved)

    fewer = dict(variant, per_head_gamma_lamda=(0.0, 0.4)) if "per_head_gamma_lamda" in variant else variant
    pair = MultiHeadMLPLearner(2, **SMALL | fewer)
    keep = jnp.array([0, 2])
    params = MLPParams(
        weights=(*before.params.weights[:-1], weights[keep]),
        biases=(*before.params.biases[:-1], before.params.biases[-1][keep]),
    )
    rest = jax.tree.map(lambda a: a[keep], (before.head_optimizer_states, before.traces, before.decays))
    without = before.replace(params=params, head_optimizer_states=rest[0], traces=rest[1], decays=rest[2])
    other = pair.update(without, XS[20], [1.0, -1.0])
    for mine, theirs in zip(result.state.params.weights[:-1], other.state.params.weights[:-1], strict=True):
        assert np.allclose(mine, theirs, rtol=1e-12, atol=1e-14)
    assert np.isclose(result.trunk_bounding_metric, other.trunk_bounding_metric)
    assert same_bits(before, learner.update(before, XS[20], [np.nan] * 3).state)


def test_silent_step_still_feeds_the_normalizer() -> None:
    learner = MultiHeadMLPLearner(1, (4,), normalizer=EMANormalizer())
    before = learner.init(5, KEY)
    after = learner.update(before, XS[0], [np.nan]).state
    assert same_bits(before.params, after.params)
    assert float(after.normalizer_state.sample_count) == float(before.normalizer_state.sample_count) + 1


# --- against other learners ---


@pytest.mark.parametrize(
    "setting",
    [
        {"optimizer": LMS(0.05)},
        {"optimizer": LMS(0.05), "normalizer": EMANormalizer(), "use_layer_norm": False},
        {"optimizer": Autostep(), "head_optimizer": LMS(0.05)},
        {"optimizer": IDBD(meta_gradient="loss", h_decay_mode="loss_grads"), "head_optimizer": LMS(0.02)},
    ],
    ids=["lms", "normalized", "autostep-trunk", "idbd-trunk"],
)
def test_one_head_equals_the_network_learner(setting: dict[str, Any], float64: None) -> None:
    one, network = MultiHeadMLPLearner(1, **SMALL | setting), MLPLearner(**SMALL | setting)
    a, b, gap = one.init(5, KEY), network.init(5, KEY), 0.0
    for x, y in zip(XS, YS[:, 0], strict=True):
        mine, theirs = one.update(a, x, [y]), network.update(b, x, y)
        a, b, gap = mine.state, theirs.state, max(gap, abs(float(mine.errors[0] - theirs.error[0])))
    assert gap < 1e-12


def test_linear_heads_equal_linear_learners(float64: None) -> None:
    for optimizer in (LMS(0.05), Autostep(0.05)):
        heads = MultiHeadMLPLearner(3, (), optimizer)
        state = heads.init(5, KEY)
        state = state.replace(params=jax.tree.map(jnp.zeros_like, state.params))
        _, errors, metrics = live(heads, state=state)
        for i in range(3):
            learner = LinearLearner(optimizer)
            state_i = learner.init(5)
            for t in range(len(XS)):
                result = learner.update(state_i, XS[t], YS[t, i])
                state_i = result.state
                assert np.isclose(errors[t, i], result.error[0], atol=1e-12)
                assert np.isclose(metrics[t, i, 2], result.metrics[2], rtol=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_trunk_gradient_equals_jax_grad(seed: int, float64: None) -> None:
    rng = np.random.default_rng(seed)
    slope, norm, n = float(rng.choice([0.0, 0.01, 0.3])), bool(seed % 2), int(rng.integers(1, 6))
    learner = MultiHeadMLPLearner(n, (7, 6), LMS(1.0), sparsity=0.3, leaky_relu_slope=slope, use_layer_norm=norm)
    state, x, targets = learner.init(5, KEY), jnp.asarray(rng.standard_normal(5)), jnp.asarray(rng.standard_normal(n))

    def loss(params: MLPParams) -> Any:
        return 0.5 * jnp.sum((targets - heads_forward(params, x, slope, norm).values) ** 2)

    slopes = jax.jit(jax.grad(loss))(state.params)
    moved = learner.update(state, x, targets).state.params
    want = jax.tree.map(lambda p, g: p - g, state.params, slopes)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.allclose(a, b, atol=1e-11)), moved, want))


# --- bounds and traces ---


def test_each_head_has_its_own_bound_and_the_trunk_one_of_the_sum(float64: None) -> None:
    free, bound = (MultiHeadMLPLearner(3, (8,), LMS(1.0), bounder=b) for b in (None, ObGDBounding(2.0)))
    state = free.init(5, KEY)
    seen = heads_forward(state.params, jnp.asarray(XS[0]))
    targets = seen.values + jnp.array([0.1, -3.0, 0.2])
    size = float(jnp.sum(jnp.abs(seen.features))) + 1
    a, b = free.update(state, XS[0], targets).state.params, bound.update(state, XS[0], targets)
    for i, d in enumerate((0.1, -3.0, 0.2)):
        factor = 1 / max(2.0 * max(abs(d), 1.0) * size, 1.0)
        change, limited = (
            a.weights[1][i] - state.params.weights[1][i],
            b.state.params.weights[1][i] - state.params.weights[1][i],
        )
        assert np.allclose(limited, factor * change, atol=1e-13)
    trunk, limited = (p.weights[0] - state.params.weights[0] for p in (a, b.state.params))
    whole = float(jnp.sum(jnp.abs(trunk)) + jnp.sum(jnp.abs(a.biases[0])))
    assert np.isclose(b.trunk_bounding_metric, 1 / max(2.0 * whole, 1.0))
    assert np.allclose(limited, b.trunk_bounding_metric * trunk, atol=1e-13)


def test_the_floor_of_the_trunks_bound(float64: None) -> None:
    learner = MultiHeadMLPLearner(2, (8,), LMS(30.0), bounder=ObGDBounding(2.0))
    state = learner.init(5, KEY)
    layers = heads_forward(state.params, jnp.asarray(XS[0])).layers
    moves = [
        sum(
            float(jnp.sum(jnp.abs(new - old)))
            for new, old in zip(arrays, (state.params.weights[0], state.params.biases[0]), strict=True)
        )
        for scale in (1e-3, 1e-2, 0.3, 5.0)
        for arrays, _, _ in [move_trunk(learner, state, layers, scale * jnp.array([0.6, -0.4]), jnp.ones(2, bool))]
    ]
    # below a total error of 1 the move is proportional to it; above, it is 1 / kappa however large the error
    assert np.allclose(moves, [0.5e-3, 0.5e-2, 0.15, 0.5], rtol=1e-9)


def test_wide_bound_and_small_rate_are_lms(float64: None) -> None:
    plain, bound = (MultiHeadMLPLearner(3, **SMALL, optimizer=LMS(1e-4), bounder=b) for b in (None, ObGDBounding(0.01)))
    assert np.allclose(live(plain)[1], live(bound)[1], atol=1e-13)


def test_head_traces_sum_discounted_features(float64: None) -> None:
    learner = MultiHeadMLPLearner(3, **SMALL, optimizer=LMS(0.0), **TRACED)
    state = learner.init(5, KEY)
    features = jnp.stack([heads_forward(state.params, jnp.asarray(x)).features for x in XS[:30]])
    last, _, _ = live(learner, XS[:30], YS[:30])
    for i, decay in enumerate(TRACED["per_head_gamma_lamda"]):
        powers = decay ** np.arange(29, -1, -1.0)
        assert np.allclose(last.traces[0][i], powers @ features, atol=1e-12)
        assert np.isclose(last.traces[1][i], powers.sum())


def test_optimizers_without_step_sizes_report_the_effective_one() -> None:
    pytest.importorskip("optax")
    learner = MultiHeadMLPLearner(2, (8,), LMS(0.01), head_optimizer=from_optax("sgd", learning_rate=0.25))
    assert np.allclose(learner.update(learner.init(5, KEY), XS[0], [1.0, 2.0]).per_head_metrics[:, 2], 0.25)


def test_custom_bounder_and_td_optimizer_heads() -> None:
    class Halving(Bounder):
        def bound(self, steps: Any, error: Any, params: Any) -> Any:
            return tuple(0.5 * s for s in steps), jnp.asarray(0.5)

    try:
        full, half = (MultiHeadMLPLearner(2, (8,), LMS(0.1), bounder=b) for b in (None, Halving()))
        state = full.init(5, KEY)
        a, b = (learner.update(state, XS[0], [1.0, -1.0]) for learner in (full, half))
        assert float(b.trunk_bounding_metric) == 0.5
        gaps = jax.tree.map(
            lambda p, x, y: jnp.abs(0.5 * (x - p) - (y - p)).max(), state.params, a.state.params, b.state.params
        )
        assert max(jax.tree.leaves(gaps)) < 1e-6
    finally:
        Settings._types.pop("Halving")
    td = MultiHeadMLPLearner(2, (), TDIDBD(0.1))
    state = td.init(5, KEY)
    assert td.update(state, XS[0], [1.0, np.nan]).state.traces is None


# --- settings ---


def test_config_round_trip_and_shared_structure() -> None:
    learner = MultiHeadMLPLearner(3, [16, 8], bounder=ObGDBounding(), normalizer=EMANormalizer(), **TRACED)
    again = MultiHeadMLPLearner.from_config(json.loads(json.dumps(learner.to_config())))
    assert again == learner and hash(again) == hash(learner)
    other = MultiHeadMLPLearner(
        3, (16, 8), LMS(0.1), 2.0, ObGDBounding(), normalizer=EMANormalizer(), per_head_gamma_lamda=(0.9, 0.0, 0.1)
    )
    assert other.structure == learner.structure != MultiHeadMLPLearner(3, (16, 8)).structure
    state = learner.init(5, KEY)
    shapes = [[(a.shape, a.dtype) for a in jax.tree.leaves(tree)] for tree in (state, state_like(learner, 5))]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    "settings, error, words",
    [
        ({"n_heads": 0}, ValueError, "n_heads"),
        ({"n_heads": 2, "gamma": 0.9, "lamda": 0.5}, ValueError, "a trunk keeps no traces"),
        ({"n_heads": 2, "per_head_gamma_lamda": (0.5,)}, ValueError, "per_head_gamma_lamda must hold 2"),
        ({"n_heads": 1, "per_head_gamma_lamda": (1.5,)}, ValueError, "per_head_gamma_lamda"),
        ({"n_heads": 2, "optimizer": TDIDBD()}, ValueError, "linear heads only"),
        ({"n_heads": 2, "optimizer": 0.1}, TypeError, "optimizer"),
        ({"n_heads": 2, "hidden_sizes": (0,)}, ValueError, "hidden_sizes"),
    ],
)
def test_bad_settings(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        MultiHeadMLPLearner(**settings)


def test_bad_input() -> None:
    learner = MultiHeadMLPLearner(2, (4,))
    state = learner.init(3, KEY)
    with pytest.raises(ValueError, match="targets must have shape"):
        learner.update(state, np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="observation must have shape"):
        learner.predict(state, np.ones(4))
    with pytest.raises(ValueError, match="state must come from this learner"):
        MultiHeadMLPLearner(3, (4,)).update(state, np.ones(3), np.ones(3))
    with pytest.raises(TypeError, match="MultiHeadMLPState"):
        learner.predict(MLPLearner((4,)).init(3, KEY), np.ones(3))
    assert MultiHeadMLPLearner(2, (), gamma=0.9, lamda=0.5).init(3, KEY).traces is not None


# --- the loop ---


def test_loop_equals_steps_native_and_plain_and_split() -> None:
    learner = MultiHeadMLPLearner(3, **SMALL, bounder=ObGDBounding(), **TRACED)
    start = learner.init(5, KEY)
    whole = run_multi_head_learning_loop(learner, start, XS, HOLES)
    _, errors, _ = live(learner, XS, HOLES)
    assert np.allclose(whole.per_head_metrics[..., 1], errors, atol=1e-4, equal_nan=True)
    with native_loops(False):
        plain = run_multi_head_learning_loop(learner, start, XS, HOLES)
    assert np.allclose(whole.per_head_metrics, plain.per_head_metrics, atol=2e-4, equal_nan=True)
    first = run_multi_head_learning_loop(learner, start, XS[:30], HOLES[:30])
    rest = run_multi_head_learning_loop(learner, first.state, XS[30:], HOLES[30:])
    joined = np.concatenate([first.per_head_metrics, rest.per_head_metrics])
    assert np.array_equal(joined, whole.per_head_metrics, equal_nan=True) and same_bits(rest.state, whole.state)
    means = run_multi_head_learning_loop(learner, start, XS, HOLES, record_every=9).per_head_metrics
    with np.errstate(invalid="ignore"):
        want = np.nanmean(np.asarray(whole.per_head_metrics)[:72].reshape(8, 9, 3, 3), axis=1)
    assert np.allclose(means, want, rtol=1e-4, atol=1e-6)


class SideBySide(MultiHeadMLPLearner):
    seeds = "together"


def test_means_of_silent_heads_side_by_side_and_with_skipped_steps() -> None:
    """A head's mean is over the steps in which it learned, however the seeds run, and whatever else was skipped."""
    holes = HOLES.copy()
    holes[:9, 1], xs = np.nan, XS.copy()
    xs[20:22, 0] = np.inf
    keys = jax.random.split(KEY, 3)
    for kind in (SideBySide, MultiHeadMLPLearner):
        learner = kind(3, (8,), LMS(0.01))
        asked = {"record_every": 9, "non_finite": "skip"}
        means = run_multi_head_learning_loop_batched(learner, xs, holes, keys, **asked)
        for k in range(3):
            every = run_multi_head_learning_loop(learner, learner.init(5, keys[k]), xs, holes, non_finite="skip")
            rows = np.asarray(every.per_head_metrics)[:72].reshape(8, 9, 3, 3)
            with np.errstate(invalid="ignore"):
                counts = np.sum(~np.isnan(rows), axis=1)
                want = np.where(counts > 0, np.nansum(rows, axis=1) / np.maximum(counts, 1), np.nan)
            assert np.isnan(want[0, 1]).all() and np.isfinite(want[1:]).all()
            assert np.allclose(means.per_head_metrics[k], want, rtol=1e-4, atol=1e-5, equal_nan=True)
        assert means.skipped.tolist() == [2, 2, 2] and means.states is means.state


def test_batch_equals_single_runs() -> None:
    learner, keys = MultiHeadMLPLearner(3, **SMALL, bounder=ObGDBounding(), **TRACED), jax.random.split(KEY, 3)
    batch = run_multi_head_learning_loop_batched(learner, XS, HOLES, keys)
    assert batch.per_head_metrics.shape == (3, 80, 3, 3)
    one = run_multi_head_learning_loop(learner, learner.init(5, keys[2]), XS, HOLES)
    assert np.allclose(batch.per_head_metrics[2], one.per_head_metrics, atol=1e-5, equal_nan=True)


def test_loop_names_bad_arrays_and_stops_at_infinity() -> None:
    learner = MultiHeadMLPLearner(3, (4,))
    state = learner.init(5, KEY)
    with pytest.raises(ValueError, match="targets must have shape"):
        run_multi_head_learning_loop(learner, state, XS, YS[:, :2])
    with pytest.raises(TypeError, match="learner must be a MultiHeadMLPLearner"):
        run_multi_head_learning_loop(MLPLearner((4,)), state, XS, YS)
    bad = YS.copy()
    bad[5, 0] = np.inf
    with pytest.raises(NonFiniteError, match="step 5") as found:
        run_multi_head_learning_loop(learner, state, XS, bad)
    assert found.value.result.per_head_metrics.shape == (5, 3, 3)


def test_metrics_as_dicts() -> None:
    learner = MultiHeadMLPLearner(2, (4,), LMS(0.5))
    found = multi_head_metrics_to_dicts(learner.update(learner.init(5, KEY), XS[0], [np.nan, 1.0]))
    assert found[0] is None and found[1] is not None
    assert set(found[1]) == {"squared_error", "error", "mean_step_size"} and found[1]["mean_step_size"] == 0.5
