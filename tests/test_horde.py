"""Questions, and a Horde of demons that answer them: targets, traces, ends, ratios, and the loop."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alberta_nb import (
    LMS,
    TDIDBD,
    Autostep,
    AutoTDIDBD,
    DemonType,
    GVFSpec,
    HordeLearner,
    HordeSpec,
    NonFiniteError,
    ObGDBounding,
    PopArt,
    TDLambda,
    TDLinearLearner,
    TrueOnlineTD,
    WelfordNormalizer,
    create_horde_spec,
    horde_from_columns,
    native_loops,
    run_horde_learning_loop,
    run_horde_learning_loop_batched,
    run_multi_head_learning_loop,
)
from alberta_nb.horde.horde import td_targets
from alberta_nb.horde.multi_head import heads_forward
from alberta_nb.learners.base import state_like

RNG = np.random.default_rng(0)
STEPS = 90
XS = RNG.standard_normal((STEPS + 1, 5))
CS = np.tanh(XS[1:] @ RNG.standard_normal((5, 3)))
HOLES = np.where(RNG.random(CS.shape) < 0.3, np.nan, CS)
ENDS = np.arange(STEPS) % 13 == 12
BEHIND = np.where(ENDS[:, None], np.nan, XS[1:])
KEY = jax.random.key(0)
SETTINGS = [(0.0, 0.0), (0.9, 0.8), (0.5, 1.0)]


def demon(gamma: float = 0.0, lamda: float = 0.0, **more: Any) -> GVFSpec:
    return GVFSpec("q", DemonType.PREDICTION, gamma, lamda, **more)


def spec(settings: Any = SETTINGS, **more: Any) -> HordeSpec:
    return create_horde_spec([demon(g, lamda, **more) for g, lamda in settings])


def from_zero(horde: HordeLearner, feature_dim: int = 5) -> Any:
    """The first state with weights of 0, where a linear learner starts."""
    state = horde.init(feature_dim, KEY)
    return state.replace(params=jax.tree.map(jnp.zeros_like, state.params))


def leaves_equal(a: Any, b: Any) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y, equal_nan=True), a, b))


# --- questions ---


def test_specs_round_trip_through_json_and_are_structure_for_jax() -> None:
    made = create_horde_spec(
        [demon(0.9, 0.5, cumulant_index=2, terminal_reward=-1.0), GVFSpec("c", "control", 0.0, 0.0)]
    )
    again = HordeSpec.from_config(json.loads(json.dumps(made.to_config())))
    assert again == made and hash(again) == hash(made) and again.demons[1].demon_type is DemonType.CONTROL
    assert np.allclose(made.gammas, [0.9, 0.0]) and np.allclose(made.lamdas, [0.5, 0.0])
    assert jax.tree.leaves(made) == [] and GVFSpec.from_config(made.demons[0].to_config()) == made.demons[0]


@pytest.mark.parametrize(
    "change, error",
    [
        ({"gamma": 1.1}, ValueError),
        ({"lamda": -0.1}, ValueError),
        ({"cumulant_index": -2}, ValueError),
        ({"cumulant_index": 0.5}, TypeError),
        ({"demon_type": "other"}, ValueError),
        ({"name": 3}, TypeError),
        ({"terminal_reward": float("nan")}, ValueError),
    ],
)
def test_bad_questions(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(change))):
        GVFSpec(**{"name": "q", "demon_type": DemonType.PREDICTION, "gamma": 0.5, "lamda": 0.5} | change)


def test_bad_hordes() -> None:
    with pytest.raises(ValueError, match="demons must hold one"):
        create_horde_spec([])
    with pytest.raises(TypeError, match=r"demons\[0\]"):
        create_horde_spec([3])
    with pytest.raises(TypeError, match="horde_spec must be a HordeSpec"):
        HordeLearner([demon()])
    with pytest.raises(ValueError, match="linear heads only"):
        HordeLearner(spec(), (8,), TDLambda())


def test_horde_from_columns_asks_about_every_column_at_every_scale() -> None:
    made = horde_from_columns(["a", "b"], [0.0, 0.8, 0.95], lamda=0.7)
    assert [d.name for d in made.demons] == ["a @ 0", "a @ 0.8", "a @ 0.95", "b @ 0", "b @ 0.8", "b @ 0.95"]
    assert [d.cumulant_index for d in made.demons] == [0, 0, 0, 1, 1, 1] and {d.lamda for d in made.demons} == {0.7}
    with pytest.raises(TypeError, match="names must be a sequence"):
        horde_from_columns("ab", [0.5])


# --- targets ---


def test_targets_and_what_they_do_not_read(float64: None) -> None:
    got = td_targets(
        jnp.ones(4), jnp.array([0.0, 1.0, 0.25, -0.25]), jnp.full(4, 8.0), jnp.array([jnp.inf, 3.0, 4.0, 4.0])
    )
    assert np.allclose(got, [1 + 8, 1 + 3, 1 + 6 + 1, 1 + 6 + 1])
    horde = HordeLearner(spec(terminal_reward=5.0), (8,), LMS(0.01))
    state = horde.init(5, KEY)
    gone = np.full(5, np.inf)
    ended = horde.update(state, XS[0], CS[0], gone, terminated=True)
    assert np.allclose(ended.td_targets, CS[0] + 5.0)
    assert leaves_equal(ended.state.params, horde.update(state, XS[0], CS[0], gone, gammas=np.zeros(3)).state.params)
    going = horde.update(state, XS[0], CS[0], XS[1])
    g = np.array([0.0, 0.9, 0.5])
    assert np.allclose(going.td_targets, CS[0] + (1 - g) * 5.0 + g * horde.predict(state, XS[1]))
    assert np.allclose(going.td_errors, going.td_targets - horde.predict(state, XS[0]))
    assert np.allclose(going.predictions, horde.predict(state, XS[0]))


def test_cumulants_are_selected_from_targets(float64: None) -> None:
    picks = create_horde_spec([demon(cumulant_index=3), demon(), demon(cumulant_index=0)])
    horde = HordeLearner(picks, (4,))
    state = horde.init(5, KEY)
    result = horde.update(state, XS[0], [10.0, 20.0, 30.0, np.nan, 50.0], XS[1])
    assert np.isnan(result.td_targets[0]) and np.allclose(result.td_targets[1:], [20.0, 10.0])
    with pytest.raises(ValueError, match="must hold 4 numbers"):
        horde.update(state, XS[0], np.ones(3), XS[1])
    with pytest.raises(ValueError, match=r"cumulants must have shape \(3,\)"):
        HordeLearner(spec(), (4,)).update(HordeLearner(spec(), (4,)).init(5, KEY), XS[0], np.ones(2), XS[1])


def test_both_ends_share_the_normalizers_statistics(float64: None) -> None:
    horde = HordeLearner(spec([(0.9, 0.0)]), (8,), LMS(0.01), normalizer=WelfordNormalizer())
    state = horde.init(5, KEY)
    for t in range(10):
        state = horde.update(state, XS[t], CS[t, :1], XS[t + 1]).state
    result = horde.update(state, XS[10], CS[10, :1], XS[11])
    known, norm = result.state.normalizer_state, horde.normalizer
    here, there = (heads_forward(state.params, norm.normalize_only(known, jnp.asarray(x))).values for x in XS[10:12])
    assert np.allclose(result.td_targets, CS[10, :1] + 0.9 * there) and np.allclose(result.predictions, here)


# --- against other learners ---


def test_without_discounts_it_is_the_multi_head_learner() -> None:
    horde = HordeLearner(spec([(0.0, 0.9)] * 3), (16, 8), LMS(0.5), bounder=ObGDBounding(), head_optimizer=Autostep())
    start = horde.init(5, KEY)
    one = run_horde_learning_loop(horde, start, XS[:-1], HOLES, np.full_like(XS[1:], np.nan))
    two = run_multi_head_learning_loop(horde.learner, start.replace(questions=None), XS[:-1], HOLES)
    assert np.array_equal(one.per_demon_metrics, two.per_head_metrics, equal_nan=True)
    assert leaves_equal(one.state.params, two.state.params)
    assert np.array_equal(one.td_errors, one.per_demon_metrics[..., 1], equal_nan=True)


@pytest.mark.parametrize("make", [TDLambda, TDIDBD, AutoTDIDBD, TrueOnlineTD, None])
def test_linear_demons_equal_td_learners(make: Any, float64: None) -> None:
    horde = HordeLearner(spec(terminal_reward=2.0), (), LMS(0.05) if make is None else make(0.05))
    run = run_horde_learning_loop(horde, from_zero(horde), XS[:-1], CS, BEHIND, terminated=ENDS)
    for i, (gamma, lamda) in enumerate(SETTINGS):
        learner = TDLinearLearner((make or TDLambda)(0.05, trace_decay=lamda))
        state, metrics = learner.init(5), []
        for t in range(STEPS):
            g = 0.0 if ENDS[t] else gamma
            result = learner.update(state, XS[t], CS[t, i] + (1 - g) * 2.0, BEHIND[t], g)
            state = result.state
            metrics.append(result.metrics[:3])
        assert np.allclose(run.per_demon_metrics[:, i], metrics, atol=1e-11)
        assert np.allclose(run.state.params.weights[0][i], state.weights, atol=1e-11)


def test_a_demons_own_discounts_and_cuts_are_those_of_a_td_learner(float64: None) -> None:
    discounts = RNG.choice([0.0, 0.5, 0.9, -0.7], (STEPS, 3))
    horde = HordeLearner(spec([(0.9, 0.8)] * 3), (), LMS(0.05))
    run = run_horde_learning_loop(horde, from_zero(horde), XS[:-1], CS, XS[1:], gammas=discounts)
    for i in range(3):
        learner = TDLinearLearner(TDLambda(0.05, trace_decay=0.8))
        state = learner.init(5)
        for t in range(STEPS):
            state = learner.update(state, XS[t], CS[t, i], XS[t + 1], discounts[t, i]).state
        assert np.allclose(run.state.params.weights[0][i], state.weights, atol=1e-11)


def test_silent_demon_stands_still_and_goes_on(float64: None) -> None:
    horde = HordeLearner(spec([(0.9, 0.8)] * 2), (), LMS(0.05))
    hole = CS[:, :2].copy()
    hole[10:20, 1] = np.nan
    run = run_horde_learning_loop(horde, from_zero(horde), XS[:-1], hole, XS[1:])
    awake = np.r_[:10, 20:STEPS]
    alone = HordeLearner(spec([(0.9, 0.8)]), (), LMS(0.05))
    other = run_horde_learning_loop(alone, from_zero(alone), XS[:-1][awake], hole[awake, 1:], XS[1:][awake])
    assert np.allclose(run.state.params.weights[0][1], other.state.params.weights[0][0], atol=1e-12)
    assert np.isnan(run.td_errors[10:20, 1]).all()


def test_importance_ratios_weigh_traces_and_the_trunk(float64: None) -> None:
    ratios = RNG.uniform(0, 2, (STEPS, 3))
    horde = HordeLearner(spec(), (), LMS(0.02))
    run = run_horde_learning_loop(horde, from_zero(horde), XS[:-1], CS, XS[1:], rhos=ratios)
    for i, (gamma, lamda) in enumerate(SETTINGS):
        w, b, z, bias_z = np.zeros(5), 0.0, np.zeros(5), 0.0
        for t in range(STEPS):
            d = CS[t, i] + gamma * (w @ XS[t + 1] + b) - (w @ XS[t] + b)
            z, bias_z = ratios[t, i] * (gamma * lamda * z + XS[t]), ratios[t, i] * (gamma * lamda * bias_z + 1)
            w, b = w + 0.02 * d * z, b + 0.02 * d * bias_z
        assert np.allclose(run.state.params.weights[0][i], w, atol=1e-12)
    deep = HordeLearner(spec([(0.0, 0.0), (0.9, 0.0), (0.5, 0.0)]), (16, 8), LMS(0.1))
    state = deep.init(5, KEY)
    got = deep.update(state, XS[0], CS[0], XS[1], rhos=ratios[0])

    def loss(params: Any) -> Any:
        return 0.5 * jnp.sum(ratios[0] * (got.td_targets - heads_forward(params, jnp.asarray(XS[0])).values) ** 2)

    slopes = jax.jit(jax.grad(loss))(state.params)
    want = jax.tree.map(lambda p, g: np.asarray(p) - 0.1 * np.asarray(g), state.params, slopes)
    assert jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-12), got.state.params, want))
    ones = deep.update(state, XS[0], CS[0], XS[1], rhos=np.ones(3))
    assert leaves_equal(ones.state.params, deep.update(state, XS[0], CS[0], XS[1]).state.params)


# --- settings, errors, the loop ---


def test_config_structure_and_shapes() -> None:
    horde = HordeLearner(spec(), [16, 8], bounder=ObGDBounding())
    again = HordeLearner.from_config(json.loads(json.dumps(horde.to_config())))
    assert again == horde and again.n_demons == 3 and again.learner.per_head_gamma_lamda == (0.0, 0.9 * 0.8, 0.5)
    other = HordeLearner(spec([(0.3, 0.1)] * 3, terminal_reward=2.0), (16, 8), LMS(0.3), bounder=ObGDBounding())
    assert other.structure == horde.structure  # numbers live in the state
    shapes = [
        [(a.shape, a.dtype) for a in jax.tree.leaves(tree)] for tree in (horde.init(5, KEY), state_like(horde, 5))
    ]
    assert shapes[0] == shapes[1]


def test_discounts_from_outside_need_traces() -> None:
    horde = HordeLearner(spec([(0.0, 0.9)] * 2), (4,))
    with pytest.raises(ValueError, match="no traces are kept"):
        horde.update(horde.init(5, KEY), XS[0], np.ones(2), XS[1], gammas=np.full(2, 0.5))
    with pytest.raises(ValueError, match="rhos must have shape"):
        horde.update(horde.init(5, KEY), XS[0], np.ones(2), XS[1], rhos=np.ones(3))


def test_loop_equals_steps_native_plain_split_and_batch() -> None:
    horde = HordeLearner(spec(), (16, 8), LMS(0.5), bounder=ObGDBounding())
    start, given = horde.init(5, KEY), (XS[:-1], HOLES, BEHIND)
    whole = run_horde_learning_loop(horde, start, *given, terminated=ENDS)
    with native_loops(False):
        plain = run_horde_learning_loop(horde, start, *given, terminated=ENDS)
    assert np.allclose(whole.td_errors, plain.td_errors, atol=2e-4, equal_nan=True)
    state = start
    for t in range(STEPS):
        result = horde.update(state, XS[t], HOLES[t], BEHIND[t], terminated=bool(ENDS[t]))
        state = result.state
        assert np.allclose(result.td_errors, whole.td_errors[t], atol=2e-4, equal_nan=True)
    first = run_horde_learning_loop(horde, start, *(a[:40] for a in given), terminated=ENDS[:40])
    rest = run_horde_learning_loop(horde, first.state, *(a[40:] for a in given), terminated=ENDS[40:])
    assert np.array_equal(np.concatenate([first.td_errors, rest.td_errors]), whole.td_errors, equal_nan=True)
    keys = jax.random.split(KEY, 2)
    batch = run_horde_learning_loop_batched(horde, *given, keys, terminated=ENDS)
    one = run_horde_learning_loop(horde, horde.init(5, keys[1]), *given, terminated=ENDS)
    assert batch.per_demon_metrics.shape == (2, STEPS, 3, 3)
    assert np.allclose(batch.td_errors[1], one.td_errors, atol=1e-5, equal_nan=True)


def test_loop_stops_at_what_is_read_and_not_finite() -> None:
    horde = HordeLearner(spec(), (4,))
    start, bad = horde.init(5, KEY), XS[1:].copy()
    bad[7, 0] = np.nan
    with pytest.raises(NonFiniteError, match="step 7") as found:
        run_horde_learning_loop(horde, start, XS[:-1], CS, bad)
    assert found.value.result.td_errors.shape == (7, 3)
    run = run_horde_learning_loop(horde, start, XS[:-1], HOLES, bad, non_finite="skip")
    assert int(run.skipped) == 1 and np.isnan(run.td_errors[7]).all()
    with pytest.raises(ValueError, match="cumulants must have shape"):
        run_horde_learning_loop(horde, start, XS[:-1], CS[:, :2], XS[1:])
    with pytest.raises(ValueError, match="next_observations must have shape"):
        run_horde_learning_loop(horde, start, XS[:-1], CS, XS)


# --- what is given is what is read ---


def test_transitions_of_every_kind_are_read() -> None:
    horde = HordeLearner(spec(), (4,), LMS(0.01))
    state, x = horde.init(5, KEY), np.array([0, 1, 1, 0, 1])
    want = horde.update(state, x.astype(np.float32), np.ones(3, np.float32), x.astype(np.float32))
    for kind in ("float16", "longdouble", "int64", ">f4", ">i8", "bool"):
        given = x.astype(kind)
        got = horde.update(state, given, np.ones(3, kind), given, terminated=given[0], truncated=given[:1])
        assert all(map(np.array_equal, jax.tree.leaves(got), jax.tree.leaves(want)))
        assert np.array_equal(horde.predict(state, given), horde.predict(state, x.astype(np.float32)))
    assert float(horde.update(state, x, [3_000_000_000, 1, 1], x).td_errors[0]) > 2.9e9
    with pytest.raises(TypeError, match="cumulants must have no mask"):
        horde.update(state, x, np.ma.array([1.0, 2.0, 3.0]), x)


def test_one_demon_takes_a_number() -> None:
    horde = HordeLearner(spec([(0.9, 0.5)]), (4,), LMS(0.01))
    state = horde.init(5, KEY)
    a, b = (horde.update(state, XS[0], cumulant, XS[1], gammas=g) for cumulant, g in ((1.0, 0.5), ([1.0], [0.5])))
    assert np.array_equal(a.td_errors, b.td_errors)


@pytest.mark.parametrize("loop", [False, True])
def test_discounts_and_ratios_are_checked(loop: bool) -> None:
    horde = HordeLearner(spec(), (4,), LMS(0.01))
    state, n = horde.init(5, KEY), 4

    def learn(**more: Any) -> Any:
        if loop:
            given = {name: np.tile(a, (n, 1)) for name, a in more.items()}
            return run_horde_learning_loop(horde, state, XS[:n], CS[:n], XS[1 : n + 1], **given)
        return horde.update(state, XS[0], CS[0], XS[1], **more)

    with pytest.raises(TypeError, match="gammas must hold discounts, got flags"):
        learn(gammas=np.array([True, False, True]))
    with pytest.raises(
        ValueError, match=r"gammas must lie in \[0, 1\], or be negative where the sequence stops, got \[1.5\]"
    ):
        learn(gammas=np.array([0.5, 1.5, 0.5]))
    with pytest.raises(ValueError, match="rhos must be 0 or more"):
        learn(rhos=np.array([1.0, -0.5, 1.0]))
    learn(gammas=np.array([0.5, -1.0, 0.0]), rhos=np.array([0.0, 1.0, 7.0]))


def test_lists_of_keys_are_keys() -> None:
    horde, keys = HordeLearner(spec(), (4,), LMS(0.01)), jax.random.split(KEY, 2)
    one, two = (run_horde_learning_loop_batched(horde, XS[:4], CS[:4], XS[1:5], k) for k in (keys, list(keys)))
    assert np.array_equal(one.td_errors, two.td_errors, equal_nan=True)


@pytest.mark.parametrize("number", [np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("units", [False, True])
def test_a_cumulant_that_no_question_selects_is_not_looked_at(number: float, units: bool) -> None:
    picks: Any = HordeLearner(create_horde_spec([demon(0.9, 0.5, cumulant_index=2), demon(cumulant_index=0)]), (4,))
    picks = PopArt(picks) if units else picks
    with_one = CS.copy()
    with_one[7:9, 1] = number
    runs = [run_horde_learning_loop(picks, picks.init(5, KEY), XS[:-1], c, XS[1:]) for c in (CS, with_one)]
    assert np.array_equal(runs[0].td_errors, runs[1].td_errors) and len(runs[1].td_errors) == STEPS
    keys = jax.random.split(KEY, 2)
    batch = run_horde_learning_loop_batched(picks, XS[:-1], with_one, XS[1:], keys)
    assert np.isfinite(batch.td_errors).all()
    with_one[11, 2] = np.inf
    with pytest.raises(NonFiniteError, match="step 11"):
        run_horde_learning_loop(picks, picks.init(5, KEY), XS[:-1], with_one, XS[1:])
