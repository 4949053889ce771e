"""Nexting: the robot's sensors, its yardsticks, and the command that predicts every column of a table."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from alberta_nb.apps import cli, nexting, predict_return
from alberta_nb.apps.command import load_learners
from alberta_nb.apps.nexting import draw, next_everything, save
from alberta_nb.apps.predict_return import predict_returns
from alberta_nb.streams.robot import (
    ROBOT_SENSORS,
    best_linear,
    course,
    normalized_error,
    robot_sensors,
    tile_code,
    wall_distance,
)
from alberta_nb.streams.tables import open_table

FILES = ["config.json", "errors.csv", "metrics.csv", "nexting.png"]
SETTINGS: dict[str, Any] = {"gammas": [0.0, 0.8], "lags": 3, "window": 50}


def make_table(rows: int, holes: bool = True) -> pd.DataFrame:
    "Two columns that hang together, one that never changes, one of text, and a random one with holes."
    rng = np.random.default_rng(0)
    wave = np.sin(np.arange(rows) / 5) * 10 + 100
    table = pd.DataFrame({"wave": wave, "late": np.roll(wave, 3) + rng.normal(0, 0.1, rows), "same": 7.0, "text": "a"})
    table["gaps"] = np.where(rng.random(rows) < 0.3 * holes, np.nan, rng.normal(size=rows))
    return table


@pytest.fixture(scope="module")
def made() -> Any:
    return next_everything(make_table(900), **SETTINGS)


# --- the robot ---


def test_the_robots_record() -> None:
    record = robot_sensors(3000, seed=5)
    assert record.shape == (3000, len(ROBOT_SENSORS)) and len(set(ROBOT_SENSORS)) == 36
    assert np.array_equal(record, robot_sensors(3000, seed=5)) and not np.array_equal(record, robot_sensors(3000))
    assert record.min() >= 0 and record.max() <= 1 and (record.std(axis=0) > 0.01).all()
    quiet = robot_sensors(3000, noise=0.0)[:, ROBOT_SENSORS.index("compass 0")]
    assert abs(np.corrcoef(quiet[:-300], quiet[300:])[0, 1]) < 1 and np.ptp(quiet) > 0.8
    for wrong in (0, 1.5):
        with pytest.raises((TypeError, ValueError), match="num_steps"):
            robot_sensors(wrong)  # type: ignore[arg-type]


def test_the_course_and_its_walls() -> None:
    place, heading, _ = course(np.linspace(0, 20, 4001))
    step = np.diff(place, axis=0)
    np.testing.assert_allclose(np.hypot(*step.T), 0.005, rtol=1e-3)
    middle = heading[:-1] + np.diff(np.unwrap(heading)) / 2
    np.testing.assert_allclose(step / 0.005, np.stack([np.cos(middle), np.sin(middle)], axis=1), atol=0.02)
    ways = np.random.default_rng(0).uniform(0, 2 * np.pi, (4001, 3))
    hit = place[:, None] + wall_distance(place, ways)[..., None] * np.stack([np.cos(ways), np.sin(ways)], axis=-1)
    np.testing.assert_allclose(np.abs(hit).max(axis=-1), 1.0)  # on the wall, and on no other side of it


def test_tiles() -> None:
    x = np.random.default_rng(0).uniform(size=(200, 3))
    x[0] = [0.0, 1.0, 0.5]
    code = tile_code(x, tiles=4, tilings=2)
    assert code.shape == (200, 3 * 2 * 5) and set(np.unique(code)) == {0.0, 1.0}
    assert (code.reshape(200, 6, 5).sum(axis=2) == 1).all()
    shared = code @ code.T
    far = np.abs(x[:, None] - x).min(axis=2) > 0.25
    assert (np.diag(shared) == 6).all() and (shared[far] == 0).all()
    for wrong in ([[1.1]], [[np.nan]], [0.5]):
        with pytest.raises(ValueError, match="readings must"):
            tile_code(wrong)


def test_the_best_linear_answer() -> None:
    rng = np.random.default_rng(1)
    x, g = tile_code(rng.uniform(size=(9000, 2)), 4), rng.normal(size=(9000, 2)) + 3
    told = x @ best_linear(x, g)
    np.testing.assert_allclose(told, x @ np.linalg.lstsq(x.astype(float), g, rcond=None)[0], atol=1e-6)
    np.testing.assert_allclose(x.T @ (told - g), 0.0, atol=1e-6)  # nothing left that the features could say
    assert (normalized_error(told, g) <= 1).all() and np.isclose(normalized_error(g.mean(0), g), 1).all()
    for wrong in (g[1:], g[:, 0], np.full_like(g, np.inf)):
        with pytest.raises(ValueError, match="features"):
            best_linear(x, wrong)


# --- the job ---


def test_every_column_and_discount_has_a_demon(made: Any) -> None:
    errors = made.scores
    assert (
        list(errors.columns[:2]) == ["column", "gamma"]
        and len(errors) == 4 * 2 == errors.groupby(["column", "gamma"]).ngroups
    )
    assert made.targets == ["wave", "late", "same", "gaps"] and made.report.ignored == ["text"]
    skill = errors.pivot(index="column", columns="gamma", values="skill")
    assert (skill.loc[["wave", "late"]] > 0.4).all(axis=None)
    assert (errors[errors.column == "same"].rmse < 1e-4).all()
    assert set(made.predictions.columns) == {"step", "column", "gamma", "last_value", "prediction", "actual"}
    sizes = made.predictions.groupby(["column", "gamma"]).size()
    assert (sizes[["wave", "late", "same"]] == 50).all() and (sizes["gaps"] < 50).all()
    assert made.predictions.step.min() == 899 - 20 - 50 + 1 and made.predictions.step.max() == 899 - 20


def test_scores_by_hand(made: Any) -> None:
    "The drawn rows of a column without holes, against sums over the table itself."
    wave = make_table(900).wave.to_numpy()
    shown = made.predictions[(made.predictions.column == "wave") & (made.predictions.gamma == 0.8)]
    weights = 0.2 * 0.8 ** np.arange(18)
    assert shown.step.max() == 899 - 20
    for step, actual, last in zip(shown.step, shown.actual, shown.last_value, strict=True):
        assert abs(weights @ wave[step : step + 18] + (1 - weights.sum()) * wave.mean() - actual) < 0.3
        assert abs(wave[step - 1] - last) < 1e-3


@pytest.mark.parametrize("optimizer", ["tdlambda", "autotdidbd"])
def test_a_demon_of_the_horde_is_what_predicts_alone(optimizer: str) -> None:
    table = make_table(400, holes=False)
    alone = predict_returns(table, "late", [0.8], lags=3, optimizers=[optimizer]).scores.rmse[0.8, optimizer] * 0.2
    among = next_everything(table, gammas=[0.0, 0.8], lags=3, optimizers=[optimizer]).scores
    here = among[(among.column == "late") & (among.gamma == 0.8)].rmse.item()
    assert abs(here - alone) < 1e-3 * alone


def test_nothing_of_a_row_is_known_before_it(made: Any) -> None:
    table = make_table(900)
    table.loc[880:, ["wave", "gaps"]] = 1e4
    spoiled = next_everything(table, **SETTINGS).predictions
    ours, theirs = (
        p[(p.step <= 870)].set_index(["step", "column", "gamma"]).prediction for p in (made.predictions, spoiled)
    )
    both = ours.index.intersection(theirs.index)
    assert len(both) > 50
    np.testing.assert_allclose(ours[both], theirs[both], rtol=1e-6)


def test_pieces_of_a_file_do_not_matter(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make_table(700).to_csv(tmp_path / "t.csv", index=False)
    one = next_everything(tmp_path / "t.csv", **SETTINGS)
    monkeypatch.setattr(predict_return, "_page_rows", lambda source: 97)
    other = next_everything(open_table(tmp_path / "t.csv", 41), **SETTINGS)
    pd.testing.assert_frame_equal(one.scores, other.scores, rtol=1e-5)
    assert np.array_equal(one.predictions.prediction, other.predictions.prediction)


def test_columns_that_are_asked_for() -> None:
    found = next_everything(make_table(300), ["late", "gaps"], [0.5], features=["wave"], lags=2)
    assert found.targets == ["late", "gaps"] and found.columns == ["wave", "late", "gaps"]
    assert found.scores.column.tolist() == ["late", "gaps"]


def test_a_column_that_has_too_few_values_is_left_out_and_said_so() -> None:
    table = make_table(300)
    table.loc[5:, "gaps"] = np.nan
    found = next_everything(table, gammas=[0.8], lags=2)
    errors = found.scores.set_index("column")
    assert errors.rows["gaps"] == 0 and np.isnan(errors.rmse["gaps"]) and errors.rows["wave"] > 200
    assert "gaps" in nexting.describe(found, "t") and len(draw(found).axes) == 4


def test_many_demons_have_a_small_picture(made: Any) -> None:
    assert len(draw(made).axes) == 8 and len(draw(made, most=1, most_gammas=1).axes) == 1
    assert "3 more columns" in draw(made, most=1)._supxlabel.get_text()


def test_what_is_written(made: Any, tmp_path: Any) -> None:
    paths = save(made, tmp_path, "made")
    assert sorted(p.name for p in tmp_path.iterdir()) == FILES
    assert load_learners(paths[-1]) == made.learners
    config = json.loads(paths[-1].read_text())
    assert config["gammas"] == [{"gamma": 0.0, "rows_left_out": 0}, {"gamma": 0.8, "rows_left_out": 20}]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "errors.csv"), made.scores, rtol=1e-5)
    assert list(pd.read_csv(tmp_path / "metrics.csv").columns) == ["step", "column", "gamma", "rmse"]


# --- the command ---


def call(capsys: Any, *words: object) -> tuple[int, str, str]:
    "Exit code, stdout, stderr."
    try:
        code = cli.main(["nexting", *map(str, words)])
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    return code, *capsys.readouterr()


def test_without_a_file_it_runs_on_the_shipped_series(capsys: Any, tmp_path: Any) -> None:
    code, out, err = call(capsys, "--output", tmp_path / "out")
    assert (code, err) == (0, "")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([*FILES, "predictions.csv"])
    for word in ("27 demons, 9 columns at 3 time scales", "missing, last value seen", "89 at gamma 0.95", "steps/s"):
        assert word in out


def test_a_table_of_ones_own(capsys: Any, tmp_path: Any) -> None:
    make_table(400).to_csv(tmp_path / "t.csv", index=False)
    words = ["--gammas", "0, 0.5", "--columns", "wave,gaps", "--lags", 2, "--optimizer", "tdidbd", "--window", 20]
    code, out, err = call(capsys, tmp_path / "t.csv", *words, "--output", tmp_path / "out")
    assert (code, err) == (0, "") and "4 demons, 2 columns at 2 time scales" in out
    spoken = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert spoken.row.tolist() == list(range(2, 401)) and len(spoken.columns) == 1 + 2 * 4
    assert spoken["wave gamma 0.5: prediction"].notna().all() and spoken["gaps gamma 0"].isna().sum() > 50


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ("", [], "is empty"),
        ("x,y\n", [], "no rows"),
        ("x,y\n1,2\n", [], "needs 91 rows or more"),
        ("x,y\n1,a\n", ["--columns", "y"], "column 'y' holds no numbers"),
        ("x,y\na,b\n", [], "no column to predict"),
        ("x,y\n1,2\n", ["--columns", "z"], "has no column 'z'; it has: 'x', 'y'"),
        ("x,y\n1,2\n", ["--gammas", "1"], "gamma must be below 1"),
        ("x,y\n1,2\n", ["--gammas", "0.5,0.5"], "gammas must be one or more different values"),
        ("x,y\n1,2\n", ["--gammas", ""], "gammas must be one or more different values"),
        ("x,y\n1,2\n", ["--optimizer", "tdidbd,tdlambda"], "one name"),
        ("x,y\n1,2\n", ["--trace-decay", "2"], "--trace-decay must be"),
        ("x,y\n1,2\n", ["--window", "0"], "window must be 1 or more"),
        ("x,y\n1,2\n", ["--columns", "y,x", "--known", "x"], "known must not name what is to be predicted, got ['x']"),
        ("x,y\n1,2\n", ["--known", "x,y"], "no column to predict"),
        ("x,y\n1,2\n", ["--lags", "0"], "lags must be 1 or more where no column is known"),
        ("x,y\n1,2\n", ["--save", "nowhere/m"], "nowhere"),
    ],
)
def test_errors(capsys: Any, tmp_path: Any, content: str, words: list[str], message: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    code, out, err = call(capsys, tmp_path / "t.csv", *words, "--output", tmp_path / "out")
    assert code == 2 and not out and message in err and err.startswith("alberta-nb: error: ") and err.count("\n") == 1


def test_a_network_answers_what_a_line_cannot() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=6000)
    table = pd.DataFrame({"x": x, "y": np.roll(np.abs(x), 1) + 0.1 * rng.normal(size=6000)})
    line, net = (
        next_everything(table, ["y"], [0.0], lags=1, kinds=kind).scores.skill[0] for kind in ("linear", "network")
    )
    assert net > line + 0.2
    with pytest.raises(ValueError, match="kinds must be one, which all demons share"):
        next_everything(table, kinds=["linear", "network"])


# --- columns of the row ---


@pytest.mark.parametrize("lags", [0, 2])
def test_known_columns_are_seen_and_not_predicted(lags: int) -> None:
    table = make_table(1500, holes=False)
    table["gaps"] = 100 + 5 * np.roll(table.gaps, 1)  # what is known tells tomorrow's noise
    found = next_everything(
        table.assign(plan=table.gaps + 0.01 * table.late), gammas=[0.0, 0.5], lags=lags, known=["plan"]
    )
    assert found.targets == ["wave", "late", "same", "gaps"] and found.known == ["plan"]
    skill = found.scores.set_index(["column", "gamma"]).skill
    assert skill["gaps", 0.0] > 0.5 and skill["gaps", 0.5] > 0.15
    blind = next_everything(table, ["gaps"], [0.0, 0.5], lags=2).scores.set_index(["column", "gamma"]).skill
    assert blind["gaps", 0.0] < 0.1
    assert "1 input known with the row" in nexting.describe(found, "t")
    draw(found)


def test_one_absurd_value_is_told() -> None:
    table = make_table(400, holes=False)
    table.loc[300, "wave"] = -9999.0
    told = nexting.describe(next_everything(table, ["wave", "late"], [0.0, 0.8], lags=2), "t")
    assert "row 301: its change is 50% of all squared changes of wave, and most of the errors before it" in told
    assert "squared changes of late" not in told


def test_intervals_of_all_demons(capsys: Any, tmp_path: Any) -> None:
    make_table(1500).to_csv(tmp_path / "t.csv", index=False)
    words = ["--gammas", "0,0.8", "--columns", "late,gaps", "--lags", 2, "--interval", 0.9, "--window", 50]
    code, out, err = call(capsys, tmp_path / "t.csv", *words, "--output", tmp_path / "out")
    assert (code, err) == (0, "") and "gamma 0.8" in out and "inside 0.8" in out and "where it has one" in out
    errors = pd.read_csv(tmp_path / "out/errors.csv").set_index(["column", "gamma"])
    spoken = pd.read_csv(tmp_path / "out/predictions.csv")
    for column, gamma in errors.index:
        name = f"{column} gamma {gamma:g}"
        low, high = (spoken[f"{name}: prediction {end}"] for end in ("low", "high"))
        judged = spoken[name].notna() & low.notna()
        assert np.isclose(spoken[name].between(low, high)[judged].mean(), errors.inside[column, gamma], atol=2e-3)
        assert abs(errors.inside[column, gamma] - 0.9) < 0.05
    found = next_everything(make_table(400), ["late"], [0.0, 0.8], lags=2, interval=0.8)
    assert list(found.predictions.columns)[-3:] == ["actual", "low", "high"]
    assert (found.predictions.low < found.predictions.high)[found.predictions.low.notna()].all()
    assert any(area.get_label() == "interval" for area in draw(found).axes[0].collections)
    with pytest.raises(ValueError, match=r"interval must be a finite number in \(0.0, 1.0\), got 1"):
        next_everything(make_table(60), interval=1)


@pytest.mark.parametrize("kind", ["linear", "network"])
def test_one_absurd_value_ruins_nothing_where_demons_are_robust(kind: str, tmp_path: Any) -> None:
    clean, rmse = make_table(2500, holes=False)[["wave", "late"]], {}
    spoiled = clean.copy()
    spoiled.loc[1000, "late"] = 1e17
    for name, table, robust in (("clean", clean, True), ("robust", spoiled, True), ("plain", spoiled, False)):
        asked = {"lags": 2, "kinds": kind, "robust": robust, "predictions": tmp_path / name}
        found = next_everything(table, ["late", "wave"], [0.0, 0.8], **asked)
        spoken, actual = pd.read_csv(tmp_path / name), pd.read_csv(tmp_path / "clean")
        columns = [f"{column} gamma {gamma}" for column in ("late", "wave") for gamma in ("0", "0.8")]
        error = np.stack([spoken[f"{c}: prediction"] - actual[c] for c in columns])[:, spoken.row > 1004]
        rmse[name] = np.sqrt(np.nanmean(error**2, axis=1)) / np.array([actual[c].std() for c in columns])
        assert ("--robust learns less" in nexting.describe(found, "t")) == (name == "plain")
    assert (rmse["clean"] < 0.1).all() and (rmse["robust"] < rmse["clean"] + 0.05).all()
    assert not (rmse["plain"][:2] < 1.0).any()


def test_the_spread_of_what_followed_is_that_of_the_whole(made: Any) -> None:
    errors = made.scores.set_index(["column", "gamma"])
    wave = make_table(900).wave.to_numpy()[1:]
    assert errors.rows["wave", 0.0] == 899
    assert np.isclose(errors.normalized["wave", 0.0], errors.rmse["wave", 0.0] ** 2 / wave.var(), rtol=1e-4)
