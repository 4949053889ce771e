"""What many tests share."""

import ctypes
import gc
import sys
from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def float64() -> Iterator[None]:
    """Numbers of 64 bits, so that an oracle's digits are its own."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module", autouse=True)
def let_go() -> Iterator[None]:
    """Compiled programs go with the tests that needed them: together they fill gigabytes."""
    yield
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # glibc keeps what is freed
