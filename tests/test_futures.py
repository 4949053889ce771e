"""Learners of futures: the learner of discounted means, its life on a table page by page, and the judge of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from alberta_nb.apps import futures
from alberta_nb.apps.futures import DiscountedMeanLearner, Futures, Still
from alberta_nb.apps.job import followed
from alberta_nb.apps.tables import LaggedSource, all_rows
from alberta_nb.horde.gvf import GVFSpec, create_horde_spec, horde_from_columns
from alberta_nb.horde.horde import HordeLearner
from alberta_nb.learners.bank import LearnerBank
from alberta_nb.learners.baselines import ChangeLearner
from alberta_nb.learners.linear import LinearLearner
from alberta_nb.learners.td import TDLinearLearner
from alberta_nb.learners.units import PopArt
from alberta_nb.loops.supervised import run_learning_loop
from alberta_nb.loops.td import run_td_learning_loop
from alberta_nb.normalizers import EMANormalizer
from alberta_nb.optimizers.autotdidbd import AutoTDIDBD
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.optimizers.lms import LMS
from alberta_nb.optimizers.td_lambda import TDLambda
from alberta_nb.optimizers.tdidbd import TDIDBD
from alberta_nb.streams.returns import ideal_returns
from alberta_nb.streams.sources import ArraySource
from alberta_nb.streams.td_sources import ReturnSource, TDSequenceSource
from alberta_nb.types import Settings, TDTimeStep

RNG = np.random.default_rng(11)
TABLE = pd.DataFrame(RNG.normal(size=(400, 4)).cumsum(axis=0) * [1e-3, 1.0, 1e5, 1.0] + 1e4, columns=list("abcd"))
TABLE.loc[[5, 60, 61, 90, 398], "b"] = np.nan
TABLE.loc[:30, "d"] = np.nan  # a column that begins late

# --- the learner ---


@pytest.mark.parametrize(("td", "optimizer"), [(TDLambda(0.05), LMS(0.05)), (TDIDBD(0.02, 0.02), IDBD(0.02, 0.02))])
def test_at_discount_zero_it_is_the_learner_of_changes(td, optimizer) -> None:
    rng = np.random.default_rng(0)
    source = ArraySource(rng.normal(size=(500, 3)), np.cumsum(rng.normal(size=500)))
    learner = DiscountedMeanLearner(TDLinearLearner(td, EMANormalizer()), gamma=0.0)
    told = np.asarray(run_td_learning_loop(learner, ReturnSource(source, 0.9)).metrics)[:, 0]
    other = run_learning_loop(ChangeLearner(LinearLearner(optimizer, EMANormalizer())), source)
    np.testing.assert_allclose(told, source.targets[:-1, 0] - np.asarray(other.metrics)[:-1, 1], rtol=2e-4, atol=2e-4)


def test_it_is_its_equations() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 2)), np.cumsum(rng.normal(size=80))
    gamma, lamda, step, decay = 0.8, 0.5, 0.03, 0.9
    learner = DiscountedMeanLearner(TDLinearLearner(TDLambda(step, lamda)), decay, gamma)
    told = np.asarray(run_td_learning_loop(learner, ReturnSource(ArraySource(x, y), 0.1)).metrics)[:, 0]
    w, z, square, total, last, by_hand = np.zeros(3), np.zeros(3), 0.0, 0.0, None, []
    inputs = np.column_stack([x, np.ones(80)])
    for now, following, cumulant in zip(inputs[:-1], inputs[1:], y, strict=False):
        by_hand.append((last or 0.0) + np.sqrt(square) * w @ now)
        change, seen = (0.0, 0.0) if last is None else (cumulant - last, 1.0)
        total = decay * total + seen
        square += seen / max(total, 1.0) * (change**2 - square)
        z = gamma * lamda * z + now
        w = w + step * (change / (np.sqrt(square) or 1.0) + gamma * w @ following - w @ now) * z
        last = cumulant
    np.testing.assert_allclose(told, by_hand, rtol=2e-4, atol=1e-4)


def test_without_learning_it_is_the_last_value_held_for_ever() -> None:
    y = np.random.default_rng(0).normal(size=100).astype(np.float32)
    learner = DiscountedMeanLearner(TDLinearLearner(TDLambda(0.0)), gamma=0.75)
    told = np.asarray(run_td_learning_loop(learner, ReturnSource(ArraySource(np.ones((100, 1)), y), 0.0)).metrics)
    np.testing.assert_allclose(told[:, 0] / 0.25, np.concatenate([[0.0], y[:-2]]) / 0.25, rtol=1e-6)


def test_predict_is_what_the_next_step_uses() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 3)).astype(np.float32), np.cumsum(rng.normal(size=100)).astype(np.float32)
    learner = DiscountedMeanLearner(TDLinearLearner(TDLambda(0.05)))
    state = run_td_learning_loop(learner, ReturnSource(ArraySource(x, y), 0.9)).state
    step = TDTimeStep(observation=x[0], reward=y[:1], next_observation=x[1], gamma=jnp.zeros(1))
    np.testing.assert_allclose(learner.predict(state, x[0]), jax.jit(learner.step)(state, step).prediction, rtol=1e-5)
    assert learner.step_sizes(state)["step_sizes"].shape == (3,)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: DiscountedMeanLearner(LinearLearner()),
            TypeError,
            "learner must be a TDLinearLearner or a HordeLearner",
        ),
        (
            lambda: DiscountedMeanLearner(HordeLearner(create_horde_spec([GVFSpec("a", "prediction", 0.9, 0.8)]))),
            ValueError,
            "cumulant_index",
        ),
        (lambda: DiscountedMeanLearner(TDLinearLearner(), gamma=1.0), ValueError, "gamma must be below 1"),
        (lambda: DiscountedMeanLearner(TDLinearLearner(), decay=2.0), ValueError, "decay must be"),
    ],
)
def test_learner_checks(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_learner_in_its_own_unit_learns_the_mean_itself() -> None:
    x = RNG.normal(size=(3000, 2)).astype(np.float32)
    y = 1e4 + 50.0 * x[:, 0]
    learner = DiscountedMeanLearner(PopArt(TDLinearLearner(TDLambda(0.02, 0.5))), gamma=0.5)
    told = np.asarray(run_td_learning_loop(learner, ReturnSource(ArraySource(x, y), 0.1)).metrics)[:, 0]
    assert np.abs(told - (1e4 + 25.0 * x[:-1, 0]))[-300:].mean() < 4.0  # of 20
    assert learner.asked == [(0, 0.5)] and Settings.from_config(learner.to_config()) == learner


@pytest.mark.parametrize("optimizer", [TDLambda(0.01, 0.5), AutoTDIDBD(0.01, 0.01, 0.5)])
def test_a_horde_in_its_own_unit_keeps_its_questions(optimizer: Any) -> None:
    x = RNG.normal(size=(4000, 2)).astype(np.float32)
    y = np.column_stack([1e4 + 50.0 * x[:, 0], -3.0 * x[:, 1]])
    y[::7, 1] = np.nan
    horde = HordeLearner(horde_from_columns(["u", "v"], [0.0, 0.5], 0.5), (), optimizer)
    learner = DiscountedMeanLearner(PopArt(horde))
    assert learner.asked == [(0, 0.0), (0, 0.5), (1, 0.0), (1, 0.5)] == learner.template().asked
    run = run_learning_loop(learner, futures.Transitions(x[:-1], y[:-1].astype(np.float32), x[1:]))
    told = np.asarray(run.metrics)[-300:]
    wanted = np.stack([1e4 + 50.0 * x[:, 0], 1e4 + 25.0 * x[:, 0], -3.0 * x[:, 1], -1.5 * x[:, 1]], axis=1)[-301:-1]
    assert (np.abs(told - wanted).mean(axis=0) < [5.0, 8.0, 0.3, 0.5]).all()


# --- the life ---


def bank() -> LearnerBank:
    kinds = TDLambda(0.002, 0.8), TDIDBD(0.002, 0.01, 0.8)
    inside = [TDLinearLearner(kind, EMANormalizer()) for kind in kinds]
    return LearnerBank(tuple(DiscountedMeanLearner(one, gamma=gamma) for gamma in (0.0, 0.8) for one in inside))


def horde(targets: list[str]) -> DiscountedMeanLearner:
    spec = horde_from_columns(targets, [0.0, 0.8], 0.8)
    return DiscountedMeanLearner(HordeLearner(spec, (), AutoTDIDBD(0.002, 0.01, 0.8), normalizer=EMANormalizer()))


def lives_on(table: pd.DataFrame, teach: bool = True, state: Any = None, **how: Any) -> Futures:
    source = LaggedSource(table, **how)
    if len(source.targets) == 1:
        return Futures(source, bank(), ["td", "idbd"], state, teach)
    return Futures(source, horde(source.targets), ["prediction"], state, teach)


def live(lives: Futures, page: int) -> Any:
    parts = [lives.learn(rows) for rows in all_rows(lives.source, page)] + [lives.rest()]
    parts = [part for part in parts if part.said]
    said = {name: np.concatenate([part.said[name] for part in parts]) for name in parts[0].said}
    return np.concatenate([p.numbers for p in parts]), said, np.concatenate([p.actual for p in parts])


WAYS = [
    {"target": "a", "lags": 1},
    {"target": "b", "lags": 3, "known": ["c"]},
    {"target": ["b", "a", "d"], "lags": 2},
    {"target": ["a", "b"], "lags": 0, "known": ["c", "d"]},
]


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_pages_and_pieces_change_no_bit(how: dict[str, Any]) -> None:
    one, other = lives_on(TABLE, **how), lives_on(TABLE, **how, piece_rows=61)
    (numbers, said, actual), (others, theirs, followed_by) = live(one, 400), live(other, 23)
    assert np.array_equal(numbers, others) and all(np.array_equal(said[n], theirs[n], equal_nan=True) for n in said)
    np.testing.assert_allclose(actual, followed_by, rtol=1e-4)
    assert all(map(np.array_equal, jax.tree.leaves(one.state), jax.tree.leaves(other.state)))


def test_what_is_said_is_what_the_loop_says_on_the_whole_table() -> None:
    lives = lives_on(TABLE, target="a", lags=2)
    numbers, said, actual = live(lives, 57)
    pages = list(all_rows(LaggedSource(TABLE, "a", lags=2), 1000))
    x, y = pages[0].inputs, pages[0].targets.astype(np.float32)
    run = run_td_learning_loop(bank(), TDSequenceSource(x, np.concatenate([y[:1, 0], y[:-1, 0]]), 0.9))
    means = np.asarray(run.metrics)[..., 0].astype(float) + TABLE.a[0]
    weights = np.array([1.0, 1.0, 5.0, 5.0])  # sums: over 1 - gamma
    found = np.stack([said["td"][:, 0], said["idbd"][:, 0], said["td"][:, 1], said["idbd"][:, 1]], axis=1)
    np.testing.assert_allclose(found[:-1], means * weights, rtol=1e-6)
    assert numbers.tolist() == list(range(1, 400))
    np.testing.assert_allclose(actual[:300, 1], ideal_returns(TABLE.a, 0.8)[1:301], rtol=1e-5)
    np.testing.assert_allclose(said["last value"][:, 1], 5 * TABLE.a[:-1])
    np.testing.assert_allclose(said["running mean"][:, 0], TABLE.a.expanding().mean()[:-1])


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_who_is_not_taught_reads_all_rows_and_stays(how: dict[str, Any]) -> None:
    first = lives_on(TABLE[:200], **how)
    live(first, 50)
    rest = TABLE[200:].reset_index(drop=True)
    still, taught = (lives_on(rest, teach=teach, state=first.state, **how) for teach in (False, True))
    for lives in (still, taught):
        lives.source.after, lives.waiting = first.place, first.waiting if lives.teach else None
    (numbers, said, _), (_, learned, _) = live(still, 31), live(taught, 31)
    assert numbers.tolist() == list(range(200))
    own = next(iter(set(said) - {"last value", "running mean"}))
    moved = {"last"}
    for (path, new), old in zip(
        jax.tree_util.tree_leaves_with_path(still.state), jax.tree.leaves(first.state), strict=True
    ):
        assert jax.tree_util.keystr(path[-1:]).strip(".") in moved or np.array_equal(new, old), path
    assert not np.array_equal(said[own][:100], learned[own][:100]) and np.isfinite(said[own][:, 0]).all()
    scale = np.nanstd(learned[own][:, 0])
    assert abs(said[own][0, 0] - learned[own][0, 0]) < 0.5 * scale  # one step apart


def test_still_looks_at_values_and_learns_nothing() -> None:
    learner = Still(bank().learners[0])
    state = learner.init(2)
    for value in (3.0, np.nan):
        step = TDTimeStep(observation=jnp.ones(2), reward=jnp.array([value]), next_observation=jnp.ones(2),
                          gamma=jnp.ones(1))  # fmt: skip
        state = learner.step(state, step).state
    assert state.last.tolist() == [3.0] and not jnp.any(state.learner_state.weights) and state.seen.tolist() == [0.0]


@pytest.mark.parametrize("stop", [0, 1, 40])
@pytest.mark.parametrize("begun", [0, 50])
def test_an_interrupt_within_a_page_goes_on_at_the_next_row(
    stop: int, begun: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, lives = futures.run_learning_loop, lives_on(TABLE, target="b", lags=2)
    pages = list(all_rows(lives.source, begun or 100))
    if begun:
        lives.learn(pages[0])
    before, page = lives.place, pages[1 if begun else 0]

    def interrupted(learner: Any, source: Any, **options: Any) -> Any:
        few = {name: rows[: max(stop, 1)] for name, rows in source.rows.items()}
        short = plain(
            learner, futures.Transitions(few["observation"], few["reward"], few["next_observation"]), **options
        )
        if not stop:
            short = short.replace(state=options["learner_state"], metrics=short.metrics[:0], steps=0)
        return short.replace(interrupted=True)

    with monkeypatch.context() as patch:
        patch.setattr(futures, "run_learning_loop", interrupted)
        lives.learn(page)
    assert lives.interrupted and lives.place is not None
    read = lives.place.rows - (0 if before is None else before.rows)
    assert 0 <= read < len(page.numbers)
    goes_on = lives_on(TABLE[lives.place.rows :].reset_index(drop=True), target="b", lags=2, state=lives.state)
    goes_on.source.after, goes_on.waiting, goes_on.means = lives.place, lives.waiting, lives.means
    whole = lives_on(TABLE, target="b", lags=2)
    live(goes_on, 70), live(whole, 70)
    assert all(map(np.array_equal, jax.tree.leaves(goes_on.state), jax.tree.leaves(whole.state)))
    assert np.array_equal(goes_on.means.sums, whole.means.sums) and goes_on.means.counts == whole.means.counts


def test_no_more_is_held_than_is_needed() -> None:
    table = pd.DataFrame({"y": RNG.normal(size=20_000)})
    lives = Futures(LaggedSource(table, "y", lags=1), bank(), ["td", "idbd"])
    most, judged = 0, 0
    for page in all_rows(lives.source, 100):
        judged += len(lives.learn(page).numbers)
        most = max(most, sum(map(len, lives.unjudged.told)))
    assert most <= 2 * lives.unjudged.need + 200 < 400 and judged + most >= 19_800


@pytest.mark.parametrize("held", [200, 1 << 24])
def test_sparse_columns_are_judged_by_what_is_known(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(futures, "HELD", held)
    table = TABLE.assign(d=np.where(np.arange(400) % 50 == 0, TABLE.d, np.nan))
    lives = lives_on(table, target=["a", "d"], lags=1)
    most = []
    parts = []
    for page in all_rows(lives.source, 20):
        parts.append(lives.learn(page))
        most.append(sum(map(len, lives.unjudged.told)))
    parts.append(lives.rest())
    actual = np.concatenate([part.actual for part in parts])
    assert len(actual) == 399 and (max(most) < 150) == (held == 200)
    wanted = followed((TABLE.a[1:] - TABLE.a[0]).to_numpy(), 0.8, 0.0) + TABLE.a[0]
    known = np.isfinite(actual[:, 1])
    assert known.sum() > (370 if held > 200 else 150)
    np.testing.assert_allclose(actual[known, 1][:100], wanted[known][:100], rtol=2e-2)


def test_a_life_of_one_row_predicts_it() -> None:
    lives = lives_on(TABLE[:2], target="a", lags=1)
    numbers, said, actual = live(lives, 10)
    assert numbers.tolist() == [1] and np.allclose(said["td"], [[TABLE.a[0], 5 * TABLE.a[0]]])
    assert actual[0, 0] == TABLE.a[1] and np.isnan(actual[0, 1])
