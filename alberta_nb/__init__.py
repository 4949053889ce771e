"""Continual learning, from the derivation to the fast loop: every public name of the book in one place."""

__version__ = "0.1.0"

from alberta_nb.apps.learn import learn_table
from alberta_nb.apps.nexting import next_everything
from alberta_nb.apps.predict_return import predict_returns
from alberta_nb.native.kernel import native_loops
from alberta_nb.experiments.episodes import EpisodeErrors, episode_sweep
from alberta_nb.experiments.sweep import sweep, sweep_table
from alberta_nb.horde.gvf import DemonType, GVFSpec, HordeSpec, create_horde_spec, horde_from_columns
from alberta_nb.horde.horde import HordeLearner, HordeTimeStep, HordeUpdateResult
from alberta_nb.horde.multi_head import (
    HeadsTimeStep,
    MultiHeadMLPLearner,
    MultiHeadMLPState,
    MultiHeadMLPUpdateResult,
)
from alberta_nb.horde.gym import play_horde
from alberta_nb.horde.off_policy import BairdStream
from alberta_nb.horde.policies import importance_ratios
from alberta_nb.horde.relevance import (
    FeatureRelevance,
    compute_feature_relevance,
    compute_feature_sensitivity,
    relevance_to_dict,
)
from alberta_nb.learners.bank import LearnerBank
from alberta_nb.learners.baselines import LastValue, RunningMean
from alberta_nb.learners.diagnostics import Diagnostics, diagnose
from alberta_nb.learners.linear import LearnerState, LinearLearner, UpdateResult
from alberta_nb.learners.td import TDLearnerState, TDLinearLearner, TDUpdateResult
from alberta_nb.learners.mlp import MLPLearner, MLPLearnerState, MLPUpdateResult
from alberta_nb.learners.network import MLPParams
from alberta_nb.learners.sparse_init import sparse_init
from alberta_nb.loops.engine import NonFiniteError, StreamPosition
from alberta_nb.loops.metrics import (
    compare_learners,
    compute_cumulative_error,
    compute_running_mean,
    compute_tracking_error,
    extract_metric,
    metrics_to_dicts,
)
from alberta_nb.loops.mlp import (
    BatchedMLPResult,
    DiagnosticsConfig,
    DiagnosticsHistory,
    run_mlp_learning_loop,
    run_mlp_learning_loop_batched,
)
from alberta_nb.loops.multi_head import (
    BatchedHordeResult,
    BatchedMultiHeadResult,
    HordeLearningResult,
    MultiHeadLearningResult,
    multi_head_metrics_to_dicts,
    run_horde_learning_loop,
    run_horde_learning_loop_batched,
    run_multi_head_learning_loop,
    run_multi_head_learning_loop_batched,
)
from alberta_nb.loops.stepper import Stepper
from alberta_nb.loops.supervised import (
    BatchedLearningResult,
    LearningResult,
    NormalizerHistory,
    NormalizerTrackingConfig,
    StepSizeHistory,
    StepSizeTrackingConfig,
    run_learning_loop,
    run_learning_loop_batched,
)
from alberta_nb.loops.td import (
    TraceHistory,
    TraceTrackingConfig,
    run_td_learning_loop,
    run_td_learning_loop_batched,
)
from alberta_nb.normalizers import (
    EMANormalizer,
    EMANormalizerState,
    Normalizer,
    WelfordNormalizer,
    WelfordNormalizerState,
    normalizer_from_config,
)
from alberta_nb.optimizers.adaptive_obgd import ScaledLinearState, ScaledLMS, ScaledState
from alberta_nb.optimizers.autostep import Autostep, AutostepParamState, AutostepState
from alberta_nb.optimizers.autotdidbd import AutoTDIDBD, AutoTDIDBDState
from alberta_nb.optimizers.base import Optimizer, OptimizerUpdate, optimizer_from_config
from alberta_nb.optimizers.bounders import AGCBounding, Bounder, ObGDBounding, bounder_from_config
from alberta_nb.optimizers.gradient_td import GTD, GTD2, TDC, GradientTDState
from alberta_nb.optimizers.idbd import IDBD, IDBDParamState, IDBDState
from alberta_nb.optimizers.lms import LMS, LMSState
from alberta_nb.optimizers.obgd import ObGD, ObGDState
from alberta_nb.optimizers.td_lambda import TDLambda, TDLambdaState, TDOptimizer, TDOptimizerUpdate, WithTraces
from alberta_nb.optimizers.swift_td import SwiftTD, SwiftTDState
from alberta_nb.optimizers.tdidbd import TDIDBD, TDIDBDState
from alberta_nb.optimizers.true_online import TrueOnlineTD, TrueOnlineTDState
from alberta_nb.native.outer import RankOne
from alberta_nb.streams.base import ScanStream, Stream, TDStream
from alberta_nb.streams.chains import (
    BoyanChain,
    Chain,
    MarkovChain,
    RandomWalkChain,
    RelevanceRing,
    rms_value_error,
)
from alberta_nb.streams.returns import SensorStream, TraceConditioningStream, ideal_returns, tail_weights
from alberta_nb.optimizers.optax import from_optax, to_optax
from alberta_nb.streams.nonlinear import BitFlippingStream, DriftingTeacherStream, PermutedDigitsSource
from alberta_nb.streams.scales import (
    DynamicScaleShiftStream,
    ScaledStreamWrapper,
    ScaleDriftStream,
    make_scale_range,
)
from alberta_nb.streams.sources import ArraySource, IteratorSource, Source, TableSource
from alberta_nb.streams.synthetic import (
    AbruptChangeStream,
    CyclicStream,
    PeriodicChangeStream,
    RandomWalkStream,
    SuttonExperiment1Stream,
)
from alberta_nb.streams.td_sources import (
    GymSource,
    ReturnSource,
    TDArraySource,
    TDIteratorSource,
    TDSequenceSource,
    TDSource,
    TDTableSource,
)
from alberta_nb.types import OffPolicyTimeStep, Settings, State, TDTimeStep, TimeStep

__all__ = [
    "FeatureRelevance",
    "compute_feature_relevance",
    "compute_feature_sensitivity",
    "relevance_to_dict",
    "DemonType",
    "GVFSpec",
    "HordeSpec",
    "create_horde_spec",
    "horde_from_columns",
    "HordeLearner",
    "HordeTimeStep",
    "HordeUpdateResult",
    "HeadsTimeStep",
    "MultiHeadMLPLearner",
    "MultiHeadMLPState",
    "MultiHeadMLPUpdateResult",
    "BatchedHordeResult",
    "BatchedMultiHeadResult",
    "HordeLearningResult",
    "MultiHeadLearningResult",
    "multi_head_metrics_to_dicts",
    "run_horde_learning_loop",
    "run_horde_learning_loop_batched",
    "run_multi_head_learning_loop",
    "run_multi_head_learning_loop_batched",
    "AGCBounding",
    "AbruptChangeStream",
    "ArraySource",
    "AutoTDIDBD",
    "AutoTDIDBDState",
    "Autostep",
    "AutostepParamState",
    "AutostepState",
    "BairdStream",
    "BatchedLearningResult",
    "BoyanChain",
    "Chain",
    "BatchedMLPResult",
    "BitFlippingStream",
    "Bounder",
    "CyclicStream",
    "Diagnostics",
    "DiagnosticsConfig",
    "DiagnosticsHistory",
    "DriftingTeacherStream",
    "DynamicScaleShiftStream",
    "EMANormalizer",
    "EpisodeErrors",
    "EMANormalizerState",
    "GymSource",
    "GTD",
    "GTD2",
    "GradientTDState",
    "IDBD",
    "IDBDParamState",
    "IDBDState",
    "IteratorSource",
    "LMS",
    "LMSState",
    "LastValue",
    "LearnerBank",
    "LearnerState",
    "LearningResult",
    "LinearLearner",
    "MarkovChain",
    "MLPLearner",
    "MLPLearnerState",
    "MLPParams",
    "MLPUpdateResult",
    "NonFiniteError",
    "Normalizer",
    "NormalizerHistory",
    "NormalizerTrackingConfig",
    "ObGD",
    "ObGDBounding",
    "ObGDState",
    "OffPolicyTimeStep",
    "Optimizer",
    "OptimizerUpdate",
    "PeriodicChangeStream",
    "RandomWalkChain",
    "PermutedDigitsSource",
    "RandomWalkStream",
    "RelevanceRing",
    "ReturnSource",
    "RankOne",
    "RunningMean",
    "ScaleDriftStream",
    "ScaledLMS",
    "ScaledLinearState",
    "ScaledState",
    "ScaledStreamWrapper",
    "ScanStream",
    "SensorStream",
    "Settings",
    "Source",
    "State",
    "StepSizeHistory",
    "StepSizeTrackingConfig",
    "Stepper",
    "Stream",
    "StreamPosition",
    "SuttonExperiment1Stream",
    "SwiftTD",
    "SwiftTDState",
    "TDArraySource",
    "TDC",
    "TDIDBD",
    "TDIDBDState",
    "TDIteratorSource",
    "TDLambda",
    "TDLambdaState",
    "TDLearnerState",
    "TDLinearLearner",
    "TDOptimizer",
    "TDOptimizerUpdate",
    "TDSequenceSource",
    "TDSource",
    "TDTableSource",
    "TDStream",
    "TDTimeStep",
    "TDUpdateResult",
    "TableSource",
    "TimeStep",
    "TraceConditioningStream",
    "TraceHistory",
    "TraceTrackingConfig",
    "TrueOnlineTD",
    "TrueOnlineTDState",
    "UpdateResult",
    "WelfordNormalizer",
    "WelfordNormalizerState",
    "WithTraces",
    "bounder_from_config",
    "compare_learners",
    "compute_cumulative_error",
    "compute_running_mean",
    "compute_tracking_error",
    "diagnose",
    "episode_sweep",
    "extract_metric",
    "ideal_returns",
    "from_optax",
    "importance_ratios",
    "learn_table",
    "make_scale_range",
    "metrics_to_dicts",
    "native_loops",
    "next_everything",
    "normalizer_from_config",
    "optimizer_from_config",
    "play_horde",
    "predict_returns",
    "rms_value_error",
    "run_learning_loop",
    "run_learning_loop_batched",
    "run_td_learning_loop",
    "run_td_learning_loop_batched",
    "run_mlp_learning_loop",
    "run_mlp_learning_loop_batched",
    "sparse_init",
    "sweep",
    "sweep_table",
    "tail_weights",
    "to_optax",
]
