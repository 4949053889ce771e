"""What a column holds: numbers as people write them, yes and no, kinds, times."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from alberta_nb.streams.columns import column_kinds, is_numeric, kind_of, read_times, read_truths, to_numbers

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
        (pd.Categorical([1, 2]), [1, 2], True),
        ([1 + 2j], [np.nan], False),
    ],
)
def test_what_counts_as_a_number(values, expected, numeric) -> None:
    column = pd.Series(values)
    assert np.array_equal(to_numbers(column), np.array(expected, float), equal_nan=True)
    assert is_numeric(column) == numeric


def test_a_few_bad_values_do_not_make_text() -> None:
    assert is_numeric(pd.Series(["1"] * 9 + ["?"])) and not is_numeric(pd.Series(["1"] * 8 + ["?"] * 2))
