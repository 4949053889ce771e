from .gvf import (
    DemonType as DemonType,
    GVFSpec as GVFSpec,
    HordeSpec as HordeSpec,
    create_horde_spec as create_horde_spec,
    horde_from_columns as horde_from_columns,
)
from .gym import play_horde as play_horde
from .horde import HordeLearner as HordeLearner, HordeTimeStep as HordeTimeStep, HordeUpdateResult as HordeUpdateResult
from .multi_head import (
    HeadsTimeStep as HeadsTimeStep,
    MultiHeadMLPLearner as MultiHeadMLPLearner,
    MultiHeadMLPState as MultiHeadMLPState,
    MultiHeadMLPUpdateResult as MultiHeadMLPUpdateResult,
)
from .off_policy import BairdStream as BairdStream
from .policies import importance_ratios as importance_ratios
from .relevance import (
    FeatureRelevance as FeatureRelevance,
    compute_feature_relevance as compute_feature_relevance,
    compute_feature_sensitivity as compute_feature_sensitivity,
    relevance_to_dict as relevance_to_dict,
)
