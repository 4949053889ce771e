"""Lives that are interrupted: every kind of learner and of stream, begun in one process and ended in another.

`python saved_lives.py FOLDER` goes on with all files of a folder, and writes what came of each beside it.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import alberta_nb as ab
from alberta_nb.apps.predict_return import DiscountedMeanLearner
from alberta_nb.learners.baselines import ChangeLearner, Scored

FIRST, REST, EVERY = 30, 30, 15  # of a table 64 rows are one program
D = 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(FIRST + REST + 1, D)).astype(np.float32)
Y = (X.sum(axis=1) + 0.1 * RNG.normal(size=len(X))).astype(np.float32)
KEY = jax.random.PRNGKey(7)  # of the older kind; the others are used where it says so


@dataclasses.dataclass(frozen=True)
class Life:
    """A learner, what it lives on, and the loop: `loop(learner, stream, num_steps, key, state, stream_state=...)`."""

    learner: Any
    stream: Any
    loop: Callable[..., Any]
    key: Any = dataclasses.field(default_factory=lambda: KEY, compare=False)
    options: Any = dataclasses.field(default_factory=dict, compare=False)

    def run(self, steps: int, learner: Any, stream: Any, state: Any = None, position: Any = None) -> Any:
        key = self.key if position is None else None
        state = {"learner_state": state, "stream_state": position}
        return self.loop(learner, stream, steps, key, **state, **self.options)


@dataclasses.dataclass(frozen=True)
class Drift:
    """A user's stream, which is no Settings, and keeps the key that it was given."""

    feature_dim: int = D

    def init(self, key: Any) -> Any:
        return {"key": key, "weights": jnp.ones(self.feature_dim)}

    def step(self, state: Any, idx: Any) -> Any:
        drift, seen = jax.random.split(jax.random.fold_in(state["key"], idx))
        weights = state["weights"] + 0.1 * jax.random.normal(drift, (self.feature_dim,))
        x = jax.random.normal(seen, (self.feature_dim,))
        return ab.TimeStep(observation=x, target=weights @ x), state | {"weights": weights}


@dataclasses.dataclass(frozen=True)
class Steps:
    """A user's learner, which is no Settings, with a state of plain containers."""

    step_size: float = 0.1

    def init(self, feature_dim: int) -> Any:
        return [jnp.zeros(feature_dim), {"seen": jnp.uint32(0), "half": jnp.bfloat16(0)}]

    def step(self, state: Any, time_step: Any) -> Any:
        weights, rest = state
        error = time_step.target[0] - weights @ time_step.observation
        rest = {"seen": rest["seen"] + 1, "half": rest["half"] + error.astype(jnp.bfloat16) / 3}
        return ab.learners.bank.BankResult(
            state=[weights + self.step_size * error * time_step.observation, rest], metrics=jnp.stack([error * error])
        )


def rows(loop: Any, *arrays: Any) -> Any:
    """A loop over arrays that goes on at the row where it stopped."""

    def lived(learner: Any, stream: Any, steps: int, key: Any, *, learner_state: Any, stream_state: Any) -> Any:
        first = 0 if stream_state is None else int(stream_state.steps)
        state = learner.init(D, key) if learner_state is None else learner_state
        result = loop(learner, state, *(a[first : first + steps] for a in arrays), record_every=EVERY)
        vars(result)["stream_state"] = result.stream_state.replace(steps=np.uint32(first + steps))
        return result

    return lived


@functools.cache
def lives() -> dict[str, Life]:
    """All of them, by name."""
    linear, td_linear, ema = ab.LinearLearner, ab.TDLinearLearner, ab.EMANormalizer()
    walk, ring, table, typed = (
        ab.RandomWalkStream(D, 0.01),
        ab.RelevanceRing(5, 3),
        ab.ArraySource(X, Y),
        jax.random.key(5),
    )
    transitions = ab.TDArraySource(X[:-1], Y[:-1], X[1:], 0.9)
    wrapped, lone = (
        ab.ScaledStreamWrapper(walk, (1.0, 2.0, 3.0, 4.0)),
        (ab.LastValue(), ab.RunningMean(), linear(ab.LMS())),
    )
    one, td, deep = ab.run_learning_loop, ab.run_td_learning_loop, ab.run_mlp_learning_loop
    means = {"record_every": EVERY}
    sizes = {"step_size_tracking": ab.StepSizeTrackingConfig(EVERY), **means}
    moments = {"normalizer_tracking": ab.NormalizerTrackingConfig(EVERY)}
    traces = {"trace_tracking": ab.TraceTrackingConfig(EVERY)}
    looks = {"diagnostics": ab.DiagnosticsConfig(EVERY, 5)}
    net = functools.partial(ab.MLPLearner, (6,))
    adam = ab.from_optax("adam", learning_rate=0.01) if find_spec("optax") else ab.LMS()
    twice, chances, scales = jax.random.split(typed, 2), ((0.5, 0.5), (0.1, 0.9)), (1.0, 2.0, 3.0, 4.0)
    horde = {"hidden_sizes": (5,), "optimizer": ab.IDBD(0.01), "normalizer": ema}
    demons = [ab.GVFSpec(f"d{k}", ab.DemonType.PREDICTION, 0.3 * k, 0.8, k) for k in range(3)]
    return {
        "lms": Life(linear(ab.LMS(0.05)), ab.BitFlippingStream(D, 2), one),
        "idbd": Life(linear(ab.IDBD(0.05), ema), ab.SuttonExperiment1Stream(2, 2), one, options=sizes | moments),
        "autostep": Life(linear(ab.Autostep(0.05), ab.WelfordNormalizer()), table, one, options=sizes | moments),
        "without a bias": Life(linear(ab.IDBD(), use_bias=False), wrapped, one, options=sizes),
        "obgd": Life(linear(ab.ObGD(gamma=0.9, lamda=0.5)), table, one),
        "baselines": Life(ab.LearnerBank(lone), table, one),
        "scored": Life(Scored(ChangeLearner(linear(ab.IDBD(), ema))), ab.DriftingTeacherStream(D), one),
        "popart": Life(ab.PopArt(linear(ab.Autostep(0.1), ema)), ab.ScaleDriftStream(D), one, options=means),
        "interval": Life(ab.Interval(ab.Late(ab.Robust(linear(ab.IDBD(), ema)), 2)), table, one),
        "bank": Life(
            ab.LearnerBank(tuple(linear(ab.IDBD(a), ema) for a in (0.01, 0.1))),
            table, one, options=sizes,
        ),
        "adam": Life(linear(adam, ema), ab.PeriodicChangeStream(D, 20), one),
        "popart network": Life(ab.PopArt(net(ab.LMS(0.01), bounder=ab.ObGDBounding(), lamda=0.5)), table, deep),
        "network": Life(net(ab.IDBD(0.01), normalizer=ema, gamma=0.9, lamda=0.8), table, deep, options=looks | moments),
        "scaled network": Life(net(ab.ScaledLMS(), bounder=ab.AGCBounding()), walk, deep),
        "bank of networks": Life(ab.LearnerBank((net(ab.LMS(0.01)), net(adam))), table, deep),
        "heads": Life(
            ab.MultiHeadMLPLearner(2, (5,), ab.LMS(0.1), per_head_gamma_lamda=(0.5, 0.9)), None,
            rows(ab.run_multi_head_learning_loop, X, np.stack([Y, -Y], axis=1)),
        ),
        "horde": Life(
            ab.HordeLearner(ab.create_horde_spec(demons), **horde), None,
            rows(ab.run_horde_learning_loop, X[:-1], X[:-1, :3], X[1:]),
        ),
        "td": Life(td_linear(ab.TDLambda(0.1, 0.8), ema), ring, td, options=sizes | traces),
        "autotdidbd": Life(td_linear(ab.AutoTDIDBD(0.1)), transitions, td, options=sizes | traces),
        "swift": Life(td_linear(ab.SwiftTD()), ab.SensorStream(), td),
        "true online": Life(td_linear(ab.TrueOnlineTD(0.1)), ab.TraceConditioningStream(), td),
        "gtd2": Life(td_linear(ab.GTD2(0.01)), ab.BairdStream(), td),
        "with traces": Life(td_linear(ab.WithTraces(ab.Autostep(), 0.8)), transitions, td),
        "means": Life(DiscountedMeanLearner(td_linear()), ab.MarkovChain(chances, (1.0, 0.0)), td),
        "judged": Life(ab.EpisodeErrors(td_linear(), ab.RandomWalkChain()), ab.RandomWalkChain(), td),
        "somebody's own": Life(Steps(), Drift(), one, typed),
        "somebody's, scaled": Life(linear(ab.LMS(0.01), ema), ab.ScaledStreamWrapper(Drift(), scales), one, typed),
        "seeds": Life(linear(ab.IDBD(0.05), ema), walk, ab.run_learning_loop_batched, twice, sizes | moments),
        "seeds of networks": Life(net(ab.LMS(0.1)), table, ab.run_mlp_learning_loop_batched, jax.random.split(KEY, 2)),
        "seeds of somebody": Life(Steps(), Drift(), ab.run_learning_loop_batched, twice),
        "seeds on a table": Life(linear(ab.LMS()), table, ab.run_learning_loop_batched, twice),
    }  # fmt: skip


def bits(result: Any) -> list[np.ndarray]:
    """The numbers of states, position and rows, as bytes; the rows' numbers begin anew with every loop."""
    leaves = jax.tree_util.tree_leaves_with_path((result[0], result.stream_state, tuple(result[1:])))
    kept = [leaf for path, leaf in leaves if "recording_indices" not in jax.tree_util.keystr(path)]
    words = [jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a for a in kept]
    return [np.frombuffer(np.asarray(a).tobytes(), np.uint8) for a in words]


def given(name: str) -> dict[str, Any]:
    """What has no configuration, and so is given to `load`."""
    life = lives()[name]
    own = {"learner": life.learner if isinstance(life.learner, Steps) else None}
    own["stream"] = life.stream if "Drift" in repr(life.stream) else None
    return {key: value for key, value in own.items() if value is not None}


def go_on(folder: Path) -> None:
    """The rest of each life."""
    for path in sorted(folder.glob("*.alberta")):
        life = lives()[path.stem]
        saved = ab.load(path, **given(path.stem))
        assert saved.notes == {"name": path.stem}
        stream = life.stream if saved.stream is None else saved.stream
        result = life.run(REST, saved.learner, stream, saved.state, saved.position)
        np.savez(path.with_suffix(".npz"), *bits(result))


if __name__ == "__main__":
    go_on(Path(sys.argv[1]))
