"""The cures of the compile page change the order of additions and of operations, and nothing else."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alberta_nb.compile import (
    called_alone,
    folded,
    is_short,
    native_works,
    settled,
    side_by_side,
    vector_dot,
    vector_exp,
    vector_sum,
    wait_for,
)
from alberta_nb.horde.multi_head import MultiHeadMLPLearner
from alberta_nb.learners.mlp import MLPLearner
from alberta_nb.optimizers.bounders import ObGDBounding
from alberta_nb.optimizers.lms import LMS
from alberta_nb.rank_one import RankOne, add_outer

RNG = np.random.default_rng(0)
SIZES = [1, 4, 5, 8, 9, 20, 59, 60, 61, 64, 100, 128, 255, 256, 257, 1000, 1003]


@pytest.mark.parametrize("size", SIZES)
def test_sums_products_and_exponentials_of_every_size(float64: None, size: int) -> None:
    x, y = RNG.standard_normal((2, size))
    for context in (nullcontext(), called_alone(), side_by_side()):
        with context:
            assert np.isclose(vector_sum(jnp.asarray(x)), x.sum(), rtol=0, atol=1e-12)
            assert np.isclose(vector_dot(jnp.asarray(x), jnp.asarray(y)), x @ y, rtol=0, atol=1e-12)
            assert np.allclose(vector_exp(jnp.asarray(x)), np.exp(x), rtol=1e-14)


@pytest.mark.parametrize("columns", [4, 8, 16])
@pytest.mark.parametrize("size", [3, 16, 17, 100])
def test_folding_loses_nothing(float64: None, size: int, columns: int) -> None:
    numbers = np.arange(1.0, size + 1)
    sums = folded(jnp.asarray(numbers), columns)
    want = [numbers[k::columns].sum() for k in range(columns)]
    assert np.array_equal(sums, want)


def test_the_sums_of_many_heads() -> None:
    table = RNG.standard_normal((7, 128)).astype(np.float32)
    assert np.allclose(jax.vmap(vector_sum)(jnp.asarray(table)), table.sum(axis=1), atol=1e-4)


@pytest.mark.parametrize("fan_in", [1, 15, 16, 17, 20, 32, 40, 63, 64, 100])
def test_the_outer_product_joins_a_table_of_every_width(fan_in: int) -> None:
    table, rows, columns = (jnp.asarray(RNG.standard_normal(s), jnp.float32) for s in ((9, fan_in), (9,), (fan_in,)))
    want = table + rows[:, None] * columns
    assert np.allclose(add_outer(table, rows, columns), want, atol=1e-6)
    assert np.allclose(jax.jit(lambda t, r, c: t + RankOne(rows=r, columns=c))(table, rows, columns), want, atol=1e-6)
    stacked = jax.vmap(lambda t, r: t + RankOne(rows=r, columns=columns))(table, rows)  # heads of one unit
    assert np.allclose(stacked, want, atol=1e-6)


def test_settled_and_wait_for_keep_every_digit() -> None:
    x, y = jnp.asarray(RNG.standard_normal(50), jnp.float32), jnp.asarray([-3.0, 1e30])
    assert np.array_equal(settled(x, y)[0], x) and np.array_equal(settled(x, y)[1], y)
    assert np.array_equal(jax.jit(wait_for)(x, y), x) and wait_for(jnp.float32(0.1), y) == jnp.float32(0.1)


def test_a_context_belongs_to_its_thread() -> None:
    x = jnp.ones(100)
    with side_by_side(), ThreadPoolExecutor(1) as other:
        assert not is_short(x) and other.submit(is_short, x).result()
    assert is_short(x)


def test_the_probe_may_be_asked_for_inside_a_trace() -> None:
    answers = []
    jax.jit(lambda v: answers.append(native_works.__wrapped__()) or v)(1.0)
    assert answers == [native_works()]


@pytest.mark.parametrize(
    "learner",
    [
        MLPLearner((128,), LMS(0.01)),
        MLPLearner((128, 100), bounder=ObGDBounding(), gamma=0.9, lamda=0.8),
        MultiHeadMLPLearner(3, (128, 70), LMS(0.1), bounder=ObGDBounding(), per_head_gamma_lamda=(0.0, 0.7, 0.7)),
    ],
    ids=["no bound", "traces", "heads"],
)
def test_a_call_of_its_own_is_a_step_of_the_loop(float64: None, learner: MLPLearner | MultiHeadMLPLearner) -> None:
    state = learner.init(20, jax.random.key(0))
    stepped, n = state, getattr(learner, "n_heads", 1)
    step = jax.jit(lambda s, x, y: learner.step(s, x_and_y(learner, x, y)).state)
    for _ in range(20):
        x, y = RNG.standard_normal(20), RNG.standard_normal(n)
        state, stepped = learner.update(state, x, y).state, step(stepped, x, y)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(stepped), strict=True):
        assert np.allclose(a, b, atol=1e-12)


def x_and_y(learner: MLPLearner | MultiHeadMLPLearner, x: jax.Array, y: jax.Array) -> object:
    """A time step of the learner's kind."""
    kind = type(learner).time_step
    return kind(observation=x, **{"targets" if isinstance(learner, MultiHeadMLPLearner) else "target": y})
