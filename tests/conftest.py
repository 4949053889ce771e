"""What many tests share."""

import ctypes
import gc
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from alberta_nb.gate import _SAID

_SAID.update(("predict", "terminal"))  # told where the framework is imported, as one module of tests does for all


@pytest.fixture
def float64() -> Iterator[None]:
    """Numbers of 64 bits, so that an oracle's digits are its own."""
    with jax.enable_x64(True):
        yield


# Most tests compare numbers, and those of hastily compiled programs are as good: half of the time went into compiling.
# What is said of the programs themselves, and what is pinned, is tried on programs as users run them; so is every page.
AS_USERS_RUN_THEM = {"bench", "cli", "loops", "noise", "paths", "pinned", "rewrite", "service", "stepper", "vmap_last"}


@pytest.fixture(scope="module", autouse=True)
def hasty(request: pytest.FixtureRequest) -> Iterator[None]:
    """Programs are compiled without most optimisations, but for the modules above."""
    name = request.module.__name__.rpartition(".")[2].removeprefix("test_")
    jax.config.update("jax_disable_most_optimizations", name not in AS_USERS_RUN_THEM)
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
