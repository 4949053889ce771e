"""Packed states in a table: the numbers of a stepper each, whatever stands beside them, and keys."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alberta_nb.learners.bank import LearnerBank
from alberta_nb.learners.interval import Interval
from alberta_nb.learners.linear import LinearLearner
from alberta_nb.learners.mlp import MLPLearner
from alberta_nb.learners.td import TDLinearLearner
from alberta_nb.learners.units import PopArt
from alberta_nb.loops.lanes import LearningLanes, entity_key, entity_random, key_bytes, lanes_for
from alberta_nb.loops.stepper import Stepper
from alberta_nb.native.kernel import native_loops
from alberta_nb.native.words import pack
from alberta_nb.normalizers import EMANormalizer
from alberta_nb.optimizers.autostep import Autostep
from alberta_nb.optimizers.bounders import ObGDBounding
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.optimizers.lms import LMS

D = 20
RNG = np.random.default_rng(0)
X = RNG.standard_normal((90, D)).astype(np.float32)
Y = (X[:, :5].sum(axis=1) + 0.1 * RNG.standard_normal(90)).astype(np.float32)
EVENTS = np.column_stack([X, Y])
LEARNERS = {
    "idbd": LinearLearner(IDBD(0.02)),
    "scaled": LinearLearner(Autostep(), normalizer=EMANormalizer()),
    "network": MLPLearner((8,), LMS(1.0), bounder=ObGDBounding()),
    "traces": MLPLearner((8, 4), Autostep(), gamma=0.9, lamda=0.8, normalizer=EMANormalizer()),
}
ROOT = jax.random.key(5)


def same(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def first_of(learner: Any, entity: str | int) -> Any:
    network = isinstance(learner, MLPLearner)
    return learner.init(D, entity_random(ROOT, entity)) if network else learner.init(D)


@pytest.mark.parametrize("name", LEARNERS)
def test_each_lane_learns_as_a_stepper_alone(name: str) -> None:
    learner, counts, names = LEARNERS[name], np.array([1, 0, 40, 9, 0, 40]), list("abcdef")
    lanes = LearningLanes(learner, D, ROOT)
    start = np.stack([lanes.first(who) for who in names])
    words, rows = lanes(start, EVENTS, counts)
    ends = np.cumsum(counts)
    for k, who in enumerate(names):
        here = slice(ends[k] - counts[k], ends[k])
        alone = Stepper(learner, D, state=first_of(learner, who))
        assert same(lanes.unpacked(start[k]), alone.state)
        assert same(alone.update_many(X[here], Y[here]), rows[here]) and same(alone.state, lanes.unpacked(words[k]))
        said = lanes.answers(words, X, np.full(len(X), k))
        assert np.allclose([alone.predict(x)[0] for x in X[:5]], said[:5], rtol=1e-5, atol=1e-6)
        assert same(lanes.answers(words, X[7:8], np.array([k])), said[7:8]), "however many are asked"


WRAPPED = {"wrapped": PopArt(LEARNERS["scaled"]), "interval": Interval(LEARNERS["scaled"])}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_learner_around_another(name: str) -> None:
    lanes, alone = LearningLanes(WRAPPED[name], D), Stepper(WRAPPED[name], D)
    words, rows = lanes(lanes.first(0)[None], EVENTS, np.array([90]))
    assert np.allclose(alone.update_many(X, Y), rows, rtol=1e-4, atol=1.5e-5)
    leaves = zip(jax.tree.leaves(alone.state), jax.tree.leaves(lanes.unpacked(words[0])), strict=True)
    assert all(np.allclose(a, b, rtol=1e-4, atol=1.5e-5) for a, b in leaves)


@pytest.mark.parametrize("name", [*LEARNERS, *WRAPPED])
def test_the_size_of_the_table_changes_no_bit(name: str) -> None:
    lanes = LearningLanes({**LEARNERS, **WRAPPED}[name], D, ROOT)
    start = lanes.first("a")[None]
    words, rows = lanes(start, EVENTS, np.array([90]))
    state, one_by_one = start, []
    for k in range(90):
        state, row = lanes(state, EVENTS[k : k + 1], np.ones(1, int))
        one_by_one.append(row[0])
    assert same(np.stack(one_by_one), rows) and same(state, words)
    for room in (3, 20):
        table, several = lanes(np.repeat(start, room, axis=0), np.tile(EVENTS, (room, 1)), np.full(room, 90))
        assert same(table, np.repeat(words, room, axis=0)) and same(several, np.tile(rows, (room, 1)))


def test_by_hand_in_float64(float64: None) -> None:
    lanes, step_size = LearningLanes(LinearLearner(LMS(0.1), use_bias=False), 2), 0.1
    events = np.array([[1.0, 2.0, 3.0], [0.5, -1.0, 1.0], [2.0, 0.0, -1.0]])
    words, rows = lanes(np.stack([lanes.first(0)] * 2), events, np.array([2, 1]))
    weights = np.zeros((2, 2))
    for of, (*x, y), row in zip((0, 0, 1), events, rows, strict=True):
        said = weights[of] @ x
        weights[of] += step_size * (y - said) * np.array(x)
        assert np.allclose(row[:3], [said, (y - said) ** 2, y - said], rtol=1e-14)
    assert words.shape == (2, 2 * sum(leaf.size for leaf in jax.tree.leaves(lanes.unpacked(words[0]))))
    assert np.allclose(lanes.unpacked(words).weights, weights, rtol=1e-14)


def test_wide_lanes_stay_wide(float64: None) -> None:
    lanes = LearningLanes(LEARNERS["traces"], D, ROOT)
    inside = lanes(lanes.first("a")[None], EVENTS.astype(float), np.array([90]))
    with jax.enable_x64(False):
        outside = lanes(lanes.first("a")[None], EVENTS.astype(float), np.array([90]))
        assert (
            lanes.unpacked(outside[0][0]).trunk is not None if hasattr(lanes.unpacked(outside[0][0]), "trunk") else True
        )
        floats = [leaf.dtype for leaf in jax.tree.leaves(lanes.unpacked(outside[0][0])) if leaf.dtype.kind == "f"]
    assert same(inside, outside) and set(floats) == {np.dtype(np.float64)}


def test_without_native_loops() -> None:
    with native_loops(False):
        plain = LearningLanes(LEARNERS["idbd"], D)
        words, rows = plain(plain.first(0)[None], EVENTS, np.array([90]))
    quick = LearningLanes(LEARNERS["idbd"], D)
    assert np.allclose(quick(quick.first(0)[None], EVENTS, np.array([90]))[1], rows, rtol=1e-4, atol=1e-5)
    assert plain.learned is not quick.learned


@pytest.mark.parametrize("target", [1e38, -1e30, 3e20])
def test_an_event_that_bursts_is_refused_alone(target: float) -> None:
    lanes = LearningLanes(LEARNERS["idbd"], D)
    events = EVENTS.copy()
    events[3, -1] = events[70, -1] = target
    words, rows = lanes(np.stack([lanes.first(0)] * 2), events, np.array([60, 30]))
    alone = [Stepper(LEARNERS["idbd"], D, non_finite="skip") for _ in range(2)]
    by_one = [
        alone[k >= 60].update_many(x[None], y[None])[0] for k, (x, y) in enumerate(zip(X, events[:, -1], strict=True))
    ]
    by_one = np.stack(by_one)
    assert same(np.isnan(rows), np.isnan(by_one)) and np.isnan(rows[:, 0]).sum() == 2
    assert same(rows, by_one) and same(lanes.unpacked(words[0]), alone[0].state)


def test_packed_and_unpacked() -> None:
    lanes = LearningLanes(LEARNERS["scaled"], D)
    words, _ = lanes(np.stack([lanes.first(0)] * 3), EVENTS, np.array([30, 30, 30]))
    states = lanes.unpacked(words)
    assert same(lanes.packed(states, 3), words)
    assert same(jax.tree.map(lambda a: a[1], states), lanes.unpacked(words[1]))
    assert same(pack(lanes.unpacked(words[1])), words[1])
    for n, changed in ((2, states), (3, jax.tree.map(lambda a: a.astype(jnp.float16), states))):
        with pytest.raises(ValueError, match="states must hold float32"):
            lanes.packed(changed, n)


def test_how_many_rows() -> None:
    sizes = [lanes_for(n) for n in range(1, 5_000)]
    assert all(n <= size < 4 * max(n, 1) for n, size in enumerate(sizes, 1)) and len(set(sizes)) == 8


def test_keys() -> None:
    for given, wanted in (
        (3, 3),
        (np.int64(3), 3),
        (np.str_("a"), "a"),
        ("a", "a"),
        (np.array(5), 5),
        (-(2**200), -(2**200)),
    ):
        found = entity_key(given)
        assert found == wanted and type(found) is type(wanted)
    hostile = ["", "1", 1, "text 1", "number 1", "../../x", "a\0b", "é", "e\u0301", "x" * 100_000, -1, "-1", 2**255]
    assert len({key_bytes(key) for key in hostile}) == len(hostile)
    for wrong in (None, True, np.bool_(True), 1.0, np.float32(1), b"a", ("a",), float("nan"), object()):
        with pytest.raises(TypeError, match="must be text or a whole number, got"):
            entity_key(wrong)
    with pytest.raises(ValueError, match="UTF-8"):
        key_bytes("a\udc80")
    with pytest.raises(ValueError, match="256 bits, got 257 bits"):
        key_bytes(2**256)


def test_random_keys_of_entities() -> None:
    whose = ["a", "b", 1, "1", "../../x"]
    draws = [np.asarray(jax.random.key_data(entity_random(ROOT, who))) for who in whose]
    assert len({draw.tobytes() for draw in draws}) == len(whose)
    raw = entity_random(jax.random.PRNGKey(5), "a")
    assert np.array_equal(jax.random.key_data(raw), draws[0]), "either kind of key"
    assert draws[0].tolist() == PINNED, "the same in every process and version"


PINNED = [2777812292, 1843813651]


@pytest.mark.parametrize(
    ("learner", "named", "error"),
    [
        (LinearLearner, "learner must be an instance", TypeError),
        (object(), "learner must have init", TypeError),
        (LearnerBank((LinearLearner(LMS()),)), "make a bank for each of its learners", TypeError),
        (TDLinearLearner(), "learner must learn from TimeSteps", TypeError),
        (MLPLearner((4,)), "key is needed, a MLPLearner starts from random weights", TypeError),
    ],
)
def test_what_is_refused(learner: Any, named: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=named):
        LearningLanes(learner, D)


def test_few_programs() -> None:
    learner = LinearLearner(IDBD(0.02), use_bias=False)
    lanes = LearningLanes(learner, D)
    before = lanes.learned.compilations()
    for n in range(1, 70, 3):
        lanes(np.stack([lanes.first(0)] * n), EVENTS[:n], np.ones(n, int))
    assert lanes.learned.compilations() - before <= 6
