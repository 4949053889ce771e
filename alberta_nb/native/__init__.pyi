from .kernel import native_loops as native_loops
from .kernel import use_native as use_native
from .outer import RankOne as RankOne
