"""Files as people have them: how each is packed, encoded, cut and signed is seen from its first lines."""

import gzip
import tracemalloc
import zipfile

import numpy as np
import pytest

from alberta_nb.streams.dialect import Dialect, TableError, dialect_of, number_of, signs_of
from alberta_nb.streams.pieces import look_at
from alberta_nb.streams.tables import open_table


@pytest.mark.parametrize(
    ("text", "signs", "values"),
    [
        ("1,500", [".", ","], [1500, 1.5]),
        ("1,234,567.5", ["."], [1234567.5, np.nan]),
        ("-1.234,5e-1", [","], [np.nan, -123.45]),
        ("\u2212 7", [".", ","], [-7, -7]),
        ("+-7", [], [np.nan, np.nan]),
        ("\u2212$7", [".", ","], [-7, -7]),
        ("1 234 567", [".", ","], [1234567, 1234567]),
        ("1 23", [], [np.nan, np.nan]),
        ("1,2.3,4", [], [np.nan, np.nan]),
    ],
)
def test_numbers_as_people_write_them(text, signs, values) -> None:
    assert signs_of(text) == signs
    np.testing.assert_array_equal([number_of(f" {text} ", sign) for sign in ".,"], values)


def test_separators_quotes_and_blank_lines(tmp_path) -> None:
    path = tmp_path / "a.csv"
    for start in ("", "\ufeff", "\n\n", "\ufeff\n"):
        path.write_text(start + '"size, in cm";"b|c"\n1;2\n3;4\n', encoding="utf-8")
        assert dialect_of(path) == Dialect(names=["size, in cm", "b|c"], separator=";", above=start.count("\n"))
        table = open_table(path)
        assert np.array_equal(next(table.pieces(["b|c"]))[0], [[2], [4]])


def test_text_that_is_not_utf8_is_no_obstacle(tmp_path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("place;y\nK\u00f6ln;1\nN\u00fcrnberg;2\n".encode("latin-1"))
    assert np.array_equal(next(open_table(path).pieces(["y"]))[0], [[1], [2]])


SCORES = [[20.5 + k % 7, k % 5 + 0.25] for k in range(60)]
ROWS_OF = "".join(f"{a},{b}\n" for a, b in SCORES)
FILES = {
    "utf16.csv": ("a,b\n" + ROWS_OF).encode("utf-16"),
    "utf16be.csv": b"\xfe\xff" + ("a\tb\n" + ROWS_OF.replace(",", "\t")).encode("utf-16-be"),
    "bom.csv": ("\ufeffa,b\n" + ROWS_OF).encode(),
    "comma.csv": ("a;b\n" + ROWS_OF.replace(",", ";").replace(".", ",")).encode(),
    "tabs.dat": ("a\tb\n" + ROWS_OF.replace(",", "\t").replace(".", ",")).encode(),
    "quoted.csv": (
        "a,b\n" + "".join('"{}","{}"\n'.format(*map(str, row)) for row in SCORES).replace(".", ",")
    ).encode(),
    "percent.csv": ("a,b\n" + "".join(f"{a}%,{b} %\n" for a, b in SCORES)).encode(),
    "money.csv": ("a;b\n" + "".join(f"${a};{b} €\n" for a, b in SCORES)).encode(),
    "comment.csv": ("# station 5, hill\n# 2013\na,b\n" + ROWS_OF).encode(),
    "numpy.txt": ("# a b\n" + ROWS_OF.replace(",", " ")).encode(),
    "sep.csv": ("sep=;\na;b\n" + ROWS_OF.replace(",", ";")).encode(),
    "blanks.txt": ("  a    b\n" + "".join(f"{a:8} {b:8}\n" for a, b in SCORES)).encode(),
    "names.csv": ("a,b\n" + "".join(f"r{k},{r}\n" for k, r in enumerate(ROWS_OF.split()))).encode(),
    "R.txt": ('"a" "b"\n' + "".join(f'"{k}" {a} {b}\n' for k, (a, b) in enumerate(SCORES))).encode(),
    "behind.csv": ("a,b\n" + ROWS_OF.replace("\n", ",\n")).encode(),
    "spaced.csv": ("a , b\n" + ROWS_OF.replace(",", ", ")).encode(),
    "lines.csv": ('"a","in\nlines",b\n' + ROWS_OF.replace(",", ",7,")).encode(),
    "mac.csv": ("a,b\n" + ROWS_OF).replace("\n", "\r").encode(),
    "prose.csv": ("a;b;remark, long\n" + "".join(f"{a};{b};one, two, three\n" for a, b in SCORES)).encode(),
    "both.csv": ("a;b;c,d\n" + "".join(f"{a};{b};{a}\n" for a, b in SCORES)).replace(".", ",").encode(),
    "tails.csv": ("a;b;;\n" + "".join(f"{a};{b};;\n" for a, b in SCORES)).encode(),
    "packed.csv": gzip.compress(("a,b\n" + ROWS_OF).encode()),
    "plain.csv.gz": ("a,b\n" + ROWS_OF).encode(),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("piece_rows", [None, 7])
def test_files_as_people_have_them(tmp_path, name, piece_rows) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    table = open_table(tmp_path / name, piece_rows)
    assert {"a", "b"} <= set(look_at(table)[0])
    read = list(table.pieces(["a", "b"]))
    np.testing.assert_array_equal(np.concatenate([values for values, _ in read]), SCORES)
    assert not any(bad.any() for _, bad in read) and not table.examples


def test_zip_files(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as file:
        file.writestr("folder/t.csv", "a,b\n" + ROWS_OF)
        file.writestr("__MACOSX/folder/._t.csv", "x")
    np.testing.assert_array_equal(next(open_table(tmp_path / "t.zip").pieces(["a", "b"]))[0], SCORES)
    with zipfile.ZipFile(tmp_path / "t.zip", "a") as file:
        file.writestr("u.csv", "a,b\n" + ROWS_OF)
    with pytest.raises(TableError, match="t.zip cannot be read: it must hold one file, and holds 2: unpack it first"):
        open_table(tmp_path / "t.zip")


def test_what_was_guessed_is_said(tmp_path) -> None:
    said = {name: [] for name in FILES}
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
        said[name] = open_table(tmp_path / name).read_as.split(", ")
    assert said["bom.csv"] == said["plain.csv.gz"] == [""] and said["comma.csv"] == ["cut at ';'", "decimal comma"]
    assert said["utf16be.csv"] == [r"cut at '\t'", "text in utf-16"] and said["blanks.txt"] == ["cut at blanks"]
    assert said["comment.csv"] == ["2 lines above the names left out"]
    (tmp_path / "data.csv").write_text("1.5,2\n3,4\n")
    assert (
        open_table(tmp_path / "data.csv").read_as
        == "the names look like values: is the first line data? --no-names says so"
    )
    assert look_at(open_table(tmp_path / "tails.csv"))[0] == ["a", "b"]
    assert said["names.csv"] == ["a name is missing", "the first column is called 'row'"]


def test_names_in_latin_letters(tmp_path) -> None:
    (tmp_path / "t.csv").write_bytes(("Gr\xf6\xdfe,b\n" + ROWS_OF).encode("latin-1"))
    assert open_table(tmp_path / "t.csv").columns == ["Gr\xf6\xdfe", "b"]


def test_a_line_that_never_ends_takes_no_memory(tmp_path) -> None:
    with gzip.open(tmp_path / "bomb.csv.gz", "wb", compresslevel=1) as file:
        file.writelines([b"1" * (1 << 20)] * 200)
    (tmp_path / "late.csv").write_bytes(b"a,b\n1,2\n" + b"3" * (1 << 25))
    tracemalloc.start()
    for name in ("bomb.csv.gz", "late.csv"):
        with pytest.raises(TableError, match=f"{name} cannot be read: a line has more than 16,777,216 bytes"):
            list(open_table(tmp_path / name).pieces(["a"]))
    assert tracemalloc.get_traced_memory()[1] < 150e6
    tracemalloc.stop()
