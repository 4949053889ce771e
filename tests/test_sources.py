"""Experience that is given: arrays and iterators."""

import collections
import copy
import itertools
import pickle
from array import array as typed_array
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from alberta_nb.learners.linear import LinearLearner
from alberta_nb.loops.supervised import run_learning_loop
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.optimizers.lms import LMS
from alberta_nb.streams.sources import ArraySource, IteratorSource, RowsSource, Source
from alberta_nb.streams.tables import TableSource
from alberta_nb.streams.td_sources import TDArraySource, TDIteratorSource, TDSequenceSource
from alberta_nb.types import TimeStep

LEARNER = LinearLearner(IDBD(0.02, 0.01))
ROWS = 500


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(ROWS, 3)).astype(np.float32)
    return x, (x @ [1.0, -2.0, 0.5] + 0.1 * rng.normal(size=ROWS)).astype(np.float32)


@pytest.fixture(scope="module")
def frame(data: tuple[np.ndarray, np.ndarray]) -> pd.DataFrame:
    return pd.DataFrame(data[0], columns=["u", "v", "w"]).assign(y=data[1], where="here")


@pytest.fixture(scope="module")
def weights(data: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return np.asarray(run_learning_loop(LEARNER, ArraySource(*data)).state.weights)


def together(source: Source, first: int = 0, rows: int = 64) -> tuple[np.ndarray, np.ndarray]:
    pages = list(source.pages(first, rows))
    assert all(len(page.target) <= rows and page.observation.dtype == np.float32 for page in pages)
    return np.concatenate([p.observation for p in pages]), np.concatenate([p.target for p in pages])[:, 0]


# --- arrays ---


@pytest.mark.parametrize(
    ("observations", "targets", "error", "message"),
    [
        (np.zeros((3, 2)), np.zeros(2), ValueError, r"targets must have shape \(3,\)"),
        (np.zeros(3), np.zeros(3), ValueError, "observations must have 2 dimensions"),
        (np.zeros((0, 2)), np.zeros(0), ValueError, "observations must have rows and columns"),
        (np.zeros((3, 0)), np.zeros(3), ValueError, "observations must have rows and columns"),
        ([["a"]], [1.0], TypeError, "observations must be numeric"),
        ([[1.0]], [None], TypeError, "targets must be numeric"),
    ],
)
def test_array_source_names_what_is_wrong(observations, targets, error, message) -> None:
    with pytest.raises(error, match=message):
        ArraySource(observations, targets)


def test_array_source_takes_both_shapes_of_target(data) -> None:
    x, y = data
    for targets in (y, y[:, None], y.tolist()):
        assert np.array_equal(together(ArraySource(x, targets))[1], y)


def test_rows_of_any_kind_are_one_source() -> None:
    x, y = np.ones((5, 2), np.float32), np.arange(10, dtype=np.float32).reshape(5, 2)
    source = RowsSource(TimeStep, {"observation": x, "target": y}, extra_numbers=3)
    assert (source.num_steps, source.feature_dim, source.numbers) == (5, 2, 2 + 2 + 3)
    assert source.shapes() == {"observation": (2,), "target": (2,)} and source.finite
    assert [len(page.target) for page in source.pages(1, 3)] == [3, 1]
    assert all(array.ctypes.data % 64 == 0 for array in source.rows.values())
    y[3, 0] = np.nan
    assert not RowsSource(TimeStep, {"observation": x, "target": y}).finite
    assert not ArraySource(x, np.full(5, np.inf)).finite


@pytest.mark.parametrize("first", [0, 1, 64, 499, 500])
def test_pages_begin_where_asked(data, frame, first) -> None:
    x, y = data
    if first == ROWS:
        assert list(ArraySource(x, y).pages(first, 10)) == list(TableSource(frame, "y").pages(first, 10)) == []
        return
    for source in (ArraySource(x, y), TableSource(frame, "y", piece_rows=97), IteratorSource(zip(x, y, strict=True))):
        found = together(source, first)
        assert np.array_equal(found[0], x[first:]) and np.array_equal(found[1], y[first:])


# --- iterators ---


def endless(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
    for t in itertools.count():
        yield x[t % len(x)], float(y[t % len(y)])


def test_iterator_equals_array(data, weights) -> None:
    source = IteratorSource(endless(*data))
    assert source.feature_dim == 3 and source.num_steps is None
    assert np.array_equal(run_learning_loop(LEARNER, source, ROWS).state.weights, weights)


@pytest.mark.parametrize("cuts", [(1,), (64, 65), (100, 300, 301)])
def test_iterator_can_be_continued(data, weights, cuts) -> None:
    source, state, position = IteratorSource(endless(*data)), None, None
    for steps in np.diff([0, *cuts, ROWS]):
        run = run_learning_loop(LEARNER, source, int(steps), learner_state=state, stream_state=position)
        state, position = run.state, run.stream_state
        assert run.steps == steps
    assert np.array_equal(state.weights, weights)


def test_iterator_takes_time_steps_and_column_targets(data) -> None:
    x, y = data
    steps = [TimeStep(observation=a, target=np.array([b])) for a, b in zip(x, y, strict=True)]
    assert np.array_equal(together(IteratorSource(steps))[1], y)


def test_iterator_holds_two_pages_at_most(data) -> None:
    taken = itertools.count()

    def pairs() -> Iterator[tuple[np.ndarray, float]]:
        for pair in endless(*data):
            next(taken)
            yield pair

    source = IteratorSource(pairs())
    for page in itertools.islice(source.pages(0, 50), 40):
        assert len(page.target) == 50 and len(source.waiting.items) <= 100
    assert next(taken) == 2000


def test_iterator_says_when_it_cannot_go_back(data) -> None:
    source = IteratorSource(endless(*data))
    for _ in itertools.islice(source.pages(0, 10), 5):
        pass
    with pytest.raises(ValueError, match="gone past step 0"):
        next(source.pages(0, 10))


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        ([], ValueError, "pairs is empty"),
        (7, TypeError, "pairs must be iterable"),
        ([([1.0], 1.0), ([1.0, 2.0], 1.0)], ValueError, r"pair 1: observation must have shape \(1,\)"),
        ([([1.0], [1.0, 2.0])], ValueError, "pair 0: target must be one number"),
        ([([1.0], "a")], TypeError, "pair 0: target must be numeric"),
        ([5.0], TypeError, "pair 0 must be"),
        ([(1.0, 5.0)], ValueError, "pair 0: observation must have 1 dimensions"),
    ],
)
def test_iterator_names_the_pair(pairs, error, message) -> None:
    with pytest.raises(error, match=message):
        list(IteratorSource(pairs).pages(0, 10))


def test_an_iterator_that_ends_early_ends_the_run(data) -> None:
    x, y = data
    assert run_learning_loop(LEARNER, IteratorSource(zip(x[:30], y[:30], strict=True)), 100).steps == 30


# --- what is given is what is read ---


@pytest.mark.parametrize("offset", [0, 4, 16, 64])
def test_a_source_owns_its_numbers(offset: int) -> None:
    memory = np.zeros(4096, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    x = memory[start : start + 240].view(np.float32).reshape(20, 3)
    y, g, r = np.ones(20, np.float32), np.full(20, 0.5, np.float32), np.ones((20, 1), np.float32)
    x[:] = 1
    rows = {"observation": x, "target": r}
    sources: list[Any] = [ArraySource(x, y), RowsSource(TimeStep, rows), TDArraySource(x, y, x, g, rhos=y, truncated=y)]
    sources.append(TDSequenceSource(x, y, g))
    before = [jax.tree.map(np.copy, next(iter(s.pages(0, 20)))) for s in sources]
    for array in (x, y, g, r):
        array[:] = np.nan
    for source, page in zip(sources, before, strict=True):
        assert source.finite
        assert jax.tree.all(jax.tree.map(np.array_equal, next(iter(source.pages(0, 20))), page))
        assert all(a.ctypes.data % 64 == 0 and a.dtype == np.float32 for a in source.rows.values())


@pytest.mark.parametrize(
    "kind", ["float16", "longdouble", "int64", "uint64", ">f4", ">f8", ">i8", "int8", "bool", "uint32"]
)
def test_sources_take_numbers_of_every_kind(kind: str) -> None:
    x, y = np.array([[0, 1], [1, 0], [1, 1]], kind), np.array([1, 0, 1], kind)
    assert ArraySource(x, y).observations.tolist() == x.astype(float).tolist()
    assert ArraySource(x.tolist(), y[:, None]).targets[:, 0].tolist() == y.astype(float).tolist()
    pages = list(IteratorSource(zip(x, y, strict=True)).pages(0, 10))
    assert pages[0].observation.tolist() == x.astype(float).tolist() and pages[0].target.dtype == np.float32
    td = TDArraySource(x, y, x, 0.5)
    assert td.rows["reward"][:, 0].tolist() == y.astype(float).tolist()


def test_whole_numbers_beyond_32_bits_and_missing_ones() -> None:
    ms = np.array([[1_700_000_000_000], [1_700_000_001_000]])
    assert ArraySource(ms, [2**40, -(2**40)]).observations[0, 0] == np.float32(1.7e12)
    series = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [1.5, 2.5]})
    assert np.isnan(ArraySource(series, [0, 0]).observations[1, 0])
    too_large = ArraySource([[1e300]], [1.0])  # finite in float64, infinite where it is learned from
    assert not too_large.finite


@pytest.mark.parametrize("values", [np.ma.array([[1.0, 2.0]], mask=[[0, 1]]), [["1", "2"]], [[1j, 2]], [[None, 1]]])
def test_sources_refuse_what_is_no_number(values: Any) -> None:
    for make in (lambda: ArraySource(values, [1.0]), lambda: TDArraySource(np.ones((1, 2)), [1.0], values, 0.5)):
        with pytest.raises(TypeError, match="observations must (be numeric|have no mask)"):
            make()
    with pytest.raises(TypeError, match="pair 0: observation must (be numeric|have no mask)"):
        list(IteratorSource([(values[0], 1.0)], 2).pages(0, 1))


def test_flags_are_no_discounts() -> None:
    x, done = np.ones((3, 2)), np.array([False, False, True])
    for flags in (done, done.tolist(), done[:, None], jnp.asarray(done), True):
        with pytest.raises(TypeError, match="gammas must hold discounts, got flags .*terminated"):
            TDArraySource(x, np.ones(3), x, flags)
    with pytest.raises(TypeError, match="transition 0: gamma must hold discounts"):
        list(TDIteratorSource([(x[0], 1.0, x[0], True)], 2).pages(0, 1))
    assert TDArraySource(x, done, x, 0.5, rhos=~done, truncated=done).rows["truncated"][:, 0].tolist() == [0, 0, 1]


def test_an_iterator_may_write_into_the_same_array_again() -> None:
    def feed() -> Any:
        room, reward = np.zeros(2), [0.0]
        for t in range(5):
            room[:] = t
            reward[0] = 10.0 * t
            yield room, reward

    (page,) = IteratorSource(feed()).pages(0, 10)
    assert page.observation[:, 0].tolist() == [0, 1, 2, 3, 4] and page.target[:, 0].tolist() == [0, 10, 20, 30, 40]
    steps = (TimeStep(observation=room, target=np.float32(1)) for room, _ in feed())
    (page,) = IteratorSource(steps).pages(0, 10)
    assert page.observation[:, 1].tolist() == [0, 1, 2, 3, 4]


def test_iterator_sources_say_that_they_cannot_be_copied() -> None:
    source = IteratorSource([([1.0, 2.0], 0.0)])
    for call in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="IteratorSource cannot be copied or pickled: its iterator is read once"):
            call(source)
    arrays = ArraySource([[1.0, 2.0]], [3.0])
    twin = pickle.loads(pickle.dumps(arrays))
    assert twin.num_steps == 1 and twin.targets.tolist() == [[3.0]] and copy.deepcopy(arrays).finite


def test_numbers_of_numpy_describe_a_source() -> None:
    pairs = [([1.0, 2.0, 3.0], 0.0)] * 5
    source = IteratorSource(pairs, np.int8(3), num_steps=np.int64(5))
    assert type(source.feature_dim) is type(source.num_steps) is int
    assert run_learning_loop(LinearLearner(), source).steps == 5
    for wrong in ({"feature_dim": 10**400}, {"feature_dim": True}, {"num_steps": -1}, {"num_steps": 2.0}):
        with pytest.raises((TypeError, ValueError), match=f"^{next(iter(wrong))} must be"):
            IteratorSource(pairs, **wrong)


# --- pages of a source that a user wrote, and items that are written over ---


class Own(Source):
    """Pages as they are given."""

    feature_dim = 2

    def __init__(self, *pages: object, num_steps: int | None = None):
        self.given, self.num_steps = pages, num_steps

    def pages(self, first: int, rows: int) -> Iterator[Any]:
        yield from self.given


WHOLE = np.array([[3, 1], [2, 5], [1, 1]])
PLAIN = TimeStep(observation=WHOLE.astype(np.float32), target=np.ones((3, 1), np.float32))


@pytest.mark.parametrize("kind", ["int64", "uint8", ">f4", ">f8", "float16", "longdouble", "object"])
def test_pages_of_every_kind_are_read(kind: str) -> None:
    learner = LinearLearner(LMS(0.01))
    page = PLAIN.replace(observation=WHOLE.astype(kind), target=[[1], [1], [1]])
    found, wanted = (run_learning_loop(learner, Own(PLAIN, p)) for p in (page, PLAIN))
    assert np.array_equal(found.metrics, wanted.metrics) and len(found.metrics) == 6
    large = run_learning_loop(LinearLearner(LMS(0.0)), Own(PLAIN.replace(target=np.full((3, 1), 2**40))))
    assert np.array_equal(large.metrics[:, 1], np.full(3, 2.0**40))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"observation": np.ma.array(WHOLE, mask=WHOLE > 3)}, TypeError, "observation must have no mask"),
        ({"target": [np.ma.array([1.0], mask=[True])] * 3}, TypeError, "target must have no mask"),
        ({"target": np.array([["a"]] * 3)}, TypeError, "target must be numeric"),
        ({"target": np.ones((2, 1), np.float32)}, ValueError, r"target must have shape \(3, 1\), got \(2, 1\)"),
        ({"target": np.ones((4, 1))}, ValueError, r"target must have shape \(3, 1\), got \(4, 1\)"),
        ({"target": np.ones(3, np.float32)}, ValueError, r"target must have shape \(3, 1\), got \(3,\)"),
        ({"observation": np.ones((3, 5))}, ValueError, r"observation must have shape \(3, 2\), got \(3, 5\)"),
    ],
)
def test_a_page_that_does_not_fit_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="Own: the page from step 3: " + message) as caught:
        run_learning_loop(LinearLearner(LMS(0.01)), Own(PLAIN, PLAIN.replace(**change)))
    assert caught.value.result.metrics.shape == (3, 3)  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="Own: the page from step 0 must be a TimeStep, got tuple"):
        run_learning_loop(LinearLearner(LMS(0.01)), Own((WHOLE, WHOLE)))


def test_items_that_are_written_over_are_read_as_they_were() -> None:
    places = [
        typed_array("d", [0.0, 0.0]),
        pd.Series([0.0, 0.0]),
        memoryview(bytearray(16)).cast("d"),
        [np.zeros(()), np.zeros(())],
        ([np.zeros(())], [np.zeros(1)]),
        collections.deque([0.0, 0.0]),
    ]

    def feed(place: Any) -> Iterator[Any]:
        for k in range(6):
            for i in range(2):
                if isinstance(place[i], np.ndarray):
                    place[i][...] = k + i
                elif isinstance(place[i], list):
                    place[i][0][...] = k + i
                else:
                    place[i] = float(k + i)
            yield (place, k) if not isinstance(place, tuple) else ([p[0].reshape(()) for p in place], k)

    for place in places:
        page = next(IteratorSource(feed(place), 2).pages(0, 6))
        assert np.array_equal(page.observation, [[k, k + 1] for k in range(6)]), type(place)


def test_masks_inside_lists_are_refused() -> None:
    hidden = np.ma.array([1.0, 2.0], mask=[False, True])
    for rows in ([hidden, [1.0, 2.0]], ([3.0, 4.0], hidden), [[1.0, np.ma.masked], [1.0, 2.0]], [[[hidden]]]):
        with pytest.raises(TypeError, match="observations must have no mask"):
            ArraySource(rows, [1.0, 2.0])
    with pytest.raises(TypeError, match="targets must have no mask"):
        ArraySource(WHOLE, [1.0, 2.0, np.ma.masked])


class Refilled(Source):
    "Every page lies in the same memory."

    feature_dim, num_steps = 2, 64

    def __init__(self, observations: np.ndarray):
        self.rows = observations

    def pages(self, first: int, rows: int) -> Iterator[TimeStep]:
        page = TimeStep(observation=np.zeros((4, 2), np.float32), target=np.ones((4, 1), np.float32))
        for start in range(first, 64, 4):
            page.observation[...] = self.rows[start : start + 4]
            yield page
            page.observation[...] = np.nan


@pytest.mark.parametrize("record_every", [1, 3, 16])
def test_a_source_may_fill_the_same_page_again(record_every: int) -> None:
    rows, learner = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32), LinearLearner(LMS(0.1))
    found, wanted = (
        run_learning_loop(learner, source, record_every=record_every)
        for source in (Refilled(rows), ArraySource(rows, np.ones(64)))
    )
    assert np.array_equal(found.metrics, wanted.metrics) and found.skipped == 0
