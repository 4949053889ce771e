"""Learners around learners: targets that come late or never, intervals, and errors that are cut."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alberta_nb as ab
from alberta_nb.learners.base import contract
from alberta_nb.learners.interval import after_error
from alberta_nb.learners.late import exchanged
from alberta_nb.learners.robust import cut
from alberta_nb.types import Settings

D, N = 3, 300
LINEAR = ab.LinearLearner(ab.Autostep(0.05), ab.EMANormalizer())
NETWORK = ab.MLPLearner((8,), ab.Autostep(0.05), bounder=ab.ObGDBounding())
INSIDE = {
    "lms": ab.LinearLearner(ab.LMS(0.05)),
    "autostep": LINEAR,
    "popart": ab.PopArt(LINEAR),
    "network": NETWORK,
    "network in units": ab.PopArt(NETWORK),
    "robust": ab.Robust(ab.PopArt(LINEAR)),
}


def table(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((N, D)).astype(np.float32)
    return x, (7 + x @ [2.0, -1.0, 0.5] + 0.1 * rng.standard_normal(N)).astype(np.float32)


def run_of(learner, x: np.ndarray, y: np.ndarray):
    source = ab.ArraySource(x, y)
    source.finite = True
    state = learner.init(D, jax.random.key(0)) if contract(learner).needs_key else learner.init(D)
    return ab.run_learning_loop(learner, source, learner_state=state)


def states_of(learner, x: np.ndarray, y: np.ndarray) -> list:
    "The state before each row, and the last."
    step = jax.jit(lambda state, a, b: learner.step(state, ab.TimeStep(observation=a, target=b)).state)
    states = [learner.init(D, jax.random.key(0)) if contract(learner).needs_key else learner.init(D)]
    for a, b in zip(x, y[:, None], strict=True):
        states.append(step(states[-1], a, b) if np.isfinite(b) else states[-1])
    return states


@pytest.mark.parametrize("delay", [1, 2, 7, 400])
@pytest.mark.parametrize("name", INSIDE)
def test_a_prediction_is_that_of_its_time(name: str, delay: int) -> None:
    learner, (x, y) = INSIDE[name], table()
    states, run = states_of(learner, x, y), run_of(ab.Late(learner, delay), x, y)
    wanted = [learner.predict(states[max(t - delay, 0)], x[t])[0] for t in range(0, N, 7)]
    assert np.allclose(run.metrics[::7, -1], wanted, rtol=1e-3, atol=1e-3)
    assert np.allclose(run.metrics[:, 1], y - run.metrics[:, -1], rtol=1e-4, atol=1e-4)
    for a, b in zip(jax.tree.leaves(run.state.learner_state), jax.tree.leaves(states[-1]), strict=True):
        assert np.allclose(a, b, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", INSIDE)
def test_without_delay_it_is_the_learner(name: str) -> None:
    learner, (x, y) = INSIDE[name], table()
    run, plain = run_of(ab.Late(learner), x, y), run_of(learner, x, y)
    columns = [0, 1, 2]
    assert np.allclose(run.metrics[:, columns], plain.metrics[:, columns], rtol=1e-4, atol=1e-5)
    assert run.state.past is None


@pytest.mark.parametrize("delay", [0, 1, 5])
@pytest.mark.parametrize("name", ["lms", "popart", "network in units"])
def test_a_missing_target_teaches_nothing_and_is_predicted(name: str, delay: int) -> None:
    learner, (x, y) = INSIDE[name], table()
    y[np.random.default_rng(1).random(N) < 0.3] = np.nan
    states, run = states_of(learner, x, y), run_of(ab.Late(learner, delay), x, y)
    known = np.isfinite(y)
    assert np.isfinite(run.metrics).all() and not run.metrics[~known, :2].any() and run.metrics[known, 1].all()
    wanted = [learner.predict(states[max(t - delay, 0)], x[t])[0] for t in range(0, N, 7)]
    if delay:
        assert np.allclose(run.metrics[::7, -1], wanted, rtol=1e-3, atol=1e-3)


def test_a_run_in_two_parts_is_one_run() -> None:
    x, y = table()
    learner = ab.Interval(ab.Late(INSIDE["popart"], 5))
    whole, first = (ab.run_learning_loop(learner, ab.ArraySource(x[:n], y[:n])) for n in (N, 123))
    rest = ab.run_learning_loop(learner, ab.ArraySource(x[123:], y[123:]), learner_state=first.state)
    assert np.array_equal(np.concatenate([first.metrics, rest.metrics]), whole.metrics)
    assert all(map(np.array_equal, jax.tree.leaves(rest.state), jax.tree.leaves(whole.state)))


def test_a_ring_gives_back_what_was_put_there() -> None:
    ring = {"a": jnp.zeros((3, 2)), "b": jnp.zeros(3)}
    for t in range(10):
        old, ring = exchanged(ring, {"a": jnp.full(2, t + 1.0), "b": jnp.float32(-t)}, jnp.uint32(t % 3))
        assert old["a"].tolist() == [max(t - 2, 0)] * 2 and old["b"] == -max(t - 3, 0)


# Intervals


def test_the_width_is_its_equation() -> None:
    x, y = table()
    learner = ab.Interval(LINEAR, 0.8, 0.1, 0.95)
    run = run_of(learner, x, y)
    ratio, size, weight = 2.0, 0.0, 0.0
    for error, width in zip(run.metrics[:, 1].astype(float), run.metrics[:, -1], strict=True):
        assert np.isclose(width, max(ratio, 0) * size, rtol=1e-3, atol=1e-6)
        ratio += 0.1 * ((abs(error) > width) - 0.2)
        weight = 0.95 * weight + 1
        size += (abs(error) - size) / weight


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("kind", ["normal", "heavy", "walk"])
def test_the_promise_is_kept_within_its_bound(level: float, scale: float, kind: str) -> None:
    "Eq. 2 of the page, for errors in any unit, of any distribution."
    rng, rows = np.random.default_rng(3), 8_000
    noise = {"normal": rng.standard_normal(rows), "heavy": rng.standard_t(1.5, rows)}
    errors = scale * (noise.get(kind) if kind != "walk" else np.cumsum(rng.standard_normal(rows)))
    learner = ab.Interval(ab.LinearLearner(ab.LMS(0.0)), level)
    run = run_of_rows(learner, np.zeros((rows, 1)), errors)
    missed = np.abs(run.metrics[:, 1]) > run.metrics[:, -1]
    size = np.abs(errors).cumsum() / np.arange(1, rows + 1)
    largest = 1 + np.max(np.abs(errors[1:]) / np.maximum(size[:-1], 1e-300))  # of an error, in usual ones; about
    assert abs(missed[1:].mean() - (1 - level)) <= (max(largest, 100.0) + 0.1) / (0.05 * (rows - 1))
    assert abs(missed[1:].mean() - (1 - level)) < 0.02


def run_of_rows(learner, x: np.ndarray, y: np.ndarray):
    return ab.run_learning_loop(learner, ab.ArraySource(x, y), learner_state=learner.init(x.shape[1]))


def test_a_missing_target_is_neither_hit_nor_miss() -> None:
    state = ab.Interval(ab.Late(LINEAR)).init(D)
    step = ab.TimeStep(observation=jnp.ones(D), target=jnp.full(1, jnp.nan))
    new = ab.Interval(ab.Late(LINEAR)).step(state, step).state
    assert new.ratio == state.ratio and new.size == state.size and new.weight == state.weight


def test_a_late_interval_is_the_one_of_its_time() -> None:
    x, y = table()
    run = run_of(ab.Interval(ab.Late(LINEAR, 4)), x, y)
    at_once = run_of(ab.Interval(ab.Late(LINEAR)), x, y)
    assert not run.metrics[:5, -1].any() and at_once.metrics[1:, -1].all() and run.metrics[6:, -1].all()
    assert np.allclose(run.metrics[5:, -2].mean(), y.mean(), atol=1.0)


def test_what_is_new_of_a_state() -> None:
    state = ab.Interval(LINEAR).init(D)
    new = after_error(state, jnp.float32(-3.0), jnp.float32(1.0), 0.9, 0.5, 0.99)
    assert np.isclose(new["ratio"], 2 + 0.5 * 0.9) and new["size"] == 3 and new["weight"] == 1


# Errors that are cut


def test_errors_are_cut_at_usual_ones() -> None:
    assert cut(jnp.float32(-9.0), jnp.float32(2.0)) == -2 and cut(jnp.float32(-9.0), jnp.float32(0.0)) == -9
    x, y = table()
    y[200] = 1e6
    plain, robust = (run_of(learner, x, y) for learner in (INSIDE["popart"], INSIDE["robust"]))
    after = slice(201, 230)
    assert np.abs(robust.metrics[after, 1]).max() < 3 < np.abs(plain.metrics[after, 1]).max()
    assert np.isclose(robust.metrics[200, 1], 1e6, rtol=1e-3)  # the error is told as it is


def test_a_limit_that_is_never_reached_changes_nothing() -> None:
    x, y = table()
    plain, robust = run_of(LINEAR, x, y), run_of(ab.Robust(LINEAR, 1e6), x, y)
    assert np.allclose(plain.metrics[:, :3], robust.metrics[:, :3], rtol=1e-3, atol=1e-3)


# All of them


AROUND = [
    ab.Late(LINEAR, 3),
    ab.Interval(ab.Late(NETWORK)),
    ab.Robust(LINEAR, 2.0),
    ab.Interval(ab.Robust(LINEAR), 0.5),
]


@pytest.mark.parametrize("learner", AROUND, ids=lambda learner: type(learner).__name__)
def test_settings_round_trip_and_learners_are_values(learner) -> None:
    again = Settings.from_config(json.loads(json.dumps(learner.to_config())))
    assert again == learner and hash(again) == hash(learner)
    assert len(run_of(learner, *table()).metrics[0]) == len(learner.metric_names)


@pytest.mark.parametrize("learner", AROUND, ids=lambda learner: type(learner).__name__)
def test_seeds_run_as_alone(learner) -> None:
    stream, keys = ab.RandomWalkStream(D), jax.random.split(jax.random.key(0), 3)
    if contract(learner).needs_key:
        batch = ab.run_mlp_learning_loop_batched(learner, stream, 200, keys)
        alone = ab.run_mlp_learning_loop(learner, stream, 200, keys[1])
    else:
        batch = ab.run_learning_loop_batched(learner, stream, 200, keys)
        alone = ab.run_learning_loop(learner, stream, 200, keys[1])
    assert np.allclose(batch.metrics[1], alone.metrics, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ab.Late(LINEAR, -1), ValueError, "delay must be 0 or more, got -1"),
        (lambda: ab.Late(LINEAR, 1.5), TypeError, "delay must be a whole number"),
        (
            lambda: ab.Late(ab.TDLinearLearner()),
            TypeError,
            "learner must learn from TimeSteps, got one for TDTimeSteps",
        ),
        (lambda: ab.Interval(LINEAR, 1.0), ValueError, r"level must be a finite number in \(0.0, 1.0\), got 1.0"),
        (lambda: ab.Interval(LINEAR, 0.0), ValueError, "level must be a finite number"),
        (lambda: ab.Interval(LINEAR, rate=0.0), ValueError, "rate must be a finite number"),
        (lambda: ab.Interval(LINEAR, decay=2.0), ValueError, "decay must be a finite number"),
        (lambda: ab.Robust(LINEAR, 0.0), ValueError, "most must be a finite number"),
        (lambda: ab.Robust(LINEAR, decay=-1.0), ValueError, "decay must be a finite number"),
    ],
)
def test_errors_name_what_is_wrong(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()
