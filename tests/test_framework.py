"""Programs that come from alberta_framework: their imports, their names, and what they are told."""

import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

import alberta_nb as ab
import alberta_nb.framework as framework
from alberta_nb.framework import names, visualization
from alberta_nb.gate import MeaningWarning
from alberta_nb.horde.relevance import compute_feature_sensitivity

ROOT = Path(__file__).resolve().parent.parent
KEY = jax.random.key(0)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch):
    """What is said from here on, whatever was said before."""
    monkeypatch.setattr("alberta_nb.gate._SAID", set())
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield found


@pytest.mark.parametrize(
    "path, name",
    [
        ("core.learners", "LinearLearner"), ("core.learners", "run_td_learning_loop"), ("core.optimizers", "Autostep"),
        ("core.normalizers", "EMANormalizer"), ("core.types", "create_tdidbd_state"), ("core.types", "TimeStep"),
        ("core.diagnostics", "relevance_to_dict"), ("core.horde", "HordeLearner"), ("streams.base", "ScanStream"),
        ("streams.synthetic", "CyclicTarget"), ("utils.timing", "Timer"), ("utils.timing", "format_duration"),
        ("utils.metrics", "compare_learners"), ("utils.statistics", "pairwise_comparisons"),
        ("utils.experiments", "ExperimentConfig"), ("utils.export", "save_experiment_report"),
        ("utils.visualization", "set_publication_style"), ("utils", "Timer"), ("core", "IDBD"), ("streams", "GVFSpec"),
    ],
)  # fmt: skip
def test_paths(path: str, name: str) -> None:
    module = importlib.import_module(f"alberta_nb.framework.{path}")
    assert getattr(module, name) is getattr(framework, name)
    with pytest.raises(AttributeError, match=f"framework.{path}.*'Nothing'"):
        getattr(module, "Nothing")  # noqa: B009
    with pytest.raises(ImportError):
        exec(f"from alberta_nb.framework.{path} import Nothing")


def test_what_is_another_thing_there() -> None:
    theirs = {"FeatureRelevance", "compute_feature_relevance", "compute_feature_sensitivity", "relevance_to_dict"}
    theirs |= {"compute_cumulative_error", "compute_tracking_error", "extract_metric"}
    found = set(names.__all__) | set(visualization.__all__)
    assert found & set(ab.__all__) == theirs
    assert all(getattr(framework, name) is not getattr(ab, name) for name in theirs)
    assert all(getattr(framework, name) is getattr(ab, name) for name in set(ab.__all__) - theirs)
    assert found | set(ab.__all__) <= set(dir(framework))


def test_stars_and_version() -> None:
    space: dict[str, object] = {}
    exec("from alberta_nb.framework.core.types import *", space)
    assert {"LinearLearner", "RandomWalkState", "create_obgd_state"} <= space.keys()
    assert framework.__version__ == ab.__version__


def test_nothing_else_imports_it_and_it_loads_little() -> None:
    light = "import sys\nfrom alberta_nb.framework.utils.timing import Timer\n"
    light += "assert not {'matplotlib', 'pandas', 'scipy.stats'} & sys.modules.keys()"
    apart = "import sys, alberta_nb\n[getattr(alberta_nb, n) for n in alberta_nb.__all__]\n"
    apart += "assert 'alberta_nb.framework' not in sys.modules"
    for program in (light, apart):
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    "stream, state",
    [
        ("RandomWalkTarget", "RandomWalkState"), ("AbruptChangeTarget", "AbruptChangeState"),
        ("CyclicTarget", "CyclicState"), ("PeriodicChangeTarget", "PeriodicChangeState"),
        ("ScaleDriftStream", "ScaleDriftState"), ("DynamicScaleShiftStream", "DynamicScaleShiftState"),
    ],
)  # fmt: skip
def test_states_of_streams(stream: str, state: str) -> None:
    made = getattr(framework, stream)(feature_dim=3)
    first = made.init(KEY)
    assert type(first) is getattr(framework, state) and first.true_weights.shape == (3,)
    wrapped = ab.ScaledStreamWrapper(made, jnp.ones(3))
    assert isinstance(wrapped.init(KEY), framework.ScaledStreamState)


def test_first_states_of_optimizers() -> None:
    assert framework.create_obgd_state(0.5, kappa=3.0).step_size == 0.5
    made = framework.create_tdidbd_state(4, meta_step_size=0.1), ab.TDIDBD(0.01, 0.1).init(4)
    assert jax.tree.all(jax.tree.map(np.array_equal, *made))
    made = framework.create_autotdidbd_state(4, trace_decay=0.5), ab.AutoTDIDBD(trace_decay=0.5).init(4)
    assert jax.tree.all(jax.tree.map(np.array_equal, *made))


def test_histories_by_keyword() -> None:
    history = [{"squared_error": float(k), "error": -float(k)} for k in range(5)]
    assert framework.compute_tracking_error(metrics_history=history, window_size=2)[-1] == 3.5
    assert framework.compute_cumulative_error(metrics_history=history, error_key="error")[-1] == -10
    assert framework.extract_metric(metrics_history=history, key="error").tolist() == [0, -1, -2, -3, -4]
    with pytest.raises(TypeError):
        framework.compute_tracking_error(history, metrics_history=history)


# --- diagnostics ---

LEARNERS = {
    "linear": ab.LinearLearner(ab.IDBD(0.03)),
    "lms": ab.LinearLearner(ab.LMS(0.03), normalizer=ab.EMANormalizer()),
    "network": ab.MLPLearner((5,), ab.Autostep(0.03), gamma=0.9, lamda=0.8),
    "heads": ab.MultiHeadMLPLearner(2, (5, 4), ab.LMS(0.03), normalizer=ab.WelfordNormalizer()),
    "linear heads": ab.MultiHeadMLPLearner(2, (), ab.Autostep(0.03), per_head_gamma_lamda=(0.5, 0.0)),
    "linear lms heads": ab.MultiHeadMLPLearner(3, (), ab.LMS(0.03)),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_relevance(name: str, float64: None) -> None:
    learner = LEARNERS[name]
    state = learner.init(3) if name in ("linear", "lms") else learner.init(3, KEY)
    n = getattr(learner, "n_heads", 1)
    found = framework.compute_feature_relevance(state)
    layers = [state.weights[None]] if n == 1 and hasattr(state, "weights") else state.params.weights
    np.testing.assert_allclose(found.weight_relevance, np.abs(layers[0]).sum(axis=0))
    np.testing.assert_allclose(found.head_reliance, np.abs(layers[-1]))
    np.testing.assert_allclose(found.step_size_activity, np.full(3, 0.03))
    np.testing.assert_allclose(found.head_mean_step_size, np.full(n, 0.03))
    assert found.trace_activity.shape == (3,) and not found.trace_activity.any()
    assert (found.normalizer_mean is None) == (found.normalizer_std is None) == (learner.normalizer is None)
    told = framework.relevance_to_dict(found, head_names=[f"h{i}" for i in range(n)])
    assert list(told["trunk"]) == [f"feature_{i}" for i in range(3)] and list(told["per_head"]) == [
        f"h{i}" for i in range(n)
    ]
    assert told["per_head"]["h0"]["mean_step_size"] == pytest.approx(0.03)
    with pytest.raises(ValueError, match="feature_names"):
        framework.relevance_to_dict(found, ["a"])


def test_traces_are_told() -> None:
    network = LEARNERS["network"]
    state = network.update(network.init(3, KEY), jnp.ones(3), 1.0).state
    traces = np.abs(state.traces.weights[0]).mean(axis=0)
    np.testing.assert_allclose(framework.compute_feature_relevance(state).trace_activity, traces, rtol=1e-6)
    assert traces.any()


@pytest.mark.parametrize("name", LEARNERS)
def test_slopes_are_signed(name: str, float64: None, said: list) -> None:
    learner = LEARNERS[name]
    state = learner.init(3) if name in ("linear", "lms") else learner.init(3, KEY)
    if name in ("linear", "lms"):
        state = state.replace(weights=jnp.array([1.0, -2.0, 0.5]))
    x, step = np.array([0.3, -1.0, 0.7]), 1e-5
    slopes = framework.compute_feature_sensitivity(learner, state, x)
    ends = [learner.predict(state, x + step * row) - learner.predict(state, x - step * row) for row in np.eye(3)]
    np.testing.assert_allclose(slopes, np.stack(ends, axis=1) / (2 * step), atol=1e-7)
    np.testing.assert_allclose(ab.compute_feature_sensitivity(learner, state, x[None]), np.abs(slopes), atol=1e-12)
    assert not [w for w in said if "sizes" in str(w.message)]


# --- said once ---


def of(said: list, word: str) -> list[str]:
    return [str(w.message) for w in said if w.category is MeaningWarning and word in str(w.message)]


@pytest.mark.parametrize("lamda, heard", [(0.0, 0), (0.5, 1)])
def test_a_horde_with_traces(lamda: float, heard: int, said: list) -> None:
    ab.HordeLearner(ab.create_horde_spec([ab.GVFSpec("a", "prediction", 0.9, lamda)]), (), step_size=0.1)
    assert len(of(said, "trace")) == heard


@pytest.mark.parametrize("reward, heard", [(0.0, 0), (-1.5, 1)])
def test_a_terminal_reward(reward: float, heard: int, said: list) -> None:
    spec = ab.create_horde_spec([ab.GVFSpec("a", "prediction", 0.9, 0.0, terminal_reward=reward)])
    for _ in range(2):
        ab.HordeLearner(spec, (), step_size=0.1)
    assert len(of(said, "terminal_reward")) == heard


def horde(*places: int) -> ab.HordeLearner:
    demons = [ab.GVFSpec(f"d{i}", "prediction", 0.0, 0.0, place) for i, place in enumerate(places)]
    return ab.HordeLearner(ab.create_horde_spec(demons), (), step_size=0.1)


@pytest.mark.parametrize(
    "places, width, heard",
    [((0, 0), 2, 1), ((1, 0), 2, 1), ((-1, 1), 2, 0), ((0, 1), 2, 0), ((0, 0), 3, 0), ((1,), 2, 0)],
)
def test_a_cumulants_place(places: tuple[int, ...], width: int, heard: int, said: list) -> None:
    learner, x = horde(*places), np.ones((4, 2))
    for _ in range(2):
        learner.update(learner.init(2, KEY), x[0], np.ones(width), x[0])
        ab.run_horde_learning_loop(learner, learner.init(2, KEY), x, np.ones((4, width)), x)
    assert len(of(said, "cumulant_index")) == heard
    if heard:
        assert said[0].filename == __file__


def test_one_observation(said: list) -> None:
    learner = ab.LinearLearner()
    for _ in range(2):
        compute_feature_sensitivity(learner, learner.init(2), [1.0, 2.0])
    assert len(of(said, "sizes")) == 1


def test_who_comes_from_there_is_told_of_ends_and_predictions(said: list) -> None:
    jax.clear_caches()
    scaled = ab.LinearLearner(normalizer=ab.EMANormalizer())
    ab.TDLinearLearner(), horde(-1)  # without traces there is nothing to be told
    assert not of(said, "trace")
    for _ in range(2):
        ab.TDLinearLearner(ab.TDIDBD(trace_decay=0.5))
        scaled.predict(scaled.init(2), np.ones(2))
    assert len(of(said, "trace")) == len(of(said, "predict")) == 1


def test_others_are_not_told() -> None:
    program = "import alberta_nb as ab, numpy as np\n"
    program += "walk, scaled = ab.TDLinearLearner(), ab.LinearLearner(normalizer=ab.EMANormalizer())\n"
    program += (
        "walk.update(walk.init(2), np.ones(2), 1.0, np.ones(2), 0.0), scaled.predict(scaled.init(2), np.ones(2))\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, check=True)


# --- what its programs read ---


def test_a_horde_as_that_library_writes_it() -> None:
    made = horde(-1, -1)
    config = made.to_config()
    spec = {"demons": [{k: v for k, v in demon.items() if k != "type"} for demon in config["horde_spec"]["demons"]]}
    assert ab.HordeLearner.from_config(config | {"horde_spec": spec}) == made
    assert ab.HordeLearner(spec, (), step_size=0.1) == made
    for wrong in ({"demon": []}, {"demons": [{"name": "a"}]}, {"demons": []}):
        with pytest.raises(ValueError):
            ab.HordeLearner.from_config(config | {"horde_spec": wrong})
    with pytest.raises(TypeError, match="horde_spec"):
        ab.HordeLearner([1, 2])


@pytest.mark.parametrize("optimizer", [ab.IDBD(0.03), ab.Autostep(0.03), ab.LMS(0.03), ab.ObGD(0.5)])
def test_metrics_of_an_update(optimizer: ab.Optimizer, float64: None) -> None:
    state = optimizer.init(3)
    for x in np.random.default_rng(0).normal(size=(9, 3)):
        move = optimizer.update(state, jnp.float64(x.sum()), jnp.asarray(x))
        state = move.new_state
    told = {name: float(value) for name, value in move.metrics.items()}
    if isinstance(optimizer, ab.ObGD):
        assert told["effective_step_size"] == told["step_size"] == told["mean_step_size"] < 0.5
    elif isinstance(optimizer, ab.LMS):
        assert told == {"mean_step_size": 0.03, "step_size": 0.03}
    else:
        sizes = optimizer.step_sizes(state)[0]
        assert told["min_step_size"] == sizes.min() and told["max_step_size"] == sizes.max()
        assert told["min_step_size"] < told["max_step_size"]
    if isinstance(optimizer, ab.Autostep):
        assert told["mean_normalizer"] == pytest.approx(float(state.normalizers.mean())) and told["mean_normalizer"] > 0


def test_histories_of_a_batch_have_their_seeds_first() -> None:
    keys, looks = jax.random.split(KEY, 3), ab.NormalizerTrackingConfig(10)
    scaled = ab.LinearLearner(ab.IDBD(), normalizer=ab.EMANormalizer())
    run = ab.run_learning_loop_batched(
        scaled, ab.RandomWalkStream(3), 45, keys, None, ab.StepSizeTrackingConfig(20), looks
    )
    assert run.step_size_history.recording_indices.tolist() == [[0, 20]] * 3
    assert run.normalizer_history.recording_indices.shape == run.normalizer_history.means.shape[:2] == (3, 4)
    one = jax.tree.map(lambda a: a[1], run.step_size_history)
    alone = ab.run_learning_loop(scaled, ab.RandomWalkStream(3), 45, keys[1], None, ab.StepSizeTrackingConfig(20))[2]
    assert np.array_equal(one.recording_indices, alone.recording_indices)
    walk = ab.run_td_learning_loop_batched(
        ab.TDLinearLearner(), ab.RandomWalkChain(5), 45, keys, trace_tracking=ab.TraceTrackingConfig(20)
    )
    assert walk.trace_history.recording_indices.shape == (3, 2)
    network = ab.MLPLearner((4,), bounder=ab.ObGDBounding())
    seen = ab.run_mlp_learning_loop_batched(
        network, ab.RandomWalkStream(3), 45, keys, diagnostics=ab.DiagnosticsConfig(20, 5)
    )
    assert seen.diagnostics_history.recording_indices.tolist() == [[0, 20]] * 3


def test_parts_of_a_state_of_many_heads() -> None:
    learner = ab.MultiHeadMLPLearner(2, (5, 4), ab.LMS(0.03), per_head_gamma_lamda=(0.5, 0.2))
    state = learner.update(learner.init(3, KEY), jnp.ones(3), jnp.ones(2)).state
    assert [w.shape for w in state.trunk_params.weights] == [(5, 3), (4, 5)]
    assert [b.shape for b in state.head_params.biases] == [(1,), (1,)]
    assert np.array_equal(jnp.concatenate(state.head_params.weights), state.params.weights[-1])
    assert [[a.shape for a in head] for head in state.head_traces] == [[(1, 4), (1,)]] * 2
    assert np.array_equal(state.head_traces[1][0][0], state.traces[0][1])
    assert learner.init(3, KEY).replace(traces=None).head_traces is None


# --- pictures ---


@pytest.fixture(scope="module")
def results() -> dict[str, ab.AggregatedResults]:
    def config(a: float, b: float) -> ab.ExperimentConfig:
        return ab.ExperimentConfig(
            f"{a}_{b}", lambda: ab.LinearLearner(ab.IDBD(a, b)), lambda: ab.RandomWalkStream(3), 150
        )

    configs = [config(a, b) for a in (0.01, 0.05) for b in (0.0, 0.01)]
    return ab.run_multi_seed_experiment(configs, 3, show_progress=False)


def test_pictures(results: dict[str, ab.AggregatedResults], tmp_path: Path) -> None:
    with plt.rc_context():
        visualization.set_publication_style(8, figure_width=3.0, figure_height=2.0)
        figure, axes = visualization.plot_learning_curves(results, show_ci=False, log_scale=False, window_size=10)
        assert (
            figure.get_size_inches().tolist() == [3.0, 2.0] and axes.get_yscale() == "linear" and not axes.collections
        )
    rows = [ab.compute_running_mean(row, 10) for row in results["0.05_0.01"].metric_arrays["squared_error"]]
    np.testing.assert_allclose(axes.lines[3].get_ydata(), np.mean(rows, axis=0))
    mine = plt.subplots()
    assert visualization.plot_step_size_evolution(results, ax=mine[1]) == mine and mine[1].get_yscale() == "log"
    sig = {("0.01_0.0", "0.05_0.01"): ab.ttest_comparison([0, 0, 1], [5, 5, 6.5])}
    _, bars = visualization.plot_final_performance_bars(results, significance_results=sig)
    tall = [bar.get_height() for bar in bars.patches]
    np.testing.assert_allclose(tall, [mean for mean, _ in ab.get_final_performance(results).values()])
    plain = visualization.plot_final_performance_bars(results, significance_results=sig, show_significance=False)[1]
    assert not plain.texts
    _, heat = visualization.plot_hyperparameter_heatmap(results, "a", [0.01, 0.05, 0.1], "b", [0.0, 0.01])
    shown = np.ma.filled(heat.images[0].get_array(), np.nan)
    assert np.isclose(shown[1, 0], tall[2]) and np.isnan(shown[2]).all()
    assert len(visualization.create_comparison_figure(results, sig).axes) == 3
    paths = visualization.save_figure(figure, tmp_path / "new" / "v1.2", ["png"], dpi=50)
    assert [path.name for path in paths] == ["v1.2.png"] and paths[0].exists()
    with pytest.raises(ValueError, match="name_pattern"):
        visualization.plot_hyperparameter_heatmap(results, "a", [1], "b", [2])
    plt.close("all")
