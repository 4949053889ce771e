"""Experiments over seeds, their statistics, and how they are written down."""

import json
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.stats

import alberta_nb as ab
from alberta_nb.experiments import export
from alberta_nb.experiments.seeds import final_values

RNG = np.random.default_rng(0)


def config(name: str, step_size: float = 0.02, steps: int = 60) -> ab.ExperimentConfig:
    learner = ab.LinearLearner(ab.LMS(step_size), normalizer=ab.EMANormalizer())
    return ab.ExperimentConfig(name, lambda: learner, lambda: ab.RandomWalkStream(3), steps)


@pytest.fixture(scope="module")
def results() -> dict[str, ab.AggregatedResults]:
    return ab.run_multi_seed_experiment([config("a_b"), config("slow", 0.001)], 4, show_progress=False)


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0.00s"), (0.5, "0.50s"), (59.994, "59.99s"), (59.999, "1m 0.00s"), (90, "1m 30.00s"), (3661, "1h 1m 1.00s"),
     (3600, "1h 0m 0.00s"), (360_000.5, "100h 0m 0.50s"), (np.float32(2.5), "2.50s")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert ab.format_duration(seconds) == text


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_no_duration(wrong: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        ab.format_duration(wrong)


def test_a_timer_prints_and_stops_also_by_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with ab.Timer() as timer:
        time.sleep(0.002)
    assert capsys.readouterr().out == f"Operation completed in {ab.format_duration(timer.duration)}\n"
    assert timer.elapsed() == timer.duration and timer.end_time == timer.start_time + timer.duration
    quiet = ab.Timer("quiet", verbose=False)
    assert quiet.elapsed() == 0.0
    with pytest.raises(KeyError), quiet:
        raise KeyError
    assert quiet.duration >= 0 and capsys.readouterr().out == ""
    with quiet:  # again
        assert quiet.duration is None


@pytest.mark.parametrize(
    "learner, stream",
    [
        (ab.LinearLearner(ab.IDBD()), ab.AbruptChangeStream(3)),
        (ab.MLPLearner((4,), bounder=ab.ObGDBounding()), ab.RandomWalkStream(3)),
        (ab.TDLinearLearner(), ab.RandomWalkChain(5)),
        (ab.LinearLearner(), ab.ArraySource(np.ones((30, 2)), np.arange(30.0))),
    ],
)
def test_all_seeds_at_once_are_the_single_runs(learner: object, stream: object) -> None:
    one = ab.ExperimentConfig("it", lambda: learner, lambda: stream, 30)
    together = ab.run_multi_seed_experiment([one], [7, 3], show_progress=False)["it"]
    apart = ab.run_multi_seed_experiment([one], [7, 3], parallel=False, show_progress=False)["it"]
    assert together.seeds == apart.seeds == [7, 3] and list(together.metric_arrays) == list(apart.metric_arrays)
    for metric, array in together.metric_arrays.items():
        assert array.shape == (2, 30)
        np.testing.assert_allclose(array, apart.metric_arrays[metric], rtol=2e-4, atol=1e-5)
    run = ab.run_single_experiment(one, 3)
    assert (run.config_name, run.seed, len(run.metrics_history)) == ("it", 3, 30)


def test_summaries(results: dict[str, ab.AggregatedResults]) -> None:
    found = results["a_b"]
    assert set(found.metric_arrays) == {"squared_error", "error", "mean_step_size", "normalizer_mean_var"}
    told, values = found.summary["squared_error"], found.metric_arrays["squared_error"].mean(axis=1, dtype=float)
    np.testing.assert_allclose(told.values, values)
    assert np.isclose(told.std, np.std(values, ddof=1)) and (told.min, told.max) == (values.min(), values.max())
    mean, low, high = ab.get_metric_timeseries(found)
    expected = scipy.stats.t.interval(0.95, 3, mean[5], scipy.stats.sem(found.metric_arrays["squared_error"][:, 5]))
    np.testing.assert_allclose((low[5], high[5]), expected)
    final = ab.get_final_performance(results, "error", window=10)
    np.testing.assert_allclose(final["slow"][0], results["slow"].metric_arrays["error"][:, -10:].mean(dtype=float))
    assert (
        ab.extract_hyperparameter_results(results, "error", len)[3] == ab.get_final_performance(results, "error")["a_b"]
    )


def test_wrong_experiments(results: dict[str, ab.AggregatedResults]) -> None:
    for call, match in (
        (lambda: ab.run_multi_seed_experiment([config("x"), config("x")], 2), "different names"),
        (lambda: ab.run_multi_seed_experiment([config("x")], 0), "seeds"),
        (lambda: ab.run_multi_seed_experiment([config("x")], []), "seeds"),
        (lambda: ab.aggregate_metrics([]), "results"),
        (lambda: ab.get_metric_timeseries(results["slow"], "loss"), "metric must be one of"),
        (lambda: final_values(results["slow"], window=0), "window"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    one, other = (ab.run_single_experiment(config("x", steps=n), 0) for n in (5, 6))
    with pytest.raises(ValueError, match="one number of steps"):
        ab.aggregate_metrics([one, other])
    with pytest.raises(ValueError, match="one experiment"):
        ab.aggregate_metrics([one, ab.run_single_experiment(config("y", steps=5), 0)])


# --- statistics ---


def test_statistics_are_scipys() -> None:
    a, b = RNG.normal(size=(2, 12))
    told = ab.compute_statistics(a, 0.9)
    assert np.allclose(told[3:5], scipy.stats.t.interval(0.9, 11, a.mean(), scipy.stats.sem(a)))
    assert np.allclose((told.median, told.iqr), (np.median(a), scipy.stats.iqr(a))) and told.n_seeds == 12
    for ours, theirs in (
        (ab.ttest_comparison(a, b), scipy.stats.ttest_rel(a, b)),
        (ab.ttest_comparison(a, b[:9], paired=False), scipy.stats.ttest_ind(a, b[:9], equal_var=False)),
        (ab.mann_whitney_comparison(a, b), scipy.stats.mannwhitneyu(a, b, alternative="two-sided")),
        (ab.wilcoxon_comparison(a, b), scipy.stats.wilcoxon(a, b)),
    ):
        assert np.allclose((ours.statistic, ours.p_value), (theirs.statistic, theirs.pvalue))
        assert ours.significant is bool(theirs.pvalue < 0.05) and (ours.method_a, ours.method_b) == ("A", "B")
    assert ab.interquartile_mean(a) == scipy.stats.trim_mean(a, 0.25)
    pooled = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    assert np.isclose(ab.cohens_d(a, b), (a.mean() - b.mean()) / pooled)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 40])
def test_bootstrap_of_any_number_of_seeds(n: int) -> None:
    scores = RNG.normal(size=n)
    for name in ("mean", "median", "iqm"):
        point, low, high = ab.bootstrap_ci(scores, name, n_bootstrap=200)
        assert low <= high and (n == 1 or low <= point <= high)
    assert ab.bootstrap_ci(scores, "iqm", n_bootstrap=50)[0] == pytest.approx(scipy.stats.trim_mean(scores, 0.25))
    assert ab.bootstrap_ci(scores, n_bootstrap=50) == ab.bootstrap_ci(scores, n_bootstrap=50)


@pytest.mark.parametrize("shape, name", [((10,), "mean"), ((20,), "iqm"), ((8, 4), "iqm"), ((5, 10), "mean")])
def test_intervals_hold_the_truth(shape: tuple[int, ...], name: str) -> None:
    rng = np.random.default_rng(7)
    centre = np.arange(shape[1]) - (shape[1] - 1) / 2 if len(shape) == 2 else 0.0  # tasks of other levels
    runs = (ab.bootstrap_ci(rng.normal(size=shape) + centre, name, n_bootstrap=500, seed=k) for k in range(2000))
    assert 0.93 <= np.mean([low <= 0 <= high for _, low, high in runs]) <= 0.97


def test_equal_samples_differ_by_nothing() -> None:
    same = np.ones(5)
    for test in (ab.ttest_comparison, ab.wilcoxon_comparison, ab.mann_whitney_comparison):
        found = test(same, same)
        assert found.p_value == 1.0 and not found.significant and found.effect_size == 0.0


@pytest.mark.parametrize(
    "p_values, holm", [([0.04], [True]), ([0.02, 0.04], [True, True]), ([0.03, 0.04], [False, False]), ([], [])]
)
def test_corrections(p_values: list[float], holm: list[bool]) -> None:
    assert ab.holm_correction(p_values) == holm
    assert ab.bonferroni_correction(p_values)[1] == 0.05 / max(len(p_values), 1)


def test_pairs(results: dict[str, ab.AggregatedResults]) -> None:
    found = ab.pairwise_comparisons(results, "squared_error", window=20)
    assert list(found) == [("a_b", "slow")] and found["a_b", "slow"].method_a == "a_b"
    ends = [results[name].metric_arrays["squared_error"][:, -20:].mean(axis=1) for name in ("a_b", "slow")]
    assert np.isclose(found["a_b", "slow"].p_value, scipy.stats.ttest_rel(*ends).pvalue)
    assert ab.pairwise_comparisons(results, correction=None, test="wilcoxon")
    for wrong in ({"test": "z"}, {"correction": "fdr"}, {"window": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ab.pairwise_comparisons(results, **wrong)


def test_tidy_tables() -> None:
    scores = {"a": RNG.normal(size=(8, 3)), "b": RNG.normal(1.0, size=(8, 3)), 0.5: RNG.normal(size=(8, 3))}
    table = ab.seed_intervals(scores, "median", draws=100)
    assert list(table["name"]) == ["a", "b", 0.5] and np.isclose(table["value"][0], np.median(scores["a"]))
    profile = ab.performance_profiles(scores, [-9.0, 0.0, 9.0], draws=100)
    assert profile.query("name == 'a'")["value"].tolist() == [1.0, (scores["a"] > 0).mean(), 0.0]
    better = ab.improvement_probabilities(scores, draws=100)
    by_task = [scipy.stats.mannwhitneyu(scores["a"][:, k], scores["b"][:, k]).statistic / 64 for k in range(3)]
    assert np.isclose(better["value"][0], np.mean(by_task)) and len(better) == 3
    gaps = ab.paired_differences(scores, "a")
    assert np.isclose(gaps["value"][0], scores["b"].mean() - scores["a"].mean()) and list(gaps["name"]) == ["b", 0.5]
    for call in (
        lambda: ab.seed_intervals({}),
        lambda: ab.seed_intervals({"a": np.zeros((2, 2, 2))}),
        lambda: ab.paired_differences(scores, "c"),
        lambda: ab.bootstrap_ci([1.0, 2.0], confidence_level=1.5),
        lambda: ab.ttest_comparison([1.0, 2.0], [1.0]),
        lambda: ab.improvement_probabilities({"a": np.zeros((3, 2)), "b": np.zeros(3)}),
    ):
        with pytest.raises(ValueError):
            call()


# --- written down ---


def test_files(results: dict[str, ab.AggregatedResults], tmp_path: Path) -> None:
    paths = ab.save_experiment_report(results, tmp_path / "new", "one", ab.pairwise_comparisons(results))
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(p.name for p in paths.values())
    assert pd.read_csv(paths["csv"]).shape == (8, 3)
    ab.export_to_csv(results, tmp_path / "rows.csv", "error", include_timeseries=True)
    rows = pd.read_csv(tmp_path / "rows.csv")
    assert list(rows.columns) == ["config", "seed", "step", "error"] and len(rows) == 2 * 4 * 60
    at = rows.query("config == 'slow' and seed == 2 and step == 17")["error"].item()
    assert np.isclose(at, results["slow"].metric_arrays["error"][2, 17])
    ab.export_to_json(results, tmp_path / "all.json", include_timeseries=True)
    told = json.loads((tmp_path / "all.json").read_text())
    assert np.shape(told["a_b"]["timeseries"]["error"]) == (4, 60)


def test_numbers_of_any_library(results: dict[str, ab.AggregatedResults], tmp_path: Path) -> None:
    """Results of somebody else's making: seeds of numpy, rows of JAX, values in a list."""

    def other(result: ab.AggregatedResults) -> ab.AggregatedResults:
        told = {m: s._replace(mean=np.float32(s.mean), values=list(s.values)) for m, s in result.summary.items()}
        rows = {metric: jnp.asarray(array) for metric, array in result.metric_arrays.items()}
        return ab.AggregatedResults(result.config_name, np.asarray(result.seeds), rows, told)

    others = {name: other(result) for name, result in results.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs = ab.pairwise_comparisons(others)
        ab.save_experiment_report(others, tmp_path, "one", pairs)
        ab.export_to_json(others, tmp_path / "all.json", include_timeseries=True)
        assert ab.generate_markdown_table(others, pairs) == ab.generate_markdown_table(results, pairs)
    told, same = json.loads((tmp_path / "all.json").read_text())["slow"], results["slow"]
    assert (
        told["seeds"] == list(same.seeds)
        and told["summary"]["error"]["values"] == same.summary["error"].values.tolist()
    )
    assert np.array_equal(np.float32(told["timeseries"]["error"]), same.metric_arrays["error"])


def test_what_is_not_finite_is_null(results: dict[str, ab.AggregatedResults], tmp_path: Path) -> None:
    lost = results["slow"]._replace(metric_arrays={"error": np.array([[np.nan, np.inf]])})
    ab.export_to_json({"slow": lost}, tmp_path / "lost.json", include_timeseries=True)
    assert json.loads((tmp_path / "lost.json").read_text())["slow"]["timeseries"]["error"] == [[None, None]]


def test_tables(results: dict[str, ab.AggregatedResults]) -> None:
    sig = {("a_b", "slow"): ab.ttest_comparison([0, 0, 1], [5, 5, 6.5], method_a="a_b", method_b="slow")}
    latex, text = ab.generate_latex_table(results, sig, label="tab:x"), ab.generate_markdown_table(results, sig)
    assert r"a\_b" in latex and r"\label{tab:x}" in latex and text.count("**") == 2 and latex.count("^{*}") == 1
    mean, std = ab.get_final_performance(results)["slow"]
    assert f"{mean:.4f} ± {std:.4f}" in text and rf"{mean:.4f} \pm {std:.4f}" in latex
    for kind, start in (("latex", r"\begin{table}"), ("markdown", "| Comparison |")):
        table = ab.generate_significance_table(sig, kind)
        assert table.startswith(start) and "Yes" in table
    with pytest.raises(ValueError, match="format"):
        ab.generate_significance_table(sig, "html")
    assert export._escaped(r"50% & #1_{x}") == r"50\% \& \#1\_\{x\}"


def test_keys_of_seeds() -> None:
    one = config("x", steps=5)
    first, second = (ab.run_single_experiment(one, seed).metrics_history for seed in (0, 1))
    again = ab.run_learning_loop(one.learner_factory(), one.stream_factory(), 5, jax.random.key(1))
    assert first != second and np.isclose(second[-1]["error"], again[1][-1, 1])
