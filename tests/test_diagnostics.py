"""Diagnostics of networks: known answers, and a run that does not notice that it is looked at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alberta_nb import (
    ArraySource,
    Autostep,
    BitFlippingStream,
    Diagnostics,
    DiagnosticsConfig,
    EMANormalizer,
    IteratorSource,
    LinearLearner,
    MLPLearner,
    NonFiniteError,
    NormalizerTrackingConfig,
    ObGDBounding,
    RandomWalkStream,
    TimeStep,
    diagnose,
    run_mlp_learning_loop,
    run_mlp_learning_loop_batched,
)
from alberta_nb.learners.diagnostics import dead_and_saturated, effective_rank

WORLD = RandomWalkStream(4)
LEARNER = MLPLearner((6, 5), bounder=ObGDBounding(), normalizer=EMANormalizer())
KEY = jax.random.key(0)


def equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y, equal_nan=True), a, b))


def test_effective_rank_in_float64_against_its_definition() -> None:
    with jax.enable_x64(True):
        table = np.random.default_rng(0).standard_normal((30, 7)) * 0.6 ** np.arange(7)
        s = np.linalg.svd(table, compute_uv=False)
        p = s / s.sum()
        assert np.isclose(effective_rank(jnp.asarray(table)), np.prod(p**-p), rtol=1e-12)
        assert np.isclose(effective_rank(jnp.eye(9)[:, :4]), 4.0, rtol=1e-12)


def test_a_linear_learner_is_known_by_heart() -> None:
    with jax.enable_x64(True):
        xs = np.random.default_rng(1).choice([-1.0, 1.0], size=(20, 3))
        learner = MLPLearner((), step_size=0.1)
        found = diagnose(learner, learner.init(3, KEY), TimeStep(observation=xs, target=xs[:, 0] * 2))
        assert np.isclose(found.overshoot_ratio, 1 - 0.1 * 4, rtol=1e-10)  # 1 - alpha (|x|^2 + 1)
        assert np.allclose(found.effective_step_sizes, 0.1, rtol=1e-10) and np.allclose(found.step_sizes, 0.1)


def test_shares_of_units() -> None:
    dead, saturated = dead_and_saturated(jnp.array([[-1.0, 1.0, 2.0, 0.0], [-2.0, -1.0, 1.0, 0.0]]))
    assert (dead, saturated) == (0.5, 0.25)


@pytest.mark.parametrize("world", [WORLD, BitFlippingStream(6, slow_bits=3, flip_interval=50)])
def test_looks_change_nothing_and_are_what_diagnose_sees(world, float64) -> None:
    options = {"normalizer_tracking": NormalizerTrackingConfig(50), "record_every": 20}
    looks = DiagnosticsConfig(100, probe_steps=30)
    seen = run_mlp_learning_loop(LEARNER, world, 250, KEY, diagnostics=looks, **options)
    blind = run_mlp_learning_loop(LEARNER, world, 250, KEY, **options)
    assert equal((seen[0], seen.metrics, seen.stream_state), (blind[0], blind.metrics, blind.stream_state))
    assert equal(seen[2], blind[2]) and seen.steps == 250
    history = seen[3]
    assert np.array_equal(history.recording_indices, [0, 100]) and history.dead.shape == (2, 2)
    now = run_mlp_learning_loop(LEARNER, world, 100, KEY)
    steps = [world.step]
    state, rows = now.stream_state.state, []
    for i in range(30):
        row, state = steps[0](state, 100 + i)
        rows.append(row)
    by_hand = diagnose(LEARNER, now.state, jax.tree.map(lambda *a: jnp.stack(a), *rows))
    for name, value in vars(by_hand).items():
        assert np.allclose(getattr(history, name)[1], value, rtol=1e-9, equal_nan=True), name


def test_batched_looks_are_those_of_single_runs_and_go_on() -> None:
    learner, looks = MLPLearner((5,), Autostep()), DiagnosticsConfig(50, probe_steps=20)
    keys = jax.random.split(KEY, 2)
    batch = run_mlp_learning_loop_batched(learner, WORLD, 100, keys, diagnostics=looks)
    blind = run_mlp_learning_loop_batched(learner, WORLD, 100, keys)
    assert equal((batch.states, batch.metrics), (blind.states, blind.metrics)) and blind.diagnostics_history is None
    alone = run_mlp_learning_loop(learner, WORLD, 100, keys[1], diagnostics=looks)
    found = batch.diagnostics_history
    assert found.step_sizes.shape == (2, 2, 2, 3)
    for name in Diagnostics.__annotations__:
        assert np.array_equal(getattr(found, name)[1], getattr(alone[2], name), equal_nan=True), name
    half = run_mlp_learning_loop(learner, WORLD, 50, keys[1], diagnostics=looks)
    rest = run_mlp_learning_loop(
        learner, WORLD, 50, learner_state=half.state, stream_state=half.stream_state, diagnostics=looks
    )
    assert equal(rest.metrics, alone.metrics[50:]) and equal(rest.state, alone.state)
    assert np.array_equal(rest[2].dead[0], alone[2].dead[1])


def test_given_samples_with_holes() -> None:
    xs = np.random.default_rng(2).standard_normal((90, 3))
    ys = xs[:, 0].copy()
    xs[45, 1] = np.nan
    ys[60:90] = np.nan
    source, learner, looks = ArraySource(xs, ys), MLPLearner((4,)), DiagnosticsConfig(30, probe_steps=30)
    run = run_mlp_learning_loop(learner, source, key=KEY, diagnostics=looks, non_finite="skip")
    blind = run_mlp_learning_loop(learner, source, key=KEY, non_finite="skip")
    assert equal((run.state, run.metrics), (blind.state, blind.metrics)) and run.skipped == 31
    ratio = np.asarray(run[2].overshoot_ratio)
    assert np.isfinite(ratio[:2]).all() and np.isnan(ratio[2]) and np.isnan(run[2].dead[2]).all()
    assert np.isfinite(run[2].weight_norms).all()
    with pytest.raises(NonFiniteError) as error:
        run_mlp_learning_loop(learner, source, key=KEY, diagnostics=looks)
    assert error.value.step == 45 and error.value.result.metrics.shape == (45, 3)


@pytest.mark.parametrize(
    ("learner", "world", "options", "message"),
    [
        (LEARNER, WORLD, {"diagnostics": 100}, "diagnostics must be a DiagnosticsConfig, got int"),
        (LEARNER, WORLD, {"diagnostics": DiagnosticsConfig(500)}, "diagnostics.interval must be at most num_steps"),
        (LEARNER, WORLD, {"diagnostics": DiagnosticsConfig(70), "record_every": 20}, "multiple of record_every"),
        (LinearLearner(), WORLD, {"diagnostics": DiagnosticsConfig(100)}, "learner must have|needs an MLPLearner"),
        (LEARNER, IteratorSource([], 4), {"diagnostics": DiagnosticsConfig(100)}, "can be drawn twice"),
    ],
)
def test_errors_name_the_argument(learner, world, options, message) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        run_mlp_learning_loop(learner, world, 200, KEY, **options)


def test_config_and_samples_are_checked() -> None:
    with pytest.raises(ValueError, match=r"probe_steps must be at most interval \(10\), got 64"):
        DiagnosticsConfig(10)
    state = MLPLearner((3,)).init(2, KEY)
    with pytest.raises(ValueError, match=r"got \(0, 2\) and \(0,\)"):
        diagnose(MLPLearner((3,)), state, TimeStep(observation=np.zeros((0, 2)), target=np.zeros(0)))
