"""Streams: contracts, the same numbers by page and by step, when worlds change, and what their targets are made of."""

import dataclasses
import functools
import inspect
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

import alberta_nb
from alberta_nb import (
    AbruptChangeStream,
    CyclicStream,
    DynamicScaleShiftStream,
    PeriodicChangeStream,
    RandomWalkStream,
    ScaleDriftStream,
    ScaledStreamWrapper,
    ScanStream,
    Settings,
    Stream,
    SuttonExperiment1Stream,
    TimeStep,
    make_scale_range,
)
from alberta_nb.native.noise import key_data, normal
from alberta_nb.streams.base import watch
from alberta_nb.streams.scales import StreamAround
from alberta_nb.streams.synthetic import hold

# Names, order of arguments and defaults: the interface.
CONTRACTS: dict[str, dict[str, Any]] = {
    "RandomWalkStream": {"feature_dim": None, "drift_rate": 0.001, "noise_std": 0.1, "feature_std": 1.0},
    "AbruptChangeStream": {"feature_dim": None, "change_interval": 1000, "noise_std": 0.1, "feature_std": 1.0},
    "CyclicStream": {
        "feature_dim": None,
        "cycle_length": 500,
        "num_configurations": 4,
        "noise_std": 0.1,
        "feature_std": 1.0,
    },
    "PeriodicChangeStream": {
        "feature_dim": None,
        "period": 1000,
        "amplitude": 1.0,
        "noise_std": 0.1,
        "feature_std": 1.0,
    },
    "SuttonExperiment1Stream": {"num_relevant": 5, "num_irrelevant": 15, "change_interval": 20},
    "ScaledStreamWrapper": {"inner_stream": None, "feature_scales": None},
    "DynamicScaleShiftStream": {
        "feature_dim": None,
        "scale_change_interval": 2000,
        "weight_change_interval": 1000,
        "min_scale": 0.01,
        "max_scale": 100.0,
        "noise_std": 0.1,
    },
    "ScaleDriftStream": {
        "feature_dim": None,
        "weight_drift_rate": 0.001,
        "scale_drift_rate": 0.01,
        "min_log_scale": -4.0,
        "max_log_scale": 4.0,
        "noise_std": 0.1,
    },
    "make_scale_range": {"feature_dim": None, "min_scale": 0.001, "max_scale": 1000.0, "log_spaced": True},
}

STREAMS: list[Stream] = [
    RandomWalkStream(7, drift_rate=0.01, feature_std=0.7),
    AbruptChangeStream(20, change_interval=30),
    CyclicStream(5, cycle_length=7, num_configurations=3),
    CyclicStream(5, cycle_length=4, num_configurations=11),
    PeriodicChangeStream(8, period=90, amplitude=0.3),
    SuttonExperiment1Stream(change_interval=10),
    DynamicScaleShiftStream(6, scale_change_interval=23, weight_change_interval=11),
    ScaleDriftStream(6, weight_drift_rate=0.01, scale_drift_rate=0.5, min_log_scale=-1.0, max_log_scale=2.0),
    ScaledStreamWrapper(RandomWalkStream(5), np.geomspace(0.01, 100, 5)),
    ScaledStreamWrapper(ScaledStreamWrapper(SuttonExperiment1Stream(2, 1), [2.0, 3.0, 4.0]), [0.5, 1.0, 1.5]),
]
each_stream = pytest.mark.parametrize("stream", STREAMS, ids=lambda s: type(s).__name__)


class Walk:
    """A user's stream: `init` and `step` with JAX's own random numbers, and nothing else."""

    feature_dim = 2

    def init(self, key: Array) -> Any:
        return key, jnp.zeros(2)

    def step(self, state: Any, idx: Array) -> tuple[TimeStep, Any]:
        key, w = state
        x = jax.random.normal(jax.random.fold_in(key, idx), (2,))
        w = w + 0.25
        return TimeStep(observation=x, target=jnp.sum(w * x)[None]), (key, w)


@functools.partial(jax.jit, static_argnums=(0, 3))
def page(stream: Stream, state: Any, first: Array, rows: int) -> tuple[Any, Any]:
    """A page of noise, and a walk through it: the time steps and the states."""

    def body(state: Any, given: Any) -> tuple[Any, Any]:
        time_step, state = stream.advance(state, *given)
        return state, (time_step, state)

    idx = first + jnp.arange(rows, dtype=jnp.uint32)
    return lax.scan(body, state, (stream.noise(state, first, rows), idx))


def walk(stream: Stream, state: Any, first: int, sizes: list[int]) -> tuple[Any, Any]:
    parts = []
    for rows in sizes:
        state, part = page(stream, state, jnp.uint32(first), rows)
        first, parts = first + rows, [*parts, part]
    return jax.tree.map(lambda *a: jnp.concatenate(a), *parts)


def equal(a: Any, b: Any) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(jax.tree.map(jnp.array_equal, a, b))


def same_world(a: tuple[Any, Any], b: tuple[Any, Any]) -> bool:
    """Observations and states bit for bit; targets, which are sums of products, to rounding."""
    size = np.abs(np.asarray(a[0].observation)).max() * np.sqrt(a[0].observation.shape[-1])
    close = np.allclose(a[0].target, b[0].target, rtol=1e-6, atol=2e-6 * max(size, 1))
    return equal((a[0].observation, a[1]), (b[0].observation, b[1])) and close


# --- contracts ---


@pytest.mark.parametrize("name", CONTRACTS)
def test_names_and_defaults(name: str) -> None:
    parameters = inspect.signature(getattr(alberta_nb, name)).parameters
    defaults = {n: None if p.default is inspect.Parameter.empty else p.default for n, p in parameters.items()}
    assert defaults == CONTRACTS[name] and list(defaults) == list(CONTRACTS[name])


@each_stream
def test_protocol_and_shapes(stream: Stream) -> None:
    assert isinstance(stream, ScanStream) and isinstance(stream, Settings) and stream.paged
    state = stream.init(jax.random.key(0))
    time_step, after = stream.step(state, jnp.uint32(0))
    d = stream.feature_dim
    assert isinstance(time_step, TimeStep)
    assert (time_step.observation.shape, time_step.target.shape) == ((d,), (1,))
    assert time_step.observation.dtype == time_step.target.dtype == jnp.float32
    assert stream.true_weights(after).shape == (d,)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert [(a.shape, a.dtype) for a in jax.tree.leaves(after)] == [(a.shape, a.dtype) for a in jax.tree.leaves(state)]
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((state, after, time_step)))
    rows = jax.eval_shape(lambda s: stream.noise(s, 3, 9), state)
    assert all(len(leaf.shape) >= 1 and leaf.shape[0] == 9 for leaf in jax.tree.leaves(rows))


@each_stream
def test_config_round_trip(stream: Stream) -> None:
    config = json.loads(json.dumps(stream.to_config()))
    for base in (type(stream), Stream, Settings):
        assert base.from_config(config) == stream
    assert hash(stream) == hash(Stream.from_config(config))


def test_not_a_stream() -> None:
    assert isinstance(Walk(), ScanStream) and not isinstance(object(), ScanStream)


# --- page and step ---


@each_stream
@pytest.mark.parametrize("first", [0, 1, 999, 4_000_000_000])
def test_page_and_step_give_the_same_numbers(stream: Stream, first: int) -> None:
    start = stream.init(jax.random.key(1))
    whole = walk(stream, start, first, [48])
    assert same_world(whole, walk(stream, start, first, [1, 16, 31]))
    assert equal(whole, walk(stream, start, first, [16, 16, 16]))
    state, steps = start, []
    for idx in range(first, first + 48):
        time_step, state = stream.step(state, idx)
        steps.append((time_step, state))
    assert same_world(whole, jax.tree.map(lambda *a: jnp.stack(a), *steps))


@each_stream
def test_noise_is_a_pure_function_of_keys_and_idx(stream: Stream) -> None:
    start = stream.init(jax.random.key(1))
    later = jax.tree.map(lambda a: a[-1], walk(stream, start, 0, [48])[1])
    draw = jax.jit(stream.noise, static_argnums=2)
    rows = draw(start, jnp.uint32(100), 20)
    assert equal(rows, draw(later, jnp.uint32(100), 20))
    for row in (0, 7, 19):
        alone = draw(start, jnp.uint32(100 + row), 1)
        assert equal(jax.tree.map(lambda a, r=row: a[r : r + 1], rows), alone)


@each_stream
def test_batches_of_keys(stream: Stream) -> None:
    keys = jax.random.split(jax.random.key(2), 3)
    states = jax.vmap(stream.init)(keys)
    batch = jax.vmap(lambda s: page(stream, s, jnp.uint32(0), 48)[1])(states)
    single = walk(stream, stream.init(keys[1]), 0, [48])
    assert same_world(jax.tree.map(lambda a: a[1], batch), single)


@each_stream
def test_the_key_decides_everything(stream: Stream) -> None:
    run = functools.partial(walk, stream, first=0, sizes=[48])
    new, old = run(state=stream.init(jax.random.key(4))), run(state=stream.init(jax.random.PRNGKey(4)))
    assert equal(new, old)
    other = run(state=stream.init(jax.random.key(5)))
    assert not np.isclose(new[0].observation, other[0].observation).any()
    rbg = run(state=stream.init(jax.random.key(4, impl="rbg")))
    assert not np.isclose(new[0].observation, rbg[0].observation).any()
    assert equal(rbg, run(state=stream.init(jax.random.PRNGKey(4, impl="rbg"))))


@pytest.mark.parametrize("key", [0, None, np.zeros(2)])
def test_what_is_no_key(key: Any) -> None:
    with pytest.raises(TypeError, match="key must come from jax.random.key or jax.random.PRNGKey"):
        RandomWalkStream(3).init(key)


def test_step_takes_late_steps_and_refuses_negative_ones() -> None:
    stream = RandomWalkStream(3)
    state = stream.init(jax.random.key(0))
    late = stream.step(state, 2**32 - 1)[0].observation
    assert jnp.array_equal(late, stream.step(state, jnp.uint32(2**32 - 1))[0].observation)
    with pytest.raises(OverflowError):
        stream.step(state, -1)


def test_equal_streams_compile_once() -> None:
    from alberta_nb.streams import base

    RandomWalkStream(13).step(RandomWalkStream(13).init(jax.random.key(0)), 0)
    before = base._step._cache_size()
    stream = RandomWalkStream(13)
    state = stream.init(jax.random.key(1))
    for idx in range(3):
        state = stream.step(state, idx)[1]
    assert base._step._cache_size() == before


@each_stream
def test_advance_uses_only_what_one_native_loop_can_hold(stream: Stream) -> None:
    state = stream.init(jax.random.key(0))
    row = jax.eval_shape(lambda s: jax.tree.map(lambda a: a[0], stream.noise(s, 0, 1)), state)
    text = str(jax.make_jaxpr(stream.advance)(state, row, jnp.uint32(0)))
    for name in (
        "sort",
        "scatter",
        "dot_general",
        "threefry",
        "random_",
        "while",
        "scan",
        "erf_inv",
        "callback",
        " exp",
    ):
        assert name not in text, f"advance uses {name}"


@each_stream
def test_float64(stream: Stream) -> None:
    narrow = walk(stream, stream.init(jax.random.key(1)), 0, [48])
    with jax.enable_x64(True):
        wide = walk(stream, stream.init(jax.random.key(1)), 0, [48])
        assert wide[0].observation.dtype == wide[0].target.dtype == jnp.float64
    size = np.abs(np.asarray(narrow[0].target)).max()
    assert np.allclose(wide[0].observation, narrow[0].observation, rtol=1e-5)
    assert np.allclose(wide[0].target, narrow[0].target, rtol=1e-5, atol=1e-5 * size)


# --- targets ---


@each_stream
def test_true_weights_make_the_target_but_for_the_noise(stream: Stream) -> None:
    key = jax.random.key(6)
    seen, states = watch(stream, key, 400)
    clean = np.sum(np.asarray(stream.true_weights(states), float) * np.asarray(seen.observation, float), axis=1)
    left = np.asarray(seen.target[:, 0]) - clean
    inner: Any = stream
    while isinstance(inner, StreamAround):
        inner = inner.inner_stream
    if inner.noise_std == 0:
        assert np.abs(left).max() < 1e-5
        return
    assert abs(left.std() / inner.noise_std - 1) < 4 / np.sqrt(2 * 400)
    assert abs(left.mean()) < 4 * inner.noise_std / 20
    silent = dataclasses.replace(inner, noise_std=0.0)
    silent = silent if inner is stream else dataclasses.replace(stream, inner_stream=silent)  # type: ignore[type-var]
    quiet = watch(silent, key, 400)[0].target[:, 0]
    assert np.abs(quiet - clean).max() < 1e-5 * np.abs(clean).max()


def test_a_world_without_noise_or_features() -> None:
    seen, _ = watch(RandomWalkStream(4, noise_std=0.0, feature_std=0.0), jax.random.key(0), 10)
    assert not seen.observation.any() and not seen.target.any()


# --- the five worlds ---


def test_watch() -> None:
    stream = AbruptChangeStream(3)
    seen, states = watch(stream, jax.random.key(0), 5)
    assert seen.observation.shape == (5, 3) and states.true_weights.shape == (5, 3)
    with pytest.raises(ValueError, match="num_steps must be 1 or more, got 0"):
        watch(stream, jax.random.key(0), 0)


def test_random_walk_moves_by_its_drift_rate() -> None:
    stream = RandomWalkStream(100, drift_rate=0.02, feature_std=3.0)
    seen, states = watch(stream, jax.random.key(0), 1000)
    weights = np.asarray(states.true_weights)
    steps = np.diff(weights, axis=0)
    assert abs(steps.std() / 0.02 - 1) < 4 / np.sqrt(2 * steps.size)
    assert abs(np.mean(steps[1:] * steps[:-1])) < 4 * 0.02**2 / np.sqrt(steps.size)
    assert abs(np.std(weights[-1] - weights[0]) / (0.02 * np.sqrt(999)) - 1) < 4 / np.sqrt(2 * 100)
    x = np.asarray(seen.observation)
    assert abs(x.std() / 3 - 1) < 4 / np.sqrt(2 * x.size) and abs(x.mean()) < 4 * 3 / np.sqrt(x.size)


def test_start_is_standard_normal() -> None:
    states = jax.vmap(RandomWalkStream(50).init)(jax.random.split(jax.random.key(0), 200))
    weights = np.asarray(states.true_weights)
    assert abs(weights.std() - 1) < 4 / np.sqrt(2 * 10_000) and abs(weights.mean()) < 4 / 100


def test_abrupt_change_points() -> None:
    _, states = watch(AbruptChangeStream(60, change_interval=25), jax.random.key(0), 1000)
    weights = np.asarray(states.true_weights)
    (changed,) = np.nonzero((weights[1:] != weights[:-1]).any(1))
    assert (changed + 1).tolist() == list(range(25, 1000, 25))
    assert np.all(weights[changed] != weights[changed + 1])
    segments = weights[::25]
    assert abs(segments.std() - 1) < 4 / np.sqrt(2 * segments.size)
    assert abs(np.mean(segments[1:] * segments[:-1])) < 4 / np.sqrt(segments.size)


def test_cyclic_configurations_return() -> None:
    _, states = watch(CyclicStream(3, cycle_length=10, num_configurations=4), jax.random.key(0), 120)
    weights = np.asarray(states.true_weights)
    assert np.array_equal(weights[:40], weights[40:80]) and np.array_equal(weights[:40], weights[80:])
    assert len(np.unique(weights, axis=0)) == 4
    (changed,) = np.nonzero((weights[1:] != weights[:-1]).any(1))
    assert (changed + 1).tolist() == list(range(10, 120, 10))


def test_periodic_weights_are_sines() -> None:
    stream = PeriodicChangeStream(40, period=50, amplitude=0.4)
    state = stream.init(jax.random.key(0))
    _, states = watch(stream, jax.random.key(0), 150)
    weights = np.asarray(states.true_weights)
    assert np.array_equal(weights[:50], weights[50:100])
    t = np.arange(150)[:, None]
    expected = np.asarray(state.centers) + 0.4 * np.sin(2 * np.pi * t / 50 + np.asarray(state.phases, float))
    assert np.allclose(weights, expected, atol=2e-6)
    phases = np.asarray(state.phases)
    assert phases.min() >= 0 and phases.max() < 2 * np.pi and abs(phases.mean() - np.pi) < 4 * np.pi / np.sqrt(3 * 40)


def test_periodic_change_keeps_its_digits_late() -> None:
    stream = PeriodicChangeStream(4, period=1000, noise_std=0.0)
    state = stream.init(jax.random.key(0))
    early, late = stream.step(state, 123)[1], stream.step(state, 4_000_000_123)[1]
    assert jnp.array_equal(early.true_weights, late.true_weights)


def test_sutton_experiment_1() -> None:
    stream = SuttonExperiment1Stream()
    seen, states = watch(stream, jax.random.key(0), 40_000)
    weights = np.asarray(states.true_weights)
    assert weights[0].tolist() == [1.0] * 5 + [0.0] * 15
    flipped = weights[1:] != weights[:-1]
    (changed,) = np.nonzero(flipped.any(1))
    assert (changed + 1).tolist() == list(range(20, 40_000, 20)) and np.all(flipped[changed].sum(1) == 1)
    assert np.all(np.abs(weights[:, :5]) == 1) and not weights[:, 5:].any()
    share = flipped[:, :5].sum(0) / len(changed)
    assert np.abs(share - 0.2).max() < 4 * np.sqrt(0.16 / len(changed))
    target = np.asarray(seen.target[:, 0])
    assert abs(target.mean()) < 4 * np.sqrt(5 / 40_000) and abs(target.var() - 5) < 4 * 5 * np.sqrt(2 / 40_000)
    assert np.allclose(np.sum(weights * np.asarray(seen.observation), 1), target, atol=1e-5)


@pytest.mark.parametrize("first", [0, 5, 37])
@pytest.mark.parametrize(("interval", "cycle"), [(1, None), (4, None), (100, None), (4, 3), (2, 12), (1, 1)])
def test_hold(first: int, interval: int, cycle: int | None) -> None:
    key = key_data(jax.random.key(0))
    rows = jax.jit(hold, static_argnums=(2, 3, 4, 5))(key, jnp.uint32(first), 40, 2, interval, cycle)
    table = np.asarray(normal(key, 0, 100, 2))
    segment = np.arange(first, first + 40) // interval
    assert np.array_equal(rows, table[segment if cycle is None else segment % cycle])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: RandomWalkStream(0), ValueError, "feature_dim must be 1 or more, got 0"),
        (lambda: RandomWalkStream(2.5), TypeError, "feature_dim must be a whole number, got 2.5"),  # type: ignore[arg-type]
        (lambda: RandomWalkStream(2, drift_rate=-1.0), ValueError, r"drift_rate must be a finite number in \[0.0"),
        (lambda: RandomWalkStream(2, noise_std=float("nan")), ValueError, "noise_std must be .* got nan"),
        (lambda: RandomWalkStream(2, feature_std=-1.0), ValueError, "feature_std must be .* got -1.0"),
        (lambda: AbruptChangeStream(2, change_interval=0), ValueError, "change_interval must be 1 or more, got 0"),
        (lambda: CyclicStream(2, cycle_length=0), ValueError, "cycle_length must be 1 or more"),
        (lambda: CyclicStream(2, num_configurations=0), ValueError, "num_configurations must be 1 or more"),
        (lambda: PeriodicChangeStream(2, period=0), ValueError, "period must be 1 or more"),
        (lambda: PeriodicChangeStream(2, amplitude=float("inf")), ValueError, "amplitude must be .* got inf"),
        (lambda: SuttonExperiment1Stream(num_relevant=0), ValueError, "num_relevant must be 1 or more"),
        (lambda: SuttonExperiment1Stream(num_irrelevant=-1), ValueError, "num_irrelevant must be 0 or more"),
        (lambda: SuttonExperiment1Stream(change_interval=0), ValueError, "change_interval must be 1 or more"),
        (lambda: DynamicScaleShiftStream(2, min_scale=2.0, max_scale=1.0), ValueError, "min_scale must not exceed"),
        (
            lambda: DynamicScaleShiftStream(2, min_scale=0.0),
            ValueError,
            r"min_scale must be .* in \(0.0, inf\), got 0.0",
        ),
        (lambda: DynamicScaleShiftStream(2, scale_change_interval=0), ValueError, "scale_change_interval must be 1"),
        (lambda: DynamicScaleShiftStream(2, weight_change_interval=0), ValueError, "weight_change_interval must be 1"),
        (
            lambda: ScaleDriftStream(2, min_log_scale=1.0, max_log_scale=-1.0),
            ValueError,
            "min_log_scale must not exceed",
        ),
        (lambda: ScaleDriftStream(2, max_log_scale=1000.0), ValueError, "max_log_scale must be .* got 1000.0"),
        (lambda: ScaleDriftStream(2, weight_drift_rate=-1.0), ValueError, "weight_drift_rate must be"),
        (lambda: ScaleDriftStream(2, scale_drift_rate=-1.0), ValueError, "scale_drift_rate must be"),
        (lambda: make_scale_range(0), ValueError, "feature_dim must be 1 or more, got 0"),
        (lambda: make_scale_range(3, 2.0, 1.0), ValueError, "min_scale must not exceed max_scale, got 2.0 and 1.0"),
        (lambda: make_scale_range(3, -1.0), ValueError, r"min_scale must be .* got -1.0"),
        (lambda: make_scale_range(3, max_scale="big"), TypeError, "max_scale must be a number"),  # type: ignore[arg-type]
        (lambda: ScaledStreamWrapper(Walk(), [1.0]), ValueError, r"feature_scales must have shape \(2,\), got \(1,\)"),
        (lambda: ScaledStreamWrapper(Walk(), [1.0, 0.0]), ValueError, r"finite and positive, got \[0.0\]"),
        (lambda: ScaledStreamWrapper(Walk(), [1.0, -2.0]), ValueError, r"finite and positive, got \[-2.0\]"),
        (lambda: ScaledStreamWrapper(Walk(), [np.nan, 1e39]), ValueError, r"finite and positive, got \[nan, 1e\+39\]"),
        (lambda: ScaledStreamWrapper(Walk(), ["a", "b"]), TypeError, "feature_scales must be numbers, got dtype <U1"),
        (lambda: ScaledStreamWrapper("stream", [1.0]), TypeError, "inner_stream must have init, step and feature_dim"),
    ],
)
def test_bad_settings(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_methods_that_a_subclass_must_give() -> None:
    class Empty(Stream):
        feature_dim: int = 1

    stream, key = Empty(), jax.random.key(0)
    for call in (lambda: stream.init(key), lambda: stream.step((), 0), lambda: stream.true_weights(())):
        with pytest.raises(NotImplementedError, match="Empty"):
            call()


# --- scales ---


@pytest.mark.parametrize("log_spaced", [True, False])
def test_make_scale_range(log_spaced: bool) -> None:
    scales = make_scale_range(5, 0.5, 8.0, log_spaced)
    expected = [0.5, 1, 2, 4, 8] if log_spaced else [0.5, 2.375, 4.25, 6.125, 8]
    assert isinstance(scales, Array) and scales.dtype == jnp.float32 and np.allclose(scales, expected, rtol=1e-6)
    assert make_scale_range(1, 0.5, 8.0, log_spaced).tolist() == [0.5]
    assert make_scale_range(2, 3.0, 3.0).tolist() == [3.0, 3.0]


@pytest.mark.parametrize("scales", [[0.5, 2.0], (0.5, 2), np.array([0.5, 2.0]), jnp.array([0.5, 2.0])])
def test_wrapper_keeps_scales_as_floats(scales: Any) -> None:
    wrapped = ScaledStreamWrapper(RandomWalkStream(2), scales)
    assert wrapped.feature_scales == (0.5, 2.0) and all(type(s) is float for s in wrapped.feature_scales)
    assert wrapped == ScaledStreamWrapper(RandomWalkStream(2), (0.5, 2.0)) and wrapped.feature_dim == 2


def test_wrapper_scales_what_is_seen_and_nothing_else() -> None:
    inner, scales = CyclicStream(4), jnp.array([0.001, 1.0, 7.0, 1000.0])
    wrapped = ScaledStreamWrapper(inner, scales)
    a, inside = watch(inner, jax.random.key(0), 60)
    b, states = watch(wrapped, jax.random.key(0), 60)
    assert equal(inside, states) and jnp.array_equal(a.target, b.target)
    assert jnp.array_equal(a.observation * scales, b.observation)
    assert jnp.allclose(wrapped.true_weights(states) * scales, inner.true_weights(inside), rtol=1e-6)


def test_wrapper_around_a_users_stream() -> None:
    inner = Walk()
    wrapped = ScaledStreamWrapper(inner, [10.0, 0.1])
    assert not wrapped.paged and not ScaledStreamWrapper(wrapped, [1.0, 2.0]).paged
    key = jax.random.key(0)
    state, plain = wrapped.init(key), inner.init(key)
    for idx in range(3):
        time_step, state = wrapped.step(state, jnp.uint32(idx))
        expected, plain = inner.step(plain, jnp.uint32(idx))
        assert jnp.allclose(time_step.observation, expected.observation * jnp.array([10.0, 0.1]))
        assert jnp.array_equal(time_step.target, expected.target)
    assert watch(wrapped, key, 5)[0].observation.shape == (5, 2)
    assert hash(wrapped) == hash(ScaledStreamWrapper(inner, [10.0, 0.1]))
    with pytest.raises(TypeError, match="inner_stream must be settings or plain data to go into a config, got Walk"):
        wrapped.to_config()


def test_dynamic_scales_change_at_their_own_times() -> None:
    stream = DynamicScaleShiftStream(50, scale_change_interval=30, weight_change_interval=20)
    _, states = watch(stream, jax.random.key(0), 3000)
    for values, interval in ((states.scales, 30), (states.true_weights, 20)):
        values = np.asarray(values)
        (changed,) = np.nonzero((values[1:] != values[:-1]).any(1))
        assert (changed + 1).tolist() == list(range(interval, 3000, interval))
    logs = np.log10(np.asarray(states.scales)[::30]).ravel()
    assert logs.min() > -2 - 1e-5 and logs.max() < 2 + 1e-5
    assert abs(logs.mean()) < 4 * np.sqrt(16 / 12 / logs.size) and abs(logs.var() / (16 / 12) - 1) < 0.1
    weights = np.asarray(states.true_weights)[::20]
    assert abs(weights.std() - 1) < 4 / np.sqrt(2 * weights.size)


def test_dynamic_weights_are_those_of_the_abrupt_stream() -> None:
    key = jax.random.key(3)
    _, a = watch(DynamicScaleShiftStream(4, weight_change_interval=9), key, 40)
    seen, b = watch(AbruptChangeStream(4, change_interval=9), key, 40)
    assert jnp.array_equal(a.true_weights, b.true_weights)


def test_scale_drift_walks_within_its_range() -> None:
    stream = ScaleDriftStream(100, scale_drift_rate=0.02, weight_drift_rate=0.005)
    _, states = watch(stream, jax.random.key(0), 1500)
    logs = np.log(np.asarray(states.scales, float))
    assert np.abs(logs).max() <= 4 + 1e-6
    steps = np.diff(logs, axis=0)[np.abs(logs[1:]) < 3.5]
    assert abs(steps.std() / 0.02 - 1) < 0.01
    moves = np.diff(np.asarray(states.true_weights), axis=0)
    assert abs(moves.std() / 0.005 - 1) < 0.01
    first = logs[0]
    assert abs(first.mean()) < 4 * np.sqrt(64 / 12 / 100) and abs(first.std() - np.sqrt(64 / 12)) < 0.5


def test_scale_drift_stops_at_the_ends() -> None:
    stream = ScaleDriftStream(20, scale_drift_rate=1.0, min_log_scale=-0.5, max_log_scale=0.25)
    _, states = watch(stream, jax.random.key(0), 200)
    scales = np.asarray(states.scales)
    assert np.isclose(scales.min(), np.exp(-0.5)) and np.isclose(scales.max(), np.exp(0.25))
    assert np.isclose(scales, np.exp(-0.5)).mean() > 0.2 and np.isclose(scales, np.exp(0.25)).mean() > 0.2


@pytest.mark.parametrize("zero", [0, 0.0, np.float32(0), jnp.array(0)])
def test_a_scale_of_0_has_no_logarithm(zero: Any) -> None:
    assert make_scale_range(3, zero, 100.0, log_spaced=False).tolist() == [0.0, 50.0, 100.0]
    for call in (lambda: make_scale_range(3, zero, 1.0), lambda: DynamicScaleShiftStream(3, min_scale=zero)):
        with pytest.raises(ValueError, match=r"min_scale must be a finite number in \(0.0, inf\)"):
            call()
    with pytest.raises(ValueError, match="min_scale must be a finite number in"):
        make_scale_range(3, -1.0, 1.0, log_spaced=False)
    assert make_scale_range(np.int8(3), jnp.array(1.0), np.float64(4.0)).tolist() == [1.0, 2.0, 4.0]
