"""The command that goes on with what was learned."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

from alberta_nb.apps import cli, learn, predict_return
from alberta_nb.apps.learn import learn_table
from alberta_nb.apps.model import load_model
from alberta_nb.apps.predict import predict_table
from alberta_nb.apps.predict_return import predict_returns

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


# --- futures ---


def series(rows: int = 500) -> pd.DataFrame:
    """Two columns that hang together, with holes, and one that is known with its row; the last row has a value."""
    rng = np.random.default_rng(5)
    x = np.convolve(rng.normal(size=rows + 9), np.ones(10), "valid")
    table = pd.DataFrame({"x": x, "y": 300 + 20 * np.roll(x, 2) + rng.normal(size=rows), "z": rng.normal(size=rows)})
    table.loc[[3, 77, 249, 250, 251, rows - 2], "y"] = np.nan
    return table


JOBS = {
    "sums": ["predict-return", "--cumulant", "y", "--gamma", "0.5,0.9", "--known", "z"],
    "two learners": [
        "predict-return", "--cumulant", "y", "--gamma", "0.9", "--optimizer", "tdlambda,tdidbd", "--interval", "0.9",
    ],
    "no past": ["predict-return", "--cumulant", "y", "--gamma", "0.5", "--lags", "0", "--known", "x,z", "--robust"],
    "means": ["nexting", "--gammas", "0,0.8", "--known", "z"],
    "means without a past": [
        "nexting", "--gammas", "0,0.8", "--lags", "0", "--columns", "y", "--known", "x,z", "--interval", "0.8",
        "--robust",
    ],
}  # fmt: skip


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    table = series()
    for name, part in (("first", table[:250]), ("second", table[250:]), ("whole", table)):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
    return tmp_path


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS.keys())
def test_futures_go_on_as_if_nothing_had_been(job: list[str], halves: Path, capsys: Any) -> None:
    name, *words = job
    words = ["--lags", "3", *words, "--window", "20"]
    first, second, whole, model = (halves / f for f in ("first.csv", "second.csv", "whole.csv", "m.alberta"))
    code, out, _ = call(capsys, name, first, *words, "--save", model, "--output", halves / "a")
    assert code == 0 and f"{model}" in out and "predictions.csv" in out
    code, out, err = call(capsys, "predict", model, second, "--learn", "--save", model, "--output", halves / "b")
    assert (code, err) == (0, "") and f"{model}" in out and "predictions.csv" in out
    assert ("predicting the discounted sum of 'y'" in out) == (name == "predict-return") != ("demons" in out)
    assert call(capsys, name, whole, *words, "--save", halves / "w", "--output", halves / "c")[0] == 0
    ours, theirs = (pd.read_csv(halves / folder / "predictions.csv") for folder in "bc")
    theirs = theirs[theirs.row > 250].reset_index(drop=True)
    assert (ours.row + 250 == theirs.row).all() and ours.columns.equals(theirs.columns)
    followed = [c for c in ours if c.startswith(("x gamma", "y gamma")) and ":" not in c]
    said = [c for c in ours if c not in (*followed, "row")]
    assert said and len(ours) >= 248 - 3
    pd.testing.assert_frame_equal(ours[said], theirs[said], check_exact=True)
    pd.testing.assert_frame_equal(ours[followed], theirs[followed], rtol=1e-4)
    assert model.read_bytes() == (halves / "w").read_bytes()  # states, place, means, and the row that waits


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS.keys())
def test_what_does_not_learn_predicts_every_row(job: list[str], halves: Path, capsys: Any) -> None:
    name, *words = job
    model = halves / "m"
    assert (
        call(capsys, name, halves / "first.csv", "--lags", "3", *words, "--save", model, "--output", halves / "a")[0]
        == 0
    )
    before = model.read_bytes()
    code, out, _ = call(capsys, "predict", model, halves / "second.csv", "--output", halves / "b")
    spoken = pd.read_csv(halves / "b" / "predictions.csv")
    assert code == 0 and model.read_bytes() == before and spoken.row.tolist() == list(range(1, 251))
    said = [c for c in spoken if ":" in c or "gamma" not in c]
    assert spoken[said].notna().all(axis=None) and (spoken[said].std() > 0).all()
    assert (halves / "b" / ("returns.png" if name == "predict-return" else "nexting.png")).is_file()


@pytest.mark.parametrize("rows", [1, 2, 30])
@pytest.mark.parametrize("learn", [True, False])
@pytest.mark.parametrize("job", ["sums", "means"])
def test_a_few_new_rows_are_enough(rows: int, learn: bool, job: str, halves: Path, capsys: Any) -> None:
    name, *words = JOBS[job]
    words = [word.replace("0,0.8", "0.9").replace("0.5,0.9", "0.9") for word in words]
    call(capsys, name, halves / "first.csv", "--lags", "3", *words, "--save", halves / "m", "--output", halves / "a")
    series()[252 : 252 + rows].to_csv(halves / "few.csv", index=False)
    code, out, err = call(
        capsys, "predict", halves / "m", halves / "few.csv", *["--learn"] * learn, "--output", halves / "b"
    )
    assert (code, err) == (0, "") and len(pd.read_csv(halves / "b" / "predictions.csv")) == rows
    assert "no future of these rows is known" in out or name == "nexting"


def test_a_target_may_be_absent_where_no_past_is_seen(halves: Path, capsys: Any) -> None:
    name, *words = JOBS["no past"]
    assert call(capsys, name, halves / "first.csv", *words, "--save", halves / "m", "--output", halves / "a")[0] == 0
    series()[250:][["x", "z"]].to_csv(halves / "plans.csv", index=False)
    code, out, err = call(capsys, "predict", halves / "m", halves / "plans.csv", "--output", halves / "b")
    assert (code, err) == (0, "") and "no future of these rows is known" in out
    assert pd.read_csv(halves / "b" / "predictions.csv").tdlambda.nunique() == 250


def test_a_table_without_the_column_is_named(halves: Path, capsys: Any) -> None:
    for job in ("sums", "means"):
        name, *words = JOBS[job]
        call(
            capsys, name, halves / "first.csv", "--lags", "3", *words, "--save", halves / "m", "--output", halves / "a"
        )
        for gone in "xyz":
            series()[250:].drop(columns=gone).to_csv(halves / "less.csv", index=False)
            code, _, err = call(capsys, "predict", halves / "m", halves / "less.csv", "--output", halves / "b")
            assert code == 2 and f"'{gone}'" in err and err.count("\n") == 1


def test_a_table_whose_target_has_no_value_teaches_nothing(halves: Path, capsys: Any) -> None:
    name, *words = JOBS["sums"]
    call(capsys, name, halves / "first.csv", "--lags", "3", *words, "--save", halves / "m", "--output", halves / "a")
    series()[250:].assign(y=np.nan).to_csv(halves / "none.csv", index=False)
    code, _, err = call(capsys, "predict", halves / "m", halves / "none.csv", "--learn", "--output", halves / "b")
    assert code == 2 and "'y'" in err and err.count("\n") == 1
    assert call(capsys, "predict", halves / "m", halves / "none.csv", "--output", halves / "b")[0] == 0
    assert pd.read_csv(halves / "b" / "predictions.csv")["y gamma 0.9: tdidbd"].notna().all()


@pytest.mark.parametrize("targets", ["y", "y,x"])
def test_rows_whose_targets_nobody_knows_yet_are_predicted(targets: str, halves: Path, capsys: Any) -> None:
    asked = ["--target", targets, "--lags", "0", "--known", "z", "--learner", "linear,network"]
    model = halves / "m"
    assert call(capsys, "learn", halves / "first.csv", *asked, "--save", model, "--output", halves / "a")[0] == 0
    for name, table in (("absent", series()[250:][["z"]]), ("empty", series()[250:].assign(y=np.nan, x=np.nan))):
        table.to_csv(halves / "plans.csv", index=False)
        code, out, err = call(capsys, "predict", model, halves / "plans.csv", "--output", halves / name)
        assert (code, err) == (0, "") and "no row has a value that a prediction could be held against" in out
        spoken = pd.read_csv(halves / name / "predictions.csv")
        own = spoken[[column for column in spoken if "autostep" in column]]
        assert spoken.row.tolist() == list(range(1, 251)) and own.notna().all(axis=None)
        assert json.loads((halves / name / "config.json").read_text())["scores"] == {}


@pytest.mark.parametrize("job", ["sums", "means", "no past"])
def test_words_and_times_go_along(job: str, tmp_path: Path, capsys: Any) -> None:
    rng = np.random.default_rng(9)
    words, kinds = rng.choice(["a", "b", "c"], 400), {"a": -1.0, "b": 0.0, "c": 2.0}
    table = pd.DataFrame({"when": pd.date_range("2024-03-01", periods=400, freq="h"), "kind": words})
    table["y"] = [10 + 5 * kinds[word] for word in words] + 0.1 * rng.normal(size=400)
    table["x"] = rng.normal(size=400)
    table["z"] = rng.normal(size=400)
    for name, part in (("first", table[:200]), ("second", table[200:]), ("whole", table)):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
    name, *asked = [word.replace("z", "z,kind") if word in ("z", "x,z") else word for word in JOBS[job]]
    asked = ["--lags", "1", *asked]
    code, out, err = call(
        capsys, name, tmp_path / "first.csv", *asked, "--save", tmp_path / "m", "--output", tmp_path / "a"
    )
    assert (code, err) == (0, "")
    again = tmp_path / "second.csv", "--learn", "--save", tmp_path / "m", "--output", tmp_path / "b"
    assert call(capsys, "predict", tmp_path / "m", *again)[0] == 0
    code, _, _ = call(
        capsys, name, tmp_path / "whole.csv", *asked, "--save", tmp_path / "w", "--output", tmp_path / "c"
    )
    assert code == 0 and (tmp_path / "m").read_bytes() == (tmp_path / "w").read_bytes()
    spoken = pd.read_csv(tmp_path / "c" / "predictions.csv", parse_dates=["when"])
    assert spoken.when.tolist() == table.when[1:].tolist()
    own = [c for c in spoken if c.startswith("y gamma 0") and ":" in c or c in ("autotdidbd",)][0]
    late = spoken[own][200:].groupby(table.kind[201:].to_numpy()).mean()
    assert late["c"] > late["b"] > late["a"]


@pytest.mark.parametrize("pages", [0, 1, 4])
@pytest.mark.parametrize("job", ["sums", "means"])
def test_an_interrupt_keeps_what_was_learned(job: str, pages: int, halves: Path, capsys: Any, monkeypatch: Any) -> None:
    def stopped(given: Any) -> Any:
        for k, page in enumerate(given):
            if k == pages:
                raise KeyboardInterrupt
            yield page

    name, *words = JOBS[job]
    words = ["--lags", "3", *words, "--output", str(halves / "o")]
    with monkeypatch.context() as patch:
        patch.setattr(learn, "read_ahead", stopped)
        patch.setattr(predict_return, "_page_rows", lambda source: 30)
        assert call(capsys, name, halves / "whole.csv", *words, "--save", halves / "m")[0] == 130
    assert (halves / "m").is_file() == (pages > 0)
    if pages:
        rest = series()[load_model(halves / "m").place.rows :]
        rest.to_csv(halves / "rest.csv", index=False)
        again = "--learn", "--save", halves / "m", "--output", halves / "o"
        assert call(capsys, "predict", halves / "m", halves / "rest.csv", *again)[0] == 0
        assert call(capsys, name, halves / "whole.csv", *words, "--save", halves / "w")[0] == 0
        assert (halves / "m").read_bytes() == (halves / "w").read_bytes()


def test_numbers_of_64_bits_go_on_as_well(halves: Path) -> None:
    with jax.enable_x64(True):
        table = series()
        predict_returns(table[:250], "y", [0.5], lags=2, optimizers=["autotdidbd"], save=halves / "m")
        predict_table(halves / "m", table[250:].reset_index(drop=True), learn=True, save=halves / "m")
        predict_returns(table, "y", [0.5], lags=2, optimizers=["autotdidbd"], save=halves / "w")
    assert (halves / "m").read_bytes() == (halves / "w").read_bytes()
