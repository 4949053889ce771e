"""The main job as a function, and the baselines it is measured against."""

import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from alberta_nb.apps import learn, life
from alberta_nb.apps.command import load_learners
from alberta_nb.apps.job import TableResult
from alberta_nb.apps.learn import describe, draw, learn_table, save
from alberta_nb.apps.report import unbeaten
from alberta_nb.apps.tables import all_rows, load_weather, weather_path
from alberta_nb.learners.bank import LearnerBank
from alberta_nb.learners.baselines import ChangeLearner, LastValue, RunningMean, Scored, score
from alberta_nb.learners.interval import Interval
from alberta_nb.learners.linear import LinearLearner
from alberta_nb.loops.supervised import run_learning_loop
from alberta_nb.normalizers import EMANormalizer
from alberta_nb.optimizers.autostep import Autostep
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.optimizers.lms import LMS
from alberta_nb.streams.dialect import TableError
from alberta_nb.streams.sources import ArraySource
from alberta_nb.types import Settings, TimeStep

NAMES = ["last value", "running mean", "lms", "idbd", "autostep"]


def make_table(rows: int, seed: int = 0) -> pd.DataFrame:
    """The change of y depends on the last x; z is noise."""
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=(2, rows))
    y = np.cumsum(np.concatenate([[0.0], 2.0 * x[:-1]]) + rng.normal(size=rows))
    return pd.DataFrame({"x": x, "y": y, "z": 100.0 * z})


@pytest.fixture(scope="module")
def weather() -> TableResult:
    return learn_table(load_weather(), "temp")


@pytest.fixture(scope="module")
def made() -> TableResult:
    return learn_table(make_table(4000), "y", lags=2)


# --- baselines ---


def test_baselines_by_hand() -> None:
    y = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    run = run_learning_loop(LearnerBank((LastValue(), RunningMean())), ArraySource(np.zeros((5, 1)), y))
    predictions = y[:, None] - np.asarray(run.metrics)[..., 1]
    np.testing.assert_allclose(predictions[:, 0], [0, 3, 1, 4, 1], atol=1e-6)
    np.testing.assert_allclose(predictions[:, 1], [0, 3, 2, 8 / 3, 9 / 4], atol=1e-6)


def test_change_learner_is_its_equations() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 2)).astype(np.float32), np.cumsum(rng.normal(size=60)).astype(np.float32)
    decay, step = 0.9, 0.05
    run = run_learning_loop(ChangeLearner(LinearLearner(LMS(step)), decay), ArraySource(x, y))
    weights, bias, last, square, total, errors = np.zeros(2), 0.0, None, 0.0, 0.0, []
    for row, target in zip(x.astype(float), y.astype(float), strict=True):
        inner = weights @ row + bias
        errors.append(target - (last or 0.0) - np.sqrt(square) * inner)
        change, seen = (0.0, 0.0) if last is None else (target - last, 1.0)
        total = decay * total + seen
        square += seen / max(total, 1.0) * (change**2 - square)
        delta = change / (np.sqrt(square) or 1.0) - inner
        weights, bias, last = weights + step * delta * row, bias + step * delta, target
    np.testing.assert_allclose(run.metrics[:, 1], errors, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(run.state.learner_state.weights, weights, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_units_do_not_matter_to_the_change_learner(scale) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 3)), np.cumsum(rng.normal(size=400))
    learner = ChangeLearner(LinearLearner(IDBD(0.02, 0.02)))
    one, other = (np.asarray(run_learning_loop(learner, ArraySource(x, c * y)).metrics)[:, 1] for c in (1.0, scale))
    np.testing.assert_allclose(other / scale, one, atol=1e-4)


def test_a_broken_sensor_does_not_break_the_learner() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1000, 3)), np.cumsum(rng.normal(size=1000))
    y[500] = 1e9
    learner = ChangeLearner(LinearLearner(IDBD(0.02, 0.01), EMANormalizer()))
    errors = np.asarray(run_learning_loop(learner, ArraySource(x, y)).metrics)[:, 1]
    assert np.isfinite(errors).all() and np.abs(errors[-100:]).mean() < 1e4


def test_a_constant_target_is_no_trouble() -> None:
    learner = ChangeLearner(LinearLearner(Autostep(), EMANormalizer()))
    metrics = np.asarray(run_learning_loop(learner, ArraySource(np.ones((50, 2)), np.full(50, 7.0))).metrics)
    assert metrics[0, 1] == 7.0 and not metrics[1:, :2].any()


def test_predict_is_what_the_next_step_uses() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 3)).astype(np.float32), np.cumsum(rng.normal(size=100)).astype(np.float32)
    learner = ChangeLearner(LinearLearner(LMS(0.05)))
    state = run_learning_loop(learner, ArraySource(x, y)).state
    result = jax.jit(learner.step)(state, TimeStep(observation=jnp.asarray(x[0]), target=jnp.asarray(y[:1])))
    np.testing.assert_allclose(learner.predict(state, x[0]), result.prediction, rtol=1e-5)


def test_baselines_and_changes_round_trip() -> None:
    for learner in (LastValue(), RunningMean(), Scored(ChangeLearner(LinearLearner(IDBD(), EMANormalizer()), 0.5))):
        assert Settings.from_config(json.loads(json.dumps(learner.to_config()))) == learner


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ChangeLearner(LastValue()), TypeError, "learner must be a LinearLearner"),
        (lambda: ChangeLearner(LinearLearner(), 1.5), ValueError, "decay must be"),
    ],
)
def test_change_learner_checks(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


def test_score_counts_every_step() -> None:
    y = np.cumsum(np.random.default_rng(0).normal(size=1003))
    run = run_learning_loop(Scored(LastValue()), ArraySource(np.zeros((1003, 1)), y), record_every=100)
    errors = np.diff(y, prepend=0.0)
    found = score(run.state)
    assert run.metrics.shape == (10, 4) and found["steps"] == 1003
    np.testing.assert_allclose(
        [found["rmse"], found["mae"]], [np.sqrt(np.mean(errors**2)), np.abs(errors).mean()], 1e-5
    )


# --- the main job ---


def test_learners_beat_both_baselines_on_the_shipped_series(weather) -> None:
    scores = weather.scores
    assert list(scores.index) == NAMES and weather.steps == 8701
    assert (scores.skill[2:] > 0.19).all() and (scores.mae[2:] < 0.82 * scores.mae["last value"]).all()
    assert scores.skill["running mean"] < 0


def test_scores_are_those_of_the_rows(weather) -> None:
    known = pd.read_csv(weather_path()).temp.dropna()
    errors = known.diff().dropna()
    assert np.isclose(weather.scores.rmse["last value"], np.sqrt((errors**2).mean()), rtol=1e-5)
    assert np.isclose(weather.scores.mae["last value"], errors.abs().mean(), rtol=1e-5)


def test_the_change_is_found(made) -> None:
    # The last value is wrong by 2 x + noise, of which the noise alone cannot be known: 1 of sqrt(5).
    best = 1 - 1 / np.sqrt(5)
    assert (made.scores.skill[2:] > 0.9 * best).all() and (made.scores.skill[2:] < best + 0.02).all()
    weights = made.features.query("learner == 'autostep'").set_index("feature").weight
    assert weights.abs().idxmax() == "x[-1]"


def test_every_learner_alone_is_the_same_as_all_at_once(made) -> None:
    alone = learn_table(make_table(4000), "y", lags=2, optimizers=["idbd"])
    assert list(alone.scores.index) == ["last value", "running mean", "idbd"]
    np.testing.assert_allclose(alone.scores.rmse["idbd"], made.scores.rmse["idbd"], rtol=1e-4)


def test_file_and_frame_give_the_same(made, tmp_path) -> None:
    make_table(4000).to_csv(tmp_path / "t.csv", index=False)
    make_table(4000).to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        pd.testing.assert_frame_equal(learn_table(tmp_path / name, "y", lags=2).scores, made.scores, rtol=1e-4)


def test_windows_are_tidy_and_small(made) -> None:
    windows = made.windows
    assert list(windows.columns) == ["step", "learner", "metric", "value"]
    assert windows.step.nunique() == 3999 // made.record_every <= 210
    assert not windows.duplicated(["step", "learner", "metric"]).any() and np.isfinite(windows.value).all()
    rmse = windows.query("metric == 'rmse' and learner == 'lms'").value
    assert np.isclose(np.sqrt((rmse**2).mean()), made.scores.rmse["lms"], rtol=0.02)
    assert set(windows.query("metric == 'mean_step_size'").learner) == {"lms", "idbd", "autostep"}


def test_windows_can_be_chosen() -> None:
    assert learn_table(make_table(300), "y", lags=1, record_every=50).windows.step.unique().tolist() == [
        50,
        100,
        150,
        200,
        250,
    ]


@pytest.mark.parametrize("normalizer", ["ema", "welford", "none"])
def test_normalizers(normalizer) -> None:
    table = make_table(1500)[["x", "y"]]
    learned = learn_table(
        table, "y", lags=1, normalizer=normalizer, step_size=0.01, optimizers=["lms", "autostep", "obgd"]
    )
    assert learned.scores.skill["autostep"] > 0.2  # which bounds its steps whatever the inputs are
    if normalizer == "ema":
        assert learned.scores.skill["lms"] > 0.2


def test_tables_with_thousands_of_inputs_start_idbd() -> None:
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 50)), columns=[f"c{k}" for k in range(50)])
    learned = learn_table(table, "c0", lags=60, optimizers=["idbd"])  # a step size below e^-10
    assert learned.steps == 39 and np.isfinite(learned.scores.rmse).all()


@pytest.mark.parametrize("rows", [2, 3, 10])
def test_short_tables(rows, tmp_path) -> None:
    learned = learn_table(make_table(rows), "y", lags=3)
    assert learned.steps == rows - 1
    save(learned, tmp_path, "short")
    assert "rows" in describe(learned, "short")


def test_awkward_tables(tmp_path) -> None:
    table = make_table(200)
    table["same $\\alpha$ \n name"] = 5
    table["empty"] = None
    table["flag"] = table.x > 0
    table["a_very_long_name_" * 5] = table.z
    table["\u6c14\u6e29"] = "text"
    table.loc[::3, "y"] = None
    learned = learn_table(table, "y", lags=2)
    assert np.isfinite(learned.scores.rmse).all()
    text = describe(learned, "awkward")
    assert "never changes, kept, but without effect: same" in text and "without effect: empty" in text
    assert "--features names them: \u6c14\u6e29" in text and "rows without a target, not learned from: 66" in text
    same = learned.features[learned.features.feature.str.startswith("same")]
    assert not same.weight.any()
    assert len(save(learned, tmp_path, "awkward")) == 4


def test_a_constant_target_is_told_as_it_is(tmp_path) -> None:
    learned = learn_table(pd.DataFrame({"y": [3] * 50, "x": range(50)}), "y", lags=2)
    assert (learned.scores.rmse == 0).all() and learned.scores.skill.isna().all()
    assert "unstable" not in describe(learned, "constant")
    save(learned, tmp_path, "constant")


def test_divergence_is_named(tmp_path) -> None:
    learned = learn_table(make_table(800), "y", lags=2, normalizer="none", step_size=1.0, optimizers=["lms"])
    assert not np.isfinite(learned.scores.rmse["lms"])
    text = describe(learned, "t")
    assert "diverged" in text and "unstable: lms; a smaller --step-size" in text
    config = json.loads(save(learned, tmp_path, "t")[3].read_text())
    assert config["scores"]["lms"]["rmse"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizers": ["adam"]}, "unknown optimizer 'adam'; there are lms, idbd, autostep, obgd"),
        ({"optimizers": []}, "one or more different names"),
        ({"optimizers": ["lms", "lms"]}, "one or more different names"),
        ({"normalizer": "batch"}, "unknown normalizer 'batch'"),
        ({"step_size": -1.0}, "step_size"),
        ({"step_size": float("nan")}, "step_size"),
        ({"meta_step_size": -0.1}, "meta_step_size"),
        ({"record_every": 0}, "record_every must be 1 or more"),
        ({"lags": 0}, "lags must be 1 or more"),
        ({"target": "nope"}, "has no column 'nope'"),
        ({"features": ["nope"]}, "has no column 'nope'"),
    ],
)
def test_errors_name_what_is_wrong(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        learn_table(make_table(20), **({"target": "y", "lags": 1} | arguments))


@pytest.mark.parametrize("values", [[1.0], [None, 1.0], [1.0, None]])
def test_a_single_target_is_too_few(values) -> None:
    with pytest.raises(TableError, match="two rows with a value in 'y'"):
        learn_table(pd.DataFrame({"y": values}), "y", lags=1)


# --- what is written ---


def test_the_configuration_rebuilds_the_learners(made, tmp_path) -> None:
    paths = save(made, tmp_path, "made")
    assert [p.name for p in paths] == ["learn.png", "metrics.csv", "features.csv", "config.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)
    learners = load_learners(paths[3])
    assert learners == made.learners and isinstance(learners["idbd"], Interval)
    config = json.loads(paths[3].read_text())
    assert config["scores"]["lms"] == pytest.approx(made.scores.loc["lms"].to_dict())
    assert config["inputs"]["predicted"] == "the change since the last value known"
    assert config["inputs"]["counted_from"]["y"] == make_table(4000).y[0]
    features = pd.read_csv(paths[2])
    assert len(features) == 3 * 6 and set(features.learner) == {"lms", "idbd", "autostep"}
    pd.testing.assert_frame_equal(pd.read_csv(paths[1]), made.windows, rtol=1e-5)


def test_rebuilt_learners_learn_the_same(made, tmp_path) -> None:
    learner = load_learners(save(made, tmp_path, "made")[3])["autostep"]
    (page,) = all_rows(learn.LaggedSource(make_table(4000), "y", lags=2), 4000)
    metrics = run_learning_loop(learner, ArraySource(page.inputs, page.targets - page.before)).metrics
    assert np.isclose(np.sqrt(np.mean(metrics[:, 0])), made.scores.rmse["autostep"], rtol=1e-4)


def test_the_figure_shows_what_it_should(made) -> None:
    figure = draw(made)
    errors, *maps = figure.axes
    figure.draw_without_rendering()
    for axes in figure.axes:  # no legend hides a line
        assert axes.get_legend().get_window_extent().y0 >= axes.get_window_extent().y1 - 1
    labels = [t.get_text() for t in errors.get_legend().get_texts()]
    assert [label.split(":")[0] for label in labels] == NAMES
    assert len(maps) == 2 and maps[0].get_ylabel().startswith("step size of ")
    assert maps[0].get_legend().get_title().get_text() == "the inputs whose step sizes moved most"
    assert [text.get_text() for text in maps[1].get_legend().get_texts()][0] == "interval"
    assert len(draw(learn_table(make_table(100), "y", lags=1, optimizers=["lms"])).axes) == 2


# --- what is given, in every form ---


def test_one_name_is_a_list_of_one() -> None:
    table = make_table(200).assign(xz=np.arange(200) % 7)
    one = learn_table(table, "y", features="xz", lags=np.int8(2), optimizers="lms", normalizer=None)
    assert one.columns == ["y", "xz"] and list(one.scores.index) == [*NAMES[:2], "lms"] and one.lags == 2
    with pytest.raises(TypeError, match="features must be a list, or one alone, got {'x': 1}"):
        learn_table(table, "y", features={"x": 1})
    with pytest.raises(TypeError, match="optimizers must be a list, or one alone, got None"):
        learn_table(table, "y", optimizers=None)
    with pytest.raises(ValueError, match="unknown optimizer 3"):
        learn_table(table, "y", optimizers=3)
    for wrong in ("", " ", "None"):
        with pytest.raises(TableError, match=f"has no column '{wrong}'; it has: 'x', 'y', 'z', 'xz'"):
            learn_table(table, wrong)


def test_small_numpy_integers_do_not_wrap() -> None:
    wide = pd.DataFrame({f"c{k}": np.random.default_rng(k).normal(size=60) for k in range(12)})
    small = learn_table(wide, "c0", lags=np.int8(20), record_every=np.int8(20), optimizers=["lms"])
    assert small.scores.equals(learn_table(wide, "c0", lags=20, record_every=20, optimizers=["lms"]).scores)


def test_columns_that_are_no_inputs_are_told_one_by_one() -> None:
    rows = np.arange(300)
    table = make_table(300).assign(
        ns=1_700_000_000_000_000_000 + 10**9 * rows, id=np.uint64(2**63) + np.uint64(7) * rows.astype(np.uint64),
        rain=np.where(rows % 30 == 0, "<0.1", "1"), day=pd.Timestamp("2013-01-01"),
    )  # fmt: skip
    found = learn_table(table, "y", lags=2, optimizers=["lms"])
    assert found.columns == ["x", "y", "z"] and found.report.ignored == ["ns", "id", "rain", "day"]
    text = describe(found, "t")
    assert "numbers above 1e18, ignored: ns, id" in text
    assert "ignored unless --known or --features names them: day" in text
    assert "numbers beside cells like '<0.1', ignored: rain" in text
    for name, holds in {"ns": "numbers above 1e18", "rain": "numbers beside cells like '<0.1'"}.items():
        with pytest.raises(TableError, match=f"column '{name}' holds {holds}"):
            learn_table(table, name, lags=2)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e3, 1e9, 1e15])
def test_defaults_give_numbers_on_targets_in_any_unit(scale) -> None:
    table = make_table(2000).assign(y=lambda t: scale * t.y + 3 * scale, z=lambda t: t.z / scale)
    found = learn_table(table, "y", lags=2)
    assert np.isfinite(found.scores.iloc[:, :3].to_numpy()).all() and np.isfinite(found.windows.value).all()
    assert (found.scores.inside[2:] - 0.9).abs().max() < 0.02
    assert (found.scores.skill[2:] > 0.5).all()


# --- Ctrl-C ---


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupt_keeps_what_was_learned(tmp_path, monkeypatch, after) -> None:
    def interrupted(pages):  # a real signal, where the next page is waited for
        for k, page in enumerate(pages):
            if k == after:
                signal.raise_signal(signal.SIGINT)
            yield page

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    try:
        with monkeypatch.context() as patch:
            patch.setattr(learn, "read_ahead", interrupted)
            patch.setattr(learn, "_page_rows", lambda source: 500)
            if not after:
                with pytest.raises(KeyboardInterrupt):
                    learn_table(make_table(4000), "y", lags=2, predictions=tmp_path / "p.csv")
                assert not list(tmp_path.iterdir())
                return
            learned = learn_table(make_table(4000), "y", lags=2, predictions=tmp_path / "p.csv")
    finally:
        signal.signal(signal.SIGINT, before)
    assert learned.interrupted and learned.steps == 500 * after and len(pd.read_csv(tmp_path / "p.csv")) == 500 * after
    assert list(learned.scores.index) == NAMES
    whole = learn_table(make_table(4000)[: 500 * after + 1], "y", lags=2)
    pd.testing.assert_frame_equal(learned.scores, whole.scores, rtol=1e-4)
    assert json.loads(save(learned, tmp_path, "t")[3].read_text())["interrupted"] is True


@pytest.mark.parametrize("run", [2, 5])
def test_an_interrupt_within_a_page_leaves_all_learners_at_one_row(monkeypatch, run) -> None:
    calls, plain = [0], life.run_learning_loop

    def interrupted(learner, source, **options):
        calls[0] += 1
        if calls[0] != run:
            return plain(learner, source, **options)
        short = plain(learner, life.Page(source.inputs[:123], source.target[:123]), **options)
        short.interrupted = True
        return short

    source = learn.LaggedSource(make_table(2000), "y", lags=2)
    learners = learn.participants(source, "linear", ["lms", "idbd", "autostep"], "ema", None, None, 0.9, False)
    lives, wanted = life.Lives(source, learners), life.Lives(source, learners)
    pages = list(all_rows(source, 500))
    with monkeypatch.context() as patch:
        patch.setattr(life, "run_learning_loop", interrupted)
        said = [lives.learn(page) for page in pages[: -(-run // 3)]]
    assert lives.interrupted and lives.rows == (run - 1) // 3 * 500 + 123 and len(said[-1].numbers) == 123
    for page in all_rows(source, lives.rows):
        wanted.learn(page)
        break
    for a, b in zip(jax.tree.leaves(lives.states), jax.tree.leaves(wanted.states), strict=True):
        assert np.allclose(a, b, rtol=1e-3, atol=1e-5)


# --- columns of the row, horizons, several targets, rows without a target, networks ---


def regression(rows: int = 3000) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    table = pd.DataFrame(rng.normal(size=(rows, 3)), columns=list("abc"))
    return table.assign(y=10 + 2 * table.a - table.b + 0.1 * rng.normal(size=rows))


def test_columns_of_the_row_are_plain_regression() -> None:
    found = learn_table(regression(), "y", lags=0, known=["a", "b", "c"])
    assert (found.scores.rmse[2:] < 0.5).all() and found.scores.rmse["last value"] > 2
    assert found.features.feature.unique().tolist() == ["a", "b", "c"] and found.steps == 2999
    assert "from 3 inputs known with the row" in describe(found, "t")
    contest = found.contests["y"]
    assert {contest.index.name, *contest.index} == set(NAMES[2:])
    assert (contest.low <= contest.gain).all() and (contest.gain <= contest.high).all()


def test_nothing_of_the_future_is_used() -> None:
    table = regression()
    late = table.copy()
    late.loc[2000:, ["y", "c"]] = 1e6  # what cannot be known at row 2,000 - 5
    settings = {"features": ["y", "c"], "lags": 3, "known": ["a", "b"], "horizon": 5, "record_every": 100}
    one, other = (learn_table(t, "y", window=3000, **settings).predictions for t in (table, late))
    same = np.isclose(one.prediction, other.prediction, rtol=1e-6) & (one.row == other.row)
    assert same[one.row <= 2005].all() and not same[one.row > 2006].all()


def test_a_horizon_is_learned_when_its_value_is_there() -> None:
    "A process of five rows: who learned at once what comes five rows later would know more."
    rng = np.random.default_rng(2)
    walk = pd.DataFrame({"y": np.cumsum(rng.normal(size=4000))})
    near, far = (learn_table(walk, "y", lags=2, horizon=h, optimizers=["lms"]).scores for h in (1, 9))
    assert near.rmse["last value"] == pytest.approx(1.0, abs=0.05)
    assert far.rmse["last value"] == pytest.approx(3, abs=0.2)
    assert (far.rmse["lms"] > 0.97 * far.rmse["last value"]) and far.inside["lms"] == pytest.approx(0.9, abs=0.02)


def test_rows_without_a_target_are_predicted_and_teach_nothing(tmp_path) -> None:
    table = regression()
    table.loc[100:199, "y"] = None
    found = learn_table(table, "y", lags=0, known=["a", "b", "c"], predictions=tmp_path / "p.csv", interval=None)
    written = pd.read_csv(tmp_path / "p.csv")
    assert list(written) == ["row", "y", *NAMES[2:]] and written.row.tolist() == list(range(2, 3001))
    there = written.y.notna()
    assert found.steps == there.sum() == 2899 and np.allclose(written.y[there], table.y[1:].dropna())
    assert np.sqrt(np.mean((written.autostep - written.y)[there] ** 2)) == pytest.approx(found.scores.rmse["autostep"])
    whole = table.dropna()
    alone = learn_table(whole, "y", lags=0, known=["a", "b", "c"], interval=None)
    assert np.allclose(alone.scores.rmse[2:], found.scores.rmse[2:], rtol=1e-4)
    guess = 10 + 2 * table.a - table.b
    assert np.abs(written.autostep - guess[1:].to_numpy())[~there].mean() < 1.0


def test_several_targets_are_learned_as_each_alone(tmp_path) -> None:
    table = regression().assign(w=lambda t: t.c - t.a)
    settings = {"lags": 0, "known": ["a", "b", "c"], "optimizers": ["lms", "idbd"]}
    both = learn_table(table, ["y", "w"], predictions=tmp_path / "p.csv", **settings)
    for target in ("y", "w"):
        alone = learn_table(table, target, **settings)
        pd.testing.assert_frame_equal(both.scores.loc[target], alone.scores, check_names=False)
        pd.testing.assert_frame_equal(both.contests[target], alone.contests[target])
    assert list(pd.read_csv(tmp_path / "p.csv"))[:4] == ["row", "y", "y: lms", "y: lms low"]
    assert both.windows.columns[0] == both.features.columns[0] == "target"
    text = describe(both, "t")
    assert "predicting 'y' and 'w'" in text and len(draw(both).axes) >= 2
    config = json.loads(save(both, tmp_path, "t")[-1].read_text())
    assert {"lms, y", "idbd, w"} < set(config["scores"]) and config["table"]["targets"] == ["y", "w"]


def test_a_network_learns_what_no_line_can() -> None:
    rng = np.random.default_rng(3)
    table = pd.DataFrame(rng.uniform(-2, 2, size=(6000, 2)), columns=["a", "b"])
    table["y"] = 5 * np.sin(2 * table.a) + table.b**2
    found = learn_table(table, "y", lags=0, known=["a", "b"], kinds=["linear", "network"])
    assert found.scores.rmse["network"] < 0.8 * found.scores.rmse["autostep"]  # 0.50 to 0.77 for six seeds
    assert found.contests["y"].index.name == "network" and (found.contests["y"].low > 0).all()
    assert set(found.features.learner) == {"lms", "idbd", "autostep"}
    with pytest.raises(ValueError, match=r"kinds must be of linear, network, got \['forest'\]"):
        learn_table(table, "y", kinds="forest")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"known": ["y"]}, "known must not name what is to be predicted"),
        ({"known": ["nope"]}, "has no column 'nope'"),
        ({"horizon": 0}, "horizon must be 1 or more, got 0"),
        ({"interval": 1.0}, r"interval must be a finite number in \(0.0, 1.0\), got 1.0"),
        ({"interval": 0}, r"interval must be a finite number in \(0.0, 1.0\), got 0"),
        ({"interval": np.nan}, "interval must be a finite number"),
        ({"interval": True}, "interval must be a number, got True"),
        ({"interval": "0.9"}, "interval must be a number, got '0.9'"),
        ({"window": 0}, "window must be 1 or more"),
    ],
)
def test_what_cannot_be_is_said(arguments, message) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        learn_table(regression(50), "y", **arguments)


@pytest.mark.parametrize("learner", [3, None, LinearLearner, IDBD()])
def test_what_is_scored_is_a_learner(learner: object) -> None:
    with pytest.raises(TypeError, match="learner must have init and step"):
        Scored(learner)  # type: ignore[arg-type]


def test_where_nothing_helps_it_is_said() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=800), "y": rng.normal(size=800)})
    text = describe(learn_table(frame, "y"), "noise")
    assert "nobody beats the running mean: of the inputs nothing was learned that helps" in text
    both = describe(learn_table(frame.assign(z=np.roll(frame.x, 1)), ["y", "z"], lags=1), "two")
    assert "y: nobody beats the running mean" in both and "z: nobody" not in both


def test_where_few_rows_decide_the_rmse_it_is_not_said_that_nothing_helps() -> None:
    own = {"rmse": [200.0, 140.0, 141.0], "mae": [50.0, 40.0, 20.0]}
    scores = pd.DataFrame(own, index=["last value", "running mean", "lms"])
    (line,) = unbeaten(scores)
    assert line == "nobody beats the running mean by rmse, which a few large errors decide; by mae lms does"
    assert "nothing was learned" in unbeaten(scores.assign(mae=50.0))[0] and not unbeaten(scores.assign(rmse=[2, 2, 1]))


def test_an_input_that_was_never_there_has_no_step_size_to_tell() -> None:
    rng = np.random.default_rng(0)
    shop = rng.choice(["a", "b"], 600)
    frame = pd.DataFrame({"x": rng.normal(size=600), "shop": shop})
    frame["y"] = frame.x + (shop == "a") + 0.1 * rng.normal(size=600)
    found = learn_table(frame, "y", lags=0, known=["x", "shop"], optimizers=["autostep", "least-squares"])
    assert "shop: other" in set(found.features.feature) and "shop: other" not in set(found.sizes.feature)
    assert "shop: other" not in "".join(line for line in describe(found, "t").splitlines() if "step sizes" in line)


def test_a_result_is_short_when_it_is_shown(made) -> None:
    text = repr(made)
    assert text.startswith("TableResult of ") and len(text.splitlines()) < 12 and "rmse" in text
