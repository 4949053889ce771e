"""A race: contenders that take turns, what they measured, and what was asked for."""

import functools
import os
import subprocess
import sys
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

Contender = Callable[[], float]
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Race(NamedTuple):
    """One workload and its `contenders`, "library" first; None for a contender that cannot run here.

    `targets` maps contenders to the least ratio (theirs / library's). `warm`: call each once before the rounds.
    `repeats`: its own number of rounds, where a round is expensive. `limit` says what the contender of that name is.
    """

    workload: str
    unit: str
    contenders: Mapping[str, Contender | None]
    targets: Mapping[str, float] = {}
    warm: bool = True
    repeats: int | None = None
    limit: str = ""


class Plan(NamedTuple):
    "How large the workloads are: `quick` for a smoke run, `long` to add the 10^8-step run."

    quick: bool = False
    long: bool = False

    def steps(self, n: int) -> int:
        "So many steps, or an eighth of them."
        return n // 8 if self.quick else n

    def sizes(self, *sizes: int) -> tuple[int, ...]:
        "All sizes, or the first."
        return sizes[:1] if self.quick else sizes


Workload = Callable[[Plan], Iterator[Race]]
WORKLOADS: dict[str, tuple[str, Workload]] = {}


def workload(part: str, title: str) -> Callable[[Workload], Workload]:
    "Register a function that yields races as a part of the benchmark."

    def register(fn: Workload) -> Workload:
        WORKLOADS[part] = (title, fn)
        return fn

    return register


# --- contenders ---


def timed(fn: Callable[[], Any], count: float, unit: float = 1e6) -> Contender:
    """A contender: the time of `fn` until its results are ready, in `unit` parts of a second per `count`.

    Nobody pays for the collection of what earlier races left behind: `timeit` switches it off.
    """
    return lambda: timeit.timeit(lambda: jax.block_until_ready(fn()), number=1) / count * unit


def limited(times: float, what: str, yardstick: Contender) -> tuple[Contender, str]:
    "A limit: so many times what a yardstick takes in the same round, and what that is in words."
    return lambda: times * yardstick(), f"{times:g} x {what}"


def jitted_call(arguments: Any, calls: int) -> Contender:
    "Microseconds of a jitted call that takes these arrays and gives as many back, each a little larger."
    call = jax.jit(lambda tree: jax.tree.map(lambda a: a + a.dtype.type(1), tree))
    start = jax.block_until_ready(call(arguments))

    def chain() -> Any:
        tree = start
        for _ in range(calls):
            tree = call(tree)
        return tree

    return timed(chain, calls)


def fresh_process(program: str, *args: Any) -> list[float]:
    "Run a program in a new Python without a compilation cache: the numbers that it printed."
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    env["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    this = f"import sys; sys.path.insert(0, {ROOT!r}); import bench; del sys.path[0]\n"
    command = [sys.executable, "-P", "-c", this + program, *map(str, args)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the benchmark's own process failed: {done.stderr[-2000:]}")
    return [float(word) for word in done.stdout.split()]


# --- running ---


def run_race(race: Race, repeats: int) -> dict[str, list[float]]:
    "The measured values of every contender that can run, taken in turns."
    present = {label: contender for label, contender in race.contenders.items() if contender is not None}
    for contender in present.values() if race.warm else ():
        contender()
    values: dict[str, list[float]] = {label: [] for label in present}
    for _ in range(race.repeats or repeats):
        for label, contender in present.items():
            values[label].append(contender())
    return values


def race_rows(part: str, race: Race, values: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    "One row for each rival: medians, their ratio, its range over the rounds, and the target."
    library, rows = np.array(values["library"]), []
    for against in list(race.contenders)[1:]:
        other, target = np.array(values.get(against, [np.nan])), race.targets.get(against, np.nan)
        ratio, rounds = np.median(other) / np.median(library), other / library
        rows.append({
            "part": part, "workload": race.workload, "unit": race.unit, "library": np.median(library),
            "against": against, "value": np.median(other),
            "ratio": ratio, "ratio_low": rounds.min(), "ratio_high": rounds.max(), "target": target,
            "met": None if np.isnan(target * ratio) else bool(ratio >= target),
            "note": race.limit if against == "limit" else "",
        })  # fmt: skip
    return rows


def name_of(part: str, race: Race) -> str:
    "A race as `--rows` finds it: (a) LMS, d=20."
    return f"({part}) {race.workload}"


def chosen_races(only: Sequence[str] | None, rows: str, plan: Plan) -> Iterator[tuple[str, Race]]:
    "The races of these parts, all when None, whose names hold the text `rows`. Raises ValueError for an unknown part."
    parts = sorted(WORKLOADS) if only is None else list(only)
    unknown = sorted(set(parts) - set(WORKLOADS))
    if unknown or not parts:
        raise ValueError(f"only must name parts out of {sorted(WORKLOADS)}, got {unknown or parts}")
    races = ((part, race) for part in parts for race in WORKLOADS[part][1](plan))
    return ((part, race) for part, race in races if rows in name_of(part, race))


def bench(
    only: Sequence[str] | None = None, *, rows: str = "", quick: bool = False, repeats: int | None = None,
    long: bool = False, library: bool = False, progress: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Race the library against plain JAX and numba.

    Args:
        only: parts to run, a sequence of keys of `WORKLOADS`; all when None.
        rows: only races whose names, such as "(a) LMS, d=20", hold this text.
        quick: small sizes, for a smoke test; the ratios then mean little.
        repeats: rounds of each race; 5, or 2 with `quick`, when None.
        long: also the run of 10^8 steps.
        library: leave the rivals out, whose rows then have no numbers.
        progress: show a bar.

    Returns a frame: part, workload, unit, library and value (medians), against, ratio = value / library, its range over
    the rounds, target, met, note. Raises ValueError for an unknown part, no race, or fewer than 1 repeat.
    """
    repeats = repeats if repeats is not None else 2 if quick else 5
    if repeats < 1:
        raise ValueError(f"repeats must be 1 or more, got {repeats}")
    found: list[dict[str, Any]] = []
    with tqdm(desc="races", unit="race", disable=not progress) as bar:
        for part, race in chosen_races(only, rows, Plan(quick, long)):
            bar.set_postfix_str(name_of(part, race))
            kept = {name: c if name == "library" or not library else None for name, c in race.contenders.items()}
            found += race_rows(part, race, run_race(race._replace(contenders=kept), repeats))
            bar.update()
    if not found:
        raise ValueError(f"rows must be part of the name of a race, got {rows!r}")
    return pd.DataFrame(found).astype({"met": "boolean"})


# --- what a run costs without the work around it ---


def longest_compiled_call(run: Callable[[], Any], rounds: int = 5) -> Callable[[], Any] | None:
    """The compiled call that takes most of a run's time, with everything at hand; None where there is none.

    It is found by looking on: each jitted function that a module of the package holds, by name or in a table, notes its
    calls.
    """
    compiled, calls = type(jax.jit(lambda: 0)), []

    def noting(fn: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            again = functools.partial(fn, *args, **kwargs)
            out: list[Any] = []
            calls.append((timeit.timeit(lambda: out.append(jax.block_until_ready(again())), number=1), again))
            return out[0]

        return call

    run()  # so that nothing is compiled below
    modules = [m for name, m in list(sys.modules.items()) if name.split(".")[0] == "alberta_nb"]
    holders = [vars(m) for m in modules] + [v for m in modules for v in vars(m).values() if isinstance(v, dict)]
    held = [(holder, name, fn) for holder in holders for name, fn in holder.items() if isinstance(fn, compiled)]
    try:
        for holder, name, fn in held:
            holder[name] = noting(fn)
        whole = min(timeit.repeat(lambda: jax.block_until_ready(run()), number=1, repeat=rounds))
    finally:
        for holder, name, fn in held:
            holder[name] = fn
    each = max(len(calls) // rounds, 1)  # a run's calls: the same in every round
    least = [min(seconds for seconds, _ in calls[k::each]) for k in range(min(each, len(calls)))]
    longest = int(np.argmax(least)) if least else 0
    return calls[longest][1] if least and least[longest] > whole / 3 else None
