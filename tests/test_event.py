"""Events of every kind of learner in a stepper: transitions, many heads, Hordes, banks, and what is left out."""

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alberta_nb as ab
from alberta_nb.learners.base import contract
from alberta_nb.loops.event import event_form, event_signature, event_sizes
from alberta_nb.native.kernel import native_loops

D, N, STEPS = 4, 3, 60
RNG = np.random.default_rng(0)
X, NEXT = RNG.standard_normal((2, STEPS, D)).astype(np.float32)
R, TARGETS = RNG.standard_normal(STEPS).astype(np.float32), RNG.standard_normal((STEPS, N)).astype(np.float32)
GAMMA = np.where(np.arange(STEPS) % 7 == 6, 0.0, 0.9).astype(np.float32)
RHO, CUT = RNG.uniform(0, 2, STEPS).astype(np.float32), (np.arange(STEPS) % 11 == 10).astype(np.float32)
SILENT = np.where(RNG.random((STEPS, N)) < 0.3, np.nan, TARGETS).astype(np.float32)
SILENT[5] = np.nan
GAMMAS, RHOS = RNG.uniform(0, 1, (2, STEPS, N)).astype(np.float32)
KEY = jax.random.key(0)


def ask(name: str, **settings: Any) -> ab.GVFSpec:
    return ab.GVFSpec(name, "prediction", **{"gamma": 0.0, "lamda": 0.0} | settings)


SPEC = ab.HordeSpec(tuple(ask(f"q{k}", gamma=g, lamda=0.5) for k, g in enumerate((0.0, 0.9, 0.5))))
CHOSEN = ab.HordeSpec(tuple(ask(f"q{k}", gamma=0.8, cumulant_index=c) for k, c in enumerate((1, 1, 4))))
SMALL: dict[str, Any] = {"hidden_sizes": (8,), "bounder": ab.ObGDBounding()}
MORE = RNG.standard_normal((STEPS, 6)).astype(np.float32)
TRANSITION = {"observation": X, "reward": R, "next_observation": NEXT, "gamma": GAMMA}
OF_HORDE = {"observation": X, "cumulants": SILENT, "next_observation": NEXT}

KINDS: dict[str, tuple[Any, dict[str, np.ndarray]]] = {
    "td": (ab.TDLinearLearner(ab.TDIDBD(0.02)), TRANSITION),
    "td scaled": (ab.TDLinearLearner(ab.AutoTDIDBD(), normalizer=ab.EMANormalizer()), TRANSITION),
    "td off-policy": (ab.TDLinearLearner(ab.TDLambda(0.02, trace_decay=0.8)), TRANSITION | {"rho": RHO}),
    "td cut": (ab.TDLinearLearner(ab.TDLambda(0.02, trace_decay=0.8)), TRANSITION | {"truncated": CUT}),
    "td both": (ab.TDLinearLearner(ab.TDC(0.02)), TRANSITION | {"rho": RHO, "truncated": CUT}),
    "td in units": (ab.PopArt(ab.TDLinearLearner(ab.TDLambda(0.02))), TRANSITION | {"rho": RHO}),
    "heads": (ab.MultiHeadMLPLearner(N, **SMALL), {"observation": X, "targets": SILENT}),
    "linear heads": (
        ab.MultiHeadMLPLearner(N, hidden_sizes=(), optimizer=ab.Autostep()),
        {"observation": X, "targets": TARGETS},
    ),
    "horde": (ab.HordeLearner(SPEC, **SMALL), OF_HORDE),
    "linear horde": (ab.HordeLearner(SPEC, hidden_sizes=(), optimizer=ab.TDLambda(0.02)), OF_HORDE | {"rhos": RHOS}),
    "horde told": (
        ab.HordeLearner(SPEC, **SMALL),
        OF_HORDE | {"gammas": GAMMAS, "terminated": (GAMMA == 0).astype(np.float32), "rhos": RHOS, "truncated": CUT},
    ),
    "horde that selects": (ab.HordeLearner(CHOSEN, **SMALL), OF_HORDE | {"cumulants": MORE}),
    "horde in units": (ab.PopArt(ab.HordeLearner(SPEC, hidden_sizes=(), optimizer=ab.LMS(0.02))), OF_HORDE),
    "network with a discount": (
        ab.MLPLearner((8,), ab.LMS(0.01), gamma=0.9, lamda=0.8),
        {"observation": X, "target": R, "gamma": GAMMA},
    ),
}  # fmt: skip
OPTIONAL = {"rho", "truncated", "gammas", "terminated", "rhos"}


def first(learner: Any) -> Any:
    return learner.init(D, KEY) if contract(learner).needs_key else learner.init(D)


def events(given: dict[str, np.ndarray], steps: int = STEPS) -> list[dict[str, Any]]:
    return [{name: part[k] for name, part in given.items()} for k in range(min(steps, len(given["observation"])))]


def plural(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name if name.endswith(("s", "ed")) else name + "s": part for name, part in given.items()}


def row_of(result: Any) -> np.ndarray:
    told = np.asarray(result.predictions if hasattr(result, "predictions") else result.prediction)
    metrics = np.asarray(result.metrics)
    return np.concatenate([told[..., None] if told.ndim < metrics.ndim else told, metrics], axis=-1)


def close(a: Any, b: Any, tolerance: float) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True) for x, y in pairs)


def same(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("name", KINDS)
def test_the_numbers_of_update(name: str, wide: bool) -> None:
    (learner, given), tolerance = KINDS[name], 1e-10 if wide else 2e-4
    with jax.enable_x64(wide):
        state = first(learner)
        one, many = ab.Stepper(learner, D, state), ab.Stepper(learner, D, state)
        found, wanted = [], []
        for parts in events(given):
            found.append(np.array(one.update(**parts)))
            result = learner.update(state, **parts)
            state = result.state
            wanted.append(row_of(result))
        table = many.update_many(**plural(given))
        kind = np.dtype("float64" if wide else "float32")
        assert {row.dtype for row in (*found, table)} == {kind} and table.shape == np.shape(found)
        assert close(found, wanted, tolerance) and close(table, np.stack(found), tolerance)
        assert close(one.state, state, tolerance) and close(many.state, state, tolerance)
        assert jax.tree.structure(one.state) == jax.tree.structure(state)
        assert close(one.predict(X[0]), learner.predict(state, X[0]), tolerance)
        assert one.skipped == many.skipped == 0


@pytest.mark.parametrize("name", ["td", "td off-policy", "td cut", "td both"])
def test_compiled_plainly_the_bits_of_update(name: str) -> None:
    learner, given = KINDS[name]
    with native_loops(False):
        state = first(learner)
        stepper = ab.Stepper(learner, D, state)
        for parts in events(given):
            row, result = stepper.update(**parts), learner.update(state, **parts)
            state = result.state
            assert np.array_equal(row, row_of(result))
        assert same(stepper.state, state)


@pytest.mark.parametrize("name", [name for name, (_, given) in KINDS.items() if not OPTIONAL & set(given)])
def test_by_place_by_name_and_as_lists(name: str) -> None:
    learner, given = KINDS[name]
    quick, named, listed, doubles = (ab.Stepper(learner, D, first(learner)) for _ in range(4))
    for parts in events(given, 20):
        rows = [
            quick.update(*parts.values()),
            named.update(**parts),
            listed.update(*(np.asarray(part).tolist() for part in parts.values())),
            doubles.update(*(np.asarray(part, np.float64) for part in parts.values())),
        ]
        assert all(np.array_equal(row, rows[0], equal_nan=True) for row in rows)
    assert same(quick.state, named.state) and same(quick.state, listed.state) and same(quick.state, doubles.state)
    whole, pieces = (ab.Stepper(learner, D, first(learner)) for _ in range(2))
    rows = whole.update_many(*given.values())
    cuts = [0, 1, 1, 33, STEPS]
    parts = [pieces.update_many(*(a[i:j] for a in given.values())) for i, j in zip(cuts, cuts[1:], strict=False)]
    assert same(np.concatenate(parts), rows) and same(pieces.state, whole.state) and len(parts[1]) == 0


def test_events_with_and_without_what_may_be_left_out() -> None:
    learner, state = (
        ab.TDLinearLearner(ab.TDLambda(0.02, trace_decay=0.8)),
        ab.TDLinearLearner(ab.TDLambda(0.02)).init(D),
    )
    stepper = ab.Stepper(learner, D, state)
    for k in range(30):
        more = {} if k % 3 == 0 else {"rho": RHO[k]} if k % 3 == 1 else {"rho": RHO[k], "truncated": bool(CUT[k])}
        row = stepper.update(X[k], R[k], NEXT[k], GAMMA[k], **more)
        result = learner.update(state, X[k], R[k], NEXT[k], GAMMA[k], **more)
        state = result.state
        assert close(row, row_of(result), 1e-4)
    assert close(stepper.state, state, 1e-4)
    by_place = ab.Stepper(learner, D, state)
    row = by_place.update(X[0], R[0], NEXT[0], 0.9, None, 1.0)
    assert close(row, row_of(learner.update(state, X[0], R[0], NEXT[0], 0.9, truncated=1.0)), 1e-4)
    assert close(by_place.state, ab.Stepper(learner, D, state).state, 1.0)


def test_a_horde_that_selects_takes_more_cumulants() -> None:
    learner = ab.HordeLearner(CHOSEN, **SMALL)
    state = first(learner)
    stepper = ab.Stepper(learner, D, state)
    for k in range(20):
        cumulants = MORE[k, : 5 + k % 2]
        row, result = stepper.update(X[k], cumulants, NEXT[k]), learner.update(state, X[k], cumulants, NEXT[k])
        state = result.state
        assert close(row, row_of(result), 2e-4)
    assert stepper.update_many(X, MORE, NEXT).shape == (STEPS, N, 4)
    with pytest.raises(ValueError, match="cumulants must hold 5 numbers or more"):
        stepper.update(X[0], MORE[0, :4], NEXT[0])


# --- banks ---

LMS, SCALED = ab.LinearLearner(ab.LMS(0.01)), ab.LinearLearner(ab.Autostep(), ab.EMANormalizer())
EXAMPLE = {"observation": X, "target": R}
BANKS: dict[str, tuple[Any, dict[str, np.ndarray]]] = {
    "linear": (ab.LearnerBank([LMS, SCALED, ab.LinearLearner(ab.LMS(0.1))]), EXAMPLE),
    "td": (ab.LearnerBank([ab.TDLinearLearner(ab.TDLambda(a)) for a in (0.01, 0.1)]), TRANSITION | {"rho": RHO}),
    "hordes": (ab.LearnerBank([ab.HordeLearner(SPEC, step_size=a, **SMALL) for a in (0.5, 1.0)]), OF_HORDE),
    "heads": (ab.LearnerBank([ab.MultiHeadMLPLearner(N, **SMALL)] * 2), {"observation": X, "targets": SILENT}),
    "two rules": (ab.LearnerBank([ab.LinearLearner(ab.IDBD(0.02)), ab.LinearLearner(ab.ObGD(0.5))]), EXAMPLE),
}


@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("name", BANKS)
def test_a_bank_learns_as_each_of_its_learners(name: str, wide: bool) -> None:
    (bank, given), tolerance = BANKS[name], 1e-10 if wide else 2e-4
    with jax.enable_x64(wide):
        start = bank.init(D, KEY) if bank.needs_key else bank.init(D)
        one, many = ab.Stepper(bank, D, start), ab.Stepper(bank, D, start)
        states, rows = [bank.member(start, i) for i in range(len(bank.learners))], []
        for parts in events(given):
            found = one.update(**parts)
            results = [learner.update(s, **parts) for learner, s in zip(bank.learners, states, strict=True)]
            states = [result.state for result in results]
            for ours, result in zip(found, results, strict=True):
                theirs = row_of(result)
                assert close(ours[..., : theirs.shape[-1]], theirs, tolerance)
                assert np.isnan(ours[..., theirs.shape[-1] :]).all()
            rows.append(np.array(found))
        assert close(many.update_many(**plural(given)), np.stack(rows), tolerance)
        for i, (learner, state) in enumerate(zip(bank.learners, states, strict=True)):
            assert close(bank.member(one.state, i), state, tolerance)
            assert close(one.predict(X[1])[i], learner.predict(state, X[1]), tolerance)
        assert same(one.predict(X[1]), bank.predict(one.state, X[1])) or close(
            one.predict(X[1]), bank.predict(one.state, X[1]), 1e-6
        )


@pytest.mark.filterwarnings("error")
def test_one_learner_of_a_bank_that_runs_away_does_not_stop_the_others() -> None:
    wild, tame = ab.LinearLearner(ab.LMS(2.7)), ab.LinearLearner(ab.LMS(0.01))
    careful, alone = ab.Stepper(ab.LearnerBank([wild, tame]), D, non_finite="skip"), ab.Stepper(tame, D)
    many, open_ = ab.Stepper(careful.learner, D, non_finite="skip"), ab.Stepper(careful.learner, D)
    x, y = np.tile(X, (6, 1)), np.tile(R, 6)
    rows = np.stack([careful.update(a, b) for a, b in zip(x, y, strict=True)])
    wanted = np.stack([np.array(alone.update(a, b)) for a, b in zip(x, y, strict=True)])
    lost = np.isnan(rows[:, 0]).any(axis=1)
    assert lost.any() and careful.skipped == lost.sum() and np.isfinite(careful.state[0].weights).all()
    assert close(rows[:, 1], wanted, 1e-4)
    assert same(many.update_many(x, y), rows) and many.skipped == careful.skipped and same(many.state, careful.state)
    rows = np.stack([np.array(open_.update(a, b)) for a, b in zip(x, y, strict=True)])
    assert close(rows[:, 1], wanted, 1e-4) and not np.isfinite(rows[-1, 0, 0]) and open_.skipped == 0
    other = ab.Stepper(careful.learner, D)
    assert close(other.update_many(x, y)[:, 1], wanted, 1e-4) and other.skipped == 0


# --- events that nothing can be learned from ---


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", KINDS)
def test_what_is_not_finite_is_refused(name: str, bad: float) -> None:
    learner, given = KINDS[name]
    start = first(learner)
    for field in given:
        strict, careful, twin = (ab.Stepper(learner, D, start, non_finite=p) for p in ("raise", "skip", "skip"))
        table = {n: np.array(a[:8]) for n, a in given.items()}
        table[field][3] = bad
        if np.isnan(bad) and field in ("targets", "cumulants"):  # silent heads
            assert strict.update(**events(table)[3]) is not None and strict.skipped == 0
            continue
        if np.isinf(bad) and field.startswith("gamma"):
            with pytest.raises(ValueError, match=f"^{field} must lie in"):
                careful.update(**events(table)[3])
            continue
        with pytest.raises(ab.NonFiniteError, match="the event holds a NaN or an infinity"):
            strict.update(**events(table)[3])
        with pytest.raises(ab.NonFiniteError, match="event 3 of this call holds"):
            strict.update_many(**plural(table))
        assert same(strict.state, ab.Stepper(learner, D, start).state)
        rows, good = careful.update_many(**plural(table)), np.arange(8) != 3
        assert np.isnan(rows[3]).all() and careful.skipped == 1 and careful.update(**events(table)[3]) is None
        wanted = twin.update_many(**{n: a[good] for n, a in plural(table).items()})
        assert same(rows[good], wanted) and same(careful.state, twin.state)


@pytest.mark.filterwarnings("error")
def test_behind_an_end_nothing_is_read() -> None:
    nothing = np.full(D, np.nan, np.float32)
    td, horde = ab.TDLinearLearner(), ab.HordeLearner(SPEC, **SMALL)
    one, other = ab.Stepper(td, D), ab.Stepper(td, D)
    assert np.array_equal(one.update(X[0], 1.0, nothing, 0.0), other.update(X[0], 1.0, X[1], 0.0))
    assert same(one.state, other.state)
    ends = np.array([nothing, X[1]])
    assert same(one.update_many(X[:2], R[:2], ends, [0.0, 0.9]), other.update_many(X[:2], R[:2], X[[3, 1]], [0.0, 0.9]))
    one, other = ab.Stepper(horde, D, first(horde)), ab.Stepper(horde, D, first(horde))
    given = X[0], TARGETS[0]
    assert np.array_equal(one.update(*given, nothing, terminated=True), other.update(*given, X[1], terminated=True))
    with pytest.raises(ab.NonFiniteError):
        one.update(*given, nothing)


@pytest.mark.parametrize("name", ["heads", "horde"])
def test_silent_heads_stay_and_cost_no_closer_look(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, given = KINDS[name]
    stepper = ab.Stepper(learner, D, first(learner))
    monkeypatch.setattr(stepper, "_look", None)  # whoever calls it fails
    before = stepper.state
    row = stepper.update(**events(given)[5])  # all of them are silent
    assert np.isfinite(row[:, 0]).all() and np.isnan(row[:, 1:]).all()
    assert same(before.params, stepper.state.params)
    assert np.isnan(stepper.update_many(**plural(given))[5, :, 1:]).all()


def test_a_transition_that_breaks_the_state_is_refused() -> None:
    learner = ab.TDLinearLearner(ab.TDLambda(0.5))
    strict, careful = ab.Stepper(learner, D), ab.Stepper(learner, D, non_finite="skip")
    given = X[0], 1e30, NEXT[0], 0.9
    with pytest.raises(ab.NonFiniteError, match="state that the learner makes of it is not"):
        strict.update(*given)
    assert careful.update(*given) is None and careful.skipped == 1 and not np.asarray(careful.state.weights).any()
    many = careful.update_many(X[:3], [1.0, 1e30, 1.0], NEXT[:3], np.full(3, 0.9))
    assert np.isnan(many[1]).all() and np.isfinite(many[[0, 2]]).all() and careful.skipped == 2


# --- errors ---

TD, HORDE = ab.TDLinearLearner(ab.TDC(0.02)), ab.HordeLearner(ab.HordeSpec((ask("a"), ask("b"))), **SMALL)
NET = KINDS["network with a discount"][0]


@pytest.mark.parametrize(
    ("error", "message", "learner", "given", "named"),
    [
        (TypeError, r"given as \(observation, reward, .*\): missing .*'gamma'", TD, (X[0], 1.0, X[1]), {}),
        (TypeError, "unexpected keyword argument 'target'", TD, (X[0], 1.0, X[1], 0.9), {"target": 1.0}),
        (TypeError, "too many positional", ab.LinearLearner(), (X[0], 1.0, 2.0), {}),
        (TypeError, "multiple values for argument 'reward'", TD, (X[0], 1.0, X[1]), {"reward": 1.0}),
        (TypeError, "reward must be numeric", TD, (X[0], None, X[1], 0.9), {}),
        (ValueError, r"next_observation must have shape \(4,\), got \(3,\)", TD, (X[0], 1.0, X[1, :3], 0.9), {}),
        (ValueError, r"reward must have shape \(1,\), got \(2,\)", TD, (X[0], [1.0, 2.0], X[1], 0.9), {}),
        (ValueError, r"gamma must lie in \[0, 1\].*1.5", TD, (X[0], 1.0, X[1], 1.5), {}),
        (ValueError, "gamma must lie in", TD, (X[0], 1.0, X[1]), {"gamma": -2.0}),
        (TypeError, "gamma must hold discounts, got flags", TD, (X[0], 1.0, X[1], True), {}),
        (ValueError, "rho must be 0 or more", TD, (X[0], 1.0, X[1], 0.9, -1.0), {}),
        (ValueError, "gamma must be a finite number in \\[0.0, 1.0\\], got -0.5", NET, (X[0], 1.0, -0.5), {}),
        (ValueError, r"targets must have shape \(3,\)", KINDS["heads"][0], (X[0], 1.0), {}),
        (ValueError, r"cumulants must have shape \(2,\), got \(3,\)", HORDE, (X[0], TARGETS[0], X[1]), {}),
        (ValueError, "gammas: no demon of this Horde", ab.HordeLearner(ab.HordeSpec((ask("a", lamda=0.5),)), **SMALL),
         (X[0], [1.0], X[1]), {"gammas": [0.5]}),
        (ValueError, "rhos must be 0 or more", HORDE, (X[0], [1.0, 2.0], X[1]), {"rhos": [1.0, -1.0]}),
        (TypeError, "too many positional", HORDE, (X[0], [1.0, 2.0], X[1], [0.5, 0.5]), {}),
        (TypeError, "state is needed, a HordeLearner starts from random weights", None, (), {}),
    ],
)  # fmt: skip
def test_errors_name_the_argument(error: type[Exception], message: str, learner: Any, given: Any, named: Any) -> None:
    def call() -> Any:
        if learner is None:
            return ab.Stepper(HORDE, D)
        stepper = ab.Stepper(learner, D, first(learner))
        before = stepper.state
        try:
            return stepper.update(*given, **named)
        finally:
            assert same(stepper.state, before)

    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("error", "message", "given", "named"),
    [
        (TypeError, r"\(observations, rewards, next_observations, gammas, rhos=None, truncated=None\)", (X, R), {}),
        (ValueError, r"rewards must have shape \(60,\), got \(5,\)", (X, R[:5], NEXT, GAMMA), {}),
        (ValueError, r"next_observations must have shape \(60, 4\), got \(59, 4\)", (X, R, NEXT[1:], GAMMA), {}),
        (ValueError, r"observations must have shape \(n, 4\), got \(4,\)", (X[0], R, NEXT, GAMMA), {}),
        (ValueError, r"gammas must lie in .* at 7", (X, R, NEXT, np.where(np.arange(STEPS) == 7, 1.5, 0.9)), {}),
        (TypeError, "gammas must hold discounts, got flags", (X, R, NEXT, GAMMA > 0), {}),
        (ValueError, "rhos must be 0 or more", (X, R, NEXT, GAMMA), {"rhos": -RHO}),
        (ValueError, r"truncated must have shape \(60,\), got \(3,\)", (X, R, NEXT, GAMMA), {"truncated": CUT[:3]}),
        (TypeError, "rewards must be numeric", (X[:2], ["a", "b"], NEXT[:2], GAMMA[:2]), {}),
    ],
)
def test_errors_of_many_name_the_argument(error: type[Exception], message: str, given: Any, named: Any) -> None:
    stepper = ab.Stepper(TD, D)
    with pytest.raises(error, match=message):
        stepper.update_many(*given, **named)
    assert same(stepper.state, ab.Stepper(TD, D).state)


def test_a_network_takes_no_negative_discount_among_many() -> None:
    stepper = ab.Stepper(NET, D, first(NET))
    with pytest.raises(ValueError, match="gamma must be a finite number in \\[0.0, 1.0\\], got -0.25"):
        stepper.update_many(X[:3], R[:3], [0.5, -0.25, 0.9])
    assert ab.Stepper(TD, D).update_many(X[:3], R[:3], NEXT[:3], [0.5, -0.25, 0.9]).shape == (3, 5)


def test_inside_compiled_code_it_says_so() -> None:
    for learner, given in (TD, (X[0], 1.0, X[1], 0.9)), (HORDE, (X[0], TARGETS[0, :2], X[1])):
        stepper = ab.Stepper(learner, D, first(learner))
        for k in range(len(given)):
            with pytest.raises(TypeError, match="cannot be traced"):
                jax.jit(lambda part, s=stepper, g=given, k=k: s.update(*g[:k], part, *g[k + 1 :]))(
                    jnp.asarray(given[k])
                )


# --- copies, files, threads ---


@pytest.mark.parametrize("name", ["td both", "heads", "horde told", "horde that selects"])
def test_copies_and_files(name: str, tmp_path: Path) -> None:
    learner, given = KINDS[name]
    one = ab.Stepper(learner, D, first(learner), non_finite="skip")
    one.update_many(**plural(given))
    one.update(**events(given)[0] | {"observation": np.full(D, np.nan)})
    ab.save(tmp_path / "a", one)
    twins = [copy.deepcopy(one), pickle.loads(pickle.dumps(one)), ab.load(tmp_path / "a").stepper()]
    wanted = [np.array(one.update(**parts)) for parts in events(given, 9)]
    for twin in twins:
        assert (twin.skipped, twin.non_finite, twin.learner) == (1, "skip", learner)
        assert same([np.array(twin.update(**parts)) for parts in events(given, 9)], wanted)
        assert same(twin.state, one.state) and same(twin.predict(X[0]), one.predict(X[0]))


def test_a_bank_in_a_file(tmp_path: Path) -> None:
    bank, given = BANKS["td"]
    one = ab.Stepper(bank, D)
    one.update_many(**plural(given))
    ab.save(tmp_path / "a", one)
    again = ab.load(tmp_path / "a").stepper()
    assert again.learner == bank and same(again.update_many(**plural(given)), one.update_many(**plural(given)))


def test_threads_share_all_kinds_of_events() -> None:
    learner = ab.TDLinearLearner(ab.TDLambda(0.5), use_bias=False)
    shared, eye, none = ab.Stepper(learner, D, non_finite="skip"), np.eye(D, dtype=np.float32), np.zeros(D, np.float32)

    def work(k: int) -> None:
        for t in range(200):  # each thread owns an input; the forms of its events change
            more = {"rho": 1.0} if t % 3 == 1 else {"truncated": 0.0} if t % 3 == 2 else {}
            shared.update(eye[k], k + 1.0, none, 0.0, **more)
            if t % 50 == 0:
                shared.update(eye[k], np.nan, none, 0.0)
                shared.update_many(eye[k][None], [k + 1.0], none[None], [0.0], rhos=[1.0])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(D)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared.skipped == 4 * D and np.allclose(shared.state.weights, np.arange(1, D + 1), rtol=1e-6)


def test_a_form_of_events_keeps_the_width_of_its_stepper() -> None:
    with jax.enable_x64(True):
        stepper = ab.Stepper(ab.TDLinearLearner(ab.TDIDBD()), D)
    row = stepper.update(X[0], R[0], NEXT[0], 0.9, truncated=0.0)  # a form that is met here for the first time
    assert row.dtype == np.float64 and stepper.state.weights.dtype == np.float64
    assert stepper.update_many(X, R, NEXT, GAMMA, truncated=CUT).dtype == np.float64
    with pytest.raises(ValueError, match="TDIDBD learns on-policy only"):
        stepper.update(X[0], R[0], NEXT[0], 0.9, 1.0)
    assert stepper.update(X[0], R[0], NEXT[0], 0.9).dtype == np.float64


# --- learners of strangers ---


class Weighted(ab.State):
    """A time step of a kind of its own."""

    observation: Any
    answer: Any
    weight: Any = None


class Stranger:
    """A learner with a time step of its own, and no update."""

    time_step = Weighted

    def init(self, feature_dim: int) -> Any:
        return jnp.zeros(feature_dim)

    def step(self, state: Any, time_step: Any) -> Any:
        prediction = jnp.sum(state * time_step.observation)[None]
        weight = 1.0 if time_step.weight is None else time_step.weight[0]
        error = time_step.answer - prediction
        inner = ab.LinearLearner().init(1)  # only for a result of a known kind
        result = ab.LinearLearner().step(inner, ab.TimeStep(observation=time_step.answer, target=time_step.answer))
        new = state + 0.1 * weight * error * time_step.observation
        return result.replace(state=new, prediction=prediction, error=error, metrics=jnp.stack([error[0]]))

    def predict(self, state: Any, observation: Any) -> Any:
        return jnp.sum(state * observation)[None]


def test_a_learner_without_update_is_asked_for_its_time_step() -> None:
    assert str(event_signature(Stranger())) == "(observation, answer, weight=None)"
    stepper, weights = ab.Stepper(Stranger(), D), np.zeros(D)
    for k in range(30):
        more = {"weight": 0.5} if k % 2 else {}
        row = stepper.update(X[k], R[k], **more)
        error = R[k] - weights @ X[k]
        assert np.allclose(row, [weights @ X[k], error], atol=1e-5)
        weights = weights + 0.1 * more.get("weight", 1.0) * error * X[k]
    assert np.allclose(stepper.state, weights, atol=1e-5)


def test_a_step_that_tells_no_prediction_is_named() -> None:
    class Silent(Stranger):
        def step(self, state: Any, time_step: Any) -> Any:
            return super().step(state, time_step).replace(prediction=None)

    with pytest.raises(TypeError, match="the step of a Silent must tell its prediction"):
        ab.Stepper(Silent(), D)


def test_forms_are_values() -> None:
    sizes = event_sizes(TD, D, ("observation", "reward", "next_observation", "gamma", "rho", "truncated"))
    assert list(sizes.values()) == [4, 1, 4, 1, 1, 1]
    assert event_form(TD, sizes) == event_form(TD, dict(sizes)) and event_form(TD, sizes).kind is ab.OffPolicyTimeStep
    a, b = ab.Stepper(TD, D), ab.Stepper(ab.TDLinearLearner(ab.TDC(0.02)), D)
    assert a._usual.one is b._usual.one and a._usual.vector is not b._usual.vector
