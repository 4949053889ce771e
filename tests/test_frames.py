"""Everything as data frames: Arrow, the interchange protocol, rows of an iterator, standard input, Parquet."""

import io
import itertools
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from alberta_nb.streams.dialect import TableError
from alberta_nb.streams.frames import at_home
from alberta_nb.streams.pieces import first_piece, look_at
from alberta_nb.streams.reading import Reading
from alberta_nb.streams.tables import TableSource, explain, open_table

TABLE = pa.table(
    {
        "a.b": [1, 2, 3, 2**53],
        "word": ["u", "v", None, "u"],
        "a": [{"b": 7, "c": [k]} for k in range(4)],
        "z": pa.array([0.5, None, 2.5, 3.5], pa.float32()),
        "on": [True, None, False, True],
        "kind": pa.array(["x", "y", "x", None]).dictionary_encode(),
    }
)
NUMERIC = {"a.b": [1, 2, 3, 2**53], "z": [0.5, np.nan, 2.5, 3.5], "on": [1, np.nan, 0, 1]}


class Stream:
    "Somebody's table that speaks Arrow, and nothing else."

    def __init__(self, table: pa.Table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


class Sized(Stream):
    def __len__(self) -> int:
        return len(self.table)


class Interchange:
    "Somebody's table that speaks the older protocol, and nothing else."

    def __init__(self, frame: pd.DataFrame):
        self.frame = frame

    def __dataframe__(self, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.frame.__dataframe__(**options)


def written(path: Path) -> Path:
    parquet.write_table(TABLE, path, row_group_size=3)
    return path


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["table", "batches", "stream", "sized", "frame", "parquet", "rows", "list", "frames"])
@pytest.mark.parametrize("piece_rows", [None, 1, 3])
def test_every_object_is_the_same_table(tmp_path, kind, piece_rows) -> None:
    frame = TABLE.to_pandas()
    given = {
        "table": lambda: TABLE,
        "batches": lambda: pa.RecordBatchReader.from_batches(TABLE.schema, TABLE.to_batches(2)),
        "stream": lambda: Stream(TABLE),
        "sized": lambda: Sized(TABLE),
        "frame": lambda: frame,
        "parquet": lambda: written(tmp_path / "t.parquet"),
        "rows": lambda: iter(TABLE.to_pylist()),
        "list": TABLE.to_pylist,
        "frames": lambda: (frame.iloc[k : k + 3] for k in (0, 3)),
    }[kind]()
    table = open_table(given, piece_rows)
    assert table.columns == TABLE.column_names
    assert {*NUMERIC} <= {*look_at(table)[0]} and table.refused["word"] == "words"
    read = list(table.pieces(list(NUMERIC)))
    np.testing.assert_array_equal(np.concatenate([piece for piece, _ in read]), np.array(list(NUMERIC.values())).T)
    assert not any(bad.any() for _, bad in read) and all(len(piece) <= (piece_rows or 4) for piece, _ in read)


@pytest.mark.filterwarnings("error")
def test_the_older_protocol(monkeypatch) -> None:
    frame = pd.DataFrame({"a": [1, 2, 3], "b": [0.5, np.nan, 2.5]})
    table = open_table(Interchange(frame), 2)
    np.testing.assert_array_equal(np.concatenate([p for p, _ in table.pieces(["b", "a"])]), frame[["b", "a"]])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TableError, match=r"a Stream needs pyarrow, in the extra `data`"):
        open_table(Stream(TABLE))


def test_polars_where_it_is_installed() -> None:
    polars = pytest.importorskip("polars")
    table = open_table(polars.from_arrow(TABLE.select(["a.b", "z", "word"])))
    assert look_at(table)[0] == ["a.b", "z"]


def test_rows_come_one_after_the_other_and_once() -> None:
    rows = ({"x": k, "y": k / 2} if k % 3 else {"x": k} for k in itertools.count())
    pieces = open_table(rows, 10).pieces(["y", "x"])
    first = next(pieces)[0]
    assert first.shape == (10, 2) and np.isnan(first[::3, 0]).all() and next(pieces)[0][1].tolist() == [5.5, 11]
    assert next(rows)["x"] <= 30  # no more is read than is asked for
    source = TableSource(iter([{"x": 1.0, "y": 2.0}] * 5), "y")
    assert [page.target.shape for page in source.pages(0, 2)] == [(2, 1), (2, 1), (1, 1)]
    with pytest.raises(TableError, match="the iterator has been read, and it is read once: .* give a list"):
        list(source.pages(0, 2))


def test_wrong_rows_are_named() -> None:
    with pytest.raises(TableError, match=r"has a column \['z'\] that its first rows have not"):
        list(open_table(iter([{"x": 1}, {"x": 2}, {"z": 3}]), 2).pieces(["x"]))
    with pytest.raises(TableError, match="the iterator has no rows"):
        open_table(iter([]))
    for wrong in (iter([1, 2]), 3, [1, 2], None):
        with pytest.raises(TypeError, match="mappings or data frames, got int|a data frame or a path, got"):
            open_table(wrong)
    with pytest.raises(TypeError, match="is read as it was told then"):
        open_table(open_table({"a": [1]}), reading=Reading(decimal=","))


def test_what_means_missing_in_an_object() -> None:
    table = open_table({"a": [1, -9999, 3], "b": ["off", "u", "v"]}, reading=Reading(na=[-9999, "off"]))
    assert np.isnan(next(table.pieces(["a"]))[0][1]) and first_piece(table).b.isna().tolist() == [True, False, False]


def test_an_index_of_times_is_a_column() -> None:
    frame = pd.DataFrame({"v": [1.0, 2.0]}, index=pd.date_range("2026-01-01", periods=2, freq="h"))
    table = open_table(frame)
    assert table.columns == ["time", "v"] and look_at(table)[0] == ["v"] and "time, written dates" in explain(table)
    assert next(table.pieces(["v"]))[0].tolist() == [[1], [2]]
    assert open_table(frame.rename_axis("when")).columns == ["when", "v"]


def test_parquet_reads_the_columns_that_are_asked_for(tmp_path) -> None:
    columns = [
        pa.array(range(4)),
        pa.array([{"b": 9}] * 4),
        pa.array([[1, 2]] * 4),
        pa.array([5.0] * 4),
        pa.array([6] * 4),
    ]
    parquet.write_table(pa.Table.from_arrays(columns, names=["a.b", "a", "list", "x", "x"]), tmp_path / "t.parquet")
    table = open_table(tmp_path / "t.parquet")
    assert table.columns == ["a.b", "a", "list", "x", "x.1"]
    assert [list(frame.columns) for frame in table.frames([0, 4])] == [[0, 1]]
    assert next(table.pieces(["x.1", "a.b", "x"]))[0].tolist() == [[6, k, 5] for k in range(4)]


def test_parquet_of_many_equal_names(tmp_path) -> None:
    parquet.write_table(
        pa.Table.from_arrays([pa.array([k]) for k in range(3000)], names=["a"] * 3000), tmp_path / "t.pq"
    )
    table = open_table(tmp_path / "t.pq")
    assert next(table.pieces([table.columns[2999], "a"]))[0].tolist() == [[2999, 0]]


@pytest.mark.parametrize("content", [b"a;b\n1;2,5\n", None])
def test_standard_input(monkeypatch, tmp_path, content) -> None:
    data = content or written(tmp_path / "t.parquet").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    table = open_table("-")
    assert table.name == "standard input" and len(list(tmp_path.glob("alberta_nb-*"))) == 1
    names = ["b", "a"] if content else ["z"]
    for _ in range(2):
        assert next(table.pieces(names))[0][0].tolist() == ([2.5, 1] if content else [0.5])
    del table
    assert not list(tmp_path.glob("alberta_nb-*"))


def test_nothing_at_standard_input(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(TableError, match="standard input cannot be read: it is empty"):
        open_table("-")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(TableError, match="standard input cannot be read: it is closed"):
        open_table("-")


def test_a_home_is_expanded_once(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert at_home("~/t.csv") == tmp_path / "t.csv" and at_home("~nobody-at-all/t.csv") == Path("~nobody-at-all/t.csv")
    (tmp_path / "~").mkdir()
    (tmp_path / "~" / "t.csv").write_text("a\n1\n")
    assert at_home("~/t.csv") == Path("~/t.csv")  # a file that is called so
    with pytest.raises(TableError, match="there is no such file"):
        open_table("~nobody-at-all/t.csv")


def test_whole_numbers_stay_whole_and_categories_are_of_all_row_groups(tmp_path: Path) -> None:
    ids, kinds = pa.array([2**53 + 1, None, 2**53 + 3] * 4), pa.array(["u", "v"] * 3 + ["w", "z"] * 3)
    table = pa.table({"id": ids, "kind": kinds.dictionary_encode(), "y": range(12)})
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=6)
    found = open_table(tmp_path / "t.parquet", reading=Reading(words=("id",)))
    assert [*first_piece(found)["id"].dropna().unique()] == [str(2**53 + 1), str(2**53 + 3)]
    look_at(found)
    assert found.codings.words["kind"].values == ("u", "v", "w", "z")
    short = open_table(tmp_path / "t.parquet", 5)
    assert [len(values) for values, _ in short.pieces(["y"])] == [5, 5, 2]
    assert sum(len(frame) for frame in short.frames([1])) == 12 and max(map(len, short.frames([1]))) <= 5
