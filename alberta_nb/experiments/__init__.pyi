from .episodes import EpisodeErrors as EpisodeErrors, episode_sweep as episode_sweep
from .export import (
    export_to_csv as export_to_csv,
    export_to_json as export_to_json,
    generate_latex_table as generate_latex_table,
    generate_markdown_table as generate_markdown_table,
    generate_significance_table as generate_significance_table,
    results_to_dataframe as results_to_dataframe,
    save_experiment_report as save_experiment_report,
)
from .many import run_many as run_many
from .seeds import (
    AggregatedResults as AggregatedResults,
    ExperimentConfig as ExperimentConfig,
    MetricSummary as MetricSummary,
    SingleRunResult as SingleRunResult,
    Timer as Timer,
    aggregate_metrics as aggregate_metrics,
    extract_hyperparameter_results as extract_hyperparameter_results,
    format_duration as format_duration,
    get_final_performance as get_final_performance,
    get_metric_timeseries as get_metric_timeseries,
    run_multi_seed_experiment as run_multi_seed_experiment,
    run_single_experiment as run_single_experiment,
)
from .statistics import (
    SignificanceResult as SignificanceResult,
    StatisticalSummary as StatisticalSummary,
    bonferroni_correction as bonferroni_correction,
    bootstrap_ci as bootstrap_ci,
    cohens_d as cohens_d,
    compute_statistics as compute_statistics,
    compute_timeseries_statistics as compute_timeseries_statistics,
    holm_correction as holm_correction,
    improvement_probabilities as improvement_probabilities,
    interquartile_mean as interquartile_mean,
    mann_whitney_comparison as mann_whitney_comparison,
    paired_differences as paired_differences,
    pairwise_comparisons as pairwise_comparisons,
    performance_profiles as performance_profiles,
    seed_intervals as seed_intervals,
    ttest_comparison as ttest_comparison,
    wilcoxon_comparison as wilcoxon_comparison,
)
from .sweep import sweep_table as sweep_table
