"""Many learners side by side: the numbers of vmap, whatever operations a step holds."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

from alberta_nb import IDBD, Autostep, EMANormalizer, LinearLearner, ObGD, TimeStep
from alberta_nb.native.vmap_last import vmap_last, whole_lanes

RNG = np.random.default_rng(0)
X, SHARED = jnp.asarray(RNG.standard_normal((6, 5))), jnp.asarray(RNG.standard_normal(6))


def together(x: Array, s: Array) -> Any:
    return x[1:4].sum() * s + x, jnp.stack([x[0], s[1], 2.0]), jnp.concatenate([x, s])[::-1]


def controlled(x: Array, s: Array) -> Any:
    total = lax.fori_loop(0, 6, lambda i, t: t + x[i] * s[i], 0.0)
    summed = lax.scan(lambda c, v: (c + v, c * v), 0.0, x)
    return (
        lax.cond(total > 0, jnp.sort, jnp.negative, x),
        summed,
        lax.while_loop(lambda v: v < 9, lambda v: v + 2, x[0]),
    )


def derived(x: Array, s: Array) -> Any:
    return jax.grad(lambda v: jnp.sum(jax.nn.softplus(v * s) ** 2))(x), jax.jit(jnp.outer)(x, s) @ x


def drawn(x: Array, s: Array) -> Any:
    key = jax.random.fold_in(jax.random.key(0), jnp.abs(x[0] * 100).astype(jnp.int32))
    return jax.random.normal(key, (3,)), jnp.where(x[2] > 0, x, s), x.astype(jnp.int32), s


@pytest.mark.parametrize("fn", [together, controlled, derived, drawn])
def test_lanes_are_vmap(fn: Any) -> None:
    ours = vmap_last(fn, (-1, None))(X, SHARED)
    theirs = jax.vmap(fn, in_axes=(-1, None), out_axes=-1)(X, SHARED)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", [IDBD(), Autostep(), ObGD()])
def test_learners_side_by_side_and_alone(optimizer: Any) -> None:
    learner = LinearLearner(optimizer, normalizer=EMANormalizer())
    states = jax.vmap(lambda _: learner.init(6), out_axes=-1)(jnp.arange(5))
    target = jnp.asarray(RNG.standard_normal((1, 5)))
    step = vmap_last(lambda state, x, y: learner.step(state, TimeStep(observation=x, target=y)), (-1, -1, -1))
    result = step(step(states, X, target).state, 2 * X, target)
    for lane in range(5):
        state = learner.update(learner.init(6), X[:, lane], target[:, lane]).state
        alone = learner.update(state, 2 * X[:, lane], target[:, lane])
        for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[..., lane], b, rtol=1e-4, atol=1e-5)


def test_a_step_that_mixes_shapes_is_not_transposed() -> None:
    def step(x: Array, w: Array) -> Array:
        return w + (x[-1] - jnp.sum(w * x[:-1])) * x[:-1]

    text = str(jax.make_jaxpr(vmap_last(step, (-1, -1)))(X, X[:-1]))
    assert "transpose" not in text


def test_whole_lanes() -> None:
    for n in range(1, 200):
        whole = whole_lanes(n)
        assert whole >= n and (whole == n if n <= 8 else whole % 8 == 0 and whole < n + 16)
