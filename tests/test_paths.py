"""Two ways to compile a loop, one result; and the fall back, no second compilation, flat memory, 64 bits."""

import os
import subprocess
import sys
import threading
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alberta_nb.learners.bank import LearnerBank
from alberta_nb.learners.linear import LinearLearner
from alberta_nb.loops import engine
from alberta_nb.loops.supervised import (
    NormalizerTrackingConfig,
    StepSizeTrackingConfig,
    run_learning_loop,
    run_learning_loop_batched,
)
from alberta_nb.native import kernel as compile_module
from alberta_nb.native.kernel import native_loops, native_works, use_native
from alberta_nb.normalizers import EMANormalizer
from alberta_nb.optimizers.autostep import Autostep
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.optimizers.lms import LMS
from alberta_nb.streams.sources import ArraySource
from alberta_nb.streams.synthetic import RandomWalkStream

KEY = jax.random.key(0)
WORLD = RandomWalkStream(4, drift_rate=0.01)
LEARNER = LinearLearner(IDBD(0.02, 0.002))
on_cpu = pytest.mark.skipif(not native_works(), reason="this process has no native loops")


def same(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def run_python(code: str, **environment: str) -> str:
    """What a fresh Python prints; a crash of it is an assertion here."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


# Native and plain


@on_cpu
@pytest.mark.parametrize(
    ("optimizer", "feature_dim", "tolerance"),
    [
        (IDBD(0.02, 0.002), 20, 1.5e-5),
        (Autostep(0.02), 20, 1.5e-5),
        (LMS(0.005), 100, 2e-4),
        (IDBD(0.005, 0.001), 100, 2e-4),
    ],
    ids=["idbd-20", "autostep-20", "lms-100", "idbd-100"],
)
def test_native_and_plain_agree(optimizer: Any, feature_dim: int, tolerance: float) -> None:
    learner, world = LinearLearner(optimizer), RandomWalkStream(feature_dim)
    native = run_learning_loop(learner, world, 3_000, KEY)
    with native_loops(False):
        plain = run_learning_loop(learner, world, 3_000, KEY)
    assert np.abs(native.state.weights - plain.state.weights).max() < tolerance
    gap = np.abs(native.metrics[:, 1] - plain.metrics[:, 1])
    assert (gap < tolerance * np.maximum(1.0, np.abs(plain.metrics[:, 1]))).all()
    assert np.allclose(native.metrics[:, 2], plain.metrics[:, 2], rtol=tolerance)
    assert same(native.stream_state, plain.stream_state), "the world does not depend on the path"


@on_cpu
def test_native_and_plain_agree_on_everything_else() -> None:
    learner = LinearLearner(IDBD(0.02, 0.002), normalizer=EMANormalizer())
    options: Any = {
        "step_size_tracking": StepSizeTrackingConfig(10),
        "normalizer_tracking": NormalizerTrackingConfig(10),
        "record_every": 5,
        "non_finite": "skip",
    }
    x = np.random.default_rng(0).standard_normal((300, 4))
    x[17, 2] = np.nan

    def runs() -> Any:
        batch = run_learning_loop_batched(learner, WORLD, 300, jax.random.split(KEY, 3), **options)
        return batch, run_learning_loop(LEARNER, ArraySource(x, x.sum(axis=1)), non_finite="skip")

    native = runs()
    with native_loops(False):
        plain = runs()
    for a, b in zip(jax.tree.leaves(native), jax.tree.leaves(plain), strict=True):
        assert np.allclose(a, b, rtol=1e-4, atol=1.5e-5, equal_nan=True)
    assert native[1].skipped == plain[1].skipped == 1


# Which path is taken


def forbid(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    """Make one of the two ways to compile raise."""

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"native={native} was used")

    if native:
        monkeypatch.setattr(engine, "_native", dict.fromkeys(engine._native, never))
    else:
        monkeypatch.setattr(engine, "_plain", never)


@on_cpu
def test_native_by_default_and_plain_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALBERTA_NB_NATIVE", raising=False)
    with monkeypatch.context() as patch:
        forbid(patch, native=False)
        run_learning_loop(LEARNER, WORLD, 10, KEY)
    forbid(monkeypatch, native=True)
    with native_loops(False):
        assert not use_native()
        run_learning_loop(LEARNER, WORLD, 10, KEY)
    monkeypatch.setenv("ALBERTA_NB_NATIVE", "0")
    assert not use_native()
    run_learning_loop(LEARNER, WORLD, 10, KEY)
    with native_loops(True), pytest.raises(AssertionError, match="native=True"):
        run_learning_loop(LEARNER, WORLD, 10, KEY)


def test_plain_where_the_probe_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_module, "native_works", lambda: False)
    forbid(monkeypatch, native=True)
    with native_loops(True):
        run_learning_loop(LEARNER, WORLD, 10, KEY)


def test_no_native_loops_without_the_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_module, "set_xla_metadata", None)
    compile_module.native_works.cache_clear()
    try:
        with pytest.warns(UserWarning, match=f"slower with jax {jax.__version__} than with jax") as said:
            assert not native_works() and not use_native()
        assert len(said) == 1 and "\n" not in str(said[0].message), "once, in one line"
    finally:
        monkeypatch.undo()
        compile_module.native_works.cache_clear()


@on_cpu
def test_a_refusal_falls_back_once_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def refuse(fn: Any) -> Any:
        def call(*args: Any) -> Any:
            tries.append(1)
            raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: on purpose")

        return call

    world = RandomWalkStream(3, drift_rate=0.02)
    assert native_works()  # asked before the kernel is taken away
    monkeypatch.setattr(compile_module, "one_kernel", refuse)
    with pytest.warns(UserWarning, match="native loop does not compile here, using the plain one"):
        first = run_learning_loop(LEARNER, world, 200, KEY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = run_learning_loop(LEARNER, world, 300, KEY)
    assert len(tries) == 1 and same(first.metrics, again.metrics[:200])
    monkeypatch.undo()
    with native_loops(False):
        assert same(run_learning_loop(LEARNER, world, 300, KEY), again)


# What the native form refuses, and what once aborted the process; in a process of its own: an abort is a failure

HARD_CASES = """
import sys, warnings
import jax, jax.numpy as jnp, numpy as np
from alberta_nb.native.kernel import native_loops, native_works
from alberta_nb.learners.linear import LinearLearner
from alberta_nb.loops.stepper import Stepper
from alberta_nb.loops.supervised import run_learning_loop, run_learning_loop_batched
from alberta_nb.streams.sources import ArraySource
from alberta_nb.streams.synthetic import RandomWalkStream

OPERATIONS = {
    "sort": lambda x: jnp.sort(x)[0],
    "scatter": lambda x: jnp.zeros(3).at[(3 * jnp.abs(x)).astype(int) % 3].add(x).max(),
    "solve": lambda x: jnp.linalg.solve(jnp.eye(3) + jnp.outer(x, x), x)[0],
    "callback": lambda x: jax.pure_callback(lambda v: np.float32(v[0]), jax.ShapeDtypeStruct((), jnp.float32), x),
    "cond": lambda x: jax.lax.cond(x[0] > 0, lambda: x[1], lambda: x[2]),
}

class Odd(LinearLearner):
    kind: str = "sort"

    def step(self, state, time_step):
        result = super().step(state, time_step)
        extra = OPERATIONS[self.kind](time_step.observation)
        return result.replace(metrics=result.metrics.at[0].set(extra))

world, key, keys = RandomWalkStream(3), jax.random.key(0), jax.random.split(jax.random.key(0), 2)
x = np.random.default_rng(0).standard_normal((80, 3)).astype(np.float32)
for kind in sys.argv[1:]:
    learner = Odd(kind=kind)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = run_learning_loop(learner, world, 70, key)
    assert np.isfinite(found.metrics).all() and found.metrics.shape == (70, 3), kind
    if kind in ("sort", "cond"):
        rows = Stepper(learner, 3).update_many(x, x[:, 0])
        assert np.isfinite(rows).all() and rows.shape == (80, 4), kind
    print(kind, len(caught))
"""


@on_cpu
def test_operations_that_the_native_form_refuses() -> None:
    refused = {"sort", "scatter", "solve", "callback"}
    code = HARD_CASES.replace("sys.argv[1:]", repr(sorted(refused) + ["cond"]))
    warned = dict(line.split() for line in run_python(code).splitlines())
    assert warned == {kind: "1" for kind in refused} | {"cond": "0"}


UNUSED = """
import jax, jax.numpy as jnp, numpy as np
from alberta_nb.native.kernel import native_loops
from alberta_nb.learners.linear import LearnerState, LinearLearner, UpdateResult
from alberta_nb.loops.stepper import Stepper
from alberta_nb.loops.supervised import run_learning_loop, run_learning_loop_batched
from alberta_nb.streams.sources import ArraySource
from alberta_nb.streams.synthetic import RandomWalkStream
from alberta_nb.types import TimeStep

class Idle:
    "Nothing in the state is read; nothing in the time step is read; one leaf is empty."
    def init(self, feature_dim):
        return {"a": jnp.ones(feature_dim), "b": jnp.uint32(3), "c": (jnp.zeros((0, 2)), None)}
    def step(self, state, time_step):
        return UpdateResult(state=state, prediction=jnp.zeros(1), error=jnp.zeros(1), metrics=jnp.zeros(3))
    def predict(self, state, x):
        return jnp.zeros(1)

class Counter(Idle):
    "One leaf is written and never read, one is read and never written, one goes through."
    def step(self, state, time_step):
        new = dict(state, b=jnp.uint32(7))
        metrics = jnp.stack([state["a"].sum(), time_step.target[0], jnp.float32(1)])
        return super().step(new, time_step).replace(metrics=metrics)

class Keyed(Idle):
    "A typed random key rides along."
    def init(self, feature_dim):
        return {"key": jax.random.key(3), "n": jnp.uint32(0)}
    def step(self, state, time_step):
        return super().step(dict(state, n=state["n"] + 1), time_step)

class Still:
    "A stream whose state nothing reads and whose time step never changes."
    feature_dim = 3
    def init(self, key):
        return key
    def step(self, state, idx):
        return TimeStep(observation=jnp.ones(3), target=jnp.ones(1)), state

class Deaf(RandomWalkStream):
    "A paged stream that ignores its own noise."
    def advance(self, state, noise, idx):
        return TimeStep(observation=jnp.ones(3), target=jnp.ones(1)), state

key, keys, x = jax.random.key(0), jax.random.split(jax.random.key(0), 2), np.ones((70, 3), np.float32)
for learner, world in ((Idle(), Deaf(3)), (Counter(), Still()), (Keyed(), Deaf(3)), (LinearLearner(), Still())):
    one = run_learning_loop(learner, world, 70, key)
    many = run_learning_loop_batched(learner, world, 70, keys)
    assert one.metrics.shape == (70, 3) and many.metrics.shape == (2, 70, 3)
    assert int(one.stream_state.steps) == 70
for learner in (Idle(), Keyed()):
    assert run_learning_loop(learner, ArraySource(x, x[:, 0]), record_every=7).metrics.shape == (10, 3)
for learner in (Idle(), Counter()):
    stepper = Stepper(learner, 3)
    assert stepper.update(x[0], 1.0).shape == (4,) and stepper.update_many(x, x[:, 0]).shape == (70, 4)
print("alive")
"""


def test_states_that_nothing_reads_do_not_abort() -> None:
    assert run_python(UNUSED).strip() == "alive"


# Compiled once


def compilations() -> int:
    return sum(f._cache_size() for f in (engine._plain, *engine._native.values()))  # type: ignore[attr-defined]


def test_nothing_is_compiled_twice() -> None:
    first = run_learning_loop(LEARNER, WORLD, 100, KEY)
    keys = jax.random.split(KEY, 3)
    run_learning_loop_batched(LEARNER, WORLD, 100, keys)
    before = compilations()
    run_learning_loop(LEARNER, WORLD, 100, KEY)
    run_learning_loop(LinearLearner(IDBD(0.02, 0.002)), RandomWalkStream(4, drift_rate=0.01), 77_777, jax.random.key(9))
    for step_size in (0.01, 0.05, np.float32(0.1), jnp.float32(0.2)):
        run_learning_loop(LinearLearner(IDBD(step_size, 0.01)), WORLD, 50, KEY)
    run_learning_loop(LEARNER, WORLD, 10, learner_state=first.state, stream_state=first.stream_state)
    run_learning_loop(LEARNER, WORLD, 10, KEY, first.state.replace(bias=0.5, weights=np.zeros(4)))
    run_learning_loop(LEARNER, WORLD, 10, jax.random.PRNGKey(1))
    batch = run_learning_loop_batched(LinearLearner(IDBD(0.1)), WORLD, 5_000, keys, first.state)
    run_learning_loop_batched(LEARNER, WORLD, 10, learner_state=batch.states, stream_state=batch.stream_state)
    assert compilations() == before


def test_a_sweep_compiles_once() -> None:
    def bank(*step_sizes: float) -> LearnerBank:
        return LearnerBank(tuple(LinearLearner(IDBD(s, 0.001)) for s in step_sizes))

    run_learning_loop_batched(bank(0.01, 0.02, 0.03), WORLD, 50, jax.random.split(KEY, 2))
    before = compilations()
    run_learning_loop_batched(bank(0.05, 0.1, 0.2), WORLD, 500, jax.random.split(KEY, 2))
    assert compilations() == before


def test_sources_of_some_lengths_share_a_compilation() -> None:
    x = np.random.default_rng(0).standard_normal((1_000, 4))
    run_learning_loop(LEARNER, ArraySource(x, x[:, 0]))
    before = compilations()
    for n in (513, 700, 1_000):
        run_learning_loop(LEARNER, ArraySource(x[:n], x[:n, 0]))
    assert compilations() == before


# Memory

MEMORY = """
import resource, sys
import jax
from alberta_nb.learners.linear import LinearLearner
from alberta_nb.loops.supervised import run_learning_loop
from alberta_nb.streams.synthetic import RandomWalkStream

def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

for steps in (10**6, 4 * 10**6):
    result = run_learning_loop(LinearLearner(), RandomWalkStream(4), steps, jax.random.key(0), record_every=10_000)
    assert result.metrics.shape == (steps // 10_000, 3)
    print(peak())
"""


def test_memory_of_a_long_run_is_flat() -> None:
    pytest.importorskip("resource")
    short, long = map(int, run_python(MEMORY).split())
    assert long - short < 8e6, f"{(long - short) / 1e6:.1f} MB more; all rows of 3,000,000 steps would be 36 MB"


# 64 bits


def test_x64() -> None:
    learner = LinearLearner(IDBD(0.02, 0.002), normalizer=EMANormalizer())
    with jax.enable_x64(True):
        tracked = run_learning_loop(
            learner, WORLD, 200, KEY, None, StepSizeTrackingConfig(10), NormalizerTrackingConfig(10)
        )
        state, metrics, sizes, moments = tracked
        assert metrics.dtype == state.weights.dtype == sizes.step_sizes.dtype == moments.means.dtype == jnp.float64
        by_hand, world = learner.init(4), WORLD.init(KEY)
        for t in range(50):
            time_step, world = WORLD.step(world, t)
            by_hand = learner.update(by_hand, time_step.observation, time_step.target).state
        short = run_learning_loop(learner, WORLD, 50, KEY)
        assert np.allclose(short.state.weights, by_hand.weights, rtol=0, atol=1e-13)
        rest = run_learning_loop(learner, WORLD, 150, learner_state=short.state, stream_state=short.stream_state)
        assert np.allclose(rest.state.weights, state.weights, rtol=0, atol=1e-13)
        assert same(rest.state, run_learning_loop(learner, WORLD, 200, KEY).state)
        batch = run_learning_loop_batched(learner, WORLD, 200, jax.random.split(KEY, 2), record_every=10)
        assert batch.metrics.dtype == jnp.float64 and batch.metrics.shape == (2, 20, 4)
        x = np.random.default_rng(0).standard_normal((90, 4))
        source = run_learning_loop(learner, ArraySource(x, x[:, 0]), record_every=9)
        assert source.metrics.dtype == jnp.float64
    narrow = run_learning_loop(learner, WORLD, 200, KEY)
    assert narrow.metrics.dtype == jnp.float32
    assert np.allclose(narrow.metrics, metrics, rtol=1e-3, atol=1e-3), "the same world in both"


# --- a context belongs to its thread ---


def test_a_context_belongs_to_its_thread() -> None:
    inside, seen = threading.Barrier(2), {}

    def ask(on: bool) -> None:
        before = use_native()
        with native_loops(on):
            inside.wait()  # both contexts are open, in whatever order
            seen[on] = use_native()
            inside.wait()
        assert use_native() == before

    threads = [threading.Thread(target=ask, args=(on,)) for on in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {True: native_works(), False: False}
    with native_loops(False), native_loops(True):
        assert use_native() == native_works()


def test_the_threads_of_a_loop_have_the_context_of_who_asks() -> None:
    seen = []
    for on in (False, True):
        with native_loops(on):
            engine.on_all_cores(lambda _: seen.append(use_native()) or jnp.zeros(1), [None] * 4)  # type: ignore[list-item, func-returns-value]
    assert seen == [False] * 4 + [native_works()] * 4
