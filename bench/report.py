"""What a benchmark found: a table, a figure, a file, and two of them side by side."""

import contextlib
import json
import os
import platform
import subprocess
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

import alberta_nb
from bench.races import WORKLOADS


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}g}" if value < 10**digits else f"{value:.0f}"


def _times(ratio: float) -> str:
    "A ratio for people: 20x, or 1/1.3x for one below 1."
    if np.isnan(ratio):
        return ""
    return f"{_number(ratio)}x" if ratio >= 0.995 else f"1/{_number(1 / ratio)}x"


def bench_table(frame: pd.DataFrame) -> str:
    "The table as text: each race with the library's value, then each rival with its value, the ratio and its target."
    lines = []
    for part, rows in frame.groupby("part", sort=False):
        lines += ["", f"({part}) {WORKLOADS[str(part)][0]}"]
        columns = f"{'':25s}{'':>9s}{'ratio':>8s}{'range':>13s}{'target':>8s}"
        lines.append(f"  {'':29s}{'library':>8s} {'':9s}against{columns[7:]}")
        for name, group in rows.groupby("workload", sort=False):
            for i, row in enumerate(group.to_dict("records")):
                left = f"{name:29s}{_number(row['library']):>8s} {row['unit']:9s}" if i == 0 else " " * 47
                value = "absent" if np.isnan(row["value"]) else _number(row["value"])
                low, high = (_number(row[f"ratio_{end}"], 2) for end in ("low", "high"))
                spread = "" if np.isnan(row["ratio"]) else f"{low}-{high}"
                verdict = "" if pd.isna(row["met"]) else "met" if row["met"] else "missed"
                right = f"{value:>9s}{_times(row['ratio']):>8s}{spread:>13s}{_times(row['target']):>8s}  {verdict}"
                lines.append(f"  {left}{row['against']:25s}{right}".rstrip())
                if row.get("note"):
                    lines.append(f"{'':51s}{row['note']}")
    return "\n".join(lines[1:])


def bench_figure(frame: pd.DataFrame) -> Any:
    "A matplotlib figure of all ratios and their targets, on a logarithmic axis."
    import matplotlib.pyplot as plt

    shown = frame[frame.ratio.notna()]
    names = list(dict.fromkeys(f"({row.part}) {row.workload}" for row in shown.itertuples()))
    figure, axes = plt.subplots(figsize=(8, 1.6 + 0.28 * len(names)), layout="constrained")
    for k, (against, rows) in enumerate(shown.groupby("against", sort=False)):
        y = [names.index(f"({row.part}) {row.workload}") for row in rows.itertuples()]
        color, marker = f"C{k % 10}", "osD^vP*X"[k % 8]
        axes.hlines(y, rows.ratio_low, rows.ratio_high, color=color, lw=1, alpha=0.5)
        axes.plot(rows.ratio, y, marker, color=color, label=str(against), ms=6)
        axes.plot(rows.target, y, "|", color=color, ms=14, mew=2)
    axes.axvline(1, color="0.6", lw=1)
    axes.set(
        xscale="log",
        xlabel="the other's value over the library's (bars: targets)",
        yticks=range(len(names)),
        yticklabels=names,
    )
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def summary(frame: pd.DataFrame, has_numba: bool = True, quick: bool = False) -> str:
    "The table, how many targets are met, and how to read it."
    judged = frame.met.dropna()
    lines = [
        bench_table(frame),
        "",
        f"{int(judged.sum())} of {len(judged)} targets met.",
        "Ratio: the rival's median over the library's. Range: the ratios of single rounds.",
        "Limit: so many times of what is named behind it, measured in the same rounds.",
    ]
    if not has_numba:
        lines.append("numba is not installed, so its rows are absent (pip install numba).")
    if quick:
        lines.append("--quick: sizes this small do not show what a step costs.")
    return "\n".join(lines)


def _commit() -> str | None:
    "The commit of the checkout that is measured, with a + where files were changed; None outside of one."
    folder = Path(alberta_nb.__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude=*"]
    with contextlib.suppress(OSError):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() or None
    return None


def machine() -> dict[str, Any]:
    "What a reader needs to know of the machine: versions, processor and cores; no names, no paths."
    packages, cpu = ("jax", "jaxlib", "numpy", "numba"), Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "versions": {name: metadata.version(name) for name in packages if find_spec(name)},
        "alberta_nb": {"version": alberta_nb.__version__, "commit": _commit()},
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "backend": jax.default_backend(),
        "load_at_end": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def write_bench(frame: pd.DataFrame, output: str | Path, **settings: Any) -> None:
    "Write bench.json (machine, settings, rows) and bench.png into the folder `output`, each at once."
    import matplotlib.pyplot as plt

    from alberta_nb.loops.archive import replacing  # which an older checkout that is measured may lack

    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "settings": settings, "rows": json.loads(frame.to_json(orient="records"))}
    with replacing(folder / "bench.json") as path:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    figure = bench_figure(frame)
    with replacing(folder / "bench.png") as path:
        figure.savefig(path, dpi=100, format="png")
    plt.close(figure)


def read_bench(path: str | Path) -> pd.DataFrame:
    "The rows of a bench.json. Raises ValueError for another file."
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))["rows"]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is no bench.json") from None
    return pd.DataFrame(rows)


def compared(frame: pd.DataFrame, other: str | Path) -> str:
    "Each row's new value over its old one, library and rival: above 1 it takes longer now."
    keys = ["part", "workload", "against"]
    both = frame.merge(read_bench(other), on=keys, suffixes=("", "_old"))
    lines = ["", f"new / old ({Path(other).name})", f"  {'':34s}{'library':>9s}  {'against':25s}{'':>9s}"]
    for part, rows in both.groupby("part", sort=False):
        for name, group in rows.groupby("workload", sort=False):
            for i, row in enumerate(group.to_dict("records")):
                library, value = row["library"] / row["library_old"], row["value"] / (row["value_old"] or np.nan)
                left = f"({part}) {name:30s}{library:9.3f}" if i == 0 else " " * 43
                lines.append(f"  {left}  {row['against']:25s}" + ("" if np.isnan(value) else f"{value:9.3f}"))
    once = both.drop_duplicates(["part", "workload"])
    worse = once[once.library > 1.05 * once.library_old]
    slow = ", ".join(f"({part}) {name}" for part, name in zip(worse.part, worse.workload, strict=True))
    return "\n".join([*lines, "", f"{len(worse)} of {len(once)} races more than 5% slower: {slow or 'none'}"])
