"""The packed stepper: the loop's numbers one event at a time, states in and out, and what it refuses."""

import copy
import pickle
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alberta_nb.learners.bank import LearnerBank
from alberta_nb.learners.linear import LinearLearner
from alberta_nb.learners.mlp import MLPLearner
from alberta_nb.loops import event
from alberta_nb.loops import stepper as module
from alberta_nb.loops.stepper import Stepper
from alberta_nb.loops.supervised import run_learning_loop
from alberta_nb.native import kernel
from alberta_nb.native.kernel import native_loops
from alberta_nb.native.words import pack, unpack
from alberta_nb.normalizers import EMANormalizer
from alberta_nb.optimizers.autostep import Autostep
from alberta_nb.optimizers.bounders import ObGDBounding
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.optimizers.lms import LMS
from alberta_nb.optimizers.obgd import ObGD
from alberta_nb.streams.sources import ArraySource

D = 4
RNG = np.random.default_rng(0)
X = RNG.standard_normal((200, D)).astype(np.float32)
Y = (X.sum(axis=1) + 0.1 * RNG.standard_normal(200)).astype(np.float32)
LEARNER = LinearLearner(IDBD(0.05, 0.01))
SCALED = LinearLearner(IDBD(0.05, 0.01), normalizer=EMANormalizer())


def same(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def test_pack_and_unpack() -> None:
    state = SCALED.init(D)
    words = pack(state)
    assert words.dtype == np.uint32 and words.ndim == 1
    assert same(unpack(jnp.asarray(words), state), state)
    assert same(jax.jit(lambda w: unpack(w, state))(words), state)


def test_pack_keeps_every_bit() -> None:
    odd = {
        "nan": jnp.float32(np.nan),
        "minus_zero": jnp.float32(-0.0),
        "top": jnp.uint32(2**32 - 1),
        "low": jnp.int32(-7),
    }
    back = unpack(jnp.asarray(pack(odd)), odd)
    assert same(back, odd) and np.signbit(back["minus_zero"])
    with jax.enable_x64(True):
        wide = {"a": jnp.arange(3, dtype=jnp.float64) / 3, "b": jnp.uint32(5), "c": jnp.int64(-(2**40))}
        assert same(unpack(jnp.asarray(pack(wide)), wide), wide)


@pytest.mark.parametrize("learner", [LEARNER, SCALED, LinearLearner(Autostep())], ids=["idbd", "scaled", "autostep"])
def test_the_same_numbers_as_update_and_as_the_loop(learner: Any) -> None:
    stepper, state, rows, by_update = Stepper(learner, D), learner.init(D), [], []
    for x, y in zip(X[:80], Y[:80], strict=True):
        rows.append(np.asarray(stepper.update(x, y)))
        result = learner.update(state, x, y)
        state = result.state
        by_update.append(np.concatenate([result.prediction, result.metrics]))
    many = Stepper(learner, D).update_many(X[:80], Y[:80])
    looped = run_learning_loop(learner, ArraySource(X[:80], Y[:80]))
    columns = 5 if learner.normalizer is not None else 4
    assert np.shape(rows) == many.shape == (80, columns)
    assert np.allclose(rows, by_update, rtol=1e-4, atol=1.5e-5)
    assert np.allclose(rows, many, rtol=1e-4, atol=1.5e-5)
    assert np.allclose(np.stack(rows)[:, 1:], looped.metrics, rtol=1e-4, atol=1.5e-5)
    for other in (state, looped.state):
        assert all(
            np.allclose(a, b, rtol=1e-4, atol=1.5e-5)
            for a, b in zip(jax.tree.leaves(stepper.state), jax.tree.leaves(other), strict=True)
        )


NETWORKS = [
    MLPLearner((8,), LMS(1.0), bounder=ObGDBounding()),
    MLPLearner((8, 8), Autostep(), gamma=0.9, lamda=0.8, normalizer=EMANormalizer()),
]


@pytest.mark.parametrize("learner", NETWORKS, ids=["bounded", "traces"])
def test_a_network_in_a_stepper(learner: Any) -> None:
    state = learner.init(D, jax.random.key(0))
    stepper, many = (Stepper(learner, D, state=state) for _ in range(2))
    rows, wanted = [], []
    for x, y in zip(X[:80], Y[:80], strict=True):
        rows.append(np.array(stepper.update(x, y)))
        result = learner.update(state, x, y)
        state = result.state
        wanted.append(np.concatenate([result.prediction, result.metrics]))
    assert np.shape(rows)[1] == 1 + len(learner.metric_names)
    for found in (rows, many.update_many(X[:80], Y[:80])):
        assert np.allclose(found, wanted, rtol=1e-3, atol=1e-4)
    assert jax.tree.structure(stepper.state) == jax.tree.structure(state)
    for one in (stepper.state, many.state):
        pairs = zip(jax.tree.leaves(one), jax.tree.leaves(state), strict=True)
        assert all(np.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)
    assert np.allclose(stepper.predict(X[0]), learner.predict(state, X[0]), atol=1e-4)


def test_update_many_in_any_pieces() -> None:
    whole = Stepper(LEARNER, D)
    rows = whole.update_many(X, Y)
    pieces = Stepper(LEARNER, D)
    cuts = [0, 1, 2, 66, 66, 130, 200]
    parts = [pieces.update_many(X[a:b], Y[a:b]) for a, b in zip(cuts, cuts[1:])]
    assert same(np.concatenate(parts), rows) and same(pieces.state, whole.state)
    assert parts[3].shape == (0, 4)
    assert np.allclose(Stepper(LEARNER, D).update_many(X, Y[:, None]), rows)


def test_state_out_and_in() -> None:
    whole, first = Stepper(LEARNER, D), Stepper(LEARNER, D)
    for x, y in zip(X[:40], Y[:40], strict=True):
        whole.update(x, y)
    for x, y in zip(X[:15], Y[:15], strict=True):
        first.update(x, y)
    snapshot = first.state
    kept = jax.tree.map(np.array, snapshot)
    second = Stepper(LEARNER, D, state=snapshot)
    for x, y in zip(X[15:40], Y[15:40], strict=True):
        second.update(x, y)
    assert same(second.state, whole.state)
    assert same(snapshot, kept), "a state that was taken out does not move"
    from_numpy = Stepper(LEARNER, D, state=kept)
    assert same(from_numpy.state, snapshot)
    assert jax.tree.structure(snapshot) == jax.tree.structure(LEARNER.init(D))


def test_from_and_to_the_loop() -> None:
    learned = run_learning_loop(LEARNER, ArraySource(X, Y)).state
    stepper = Stepper(LEARNER, D, state=learned)
    assert same(stepper.state, learned)
    stepper.update_many(X[:10], Y[:10])
    on = run_learning_loop(LEARNER, ArraySource(X[:10], Y[:10]), learner_state=learned)
    assert np.allclose(stepper.state.weights, on.state.weights, atol=1.5e-5)


def test_predict_learns_nothing() -> None:
    stepper = Stepper(SCALED, D)
    stepper.update_many(X, Y)
    before = stepper.state
    prediction = stepper.predict(X[0])
    assert prediction.shape == (1,) and same(stepper.state, before)
    assert np.allclose(prediction, SCALED.predict(before, X[0]), rtol=1e-6)


def test_input_of_many_kinds() -> None:
    rows = []
    for x in (X[0], X[0].astype(np.float64), X[0].tolist(), jnp.asarray(X[0])):
        for y in (float(Y[0]), np.float64(Y[0]), Y[:1], jnp.asarray(Y[0])):
            rows.append(np.asarray(Stepper(LEARNER, D).update(x, y)))
    assert all(np.array_equal(row, rows[0]) for row in rows)
    assert Stepper(LEARNER, D).update(np.arange(D), 1).shape == (4,)
    assert Stepper(LinearLearner(), 1).update(2.0, 1.0).shape == (4,)


class Mute:
    """A learner without an answer."""

    init, step = LEARNER.init, LEARNER.step


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_events(bad: float) -> None:
    broken = X[:10].copy()
    broken[3, 1] = bad
    careful = Stepper(LEARNER, D)
    for call in (lambda: careful.update(broken[3], 0.0), lambda: careful.update(X[0], bad)):
        with pytest.raises(ValueError, match="the event holds a NaN or an infinity"):
            call()
    with pytest.raises(ValueError, match="event 3 of this call holds a NaN or an infinity; .*nor from any other"):
        careful.update_many(broken, Y[:10])
    assert same(careful.state, LEARNER.init(D)) and careful.skipped == 0
    tolerant, healthy = Stepper(LEARNER, D, non_finite="skip"), Stepper(LEARNER, D)
    assert tolerant.update(X[0], bad) is None and tolerant.skipped == 1
    rows = tolerant.update_many(broken, Y[:10])
    good = np.arange(10) != 3
    assert np.isnan(rows[3]).all() and same(rows[good], healthy.update_many(X[:10][good], Y[:10][good]))
    assert tolerant.skipped == 2 and same(tolerant.state, healthy.state)
    assert np.isnan(tolerant.update_many(np.full((2, D), bad), [0.0, 0.0])).all() and tolerant.skipped == 4


@pytest.mark.filterwarnings("error")
def test_large_numbers_are_numbers() -> None:
    stepper = Stepper(LinearLearner(LMS(0.0)), D)
    assert stepper.update([1e30, 0.0, 0.0, 0.0], 3e38) is not None
    assert stepper.update_many([[3e38, 3e38, 0.0, 0.0]], [1.0]).shape == (1, 4) and stepper.skipped == 0


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "learner must have step", lambda: Stepper(LMS(), D)),
        (TypeError, "learner must have predict, got a Mute", lambda: Stepper(Mute(), D)),
        (TypeError, "learner must have predict, got a Mute", lambda: Stepper(LearnerBank((LEARNER, Mute())), D)),
        (TypeError, r"state is needed, .*state=learner.init\(4, key\)", lambda: Stepper(NETWORKS[0], D)),
        (
            ValueError,
            r"state.params.weights\[0\] must have shape",
            lambda: Stepper(NETWORKS[0], D, state=NETWORKS[0].init(3, jax.random.key(0))),
        ),
        (ValueError, "feature_dim must be 1 or more", lambda: Stepper(LEARNER, 0)),
        (ValueError, "non_finite must be", lambda: Stepper(LEARNER, D, non_finite="ignore")),
        (ValueError, "state.weights must have shape", lambda: Stepper(LEARNER, D, state=LEARNER.init(3))),
        (TypeError, "state must be a LearnerState", lambda: Stepper(LEARNER, D, state=LinearLearner(LMS()).init(D))),
        (ValueError, r"observation must have shape \(4,\)", lambda: Stepper(LEARNER, D).update(X[0, :3], 1.0)),
        (ValueError, "target must have shape", lambda: Stepper(LEARNER, D).update(X[0], [1.0, 2.0])),
        (TypeError, "observation must be numeric", lambda: Stepper(LEARNER, D).update(["a"] * 4, 1.0)),
        (TypeError, "target must be numeric", lambda: Stepper(LEARNER, D).update(X[0], "high")),
        (ValueError, "observation must have shape", lambda: Stepper(LEARNER, D).predict(X)),
        (ValueError, r"observations must have shape \(n, 4\)", lambda: Stepper(LEARNER, D).update_many(X[0], Y[:1])),
        (ValueError, r"targets must have shape \(200,\)", lambda: Stepper(LEARNER, D).update_many(X, Y[:5])),
        (TypeError, "targets must be numeric", lambda: Stepper(LEARNER, D).update_many(X[:2], ["a", "b"])),
    ],
)
def test_bad_input_is_named(error: type[Exception], message: str, call: Any) -> None:
    with pytest.raises(error, match=message):
        call()


class Flagged(LinearLearner):
    """A learner whose state holds a boolean."""

    def init(self, feature_dim: int) -> Any:
        return {"inner": super().init(feature_dim), "flag": jnp.bool_(True)}


def test_a_state_that_cannot_be_packed_is_refused() -> None:
    with pytest.raises(TypeError, match="numbers of 32 or 64 bits to be packed, got a leaf of bool"):
        Stepper(Flagged(), D)


def test_equal_steppers_share_what_is_compiled() -> None:
    a, b, c = Stepper(LEARNER, D), Stepper(LinearLearner(IDBD(0.3, 0.1)), D), Stepper(LEARNER, D + 1)
    assert a._usual.one is b._usual.one and a._usual.many is b._usual.many and a._usual.one is not c._usual.one
    for x, y in zip(X[:2], Y[:2], strict=True):  # the first words are numpy's, all later ones JAX's
        a.update(x, y)
    compiled = a._usual.one.compilations()
    for stepper in (a, b):
        for x, y in zip(X[:5], Y[:5], strict=True):
            stepper.update(x, y)
            stepper.update(x.astype(np.float64), float(y))
    assert a._usual.one.compilations() == compiled


def test_plain_and_native_update_many() -> None:
    fast = Stepper(LEARNER, D).update_many(X, Y)
    with native_loops(False):
        plain = Stepper(LEARNER, D).update_many(X, Y)
    assert np.allclose(fast, plain, rtol=1e-4, atol=1.5e-5)


def test_update_many_falls_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def refuse(fn: Any) -> Any:
        def call(*args: Any) -> Any:
            calls.append(1)
            raise jax.errors.JaxRuntimeError("refused")

        return call

    monkeypatch.setattr(module, "use_native", lambda: True)
    monkeypatch.setattr(kernel, "one_kernel", refuse)
    learner = LinearLearner(LMS(0.05), use_bias=False)
    stepper = Stepper(learner, D + 2)
    x = RNG.standard_normal((70, D + 2))
    rows = np.concatenate([stepper.update_many(x[:5], Y[:5]), stepper.update_many(x[5:], Y[5:70])])
    assert len(calls) == 1 and np.isfinite(rows).all()
    monkeypatch.undo()
    event.compiled.cache_clear()
    assert np.allclose(Stepper(learner, D + 2).update_many(x, Y[:70]), rows, rtol=1e-4, atol=1.5e-5)


def test_x64() -> None:
    with jax.enable_x64(True):
        learner = LinearLearner(IDBD(0.05, 0.01))
        stepper, state = Stepper(learner, D), learner.init(D)
        for x, y in zip(X[:20].astype(np.float64), Y[:20].astype(np.float64), strict=True):
            row = stepper.update(x, y)
            state = learner.update(state, x, y).state
        assert row is not None and row.dtype == jnp.float64
        assert np.allclose(stepper.state.weights, state.weights, rtol=0, atol=1e-13)
        many = Stepper(learner, D)
        assert many.update_many(X[:20], Y[:20]).dtype == np.float64
        assert np.allclose(many.state.weights, state.weights, rtol=0, atol=1e-12)


# --- copies, pickles, threads ---


@pytest.mark.parametrize("way", [0, 1, 2])
@pytest.mark.parametrize("learner", [LEARNER, SCALED])
def test_a_copy_goes_on_by_itself(way: int, learner: LinearLearner) -> None:
    again = [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))][way]
    first = Stepper(learner, np.int8(D), non_finite="skip")  # type: ignore[arg-type]
    fresh = again(first)
    first.update_many(X[:50], Y[:50])
    first.update(np.full(D, np.nan), 1.0)
    twin = again(first)
    assert type(twin) is Stepper and (twin.learner, twin.feature_dim, twin.non_finite) == (learner, D, "skip")
    assert type(twin.feature_dim) is int and (twin.skipped, fresh.skipped) == (1, 0) and same(twin.state, first.state)
    for x, y in zip(X[50:60], Y[50:60], strict=True):
        assert np.array_equal(first.update(x, y), twin.update(x, y))
    assert same(fresh.state, learner.init(D))
    fresh.update_many(X[:50], Y[:50])
    before = first.state
    twin.update(10 * X[0], 100.0)
    assert same(first.state, before) and not same(twin.state, before)  # no buffer is shared
    first.update(X[60], Y[60])


def test_a_copy_of_a_child_keeps_what_it_has() -> None:
    class Named(Stepper):
        name = "none"

    one = Named(LEARNER, D)
    one.name = "door"
    assert copy.deepcopy(one).name == "door"


def test_threads_lose_nothing() -> None:
    shared, bad = Stepper(LinearLearner(LMS(0.5), use_bias=False), D, non_finite="skip"), np.full(D, np.nan)
    rows: list[Any] = []

    def work(k: int) -> None:
        x = np.eye(D, dtype=np.float32)[k]  # each thread owns an input: its weight depends on its own events alone
        for t in range(300):
            rows.append(shared.update(x, float(k + 1)))
            if t % 3 == 0:
                shared.update(bad, 0.0)
            if t % 50 == 0:
                assert shared.update_many(x[None], [float(k + 1)]).shape == (1, 4)
                copy.copy(shared)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(D)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rows) == 300 * D and shared.skipped == 100 * D
    assert np.allclose(shared.state.weights, np.arange(1, D + 1), rtol=1e-6)
    errors = np.array([row[2] for row in rows])
    assert np.isfinite(errors).all() and (np.abs(errors) <= D).all()


def test_an_error_leaves_the_lock_free() -> None:
    stepper = Stepper(LEARNER, D)
    for wrong in (lambda: stepper.update(np.full(D, np.nan), 1.0), lambda: stepper.update_many(X[:2], [1.0, np.nan])):
        with pytest.raises(ValueError, match="NaN"):
            wrong()
    assert stepper.update(X[0], Y[0]) is not None


# --- what is given is what is read ---


@pytest.mark.parametrize("kind", ["float16", "longdouble", "int64", "uint64", ">f4", ">f8", ">i8", "int8", "bool"])
def test_events_of_every_kind_are_read(kind: str) -> None:
    x = np.array([0, 1, 1, 0], kind)
    ours, wanted = (Stepper(LinearLearner(IDBD(0.05, 0.01)), D) for _ in range(2))
    for given in (x, x.tolist(), pytest.importorskip("pandas").Series(x.astype(x.dtype.newbyteorder("=")))):
        assert np.array_equal(ours.update(given, x[1]), wanted.update(x.astype(np.float32), float(x[1])))
    assert np.array_equal(
        ours.update_many(x[None], x[:1]), wanted.update_many(x[None].astype(np.float32), [float(x[0])])
    )
    assert np.array_equal(ours.predict(x), wanted.predict(x.astype(np.float32)))
    cautious = Stepper(LinearLearner(LMS(1e-9)), D)  # the others leave the numbers at such an error
    assert cautious.update(X[0], 2**40)[2] > 1e12 - 1e6  # type: ignore[index]


def test_events_that_are_no_numbers_are_refused() -> None:
    stepper, masked = Stepper(LEARNER, D), np.ma.array(X[0], mask=[0, 1, 0, 0])
    for call, what in (
        (lambda: stepper.update(masked, 1.0), "observation must have no mask"),
        (lambda: stepper.update(X[0], np.ma.masked), "target must have no mask"),
        (lambda: stepper.predict(masked), "observation must have no mask"),
        (lambda: stepper.update_many(masked[None], [1.0]), "observations must have no mask"),
        (lambda: stepper.update_many(X[:1], ["1"]), "targets must be numeric"),
        (lambda: stepper.update(X[0], 1j), "target must be numeric"),
        (lambda: stepper.update(X[0], "1"), "target must be numeric"),
    ):
        with pytest.raises(TypeError, match=what):
            call()
    assert same(stepper.state, LEARNER.init(D))


def test_what_is_no_learner_of_events_is_refused() -> None:
    with pytest.raises(TypeError, match="learner must be an instance, got the class"):
        Stepper(LinearLearner, D)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="feature_dim must be 16777216 or less"):
        Stepper(LEARNER, 10**400)


# --- states that break ---


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("non_finite", ["raise", "skip"])
@pytest.mark.parametrize("wide", [False, True])
def test_a_learner_that_runs_away_is_stopped(non_finite: str, wide: bool) -> None:
    with jax.enable_x64(wide):
        for learner in (LinearLearner(LMS(2.7)), LinearLearner(LMS(2.5), normalizer=EMANormalizer())):
            stepper, refused = Stepper(learner, 2, non_finite=non_finite), 0
            for k in range(3000):
                try:
                    refused += stepper.update(X[k % 7, :2], 1.0 + k % 2) is None
                except ValueError as error:
                    assert "state that the learner makes of it is not" in str(error)
                    refused += 1
                if refused > 3:
                    break
            weights = np.asarray(stepper.state.weights)
            assert refused and np.abs(weights).max() < float(jnp.finfo(weights.dtype).max) ** 0.8
            assert stepper.skipped == (refused if non_finite == "skip" else 0)


def test_a_state_that_breaks_under_errors_that_are_not_loud_is_refused() -> None:
    stepper = Stepper(LinearLearner(IDBD(0.05, 1.0)), 1, non_finite="skip")
    stepper.update([100.0], 2500.0)
    for k in range(600):
        stepper.update([1.0], float(k % 5))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(stepper.state))


def test_an_infinite_target_after_a_spike_that_was_kept_is_refused() -> None:
    stepper = Stepper(LinearLearner(ObGD(0.5)), 2)
    assert stepper.update([1.0, -1.0], 3e22) is not None
    for x, y in (([1.0, 1.0], -np.inf), ([np.inf, 0.0], 1.0), ([1e30, np.nan], 1.0)):
        with pytest.raises(ValueError, match="the event holds"):
            stepper.update(x, y)
    assert stepper.update([1.0, 2.0], 1.0) is not None


class Counting(LinearLearner):
    """A learner with whole numbers in its state, which are no floats when they are read as such."""

    def init(self, feature_dim: int) -> Any:
        return {"count": jnp.array([-1, 2**31 - 1, 0x7F800000], jnp.int32), "inner": super().init(feature_dim)}

    def step(self, state: Any, time_step: Any) -> Any:
        result = super().step(state["inner"], time_step)
        return result.replace(state={"count": state["count"] ^ 1, "inner": result.state})

    def predict(self, state: Any, observation: Any) -> Any:
        return super().predict(state["inner"], observation)


def test_whole_numbers_in_a_state_do_not_disturb() -> None:
    counting, plain = Stepper(Counting(LMS(0.1)), D, non_finite="skip"), Stepper(LinearLearner(LMS(0.1)), D)
    for x, y in zip(X[:9], Y[:9], strict=True):
        assert np.array_equal(counting.update(x, y), plain.update(x, y))  # type: ignore[arg-type]
    assert counting.update(1e18 * X[0], 1e18) is None and counting.update(X[0], 1e30) is None
    assert same(counting.state["inner"], plain.state)


def test_a_bias_that_would_never_move_is_refused() -> None:
    learner = LinearLearner(LMS(0.05), use_bias=False)
    moved = learner.init(D).replace(bias=jnp.float32(0.5))
    with pytest.raises(ValueError, match=r"^state.bias must be 0 for a learner with use_bias=False, got 0.5"):
        Stepper(learner, D, moved)
    with pytest.raises(ValueError, match=r"^learner_state.bias must be 0"):
        run_learning_loop(learner, ArraySource(X, Y), learner_state=moved)
    assert Stepper(learner, D, learner.init(D)).state.bias == 0


# --- a width of its own ---


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_stepper_keeps_its_width(wide: bool, elsewhere: bool) -> None:
    def use(stepper: Any) -> list[Any]:
        found: list[Any] = [stepper.update(x, y).copy() for x, y in zip(X[:5], Y[:5], strict=True)]
        found += [stepper.update_many(X[5:9], Y[5:9]), np.asarray(stepper.predict(jnp.asarray(X[9], float)))]
        again = pickle.loads(pickle.dumps(stepper))
        found += [again.update(X[10], 3.0).copy(), jax.tree.map(np.asarray, again.state)]
        with pytest.raises(ValueError, match="state that the learner makes of it is not"):
            stepper.update([1e38] * D, 1e38) if stepper.state.weights.dtype == np.float32 else stepper.update(
                [1e300] * D, 1e300
            )
        return [*found, jax.tree.map(np.asarray, stepper.state)]

    with jax.enable_x64(wide):
        wanted, other = use(Stepper(SCALED, D)), Stepper(SCALED, D)
    if elsewhere:
        found: list[Any] = []

        def work() -> None:
            with jax.enable_x64(not wide):
                found.extend(use(other))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    else:
        with jax.enable_x64(not wide):
            found = use(other)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(found[-1]) if leaf.dtype.kind == "f"}
    assert kinds == {np.dtype("float64" if wide else "float32")} and same(found, wanted)
