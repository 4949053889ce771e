"""A Horde: many demons on one trunk, beside a loop over demons in plain JAX and beside numba."""

import functools
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from alberta_nb import (
    LMS,
    DemonType,
    GVFSpec,
    HordeLearner,
    ObGDBounding,
    create_horde_spec,
    run_horde_learning_loop,
)
from bench.numba_horde import numba_horde
from bench.races import Contender, Plan, Race, jitted_call, limited, timed, workload

SIZES = (20, 128, 128)
SCALES = ((0.0, 0.0), (0.9, 0.8))


def bench_horde_learner(n: int) -> HordeLearner:
    "The Horde of the races, with `n` demons."
    demons = [GVFSpec(str(i), DemonType.PREDICTION, *SCALES[i % 2]) for i in range(n)]
    return HordeLearner(create_horde_spec(demons), SIZES[1:], LMS(1.0), bounder=ObGDBounding(2.0))


def horde_rows(n: int, steps: int) -> tuple[np.ndarray, ...]:
    "Observations, cumulants and next observations."
    random = np.random.default_rng(0)
    x = random.standard_normal((steps + 1, SIZES[0]), np.float32)
    cumulants = np.tanh(x[1:] @ random.standard_normal((SIZES[0], n), np.float32))
    return x[:-1], cumulants, x[1:]


def plain_features(trunk: Any, x: Array) -> Array:
    "The hidden layers: dense, layer norm, leaky ReLU."
    for w, b in trunk:
        a = w @ x + b
        a = (a - jnp.mean(a)) / jnp.sqrt(jnp.var(a) + 1e-5)
        x = jnp.where(a > 0, a, 0.01 * a)
    return x


def plain_demon(demon: Any, scale: tuple[float, float], cumulant: Array, features: Array, following: Array) -> Any:
    "One head: its next state, its error, and what it tells the trunk; without a cumulant it stays as it is."
    w, b, z, bias_z = demon
    gamma, lamda = scale
    active = jnp.logical_not(jnp.isnan(cumulant))
    error = jnp.where(active, cumulant + gamma * (jnp.dot(w, following) + b) - (jnp.dot(w, features) + b), 0.0)
    z, bias_z = gamma * lamda * z + features, gamma * lamda * bias_z + 1.0
    overshoot = 2.0 * jnp.maximum(jnp.abs(error), 1.0) * (jnp.sum(jnp.abs(z)) + jnp.abs(bias_z))
    step = error / jnp.maximum(overshoot, 1.0)
    new = w + step * z, b + step * bias_z, z, bias_z
    metrics = jnp.where(active, jnp.stack([error * error, error, jnp.ones(())]), jnp.nan)
    return jax.tree.map(lambda a, o: jnp.where(active, a, o), new, demon), error, error * w, metrics


def plain_horde_step(scales: Any, carry: Any, row: tuple[Array, ...]) -> tuple[Any, Array]:
    "One transition: all demons in turn, then the trunk."
    (trunk, demons), (x, cumulants, next_x) = carry, row
    features, pull = jax.vjp(lambda t: plain_features(t, x), trunk)
    following = plain_features(trunk, next_x)
    results = [plain_demon(d, s, c, features, following) for d, s, c in zip(demons, scales, cumulants, strict=True)]
    new, errors, cotangents, metrics = zip(*results, strict=True)
    (steps,) = pull(sum(cotangents))
    total = sum(jnp.abs(e) for e in errors)
    size = sum(jnp.sum(jnp.abs(s)) for s in jax.tree.leaves(steps)) / jnp.where(total > 0, total, 1.0)
    factor = 1.0 / jnp.maximum(2.0 * jnp.maximum(total, 1.0) * size, 1.0)
    trunk = jax.tree.map(lambda a, s: a + factor * s, trunk, steps)
    return (trunk, list(new)), jnp.stack(metrics)


@functools.partial(jax.jit, static_argnums=0)
def plain_horde(scales: tuple[tuple[float, float], ...], start: Any, rows: tuple[Array, ...]) -> tuple[Any, Array]:
    "Learn from given transitions; the metrics (steps, n_demons, 3)."
    return lax.scan(functools.partial(plain_horde_step, scales), start, rows)


def plain_start(learner: HordeLearner, state: Any) -> tuple[Any, Any]:
    "Discounts and decays, and the same first weights, in the plain loop's form."
    (*weights, heads), (*biases, head_biases) = state.params.weights, state.params.biases
    demons = [(w, b, jnp.zeros_like(w), jnp.zeros(())) for w, b in zip(heads, head_biases, strict=True)]
    scales = tuple((d.gamma, d.lamda) for d in learner.horde_spec.demons)
    return scales, (list(zip(weights, biases, strict=True)), demons)


def horde_contenders(n: int, steps: int, plain_steps: int) -> dict[str, Contender | None]:
    "The library, the plain loop where it compiles in a bearable time, and numba, on the same transitions."
    learner, rows = bench_horde_learner(n), horde_rows(n, steps)
    state = learner.init(SIZES[0], jax.random.key(0))
    contenders: dict[str, Contender | None] = {
        "library": timed(lambda: run_horde_learning_loop(learner, state, *rows).td_errors, steps)
    }
    if plain_steps:
        scales, start = plain_start(learner, state)
        few = tuple(jnp.asarray(a[:plain_steps]) for a in rows)
        contenders["plain loop over demons"] = timed(lambda: plain_horde(scales, start, few), plain_steps)
    contenders["numba"] = None
    if find_spec("numba"):
        import numba

        contenders["numba"] = timed(numba_horde(learner, state, rows, numba.njit(nogil=True)), steps)
    return contenders


def numpy_sweep(n: int, calls: int) -> Contender:
    "Microseconds in which numpy moves the traces and weights of so many heads: six arrays are read, three written."
    w, z, spare = np.zeros((3, n, SIZES[-1] + 1), np.float32)
    features, steps = np.ones(SIZES[-1] + 1, np.float32), np.full((n, 1), 1e-3, np.float32)

    def sweep() -> None:
        for _ in range(calls):
            np.multiply(z, np.float32(0.72), out=z)
            np.add(z, features, out=z)
            np.multiply(z, steps, out=spare)
            np.add(w, spare, out=w)

    return timed(sweep, calls)


@workload("j", "a Horde on 20-128-128, transitions given")
def horde_workload(plan: Plan) -> Iterator[Race]:
    "At 1000 demons the plain loop has no race: its program has a thousand heads in it, and takes minutes to compile."
    plain = "plain loop over demons"
    for n, steps, plain_steps, target in ((10, 40_000, 4_000, 5.0), (100, 16_000, 1_000, 15.0), (1000, 2_400, 0, 0.0)):
        targets: dict[str, float] = {"numba": 1.0} | ({plain: target} if target else {"limit": 1.0})
        contenders, said = horde_contenders(n, plan.steps(steps), plan.steps(plain_steps)), ""
        if not target:
            what = "numpy on the heads' weights and traces"
            contenders["limit"], said = limited(2.5, what, numpy_sweep(n, plan.steps(800)))
        yield Race(f"{n} demons", "us/step", contenders, targets, limit=said)
        if plan.quick:
            return


def fresh_horde(n: int, slopes: Iterator[float]) -> Contender:
    "The time of a first run of so many demons, in seconds: another slope is another program."

    def contender() -> float:
        spec = bench_horde_learner(n).horde_spec
        learner = HordeLearner(spec, SIZES[1:], LMS(1.0), bounder=ObGDBounding(2.0), leaky_relu_slope=next(slopes))
        state, rows = learner.init(SIZES[0], jax.random.key(0)), horde_rows(n, 64)
        start = time.perf_counter()
        jax.block_until_ready(run_horde_learning_loop(learner, state, *rows).td_errors)
        return time.perf_counter() - start

    return contender


def fresh_plain_horde(n: int) -> Contender:
    "The time of a first run of the plain loop over so many demons, in seconds, compiled anew."

    def contender() -> float:
        learner, rows = bench_horde_learner(n), tuple(map(jnp.asarray, horde_rows(n, 64)))
        scales, carry = plain_start(learner, learner.init(SIZES[0], jax.random.key(0)))
        run = jax.jit(lambda carry, rows: lax.scan(functools.partial(plain_horde_step, scales), carry, rows))
        start = time.perf_counter()
        jax.block_until_ready(run(carry, rows))
        return time.perf_counter() - start

    return contender


@workload("k", "a Horde: the first run, and one call from Python")
def horde_call_workload(plan: Plan) -> Iterator[Race]:
    "What compiling costs, with settings that the process has not met; and one event at a time, as in a service."
    many, slopes = plan.sizes(10, 1000)[-1], iter(np.linspace(0.02, 0.03, 1000).tolist())
    limit, said = limited(1.0, "the plain loop's over 10", fresh_plain_horde(10))
    first = {"library": fresh_horde(many, slopes), "limit": limit}
    yield Race(f"first run of {many} demons", "s", first, {"limit": 1.0}, repeats=3, limit=said)
    learner, calls = bench_horde_learner(100), plan.steps(1600)
    start, rows = learner.init(SIZES[0], jax.random.key(0)), horde_rows(100, calls)

    def updates() -> Any:
        state = start
        for row in zip(*rows, strict=True):
            state = learner.update(state, *row).state
        return state

    limit, said = limited(3.5, "a jitted call of as many arrays", jitted_call((start, *(a[0] for a in rows)), calls))
    call = {"library": timed(updates, calls), "limit": limit}
    yield Race("one update, 100 demons", "us/call", call, {"limit": 1.0}, limit=said)
