"""Banks and sweeps: the numbers of separate runs, one compilation, tables that are not misled by explosions."""

import json
import math
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alberta_nb.experiments.sweep import paired_difference, seed_averages, sweep, sweep_table
from alberta_nb.horde.gvf import DemonType, GVFSpec, create_horde_spec
from alberta_nb.horde.horde import HordeLearner, HordeTimeStep
from alberta_nb.horde.multi_head import HeadsTimeStep, MultiHeadMLPLearner
from alberta_nb.learners.bank import BankResult, LearnerBank, group_by_structure, in_order, pad_columns
from alberta_nb.learners.linear import LinearLearner
from alberta_nb.learners.mlp import MLPLearner
from alberta_nb.learners.units import PopArt
from alberta_nb.loops.mlp import run_mlp_learning_loop
from alberta_nb.loops.supervised import (
    BatchedLearningResult,
    NormalizerTrackingConfig,
    StepSizeTrackingConfig,
    run_learning_loop,
    run_learning_loop_batched,
)
from alberta_nb.native.kernel import native_loops
from alberta_nb.normalizers import EMANormalizer
from alberta_nb.optimizers.autostep import Autostep
from alberta_nb.optimizers.bounders import ObGDBounding
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.optimizers.lms import LMS
from alberta_nb.optimizers.obgd import ObGD
from alberta_nb.streams.sources import ArraySource, RowsSource
from alberta_nb.streams.synthetic import RandomWalkStream, SuttonExperiment1Stream
from alberta_nb.types import Settings

WORLD, KEY = SuttonExperiment1Stream(), jax.random.key(5)
KEYS = jax.random.split(jax.random.key(0), 4)
# Not in the order of their groups, and with two widths of metrics.
MIXED = [
    LinearLearner(LMS(0.03)),
    LinearLearner(IDBD(0.03, 0.005)),
    LinearLearner(LMS(0.01)),
    LinearLearner(LMS(0.03), EMANormalizer(decay=0.999)),
    LinearLearner(Autostep(0.03, 0.01), use_bias=False),
    LinearLearner(IDBD(0.05, 0.001)),
]


class Deaf(Settings):
    """A learner that predicts 0 and has no step sizes."""

    def init(self, feature_dim: int) -> Any:
        return jnp.zeros(())

    def step(self, state: Any, time_step: Any) -> BankResult:
        y = time_step.target[0]
        return BankResult(state=state + 1, metrics=jnp.stack([y * y, y, jnp.zeros_like(y)]))


def lms(step_sizes: Any) -> list[LinearLearner]:
    return [LinearLearner(LMS(float(a)), use_bias=False) for a in step_sizes]


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    """The engine's loops that were compiled since the last `clear`."""
    heard: list[str] = []

    def listen(event: str, seconds: float, fun_name: str = "", **details: Any) -> None:
        heard.extend([fun_name] if "backend_compile" in event and "block_loop" in fun_name else [])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield heard
    jax.monitoring.unregister_event_duration_listener(listen)


# --- the bank ---


@pytest.mark.parametrize("native", [True, False])
def test_a_bank_gives_the_numbers_of_separate_runs(native: bool) -> None:
    with native_loops(native):
        bank = LearnerBank(MIXED)
        state, metrics = run_learning_loop(bank, WORLD, 1_500, KEY)
        for i, learner in enumerate(MIXED):
            alone, rows = run_learning_loop(learner, WORLD, 1_500, KEY)
            np.testing.assert_allclose(metrics[:, i, : rows.shape[1]], rows, rtol=1e-3, atol=1e-4)
            same = jax.tree.map(
                lambda a, b: bool(jnp.allclose(a, b, rtol=1e-3, atol=1e-4)), bank.member(state, i), alone
            )
            assert jax.tree.all(same)


def test_missing_columns_are_nan() -> None:
    _, metrics = run_learning_loop(LearnerBank(MIXED), WORLD, 50, KEY)
    assert metrics.shape == (50, 6, 4)
    assert np.isnan(metrics[:, [0, 1, 2, 4, 5], 3]).all() and np.isfinite(metrics[:, :, :3]).all()
    assert np.isfinite(metrics[:, 3]).all()


def test_seeds_of_a_bank_are_separate_runs() -> None:
    bank = LearnerBank(MIXED)
    batch = run_learning_loop_batched(bank, WORLD, 600, KEYS, step_size_tracking=StepSizeTrackingConfig(100))
    assert batch.metrics.shape == (4, 600, 6, 4)
    assert batch.step_size_history is not None and batch.step_size_history.step_sizes.shape == (4, 6, 6, 20)
    state, metrics, history = run_learning_loop(
        bank, WORLD, 600, KEYS[2], step_size_tracking=StepSizeTrackingConfig(100)
    )
    np.testing.assert_allclose(batch.metrics[2], metrics, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(batch.step_size_history.step_sizes[2], history.step_sizes, rtol=1e-4)
    chosen = jax.tree.map(lambda leaf: leaf[2], batch.states)
    np.testing.assert_allclose(bank.member(chosen, 5).weights, bank.member(state, 5).weights, atol=1e-4)


def test_step_sizes_come_in_the_banks_order() -> None:
    learners: list[Any] = [LinearLearner(LMS(0.1)), Deaf(), LinearLearner(IDBD(0.2)), LinearLearner(LMS(0.3))]
    bank = LearnerBank(learners)
    sizes = bank.step_sizes(bank.init(2))
    np.testing.assert_allclose(sizes["step_sizes"], [[0.1] * 2, [np.nan] * 2, [0.2] * 2, [0.3] * 2], rtol=1e-6)
    np.testing.assert_allclose(sizes["bias_step_sizes"], [0.1, np.nan, 0.2, 0.3], rtol=1e-6)
    with pytest.raises(TypeError, match="no learner of the bank has step sizes"):
        LearnerBank([Deaf()]).step_sizes(LearnerBank([Deaf()]).init(2))


def test_a_bank_goes_on_from_where_it_was() -> None:
    bank = LearnerBank(MIXED[:3])
    whole_state, whole = run_learning_loop(bank, WORLD, 200, KEY)
    first = run_learning_loop(bank, WORLD, 100, KEY)
    second = run_learning_loop(bank, WORLD, 100, learner_state=first.state, stream_state=first.stream_state)
    assert np.array_equal(np.concatenate([first.metrics, second.metrics]), whole)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, second.state, whole_state))


def test_groups_follow_the_structure() -> None:
    assert list(group_by_structure(MIXED).values()) == [[0, 2], [1, 5], [3], [4]]
    same = [LinearLearner(IDBD(0.01, 0.001)), LinearLearner(IDBD(0.05, 0.0)), LinearLearner(LMS(0.05))]
    assert list(group_by_structure(same).values()) == [[0, 1], [2]]
    assert list(group_by_structure([Deaf(), Deaf()]).values()) == [[0, 1]]  # a learner without `structure` is its own


def test_order_and_padding() -> None:
    parts = pad_columns([jnp.array([[0.0], [2.0], [3.0]]), jnp.array([[1.0, 10.0]])])
    rows = in_order([[0, 2, 3], [1]], parts)
    assert rows[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert rows[1, 1] == 10.0 and np.isnan(rows[[0, 2, 3], 1]).all()
    assert in_order([[0, 1]], [parts[0][:2]]).tolist() == parts[0][:2].tolist() or np.isnan(parts[0][:2]).any()


def test_an_explosion_stays_at_its_desk() -> None:
    calm, loud = (
        run_learning_loop(LearnerBank(lms([0.03, other])), WORLD, 1_000, KEY).metrics for other in (0.01, 10.0)
    )
    assert np.array_equal(calm[:, 0], loud[:, 0]) and np.isfinite(loud[:, 0]).all()
    assert not np.isfinite(loud[-1, 1, 0])


def test_a_bank_takes_rows_of_a_source() -> None:
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(300, 3))
    bank, ys = LearnerBank(lms([0.01, 0.1])), xs @ [1.0, 2.0, 3.0]
    _, metrics = run_learning_loop(bank, ArraySource(xs, ys))
    alone = run_learning_loop(lms([0.1])[0], ArraySource(xs, ys)).metrics
    np.testing.assert_allclose(metrics[:, 1], alone, rtol=1e-4, atol=1e-5)
    ys[100] = np.nan
    skipped = run_learning_loop(bank, ArraySource(xs, ys), non_finite="skip")
    assert skipped.skipped == 1 and np.isnan(skipped.metrics[100]).all() and np.isfinite(skipped.metrics[101:]).all()


def test_config_round_trip() -> None:
    bank = LearnerBank(MIXED)
    assert LearnerBank.from_config(json.loads(json.dumps(bank.to_config()))) == bank
    assert LearnerBank(iter(MIXED)) == bank and hash(LearnerBank(MIXED)) == hash(bank)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("learners", "error", "message"),
    [
        ([], ValueError, "learners must hold one learner or more, got none"),
        ([LMS(0.1)], TypeError, "learners must have init and step, and be no banks, got LMS"),
        ([LearnerBank(MIXED[:1])], TypeError, "and be no banks, got LearnerBank"),
    ],
)
def test_errors_of_banks(learners: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LearnerBank(learners)


def test_errors_of_members_and_tracking() -> None:
    bank = LearnerBank(MIXED[:2])
    for i in (2, -1):
        with pytest.raises(ValueError, match=f"the bank has learners 0 to 1, got {i}"):
            bank.member(bank.init(3), i)
    with pytest.raises(ValueError, match="feature_dim"):
        bank.init(0)
    with pytest.raises(ValueError, match="normalizer"):
        run_learning_loop(bank, WORLD, 10, KEY, normalizer_tracking=NormalizerTrackingConfig(5))


# --- the sweep ---


def test_a_sweep_compiles_once(compiled: list[str]) -> None:
    step_sizes = np.geomspace(0.001, 0.05, 100)
    first = sweep(lms(step_sizes), WORLD, 300, KEYS, record_every=100)
    assert len(compiled) == 1 and first.metrics.shape == (4, 3, 100, 3)
    sweep(lms(step_sizes / 2), WORLD, 300, KEYS, record_every=100)
    sweep(lms(step_sizes), WORLD, 900, jax.random.split(jax.random.key(9), 4), record_every=100)
    assert len(compiled) == 1
    compiled.clear()
    thetas = np.geomspace(1e-4, 0.02, 100)
    for learners in (
        [LinearLearner(IDBD(0.05, float(theta))) for theta in thetas],
        [LinearLearner(IDBD(float(alpha), 0.001)) for alpha in step_sizes],
    ):
        sweep(learners, WORLD, 300, KEYS, record_every=100)
    assert len(compiled) == 1


def test_common_seeds_give_every_learner_the_same_experience() -> None:
    result = sweep(lms([0.01, 0.03, 0.01]), WORLD, 400, KEYS)
    assert np.array_equal(result.metrics[:, :, 0], result.metrics[:, :, 2])
    single = run_learning_loop(lms([0.03])[0], WORLD, 400, KEYS[3]).metrics
    np.testing.assert_allclose(result.metrics[3, :, 1], single, rtol=1e-3, atol=1e-4)


def test_common_seeds_shrink_the_error_of_a_difference() -> None:
    result = sweep(lms([0.03, 0.036]), WORLD, 8_000, jax.random.split(jax.random.key(1), 30), record_every=1_000)
    table = sweep_table(result, [0.03, 0.036], burn_in=2)
    mean, paired = paired_difference(result, 0, 1, burn_in=2)
    averages, _ = seed_averages(result.metrics, burn_in=2)
    spread, rho = averages.std(axis=0, ddof=1), np.corrcoef(averages.T)[0, 1]
    np.testing.assert_allclose(30 * paired**2, spread @ spread - 2 * rho * spread.prod())
    np.testing.assert_allclose(mean, table["mean"][0] - table["mean"][1])
    assert rho > 0.95 and math.hypot(*table["stderr"]) > 4 * paired


def made_up(values: Any) -> BatchedLearningResult:
    """A result whose squared errors are `values` (n_seeds, rows, n_learners)."""
    values = np.asarray(values, dtype=np.float32)
    metrics = np.stack([values, -values, np.full_like(values, 0.5)], axis=-1)
    return BatchedLearningResult((None, jnp.asarray(metrics)))


def test_table_of_known_numbers() -> None:
    values = np.random.default_rng(0).normal(size=(7, 5, 3))
    table = sweep_table(made_up(values), ["a", "b", "c"], burn_in=2)
    averages = values[:, 2:].mean(axis=1)
    assert list(table.columns) == ["setting", "mean", "median", "stderr", "exploded"]
    np.testing.assert_allclose(table["mean"], averages.mean(axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(table["median"], np.median(averages, axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(table["stderr"], averages.std(axis=0, ddof=1) / 7**0.5, rtol=1e-5)
    assert not table["exploded"].any()
    mirrored = sweep_table(made_up(values), list("abc"), burn_in=2, column=1)
    np.testing.assert_allclose(mirrored["mean"], -table["mean"])


def test_explosions_are_counted_and_left_out_of_the_mean() -> None:
    values = np.ones((5, 4, 3))
    values[0, 0] = np.nan  # before the burn-in: does not count
    values[1, 2, 0], values[2, 3, 0] = np.nan, np.inf
    values[3, 1, 1] = 1e6
    values[:, :, 2] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = sweep_table(made_up(values), [1, 2, 3], burn_in=1)
        limited = sweep_table(made_up(values), [1, 2, 3], burn_in=1, limit=10.0)
    assert table["exploded"].tolist() == [2, 0, 5] and limited["exploded"].tolist() == [2, 1, 5]
    assert table["mean"][0] == 1.0 and table["median"][0] == 1.0 and table["stderr"][0] == 0.0
    assert table["mean"][1] > 1e4 and limited["mean"][1] == 1.0
    assert math.isnan(table["mean"][2]) and table["median"][2] == math.inf and math.isnan(table["stderr"][2])


def test_most_seeds_exploded_make_the_median_infinite() -> None:
    values = np.ones((5, 2, 1))
    values[:3] = 1e9
    table = sweep_table(made_up(values), ["x"], limit=10.0)
    assert table["median"][0] == math.inf and table["mean"][0] == 1.0


def test_one_seed_has_no_standard_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = sweep_table(made_up(np.ones((1, 3, 2))), [1, 2])
    assert table["mean"].tolist() == [1.0, 1.0] and table["stderr"].isna().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": [1]}, "settings must name 2 learners, got 1"),
        ({"burn_in": 3}, "burn_in must leave rows to average: it is 3 of 3"),
        ({"burn_in": -1}, "burn_in must be 0 or more"),
        ({"column": 3}, "column must be below 3, got 3"),
        ({"limit": 0.0}, "limit must be a finite number"),
        ({"limit": math.nan}, "limit must be a finite number"),
    ],
)
def test_errors_of_tables(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sweep_table(made_up(np.ones((2, 3, 2))), **({"settings": [1, 2]} | options))


def test_errors_of_sweeps() -> None:
    with pytest.raises(ValueError, match="learners must hold one learner or more"):
        sweep([], WORLD, 10, KEYS)
    with pytest.raises(TypeError, match="keys is needed"):
        sweep(lms([0.1]), WORLD, 10, None)
    with pytest.raises(ValueError, match=r"metrics must have shape \(n_seeds, rows, n_learners, columns\)"):
        seed_averages(np.zeros((3, 4, 5)))
    single = run_learning_loop_batched(lms([0.1])[0], RandomWalkStream(3), 20, KEYS)
    with pytest.raises(ValueError, match="metrics must have shape"):
        sweep_table(single, ["LMS"])


NETWORKS = [MLPLearner((6,), LMS(0.1), bounder=ObGDBounding()), MLPLearner((6,), Autostep(), gamma=0.9, lamda=0.5)]


def test_networks_in_a_bank_start_alike_and_learn_as_alone() -> None:
    bank, key, stream = LearnerBank(NETWORKS), jax.random.key(3), RandomWalkStream(4)
    first = bank.init(4, key)
    a, b = (bank.member(first, i).params for i in range(2))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, a, b))
    together = run_mlp_learning_loop(bank, stream, 200, key).metrics
    swept = sweep(NETWORKS, stream, 200, jax.random.split(key, 2)).metrics
    assert together.shape == (200, 2, 3) and swept.shape == (2, 200, 2, 3)
    for i, network in enumerate(NETWORKS):
        alone = run_mlp_learning_loop(network, stream, 200, key).metrics
        assert np.allclose(together[:, i], alone, rtol=1e-3, atol=1e-4)
        alone = run_mlp_learning_loop(network, stream, 200, jax.random.split(key, 2)[1]).metrics
        assert np.allclose(swept[1, :, i], alone, rtol=1e-3, atol=1e-4)


def test_a_bank_of_networks_needs_a_key() -> None:
    for who, call in (
        ("MLPLearner", lambda: LearnerBank(NETWORKS).init(4)),
        ("LearnerBank", lambda: run_learning_loop(LearnerBank(NETWORKS), WORLD, 10, KEY)),
        ("PopArt around a MLPLearner", lambda: run_learning_loop(PopArt(NETWORKS[0]), WORLD, 10, KEY)),
    ):
        with pytest.raises(TypeError, match=f"key is needed, a {who} starts from random weights"):
            call()


XS = np.random.default_rng(0).standard_normal((200, 3))
YS = XS @ [1.0, -2.0, 0.5]


def traced(gamma: float, lamda: float = 0.8) -> MLPLearner:
    return MLPLearner((), LMS(0.02), gamma=gamma, lamda=lamda)


def horde(*gammas: float) -> HordeLearner:
    demons = [GVFSpec(str(i), DemonType.PREDICTION, gamma, 0.5) for i, gamma in enumerate(gammas)]
    return HordeLearner(create_horde_spec(demons), (4,), LMS(0.01))


TABLE = ArraySource(XS, YS)
CUMULANTS = np.where(np.random.default_rng(1).random((200, 2)) < 0.3, np.nan, YS[:, None])
TRANSITIONS = {"observation": XS[:-1], "cumulants": CUMULANTS[1:], "next_observation": XS[1:]}
LIVES: list[Any] = [
    ([traced(0.7), MLPLearner((5,), LMS(0.02)), traced(0.2, 0.4)], [traced(0.5)] * 3, TABLE),
    ([PopArt(traced(0.7)), PopArt(traced(0.1))], [PopArt(traced(0.5)), PopArt(traced(0.6))], TABLE),
    ([horde(0.9, 0.0), horde(0.2, 0.6)], [horde(0.4, 0.5)] * 2, RowsSource(HordeTimeStep, TRANSITIONS)),
    ([PopArt(horde(0.9, 0.1)), PopArt(horde(0.2, 0.6))], [PopArt(horde(0.4, 0.5))] * 2,
     RowsSource(HordeTimeStep, TRANSITIONS)),
    ([MultiHeadMLPLearner(2, (4,), LMS(0.02)), MultiHeadMLPLearner(2, (), LMS(0.02), gamma=0.5, lamda=0.5)],
     [MultiHeadMLPLearner(2, (4,)), MultiHeadMLPLearner(2, (), gamma=0.9, lamda=0.9)],
     RowsSource(HeadsTimeStep, {"observation": XS, "targets": CUMULANTS})),
]  # fmt: skip


@pytest.mark.parametrize("every", [1, 40])
@pytest.mark.parametrize("life", LIVES, ids=["traces", "units", "hordes", "hordes in units", "heads"])
def test_learners_in_a_bank_keep_their_settings_on_states_of_others(life: Any, every: int) -> None:
    learners, others, source = life
    bank, key = LearnerBank(learners), jax.random.key(3)
    others = [a if type(a) is type(b) and a.structure == b.structure else b for a, b in zip(others, learners)]
    states = LearnerBank(others).init(3, key)
    rows = run_learning_loop(bank, source, learner_state=states, record_every=every).metrics
    for i, (learner, other) in enumerate(zip(learners, others, strict=True)):
        alone = run_learning_loop(learner, source, learner_state=other.init(3, key), record_every=every).metrics
        assert rows[:, i].shape == alone.shape
        np.testing.assert_allclose(rows[:, i], alone, rtol=2e-3, atol=1e-4)
    stepped = bank.step(states, source.time_step(**{name: jnp.asarray(a[5]) for name, a in source.rows.items()}))
    for i, learner in enumerate(learners):
        own = jax.tree.leaves(learner.own(bank.member(states, i)))
        kept = jax.tree.leaves(bank.member(bank.own(states), i))
        assert all(np.array_equal(a, b) for a, b in zip(kept, own, strict=True))
    assert stepped.metrics.shape == rows.shape[1:]


def test_a_batch_of_states_is_adopted_too() -> None:
    bank, keys = LearnerBank([traced(0.7), traced(0.2)]), jax.random.split(jax.random.key(3), 2)
    other = LearnerBank([traced(0.5), traced(0.6)])
    batch = run_learning_loop_batched(bank, WORLD, 200, keys, learner_state=jax.vmap(lambda k: other.init(20, k))(keys))
    for k in range(2):
        one = run_learning_loop(bank, WORLD, 200, keys[k], learner_state=bank.init(20, keys[k]))
        np.testing.assert_allclose(batch.metrics[k], one.metrics, rtol=1e-3, atol=1e-4)


def test_heads_of_different_numbers_do_not_fit_in_one_bank() -> None:
    for learners in ([horde(0.5), horde(0.5, 0.1)], [PopArt(horde(0.5, 0.1, 0.2)), horde(0.5, 0.1)]):
        with pytest.raises(TypeError, match="learners must have the same number of heads"):
            LearnerBank(learners)


@pytest.mark.parametrize("native", [True, False])
def test_a_bank_under_skip_counts_what_each_learner_learned_from(native: bool) -> None:
    targets = YS.copy()
    targets[[30, 130]] = 3e19, np.nan
    learners = [LinearLearner(LMS(0.002)), LinearLearner(ObGD(0.5)), LinearLearner(LMS(0.001), EMANormalizer())]
    source = ArraySource(XS, targets)
    with native_loops(native):
        together = run_learning_loop(LearnerBank(learners), source, record_every=50, non_finite="skip")
        for i, learner in enumerate(learners):
            alone = run_learning_loop(learner, source, record_every=50, non_finite="skip")
            columns = alone.metrics.shape[1]
            np.testing.assert_allclose(together.metrics[:, i, :columns], alone.metrics, rtol=1e-3, atol=1e-6)
            assert alone.skipped == (1 if i == 1 else 2)
    assert together.skipped == 2  # steps that any of them was refused
    assert np.isfinite(together.metrics[:, [0, 2], :3]).all() and together.metrics[0, 1, 0] == np.inf


def test_a_batch_of_a_bank_counts_for_each_seed() -> None:
    targets = YS.copy()
    targets[[30, 31]] = 3e19
    bank = LearnerBank([LinearLearner(LMS(0.02)), LinearLearner(ObGD(0.5))])
    options: Any = {"record_every": 50, "non_finite": "skip"}
    one = run_learning_loop(bank, ArraySource(XS, targets), **options)
    first = jax.tree.map(lambda a: jnp.stack([a, a]), bank.init(3))
    batch = run_learning_loop_batched(bank, ArraySource(XS, targets), keys=KEYS[:2], learner_state=first, **options)
    assert batch.skipped.tolist() == [2, 2] and one.skipped == 2
    np.testing.assert_allclose(batch.metrics, np.stack([one.metrics] * 2), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("every", [20, 50])
def test_the_mean_of_a_window_with_an_infinite_square_is_infinite(every: int) -> None:
    targets = YS.copy()
    targets[7] = -1e25
    rows = run_learning_loop(LinearLearner(LMS(0.0)), ArraySource(XS, targets), record_every=every).metrics
    assert rows[0, 0] == np.inf and np.isfinite(rows[0, 1:]).all() and np.isfinite(rows[1:]).all()
    np.testing.assert_allclose(rows[1:, 0], (YS**2).reshape(-1, every).mean(axis=1)[1:], rtol=1e-5)
