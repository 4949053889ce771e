"""A state belongs to the learner that has it now: its settings count, or the state is refused; nothing is mixed."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alberta_nb as ab
from alberta_nb.learners.base import first_state

KEY = jax.random.key(0)
D = 3
X = np.random.default_rng(0).normal(size=(20, D)).astype(np.float32)
Y = X.sum(axis=1)


def horde(gamma: float = 0.0, lamda: float = 0.0, n: int = 1, index: int = 0, end: float = 0.0, **settings: Any) -> Any:
    demon = ab.GVFSpec("d", ab.DemonType.PREDICTION, gamma, lamda, index, terminal_reward=end)
    return ab.HordeLearner(
        ab.create_horde_spec([demon] * n), **{"hidden_sizes": (), "optimizer": ab.LMS(0.1)} | settings
    )


def network(**settings: Any) -> Any:
    return ab.MLPLearner(**{"hidden_sizes": (4,), "optimizer": ab.LMS(0.1)} | settings)


LEARNERS: dict[str, Any] = {
    "lms": ab.LinearLearner(ab.LMS(0.1)),
    "idbd": ab.LinearLearner(ab.IDBD(0.1)),
    "autostep": ab.LinearLearner(ab.Autostep(0.1)),
    "lms ema": ab.LinearLearner(ab.LMS(0.1), ab.EMANormalizer()),
    "lms welford": ab.LinearLearner(ab.LMS(0.1), ab.WelfordNormalizer()),
    "td": ab.TDLinearLearner(ab.TDLambda(0.1, 0.5)),
    "tdidbd": ab.TDLinearLearner(ab.TDIDBD(0.1)),
    "swift": ab.TDLinearLearner(ab.SwiftTD()),
    "td idbd": ab.TDLinearLearner(ab.IDBD(0.1)),
    "td autostep": ab.TDLinearLearner(ab.Autostep(0.1)),
    "network": network(),
    "wide": network(hidden_sizes=(5,)),
    "deep": network(hidden_sizes=(4, 4)),
    "flat": network(hidden_sizes=()),
    "network idbd": network(optimizer=ab.IDBD(0.1)),
    "network head": network(head_optimizer=ab.IDBD(0.1)),
    "network traces": network(gamma=0.9, lamda=0.5),
    "network ema": network(normalizer=ab.EMANormalizer()),
    "heads": ab.MultiHeadMLPLearner(2, (4,), ab.LMS(0.1)),
    "three heads": ab.MultiHeadMLPLearner(3, (4,), ab.LMS(0.1)),
    "heads traces": ab.MultiHeadMLPLearner(2, (4,), ab.LMS(0.1), per_head_gamma_lamda=(0.5, 0.9)),
    "horde": horde(hidden_sizes=(4,), n=2),
    "horde traces": horde(0.9, 0.5, n=2, hidden_sizes=(4,)),
    "horde td": horde(0.9, 0.5, n=2, optimizer=ab.TDLambda(0.1)),
    "bank": ab.LearnerBank((ab.LinearLearner(ab.LMS(0.1)), ab.LinearLearner(ab.IDBD(0.1)))),
}


def first(name: str, feature_dim: int = D) -> Any:
    return first_state(LEARNERS[name], feature_dim, KEY)


def updated(learner: Any, state: Any) -> Any:
    if isinstance(learner, ab.HordeLearner):
        return learner.update(state, X[0], Y[: learner.n_demons], X[1])
    if isinstance(learner, ab.MultiHeadMLPLearner):
        return learner.update(state, X[0], Y[: learner.n_heads])
    if isinstance(learner, ab.TDLinearLearner):
        return learner.update(state, X[0], Y[0], X[1], 0.9)
    return learner.update(state, X[0], Y[0])


def looped(learner: Any, state: Any) -> Any:
    if isinstance(learner, ab.HordeLearner):
        return ab.run_horde_learning_loop(learner, state, X[:-1], np.tile(Y[:-1, None], learner.n_demons), X[1:])
    if isinstance(learner, ab.MultiHeadMLPLearner):
        return ab.run_multi_head_learning_loop(learner, state, X, np.tile(Y[:, None], learner.n_heads))
    if isinstance(learner, ab.TDLinearLearner):
        return ab.run_td_learning_loop(learner, ab.TDArraySource(X[:-1], Y[:-1], X[1:], 0.9), learner_state=state)
    return ab.run_learning_loop(learner, ab.ArraySource(X, Y), learner_state=state)


WAYS = {
    "update": updated,
    "predict": lambda learner, state: learner.predict(state, X[0]),
    "loop": looped,
    "stepper": lambda learner, state: ab.Stepper(learner, D, state),
}


def kind(name: str) -> str:
    """Learners of one kind have states of one structure."""
    return {"heads": "heads", "horde": "heads", "heads traces": "traces", "horde traces": "traces"}.get(name, name)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", LEARNERS)
def test_a_state_of_another_learner_is_refused(name: str, way: str) -> None:
    learner = LEARNERS[name]
    if way in ("update", "predict") and name == "bank":
        pytest.skip("a bank has only its step")
    if way == "stepper" and (name == "bank" or learner.time_step is not ab.TimeStep):
        pytest.skip("no event for it")
    WAYS[way](learner, first(name))
    for other in LEARNERS:
        if other == name:
            continue
        try:
            WAYS[way](learner, first(other))
        except (TypeError, ValueError) as error:
            assert "state" in str(error), (other, str(error))
            continue
        assert kind(other) == kind(name), f"a {name} took the state of a {other}"


@pytest.mark.parametrize("name", [n for n in LEARNERS if n != "bank"])
@pytest.mark.parametrize("way", ["update", "predict", "loop"])
def test_a_state_for_other_inputs_is_refused(name: str, way: str) -> None:
    with pytest.raises(ValueError, match="must have shape"):
        WAYS[way](LEARNERS[name], first(name, D + 1))


def test_what_lies_deeper_in_a_state_is_looked_at() -> None:
    class Rule(ab.Optimizer):
        """A rule with a memory of its own; its states and those of every such rule are `Memories`."""

        step_size: float = 0.1

        def init_for_shape(self, shape: tuple[int, ...]) -> Any:
            return {"a": jnp.zeros(shape)}

        def move(self, memories: Any, error: Any, zs: Any, xs: Any) -> Any:
            return memories, [self.step_size * z for z in zs]

    class Other(Rule):
        def init_for_shape(self, shape: tuple[int, ...]) -> Any:
            return {"b": jnp.zeros(shape)}

    state = ab.LinearLearner(Other()).init(D)
    for way in ("update", "predict", "loop"):
        with pytest.raises(TypeError, match="state must"):
            WAYS[way](ab.LinearLearner(Rule()), state)
    short = state.replace(bias=jnp.zeros(2))
    with pytest.raises(ValueError, match=r"state.bias must have shape \(\), got \(2,\)"):
        ab.LinearLearner(Other()).update(short, X[0], 1.0)


# Settings that live in a state


ASKED = {
    "gamma": (horde(0.5), horde(0.9)),
    "lamda": (horde(0.9, 0.2), horde(0.9, 0.7)),
    "terminal": (horde(0.5, end=1.0), horde(0.5, end=5.0)),
    "place": (horde(0.5, index=0), horde(0.5, index=1)),
    "td lamda": (horde(0.9, 0.2, optimizer=ab.TDLambda(0.1)), horde(0.9, 0.7, optimizer=ab.TDLambda(0.1))),
    "network": (horde(0.5, 0.5, hidden_sizes=(4,)), horde(0.9, 0.9, hidden_sizes=(4,))),
}


@pytest.mark.parametrize("asked", ASKED)
def test_the_questions_are_those_of_the_horde(asked: str) -> None:
    other, mine = ASKED[asked]
    a, b = other.init(D, KEY), mine.init(D, KEY)
    cumulants = np.column_stack([Y, 2 * Y])
    for pair in (a, b):
        assert jax.tree.structure(pair) == jax.tree.structure(a)
    step = ab.horde.horde.HordeTimeStep
    for t in range(6):
        results = [mine.update(s, X[t], cumulants[t], X[t + 1]) for s in (a, b)]
        rows = step(
            observation=jnp.asarray(X[t]),
            cumulants=jnp.asarray(cumulants[t], jnp.float32),
            next_observation=jnp.asarray(X[t + 1]),
        )
        one = jax.jit(lambda s, r: mine.step(s, r).td_targets)(a, rows)
        assert np.allclose(one, results[0].td_targets, atol=1e-6)
        assert np.allclose(results[0].td_targets, results[1].td_targets, atol=1e-6)
        assert np.allclose(results[0].predictions, results[1].predictions, atol=1e-6)
        a, b = (result.state for result in results)
    runs = [ab.run_horde_learning_loop(mine, s.init(D, KEY), X[:-1], cumulants[:-1], X[1:]) for s in (other, mine)]
    for x, y in zip(*(jax.tree.leaves(tuple(run)) for run in runs), strict=True):
        assert np.allclose(x, y, atol=1e-5, equal_nan=True) or asked in ("lamda", "network")
    assert np.allclose(runs[0].td_errors, runs[1].td_errors, atol=1e-5)


def test_the_questions_cost_no_second_compilation() -> None:
    one, two = horde(0.5, 0.5), horde(0.9, 0.7)
    first = one.update(one.init(D, KEY), X[0], Y[:1], X[1])
    assert one.update(first.state, X[0], Y[:1], X[1]).state.questions is first.state.questions
    from alberta_nb.learners.mlp import _changed

    before = _changed._cache_size()  # type: ignore[attr-defined]
    two.update(first.state, X[0], Y[:1], X[1])
    assert _changed._cache_size() == before  # type: ignore[attr-defined]


@pytest.mark.parametrize("maker", [network, lambda **s: ab.MultiHeadMLPLearner(2, (), ab.LMS(0.1), **s)])
def test_discounts_of_traces_are_the_learners(maker: Any) -> None:
    other, mine = maker(gamma=0.5, lamda=0.5), maker(gamma=0.9, lamda=0.8)
    start = [learner.init(D, KEY) for learner in (other, mine)]
    runs = [looped(mine, state) for state in start]
    assert np.allclose(runs[0].metrics, runs[1].metrics, atol=1e-6)
    steps = [updated(mine, updated(mine, state).state) for state in start]
    for a, b in zip(*(jax.tree.leaves(s.state.params) for s in steps), strict=True):
        assert np.allclose(a, b, atol=1e-6)
    if maker is network:
        events = [ab.Stepper(mine, D, state) for state in start]
        rows = [[event.update(x, y) for x, y in zip(X, Y, strict=True)] for event in events]
        assert np.allclose(rows[0], rows[1], atol=1e-6)


def test_the_numbers_of_an_optimizer_are_the_states() -> None:
    """Said on the page of the learners' contract: so that a sweep compiles once."""
    small, large = ab.LinearLearner(ab.LMS(0.01)), ab.LinearLearner(ab.LMS(0.1))
    state = small.init(D)
    results = [learner.update(state, X[0], 1.0) for learner in (small, large)]
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, results), strict=True))
    assert float(results[1].state.optimizer_state.step_size) == np.float32(0.01)


@pytest.mark.parametrize("optimizer", [ab.LMS(0.1), ab.TDLambda(0.1), ab.TDIDBD(0.1), ab.TrueOnlineTD(0.1)])
@pytest.mark.parametrize(
    "end", [{"terminated": True}, {"truncated": True}, {"gammas": np.zeros(2)}, {"gammas": -np.ones(2)}]
)
def test_no_trace_leads_over_an_end_where_a_cumulant_is_missing(optimizer: Any, end: dict[str, Any]) -> None:
    """After the end both demons learn as from traces of 0, also the one that had nothing to learn there."""
    learner = ab.HordeLearner(
        ab.create_horde_spec([ab.GVFSpec(str(k), ab.DemonType.PREDICTION, 0.9, 0.9, -1) for k in range(2)]),
        (),
        optimizer,
    )
    state = learner.init(D, KEY)
    for t in range(4):
        state = learner.update(state, X[t], np.ones(2), X[t + 1]).state
    quiet = learner.update(state, X[4], np.array([1.0, np.nan]), X[5], **end).state
    weights = quiet.params.weights[0][1]
    assert np.array_equal(weights, state.params.weights[0][1]), "nothing was learned at the end"
    after = learner.update(quiet, X[6], np.ones(2), X[7]).state
    fresh = learner.init(D, KEY)
    fresh = fresh.replace(params=quiet.params)
    if isinstance(optimizer, ab.TDIDBD):
        trace = after.head_optimizer_states.eligibility_traces[1]
        assert np.allclose(trace, X[6], atol=1e-6)
        return
    expected = learner.update(fresh, X[6], np.ones(2), X[7]).state
    assert np.allclose(after.params.weights[0], expected.params.weights[0], atol=1e-5)


def test_a_missing_cumulant_within_an_episode_keeps_the_trace() -> None:
    learner = horde(0.9, 0.9, n=1)
    state = learner.init(D, KEY)
    state = learner.update(state, X[0], np.ones(1), X[1]).state
    quiet = learner.update(state, X[1], np.array([np.nan]), X[2]).state
    assert np.array_equal(quiet.decays, state.decays) and float(quiet.decays[0]) > 0.8
    assert np.array_equal(quiet.traces[0], state.traces[0])


def test_pairs_cover_all_learners() -> None:
    kinds = {type(learner) for learner in LEARNERS.values()}
    assert kinds == {
        ab.LinearLearner,
        ab.TDLinearLearner,
        ab.MLPLearner,
        ab.MultiHeadMLPLearner,
        ab.HordeLearner,
        ab.LearnerBank,
    }
    assert len(list(itertools.permutations(LEARNERS, 2))) > 500
