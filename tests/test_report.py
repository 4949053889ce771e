"""What is printed, drawn and written: lines, files that are whole, and the frame of a command."""

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import alberta_nb
from alberta_nb.apps import learn, nexting, predict_return
from alberta_nb.apps.command import Command, finite_or_none, leave, load_learners, prepare, split_names
from alberta_nb.apps.job import TableResult
from alberta_nb.apps.report import (
    all_lost,
    largest_step_sizes,
    listed,
    plain,
    remarks,
    shown_scores,
    treatment,
    unstable,
)
from alberta_nb.apps.table_report import TableReport
from alberta_nb.streams.dialect import TableError


def test_every_treatment_has_its_line() -> None:
    assert treatment(TableReport([], [])) == []
    report = TableReport(["a"], ["b.1"], 9, 3, 2000, {"c": 1500}, {"d": 4}, ["e"], ["f"])
    lines = treatment(report)
    assert len(lines) == 8 and "c 1,500" in lines[3] and lines[-1].endswith("history only: 3")
    refused = {"t": "no numbers", "ns": "numbers above 1e18", "r": "numbers beside cells like '<0.1'"}
    report = TableReport(
        list(refused), [], not_numbers={"d": 4}, refused=refused, examples={"d": "T"}, read_as="commas"
    )
    assert treatment(report) == [
        "  read as: commas",
        "  not numeric, ignored: t",
        "  numbers above 1e18, ignored: ns",
        "  numbers beside cells like '<0.1', ignored: r",
        "  no numbers, taken as missing: d 4 ('T')",
    ]


def test_very_many_names_are_not_all_listed() -> None:
    assert listed(list("abc")) == "a, b, c" and listed(["a"] * 1023).endswith("a, a and 1,003 more")
    assert len("".join(treatment(TableReport([f"column {k}" for k in range(10_000)], [])))) < 400


def test_numbers_for_people() -> None:
    scores = pd.DataFrame({"rmse": [12.3456, np.inf], "mae": [1.0, np.nan], "skill": [-0.5, np.nan]}, ["a", "b"])
    text = shown_scores(scores)
    assert "12.35" in text and "diverged" in text and "-50.0%" in text and text.endswith("-")
    assert finite_or_none({"a": np.inf, "b": 2.0}) == {"a": None, "b": 2.0}
    assert plain("a\nb $x$") == "a b \\$x\\$" and len(plain("long " * 20)) == 24


def test_only_learned_step_sizes_are_remarked() -> None:
    sizes = {"lms": [0.1, 0.1], "idbd": [0.1, 0.4], "lost": [np.nan, 1.0]}
    features = pd.concat(
        [pd.DataFrame({"learner": n, "feature": ["x", "y"], "weight": 1.0, "step_size": s}) for n, s in sizes.items()]
    )
    assert largest_step_sizes(features) == {"idbd": "y (1.6x the median), x (0.4x the median)"}
    table = pd.DataFrame(
        {"rmse": [1.0, 1, 3, np.inf], "skill": [0.0, 0, -2, np.nan]}, ["last value", "running mean", *"ab"]
    )
    assert remarks(table, features)[0].startswith("unstable: a, b; a smaller --step-size")
    assert len(remarks(table.assign(rmse=0.0, skill=np.nan), features)) == 1  # nobody erred: there is no skill


def test_what_is_lost_is_told_in_one_way() -> None:
    scores = pd.DataFrame({"rmse": [1.0, 2.1, np.nan, np.inf, 0.0], "skill": [0.0, -1.1, np.nan, np.nan, np.nan]})
    assert unstable(list("abcde"), scores.rmse, scores.skill)[0].startswith("unstable: b, c, d; ")
    assert unstable(["a"], scores.rmse[:1], scores.skill[:1]) == []
    baselines = pd.DataFrame({"rmse": [1.0, 1.0, np.nan]}, ["last value", "running mean", "a"])
    assert all_lost(baselines) and not all_lost(baselines.assign(rmse=1.0))
    assert all_lost(pd.concat({0.5: baselines, 0.9: baselines})) and not all_lost(scores) and all_lost(scores[2:4])


def test_what_dead_jobs_have_begun_is_cleared_away(tmp_path) -> None:
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    node = platform.node()
    dead, huge = f".a.csv.{node}-{done.stdout.strip()}.part", f".a.csv.{node}-{10**30}.part"
    own, elsewhere = f".a.csv.{node}-{os.getpid()}.part", ".a.csv.other.host-1.part"
    for name in (dead, huge, own, elsewhere, "mine.part", ".config"):
        (tmp_path / name).touch()
    prepare(tmp_path)
    leave(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {own, elsewhere, "mine.part", ".config"}
    os.utime(tmp_path / elsewhere, (0, 0))
    prepare(tmp_path)
    leave(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {own, "mine.part", ".config"}


def test_a_job_that_is_killed_leaves_nothing_for_ever(tmp_path) -> None:
    job = "import os, pathlib, sys\nfrom alberta_nb.loops.archive import replacing\n"
    job += (
        "with replacing(pathlib.Path(sys.argv[1]) / 'a.csv') as part:\n    part.touch()\n    os.kill(os.getpid(), 9)\n"
    )
    path = os.pathsep.join([str(Path(alberta_nb.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-c", job, tmp_path], env=os.environ | {"PYTHONPATH": path}, check=False)
    assert len(list(tmp_path.iterdir())) == 1
    prepare(tmp_path)
    leave(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_jobs_can_prepare_one_folder(tmp_path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(prepare, [tmp_path / "new"] * 400)) == [None] * 400


def test_a_folder_is_tried_first(tmp_path) -> None:
    prepare(tmp_path / "a" / "b")
    assert len(list((tmp_path / "a" / "b").iterdir())) == 1  # that somebody is there
    leave(tmp_path / "a" / "b")
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
    assert split_names(" a, ,b") == ["a", "b"] and split_names("") == split_names(" ") == split_names(",") == []
    assert split_names('"a, in C", b,"c"') == ["a, in C", "b", "c"]
    assert split_names('a, "in\nlines" ,say "b","x ""y"""') == ["a", "in\nlines", 'say "b"', 'x "y"']
    assert split_names("a, in C", ["a, in C"]) == ["a, in C"] and split_names("a, in C", ["a", "in C"]) == ["a", "in C"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[]", "learners must be named there, got NoneType"),
        ("{}", "learners must be named there, got NoneType"),
        ('{"learners": [1]}', "learners must be named there, got list"),
        ('{"learners": {"a": 7}}', "config must be a dict, got int"),
        ('{"learners": {"a": {"type": "os.system"}}}', r"config\['type'\] must be one of"),
        ('{"learners": {"a": {"type": "LMS", "step_size": NaN}}}', "finite numbers"),
        ('{"learners": {"a": {"type": "LMS", "step_size": -Infinity}}}', "finite numbers"),
        ('{"learners": {"a": {"type": "LMS", "step_size": 1e999}}}', "finite numbers"),
        ('{"learners": {"a": {"type": "LMS", "step_size": "0.1"}}}', "step_size must be a number"),
        ('{"learners": {"a": {"type": "LMS", "step_size": %s}}}' % ("9" * 5000), "limit"),
        ('{"learners": {"a": {"type": "LMS"}, "a": {"type": "LMS"}}}', "stands there twice"),
        ('{"learners": {"a": {"type": "LMS", "type": "IDBD"}}}', "stands there twice"),
        ('{"learners": {"a": %s}}' % ("[" * 100_000 + "]" * 100_000), "nested too deep"),
        ('{"learners": {"a": ' + '{"type": "Scored", "learner": ' * 400 + "1" + "}" * 402, "40 levels deep"),
    ],
)
def test_a_hostile_configuration_ends_with_a_sentence(tmp_path, text, message) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"config.json: .*{message}"):
        load_learners(tmp_path / "config.json")


@pytest.mark.parametrize("module", [learn, predict_return, nexting], ids=lambda m: m.__name__.split(".")[-1])
def test_commands_are_descriptions_of_one_frame(module) -> None:
    command = module.COMMAND
    assert isinstance(command, Command) and module.run == command.run
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    text = parser.format_help()
    for name in (*command.files, "config.json", f"--{command.column}", "--no-progress", *command.optimizers):
        assert name in " ".join(text.split())
