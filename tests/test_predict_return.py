"""Returns of a table's column: the scores, the files, and everything that can be wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tqdm.auto import tqdm

from alberta_nb.apps import cli, command, learn, predict_return
from alberta_nb.apps.command import load_learners
from alberta_nb.apps.job import TD_OPTIMIZERS, TableResult, unknown_rows
from alberta_nb.apps.outcome import contest, scores_of
from alberta_nb.apps.predict_return import describe, draw, in_blocks, predict_returns, save, windows_of
from alberta_nb.streams.dialect import TableError
from alberta_nb.streams.returns import ideal_returns
from alberta_nb.types import Settings

FILES = ["config.json", "features.csv", "metrics.csv", "returns.png"]
WRITTEN = sorted([*FILES, "predictions.csv"])


def make_table(rows: int, seed: int = 0) -> pd.DataFrame:
    """y returns to 5 by a tenth in each row, so that the best prediction of its return is known; z is noise."""
    rng = np.random.default_rng(seed)
    noise, y = rng.normal(size=rows), np.zeros(rows)
    for t in range(1, rows):
        y[t] = y[t - 1] + 0.1 * (5.0 - y[t - 1]) + noise[t]
    return pd.DataFrame({"y": y, "z": rng.normal(size=rows)})


@pytest.fixture(scope="module")
def weather() -> TableResult:
    return predict_returns(gammas=[0.9, 0.99])


@pytest.fixture(scope="module")
def made() -> TableResult:
    return predict_returns(make_table(6000), "y", [0.5, 0.9], lags=2)


# --- the job ---


@pytest.mark.parametrize("scale", [1e-3, 1e9])
@pytest.mark.parametrize("name", TD_OPTIMIZERS)
def test_units_do_not_matter(name, scale) -> None:
    table = make_table(600)
    one, other = (
        predict_returns(table.assign(y=c * table.y), "y", [0.9], lags=2, optimizers=[name]).scores.rmse[0.9, name] / c
        for c in (1.0, scale)
    )
    assert np.isclose(one, other, rtol=1e-3)


def test_round_trip_and_one_compilation_for_all_discounts() -> None:
    learners = predict_returns(make_table(600), "y", [0.0, 0.5, 0.99], lags=2).learners
    for learner in learners.values():
        assert Settings.from_config(json.loads(json.dumps(learner.to_config()))) == learner
    assert len({learner.structure for learner in learners.values()}) == 4


def test_scores_by_hand(made) -> None:
    y = make_table(6000).y.to_numpy()
    part = made.at(0.9)
    n = part.steps - unknown_rows(0.9)
    actual = ideal_returns(y, 0.9, y.mean() / 0.1)[1 : n + 1]
    means = np.cumsum(y)[:n] / np.arange(1, n + 1)
    for name, told in {"last value": y[:n] / 0.1, "running mean": means / 0.1}.items():
        assert np.isclose(part.scores.rmse[name], np.sqrt(np.mean((told - actual) ** 2)), rtol=1e-3)
        assert np.isclose(part.scores.mae[name], np.abs(told - actual).mean(), rtol=1e-3)
    shown = made.predictions.query("gamma == 0.9 and learner == 'last value'")
    assert shown.step.tolist() == list(range(part.steps - 43 - 500 + 1, part.steps - 43 + 1))
    np.testing.assert_allclose(shown.actual, actual[shown.step - 1], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(shown.prediction, y[shown.step - 1] / 0.1, rtol=1e-4, atol=1e-3)


def test_learners_beat_both_baselines_on_the_shipped_series(weather) -> None:
    for gamma, least in ((0.9, 0.33), (0.99, 0.21)):
        part = weather.at(gamma)
        assert list(part.scores.index) == ["last value", "running mean", *TD_OPTIMIZERS] and part.steps == 8701
        assert (part.scores.skill[list(TD_OPTIMIZERS)] > least).all()


@pytest.mark.parametrize(("gamma", "factor"), [(0.5, 1.05), (0.9, 1.12)])  # the EMA normaliser hides the slow level
def test_the_best_prediction_is_nearly_found(made, gamma, factor) -> None:
    y = make_table(6000).y.to_numpy()
    scores, n = made.at(gamma).scores, made.steps - unknown_rows(gamma)
    expected = 5.0 / (1 - gamma) + 0.9 * (y - 5.0) / (1 - 0.9 * gamma)
    best = np.sqrt(np.mean((expected[:n] - ideal_returns(y, gamma)[1 : n + 1]) ** 2))
    assert (scores.rmse[list(TD_OPTIMIZERS)] < factor * best).all() and (scores.rmse > 0.99 * best).all()
    assert (scores.skill[list(TD_OPTIMIZERS)] > 0).all()


def test_every_learner_alone_is_the_same_as_all_at_once(made) -> None:
    alone = predict_returns(make_table(6000), "y", [0.9], lags=2, optimizers=["tdidbd"])
    assert np.isclose(alone.scores.rmse[0.9, "tdidbd"], made.at(0.9).scores.rmse["tdidbd"], rtol=1e-4)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_file_read_in_pieces_gives_the_same(made, tmp_path, name) -> None:
    table = make_table(6000)
    table.to_csv(tmp_path / name, index=False) if name == "t.csv" else table.to_parquet(tmp_path / name)
    found = predict_returns(tmp_path / name, "y", [0.5, 0.9], lags=2).scores
    pd.testing.assert_frame_equal(found, made.scores, rtol=1e-4)


def test_windows_and_features_are_tidy(made) -> None:
    windows, part = made.at(0.9).windows, made.at(0.9)
    assert list(windows.columns) == ["step", "learner", "metric", "value"] and set(windows.metric) == {"rmse", "mae"}
    rmse = windows.query("metric == 'rmse' and learner == 'tdidbd'").value
    assert len(rmse) == (part.steps - 43) // part.record_every
    assert np.isclose(np.sqrt((rmse**2).mean()), part.scores.rmse["tdidbd"], rtol=0.02)
    assert set(part.features.learner) == set(TD_OPTIMIZERS) and len(part.features) == 4 * 4


def test_a_network_takes_part() -> None:
    found = predict_returns(None, "temp", [0.8, 0.9], optimizers=["autotdidbd"], kinds=["linear", "network"])
    assert list(found.learners) == [f"{name}, gamma {g}" for g in ("0.8", "0.9") for name in ("autotdidbd", "network")]
    skill = found.scores.skill
    assert (skill[:, "network"] > 0.3).all() and (skill[:, "network"] > skill[:, "autotdidbd"] - 0.05).all()
    assert found.features.learner.unique().tolist() == ["autotdidbd"]
    alone = predict_returns(None, "temp", [0.9], kinds="network", step_size=0.001)
    assert list(alone.learners) == ["network, gamma 0.9"] and not len(alone.features)
    assert "network" in describe(alone, "t") and describe(alone, "t").count("largest step sizes") == 0
    draw(alone)
    with pytest.raises(ValueError, match="kinds must be of linear, network, got \\['forest'\\]"):
        predict_returns(None, "temp", kinds="forest")


def test_awkward_tables(tmp_path) -> None:
    table = make_table(400)
    table["same $\\alpha$ \n name"] = 5
    table["text"] = "here"
    table.loc[::3, "y"] = None
    found = predict_returns(table, "y", [0.0, 0.8], lags=2, normalizer="welford")
    assert np.isfinite(found.scores.rmse).all()
    text = describe(found, "awkward")
    assert "--known or --features names them: text" in text and "rows without a target, not learned from: 133" in text
    assert len(save(found, tmp_path, "awkward")) == 4


def test_a_constant_cumulant_is_told_as_it_is(tmp_path) -> None:
    found = predict_returns(pd.DataFrame({"y": [3] * 90, "x": range(90)}), "y", lags=2)
    assert (found.scores.rmse < 1e-6).all() and "unstable" not in describe(found, "constant")
    assert np.allclose(found.predictions.prediction, 30.0) and np.allclose(found.predictions.actual, 30.0)
    save(found, tmp_path, "constant")


def test_divergence_is_named(tmp_path) -> None:
    found = predict_returns(make_table(2000), "y", lags=2, normalizer="none", step_size=2.0, optimizers=["tdlambda"])
    text = describe(found, "t")
    assert "diverged" in text and "unstable: tdlambda; a smaller --step-size" in text
    config = json.loads(save(found, tmp_path, "t")[-1].read_text())
    assert config["scores"]["tdlambda, gamma 0.9"]["rmse"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gammas": [1.0]}, "gamma must be below 1"),
        ({"gammas": [-0.1]}, "gamma must be"),
        ({"gammas": [float("nan")]}, "gamma must be"),
        ({"gammas": []}, "gammas must be one or more different values"),
        ({"gammas": [0.5, 0.5]}, "gammas must be one or more different values"),
        ({"optimizers": ["lms"]}, "unknown optimizer 'lms'; there are tdlambda"),
        ({"optimizers": []}, "optimizers must be one or more"),
        ({"normalizer": "batch"}, "unknown normalizer"),
        ({"step_size": 0.0}, "step_size"),
        ({"meta_step_size": -1.0}, "meta_step_size"),
        ({"trace_decay": 1.5}, "trace_decay"),
        ({"window": 0}, "window must be 1 or more"),
        ({"record_every": 0}, "record_every must be 1 or more"),
        ({"lags": 0}, "lags must be 1 or more"),
        ({"cumulant": "nope"}, "has no column 'nope'"),
        ({"gammas": [0.99]}, "gamma 0.99 needs 460 rows or more with a value in 'y', got 60"),
    ],
)
def test_errors_name_what_is_wrong(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        predict_returns(make_table(60), **({"cumulant": "y", "lags": 1} | arguments))


def test_the_fewest_rows_that_are_enough() -> None:
    with pytest.raises(TableError, match="gamma 0.9 needs 45 rows or more"):
        predict_returns(make_table(44), "y", lags=1)
    assert predict_returns(make_table(45), "y", lags=1).predictions.step.tolist() == [1] * 6
    assert predict_returns(make_table(2), "y", [0.0], lags=1).steps == 1


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_values(rows) -> None:
    with pytest.raises(TableError, match="no rows|needs 2 rows"):
        predict_returns(make_table(9)[:rows], "y", [0.0], lags=1)


# --- what is written ---


def test_the_configuration_rebuilds_the_learners(made, tmp_path) -> None:
    paths = save(made, tmp_path, "made")
    assert sorted(p.name for p in tmp_path.iterdir()) == FILES
    learners = load_learners(paths[-1])
    assert len(learners) == 8 and learners == made.learners
    config = json.loads(paths[-1].read_text())
    assert config["returns"] == [{"gamma": 0.5, "rows_left_out": 6}, {"gamma": 0.9, "rows_left_out": 43}]
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    assert list(metrics.columns) == ["gamma", "step", "learner", "metric", "value"]
    assert list(made.predictions.columns) == ["gamma", "step", "learner", "prediction", "actual"]


def test_the_figure_has_a_row_for_each_discount(made) -> None:
    axes = draw(made).axes
    assert [a.get_title() for a in axes] == ["gamma 0.5", "", "gamma 0.9", ""]
    labels = [t.get_text().split(":")[0] for t in axes[1].get_legend().get_texts()]
    assert labels == ["last value", "running mean", *TD_OPTIMIZERS]


# --- the command ---


def call(capsys, *words: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    try:
        code = cli.main(["predict-return", *map(str, words)])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_without_a_file_it_runs_on_the_shipped_series(capsys, tmp_path) -> None:
    code, out, err = call(capsys, "--output", tmp_path / "out")
    assert (code, err) == (0, "") and sorted(p.name for p in (tmp_path / "out").iterdir()) == WRITTEN
    for word in (
        "last value",
        "running mean",
        *TD_OPTIMIZERS,
        "steps/s",
        "458 at gamma 0.99",
        "8,701 steps of 8 learners",
    ):
        assert word in out


def test_a_table_of_ones_own(capsys, tmp_path) -> None:
    make_table(900).to_csv(tmp_path / "t.csv", index=False)
    words = ["--cumulant", "y", "--gamma", "0.8", "--features", "z", "--lags", 3, "--optimizer", "tdidbd, trueonline"]
    more = ["--trace-decay", 0.5, "--step-size", 0.01, "--window", 30, "--normalizer", "welford"]
    code, out, err = call(capsys, tmp_path / "t.csv", *words, *more, "--output", tmp_path / "out")
    assert (code, err) == (0, "") and "2 columns: 6 inputs" in out
    learners = load_learners(tmp_path / "out" / "config.json")
    assert list(learners) == ["tdidbd, gamma 0.8", "trueonline, gamma 0.8"]
    optimizer = learners["trueonline, gamma 0.8"].learner.optimizer
    assert (optimizer.step_size, optimizer.trace_decay) == (0.01, 0.5)
    spoken = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(spoken.columns) == ["row", "y gamma 0.8", "tdidbd", "trueonline"]
    words[0] = "--target"  # as `learn` calls it
    code, again, _ = call(capsys, tmp_path / "t.csv", *words, *more, "--output", tmp_path / "out")
    assert code == 0 and again.splitlines()[:8] == out.splitlines()[:8]


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ("", ["--cumulant", "y"], "is empty"),
        ("x,y\n", ["--cumulant", "y"], "no rows"),
        ("x,y\n1,2\n", ["--cumulant", "y"], "needs 460 rows or more"),
        ("x,y\n1,2\n", [], "Say --cumulant COLUMN"),
        ("x,y\n1,2\n", ["--cumulant", "z"], "has no column 'z'; it has: 'x', 'y'"),
        ("x,y\n1,a\n", ["--cumulant", "y"], "column 'y' holds no numbers"),
        ("x,y\n1,\n2,\n", ["--cumulant", "y"], "column 'y' has no value at all"),
        ("x,y\n1,2\n1,2,3\n", ["--cumulant", "y"], "is no table"),
        ("\0\1\2", ["--cumulant", "y"], "binary data"),
        ("x,y\n1,2\n", ["--cumulant", "y", "--gamma", "1"], "gamma must be below 1"),
        ("x,y\n1,2\n", ["--cumulant", "y", "--gamma", "0.9;0.99"], "gamma must be numbers with commas between"),
        ("x,y\n1,2\n", ["--cumulant", "y", "--gamma", ","], "gammas must be one or more"),
        ("x,y\n1,2\n", ["--cumulant", "y", "--optimizer", "idbd"], "unknown optimizer 'idbd'"),
        ("x,y\n1,2\n", ["--cumulant", "y", "--lags", "two"], "invalid int value"),
    ],
)
def test_mistakes_end_with_a_sentence(capsys, tmp_path, content, words, message) -> None:
    (tmp_path / "t.csv").write_text(content)
    code, out, err = call(capsys, tmp_path / "t.csv", *words, "--output", tmp_path / "out")
    assert (code, out) == (2, "") and message in err and "Traceback" not in err
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("pages", [1, 4])
def test_ctrl_c_writes_what_can_be_scored(capsys, tmp_path, monkeypatch, pages) -> None:
    make_table(900).to_csv(tmp_path / "t.csv", index=False)

    def stopped(given):
        for k, page in enumerate(given):
            if k == pages:
                raise KeyboardInterrupt
            yield page

    monkeypatch.setattr(learn, "read_ahead", stopped)
    monkeypatch.setattr(predict_return, "_page_rows", lambda source: 30)
    words = ["--cumulant", "y", "--gamma", "0.9", "--lags", 1, "--output", tmp_path / "out"]
    found, out, err = call(capsys, tmp_path / "t.csv", *words)
    assert found == 130 and "interrupted" in err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == (WRITTEN if pages == 4 else [])
    assert pages == 1 or len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 120


@pytest.mark.parametrize("quiet", [False, True])
def test_progress_only_on_long_input(capsys, tmp_path, monkeypatch, quiet) -> None:
    make_table(200).to_csv(tmp_path / "t.csv", index=False)
    monkeypatch.setattr(command, "LONG_FILE", 100)
    monkeypatch.setattr(learn, "tqdm", lambda **how: tqdm(**how | {"delay": 0}))  # this pass ends before that
    words = ["--cumulant", "y", "--gamma", "0.5", "--lags", 1, "--output", tmp_path / "out"]
    code, _, err = call(capsys, tmp_path / "t.csv", *words, *["--no-progress"] * quiet)
    assert code == 0 and ("rows/s" in err) != quiet


def test_help(capsys) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    more = "--known", "--save", "--window", "--interval", "--robust"
    for option in ("--cumulant", "--gamma", "--trace-decay", "--features", "--lags", "--optimizer", "--output", *more):
        assert option in out


# --- intervals, absurd values ---


@pytest.fixture(scope="module")
def spoiled() -> pd.DataFrame:
    """A table in which one value is absurd, in row 2,001."""
    table = make_table(4000)
    table.loc[2000, "y"] = -9999.0
    return table


def test_intervals_are_told_written_and_drawn(capsys, tmp_path) -> None:
    make_table(3000).to_csv(tmp_path / "t.csv", index=False)
    words = ["--cumulant", "y", "--gamma", "0,0.8", "--lags", 1, "--optimizer", "tdlambda,tdidbd", "--interval", 0.8]
    code, out, err = call(capsys, tmp_path / "t.csv", *words, "--output", tmp_path / "out")
    assert (code, err) == (0, "") and "skill inside" in out and "where it has one" in out
    spoken, config = (
        pd.read_csv(tmp_path / "out/predictions.csv"),
        json.loads((tmp_path / "out/config.json").read_text()),
    )
    for gamma in ("0", "0.8"):
        actual, said = spoken[f"y gamma {gamma}"], f"y gamma {gamma}: tdidbd"
        low, high = spoken[f"{said} low"], spoken[f"{said} high"]
        np.testing.assert_allclose((low + high) / 2, spoken[said].where(low.notna()), rtol=1e-4, atol=1e-4)
        assert low.isna().sum() == 2 + unknown_rows(float(gamma))
        inside = actual.between(low, high)[actual.notna() & low.notna()].mean()
        assert np.isclose(config["scores"][f"tdidbd, gamma {gamma}"]["inside"], inside, atol=1e-3)
        assert abs(inside - 0.8) < 0.03
    learner = load_learners(tmp_path / "out/config.json")["tdidbd, gamma 0.8"]
    assert (learner.level, learner.rows, learner.learner.most) == (0.8, 21, None)


def test_the_last_rows_have_their_intervals(made) -> None:
    found = predict_returns(make_table(6000), "y", [0.5, 0.9], lags=2, optimizers=["tdidbd"], interval=0.9)
    assert list(found.predictions.columns) == [*made.predictions.columns, "low", "high"]
    own = found.predictions[found.predictions.learner == "tdidbd"]
    assert (own.low < own.prediction).all() and (own.prediction < own.high).all()
    assert found.predictions[found.predictions.learner == "last value"].low.isna().all()
    np.testing.assert_allclose(found.scores.rmse, made.scores.rmse[found.scores.index], rtol=1e-4)
    assert "interval of" in [t.get_text()[:11] for t in draw(found).axes[0].get_legend().get_texts()]


@pytest.mark.parametrize("how", [{"lags": 2}, {"lags": 0, "known": ["z"]}], ids=str)
def test_one_absurd_value_ruins_nothing_where_learners_are_robust(how, spoiled, tmp_path) -> None:
    rmse = {}
    clean = make_table(4000)
    for name, table, robust in (("clean", clean, True), ("robust", spoiled, True), ("plain", spoiled, False)):
        asked = {"optimizers": ["tdidbd"], "robust": robust, "interval": 0.9, "predictions": tmp_path / name}
        predict_returns(table, "y", [0.8], **how, **asked)
        spoken, actual = pd.read_csv(tmp_path / name), pd.read_csv(tmp_path / "clean")["y gamma 0.8"]
        rows = spoken.row > 2001 + 3  # the row behind it sees it as the last value
        rmse[name] = np.sqrt(np.mean((spoken.tdidbd - actual)[rows] ** 2))
        rmse[f"width of {name}"] = (spoken["tdidbd high"] - spoken["tdidbd low"])[rows].mean()
    without = predict_returns(clean, "y", [0.8], **how, optimizers=["tdidbd"]).scores.rmse[0.8, "tdidbd"]
    assert (
        rmse["robust"] < 1.05 * rmse["clean"] < 1.07 * without and not rmse["plain"] < 2 * rmse["clean"]
    )  # it may be NaN
    assert rmse["width of robust"] < 1.3 * rmse["width of clean"]


def test_robust_is_named_where_it_would_help(spoiled) -> None:
    plain, robust = (
        describe(predict_returns(spoiled, "y", [0.5], lags=1, optimizers=["tdlambda"], robust=robust), "t")
        for robust in (False, True)
    )
    assert "--robust learns less from such rows" in plain and "--robust" not in robust
    assert "row 2,001: its change is" in plain and "row 2,001: its change is" in robust


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--interval", "1.5"], "--interval must be a finite number in (0.0, 1.0), got 1.5"),
        (["--interval", "-0.1"], "--interval must be a finite number in (0.0, 1.0)"),
        (["--interval", "many"], "invalid float value"),
        (["--interval", "0.9", "--gamma", "0.99999"], "at 0.99999 a future is known 460,515 rows later"),
    ],
)
def test_mistakes_about_intervals(words, message, capsys, tmp_path) -> None:
    make_table(60).to_csv(tmp_path / "t.csv", index=False)
    code, out, err = call(capsys, tmp_path / "t.csv", "--cumulant", "y", *words, "--output", tmp_path / "out")
    assert (code, out) == (2, "") and message in err and not list(tmp_path.glob("out/*"))


# --- columns of the row, models, remarks ---


def regression(rows: int, seed: int = 3) -> pd.DataFrame:
    """y is told by the x of its own row; x comes and goes slowly."""
    rng = np.random.default_rng(seed)
    x = np.convolve(rng.normal(size=rows + 9), np.ones(10) / 3, "valid")
    return pd.DataFrame({"x": x, "noise": rng.normal(size=rows), "y": 5e4 + 1e3 * (x + 0.1 * rng.normal(size=rows))})


@pytest.mark.parametrize("lags", [0, 2])
def test_a_column_that_is_known_with_the_row_helps(lags: int) -> None:
    table = regression(4000)
    blind, told = (
        predict_returns(table, "y", [0.0, 0.5], lags=2 if not known else lags, optimizers=["autotdidbd"], known=known)
        for known in ([], ["x"])
    )
    rmse = [found.scores.rmse.xs("autotdidbd", level=1) for found in (blind, told)]
    assert (rmse[1] < 0.8 * rmse[0]).all() and told.known == ["x"]
    assert "x" in told.features.feature.tolist() and (lags > 0 or told.features.feature.unique().tolist() == ["x"])
    assert "1 input known with the row" in describe(told, "t")


@pytest.mark.parametrize("scale", [1e-3, 1e6])
@pytest.mark.parametrize("name", TD_OPTIMIZERS)
def test_without_a_past_units_do_not_matter(name: str, scale: float) -> None:
    table = regression(1500)
    one, other = (
        predict_returns(table.assign(y=c * table.y), "y", [0.5], lags=0, optimizers=[name], known=["x", "noise"])
        for c in (1.0, scale)
    )
    assert np.isclose(one.scores.rmse[0.5, name], other.scores.rmse[0.5, name] / scale, rtol=0.02)
    assert one.scores.skill[0.5, name] > 0.3


def test_every_row_is_written_and_its_future_where_it_is_known(tmp_path: Path) -> None:
    table = make_table(700)
    table.loc[[0, 5, 300], "y"] = np.nan
    found = predict_returns(table, "y", [0.5, 0.9], lags=2, optimizers=["tdidbd"], predictions=tmp_path / "p.csv")
    spoken = pd.read_csv(tmp_path / "p.csv")
    rows = np.flatnonzero(table.y.notna())[1:]
    assert spoken.row.tolist() == (rows + 1).tolist() and found.steps == len(spoken) == 696
    assert spoken["y gamma 0.9: tdidbd"].notna().all() and spoken["y gamma 0.9"].notna().sum() == 696 - 43
    wanted = ideal_returns(table.y[rows], 0.9, table.y.mean() / 0.1)[: 696 - 43]
    np.testing.assert_allclose(spoken["y gamma 0.9"][: len(wanted)], wanted, rtol=1e-3, atol=1e-2)
    error = (spoken["y gamma 0.5: tdidbd"] - spoken["y gamma 0.5"]).dropna()
    assert np.isclose(np.sqrt((error**2).mean()), found.scores.rmse[0.5, "tdidbd"], rtol=1e-4)


def test_rows_that_are_judged_early_are_judged_the_same(monkeypatch) -> None:
    monkeypatch.setattr(predict_return, "_page_rows", lambda source: 100)
    rmse = []
    for held in (1, 1 << 24):
        monkeypatch.setattr("alberta_nb.apps.futures.HELD", held)
        rmse.append(predict_returns(make_table(3000), "y", [0.9], lags=1, optimizers=["tdlambda"]).scores.rmse)
    np.testing.assert_allclose(*rmse, rtol=1e-4)


def test_one_jump_that_makes_most_of_the_error_is_told() -> None:
    table = make_table(900)
    assert "its change is" not in describe(predict_returns(table, "y", [0.5], lags=1), "t")
    table.loc[640, "y"] = 1e5
    told = describe(predict_returns(table, "y", [0.5], lags=1), "t")
    assert "row 641: its change is 50% of all squared changes of y" in told


def test_who_won_is_told_with_its_interval() -> None:
    found = predict_returns(make_table(4000), "y", [0.5, 0.9], lags=2)
    assert set(found.contests) == {"gamma 0.5", "gamma 0.9"}
    contest, rmse = found.contests["gamma 0.9"], found.scores.rmse[0.9]
    assert [contest.index.name, *contest.index] == list(rmse[list(TD_OPTIMIZERS)].sort_values().index)
    np.testing.assert_allclose(contest.gain, 1 - rmse[contest.index.name] / rmse[contest.index])
    assert (contest.low <= contest.gain).all() and (contest.gain <= contest.high).all()
    assert "gamma 0.5: " in describe(found, "t")


def test_scores_windows_and_contests_by_hand() -> None:
    rng = np.random.default_rng(0)
    errors = {
        name: rng.normal(size=(40, 5)) * size for name, size in (("last value", 2.0), ("running mean", 3.0), ("a", 1.0))
    }
    known = np.full(40, 5.0)
    sums = {
        n: np.stack([known, (e**2).sum(1), np.abs(e).sum(1), *np.zeros((3, 40))], axis=1) for n, e in errors.items()
    }
    sums = {name: np.vstack([table, 0.4 * table[:1]]) for name, table in sums.items()}  # a last window of two rows
    scores = scores_of({name: table[:40].sum(axis=0) for name, table in sums.items()})
    for name, e in errors.items():
        assert np.isclose(scores.rmse[name], np.sqrt((e**2).mean())) and np.isclose(scores.mae[name], np.abs(e).mean())
    assert np.isclose(scores.skill["a"], 1 - scores.rmse["a"] / scores.rmse["last value"])
    full, all_of = windows_of(sums, 5, 5), windows_of(sums, 5, 1)
    assert full.step.unique().tolist() == list(range(5, 201, 5)) and all_of.step.max() == 205
    here = full.query("learner == 'a' and metric == 'rmse'").value
    np.testing.assert_allclose(here, np.sqrt((errors["a"] ** 2).mean(axis=1)))
    sure, wide = (contest(["a"], in_blocks(sums, 5, gamma)) for gamma in (0.0, 0.99))  # 200 rows a block: one block
    assert sure.index.name == "a" and list(sure.index) == ["last value"]
    assert np.isclose(sure.gain, wide.gain).all() and sure.low.item() > 0.2 and wide.low.isna().all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--known", "y"], "known must not name what is to be predicted"),
        (["--known", "w"], "has no column 'w'"),
        (["--known", ","], "known must name one or more columns"),
        (["--known", "word"], "'word'"),
        (["--lags", "0"], "lags must be 1 or more where no column is known"),
        (["--save", "no/folder/m"], "no/folder"),
        (["--save", "out"], "out: it is a folder"),
    ],
)
def test_mistakes_about_columns_and_models(words: list[str], message: str, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    make_table(60).assign(word=["1", "1", "a"] * 20).to_csv("t.csv", index=False)
    asked = ["--cumulant", "y", "--gamma", "0.5", "--output", "o", *words]
    code, out, err = call(capsys, "t.csv", *asked)
    assert code == 2 and message in err and err.count("\n") == 1 and not list(tmp_path.glob("o/*"))


def test_a_tall_tables_units_are_those_of_the_column(tmp_path: Path) -> None:
    table: Any = make_table(500).assign(y=lambda t: t.y + 1e7)
    found = predict_returns(table, "y", [0.5], lags=1, optimizers=["tdlambda"], predictions=tmp_path / "p.csv")
    spoken = pd.read_csv(tmp_path / "p.csv")
    assert np.allclose(spoken.tdlambda, 2e7, rtol=1e-5) and spoken.tdlambda.nunique() > 400
    assert np.allclose(found.predictions.actual.dropna(), 2e7, rtol=1e-5)
