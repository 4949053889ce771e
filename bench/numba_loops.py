"""The loops of linear learners as one writes them for numba: in place, float32, no exotic flags."""

import functools
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from alberta_nb import IDBD, LMS, Autostep, Optimizer


def walk_page(
    truth: np.ndarray, drift: np.ndarray, examples: np.ndarray, targets: np.ndarray, rate: Any, noise_std: Any
) -> None:
    "A page of the random-walk world, in place: `examples` (rows, d + 1) holds inputs and noise, then inputs and a 1."
    d = truth.size
    for t in range(examples.shape[0]):
        clean = np.float32(0)
        for i in range(d):
            truth[i] += rate * drift[t, i]
            clean += truth[i] * examples[t, i]
        targets[t] = clean + noise_std * examples[t, d]
        examples[t, d] = np.float32(1)


def lms_page(w: np.ndarray, step_size: Any, x: np.ndarray, y: np.ndarray, metrics: np.ndarray) -> None:
    "LMS on a page of examples, in place."
    for t in range(x.shape[0]):
        prediction = np.float32(0)
        for i in range(w.size):
            prediction += w[i] * x[t, i]
        error = y[t] - prediction
        for i in range(w.size):
            w[i] += step_size * error * x[t, i]
        metrics[t, 0], metrics[t, 1], metrics[t, 2] = error * error, error, step_size


def idbd_page(
    w: np.ndarray, b: np.ndarray, h: np.ndarray, theta: Any, x: np.ndarray, y: np.ndarray, metrics: np.ndarray
) -> None:
    "IDBD on a page of examples, in place: b are log step sizes, h the memories."
    for t in range(x.shape[0]):
        prediction = np.float32(0)
        for i in range(w.size):
            prediction += w[i] * x[t, i]
        error = y[t] - prediction
        total = np.float32(0)
        for i in range(w.size):
            gradient = error * x[t, i]
            b[i] = max(b[i] + theta * gradient * h[i], np.float32(-10))
            alpha = np.exp(b[i])
            w[i] += alpha * gradient
            h[i] = h[i] * max(np.float32(1) - alpha * x[t, i] * x[t, i], np.float32(0)) + alpha * gradient
            total += alpha
        metrics[t, 0], metrics[t, 1], metrics[t, 2] = error * error, error, total / np.float32(w.size)


def autostep_page(
    w: np.ndarray, a: np.ndarray, h: np.ndarray, v: np.ndarray, mu: Any, tau: Any,
    x: np.ndarray, y: np.ndarray, metrics: np.ndarray,
) -> None:  # fmt: skip
    "Autostep on a page of examples, in place: a are step sizes, h memories, v normalisers."
    for t in range(x.shape[0]):
        prediction = np.float32(0)
        for i in range(w.size):
            prediction += w[i] * x[t, i]
        error = y[t] - prediction
        overshoot = np.float32(0)
        for i in range(w.size):
            signal = error * x[t, i] * h[i]
            size = abs(signal)
            v[i] = max(size, v[i] + a[i] * x[t, i] * x[t, i] * (size - v[i]) / tau)
            if v[i] > 0:
                a[i] *= np.exp(mu * signal / v[i])
            overshoot += a[i] * x[t, i] * x[t, i]
        overshoot = max(overshoot, np.float32(1))
        total = np.float32(0)
        for i in range(w.size):
            a[i] /= overshoot
            step = a[i] * error * x[t, i]
            w[i] += step
            h[i] = h[i] * (np.float32(1) - a[i] * x[t, i] * x[t, i]) + step
            total += a[i]
        metrics[t, 0], metrics[t, 1], metrics[t, 2] = error * error, error, total / np.float32(w.size)


@functools.cache
def numba_pages(reorder: bool = False) -> dict[str, Callable[..., None]]:
    "The page loops compiled by numba; `reorder` lets it reorder sums and fuse multiply and add."
    import numba

    jit = numba.njit(nogil=True, fastmath={"reassoc", "contract", "nsz"} if reorder else False)
    return {f.__name__: jit(f) for f in (walk_page, lms_page, idbd_page, autostep_page)}


def numba_learner(
    optimizer: Optimizer, feature_dim: int, pages: Mapping[str, Callable[..., None]]
) -> Callable[..., None]:
    "A fresh learner: call it with (x, y, metrics), the last column of x being 1, and it learns in place."

    def full(value: float) -> np.ndarray:
        return np.full(feature_dim + 1, value, np.float32)

    state: tuple[Any, ...]
    match optimizer:
        case LMS():
            name, state = "lms_page", (full(0), np.float32(optimizer.step_size))
        case IDBD():
            start = full(np.log(optimizer.initial_step_size))
            name, state = "idbd_page", (full(0), start, full(0), np.float32(optimizer.meta_step_size))
        case Autostep():
            rates = (np.float32(optimizer.meta_step_size), np.float32(optimizer.tau))
            name, state = "autostep_page", (full(0), full(optimizer.initial_step_size), full(0), full(0), *rates)
        case _:
            raise TypeError(f"optimizer must be LMS, IDBD or Autostep, got {optimizer!r}")
    return functools.partial(pages[name], *state)


NUMBA_PAGE = 16_384  # numbers in a page: they stay in the first two caches


def numba_walk(
    optimizer: Optimizer, feature_dim: int, num_steps: int, seed: int, pages: Mapping[str, Callable[..., None]]
) -> np.ndarray:
    "Learn in a random-walk world with numba: metrics (num_steps, 3)."
    random = np.random.Generator(np.random.SFC64(seed))
    rows = min(num_steps, max(16, NUMBA_PAGE // (2 * feature_dim + 1)))
    truth = random.standard_normal(feature_dim, dtype=np.float32)
    drift, examples = np.empty((rows, feature_dim), np.float32), np.empty((rows, feature_dim + 1), np.float32)
    targets, metrics = np.empty(rows, np.float32), np.empty((num_steps, 3), np.float32)
    learn, walk = numba_learner(optimizer, feature_dim, pages), pages["walk_page"]
    for first in range(0, num_steps, rows):
        n = min(rows, num_steps - first)
        random.standard_normal(dtype=np.float32, out=drift[:n])
        random.standard_normal(dtype=np.float32, out=examples[:n])
        walk(truth, drift[:n], examples[:n], targets[:n], np.float32(0.001), np.float32(0.1))
        learn(examples[:n], targets[:n], metrics[first : first + n])
    return metrics


def with_numba(make: Callable[[Mapping[str, Any]], Callable[[], float]]) -> dict[str, Callable[[], float] | None]:
    "The numba contenders that `make` builds from compiled pages, or None for each where numba is absent."
    kinds = {"numba": False, "numba, sums reordered": True}
    if find_spec("numba") is None:
        return dict.fromkeys(kinds)
    return {label: make(numba_pages(reorder)) for label, reorder in kinds.items()}
