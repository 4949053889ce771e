"""What many tests share."""

import ctypes
import gc
import mmap
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from files import HASTY
from jax._src import compiler

from alberta_nb.gate import _SAID

_SAID.update(
    ("predict", "terminal", "terminal_reward")
)  # told where the framework is imported, as one module of tests does for all


@pytest.fixture
def float64() -> Iterator[None]:
    """Numbers of 64 bits, so that an oracle's digits are its own."""
    with jax.enable_x64(True):
        yield


# Most tests compare numbers, and those of hastily compiled programs are as good: half of the time went into compiling.
# What is said of the programs themselves, and what is pinned, is tried on programs as users run them; so is every page.
AS_USERS_RUN_THEM = set(
    "bench cli entities fold lanes loops many noise nonlinear_streams paths pinned recipes".split()
    + "rewrite service stepper streams vmap_last".split()
)


def hastily(options_of: Callable[..., Any]) -> Callable[..., Any]:
    """JAX's function that makes options of the compiler, with ours besides: it has no setting for them."""

    def made(*args: Any, env_options_overrides: Any = None, **named: Any) -> Any:
        return options_of(*args, env_options_overrides=HASTY | dict(env_options_overrides or {}), **named)

    return made


@pytest.fixture(scope="module", autouse=True)
def hasty(request: pytest.FixtureRequest) -> Iterator[None]:
    """Programs are compiled without most optimisations, but for the modules above."""
    if request.module.__name__.rpartition(".")[2].removeprefix("test_") in AS_USERS_RUN_THEM:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(compiler, "get_compile_options"):
            patch.setattr(compiler, "get_compile_options", hastily(compiler.get_compile_options))
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


LARGEST = 1.0e9  # bytes that a process may hold before its compiled programs go


def forget_programs() -> None:
    """Let compiled programs go, and what they held."""
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # glibc keeps what is freed


@pytest.fixture(scope="module", autouse=True)
def let_go() -> Iterator[None]:
    """Compiled programs go with the tests that needed them: together they fill gigabytes."""
    yield
    forget_programs()


@pytest.fixture(autouse=True)
def stay_small() -> Iterator[None]:
    """A module of many programs lets them go on the way, too."""
    yield
    statm = Path("/proc/self/statm")
    if statm.exists() and int(statm.read_text().split()[1]) * mmap.PAGESIZE > LARGEST:
        forget_programs()
