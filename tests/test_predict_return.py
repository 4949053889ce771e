"""Returns of a table's column: the learner, the scores, the files, and everything that can be wrong."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from alberta_nb.apps import cli, command, job, tables
from alberta_nb.apps.command import load_learners
from alberta_nb.apps.job import TD_OPTIMIZERS, TableResult, _baseline_returns, _table_returns, unknown_rows
from alberta_nb.apps.predict_return import (
    DiscountedMeanLearner,
    describe,
    draw,
    predict_returns,
    save,
)
from alberta_nb.horde.gvf import GVFSpec, create_horde_spec
from alberta_nb.horde.horde import HordeLearner
from alberta_nb.learners.baselines import ChangeLearner
from alberta_nb.learners.linear import LinearLearner
from alberta_nb.learners.td import TDLinearLearner
from alberta_nb.loops.supervised import run_learning_loop
from alberta_nb.loops.td import run_td_learning_loop
from alberta_nb.normalizers import EMANormalizer
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.optimizers.lms import LMS
from alberta_nb.optimizers.td_lambda import TDLambda
from alberta_nb.optimizers.tdidbd import TDIDBD
from alberta_nb.streams.dialect import TableError
from alberta_nb.streams.returns import ideal_returns
from alberta_nb.streams.sources import ArraySource
from alberta_nb.streams.td_sources import ReturnSource
from alberta_nb.types import Settings, TDTimeStep

FILES = ["config.json", "features.csv", "metrics.csv", "predictions.csv", "returns.png"]


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


# --- the learner ---


@pytest.mark.parametrize(("td", "optimizer"), [(TDLambda(0.05), LMS(0.05)), (TDIDBD(0.02, 0.02), IDBD(0.02, 0.02))])
def test_at_discount_zero_it_is_the_learner_of_changes(td, optimizer) -> None:
    rng = np.random.default_rng(0)
    source = ArraySource(rng.normal(size=(500, 3)), np.cumsum(rng.normal(size=500)))
    learner = DiscountedMeanLearner(TDLinearLearner(td, EMANormalizer()), gamma=0.0)
    told = np.asarray(run_td_learning_loop(learner, ReturnSource(source, 0.9)).metrics)[:, 0]
    other = run_learning_loop(ChangeLearner(LinearLearner(optimizer, EMANormalizer())), source)
    np.testing.assert_allclose(told, source.targets[:-1, 0] - np.asarray(other.metrics)[:-1, 1], rtol=2e-4, atol=2e-4)


def test_it_is_its_equations() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 2)), np.cumsum(rng.normal(size=80))
    gamma, lamda, step, decay = 0.8, 0.5, 0.03, 0.9
    learner = DiscountedMeanLearner(TDLinearLearner(TDLambda(step, lamda)), decay, gamma)
    told = np.asarray(run_td_learning_loop(learner, ReturnSource(ArraySource(x, y), 0.1)).metrics)[:, 0]
    w, z, square, total, last, by_hand = np.zeros(3), np.zeros(3), 0.0, 0.0, None, []
    inputs = np.column_stack([x, np.ones(80)])
    for now, following, cumulant in zip(inputs[:-1], inputs[1:], y, strict=False):
        by_hand.append((last or 0.0) + np.sqrt(square) * w @ now)
        change, seen = (0.0, 0.0) if last is None else (cumulant - last, 1.0)
        total = decay * total + seen
        square += seen / max(total, 1.0) * (change**2 - square)
        z = gamma * lamda * z + now
        w = w + step * (change / (np.sqrt(square) or 1.0) + gamma * w @ following - w @ now) * z
        last = cumulant
    np.testing.assert_allclose(told, by_hand, rtol=2e-4, atol=1e-4)


def test_without_learning_it_is_the_last_value_held_for_ever() -> None:
    y = np.random.default_rng(0).normal(size=100).astype(np.float32)
    learner = DiscountedMeanLearner(TDLinearLearner(TDLambda(0.0)), gamma=0.75)
    told = np.asarray(run_td_learning_loop(learner, ReturnSource(ArraySource(np.ones((100, 1)), y), 0.0)).metrics)
    np.testing.assert_allclose(told[:, 0] / 0.25, _baseline_returns(y[:-1], 0.75)["last value"], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1e9])
@pytest.mark.parametrize("name", TD_OPTIMIZERS)
def test_units_do_not_matter(name, scale) -> None:
    table = make_table(600)
    one, other = (
        predict_returns(table.assign(y=c * table.y), "y", [0.9], lags=2, optimizers=[name]).scores.rmse[0.9, name] / c
        for c in (1.0, scale)
    )
    assert np.isclose(one, other, rtol=1e-3)


def test_predict_is_what_the_next_step_uses() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 3)).astype(np.float32), np.cumsum(rng.normal(size=100)).astype(np.float32)
    learner = DiscountedMeanLearner(TDLinearLearner(TDLambda(0.05)))
    state = run_td_learning_loop(learner, ReturnSource(ArraySource(x, y), 0.9)).state
    step = TDTimeStep(observation=x[0], reward=y[:1], next_observation=x[1], gamma=jnp.zeros(1))
    np.testing.assert_allclose(learner.predict(state, x[0]), jax.jit(learner.step)(state, step).prediction, rtol=1e-5)
    assert learner.step_sizes(state)["step_sizes"].shape == (3,)


def test_round_trip_and_one_compilation_for_all_discounts() -> None:
    learners = predict_returns(make_table(600), "y", [0.0, 0.5, 0.99], lags=2).learners
    for learner in learners.values():
        assert Settings.from_config(json.loads(json.dumps(learner.to_config()))) == learner
    assert len({learner.structure for learner in learners.values()}) == 4


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: DiscountedMeanLearner(LinearLearner()),
            TypeError,
            "learner must be a TDLinearLearner or a HordeLearner",
        ),
        (
            lambda: DiscountedMeanLearner(HordeLearner(create_horde_spec([GVFSpec("a", "prediction", 0.9, 0.8)]))),
            ValueError,
            "cumulant_index",
        ),
        (lambda: DiscountedMeanLearner(TDLinearLearner(), gamma=1.0), ValueError, "gamma must be below 1"),
        (lambda: DiscountedMeanLearner(TDLinearLearner(), decay=2.0), ValueError, "decay must be"),
    ],
)
def test_learner_checks(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


# --- returns and baselines ---


@pytest.mark.parametrize("rows", [1, 2, 63, 64, 65, 200])
def test_pieces_make_the_same_returns(rows, monkeypatch) -> None:
    monkeypatch.setattr(job, "PIECE", 64)
    y = np.random.default_rng(0).normal(size=rows)
    np.testing.assert_allclose(_table_returns(y, 0.9, 3.0), ideal_returns(y, 0.9, 3.0))


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 0.9999])
def test_rows_left_out_are_those_of_which_more_than_a_percent_is_unknown(gamma) -> None:
    n = unknown_rows(gamma)
    assert (n == 0 or gamma**n >= 0.01 * (1 - 1e-9)) and gamma ** (n + 1) < 0.01


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


# --- the job ---


def test_learners_beat_both_baselines_on_the_shipped_series(weather) -> None:
    for gamma, least in ((0.9, 0.33), (0.99, 0.21)):
        part = weather.at(gamma)
        assert list(part.scores.index) == ["last value", "running mean", *TD_OPTIMIZERS] and part.steps == 8700
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


def test_awkward_tables(tmp_path) -> None:
    table = make_table(400)
    table["same $\\alpha$ \n name"] = 5
    table["text"] = "here"
    table.loc[::3, "y"] = None
    found = predict_returns(table, "y", [0.0, 0.8], lags=2, normalizer="welford")
    assert np.isfinite(found.scores.rmse).all()
    text = describe(found, "awkward")
    assert "not numeric, ignored: text" in text and "rows without a target, not learned from: 133" in text
    assert len(save(found, tmp_path, "awkward")) == 5


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
        ({"gammas": [0.99]}, "gamma 0.99 needs 461 rows or more with a value in 'y', got 60"),
    ],
)
def test_errors_name_what_is_wrong(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        predict_returns(make_table(60), **({"cumulant": "y", "lags": 1} | arguments))


def test_the_fewest_rows_that_are_enough() -> None:
    with pytest.raises(TableError, match="gamma 0.9 needs 46 rows or more"):
        predict_returns(make_table(45), "y", lags=1)
    assert predict_returns(make_table(46), "y", lags=1).predictions.step.tolist() == [1] * 6
    assert predict_returns(make_table(3), "y", [0.0], lags=1).steps == 1


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_too_few_values(rows) -> None:
    with pytest.raises(TableError, match="no rows|needs 3 rows"):
        predict_returns(make_table(9)[:rows], "y", [0.0], lags=1)


def test_memory_has_a_limit(monkeypatch) -> None:
    monkeypatch.setattr(tables, "MOST_PREDICTIONS", 1000)
    with pytest.raises(TableError, match="1,000 predictions are the most that are kept, .* in 250 rows"):
        predict_returns(make_table(400), "y", lags=1)


# --- what is written ---


def test_the_configuration_rebuilds_the_learners(made, tmp_path) -> None:
    paths = save(made, tmp_path, "made")
    assert sorted(p.name for p in tmp_path.iterdir()) == FILES
    learners = load_learners(paths[-1])
    assert len(learners) == 8 and learners == made.learners
    config = json.loads(paths[-1].read_text())
    assert config["returns"] == [{"gamma": 0.5, "rows_left_out": 6}, {"gamma": 0.9, "rows_left_out": 43}]
    metrics, predictions = pd.read_csv(tmp_path / "metrics.csv"), pd.read_csv(tmp_path / "predictions.csv")
    assert list(metrics.columns) == ["gamma", "step", "learner", "metric", "value"]
    pd.testing.assert_frame_equal(predictions, made.predictions, rtol=1e-5)


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
    assert (code, err) == (0, "") and sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES
    for word in (
        "last value",
        "running mean",
        *TD_OPTIMIZERS,
        "steps/s",
        "458 at gamma 0.99",
        "8,700 steps of 8 learners",
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
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 30 * 4


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ("", ["--cumulant", "y"], "is empty"),
        ("x,y\n", ["--cumulant", "y"], "no rows"),
        ("x,y\n1,2\n", ["--cumulant", "y"], "needs 461 rows or more"),
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


@pytest.mark.parametrize(("pages", "code"), [(1, 130), (4, 130)])
def test_ctrl_c_writes_what_can_be_scored(capsys, tmp_path, monkeypatch, pages, code) -> None:
    make_table(900).to_csv(tmp_path / "t.csv", index=False)
    given = tables.LaggedSource.pages

    def stopped(self, first, rows):
        for k, page in enumerate(given(self, first, 30)):
            if k == pages:
                raise KeyboardInterrupt
            yield page

    monkeypatch.setattr(tables.LaggedSource, "pages", stopped)
    words = ["--cumulant", "y", "--gamma", "0.9", "--lags", 1, "--output", tmp_path / "out"]
    found, out, err = call(capsys, tmp_path / "t.csv", *words)
    assert found == code and "interrupted" in err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == (FILES if pages == 4 else [])


@pytest.mark.parametrize("quiet", [False, True])
def test_progress_only_on_long_input(capsys, tmp_path, monkeypatch, quiet) -> None:
    make_table(200).to_csv(tmp_path / "t.csv", index=False)
    monkeypatch.setattr(command, "LONG_FILE", 100)
    words = ["--cumulant", "y", "--gamma", "0.5", "--lags", 1, "--output", tmp_path / "out"]
    code, _, err = call(capsys, tmp_path / "t.csv", *words, *["--no-progress"] * quiet)
    assert code == 0 and ("step/s" in err) != quiet


def test_help(capsys) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    for option in ("--cumulant", "--gamma", "--trace-decay", "--features", "--lags", "--optimizer", "--output"):
        assert option in out
