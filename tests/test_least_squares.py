"""Least squares with forgetting: numpy in 64 bits, ridge regression, what rounding and silence do to it, every door."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alberta_nb as ab
from alberta_nb.apps.learn import learn_table
from alberta_nb.optimizers.least_squares import least_squares_step


def by_the_book(X: np.ndarray, y: np.ndarray, decay: float, prior: float) -> tuple[np.ndarray, np.ndarray]:
    "Weights, the bias last, and their covariance by eq. 1, cut as eq. 3 says, in 64 bits."
    P, w = prior * np.eye(X.shape[1] + 1), np.zeros(X.shape[1] + 1)
    for x, target in zip(np.column_stack([X, np.ones(len(X))]), y, strict=True):
        k = P @ x / (decay + x @ P @ x)
        w = w + k * (target - w @ x)
        P = (P - np.outer(k, x @ P)) / decay
        cut = np.minimum(1.0, np.sqrt(prior / np.diag(P)))
        P = cut[:, None] * P * cut
    return w, P


def lived(rule: ab.LeastSquares, X: np.ndarray, y: np.ndarray, **settings: Any) -> Any:
    return ab.run_learning_loop(ab.LinearLearner(rule, **settings), ab.ArraySource(X, y), len(y))[0]


def rows(n: int = 5, count: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X, w = rng.normal(size=(count, n)), rng.normal(size=n)
    return X, X @ w - 1.0 + 0.3 * rng.normal(size=count)


@pytest.mark.parametrize(("decay", "prior"), [(1.0, 1.0), (0.99, 1.0), (0.9, 0.2), (0.5, 100.0), (None, 3.0)])
def test_it_is_the_book(decay, prior) -> None:
    X, y = rows()
    X[:, 2] = np.where(np.arange(400) % 50 == 7, 1.0, 0.0)  # which is silent most of the time
    with jax.enable_x64(True):
        state = lived(ab.LeastSquares(decay, prior), X, y)
        w, P = by_the_book(X, y, 1.0 - 0.05 / 6 if decay is None else decay, prior)
        np.testing.assert_allclose([*state.weights, state.bias], w, rtol=1e-8, atol=1e-10)
        root = state.optimizer_state.root
        np.testing.assert_allclose(root @ root.T, P, rtol=1e-7, atol=1e-12)


def test_a_column_that_is_repeated_and_one_that_is_silent_for_long_do_no_harm() -> None:
    X, y = rows(4, 60_000)
    X[:, 1], X[:, 3] = X[:, 0], 0.0
    X[-1, 3] = 1.0
    state = lived(ab.LeastSquares(0.99), X.astype(np.float32), y.astype(np.float32))
    root = np.asarray(state.optimizer_state.root, np.float64)
    assert np.isfinite(root).all() and np.diag(root @ root.T).max() <= 1.0 + 1e-5
    np.testing.assert_allclose(state.weights[0], state.weights[1], atol=1e-3)
    assert abs(state.weights[3]) < 1.0  # one row after a long silence


def test_without_a_bias_there_is_none() -> None:
    X, y = rows()
    state = lived(ab.LeastSquares(), X.astype(np.float32), y.astype(np.float32), use_bias=False)
    assert state.bias == 0.0 and np.isfinite(state.optimizer_state.root).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": 0.0}, "decay must be"), ({"decay": 1.1}, "decay must be"), ({"prior": 0.0}, "prior must be"),
        ({"prior": float("nan")}, "prior must be"), ({"prior": 1e-46}, "prior must be"),
        ({"decay": 1e-46}, "decay must be"),
    ],
)  # fmt: skip
def test_settings_out_of_range(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        ab.LeastSquares(**settings)


def test_what_it_is_not_for() -> None:
    with pytest.raises(ValueError, match="feature_dim must be at most 4,096, as n inputs need n x n, got 4,097"):
        ab.LinearLearner(ab.LeastSquares()).init(4097)
    with pytest.raises(TypeError, match="optimizer: LeastSquares works on linear learners only"):
        ab.MLPLearner((4,), ab.LeastSquares())


def test_every_door_gives_the_same(tmp_path) -> None:
    learner = ab.PopArt(ab.LinearLearner(ab.LeastSquares(), ab.EMANormalizer()))
    assert ab.Settings.from_config(learner.to_config()) == learner
    X, y = (a.astype(np.float32) for a in rows(3, 100))
    stepper = ab.Stepper(learner, 3)
    said = np.array([stepper.update(x, target) for x, target in zip(X, y, strict=True)])
    ab.save(tmp_path / "half", stepper)
    _, metrics = ab.run_learning_loop(learner, ab.ArraySource(X, y), 100)
    np.testing.assert_allclose(said[:, 1:], metrics, rtol=1e-4, atol=1e-5)
    again = ab.load(tmp_path / "half").stepper()
    np.testing.assert_array_equal(again.update(X[0], y[0]), stepper.update(X[0], y[0]))
    keys = jax.random.split(jax.random.key(0), 3)
    stream = ab.SuttonExperiment1Stream(num_relevant=2, num_irrelevant=3)
    many = ab.run_learning_loop_batched(ab.LinearLearner(ab.LeastSquares()), stream, 200, keys)
    _, one = ab.run_learning_loop(ab.LinearLearner(ab.LeastSquares()), stream, 200, keys[1])
    np.testing.assert_allclose(many.metrics[1], one, rtol=1e-3, atol=1e-4)


def test_units_do_not_matter_behind_a_normaliser_and_popart() -> None:
    X, y = rows(3, 500)
    one, other = (
        learn_table({"x": a, "z": b, "y": c}, "y", lags=0, known=["x", "z"], optimizers=["least-squares"]).scores
        for a, b, c in ((X[:, 0], X[:, 1], y), (1e3 * X[:, 0], 1e-2 * X[:, 1], 1e4 * y))
    )
    np.testing.assert_allclose(other.rmse, 1e4 * one.rmse, rtol=1e-3)
    assert one.skill["least-squares"] > 0.4


def test_no_row_makes_it_negative() -> None:
    root = jnp.eye(3)
    for x in ([1e6, 1.0, 1.0], [1e-6, 1e6, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0 + 1e-6]) * 200:
        _, root = least_squares_step(root, jnp.array(x), 0.95, 1.0)
    assert np.linalg.eigvalsh(np.asarray(root, np.float64) @ np.asarray(root, np.float64).T).min() > -1e-9
