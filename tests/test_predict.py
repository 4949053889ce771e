"""The command that goes on with what was learned."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from alberta_nb.apps import cli
from alberta_nb.apps.learn import learn_table
from alberta_nb.apps.predict import predict_table

RNG = np.random.default_rng(3)
TABLE = pd.DataFrame({"x": RNG.normal(size=900), "z": RNG.normal(size=900)})
TABLE["y"] = (2 * TABLE.x - TABLE.z + 0.1 * RNG.normal(size=900)) * 1e3 + 5e4
SAID = ["learner", "actual", "prediction", "low", "high"]


def call(capsys: Any, *words: Any) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, part in (("first", TABLE[:600]), ("second", TABLE[600:]), ("whole", TABLE)):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
    return tmp_path


@pytest.mark.parametrize(
    "more", [["--lags", 2], ["--lags", 0, "--known", "x,z"], ["--horizon", 3, "--learner", "network"]]
)
def test_two_commands_say_what_one_says(more: list[Any], files: Path, capsys: Any) -> None:
    model, asked = files / "m.alberta", ["--target", "y", "--optimizer", "autostep", *more]
    code, out, _ = call(capsys, "learn", files / "first.csv", *asked, "--save", model, "--output", files / "a")
    assert code == 0 and str(model) in out
    code, out, _ = call(
        capsys, "predict", model, files / "second.csv", "--learn", "--save", model, "--output", files / "b"
    )
    assert code == 0 and str(model) in out and "rmse" in out
    assert call(capsys, "learn", files / "whole.csv", *asked, "--save", files / "w", "--output", files / "c")[0] == 0
    ours, theirs = (pd.read_csv(files / name / "predictions.csv").drop(columns="row") for name in "bc")
    pd.testing.assert_frame_equal(ours, theirs.tail(len(ours)).reset_index(drop=True), check_exact=True)
    assert len(ours) == 300
    third = TABLE[:5].reset_index(drop=True)
    ours, theirs = (predict_table(path, third, window=5).predictions[SAID] for path in (model, files / "w"))
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


def test_a_model_that_does_not_learn_is_not_changed(files: Path, capsys: Any) -> None:
    learn_table(TABLE[:600], "y", lags=0, known=["x", "z"], save=files / "m")
    before = (files / "m").read_bytes()
    code, out, _ = call(capsys, "predict", files / "m", files / "second.csv", "--output", files / "out")
    assert code == 0 and (files / "m").read_bytes() == before
    scores = json.loads((files / "out" / "config.json").read_text())["scores"]
    assert scores["autostep"]["rmse"] < 200 < scores["last value"]["rmse"]  # the noise is 100


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict", "nowhere", "second.csv"], "nowhere"),
        (["predict", "second.csv", "second.csv"], "second.csv"),
        (["predict", "m", "nothing.csv"], "nothing.csv"),
        (["predict", "m", "second.csv", "--save", "n"], "save needs learn"),
        (["predict", "m", "other.csv"], "'x'"),
        (["learn", "first.csv", "--target", "y", "--save", "no/folder/m"], "no/folder"),
        (["learn", "first.csv", "--target", "y", "--save", "out"], "out: it is a folder"),
    ],
)
def test_errors_are_one_line(words: list[str], said: str, files: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(files)
    learn_table(TABLE[:600], "y", lags=0, known=["x", "z"], optimizers=["lms"], save="m")
    (files / "out").mkdir()
    TABLE[["y", "z"]].to_csv("other.csv", index=False)
    code, _, err = call(capsys, *words)
    assert code == 2 and said in err and err.count("\n") == 1 and "Traceback" not in err


def test_only_a_look(files: Path, capsys: Any) -> None:
    learn_table(TABLE[:600], "y", lags=1, optimizers=["lms"], save=files / "m")
    code, out, _ = call(capsys, "predict", files / "m", files / "second.csv", "--explain", "--output", files / "none")
    assert code == 0 and "x" in out and not (files / "none").exists()


def test_a_process_that_was_killed_leaves_the_old_model(files: Path) -> None:
    learn_table(TABLE[:600], "y", lags=1, optimizers=["lms"], save=files / "m")
    before = (files / "m").read_bytes()
    program = (
        "import os, sys, alberta_nb.apps.learn as learn\n"
        "learn.save_model = lambda *_: os._exit(9)\n"
        "from alberta_nb.apps.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    words = ["predict", str(files / "m"), str(files / "second.csv"), "--learn", "--save", str(files / "m")]
    done = subprocess.run([sys.executable, "-c", program, *words, "--output", str(files / "o")], check=False)
    assert done.returncode == 9 and (files / "m").read_bytes() == before
