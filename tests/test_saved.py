"""Saved learners: bit for bit in another process, and nothing believed of a file that does not fit."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from files import HASTILY, parts_of, run_python, same, with_array, zipped
from jax.experimental.compilation_cache import compilation_cache
from saved_lives import FIRST, REST, D, Drift, Steps, X, Y, bits, given, lives

import alberta_nb as ab
from alberta_nb.learners.base import Learner
from alberta_nb.loops.saved import as_told
from alberta_nb.loops.start import stream_start
from alberta_nb.streams.sources import Source

HERE = Path(__file__).parent
KEPT = HERE / "data" / "saved_1.alberta"  # written by the first version of the format, and never again
KEY = jax.random.key(0)
LEARNER = ab.LinearLearner(ab.IDBD(0.05), ab.EMANormalizer())
STREAM = ab.RandomWalkStream(D)


# --- an interrupted life ---


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Both processes share what is compiled, which halves the time; the setting of conftest's `hasty` with it."""
    cache = str(tmp_path_factory.mktemp("programs"))
    names = {
        "jax_compilation_cache_dir": cache,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in names.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # it is asked for once
    yield {name.upper(): str(value) for name, value in names.items()} | HASTILY
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, programs: dict[str, str]) -> tuple[Path, dict[str, Any]]:
    """What came of the first part of each life, and a folder with what came of the rest in another process."""
    folder, firsts = tmp_path_factory.mktemp("lives"), {}
    for name, life in lives().items():
        firsts[name] = first = life.run(FIRST, life.learner, life.stream)
        stream = None if isinstance(life.stream, Source) else life.stream
        ab.save(folder / f"{name}.alberta", life.learner, first[0], stream, first.stream_state, name=name)
    done = run_python(HERE / "saved_lives.py", folder, **programs)
    assert done.returncode == 0, done.stderr
    return folder, firsts


@pytest.mark.parametrize("name", lives())
def test_a_new_process_goes_on_as_if_nothing_had_been(name: str, interrupted: tuple[Path, dict[str, Any]]) -> None:
    folder, firsts = interrupted
    life, first = lives()[name], firsts[name]
    back = ab.load(folder / f"{name}.alberta", **given(name))
    assert same(back.state, first[0]) and same(back.position, first.stream_state) and back.learner == life.learner
    whole = life.run(FIRST + REST, life.learner, life.stream)
    ends = len(jax.tree.leaves((whole[0], whole.stream_state)))
    seeds = int(np.size(whole.stream_state.steps)) if np.ndim(whole.stream_state.steps) else 1
    rest = list(np.load(folder / f"{name}.npz").values())
    for k, parts in enumerate(zip(bits(whole), bits(first), rest, strict=True)):
        at_once, before, after = (part.reshape(seeds, -1) for part in parts)
        expected = after if k < ends else np.concatenate([before, after], axis=1)
        assert np.array_equal(at_once, expected), k


# Worlds whose states are like those of others above: what they hold is looked at, without a loop.
MORE = [ab.AbruptChangeStream(D), ab.CyclicStream(D), ab.DynamicScaleShiftStream(D), ab.BoyanChain()]


@pytest.mark.parametrize("stream", MORE, ids=lambda stream: type(stream).__name__)
def test_a_position_before_the_first_step(stream: Any, tmp_path: Path) -> None:
    position = stream_start(stream, KEY)
    ab.save(tmp_path / "a", LEARNER, LEARNER.init(stream.feature_dim), stream, position)
    back = ab.load(tmp_path / "a")
    assert same(back.position, position) and back.stream == stream and back.position.of == type(stream).__name__


def test_every_learner_and_stream_of_the_book_is_among_them() -> None:
    public = {value for value in (getattr(ab, name) for name in ab.__all__) if isinstance(value, type)}
    bases = {ab.Stream, ab.World, ab.Chain}
    kinds = {kind for kind in public - bases if issubclass(kind, ab.Settings) and issubclass(kind, ab.Stream | Learner)}
    told = json.dumps([as_told(part) for life in lives().values() for part in (life.learner, life.stream)])
    told += json.dumps([*map(as_told, MORE)])
    assert {kind.__name__ for kind in kinds} <= set(re.findall(r'"type": "(\w+)"', told)) and len(kinds) > 20


def test_a_stepper_goes_on(tmp_path: Path) -> None:
    stepper = ab.Stepper(LEARNER, D, non_finite="skip")
    for x, y in zip(X[:20], Y[:20], strict=True):
        stepper.update(x, y)
    stepper.update(X[0], np.nan)
    ab.save(tmp_path / "a", stepper)
    back = ab.load(tmp_path / "a")
    again, new = back.stepper(), ab.Stepper(back.learner, back.feature_dim, back.state, "skip")
    assert (again.skipped, again.non_finite, again.feature_dim) == (1, "skip", D)
    for x, y in zip(X[20:40], Y[20:40], strict=True):
        row = stepper.update(x, y)
        assert row is not None and np.array_equal(row, again.update(x, y)) and np.array_equal(row, new.update(x, y))
    assert same(again.state, stepper.state)
    ab.save(tmp_path / "b", LEARNER, stepper.state)
    assert np.array_equal(ab.load(tmp_path / "b").stepper().predict(X[0]), stepper.predict(X[0]))


def test_a_stepper_is_saved_between_two_events(tmp_path: Path) -> None:
    stepper, done = ab.Stepper(ab.LinearLearner(ab.LMS(0.01)), 1), False

    def learn() -> None:
        while not done:
            stepper.update(np.ones(1, np.float32), 1.0)

    thread = threading.Thread(target=learn)
    thread.start()
    try:
        for _ in range(20):
            ab.save(tmp_path / "a", stepper)
            state = ab.load(tmp_path / "a").state
            assert float(state.weights[0]) == float(state.bias)  # they move together
    finally:
        done = True
        thread.join()


def test_numbers_of_64_bits(tmp_path: Path, float64: None) -> None:
    whole = ab.run_learning_loop(LEARNER, STREAM, 30, KEY)
    ab.save(tmp_path / "a", LEARNER, whole.state, STREAM, whole.stream_state)
    stepper = ab.Stepper(LEARNER, D)
    stepper.update(X[0], 1.0)
    ab.save(tmp_path / "b", stepper)
    assert whole.state.weights.dtype == np.float64 and same(ab.load(tmp_path / "a").state, whole.state)
    again = ab.load(tmp_path / "b").stepper()
    with jax.enable_x64(False):
        with pytest.raises(ValueError, match=r"weights is float64, .* load it with jax.enable_x64\(True\)"):
            ab.load(tmp_path / "a")
        assert (
            np.array_equal(again.update(X[1], 2.0), stepper.update(X[1], 2.0)) and again.state.bias.dtype == np.float64
        )
        narrow = ab.Stepper(LEARNER, D)
        ab.save(tmp_path / "c", narrow)
    wide = ab.load(tmp_path / "c").stepper()  # it keeps the float type that it was made with
    assert wide.state.weights.dtype == np.float32 and np.array_equal(wide.update(X[1], 2.0), narrow.update(X[1], 2.0))


def test_equal_states_give_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        ab.save(tmp_path / name, LEARNER, LEARNER.init(D), STREAM, at=[1, None, {"x": 0.1}])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    back = ab.load(tmp_path / "a")
    assert back.notes == {"at": [1, None, {"x": 0.1}]} and back.position is None and back.stream == STREAM


def test_the_first_format_is_read_for_ever() -> None:
    back = ab.load(KEPT)
    assert back.learner == ab.LinearLearner(ab.IDBD(0.05), ab.EMANormalizer()) and back.stream == ab.RandomWalkStream(3)
    assert back.notes == {"written": "with alberta_nb 0.1.0"} and back.position.steps == 100
    again = ab.run_learning_loop(back.learner, back.stream, 100, learner_state=back.state, stream_state=back.position)
    whole = ab.run_learning_loop(back.learner, back.stream, 200, jax.random.key(0))
    assert np.allclose(again.state.weights, whole.state.weights, atol=1e-4)  # another processor draws other last digits


# --- what is not saved ---


def test_a_state_of_another_learner_is_not_saved(tmp_path: Path) -> None:
    td = ab.TDLinearLearner(ab.TDLambda(0.1))
    network = ab.MLPLearner((5,), ab.LMS(0.1))
    wrong: list[tuple[Any, Any, str]] = [
        (
            LEARNER,
            td.init(D),
            "the state is not one of this LinearLearner: state.optimizer_state.log_step_sizes is missing",
        ),
        (network, LEARNER.init(D), "the state is not one of this MLPLearner"),
        (network, ab.MLPLearner((6,), ab.LMS(0.1)).init(D, KEY), "must have shape"),
        (LEARNER, None, "is missing"),
        (LEARNER, LEARNER.init(D).replace(bias=jnp.zeros(2)), "state.bias must have shape"),
        (LEARNER, LEARNER.init(D).replace(bias="much"), "state.bias must be an array of numbers"),
        (LEARNER, LEARNER.init(D).replace(bias=np.array(None)), "state.bias must be an array of numbers"),
        (ab.LinearLearner, LEARNER.init(D), "must be an instance"),
        ("idbd", LEARNER.init(D), "learner must have init and step"),
        (ab.Stepper(LEARNER, D), LEARNER.init(D), "a Stepper has its own"),
    ]
    for learner, state, message in wrong:
        with pytest.raises((TypeError, ValueError), match=message):
            ab.save(tmp_path / "a", learner, state)
    linear = ab.LinearLearner(ab.LMS(0.1))
    other = ab.learners.td.TDLearnerState(**vars(linear.init(D)))  # the same names and shapes
    with pytest.raises(TypeError, match="state must be one of this LinearLearner, got a TDLearnerState"):
        ab.save(tmp_path / "a", linear, other)
    with pytest.raises(ValueError, match=r"state.weights must have shape \(5,\), got \(4,\)"):
        ab.save(tmp_path / "a", LEARNER, LEARNER.init(D), ab.RandomWalkStream(5))
    assert list(tmp_path.iterdir()) == []


def test_a_position_of_another_stream_is_not_saved(tmp_path: Path) -> None:
    made = ab.run_learning_loop(LEARNER, STREAM, 10, KEY)
    walk, state, at = tmp_path / "a", made.state, made.stream_state
    table = ab.ArraySource(X, Y)
    own = ab.run_learning_loop(LEARNER, Drift(), 10, KEY).stream_state
    wrong: list[tuple[Any, Any, str]] = [
        (None, at, "position is that of a RandomWalkStream: its stream is needed"),
        (table, None, "stream is a ArraySource, whose data stay where they are"),
        (STREAM, at.state, "position must be the stream_state of a result, got LinearWorldState"),
        (ab.CyclicStream(D), at, "of a CyclicStream, got one of a RandomWalkStream"),
        (STREAM, own, "of a RandomWalkStream, got one of a Drift"),
        (STREAM, at.replace(steps=np.float32(1)), "must be a whole number"),
        (None, ab.StreamPosition(state=None, steps=np.array(-1)), "must be 0 or more"),
    ]
    for stream, position, message in wrong:
        with pytest.raises((TypeError, ValueError), match=message):
            ab.save(walk, LEARNER, state, stream, position)
    for note in (np.ones(2), float("nan"), (1, 2), {1: 2}, object(), b"1"):
        with pytest.raises(TypeError, match="note must be what JSON gives back"):
            ab.save(walk, LEARNER, state, note=note)
    deep: Any = []
    for _ in range(60):
        deep = [deep]
    with pytest.raises(ValueError, match="40 levels"):
        ab.save(walk, LEARNER, state, note=deep)
    assert list(tmp_path.iterdir()) == []


def test_what_has_no_configuration_is_given_again(tmp_path: Path) -> None:
    optax = pytest.importorskip("optax")
    learner = ab.LinearLearner(ab.from_optax(optax.adam(0.01)))
    ab.save(tmp_path / "a", learner, learner.init(D), Drift())
    for missing, options in {"learner": {}, "stream": {"learner": learner}}.items():
        with pytest.raises(
            ValueError, match=rf"its {missing} is a \w+ without a configuration: load\(path, {missing}="
        ):
            ab.load(tmp_path / "a", **options)
    assert same(ab.load(tmp_path / "a", learner=learner, stream=Drift()).state, learner.init(D))
    for wrong in (Steps(), LEARNER):
        with pytest.raises(ValueError, match="it is of another learner"):
            ab.load(tmp_path / "a", learner=wrong, stream=Drift())
    with pytest.raises(ValueError, match="the state is not one of this LinearLearner"):
        other = ab.LinearLearner(ab.from_optax(optax.sgd(0.01)))
        ab.load(tmp_path / "a", learner=other, stream=Drift())


class Far(ab.Settings):
    """Settings that JSON cannot hold."""

    top: float = float("inf")


def test_only_what_can_be_read_back_is_written() -> None:
    assert as_told(Far()) == {"class": "Far"} and as_told(Far(1.0)) == {"type": "Far", "top": 1.0}
    assert as_told(LEARNER) == LEARNER.to_config() and as_told(Drift()) == {"class": "Drift"}


# --- what is not believed ---


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file that is as it should be."""
    path = tmp_path_factory.mktemp("good") / "a"
    ab.save(path, ab.LinearLearner(ab.LMS()), ab.LinearLearner(ab.LMS()).init(2), position=None, note="as it should be")
    return path.read_bytes()


def refused(path: Path, data: bytes, **options: Any) -> str:
    """What is said of a file with these bytes: it is named, and still there."""
    path.write_bytes(data)
    with pytest.raises(ValueError) as error:
        ab.load(path, **options)
    assert str(error.value).startswith(f"{path}: ") and path.read_bytes() == data
    return str(error.value)


def headers(header: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """Headers that are not those of the file, and what is said of them."""
    learner, h = header["learner"], header
    return {
        "an unknown learner": (h | {"learner": {"type": "os.system"}}, "must be one of .*, got 'os.system'"),
        "no learner": (h | {"learner": {"type": "IDBD"}}, "its learner is a IDBD, which is none"),
        "the base of all": (h | {"learner": {"type": "Settings"}}, "got 'Settings'"),
        "a setting more": (h | {"learner": learner | {"a": 1}}, r"LinearLearner has no setting \['a'\]"),
        "a setting of another kind": (h | {"learner": learner | {"optimizer": "lms"}}, "optimizer"),
        "no stream": (h | {"stream": learner}, "its stream is a LinearLearner, which is none"),
        "other inputs": (h | {"feature_dim": 3}, r"state.weights must have shape \(3,\), got \(2,\)"),
        "no inputs": (h | {"feature_dim": 0}, "feature_dim must be"),
        "true inputs": (h | {"feature_dim": True}, "feature_dim"),
        "very many inputs": (h | {"feature_dim": 10**15}, "feature_dim must be"),
        "a network": (h | {"learner": ab.MLPLearner((3,), ab.LMS()).to_config()}, "not one of this MLPLearner"),
        "a position": (h | {"position": "Drift"}, "position.steps is missing"),
        "a stepper": (h | {"stepper": {"_one": 1}}, "its stepper has {'_one': 1}"),
        "another stepper": (h | {"stepper": {"non_finite": "ask", "skipped": 0, "wide": False}}, "its stepper has"),
        "a larger array": (with_array(h, "state.weights", shape=[10**15]), r"weights must have shape \(2,\), got"),
        "no position": ({k: v for k, v in h.items() if k != "position"}, r"some of \['position'\] is not there"),
        "notes of another type": (h | {"notes": []}, r"some of \['notes'\] is not there or of another type"),
    }


@pytest.mark.parametrize("name", headers({"learner": {}, "arrays": {"state.weights": {}}}))
def test_a_header_is_not_believed(name: str, good: bytes, tmp_path: Path) -> None:
    header, members = parts_of(good)
    (tmp_path / "a").write_bytes(zipped(header, members))
    assert ab.load(tmp_path / "a").feature_dim == 2  # it is the header that is refused
    changed, message = headers(header)[name]
    text = refused(tmp_path / "a", zipped(changed, members))
    assert re.search(message, text), text


def test_it_says_in_what_another_learner_differs(tmp_path: Path) -> None:
    made = ab.run_learning_loop(LEARNER, STREAM, 10, KEY)
    ab.save(tmp_path / "a", LEARNER, made.state, STREAM, made.stream_state)
    data = (tmp_path / "a").read_bytes()
    said = {
        "it is of another learner: optimizer.initial_step_size is 0.05 there and 0.1 here": {
            "learner": ab.LinearLearner(ab.IDBD(0.1), ab.EMANormalizer())
        },
        "it is of another learner: optimizer.type is 'IDBD' there and 'LMS' here": {
            "learner": ab.LinearLearner(ab.LMS(), ab.EMANormalizer())
        },
        "it is of another learner: type is 'LinearLearner' there and nothing here": {"learner": Steps()},
        "normalizer.type is 'EMANormalizer' there and nothing here": {"learner": ab.LinearLearner(ab.IDBD(0.05))},
        "it is of another stream: drift_rate is 0.001 there and 0.5 here": {"stream": ab.RandomWalkStream(D, 0.5)},
    }
    for message, options in said.items():
        assert message in refused(tmp_path / "a", data, **options)
    back = ab.load(tmp_path / "a", LEARNER, STREAM)
    assert back.learner is LEARNER and back.stream is STREAM
    with pytest.raises(TypeError, match="state must"):
        ab.run_learning_loop(ab.LinearLearner(ab.LMS()), STREAM, 10, KEY, back.state)
    ab.save(tmp_path / "b", LEARNER, made.state)
    with pytest.raises(ValueError, match="b: it has no stream"):
        ab.load(tmp_path / "b", stream=STREAM)
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(OSError):
            ab.load(path)
