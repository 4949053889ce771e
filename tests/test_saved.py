"""One file: bit for bit in another process, whole or not there, and nothing believed of a file that was not checked."""

import io
import json
import os
import platform
import re
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from saved_lives import FIRST, REST, D, Drift, Steps, X, Y, bits, given, lives

import alberta_nb as ab
from alberta_nb.learners.base import Learner
from alberta_nb.loops import saved as module
from alberta_nb.loops.saved import FORMAT, as_told, misfit, named, replacing
from alberta_nb.loops.start import stream_start
from alberta_nb.streams.sources import Source

HERE = Path(__file__).parent
KEPT = HERE / "data" / "saved_1.alberta"  # written by the first version of the format, and never again
KEY = jax.random.key(0)
LEARNER = ab.LinearLearner(ab.IDBD(0.05), ab.EMANormalizer())
STREAM = ab.RandomWalkStream(D)


def run_python(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """Another process, with this package."""
    path = os.pathsep.join([str(Path(ab.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path} | more
    return subprocess.run([sys.executable, *map(str, arguments)], env=env, capture_output=True, text=True, check=False)


def same(a: Any, b: Any) -> bool:
    """Whether two trees are of one structure and hold the same bits of the same types."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    alike = jax.tree.structure(a) == jax.tree.structure(b)
    return alike and all(x.dtype == y.dtype and same_bits(x, y) for x, y in pairs)


def same_bits(a: Any, b: Any) -> bool:
    keys = jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
    x, y = (np.asarray(jax.random.key_data(v) if keys else v) for v in (a, b))
    return x.shape == y.shape and x.tobytes() == y.tobytes()


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
    yield {name.upper(): str(value) for name, value in names.items()} | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
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


class Odd(ab.Settings):
    """A learner whose state has one of everything."""

    def init(self, feature_dim: int) -> Any:
        leaves = {f"array {k} / ..": jnp.zeros((2,), kind) for k, kind in enumerate(self.kinds)}
        return {
            "x": jnp.zeros((feature_dim, 0)),
            "key": jax.random.key(0),
            "leaves": leaves,
            "none": None,
            "one": (1.0,),
        }

    def step(self, state: Any, time_step: Any) -> Any:
        raise NotImplementedError

    kinds = (jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn, jnp.int8, jnp.uint16, jnp.bool_, jnp.complex64, jnp.uint32)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_every_kind_of_array(impl: str, tmp_path: Path) -> None:
    state = Odd().init(3)
    words = np.random.default_rng(0).integers(0, 256, (len(Odd.kinds), 64), np.uint8)
    for word, (name, leaf) in zip(words, state["leaves"].items(), strict=True):
        raw = word[:2] & 1 if leaf.dtype == bool else word[: 2 * leaf.dtype.itemsize]  # also NaNs with a payload
        state["leaves"][name] = jnp.asarray(raw.view(leaf.dtype))
    state["key"], state["one"] = jax.random.key(9, impl=impl), (0.1,)
    ab.save(tmp_path / "a", Odd(), state)
    back = ab.load(tmp_path / "a").state
    assert back["one"] == (0.1,) and type(back["one"][0]) is float
    assert same({**back, "one": ()}, {**state, "one": ()})
    names = zipfile.ZipFile(tmp_path / "a").namelist()
    assert not any("/" in name or ".." in name for name in names) and len(names) == len(Odd.kinds) + 4
    plain = {"x": np.zeros((3, 0), ">f8"), "key": state["key"], "one": (True,)}
    ab.save(
        tmp_path / "a", Odd(), state | plain | {"leaves": {n: np.asarray(v)[::-1] for n, v in state["leaves"].items()}}
    )
    back = ab.load(tmp_path / "a").state
    assert type(back["x"]) is np.ndarray and back["x"].dtype == np.float64 and back["x"].flags.writeable
    assert back["one"] == (True,) and all(type(leaf) is np.ndarray for leaf in back["leaves"].values())
    assert same(back["leaves"], {n: np.asarray(v)[::-1] for n, v in state["leaves"].items()})


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


WITHOUT_JAX = """
import hashlib, json, sys, zipfile
sys.modules |= dict.fromkeys(("jax", "alberta_nb", "ml_dtypes"))
import numpy as np
with zipfile.ZipFile(sys.argv[1]) as archive:
    header, arrays = json.loads(archive.read("header.json")), {}
    for name, about in header["arrays"].items():
        with archive.open(about["file"]) as member:
            arrays[name] = np.load(member, allow_pickle=False)
        assert hashlib.sha256(arrays[name].tobytes()).hexdigest() == about["sha256"]
half = np.uint32(arrays["state.1.half"]) << 16
print(header["learner"]["class"], arrays["state.0"].tolist(), half.view(np.float32))
"""


def test_numpy_and_zipfile_are_enough_to_read_it(tmp_path: Path) -> None:
    state = Steps().init(2)
    state[1]["half"] = jnp.bfloat16(1.5)
    ab.save(tmp_path / "a", Steps(), state)
    done = run_python("-c", WITHOUT_JAX, tmp_path / "a")
    assert done.stdout == "Steps [0.0, 0.0] 1.5\n", done.stderr


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


def parts_of(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The header and the other members."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return json.loads(members.pop("header.json")), members


def zipped(header: Any, members: dict[str, bytes], *more: tuple[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    """A file with these members."""
    with zipfile.ZipFile(made := io.BytesIO(), "w", how) as archive:
        text = header if isinstance(header, str | bytes) else json.dumps(header)
        for name, member in (("header.json", text), *members.items(), *more):
            archive.writestr(zipfile.ZipInfo(name), member, how)
    return made.getvalue()


def refused(path: Path, data: bytes, **options: Any) -> str:
    """What is said of a file with these bytes: it is named, and still there."""
    path.write_bytes(data)
    with pytest.raises(ValueError) as error:
        ab.load(path, **options)
    assert str(error.value).startswith(f"{path}: ") and path.read_bytes() == data
    return str(error.value)


def npy(array: np.ndarray, **options: Any) -> bytes:
    made = io.BytesIO()
    np.save(made, array, **options)
    return made.getvalue()


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


def with_array(header: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The header with something else said of the weights."""
    arrays = header["arrays"]
    return header | {"arrays": arrays | {"state.weights": arrays["state.weights"] | changes}}


def headers(header: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """Headers that are not those of the file, and what is said of them."""
    learner, h = header["learner"], header
    return {
        "no JSON": ("{", "Expecting"),
        "no text": (b"\xff\xfe\xff", "can't decode|Expecting"),
        "no object": (3, "must have a format, 1 or more"),
        "no format": ({}, "must have a format, 1 or more, got None"),
        "a word for it": (h | {"format": "1"}, "must have a format, 1 or more, got '1'"),
        "a newer one": ({"format": FORMAT + 1, "all": "else may differ"}, f"has format {FORMAT + 1}, and this version"),
        "nothing else": ({"format": 1}, "some of .* is not there or of another type"),
        "no arrays": (h | {"arrays": []}, r"some of \['arrays'\] is not there or of another type"),
        "too deep for Python": ('{"format": ' + deep(100_000) + "}", "it is nested too deep"),
        "too deep": (h | {"notes": {"a": json.loads(deep(50))}}, "at most 40 levels deep"),
        "too long": (h | {"notes": {"a": [0] * 1_000_001}}, "at most 1,000,000 values"),
        "not a number": (h | {"notes": {"a": float("nan")}}, "finite numbers"),
        "a name twice": ('{"format": 1, "format": 1}', "a name stands there twice"),
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
        "a larger array": (with_array(h, shape=[10**15]), r"state.weights must have shape \(2,\), got"),
        "a shape below 0": (with_array(h, shape=[-2]), "state.weights must have a file"),
        "a fraction of a shape": (with_array(h, shape=[2.0]), "state.weights must have a file"),
        "objects": (with_array(h, dtype="object"), "state.weights must have a file, .* got .*object"),
        "wider numbers": (with_array(h, dtype="float64"), r"must be float64 \(2,\), its member holds float32"),
        "other numbers": (with_array(h, dtype="int32"), r"must be int32 \(2,\), its member holds float32 \(2,\)"),
        "another kind": (with_array(h, kind="pickle"), "state.weights must have a file, .* got .*pickle"),
        "a key": (with_array(h, kind="rbg"), r"state.weights must have shape \(2,\), got \(\)"),
        "another checksum": (with_array(h, sha256="0"), "state.weights is damaged: its checksum is another"),
        "another's file": (with_array(h, file="state.bias.npy"), "every array must have a file of its own"),
        "the header's file": (with_array(h, file="header.json"), "every array must have a file of its own"),
        "a file elsewhere": (with_array(h, file="../../etc/passwd"), "its members are not those of its header"),
    }


@pytest.mark.parametrize("name", headers({"learner": {}, "arrays": {"state.weights": {}}}))
def test_a_header_is_not_believed(name: str, good: bytes, tmp_path: Path) -> None:
    header, members = parts_of(good)
    (tmp_path / "a").write_bytes(zipped(header, members))
    assert ab.load(tmp_path / "a").feature_dim == 2  # it is the header that is refused
    changed, message = headers(header)[name]
    text = refused(tmp_path / "a", zipped(changed, members))
    assert re.search(message, text), text


def test_a_member_is_not_believed(good: bytes, tmp_path: Path) -> None:
    header, members = parts_of(good)
    path, name = tmp_path / "a", "state.weights.npy"
    objects = np.array([None, print], object)
    said = {
        "its members are not those of its header": [
            zipped(header, members, ("more.npy", b"")),
            zipped(header, {n: m for n, m in members.items() if n != name}),
        ],
        "header.json must be there": [zipped(header, members).replace(b"header.json", b"heade-.json")],
        "are compressed": [
            zipped(header, members, how=zipfile.ZIP_DEFLATED),
            zipped(header, members, how=zipfile.ZIP_LZMA),
        ],
        r"member holds float32 \(1, 2\)": [zipped(header, members | {name: npy(np.zeros((1, 2), np.float32))})],
        r"member holds float64 \(1,\)": [zipped(header, members | {name: npy(np.zeros(1))})],
        "member holds object|must have 8 bytes": [zipped(header, members | {name: npy(objects, allow_pickle=True)})],
        "must have 8 bytes, its member has 20,128": [zipped(header, members | {name: npy(np.zeros(5000, np.float32))})],
        "must have 8 bytes, its member has 0": [zipped(header, members | {name: b""})],
        "magic string": [zipped(header, members | {name: b"\x93NUMPX" + b"x" * 130})],
        "must be of version 1.0": [zipped(header, members | {name: members[name].replace(b"NUMPY\1", b"NUMPY\2")})],
        "its checksum is another": [zipped(header, members | {name: npy(np.ones(2, np.float32))})],
        "must have 8 bytes, its member has others": [
            zipped(header, members | {name: members[name] + b"1"}),
            zipped(header, members | {name: members[name][:-1]}),
        ],
        "does not begin as a zip does": [
            b"",
            b"x",
            b"not a file of this kind",
            npy(objects, allow_pickle=True),
            b"x" + good,
        ],
        "cut off, or something is behind its end": [good + b"x", good[:-1], good + b"\0" * 22, good + good[:40]],
    }
    with pytest.warns(UserWarning, match="Duplicate name"):
        said["a member is there twice"] = [zipped(header, members, (name, members[name]))]
    for message, files in said.items():
        for data in files:
            text = refused(path, data)
            assert re.search(message, text), (message, text)


def test_a_member_that_opens_to_more_is_never_opened(good: bytes, tmp_path: Path) -> None:
    """What a header claims is never reserved, and a bomb stays shut: 256 MB of zeros in a small file."""
    header, members = parts_of(good)
    with zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps(header), zipfile.ZIP_STORED)
        with archive.open("state.weights.npy", "w") as member:
            for _ in range(16):
                member.write(bytes(1 << 24))
    tracemalloc.start()
    try:
        assert "are compressed" in refused(tmp_path / "b", (tmp_path / "a").read_bytes())
        large = with_array(header, shape=[1 << 40]) | {"feature_dim": 1 << 20}
        assert "state.weights must have shape" in refused(tmp_path / "b", zipped(large, members))
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_members_that_share_their_bytes(good: bytes, tmp_path: Path) -> None:
    header, members = parts_of(good)
    with zipfile.ZipFile(made := io.BytesIO(), "w") as archive:
        archive.writestr("header.json", json.dumps(header))
        for name, member in members.items():
            archive.writestr(name, member)
        archive.writestr("a.npy", b"0" * 100_000)
        one = archive.infolist()[-1]
        for k in range(10):
            copy = zipfile.ZipInfo(f"{k}.npy")
            for field in ("header_offset", "file_size", "compress_size", "CRC", "external_attr", "create_version"):
                setattr(copy, field, getattr(one, field))
            archive.filelist.append(copy)
    text = refused(tmp_path / "a", made.getvalue())
    assert "its members have 1,1" in text or "Overlapped" in text


def test_every_bit_counts(good: bytes, tmp_path: Path) -> None:
    """One bit of a byte is turned, everywhere: the file is refused, or it is what it was (a date, a right to read)."""
    path, whole, harmless = tmp_path / "a", good, 0
    path.write_bytes(whole)
    expected = ab.load(path)
    rng = np.random.default_rng(0)
    for k in range(0, len(whole), 2):
        data = bytearray(whole)
        data[k] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            found = ab.load(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
            continue
        harmless += 1
        assert same(found.state, expected.state) and found.learner == expected.learner
        assert (found.notes, found.feature_dim, found.position) == (expected.notes, 2, None)
    assert harmless < 0.08 * len(whole)


def test_every_length_but_its_own_is_refused(good: bytes, tmp_path: Path) -> None:
    for length in range(0, len(good), 7):
        assert "zip" in refused(tmp_path / "a", good[:length]) or "cut off" in refused(tmp_path / "a", good[:length])


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


def test_names_of_leaves() -> None:
    tree = {"a.b": 1, "c": [2, (3, None)], "d": LEARNER.init(1)}
    assert list(named(tree))[:3] == ["a.b", "c.0", "c.1.0"] and "d.optimizer_state.traces" in named(tree)
    with pytest.raises(ValueError, match="two arrays have the name a.b"):
        named({"a.b": 1, "a": {"b": 2}})
    like = {"x": np.zeros((2, 3)), "y": np.zeros(())}
    assert misfit(like, {"x": (2, 3), "y": ()}) == misfit(like, {"x": (5, 2, 3), "y": (5,)}) == []
    wrong = (
        {"x": (5, 2, 3), "y": ()},
        {"x": (5, 2, 3), "y": (4,)},
        {"x": (2, 4), "y": ()},
        {"x": (2, 3)},
        {"z": (), **{"x": (2, 3), "y": ()}},
    )
    assert all(misfit(like, shapes) for shapes in wrong)


# --- whole or not there ---


def test_files_are_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replacing(path) as part:
        part.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        part.write_text("new, but ha")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    link = tmp_path / "link"
    link.symlink_to("a.txt")
    with replacing(link) as part:
        part.write_text("new")
    assert link.is_symlink() and path.read_text() == "new"
    left = tmp_path / f".a.txt.0.{platform.node()}-{10**30}.part"  # of a process that was killed
    left.touch()
    with replacing(path) as part:
        part.write_text("newer")
    assert path.read_text() == "newer" and not left.exists()
    with replacing(tmp_path / ("é" * 120)) as part:  # 240 bytes: no room for a longer name
        part.write_text("long")


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_disk_that_fails_leaves_what_was_there(fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ab.save(tmp_path / "a", LEARNER, LEARNER.init(2))

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, fails, fail)
    with pytest.raises(OSError, match="No space"):
        ab.save(tmp_path / "a", LEARNER, LEARNER.init(3))
    assert ab.load(tmp_path / "a").feature_dim == 2 and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_the_file_and_its_name_are_brought_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(module.os, "fsync", lambda fd: (done.append(os.fstat(fd).st_ino), sync(fd)))
    monkeypatch.setattr(module.os, "replace", lambda a, b: (done.append("renamed"), replace(a, b)))
    ab.save(tmp_path / "a", LEARNER, LEARNER.init(2))
    assert done == [(tmp_path / "a").stat().st_ino, "renamed", tmp_path.stat().st_ino]


def test_threads_that_save_one_file_do_not_meet(tmp_path: Path) -> None:
    states = [LEARNER.init(n) for n in range(1, 9)]
    threads = [
        threading.Thread(target=lambda s=s: [ab.save(tmp_path / "a", LEARNER, s) for _ in range(5)]) for s in states
    ]
    for thread in threads:
        thread.start()
    for _ in range(20):
        if (tmp_path / "a").exists():
            back = ab.load(tmp_path / "a")
            assert same(back.state, LEARNER.init(back.feature_dim))
    for thread in threads:
        thread.join()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


KILLED = """
import os, random, signal, sys, time
import jax, numpy as np
import alberta_nb as ab

path, times = sys.argv[1], int(sys.argv[2])
learner = ab.LinearLearner(ab.IDBD(), ab.EMANormalizer())
like = jax.eval_shape(lambda: learner.init(40))

def save(n):
    state = jax.tree.map(lambda a: np.full(a.shape, n, a.dtype), like)  # of numpy: JAX starts no threads
    ab.save(path, learner, state, round=n)

def check(least):
    saved = ab.load(path)
    n = saved.notes["round"]
    assert n >= least and all((a == n).all() for a in jax.tree.leaves(saved.state)), (n, least)
    return n

random.seed(0)
save(n := 0)
for _ in range(times):
    child = os.fork()
    if not child:
        while True:
            save(n := n + 1)
    time.sleep(random.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    n = check(n)
print(n, len(os.listdir(os.path.dirname(path))))
"""


@pytest.mark.skipif(os.name != "posix", reason="processes are not forked and killed there")
def test_a_process_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    done = run_python("-c", KILLED, tmp_path / "a", 50)
    assert done.returncode == 0, done.stdout + done.stderr
    rounds, files = map(int, done.stdout.split())
    assert rounds > 10 and files <= 2  # what the last one had begun may still be there
    ab.save(tmp_path / "a", LEARNER, LEARNER.init(2))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
