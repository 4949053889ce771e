"""Tables as people have them: what counts as a number, files read in pieces, and every mistake in a sentence."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from alberta_nb.learners.linear import LinearLearner
from alberta_nb.loops.supervised import run_learning_loop
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.streams.columns import column_kinds
from alberta_nb.streams.dialect import TableError
from alberta_nb.streams.pieces import first_piece, look_at, several, unique_names
from alberta_nb.streams.sources import ArraySource
from alberta_nb.streams.tables import TableSource, explain, open_table

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


# --- names ---


def test_repeated_names() -> None:
    assert unique_names(["a", "a", "a.1", "a", 3]) == ["a", "a.1", "a.1.1", "a.2", "3"]
    assert unique_names(["", " a", "a ", " "]) == ["column 1", "a", "a.1", "column 4"]


def test_ten_thousand_equal_names_take_no_time(tmp_path) -> None:
    for names in (["a"] * 10_000, [""] * 10_000):
        (tmp_path / "t.csv").write_text(",".join(names) + "\n" + "\n".join([",".join(["1"] * 10_000)] * 3) + "\n")
        began = time.process_time()
        table = open_table(tmp_path / "t.csv")
        numeric, rows = look_at(table)
        (values, _), *_ = table.pieces(numeric)
        assert time.process_time() - began < 20 and len(set(numeric)) == 10_000 and values.shape == (rows, 10_000)


def test_a_name_is_found_with_the_blanks_that_it_has() -> None:
    table = open_table(pd.DataFrame([[1, 2, 3]], columns=[" b", "a, in C", "b\n"]))
    assert table.columns == ["b", "a, in C", "b.1"] and table.renamed == ["b.1"]
    assert [table.position(name) for name in (" b", "b", " b ", "b\n", "a, in C", "b.1")] == [0, 0, 0, 2, 1, 2]
    with pytest.raises(TableError, match="has no column ''; it has: 'b', 'a, in C', 'b.1'"):
        table.position("")


def test_a_name_is_found_as_one_types_it() -> None:
    table = open_table(pd.DataFrame([[1, 2, 3]], columns=["Value\nin  cm", "Gro\u0308\u00dfe", "x\u00a0y"]))
    assert [table.position(name) for name in ("Value in cm", "Gr\u00f6\u00dfe", "x y", "Value\nin  cm")] == [0, 1, 2, 0]
    exact = open_table(pd.DataFrame([[1, 2]], columns=["a\nb", "a b"]))
    assert [exact.position(name) for name in ("a\nb", "a b")] == [0, 1]


def test_one_is_a_list_of_one() -> None:
    assert several("x", "ab") == ["ab"] and several("x", 0.5) == [0.5] and several("x", np.int64(3)) == [3]
    assert several("x", ("a", "b")) == ["a", "b"] and several("x", iter("ab")) == ["a", "b"]
    for wrong in (None, {"a": 1}, b"ab", object()):
        with pytest.raises(TypeError, match="x must be a list, or one alone"):
            several("x", wrong)
    table = pd.DataFrame(np.arange(8.0).reshape(2, 4), columns=["y", "a", "b", "ab"])
    assert TableSource(table, "y", "ab").features == ["ab"]


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


def late(tmp_path, separator: str, rows: list[str], cells: dict[int, str]) -> list[float]:
    "What is read of column b where some cells are written in another way, in pieces of ten rows."
    rows = [cells.get(k, row) for k, row in enumerate(rows)]
    (tmp_path / "t.csv").write_text(f"a{separator}b\n" + "".join(f"1{separator}{row}\n" for row in rows))
    table = open_table(tmp_path / "t.csv", 10)
    return [value for values, _ in table.pieces(["b"]) for value in values[:, 0].tolist()]


def test_a_decimal_comma_that_comes_late_is_read(tmp_path) -> None:
    assert late(tmp_path, ";", ["0"] * 100, {55: "0,4", 77: "1.500,5"})[55:78:22] == [0.4, 1500.5]
    assert late(tmp_path, ",", ["0"] * 100, {55: '"0,4"', 77: '"0,25"'})[55:78:22] == [0.4, 0.25]
    assert late(tmp_path, "\t", ["900"] * 100, {55: "1,500", 77: "2,500.5"})[55:78:22] == [1500, 2500.5]
    assert late(tmp_path, ";", ["1,500"] * 100, {}) == [1.5] * 100  # with semicolons, commas are decimal


@pytest.mark.parametrize(
    ("row", "cell"), [("0.5", "0,4"), ("0.5", '"1.500,25"'), ("1,500", "0,4"), ('"2,500"', '"0,5"')]
)
def test_two_decimal_signs_are_no_guess(tmp_path, row, cell) -> None:
    message = f"column 'b' holds {row!r} and {cell!r}: which is its decimal sign".replace('"', "")
    with pytest.raises(TableError, match=message):
        late(tmp_path, "\t", [row] * 100, {95: cell})


def test_what_cannot_be_read_twice_is_refused_at_once(tmp_path) -> None:
    os.mkfifo(tmp_path / "t.csv")
    for name in (tmp_path / "t.csv", "/dev/zero"):
        with pytest.raises(TableError, match="can be read only once"):
            open_table(name)
    for address in ("https://example.com/t.csv", "s3://bucket/t.parquet"):
        with pytest.raises(TableError, match=f"{address} is an address"):
            open_table(address)


def test_a_home_is_where_it_is(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    assert open_table("~/t.csv").columns == ["a", "b"]


def test_a_point_in_a_name_of_parquet(tmp_path) -> None:
    frame = pd.DataFrame({"a.b": [1.0, 2.0], " a": [3.0, 4.0], "s": [{"x": 1}, {"x": 2}]})
    frame.to_parquet(tmp_path / "t.parquet")
    table = open_table(tmp_path / "t.parquet")
    assert look_at(table)[0] == ["a.b", "a"]
    assert np.array_equal(next(table.pieces(["a", "a.b"]))[0], [[3, 1], [4, 2]])


def test_examples_of_what_is_no_number(tmp_path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n" * 30 + "T,3\nx,4\n")
    table = open_table(tmp_path / "t.csv")
    assert [bad.tolist() for _, bad in table.pieces(["a", "b"])] == [[2, 0]] and table.examples == {"a": "T"}


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
        ("wide.csv", b"a,b\n1,2,3\n1,2,3\n", "more fields than its first line has names; is a name missing"),
        ("above.csv", b"Logger\nX\n\n7,b\n1,2\n", "line 4, saw 2; .* are there lines above the names"),
        ("comma.csv", b"a\n1,5\n2,5\n", "is a comma a decimal sign"),
        ("quote.csv", b'a,b\n1,"2\n', "is no table"),
        ("head.csv", b"a,b\n", "no rows"),
        ("fake.parquet", b"a,b\n1,2\n", "is no table"),
        ("empty.parquet", b"", "is no table"),
        ("fake.csv.gz", b"\x1f\x8b, and more", "cannot be read"),
        ("fake.csv.zip", b"PK\x03\x04, and more", "cannot be read"),
        ("two.csv", b"a,b\n" + b"0.5,2\n" * 9 + b'"0,4",1\n', "holds numbers in two formats, like '0.5' and '0,4'"),
        ("below.csv", b"a,b\n" + b"0.5,2\n" * 99 + b"<0.1,1\n" * 5, "holds numbers beside cells like '<0.1'"),
        ("ids.csv", b"a,b\n" + b"%d,1\n" % 2**62 * 9, "holds numbers above 1e18, like '4611686018427387904'"),
        ("notes.doc", b"a,b\n1,2\n", "must end in .csv"),
        ("sheet.xlsx", b"PK\x03\x04", "save the sheet of a workbook as CSV"),
        ("zeros.csv", b"a,b\n\x001,2\n" * 9, "holds binary data"),
        ("page.csv", b"<!DOCTYPE html>\n<p>a,b</p>\n", "it is HTML or XML: save it as CSV"),
        ("rows.txt", b'[{"a": 1, "b": 2}]\n', "it is JSON: save it as CSV"),
        ("other.csv", b"x,b\n1,2\n", "has no column 'a'; it has: 'x', 'b'"),
        ("text.csv", b"a,b\nq,1\n", "column 'a' holds no numbers, like 'q'"),
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


# --- files that nobody here wrote, as the programs make them ---

K = range(30)
X, NO = [k + 0.5 for k in K], float("nan")
HOLED = [NO if k % 5 == 0 else k / 4 for k in K]


def lines(form, end: str = "\n") -> str:
    return "".join(form(k) + end for k in K)


def cell(value: float, hole: str) -> str:
    return hole if value != value else str(value)


# the text, or bytes where it is not UTF-8; what each column holds, under its name; the values of the numeric ones
EXPORTS = {
    "Excel, CSV UTF-8": (
        "\ufeffDate,Size (cm),City\r\n"
        + lines(lambda k: f"1/{k + 1}/2026,{X[k]},Köln", "\r\n"),
        {"Date": "time", "Size (cm)": "numeric", "City": "constant"},
        {"Size (cm)": X},
    ),
    "Excel, German": (
        ("Datum;Größe;Menge\r\n"
         + lines(lambda k: f"{k + 1:02}.01.2026 23:00;{k},5;1.2{k:02},25", "\r\n")).encode("cp1252"),
        {"Datum": "time", "Größe": "numeric", "Menge": "numeric"},
        {"Größe": X, "Menge": [1200.25 + k for k in K]},
    ),
    "Excel, Unicode text": (
        ("Name\tWert\r\n" + lines(lambda k: f"ж{k % 2}\t{X[k]}", "\r\n")).encode("utf-16"),
        {"Name": "category", "Wert": "numeric"},
        {"Wert": X},
    ),
    "UTF-16 without a mark": (
        ("Name\tWert\n" + lines(lambda k: f"b{k % 2}\t{X[k]}")).encode("utf-16-be"),
        {"Name": "category", "Wert": "numeric"},
        {"Wert": X},
    ),
    "LibreOffice, all text quoted": (
        '"Day, of year","Value\nin cm","ok"\n'
        + lines(lambda k: f'"{k}","{k},5",{"TRUE" if k % 2 else "FALSE"}'),
        {"Day, of year": "numeric", "Value\nin cm": "numeric", "ok": "boolean"},
        {"Day, of year": list(K), "Value\nin cm": X},
    ),
    "R, write.csv": (
        '"","x","y","g"\n'
        + lines(lambda k: f'"{k + 1}",{X[k]},{cell(HOLED[k], "NA")},"u{k % 3}"'),
        {"column 1": "numeric", "x": "numeric", "y": "numeric", "g": "category"},
        {"column 1": [k + 1 for k in K], "x": X, "y": HOLED},
    ),
    "R, write.table": (
        '"x" "y" "g"\n'
        + lines(lambda k: f'"{k + 1}" {X[k]} {cell(HOLED[k], "NA")} "u {k % 3}"'),
        {"row": "numeric", "x": "numeric", "y": "numeric", "g": "category"},
        {"x": X, "y": HOLED},
    ),
    "MATLAB, writetable": (
        "Time,Var1,Var2\n"
        + lines(lambda k: f"{k % 28 + 1:02}-Feb-2026 12:00:00,{X[k]},{cell(HOLED[k], 'NaN')}"),
        {"Time": "time", "Var1": "numeric", "Var2": "numeric"},
        {"Var1": X, "Var2": HOLED},
    ),
    "an instrument": (
        "# Logger 5000\n# serial 12, v2\n#\nTime,Temp,Rain\ns,degC,mm\n"
        + lines(lambda k: f"{k},{X[k]},{k % 3}"),
        {"Time": "numeric", "Temp": "numeric", "Rain": "numeric"},
        {"Time": list(K), "Temp": X, "Rain": [k % 3 for k in K]},
    ),
    "a station, TOA5": (
        (
            '"TOA5","hill","CR1000"\n"TIMESTAMP","RECORD","Batt"\n"TS","RN","Volts"\n"","","Min"\n'
            + lines(lambda k: f'"2026-01-{k + 1:02} 00:10:00",{k},{X[k]}')
        ),
        {"TIMESTAMP": "time", "RECORD": "numeric", "Batt": "numeric"},
        {"RECORD": list(K), "Batt": X},
    ),
    "an oscilloscope": (
        "Model,MSO54\nSamples,30\nDate,2026-01-01\n\nTIME,CH1,CH2\n"
        + lines(lambda k: f"{k}e-6,{X[k]},{k}"),
        {"TIME": "numeric", "CH1": "numeric", "CH2": "numeric"},
        {"TIME": [float(f"{k}e-6") for k in K], "CH1": X},
    ),
    "psql, COPY": (
        "id\tok\tv\n"
        + lines(lambda k: f"{k}\t{'t' if k % 2 else 'f'}\t{cell(HOLED[k], chr(92) + 'N')}"),
        {"id": "numeric", "ok": "boolean", "v": "numeric"},
        {"id": list(K), "v": HOLED},
    ),
    "SQLite, -csv": (
        "id|note|v\r\n"
        + lines(lambda k: f'{k}|"a|b{k % 2}"|{cell(HOLED[k], "")}', "\r\n"),
        {"id": "numeric", "note": "category", "v": "numeric"},
        {"id": list(K), "v": HOLED},
    ),
    "MySQL, --batch": (
        "id\tname\tv\n"
        + lines(lambda k: f"{k}\tO'Hara {k % 4}\t{cell(HOLED[k], 'NULL')}"),
        {"id": "numeric", "name": "category", "v": "numeric"},
        {"id": list(K), "v": HOLED},
    ),
    "Google Sheets": (
        "day,money,share,paid\r\n"
        + lines(lambda k: f'2026-01-{k + 1:02},"$1,{k + 200}.50",{k}%,Yes', "\r\n"),
        {"day": "time", "money": "numeric", "share": "numeric", "paid": "constant"},
        {"money": [1200.5 + k for k in K], "share": list(K)},
    ),
    "pandas, to_csv": (
        pd.DataFrame({"x": X, "g": [f"g{k % 2}" for k in K]}).to_csv(),
        {"column 1": "numeric", "x": "numeric", "g": "category"},
        {"column 1": list(K), "x": X},
    ),
    "polars, write_csv": (
        "x,b,t\n"
        + lines(lambda k: f"{cell(HOLED[k], '')},{'true' if k % 2 else 'false'},2026-01-{k + 1:02}T03:04:05.000000"),
        {"x": "numeric", "b": "boolean", "t": "time"},
        {"x": HOLED, "b": [k % 2 for k in K]},
    ),
    "a sensor": (
        "ts,v\n"
        + lines(lambda k: f"2026-01-02T03:{k:02}:05.678Z,{X[k]}"),
        {"ts": "time", "v": "numeric"},
        {"v": X},
    ),
    "DuckDB": (
        "t,v,n\n"
        + lines(lambda k: f"2026-01-02 03:{k:02}:05.678+00,{cell(HOLED[k], '')},{10**18 - k}"),
        {"t": "time", "v": "numeric", "n": "numeric"},
        {"v": HOLED, "n": [10**18 - k for k in K]},
    ),
    "SQL Server, sqlcmd": (
        "id,v\n--,-----\n"
        + lines(lambda k: f"{k},{cell(HOLED[k], 'NULL')}"),
        {"id": "numeric", "v": "numeric"},
        {"id": list(K), "v": HOLED},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", EXPORTS)
@pytest.mark.parametrize("piece_rows", [None, 7])
def test_files_that_nobody_here_wrote(tmp_path, kind, piece_rows) -> None:
    content, holds, values = EXPORTS[kind]
    (tmp_path / "t.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    table = open_table(tmp_path / "t.txt", piece_rows)
    assert table.columns == list(holds)
    if piece_rows is None:
        assert {name: found.name for name, found in column_kinds(first_piece(table), table.decimal).items()} == holds
    read = list(table.pieces(list(values)))
    np.testing.assert_array_equal(np.concatenate([piece for piece, _ in read]), np.array(list(values.values())).T)
    assert not any(bad.any() for _, bad in read) and all(len(piece) <= table.piece_rows for piece, _ in read)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(60))
def test_a_spoiled_file_is_read_or_explained(tmp_path, seed) -> None:
    rng = np.random.default_rng(seed)
    content = list(EXPORTS.values())[seed % len(EXPORTS)][0]
    data = bytearray(content if isinstance(content, bytes) else content.encode())
    for _ in range(rng.integers(1, 6)):
        at, put = (
            int(rng.integers(len(data))),
            [b'"', b"\n\n", b"\0", b"1e400", b"# x\n", b"99.99.2026", b"\xff", b";", b""],
        )
        data[at : at + int(rng.integers(20))] = put[int(rng.integers(len(put)))]
    (tmp_path / "t.txt").write_bytes(data)
    try:
        table = open_table(tmp_path / "t.txt", 11)
        assert all(values.shape[1] == len(bad) for values, bad in table.pieces(look_at(table)[0] or table.columns))
        assert table.name in explain(table)
    except TableError as error:
        assert "t.txt" in str(error)
