"""The forms for short vectors change the order of additions and of operations, and nothing else."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

from alberta_nb.horde.multi_head import MultiHeadMLPLearner
from alberta_nb.learners.mlp import MLPLearner
from alberta_nb.native.kernel import native_works
from alberta_nb.native.outer import RankOne, add_outer, add_row, after_reading, computed_once, move_in_place
from alberta_nb.native.rewrite import cured, cured_alone, folded, short_exp, short_sum, short_vectors, table_sum
from alberta_nb.optimizers.bounders import ObGDBounding
from alberta_nb.optimizers.lms import LMS

RNG = np.random.default_rng(0)
SIZES = [1, 4, 5, 8, 9, 20, 59, 60, 61, 64, 100, 128, 255, 256, 257, 1000, 1003]


@pytest.mark.parametrize("size", SIZES)
def test_sums_products_and_exponentials_of_every_size(float64: None, size: int) -> None:
    x, y = RNG.standard_normal((2, size))
    assert np.isclose(short_sum(jnp.asarray(x)), x.sum(), rtol=0, atol=1e-12)
    assert np.isclose(short_sum(jnp.asarray(x * y), product=True), x @ y, rtol=0, atol=1e-12)
    assert np.allclose(short_exp(jnp.asarray(x)), np.exp(x), rtol=1e-14)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (2, 3), (7, 128), (128, 20)])
def test_tables_of_every_shape(float64: None, shape: tuple[int, int]) -> None:
    x = RNG.standard_normal(shape)
    assert np.isclose(table_sum(jnp.asarray(x)), x.sum(), rtol=0, atol=1e-11)
    assert np.allclose(short_exp(jnp.asarray(x)), np.exp(x), rtol=1e-14)
    assert np.allclose(jax.vmap(short_sum)(jnp.asarray(x)), x.sum(axis=1), atol=1e-12)


@pytest.mark.parametrize("columns", [4, 8, 16])
@pytest.mark.parametrize("size", [3, 16, 17, 100])
def test_folding_loses_nothing(float64: None, size: int, columns: int) -> None:
    numbers = np.arange(1.0, size + 1)
    sums = folded(jnp.asarray(numbers), columns)
    want = [numbers[k::columns].sum() for k in range(columns)]
    assert np.array_equal(sums, want)


def many_kinds(x: Array, table: Array, n: Array) -> dict[str, Any]:
    """Sums over every axis, of floats and whole numbers, and operations that hold lists of their own."""
    return {
        "sums": [jnp.sum(x), jnp.sum(x * x), jnp.sum(table), *(jnp.sum(table, axis=a) for a in (0, 1)), jnp.sum(n)],
        "over nothing": jnp.sum(x, axis=()) + jax.vmap(jnp.mean)(x),
        "higher": jnp.sum(table[None] * x[None, None, : table.shape[1]], axis=(0, 2)),
        "exp": jnp.exp(x) + jnp.exp(jnp.max(table)),
        "softmax": jax.nn.softmax(x),
        "relu": jax.nn.relu(x) + jax.jit(lambda v: jnp.sum(v * v) * v)(x),
        "cond": lax.cond(x[0] > 0, lambda v: jnp.sum(v), lambda v: jnp.sum(jnp.exp(v)), x),
        "switch": lax.switch(n[0], [jnp.sum, lambda v: jnp.sum(v * v), lambda v: jnp.max(v)], x),
        "scan": lax.scan(lambda c, v: (c + jnp.sum(v), c), 0.0, table)[0],
        "grad": jax.grad(lambda v: jnp.sum(jnp.exp(v) * v))(x),
        "vmap": jax.vmap(lambda row: jnp.sum(row * row) + jnp.sum(jnp.exp(row)))(table),
        "same": x,
    }


@pytest.mark.parametrize("width", [3, 20, 70])
@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_rewritten_function_is_the_function(float64: None, width: int, first: int) -> None:
    args = RNG.standard_normal(width), RNG.standard_normal((7, min(width, 20))), np.array([first, 3, 5])
    args = jax.tree.map(jnp.asarray, args)
    plain = many_kinds(*args)
    for ours in (short_vectors(many_kinds)(*args), jax.jit(short_vectors(many_kinds))(*args)):
        assert jax.tree.structure(ours) == jax.tree.structure(plain)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_the_forms_are_where_they_should_be() -> None:
    x = jnp.ones(20)
    text = str(jax.make_jaxpr(short_vectors(lambda v: jnp.sum(jnp.exp(v) * v)))(x))
    assert "pad" in text and "f32[20] = exp" not in text and "f32[40] = exp" in text
    whole = str(jax.make_jaxpr(short_vectors(lambda n: jnp.sum(n)))(jnp.arange(20)))
    assert whole.count("reduce_sum") == 1 and "slice" not in whole, "whole numbers are summed as they are"


@pytest.mark.parametrize("fan_in", [1, 15, 16, 17, 20, 32, 40, 63, 64, 100])
def test_the_outer_product_joins_a_table_of_every_width(fan_in: int) -> None:
    table, rows, columns = (jnp.asarray(RNG.standard_normal(s), jnp.float32) for s in ((9, fan_in), (9,), (fan_in,)))
    want = table + rows[:, None] * columns
    assert np.allclose(add_outer(table, rows, columns), want, atol=1e-6)
    assert np.allclose(jax.jit(lambda t, r, c: t + RankOne(rows=r, columns=c))(table, rows, columns), want, atol=1e-6)
    stacked = jax.vmap(lambda t, r: t + RankOne(rows=r, columns=columns))(table, rows)  # heads of one unit
    assert np.allclose(stacked, want, atol=1e-6)
    assert np.allclose(jax.jit(add_row)(table, columns), table + columns, atol=1e-6)


def test_what_is_for_the_compiler_keeps_every_digit() -> None:
    x, y = jnp.asarray(RNG.standard_normal(50), jnp.float32), jnp.asarray([-3.0, 1e30])
    assert np.array_equal(computed_once(x, y)[0], x) and np.array_equal(computed_once(x, y)[1], y)
    assert np.array_equal(jax.jit(after_reading)(x, y), x)
    assert after_reading(jnp.float32(0.1), y) == jnp.float32(0.1)
    moved = move_in_place([x, x[:2]], [x, y], jnp.float32(0.5), y)
    assert np.array_equal(moved[0], x + jnp.float32(0.5) * x) and np.array_equal(moved[1], x[:2] + 0.5 * y)


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
    step = jax.jit(short_vectors(lambda s, x, y: learner.step(s, x_and_y(learner, x, y)).state))
    for _ in range(20):
        x, y = RNG.standard_normal(20), RNG.standard_normal(n)
        state, stepped = learner.update(state, x, y).state, step(stepped, x, y)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(stepped), strict=True):
        assert np.allclose(a, b, atol=1e-12)


def x_and_y(learner: MLPLearner | MultiHeadMLPLearner, x: jax.Array, y: jax.Array) -> object:
    """A time step of the learner's kind."""
    kind = type(learner).time_step
    return kind(observation=x, **{"targets" if isinstance(learner, MultiHeadMLPLearner) else "target": y})


def test_a_sum_over_no_axis_stays_what_it_is() -> None:
    """Under vmap a sum of scalars is a vector that is summed over nothing."""
    x = jnp.arange(20.0)
    for rules in (cured, cured_alone):
        summed = short_vectors(jax.vmap(lambda v: jnp.sum(v, axis=()) + jnp.sum(v)), rules)(x)
        assert np.allclose(summed, 2 * x) and np.isclose(short_vectors(jnp.sum, rules)(x), 190.0)
