"""Learners that meet rows one after the other, without a loop of the library."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alberta_nb import TimeStep


@functools.partial(jax.jit, static_argnums=0)
def _scan(learner: Any, state: Any, rows: Any) -> Any:
    def one(state: Any, row: Any) -> Any:
        result = learner.step(state, TimeStep(observation=row[:-1], target=row[-1:]))
        return result.state, (result.error[0], result.metrics)

    return jax.lax.scan(one, state, rows)


def live(learner: Any, xs: Any, ys: Any, state: Any = None, key: Any = None) -> tuple[np.ndarray, np.ndarray, Any]:
    """Errors, metrics and the last state; from the first state, for which a network needs a key."""
    rows = jnp.column_stack([jnp.asarray(xs, float), jnp.asarray(ys, float)])
    if state is None:
        state = learner.init(rows.shape[1] - 1, *([] if key is None else [key]))
    state, (errors, metrics) = _scan(learner, state, rows)
    return np.asarray(errors), np.asarray(metrics), state
