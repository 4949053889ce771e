from .base import ScanStream as ScanStream, Stream as Stream, TDStream as TDStream, World as World
from .chains import (
    BoyanChain as BoyanChain,
    Chain as Chain,
    MarkovChain as MarkovChain,
    RandomWalkChain as RandomWalkChain,
    RelevanceRing as RelevanceRing,
    rms_value_error as rms_value_error,
)
from .nonlinear import (
    BitFlippingStream as BitFlippingStream,
    DriftingTeacherStream as DriftingTeacherStream,
    PermutedDigitsSource as PermutedDigitsSource,
)
from .returns import (
    SensorStream as SensorStream,
    TraceConditioningStream as TraceConditioningStream,
    ideal_returns as ideal_returns,
    tail_weights as tail_weights,
)
from .scales import (
    DynamicScaleShiftStream as DynamicScaleShiftStream,
    ScaleDriftStream as ScaleDriftStream,
    ScaledStreamWrapper as ScaledStreamWrapper,
    make_scale_range as make_scale_range,
)
from .sources import ArraySource as ArraySource, IteratorSource as IteratorSource, Source as Source
from .synthetic import (
    AbruptChangeStream as AbruptChangeStream,
    CyclicStream as CyclicStream,
    PeriodicChangeStream as PeriodicChangeStream,
    RandomWalkStream as RandomWalkStream,
    SuttonExperiment1Stream as SuttonExperiment1Stream,
)
from .tables import TableSource as TableSource
from .td_sources import (
    GymSource as GymSource,
    ReturnSource as ReturnSource,
    TDArraySource as TDArraySource,
    TDIteratorSource as TDIteratorSource,
    TDSequenceSource as TDSequenceSource,
    TDSource as TDSource,
    TDTableSource as TDTableSource,
)
