"""The metric helpers: names, running means, sums and comparisons, at the edges too."""

from typing import Any

import jax
import numpy as np
import pytest

from alberta_nb.learners.baselines import LastValue
from alberta_nb.learners.linear import LinearLearner
from alberta_nb.learners.mlp import MLPLearner
from alberta_nb.learners.td import TDLinearLearner
from alberta_nb.loops.metrics import (
    COLUMNS,
    compare_learners,
    compute_cumulative_error,
    compute_running_mean,
    compute_tracking_error,
    extract_metric,
    metrics_to_dicts,
    window_sums,
)
from alberta_nb.loops.mlp import run_mlp_learning_loop
from alberta_nb.loops.supervised import run_learning_loop
from alberta_nb.loops.td import run_td_learning_loop
from alberta_nb.normalizers import EMANormalizer
from alberta_nb.streams.chains import RandomWalkChain
from alberta_nb.streams.synthetic import RandomWalkStream

TABLE = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)


def test_metrics_to_dicts() -> None:
    plain = metrics_to_dicts(TABLE[:, :3])
    assert len(plain) == 50 and list(plain[0]) == ["squared_error", "error", "mean_step_size"]
    assert all(type(value) is float for value in plain[0].values())
    assert plain[7]["error"] == float(TABLE[7, 1])
    named = metrics_to_dicts(TABLE, normalized=True)
    assert list(named[0]) == list(COLUMNS) and named[3]["normalizer_mean_var"] == float(TABLE[3, 3])
    assert metrics_to_dicts(TABLE) == plain, "without `normalized` the fourth column is left out"
    assert metrics_to_dicts(TABLE[:0]) == []


def test_metrics_to_dicts_of_a_run() -> None:
    metrics = run_learning_loop(LinearLearner(), RandomWalkStream(3), 20, jax.random.key(0)).metrics
    history = metrics_to_dicts(metrics)
    assert np.allclose([row["squared_error"] for row in history], metrics[:, 0])


LIVES = [
    (LinearLearner(), run_learning_loop, RandomWalkStream(3), "squared_error error mean_step_size"),
    (
        LinearLearner(normalizer=EMANormalizer()),
        run_learning_loop,
        RandomWalkStream(3),
        "squared_error error mean_step_size normalizer_mean_var",
    ),
    (MLPLearner((4,)), run_mlp_learning_loop, RandomWalkStream(3), "squared_error error bounding_metric"),
    (
        MLPLearner((4,), normalizer=EMANormalizer()),
        run_mlp_learning_loop,
        RandomWalkStream(3),
        "squared_error error bounding_metric normalizer_mean_var",
    ),
    (
        TDLinearLearner(normalizer=EMANormalizer()),
        run_td_learning_loop,
        RandomWalkChain(),
        "squared_td_error td_error mean_step_size mean_eligibility_trace",
    ),
]


@pytest.mark.parametrize(("learner", "run", "stream", "names"), LIVES)
def test_each_learner_names_its_own_columns(learner: Any, run: Any, stream: Any, names: str) -> None:
    metrics = np.asarray(run(learner, stream, 20, jax.random.key(0)).metrics)
    wanted = names.split()
    assert list(learner.metric_names) == wanted and metrics.shape[1] == len(wanted)
    history = metrics_to_dicts(metrics, learner=learner)
    assert list(history[0]) == wanted and list(history[7].values()) == metrics[7].tolist()
    for column, name in enumerate(wanted):
        for told in (extract_metric(metrics, name, learner), extract_metric(history, name)):
            assert np.array_equal(told, metrics[:, column])
    assert np.allclose(metrics[:, 0], metrics[:, 1] ** 2)
    tracking = compute_running_mean(metrics[:, 0], 5)
    assert np.array_equal(compute_tracking_error(metrics, 5, learner), tracking)
    assert np.array_equal(compute_tracking_error(history, 5, learner), tracking)
    total = compute_cumulative_error(metrics, wanted[0], learner)[-1]
    assert compare_learners({"it": metrics}, wanted[0], learner)["it"]["cumulative"] == pytest.approx(total)


def test_names_that_no_learner_gave() -> None:
    with pytest.raises(TypeError, match="learner must have metric_names, got LastValue"):
        metrics_to_dicts(TABLE, learner=LastValue())
    with pytest.raises(ValueError, match=r"metrics must have shape \(rows, 4\), got \(50, 3\)"):
        metrics_to_dicts(TABLE[:, :3], learner=TDLinearLearner())
    with pytest.raises(ValueError, match=r"metrics of shape \(rows, 3\), got shape \(50, 4\)"):
        extract_metric(TABLE, "error", MLPLearner())
    with pytest.raises(ValueError, match="key must be one of .*bounding_metric.*, got 'mean_step_size'"):
        extract_metric(TABLE[:, :3], "mean_step_size", MLPLearner())


@pytest.mark.parametrize("shape", [(3,), (2, 50, 3), (50, 2), (50, 5)])
def test_metrics_to_dicts_wants_rows_and_columns(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"metrics must have shape \(rows, 3\) or \(rows, 4\)"):
        metrics_to_dicts(np.zeros(shape))


def test_metrics_to_dicts_normalized_wants_four_columns() -> None:
    with pytest.raises(ValueError, match=r"metrics must have shape \(rows, 4\), got \(50, 3\)"):
        metrics_to_dicts(TABLE[:, :3], normalized=True)


@pytest.mark.parametrize("key", COLUMNS)
def test_extract_metric_from_dicts_and_arrays(key: str) -> None:
    column = TABLE[:, COLUMNS.index(key)].astype(np.float64)
    for history in (TABLE, jax.numpy.asarray(TABLE), metrics_to_dicts(TABLE, normalized=True)):
        values = extract_metric(history, key)
        assert values.dtype == np.float64 and np.array_equal(values, column)


def test_extract_metric_takes_other_keys_and_missing_rows() -> None:
    history = [{"reward": 1}, None, {"reward": 3.0, "x": 0}]
    assert np.array_equal(extract_metric(history, "reward"), [1.0, np.nan, 3.0], equal_nan=True)
    assert extract_metric([], "reward").shape == (0,)


@pytest.mark.parametrize(
    ("history", "key", "message"),
    [
        ([{"a": 1.0}, {"b": 1.0}], "a", "history must have 'a' in every row, row 1 has"),
        ([1.0, 2.0], "a", "row 0 has float"),
        (TABLE, "loss", "key must be one of"),
        (TABLE[:, :3], "normalizer_mean_var", "key must be one of"),
        (TABLE[0], "error", "history must be a list of dicts or metrics"),
        (TABLE[None], "error", "history must be a list of dicts or metrics"),
    ],
)
def test_extract_metric_errors(history: Any, key: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extract_metric(history, key)


@pytest.mark.parametrize("n", [0, 1, 2, 9, 10, 11, 100])
@pytest.mark.parametrize("k", [1, 2, 10, 99, 10**12])
def test_window_sums_and_means_equal_the_definition(n: int, k: int) -> None:
    values = np.random.default_rng(n).standard_normal(n)
    windows = [values[max(0, t - k + 1) : t + 1] for t in range(n)]
    assert np.allclose(window_sums(values, k), [w.sum() for w in windows], rtol=0, atol=1e-12)
    assert np.allclose(compute_running_mean(values, k), [w.mean() for w in windows], rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("error")
def test_running_mean_forgets_accidents() -> None:
    values = np.ones(500)
    values[100], values[200], values[300], values[301] = 1e300, np.inf, np.inf, -np.inf
    means = compute_running_mean(values, 50)
    assert means.shape == (500,) and means.dtype == np.float64
    clean = np.ones(500, bool)
    for at, last in ((100, 100), (200, 200), (300, 301)):
        clean[at : last + 50] = False
    assert np.array_equal(means[clean], np.ones(clean.sum()))
    assert np.isinf(means[200:250]).all() and np.isnan(means[301:350]).all()


@pytest.mark.filterwarnings("error")
def test_running_mean_leaves_skipped_steps_out() -> None:
    values = [1.0, np.nan, 3.0, np.nan, np.nan, np.nan, 7.0]
    expected = [1.0, 1.0, 2.0, 3.0, 3.0, np.nan, 7.0]
    assert np.array_equal(compute_running_mean(values, 3), expected, equal_nan=True)


def test_running_mean_default_window_and_errors() -> None:
    values = np.arange(300.0)
    assert compute_running_mean(values)[-1] == values[-100:].mean()
    with pytest.raises(ValueError, match="window_size must be 1 or more"):
        compute_running_mean(values, 0)
    with pytest.raises(TypeError, match="window_size must be a whole number"):
        compute_running_mean(values, 2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"values must have shape \(n,\), got \(3, 100\)"):
        compute_running_mean(values.reshape(3, 100))


def test_tracking_error_is_the_running_mean_of_the_squared_error() -> None:
    table = np.abs(TABLE)
    for history in (table, metrics_to_dicts(table)):
        assert np.allclose(compute_tracking_error(history, 7), compute_running_mean(table[:, 0], 7))
    assert np.allclose(compute_tracking_error(table)[-1], table[:, 0].mean())
    assert compute_tracking_error([], 5).shape == (0,)


def test_cumulative_error() -> None:
    for history in (TABLE, metrics_to_dicts(TABLE)):
        total = compute_cumulative_error(history, "error")
        assert total.dtype == np.float64 and np.allclose(total, np.cumsum(TABLE[:, 1].astype(np.float64)))
    assert np.array_equal(compute_cumulative_error(TABLE), compute_cumulative_error(TABLE, "squared_error"))
    with_holes = [{"squared_error": 1.0}, {"squared_error": np.nan}, None, {"squared_error": 4.0}]
    assert compute_cumulative_error(with_holes).tolist() == [1.0, 1.0, 1.0, 5.0]
    assert compute_cumulative_error([]).shape == (0,)


@pytest.mark.filterwarnings("error")
def test_compare_learners() -> None:
    good, bad = np.zeros((300, 3)), np.ones((300, 3))
    good[-100:, 0] = 3.0
    bad[5, 0] = np.nan
    table = compare_learners({"good": metrics_to_dicts(good), "bad": bad})
    assert list(table) == ["good", "bad"]
    assert table["good"] == {"mean": 1.0, "std": pytest.approx(2**0.5), "cumulative": 300.0, "final_100_mean": 3.0}
    assert table["bad"] == {"mean": 1.0, "std": 0.0, "cumulative": 299.0, "final_100_mean": 1.0}
    assert compare_learners({"one": good[:3]}, "error")["one"]["final_100_mean"] == 0.0
    bad[7, 0] = np.inf
    assert compare_learners({"exploded": bad})["exploded"]["mean"] == np.inf


def test_compare_learners_errors() -> None:
    with pytest.raises(ValueError, match="results must hold one learner or more"):
        compare_learners({})
    with pytest.raises(ValueError, match=r"results\['x'\] must hold at least one number, got none in 0 rows"):
        compare_learners({"x": []})
    with pytest.raises(ValueError, match=r"got none in 2 rows"):
        compare_learners({"x": np.full((2, 3), np.nan)})
