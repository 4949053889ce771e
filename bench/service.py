"""One event at a time from Python, and what a session pays once."""

import functools
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alberta_nb import IDBD, LinearLearner, Stepper
from bench.linear import plain_learn, plain_start
from bench.races import Contender, Plan, Race, fresh_process, jitted_call, limited, timed, workload


def service_contenders(n: int) -> dict[str, Contender]:
    "Four ways to hand over `n` events of 20 inputs from Python, in microseconds for an event."
    optimizer, random = IDBD(0.005, meta_step_size=2.5e-5), np.random.default_rng(0)
    learner, x, y = LinearLearner(optimizer), random.standard_normal((n, 20), dtype=np.float32), np.ones(n, np.float32)
    events: list[Any] = list(zip(x, y, strict=True))
    plain = jax.jit(functools.partial(plain_learn, optimizer))
    stepper, many = Stepper(learner, 20), Stepper(learner, 20)

    def updates() -> Any:
        state = learner.init(20)
        for row, target in events:
            state = learner.update(state, row, target).state
        return state

    def plain_updates() -> Any:
        state = plain_start(optimizer, 20)
        for row, target in events:
            state, _ = plain(state, row, target)
        return state

    def steps() -> Any:
        for row, target in events:  # a service reads an answer and lets go of it
            answer = stepper.update(row, target)
        return answer

    def batches() -> Any:
        return [many.update_many(x[i : i + 64], y[i : i + 64]) for _ in range(8) for i in range(0, n, 64)]

    return {
        "update": timed(updates, n),
        "plain": timed(plain_updates, n),
        "stepper": timed(steps, n),
        "many": timed(batches, 8 * n),
    }


def packed_call(state: Any, rows: int, calls: int) -> Contender:
    "Microseconds for an example of a jitted call with a state in one array and so many examples, its answer read."
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(state))
    call = jax.jit(lambda packed, x, y: (packed + 1, x[..., :3] + y[..., None]))
    x, y = np.ones((rows, 20) if rows else 20, np.float32), np.ones(rows, np.float32) if rows else np.float32(1)

    def chain() -> Any:
        packed: Any = jnp.zeros(size)
        for _ in range(calls):
            packed, answer = call(packed, x, y)
            np.asarray(answer)
        return packed

    return timed(chain, calls * max(rows, 1))


@workload("e", "calls from Python, first call, memory")
def call_workload(plan: Plan) -> Iterator[Race]:
    "Limits are so many jitted calls that do nothing: a call's price is the machine's, what comes on top is ours."
    events = max(64, plan.steps(4096) // 64 * 64)
    service = service_contenders(events)
    state = LinearLearner(IDBD(0.005, meta_step_size=2.5e-5)).init(20)
    given = state, jnp.ones(20), jnp.ones(())
    limit, said = limited(2.0, "a jitted call of as many arrays", jitted_call(given, events))
    calls = {"library": service["update"], "limit": limit, "plain step, jitted": service["plain"]}
    yield Race("one update, d=20", "us/call", calls, {"limit": 1.0}, limit=said)
    limit, said = limited(1.0, "a jitted call of three arrays, read", packed_call(state, 0, events))
    calls = {"library": service["stepper"], "limit": limit}
    yield Race("one Stepper.update", "us/call", calls, {"limit": 1.0}, limit=said)
    limit, said = limited(5.0, "the same with 64 rows", packed_call(state, 64, events // 8))
    calls = {"library": service["many"], "limit": limit}
    yield Race("Stepper.update_many of 64", "us/event", calls, {"limit": 1.0}, limit=said)
    yield first_call_race()
    yield from memory_races(plan)


FIRST_CALL = """
import sys, time
import jax
from alberta_nb import IDBD, LinearLearner, RandomWalkStream, run_learning_loop
from bench.linear import plain_walk
start = time.perf_counter()
if sys.argv[1] == "library":
    out = tuple(run_learning_loop(LinearLearner(IDBD()), RandomWalkStream(20), 10_000, jax.random.key(0)))
else:
    out = plain_walk(IDBD(), 20, 10_000, jax.random.key(0))
jax.block_until_ready(out)
print(time.perf_counter() - start)
"""

MEMORY = """
import sys
from pathlib import Path
import jax
from alberta_nb import IDBD, LinearLearner, RandomWalkStream, run_learning_loop

def peak():
    status = Path("/proc/self/status")  # on Linux, where ru_maxrss of a child starts with what its parent held
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)

for steps in map(int, sys.argv[1:]):
    run_learning_loop(LinearLearner(IDBD(0.005)), RandomWalkStream(20), steps, jax.random.key(0), record_every=10_000)
    print(peak())
"""


def first_call_race() -> Race:
    "What a session pays once: the first call with its compilation, in a process that has compiled nothing yet."
    plain: list[float] = []  # of this round

    def plain_call() -> float:
        return plain.pop() if plain else fresh_process(FIRST_CALL, "plain")[0]

    def yardstick() -> float:
        plain.append(plain_call())
        return plain[-1]

    limit, said = limited(1.5, "the plain loop's", yardstick)
    first = {
        "library": lambda: fresh_process(FIRST_CALL, "library")[0],
        "limit": limit,
        "plain loop": plain_call,
    }
    return Race("first call with compile, d=20", "s", first, {"limit": 1.0}, warm=False, limit=said)


def memory_races(plan: Plan) -> Iterator[Race]:
    "The memory of runs that grow tenfold, in a process that has held nothing else."
    if not (find_spec("resource") or Path("/proc/self/status").exists()):
        return
    powers = (5, 6) if plan.quick else (6, 7, 8) if plan.long else (6, 7)

    @functools.cache
    def peaks() -> list[float]:
        return fresh_process(MEMORY, *(10**p for p in powers))

    for k, power in enumerate(powers[1:], 1):
        contenders: dict[str, Contender | None] = {
            "library": functools.partial(lambda k: peaks()[k], k),
            f"after 10^{powers[0]}": lambda: peaks()[0],
        }
        target = {f"after 10^{powers[0]}": 1 / 1.05}
        yield Race(f"peak memory after 10^{power} steps", "MB", contenders, target, warm=False, repeats=1)
