"""What can go wrong, and what is then promised: spikes, feeds that fail, clocks, wrong states, traces, threads."""

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alberta_nb as ab
from alberta_nb.loops import run as run_module
from alberta_nb.loops import start as start_module
from alberta_nb.loops.guard import NonFiniteError, StoppedError
from alberta_nb.loops.start import StreamPosition
from alberta_nb.native.kernel import native_loops, use_native

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 3)
D = 4
WORLD = ab.RandomWalkStream(D, drift_rate=0.01)


def same(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def finite(tree: Any) -> bool:
    return all(np.isfinite(leaf).all() for leaf in map(np.asarray, jax.tree.leaves(tree)) if leaf.dtype.kind == "f")


def table(rows: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).normal(size=(rows, D)).astype(np.float32)
    return x, x @ np.float32([1, -1, 0.5, 0])


def spiked(where: str, value: float, at: int = 200, rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    x, y = table(rows)
    if where == "input":
        x[at, 1] = value
    else:
        y[at] = value
    return x, y


LEARNERS = {
    "lms": ab.LinearLearner(ab.LMS(0.01)),
    "idbd": ab.LinearLearner(ab.IDBD(0.01)),
    "autostep": ab.LinearLearner(ab.Autostep(0.01)),
    "ema": ab.LinearLearner(ab.IDBD(0.01), ab.EMANormalizer()),
    "obgd": ab.LinearLearner(ab.ObGD(0.5)),
}


# A step that the state does not survive


@pytest.mark.parametrize("value", [1e10, -1e20, 1e38])
@pytest.mark.parametrize("where", ["input", "target"])
@pytest.mark.parametrize("name", LEARNERS)
def test_no_finite_spike_leaves_a_state_that_is_not_finite(name: str, where: str, value: float) -> None:
    source = ab.ArraySource(*spiked(where, value))
    run = ab.run_learning_loop(LEARNERS[name], source, non_finite="skip")
    assert finite(run.state) and run.steps == 300
    assert run.skipped == np.isnan(run.metrics).all(axis=1).sum()
    if abs(value) > 1e19:  # its square is no number
        assert np.abs(run.state.weights).max() < 1e6 and run.skipped in (0, 1)
    if run.skipped == 0:
        assert ab.run_learning_loop(LEARNERS[name], source).steps == 300
        return
    with pytest.raises(NonFiniteError, match="the state that the learner makes of it is not") as caught:
        ab.run_learning_loop(LEARNERS[name], source)
    error = caught.value
    assert error.what == "state" and error.step == np.isnan(run.metrics).all(axis=1).argmax() >= 200
    before = ab.run_learning_loop(LEARNERS[name], source, error.step)
    assert same(error.result.state, before.state) and same(error.result.metrics, before.metrics)


@pytest.mark.parametrize("record_every", [1, 7])
def test_the_step_that_is_refused_is_passed_by_alone(record_every: int) -> None:
    x, y = spiked("target", 1e20)
    track = {"step_size_tracking": ab.StepSizeTrackingConfig(10)}
    run = ab.run_learning_loop(
        LEARNERS["idbd"], ab.ArraySource(x, y), non_finite="skip", record_every=record_every, **track
    )
    y[200] = np.nan  # the same step, refused at the door
    door = ab.run_learning_loop(
        LEARNERS["idbd"], ab.ArraySource(x, y), non_finite="skip", record_every=record_every, **track
    )
    assert run.skipped == door.skipped == 1
    for a, b in zip(jax.tree.leaves(tuple(run)), jax.tree.leaves(tuple(door)), strict=True):
        assert np.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("at", [0, 63, 64, 65, 150, 299])
def test_wherever_the_block_ends(at: int, live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "GIVEN_NUMBERS", 64)  # 64 rows in a block
    x, y = spiked("target", 1e20, at)

    def source() -> Any:
        return ab.IteratorSource(zip(x, y, strict=True)) if live else ab.ArraySource(x, y)

    run = ab.run_learning_loop(LEARNERS["lms"], source(), non_finite="skip")
    assert np.flatnonzero(np.isnan(run.metrics[:, 0])).tolist() == [at] and run.skipped == 1
    good = np.arange(300) != at
    apart = ab.run_learning_loop(LEARNERS["lms"], ab.ArraySource(x[good], y[good]))
    assert np.allclose(run.state.weights, apart.state.weights, atol=1e-6) and run.stream_state.steps == 300
    with pytest.raises(NonFiniteError) as caught:
        ab.run_learning_loop(LEARNERS["lms"], source())
    assert caught.value.step == caught.value.result.steps == len(caught.value.result.metrics) == at
    assert finite(caught.value.result.state)


class Spiky(ab.RandomWalkStream):
    """Now and then, for each seed at steps of its own, a target beyond what can be squared."""

    def advance(self, state: Any, noise: Any, idx: Any) -> tuple[Any, Any]:
        time_step, state = super().advance(state, noise, idx)
        return time_step.replace(target=jnp.where(noise[1][0] > 2.3, 1e20, time_step.target)), state


@pytest.mark.parametrize("network", [False, True])
def test_each_seed_of_a_batch_skips_its_own(network: bool) -> None:
    learner = ab.MLPLearner((4,), ab.LMS(0.01)) if network else LEARNERS["lms"]
    many: Any = ab.run_mlp_learning_loop_batched if network else ab.run_learning_loop_batched
    one: Any = ab.run_mlp_learning_loop if network else ab.run_learning_loop
    batch = many(learner, Spiky(D), 300, KEYS, non_finite="skip")
    counts = np.isnan(batch.metrics[:, :, 0]).sum(axis=1)
    assert finite(batch.states) and counts.tolist() == np.asarray(batch.skipped).tolist()
    assert counts.max() > 0 and len(set(counts.tolist())) > 1
    for k, key in enumerate(KEYS):
        alone = one(learner, Spiky(D), 300, key, non_finite="skip")
        assert alone.skipped == counts[k]
        gaps = [np.abs(a[k] - b).max() for a, b in zip(*map(jax.tree.leaves, (batch.states, alone.state)), strict=True)]
        assert max(gaps) < 1e-4
    with pytest.raises(NonFiniteError) as caught:
        many(learner, Spiky(D), 300, KEYS)
    first = int(np.isnan(batch.metrics[:, :, 0]).any(axis=0).argmax())
    assert caught.value.step == first and caught.value.what == "state"
    assert caught.value.result.metrics.shape == (3, first, 3) and finite(caught.value.result.states)


def test_many_heads_a_horde_and_td_learners_are_guarded_too() -> None:
    x, y = table(100)
    targets = np.column_stack([y, -y])
    targets[60, 1] = 1e20
    heads = ab.MultiHeadMLPLearner(2, (), ab.LMS(0.01), sparsity=0.0)
    run = ab.run_multi_head_learning_loop(heads, heads.init(D, KEY), x, targets, non_finite="skip")
    assert run.skipped == 1 and finite(run.state) and np.isnan(run.metrics[60]).all()
    horde = ab.HordeLearner(
        ab.create_horde_spec([ab.GVFSpec("a", ab.DemonType.PREDICTION, 0.5, 0.0, k) for k in range(2)]),
        (),
        ab.LMS(0.01),
    )
    with pytest.raises(NonFiniteError) as caught:
        ab.run_horde_learning_loop(horde, horde.init(D, KEY), x, targets, np.roll(x, -1, 0))
    assert caught.value.step == 60 and caught.value.what == "state"
    for optimizer in (ab.TDLambda(0.01, 0.5), ab.TDIDBD(0.01), ab.SwiftTD()):
        source = ab.TDArraySource(x, targets[:, 1], np.roll(x, -1, 0), 0.5)
        assert finite(ab.run_td_learning_loop(ab.TDLinearLearner(optimizer), source, non_finite="skip").state)


def test_a_state_that_was_not_finite_before_is_the_callers() -> None:
    state = LEARNERS["idbd"].init(D)
    state = state.replace(optimizer_state=state.optimizer_state.replace(traces=jnp.full(D, jnp.inf)))
    x, y = table(100)
    run = ab.run_learning_loop(LEARNERS["lms"], ab.ArraySource(x, y))
    assert run.steps == 100

    class Lowest(ab.LinearLearner):
        """Its state holds the lowest target so far, which begins at infinity."""

        def init(self, feature_dim: int) -> Any:
            return (super().init(feature_dim), jnp.float32(jnp.inf))

        def step(self, state: Any, time_step: Any) -> Any:
            result = super().step(state[0], time_step)
            lowest = jnp.where(time_step.target[0] < -5.0, time_step.target[0], state[1])
            return result.replace(state=(result.state, lowest))

    learner = Lowest(ab.LMS(0.01))
    assert np.isinf(ab.run_learning_loop(learner, ab.ArraySource(x, y)).state[1])
    y[50] = 1e38
    again = ab.run_learning_loop(learner, ab.ArraySource(x, y), non_finite="skip")
    assert again.skipped == 1 and finite(again.state[0]) and np.isinf(again.state[1])


def test_huge_numbers_that_can_be_squared_are_learned_from() -> None:
    x, y = table()
    run = ab.run_learning_loop(LEARNERS["lms"], ab.ArraySource(x, 1e17 * y))
    assert run.skipped == 0 and np.abs(run.state.weights).max() > 1e16 and np.isfinite(run.metrics).all()


def test_a_bank_guards_each_learner_by_itself() -> None:
    bank = ab.LearnerBank(
        (LEARNERS["lms"], LEARNERS["obgd"], ab.LinearLearner(ab.LMS(0.02)), ab.LinearLearner(ab.LMS(9.0)))
    )
    source = ab.ArraySource(*spiked("target", 1e20))
    run = ab.run_learning_loop(bank, source, non_finite="skip")
    assert finite(run.state)
    alone = ab.run_learning_loop(LEARNERS["lms"], source, non_finite="skip")
    assert np.allclose(bank.member(run.state, 0).weights, alone.state.weights, atol=1e-5)
    lost = np.isnan(run.metrics[:, :, 0])
    assert run.skipped == lost.any(axis=1).sum()  # by anyone
    assert lost[:, 0].sum() == lost[:, 2].sum() == 1 and not lost[:, 1].any() and lost[:, 3].sum() > 100
    shown = ab.run_learning_loop(bank, ab.ArraySource(*table()))  # a sweep shows who diverges
    assert np.isfinite(shown.metrics[-1, :3, 0]).all() and not np.isfinite(shown.metrics[-1, 3, 0])


# A state that is back before its block ends


@pytest.mark.parametrize("rows", [300, 1000, 20_000])
@pytest.mark.parametrize("name", ["lms", "idbd", "ema", "popart"])
def test_a_spike_is_seen_however_long_the_block_goes_on(name: str, rows: int) -> None:
    learner: Any = ab.PopArt(LEARNERS["lms"]) if name == "popart" else LEARNERS[name]
    for at in (0, 64, rows // 2 + 1, rows - 1):
        source = ab.ArraySource(*spiked("target", 1e20, at, rows))
        run = ab.run_learning_loop(learner, source, non_finite="skip")
        assert np.flatnonzero(np.isnan(run.metrics[:, 0])).tolist() == [at] and run.skipped == 1
        assert not np.isinf(run.metrics).any()
        with pytest.raises(NonFiniteError) as caught:
            ab.run_learning_loop(learner, source)
        assert caught.value.step == caught.value.result.steps == at and caught.value.what == "state"


@pytest.mark.parametrize("record_every", [1, 7, 5000])
def test_a_spike_is_seen_in_the_mean_of_a_window_and_beside_rows_passed_by(record_every: int) -> None:
    x, y = spiked("target", 1e20, 200, 4000)
    y[[3, 900]] = np.nan
    run = ab.run_learning_loop(LEARNERS["lms"], ab.ArraySource(x, y), non_finite="skip", record_every=record_every)
    assert run.skipped == 3 and np.isfinite(run.metrics).sum() >= 3 * (4000 // record_every - 3)
    assert not np.isinf(run.metrics).any()
    y[200] = np.nan
    door = ab.run_learning_loop(LEARNERS["lms"], ab.ArraySource(x, y), non_finite="skip", record_every=record_every)
    assert np.allclose(run.state.weights, door.state.weights, atol=1e-6)
    assert np.allclose(run.metrics, door.metrics, atol=1e-5, equal_nan=True)


class Struck(ab.RandomWalkStream):
    """One spike, at step 300."""

    def advance(self, state: Any, noise: Any, idx: Any) -> tuple[Any, Any]:
        time_step, state = super().advance(state, noise, idx)
        return time_step.replace(target=jnp.where(idx == 300, 1e20, time_step.target)), state


@pytest.mark.parametrize("network", [False, True])
def test_a_spike_long_before_the_end_of_a_block_of_a_stream(network: bool) -> None:
    learner = ab.MLPLearner((4,), ab.LMS(0.01)) if network else LEARNERS["lms"]
    many: Any = ab.run_mlp_learning_loop_batched if network else ab.run_learning_loop_batched
    one: Any = ab.run_mlp_learning_loop if network else ab.run_learning_loop
    for run in (
        one(learner, Struck(D), 5000, KEY, non_finite="skip"),
        many(learner, Struck(D), 5000, KEYS, non_finite="skip"),
    ):
        assert (np.asarray(run.skipped) == 1).all() and not np.isinf(run.metrics).any()
        assert np.isnan(run.metrics[..., 300, :]).all() and np.isnan(run.metrics).sum() == run.metrics[..., 300, :].size
    for call in (lambda: one(learner, Struck(D), 5000, KEY), lambda: many(learner, Struck(D), 5000, KEYS)):
        with pytest.raises(NonFiniteError) as caught:
            call()
        assert caught.value.step == 300 and caught.value.result.metrics.shape[-2] == 300


def test_a_spike_long_before_the_end_of_a_block_of_a_bank() -> None:
    bank = ab.LearnerBank((LEARNERS["lms"], LEARNERS["obgd"], ab.LinearLearner(ab.IDBD(0.02))))
    run = ab.run_learning_loop(bank, ab.ArraySource(*spiked("target", 1e20, 200, 20_000)), non_finite="skip")
    assert run.skipped == 1 and np.isnan(run.metrics[200, [0, 2]]).all() and np.isnan(run.metrics).sum() == 6
    assert np.argwhere(np.isinf(run.metrics)).tolist() == [[200, 1, 0]]  # a bound survives it, and learns on


@pytest.mark.parametrize("rows", [300, 5000])
@pytest.mark.parametrize("name", ["lms", "idbd", "obgd"])
def test_many_events_are_what_one_by_one_are(name: str, rows: int) -> None:
    x, y = spiked("target", 1e20, 50, rows)
    y[7] = np.nan
    one, many = (ab.Stepper(LEARNERS[name], D, non_finite="skip") for _ in range(2))
    told = [one.update(a, b) for a, b in zip(x, y, strict=True)]
    alone = np.array([np.full(many.update_many(x[:0], y[:0]).shape[1], np.nan) if row is None else row for row in told])
    found = many.update_many(x, y)
    assert one.skipped == many.skipped == (1 if name == "obgd" else 2)
    assert np.allclose(found, alone, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(*map(jax.tree.leaves, (one.state, many.state))))
    if name != "obgd":
        y[7] = 0.0
        with pytest.raises(ValueError, match="event 50 of this call"):
            ab.Stepper(LEARNERS[name], D).update_many(x, y)


# The same of a service


@pytest.mark.parametrize("name", ["lms", "idbd", "ema"])
def test_a_stepper_refuses_what_its_state_would_not_survive(name: str) -> None:
    x, y = spiked("target", 1e20, 50, 100)
    strict, careful = ab.Stepper(LEARNERS[name], D), ab.Stepper(LEARNERS[name], D, non_finite="skip")
    for t in range(50):
        strict.update(x[t], y[t])
    before = strict.state
    with pytest.raises(ValueError, match="the event is finite, but the state"):
        strict.update(x[50], y[50])
    assert same(strict.state, before)
    rows = [careful.update(a, b) for a, b in zip(x, y, strict=True)]
    assert [t for t, row in enumerate(rows) if row is None] == [50] and careful.skipped == 1 and finite(careful.state)
    together = ab.Stepper(LEARNERS[name], D, non_finite="skip")
    found = together.update_many(x, y)
    assert together.skipped == 1 and np.flatnonzero(np.isnan(found[:, 0])).tolist() == [50]
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(*map(jax.tree.leaves, (together.state, careful.state))))
    fresh = ab.Stepper(LEARNERS[name], D)
    with pytest.raises(ValueError, match="event 50 of this call is finite, .* nor from any other"):
        fresh.update_many(x, y)
    assert same(fresh.state, LEARNERS[name].init(D)) and fresh.skipped == 0
    assert fresh.update_many(x[:50], y[:50]).shape == (50, found.shape[1])


def test_a_stepper_whose_numbers_are_far_out_goes_on() -> None:
    x, y = table(50)
    stepper = ab.Stepper(LEARNERS["lms"], D)
    assert all(stepper.update(a, 1e17 * b) is not None for a, b in zip(x, y, strict=True))
    assert stepper.update_many(x, 1e17 * y).shape == (50, 4) and np.abs(stepper.state.weights).max() > 1e15


# Feeds that fail


class Frozen(Exception):
    """An exception that takes no attributes, and has a `result` of its own."""

    __slots__ = ()

    @property
    def result(self) -> str:
        return "mine"


class Full(Exception):
    result = "what it was about"


def feed(error: BaseException, rows: int = 150) -> Iterator[Any]:
    x, y = table()
    yield from zip(x[:rows], y[:rows], strict=True)
    raise error


def td_feed(error: BaseException, rows: int = 150) -> Iterator[Any]:
    x, y = table()
    yield from zip(x[:rows], y[:rows], x[1 : rows + 1], np.full(rows, 0.5), strict=True)
    raise error


ERRORS = [ConnectionError("lost"), KeyError("row"), OSError(5, "io"), MemoryError(), TimeoutError()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("block", [64, 1_000_000])
def test_what_was_learned_before_a_feed_failed_is_in_its_exception(
    error: BaseException, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "GIVEN_NUMBERS", block)
    x, y = table()
    expected = ab.run_learning_loop(LEARNERS["idbd"], ab.ArraySource(x[:150], y[:150]))
    with pytest.raises(type(error)) as caught:
        ab.run_learning_loop(LEARNERS["idbd"], ab.IteratorSource(feed(error), D))
    found: Any = caught.value
    assert found is error and found.result.steps == 150 and found.result.metrics.shape == (150, 3)
    assert np.allclose(found.result.state.weights, expected.state.weights, atol=1e-6)
    assert any("feed" in str(entry) for entry in caught.traceback), "the traceback leads to the feed"
    batch_keys = KEYS
    with pytest.raises(type(error)) as caught:
        ab.run_learning_loop_batched(LEARNERS["idbd"], ab.IteratorSource(feed(error), D), None, batch_keys)
    assert getattr(caught.value, "result").metrics.shape == (3, 150, 3)  # noqa: B009
    learner = ab.TDLinearLearner()
    with pytest.raises(type(error)) as caught:
        ab.run_td_learning_loop(learner, ab.TDIteratorSource(td_feed(error), D))
    assert getattr(caught.value, "result").steps == 150  # noqa: B009


@pytest.mark.parametrize("error", [Frozen("no"), Full("taken")], ids=["frozen", "full"])
def test_an_exception_that_cannot_carry_it_is_the_cause_of_one_that_can(error: Exception) -> None:
    with pytest.raises(StoppedError, match=f"{type(error).__name__}: {error}") as caught:
        ab.run_learning_loop(LEARNERS["lms"], ab.IteratorSource(feed(error), D))
    assert caught.value.__cause__ is error and caught.value.result.steps == 150
    assert error.result in ("mine", "what it was about")  # type: ignore[attr-defined]


def test_a_source_an_environment_and_a_bar_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = table()

    class Own(ab.Source):
        feature_dim = D

        def pages(self, first: int, rows: int) -> Iterator[Any]:
            yield ab.TimeStep(observation=x[first : first + 64], target=y[first : first + 64, None])
            raise LookupError("no more")

    with pytest.raises(LookupError) as caught:
        ab.run_learning_loop(LEARNERS["lms"], Own())
    assert caught.value.result.steps == 64  # type: ignore[attr-defined]

    class Env:
        """An environment that breaks down at its hundredth step."""

        steps = 0

        def reset(self, seed: Any = None) -> Any:
            return x[0], {}

        def step(self, action: Any) -> Any:
            self.steps += 1
            if self.steps == 100:
                raise RuntimeError("broken")
            return x[self.steps], y[self.steps], False, False, {}

    source = ab.GymSource(Env(), policy=lambda observation: 0)
    with pytest.raises(RuntimeError, match="broken") as broken:
        ab.run_td_learning_loop(ab.TDLinearLearner(), source)
    assert broken.value.result.steps == 99  # type: ignore[attr-defined]

    def fail(self: Any, n: float = 1) -> None:
        raise BrokenPipeError("the terminal is gone")

    monkeypatch.setattr(run_module.tqdm, "update", fail)
    with pytest.raises(BrokenPipeError) as gone:
        ab.run_learning_loop(LEARNERS["lms"], ab.ArraySource(x, y), progress=True)
    assert isinstance(gone.value.result, ab.LearningResult)  # type: ignore[attr-defined]


@pytest.mark.parametrize("rows", [1, 150])
@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), type("End", (BaseException,), {})()])
def test_what_came_before_an_exit_inside_a_feed_is_learned_from(error: BaseException, rows: int) -> None:
    x, y = table()
    with pytest.raises(type(error)) as caught:
        ab.run_learning_loop(LEARNERS["lms"], ab.IteratorSource(feed(error, rows), D))
    assert caught.value is error and caught.value.result.steps == rows  # type: ignore[attr-defined]
    whole = ab.run_learning_loop(LEARNERS["lms"], ab.ArraySource(x[:rows], y[:rows]))
    assert np.allclose(caught.value.result.state.weights, whole.state.weights, atol=1e-6)  # type: ignore[attr-defined]


def test_ctrl_c_inside_a_feed_and_a_feed_that_comes_back() -> None:
    x, y = table()

    class Line:
        """A line that is interrupted, then down, and then there again."""

        def __init__(self) -> None:
            self.t, self.troubles = 0, {100: KeyboardInterrupt(), 200: ConnectionError("down")}

        def __iter__(self) -> "Line":
            return self

        def __next__(self) -> Any:
            if self.t in self.troubles:
                raise self.troubles.pop(self.t)
            if self.t == 300:
                raise StopIteration
            self.t += 1
            return x[self.t - 1], y[self.t - 1]

    source, learner = ab.IteratorSource(Line(), D), LEARNERS["lms"]
    first = ab.run_learning_loop(learner, source)
    assert first.interrupted and first.steps == 100
    with pytest.raises(ConnectionError) as caught:
        ab.run_learning_loop(learner, source, learner_state=first.state, stream_state=first.stream_state)
    second: Any = caught.value.result  # type: ignore[attr-defined]
    assert second.steps == 100
    last = ab.run_learning_loop(learner, source, learner_state=second.state, stream_state=second.stream_state)
    whole = ab.run_learning_loop(learner, ab.ArraySource(x, y))
    assert last.steps == 100 and np.allclose(last.state.weights, whole.state.weights, atol=1e-6)


def test_rows_before_one_that_does_not_fit_are_learned_from() -> None:
    x, y = table()
    rows = [*zip(x[:80], y[:80], strict=True), (x[80, :2], 1.0), *zip(x[81:], y[81:], strict=True)]
    with pytest.raises(ValueError, match="pair 80: observation must have shape") as caught:
        ab.run_learning_loop(LEARNERS["lms"], ab.IteratorSource(rows))
    assert caught.value.result.steps == 80  # type: ignore[attr-defined]


def test_an_iterator_belongs_to_one_source() -> None:
    x, y = table()
    rows = (row for row in zip(x, y, strict=True))
    next(rows)
    source = ab.IteratorSource(rows)  # step 0 is the first row that is left
    with pytest.raises(ValueError, match="belongs to another source"):
        ab.IteratorSource(rows)
    half = ab.run_learning_loop(LEARNERS["lms"], source, 100)
    right = ab.run_learning_loop(LEARNERS["lms"], ab.ArraySource(x[1:101], y[1:101]))
    assert same(half.state, right.state)
    other = ab.run_learning_loop(ab.LinearLearner(ab.LMS(0.02)), source, 50)  # rows that wait are given again
    assert same(
        other.state, ab.run_learning_loop(ab.LinearLearner(ab.LMS(0.02)), ab.ArraySource(x[1:51], y[1:51])).state
    )
    far = StreamPosition(state=None, steps=np.uint32(250))
    ab.run_learning_loop(LEARNERS["lms"], source, 20, stream_state=far)
    with pytest.raises(ValueError, match="has gone past step 0"):
        ab.run_learning_loop(LEARNERS["lms"], source, 10)


# Time steps keep all their fields


def off_policy(t: int, rho: float) -> Any:
    x = table()[0]
    return ab.OffPolicyTimeStep(
        observation=x[t], reward=np.ones(1), next_observation=x[t + 1], gamma=np.full(1, 0.9), rho=np.full(1, rho)
    )


def test_ratios_of_an_iterator_are_learned_from() -> None:
    x, _ = table()
    rhos = np.random.default_rng(1).uniform(0, 2, 100)
    learner = ab.TDLinearLearner(ab.TDC())
    arrays = ab.TDArraySource(x[:100], np.ones(100), x[1:101], 0.9, rhos=rhos)
    steps = [off_policy(t, rhos[t]) for t in range(100)]
    for given in (
        steps,
        [(*(getattr(s, n) for n in ("observation", "reward", "next_observation", "gamma", "rho")),) for s in steps],
    ):
        source = ab.TDIteratorSource([steps[0], *given[1:]])
        found = ab.run_td_learning_loop(learner, source, record_every=10)
        assert same(found.state, ab.run_td_learning_loop(learner, arrays, record_every=10).state)
    plain = ab.TDTimeStep(**{k: v for k, v in vars(steps[1]).items() if k != "rho"})
    for mixed, what in (
        ([steps[0], plain], "OffPolicyTimeStep as the first"),
        ([plain, steps[0]], "TDTimeStep as the first"),
    ):
        with pytest.raises(TypeError, match=f"transition 1 must be a {what}"):
            ab.run_td_learning_loop(learner, ab.TDIteratorSource(mixed))
    with pytest.raises(ValueError, match="rho must be 0 or more"):
        ab.run_td_learning_loop(learner, ab.TDIteratorSource([off_policy(0, -1.0)]))


def test_a_cut_of_an_iterator_is_a_cut() -> None:
    x, _ = table()
    cut = np.arange(100) % 7 == 6
    learner = ab.TDLinearLearner(ab.TDLambda(0.05, 0.9))
    steps = [off_policy(t, 1.0).replace(truncated=np.full(1, float(cut[t]))) for t in range(100)]
    found = ab.run_td_learning_loop(learner, ab.TDIteratorSource(steps))
    arrays = ab.TDArraySource(x[:100], np.ones(100), x[1:101], 0.9, rhos=np.ones(100), truncated=cut)
    assert np.allclose(found.state.weights, ab.run_td_learning_loop(learner, arrays).state.weights, atol=1e-6)


def test_fields_that_a_source_does_not_know_are_refused() -> None:
    class Weighted(ab.TimeStep):
        importance: Any

    row = Weighted(observation=np.ones(D), target=np.ones(1), importance=np.ones(1))
    with pytest.raises(TypeError, match="observation, target alone, got .'importance'"):
        ab.run_learning_loop(LEARNERS["lms"], ab.IteratorSource([row]))
    transitions = ab.TDArraySource(*[np.ones((5, 2)), np.ones(5), np.ones((5, 2)), 0.5])
    with pytest.raises(TypeError, match="source of observations and targets"):
        ab.ReturnSource(transitions, 0.9)


# Clocks and positions


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (np.int64(-1), "0 or more and below"),
        (np.int64(2**32), "below 2.32, got 4294967296"),
        (np.float32(3.0), "whole number, got float32"),
        (np.zeros((), bool), "whole number, got bool"),
    ],
)
def test_a_clock_is_a_number_of_steps(steps: Any, message: str) -> None:
    position = ab.run_learning_loop(LEARNERS["lms"], WORLD, 5, KEY).stream_state.replace(steps=steps)
    with pytest.raises(ValueError, match=message):
        ab.run_learning_loop(LEARNERS["lms"], WORLD, 5, stream_state=position)
    with pytest.raises(ValueError, match=message):
        ab.run_learning_loop(LEARNERS["lms"], ab.ArraySource(*table()), 5, stream_state=position.replace(state=None))


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, int])
def test_a_clock_of_another_type_is_the_same_clock(kind: Any) -> None:
    first = ab.run_learning_loop(LEARNERS["lms"], WORLD, 50, KEY)
    steps = kind(50)
    rest = [
        ab.run_learning_loop(LEARNERS["lms"], WORLD, 50, learner_state=first.state, stream_state=p)
        for p in (first.stream_state, first.stream_state.replace(steps=steps))
    ]
    assert same(rest[0], rest[1]) and rest[1].stream_state.steps.dtype == np.uint32


def test_a_clock_does_not_begin_again() -> None:
    batch = ab.run_learning_loop_batched(LEARNERS["lms"], WORLD, 5, KEYS)
    late = batch.stream_state.replace(steps=np.full(3, 2**32 - 10, np.uint32))
    ended = ab.run_learning_loop_batched(LEARNERS["lms"], WORLD, 9, learner_state=batch.states, stream_state=late)
    assert ended.stream_state.steps.tolist() == [2**32 - 1] * 3
    with pytest.raises(ValueError, match="clock ends at 2.32 steps"):
        ab.run_learning_loop_batched(LEARNERS["lms"], WORLD, 10, stream_state=late)
    apart = batch.stream_state.replace(steps=np.array([5, 6, 5], np.uint32))
    with pytest.raises(ValueError, match="same for all seeds"):
        ab.run_learning_loop_batched(LEARNERS["lms"], WORLD, 10, stream_state=apart)
    with pytest.raises(ValueError, match="record_every must be below 2.31"):
        ab.run_learning_loop(LEARNERS["lms"], WORLD, 10, KEY, record_every=2**31)


def test_a_live_feed_ends_with_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_module, "MAX_STEPS", 200)
    monkeypatch.setattr(run_module, "GIVEN_NUMBERS", 64)
    with pytest.raises(ValueError, match="clock ends") as caught:
        ab.run_learning_loop(LEARNERS["lms"], ab.IteratorSource(zip(*table(), strict=True)))
    assert caught.value.result.steps == 192  # type: ignore[attr-defined]


def test_a_position_of_another_stream_is_refused() -> None:
    class Twin(ab.RandomWalkStream):
        """The same states, another world."""

    class Own:
        feature_dim = D

        def init(self, key: Any) -> Any:
            return jnp.zeros(())

        def step(self, state: Any, idx: Any) -> Any:
            return ab.TimeStep(observation=jnp.ones(D) * state, target=jnp.ones(1)), state + 1.0

    class Other(Own):
        """And one of the user's own kind."""

    learner = LEARNERS["lms"]
    walk = ab.run_learning_loop(learner, WORLD, 5, KEY).stream_state
    own = ab.run_learning_loop(learner, Own(), 5, KEY).stream_state
    for stream, position in ((Twin(D), walk), (Other(), own), (Own(), walk)):
        with pytest.raises(
            ValueError, match=f"stream_state of an earlier result of a {type(stream).__name__}, got one of"
        ):
            ab.run_learning_loop(learner, stream, 5, stream_state=position)
    with pytest.raises(ValueError, match="got one of a stream"):
        ab.run_learning_loop(learner, ab.ArraySource(*table()), stream_state=walk)
    unknown = StreamPosition(state=walk.state, steps=walk.steps)
    assert ab.run_learning_loop(learner, Twin(D), 5, stream_state=unknown).steps == 5
    settings = ab.run_learning_loop(learner, ab.RandomWalkStream(D, drift_rate=0.5), 5, stream_state=walk)
    assert settings.steps == 5, "settings are the stream's own"


CONFIGS = {
    "step_size_tracking": ab.StepSizeTrackingConfig(5),
    "normalizer_tracking": ab.NormalizerTrackingConfig(5),
    "trace_tracking": ab.TraceTrackingConfig(5),
}


@pytest.mark.parametrize("argument", CONFIGS)
@pytest.mark.parametrize("given", CONFIGS)
def test_configs_cannot_be_mixed_up(argument: str, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = ab.TDLinearLearner(normalizer=ab.EMANormalizer())
    source = ab.TDArraySource(np.ones((9, 2)), np.ones(9), np.ones((9, 2)), 0.5)
    if argument == given:
        assert ab.run_td_learning_loop(learner, source, **{argument: CONFIGS[given]}).steps == 9
        return
    with pytest.raises(
        TypeError, match=f"{argument} must be a tracking config, a .*, got {type(CONFIGS[given]).__name__}"
    ):
        ab.run_td_learning_loop(learner, source, **{argument: CONFIGS[given]})


# JAX's own modes


HORDE = ab.HordeLearner(
    ab.create_horde_spec([ab.GVFSpec("a", ab.DemonType.PREDICTION, 0.5, 0.9, 0)]), (4,), ab.LMS(0.01)
)
HEADS = ab.MultiHeadMLPLearner(1, (4,), ab.LMS(0.01))
NETWORK = ab.MLPLearner((4,), ab.LMS(0.01))
TD = ab.TDLinearLearner(ab.TDLambda(0.05, 0.5))
X, Y = table(12)
TRANSITIONS = ab.TDArraySource(X, Y, np.roll(X, -1, 0), 0.5)
BANK = ab.LearnerBank((LEARNERS["lms"], LEARNERS["idbd"]))


def batch_of(learner: Any) -> Any:
    return jax.vmap(lambda key: learner.init(D, key))(KEYS)


RUNS: dict[str, Callable[[Any], Any]] = {
    "linear": lambda k: ab.run_learning_loop(LEARNERS["idbd"], WORLD, 12, k, record_every=3),
    "source": lambda k: ab.run_learning_loop(LEARNERS["ema"], ab.ArraySource(X, Y), None, k),
    "bank": lambda k: ab.run_learning_loop(BANK, WORLD, 12, k),
    "batch": lambda k: ab.run_learning_loop_batched(LEARNERS["idbd"], WORLD, 12, jax.random.split(k, 3)),
    "td": lambda k: ab.run_td_learning_loop(TD, TRANSITIONS, 12, k),
    "td batch": lambda k: ab.run_td_learning_loop_batched(TD, TRANSITIONS, 12, jax.random.split(k, 3)),
    "network": lambda k: ab.run_mlp_learning_loop(NETWORK, WORLD, 12, k),
    "networks": lambda k: ab.run_mlp_learning_loop_batched(NETWORK, WORLD, 12, jax.random.split(k, 3)),
    "heads": lambda k: ab.run_multi_head_learning_loop(HEADS, HEADS.init(D, k), X, Y[:, None]),
    "heads batch": lambda k: ab.run_multi_head_learning_loop_batched(HEADS, X, Y[:, None], jax.random.split(k, 3)),
    "horde": lambda k: ab.run_horde_learning_loop(HORDE, HORDE.init(D, k), X, Y[:, None], np.roll(X, -1, 0)),
    "horde batch": lambda k: ab.run_horde_learning_loop_batched(
        HORDE, X, Y[:, None], np.roll(X, -1, 0), jax.random.split(k, 3)
    ),
    "sweep": lambda k: ab.sweep([LEARNERS["lms"], NETWORK], WORLD, 12, jax.random.split(k, 3)),
}
SINGLE: dict[str, Callable[[Any], Any]] = {
    "update": lambda k: LEARNERS["idbd"].update(LEARNERS["idbd"].init(D), X[0], Y[0]),
    "network": lambda k: NETWORK.update(NETWORK.init(D, k), X[0], Y[0]),
    "horde": lambda k: HORDE.update(HORDE.init(D, k), X[0], Y[:1], X[1]),
    "stepper": lambda k: ab.Stepper(LEARNERS["idbd"], D).update(X[0], Y[0]),
    "events": lambda k: ab.Stepper(LEARNERS["idbd"], D, non_finite="skip").update_many(X, Y),
}


@pytest.mark.parametrize("name", [*RUNS, *(f"one {name}" for name in SINGLE)])
def test_everything_runs_without_jit(name: str) -> None:
    call = SINGLE[name[4:]] if name.startswith("one ") else RUNS[name]
    compiled = call(KEY)
    with jax.disable_jit():
        slow = call(KEY)
    assert native_loops and use_native() == use_native()
    for a, b in zip(jax.tree.leaves(compiled), jax.tree.leaves(slow), strict=True):
        assert np.allclose(np.asarray(a, float), np.asarray(b, float), rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("around", ["jit", "vmap", "scan", "constant"])
def test_a_loop_says_that_it_cannot_be_traced(name: str, around: str) -> None:
    def metrics(key: Any) -> Any:
        return RUNS[name](key)[1]

    calls = {
        "jit": lambda: jax.jit(metrics)(KEY),
        "vmap": lambda: jax.vmap(metrics)(KEYS),
        "scan": lambda: jax.lax.scan(lambda c, k: (c, metrics(k)), 0, KEYS),
        "constant": lambda: jax.jit(lambda: metrics(KEY))(),
    }
    with pytest.raises(TypeError, match=r"run_learning_loop_batched.*lax.scan over learner.step"):
        calls[around]()


def test_a_loop_says_that_it_has_no_gradient() -> None:
    def loss(state: Any) -> Any:
        return ab.run_learning_loop(LEARNERS["lms"], WORLD, 5, KEY, state).metrics[:, 0].mean()

    with pytest.raises(TypeError, match="a loop cannot be traced"):
        jax.grad(loss)(LEARNERS["lms"].init(D))


def test_native_loops_belong_to_their_thread() -> None:
    inside, left, seen = threading.Event(), threading.Event(), {}

    def first() -> None:
        with native_loops(False):
            inside.set()
            left.wait()
            seen["first"] = use_native()

    def second() -> None:
        inside.wait()
        seen["before"] = use_native()
        with native_loops(True):
            seen["second"] = use_native()
        left.set()

    plain = use_native()
    threads = [threading.Thread(target=f) for f in (first, second)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert seen == {"first": False, "before": plain, "second": plain} and use_native() == plain


def test_seeds_on_many_cores_run_as_their_thread_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from alberta_nb.loops import engine

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a native loop was used")

    monkeypatch.setattr(engine, "_native", dict.fromkeys(engine._native, never))
    with native_loops(False):
        assert ab.run_mlp_learning_loop_batched(NETWORK, WORLD, 12, KEYS).metrics.shape == (3, 12, 3)


# Modes of JAX that would decide instead


NANS, SPIKE = Y.copy(), Y.copy()
NANS[5], SPIKE[5] = np.nan, 1e20
POPART = ab.PopArt(LEARNERS["lms"])
BOUNDED = ab.LearnerBank((LEARNERS["lms"], LEARNERS["obgd"]))


def ended(call: Callable[[], Any]) -> Any:
    try:
        return [a for a in jax.tree.leaves(tuple(call())) if not jnp.issubdtype(a.dtype, jax.dtypes.extended)]
    except NonFiniteError as error:
        return error.step, error.what, error.result and error.result.state


@pytest.mark.parametrize("y", [NANS, SPIKE], ids=["nan", "spike"])
@pytest.mark.parametrize("non_finite", ["raise", "skip", "show"])
@pytest.mark.parametrize("learner", [*LEARNERS.values(), POPART, BOUNDED], ids=[*LEARNERS, "popart", "bank"])
def test_policies_hold_while_jax_looks_for_nans(learner: Any, non_finite: str, y: np.ndarray) -> None:
    source = ab.ArraySource(X, y)
    calls = [
        lambda: ab.run_learning_loop(learner, source, non_finite=non_finite),
        lambda: ab.run_learning_loop_batched(learner, source, None, KEYS, record_every=3, non_finite=non_finite),
    ][: 2 if non_finite == "skip" or (non_finite == "show" and y is SPIKE) else 1]
    for call in calls:
        with jax.debug_nans(False):
            plain = ended(call)
        with jax.debug_nans(True), jax.debug_infs(True):
            assert same(plain, ended(call)) if isinstance(plain, list) else same(plain[::2], ended(call)[::2])


@pytest.mark.parametrize("name", ["lms", "obgd"])
def test_a_stepper_decides_while_jax_looks_for_nans(name: str) -> None:
    rows, many = [], []
    for watched in (False, True):
        with jax.debug_nans(watched), jax.debug_infs(watched):
            one, all_of = (ab.Stepper(LEARNERS[name], D, non_finite="skip") for _ in range(2))
            told = [one.update(a, b) for y in (NANS, SPIKE) for a, b in zip(X, y, strict=True)]
            rows.append(([np.full(1, np.nan) if row is None else row for row in told], one.skipped, one.state))
            many.append(([all_of.update_many(X, y) for y in (NANS, SPIKE)], all_of.skipped, all_of.state))
    assert same(*rows) and same(*many) and rows[0][1] == many[0][1] == (1 if name == "obgd" else 2)


@pytest.mark.parametrize("record_every", [1, 3])
@pytest.mark.parametrize("bank", [False, True])
def test_the_engine_implies_no_axes(bank: bool, record_every: int) -> None:
    learner: Any = BOUNDED if bank else LEARNERS["idbd"]
    with jax.numpy_rank_promotion("raise"):
        for non_finite in ("raise", "skip"):
            named: Any = {"record_every": record_every, "non_finite": non_finite}
            assert ab.run_learning_loop(learner, WORLD, 14, KEY, **named).steps == 14
            assert ab.run_learning_loop_batched(learner, WORLD, 14, KEYS, **named).steps == 14


STEPPER = ab.Stepper(LEARNERS["lms"], D)
TRACED: dict[str, Callable[[], Any]] = {
    "predict": lambda: jax.jit(STEPPER.predict)(X[0]),
    "predict a constant": lambda: jax.jit(lambda: STEPPER.predict(X[0]))(),
    "predict many": lambda: jax.vmap(STEPPER.predict)(X),
    "gradient": lambda: jax.grad(lambda x: STEPPER.predict(x)[0])(X[0]),
    "update": lambda: jax.jit(lambda x: STEPPER.update(x, 1.0))(X[0]),
    "target": lambda: jax.jit(lambda y: STEPPER.update(X[0], y))(Y[0]),
    "update by a constant": lambda: jax.jit(lambda: STEPPER.update(X[0], 1.0))(),
    "update many": lambda: jax.vmap(STEPPER.update)(X, Y),
    "events": lambda: jax.jit(STEPPER.update_many)(X, Y),
    "targets": lambda: jax.jit(lambda y: STEPPER.update_many(X, y))(Y),
    "constant events": lambda: jax.jit(lambda: STEPPER.update_many(X, Y))(),
    "state": lambda: jax.jit(lambda w: ab.Stepper(LEARNERS["lms"], D, LEARNERS["lms"].init(D).replace(weights=w)))(
        X[0]
    ),
}


@pytest.mark.parametrize("name", TRACED)
def test_a_stepper_says_that_it_cannot_be_traced(name: str) -> None:
    before = STEPPER.state
    with pytest.raises(TypeError, match="a Stepper holds its state outside of compiled code, .*: call it outside, or"):
        TRACED[name]()
    assert same(before, STEPPER.state) and STEPPER.skipped == 0


def test_a_source_says_that_it_reads_numbers() -> None:
    calls: list[Callable[[], Any]] = [
        lambda: jax.jit(lambda x: ab.ArraySource(x, Y))(X),
        lambda: jax.jit(lambda y: ab.ArraySource(X, y))(Y),
        lambda: jax.vmap(lambda x: ab.ArraySource(x[None], Y[:1]))(X),
        lambda: jax.jit(lambda x: ab.IteratorSource([(x, 1.0)]).feature_dim)(X[0]),
        lambda: jax.jit(lambda y: ab.TDArraySource(X, y, X, 0.5))(Y),
    ]
    for call in calls:
        with pytest.raises(
            TypeError, match=r"(observation|target|reward)s? is being traced .* make and use it outside"
        ):
            call()


def test_a_stepper_says_what_was_refused_and_what_it_is() -> None:
    strict = ab.Stepper(LEARNERS["lms"], D)
    for y, what, k in ((NANS, "time step", None), (SPIKE, "state", None), (NANS, "time step", 5), (SPIKE, "state", 5)):
        with pytest.raises(NonFiniteError, match=r"nothing was learned .* Use non_finite='skip'") as caught:
            strict.update(X[5], y[5]) if k is None else strict.update_many(X, y)
        assert (caught.value.what, caught.value.step, caught.value.result) == (what, k, None)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(ValueError, match="non_finite must be 'raise' or 'skip', got 'bogus'"):
        strict.non_finite = "bogus"
    strict.non_finite = "skip"
    for one in (strict, copy.copy(strict), pickle.loads(pickle.dumps(strict))):
        assert one.update(X[5], np.nan) is None and one.skipped == 1 and one.non_finite == "skip"
        assert repr(one) == f"Stepper({LEARNERS['lms']!r}, feature_dim=4, skipped=1)"


@pytest.mark.parametrize("name", ["result", "__str__"])
def test_an_exception_that_cannot_be_asked_loses_nothing(name: str) -> None:
    def fail(self: Any) -> Any:
        raise RuntimeError("not today")

    kind = type("Shy", (Exception,), {name: property(fail) if name == "result" else fail})
    with pytest.raises((kind, StoppedError)) as caught:
        ab.run_learning_loop(LEARNERS["lms"], ab.IteratorSource(feed(kind()), D))
    assert caught.value.result.steps == 150  # type: ignore[attr-defined]
    assert caught.type is kind or caught.value.__cause__.__class__ is kind
