from .adaptive_obgd import ScaledLMS as ScaledLMS, ScaledLinearState as ScaledLinearState, ScaledState as ScaledState
from .autostep import Autostep as Autostep, AutostepParamState as AutostepParamState, AutostepState as AutostepState
from .autotdidbd import AutoTDIDBD as AutoTDIDBD, AutoTDIDBDState as AutoTDIDBDState
from .base import (
    Optimizer as Optimizer,
    OptimizerUpdate as OptimizerUpdate,
    optimizer_from_config as optimizer_from_config,
)
from .bounders import (
    AGCBounding as AGCBounding,
    Bounder as Bounder,
    ObGDBounding as ObGDBounding,
    bounder_from_config as bounder_from_config,
)
from .gradient_td import GTD as GTD, GTD2 as GTD2, GradientTDState as GradientTDState, TDC as TDC
from .idbd import IDBD as IDBD, IDBDParamState as IDBDParamState, IDBDState as IDBDState
from .least_squares import LeastSquares as LeastSquares, LeastSquaresState as LeastSquaresState
from .lms import LMS as LMS, LMSState as LMSState
from .obgd import ObGD as ObGD, ObGDState as ObGDState
from .optax import from_optax as from_optax, to_optax as to_optax
from .swift_td import SwiftTD as SwiftTD, SwiftTDState as SwiftTDState
from .td_lambda import (
    TDLambda as TDLambda,
    TDLambdaState as TDLambdaState,
    TDOptimizer as TDOptimizer,
    TDOptimizerUpdate as TDOptimizerUpdate,
    WithTraces as WithTraces,
)
from .tdidbd import TDIDBD as TDIDBD, TDIDBDState as TDIDBDState
from .true_online import TrueOnlineTD as TrueOnlineTD, TrueOnlineTDState as TrueOnlineTDState
