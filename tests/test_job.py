"""What the three jobs on a table share: names, starts, one pass, and predictions held against what followed."""

import numpy as np
import pandas as pd
import pytest

from alberta_nb.apps.job import (
    OPTIMIZERS,
    TD_OPTIMIZERS,
    check_gammas,
    check_used,
    choose,
    errors_over_time,
    followed,
    skill_over,
    tidy,
    unknown_rows,
    window_of,
)
from alberta_nb.apps.tables import LaggedSource, weather_path
from alberta_nb.streams.returns import ideal_returns

RNG = np.random.default_rng(0)
TABLE = pd.DataFrame({"a": RNG.normal(size=500).cumsum(), "b": RNG.normal(size=500)})


def test_names_and_starts() -> None:
    made, scaler = choose(OPTIMIZERS, OPTIMIZERS, "none", 10)
    assert list(made) == ["lms", "idbd", "autostep", "obgd", "least-squares"] and scaler is None
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


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 0.9999])
def test_rows_left_out_are_those_of_which_more_than_a_percent_is_unknown(gamma) -> None:
    n = unknown_rows(gamma)
    assert (n == 0 or gamma**n >= 0.01 * (1 - 1e-9)) and gamma ** (n + 1) < 0.01


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.9, 0.999])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e200])
def test_what_followed_is_the_ideal_return(gamma: float, scale: float) -> None:
    y = scale * (3.0 + RNG.normal(size=9_000))
    n = 9_000 - unknown_rows(gamma)
    wanted = (1 - gamma) * ideal_returns(y, gamma, 3.0 * scale / (1 - gamma))
    np.testing.assert_allclose(followed(y, gamma, 3.0 * scale)[:n], wanted[:n], rtol=1e-12)


def test_what_followed_by_hand() -> None:
    y = RNG.normal(size=300)
    means = followed(y, 0.5, 2.0)
    assert np.isfinite(means).sum() == 300 - 6  # 0.5^6 > 0.01 of the weights are not known
    np.testing.assert_allclose(means[:294], 0.5 * ideal_returns(y, 0.5, 2.0 / 0.5)[:294])
    assert np.array_equal(followed(y, 0.0, 2.0), y)


def test_missing_values_are_no_rows() -> None:
    y = RNG.normal(size=100)
    holes = np.insert(y, [10, 50, 50], np.nan)
    means = followed(holes, 0.5, 0.0)
    assert np.isnan(means[[10, 51, 52]]).all()
    np.testing.assert_allclose(means[np.isfinite(holes)], followed(y, 0.5, 0.0))


def test_too_short_a_column_has_no_future() -> None:
    for y in (np.zeros(0), np.full(9, np.nan), np.zeros(3)):
        assert np.isnan(followed(y, 0.9, 0.0)).all()


def test_no_skill_over_a_baseline_that_never_errs() -> None:
    assert np.isnan(skill_over(1.0, 0.0)) and skill_over(1.0, 2.0) == 0.5


def test_errors_over_time_are_tidy() -> None:
    errors = {"rmse": np.array([[1.0, 2.0], [3.0, 4.0]]), "mean_step_size": np.array([[0.0, 0.1], [0.0, 0.2]])}
    table = errors_over_time(["a", "b"], errors, np.array([5, 10]))
    assert list(table.columns) == ["step", "learner", "metric", "value"] and len(table) == 6
    assert table.query("learner == 'b' and metric == 'rmse'").value.tolist() == [2.0, 4.0]
    assert set(table.query("metric == 'mean_step_size'").learner) == {"b"}  # a has none


def test_tables_are_joined_under_their_names() -> None:
    table = pd.DataFrame({"x": [1, 2]}, index=[5, 7])
    joined = tidy({("a", 0.5): table, ("b", 0.5): table}, "column", "gamma")
    assert joined.columns.tolist() == ["column", "gamma", "x"] and joined.index.tolist() == [0, 1, 2, 3]
    assert joined.column.tolist() == ["a", "a", "b", "b"]


@pytest.mark.parametrize(("names", "what"), [
    (["obgd", "least-squares"], "step_size"), (["lms", "obgd"], "meta_step_size"), (["tdlambda"], "meta_step_size"),
])  # fmt: skip
def test_a_step_size_that_nobody_has_is_refused(names: list[str], what: str) -> None:
    said = {"step_size": None, "meta_step_size": None, what: 0.01}
    with pytest.raises(ValueError, match=f"^{what} must be left out: it says nothing to {', '.join(names)}"):
        check_used(["linear"], names, **said)
    check_used(["linear"], [*names, "idbd"], **said)
    check_used(["linear", "network"], names, **said)
    check_used(["linear"], names, None, None)
