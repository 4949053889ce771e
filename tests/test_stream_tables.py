"""Tables as people have them: what counts as a number, files read in pieces, and every mistake in a sentence."""

import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from alberta_nb.learners.linear import LinearLearner
from alberta_nb.loops.supervised import run_learning_loop
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.streams.sources import ArraySource
from alberta_nb.streams.tables import (
    TableError,
    TableSource,
    header_of,
    is_numeric,
    look_at,
    open_table,
    to_numbers,
    unique_names,
)

LEARNER = LinearLearner(IDBD(0.02, 0.01))
ROWS = 500


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(ROWS, 3)).astype(np.float32)
    y = (x @ [1.0, -2.0, 0.5] + 0.1 * rng.normal(size=ROWS)).astype(np.float32)
    return pd.DataFrame(x, columns=["u", "v", "w"]).assign(y=y, where="here")


@pytest.fixture(scope="module")
def weights(frame: pd.DataFrame) -> np.ndarray:
    source = ArraySource(frame[["u", "v", "w"]].to_numpy(), frame.y.to_numpy())
    return np.asarray(run_learning_loop(LEARNER, source).state.weights)


def test_what_a_table_looks_like(frame) -> None:
    assert look_at(open_table(frame)) == (["u", "v", "w", "y"], ROWS)
    assert look_at(open_table(frame, 7)) == (["u", "v", "w", "y"], 7)  # judged by the first piece
    for table in (frame[:0], pd.DataFrame({"a": []})):
        with pytest.raises(TableError, match="has column names, but no rows"):
            look_at(open_table(table))


# --- columns ---


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
        ([np.inf, -np.inf, 1e19, 1e18], [np.nan, np.nan, np.nan, 1e18], True),
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


def test_repeated_names() -> None:
    assert unique_names(["a", "a", "a.1", "a", 3]) == ["a", "a.1", "a.1.1", "a.2", "3"]


# --- tables ---


def save(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")
    return path


@pytest.mark.parametrize("name", ["frame", "t.csv", "t.csv.gz", "t.csv.bz2", "t.csv.xz", "t.tsv", "T.CSV", "t.parquet"])
def test_every_kind_of_table_teaches_the_same(frame, weights, tmp_path, name) -> None:
    table = frame if name == "frame" else save(frame, tmp_path / name)
    source = TableSource(table, "y", piece_rows=77)
    assert source.features == ["u", "v", "w"] and source.feature_dim == 3
    run = run_learning_loop(LEARNER, source)
    assert run.steps == ROWS
    np.testing.assert_allclose(run.state.weights, weights, rtol=1e-5)


def test_a_table_run_can_be_continued(frame, tmp_path) -> None:
    source = TableSource(save(frame, tmp_path / "t.csv"), "y", piece_rows=77)
    whole = run_learning_loop(LEARNER, source)
    half = run_learning_loop(LEARNER, source, 123)
    rest = run_learning_loop(LEARNER, source, learner_state=half.state, stream_state=half.stream_state)
    assert rest.steps == ROWS - 123 and np.array_equal(rest.state.weights, whole.state.weights)


def test_pieces_are_small_and_complete(frame, tmp_path) -> None:
    for table in (frame, save(frame, tmp_path / "t.csv"), save(frame, tmp_path / "t.parquet")):
        pieces = [values for values, _ in open_table(table, 64).pieces(["w", "u"])]
        assert max(map(len, pieces)) <= 64
        np.testing.assert_allclose(np.concatenate(pieces), frame[["w", "u"]], rtol=1e-6)


def test_features_are_given_in_order(frame) -> None:
    source = TableSource(frame, "u", ["w", "y"])
    found = np.concatenate([page.observation for page in source.pages(0, 64)])
    assert np.array_equal(found, frame[["w", "y"]].to_numpy())


def test_missing_values_stay_missing() -> None:
    table = pd.DataFrame({"a": [1.0, None, 3.0, 4.0], "y": [1.0, 2.0, None, 4.0]})
    run = run_learning_loop(LEARNER, TableSource(table, "y"), non_finite="skip")
    assert (run.steps, run.skipped) == (4, 2)


def test_separators_quotes_and_blank_lines(tmp_path) -> None:
    path = tmp_path / "a.csv"
    for start in ("", "\ufeff", "\n\n", "\ufeff\n"):
        path.write_text(start + '"size, in cm";"b|c"\n1;2\n3;4\n', encoding="utf-8")
        assert header_of(path) == (["size, in cm", "b|c"], ";")
        table = open_table(path)
        assert np.array_equal(next(table.pieces(["b|c"]))[0], [[2], [4]])


def test_text_that_is_not_utf8_is_no_obstacle(tmp_path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("place;y\nK\u00f6ln;1\nN\u00fcrnberg;2\n".encode("latin-1"))
    assert np.array_equal(next(open_table(path).pieces(["y"]))[0], [[1], [2]])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_repeated_column_names_are_renamed(tmp_path, suffix) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".csv":
        path.write_text("a,b,a\n1,2,3\n")
    else:
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_arrays([pa.array([k]) for k in (1, 2, 3)], names=["a", "b", "a"]), path)
    table = open_table(path)
    assert table.columns == ["a", "b", "a.1"] and table.renamed == ["a.1"]
    assert np.array_equal(next(table.pieces(["a.1", "a"]))[0], [[3, 1]])
    frame = pd.DataFrame([[1, 2, 3]], columns=["a", "b", "a"])
    assert np.array_equal(next(open_table(frame).pieces(["a.1", "a"]))[0], [[3, 1]])


def test_unreadable_values_are_counted(tmp_path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + "1,2\n" * 19 + "x,\n")
    (values, bad), *_ = open_table(path).pieces(["a", "b"])
    assert bad.tolist() == [1, 0] and np.isnan(values[-1]).all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "there is no such file"),
        ("empty.csv", b"", "is empty"),
        ("blank.csv", b"\n \n", "is empty"),
        ("photo.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "holds binary data"),
        ("ragged.csv", b"a,b\n1,2\n1,2,3\n", "is no table.*Expected 2 fields in line 3"),
        ("wide.csv", b"a,b\n1,2,3\n1,2,3\n", "more fields than its first line has names"),
        ("quote.csv", b'a,b\n1,"2\n', "is no table"),
        ("head.csv", b"a,b\n", "no rows"),
        ("fake.parquet", b"a,b\n1,2\n", "is no table"),
        ("empty.parquet", b"", "is no table"),
        ("fake.csv.gz", b"a,b\n1,2\n", "cannot be read"),
        ("notes.txt", b"a,b\n1,2\n", "must end in .csv"),
        ("plain", b"a,b\n1,2\n", "must end in .csv"),
        ("other.csv", b"x,b\n1,2\n", "has no column 'a'; it has: x, b"),
        ("text.csv", b"a,b\nq,1\n", "column 'a' holds no numbers"),
        ("single.csv", b"a\n1\n2\n", "no numeric column besides the target"),
    ],
)
def test_bad_files_are_explained(tmp_path, name, content, message) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TableError, match=message):
        list(TableSource(path, "a").pages(0, 10))


def test_folders_and_strangers(tmp_path) -> None:
    with pytest.raises(TableError, match="is a folder"):
        open_table(tmp_path)
    with pytest.raises(TypeError, match="data frame or a path, got int"):
        open_table(3)
    with pytest.raises(TableError, match="has no columns"):
        open_table(pd.DataFrame())


def test_truncated_compression_is_explained(frame, tmp_path) -> None:
    path = save(frame, tmp_path / "t.csv.gz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(TableError, match="cannot be read"):
        list(open_table(path).pieces(["u"]))


def test_parquet_without_pyarrow(frame, tmp_path, monkeypatch) -> None:
    path = save(frame, tmp_path / "t.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(TableError, match=r"alberta_nb\[data\]"):
        open_table(path)
