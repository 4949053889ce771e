"""What is printed, drawn and written: lines, files that are whole, and the frame of a command."""

import argparse
import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from alberta_nb.apps import learn, nexting, predict_return
from alberta_nb.apps.job import TableResult
from alberta_nb.apps.report import (
    Command,
    finite_or_none,
    largest_step_sizes,
    plain,
    prepare,
    remarks,
    replacing,
    shown_scores,
    split_names,
    treatment,
)
from alberta_nb.apps.tables import TableReport
from alberta_nb.streams.tables import TableError


def test_every_treatment_has_its_line() -> None:
    assert treatment(TableReport([], [])) == []
    report = TableReport(["a"], ["b.1"], 9, 3, 2000, {"c": 1500}, {"d": 4}, ["e"], ["f"])
    lines = treatment(report)
    assert len(lines) == 8 and "c 1,500" in lines[3] and lines[-1].endswith("history only: 3")


def test_numbers_for_people() -> None:
    scores = pd.DataFrame({"rmse": [12.3456, np.inf], "mae": [1.0, np.nan], "skill": [-0.5, np.nan]}, ["a", "b"])
    text = shown_scores(scores)
    assert "12.35" in text and "diverged" in text and "-50.0%" in text and text.endswith("-")
    assert finite_or_none({"a": np.inf, "b": 2.0}) == {"a": None, "b": 2.0}
    assert plain("a\nb $x$") == "a b \\$x\\$" and len(plain("long " * 20)) == 24


def test_only_learned_step_sizes_are_remarked() -> None:
    sizes = {"lms": [0.1, 0.1], "idbd": [0.1, 0.4], "lost": [np.nan, 1.0]}
    features = pd.concat(
        [pd.DataFrame({"learner": n, "feature": ["x", "y"], "step_size": s}) for n, s in sizes.items()]
    )
    assert largest_step_sizes(features) == {"idbd": "y (1.6x the median), x (0.4x the median)"}
    table = pd.DataFrame(
        {"rmse": [1.0, 1, 3, np.inf], "skill": [0.0, 0, -2, np.nan]}, ["last value", "running mean", *"ab"]
    )
    assert remarks(table, features)[0].startswith("unstable: a, b; a smaller --step-size")
    assert len(remarks(table.assign(rmse=0.0), features)) == 1


def test_files_are_replaced_whole_or_not_at_all(tmp_path) -> None:
    path = tmp_path / "a.txt"
    with replacing(path) as part:
        part.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        part.write_text("new, but ha")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_is_tried_first(tmp_path) -> None:
    prepare(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(TableError, match="cannot write to"):
        prepare(tmp_path / "file" / "below")


class Picture:
    """As a figure is saved."""

    def savefig(self, path, format: str) -> None:
        path.write_bytes(b"picture")


def test_saved_files(tmp_path) -> None:
    found = TableResult(
        learners={}, targets=["x"], columns=["x"], lags=1, origin={"x": np.nan}, report=TableReport([], []),
        record_every=1, windows=pd.DataFrame({"x": [1 / 3]}),
    )  # fmt: skip
    toy = dataclasses.replace(
        learn.COMMAND,
        picture="p.png",
        draw=lambda found: Picture(),
        tables={"a.csv": "windows"},
        answers=lambda _: {"a": 1},
    )
    paths = toy.save(found, tmp_path, "toy")
    assert [path.name for path in paths] == ["p.png", "a.csv", "config.json"]
    config = json.loads(paths[2].read_text())
    assert paths[1].read_text() == "x\n0.3333333\n" and config["a"] == 1
    assert config["table"]["target"] == "x" and config["inputs"]["counted_from"] == {"x": None}


def test_lists_of_words() -> None:
    assert split_names(" a, ,b") == ["a", "b"] and split_names("") == []


@pytest.mark.parametrize("module", [learn, predict_return, nexting], ids=lambda m: m.__name__.split(".")[-1])
def test_commands_are_descriptions_of_one_frame(module) -> None:
    command = module.COMMAND
    assert isinstance(command, Command) and module.run == command.run
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    text = parser.format_help()
    for name in (*command.files, "config.json", f"--{command.column}", "--no-progress", *command.optimizers):
        assert name in " ".join(text.split())
