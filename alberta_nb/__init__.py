"""Continual learning, from the derivation to the fast loop: every public name of the book in one place.

The module behind a name is loaded when the name is first used: `import alberta_nb` itself loads nothing.
"""

import ast
import importlib.util
import pkgutil
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# The one list of public names: type checkers read it, and so does this module (its own source, below).
if TYPE_CHECKING:
    from alberta_nb.apps.learn import learn_table as learn_table
    from alberta_nb.apps.nexting import next_everything as next_everything
    from alberta_nb.apps.predict_return import predict_returns as predict_returns
    from alberta_nb.native.kernel import native_loops as native_loops
    from alberta_nb.experiments.episodes import (
        episode_sweep as episode_sweep,
        EpisodeErrors as EpisodeErrors,
    )
    from alberta_nb.experiments.sweep import (
        sweep as sweep,
        sweep_table as sweep_table,
    )
    from alberta_nb.horde.gvf import (
        create_horde_spec as create_horde_spec,
        DemonType as DemonType,
        GVFSpec as GVFSpec,
        horde_from_columns as horde_from_columns,
        HordeSpec as HordeSpec,
    )
    from alberta_nb.horde.gym import play_horde as play_horde
    from alberta_nb.horde.horde import (
        HordeLearner as HordeLearner,
        HordeTimeStep as HordeTimeStep,
        HordeUpdateResult as HordeUpdateResult,
    )
    from alberta_nb.horde.multi_head import (
        HeadsTimeStep as HeadsTimeStep,
        MultiHeadMLPLearner as MultiHeadMLPLearner,
        MultiHeadMLPState as MultiHeadMLPState,
        MultiHeadMLPUpdateResult as MultiHeadMLPUpdateResult,
    )
    from alberta_nb.horde.off_policy import BairdStream as BairdStream
    from alberta_nb.horde.policies import importance_ratios as importance_ratios
    from alberta_nb.horde.relevance import (
        compute_feature_relevance as compute_feature_relevance,
        compute_feature_sensitivity as compute_feature_sensitivity,
        FeatureRelevance as FeatureRelevance,
        relevance_to_dict as relevance_to_dict,
    )
    from alberta_nb.learners.bank import LearnerBank as LearnerBank
    from alberta_nb.learners.baselines import (
        LastValue as LastValue,
        RunningMean as RunningMean,
    )
    from alberta_nb.learners.diagnostics import (
        diagnose as diagnose,
        Diagnostics as Diagnostics,
    )
    from alberta_nb.learners.linear import (
        LearnerState as LearnerState,
        LinearLearner as LinearLearner,
        UpdateResult as UpdateResult,
    )
    from alberta_nb.learners.mlp import (
        MLPLearner as MLPLearner,
        MLPLearnerState as MLPLearnerState,
        MLPUpdateResult as MLPUpdateResult,
    )
    from alberta_nb.learners.network import MLPParams as MLPParams
    from alberta_nb.learners.sparse_init import sparse_init as sparse_init
    from alberta_nb.learners.td import (
        TDLearnerState as TDLearnerState,
        TDLinearLearner as TDLinearLearner,
        TDUpdateResult as TDUpdateResult,
    )
    from alberta_nb.loops.run import (
        NonFiniteError as NonFiniteError,
        StreamPosition as StreamPosition,
    )
    from alberta_nb.loops.metrics import (
        compare_learners as compare_learners,
        compute_cumulative_error as compute_cumulative_error,
        compute_running_mean as compute_running_mean,
        compute_tracking_error as compute_tracking_error,
        extract_metric as extract_metric,
        metrics_to_dicts as metrics_to_dicts,
    )
    from alberta_nb.loops.mlp import (
        BatchedMLPResult as BatchedMLPResult,
        DiagnosticsConfig as DiagnosticsConfig,
        DiagnosticsHistory as DiagnosticsHistory,
        run_mlp_learning_loop as run_mlp_learning_loop,
        run_mlp_learning_loop_batched as run_mlp_learning_loop_batched,
    )
    from alberta_nb.loops.multi_head import (
        BatchedHordeResult as BatchedHordeResult,
        BatchedMultiHeadResult as BatchedMultiHeadResult,
        HordeLearningResult as HordeLearningResult,
        multi_head_metrics_to_dicts as multi_head_metrics_to_dicts,
        MultiHeadLearningResult as MultiHeadLearningResult,
        run_horde_learning_loop as run_horde_learning_loop,
        run_horde_learning_loop_batched as run_horde_learning_loop_batched,
        run_multi_head_learning_loop as run_multi_head_learning_loop,
        run_multi_head_learning_loop_batched as run_multi_head_learning_loop_batched,
    )
    from alberta_nb.loops.stepper import Stepper as Stepper
    from alberta_nb.loops.supervised import (
        BatchedLearningResult as BatchedLearningResult,
        LearningResult as LearningResult,
        NormalizerHistory as NormalizerHistory,
        NormalizerTrackingConfig as NormalizerTrackingConfig,
        run_learning_loop as run_learning_loop,
        run_learning_loop_batched as run_learning_loop_batched,
        StepSizeHistory as StepSizeHistory,
        StepSizeTrackingConfig as StepSizeTrackingConfig,
    )
    from alberta_nb.loops.td import (
        run_td_learning_loop as run_td_learning_loop,
        run_td_learning_loop_batched as run_td_learning_loop_batched,
        TraceHistory as TraceHistory,
        TraceTrackingConfig as TraceTrackingConfig,
    )
    from alberta_nb.normalizers import (
        EMANormalizer as EMANormalizer,
        EMANormalizerState as EMANormalizerState,
        Normalizer as Normalizer,
        normalizer_from_config as normalizer_from_config,
        WelfordNormalizer as WelfordNormalizer,
        WelfordNormalizerState as WelfordNormalizerState,
    )
    from alberta_nb.optimizers.adaptive_obgd import (
        ScaledLinearState as ScaledLinearState,
        ScaledLMS as ScaledLMS,
        ScaledState as ScaledState,
    )
    from alberta_nb.optimizers.autostep import (
        Autostep as Autostep,
        AutostepParamState as AutostepParamState,
        AutostepState as AutostepState,
    )
    from alberta_nb.optimizers.autotdidbd import (
        AutoTDIDBD as AutoTDIDBD,
        AutoTDIDBDState as AutoTDIDBDState,
    )
    from alberta_nb.optimizers.base import (
        Optimizer as Optimizer,
        optimizer_from_config as optimizer_from_config,
        OptimizerUpdate as OptimizerUpdate,
    )
    from alberta_nb.optimizers.bounders import (
        AGCBounding as AGCBounding,
        Bounder as Bounder,
        bounder_from_config as bounder_from_config,
        ObGDBounding as ObGDBounding,
    )
    from alberta_nb.optimizers.gradient_td import (
        GradientTDState as GradientTDState,
        GTD as GTD,
        GTD2 as GTD2,
        TDC as TDC,
    )
    from alberta_nb.optimizers.idbd import (
        IDBD as IDBD,
        IDBDParamState as IDBDParamState,
        IDBDState as IDBDState,
    )
    from alberta_nb.optimizers.lms import (
        LMS as LMS,
        LMSState as LMSState,
    )
    from alberta_nb.optimizers.obgd import (
        ObGD as ObGD,
        ObGDState as ObGDState,
    )
    from alberta_nb.optimizers.optax import (
        from_optax as from_optax,
        to_optax as to_optax,
    )
    from alberta_nb.optimizers.swift_td import (
        SwiftTD as SwiftTD,
        SwiftTDState as SwiftTDState,
    )
    from alberta_nb.optimizers.td_lambda import (
        TDLambda as TDLambda,
        TDLambdaState as TDLambdaState,
        TDOptimizer as TDOptimizer,
        TDOptimizerUpdate as TDOptimizerUpdate,
        WithTraces as WithTraces,
    )
    from alberta_nb.optimizers.tdidbd import (
        TDIDBD as TDIDBD,
        TDIDBDState as TDIDBDState,
    )
    from alberta_nb.optimizers.true_online import (
        TrueOnlineTD as TrueOnlineTD,
        TrueOnlineTDState as TrueOnlineTDState,
    )
    from alberta_nb.native.outer import RankOne as RankOne
    from alberta_nb.streams.base import (
        ScanStream as ScanStream,
        Stream as Stream,
        TDStream as TDStream,
    )
    from alberta_nb.streams.chains import (
        BoyanChain as BoyanChain,
        Chain as Chain,
        MarkovChain as MarkovChain,
        RandomWalkChain as RandomWalkChain,
        RelevanceRing as RelevanceRing,
        rms_value_error as rms_value_error,
    )
    from alberta_nb.streams.nonlinear import (
        BitFlippingStream as BitFlippingStream,
        DriftingTeacherStream as DriftingTeacherStream,
        PermutedDigitsSource as PermutedDigitsSource,
    )
    from alberta_nb.streams.returns import (
        ideal_returns as ideal_returns,
        SensorStream as SensorStream,
        tail_weights as tail_weights,
        TraceConditioningStream as TraceConditioningStream,
    )
    from alberta_nb.streams.scales import (
        DynamicScaleShiftStream as DynamicScaleShiftStream,
        make_scale_range as make_scale_range,
        ScaleDriftStream as ScaleDriftStream,
        ScaledStreamWrapper as ScaledStreamWrapper,
    )
    from alberta_nb.streams.sources import (
        ArraySource as ArraySource,
        IteratorSource as IteratorSource,
        Source as Source,
    )
    from alberta_nb.streams.synthetic import (
        AbruptChangeStream as AbruptChangeStream,
        CyclicStream as CyclicStream,
        PeriodicChangeStream as PeriodicChangeStream,
        RandomWalkStream as RandomWalkStream,
        SuttonExperiment1Stream as SuttonExperiment1Stream,
    )
    from alberta_nb.streams.tables import TableSource as TableSource
    from alberta_nb.streams.td_sources import (
        GymSource as GymSource,
        ReturnSource as ReturnSource,
        TDArraySource as TDArraySource,
        TDIteratorSource as TDIteratorSource,
        TDSequenceSource as TDSequenceSource,
        TDSource as TDSource,
        TDTableSource as TDTableSource,
    )
    from alberta_nb.types import (
        OffPolicyTimeStep as OffPolicyTimeStep,
        Settings as Settings,
        State as State,
        TDTimeStep as TDTimeStep,
        TimeStep as TimeStep,
    )
else:

    def _homes() -> dict[str, str]:
        "The module of every public name, from the imports above."
        source = ast.parse(__spec__.loader.get_source(__name__))
        listed = next(node for node in source.body if isinstance(node, ast.If))
        return {alias.name: node.module for node in listed.body for alias in node.names}

    _HOMES = _homes()
    __all__ = list(_HOMES)

    def __getattr__(name: str) -> Any:
        "A public name, or a module of the package, at its first use."
        if name in _HOMES:
            value = getattr(importlib.import_module(_HOMES[name]), name)
        elif not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}"):
            value = importlib.import_module(f"{__name__}.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return globals().setdefault(name, value)

    def __dir__() -> list[str]:
        "Names, modules and folders, loaded or not."
        return sorted({*globals(), *_HOMES, *(module.name for module in pkgutil.iter_modules(__path__))})
