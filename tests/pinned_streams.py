"""The pinned cases of the library's own streams, and of what runs on them: their noise is drawn in float32."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from pinned_world import DIM, KEYS, LINEAR, STEPS, TD, XS, YS, Case, many_runs, of_run

import alberta_nb as nb

STREAMS: dict[str, Any] = {
    "AbruptChangeStream": nb.AbruptChangeStream(DIM, 2),
    "BairdStream": nb.BairdStream(),
    "BitFlippingStream": nb.BitFlippingStream(7, 3, 2, 5),
    "BoyanChain": nb.BoyanChain(),
    "CyclicStream": nb.CyclicStream(DIM, 2, 2),
    "DriftingTeacherStream": nb.DriftingTeacherStream(3, 4, 5),
    "DynamicScaleShiftStream": nb.DynamicScaleShiftStream(DIM, 2, 2),
    "PeriodicChangeStream": nb.PeriodicChangeStream(DIM, 7),
    "RandomWalkChain": nb.RandomWalkChain(5),
    "RandomWalkStream": nb.RandomWalkStream(DIM, 0.1),
    "RelevanceRing": nb.RelevanceRing(4, 2),
    "ScaleDriftStream": nb.ScaleDriftStream(DIM, 0.1, 0.1),
    "ScaledStreamWrapper": nb.ScaledStreamWrapper(nb.RandomWalkStream(3), (0.1, 1.0, 10.0)),
    "SensorStream": nb.SensorStream(),
    "SuttonExperiment1Stream": nb.SuttonExperiment1Stream(2, 3, 2),
    "TraceConditioningStream": nb.TraceConditioningStream(2, 3, 4, 6),
}


def first_steps(name: str) -> dict[str, Any]:
    """The first five time steps of a stream."""
    stream, rows = STREAMS[name], []
    state = stream.init(KEYS[1])
    for i in range(5):
        time_step, state = stream.step(state, i)
        rows.append(time_step)
    return {"steps": jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)}


def lived(optimizer: str, stream: str) -> dict[str, Any]:
    """A linear learner on a stream of the library: one seed, and three."""
    learner = nb.LinearLearner(LINEAR[optimizer](), nb.EMANormalizer())
    one = of_run(nb.run_learning_loop(learner, STREAMS[stream], STEPS, KEYS[0]))
    return one | {"many": many_runs(nb.run_learning_loop_batched(learner, STREAMS[stream], STEPS, KEYS))}


def walked(optimizer: str, stream: str) -> dict[str, Any]:
    """A TD learner on a chain: one seed, and three."""
    learner = nb.TDLinearLearner(TD[optimizer]())
    one = of_run(nb.run_td_learning_loop(learner, STREAMS[stream], STEPS, KEYS[0]))
    return one | {"many": many_runs(nb.run_td_learning_loop_batched(learner, STREAMS[stream], STEPS, KEYS))}


def baselines() -> dict[str, Any]:
    """The learners that need no step size."""
    kinds = {"mean": nb.RunningMean(), "last": nb.LastValue()}
    return {name: nb.run_learning_loop(learner, nb.ArraySource(XS, YS)).metrics for name, learner in kinds.items()}


def through_optax(optimizer: str) -> dict[str, Any]:
    """Ten updates of an optax training loop with an optimizer of the library."""
    transform, params = nb.to_optax(LINEAR[optimizer]()), {"w": jnp.zeros(DIM), "b": jnp.zeros(())}
    state, rows = transform.init(params), []
    for x, y in zip(XS[:10], YS[:10], strict=True):
        error = y - params["w"] @ x - params["b"]
        moves, state = transform.update({"w": jnp.asarray(x), "b": jnp.ones(())}, state, error=error)
        params = jax.tree.map(jnp.add, params, moves)
        rows.append(np.append(params["w"], params["b"]))
    return {"rows": np.array(rows)}


def stream_cases() -> Iterator[tuple[str, Case]]:
    for name in STREAMS:
        yield f"noisy-{name}", functools.partial(first_steps, name)
    for optimizer, stream in (("IDBD", "SuttonExperiment1Stream"), ("Autostep", "RandomWalkStream")):
        yield f"noisy-{stream}-{optimizer}", functools.partial(lived, optimizer, stream)
    yield "noisy-RandomWalkChain-TDIDBD", functools.partial(walked, "TDIDBD", "RandomWalkChain")
    yield "baselines", baselines
    for optimizer in ("IDBD", "ObGD_traces"):
        yield f"to_optax-{optimizer}", functools.partial(through_optax, optimizer)
