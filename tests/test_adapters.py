"""Learners inside scikit-learn and river, and a run that says how it goes; the libraries judge them on the pages."""

import copy
import math
import pickle
from decimal import Decimal
from typing import Any

import jax
import numpy as np
import pytest

import alberta_nb as nb
from alberta_nb.adapters.log import log_run
from alberta_nb.streams.sources import ArraySource, IteratorSource

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 3)) * [1.0, 100.0, 1e-3] + 5.0
Y = X @ [2.0, 0.01, 300.0] - 7.0
PLAIN = nb.LinearLearner(nb.LMS(0.01))
NETWORK = nb.PopArt(nb.MLPLearner((4,), nb.Autostep(0.01), normalizer=nb.EMANormalizer()))


@pytest.fixture
def estimator() -> Any:
    return pytest.importorskip("alberta_nb.adapters.sklearn", reason="the extra `sklearn` is not installed")


@pytest.fixture
def river() -> Any:
    pytest.importorskip("river", reason="the extra `river` is not installed")
    return pytest.importorskip("alberta_nb.adapters.river")


def test_fit_is_a_stepper_on_all_rows(estimator: Any) -> None:
    model = estimator.AlbertaRegressor(PLAIN).fit(X[:, :1], Y)
    stepper = nb.Stepper(PLAIN, 1)
    stepper.update_many(X[:, :1], Y)
    assert np.array_equal(model.stepper_.state.weights, stepper.state.weights)
    weights, bias = np.asarray(stepper.state.weights, float), float(stepper.state.bias)
    np.testing.assert_allclose(model.predict(X[:, :1]), X[:, 0] * weights[0] + bias, rtol=1e-5)


def test_parts_epochs_and_forgetting(estimator: Any) -> None:
    made = estimator.AlbertaRegressor
    once, twice = made().fit(X, Y), made(epochs=2).fit(X, Y)
    again = made().fit(X, Y).partial_fit(X, Y)
    assert np.array_equal(again.predict(X), twice.predict(X)) and not np.array_equal(once.predict(X), twice.predict(X))
    assert np.array_equal(again.fit(X, Y).predict(X), once.predict(X))  # fit forgets
    assert np.array_equal(pickle.loads(pickle.dumps(twice)).predict(X), twice.predict(X))
    kept = copy.deepcopy(once)
    once.partial_fit(X, -Y)
    assert np.array_equal(kept.predict(X), made().fit(X, Y).predict(X))


@pytest.mark.parametrize("n", [1, 255, 256, 257])
def test_a_prediction_does_not_hang_on_its_neighbours(estimator: Any, n: int) -> None:
    model = estimator.AlbertaRegressor(NETWORK, random_state=0).fit(X, Y)
    whole = model.predict(X)
    assert whole.shape == (300,) and np.array_equal(model.predict(X[:n]), whole[:n])
    assert np.array_equal(model.predict(X[-n:]), whole[-n:])


def test_first_weights_are_those_of_random_state(estimator: Any) -> None:
    one, same, other = (estimator.AlbertaRegressor(NETWORK, random_state=k).fit(X, Y).predict(X) for k in (0, 0, 1))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_wrong_settings_and_shapes_are_named(estimator: Any) -> None:
    with pytest.raises(ValueError, match="epochs must be"):
        estimator.AlbertaRegressor(epochs=0).fit(X, Y)
    with pytest.raises(TypeError, match="learner must"):
        estimator.AlbertaRegressor(nb.TDLinearLearner()).fit(X, Y)
    with pytest.raises(ValueError, match="3 features"):
        estimator.AlbertaRegressor().fit(X, Y).partial_fit(X[:, :2], Y)


def test_absent_keys_hold_their_mean_and_new_ones_get_lanes(river: Any) -> None:
    lanes = river.Lanes(2)
    assert lanes.numbers({"a": 2}, True) == [2, 0.0] and lanes.numbers({"b": -1.5, "a": 4.0}, True) == [4.0, -1.5]
    lanes.seen({"a": 2})
    lanes.seen({"b": -1.5, "a": 4.0})
    assert lanes.numbers({}, True) == [3.0, -1.5] == lanes.numbers({"a": None, "b": math.inf}, True)
    assert lanes.numbers({"b": math.nan, "c": 1.0}, False) == [3.0, -1.5] and lanes.ignored == 0
    with pytest.warns(RuntimeWarning, match="no lane is left for 'c': capacity is 2"):
        assert lanes.numbers({"c": 1.0, "a": 3.0}, True) == [3.0, -1.5]
    lanes.seen({"c": 1.0, "a": 3.0})
    assert lanes.numbers({"d": 1.0}, True) == [3.0, -1.5] and lanes.ignored == 2
    assert lanes.numbers({"e": None}, True) == [3.0, -1.5] and lanes.ignored == 2  # nothing was there
    assert lanes.numbers({"a": np.float32(1.0), "b": True}, False) == [1.0, 1]


def test_river_learns_what_a_stepper_learns(river: Any) -> None:
    model, stepper = river.RiverRegressor(PLAIN, capacity=3), nb.Stepper(PLAIN, 3)
    for row, y in zip(X / 100, Y, strict=True):
        x = dict(zip("abc", row.tolist(), strict=True))
        model.learn_one(x, y)
        stepper.update(row.astype(np.float32), y)
    assert np.array_equal(model.stepper.state.weights, stepper.state.weights)
    assert model.predict_one(x) == float(stepper.predict(row)[0])
    again = pickle.loads(pickle.dumps(model))
    again.learn_one(x, 1.0)
    assert again.predict_one({}) != model.predict_one({}) == model.clone(include_attributes=True).predict_one({})


def test_river_counts_what_it_refuses(river: Any) -> None:
    model = river.RiverRegressor(NETWORK, capacity=2, seed=4)
    assert model.predict_one({"a": 1.0}) == 0.0  # before the first target
    for y in (math.nan, math.inf, 1.0):
        model.learn_one({"a": 1.0}, y)
    assert model.stepper.skipped == 2
    for error, match, x in ((TypeError, r"x\['a'\] must be a number, None or NaN, got 'blue'", {"a": "blue"}),):
        with pytest.raises(error, match=match):
            model.learn_one(x, 1.0)
    with pytest.raises(ValueError, match="capacity must be"):
        river.RiverRegressor(capacity=0)


@pytest.mark.parametrize("many", [False, True])
def test_a_run_that_is_told_of_is_the_run(many: bool) -> None:
    world, key, told = nb.SuttonExperiment1Stream(), jax.random.key(0), list[Any]()
    key = jax.random.split(key, 3) if many else key
    loop = nb.run_learning_loop_batched if many else nb.run_learning_loop
    options: dict[str, Any] = {"loop": loop, "record_every": 5}
    found = log_run(lambda *said: told.append(said), 40, PLAIN, world, 100, key, **options)
    whole: Any = loop(PLAIN, world, 100, key, record_every=5)
    assert np.array_equal(found.metrics, whole.metrics) and found.steps == 100
    assert all(map(np.array_equal, jax.tree.leaves(found[0]), jax.tree.leaves(whole[0])))
    assert [step for step, _ in told] == [40, 80, 100] and list(told[0][1]) == list(PLAIN.metric_names)
    part = np.asarray(whole.metrics, float)[..., 8:16, 1]
    assert told[1][1]["error"] == pytest.approx(part.mean())
    going_on: Any = loop(PLAIN, world, 10, learner_state=found[0], stream_state=found.stream_state)
    assert going_on.steps == 10


def test_rows_that_teach_nothing_are_left_out() -> None:
    x, told = X[:8].astype(np.float32) / 100, list[Any]()
    x[2:4] = np.nan
    found = log_run(lambda *s: told.append(s), 2, PLAIN, ArraySource(x, np.ones(8)), None, non_finite="skip")
    assert [step for step, _ in told] == [2, 4, 6, 8] and told[1][1] == {} and found.skipped == 2
    with pytest.raises(ValueError, match="every must be a multiple of record_every"):
        log_run(print, 3, PLAIN, ArraySource(x, np.ones(8)), record_every=2)
    with pytest.raises(TypeError, match="num_steps is needed"):
        log_run(print, 3, PLAIN, IteratorSource(iter([]), 3))


@pytest.mark.parametrize("masked", ["X", "y"])
def test_what_is_behind_a_mask_is_not_learned(estimator: Any, masked: str) -> None:
    given = {"X": X, "y": Y}
    given |= {masked: np.ma.array(given[masked], mask=False)}
    with pytest.raises(TypeError, match=f"{masked} must have no mask"):
        estimator.AlbertaRegressor().fit(**given)


@pytest.mark.parametrize("spike", [1e20, 1e38, 1e300, Decimal("1e25")])
def test_a_refused_event_leaves_no_mean_behind(river: Any, spike: Any) -> None:
    model = river.RiverRegressor(capacity=4)
    for i in range(30):
        model.learn_one({"a": 1.0 + i % 3, "b": Decimal(2 - i % 2)}, 3.0 + i % 3)
    before, means = model.predict_one({"b": 1.0}), model.lanes.means.copy()
    model.learn_one({"a": spike, "b": 1.0}, 3.0)
    assert model.stepper.skipped == 1 and model.predict_one({"b": 1.0}) == before and model.lanes.means == means
    with pytest.raises(TypeError, match="y must be a number, got '3'"):
        model.learn_one({"a": 1.0}, "3")
    with pytest.raises(ValueError, match="must be a number that a float can hold"):
        model.learn_one({"a": 10**400}, 3.0)
