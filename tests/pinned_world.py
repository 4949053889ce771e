"""The pinned cases: every learner x optimizer x bounder x normaliser x loop, on numbers that no machine rounds.

Whatever the cases learn from is made by integer arithmetic, and networks start from given weights: no generator of jax
or numpy, whose numbers may change with a version, takes part. Where it must, a case has "drawn" in its name, and where
noise is drawn in float32, "noisy".
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import alberta_nb as nb
from alberta_nb import State, Stream, TDTimeStep, TimeStep

STEPS, DIM = 60, 4
KEYS: Any = np.array([[0, 1], [2, 3], [4, 5]], np.uint32)  # raw keys, made by hand
Case = Callable[[], dict[str, Any]]


# 1. A world without rounding


def mixed(words: Any) -> Any:
    """Other words for uint32 words, numpy's or jax's; the constants are those of the hash lowbias32."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        words = (words ^ (words >> np.uint32(shift))) * np.uint32(factor)
    return words ^ (words >> np.uint32(16))


def spread(words: Any) -> Any:
    """Numbers in [-1, 1) from words: 32 bits each, exact in float64."""
    return mixed(words).astype(np.float64) / 2.0**31 - 1.0


def numbers(seed: int, *shape: int) -> np.ndarray:
    """Numbers in [-1, 1) of any shape."""
    count = np.arange(int(np.prod(shape)), dtype=np.uint32)
    return spread(mixed(count + np.uint32(7919 * seed))).reshape(shape)


class WorldState(State):
    """A key, the weights of the world, and what was observed last."""

    key: Array
    weights: Array
    last: Array


class ExactStream(Stream):
    """A linear world that drifts: noise a page at a time, by integer arithmetic."""

    feature_dim: int = DIM

    def start(self, key: Array) -> WorldState:
        first = spread(key[0] + jnp.arange(self.feature_dim, dtype=jnp.uint32))
        return WorldState(key=key, weights=0.0 * first, last=first)

    def noise(self, state: Any, idx: Any, rows: int) -> Any:
        width = np.uint32(self.feature_dim + 2)
        place = jnp.asarray(idx, jnp.uint32) * width + jnp.arange(rows * int(width), dtype=jnp.uint32)
        return spread(mixed(place + state.key[0]) ^ state.key[1]).reshape(rows, int(width))

    def advance(self, state: Any, noise: Any, idx: Any) -> tuple[Any, Any]:
        x, weights = noise[:-2], state.weights + 0.1 * noise[1:-1]
        target = jnp.sum(weights * x) + 0.1 * noise[-1]
        return TimeStep(observation=x, target=target[None]), state.replace(weights=weights)


class ExactTDStream(ExactStream):
    """Transitions of the same world: some episodes end (gamma 0), some sequences are cut off (gamma negative)."""

    def advance(self, state: Any, noise: Any, idx: Any) -> tuple[Any, Any]:
        x, reward = noise[:-2], noise[-2] + jnp.sum(state.last)
        gamma = jnp.where(noise[-1] > 0.8, 0.0, jnp.where(noise[-1] < -0.8, -0.9, 0.9))
        ends = {"observation": state.last, "next_observation": x}
        return TDTimeStep(**ends, reward=reward[None], gamma=gamma[None]), state.replace(last=x)


class UnpagedStream:
    """The linear world as a stranger would write it: `init` and `step`, nothing else."""

    feature_dim = DIM

    def init(self, key: Array) -> WorldState:
        return ExactStream().start(key)

    def step(self, state: WorldState, idx: Array) -> tuple[TimeStep, WorldState]:
        return ExactStream().advance(state, ExactStream().noise(state, idx, 1)[0], idx)


XS, PROBE = numbers(1, STEPS, DIM), numbers(2, DIM)
YS = XS @ numbers(3, DIM) + 0.3 * numbers(4, STEPS)
FLAGS = np.where(numbers(5, STEPS, DIM) > 0.4, 1.0, 0.0)  # features that are mostly silent: for replacing traces
XS_TD = np.where(numbers(6, STEPS, DIM) > 0.0, XS, FLAGS)
XS_TD[:5] = XS[:5]  # a feature that is silent at first has no scale yet, and normalised it would explode
GAMMAS = np.select([np.arange(STEPS) % 13 == 12, np.arange(STEPS) % 17 == 8], [0.0, -0.8], 0.9)
NEXT_TD = np.where(GAMMAS[:, None] == 0.0, np.nan, np.roll(XS_TD, -1, axis=0))  # nobody reads behind an end
RHOS = 1.0 + numbers(7, STEPS)
TARGETS = np.tanh(XS @ numbers(8, DIM, 3))
TARGETS = np.where(numbers(9, STEPS, 3) > 0.5, np.nan, TARGETS)
TARGETS[::11] = np.nan
UNPAGED, STREAM, TD_STREAM = UnpagedStream(), ExactStream(), ExactTDStream()


# 2. Optimizers, bounders, normalisers; step sizes are such that bounds are met

Made = dict[str, Callable[[], Any]]
MODES = ("prediction", "loss")
NORMALIZERS: Made = {
    "plain": lambda: None,
    "ema": lambda: nb.EMANormalizer(decay=0.95, clip=None),  # the bound came later than these numbers
    "welford": lambda: nb.WelfordNormalizer(clip=None),
}
BOUNDERS: Made = {"free": lambda: None, "obgd": nb.ObGDBounding, "agc": lambda: nb.AGCBounding(0.1)}
SHARED: Made = {
    "LMS": lambda: nb.LMS(0.05),
    "Autostep": lambda: nb.Autostep(0.4, 0.1, 50.0),
    "ScaledLMS": lambda: nb.ScaledLMS(0.02, 0.9),
    "adam": lambda: nb.from_optax("adam", learning_rate=0.01),
}
LINEAR: Made = SHARED | {
    "IDBD": lambda: nb.IDBD(0.03, 0.1),
    "IDBD_0": lambda: nb.IDBD(0.03, 0.0),
    "IDBD_bounds": lambda: nb.IDBD(0.01, 0.5, log_step_size_bounds=(-4.65, -4.5)),
    "ObGD": nb.ObGD,
    "ObGD_traces": lambda: nb.ObGD(0.5, 1.5, 0.9, 0.8),
}
NETWORK: Made = SHARED | {
    f"IDBD_{h}_{m}": functools.partial(nb.IDBD, 0.03, 0.1, f"{h}_grads", m) for h in MODES for m in MODES
}
TD: Made = {
    "TDLambda": lambda: nb.TDLambda(0.02, 0.8),
    "TDLambda_replacing": lambda: nb.TDLambda(0.02, 0.8, "replacing"),
    "TrueOnlineTD": lambda: nb.TrueOnlineTD(0.02, 0.8),
    "TDIDBD": lambda: nb.TDIDBD(0.01, 0.05, 0.8),
    "TDIDBD_full": lambda: nb.TDIDBD(0.01, 0.05, 0.8, False),
    "TDIDBD_bounds": lambda: nb.TDIDBD(0.01, 0.5, 0.8, log_step_size_bounds=(-4.65, -4.5)),
    "AutoTDIDBD": lambda: nb.AutoTDIDBD(0.4, 0.1, 0.8, 50.0),
    "AutoTDIDBD_updated": lambda: nb.AutoTDIDBD(0.4, 0.1, 0.8, 50.0, "updated", 0.0),
    "TDC": lambda: nb.TDC(0.02, 0.6, 0.05),
    "GTD2": lambda: nb.GTD2(0.02, 0.6, 0.05),
}
OFF_POLICY = ("TDLambda", "TDC", "GTD2")
BIAS = {"bias": True, "nobias": False}


def needs_optax(name: str) -> bool:
    """Whether a case cannot run here."""
    return ("adam" in name or "optax" in name) and importlib.util.find_spec("optax") is None


# 3. What a run shows


def has_step_sizes(learner: Any) -> bool:
    """Whether a learner tells its step sizes: all linear ones do, but with an optimizer of optax."""
    is_linear = isinstance(learner, nb.LinearLearner | nb.TDLinearLearner)
    return is_linear and type(learner.optimizer).__name__ != "OptaxOptimizer"


def seen(learner: Any, state: Any) -> dict[str, Any]:
    """What a state says: its fields, its predictions, and its step sizes and traces where it has any."""
    found = {"state": state, "prediction": learner.predict(state, PROBE)}
    if has_step_sizes(learner):
        found["sizes"] = learner.step_sizes(state)
    if isinstance(learner, nb.TDLinearLearner):
        found["traces"] = learner.traces(state)
    return found


def tracking(learner: Any) -> dict[str, Any]:
    """The tracking that a learner can have."""
    kept: dict[str, Any] = {"step_size_tracking": nb.StepSizeTrackingConfig(20)} if has_step_sizes(learner) else {}
    if learner.normalizer is not None:
        kept["normalizer_tracking"] = nb.NormalizerTrackingConfig(25)
    return kept


def of_run(run: Any) -> dict[str, Any]:
    """A run of one seed: metrics, histories, and the last state."""
    histories = {type(history).__name__: history for history in run[2:]}
    counts = np.array([run.steps, run.skipped, len(run)])
    return {"metrics": run.metrics, "counts": counts, "state": run.state, **histories}


def one_run(learner: Any, run: Any) -> dict[str, Any]:
    """The same with what the learner makes of its last state."""
    return of_run(run) | seen(learner, run.state)


def many_runs(run: Any) -> dict[str, Any]:
    """A batch: metrics, histories and states, seeds first."""
    names = ("step_size_history", "normalizer_history", "trace_history")
    histories = {name: getattr(run, name, None) for name in names}
    return {"metrics": run.metrics, "state": run.states, "skipped": run.skipped, **histories}


def moments_of_one_run(run: Any, learner: Any, source: Any, **kept: Any) -> Any:
    """States for a batch: where one run stands after 25, 30 and 35 steps."""
    states = [run(learner, source, steps, **kept).state for steps in (25, 30, 35)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def stepped(learner: Any, state: Any = None) -> dict[str, Any]:
    """A Stepper: ten events one by one, one that is skipped, then all others at once."""
    stepper = nb.Stepper(learner, DIM, state, non_finite="skip")
    rows = [np.array(stepper.update(x, y)) for x, y in zip(XS[:10], YS[:10], strict=True)]
    assert stepper.update(XS[0] * np.nan, 0.0) is None
    many = stepper.update_many(XS[10:], np.where(np.arange(10, STEPS) == 30, np.inf, YS[10:]))
    return {"rows": np.array(rows), "many": many, "skipped": stepper.skipped, **seen(learner, stepper.state)}
