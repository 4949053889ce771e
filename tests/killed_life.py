"""Long runs for tests that kill them: `python killed_life.py NAME FILE` saves to FILE, and writes FILE.npz at the end.

`python killed_life.py` alone kills them at fifty random moments, and tells of it; the tests do it a few times.
"""

import functools
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from files import popen_python

import alberta_nb as ab
from alberta_nb.apps.cli import cache_settings

KEY = jax.random.key(11)


def linear(steps: int, **options: Any) -> Any:
    learner = ab.LinearLearner(ab.Autostep(0.02), ab.EMANormalizer())
    tracking = ab.StepSizeTrackingConfig(1000)
    stream = ab.RandomWalkStream(8)
    return ab.run_learning_loop(learner, stream, steps, KEY, step_size_tracking=tracking, record_every=7, **options)


def network(steps: int, **options: Any) -> Any:
    x = np.random.default_rng(5).normal(size=(steps, 6)).astype(np.float32)
    y = np.where(np.arange(steps) % 1009 == 5, np.nan, x[:, 0] * x[:, 1])
    learner, looks = ab.MLPLearner((16,), ab.IDBD(0.01)), ab.DiagnosticsConfig(40_000, 20)
    options |= {"diagnostics": looks, "record_every": 40, "non_finite": "skip"}
    return ab.run_mlp_learning_loop(learner, ab.ArraySource(x, y), None, KEY, **options)


def seeds(steps: int, **options: Any) -> Any:
    keys, learner = jax.random.split(KEY, 5), ab.TDLinearLearner(ab.TDIDBD(trace_decay=0.5))
    return ab.run_td_learning_loop_batched(learner, ab.RelevanceRing(5, 3), steps, keys, record_every=13, **options)


def feed(steps: int, **options: Any) -> Any:
    rng = np.random.default_rng(6)
    rows = ((x, x.sum()) for x in (rng.normal(size=4) for _ in range(steps)))
    return ab.run_learning_loop(ab.LinearLearner(ab.IDBD(0.05)), ab.IteratorSource(rows), **options)


LIVES: dict[str, tuple[Callable[..., Any], int]] = {
    "linear": (linear, 12_000_000), "network": (network, 400_000), "seeds": (seeds, 6_000_000), "feed": (feed, 300_000),
}  # fmt: skip


def numbers(result: Any) -> list[np.ndarray]:
    """All numbers of a result."""
    return [np.asarray(a) for a in jax.tree.leaves((*result, result.stream_state, result.skipped, result.steps))]


@functools.cache
def at_once(name: str, steps: int) -> list[np.ndarray]:
    """Those of a run that nobody ends."""
    return numbers(LIVES[name][0](steps))


def kill(name: str, path: Path, steps: int, moments: random.Random, most: int, **more: str) -> list[int]:
    """Kill a run at most so often, each time in its first seconds, until it ends; how far its file was each time."""
    found = list[int]()
    while True:
        with popen_python(Path(__file__), name, path, steps, **more) as process:
            assert process.stdout.readline() == "begun\n"
            if len(found) < most:
                time.sleep(moments.uniform(0.0, 1.5))
                process.kill()
            if process.wait() >= 0:
                assert process.returncode == 0, name
                return found
        found.append(int(ab.load(path).position.steps.max()) if path.exists() else 0)


def check(name: str, folder: Path, steps: int, moments: random.Random, most: int, **more: str) -> list[int]:
    """Raise unless a run that was killed gives the bits of one that was not; how far it was each time."""
    found = kill(name, folder / name, steps, moments, most, **more)
    with np.load(folder / f"{name}.npz") as ended:
        pairs = zip(ended.values(), at_once(name, steps), strict=True)
        assert all(a.tobytes() == b.tobytes() for a, b in pairs), name
    assert not list(folder.glob("*.part")), "what was begun goes with the next save"
    return found


def main() -> None:
    moments, killed, began = random.Random(0), 0, time.monotonic()
    os.environ.update(cache_settings())  # what was compiled is there for the next process
    with tempfile.TemporaryDirectory() as folder:
        while killed < 50:
            for name, (_, steps) in LIVES.items():
                for path in Path(folder).iterdir():
                    path.unlink()
                found = check(name, Path(folder), steps, moments, min(13, 50 - killed))
                killed += len(found)
                print(f"{name}: the same bits, though killed after the saves of steps {found}", flush=True)
    print(f"{killed} times in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        LIVES[sys.argv[1]][0](min(int(sys.argv[3]), 70_000))  # whatever is compiled is compiled now
        print("begun", flush=True)
        every = 5000 if sys.argv[1] == "feed" else "0.05 s"  # a block of a feed takes seconds
        result = LIVES[sys.argv[1]][0](int(sys.argv[3]), checkpoint=sys.argv[2], checkpoint_every=every)
        np.savez(sys.argv[2] + ".npz", *numbers(result))
    else:
        main()
