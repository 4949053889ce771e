"""A Horde as one writes it for numba: strict loops over flat arrays, layer by layer, without fast-math."""

from collections.abc import Callable
from typing import Any

import numpy as np

from alberta_nb import HordeLearner


def numba_forward(w: np.ndarray, b: np.ndarray, x: np.ndarray, normed: np.ndarray, out: np.ndarray) -> Any:
    "One hidden layer into `normed` and `out`; gives the factor of its layer norm."
    n, mean, var = b.size, np.float32(0), np.float32(0)
    for j in range(n):
        total = b[j]
        for i in range(x.size):
            total += w[j, i] * x[i]
        normed[j] = total
        mean += total / np.float32(n)
    for j in range(n):
        normed[j] -= mean
        var += normed[j] * normed[j] / np.float32(n)
    scale = np.float32(1) / np.sqrt(var + np.float32(1e-5))
    for j in range(n):
        normed[j] *= scale
        out[j] = normed[j] if normed[j] > 0 else np.float32(0.01) * normed[j]
    return scale


def numba_backward(cotangent: np.ndarray, normed: np.ndarray, scale: Any) -> None:
    "The gradient before a layer's norm and activation, in place."
    n, mean, along = normed.size, np.float32(0), np.float32(0)
    for j in range(n):
        if normed[j] <= 0:
            cotangent[j] *= np.float32(0.01)
        mean += cotangent[j] / np.float32(n)
        along += cotangent[j] * normed[j] / np.float32(n)
    for j in range(n):
        cotangent[j] = scale * (cotangent[j] - mean - normed[j] * along)


def numba_heads(
    w: np.ndarray, b: np.ndarray, z: np.ndarray, bias_z: np.ndarray, gammas: np.ndarray, decays: np.ndarray,
    f: np.ndarray, next_f: np.ndarray, cumulants: np.ndarray, cotangent: np.ndarray, metrics: np.ndarray,
) -> Any:  # fmt: skip
    "All heads, in place; gives the sum of sizes of their errors."
    total = np.float32(0)
    cotangent[:] = np.float32(0)
    for i in range(b.size):
        value, following = b[i], b[i]
        for j in range(f.size):
            value += w[i, j] * f[j]
            following += w[i, j] * next_f[j]
        error = cumulants[i] + gammas[i] * following - value
        bias_z[i] = decays[i] * bias_z[i] + np.float32(1)
        size = bias_z[i]
        for j in range(f.size):
            cotangent[j] += error * w[i, j]
            z[i, j] = decays[i] * z[i, j] + f[j]
            size += abs(z[i, j])
        step = error / max(np.float32(2) * max(abs(error), np.float32(1)) * size, np.float32(1))
        for j in range(f.size):
            w[i, j] += step * z[i, j]
        b[i] += step * bias_z[i]
        total += abs(error)
        metrics[i, 0], metrics[i, 1], metrics[i, 2] = error * error, error, np.float32(1)
    return total


def numba_move(w: np.ndarray, b: np.ndarray, rows: np.ndarray, x: np.ndarray, factor: Any) -> None:
    "One hidden layer moves by the product of two vectors."
    for j in range(b.size):
        step = factor * rows[j]
        b[j] += step
        for i in range(x.size):
            w[j, i] += step * x[i]


def horde_page(
    w1: np.ndarray, b1: np.ndarray, w2: np.ndarray, b2: np.ndarray, w: np.ndarray, b: np.ndarray, z: np.ndarray,
    bias_z: np.ndarray, gammas: np.ndarray, decays: np.ndarray, xs: np.ndarray, cs: np.ndarray, next_xs: np.ndarray,
    metrics: np.ndarray, forward: Any, backward: Any, heads: Any, move: Any,
) -> None:  # fmt: skip
    "A Horde with two hidden layers on transitions, in place."
    n1, n2 = b1.size, b2.size
    norm1, out1, spare1, next1, cot1 = np.empty((5, n1), np.float32)
    norm2, out2, spare2, next2, cot2 = np.empty((5, n2), np.float32)
    for t in range(xs.shape[0]):
        forward(w1, b1, next_xs[t], spare1, next1)
        forward(w2, b2, next1, spare2, next2)
        scale1 = forward(w1, b1, xs[t], norm1, out1)
        scale2 = forward(w2, b2, out1, norm2, out2)
        total = heads(w, b, z, bias_z, gammas, decays, out2, next2, cs[t], cot2, metrics[t])
        backward(cot2, norm2, scale2)
        cot1[:] = np.float32(0)
        for j in range(n2):
            for i in range(n1):
                cot1[i] += cot2[j] * w2[j, i]
        backward(cot1, norm1, scale1)
        sums = np.abs(cot1).sum() * (np.abs(xs[t]).sum() + np.float32(1))
        sums += np.abs(cot2).sum() * (np.abs(out1).sum() + np.float32(1))
        factor = np.float32(1) / max(np.float32(2) * max(total, np.float32(1)) * sums / total, np.float32(1))
        move(w2, b2, cot2, out1, factor)
        move(w1, b1, cot1, xs[t], factor)


def numba_horde(
    learner: HordeLearner, state: Any, rows: tuple[np.ndarray, ...], compile_page: Any
) -> Callable[[], np.ndarray]:
    "A run of `horde_page` from the same first weights."
    params = [np.array(a) for pair in zip(state.params.weights, state.params.biases, strict=True) for a in pair]
    gammas, lamdas = np.array([(d.gamma, d.lamda) for d in learner.horde_spec.demons], np.float32).T
    parts = [compile_page(fn) for fn in (numba_forward, numba_backward, numba_heads, numba_move)]
    page, metrics = compile_page(horde_page), np.empty((*rows[1].shape, 3), np.float32)

    def run() -> np.ndarray:
        here = [a.copy() for a in params]
        traces = np.zeros_like(params[4]), np.zeros_like(params[5])
        page(*here, *traces, gammas.copy(), gammas * lamdas, *rows, metrics, *parts)
        return metrics

    return run
