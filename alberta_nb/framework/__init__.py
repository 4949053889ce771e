"""The names of `alberta_framework`, under its paths, for programs that come from there: change the import and go on.

`from alberta_nb.framework.utils.timing import Timer` and `from alberta_nb.framework import LinearLearner` find the names
of this package; a name that has another meaning there, as `FeatureRelevance`, is here what it is there. The page "From
alberta_framework" tells what differs on purpose. Nothing in the rest of the package imports this one.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

from alberta_nb import __version__ as __version__

# What is something else there comes first, and what needs a plotting library, or gymnasium, last.
_HOMES = f"{__name__}.names", "alberta_nb", *(f"{__name__}.{n}" for n in "checkpoints visualization environments".split())
_MODULES = {
    "core": "bounders checkpoints diagnostics experience horde initializers learners lifecycle metrics mlp_learner",
    "streams": "base gymnasium synthetic",
    "utils": "experiments export metrics statistics timing visualization",
}
_MODULES["core"] += " multi_head multi_head_learner normalizers optimizers sarsa td_learner types"


def _names() -> list[str]:
    "All public names."
    return sorted({name for home in _HOMES for name in importlib.import_module(home).__all__})


def _find(name: str, module: str = __name__) -> Any:
    "A name of that library, wherever it is at home here, at its first use."
    if name == "__all__":  # what `import *` asks for
        return _names()
    homes = (_HOMES[-1], *_HOMES) if module.endswith(".gymnasium") else _HOMES  # what is another thing there first
    for home in () if name.startswith("_") else homes:
        found: Any = importlib.import_module(home)
        if name in found.__all__:
            return vars(sys.modules[module]).setdefault(name, getattr(found, name))
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


def _thin(path: str, doc: str) -> None:
    "A module of that library that has no file here: its names are found when they are first used."
    parent, _, last = f"{__name__}.{path}".rpartition(".")
    module = ModuleType(f"{parent}.{last}", doc)
    vars(module).update(__path__=[], __getattr__=lambda name: _find(name, f"{parent}.{last}"))
    setattr(sys.modules[parent], last, sys.modules.setdefault(module.__name__, module))


for _folder, _modules in _MODULES.items():
    for _path in (_folder, *(f"{_folder}.{_module}" for _module in _modules.split())):
        _thin(_path, f"The names of `alberta_framework.{_path}`.")


def __getattr__(name: str) -> Any:
    return _find(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_names()})
