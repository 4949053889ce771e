from .age import agent_age_s as agent_age_s, agent_uptime_s as agent_uptime_s
from .bank import LearnerBank as LearnerBank
from .base import Acting as Acting, Learner as Learner
from .baselines import LastValue as LastValue, RunningMean as RunningMean
from .diagnostics import Diagnostics as Diagnostics, diagnose as diagnose
from .interval import Interval as Interval, IntervalState as IntervalState
from .late import Late as Late, LateState as LateState
from .linear import LearnerState as LearnerState, LinearLearner as LinearLearner, UpdateResult as UpdateResult
from .mlp import DivergenceWarning as DivergenceWarning
from .mlp import MLPLearner as MLPLearner, MLPLearnerState as MLPLearnerState, MLPUpdateResult as MLPUpdateResult
from .network import MLPParams as MLPParams
from .robust import Robust as Robust, RobustState as RobustState
from .td import TDLearnerState as TDLearnerState, TDLinearLearner as TDLinearLearner, TDUpdateResult as TDUpdateResult
from .units import PopArt as PopArt, PopArtState as PopArtState
