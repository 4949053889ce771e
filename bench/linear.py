"""Linear learners: in a drifting world, on given arrays, with many seeds, and in short runs that repeat."""

import functools
import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from alberta_nb import (
    IDBD,
    LMS,
    ArraySource,
    Autostep,
    LinearLearner,
    Optimizer,
    RandomWalkStream,
    run_learning_loop,
    run_learning_loop_batched,
)
from bench.numba_loops import numba_learner, numba_pages, numba_walk, with_numba
from bench.races import Contender, Plan, Race, longest_compiled_call, timed, workload

# --- plain JAX ---


def plain_learn(optimizer: Optimizer, learner: Any, x: Array, y: Array) -> tuple[Any, Array]:
    "One example: the next (weights, bias, optimizer state), and [squared error, error, mean step size]."
    weights, bias, state = learner
    error = y - (jnp.dot(weights, x) + bias)
    move = optimizer.update(state, error, x)
    metrics = jnp.stack([error**2, error, move.metrics["mean_step_size"]])
    return (weights + move.weight_delta, bias + move.bias_delta, move.new_state), metrics


def plain_start(optimizer: Optimizer, feature_dim: int) -> Any:
    "Weights, bias and optimizer state before the first example."
    return jnp.zeros(feature_dim), jnp.zeros(()), optimizer.init(feature_dim)


def plain_walk_loop(optimizer: Optimizer, feature_dim: int, num_steps: int, key: Array) -> tuple[Any, Array]:
    "Learn in a random-walk world whose noise is drawn inside the scan: the final learner, and metrics (num_steps, 3)."
    key, start = jax.random.split(key)
    truth = jax.random.normal(start, (feature_dim,))

    def step(carry: Any, _: None) -> tuple[Any, Array]:
        learner, truth, key = carry
        key, drift_key, input_key, noise_key = jax.random.split(key, 4)
        truth = truth + 0.001 * jax.random.normal(drift_key, (feature_dim,))
        x = jax.random.normal(input_key, (feature_dim,))
        y = jnp.dot(truth, x) + 0.1 * jax.random.normal(noise_key)
        learner, metrics = plain_learn(optimizer, learner, x, y)
        return (learner, truth, key), metrics

    (learner, _, _), metrics = lax.scan(step, (plain_start(optimizer, feature_dim), truth, key), length=num_steps)
    return learner, metrics


plain_walk = jax.jit(plain_walk_loop, static_argnums=(0, 1, 2))


@functools.partial(jax.jit, static_argnums=0)
def plain_arrays(optimizer: Optimizer, x: Array, y: Array) -> tuple[Any, Array]:
    "Learn from given inputs (num_steps, feature_dim) and targets (num_steps,)."
    step = functools.partial(plain_learn, optimizer)
    return lax.scan(lambda learner, row: step(learner, *row), plain_start(optimizer, x.shape[1]), (x, y))


# --- races ---


def bench_optimizers(feature_dim: int) -> dict[str, Optimizer]:
    "LMS, IDBD and Autostep with settings that are stable for so many inputs."
    size = 0.1 / feature_dim
    return {"LMS": LMS(size), "IDBD": IDBD(size, meta_step_size=size * size), "Autostep": Autostep(size, 0.01, 1e4)}


def walk_contenders(optimizer: Optimizer, d: int, n: int, plain_n: int) -> dict[str, Contender | None]:
    "The library, the plain loop and numba in the random-walk world."
    learner, stream, seeds = LinearLearner(optimizer), RandomWalkStream(d), iter(range(10**9))

    def numba_contender(pages: Mapping[str, Any]) -> Contender:
        return timed(lambda: numba_walk(optimizer, d, n, next(seeds), pages), n)

    return {
        "library": timed(lambda: tuple(run_learning_loop(learner, stream, n, jax.random.key(next(seeds)))), n),
        "plain loop": timed(lambda: plain_walk(optimizer, d, plain_n, jax.random.key(next(seeds))), plain_n),
        **with_numba(numba_contender),
    }


@workload("a", "linear learner in a random-walk world")
def walk_workload(plan: Plan) -> Iterator[Race]:
    "The library, the plain loop and numba draw their own noise."
    for d, n, plain_n in ((20, 400_000, 40_000), (100, 100_000, 30_000), (1000, 10_000, 8_000)):
        if d not in plan.sizes(20, 100, 1000):
            continue
        for name, optimizer in bench_optimizers(d).items():
            least = {20: 15.0 if name == "Autostep" else 20.0, 100: 8.0, 1000: 2.5}[d]
            contenders = walk_contenders(optimizer, d, plan.steps(n), plan.steps(plain_n))
            yield Race(f"{name}, d={d}", "us/step", contenders, {"plain loop": least, "numba": 1.5})


def array_contenders(optimizer: Optimizer, d: int, n: int) -> dict[str, Contender | None]:
    "The library, the plain scan and numba on the same arrays."
    random = np.random.default_rng(0)
    x = random.standard_normal((n, d), dtype=np.float32)
    y = x @ random.standard_normal(d, dtype=np.float32) + 0.1 * random.standard_normal(n, dtype=np.float32)
    learner, source, device_x, device_y = LinearLearner(optimizer), ArraySource(x, y), jnp.asarray(x), jnp.asarray(y)
    with_ones, metrics = np.column_stack([x, np.ones(n, np.float32)]), np.empty((n, 3), np.float32)

    def numba_contender(pages: Mapping[str, Any]) -> Contender:
        return timed(lambda: numba_learner(optimizer, d, pages)(with_ones, y, metrics), n)

    return {
        "library": timed(lambda: tuple(run_learning_loop(learner, source)), n),
        "plain loop": timed(lambda: plain_arrays(optimizer, device_x, device_y), n),
        **with_numba(numba_contender),
    }


@workload("b", "linear learner, arrays given")
def array_workload(plan: Plan) -> Iterator[Race]:
    "No random numbers are drawn: what is left is the learner's own loop."
    for d, n, least in ((20, 1_000_000, 1.0), (100, 200_000, 2.0)):
        if d in plan.sizes(20, 100):
            for name, optimizer in bench_optimizers(d).items():
                contenders = array_contenders(optimizer, d, plan.steps(n))
                yield Race(f"{name}, d={d}", "us/step", contenders, {"numba": least})


def seed_contenders(seeds: int, n: int, plain_n: int) -> dict[str, Contender | None]:
    "The library's batch, the vmapped plain loop and two threads of numba, in microseconds for one step of one seed."
    optimizer, stream, rounds = IDBD(0.005, meta_step_size=2.5e-5), RandomWalkStream(20), iter(range(10**9))
    learner, plain = LinearLearner(optimizer), jax.jit(jax.vmap(lambda key: plain_walk(optimizer, 20, plain_n, key)))

    def keys() -> Array:
        return jax.random.split(jax.random.key(next(rounds)), seeds)

    def library() -> Any:
        result = run_learning_loop_batched(learner, stream, n, keys())
        return result.states, result.metrics

    def threads(pages: Mapping[str, Any]) -> list[np.ndarray]:
        first = next(rounds) * seeds
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda s: numba_walk(optimizer, 20, plain_n, s, pages), range(first, first + seeds)))

    numba = None
    if find_spec("numba"):
        numba = timed(lambda: threads(numba_pages()), seeds * plain_n)
    return {
        "library": timed(library, seeds * n),
        "vmap of the plain loop": timed(lambda: plain(keys()), seeds * plain_n),
        "numba, 2 threads": numba,
    }


@workload("c", "many seeds at once, IDBD, d=20")
def seed_workload(plan: Plan) -> Iterator[Race]:
    "The plain way is `jax.vmap` of the whole loop; numba gives each of two threads half of the seeds, noise included."
    for seeds, n, plain_n, least in ((30, 20_000, 4_000, 8.0), (1000, 1_000, 400, 3.0)):
        if seeds in plan.sizes(30, 1000):
            contenders = seed_contenders(seeds, plan.steps(n), plan.steps(plain_n))
            yield Race(f"{seeds} seeds", "us/step", contenders, {"vmap of the plain loop": least})


def fresh_plain_walk(optimizer: Optimizer, num_steps: int, key: Array) -> Any:
    "The plain loop behind a new `jax.jit`, as in a library that makes one in every call: each time it is compiled."
    return jax.jit(functools.partial(plain_walk_loop, optimizer, 20, num_steps))(key)


@workload("d", "a repeated short run")
def repeat_workload(plan: Plan) -> Iterator[Race]:
    "As in an interactive session or a search; a pure run is the compiled call by itself."
    optimizer, stream, short, long = IDBD(0.005, meta_step_size=2.5e-5), RandomWalkStream(20), 10_000, 1_000_000
    keys = itertools.cycle(jax.block_until_ready([jax.random.key(i) for i in range(100)]))

    def library(num_steps: int) -> Any:
        learner = LinearLearner(IDBD(0.005, meta_step_size=2.5e-5))  # equal, not the same: it must not compile again
        return tuple(run_learning_loop(learner, stream, num_steps, next(keys)))

    run, steps, calls = longest_compiled_call(lambda: library(short)), plan.steps(long), max(10, plan.steps(100))
    contenders: dict[str, Contender | None] = {
        "library": timed(lambda: [library(short) for _ in range(calls)], calls, 1e3),
        "pure run": run and timed(lambda: [jax.block_until_ready(run()) for _ in range(calls)], calls, 1e3),
        "its share of a long run": timed(lambda: library(steps), steps / short, 1e3),
        "plain loop, compiled anew": timed(lambda: fresh_plain_walk(optimizer, short, next(keys)), 1, 1e3),
    }
    yield Race(f"{short:,} steps, IDBD, d=20", "ms/call", contenders, {"pure run": 1 / 1.3})
