"""What the three jobs on a table share: names, starts, one pass, and predictions held against what followed."""

import numpy as np
import pandas as pd
import pytest

from alberta_nb.apps.job import (
    OPTIMIZERS,
    TD_OPTIMIZERS,
    check_gammas,
    choose,
    hold_against,
    last_rows,
    one_pass,
    scores_of,
    skill_over,
    tidy,
    window_of,
    windows_of,
)
from alberta_nb.apps.tables import LaggedSource, TransitionSource, weather_path
from alberta_nb.learners.baselines import LastValue
from alberta_nb.streams.returns import ideal_returns

RNG = np.random.default_rng(0)
TABLE = pd.DataFrame({"a": RNG.normal(size=500).cumsum(), "b": RNG.normal(size=500)})


def test_names_and_starts() -> None:
    made, scaler = choose(OPTIMIZERS, OPTIMIZERS, "none", 10)
    assert list(made) == ["lms", "idbd", "autostep", "obgd"] and scaler is None
    assert made["lms"].step_size == 0.01 and choose(["lms"], OPTIMIZERS, "ema", 10, 0.3)[0]["lms"].step_size == 0.3
    made, _ = choose(TD_OPTIMIZERS, TD_OPTIMIZERS, "ema", 10, trace_decay=0.8)
    assert list(made) == list(TD_OPTIMIZERS) and np.isclose(made["tdlambda"].step_size, 0.01 * 0.28)
    for call in (
        lambda: choose(["lms"], OPTIMIZERS, "batch", 10),
        lambda: choose(["lms"], TD_OPTIMIZERS, "ema", 10),
        lambda: choose(["lms"], OPTIMIZERS, "ema", 10, np.nan),
        lambda: choose(["tdidbd"], TD_OPTIMIZERS, "ema", 10, trace_decay=1.5),
        lambda: choose(["tdidbd"], TD_OPTIMIZERS, "ema", 10, meta_step_size=-1.0),
        lambda: check_gammas([]),
        lambda: check_gammas([0.5, 0.5]),
        lambda: check_gammas([1.0]),
    ):
        with pytest.raises(ValueError, match="unknown normalizer|unknown optimizer|gamma|step_size|trace_decay"):
            call()


def test_windows_are_a_200th_of_a_table(tmp_path) -> None:
    assert window_of(LaggedSource(TABLE, "a"), None) == 2 and window_of(LaggedSource(TABLE, "a"), 7) == 7
    assert 20 < window_of(LaggedSource(weather_path(), "temp", piece_rows=100), None) < 90
    with pytest.raises(ValueError, match="record_every must be 1 or more"):
        window_of(LaggedSource(TABLE, "a"), 0)


@pytest.mark.parametrize("kind", [LaggedSource, TransitionSource])
def test_one_pass_tells_what_it_read(kind) -> None:
    learner = LastValue() if kind is LaggedSource else None
    source = kind(TABLE, ["a"], lags=2)
    if learner is None:
        pages = list(source.pages(0, 64))
        assert sum(len(page.reward) for page in pages) == 498 and len(np.concatenate(source.kept)) == 499
        return
    found, run = one_pass(source, learner, {"last value": learner}, 100, False)
    assert (found.steps, found.columns, found.target, found.lags) == (499, ["a", "b"], "a", 2)
    assert found.report.rows == 500 and found.origin["a"] == TABLE.a[0] and not found.interrupted
    assert len(run.metrics) == 4 and found.compiling > 0 and found.seconds > 0


def test_answers_by_hand() -> None:
    y = RNG.normal(size=300)
    answers = hold_against(y, {"zero": np.zeros(299, np.float32)}, 0.5)
    assert list(answers.columns[:-1]) == ["last value", "running mean", "zero"]
    assert answers.index.tolist() == list(range(1, 299 - 6 + 1))  # 0.5^6 > 0.01 of the weights are not known
    np.testing.assert_allclose(answers.actual, ideal_returns(y, 0.5, y.mean() / 0.5)[:293])
    scores = scores_of(answers)
    assert np.isclose(scores.rmse["zero"], np.sqrt(np.mean(answers.actual**2)))
    assert np.isclose(scores.mae["zero"], np.abs(answers.actual).mean())
    best = min(scores.rmse["last value"], scores.rmse["running mean"])
    np.testing.assert_allclose(scores.skill, 1 - scores.rmse / best)
    rows = last_rows(answers, 200, 30, 7.0)
    assert rows.step.tolist() == list(range(171, 201)) and np.allclose(rows.zero, 7.0)


def test_missing_values_are_no_rows_and_scale_is_everywhere() -> None:
    y = RNG.normal(size=100)
    holes = np.insert(y, [10, 50, 50], np.nan)
    told = {"zero": np.zeros(103)}
    plain, scaled = hold_against(holes, told, 0.5), hold_against(holes, told, 0.5, scale=0.5)
    assert set(plain.index) & {11, 52, 53} == set()
    np.testing.assert_allclose(plain.actual, ideal_returns(y, 0.5, y.mean() / 0.5)[: len(plain)])
    np.testing.assert_allclose(scaled.actual, 0.5 * plain.actual)
    np.testing.assert_allclose(scaled["last value"], 0.5 * plain["last value"])


def test_too_short_a_column_has_no_answers() -> None:
    for y in (np.zeros(0), np.full(9, np.nan), np.zeros(3)):
        assert not len(hold_against(y, {"zero": np.zeros(len(y))}, 0.9))


def test_no_skill_over_a_baseline_that_never_errs() -> None:
    assert np.isnan(skill_over(1.0, 0.0)) and skill_over(1.0, 2.0) == 0.5
    perfect = pd.DataFrame({"last value": [1.0], "running mean": 1.0, "x": 0.0, "actual": 1.0}, index=[1])
    assert scores_of(perfect).skill.isna().all()


def test_errors_over_time_by_hand() -> None:
    answers = pd.DataFrame({"last value": 0.0, "x": np.arange(5.0), "actual": 0.0}, index=[1, 2, 4, 7, 8])
    table = windows_of(answers, 3).query("learner == 'x'")
    assert table[table.metric == "mae"].step.tolist() == [3, 6, 9]
    np.testing.assert_allclose(table[table.metric == "mae"].value, [0.5, 2.0, 3.5])
    np.testing.assert_allclose(table[table.metric == "rmse"].value, np.sqrt([0.5, 4.0, 12.5]))


def test_tables_are_joined_under_their_names() -> None:
    table = pd.DataFrame({"x": [1, 2]}, index=[5, 7])
    joined = tidy({("a", 0.5): table, ("b", 0.5): table}, "column", "gamma")
    assert joined.columns.tolist() == ["column", "gamma", "x"] and joined.index.tolist() == [0, 1, 2, 3]
    assert joined.column.tolist() == ["a", "a", "b", "b"]
