"""Units: what memories say of theirs, learners that move their own, targets on any scale, and `auto` step sizes."""

import dataclasses
import functools
import importlib.util
import inspect
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alberta_nb as ab
from alberta_nb.learners.base import innermost
from alberta_nb.learners.units import next_statistics
from alberta_nb.optimizers.base import number
from alberta_nb.types import Settings, State

RNG = np.random.default_rng(0)
D, N, KEY = 4, 300, jax.random.key(0)
XS = RNG.standard_normal((N, D))
YS = XS @ RNG.standard_normal(D) + 0.5 * RNG.standard_normal(N)
GAMMAS = np.where(np.arange(N) % 17 == 16, 0.0, RNG.uniform(0.3, 0.9, N))
EMA = ab.EMANormalizer()
STILL = {"meta_step_size": 0.0, "initial_normalizer": 0.0, "trace_decay": 0.5, "epsilon": 1e-30}


def public(base: type[Any]) -> list[type[Any]]:
    """All classes of the package that can be made of kind `base`."""
    found = (getattr(ab, name) for name in ab.__all__)
    return [kind for kind in found if inspect.isclass(kind) and issubclass(kind, base) and kind is not base]


def still(kind: type[Any]) -> Any:
    """An optimizer whose step sizes do not learn: then its memories are homogeneous in the errors."""
    fields = {f.name for f in dataclasses.fields(kind)}
    given = {name: value for name, value in STILL.items() if name in fields}
    return kind(ab.Autostep(0.01, 0.0), 0.5) if kind is ab.WithTraces else kind(**given)


def optax_rules() -> list[Any]:
    if importlib.util.find_spec("optax") is None:
        return []
    names = {
        "adam": {},
        "adamax": {},
        "rmsprop": {},
        "sgd": {"momentum": 0.9},
        "adagrad": {"initial_accumulator_value": 0.0},
    }
    return [ab.from_optax(name, learning_rate=0.01, **more) for name, more in names.items()]


RULES = [still(kind) for kind in dict.fromkeys(public(ab.Optimizer)) if not kind.__name__.startswith("Optax")]
TD_RULES = [still(kind) for kind in dict.fromkeys(public(ab.TDOptimizer))]
LEARNING = [ab.LMS(0.02), ab.IDBD(0.02, 0.01), ab.Autostep(0.02, 0.1), ab.ObGD(), ab.ScaledLMS(0.01)]
TD_LEARNING = [
    ab.TDLambda(0.02, 0.5), ab.TrueOnlineTD(0.02, 0.5), ab.TDIDBD(0.02, 0.01, 0.5), ab.AutoTDIDBD(0.02, 0.01, 0.5),
    ab.SwiftTD(0.02, 0.001, 0.5), ab.TDC(0.02, 0.5), ab.GTD2(0.02, 0.5), ab.WithTraces(ab.Autostep(0.02), 0.5),
]  # fmt: skip
named: Any = {"ids": lambda rule: type(rule).__name__ if isinstance(rule, Settings) else None}


def gap(a: Any, b: Any) -> float:
    """The largest difference of two trees, relative to the largest number of its leaf."""
    gaps = [0.0]
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, float), np.asarray(y, float)
        assert x.shape == y.shape and np.array_equal(np.isnan(x), np.isnan(y))
        top = np.nanmax(np.abs(y), initial=0.0)
        gaps.append(float(np.nanmax(np.abs(x - y), initial=0.0) / (top if top > 0 else 1.0)))
    return max(gaps)


@functools.partial(jax.jit, static_argnums=0)
def scan(learner: Any, state: Any, rows: Any) -> Any:
    def one(state: Any, row: Any) -> Any:
        result = learner.step(state, row)
        return result.state, result

    return jax.lax.scan(one, state, rows)


def supervised(y: Any = YS, xs: Any = XS) -> ab.TimeStep:
    return ab.TimeStep(observation=jnp.asarray(xs, float), target=jnp.asarray(y, float)[:, None])


def transitions(rewards: Any = YS) -> ab.TDTimeStep:
    x, r, g = jnp.asarray(XS, float), jnp.asarray(rewards, float)[:, None], jnp.asarray(GAMMAS, float)[:, None]
    return ab.TDTimeStep(observation=x, reward=r, next_observation=jnp.roll(x, -1, 0), gamma=g)


def first(learner: Any) -> Any:
    return learner.init(D, KEY) if ab.learners.base.contract(learner).needs_key else learner.init(D)


def live(learner: Any, rows: Any, state: Any = None) -> tuple[Any, Any]:
    """The last state and all results."""
    return scan(learner, first(learner) if state is None else state, rows)


# --- memories ---


def remembered(optimizer: Any, factor: float) -> Any:
    """What an optimizer remembers of six errors times `factor`."""
    state = optimizer.init(D)
    for t in range(6):
        error = jnp.asarray(factor * YS[t])
        more = (jnp.asarray(XS[t + 1]), jnp.asarray(0.9)) if isinstance(optimizer, ab.TDOptimizer) else ()
        state = optimizer.update(state, error, jnp.asarray(XS[t]), *more).new_state
    return state


@pytest.mark.parametrize("optimizer", RULES + TD_RULES + optax_rules(), **named)
def test_what_a_memory_says_of_its_units_is_how_it_grows(float64: None, optimizer: Any) -> None:
    once, thrice = remembered(optimizer, 1.0), remembered(optimizer, 3.0)
    assert gap(optimizer.rescaled(once, jnp.asarray(3.0)), thrice) < 1e-6
    pair = jax.tree.map(lambda *leaves: jnp.stack(leaves), once, thrice)
    back = optimizer.rescaled(pair, jnp.asarray([3.0, 1.0]))  # one row for each head
    assert gap(back, jax.tree.map(lambda *leaves: jnp.stack(leaves), thrice, thrice)) < 1e-6


def test_a_memory_that_keeps_silent_is_caught(float64: None) -> None:
    class Memory(State):
        seen: jax.Array
        step_size: jax.Array

    class Sums(ab.Optimizer):
        step_size: float = number(0.1)

        def init_for_shape(self, shape: Any) -> Any:
            return self.blank(Memory, shape)

        def move(self, memories: Any, error: Any, zs: Any, xs: Any) -> Any:
            new = [m.replace(seen=m.seen + error * z) for m, z in zip(memories, zs, strict=True)]
            return new, [m.step_size * z for m, z in zip(memories, zs, strict=True)]

    grown = Sums().rescaled(remembered(Sums(), 1.0), jnp.asarray(3.0))
    assert gap(grown, remembered(Sums(), 3.0)) > 0.5
    Memory.units = {"seen": 1}  # type: ignore[attr-defined]
    grown = Sums().rescaled(remembered(Sums(), 1.0), jnp.asarray(3.0))
    assert gap(grown, remembered(Sums(), 3.0)) < 1e-12


@pytest.mark.parametrize("optimizer", [*RULES, *optax_rules()], **named)
def test_memories_of_any_shape_grow_alike(float64: None, optimizer: Any) -> None:
    if type(optimizer).move is ab.Optimizer.move:
        pytest.skip("works on linear learners only")
    shapes, z = [(2, 3), (2,)], [jnp.asarray(XS[0, :3] * np.ones((2, 1))), jnp.asarray(XS[1, :2])]

    def after(factor: float) -> Any:
        memories = [optimizer.init_for_shape(shape) for shape in shapes]
        for t in range(5):
            memories, _ = optimizer.move(memories, jnp.asarray(factor * YS[t]), z, z)
        return tuple(memories)

    assert gap(tuple(optimizer.rescaled(m, jnp.asarray(0.2)) for m in after(1.0)), after(0.2)) < 1e-6


# --- learners that move their unit ---

NETWORK = {"hidden_sizes": (8,), "sparsity": 0.0}
SPEC = ab.create_horde_spec(
    [
        ab.GVFSpec("a", "prediction", 0.9, 0.5, 2, 3.0),
        ab.GVFSpec("b", "prediction", 0.0, 0.0, 0),
        ab.GVFSpec("c", "prediction", 0.5, 0.9),
    ]
)
LEARNERS: dict[str, Any] = {
    "linear": ab.LinearLearner(ab.IDBD(0.02), EMA),
    "td": ab.TDLinearLearner(ab.TDIDBD(0.02, 0.01, 0.5), EMA),
    "network": ab.MLPLearner(**NETWORK, optimizer=ab.Autostep(0.01), head_optimizer=ab.IDBD(0.01), normalizer=EMA),
    "traced network": ab.MLPLearner(**NETWORK, step_size=0.01, gamma=0.9, lamda=0.8),
    "adam network": ab.MLPLearner(**NETWORK, optimizer=ab.from_optax("adam", learning_rate=0.01)),
    "heads": ab.MultiHeadMLPLearner(3, **NETWORK, optimizer=ab.Autostep(0.01), per_head_gamma_lamda=(0.0, 0.5, 0.9)),
    "linear heads": ab.MultiHeadMLPLearner(3, (), optimizer=ab.IDBD(0.01)),
    "horde": ab.HordeLearner(SPEC, **NETWORK, optimizer=ab.LMS(0.02), bounder=ab.ObGDBounding(), normalizer=EMA),
    "linear horde": ab.HordeLearner(SPEC, (), ab.TDIDBD(0.02, 0.01), normalizer=EMA),
}
each_learner = pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)
MANY = np.stack([YS, 2.0 * np.roll(YS, 3), -YS], axis=1)
HOLES = np.where(RNG.random(MANY.shape) < 0.2, np.nan, MANY)


def rows_for(learner: Any, change: Callable[[Any], Any] = lambda y: y) -> Any:
    """Time steps of the kind that a learner learns from, whose targets are what `change` makes of ours."""
    kind, x = ab.learners.base.contract(learner).time_step, jnp.asarray(XS, float)
    if kind is ab.TimeStep:
        return supervised(change(YS))
    if kind is ab.TDTimeStep:
        return transitions(change(YS))
    y = jnp.asarray(change(HOLES), float)
    if kind is ab.HeadsTimeStep:
        return ab.HeadsTimeStep(observation=x, targets=y)
    ends = jnp.asarray(np.arange(N) % 13 == 12, float)[:, None]
    return ab.HordeTimeStep(observation=x, cumulants=y, next_observation=jnp.roll(x, -1, 0), terminated=ends)


@each_learner
def test_a_learner_moves_its_unit(float64: None, learner: Any) -> None:
    inside = learner.structure
    state, _ = live(learner, rows_for(learner))
    n = inside.n_outputs
    ratio, shift = jnp.asarray([0.5, 3.0, 20.0][:n]), jnp.asarray([7.0, -2.0, 0.1][:n])
    moved = inside.rescaled(state, ratio, shift)
    for x in XS[:20]:
        assert gap(learner.predict(moved, x), ratio * learner.predict(state, x) + shift) < 1e-12
    back = inside.rescaled(moved, 1.0 / ratio, -shift / ratio)
    assert gap(back, state) < 1e-12


@pytest.mark.parametrize("optimizer", [ab.LMS(0.02), ab.Autostep(0.02, 0.1)], **named)
def test_rules_without_units_go_on_as_if_nothing_had_happened(float64: None, optimizer: Any) -> None:
    # The rest of a life in another unit is the rest of that life: for heads, which LMS and Autostep treat as numbers.
    for learner in (ab.LinearLearner(optimizer), ab.MultiHeadMLPLearner(1, (), optimizer=optimizer)):
        kind = ab.TimeStep if isinstance(learner, ab.LinearLearner) else ab.HeadsTimeStep
        name = "target" if kind is ab.TimeStep else "targets"
        rows = [
            kind(observation=jnp.asarray(XS), **{name: jnp.asarray(a * YS + b)[:, None]}) for a, b in ((1, 0), (5, 3))
        ]
        state, _ = live(learner, rows[0])
        _, plain = live(learner, rows[0], state)
        _, moved = live(learner, rows[1], learner.rescaled(state, jnp.asarray([5.0]), jnp.asarray([3.0])))
        error = "error" if kind is ab.TimeStep else "errors"
        assert gap(getattr(moved, error), 5.0 * getattr(plain, error)) < 1e-10


def test_traces_of_a_network_are_slopes_of_its_prediction(float64: None) -> None:
    learner = ab.MLPLearner(**NETWORK, step_size=0.0, gamma=0.9, lamda=0.8)  # it remembers, and does not move
    start, ratio, shift = learner.init(D, KEY), jnp.asarray([3.0]), jnp.asarray([-1.0])
    then, _ = live(learner, supervised(), learner.rescaled(start, ratio, shift))
    now = learner.rescaled(live(learner, supervised())[0], ratio, shift)
    assert gap(now.traces, then.traces) < 1e-12 and gap(now.params, then.params) < 1e-12
    assert gap(now.traces.weights[0], live(learner, supervised())[0].traces.weights[0]) > 1.0


# --- targets on any scale ---


def reference(xs: Any, ys: Any, rule: str, theta: float, use_bias: bool = True, decay: float = 0.99) -> np.ndarray:
    """Predictions of the linear learner with rescaled targets, in numpy; the bias is an input of 1."""
    d = xs.shape[1]
    w, h, v, b = np.zeros(d + 1), np.zeros(d + 1), np.zeros(d + 1), np.full(d + 1, np.log(0.1 / d))
    mu, sigma, out = 0.0, 0.0, []
    for t, (x, y) in enumerate(zip(xs, ys, strict=True), 1):
        x, rate = np.append(x, float(use_bias)), max(1.0 - decay, 1.0 / t)
        out.append(0.0 if t == 1 else sigma * (w @ x) + mu)
        if use_bias:
            new_mu, var = mu + rate * (y - mu), (1.0 - rate) * (sigma**2 + rate * (y - mu) ** 2)
        else:
            new_mu, var = 0.0, sigma**2 + rate * (y**2 - sigma**2)
        var = max(var, rate * (1.0 - rate) * (y - out[-1]) ** 2)
        new_sigma = max(np.sqrt(var), 1e-300)
        ratio = sigma / new_sigma if t > 1 else 0.0
        w, h, v = w * ratio, h * ratio, v * ratio**2
        w[d] += (mu - new_mu) / new_sigma if t > 1 else 0.0
        mu, sigma = new_mu, new_sigma
        delta = (y - mu) / sigma - w @ x
        if rule == "idbd":
            b = np.maximum(b + theta * delta * x * h, -10.0)
            a = np.exp(b)
            h = h * np.maximum(0.0, 1.0 - a * x * x) + a * delta * x
        elif rule == "autostep":
            a, g = np.exp(b), np.abs(delta * x * h)
            v = np.maximum(g, v + a * x * x / 1e4 * (g - v))
            a = a * np.exp(theta * delta * x * h / np.where(v > 0, v, 1.0))
            a = a / max((a * x * x).sum(), 1.0)
            h, b = h * (1.0 - a * x * x) + a * delta * x, np.log(a)
        w = w + (np.exp(b) if rule != "lms" else 0.1 / d) * delta * x
    return np.array(out)


REFERENCES = {"lms": ab.LMS("auto"), "idbd": ab.IDBD("auto", 0.01), "autostep": ab.Autostep("auto", 0.1)}


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("rule", REFERENCES)
def test_the_equations_in_numpy(float64: None, rule: str, use_bias: bool) -> None:
    ys = 40.0 + 7.0 * YS
    ys[150:] *= 30.0  # and another unit, from one step to the next
    learner = ab.PopArt(ab.LinearLearner(REFERENCES[rule], use_bias=use_bias))
    _, told = live(learner, supervised(ys))
    theta = getattr(learner.learner.optimizer, "meta_step_size", 0.0)
    want = reference(XS, ys, rule, theta, use_bias)
    assert gap(told.prediction[:, 0], want) < 1e-9
    assert gap(told.error[:, 0], ys - want) < 1e-9
    assert gap(told.metrics[:, :2], np.stack([(ys - want) ** 2, ys - want], 1)) < 1e-9


SCALES = [(1e-12, 0.0), (1e12, -3e12), (1.0, 1e6), (-2.0, 5.0)]


def alike(learner: Any, change: float, place: float) -> float:
    """How far predictions for c y + k are from c p + k after the first target, in units of the target."""
    name = next(n for n in ("prediction", "predictions") if hasattr(live(learner, rows_for(learner))[1], n))
    plain, other = (
        getattr(live(learner, rows)[1], name)
        for rows in (rows_for(learner), rows_for(learner, lambda y: change * y + place))
    )
    plain, other = np.asarray(plain), np.asarray(other)
    spoken = np.cumsum(~np.isnan(HOLES if plain.shape[1] > 1 else YS[:, None]), axis=0)
    known = np.roll(spoken, 1, axis=0) > 0
    known[0] = False
    return float(np.abs(other - (change * plain + place))[known].max() / abs(change))


WRAPPED = {f"linear {type(o).__name__}": ab.LinearLearner(o, EMA) for o in [*LEARNING, *optax_rules()[:4]]}
WRAPPED |= {"no bias": ab.LinearLearner(ab.IDBD(0.02), EMA, use_bias=False)}
WRAPPED |= {name: LEARNERS[name] for name in ("network", "traced network", "adam network", "heads", "linear heads")}
WRAPPED |= {"bounded": ab.MLPLearner(**NETWORK, optimizer=ab.Autostep(0.1), bounder=ab.ObGDBounding(), normalizer=EMA)}


@pytest.mark.parametrize("scale", SCALES, ids=str)
@pytest.mark.parametrize("name", WRAPPED)
def test_another_unit_changes_nothing_but_the_unit(float64: None, name: str, scale: tuple[float, float]) -> None:
    change, place = scale
    if change < 0 and (not name.startswith("linear") or name == "linear heads"):
        change = -change  # a first weight, and IDBD on networks, know a sign
    place = 0.0 if name == "no bias" else place
    assert alike(ab.PopArt(WRAPPED[name]), change, place) < 1e-9 * max(1.0, abs(place / change))


@pytest.mark.parametrize("scale", [1e-12, 1e12, -3.0], ids=str)
@pytest.mark.parametrize("optimizer", TD_LEARNING, **named)
def test_another_unit_of_rewards(float64: None, optimizer: Any, scale: float) -> None:
    learner = ab.PopArt(ab.TDLinearLearner(optimizer, EMA))
    plain, other = (live(learner, transitions(c * YS))[1] for c in (1.0, scale))
    for name, power in {"prediction": 1, "td_error": 1, "metrics": 0}.items():
        a, b = np.asarray(getattr(plain, name)), np.asarray(getattr(other, name))
        b = b / scale**power if power else b / np.array([scale**2, scale, 1.0, 1.0])
        assert gap(b, a) < 1e-8


def test_another_place_of_rewards(float64: None) -> None:
    # k (1 - gamma) more at every step is k more of every value.
    learner, rows = ab.PopArt(ab.TDLinearLearner(ab.TDLambda(0.02, 0.5))), transitions()
    gammas = rows.gamma.at[0].set(0.0)  # what is expected after the first target is still 0
    more = (rows.replace(gamma=gammas, reward=rows.reward + k * (1.0 - gammas)) for k in (0.0, 1e4))
    plain, other = (live(learner, chain)[1] for chain in more)
    assert np.abs(np.asarray(other.prediction - plain.prediction)[1:] - 1e4).max() < 1e-6


def test_the_unit_moves_and_no_prediction_with_it(float64: None) -> None:
    learner = ab.PopArt(ab.LinearLearner(ab.LMS(0.0)))  # nothing is learned
    state, _ = live(ab.PopArt(ab.LinearLearner(ab.LMS(0.02))), supervised())
    state = state.replace(
        learner_state=state.learner_state.replace(optimizer_state=learner.init(D).learner_state.optimizer_state)
    )
    moved, _ = live(learner, supervised(1e3 * YS + 5e3), state)
    assert moved.scale[0] > 100 * state.scale[0]
    for x in XS[:50]:
        assert gap(learner.predict(moved, x), learner.predict(state, x)) < 1e-12 * 1e4


@pytest.mark.parametrize("name", ["network", "heads", "linear horde"])
def test_no_prediction_moves_where_nothing_is_learned(float64: None, name: str) -> None:
    rule = ab.TDLambda(0.0) if name == "linear horde" else ab.LMS(0.0)
    wrapped = ab.PopArt(dataclasses.replace(LEARNERS[name], optimizer=rule, head_optimizer=None, normalizer=None))
    state, _ = live(wrapped, jax.tree.map(lambda a: a[:50], rows_for(wrapped)))
    state = state.replace(
        learner_state=state.learner_state.replace(params=jax.tree.map(lambda a: a + 0.1, state.learner_state.params))
    )
    moved, _ = live(wrapped, rows_for(wrapped, lambda y: 50.0 * y + 9.0), state)
    assert np.all(moved.scale > 5 * state.scale)
    for x in XS[:20]:
        assert gap(wrapped.predict(moved, x), wrapped.predict(state, x)) < 1e-11


def test_lms_without_a_mean_is_lms(float64: None) -> None:
    plain = ab.LinearLearner(ab.LMS(0.05), use_bias=False)
    _, a = live(plain, supervised(30.0 * YS))
    _, b = live(ab.PopArt(plain), supervised(30.0 * YS))
    assert gap(b.prediction, a.prediction) < 1e-12 and gap(b.metrics, a.metrics) < 1e-12


def test_idbd_becomes_idbd_with_theta_over_the_square_of_the_unit(float64: None) -> None:
    plain, theta = ab.LinearLearner(ab.IDBD(0.05, 0.02), use_bias=False), 0.02
    wrapped, ys = ab.PopArt(plain), 30.0 * YS
    state, inner = wrapped.init(D), plain.init(D)
    for x, y in zip(XS[:100], ys, strict=False):
        result = wrapped.update(state, x, y)
        state = result.state
        memory = inner.optimizer_state.replace(meta_step_size=theta / state.scale[0] ** 2)
        alone = plain.update(inner.replace(optimizer_state=memory), x, y)
        inner = alone.state
        assert gap(result.prediction, alone.prediction) < 1e-9


def test_nothing_in_units_is_large(float64: None) -> None:
    ys = np.where(RNG.random(N) < 0.02, 1e9, YS) + 100.0
    learner, state, worst = ab.PopArt(ab.LinearLearner(ab.LMS(0.01))), None, np.zeros(2)
    state = learner.init(D)
    for t, (x, y) in enumerate(zip(XS, ys, strict=True), 1):
        result, rate = learner.update(state, x, y), max(0.01, 1.0 / t)
        state = result.state
        if t > 1:
            units = abs(y - state.mean[0]) / state.scale[0], abs(result.error[0]) / state.scale[0]
            most = np.sqrt((1.0 - rate) / rate), 1.0 / np.sqrt(rate * (1.0 - rate))
            worst = np.maximum(worst, np.divide(units, most))
    assert 0.9 < worst[0] <= 1.0 + 1e-9 and 0.9 < worst[1] <= 1.0 + 1e-9


def test_the_statistics_are_those_of_the_targets(float64: None) -> None:
    mean = deviation = jnp.zeros(1)
    for t, y in enumerate(YS, 1):
        mean, deviation = next_statistics(mean, deviation, jnp.asarray([y]), jnp.asarray(1.0 / t))
    assert gap(mean[0], YS.mean()) < 1e-12 and gap(deviation[0], YS.std()) < 1e-12


def test_a_target_that_has_its_unit_already_is_learned_as_before() -> None:
    world = ab.RandomWalkStream(8, noise_std=0.5)
    keys = jax.random.split(KEY, 8)

    def curve(learner: Any) -> float:
        metrics = ab.run_learning_loop_batched(learner, world, 4000, keys).metrics
        return float(np.asarray(metrics)[:, 2000:, 0].mean())

    for rule in (ab.LMS(0.02), ab.Autostep(0.02)):
        plain, rescaled = curve(ab.LinearLearner(rule)), curve(ab.PopArt(ab.LinearLearner(rule)))
        assert abs(rescaled / plain - 1.0) < 0.05


@pytest.mark.parametrize("optimizer", LEARNING, **named)
def test_constant_for_a_million_steps_and_then_not(optimizer: Any) -> None:
    n, calm = 6000, 1_000_000
    xs = RNG.standard_normal((2 * n + calm, 2)).astype(np.float32)
    ys = (50.0 + xs @ np.float32([1.0, -2.0]) + 0.3 * RNG.standard_normal(len(xs))).astype(np.float32)
    ys[n : n + calm] = 50.0
    metrics = np.asarray(ab.run_learning_loop(ab.PopArt(ab.LinearLearner(optimizer)), ab.ArraySource(xs, ys)).metrics)
    assert np.isfinite(metrics).all()
    before, after = (np.abs(metrics[k - 4000 : k, 1]).mean() for k in (n, 2 * n + calm))
    assert np.abs(metrics[n + calm - 1000 : n + calm, 1]).max() < 0.01 and after < 1.1 * before


# --- many outputs ---


def test_every_head_has_a_unit_of_its_own(float64: None) -> None:
    ys = MANY * [1.0, 1e6, 1e-6] + [0.0, 3e6, 1.0]
    heads = ab.PopArt(ab.MultiHeadMLPLearner(3, (), optimizer=ab.Autostep(0.02), normalizer=EMA))
    state, told = live(heads, ab.HeadsTimeStep(observation=jnp.asarray(XS), targets=jnp.asarray(ys)))
    for i in range(3):
        alone, want = live(ab.PopArt(ab.LinearLearner(ab.Autostep(0.02), EMA)), supervised(ys[:, i]))
        assert gap(told.predictions[:, i], want.prediction[:, 0]) < 1e-9
        assert gap(told.per_head_metrics[:, i], want.metrics[:, :3]) < 1e-9
        assert gap((state.mean[i], state.deviation[i]), (alone.mean[0], alone.deviation[0])) < 1e-12


def test_a_missing_target_leaves_a_head_as_it_was(float64: None) -> None:
    heads = ab.PopArt(LEARNERS["heads"])
    state = live(heads, rows_for(heads))[0]
    result = heads.update(state, XS[0], [np.nan, 3.0, np.nan])
    for i, changed in enumerate((False, True, False)):
        for name in ("mean", "deviation", "count"):
            assert (getattr(result.state, name)[i] != getattr(state, name)[i]) == changed
        old, new = (s.learner_state for s in (state, result.state))
        kept = jax.tree.map(
            lambda a, b, i=i: np.array_equal(a[i], b[i]), old.head_optimizer_states, new.head_optimizer_states
        )
        assert all(jax.tree.leaves(kept)) != changed
        assert np.isnan(result.errors[i]) != changed
    silent = heads.update(heads.init(D, KEY), XS[0], [np.nan] * 3)
    assert silent.state.count.tolist() == [0] * 3 and silent.predictions.tolist() == [0.0] * 3
    assert gap(silent.state.learner_state.params, heads.init(D, KEY).learner_state.params) == 0.0


def test_a_horde_is_its_demons(float64: None) -> None:
    # A linear demon with a TD optimizer is a TD learner of its own; its question may end, select, and pay at the end.
    horde = ab.PopArt(ab.HordeLearner(SPEC, (), ab.TDLambda(0.02), normalizer=EMA))
    whole = MANY * [1.0, 1e6, 1e-3]
    rows = rows_for(horde).replace(cumulants=jnp.asarray(whole))
    _, told = live(horde, rows)
    for i, demon in enumerate(SPEC.demons):
        gamma = np.where(np.asarray(rows.terminated[:, 0]) != 0, 0.0, demon.gamma)
        paid = whole[:, SPEC.places[i]] + (1.0 - gamma) * demon.terminal_reward
        chain = ab.TDTimeStep(observation=rows.observation, reward=jnp.asarray(paid)[:, None],
                              next_observation=rows.next_observation, gamma=jnp.asarray(gamma)[:, None])  # fmt: skip
        _, want = live(ab.PopArt(ab.TDLinearLearner(ab.TDLambda(0.02, demon.lamda), EMA)), chain)
        assert gap(told.predictions[:, i], want.prediction[:, 0]) < 1e-9
        assert gap(told.td_errors[:, i], want.td_error[:, 0]) < 1e-9
        assert gap(told.td_targets[:, i], (want.td_error + want.prediction)[:, 0]) < 1e-9


def test_a_horde_in_another_unit(float64: None) -> None:
    def asked(scale: float) -> Any:
        demons = [dataclasses.replace(demon, terminal_reward=scale * demon.terminal_reward) for demon in SPEC.demons]
        return ab.PopArt(dataclasses.replace(LEARNERS["horde"], horde_spec=ab.create_horde_spec(demons)))

    _, plain = live(asked(1.0), rows_for(asked(1.0)))
    for scale in (1e-12, 1e12):
        _, other = live(asked(scale), rows_for(asked(scale), lambda y, scale=scale: scale * y))
        for name in ("predictions", "td_errors", "td_targets"):
            assert gap(getattr(other, name) / scale, getattr(plain, name)) < 1e-8


# --- every path ---


def test_one_by_one_in_a_loop_in_a_batch_in_a_bank_and_as_events() -> None:
    learner = ab.PopArt(ab.LinearLearner(ab.IDBD("auto"), EMA))
    xs, ys = XS.astype(np.float32), (40.0 + 3.0 * YS).astype(np.float32)
    loop = ab.run_learning_loop(learner, ab.ArraySource(xs, ys))
    state, rows = learner.init(D), []
    stepper = ab.Stepper(learner, D)
    for x, y in zip(xs, ys, strict=True):
        result = learner.update(state, x, y)
        assert np.isclose(stepper.predict(x)[0], learner.predict(state, x)[0], rtol=1e-5)
        row = stepper.update(x, y)
        assert (
            row is not None
            and gap(row[1:], result.metrics) < 1e-3
            and np.isclose(row[0], result.prediction[0], rtol=1e-4)
        )
        state, rows = result.state, [*rows, result.metrics]
    assert gap(np.stack(rows), loop.metrics) < 1e-4 and gap(stepper.state, loop.state) < 1e-3
    many = ab.Stepper(learner, D).update_many(xs, ys)
    assert gap(many[:, 1:], loop.metrics) < 1e-4
    other = ab.PopArt(ab.LinearLearner(ab.IDBD(0.2, 0.001), EMA), 0.9)
    bank = ab.LearnerBank((learner, other))
    assert len(bank.groups) == 1  # numbers live in the states, the decay too
    both = ab.run_learning_loop(bank, ab.ArraySource(xs, ys))
    assert gap(both.metrics[:, 0], loop.metrics) < 1e-4
    assert gap(both.metrics[:, 1], ab.run_learning_loop(other, ab.ArraySource(xs, ys)).metrics) < 1e-4


def test_many_seeds_together_and_per_core() -> None:
    world, keys = ab.RandomWalkStream(D), jax.random.split(KEY, 3)
    learner = ab.PopArt(ab.LinearLearner(ab.Autostep("auto"), EMA))
    batch = ab.run_learning_loop_batched(
        learner, world, 200, keys, None, ab.StepSizeTrackingConfig(50), ab.NormalizerTrackingConfig(50)
    )
    one = ab.run_learning_loop(
        learner, world, 200, keys[1], None, ab.StepSizeTrackingConfig(50), ab.NormalizerTrackingConfig(50)
    )
    assert gap(batch.metrics[1], one.metrics) < 1e-4
    assert gap(batch.step_size_history.step_sizes[1], one.step_size_history.step_sizes) < 1e-4
    assert gap(batch.normalizer_history.means[1], one.normalizer_history.means) < 1e-4
    net = ab.PopArt(ab.MLPLearner(**NETWORK, bounder=ab.ObGDBounding(), normalizer=EMA))
    batch = ab.run_mlp_learning_loop_batched(net, world, 200, keys)
    one = ab.run_mlp_learning_loop(net, world, 200, keys[2])
    assert gap(batch.metrics[2], one.metrics) < 1e-4 and batch.metrics.shape == (3, 200, 4)
    settings = [ab.PopArt(ab.LinearLearner(ab.LMS(a))) for a in (0.01, 0.1)]
    assert ab.sweep(settings, world, 50, keys).metrics.shape == (3, 50, 2, 3)


def test_loops_of_transitions_heads_and_hordes() -> None:
    xs = XS.astype(np.float32)
    td = ab.PopArt(ab.TDLinearLearner(ab.TDLambda(0.02, 0.5), EMA))
    state, rows = td.init(D), []
    for t in range(100):
        result = td.update(state, xs[t], float(YS[t]), xs[t + 1], float(GAMMAS[t]))
        state, rows = result.state, [*rows, result.metrics]
    _, want = live(td, jax.tree.map(lambda a: a[:100], transitions()))
    assert gap(np.stack(rows), want.metrics) < 1e-4
    heads = ab.PopArt(LEARNERS["heads"])
    start = heads.init(D, KEY)
    run = ab.run_multi_head_learning_loop(heads, start, xs, HOLES.astype(np.float32))
    assert gap(run.per_head_metrics, live(heads, rows_for(heads))[1].per_head_metrics) < 1e-3
    batch = ab.run_multi_head_learning_loop_batched(heads, xs, HOLES.astype(np.float32), jax.random.split(KEY, 2))
    assert batch.per_head_metrics.shape == (2, N, 3, 3)
    horde = ab.PopArt(LEARNERS["horde"])
    start, following = horde.init(D, KEY), np.roll(xs, -1, 0)
    ends = np.arange(N) % 13 == 12
    run = ab.run_horde_learning_loop(horde, start, xs, HOLES, following, terminated=ends)
    assert gap(run.per_demon_metrics, live(horde, rows_for(horde))[1].per_demon_metrics) < 1e-3
    state = horde.init(D, KEY)
    for t in range(40):
        state = horde.update(state, xs[t], HOLES[t], following[t], terminated=ends[t]).state
    assert gap(state.mean, live(horde, jax.tree.map(lambda a: a[:40], rows_for(horde)))[0].mean) < 1e-5
    means = ab.run_multi_head_learning_loop(heads, heads.init(D, KEY), xs, HOLES, record_every=10).per_head_metrics
    assert means.shape == (N // 10, 3, 3) and np.isfinite(means).all()


def test_a_network_takes_a_discount_with_its_target() -> None:
    net = ab.PopArt(LEARNERS["traced network"])
    states = [
        net.update(net.update(net.init(D, KEY), XS[0], 1.0).state, XS[1], 2.0, gamma).state for gamma in (None, 0.0)
    ]
    assert [float(s.learner_state.discount) for s in states] == [np.float32(0.9), 0.0]


# --- as settings ---


@each_learner
def test_it_travels_and_compiles_once(learner: Any) -> None:
    wrapped = ab.PopArt(learner, 0.95)
    told = json.loads(json.dumps(wrapped.to_config()))
    assert Settings.from_config(told) == wrapped and hash(wrapped) == hash(ab.PopArt(learner, 0.95))
    assert wrapped.structure == ab.PopArt(learner, 0.5).structure and innermost(wrapped) is learner


def test_it_says_what_cannot_be() -> None:
    with pytest.raises(TypeError, match="learner must have .*rescaled"):
        ab.PopArt(ab.LastValue())
    for decay in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="decay must be"):
            ab.PopArt(ab.LinearLearner(), decay)
    learner = ab.PopArt(ab.LinearLearner())
    with pytest.raises(TypeError, match="state must be a PopArtState, got LearnerState"):
        learner.update(ab.LinearLearner().init(D), XS[0], 1.0)
    with pytest.raises(TypeError, match="state must be a PopArtState"):
        learner.predict(ab.LinearLearner().init(D), XS[0])
    with pytest.raises(ValueError, match=r"observation must have shape \(4,\)"):
        learner.update(learner.init(D), XS[0, :3], 1.0)
    with pytest.raises(TypeError, match="target must be numeric"):
        learner.update(learner.init(D), XS[0], "high")
    optax = pytest.importorskip("optax")

    def odd(updates: Any, state: Any, params: Any = None) -> Any:
        return updates, jax.tree.map(lambda s, u: s + jnp.log1p(jnp.abs(u)), state, updates)

    strange = optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), odd)
    with pytest.raises(TypeError, match="does not follow the unit of the target"):
        ab.PopArt(ab.LinearLearner(ab.from_optax(strange)))


# --- step sizes from the number of inputs ---


@pytest.mark.parametrize("kind", [ab.LMS, ab.IDBD, ab.Autostep])
def test_auto_is_a_tenth_over_the_inputs(kind: Any) -> None:
    auto, given = kind("auto"), kind(0.1 / D)
    assert kind(None) == auto == kind.from_config(json.loads(json.dumps(auto.to_config()))) and hash(auto) == hash(
        kind(None)
    )
    assert auto.structure == kind(0.3).structure
    for make in (
        lambda rule: ab.LinearLearner(rule).init(D),
        lambda rule: ab.TDLinearLearner(rule).init(D),
        lambda rule: ab.MLPLearner((), optimizer=rule).init(D, KEY),
        lambda rule: ab.MultiHeadMLPLearner(3, (), optimizer=rule).init(D, KEY),
        lambda rule: ab.HordeLearner(SPEC, (), rule).init(D, KEY),
        lambda rule: ab.HordeLearner(SPEC, (), ab.WithTraces(rule)).init(D, KEY),
        lambda rule: ab.PopArt(ab.LinearLearner(rule)).init(D),
    ):
        assert gap(make(auto), make(given)) == 0.0
    with pytest.raises(ValueError, match="step_size is 'auto', which needs a number of inputs"):
        auto.init_for_shape((3,))
    with pytest.raises(TypeError, match="step_size must be a number or 'auto', got 'fast'"):
        kind("fast")
    bank = ab.LearnerBank((ab.LinearLearner(auto), ab.LinearLearner(given)))
    metrics = ab.run_learning_loop(bank, ab.RandomWalkStream(D), 50, KEY).metrics
    assert len(bank.groups) == 1 and gap(metrics[:, 0], metrics[:, 1]) == 0.0


def test_auto_counts_the_inputs_of_each_layer() -> None:
    for learner in (
        ab.MLPLearner((8, 5), optimizer=ab.LMS(None)),
        ab.MultiHeadMLPLearner(2, (8, 5), optimizer=ab.LMS("auto")),
    ):
        state = learner.init(D, KEY)
        if isinstance(learner, ab.MLPLearner):
            sizes = [float(m.step_size) for m in state.optimizer_states]
            assert np.allclose(sizes, [0.1 / D, 0.1 / 8, 0.1 / 5] * 2)
        else:
            assert np.allclose([float(m.step_size) for m in state.trunk_optimizer_states], [0.1 / D, 0.1 / 8] * 2)
            assert np.allclose(state.head_optimizer_states[0].step_size, 0.1 / 5)


def test_auto_learns_from_many_inputs_where_a_number_explodes() -> None:
    xs, rng = np.random.default_rng(1).standard_normal((2000, 216)).astype(np.float32), np.random.default_rng(2)
    source = ab.ArraySource(xs, xs @ rng.standard_normal(216).astype(np.float32))
    bank = ab.LearnerBank((ab.LinearLearner(ab.LMS(0.02)), ab.LinearLearner(ab.LMS("auto"))))
    errors = np.abs(np.asarray(ab.run_learning_loop(bank, source).metrics)[-100:, :, 1]).mean(axis=0)
    assert not errors[0] < 1e3 and errors[1] < 6.0


@pytest.mark.parametrize("gammas", [(0.9, 0.2), (0.0, 0.7)])
def test_a_step_has_the_settings_of_its_learner(gammas: tuple[float, float]) -> None:
    def network(gamma: float) -> Any:
        return ab.PopArt(ab.MLPLearner((), ab.LMS(0.05), gamma=gamma or 0.4, lamda=0.9))

    def horde(gamma: float) -> Any:
        demons = [ab.GVFSpec(str(i), "prediction", g, 0.5) for i, g in enumerate((gamma, 0.6))]
        return ab.PopArt(ab.HordeLearner(ab.create_horde_spec(demons), (3,), ab.LMS(0.05)))

    x, numbers = jnp.asarray(XS[0], jnp.float32), jnp.array([1.0, -2.0])
    for make, given in ((network, (x, numbers[:1])), (horde, (x, numbers, 2.0 * x))):
        mine, other = map(make, gammas)
        state = other.init(D, KEY)
        for _ in range(3):
            state = other.update(state, *given).state
        time_step = (
            mine.time_step(**dict(zip(mine.inside.time_step.shapes(1), given, strict=True)))
            if (make is network)
            else mine.time_step(observation=given[0], cumulants=given[1], next_observation=given[2])
        )
        for new in (mine.step(state, time_step), jax.jit(mine.step)(state, time_step)):
            assert gap(new, mine.update(state, *given)) < 1e-5


@pytest.mark.parametrize(
    ("learner", "said"),
    [
        (ab.LinearLearner, "got the class LinearLearner: make one"),
        (ab.MLPLearner, "got the class MLPLearner: make one"),
        (ab.PopArt(ab.LinearLearner()), "learner is already a PopArt"),
        (ab.LearnerBank((ab.LinearLearner(),)), "put PopArt around each learner of the bank"),
        ({}, "learner must have init, step, .* got dict"),
        (np.zeros(1), "learner must have init, step, .* got ndarray"),
        (ab.LinearLearner(ab.from_optax("noisy_sgd", learning_rate=0.1)), "cannot move .* adds noise"),
        (ab.LinearLearner(ab.from_optax("add_noise", eta=0.1, gamma=0.5, seed=1)), "cannot move .* adds noise"),
    ],
)
def test_it_says_what_has_no_unit(learner: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        ab.PopArt(learner)


def test_auto_is_a_word_of_three_optimizers() -> None:
    for kind in (ab.LMS, ab.IDBD, ab.Autostep):
        assert "0.1 over the number of inputs" in (kind.__doc__ or "")
        with pytest.raises(TypeError, match="step_size must be a number or 'auto', got 'Auto'"):
            kind("Auto")
    for other in (ab.TDLambda, ab.ObGD, ab.TDIDBD):
        with pytest.raises(TypeError, match="'auto' is only for LMS, IDBD and Autostep"):
            other("auto")
