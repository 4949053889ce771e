"""The pinned cases of parts that are called by themselves: optimizers, bounders, normalisers."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from pinned_world import (
    BOUNDERS,
    DIM,
    GAMMAS,
    LINEAR,
    NETWORK,
    NEXT_TD,
    NORMALIZERS,
    OFF_POLICY,
    RHOS,
    TD,
    XS,
    XS_TD,
    YS,
    Case,
    numbers,
)

ROWS, SHAPE = 20, (3, 2)


def scanned(step: Callable[..., Any], state: Any, *rows: Any) -> dict[str, Any]:
    """What a step with a state gives on rows, one after the other, and the last state."""

    def body(state: Any, row: Any) -> Any:
        return step(state, *row)

    last, found = jax.jit(lambda state, rows: jax.lax.scan(body, state, rows))(state, jax.tree.map(jnp.asarray, rows))
    return {"found": found, "state": last}


def linear_update(name: str, bias_input: float) -> dict[str, Any]:
    """`update` of an optimizer: errors and observations in, changes and metrics out."""
    optimizer = LINEAR[name]()

    def step(state: Any, error: Any, x: Any) -> Any:
        move = optimizer.update(state, error, x, bias_input)
        return move.new_state, {"weights": move.weight_delta, "bias": move.bias_delta, "metrics": move.metrics}

    return scanned(step, optimizer.init(DIM), YS[:ROWS], XS[:ROWS])


def gradient_update(name: str, with_error: bool) -> dict[str, Any]:
    """`update_from_gradient` for a matrix and for a number; the error apart, or in the gradient."""
    optimizer, errors = NETWORK[name](), YS[:ROWS]

    def step(state: Any, error: Any, *gradients: Any) -> Any:
        told = [(g, error) if with_error else (error * g, None) for g in gradients]
        made = [optimizer.update_from_gradient(s, *given) for s, given in zip(state, told, strict=True)]
        return tuple(s for _, s in made), [move for move, _ in made]

    state = optimizer.init_for_shape(SHAPE), optimizer.init_for_shape(())
    return scanned(step, state, errors, numbers(40, ROWS, *SHAPE), numbers(41, ROWS))


def td_update(name: str, bias_input: float, off_policy: bool) -> dict[str, Any]:
    """`update` of a TD optimizer: transitions and their errors in, changes and metrics out."""
    optimizer, following = TD[name](), np.where(GAMMAS[:, None] == 0.0, 0.0, NEXT_TD)

    def step(state: Any, error: Any, x: Any, next_x: Any, gamma: Any, rho: Any) -> Any:
        ratio = {"rho": rho} if off_policy else {}
        move = optimizer.update(state, error, x, next_x, gamma, bias_input, **ratio)
        told = {"traces": optimizer.traces(state), "sizes": optimizer.step_sizes(state)}
        return move.new_state, told | {"deltas": (move.weight_delta, move.bias_delta), "metrics": move.metrics}

    rows = (a[:ROWS] for a in (YS, XS_TD, following, GAMMAS, RHOS))
    return scanned(step, optimizer.init(DIM), *rows)


def bounded(name: str) -> dict[str, Any]:
    """`bound` of a bounder on steps of several sizes, for small and large errors."""
    bounder = BOUNDERS[name]()
    params = tuple(jnp.asarray(numbers(42 + i, *shape)) for i, shape in enumerate((SHAPE, (3,))))

    def step(state: Any, error: Any, *steps: Any) -> Any:
        return state, bounder.bound(steps, 5.0 * error, params)

    return scanned(step, (), YS[:ROWS], numbers(44, ROWS, *SHAPE), 0.1 * numbers(45, ROWS, 3))


def normalized(name: str) -> dict[str, Any]:
    """A normaliser's three ways to take an observation."""
    normalizer = NORMALIZERS[name]()

    def step(state: Any, x: Any) -> Any:
        scaled, new = normalizer.normalize(state, x)
        told = {"scaled": scaled, "frozen": normalizer.normalize_only(state, 2.0 * x)}
        return new, told | {"only": normalizer.normalize_only(normalizer.update_only(state, -x), x)}

    return scanned(step, normalizer.init(DIM), XS[:ROWS])


def direct_cases() -> Iterator[tuple[str, Case]]:
    for i, name in enumerate(LINEAR):
        yield f"direct-linear-{name}", functools.partial(linear_update, name, float(i % 2))
    for name in NETWORK:
        yield f"direct-network-{name}", functools.partial(gradient_update, name, True)
        yield f"direct-network-{name}-inside", functools.partial(gradient_update, name, False)
    for i, name in enumerate(TD):
        yield f"direct-td-{name}", functools.partial(td_update, name, float(i % 2), False)
    for name in OFF_POLICY:
        yield f"direct-td-{name}-ratios", functools.partial(td_update, name, 1.0, True)
    for name in ("obgd", "agc"):
        yield f"direct-{name}", functools.partial(bounded, name)
    for name in ("ema", "welford"):
        yield f"direct-{name}", functools.partial(normalized, name)
