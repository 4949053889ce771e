"""The package as it is installed: what it needs, what it brings, what it must not import."""

import ast
import configparser
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import alberta_nb

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(alberta_nb.__file__).parent
RUN_TIME = {"jax", "numpy", "scipy", "pandas", "pyarrow", "matplotlib", "tqdm"}
EXTRAS = {"notebook", "data", "gym", "optax", "cluster", "sklearn", "river", "dev"}
# What belongs to the making of the book, and what only an extra brings.
FOREIGN = ("nbdev", "fastcore", "execnb", "pytest", "nbval", "numba", "sympy", "sklearn", "ipywidgets", "IPython")
FOREIGN += ("gymnasium", "optax", "equinox", "river", "distributed", "dask")

IMPORT_EVERYTHING = f"""
import importlib, pkgutil, sys
import alberta_nb
for module in pkgutil.walk_packages(alberta_nb.__path__, "alberta_nb."):
    if not module.name.endswith(("_modidx", "__main__")) and ".adapters." not in module.name:  # which are for those
        importlib.import_module(module.name)
print(*sorted(set({FOREIGN!r}) & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def distribution() -> metadata.Distribution:
    try:
        return metadata.distribution("alberta_nb")
    except metadata.PackageNotFoundError:
        pytest.skip("alberta_nb is imported from a checkout that is not installed")


def requirements(distribution: metadata.Distribution, extra: str = "") -> set[str]:
    """The requirements of one extra, or those that every user gets."""
    lines = distribution.requires or []
    mark = f'extra == "{extra}"'
    chosen = [line for line in lines if (mark in line.replace("'", '"') if extra else "extra ==" not in line)]
    return {line.split(";")[0].strip() for line in chosen}


def test_no_module_imports_development_tools() -> None:
    command = [sys.executable, "-c", IMPORT_EVERYTHING]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


def test_version_is_written_once() -> None:
    settings = configparser.ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini")
    version = settings["DEFAULT"]["version"]
    assert alberta_nb.__version__ == version
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_run_time_requirements(distribution: metadata.Distribution) -> None:
    assert distribution.version == alberta_nb.__version__
    found = requirements(distribution)
    assert {name.split(">")[0] for name in found} == RUN_TIME
    assert not any("<" in name or "==" in name for name in found), "the library sets no upper caps"


def test_extras(distribution: metadata.Distribution) -> None:
    assert set(distribution.metadata.get_all("Provides-Extra") or []) == EXTRAS
    assert requirements(distribution, "notebook") == {"ipywidgets", "jupyterlab"}
    assert requirements(distribution, "data") == {"scikit-learn"}
    assert requirements(distribution, "gym") == {"gymnasium"}
    assert requirements(distribution, "optax") == {"optax", "equinox"}
    assert requirements(distribution, "cluster") == {"distributed"}
    assert requirements(distribution, "sklearn") == {"scikit-learn"}
    assert requirements(distribution, "river") == {"river>=0.26.1"}
    assert {"numba", "nbval", "pytest", "ruff", "mypy"} <= requirements(distribution, "dev")


def test_console_script(distribution: metadata.Distribution) -> None:
    scripts = {entry.name: entry.value for entry in distribution.entry_points if entry.group == "console_scripts"}
    assert scripts == {"alberta-nb": "alberta_nb.apps.cli:main"}


def test_package_data() -> None:
    assert (PACKAGE / "py.typed").is_file()
    series = sorted((PACKAGE / "data").glob("*.csv.gz"))
    assert series, "the main job needs a series that ships with the package"
    # Licence and origin stand beside each series.
    assert [path for path in series if not path.with_name(path.name.removesuffix(".csv.gz") + ".md").is_file()] == []


LIGHT = """
import sys
import alberta_nb
heavy = {"jax", "numpy", "pandas", "matplotlib", "tqdm", "tqdm.notebook", "concurrent.futures", "asyncio"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
from alberta_nb import IDBD, Autostep, LinearLearner, MLPLearner, RandomWalkStream, Stepper, run_learning_loop
heavy = {"pandas", "matplotlib", "sklearn", "alberta_nb.plots", "alberta_nb.apps.learn"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
assert LinearLearner.from_config(LinearLearner(IDBD()).to_config()) == LinearLearner(IDBD())
"""

LATE = """
import alberta_nb
kept = {"type": "LinearLearner", "optimizer": {"type": "IDBD"}, "normalizer": {"type": "EMANormalizer"}}
from alberta_nb.types import Settings
print(Settings.from_config(kept).optimizer)
try:
    Settings.from_config({"type": "Idbd"})
except ValueError as error:
    assert "'IDBD'" in str(error) and "'TDC'" in str(error)
"""


@pytest.mark.parametrize("program", [LIGHT, LATE])
def test_a_module_is_loaded_when_a_name_of_it_is_used(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_public_names_are_all_there() -> None:
    assert len(alberta_nb.__all__) > 150 and set(alberta_nb.__all__) <= set(dir(alberta_nb))
    space: dict[str, object] = {}
    exec("from alberta_nb import *", space)
    assert set(alberta_nb.__all__) <= space.keys() and space["learn_table"] is alberta_nb.learn_table
    assert {"optimizers", "plots", "types"} <= set(dir(alberta_nb)) and alberta_nb.optimizers.idbd.IDBD
    with pytest.raises(AttributeError, match="no attribute 'IDDB'"):
        getattr(alberta_nb, "IDDB")  # noqa: B009


def test_type_checkers_may_read_the_public_names() -> None:
    # Whoever reads a stub takes `name as name` for public, and nothing else.
    found = []
    for stub in PACKAGE.rglob("__init__.pyi"):
        for line in ast.parse(stub.read_text(encoding="utf-8")).body:
            names = line.names if isinstance(line, ast.ImportFrom) else []
            found += [name.name for name in names if name.name != "*"]
            assert all(name.name in ("*", name.asname) for name in names), stub
    assert sorted(found) == sorted(alberta_nb.__all__)


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.pyi")))
def test_a_folder_shows_its_names(folder: str) -> None:
    face = importlib.import_module(f"alberta_nb.{folder}")
    assert face.__doc__ and face.__all__ and set(face.__all__) <= set(dir(face)) & set(alberta_nb.__all__)
    for name in face.__all__:
        assert getattr(face, name) is getattr(alberta_nb, name)
    modules = [module.name for module in pkgutil.iter_modules(face.__path__)]
    assert all(inspect.ismodule(getattr(face, name)) for name in modules)  # a module keeps its name
    with pytest.raises(AttributeError, match=f"alberta_nb.{folder}.*nothing_of_this_name"):
        getattr(face, "nothing_of_this_name")  # noqa: B009


def test_help_is_a_map() -> None:
    named = set(re.findall(r"\w+", alberta_nb.__doc__ or ""))
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.pyi")} <= named
    for row in re.findall(r"^    \w.*?: (.*)$", alberta_nb.__doc__ or "", re.M):
        assert set(row.split(", ")) <= set(alberta_nb.__all__), row
