"""Networks, beside the same algorithm written straight down with `jax.grad`."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from alberta_nb import (
    Autostep,
    MLPLearner,
    ObGDBounding,
    RandomWalkStream,
    run_mlp_learning_loop,
    run_mlp_learning_loop_batched,
)
from bench.races import Plan, Race, jitted_call, limited, timed, workload


def plain_network(params: Any, x: Array) -> Array:
    "The prediction () of a list of (weights, biases)."
    *hidden, (weights, bias) = params
    for w, b in hidden:
        sums = w @ x + b
        sums = (sums - sums.mean()) / jnp.sqrt(sums.var() + 1e-5)
        x = jnp.where(sums > 0, sums, 0.01 * sums)
    return (weights @ x + bias)[0]


def plain_autostep(optimizer: Autostep, states: Any, xs: Any, error: Array) -> tuple[Any, Any]:
    "Mahmood et al. (2012), table 1, many arrays under one bound: steps without the error, and (alpha, h, v) of each."
    grown = []
    for (alpha, h, v), x in zip(states, xs, strict=True):
        signal = error * x * h
        size = jnp.abs(signal)
        v = jnp.maximum(size, v + alpha * x * x * (size - v) / optimizer.tau)
        alpha = alpha * jnp.exp(optimizer.meta_step_size * signal / jnp.where(v > 0, v, 1.0))
        grown.append((alpha, h, v))
    bound = jnp.maximum(sum(jnp.sum(alpha * x * x) for (alpha, _, _), x in zip(grown, xs, strict=True)), 1.0)
    new = [
        (a / bound, h * (1.0 - a / bound * x * x) + a / bound * error * x, v)
        for (a, h, v), x in zip(grown, xs, strict=True)
    ]
    return [alpha * x for (alpha, _, _), x in zip(new, xs, strict=True)], new


def plain_steps(optimizer: Any, states: Any, xs: Any, error: Array) -> tuple[Any, Any]:
    "Steps without the error, and what the optimizer remembers."
    if isinstance(optimizer, Autostep):
        return plain_autostep(optimizer, states, xs, error)
    return [optimizer.step_size * x for x in xs], states


def has_traces(learner: MLPLearner) -> bool:
    "Whether traces last longer than a step."
    return learner.gamma * learner.lamda > 0


def plain_network_learn(learner: MLPLearner, carry: Any, x: Array, target: Array) -> tuple[Any, Array]:
    "One step with `jax.grad`: gradients, traces, steps and the bound of ObGD, each as large as the network."
    params, states, traces = carry
    prediction, gradients = jax.value_and_grad(plain_network)(params, x)
    error = target - prediction
    if has_traces(learner):
        traces = jax.tree.map(lambda z, g: learner.gamma * learner.lamda * z + g, traces, gradients)
    directions, tree = jax.tree.flatten(traces if has_traces(learner) else gradients)
    steps, states = plain_steps(learner.optimizer, states, directions, error)
    size = sum(jnp.sum(jnp.abs(step)) for step in steps)
    shrink = 1 / jnp.maximum(1.0, 2.0 * jnp.maximum(jnp.abs(error), 1.0) * size)
    params = jax.tree.map(lambda p, step: p + shrink * error * step, params, jax.tree.unflatten(tree, steps))
    return (params, states, traces), jnp.stack([error**2, error, shrink])


def plain_network_start(learner: MLPLearner, feature_dim: int, key: Array) -> Any:
    "Parameters as the library draws them, (alpha, h, v) of Autostep, and traces of 0."
    first = learner.init(feature_dim, key).params
    params = list(zip(first.weights, first.biases, strict=True))
    states: Any = ()
    if isinstance(learner.optimizer, Autostep):
        zeros = [jnp.zeros_like(array) for array in jax.tree.leaves(params)]
        states = [(zero + learner.optimizer.initial_step_size, zero, zero) for zero in zeros]
    return params, states, jax.tree.map(jnp.zeros_like, params) if has_traces(learner) else ()


@functools.partial(jax.jit, static_argnums=(0, 1))
def plain_network_walk(learner: MLPLearner, num_steps: int, key: Array) -> tuple[Any, Array]:
    "Learn in a random-walk world of 20 inputs whose noise is drawn inside the scan."
    key, start, first = jax.random.split(key, 3)
    truth = jax.random.normal(start, (20,))

    def step(carry: Any, _: None) -> tuple[Any, Array]:
        network, truth, key = carry
        key, drift_key, input_key, noise_key = jax.random.split(key, 4)
        truth = truth + 0.001 * jax.random.normal(drift_key, (20,))
        x = jax.random.normal(input_key, (20,))
        target = jnp.dot(truth, x) + 0.1 * jax.random.normal(noise_key)
        network, metrics = plain_network_learn(learner, network, x, target)
        return (network, truth, key), metrics

    start_of_all = plain_network_start(learner, 20, first), truth, key
    (network, _, _), metrics = lax.scan(step, start_of_all, length=num_steps)
    return network, metrics


NETWORKS = {
    "LMS + ObGD": (MLPLearner(bounder=ObGDBounding()), 4.0),
    "LMS + ObGD, traces": (MLPLearner(bounder=ObGDBounding(), gamma=0.9, lamda=0.8), 1.8),
    "Autostep + ObGD, traces": (
        MLPLearner(optimizer=Autostep(0.001, 0.01, 10_000.0), bounder=ObGDBounding(), gamma=0.9, lamda=0.8),
        1.3,
    ),
}  # each with the least ratio that is asked for


@workload("h", "networks 20-128-128-1 in a random-walk world")
def network_workload(plan: Plan) -> Iterator[Race]:
    "With and without traces, and with a step size for each weight."
    stream, rounds, steps = RandomWalkStream(20), iter(range(10**9)), plan.steps(40_000)

    for name, (learner, least) in NETWORKS.items():
        n = steps // 8 if isinstance(learner.optimizer, Autostep) else steps

        def library(learner: MLPLearner = learner, n: int = n) -> Any:
            return tuple(run_mlp_learning_loop(learner, stream, n, jax.random.key(next(rounds))))

        def plain(learner: MLPLearner = learner, n: int = n) -> Any:
            return plain_network_walk(learner, n // 4, jax.random.key(next(rounds)))

        yield Race(
            name, "us/step", {"library": timed(library, n), "plain loop": timed(plain, n // 4)}, {"plain loop": least}
        )


@workload("i", "networks: many seeds, and one call from Python")
def network_seeds_workload(plan: Plan) -> Iterator[Race]:
    "The plain way is `jax.vmap` of the whole loop; a call is limited by what a call of so many arrays costs."
    (learner, _), stream, rounds = NETWORKS["LMS + ObGD"], RandomWalkStream(20), iter(range(10**9))
    seeds, steps = 30, plan.steps(8_000)
    vmapped = jax.jit(jax.vmap(lambda key: plain_network_walk(learner, steps // 32, key)))

    def keys() -> Array:
        return jax.random.split(jax.random.key(next(rounds)), seeds)

    def library() -> Any:
        result = run_mlp_learning_loop_batched(learner, stream, steps, keys())
        return result.states, result.metrics

    contenders = {
        "library": timed(library, seeds * steps),
        "vmap of the plain loop": timed(lambda: vmapped(keys()), seeds * (steps // 32)),
    }
    yield Race(f"{seeds} seeds, LMS + ObGD", "us/step", contenders, {"vmap of the plain loop": 5.0})

    rows = np.random.default_rng(0).standard_normal((plan.steps(1_600), 20), np.float32)
    start = learner.init(20, jax.random.key(0))

    def updates() -> Any:
        state = start
        for row in rows:
            state = learner.update(state, row, row[0]).state
        return state

    limit, said = limited(1.25, "a jitted call of as many arrays", jitted_call((start, rows[0], rows[0, 0]), len(rows)))
    calls = {"library": timed(updates, len(rows)), "limit": limit}
    yield Race("one update", "us/call", calls, {"limit": 1.0}, limit=said)
