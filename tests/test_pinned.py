"""What must not change while the house is rebuilt: numbers, names and settings, read from `pinned.json.gz`.

Learner x optimizer x bounder x normaliser x loop, each after some 60 steps in float64: metrics, histories, predictions,
step sizes, traces, and the fields of the last states, read by name, so that a field may become a property. Where a full
product would take minutes of compilation, every pair of parts occurs. Besides: the public names with their parameters
and defaults, and the settings' configurations. The numbers that the pages print are not here: nbval compares them with
the outputs that the notebooks hold.

Tolerances: other compilers, processors and forms of the same formula sum and multiply in another order, which moves
the last digits, 1e-16, and sixty steps of learning carry that to 1e-12 or less. 1e-9 is far above it, and far below
any change of an algorithm. The streams of the library draw in float32, where another processor differs by 1e-7, and by
1e-5 of a small number: they, and what runs on them, are compared to 1e-4.

`python tests/test_pinned.py --write` writes the file anew, and refuses where it exists; with `--add`, only the cases
that it lacks are computed; `--force` replaces it. With JAX_DISABLE_MOST_OPTIMIZATIONS=1 the module takes little more
than half the time: most of it is compilation, and the numbers are the same.
"""

import argparse
import functools
import gzip
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pinned_direct import direct_cases
from pinned_linear import linear_cases, td_cases
from pinned_names import configs, dated, lost_of, lost_settings, names, settings
from pinned_networks import head_cases, horde_cases, network_cases
from pinned_streams import stream_cases
from pinned_world import KEYS, Case, needs_optax

from alberta_nb import Settings

FILE = Path(__file__).with_name("pinned.json.gz")
PARTS = (linear_cases, td_cases, network_cases, head_cases, horde_cases, stream_cases, direct_cases)
CASES: dict[str, Case] = {name: case for part in PARTS for name, case in part()}
EXACT, NOISY = {"rtol": 1e-9, "atol": 1e-12}, {"rtol": 1e-4, "atol": 1e-5}
SMALL = 12  # numbers: up to here an array is kept whole


# The fields of the public states, as the interface names them; what is not here is seen through what it does.
FIELDS: dict[str, tuple[str, ...]] = {
    "LMSState": ("step_size",),
    "IDBDState": ("log_step_sizes", "traces", "meta_step_size", "bias_step_size", "bias_trace"),
    "IDBDParamState": ("log_step_sizes", "traces", "meta_step_size"),
    "AutostepState": (
        "step_sizes", "traces", "normalizers", "meta_step_size", "tau", "bias_step_size", "bias_trace",
        "bias_normalizer",
    ),
    "AutostepParamState": ("step_sizes", "traces", "normalizers", "meta_step_size", "tau"),
    "ObGDState": ("step_size", "kappa", "gamma", "lamda", "traces", "bias_trace"),
    "TDLambdaState": ("step_size", "trace_decay", "eligibility_traces", "bias_eligibility_trace"),
    "TDIDBDState": (
        "log_step_sizes", "eligibility_traces", "h_traces", "meta_step_size", "trace_decay", "bias_log_step_size",
        "bias_eligibility_trace", "bias_h_trace",
    ),
    "AutoTDIDBDState": (
        "log_step_sizes", "eligibility_traces", "h_traces", "normalizers", "meta_step_size", "trace_decay",
        "normalizer_decay", "bias_log_step_size", "bias_eligibility_trace", "bias_h_trace", "bias_normalizer",
    ),
    "LearnerState": ("weights", "bias", "optimizer_state", "normalizer_state"),
    "TDLearnerState": ("weights", "bias", "optimizer_state", "normalizer_state"),
    "MLPParams": ("weights", "biases"),
    "MLPLearnerState": ("params", "optimizer_states", "traces", "normalizer_state"),
    "MultiHeadMLPState": (
        "params", "trunk_optimizer_states", "head_optimizer_states", "traces", "normalizer_state",
    ),
    "EMANormalizerState": ("mean", "var", "sample_count", "decay"),
    "WelfordNormalizerState": ("mean", "var", "sample_count", "p"),
    "TimeStep": ("observation", "target"),
    "TDTimeStep": ("observation", "reward", "next_observation", "gamma"),
    "OffPolicyTimeStep": ("observation", "reward", "next_observation", "gamma", "rho"),
    "StepSizeHistory": ("step_sizes", "bias_step_sizes", "recording_indices", "normalizers"),
    "NormalizerHistory": ("means", "variances", "recording_indices"),
    "TraceHistory": ("eligibility_traces", "bias_eligibility_traces", "recording_indices"),
}  # fmt: skip


def leaves(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays in what a case found, under names that tell where they stand; states by their listed fields."""
    kind = type(value).__name__
    if kind in FIELDS:
        for field in FIELDS[kind]:
            yield from leaves(f"{name}:{kind}.{field}", getattr(value, field))
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(f"{name}.{key}" if name else key, part)
    elif isinstance(value, tuple | list):
        for i, part in enumerate(value):
            yield from leaves(f"{name}[{i}]", part)
    elif isinstance(value, int | float | np.ndarray | jax.Array):
        yield name, np.asarray(value, np.float64)


def digest(array: np.ndarray) -> list[Any]:
    """Shape and numbers of a small array; of a large one, for each column, sums and two of its numbers."""
    if array.size <= SMALL:
        return [list(array.shape), array.reshape(-1).tolist()]
    table = array.reshape(-1, array.shape[-1]) if array.ndim > 1 else array[:, None]
    known, rows = np.where(np.isnan(table), 0.0, table), len(table)
    sums = [np.isnan(table).sum(axis=0), known.sum(axis=0), np.cos(np.arange(rows)) @ known]
    picked = table[[rows // 2, rows - 1]]
    return [list(array.shape), np.concatenate([*sums, *picked]).tolist()]


def computed(name: str) -> dict[str, list[Any]]:
    """All digests of a case."""
    return {path: digest(array) for path, array in leaves("", CASES[name]())}


@functools.cache
def stored() -> dict[str, Any]:
    """What the file holds; nothing where there is none yet."""
    if not FILE.exists():
        return {"cases": {}, "names": {}, "configs": {}}
    with gzip.open(FILE, "rt") as file:
        return json.load(file)


def generator() -> list[float]:
    """Some numbers of jax's generator: where a version draws others, first weights cannot be compared."""
    first, second = jax.random.split(KEYS[1])
    return [*map(float, jax.random.uniform(first, (3,))), *map(float, jax.random.uniform(second, (3,)))]


def with_seeds(
    path: str, shape: list[int], values: list[float], have: list[int] | None
) -> tuple[list[int], list[float]]:
    """What was written down; of a batch's histories, the steps once for each seed: they had no such axis then."""
    many = path.endswith(".recording_indices") and have is not None and len(have) == 2 and len(shape) == 1
    return ([have[0], *shape], have[0] * values) if many and have else (shape, values)


def assert_same(found: dict[str, Any], want: dict[str, Any], rtol: float, atol: float) -> None:
    """Fail with the names of all that differs; what is new may be there."""
    wrong = []
    for path, (shape, values) in want.items():
        have_shape, have = found.get(path, (None, None))
        shape, values = with_seeds(path, shape, values, have_shape)
        if have_shape != shape:
            wrong.append(f"{path}: shape {have_shape}, was {shape}")
        elif not np.allclose(have, values, rtol=rtol, atol=atol, equal_nan=True):
            gap = np.nanmax(np.abs(np.subtract(have, values)))
            wrong.append(f"{path}: off by {gap:.3g}")
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module", autouse=True)
def float64() -> Iterator[None]:
    """64 bits everywhere, also in the threads that loops start."""
    before = jnp.result_type(float) == jnp.float64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize("name", CASES)
def test_numbers(name: str) -> None:
    if needs_optax(name):
        pytest.skip("optax is not installed")
    if "drawn" in name and generator() != stored()["generator"]:
        pytest.skip("jax draws other numbers here")
    assert_same(computed(name), stored()["cases"][name], **(NOISY if name.startswith("noisy") else EXACT))


@pytest.mark.parametrize("name", stored()["names"])
def test_names(name: str) -> None:
    """What users call, make and read is still there; more may be."""
    assert not lost_of(names().get(name, {"parameters": {}}), stored()["names"][name])


@pytest.mark.parametrize("name", stored()["configs"])
def test_configurations(name: str) -> None:
    """Settings say of themselves what they said, and what was written down makes the same settings."""
    if needs_optax(name):
        pytest.skip("optax is not installed")
    value, config = settings()[name], dated(stored()["configs"][name])
    assert not lost_settings(json.loads(json.dumps(value.to_config())), config)
    assert type(value).from_config(config) == Settings.from_config(config) == value


def test_nothing_stored_is_left_out() -> None:
    assert set(stored()["cases"]) == set(CASES) and stored()["names"] and stored()["configs"]


def rounded(value: Any) -> Any:
    """Numbers with 12 digits: enough for the tolerance, and fewer bytes."""
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list) else value


def write(add: bool) -> None:
    """Compute the cases, all or those that the file lacks, and write the file; with `add`, what it has stays."""
    jax.config.update("jax_enable_x64", True)
    have: dict[str, Any] = stored() if add else {"cases": {}, "names": {}, "configs": {}}
    cases = dict(have["cases"])
    for name in [name for name in CASES if name not in cases]:
        start = time.process_time()
        cases[name] = rounded(computed(name))
        print(f"{time.process_time() - start:6.2f} s {name}")
    shape = {"names": names() | have["names"], "configs": configs() | have["configs"]}
    text = json.dumps({"generator": generator(), "cases": cases} | shape, separators=(",", ":"))
    FILE.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{FILE.name}: {len(cases)} cases, {FILE.stat().st_size / 1000:.0f} kB")


def main() -> int:
    parser = argparse.ArgumentParser(description="Write down what must not change.")
    for option in ("--write", "--add", "--force"):
        parser.add_argument(option, action="store_true")
    asked = parser.parse_args()
    if not (asked.write or asked.add):
        parser.error("say --write or --add")
    if FILE.exists() and asked.write and not asked.force:
        parser.error(f"{FILE.name} exists: --force replaces what must not change, --add adds cases that it lacks")
    write(asked.add)
    return 0


if __name__ == "__main__":
    sys.exit(main())
