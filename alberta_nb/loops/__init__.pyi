from .metrics import (
    compare_learners as compare_learners,
    compute_cumulative_error as compute_cumulative_error,
    compute_running_mean as compute_running_mean,
    compute_tracking_error as compute_tracking_error,
    extract_metric as extract_metric,
    metrics_to_dicts as metrics_to_dicts,
)
from .mlp import (
    BatchedMLPResult as BatchedMLPResult,
    DiagnosticsConfig as DiagnosticsConfig,
    DiagnosticsHistory as DiagnosticsHistory,
    run_mlp_learning_loop as run_mlp_learning_loop,
    run_mlp_learning_loop_batched as run_mlp_learning_loop_batched,
)
from .multi_head import (
    BatchedHordeResult as BatchedHordeResult,
    BatchedMultiHeadResult as BatchedMultiHeadResult,
    HordeLearningResult as HordeLearningResult,
    MultiHeadLearningResult as MultiHeadLearningResult,
    multi_head_metrics_to_dicts as multi_head_metrics_to_dicts,
    run_horde_learning_loop as run_horde_learning_loop,
    run_horde_learning_loop_batched as run_horde_learning_loop_batched,
    run_multi_head_learning_loop as run_multi_head_learning_loop,
    run_multi_head_learning_loop_batched as run_multi_head_learning_loop_batched,
)
from .entities import EntityBank as EntityBank
from .fold import Event as Event, fold as fold
from .guard import NonFiniteError as NonFiniteError, StoppedError as StoppedError
from .lanes import entity_random as entity_random
from .saved import Saved as Saved, load as load, save as save
from .start import StreamPosition as StreamPosition
from .stepper import Stepper as Stepper
from .supervised import (
    BatchedLearningResult as BatchedLearningResult,
    LearningResult as LearningResult,
    NormalizerHistory as NormalizerHistory,
    NormalizerTrackingConfig as NormalizerTrackingConfig,
    StepSizeHistory as StepSizeHistory,
    StepSizeTrackingConfig as StepSizeTrackingConfig,
    run_learning_loop as run_learning_loop,
    run_learning_loop_batched as run_learning_loop_batched,
)
from .td import (
    TraceHistory as TraceHistory,
    TraceTrackingConfig as TraceTrackingConfig,
    run_td_learning_loop as run_td_learning_loop,
    run_td_learning_loop_batched as run_td_learning_loop_batched,
)
