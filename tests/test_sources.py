"""Experience that is given: arrays, iterators, tables, and files read in pieces."""

import itertools
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from alberta_nb.learners.linear import LinearLearner
from alberta_nb.loops.supervised import run_learning_loop
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.streams.sources import ArraySource, IteratorSource, RowsSource, Source
from alberta_nb.streams.tables import (
    TableError,
    TableSource,
    header_of,
    is_numeric,
    open_table,
    to_numbers,
    unique_names,
)
from alberta_nb.types import TimeStep

LEARNER = LinearLearner(IDBD(0.02, 0.01))
ROWS = 500


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(ROWS, 3)).astype(np.float32)
    return x, (x @ [1.0, -2.0, 0.5] + 0.1 * rng.normal(size=ROWS)).astype(np.float32)


@pytest.fixture(scope="module")
def frame(data: tuple[np.ndarray, np.ndarray]) -> pd.DataFrame:
    return pd.DataFrame(data[0], columns=["u", "v", "w"]).assign(y=data[1], where="here")


@pytest.fixture(scope="module")
def weights(data: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return np.asarray(run_learning_loop(LEARNER, ArraySource(*data)).state.weights)


def together(source: Source, first: int = 0, rows: int = 64) -> tuple[np.ndarray, np.ndarray]:
    pages = list(source.pages(first, rows))
    assert all(len(page.target) <= rows and page.observation.dtype == np.float32 for page in pages)
    return np.concatenate([p.observation for p in pages]), np.concatenate([p.target for p in pages])[:, 0]


# --- arrays ---


@pytest.mark.parametrize(
    ("observations", "targets", "error", "message"),
    [
        (np.zeros((3, 2)), np.zeros(2), ValueError, r"targets must have shape \(3,\)"),
        (np.zeros(3), np.zeros(3), ValueError, "observations must have 2 dimensions"),
        (np.zeros((0, 2)), np.zeros(0), ValueError, "observations must have rows and columns"),
        (np.zeros((3, 0)), np.zeros(3), ValueError, "observations must have rows and columns"),
        ([["a"]], [1.0], TypeError, "observations must be numeric"),
        ([[1.0]], [None], TypeError, "targets must be numeric"),
    ],
)
def test_array_source_names_what_is_wrong(observations, targets, error, message) -> None:
    with pytest.raises(error, match=message):
        ArraySource(observations, targets)


def test_array_source_takes_both_shapes_of_target(data) -> None:
    x, y = data
    for targets in (y, y[:, None], y.tolist()):
        assert np.array_equal(together(ArraySource(x, targets))[1], y)


def test_rows_of_any_kind_are_one_source() -> None:
    x, y = np.ones((5, 2), np.float32), np.arange(10, dtype=np.float32).reshape(5, 2)
    source = RowsSource(TimeStep, {"observation": x, "target": y}, extra_numbers=3)
    assert (source.num_steps, source.feature_dim, source.numbers) == (5, 2, 2 + 2 + 3)
    assert source.shapes() == {"observation": (2,), "target": (2,)} and source.finite
    assert [len(page.target) for page in source.pages(1, 3)] == [3, 1]
    assert all(array.ctypes.data % 64 == 0 for array in source.rows.values())
    y[3, 0] = np.nan
    assert not RowsSource(TimeStep, {"observation": x, "target": y}).finite
    assert not ArraySource(x, np.full(5, np.inf)).finite


@pytest.mark.parametrize("first", [0, 1, 64, 499, 500])
def test_pages_begin_where_asked(data, frame, first) -> None:
    x, y = data
    if first == ROWS:
        assert list(ArraySource(x, y).pages(first, 10)) == list(TableSource(frame, "y").pages(first, 10)) == []
        return
    for source in (ArraySource(x, y), TableSource(frame, "y", piece_rows=97), IteratorSource(zip(x, y, strict=True))):
        found = together(source, first)
        assert np.array_equal(found[0], x[first:]) and np.array_equal(found[1], y[first:])


# --- iterators ---


def endless(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
    for t in itertools.count():
        yield x[t % len(x)], float(y[t % len(y)])


def test_iterator_equals_array(data, weights) -> None:
    source = IteratorSource(endless(*data))
    assert source.feature_dim == 3 and source.num_steps is None
    assert np.array_equal(run_learning_loop(LEARNER, source, ROWS).state.weights, weights)


@pytest.mark.parametrize("cuts", [(1,), (64, 65), (100, 300, 301)])
def test_iterator_can_be_continued(data, weights, cuts) -> None:
    source, state, position = IteratorSource(endless(*data)), None, None
    for steps in np.diff([0, *cuts, ROWS]):
        run = run_learning_loop(LEARNER, source, int(steps), learner_state=state, stream_state=position)
        state, position = run.state, run.stream_state
        assert run.steps == steps
    assert np.array_equal(state.weights, weights)


def test_iterator_takes_time_steps_and_column_targets(data) -> None:
    x, y = data
    steps = [TimeStep(observation=a, target=np.array([b])) for a, b in zip(x, y, strict=True)]
    assert np.array_equal(together(IteratorSource(steps))[1], y)


def test_iterator_holds_two_pages_at_most(data) -> None:
    taken = itertools.count()

    def pairs() -> Iterator[tuple[np.ndarray, float]]:
        for pair in endless(*data):
            next(taken)
            yield pair

    source = IteratorSource(pairs())
    for page in itertools.islice(source.pages(0, 50), 40):
        assert len(page.target) == 50 and len(source.waiting.items) <= 100
    assert next(taken) == 2000


def test_iterator_says_when_it_cannot_go_back(data) -> None:
    source = IteratorSource(endless(*data))
    for _ in itertools.islice(source.pages(0, 10), 5):
        pass
    with pytest.raises(ValueError, match="gone past step 0"):
        next(source.pages(0, 10))


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        ([], ValueError, "pairs is empty"),
        (7, TypeError, "pairs must be iterable"),
        ([([1.0], 1.0), ([1.0, 2.0], 1.0)], ValueError, r"pair 1: observation must have shape \(1,\)"),
        ([([1.0], [1.0, 2.0])], ValueError, "pair 0: target must be one number"),
        ([([1.0], "a")], TypeError, "pair 0: target must be numeric"),
        ([5.0], TypeError, "pair 0 must be"),
        ([(1.0, 5.0)], ValueError, "pair 0: observation must have 1 dimensions"),
    ],
)
def test_iterator_names_the_pair(pairs, error, message) -> None:
    with pytest.raises(error, match=message):
        list(IteratorSource(pairs).pages(0, 10))


def test_an_iterator_that_ends_early_ends_the_run(data) -> None:
    x, y = data
    assert run_learning_loop(LEARNER, IteratorSource(zip(x[:30], y[:30], strict=True)), 100).steps == 30


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
    assert np.array_equal(together(source)[0], frame[["w", "y"]].to_numpy())


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
