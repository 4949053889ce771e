"""What one reading of a table counts, however its rows come in pieces."""

import numpy as np
import pandas as pd

from alberta_nb.apps.learn import describe, learn_table
from alberta_nb.apps.table_report import Runs
from alberta_nb.apps.tables import LaggedSource, all_rows


def test_the_report_counts() -> None:
    frame = pd.DataFrame(
        {
            "y": [None, 1.0, None, 3.0, 4.0] * 10,
            "same": [None] * 3 + [7.0] * 47,
            "none": [None] * 50,
            "mixed": ["1", "2"] * 24 + ["?", None],
            "flag": [True, False] * 25,
            "words": ["a"] * 50,
            "time": pd.date_range("2020-01-01", periods=50),
        }
    )
    for piece_rows in (7, 100):
        source = LaggedSource(frame, "y", lags=2, piece_rows=piece_rows)
        steps = sum(len(page.target) for page in source.pages(0, 256))
        report = source.report
        assert source.columns == ["y", "same", "none", "mixed", "flag"]
        assert (report.rows, report.before_target, report.no_target) == (50, 2, 19) and steps == 29
        assert report.ignored == ["words", "time"] and report.constant == ["same"] and report.empty == ["none"]
        assert report.missing == {"y": 20, "same": 3, "none": 50, "mixed": 1} and report.not_numbers == {"mixed": 1}


def test_a_column_that_turns_to_text_is_missing_from_there_on(tmp_path) -> None:
    (tmp_path / "t.csv").write_text("a,y\n" + "1,2\n" * 30 + "x,3\n" * 30)
    source = LaggedSource(tmp_path / "t.csv", "y", lags=1, piece_rows=20)
    assert all(np.isfinite(page.observation).all() for page in source.pages(0, 256))
    assert source.report.not_numbers == {"a": 30}


def test_words_that_are_new_and_rows_without_one_are_counted_in_any_pieces() -> None:
    words = ["a", "b", None, "a"] * 5 + ["c", " ", "a", "d"] * 5
    frame = pd.DataFrame({"word": words, "y": np.arange(40.0)})
    for piece_rows in (1, 7, 20):
        source = LaggedSource(frame, "y", lags=0, known=["word"], piece_rows=20)
        source.table.piece_rows = piece_rows
        assert sum(len(rows.numbers) for rows in all_rows(source, 9)) == 39
        assert (source.report.rare, source.report.wordless) == ({"word": 10}, {"word": 10})
        assert source.report.missing == {} and source.report.rows == 40


def test_a_column_that_is_stuck_is_found_however_it_comes_in_pieces() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        n = int(rng.integers(60, 900))
        column = rng.normal(size=n)
        start = int(rng.integers(0, n - 1))
        column[start : start + int(rng.integers(1, 300))] = column[start]
        changed = np.flatnonzero(np.diff(column, append=np.nan) != 0.0)
        lengths = np.diff(changed, prepend=-1)
        runs = Runs(2)
        for part in np.split(np.stack([column, rng.integers(0, 2, n)], axis=1), sorted(rng.integers(1, n, 4))):
            if len(part):
                runs.add(part)
        if lengths.max() >= 50:
            assert (runs.most[0], runs.end[0]) == (lengths.max(), changed[lengths.argmax()] + 1)
        else:
            assert runs.most[0] < 50
        assert set(runs.long(["a", "b"])) <= {"a"}


def test_what_is_stuck_is_told() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=800), "flag": np.arange(800) > 400, "y": rng.normal(size=800)})
    frame.loc[300:420, "x"] = frame.x[300]
    text = describe(learn_table(frame, "y", lags=2, optimizers=["lms"]), "t")
    assert "stuck? no change: of x in 121 rows, until row 421" in text
    assert "stuck" not in describe(learn_table(frame[:300], "y", lags=2, optimizers=["lms"]), "t")
