"""What somebody knows of a file: every option overrules the guess, and one that cannot be is refused."""

import argparse

import numpy as np
import pytest

from alberta_nb.apps.cli import main
from alberta_nb.streams.columns import column_kinds
from alberta_nb.streams.pieces import first_piece, look_at
from alberta_nb.streams.reading import BLANKS, Reading, add_reading_arguments, reading_of
from alberta_nb.streams.tables import open_table

NAN = float("nan")


def parsed(*words: str) -> Reading:
    parser = argparse.ArgumentParser()
    add_reading_arguments(parser)
    return reading_of(parser.parse_args(words))


@pytest.mark.parametrize(
    ("words", "reading"),
    [
        ([], Reading()),
        (["--sep", ";"], Reading(sep=";")),
        (["--sep", "tab"], Reading(sep="\t")),
        (["--sep", r"\t"], Reading(sep="\t")),
        (["--sep", " "], Reading(sep=BLANKS)),
        (["--decimal", ","], Reading(decimal=",")),
        (["--thousands", "."], Reading(thousands=".", decimal=",")),
        (["--thousands", "'", "--decimal", ","], Reading(thousands="'", decimal=",")),
        (["--encoding", "shift_jis"], Reading(encoding="shift_jis")),
        (["--skip-rows", "3"], Reading(skip_rows=3)),
        (["--comment", "%"], Reading(comment="%")),
        (["--na", "-9999"], Reading(na=["-9999"])),
        (["--na", 'off,"a, b",-1'], Reading(na=("off", "a, b", "-1"))),
        (["--no-names"], Reading(names=False)),
    ],
)
def test_options_are_one_object(words, reading) -> None:
    assert parsed(*words) == reading and hash(parsed(*words)) == hash(reading)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sep": "ab"}, "sep must be one sign, a tab or blanks, got 'ab'"),
        ({"sep": ""}, "sep must be one sign"),
        ({"sep": "\n"}, "sep cannot be"),
        ({"decimal": ";"}, "decimal must be '.' or ',', got ';'"),
        ({"thousands": "_"}, "thousands must be one of"),
        ({"thousands": ",", "decimal": ","}, "thousands and decimal are equal"),
        ({"encoding": "morse"}, "encoding 'morse' is not known"),
        ({"skip_rows": -1}, "skip_rows must be"),
        ({"comment": "//"}, "comment must be one sign, got '//'"),
    ],
)
def test_what_cannot_be_is_refused(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        Reading(**wrong)


@pytest.mark.parametrize(
    ("content", "reading", "columns", "values", "told"),
    [
        ("a;b\n1.500;2\n2.500;3\n", {}, "ab", [[1.5, 2], [2.5, 3]], "'1.500' is read as 1.5"),
        ("a;b\n1.500;2\n2.500;3\n", {"thousands": "."}, "ab", [[1500, 2], [2500, 3]], "decimal comma (given)"),
        ("a,b\n1.500,2\n2.500,3\n", {"thousands": "."}, "ab", [[1500, 2], [2500, 3]], "decimal comma (given)"),
        ("a;b\n1,500;2\n2,500;3\n", {}, "ab", [[1.5, 2], [2.5, 3]], "'1,500' is read as 1.5"),
        ("a;b\n1,500;2\n2,500;3\n", {"decimal": "."}, "ab", [[1500, 2], [2500, 3]], "decimal point (given)"),
        ("a\n1,5\n2,5\n", {"sep": ";"}, "a", [[1.5], [2.5]], "cut at ';' (given), decimal comma"),
        ("a;b,c;d\n1;2,3;4\n", {"sep": ","}, ["a;b", "c;d"], None, "cut at ',' (given)"),
        ("x y\n7,8\na,b\n1,2\n", {"skip_rows": 2}, "ab", [[1, 2]], "2 lines above the names left out (given)"),
        ("x,y\na,b\n1,2\n", {"skip_rows": 0}, "xy", None, "0 lines"),
        ("; made\na,b\n1,2 ; odd\n; x\n3,4\n", {"comment": ";"}, "ab", [[1, 2], [3, 4]], "1 line above"),
        ("a,b\n1,-9999\noff,2\n3,4\n", {"na": ("off", "-9999")}, "ab", [[1, NAN], [NAN, 2], [3, 4]], ""),
        ("a;b\n1,5;-9999,0\n2,5;1,5\n", {"na": -9999}, "ab", [[1.5, NAN], [2.5, 1.5]], ""),
        ("1.5,2\n3,4\n", {"names": False}, ["column 1", "column 2"], [[1.5, 2], [3, 4]], "no names (given)"),
        ("# x\n7\tu\t\\N\n8\tv\t1\n", {"names": False}, ["column 1", "column 2", "column 3"], None, "no names"),
    ],
)
@pytest.mark.parametrize("piece_rows", [None, 1])
def test_an_option_overrules_a_guess(tmp_path, content, reading, columns, values, told, piece_rows) -> None:
    (tmp_path / "t.csv").write_text(content)
    table = open_table(tmp_path / "t.csv", piece_rows, Reading(**reading))
    assert table.columns == list(columns) and (told in table.read_as or told == "0 lines")
    if values:
        read = list(table.pieces(list(columns)))
        np.testing.assert_array_equal(np.concatenate([piece for piece, _ in read]), values)
        assert not any(bad.any() for _, bad in read)


def test_an_encoding_is_given(tmp_path) -> None:
    (tmp_path / "t.csv").write_bytes("気温,b\n1,2\n".encode("shift_jis"))
    assert open_table(tmp_path / "t.csv", reading=Reading(encoding="shift_jis")).columns == ["気温", "b"]
    (tmp_path / "t.csv").write_bytes("π,b\n1,2\n".encode("utf-16-le"))
    assert open_table(tmp_path / "t.csv", reading=Reading(encoding="utf-16-le")).columns == ["π", "b"]


def test_a_given_decimal_sign_refuses_the_other(tmp_path) -> None:
    (tmp_path / "t.csv").write_text("a;b\n" + "0.5;1\n" * 20 + "0,4;1\n" * 4)
    table = open_table(tmp_path / "t.csv", reading=Reading(decimal="."))
    assert look_at(table)[0] == ["b"] and table.refused == {"a": "numbers beside 4 cells like '0,4'"}
    assert column_kinds(first_piece(table), ".", True)["a"].why == "numbers beside 4 cells like '0,4'"


def test_the_command_explains_and_ends(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("day;v;ok\n" + "".join(f"{k + 1:02}.01.2026;1.{k:03};ja\n" for k in range(20)))
    for command in ("learn", "predict-return", "nexting"):
        assert main([command, "t.csv", "--thousands", ".", "--explain"]) == 0
        said = capsys.readouterr().out
        assert "cut at ';' (guessed), decimal comma (given), text in utf-8 (guessed)" in said
        assert "time, written day.month.year, no zone said, 2026-01-01 00:00:00 to" in said
        assert "numeric, 1000 to 1019" in said and "constant, always ja" in said and "its first 20 rows" in said
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
    assert main(["learn", "t.csv", "--decimal", ";", "--target", "v"]) == 2
    assert "decimal must be '.' or ','" in capsys.readouterr().err
