"""What many tests share."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def float64() -> Iterator[None]:
    """Numbers of 64 bits, so that an oracle's digits are its own."""
    with jax.enable_x64(True):
        yield
