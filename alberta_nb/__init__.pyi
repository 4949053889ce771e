from .apps import *
from .experiments import *
from .horde import *
from .learners import *
from .loops import *
from .native import *
from .optimizers import *
from .streams import *
from .experiments.sweep import sweep as sweep
from .learners.sparse_init import sparse_init as sparse_init
from .normalizers import (
    EMANormalizer as EMANormalizer,
    EMANormalizerState as EMANormalizerState,
    Normalizer as Normalizer,
    WelfordNormalizer as WelfordNormalizer,
    WelfordNormalizerState as WelfordNormalizerState,
    normalizer_from_config as normalizer_from_config,
)
from .gate import MeaningWarning as MeaningWarning
from .types import (
    OffPolicyTimeStep as OffPolicyTimeStep,
    Settings as Settings,
    State as State,
    TDTimeStep as TDTimeStep,
    TimeStep as TimeStep,
)

__version__: str

def _leave(number: int, frame: object) -> None: ...
