"""Gradient TD: expected updates in float64 against the linear algebra, fixed points, ratios, episodes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alberta_nb as ab
from alberta_nb.horde.off_policy import BAIRD_START, BairdStream
from alberta_nb.horde.policies import importance_ratios
from alberta_nb.streams.base import watch
from alberta_nb.streams.chains import mean_traces, projected_error, td_system

N, M, D, GAMMA = 5, 3, 3, 0.9
rng = np.random.default_rng(11)
MOVES, PAY = rng.dirichlet(np.ones(N), size=(N, M)), rng.normal(size=(N, M, N))
BEHAVIOUR, TARGET = (rng.dirichlet(np.full(M, k), size=N) for k in (3.0, 1.0))
PHI = rng.normal(size=(N, D))
P, B = (np.einsum("sa,sat->st", policy, MOVES) for policy in (TARGET, BEHAVIOUR))
R = np.einsum("sa,sat,sat->s", TARGET, MOVES, PAY)
VISITS = np.linalg.matrix_power(B, 500)[0]
KINDS = {"TDLambda": ab.TDLambda, "TDC": ab.TDC, "GTD2": ab.GTD2}
each_lamda = pytest.mark.parametrize("lamda", [0.0, 0.7, 1.0])


def expected_update(optimizer: Any, w: np.ndarray, h: np.ndarray | None, lamda: float) -> list[np.ndarray]:
    "The mean change of weights, and of second weights, over all transitions, each as often as it comes."
    arriving = np.zeros((N, D)) if lamda == 0 else mean_traces(PHI, P, GAMMA, VISITS, lamda) / VISITS[:, None] - PHI
    first = optimizer.init(D).replace(previous_gamma=jnp.asarray(GAMMA if lamda else 0.0))
    first = first if h is None else first.replace(secondary_weights=jnp.asarray(h))
    s, a, t = (index.ravel() for index in np.indices((N, M, N)))

    def one(z: Any, x: Any, y: Any, reward: Any, rho: Any) -> Any:
        delta = reward + GAMMA * jnp.sum(w * y) - jnp.sum(w * x)
        state = first.replace(eligibility_traces=z)
        move = optimizer.update(state, delta, x, y, jnp.asarray(GAMMA), 0.0, rho=rho)
        return move.weight_delta, getattr(move.new_state, "secondary_weights", jnp.zeros(D))

    before = arriving[s] / (GAMMA * (lamda or 1.0))
    moves = jax.vmap(one)(before, PHI[s], PHI[t], PAY[s, a, t], TARGET[s, a] / BEHAVIOUR[s, a])
    share = VISITS[s] * BEHAVIOUR[s, a] * MOVES[s, a, t]
    return [share @ np.asarray(part) for part in moves]


@each_lamda
def test_expected_updates_are_the_equations(float64: None, lamda: float) -> None:
    w, h = rng.normal(size=D), rng.normal(size=D)
    a, b, c = td_system(PHI, P, R, GAMMA, VISITS, lamda)
    shift = GAMMA * (1 - lamda) * (P @ PHI).T @ mean_traces(PHI, P, GAMMA, VISITS, lamda)
    wanted = {"TDLambda": b - a @ w, "TDC": b - a @ w - shift @ h, "GTD2": a.T @ h}
    for name, kind in KINDS.items():
        change, second = expected_update(kind(1.0, lamda), w, None if name == "TDLambda" else h, lamda)
        np.testing.assert_allclose(change, wanted[name], atol=1e-12)
        if name != "TDLambda":
            np.testing.assert_allclose(second - h, 0.05 * (b - a @ w - c @ h), atol=1e-12)


@each_lamda
def test_both_directions_are_the_gradient_and_vanish_at_the_linear_solution(float64: None, lamda: float) -> None:
    a, b, c = td_system(PHI, P, R, GAMMA, VISITS, lamda)
    w, fixed = rng.normal(size=D), np.linalg.solve(a, b)
    slope = [(projected_error(w + e, a, b, c) - projected_error(w - e, a, b, c)) / 2e-3 for e in 1e-3 * np.eye(D)]
    for name in ("TDC", "GTD2"):
        optimizer = KINDS[name](1.0, lamda)
        best = np.linalg.solve(c, b - a @ w)
        np.testing.assert_allclose(expected_update(optimizer, w, best, lamda)[0], -0.5 * np.array(slope), atol=1e-9)
        np.testing.assert_allclose(expected_update(optimizer, fixed, np.zeros(D), lamda), 0.0, atol=1e-12)


def test_the_system_agrees_with_a_chain() -> None:
    chain = ab.RandomWalkChain(5)
    model, n = chain.model, 5
    rewards = np.sum(model.transitions * model.rewards, axis=1)
    for lamda in (0.0, 0.5, 1.0):
        a, b, _ = td_system(np.eye(n), model.transitions[:, :n], rewards, 1.0, chain.state_weights, lamda)
        np.testing.assert_allclose(np.linalg.solve(a, b), np.arange(1, 6) / 6, atol=1e-12)


def run(optimizer: Any, steps: list[tuple[Any, ...]], use_bias: bool = True) -> Any:
    learner = ab.TDLinearLearner(optimizer, use_bias=use_bias)
    state = learner.init(D)
    for step in steps:
        state = learner.update(state, *step).state
    return state


def gap(one: Any, other: Any) -> float:
    "The largest difference between the weights of two states."
    return float(max(jnp.abs(one.weights - other.weights).max(), jnp.abs(one.bias - other.bias)))


def transitions(count: int = 40, gammas: Any = (0.9, 0.7, 0.0, 0.95, -0.9)) -> list[tuple[Any, ...]]:
    draw = np.random.default_rng(3)
    rows = zip(draw.normal(size=(count, D)), draw.normal(size=count), draw.normal(size=(count, D)), strict=True)
    return [(x, float(r), y, gammas[k % len(gammas)]) for k, (x, r, y) in enumerate(rows)]


def test_without_second_weights_tdc_is_td(float64: None) -> None:
    steps = [(*step, 1.5) for step in transitions()]
    td, tdc, still = (run(o, steps) for o in (ab.TDLambda(0.05, 0.8), ab.TDC(0.05, 0.8, 0.0), ab.GTD2(0.05, 0.8, 0.0)))
    assert gap(td, tdc) < 1e-13
    assert not still.weights.any() and not still.bias


def test_without_discount_tdc_is_lms(float64: None) -> None:
    steps = transitions(gammas=(0.0,))
    lms = ab.LinearLearner(ab.LMS(0.05))
    state = lms.init(D)
    for x, reward, _, _ in steps:
        state = lms.update(state, x, reward).state
    tdc = run(ab.TDC(0.05, 0.9, 0.1), steps)
    assert gap(tdc, state) < 1e-13


@pytest.mark.parametrize("name", KINDS)
def test_a_ratio_of_one_is_on_policy_and_zero_learns_nothing(float64: None, name: str) -> None:
    optimizer = KINDS[name](0.05, 0.8)
    plain, ones = run(optimizer, transitions()), run(optimizer, [(*step, 1.0) for step in transitions()])
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(ones), strict=True):
        assert jnp.array_equal(one, other)
    zeros = run(optimizer, [(*step, 0.0) for step in transitions()])
    assert not zeros.weights.any() and not zeros.bias and not zeros.optimizer_state.eligibility_traces.any()


@pytest.mark.parametrize("name", KINDS)
def test_the_trace_is_that_of_the_book(float64: None, name: str) -> None:
    "z = rho (gamma lambda z + x), where gamma led into x, and nothing leads on from an end or a cut (Eq. 12.25)."
    steps, ratios = transitions(), np.random.default_rng(5).uniform(0, 2, 40)
    z, into = np.zeros(D), 0.0
    for (x, _, _, gamma), rho in zip(steps, ratios, strict=True):
        z, into = rho * (into * 0.8 * z + x), max(gamma, 0.0)
    state = run(KINDS[name](0.01, 0.8), [(*s, float(r)) for s, r in zip(steps, ratios, strict=True)])
    np.testing.assert_allclose(state.optimizer_state.eligibility_traces, z, rtol=1e-12)


@pytest.mark.parametrize("name", ["TDC", "GTD2"])
def test_nothing_comes_after_the_end(float64: None, name: str) -> None:
    first = transitions(7, gammas=(0.9,))
    x = np.ones(D)
    ends = [run(KINDS[name](0.05, 0.8), [*first, (x, 1.0, x * bad, 0.0)]) for bad in (1.0, np.nan, np.inf)]
    for end in ends[1:]:
        assert jnp.array_equal(end.weights, ends[0].weights) and jnp.isfinite(end.weights).all()


def test_a_cut_is_bootstrapped_wholly(float64: None) -> None:
    "Where no trace leads on, lambda is 0: the correction is not shrunk by 1 - lambda."
    state = ab.TDC(1.0, 0.75, 0.0).init(1).replace(secondary_weights=jnp.array([0.5]))
    moves = [
        ab.TDC().update(state, jnp.asarray(0.0), jnp.array([2.0]), jnp.array([3.0]), jnp.asarray(gamma), 0.0)
        for gamma in (0.8, -0.8)
    ]
    np.testing.assert_allclose([m.weight_delta[0] for m in moves], [-0.8 * 0.25 * 3.0, -0.8 * 3.0], atol=1e-15)


@pytest.mark.parametrize("optimizer", [ab.TDLambda(trace="replacing"), ab.TrueOnlineTD(), ab.TDIDBD(), ab.AutoTDIDBD()])
def test_optimizers_without_an_off_policy_form_say_so(optimizer: Any) -> None:
    with pytest.raises(ValueError, match="rho must be None: " + type(optimizer).__name__):
        run(optimizer, [(*transitions(1)[0], 1.0)])


@pytest.mark.parametrize("rho", [-0.5, float("nan"), [1.0, 2.0], "a"])
def test_a_ratio_that_is_none(rho: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="rho must"):
        run(ab.TDC(), [(*transitions(1)[0], rho)])


def test_settings() -> None:
    assert ab.GTD is ab.TDC and ab.TDC() == ab.TDC(0.01, 0.0, 0.05)
    assert ab.TDC.from_config(ab.TDC(0.1, 0.5, 0.2).to_config()) == ab.TDC(0.1, 0.5, 0.2)
    assert ab.TDC(0.1).structure == ab.TDC(0.2, 0.9, 0.3).structure != ab.GTD2(0.1).structure
    with pytest.raises(ValueError, match="secondary_step_size must"):
        ab.GTD2(secondary_step_size=-1.0)


# --- Baird's star, and policies ---


def baird_weights(kind: str, alpha: float, beta: float, steps: int = 1000) -> np.ndarray:
    "The weights after expected updates, from the book's start."
    (a, b, c), w, h = BairdStream().expected_system(), np.array(BAIRD_START), np.zeros(8)
    for _ in range(steps):
        g = b - a @ w
        push = {"TD": g, "TDC": g + (a.T - c) @ h, "GTD2": a.T @ h}[kind]
        w, h = w + alpha * push, h + beta * (g - c @ h)
    return w


def value_error(w: Any) -> float:
    "The root of the value error: all true values are 0."
    return float(np.sqrt(np.mean((BairdStream().state_features @ np.asarray(w, np.float64)) ** 2)))


def baird_run(optimizer: Any) -> Any:
    learner = ab.TDLinearLearner(optimizer, use_bias=False)
    state = learner.init(8).replace(weights=jnp.array(BAIRD_START))
    return ab.run_td_learning_loop(learner, BairdStream(), 1000, jax.random.key(0), state).state.weights


def test_bairds_star_td_diverges_and_its_gradient_does_not() -> None:
    "Sutton and Barto 2018, Figures 11.2 and 11.5: with TDC the root of VE stays near 2 while the PBE goes to 0."
    td = baird_weights("TD", 0.01, 0.0)
    assert td[7] > 300 and (td[:6] > 100).all() and value_error(td) > 500
    assert value_error(baird_run(ab.TDLambda(0.01))) > 100
    for kind, optimizer in (("TDC", ab.TDC), ("GTD2", ab.GTD2)):
        w = baird_weights(kind, 0.005, 0.05)
        assert 1.9 < value_error(w) < 2.0 and projected_error(w, *BairdStream().expected_system()) < 1e-4
        one = baird_run(optimizer(0.005, 0.0, 0.05))
        assert value_error(one) < 4.0 and projected_error(one, *BairdStream().expected_system()) < 0.1


def test_the_stars_ratios_and_states() -> None:
    steps, _ = watch(BairdStream(), jax.random.key(1), 7000)
    rho, arrived = np.asarray(steps.rho)[:, 0], np.asarray(steps.next_observation)[:, 7] == 2
    assert np.array_equal(rho, 7.0 * arrived) and abs(rho.mean() - 1) < 0.1
    visits = np.asarray(steps.observation) @ np.linalg.pinv(BairdStream().state_features)
    np.testing.assert_allclose(visits.mean(axis=0), 1 / 7, atol=0.02)


def test_importance_ratios() -> None:
    def cautious(observation: Any, action: Any) -> Any:
        return jnp.where(observation[0] > 0, 0.9, 0.1) * (action == 1)

    args = ([cautious, None, lambda observation, action: 0.5], 0.25, jnp.array([1.0]), 1)
    np.testing.assert_allclose(importance_ratios(*args), [3.6, 1.0, 2.0], rtol=1e-6)
    np.testing.assert_array_equal(
        jax.jit(lambda o, a: importance_ratios(args[0], 0.25, o, a))(*args[2:]), importance_ratios(*args)
    )
    wrong = [
        ([], 0.5),
        (["left"], 0.5),
        ([None], 0.0),
        ([None], 1.5),
        ([lambda o, a: -0.1], 0.5),
        ([lambda o, a: o], 0.5),
    ]
    for policies, chance in wrong:
        with pytest.raises((TypeError, ValueError), match="target_policies|behaviour_probability"):
            importance_ratios(policies, chance, jnp.zeros(2), 0)


@pytest.mark.parametrize("optimizer", [ab.TDLambda(0.03, 0.7), ab.TDC(0.03, 0.7, 0.1), ab.GTD2(0.03, 0.7, 0.1)])
def test_demons_of_a_horde_are_learners_with_their_own_ratios(float64: None, optimizer: Any) -> None:
    steps = transitions(gammas=(0.9,))
    rhos = np.random.default_rng(7).uniform(0, 2, (40, 2))
    spec = ab.create_horde_spec([ab.GVFSpec(n, "prediction", 0.9, 0.7, cumulant_index=0) for n in ("a", "b")])
    horde = ab.HordeLearner(spec, hidden_sizes=(), optimizer=optimizer)
    first = horde.init(D, jax.random.key(0))
    first = first.replace(params=jax.tree.map(jnp.zeros_like, first.params))
    xs, rewards, following = (np.array(column) for column in list(zip(*steps, strict=True))[:3])
    result = ab.run_horde_learning_loop(horde, first, xs, rewards[:, None], following, rhos=rhos)
    for k in range(2):
        alone = run(optimizer, [(*step, float(rho)) for step, rho in zip(steps, rhos[:, k], strict=True)])
        np.testing.assert_allclose(result.state.params.weights[0][k], alone.weights, rtol=1e-12)
        np.testing.assert_allclose(result.state.params.biases[0][k], alone.bias, rtol=1e-12)


def test_a_record_with_ratios(float64: None) -> None:
    steps, rhos = transitions(), np.random.default_rng(9).uniform(0, 2, 40)
    arrays = [np.array(column) for column in zip(*steps, strict=True)]
    learner = ab.TDLinearLearner(ab.TDC(0.05, 0.6))
    result = ab.run_td_learning_loop(learner, ab.TDArraySource(*arrays, rhos=rhos))
    by_hand = run(learner.optimizer, [(*step, float(rho)) for step, rho in zip(steps, rhos, strict=True)])
    assert gap(result.state, by_hand) < 1e-12
    with pytest.raises(ValueError, match="rho must be None: TDIDBD"):
        ab.run_td_learning_loop(ab.TDLinearLearner(), ab.TDArraySource(*arrays, rhos=rhos))
    for wrong in (-rhos, rhos[1:]):
        with pytest.raises(ValueError, match="rhos must"):
            ab.TDArraySource(*arrays, rhos=wrong)


# --- an environment ---


class Corridor:
    "Three cells with a random push; the way out pays 1; cut off after `limit` steps."

    def __init__(self, limit: int = 5):
        self.limit, self.random = limit, np.random.default_rng(0)

    def reset(self, seed: int | None = None) -> tuple[Any, dict]:
        self.cell, self.steps = 0, 0
        return np.eye(3)[0], {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        self.cell, self.steps = self.cell + action, self.steps + 1
        out = self.cell == 3
        return np.eye(3)[self.cell % 3], float(out), out, not out and self.steps == self.limit, {}


def test_a_horde_watches_an_environment(float64: None) -> None:
    coin = np.random.default_rng(1)
    spec = ab.create_horde_spec(
        [ab.GVFSpec(n, "prediction", g, 0.0, cumulant_index=3) for n, g in (("a", 0.9), ("b", 0.5))]
    )
    policies = [None, lambda observation, action: action == 1]
    arrays = ab.play_horde(Corridor(), spec, 4000, lambda o: (int(coin.integers(2)), 0.5), target_policies=policies)
    moved = arrays["next_observations"].argmax(1) != arrays["observations"].argmax(1)
    cut, ended = arrays["gammas"][:, 0] < 0, arrays["terminated"]
    assert 100 < cut.sum() and 100 < ended.sum() and not (cut & ended).any()
    np.testing.assert_array_equal(arrays["rhos"][~ended], np.stack([np.ones(4000), 2.0 * moved], axis=1)[~ended])
    np.testing.assert_array_equal(np.abs(arrays["gammas"]), np.tile([0.9, 0.5], (4000, 1)))
    np.testing.assert_array_equal(arrays["cumulants"][:, 3], ended)
    np.testing.assert_array_equal(arrays["cumulants"][:, :3], arrays["next_observations"])
    assert (arrays["observations"][1:][(cut | ended)[:-1]].argmax(1) == 0).all(), "a new episode follows"
    horde = ab.HordeLearner(spec, hidden_sizes=(), optimizer=ab.TDLambda(0.05))
    state = ab.run_horde_learning_loop(horde, horde.init(3, jax.random.key(0)), **arrays).state
    values = np.array([horde.predict(state, row) for row in np.eye(3)])
    assert np.abs(values[:, 1] - 0.5 ** np.arange(2, -1, -1)).max() < 0.05
    assert np.abs(values[:, 0] - (0.45 / 0.55) ** np.arange(3, 0, -1) / 0.9).max() < 0.15


def test_what_does_not_fit_an_environment() -> None:
    spec = ab.create_horde_spec([ab.GVFSpec("a", "prediction", 0.0, 0.0, cumulant_index=0)])
    arrays = ab.play_horde(Corridor(100), spec, 3, lambda o: 1, features=lambda o: [1.0, 2.0])
    assert set(arrays) == {"observations", "next_observations", "terminated", "cumulants"}
    assert arrays["observations"].shape == (3, 2) and arrays["cumulants"].shape == (3, 4)
    calls = [
        ("spec must be", lambda: ab.play_horde(Corridor(), "a", 3)),
        ("num_steps", lambda: ab.play_horde(Corridor(), spec, 0)),
        ("policy must be given", lambda: ab.play_horde(Corridor(), spec, 3)),
        ("policy must be a function", lambda: ab.play_horde(Corridor(), spec, 3, "left")),
        ("env must be", lambda: ab.play_horde(3, spec, 3)),
    ]
    for message, call in calls:
        with pytest.raises((TypeError, ValueError), match=message):
            call()
