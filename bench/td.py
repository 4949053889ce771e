"""Temporal differences: transitions that are given, and many seeds on a chain."""

import functools
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from alberta_nb import (
    TDIDBD,
    AutoTDIDBD,
    RandomWalkChain,
    TDArraySource,
    TDLinearLearner,
    TDOptimizer,
    run_td_learning_loop,
    run_td_learning_loop_batched,
)
from bench.races import Contender, Plan, Race, timed, workload


def plain_td_learn(optimizer: TDOptimizer, learner: Any, row: tuple[Array, ...]) -> tuple[Any, Array]:
    "One transition: the next (weights, bias, optimizer state), and the four metrics of a TD learner."
    weights, bias, state = learner
    x, reward, next_x, gamma = row
    next_value = jnp.where(gamma > 0, jnp.dot(weights, next_x) + bias, 0.0)
    error = reward + gamma * next_value - (jnp.dot(weights, x) + bias)
    move = optimizer.update(state, error, x, next_x, gamma)
    means = move.metrics["mean_step_size"], move.metrics["mean_eligibility_trace"]
    return (weights + move.weight_delta, bias + move.bias_delta, move.new_state), jnp.stack([error**2, error, *means])


def plain_td_start(optimizer: TDOptimizer, feature_dim: int) -> Any:
    "Weights, bias and optimizer state before the first transition."
    return jnp.zeros(feature_dim), jnp.zeros(()), optimizer.init(feature_dim)


@functools.partial(jax.jit, static_argnums=0)
def plain_transitions(optimizer: TDOptimizer, rows: tuple[Array, ...]) -> tuple[Any, Array]:
    "Learn from given transitions: observations, rewards (n,), next observations, discounts (n,)."
    start = plain_td_start(optimizer, rows[0].shape[1])
    return lax.scan(functools.partial(plain_td_learn, optimizer), start, rows)


@functools.partial(jax.jit, static_argnums=(0, 1))
def plain_chain(optimizer: TDOptimizer, num_steps: int, key: Array) -> tuple[Any, Array]:
    "Learn the values of the 19-state random walk (Sutton and Barto, example 7.1): the learner, and its metrics."

    def step(carry: Any, _: None) -> tuple[Any, Array]:
        learner, at, key = carry
        key, coin = jax.random.split(key)
        to = at + jnp.where(jax.random.uniform(coin) < 0.5, -1, 1)
        ended = (to < 0) | (to == 19)
        reward = jnp.where(to < 0, -1.0, jnp.where(to == 19, 1.0, 0.0))
        x, next_x = jax.nn.one_hot(at, 19), jax.nn.one_hot(to, 19)
        learner, metrics = plain_td_learn(optimizer, learner, (x, reward, next_x, jnp.where(ended, 0.0, 1.0)))
        return (learner, jnp.where(ended, 9, to), key), metrics

    (learner, _, _), metrics = lax.scan(step, (plain_td_start(optimizer, 19), 9, key), length=num_steps)
    return learner, metrics


def tdidbd_page(
    w: np.ndarray, b: np.ndarray, h: np.ndarray, z: np.ndarray, theta: Any, lamda: Any,
    x: np.ndarray, rewards: np.ndarray, next_x: np.ndarray, gammas: np.ndarray, metrics: np.ndarray,
) -> None:  # fmt: skip
    "TDIDBD (semi-gradient) on transitions, in place: b are log step sizes, h memories, z traces."
    decay, d = np.float32(0), np.float32(w.size)
    for t in range(x.shape[0]):
        value, next_value = np.float32(0), np.float32(0)
        for i in range(w.size):
            value += w[i] * x[t, i]
            next_value += w[i] * next_x[t, i]
        error = rewards[t] - value
        if gammas[t] > 0:
            error += gammas[t] * next_value
        total, traces = np.float32(0), np.float32(0)
        for i in range(w.size):
            b[i] = max(b[i] + theta * error * x[t, i] * h[i], np.float32(-10))
            alpha = np.exp(b[i])
            z[i] = decay * z[i] + x[t, i]
            w[i] += alpha * error * z[i]
            h[i] = h[i] * max(np.float32(1) - alpha * x[t, i] * z[i], np.float32(0)) + alpha * error * z[i]
            total += alpha
            traces += abs(z[i])
        decay = gammas[t] * lamda
        metrics[t, 0], metrics[t, 1], metrics[t, 2], metrics[t, 3] = error * error, error, total / d, traces / d


def numba_tdidbd(optimizer: TDIDBD, rows: tuple[np.ndarray, ...], compile_page: Any) -> Callable[[], np.ndarray]:
    "A run of `tdidbd_page` over transitions; the bias is a weight whose input is 1."
    x, rewards, next_x, gammas = rows
    ones, page = np.ones((len(x), 1), np.float32), compile_page(tdidbd_page)
    x, next_x, metrics = np.hstack([x, ones]), np.hstack([next_x, ones]), np.empty((len(x), 4), np.float32)
    rates = np.float32(optimizer.meta_step_size), np.float32(optimizer.trace_decay)

    def run() -> np.ndarray:
        zeros = [np.zeros(x.shape[1], np.float32) for _ in range(3)]
        start = np.full(x.shape[1], np.log(optimizer.initial_step_size), np.float32)
        page(zeros[0], start, zeros[1], zeros[2], *rates, x, rewards, next_x, gammas, metrics)
        return metrics

    return run


def transition_contenders(optimizer: TDOptimizer, n: int, plain_n: int) -> dict[str, Contender | None]:
    "The library, the plain scan and, for TDIDBD, numba on the same transitions of 20 features."
    random = np.random.default_rng(0)
    x, rewards = random.standard_normal((n + 1, 20), np.float32), random.standard_normal(n, np.float32)
    gammas = np.where(np.arange(n) % 100 == 99, 0.0, 0.9).astype(np.float32)
    rows = x[:-1], rewards, x[1:], gammas
    learner, source = TDLinearLearner(optimizer), TDArraySource(*rows)
    device_rows = tuple(jnp.asarray(a[:plain_n]) for a in rows)
    contenders: dict[str, Contender | None] = {
        "library": timed(lambda: tuple(run_td_learning_loop(learner, source)), n),
        "plain loop": timed(lambda: plain_transitions(optimizer, device_rows), plain_n),
    }
    if isinstance(optimizer, TDIDBD):
        contenders["numba"] = None
        if find_spec("numba"):
            import numba

            contenders["numba"] = timed(numba_tdidbd(optimizer, rows, numba.njit(nogil=True)), n)
    return contenders


@workload("f", "temporal differences, transitions given, d=20")
def transition_workload(plan: Plan) -> Iterator[Race]:
    "A learner predicts two states, keeps a trace for every weight, and learns a step size for each."
    targets = {"TDIDBD": {"plain loop": 6.0, "numba": 1.0}, "AutoTDIDBD": {"plain loop": 2.5}}
    for optimizer in (TDIDBD(0.001, 1e-6, 0.8), AutoTDIDBD(0.001, 1e-4, 0.8, 10000.0)):
        name = type(optimizer).__name__
        contenders = transition_contenders(optimizer, plan.steps(500_000), plan.steps(100_000))
        yield Race(name, "us/step", contenders, targets[name])


@workload("g", "temporal differences, 30 seeds on the 19-state walk")
def chain_workload(plan: Plan) -> Iterator[Race]:
    "The coins of the walk are tossed in the loop."
    optimizer, chain, seeds = TDIDBD(0.01, 1e-4, 0.8), RandomWalkChain(19, left_reward=-1.0), iter(range(10**9))
    learner, n, plain_n = TDLinearLearner(optimizer), plan.steps(20_000), plan.steps(4_000)
    plain = jax.jit(jax.vmap(lambda key: plain_chain(optimizer, plain_n, key)))

    def keys() -> Array:
        return jax.random.split(jax.random.key(next(seeds)), 30)

    def library() -> Any:
        return run_td_learning_loop_batched(learner, chain, n, keys()).metrics

    contenders = {
        "library": timed(library, 30 * n),
        "vmap of the plain loop": timed(lambda: plain(keys()), 30 * plain_n),
    }
    yield Race("TDIDBD, 30 seeds", "us/step", contenders, {"vmap of the plain loop": 6.0})
