"""Runs that are ended at any moment, and go on: the bits of those that were not."""

import dataclasses
import random
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from files import HASTILY
from killed_life import check
from saved_lives import KEY, D, Drift, Steps, X, Y, bits, given, lives

import alberta_nb as ab
from alberta_nb.loops.archive import write_archive
from alberta_nb.loops.checkpoint import Checkpoint, _sum_of, interval_of, open_checkpoint

KEPT = Path(__file__).parent / "data" / "run_1.alberta"  # and its rows, by the first version of the format
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
    return given(name) if name in lives() else {}


LEARNER, STREAM = ab.LinearLearner(ab.IDBD(0.05), ab.EMANormalizer()), ab.RandomWalkStream(D)
SIZES = ab.StepSizeTrackingConfig(10)


def lived(path: Path | None, **changes: Any) -> Any:
    """A short run, with some arguments changed."""
    arguments: dict[str, Any] = {"learner": LEARNER, "stream": STREAM, "num_steps": 100, "key": KEY}
    arguments |= {"checkpoint": path, "record_every": 5, "step_size_tracking": SIZES}
    arguments |= {} if path is None else {"checkpoint_every": 40}
    return ab.run_learning_loop(**arguments | changes)


def alike(one: Any, other: Any) -> bool:
    """Whether two results hold the same bits."""
    return all(np.array_equal(*pair) for pair in zip(bits(one), bits(other), strict=True))


def feed(ends: dict[int, Any] | None = None, shift: float = 0.0) -> Iterator[tuple[np.ndarray, float]]:
    """The rows of X and Y, one by one; before some of them something else happens."""
    for k, (x, y) in enumerate(zip(X, Y, strict=True)):
        if ends and k in ends:
            ends[k]()
        yield x + np.float32(shift), float(y)


def leave() -> None:
    raise OSError("the line is dead")


# --- ends ---


def test_what_a_feed_raises_keeps_what_was_learned(tmp_path: Path) -> None:
    own = {"num_steps": None, "key": None, "record_every": 3}
    whole = lived(None, stream=ab.IteratorSource(feed()), **own)
    with pytest.raises(OSError, match="the line is dead") as error:
        lived(tmp_path / "a", stream=ab.IteratorSource(feed({47: leave})), **own)
    assert error.value.result.steps == ab.load(tmp_path / "a").position.steps == 47  # type: ignore[attr-defined]
    assert alike(lived(tmp_path / "a", stream=ab.IteratorSource(feed()), **own), whole)


def ctrl_c() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("stop", [ctrl_c, lambda: signal.raise_signal(signal.SIGTERM)])
def test_a_signal_saves_and_ends(stop: Any, tmp_path: Path) -> None:
    own = {"num_steps": None, "key": None}
    whole = lived(None, stream=ab.IteratorSource(feed()), **own)
    first = lived(tmp_path / "a", stream=ab.IteratorSource(feed({47: stop})), **own)
    assert first.interrupted and first.steps == ab.load(tmp_path / "a").position.steps == 47
    assert alike(lived(tmp_path / "a", stream=ab.IteratorSource(feed()), **own), whole)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_who_listens_to_sigterm_already_is_left_alone(tmp_path: Path) -> None:
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *args: heard.append(1))
    try:
        source = ab.IteratorSource(feed({47: lambda: signal.raise_signal(signal.SIGTERM)}))
        assert lived(tmp_path / "a", stream=source, num_steps=None, key=None).steps == len(X) and heard == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_a_thread_there_are_no_signals(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(lived, tmp_path / "a").result()
    assert alike(found, lived(None))


def test_a_step_that_is_refused_is_refused_again_until_it_is_mended(tmp_path: Path) -> None:
    holes, own = Y.copy(), {"num_steps": None, "key": None}
    holes[47] = np.nan
    for _ in range(2):
        with pytest.raises(ab.NonFiniteError) as error:
            lived(tmp_path / "a", stream=ab.ArraySource(X, holes), **own)
        assert error.value.step == error.value.result.steps == 47
    whole = lived(None, stream=ab.ArraySource(X, Y), **own)
    assert alike(lived(tmp_path / "a", stream=ab.ArraySource(X, Y), **own), whole)


class Interrupted:
    """An iterator of the rows, in which somebody presses Ctrl-C once."""

    def __init__(self) -> None:
        self.rows, self.left = feed(), 47

    def __iter__(self) -> "Interrupted":
        return self

    def __next__(self) -> tuple[np.ndarray, float]:
        self.left -= 1
        if self.left == -1:
            raise KeyboardInterrupt
        return next(self.rows)


def test_an_iterator_is_taken_up_where_it_is(tmp_path: Path) -> None:
    own = {"num_steps": None, "key": None}
    source = ab.IteratorSource(Interrupted())
    assert lived(tmp_path / "a", stream=source, **own).steps == 47
    with pytest.raises(ValueError, match="steps 0 to .* of this IteratorSource are not those"):
        lived(tmp_path / "a", stream=ab.IteratorSource(feed(shift=0.1)), **own)
    with pytest.raises(ValueError, match="are not those"):
        lived(tmp_path / "a", stream=ab.IteratorSource(list(feed())[:30]), **own)
    assert alike(lived(tmp_path / "a", stream=source, **own), lived(None, stream=ab.IteratorSource(feed()), **own))


def test_a_source_that_grew(tmp_path: Path) -> None:
    own = {"num_steps": None, "key": None}
    lived(tmp_path / "a", stream=ab.ArraySource(X[:40], Y[:40]), **own)
    longer = lived(tmp_path / "a", stream=ab.ArraySource(X, Y), **own)
    assert alike(longer, lived(None, stream=ab.ArraySource(X, Y), **own))


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lived(tmp_path / "a", num_steps=100)
    before = (tmp_path / "a").read_bytes()
    (tmp_path / "a").unlink()
    calls = []

    def full(*args: Any) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        write_archive(*args)

    with monkeypatch.context() as patched:
        patched.setattr("alberta_nb.loops.checkpoint.write_archive", full)
        with pytest.raises(OSError, match="No space left") as error:
            lived(tmp_path / "a")
        assert error.value.result.steps >= 80 and ab.load(tmp_path / "a").position.steps == 40  # type: ignore[attr-defined]
    assert alike(lived(tmp_path / "a"), lived(None))
    assert len((tmp_path / "a").read_bytes()) - len(before) < 100


# --- what is refused ---


def test_other_arguments_are_refused_by_name(tmp_path: Path) -> None:
    lived(tmp_path / "a")
    before = (tmp_path / "a").read_bytes(), (tmp_path / "a.rows").read_bytes()
    other: dict[str, dict[str, Any]] = {
        "learner.optimizer.initial_step_size is 0.05 there and 0.1 here": {
            "learner": ab.LinearLearner(ab.IDBD(0.1), ab.EMANormalizer())
        },
        "learner.normalizer.type is 'EMANormalizer' there and nothing here": {
            "learner": ab.LinearLearner(ab.IDBD(0.05))
        },
        "learner.type is 'LinearLearner' there and nothing here": {"learner": Steps(), "step_size_tracking": None},
        "stream.drift_rate is 0.001 there and 0.5 here": {"stream": ab.RandomWalkStream(D, 0.5)},
        "stream.type is 'RandomWalkStream' there and nothing here": {"stream": Drift()},
        "stream is nothing there and 'ArraySource' here": {"stream": ab.ArraySource(X, Y), "num_steps": 50},
        "num_steps is 100 there and 120 here": {"num_steps": 120},
        "record_every is 5 there and 1 here": {"record_every": 1},
        "non_finite is 'raise' there and 'skip' here": {"non_finite": "skip"},
        "tracking.read_step_sizes is 10 there and 20 here": {"step_size_tracking": ab.StepSizeTrackingConfig(20)},
        "tracking.read_step_sizes is 10 there and nothing here": {"step_size_tracking": None},
        "tracking.read_normalizer is nothing there and 50 here": {
            "normalizer_tracking": ab.NormalizerTrackingConfig(50)
        },
        "key or stream_state is '.*' there and '.*' here": {"key": jax.random.key(1)},
        "key or learner_state is '.*' there and '.*' here": {"learner_state": LEARNER.init(D).replace(bias=1.0)},
    }
    for message, changes in other.items():
        with pytest.raises(ValueError, match=f"{tmp_path / 'a'}: it is of another run, .*{message}"):
            lived(tmp_path / "a", **changes)
    with pytest.raises(ValueError, match=r"seeds\.0 is None there and '.*' here"):
        ab.run_learning_loop_batched(LEARNER, STREAM, 100, jax.random.split(KEY, 2), checkpoint=tmp_path / "a")
    with jax.enable_x64(True), pytest.raises(ValueError, match="floats is 'float32' there and 'float64' here"):
        lived(tmp_path / "a")
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "a.rows").read_bytes()) == before
    keys = jax.random.split(KEY, 2)
    ab.run_learning_loop_batched(LEARNER, STREAM, 100, keys, checkpoint=tmp_path / "b")
    with pytest.raises(ValueError, match="seeds.1 is 2 there and 3 here"):
        ab.run_learning_loop_batched(LEARNER, STREAM, 100, jax.random.split(KEY, 3), checkpoint=tmp_path / "b")
    network, source = ab.MLPLearner((5,), ab.LMS(0.1)), ab.ArraySource(X, Y)
    looks = {"diagnostics": ab.DiagnosticsConfig(10, 5), "checkpoint": tmp_path / "c"}
    ab.run_mlp_learning_loop(network, source, None, KEY, **looks)
    with pytest.raises(ValueError, match="diagnostics.probe_steps is 5 there and 6 here"):
        ab.run_mlp_learning_loop(network, source, None, KEY, **looks | {"diagnostics": ab.DiagnosticsConfig(10, 6)})
    with pytest.raises(ValueError, match="key or learner_state is"):
        ab.run_mlp_learning_loop(network, source, None, jax.random.key(3), **looks)


@pytest.mark.parametrize("row", [0, 20, 39])
def test_other_data_are_refused(row: int, tmp_path: Path, killed: Any) -> None:
    own = {"num_steps": None, "key": None}
    killed(1, lived, tmp_path / "a", stream=ab.ArraySource(X, Y), **own)
    ys = Y.copy()
    ys[row] += 0.5
    for source in (ab.ArraySource(X, ys), ab.IteratorSource(zip(X, ys, strict=True)), ab.ArraySource(X[:30], Y[:30])):
        stream = {"stream": source, **own}
        with pytest.raises(ValueError, match="are not those that were learned from|another run, .*stream is"):
            lived(tmp_path / "a", **stream)
    ys = Y.copy()
    ys[45] += 0.5  # nobody has seen it yet
    again = lived(tmp_path / "a", stream=ab.ArraySource(X, ys), **own)
    assert alike(again, lived(None, stream=ab.ArraySource(X, ys), **own))


def test_what_happens_once_is_not_taken_up(tmp_path: Path) -> None:
    class Played(ab.ArraySource):
        replayable = False

    stream = Played(np.ones((9, 2)), np.ones(9))
    with pytest.raises(ValueError, match="checkpoint: what a Played gives happens once"):
        ab.run_learning_loop(ab.LinearLearner(), stream, 9, checkpoint=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_checkpoints_stay(tmp_path: Path) -> None:
    ab.save(tmp_path / "saved", LEARNER, LEARNER.init(D))
    (tmp_path / "text").write_text("mine")
    for name, message in {"saved": "it is not the checkpoint of a run", "text": "text: "}.items():
        before = (tmp_path / name).read_bytes()
        with pytest.raises(ValueError, match=message):
            lived(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    for path, message in ((tmp_path, "path of a file"), (tmp_path / "none" / "a", "in a folder that is there"),
                          (tmp_path / "a\0b", "the path of a file")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            lived(path)
    with pytest.raises(TypeError, match="checkpoint must be the path of a file, got int"):
        lived(3)  # type: ignore[arg-type]


def test_rows_that_are_not_those_that_were_written(tmp_path: Path) -> None:
    path, rows = tmp_path / "a", tmp_path / "a.rows"
    whole = lived(path)
    data = rows.read_bytes()
    for wrong, message in ((data[:-1], "must have .* bytes or more"), (data[:-1] + b"!", "is damaged")):
        rows.write_bytes(wrong)
        with pytest.raises(ValueError, match=f"{rows} {message}"):
            lived(path)
    rows.unlink()
    with pytest.raises(FileNotFoundError, match=f"^{rows} is missing, with the rows of the run"):
        lived(path)
    rows.write_bytes(data + b"what a run that was killed has begun")
    assert alike(lived(path), whole)


def test_intervals() -> None:
    with pytest.raises(ValueError, match="checkpoint_every needs a checkpoint"):
        lived(None, checkpoint_every=40)
    found = {"5 min": 300.0, "30 s": 30.0, "1.5 h": 5400.0, "2 days": 172_800.0, " 10 seconds ": 10.0, "1minute": 60.0}
    assert {text: interval_of(text) for text in found} == {text: (None, s) for text, s in found.items()}
    assert interval_of(7) == (7, None) and interval_of(None) == (None, None)
    for wrong in ("soon", "5", "min", "5 m", "-1 s", "1e3 s", "5 min 3 s", 0, -1):
        with pytest.raises(ValueError, match="checkpoint_every must be"):
            interval_of(wrong)
    for wrong in (1.5, True, [1]):
        with pytest.raises(TypeError, match="checkpoint_every must be"):
            interval_of(wrong)  # type: ignore[arg-type]


def test_it_is_time_to_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("alberta_nb.loops.checkpoint.time.monotonic", lambda: now[0])
    start = LEARNER.init(D), ab.StreamPosition(state=None, steps=np.uint32(0))

    def after(every: Any, seconds: float, took: float = 0.0) -> bool:
        made = open_checkpoint(tmp_path / "a", every, LEARNER, ab.ArraySource(X, Y), *start, {})
        made.took, now[0] = took, now[0] + seconds
        return made.due(10)

    assert not after(None, 59.0) and after(None, 60.0)
    assert not after(None, 399.0, took=4.0) and after(None, 400.0, took=4.0)  # a hundredth of the time
    assert after("30 s", 30.0, took=4.0) and not after("30 s", 29.0) and after(10, 0.0) and not after(11, 1e9)


def test_last_digits_of_another_machine_do_not_matter() -> None:
    state = ab.MLPLearner((50,), ab.LMS(0.1)).init(20, KEY)
    digits = jax.tree.map(lambda a: a * np.float32(1 + 2e-7) if a.dtype == np.float32 else a, state)
    assert not np.array_equal(digits.params.weights[0], state.params.weights[0])
    assert _sum_of(digits) == _sum_of(state) != _sum_of(ab.MLPLearner((50,), ab.LMS(0.1)).init(20, jax.random.key(8)))
    parts = [
        LEARNER.init(D),
        LEARNER.init(D).replace(bias=jnp.float32(1)),
        LEARNER.init(D).replace(bias=jnp.float32(-1)),
    ]
    parts += [
        jnp.arange(3.0),
        jnp.arange(3.0)[::-1],
        jnp.bfloat16([0, 1, 2]),
        jnp.array([0, jnp.nan, 2]),
        jnp.zeros((0, 2)),
    ]
    parts += [np.uint32(7), np.uint32(8), KEY]
    assert len({_sum_of(part) for part in parts}) == len(parts)


def test_the_first_format_is_taken_up_for_ever(tmp_path: Path) -> None:
    for path in KEPT.parent.glob(f"{KEPT.name}*"):
        shutil.copy(path, tmp_path)
    path, half = tmp_path / KEPT.name, ab.load(KEPT)
    assert half.position.steps == 47 and half.state.step_count == 47
    whole = ab.run_learning_loop(ab.LinearLearner(ab.IDBD(0.05)), ab.RandomWalkStream(3), 100, KEY, record_every=5)
    again = ab.run_learning_loop(
        ab.LinearLearner(ab.IDBD(0.05)), ab.RandomWalkStream(3), 100, KEY, record_every=5, checkpoint=path
    )
    assert np.allclose(again.metrics, whole.metrics, atol=1e-4)  # another processor draws other last digits
    assert again.metrics.shape == (20, 3) and again.state.step_count == 100


# --- ended by force ---


@pytest.mark.parametrize("name", ["linear", "feed"])
def test_killed_at_any_moment(name: str, tmp_path: Path) -> None:
    steps = {"linear": 600_000, "feed": 30_000}[name]
    assert len(check(name, tmp_path, steps, random.Random(0), 2, **HASTILY)) <= 2
