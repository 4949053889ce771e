"""The table of random numbers: JAX's own bits from any row, keys of every kind, and what the numbers look like."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax
from scipy import stats

from alberta_nb.native import noise

KEY = jax.random.key(3)
DATA = noise.key_data(KEY)


def reference(key: Array, row: int, rows: int, width: int) -> Array:
    """The same rows from counters that Python's integers make."""
    counters = [[r * width + j for j in range(width)] for r in range(row, row + rows)]
    hi, lo = (
        jnp.array([[f(c) for c in r] for r in counters], jnp.uint32) for f in (lambda c: c >> 32, lambda c: c % 2**32)
    )
    first, second = noise.threefry(key, hi, lo)
    return first ^ second


# --- bits ---


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_known_answers(counter: tuple, key: tuple, words: tuple) -> None:
    got = noise.threefry(jnp.array(key, jnp.uint32), jnp.uint32(counter[0]), jnp.uint32(counter[1]))
    assert tuple(map(int, got)) == words


@pytest.mark.parametrize("width", [1, 2, 41, 100])
def test_bits_are_those_of_jax(width: int) -> None:
    table = jax.random.bits(KEY, (60, width))
    assert jnp.array_equal(noise.bits(DATA, 0, 60, width), table)
    for row, rows in ((0, 1), (17, 3), (59, 1)):
        assert jnp.array_equal(noise.bits(DATA, row, rows, width), table[row : row + rows])


@pytest.mark.parametrize("width", [1, 3, 41, 1000, 70_001, 2**20])
@pytest.mark.parametrize("row", [2**16 - 1, 2**31, 2**32 - 1])
def test_far_rows_use_64_bit_counters(width: int, row: int) -> None:
    assert jnp.array_equal(noise.bits(DATA, row, 1, width)[:, :5], reference(DATA, row, 1, width)[:, :5])


def test_a_page_may_cross_the_end_of_the_lower_word() -> None:
    row = 2**32 // 41 - 2
    assert jnp.array_equal(noise.bits(DATA, row, 5, 41), reference(DATA, row, 5, 41))


def test_wide_product() -> None:
    generator = np.random.default_rng(0)
    a = np.concatenate([generator.integers(0, 2**32, 50, dtype=np.uint32), np.array([0, 1, 2**32 - 1], np.uint32)])
    for b in (1, 7, 65_535, 65_536, 2**31 + 12_345, 2**32 - 1):
        hi, lo = noise._wide_product(jnp.asarray(a), b)
        got = [(int(h) << 32) + int(low) for h, low in zip(hi, lo, strict=True)]
        assert got == [int(x) * b for x in a]


def test_bits_do_not_depend_on_compilation() -> None:
    compiled = jax.jit(noise.bits, static_argnums=(2, 3))
    assert jnp.array_equal(compiled(DATA, jnp.uint32(2**31), 9, 7), noise.bits(DATA, 2**31, 9, 7))


# --- keys ---


def test_both_kinds_of_keys_are_one() -> None:
    assert jnp.array_equal(noise.key_data(jax.random.key(5)), noise.key_data(jax.random.PRNGKey(5)))
    assert jnp.array_equal(noise.key_data(np.array([0, 5], np.uint32)), noise.key_data(jax.random.key(5)))
    keys = jax.random.split(jax.random.key(5), 3)
    assert jnp.array_equal(noise.key_data(keys), noise.key_data(jax.random.key_data(keys)))


def test_keys_of_rbg_are_folded() -> None:
    keys = jax.random.split(jax.random.key(5, impl="rbg"), 4)
    data = noise.key_data(keys)
    assert data.shape == (4, 2) and data.dtype == jnp.uint32 and len(np.unique(np.asarray(data))) == 8
    # One by one, batched, under vmap and raw: the same two words.
    assert jnp.array_equal(jnp.stack([noise.key_data(k) for k in keys]), data)
    assert jnp.array_equal(jax.vmap(noise.key_data)(keys), data)
    assert jnp.array_equal(noise.key_data(jax.random.key_data(keys)), data)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (42, r"key must come from jax.random.key or jax.random.PRNGKey, got dtype int64 and shape \(\)"),
        (None, "got dtype object"),
        ("seed", "got dtype <U4"),
        (np.zeros(2, np.int32), r"got dtype int32 and shape \(2,\)"),
        (np.zeros(3, np.uint32), r"got dtype uint32 and shape \(3,\)"),
    ],
)
def test_what_is_no_key(key: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        noise.key_data(key)


def test_split_gives_different_keys() -> None:
    assert jnp.array_equal(noise.split(DATA, 5)[:3], noise.split(DATA, 3))
    assert len(np.unique(np.asarray(noise.split(DATA, 1000)))) == 2000


# --- numbers ---


def test_uniform_numbers_are_those_of_jax() -> None:
    for draw in (noise.uniform, jax.jit(noise.uniform, static_argnums=(2, 3))):
        assert jnp.array_equal(draw(DATA, 0, 500, 41), jax.random.uniform(KEY, (500, 41)))


@pytest.mark.parametrize("width", [1, 2, 41])
def test_normal_numbers_are_box_mullers(width: int) -> None:
    pairs = -(-width // 2)
    first, second = (np.asarray(w) for w in noise._stirred(DATA, 3, 50, pairs))
    u, turn = 1 - (first >> 9) / 2**23, (second >> 9) / 2**23 * np.pi / 2
    radius = np.sqrt(-2 * np.log(u))
    parts = radius * np.cos(turn) * (1.0 - 2 * (second & 1)), radius * np.sin(turn) * (1.0 - 2 * (second >> 1 & 1))
    wanted = np.concatenate([p.reshape(50, pairs) for p in parts], axis=1)[:, :width]
    for draw in (noise.normal, jax.jit(noise.normal, static_argnums=(2, 3))):
        np.testing.assert_allclose(draw(DATA, 3, 50, width), wanted, atol=2e-6)


def test_normal_rows_do_not_depend_on_the_page() -> None:
    table = noise.normal(DATA, 0, 60, 41)
    for row, rows in ((0, 1), (17, 3), (59, 1)):
        assert jnp.array_equal(noise.normal(DATA, row, rows, 41), table[row : row + rows])
    assert jnp.isfinite(noise.normal(DATA, 2**32 - 1, 1, 3)).all()


def test_ends_of_the_range() -> None:
    words = jnp.array([0, 0xFFFFFFFF], jnp.uint32)
    largest = jnp.abs(noise.box_muller(words[1], words)).max()
    assert 5.6 < largest < 5.7 and noise.box_muller(words[0], words[0]) == 0
    drawn = noise.uniform(DATA, 0, 5000, 7, -2.0, 6.0)
    assert drawn.min() >= -2.0 and drawn.max() < 6.0


def test_scale_zero_is_silence() -> None:
    assert not noise.normal(DATA, 0, 10, 4, 0.0).any()


def test_float64_holds_the_same_world() -> None:
    narrow = noise.normal(DATA, 0, 20, 5)
    with jax.enable_x64(True):
        wide = noise.normal(DATA, 0, 20, 5)
        assert wide.dtype == jnp.float64 and noise.uniform(DATA, 0, 1, 1).dtype == jnp.float64
    assert np.array_equal(np.asarray(wide), np.asarray(narrow, np.float64))


def test_sums_are_exact_however_they_are_compiled() -> None:
    def steps(data: Array, row: int, rows: int) -> Array:
        return noise.normal(data, row, rows, 33, 0.01) + noise.uniform(data, row, rows, 33, -0.1, 0.2)

    def walk(data: Array) -> Array:
        return lax.scan(lambda w, n: (w + n, w + n), jnp.zeros(33), steps(data, 0, 200))[1]

    w, rows, one = jnp.zeros(33), [], jax.jit(lambda data, row: steps(data, row, 1)[0])
    for row in range(200):
        w = w + (steps(DATA, row, 1)[0] if row < 3 else one(DATA, np.uint32(row)))
        rows.append(w)
    assert jnp.array_equal(jax.jit(walk)(DATA), jnp.stack(rows))


# --- statistics: fixed keys, stated spreads ---


def test_normal_and_uniform_over_many_keys() -> None:
    data = noise.key_data(jax.random.split(jax.random.key(1), 200))
    for draw, name in ((noise.normal, "norm"), (noise.uniform, "uniform")):
        numbers = jax.vmap(lambda k, draw=draw: draw(k, 0, 250, 20))(data)
        p_values = [stats.kstest(page.ravel(), name).pvalue for page in np.asarray(numbers)]
        assert min(p_values) > 1e-4 and stats.kstest(p_values, "uniform").pvalue > 1e-3


def test_moments() -> None:
    numbers = np.asarray(noise.normal(DATA, 0, 25_000, 40, 2.0), float) / 2
    for power, expected, spread in ((1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        assert abs(np.mean(numbers**power) - expected) < 4 * spread / 1000


def test_no_correlation_between_columns_rows_and_keys() -> None:
    def page(data: Array) -> np.ndarray:
        return np.asarray(noise.normal(data, 0, 5000, 40))

    a, b = page(noise.key_data(jax.random.key(1))), page(noise.key_data(jax.random.key(2)))
    child, sibling = (page(k) for k in noise.split(noise.key_data(jax.random.key(1)), 2))
    pairs = [
        (a[:, :-1], a[:, 1:]),
        (a[:, :20], a[:, 20:]),
        (a[:, :20] ** 2 - 1, a[:, 20:] ** 2 - 1),
        (a[:-1], a[1:]),
        (a, b),
        (a, child),
        (child, sibling),
    ]
    scores = [np.mean(x * y) * np.sqrt(x.size) for x, y in pairs]
    assert np.abs(scores).max() < 4


def test_every_bit_is_set_half_of_the_time() -> None:
    drawn = np.asarray(noise.bits(DATA, 0, 100_000, 1)).ravel()
    share = np.array([(drawn >> np.uint32(i) & 1).mean() for i in range(32)])
    assert np.abs(share - 0.5).max() < 4 * 0.5 / np.sqrt(drawn.size)
