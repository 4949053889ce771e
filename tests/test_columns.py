"""What a column holds: numbers as people write them, yes and no, kinds, times."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from alberta_nb.streams.columns import column_kinds, is_numeric, kind_of, read_truths, to_numbers, why_not_numeric
from alberta_nb.streams.pieces import look_at
from alberta_nb.streams.tables import open_table
from alberta_nb.streams.times import read_times


@pytest.mark.parametrize(
    ("values", "expected", "numeric"),
    [
        ([1, 2, None], [1, 2, np.nan], True),
        ([True, False], [1, 0], True),
        ([True, None, False], [1, np.nan, 0], True),
        (["true", "FALSE", " True "], [1, 0, 1], True),
        (["1", " 2.5", "1e3"], [1, 2.5, 1000], True),
        (["1", "two"], [1, np.nan], False),
        (["a", "b"], [np.nan, np.nan], False),
        ([None, None], [np.nan, np.nan], True),
        ([np.inf, -np.inf, 1e19, 1e18], [np.nan, np.nan, np.nan, 1e18], False),
        ([np.inf, 1e19, *[1e18] * 18], [np.nan, np.nan, *[1e18] * 18], True),
        ([2**60, 2**61], [np.nan, np.nan], False),
        ([10**30, 10**30], [np.nan, np.nan], False),
        (["1,234.5", "1,234,567"], [1234.5, 1234567], True),
        (["1 234.5", "1\u202f234", "1'234'567.8"], [1234.5, 1234, 1234567.8], True),
        (["12%", "3 %", "$4", "-€5.5", "\u22127 £", "$-8"], [12, 3, 4, -5.5, -7, -8], True),
        (["1,5,6", "12 34", "1.2.3", "1-2", "%", "1,2345", "--5", "+$-1"], [np.nan] * 8, False),
        ([Decimal("1.5"), Decimal(2)], [1.5, 2], True),
        ([[1, 2], [3]], [np.nan, np.nan], False),
        ([{"a": 1}], [np.nan], False),
        (pd.to_datetime(["2013-01-01", None]), [np.nan, np.nan], False),
        (pd.to_timedelta(["1h"]), [np.nan], False),
        (pd.array([1, None], dtype="Int64"), [1, np.nan], True),
        (pd.array([True, None], dtype="boolean"), [1, np.nan], True),
        (pd.Categorical(["a", "b"]), [np.nan, np.nan], False),
        (pd.Categorical([1, 2]), [1, 2], False),
        ([1 + 2j], [np.nan], False),
    ],
)
def test_what_counts_as_a_number(values, expected, numeric) -> None:
    column = pd.Series(values)
    assert np.array_equal(to_numbers(column), np.array(expected, float), equal_nan=True)
    assert is_numeric(column) == numeric


def test_a_few_bad_values_do_not_make_text() -> None:
    assert is_numeric(pd.Series(["1"] * 9 + ["?"])) and not is_numeric(pd.Series(["1"] * 8 + ["?"] * 2))


def kinds(**columns) -> dict[str, str]:
    return {name: kind_of(pd.Series(cells), name).name for name, cells in columns.items()}


def test_what_a_column_holds() -> None:
    assert kinds(
        a=["1", "2,5", None], b=["Yes", " no", "YES"], c=["t", "f"], d=[True, False], e=["u", "v", "u"], f=[None, None],
        g=["x", "x", None], h=[7, 7.0], i=["1", "2", "err"], j=["1", "2", "<0.1"], k=[[1], [2]], l=[2**63, 2**64 - 1],
        m=pd.Categorical(["a", "b"]), n=["1.2.3.4", "1.2.3.5"], o=["23:00", "23:30"], p=[0, 1], q=["wahr", "falsch"],
        r=pd.to_timedelta(["1h", "2h"]), s=["yes", "no", "perhaps"], t=["", " "], date=["2026-01-01", "", "2026-01-02"],
        u=pd.Series(pd.to_datetime(["2026-01-01", None])).astype("timestamp[ns][pyarrow]"), v=[1j, 2j], w=[{1}, {2}],
        x=pd.array([1, None, 3], dtype="Int64"), y=pd.array([True, None, False], dtype="boolean"), z=[b"a", b"b"],
    ) == dict(
        a="numeric", b="boolean", c="boolean", d="boolean", e="category", f="empty", g="constant", h="constant",
        i="refused", j="refused", k="refused", l="refused", m="category", n="category", o="time", p="numeric",
        q="boolean", r="refused", s="category", t="empty", date="time", u="time", v="refused", w="refused", x="numeric",
        y="boolean", z="refused",
    )  # fmt: skip


def test_what_is_told_of_a_column() -> None:
    frame = pd.DataFrame(
        {"v": ["1,5", "-2", "?"] * 9 + ["8"] * 99, "city": ["Bonn", None, "Paris"] * 42, "i": ["1", "2", "err"] * 42}
    )
    found = column_kinds(frame)
    assert found["v"].range == (-2, 8) and found["v"].example == "?" and "cells like '?' are none" in str(found["v"])
    assert found["city"].values == ("Bonn", "Paris") and (found["city"].rows, found["city"].missing) == (126, 42)
    assert str(found["city"]) == "category, 2 values: Bonn, Paris; 42 missing"
    assert str(found["i"]) == "refused, numbers beside 42 cells like 'err'"
    assert "numbers in two formats" in kind_of(pd.Series(["0.5", "0,4"])).why
    assert kind_of(pd.Series(["1.500", "0,4"]), decimal=",", known_sign=True).range == (0.4, 1500)


@pytest.mark.parametrize(
    "cells", [["Yes", "no", None], [" TRUE", "False", None], [True, False, None], ["ja", "NEIN", np.nan]]
)
def test_yes_and_no(cells) -> None:
    column = pd.Series(cells)
    kind = kind_of(column)
    assert kind.name == "boolean" and kind.missing == 1
    np.testing.assert_array_equal(read_truths(column, kind.values), [1 - (cells[0] == "Nein"), 0, np.nan])
    assert np.isnan(read_truths(pd.Series(["perhaps"]), kind.values)).all()


NEW_YEAR = pd.Timestamp("2026-12-31 23:30"), pd.Timestamp("2027-01-01 00:05:30")


@pytest.mark.parametrize(
    ("cells", "zone"),
    [
        (["2026-12-31 23:30", "2027-01-01T00:05:30"], ""),
        (["2026-12-31T23:30:00Z", "2027-01-01T00:05:30.000Z"], "UTC"),
        (["2026-12-31 23:30:00+00", "2027-01-01 00:05:30+00"], "UTC"),
        (["2026-12-31 23:30 UTC", "2027-01-01 00:05:30 UTC"], "UTC"),
        (["2027-01-01T00:30:00+0100", "2027-01-01T01:05:30+0100"], "+0100"),
        (["2027-01-01T00:30+01:00", "2027-01-01T02:05:30+02:00"], "+01:00 and +02:00"),
        (["31.12.2026 23:30", "1.1.2027 00:05:30"], ""),
        (["31/12/26, 23:30", "1/1/27, 00:05:30"], ""),
        (["12/31/2026 11:30 PM", "1/1/2027 12:05:30 AM"], ""),
        (["12-31-2026 23:30:00.0", "01-01-2027 00:05:30.0"], ""),
        (["31-Dec-2026 23:30:00", "01-Jan-2027 00:05:30"], ""),
        (["2026/12/31 23:30", "2027/1/1 0:05:30"], ""),
        (["2026-12-31 23:30:00,0", "2027-01-01 00:05:30,000"], ""),
        ([1798759800, 1798761930], "UTC"),
        ([1798759800000.0, 1798761930000.0], "UTC"),
        ([1798759800 * 10**9, 1798761930 * 10**9], "UTC"),
        (pd.Series(NEW_YEAR), ""),
        (pd.Series(NEW_YEAR).dt.tz_localize("UTC"), "UTC"),
        ([moment.to_pydatetime() for moment in NEW_YEAR], ""),
    ],
)
def test_times_as_people_write_them(cells, zone) -> None:
    column = pd.concat([pd.Series(cells), pd.Series([None])], ignore_index=True).astype(
        pd.Series(cells).dtype, errors="ignore"
    )
    kind = kind_of(column, "timestamp")
    assert (kind.name, kind.zone, kind.missing) == ("time", zone, 1)
    read = read_times(column, kind.form, bool(kind.zone))
    assert (str(read.dt.tz) if zone else read.dt.tz) == ("UTC" if zone else None)
    assert [moment.tz_localize(None) for moment in read[:2]] == list(NEW_YEAR) and read[2] is pd.NaT
    assert kind.order.first == str(read[0]) and kind.order.late == 0


def test_dates_without_a_time_of_day() -> None:
    for cells in (
        ["31.12.2026", "01.01.2027"],
        ["20261231", "20270101"],
        [20261231, 20270101],
        ["2026-12-31", "2027-01-01"],
    ):
        kind = kind_of(pd.Series(cells), "Datum")
        assert read_times(pd.Series(cells), kind.form, False).tolist() == [moment.normalize() for moment in NEW_YEAR]


def test_what_is_no_time_or_could_be_two() -> None:
    both = kind_of(pd.Series(["01/02/2026", "02/02/2026"]), "date")
    assert both.name == "refused" and "day and month could be either, like '01/02/2026'" in both.why
    assert kind_of(pd.Series(["13/12/2026", "12/13/2026"])).why.startswith(
        "times that begin with the day and with the month"
    )
    assert (
        kind_of(pd.Series(["01.02.2026", "02.02.2026"])).order.last == "2026-02-02 00:00:00"
    )  # points: days come first
    numbers = pd.Series([1798759800, 1798761930])
    assert kind_of(numbers, "visitors").name == "numeric" and kind_of(numbers / 1e6, "time").name == "numeric"
    for cells in (["2026-99-99", "2026-98-98"], ["1.2.3", "1.2.4"], ["12/31/2026", "none", "nothing"]):
        assert kind_of(pd.Series(cells), "date").name == "category"


def test_the_order_of_times() -> None:
    hours = pd.date_range("2026-03-01", periods=100, freq="h")
    order = kind_of(pd.Series(hours)).order
    assert (order.step, order.gaps, order.longest, order.repeats, order.late) == ("1 hour", 0, "", 0, 0)
    order = kind_of(pd.Series([None, *hours[:50], hours[49], *hours[60:], hours[3]])).order
    assert (order.gaps, order.longest, order.repeats, order.late) == (1, "11 hours", 1, 93)
    assert kind_of(pd.Series(hours[::-1])).order.late == 2 and kind_of(pd.Series(hours[:1])).order.step == ""


def test_blank_cells_are_missing_ones() -> None:
    cells = pd.Series(["1", "", "  ", "3", None] * 4, dtype=object)
    assert why_not_numeric(cells) == "" and kind_of(cells).missing == 12
    few = pd.Series(["1", "2", "", "x"], dtype=object)
    assert why_not_numeric(few) == "numbers beside 1 cell like 'x'"
    table = open_table(pd.DataFrame({"a": cells}))
    assert look_at(table)[0] == ["a"]
    ((_, lost),) = table.pieces(["a"])
    assert lost == [0]
