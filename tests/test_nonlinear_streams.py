"""The nonlinear worlds: step and page give the same numbers, targets follow their definitions, clear errors."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alberta_nb
from alberta_nb.learners.mlp import MLPLearner
from alberta_nb.loops.mlp import run_mlp_learning_loop, run_mlp_learning_loop_batched
from alberta_nb.streams import nonlinear
from alberta_nb.streams.base import ScanStream, Stream, watch
from alberta_nb.streams.nonlinear import BitFlippingStream, DriftingTeacherStream, PermutedDigitsSource

KEY = jax.random.key(0)
TEACHER = DriftingTeacherStream(6, hidden_units=8, turn_interval=50)
BITS = BitFlippingStream(flip_interval=20)


def paged(stream: Any, rows: int, page: int) -> Any:
    "The time steps and states by pages of noise, as the loops take them."
    state, seen = stream.init(KEY), []

    def advance(state: Any, given: Any) -> Any:
        time_step, state = stream.advance(state, *given)
        return state, (time_step, state)

    for first in range(0, rows, page):
        block = stream.noise(state, np.uint32(first), page), first + jnp.arange(page, dtype=jnp.uint32)
        state, out = jax.lax.scan(advance, state, block)
        seen.append(out)
    return jax.tree.map(lambda *parts: np.concatenate(parts), *seen)


@pytest.mark.parametrize("page", [30, 120])
@pytest.mark.parametrize("stream, exact", [(TEACHER, False), (BITS, True)], ids=["teacher", "bits"])
def test_step_and_page(stream: Any, exact: bool, page: int) -> None:
    (one, state), (many, states) = watch(stream, KEY, 240), paged(stream, 240, page)
    assert np.array_equal(one.observation, many.observation)
    jax.tree.map(np.testing.assert_array_equal, state, states)
    assert np.array_equal(one.target, many.target) if exact else np.allclose(one.target, many.target, atol=2e-6)


@pytest.mark.parametrize("stream", [TEACHER, BITS], ids=["teacher", "bits"])
def test_contract(stream: Any) -> None:
    assert isinstance(stream, ScanStream) and Stream.from_config(stream.to_config()) == stream
    time_step, state = stream.step(stream.init(jax.random.PRNGKey(0)), 0)
    assert time_step.observation.shape == (stream.feature_dim,) and time_step.target.shape == (1,)
    other, _ = watch(stream, jax.random.key(1), 50)
    assert not np.array_equal(watch(stream, KEY, 50)[0].target, other.target)
    assert {type(stream).__name__, "PermutedDigitsSource"} <= set(alberta_nb.__all__)


def test_true_target_is_the_target_without_noise(float64: None) -> None:
    for stream in (TEACHER, BITS):
        seen, states = watch(stream, KEY, 3000)
        residue = np.asarray(seen.target[:, 0] - jax.vmap(stream.true_target)(states, seen.observation))
        want = getattr(stream, "noise_std", 0.0)
        assert abs(residue.std() - want) <= 4 * want / np.sqrt(2 * 3000)


def test_the_teacher_is_the_network_that_it_is_said_to_be(float64: None) -> None:
    stream = DriftingTeacherStream(3, hidden_units=4, turn_interval=10, noise_std=0.0, feature_std=2.0)
    seen, _ = watch(stream, KEY, 35)
    keys = np.asarray(stream.init(KEY).keys)
    # Row k of the table, read through the public drawing function of the stream's module.
    rows = np.asarray(nonlinear.noise.normal(jnp.asarray(keys[1]), 0, 6, 4 * 4), float)
    for t in range(35):
        k, angle = t // 10, np.pi / 2 * (t % 10) / 10
        w = (np.cos(angle) * rows[k] + np.sin(angle) * rows[k + 1]).reshape(4, 4)
        x = np.asarray(seen.observation[t]) / 2.0
        y = np.sqrt(2 / 12) * w[:, 3] @ np.maximum(w[:, :3] @ x, 0)
        assert float(seen.target[t, 0]) == pytest.approx(y, rel=1e-6, abs=1e-9)


def test_the_teacher_has_the_stated_size_at_every_moment() -> None:
    stream = DriftingTeacherStream(5, hidden_units=10, turn_interval=4, noise_std=0.0)
    keys = jax.random.split(KEY, 4000)
    targets = jax.vmap(lambda k: watch(stream, k, 4)[0].target[:, 0])(keys)
    square = np.asarray(targets) ** 2
    assert np.abs(square.mean(0) - 1).max() < 4 * square.std(0).max() / np.sqrt(4000)


def test_the_teacher_turns_without_a_jump_and_forgets() -> None:
    stream = DriftingTeacherStream(8, hidden_units=30, turn_interval=1000)
    _, states = watch(stream, KEY, 2001)
    probes = jax.random.normal(jax.random.key(3), (2000, 8))
    answers = np.asarray(
        jax.jit(jax.vmap(lambda s: jax.vmap(lambda x: stream.true_target(s, x))(probes)))(
            jax.tree.map(lambda a: a[np.array([0, 1, 999, 1000, 1001, 2000])], states)
        )
    )
    moved = [np.sqrt(np.mean((answers[a] - answers[b]) ** 2)) for a, b in ((0, 1), (2, 3), (3, 4))]
    assert max(moved) < 0.02
    assert np.sqrt(np.mean((answers[0] - answers[3]) ** 2)) > 0.5


def test_bits_flip_as_the_paper_says() -> None:
    seen, states = watch(BITS, KEY, 20_000)
    slow, x = np.asarray(states.slow), np.asarray(seen.observation)
    flips = slow[1:] != slow[:-1]
    assert np.array_equal(np.nonzero(flips.any(1))[0] + 1, np.arange(20, 20_000, 20)) and flips.sum(1).max() == 1
    share = flips.sum(0) / flips.sum()
    assert np.abs(share - 1 / 15).max() < 5 * np.sqrt(1 / 15 / flips.sum())
    assert np.array_equal(x[:, :15], slow) and (x[:, 20] == 1).all()
    assert np.abs(x[:, 15:20].mean(0) - 0.5).max() < 4 * 0.5 / np.sqrt(20_000)
    assert np.abs(np.corrcoef(x[:, 15:20].T) - np.eye(5)).max() < 4 / np.sqrt(20_000)


def test_bits_have_the_target_of_the_paper() -> None:
    default = BitFlippingStream()
    assert (default.feature_dim, default.slow_bits, default.flip_interval) == (21, 15, 10_000)
    assert (default.hidden_units, default.beta) == (100, 0.7)
    seen, states = watch(BITS, KEY, 500)
    first = jax.tree.map(lambda a: np.asarray(a[0]), states)
    assert set(np.unique(first.weights)) == set(np.unique(first.output)) == {-1.0, 1.0}
    assert first.weights.shape == (100, 21)
    assert np.allclose(first.thresholds, 21 * 0.7 - (first.weights < 0).sum(1))
    fires = np.asarray(seen.observation) @ first.weights.T >= first.thresholds
    assert np.array_equal(fires @ first.output, seen.target[:, 0])


def test_many_seeds_equal_single_runs() -> None:
    learner, keys = MLPLearner((4,), sparsity=0.0, step_size=0.01), jax.random.split(KEY, 2)
    for stream in (TEACHER, BITS):
        both = run_mlp_learning_loop_batched(learner, stream, 100, keys)
        alone = run_mlp_learning_loop(learner, stream, 100, keys[1])
        assert np.allclose(both.metrics[1], alone.metrics, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "make, kind, message",
    [
        (lambda: DriftingTeacherStream(0), ValueError, "feature_dim must be 1 or more"),
        (lambda: DriftingTeacherStream(3, hidden_units=2.5), TypeError, "hidden_units must be a whole number"),
        (lambda: DriftingTeacherStream(3, turn_interval=0), ValueError, "turn_interval"),
        (lambda: DriftingTeacherStream(3, noise_std=-1.0), ValueError, "noise_std"),
        (lambda: DriftingTeacherStream(3, feature_std=0.0), ValueError, "feature_std"),
        (lambda: BitFlippingStream(slow_bits=21), ValueError, "slow_bits must be below feature_dim"),
        (lambda: BitFlippingStream(beta=1.5), ValueError, "beta"),
        (lambda: BitFlippingStream(flip_interval=0), ValueError, "flip_interval"),
        (lambda: PermutedDigitsSource(num_tasks=0), ValueError, "num_tasks"),
        (lambda: PermutedDigitsSource(seed=-1), ValueError, "seed"),
        (lambda: PermutedDigitsSource(positive=()), ValueError, "positive must be some digits"),
        (lambda: PermutedDigitsSource(positive=(11,)), ValueError, "positive must be some digits"),
    ],
)
def test_errors(make: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.parametrize("length", [1797, 500, 4000])
def test_digits(length: int) -> None:
    source = PermutedDigitsSource(num_tasks=3, task_length=length, positive=(0,))
    whole = next(source.pages(0, 10**6))
    assert whole.observation.shape == (3 * length, 64) and whole.target.shape == (3 * length, 1)
    for page in (97, 2000):
        parts = list(source.pages(100, page))
        assert np.array_equal(np.concatenate([p.observation for p in parts]), whole.observation[100:])
        assert np.array_equal(np.concatenate([p.target for p in parts]), whole.target[100:])
    which = source.which(0, source.num_steps)
    for task in range(3):
        here = slice(task * length, (task + 1) * length)
        assert np.array_equal(whole.observation[here][:, np.argsort(source.pixels(task))], source.images[which[here]])
    assert np.array_equal(whole.target[:, 0] == 1, np.isin(which, np.nonzero(source.targets == 1)[0]))
    assert not np.array_equal(source.pixels(0), source.pixels(1))
    assert not np.array_equal(PermutedDigitsSource(seed=1).pixels(0), source.pixels(0))


def test_digits_in_a_loop_can_be_continued() -> None:
    source, learner = PermutedDigitsSource(num_tasks=1, task_length=200), MLPLearner((8,), step_size=0.01)
    whole = run_mlp_learning_loop(learner, source, None, KEY)
    assert whole.metrics.shape == (200, 3)
    half = run_mlp_learning_loop(learner, source, 100, KEY)
    rest = run_mlp_learning_loop(learner, source, 100, None, half.state, stream_state=half.stream_state)
    assert np.array_equal(np.concatenate([half.metrics, rest.metrics]), whole.metrics)


def test_digits_without_sklearn(monkeypatch: pytest.MonkeyPatch) -> None:
    nonlinear.digit_images.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install alberta_nb\[data\]"):
        PermutedDigitsSource()
