"""Every name that programs written for alberta_framework import: where it is, and what it takes, in that order."""

import ast
import importlib
import inspect

import pytest

# path, name, and its parameters or fields; a default stands where it is part of the interface
NAMES = """
utils.timing Timer name='Operation' verbose=True print_fn=None
utils.timing format_duration seconds
core.types create_obgd_state step_size=1 kappa=2
core.types create_tdidbd_state feature_dim
core.types create_autotdidbd_state feature_dim
core.types Observation
core.types Prediction
core.types Target
core.types AnyNormalizerState
streams.synthetic RandomWalkState
streams.synthetic AbruptChangeState
streams.synthetic CyclicState
streams.synthetic PeriodicChangeState
streams.synthetic SuttonExperiment1State
streams.synthetic ScaledStreamState
streams.synthetic ScaleDriftState
streams.synthetic DynamicScaleShiftState
streams.synthetic RandomWalkTarget feature_dim drift_rate=0.001 noise_std=0.1 feature_std=1.0
streams.synthetic AbruptChangeTarget feature_dim change_interval=1000 noise_std=0.1 feature_std=1.0
streams.synthetic CyclicTarget feature_dim cycle_length=500 num_configurations=4 noise_std=0.1 feature_std=1.0
streams.synthetic PeriodicChangeTarget feature_dim period=1000 amplitude=1.0 noise_std=0.1 feature_std=1.0
core.diagnostics FeatureRelevance weight_relevance step_size_activity trace_activity normalizer_mean normalizer_std \
head_reliance head_mean_step_size
core.diagnostics compute_feature_relevance state
core.diagnostics compute_feature_sensitivity learner state observation
core.diagnostics relevance_to_dict relevance feature_names=None head_names=None
streams.gymnasium PredictionMode
streams.gymnasium GymnasiumStream env mode policy=None gamma=0.99 include_action_in_features=True seed=0
streams.gymnasium TDStream env policy=None gamma=0.99 include_action_in_features=False seed=0
streams.gymnasium make_gymnasium_stream env_id mode policy gamma include_action_in_features seed env_kwargs
streams.gymnasium make_random_policy env seed=0
streams.gymnasium make_epsilon_greedy_policy base_policy env epsilon=0.1 seed=0
streams.gymnasium collect_trajectory env policy num_steps mode include_action_in_features=True seed=0
streams.gymnasium learn_from_trajectory learner observations targets learner_state=None
streams.gymnasium learn_from_trajectory_normalized learner observations targets learner_state=None
utils.experiments ExperimentConfig name learner_factory stream_factory num_steps
utils.experiments SingleRunResult config_name seed metrics_history final_state
utils.experiments MetricSummary mean std min max n_seeds values
utils.experiments AggregatedResults config_name seeds metric_arrays summary
utils.experiments run_single_experiment config seed
utils.experiments run_multi_seed_experiment configs seeds=30 parallel=True n_jobs=-1 show_progress=True
utils.experiments aggregate_metrics results
utils.experiments get_metric_timeseries results metric='squared_error'
utils.experiments get_final_performance results metric='squared_error' window=100
utils.experiments extract_hyperparameter_results results metric='squared_error' param_extractor=None
utils.statistics StatisticalSummary mean std sem ci_lower ci_upper median iqr n_seeds
utils.statistics SignificanceResult test_name statistic p_value significant alpha effect_size method_a method_b
utils.statistics compute_statistics values confidence_level=0.95
utils.statistics compute_timeseries_statistics metric_array confidence_level=0.95
utils.statistics cohens_d a b
utils.statistics ttest_comparison a b paired=True alpha=0.05 method_a='A' method_b='B'
utils.statistics mann_whitney_comparison a b alpha=0.05 method_a='A' method_b='B'
utils.statistics wilcoxon_comparison a b alpha=0.05 method_a='A' method_b='B'
utils.statistics bonferroni_correction p_values alpha=0.05
utils.statistics holm_correction p_values alpha=0.05
utils.statistics pairwise_comparisons results metric='squared_error' test='ttest' correction='bonferroni' alpha=0.05 \
window=100
utils.statistics bootstrap_ci values statistic='mean' confidence_level=0.95 n_bootstrap=10000 seed=42
utils.export export_to_csv results filepath metric='squared_error' include_timeseries=False
utils.export export_to_json results filepath include_timeseries=False
utils.export generate_latex_table results significance_results=None metric='squared_error' caption label metric_label \
lower_is_better=True
utils.export generate_markdown_table results significance_results=None metric='squared_error' metric_label \
lower_is_better=True
utils.export generate_significance_table significance_results format='latex'
utils.export save_experiment_report results output_dir experiment_name significance_results=None metric='squared_error'
utils.export results_to_dataframe results metric='squared_error'
utils.visualization set_publication_style font_size=10 use_latex=False figure_width=3.5 figure_height=None style
utils.visualization plot_learning_curves results metric='squared_error' show_ci=True log_scale=True window_size=100 \
ax=None colors=None labels=None
utils.visualization plot_final_performance_bars results metric show_significance=True significance_results=None ax \
colors lower_is_better
utils.visualization plot_hyperparameter_heatmap results param1_name param1_values param2_name param2_values metric \
name_pattern='{p1}_{p2}' ax cmap lower_is_better
utils.visualization plot_step_size_evolution results metric='mean_step_size' show_ci ax colors
utils.visualization create_comparison_figure results significance_results=None metric step_size_metric
utils.visualization save_figure fig filename formats=None dpi=300 transparent=False
utils.metrics compute_tracking_error metrics_history window_size=100
utils.metrics compute_cumulative_error metrics_history error_key
utils.metrics compute_running_mean values window_size=100
utils.metrics extract_metric metrics_history key
utils.metrics compare_learners results metric
core.learners multi_head_metrics_to_dicts result
core.learners metrics_to_dicts metrics
core.learners run_learning_loop learner stream num_steps key learner_state=None step_size_tracking=None \
normalizer_tracking=None
core.learners run_learning_loop_batched learner stream num_steps keys learner_state=None step_size_tracking=None \
normalizer_tracking=None
core.learners run_mlp_learning_loop learner stream num_steps key learner_state=None normalizer_tracking=None
core.learners run_mlp_learning_loop_batched learner stream num_steps keys learner_state=None normalizer_tracking=None
core.learners run_td_learning_loop learner stream num_steps key learner_state=None
core.learners LinearLearner optimizer=None normalizer=None
core.learners TDLinearLearner optimizer=None
core.learners MLPLearner hidden_sizes=(128,128) optimizer=None step_size=1.0 bounder=None gamma=0.0 lamda=0.0 \
normalizer=None sparsity=0.9 leaky_relu_slope=0.01 use_layer_norm=True head_optimizer=None
core.multi_head_learner MultiHeadMLPLearner n_heads hidden_sizes=(128,128) optimizer=None step_size=1.0 bounder=None \
gamma=0.0 lamda=0.0 normalizer=None sparsity=0.9 leaky_relu_slope=0.01 use_layer_norm=True head_optimizer=None \
per_head_gamma_lamda=None
core.multi_head_learner run_multi_head_learning_loop learner state observations targets
core.multi_head_learner run_multi_head_learning_loop_batched learner observations targets keys
core.horde HordeLearner horde_spec hidden_sizes=(128,128) optimizer=None step_size=1.0 bounder=None normalizer=None \
sparsity=0.9 leaky_relu_slope=0.01 use_layer_norm=True head_optimizer=None
core.horde run_horde_learning_loop horde state observations cumulants next_observations
core.horde run_horde_learning_loop_batched horde observations cumulants next_observations keys
core.types GVFSpec name demon_type gamma lamda cumulant_index terminal_reward=0.0
core.types create_horde_spec demons
core.optimizers LMS step_size=0.01
core.optimizers IDBD initial_step_size=0.01 meta_step_size=0.01
core.optimizers Autostep initial_step_size=0.01 meta_step_size=0.01 tau=10000.0
core.optimizers ObGD step_size=1.0 kappa=2.0 gamma=0.0 lamda=0.0
core.optimizers TDIDBD initial_step_size=0.01 meta_step_size=0.01 trace_decay=0.0 use_semi_gradient=True
core.optimizers AutoTDIDBD initial_step_size=0.01 meta_step_size=0.01 trace_decay=0.0 normalizer_decay=10000.0
core.optimizers ObGDBounding kappa=2.0
core.optimizers AGCBounding clip_factor=0.01 eps=0.001
core.normalizers EMANormalizer epsilon=1e-08 decay=0.99
core.normalizers WelfordNormalizer epsilon=1e-08
core.initializers sparse_init key shape sparsity=0.9 init_type='uniform'
core.types TimeStep observation target
core.types TDTimeStep observation reward next_observation gamma
streams.synthetic SuttonExperiment1Stream num_relevant=5 num_irrelevant=15 change_interval=20
streams.synthetic ScaledStreamWrapper inner_stream feature_scales
streams.synthetic make_scale_range feature_dim min_scale=0.001 max_scale=1000.0 log_spaced=True
streams.synthetic DynamicScaleShiftStream feature_dim scale_change_interval=2000 weight_change_interval=1000 \
min_scale=0.01 max_scale=100.0 noise_std=0.1
streams.synthetic ScaleDriftStream feature_dim weight_drift_rate=0.001 scale_drift_rate=0.01 min_log_scale=-4.0 \
max_log_scale=4.0 noise_std=0.1
"""


@pytest.mark.parametrize("line", NAMES.replace("\\\n", "").strip().splitlines())
def test_a_name(line: str) -> None:
    path, name, *wanted = line.split()
    found = getattr(importlib.import_module(f"alberta_nb.framework.{path}"), name)
    if not wanted:
        assert found is not None
        return
    given = list(inspect.signature(found).parameters.values())
    names = [part.partition("=")[0] for part in wanted]
    assert [p.name for p in given][: len(names)] == names
    for part, parameter in zip(wanted, given, strict=False):
        _, stated, default = part.partition("=")
        assert not stated or parameter.default == ast.literal_eval(default), part
    asked = [p for p in given[len(names) :] if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    assert all(p.default is not p.empty for p in asked), "what that library does not have must not be asked for"
