"""Programs as users of alberta_framework write them, with another import."""

import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from alberta_nb.framework.core.learners import TDStream
from alberta_nb.framework.core.types import TDTimeStep
from alberta_nb.framework.utils.experiments import ExperimentConfig, get_final_performance, run_multi_seed_experiment
from alberta_nb.framework.utils.export import generate_markdown_table, save_experiment_report
from alberta_nb.framework.utils.statistics import pairwise_comparisons
from alberta_nb.framework.utils.timing import Timer

from alberta_nb.framework import (
    IDBD,
    LMS,
    TDIDBD,
    AbruptChangeStream,
    Autostep,
    EMANormalizer,
    LinearLearner,
    MultiHeadMLPLearner,
    ObGDBounding,
    RandomWalkStream,
    StepSizeTrackingConfig,
    SuttonExperiment1Stream,
    TDLinearLearner,
    compare_learners,
    compute_tracking_error,
    metrics_to_dicts,
    multi_head_metrics_to_dicts,
    run_learning_loop,
    run_multi_head_learning_loop,
    run_td_learning_loop,
)


def test_three_learners_on_suttons_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    stream, histories = SuttonExperiment1Stream(num_relevant=5, num_irrelevant=15, change_interval=20), {}
    with Timer("All three") as total:
        for name, optimizer in (
            ("LMS", LMS(step_size=0.005)),
            ("IDBD", IDBD(initial_step_size=0.05, meta_step_size=0.002)),
            ("Autostep", Autostep(initial_step_size=0.05, meta_step_size=0.01, tau=10000.0)),
        ):
            learner = LinearLearner(optimizer=optimizer)
            with Timer(name, verbose=False) as timer:
                _, metrics, history = run_learning_loop(
                    learner, stream, 10_000, jr.key(42), step_size_tracking=StepSizeTrackingConfig(interval=1000)
                )
            assert timer.duration > 0
            histories[name] = metrics_to_dicts(metrics)
            assert history.step_sizes.shape == (10, 20) and history.recording_indices[-1] == 9000
            relevant, irrelevant = jnp.split(history.step_sizes[-1], [5])
            assert name == "LMS" or relevant.mean() > 2 * irrelevant.mean()
    assert total.duration > timer.duration and capsys.readouterr().out.startswith("All three completed in ")
    table = compare_learners(histories)
    assert table["IDBD"]["mean"] < table["LMS"]["mean"] and table["Autostep"]["mean"] < table["LMS"]["mean"]
    error = compute_tracking_error(histories["IDBD"], window_size=2000)
    assert len(error) == 10_000 and error[-1] < error[2000]


class Walk(NamedTuple):
    key: jax.Array
    at: jax.Array


class RandomWalk(TDStream):
    """Five states; right of the last is 1."""

    @property
    def feature_dim(self) -> int:
        return 5

    def init(self, key):
        return Walk(key, jnp.int32(2))

    def step(self, state, idx):
        key, draw = jr.split(state.key)
        to = state.at + jnp.where(jr.bernoulli(draw), 1, -1)
        out = (to < 0) | (to > 4)
        time_step = TDTimeStep(
            observation=jax.nn.one_hot(state.at, 5),
            reward=jnp.where(to > 4, 1.0, 0.0),
            next_observation=jax.nn.one_hot(jnp.clip(to, 0, 4), 5),
            gamma=jnp.where(out, 0.0, 1.0),
        )
        return time_step, Walk(key, jnp.where(out, 2, to))


def test_a_walk_of_ones_own() -> None:
    learner = TDLinearLearner(optimizer=TDIDBD(initial_step_size=0.02, meta_step_size=0.001))
    state, metrics = run_td_learning_loop(learner, RandomWalk(), num_steps=20_000, key=jr.key(0))
    values = [float(learner.predict(state, row)[0]) for row in jnp.eye(5)]
    np.testing.assert_allclose(values, np.arange(1, 6) / 6, atol=0.15)
    assert metrics.shape == (20_000, 4)


def test_a_daemon_with_three_heads() -> None:
    learner = MultiHeadMLPLearner(
        n_heads=3, hidden_sizes=(16,), step_size=1.0, bounder=ObGDBounding(kappa=2.0), normalizer=EMANormalizer()
    )
    state = learner.init(feature_dim=5, key=jr.key(0))
    learner.update(state, jnp.zeros(5), jnp.full(3, jnp.nan)).predictions.block_until_ready()
    for i in range(4):
        result = learner.update(state, jnp.ones(5) * i, jnp.array([1.0, jnp.nan, float(i)]))
        state = result.state
        told = multi_head_metrics_to_dicts(result)
        assert told[1] is None and set(told[0]) == {"squared_error", "error", "mean_step_size"}
        assert told[2]["squared_error"] == pytest.approx(told[2]["error"] ** 2)
    x = jr.normal(jr.key(1), (300, 5))
    y = x @ jr.normal(jr.key(2), (5, 3))
    table = run_multi_head_learning_loop(learner, state, x, y).per_head_metrics
    assert table.shape == (300, 3, 3) and table[-50:, :, 0].mean() < table[:50, :, 0].mean()
    again = MultiHeadMLPLearner.from_config(json.loads(json.dumps(learner.to_config())))
    assert again.to_config() == learner.to_config()


def test_a_loop_by_hand_and_a_scan() -> None:
    stream, learner = AbruptChangeStream(feature_dim=4, change_interval=50), LinearLearner(optimizer=IDBD())

    def step(carry, idx):
        state, world = carry
        time_step, world = stream.step(world, idx)
        result = learner.update(state, time_step.observation, time_step.target)
        return (result.state, world), result.metrics

    start = learner.init(feature_dim=4), stream.init(jr.key(3))
    (state, _), scanned = jax.lax.scan(step, start, jnp.arange(120))
    carry, rows = start, []
    for i in range(120):
        carry, row = step(carry, jnp.array(i))
        rows.append(row)
    looped = run_learning_loop(learner, stream, num_steps=120, key=jr.key(3))
    np.testing.assert_allclose(scanned, np.stack(rows), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(scanned, looped[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state.weights, looped[0].weights, rtol=1e-4)


def test_a_report_over_seeds(tmp_path: Path) -> None:
    configs = [
        ExperimentConfig(
            name=f"LMS_{a}",
            learner_factory=lambda a=a: LinearLearner(optimizer=LMS(step_size=a)),
            stream_factory=lambda: RandomWalkStream(feature_dim=5, drift_rate=0.02),
            num_steps=300,
        )
        for a in (0.001, 0.05)
    ]
    results = run_multi_seed_experiment(configs, seeds=6, parallel=True, show_progress=False)
    differ = pairwise_comparisons(results, metric="squared_error", test="ttest", correction="bonferroni")
    assert differ[("LMS_0.001", "LMS_0.05")].significant
    best = min(get_final_performance(results).items(), key=lambda item: item[1][0])[0]
    assert best == "LMS_0.05" and f"| {best} | **" in generate_markdown_table(results, differ)
    paths = save_experiment_report(results, tmp_path / "report", "sizes", significance_results=differ)
    told = json.loads(paths["json"].read_text())
    assert told[best]["summary"]["squared_error"]["n_seeds"] == 6
    assert told[best]["summary"]["squared_error"]["mean"] == pytest.approx(
        results[best].metric_arrays["squared_error"].mean(), rel=1e-5
    )
