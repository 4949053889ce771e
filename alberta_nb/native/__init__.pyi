from .kernel import native_loops as native_loops
from .outer import RankOne as RankOne
