"""The normalisers: exact statistics of the prefix, exact debiasing, bounds on the output, long lives, errors."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alberta_nb as ab
from alberta_nb.learners.base import first_state
from alberta_nb.normalizers import (
    EMANormalizer,
    EMANormalizerState,
    Normalizer,
    WelfordNormalizer,
    WelfordNormalizerState,
    largest_count,
    next_count,
    normalizer_from_config,
)

KINDS = [EMANormalizer, WelfordNormalizer]
RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((60, 4)) * [900.0, 8.0, 0.15, 2.0] + [101_300.0, 283.0, 0.7, 4.0]


def states(normalizer: Normalizer, rows: np.ndarray) -> list:
    """The state after each row."""
    update = jax.jit(normalizer.update_only)
    state, out = normalizer.init(rows.shape[1]), []
    for row in rows:
        state = update(state, jnp.asarray(row))
        out.append(state)
    return out


def outputs(normalizer: Normalizer, rows: np.ndarray) -> tuple[np.ndarray, object]:
    """All outputs and the last state, as one scan."""

    @jax.jit
    def run(rows: jax.Array) -> tuple:
        return jax.lax.scan(lambda s, x: normalizer.normalize(s, x)[::-1], normalizer.init(rows.shape[1]), rows)

    state, found = run(jnp.asarray(rows))
    return np.asarray(found), state


# --- the contract ---


def test_defaults_and_fields() -> None:
    assert EMANormalizer() == EMANormalizer(epsilon=1e-8, decay=0.99) == EMANormalizer(1e-8, 0.99)
    assert WelfordNormalizer() == WelfordNormalizer(epsilon=1e-8) == WelfordNormalizer(1e-8)
    for name in ("mean", "var", "sample_count", "decay"):
        assert hasattr(EMANormalizer().init(3), name)
    for name in ("mean", "var", "sample_count", "p"):
        assert hasattr(WelfordNormalizer().init(3), name)


@pytest.mark.parametrize("kind", KINDS)
def test_normalize_is_update_then_scale(kind: type[Normalizer]) -> None:
    normalizer = kind()
    state = normalizer.init(4)
    for row in ROWS[:5]:
        updated = normalizer.update_only(state, row)
        output, new = normalizer.normalize(state, row)
        assert jax.tree.all(jax.tree.map(jnp.array_equal, updated, new))
        assert jnp.array_equal(output, normalizer.normalize_only(updated, row))
        mean, var = normalizer.moments(new)
        assert np.allclose(output, (np.float32(row) - mean) / np.sqrt(var + 1e-8), rtol=1e-5)
        assert output.shape == (4,) and output.dtype == jnp.float32
        state = new
    assert int(state.sample_count) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_config_round_trip(kind: type[Normalizer]) -> None:
    normalizer = kind(epsilon=1e-6)
    config = normalizer.to_config()
    assert config["type"] == kind.__name__
    assert normalizer_from_config(config) == normalizer
    assert hash(normalizer_from_config(config)) == hash(normalizer)


def test_states_are_immutable_pytrees() -> None:
    state = WelfordNormalizer().init(2)
    with pytest.raises(AttributeError):
        state.mean = jnp.ones(2)
    assert state.replace(mean=jnp.ones(2)).mean.sum() == 2
    assert len(jax.tree.leaves(state)) == 3
    assert len(jax.tree.leaves(EMANormalizer().init(2))) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_user_can_bring_another_one(kind: type[Normalizer]) -> None:
    class Centre(kind):  # type: ignore[misc, valid-type]
        def moments(self, state: object) -> tuple:
            return state.mean, jnp.ones_like(state.mean)  # type: ignore[attr-defined]

    output, _ = Centre().normalize(Centre().init(1), jnp.array([7.0]))
    assert abs(float(output[0])) < 7.0


# --- Welford ---


@pytest.mark.usefixtures("float64")
def test_welford_equals_numpy_of_the_prefix() -> None:
    for k, state in enumerate(states(WelfordNormalizer(), ROWS), start=1):
        assert np.allclose(state.mean, ROWS[:k].mean(0), rtol=1e-14)
        assert int(state.sample_count) == k
        if k > 1:
            assert np.allclose(state.var, ROWS[:k].var(0, ddof=1), rtol=1e-12)
            assert np.allclose(state.p, ((ROWS[:k] - ROWS[:k].mean(0)) ** 2).sum(0), rtol=1e-12)
        else:
            assert np.array_equal(state.var, np.ones(4)) and np.array_equal(state.p, np.zeros(4))


@pytest.mark.usefixtures("float64")
def test_welford_first_outputs() -> None:
    found, _ = outputs(WelfordNormalizer(), ROWS[:2])
    assert np.array_equal(found[0], np.zeros(4))
    assert np.allclose(np.abs(found[1]), 1 / np.sqrt(2), rtol=1e-5)


def test_welford_keeps_digits_where_sums_of_squares_lose_them() -> None:
    rows = np.random.default_rng(1).standard_normal((20_000, 1)) * 900 + 101_300
    _, state = outputs(WelfordNormalizer(), rows)
    assert abs(float(state.var[0]) / rows.var(ddof=1) - 1) < 2e-4


def test_welford_p_of_a_batch() -> None:
    batch = jax.vmap(lambda x: WelfordNormalizer().update_only(WelfordNormalizer().init(2), x))(jnp.ones((3, 2)))
    assert batch.p.shape == (3, 2)


# --- the moving average ---


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("decay", [0.3, 0.9, 0.99, 1.0])
def test_ema_equals_the_weighted_sample(decay: float) -> None:
    adam = 0.0
    for k, state in enumerate(states(EMANormalizer(decay=decay), ROWS), start=1):
        weights = decay ** np.arange(k - 1, -1, -1.0)
        assert np.allclose(state.weight_sum, weights.sum(), rtol=1e-14)
        weights /= weights.sum()
        mean = weights @ ROWS[:k]
        assert np.allclose(state.mean, mean, rtol=1e-13)
        assert np.allclose(state.var, weights @ (ROWS[:k] - mean) ** 2, rtol=1e-8)
        adam = decay * adam + (1 - decay) * ROWS[k - 1]
        if decay < 1:
            assert np.allclose(state.mean, adam / (1 - decay**k), rtol=1e-13)


@pytest.mark.usefixtures("float64")
def test_ema_with_decay_one_is_the_plain_average() -> None:
    for k, state in enumerate(states(EMANormalizer(decay=1.0), ROWS), start=1):
        assert np.allclose(state.mean, ROWS[:k].mean(0), rtol=1e-14)
        assert np.allclose(state.var, ROWS[:k].var(0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("decay", [0.5, 0.99, 0.9999, 1.0])
def test_ema_constant_input_gives_its_value_from_the_first_step(decay: float) -> None:
    for state in states(EMANormalizer(decay=decay), np.full((200, 1), 10.0)):
        assert float(state.mean[0]) == 10.0
        assert float(state.var[0]) == 0.0


def test_ema_memory() -> None:
    decay = 0.99
    _, state = outputs(EMANormalizer(decay=decay), np.random.default_rng(1).standard_normal((2000, 4000)))
    memory = (1 + decay) / (1 - decay)
    standard_error = np.sqrt(2 / memory / 4000)
    assert abs(float(state.var.mean()) - (1 - 1 / memory)) < 4 * standard_error
    assert abs(float(state.mean.var()) * memory - 1) < 4 * np.sqrt(2 / 4000)


# --- both: bounds, scales, constant wires ---


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("at", [1, 5, 50, 200])
def test_no_output_passes_the_bound(at: int) -> None:
    rows = 0.01 * np.random.default_rng(2).standard_normal((at + 1, 1))
    rows[at] = 1e9
    n = at + 1
    ema, welford = np.sqrt((1 - 0.99**n) / 0.01 - 1), (n - 1) / np.sqrt(n)
    for normalizer, bound in ((EMANormalizer(clip=None), ema), (WelfordNormalizer(clip=None), welford)):
        found, _ = outputs(normalizer, rows)
        assert np.abs(found).max() <= bound * (1 + 1e-12)
        assert abs(found[-1, 0] / bound - 1) < 1e-6, "the bound is tight"


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_do_not_depend_on_units(kind: type[Normalizer]) -> None:
    normalizer = kind(epsilon=1e-30)
    found, _ = outputs(normalizer, ROWS)
    other, _ = outputs(normalizer, ROWS * [1e-3, 1e3, -1.0, 7.0] + [0.0, 5.0, 1.0, -3.0])
    signs = np.array([1, 1, -1, 1])
    # The first row is left out: a variance that nothing has touched yet has no unit.
    assert np.allclose(found[1:], signs * other[1:], rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", KINDS)
def test_wires_do_not_mix(kind: type[Normalizer]) -> None:
    found, _ = outputs(kind(), ROWS)
    order = np.array([2, 0, 3, 1])
    assert np.allclose(outputs(kind(), ROWS[:, order])[0], found[:, order], rtol=1e-12, atol=1e-12)
    assert np.allclose(outputs(kind(), ROWS[:, :1])[0], found[:, :1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_epsilon_stands_inside_the_root(kind: type[Normalizer]) -> None:
    state = states(kind(), np.ones((100, 1)))[-1]
    output = kind().normalize_only(state, jnp.array([1.0 + 1e-3]))
    assert abs(float(output[0]) - 1e-3 / np.sqrt(1e-8)) < 0.01


def test_ema_follows_a_change_of_unit_and_welford_does_not() -> None:
    rows = np.random.default_rng(4).standard_normal((6000, 200)) * np.where(np.arange(6000) < 3000, 1, 0.01)[:, None]
    ema, _ = outputs(EMANormalizer(), rows)
    welford, _ = outputs(WelfordNormalizer(), rows)
    assert abs(np.sqrt((ema[-500:] ** 2).mean()) - 1) < 0.05
    assert np.sqrt((welford[-500:] ** 2).mean()) < 0.03


# --- a long life ---


def test_counter_stops_at_its_end() -> None:
    assert [int(next_count(jnp.uint32(c))) for c in (0, 2**31, 2**32 - 2, 2**32 - 1)] == [
        1,
        2**31 + 1,
        2**32 - 1,
        2**32 - 1,
    ]


@pytest.mark.parametrize("count", [2**24, 2**31, 2**32 - 1])
def test_welford_late_in_life(count: int) -> None:
    one = jnp.ones(2000)
    state = WelfordNormalizerState(mean=0 * one, var=1.3 * one, sample_count=jnp.uint32(count))
    share = float(WelfordNormalizer().update_only(state, one).mean[0])
    assert share == 1 / largest_count(jnp.float32) == 2.0**-20

    @jax.jit
    def live(state: WelfordNormalizerState, rows: jax.Array) -> WelfordNormalizerState:
        return jax.lax.scan(lambda s, x: (WelfordNormalizer().update_only(s, x), None), state, rows)[0]

    rows = np.sqrt(1.3) * np.random.default_rng(5).standard_normal((3000, 2000))
    moved = np.asarray(live(state, jnp.asarray(rows)).var, float) - 1.3
    # The change over 3000 samples is what exact numbers give, although each correction is a few units of the last bit:
    # what rounding adds would move the variance by less than a percent before its own pull stops it.
    expected = ((rows**2 - 1.3) / 2**20).sum(0)
    assert np.corrcoef(moved, expected)[0, 1] > 0.99
    assert abs((moved - expected).mean()) / (3000 / 2**20) < 0.01 * 1.3


def test_ema_late_in_life() -> None:
    state = EMANormalizer(decay=1.0).init(1).replace(weight_sum=jnp.float32(2**20))
    later = EMANormalizer(decay=1.0).update_only(state, jnp.ones(1))
    assert float(later.weight_sum) == 2**20 and float(later.mean[0]) == 2.0**-20
    assert isinstance(later, EMANormalizerState)


# --- errors ---


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: EMANormalizer(decay=0.0), ValueError, r"decay must be a finite number in \(0.0, 1.0\], got 0.0"),
        (lambda: EMANormalizer(decay=1.1), ValueError, "decay .* got 1.1"),
        (lambda: EMANormalizer(decay=float("nan")), ValueError, "decay .* got nan"),
        (lambda: EMANormalizer(decay="slow"), TypeError, "decay must be a number, got 'slow'"),
        (lambda: EMANormalizer(epsilon=0.0), ValueError, "epsilon .* got 0.0"),
        (lambda: WelfordNormalizer(epsilon=-1e-8), ValueError, "epsilon .* got -1e-08"),
        (lambda: WelfordNormalizer().init(0), ValueError, "feature_dim must be 1 or more, got 0"),
        (lambda: EMANormalizer().init(2.5), TypeError, "feature_dim must be a whole number, got 2.5"),
        (lambda: normalizer_from_config({"type": "ZScore"}), ValueError, "EMANormalizer.*WelfordNormalizer.*'ZScore'"),
        (lambda: normalizer_from_config({"type": "EMANormalizer", "rate": 1}), ValueError, "no setting .*rate"),
        (lambda: normalizer_from_config({"type": "LMS"}), ValueError, "must be one of .*'LMS'"),
    ],
)
def test_errors_of_settings(make, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ["normalize", "normalize_only", "update_only"])
def test_errors_of_observations(kind: type[Normalizer], verb: str) -> None:
    normalizer = kind()
    for wrong in (jnp.ones(4), jnp.ones(()), jnp.ones((1, 3))):
        with pytest.raises(ValueError, match=r"observation must have shape \(3,\), got"):
            getattr(normalizer, verb)(normalizer.init(3), wrong)
    with pytest.raises(TypeError, match="observation must be numeric"):
        getattr(normalizer, verb)(normalizer.init(2), ["a", "b"])


# --- the guards ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quiet", [100, 5000])
def test_what_was_quiet_is_bounded_when_it_moves(kind: type[Normalizer], quiet: int) -> None:
    rows = np.zeros((quiet + 10, 2))
    rows[:, 0] = np.random.default_rng(0).standard_normal(len(rows))
    rows[quiet:, 1] = [1, 0, 1, 1e9, 0, -1e9, 1, 1, 0, 1e-9]
    for clip in (10.0, 2.5):
        found, state = outputs(kind(clip=clip), rows)
        assert np.abs(found).max() <= clip and np.isfinite(found).all()
        ahead = kind(clip=clip).normalize_only(state, jnp.array([1e30, -1e30]))  # asked before it was seen
        assert ahead.tolist() == [clip, -clip]
    free, _ = outputs(kind(clip=None), rows)
    held, _ = outputs(kind(), rows)
    assert np.allclose(held, np.clip(free, -10, 10), rtol=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_leaves_ordinary_inputs_as_they_are(kind: type[Normalizer]) -> None:
    assert np.array_equal(outputs(kind(), ROWS)[0], outputs(kind(clip=None), ROWS)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_bound_is_a_positive_number_or_none(kind: type[Normalizer]) -> None:
    assert (EMANormalizer().clip, WelfordNormalizer().clip) == (None, 10.0)
    assert kind(clip=np.float32(4)) == kind(clip=4.0) and kind(clip=None).to_config()["clip"] is None
    for wrong, error in ((0.0, ValueError), (-1.0, ValueError), (np.inf, ValueError), ("10", TypeError)):
        with pytest.raises(error, match="^clip must be"):
            kind(clip=wrong)


def test_nan_is_not_bounded_away() -> None:
    for kind in KINDS:
        output, _ = kind().normalize(kind().init(2), jnp.array([np.nan, 1.0]))
        assert jnp.isnan(output).tolist() == [True, False]


CONSTANTS = [0.1, -3.0, 1013.2, 1e6 + 0.1, -3e7, 1e15, 1e-15, 0.0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wide", [False, True])
def test_a_constant_is_0(kind: type[Normalizer], wide: bool) -> None:
    with jax.enable_x64(wide):
        found, _ = outputs(kind(), np.tile(CONSTANTS, (3000, 1)))
    assert not found.any()


@pytest.mark.parametrize("decay", [0.9, 0.99])
def test_what_comes_to_stand_still_becomes_0(decay: float) -> None:
    before = np.random.default_rng(0).standard_normal((100, len(CONSTANTS))) * np.abs(CONSTANTS)
    found, state = outputs(EMANormalizer(decay=decay), np.vstack([before, np.tile(CONSTANTS, (20_000, 1))]))
    assert not found[-1].any() and np.array_equal(state.mean, np.float32(CONSTANTS))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1e5, 1e9])
def test_rounding_is_no_signal(kind: type[Normalizer], size: float) -> None:
    last = np.nextafter(np.float32(size), np.float32(np.inf))
    rows = np.where(np.random.default_rng(0).random((3000, 1)) < 0.5, np.float32(size), last)
    assert np.abs(outputs(kind(), rows)[0]).max() < 0.2
    moving = np.float32(size) + np.float32(size / 100) * np.random.default_rng(1).standard_normal((3000, 1))
    assert 0.9 < np.abs(outputs(kind(), moving)[0][1000:]).std() * 1.66 < 1.1  # of a normal |z|: .603


def test_the_gate_stands_before_a_normaliser() -> None:
    for kind in KINDS:
        state = kind().init(2)
        for given in ([2**40, 1], np.array([2**40, 1], ">i8"), np.array([2**40, 1], np.longdouble)):
            assert float(kind().update_only(state, given).mean[0]) == 2.0**40
        with pytest.raises(TypeError, match="observation must have no mask"):
            kind().update_only(state, np.ma.array([1.0, 2.0]))


RAMP = np.random.default_rng(0).standard_normal((12, 3))
MAKERS: list[Callable[[Any], Any]] = [
    lambda n: ab.LinearLearner(ab.Autostep(), n),
    lambda n: ab.PopArt(ab.LinearLearner(ab.LMS(0.1), n)),
    lambda n: ab.MLPLearner((4,), ab.LMS(0.1), bounder=ab.ObGDBounding(), normalizer=n),
    lambda n: ab.PopArt(ab.MLPLearner((), ab.LMS(0.1), gamma=0.5, lamda=0.5, normalizer=n)),
    lambda n: ab.LearnerBank([ab.LinearLearner(ab.IDBD(), n), ab.LinearLearner(ab.LMS(0.1))]),
]


@pytest.mark.parametrize("normalizer", [None, ab.EMANormalizer(), ab.WelfordNormalizer()])
@pytest.mark.parametrize("kind", MAKERS)
def test_types_of_numbers_are_never_mixed(kind: Callable[[Any], Any], normalizer: Any) -> None:
    learner, source, key = kind(normalizer), ab.ArraySource(RAMP, RAMP[:, 0]), jax.random.key(0)
    state = first_state(learner, 3, key)
    free = ab.run_learning_loop(learner, source, learner_state=state, record_every=5, non_finite="skip").metrics
    with jax.numpy_dtype_promotion("strict"):
        strict = ab.run_learning_loop(learner, source, learner_state=state, record_every=5, non_finite="skip").metrics
        if hasattr(learner, "update"):
            assert np.isfinite(learner.update(state, jnp.asarray(RAMP[0]), jnp.ones(1)).metrics).all()
    np.testing.assert_allclose(strict, free, rtol=1e-6)
