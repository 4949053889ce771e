"""Intervals around futures: the errors that become known late, the rule that goes by answers, and lives on a table."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from alberta_nb.apps.future_interval import LONGEST, FutureInterval, rows_until_known
from alberta_nb.apps.futures import DiscountedMeanLearner, Futures, Still, Transitions
from alberta_nb.apps.job import unknown_rows
from alberta_nb.apps.life import Told, Windows
from alberta_nb.apps.outcome import told_intervals, with_inside
from alberta_nb.apps.tables import LaggedSource, all_rows
from alberta_nb.horde.gvf import horde_from_columns
from alberta_nb.horde.horde import HordeLearner
from alberta_nb.learners.bank import LearnerBank
from alberta_nb.learners.linear import LinearLearner
from alberta_nb.learners.td import TDLinearLearner
from alberta_nb.learners.units import PopArt
from alberta_nb.loops.supervised import run_learning_loop
from alberta_nb.normalizers import EMANormalizer
from alberta_nb.optimizers.td_lambda import TDLambda
from alberta_nb.types import Settings, TDTimeStep

RNG = np.random.default_rng(5)
X = RNG.normal(size=(301, 2)).astype(np.float32)
Y = np.column_stack([np.cumsum(RNG.normal(size=301)), 2.0 * X[:, 0] + RNG.normal(size=301) + 3.0]).astype(np.float32)
Y[[7, 8, 40, 299], 0] = np.nan
Y[::5, 1] = np.nan
GAMMAS = 0.0, 0.5, 0.8


def means(of_values: bool, most: float | None = None) -> DiscountedMeanLearner:
    horde: Any = HordeLearner(
        horde_from_columns(["a", "b"], GAMMAS, 0.5), (), TDLambda(0.02), normalizer=EMANormalizer()
    )
    return DiscountedMeanLearner(PopArt(horde) if of_values else horde, most=most)


def run_of(learner: Any, y: np.ndarray = Y) -> Any:
    return run_learning_loop(learner, Transitions(X[:-1], y[:-1], X[1:]), non_finite="show")


def by_hand(said: np.ndarray, y: np.ndarray, gamma: float, of_values: bool, level: float = 0.9) -> np.ndarray:
    """The half widths of all rows, from what was said of them, by the equations of the page; NaN for none."""
    n, ratio, size, weight = unknown_rows(gamma) + 1, 2.0, 0.0, 0.0
    widths, there = np.full(len(y), np.nan), np.flatnonzero(np.isfinite(y))
    last = np.concatenate([[0.0], y[there][:-1]])
    changes = np.concatenate([[0.0], np.diff(y[there])])
    k = 0
    for t in range(len(y)):
        widths[t] = max(ratio, 0.0) * size if weight else np.nan
        if np.isnan(y[t]):
            continue
        k += 1
        if k < n + 1:  # nothing could be said of the very first row
            continue
        rows = there[k - n : k]  # the first of them is known by now
        weights = gamma ** np.arange(n)
        if of_values:
            error = (1 - gamma) * weights @ y[rows] + gamma**n * y[t] - said[rows[0]]
        else:
            error = last[k - n] + weights @ changes[k - n : k] - said[rows[0]]
        if np.isfinite(widths[rows[0]]):
            ratio += 0.05 * (1 - gamma) * ((abs(error) > widths[rows[0]]) - (1 - level))
        weight = 0.99 ** (1 - gamma) * weight + 1.0
        size += ((min(abs(error), 10.0 * size) if size else abs(error)) - size) / weight
    return widths


@pytest.mark.parametrize("of_values", [False, True])
def test_half_widths_are_their_equations(of_values: bool) -> None:
    learner = FutureInterval(means(of_values))
    metrics = np.asarray(run_of(learner).metrics, np.float64)
    for k, (column, gamma) in enumerate(learner.asked):
        wanted = by_hand(metrics[:, k], Y[:-1, column].astype(np.float64), gamma, of_values)
        np.testing.assert_allclose(metrics[:, len(learner.asked) + k], wanted, rtol=2e-3, atol=1e-5)
        assert np.isnan(wanted).sum() >= unknown_rows(gamma) + 2


def test_what_is_said_is_what_the_learner_says() -> None:
    inside = means(False)
    np.testing.assert_allclose(
        run_of(FutureInterval(inside)).metrics[:, :6], run_of(inside).metrics, rtol=1e-3, atol=1e-5
    )


def test_nothing_of_a_row_is_known_before_it() -> None:
    later = Y.copy()
    later[200:] *= 10.0
    ours, theirs = (np.asarray(run_of(FutureInterval(means(False)), y).metrics) for y in (Y, later))
    assert np.array_equal(ours[:201], theirs[:201], equal_nan=True)
    assert (theirs[-20:, 6:] > 2 * ours[-20:, 6:]).all()


def test_an_absurd_value_does_not_make_it_wide() -> None:
    absurd = Y.copy()
    absurd[100] = [1e17, -9999.0]
    for of_values in (False, True):
        clean, spoiled = (
            np.asarray(run_of(FutureInterval(means(of_values, 3.0)), y).metrics)[150:] for y in (Y, absurd)
        )
        assert (np.abs(clean - spoiled)[:, :6].max(axis=0) < 0.3 * np.std(clean[:, :6], axis=0)).all()
        assert np.nanmax(spoiled[:, 6:] / clean[:, 6:]) < 20  # a fifth of all errors so far were absurd


def test_a_column_that_was_still_for_long_says_nothing_of_its_errors() -> None:
    "The first errors are a rest of what comes later, and a usual error of nearly 0 would let no other count."
    rng, inside = np.random.default_rng(3), DiscountedMeanLearner(TDLinearLearner(TDLambda(0.0)), gamma=0.9)
    y = np.concatenate([np.zeros(1_000), rng.normal(size=500)]).astype(np.float32)
    ones = np.ones((len(y) - 1, 1), np.float32)
    said, width = np.asarray(run_learning_loop(FutureInterval(inside), Transitions(ones, y[:-1, None], ones)).metrics).T
    actual = np.convolve(y[:-1], (0.1 * 0.9 ** np.arange(100))[::-1], "valid")
    assert (np.abs(actual - said[: len(actual)]) <= width[: len(actual)])[1_150:].mean() > 0.8


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_the_promise_is_kept(level: float) -> None:
    rng = np.random.default_rng(1)
    y = np.zeros(20_001, np.float32)
    for t in range(1, len(y)):
        y[t] = 0.9 * y[t - 1] + rng.normal() * (1.0 if t < 10_000 else 4.0)
    inside = DiscountedMeanLearner(TDLinearLearner(TDLambda(0.0)))
    bank = LearnerBank(tuple(FutureInterval(dataclasses.replace(inside, gamma=g), level, 44) for g in (0.0, 0.8, 0.9)))
    assert len({learner.structure for learner in bank.learners}) == 1
    run = run_learning_loop(
        bank, Transitions(np.ones((20_000, 1), np.float32), y[:-1, None], np.ones((20_000, 1), "f"))
    )
    for k, gamma in enumerate((0.0, 0.8, 0.9)):
        said, width = np.asarray(run.metrics, np.float64)[:, k].T
        actual = np.convolve(y[:-1], ((1 - gamma) * gamma ** np.arange(200))[::-1], "valid")
        inside_of = np.abs(actual - said[: len(actual)])[100:] <= width[100 : len(actual)]
        assert abs(inside_of.mean() - level) < 0.02
        assert all(abs(part.mean() - level) < 0.08 for part in np.array_split(inside_of, 4))


def test_it_stands_still_where_nothing_is_learned() -> None:
    learner = FutureInterval(means(False))
    state = run_of(learner).state
    still = run_learning_loop(Still(learner), Transitions(X[:50], Y[:50], X[1:51]), learner_state=state)
    widths = np.asarray(still.metrics)[:, 6:]
    assert (widths == np.asarray(state.half_width)).all() and (widths > 0).all()
    for name in ("ratio", "size", "weight", "errors", "widths"):
        assert np.array_equal(getattr(still.state, name), getattr(state, name), equal_nan=True)


def test_predict_config_and_first_state() -> None:
    learner = FutureInterval(means(True, 3.0), 0.8, rate=0.1, decay=0.9)
    assert Settings.from_config(learner.to_config()) == learner and learner.rows == rows_until_known(GAMMAS) == 21
    state = learner.init(2)
    assert state.errors.shape == state.widths.shape == (21, 6) and state.places.tolist() == [0, 6, 20] * 2
    step = TDTimeStep(observation=X[0], reward=Y[0], next_observation=X[1], gamma=jnp.ones(1))
    result = jax.jit(learner.step)(state, step)
    np.testing.assert_allclose(learner.predict(state, X[0]), result.prediction, rtol=1e-5, atol=1e-6)
    assert result.metrics.shape == (12,) and np.isnan(result.metrics[6:]).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: FutureInterval(LinearLearner()), TypeError, "must be a DiscountedMeanLearner, got LinearLearner"),
        (lambda: FutureInterval(means(False), 1.0), ValueError, "level must be"),
        (lambda: FutureInterval(means(False), 0.0), ValueError, "level must be"),
        (lambda: FutureInterval(means(False), rows=-1), ValueError, "rows must be"),
        (lambda: FutureInterval(means(False), rows=LONGEST + 1), ValueError, "rows must be"),
        (lambda: FutureInterval(means(False), rate=0.0), ValueError, "rate must be"),
        (lambda: FutureInterval(means(False), decay=2.0), ValueError, "decay must be"),
        (lambda: rows_until_known([0.5, 0.99999]), ValueError, "gamma must be lower for an interval: at 0.99999"),
        (lambda: means(False, 0.0), ValueError, "most must be"),
    ],
)
def test_checks(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# --- lives on a table ---

TABLE = pd.DataFrame(Y, columns=["a", "b"]).assign(c=X[:, 1])


def live(page: int, piece: int, targets: Any, lags: int) -> tuple[Futures, dict[str, np.ndarray]]:
    source = LaggedSource(TABLE, targets, lags=lags, known=["c"], piece_rows=piece)
    if len(source.targets) == 1:
        inside = TDLinearLearner(TDLambda(0.01, 0.5), EMANormalizer())
        parts = tuple(FutureInterval(DiscountedMeanLearner(inside, gamma=g), rows=21) for g in GAMMAS)
        lives = Futures(source, LearnerBank(parts), ["td"])
    else:
        lives = Futures(source, FutureInterval(means(lags == 0)), ["prediction"])
    told = [lives.learn(rows) for rows in all_rows(source, page)] + [lives.rest()]
    (name,) = lives.names
    both = {"said": [t.said[name] for t in told if t.said], "width": [t.widths[name] for t in told if t.said]}
    return lives, {what: np.concatenate(parts) for what, parts in both.items()}


@pytest.mark.parametrize(("targets", "lags"), [("a", 2), (["b", "a"], 1), (["b", "a"], 0)], ids=str)
def test_pages_and_pieces_change_no_bit(targets: Any, lags: int) -> None:
    (one, ours), (other, theirs) = live(400, 400, targets, lags), live(13, 57, targets, lags)
    assert all(np.array_equal(ours[what], theirs[what], equal_nan=True) for what in ours)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*map(jax.tree.leaves, (one.state, other.state))))
    assert ours["width"].shape == ours["said"].shape and (ours["width"][-100:] > 0).all()


def test_widths_of_sums_are_over_one_minus_gamma() -> None:
    lives, told = live(400, 400, "a", 2)
    sums = np.asarray([state.half_width[0] for state in (lives.learner.member(lives.state, k) for k in range(3))])
    np.testing.assert_allclose(
        told["width"][-1], sums * [1.0, 2.0, 5.0], rtol=1e-6
    )  # the last row was told, not learned


def test_rows_before_the_first_known_error_are_no_misses() -> None:
    width = np.array([np.nan, np.nan, 1.0, 1.0, 1.0])[:, None]
    said = {
        "last value": np.zeros((5, 1)),
        "running mean": np.zeros((5, 1)),
        "td": np.array([[0.0], [0], [0], [0], [9]]),
    }
    windows = Windows(10)
    windows.add(
        Told(
            np.arange(5), np.full(5, np.nan), np.array([[3.0], [np.nan], [0.5], [2.0], [9.5]]), said, {"td": width}, {}
        )
    )
    totals = {name: windows.of(name).sum(axis=0)[0] for name in said}
    assert totals["td"].tolist() == [4.0, 9 + 0.25 + 4 + 0.25, 3 + 0.5 + 2 + 0.5, 2.0, 0.0, 5.0, 3.0]
    scores = with_inside(totals)
    assert np.isclose(scores.inside["td"], 2 / 3) and np.isnan(scores.inside["last value"])


def test_a_learner_that_is_lost_has_no_interval_that_holds() -> None:
    none = np.full((4, 1), np.nan)
    said = {"last value": np.zeros((4, 1)), "td": np.array([[0.0], [np.nan], [np.nan], [np.nan]])}
    windows = Windows(10)
    windows.add(Told(np.arange(4), none[:, 0], np.ones((4, 1)), said, {"td": np.array([[2.0], *none[1:]])}, {}))
    total = windows.of("td").sum(axis=0)[0]
    assert total[3] == 1.0 and total[6] == 4.0


@pytest.mark.parametrize(
    ("inside", "told"),
    [
        ([0.5, 0.7], ["90% of targets and hold 50% to 70% (demons) here"]),
        ([0.8, 1.0], ["hold 80% to 100% (demons) here"]),  # whose mean is right
        ([0.7, 0.7], ["hold 70% (demons) here"]),
        ([0.9, 0.89], []),
    ],
)
def test_intervals_that_no_longer_hold_are_told(inside: list[float], told: list[str]) -> None:
    learners, scores = {"nexting": FutureInterval(means(False))}, pd.DataFrame({"inside": inside})
    found: Any = SimpleNamespace(taught=False, steps=200, learners=learners, scores=scores)
    lines = told_intervals(found, ["demons"] * 2)
    assert len(lines) == len(told) and all(part in line for line, part in zip(lines, told, strict=True))
    found.taught = True
    assert told_intervals(found, ["demons"] * 2) == []
