"""SwiftTD: the authors' package, a plain numpy program, the published numbers, the bound, the loops, errors."""

import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alberta_nb as ab
from alberta_nb.native.kernel import native_loops

needs_wheel = pytest.mark.skipif(importlib.util.find_spec("swifttd") is None, reason="swifttd is not installed")
RESETS = "active", "all"
X = np.array([(1, 0, 0.5), (0, 1, 0), (1, 1, 0), (0, 0.5, 1), (1, 0, 0), (0, 0, 1), (2, 1, 0), (1, 0, 0.5)] * 3)
R = np.array([0, 1, 0, 2, -1, 0, 1, 0.5] * 3)
# What the authors' package 0.2.0 says for X and R: values at four calls, weights, step sizes after the last call.
KNOWN = {
    "active": (
        (0.668963, 1.516445, 0.877999, 2.621997),
        (1.658892, 0.668750, 1.575155),
        (0.157532, 0.036771, 0.228115),
    ),
    "all": ((0.671712, 1.543496, 0.768153, 2.086982), (1.413414, 0.658395, 0.765772), (0.095092, 0.039408, 0.065702)),
}


class Published:
    """The program as it was published, in float64: a reward comes with the features, one call a step."""

    def __init__(self, d: int, lamda: float, step: float, gamma: float, eta: float, decay: float, theta: float,
                 low: float, reset: str) -> None:  # fmt: skip
        self.lamda, self.gamma, self.eta, self.decay, self.theta = lamda, gamma, eta, decay, theta
        self.low, self.reset, self.over = low, reset, 0
        self.b, self.v_old, self.v_d = np.full(d, np.log(step)), 0.0, 0.0
        self.w, self.z, self.zd, self.dw, self.h, self.ho, self.ht, self.zb, self.p = np.zeros((9, d))

    def step(self, x: np.ndarray, reward: float, gamma: float | None = None) -> float:
        gamma = self.gamma if gamma is None else gamma
        v = float(self.w @ x)
        d = reward + gamma * v - self.v_old
        self.dw = d * self.z - self.zd * self.v_d
        self.w = self.w + self.dw
        b = self.b + self.theta * np.exp(-self.b) * (d - self.v_d) * self.p
        self.b = np.clip(b, np.log(self.low), np.log(self.eta))
        self.ho, self.h = self.h, self.ht + d * self.zb - self.zd * self.v_d
        self.z, self.p, self.zb = (gamma * self.lamda * a for a in (self.z, self.p, self.zb))
        tau, told, self.v_d = np.exp(self.b) @ (x * x), self.z @ x, self.dw @ x
        over = tau > self.eta * (1.0 + 1e-12)
        self.over += over
        if over and self.reset == "active":
            self.h, self.ho, self.zb = (np.where(x != 0.0, 0.0, a) for a in (self.h, self.ho, self.zb))
        self.zd = min(1.0, self.eta / max(tau, 1e-300)) * np.exp(self.b) * x
        self.z = self.z + self.zd * (1.0 - told)
        self.p = self.p + self.ho * x
        self.zb = self.zb + self.zd * (1.0 - told - self.zb * x)
        self.ht = self.h - self.ho * x * (self.z - self.zd) - self.h * self.zd * x
        if over and self.reset == "all":
            self.h, self.ho, self.zb, self.ht = (np.zeros_like(x) for _ in range(4))
        if over:
            self.b = self.b + x * x * np.log(self.decay)
        self.v_old = v
        return v

    def end(self, reward: float) -> None:
        """The end of an episode: a call with no features and the last reward, and a clean start."""
        self.step(np.zeros_like(self.w), reward)
        self.z, self.zd, self.dw, self.zb, self.p = (np.zeros_like(self.w) for _ in range(5))
        self.v_old, self.v_d, self.ht = 0.0, 0.0, self.h


def learner_of(reset: str = "active", use_bias: bool = False, **settings: Any) -> ab.TDLinearLearner:
    numbers = {"initial_step_size": 0.05, "meta_step_size": 0.1, "trace_decay": 0.9, "bound": 0.3, "bound_decay": 0.9}
    return ab.TDLinearLearner(ab.SwiftTD(**numbers | {"reset": reset} | settings), use_bias=use_bias)


def program_of(learner: ab.TDLinearLearner, d: int, gamma: float) -> Published:
    o = learner.optimizer
    return Published(d, o.trace_decay, o.initial_step_size, gamma, o.bound, o.bound_decay, o.meta_step_size,
                     o.min_step_size, o.reset)  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def live(learner: Any, state: Any, xs: Any, rewards: Any, gamma: Any) -> tuple[Any, Any]:
    """The last state, and the values that a published program says at its calls 2, 3, ...: with the weights before."""

    def step(state: Any, row: Any) -> Any:
        x, next_x, reward = row
        value = jnp.sum(state.weights * next_x) + state.bias
        ts = ab.TDTimeStep(observation=x, reward=reward[None], next_observation=next_x, gamma=gamma[None])
        return learner.step(state, ts).state, value

    return jax.lax.scan(step, state, (xs[:-1], xs[1:], rewards[1:]))


def values_of(learner: ab.TDLinearLearner, xs: np.ndarray, rewards: np.ndarray, gamma: float) -> tuple[Any, np.ndarray]:
    given = jnp.asarray(xs), jnp.asarray(rewards), jnp.asarray(gamma)
    state, values = live(learner.structure, learner.init(xs.shape[1]), *given)
    return state, np.append(0.0, values)


def rms(a: Any) -> float:
    return float(np.sqrt(np.mean(np.square(a))))


# --- the published programs ---


@pytest.mark.parametrize("reset", RESETS)
def test_published_numbers(reset: str, float64: None) -> None:
    values, weights, sizes = KNOWN[reset]
    learner = learner_of(reset)
    state, found = values_of(learner, X, R, 0.9)
    assert np.abs(found[[10, 14, 19, 23]] - values).max() < 3e-6
    assert np.abs(state.weights - np.array(weights)).max() < 3e-6
    # The authors' last call has also seen the last features: one more step of ours, from an end, does that part.
    last = learner.update(state, X[23], 0.0, X[23], 0.0).state.optimizer_state.weights
    program = program_of(learner, 3, 0.9)
    for x, reward in zip(X, R, strict=True):
        program.step(x, reward)
    assert np.abs(np.exp(program.b) - np.array(sizes)).max() < 3e-6
    program.end(0.0)
    assert np.abs(last.step_sizes - np.minimum(np.exp(program.b), 0.3)).max() < 1e-12


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("settings", [{}, {"bound": 1.0, "meta_step_size": 0.01}, {"trace_decay": 0.0}])
def test_numpy_program_with_ends(reset: str, use_bias: bool, settings: dict, float64: None) -> None:
    rng = np.random.default_rng(1)
    xs, rewards = rng.normal(size=(121, 4)), rng.normal(size=121)
    learner = learner_of(reset, use_bias, **settings)
    seen = np.column_stack([xs, np.ones(121)]) if use_bias else xs
    program, state = program_of(learner, seen.shape[1], 0.8), learner.init(4)
    program.step(seen[0], 0.0)
    for t in range(120):
        ends = t % 17 == 16
        state = learner.update(state, xs[t], rewards[t], xs[t + 1], 0.0 if ends else 0.8).state
        if ends:
            program.end(rewards[t])
            program.step(seen[t + 1], 0.0)
        else:
            program.step(seen[t + 1], rewards[t])
        weights = np.append(state.weights, state.bias) if use_bias else state.weights
        assert np.abs(weights - program.w).max() < 1e-12 * max(1.0, np.abs(program.w).max()), t
    assert program.over > 0


@needs_wheel
@pytest.mark.parametrize("reset", RESETS)
def test_the_authors_package_where_the_bound_is_idle(reset: str, float64: None) -> None:
    import swifttd

    rng = np.random.default_rng(0)
    xs = np.float32(rng.uniform(size=(100_000, 8)) * (rng.random((100_000, 8)) < 0.5)).astype(np.float64)
    rewards = np.float32(rng.normal(size=100_000) + xs @ np.linspace(-1.0, 1.0, 8)).astype(np.float64)
    learner = learner_of(reset, initial_step_size=0.01, meta_step_size=1e-3, bound=0.5, bound_decay=0.999)
    kind = swifttd.SwiftTD if reset == "active" else swifttd.SwiftTDNonSparse
    theirs = kind(8, 0.9, 0.01, 0.9, 1e-30, 0.5, 0.999, 1e-3, 1e-10)
    sparse = [[(int(i), float(x[i])) for i in np.flatnonzero(x)] if reset == "active" else x.tolist() for x in xs]
    values = np.array([theirs.step(row, reward) for row, reward in zip(sparse, rewards.tolist(), strict=True)])
    found = values_of(learner, xs, rewards, 0.9)[1]
    assert rms(found - values) < 1e-4 * rms(values) and np.abs(found - values).max() < 2e-4 * rms(values)


@needs_wheel
@pytest.mark.parametrize(
    ("step", "eta", "every", "acting"), [(0.001, 0.5, 1e-5, None), (0.02, 0.1, 2e-4, 4e-3)], ids=["idle", "active"]
)
@pytest.mark.parametrize("reset", RESETS)
def test_the_authors_package_on_the_ring(step: float, eta: float, every: float, acting: Any, reset: str,
                                         float64: None) -> None:  # fmt: skip
    import swifttd

    rng, at, steps = np.random.default_rng(0), 0, 20_000
    xs, rewards = np.zeros((steps, 30)), np.zeros(steps)
    xs[:, 10:] = rng.random((steps, 20)) < 0.5
    for t in range(steps):
        xs[t, at] = 1.0
        if t + 1 < steps and rng.random() < 0.9:
            at = (at + 1) % 10
            rewards[t + 1] = (1.0 - 2.0 * (t // 1000 % 2)) * (at == 0)
    learner = learner_of(reset, initial_step_size=step, meta_step_size=1e-3, bound=eta, bound_decay=0.999)
    kind = swifttd.SwiftTD if reset == "active" else swifttd.SwiftTDNonSparse
    theirs = kind(30, 0.9, step, 0.9, 1e-30, eta, 0.999, 1e-3, 1e-10)
    sparse = [[(int(i), 1.0) for i in np.flatnonzero(x)] if reset == "active" else x.tolist() for x in xs]
    values = np.array([theirs.step(row, reward) for row, reward in zip(sparse, rewards.tolist(), strict=True)])
    limit = every if acting is None or reset == "all" else acting
    assert rms(values_of(learner, xs, rewards, 0.9)[1] - values) < limit


# --- what it is made of ---


def test_without_learning_and_bound_it_is_true_online_td(float64: None) -> None:
    rng = np.random.default_rng(2)
    xs, rewards = rng.normal(size=(60, 4)), rng.normal(size=60)
    gammas = np.where(np.arange(60) % 13 == 12, 0.0, rng.uniform(-0.2, 1.0, 60))  # ends, and cuts
    pair = [ab.TDLinearLearner(o) for o in (ab.SwiftTD(0.05, 0.0, 0.8, 1e9, 1.0), ab.TrueOnlineTD(0.05, 0.8))]
    states = [learner.init(4) for learner in pair]
    for t in range(59):
        states = [a.update(s, xs[t], rewards[t], xs[t + 1], gammas[t]).state for a, s in zip(pair, states, strict=True)]
    assert np.abs(states[0].weights - states[1].weights).max() < 1e-13
    assert np.abs(states[0].bias - states[1].bias) < 1e-13


def test_no_step_removes_more_than_the_bound(float64: None) -> None:
    rng, learner = np.random.default_rng(3), learner_of(use_bias=True, trace_decay=0.0, initial_step_size=0.3)
    state = learner.init(4)
    for x, reward in zip(3.0 * rng.normal(size=(100, 4)), rng.normal(size=100), strict=True):
        new = learner.update(state, x, reward, x, 0.0)
        left = (reward - learner.predict(new.state, x)) / new.td_error
        assert 0.7 - 1e-9 < left[0] < 1.0
        state = new.state


@pytest.mark.parametrize("bound", [0.1, 0.3, 0.6, 0.7])
def test_one_feature_at_the_bound_is_no_overshoot(bound: float) -> None:
    learner = learner_of(initial_step_size=bound, meta_step_size=0.0, bound=bound, bound_decay=0.5)
    state = learner.init(3)
    for t in range(30):
        state = learner.update(state, np.eye(3)[t % 3], 1.0, np.eye(3)[(t + 1) % 3], 0.9).state
    assert np.allclose(state.optimizer_state.weights.step_sizes, bound, rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, -0.9])
def test_nothing_is_remembered_across_an_end_or_a_cut(gamma: float, float64: None) -> None:
    learner = learner_of()
    state = learner.init(3)
    for t in range(10):
        state = learner.update(state, X[t], R[t], X[t + 1], gamma if t == 9 else 0.9).state
    memory = state.optimizer_state.weights
    assert np.array_equal(memory.h, memory.earlier_h)
    clean = memory.replace(**{name: jnp.zeros(3) for name in ("trace_slopes", "meta_traces", "change")})
    blank = state.optimizer_state.replace(weights=clean, eligibility_traces=jnp.zeros(3))
    pair = [learner.update(s, X[11], 1.0, X[12], 0.9).state for s in (state, state.replace(optimizer_state=blank))]
    for a, b in zip(jax.tree.leaves(pair[0]), jax.tree.leaves(pair[1]), strict=True):
        assert np.allclose(a, b, atol=1e-15)


def test_behind_an_end_nothing_is_read() -> None:
    learner = learner_of()
    state = learner.update(learner.init(3), X[0], 1.0, np.full(3, np.nan), 0.0).state
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


# --- everywhere ---


def test_every_demon_has_its_own_lamda(float64: None) -> None:
    lamdas = 0.0, 0.5, 0.9
    spec = ab.create_horde_spec([ab.GVFSpec(str(lam), "prediction", 0.9, lam) for lam in lamdas])
    horde = ab.HordeLearner(spec, (), learner_of().optimizer)
    alone = [learner_of(use_bias=True, trace_decay=lam) for lam in lamdas]
    many, each = horde.init(3, jax.random.key(0)), [learner.init(3) for learner in alone]
    many = many.replace(params=jax.tree.map(jnp.zeros_like, many.params))
    for t in range(23):
        many = horde.update(many, X[t], np.full(3, R[t]), X[t + 1]).state
        each = [a.update(s, X[t], R[t], X[t + 1], 0.9).state for a, s in zip(alone, each, strict=True)]
    assert np.allclose(many.params.weights[-1], [state.weights for state in each], atol=1e-12)
    silent = horde.update(many, X[0], np.array([1.0, np.nan, 1.0]), X[1]).state
    for new, old in zip(*map(jax.tree.leaves, (silent.head_optimizer_states, many.head_optimizer_states)), strict=True):
        assert np.array_equal(new[1], old[1])


def test_native_plain_batched_and_tracked() -> None:
    world, key = ab.RelevanceRing(), jax.random.key(0)
    learner = ab.TDLinearLearner(ab.SwiftTD(0.02, 1e-3, 0.9))
    tracking = {"step_size_tracking": ab.StepSizeTrackingConfig(500), "trace_tracking": ab.TraceTrackingConfig(500)}
    fast = ab.run_td_learning_loop(learner, world, 2_000, key, **tracking)
    with native_loops(False):
        plain = ab.run_td_learning_loop(learner, world, 2_000, key)
    batch = ab.run_td_learning_loop_batched(learner, world, 2_000, jnp.stack([key, jax.random.key(1)]))
    assert np.abs(fast.state.weights - plain.state.weights).max() < 1e-4
    assert np.abs(fast.state.weights - batch.states.weights[0]).max() < 1e-4
    assert np.allclose(fast[2].step_sizes[0], 0.02, rtol=1e-3)
    assert fast[3].eligibility_traces.shape == (4, 30)
    first = ab.run_td_learning_loop(learner, world, 1_000, key)
    second = ab.run_td_learning_loop(learner, world, 1_000, None, first.state, stream_state=first.stream_state)
    assert np.abs(second.state.weights - fast.state.weights).max() < 1e-6


def test_numbers_compile_once_and_settings_travel() -> None:
    learners = [learner_of(bound=bound, initial_step_size=0.05 * bound) for bound in (0.1, 0.5, 1.0)]
    assert len(ab.LearnerBank(tuple(learners)).groups) == 1
    assert len(ab.LearnerBank((learner_of(), learner_of("all"))).groups) == 2
    assert ab.TDLinearLearner.from_config(learners[0].to_config()) == learners[0]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"initial_step_size": 0.0}, ValueError),
        ({"initial_step_size": 0.6}, ValueError),
        ({"initial_step_size": 1e-12}, ValueError),
        ({"meta_step_size": -1.0}, ValueError),
        ({"trace_decay": 1.1}, ValueError),
        ({"bound": 0.0}, ValueError),
        ({"bound": "half"}, TypeError),
        ({"bound_decay": 0.0}, ValueError),
        ({"min_step_size": 0.0}, ValueError),
        ({"reset": "none"}, ValueError),
    ],
)
def test_settings_out_of_range(settings: dict, error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(settings))):
        ab.SwiftTD(**settings)


def test_on_policy_only() -> None:
    learner = learner_of()
    with pytest.raises(ValueError, match="rho must be None: SwiftTD"):
        learner.update(learner.init(3), X[0], 0.0, X[1], 0.9, rho=0.5)
