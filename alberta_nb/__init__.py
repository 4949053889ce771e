"""Continual learning, from the derivation to the fast loop: every public name of the book in one place.

Where to look, from the world to the command line (each folder lists its names, as in `alberta_nb.optimizers.`):

    types, normalizers     settings, states, time steps; inputs on one scale: EMANormalizer, WelfordNormalizer
    streams                where experience comes from: RandomWalkStream, ArraySource, TableSource, RelevanceRing
    optimizers             how a weight moves: LMS, IDBD, Autostep, ObGD, TDIDBD, AutoTDIDBD, SwiftTD
    learners               what moves: LinearLearner, TDLinearLearner, MLPLearner, LearnerBank, PopArt
    horde                  many predictions at once: MultiHeadMLPLearner, HordeLearner, GVFSpec
    loops                  a life: run_learning_loop, run_td_learning_loop, run_horde_learning_loop, Stepper, save, load
    experiments            many lives: sweep, sweep_table, run_multi_seed_experiment, seed_intervals
    apps                   a table in, a report out: learn_table, predict_returns, next_everything
    native                 how it is fast: native_loops
    framework              the names of alberta_framework under its paths, for programs that come from there

A first run:

    stream, learner = SuttonExperiment1Stream(), LinearLearner(IDBD())
    state, metrics = run_learning_loop(learner, stream, 10_000, jax.random.key(0))

The module behind a name is loaded when the name is first used: `import alberta_nb` itself loads nothing.
"""

import os
import signal
import sys


def _leave(number: int, frame: object) -> None:
    "End the command at once, with one line; nothing was learned yet."
    os.write(2, b"alberta-nb: interrupted\n")
    os._exit(128 + number)


_program = os.path.basename((getattr(sys, "argv", None) or [""])[0])
_module = list(getattr(sys, "orig_argv", [])[1:])  # python -m alberta_nb.apps.cli: argv[0] is not yet known
_module = _module[_module.index("-m") + 1 :][:1] if "-m" in _module else []
if _program in ("alberta-nb", "alberta-nb.exe", "alberta-nb-script.py") or _module == ["alberta_nb.apps.cli"]:
    for _number in (signal.SIGINT, signal.SIGTERM):  # also while its modules are loaded
        if signal.getsignal(_number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(_number, _leave)

import ast
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

__version__ = "0.1.0"


def _homes(package: str) -> dict[str, str]:
    "The module of every public name of a package, from its stub: the list that type checkers read as well."
    homes: dict[str, str] = {}
    for node in ast.parse(pkgutil.get_data(package, "__init__.pyi") or b"").body:
        if isinstance(node, ast.ImportFrom):
            module = f"{package}.{node.module}"
            homes |= _homes(module) if node.names[0].name == "*" else {alias.name: module for alias in node.names}
    return homes


def _face(package: str) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    "`__all__`, `__getattr__` and `__dir__` of a package whose names are loaded when they are first used."
    here = sys.modules[package]
    modules = {module.name for module in pkgutil.iter_modules(here.__path__)}
    homes = {name: home for name, home in _homes(package).items() if name not in modules}  # a folder's own come first

    def load(name: str) -> Any:
        "A public name, or a module of the package, at its first use."
        if name in homes:
            value = getattr(importlib.import_module(homes[name]), name)
        elif name in modules and not name.startswith("_"):
            value = importlib.import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return vars(here).setdefault(name, value)

    def names() -> list[str]:
        "Names, modules and folders, loaded or not."
        return sorted({*vars(here), *homes, *modules})

    return list(homes), load, names


__all__, __getattr__, __dir__ = _face(__name__)
