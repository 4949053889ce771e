"""The past of a row: lags, holes, and what is counted."""

import numpy as np
import pandas as pd
import pytest

from alberta_nb.apps.tables import (
    LaggedSource,
    all_rows,
    fill_forward,
    guess_rows,
    lag_features,
    lag_names,
    load_weather,
    weather_path,
)
from alberta_nb.learners.baselines import LastValue, RunningMean
from alberta_nb.loops.supervised import run_learning_loop
from alberta_nb.streams.dialect import TableError
from alberta_nb.streams.tables import open_table


@pytest.fixture(scope="module")
def weather() -> pd.DataFrame:
    return load_weather()


def together(source: LaggedSource, first: int = 0, rows: int = 256) -> tuple[np.ndarray, np.ndarray]:
    pages = list(source.pages(first, rows))
    return np.concatenate([p.observation for p in pages]), np.concatenate([p.target for p in pages])[:, 0]


def by_hand(frame: pd.DataFrame, target: str, lags: int) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 1, row by row, with pandas."""
    numbers = frame.astype(float)
    counted = numbers - numbers.bfill().iloc[0]
    filled = counted.ffill().fillna(0.0).to_numpy()
    past = np.concatenate([np.repeat(filled[:1], lags, axis=0), filled])
    start = int(np.flatnonzero(numbers[target].notna())[0])
    rows, targets = [], []
    for t in range(start + 1, len(frame)):
        if np.isnan(counted[target].iloc[t]):
            continue
        before = past[t : t + lags][::-1]  # newest first
        rows.append(np.concatenate([before[0], *(before[k] - before[k + 1] for k in range(lags - 1))]))
        targets.append(counted[target].iloc[t])
    return np.array(rows), np.array(targets)


# --- the shipped series ---


def test_the_shipped_series(weather) -> None:
    assert weather.shape == (8703, 10) and weather.time.is_monotonic_increasing and weather.time.is_unique
    assert len(weather.select_dtypes("number").columns) == 9
    text = weather_path().with_name("nyc_weather_2013.md").read_text(encoding="utf-8")
    for word in ("CC0", "public domain", "NOAA", *weather.columns):
        assert word in text


# --- lags ---


def test_fill_forward_equals_pandas() -> None:
    rng = np.random.default_rng(0)
    values = np.where(rng.random((200, 4)) < 0.6, np.nan, rng.normal(size=(200, 4)))
    assert np.array_equal(fill_forward(values, np.full(4, np.nan)), pd.DataFrame(values).ffill(), equal_nan=True)
    assert not np.isnan(fill_forward(values, np.zeros(4))).any()


@pytest.mark.parametrize("lags", [1, 2, 5])
def test_lags_hold_the_rows_themselves(lags) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20, 3))
    features = lag_features(rows, np.arange(lags, 20), lags)
    assert features.shape == (20 - lags, 3 * lags) and len(lag_names("abc", lags)) == 3 * lags
    parts = features.reshape(len(features), lags, 3)
    for k in range(lags):  # the row k + 1 before is the last one, without the k newest changes
        row = parts[:, 0] - parts[:, 1 : k + 1].sum(axis=1)
        np.testing.assert_allclose(row, rows[lags - 1 - k : 19 - k], atol=1e-12)


@pytest.mark.parametrize("lags", [1, 2, 7])
@pytest.mark.parametrize("piece_rows", [1, 3, 50, 1000])
def test_lagged_source_equals_the_definition(lags, piece_rows) -> None:
    rng = np.random.default_rng(lags)
    values = np.where(rng.random((120, 3)) < 0.3, np.nan, rng.normal(size=(120, 3)))
    values[:4, 1] = np.nan
    frame = pd.DataFrame(values, columns=["a", "y", "c"])
    x, y = by_hand(frame, "y", lags)
    for first in (0, 1, 40):
        found = together(LaggedSource(frame, "y", lags=lags, piece_rows=piece_rows), first, 16)
        np.testing.assert_allclose(found[0], x[first:], atol=1e-6)
        np.testing.assert_allclose(found[1], y[first:], atol=1e-6)


def test_nothing_of_the_row_itself_is_seen(weather) -> None:
    for row in (1, 500, 1999):
        changed = weather[:2000].copy()
        changed.loc[row, changed.columns[1:]] = 12345.0
        a, b = (together(LaggedSource(t, "temp", lags=3))[0] for t in (weather[:2000], changed))
        assert np.array_equal(a[:row], b[:row])


def test_columns_are_counted_from_their_first_value() -> None:
    seconds = 1.4e9 + np.arange(100.0) * 3600
    frame = pd.DataFrame({"clock": seconds, "y": 1e6 + np.arange(100.0) / 8})
    source = LaggedSource(frame, "y", lags=2)
    x, y = together(source)
    assert np.array_equal(x[1:, 2], np.full(98, 3600.0)) and np.array_equal(y, np.arange(1, 100) / 8)
    assert source.origin.tolist() == [1.4e9, 1e6]


def test_features_are_chosen_and_the_target_is_always_among_them(weather) -> None:
    source = LaggedSource(weather, "temp", ["visib", "dewp"], lags=2)
    assert source.columns == ["temp", "dewp", "visib"]
    assert source.feature_names[:4] == ["temp[-1]", "dewp[-1]", "visib[-1]", "temp[-1]-[-2]"]


def test_the_baselines_are_those_of_pandas(weather) -> None:
    source = LaggedSource(weather, "pressure", lags=1)
    known = weather.pressure.dropna()
    last = run_learning_loop(LastValue(), source)
    assert last.steps == len(known) - 1
    np.testing.assert_allclose(last.metrics[:, 1], known.diff()[1:], atol=1e-3)
    mean = run_learning_loop(RunningMean(), source)
    expected = known[2:].to_numpy() - known[1:].expanding().mean()[:-1].to_numpy()
    np.testing.assert_allclose(mean.metrics[1:, 1], expected, atol=1e-2)


# --- what cannot be, and where a reading stands ---


@pytest.mark.parametrize(
    ("frame", "target", "features", "lags", "error", "message"),
    [
        ({"a": [1, 2]}, "b", None, 1, TableError, "has no column 'b'"),
        ({"a": [1, 2]}, "a", ["b"], 1, TableError, "has no column 'b'"),
        ({"a": ["x", "y"]}, "a", None, 1, TableError, "holds no numbers"),
        ({"a": [1, 2], "b": [[1], {}]}, "a", ["b"], 1, TableError, "holds no numbers"),
        ({"a": []}, "a", None, 1, TableError, "no rows"),
        ({"a": [None, None]}, "a", None, 1, TableError, "no value at all"),
        ({"a": [1, 2]}, "a", None, 0, ValueError, "lags must be 1 or more where no column is known"),
        ({"a": [1, 2]}, "a", None, 2.0, TypeError, "lags must be a whole number"),
        ({"a": [1, 2]}, "a", None, 10**7, ValueError, "1,000,000 are the most"),
    ],
)
def test_errors_name_what_is_wrong(frame, target, features, lags, error, message) -> None:
    with pytest.raises(error, match=message):
        list(LaggedSource(pd.DataFrame(frame), target, features, lags=lags).pages(0, 10))


def test_rows_are_guessed(weather, tmp_path) -> None:
    weather.to_csv(tmp_path / "w.csv", index=False)
    weather.to_parquet(tmp_path / "w.parquet")
    for table in (weather, tmp_path / "w.csv", tmp_path / "w.parquet", weather_path()):
        assert 0.5 < guess_rows(open_table(table)) / len(weather) < 2


@pytest.mark.parametrize("piece_rows", [1, 2, 3, 100])
def test_a_place_has_the_last_time_that_was_known(piece_rows) -> None:
    times = ["2026-01-01", "2026-01-02", None, "2026-01-04", None, None, None]
    source = LaggedSource(pd.DataFrame({"time": times, "y": range(7)}), "y", lags=2, piece_rows=100)
    source.table.piece_rows = piece_rows
    places = [rows.upto(n + 1) for rows in all_rows(source, 2) for n in range(len(rows.numbers))]
    days = [(place.time - places[0].time) / 86_400 for place in places]
    assert days == [0, 0, 2, 2, 2, 2] and [place.rows for place in places] == [2, 3, 4, 5, 6, 7]
