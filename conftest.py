"""How pytest runs the notebooks: repairs for nbval and one setting for every machine."""

import os
import re
from pathlib import Path

import matplotlib
import pytest

from alberta_nb.apps.cli import cache_settings

ROOT = Path(__file__).parent
EVAL_FALSE = re.compile(r"^#\s*\|\s*eval:\s*false\s*$", re.MULTILINE)

# The pages print numbers of the CPU; whoever wants another device says so.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests, pages and the programs that they start keep what they compiled for the next run; ALBERTA_NB_CACHE=0 forbids it.
os.environ.update(cache_settings())
# Where an entry cannot be read JAX compiles, and says so; a page must not print that.
LOST = "ignore:Error {} persistent compilation cache"
os.environ["PYTHONWARNINGS"] = ",".join(
    filter(None, (os.environ.get("PYTHONWARNINGS"), LOST.format("reading"), LOST.format("writing")))
)
# A backend in the environment would reach the kernels and hide their inline figures.
os.environ.pop("MPLBACKEND", None)
matplotlib.use("Agg")


def pytest_configure(config: pytest.Config) -> None:
    """Find the sanitize file from any working directory."""
    name = getattr(config.option, "nbval_sanitize_with", None)
    if name and not os.path.isabs(name):
        config.option.nbval_sanitize_with = str(ROOT / name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Compare the outputs of cleaned notebooks, and leave out the cells that cannot run here."""
    for item in items:
        cell = getattr(item, "cell", None)
        if cell is None or cell.get("cell_type") != "code":
            continue
        # nbdev_clean removes the count, and nbval takes a cell without one for a cell that never ran.
        if cell.execution_count is None:
            cell.execution_count = 1
        if EVAL_FALSE.search(cell.source):
            item.add_marker(pytest.mark.skip(reason="eval: false"))
