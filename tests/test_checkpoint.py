"""Runs that are ended at any moment, and go on: the bits of those that were not."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from saved_lives import KEY, D, X, Y, bits, lives

import alberta_nb as ab
from alberta_nb.loops.checkpoint import Checkpoint

STEPS, EVERY = 60, 25  # a window of 15 steps is in the middle


class Killed(BaseException):
    """What ends a run as kill -9 does: nothing is written after it."""


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that calls another one, whose run dies right after it was saved for the `n`th time."""
    save, left = Checkpoint.save, [0]

    def once_more(self: Checkpoint, *given: Any) -> None:
        if left[0] == 0:
            raise Killed
        save(self, *given)
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    def call(n: int, run: Any, *args: Any, **options: Any) -> None:
        left[0] = n
        with monkeypatch.context() as patched, pytest.raises((Killed, ab.StoppedError)):
            patched.setattr(Checkpoint, "save", once_more)
            run(*args, **options)

    yield call


def loops() -> dict[str, Any]:
    """Every loop, learner and stream, as functions of a checkpoint's options."""

    def of(life: Any) -> Any:
        return lambda **more: dataclasses.replace(life, options=life.options | more).run(
            STEPS, life.learner, life.stream
        )

    found = {name: of(life) for name, life in lives().items() if life.stream is not None}
    heads, horde = lives()["heads"].learner, lives()["horde"].learner
    two, keys, xs = np.stack([Y, -Y], axis=1), jax.random.split(KEY, 3), X[:STEPS]
    told = {"record_every": 15}
    skipped = {"non_finite": "skip", "record_every": 4}
    holes, linear = np.where(np.arange(len(Y)) % 7 == 3, np.nan, Y), ab.LinearLearner(ab.IDBD(0.05))
    network = ab.MLPLearner((5,), ab.LMS(0.1))
    steps = ab.StepSizeTrackingConfig(10)
    return found | {
        "heads": lambda **o: ab.run_multi_head_learning_loop(heads, heads.init(D, KEY), xs, two[:STEPS], **told, **o),
        "heads, seeds": lambda **o: ab.run_multi_head_learning_loop_batched(heads, xs, two[:STEPS], keys, **told, **o),
        "horde": lambda **o: ab.run_horde_learning_loop(horde, horde.init(D, KEY), xs, X[:STEPS, :3], X[1:], **o),
        "horde, seeds": lambda **o: ab.run_horde_learning_loop_batched(horde, xs, X[:STEPS, :3], X[1:], keys, **o),
        "skipped": lambda **o: ab.run_learning_loop(linear, ab.ArraySource(X, holes), STEPS, **skipped, **o),
        "an iterator": lambda **o: ab.run_learning_loop(linear, ab.IteratorSource(zip(X, Y, strict=True)), **o),
        "td seeds": lambda **o: ab.run_td_learning_loop_batched(
            ab.TDLinearLearner(), ab.RelevanceRing(5, 3), STEPS, keys, step_size_tracking=steps, record_every=7, **o
        ),
        "networks, looked at": lambda **o: ab.run_mlp_learning_loop_batched(
            network, ab.ArraySource(X, Y), STEPS, keys, diagnostics=ab.DiagnosticsConfig(10, 5), **o
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", loops())
def test_a_run_that_was_killed_goes_on(name: str, tmp_path: Path, killed: Any) -> None:
    run, options = loops()[name], {"checkpoint": tmp_path / "a", "checkpoint_every": EVERY}
    whole = run()
    killed(1, run, **options)
    assert 0 < ab.load(tmp_path / "a", **given_to_load(name)).position.steps.max() < whole.steps
    for _ in range(2):  # the second call finds the end
        again = run(**options)
        assert all(np.array_equal(*pair) for pair in zip(bits(again), bits(whole), strict=True))
        assert (again.steps, again.interrupted, again.told) == (whole.steps, False, whole.told)
        assert np.array_equal(again.skipped, whole.skipped)


def given_to_load(name: str) -> dict[str, Any]:
    """What has no configuration, and so is given to `load`."""
    life = lives().get(name)
    if life is None:
        return {}
    from saved_lives import given

    return given(name)
