"""Experience that is given: arrays and iterators."""

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from alberta_nb.learners.linear import LinearLearner
from alberta_nb.loops.supervised import run_learning_loop
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.streams.sources import ArraySource, IteratorSource, RowsSource, Source
from alberta_nb.streams.tables import TableSource
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
