"""One file of arrays: whole or not there, and nothing believed of it that was not checked."""

import io
import json
import os
import platform
import re
import threading
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from files import parts_of, run_python, same, with_array, zipped

import alberta_nb as ab
from alberta_nb.loops import archive as module
from alberta_nb.loops.archive import FORMAT, described, misfit, named, read_tree, reading, replacing, write_archive

TREE = {"bias": jnp.float32(0.5), "weights": jnp.zeros(2)}
NOTE = "as it should be"


def write(path: Path, tree: Any = TREE, **header: Any) -> None:
    numbers, arrays = described(tree)
    write_archive(path, {"arrays": arrays, "note": NOTE} | header, numbers)


def read(path: Path, like: Any = TREE) -> Any:
    with reading(path, {"note": str}) as (archive, header):
        assert header["note"] == NOTE
        return read_tree(archive, header["arrays"], like)


# --- a tree ---


def test_names_of_leaves() -> None:
    tree = {"a.b": 1, "c": [2, (3, None)], "d": ab.LinearLearner(ab.IDBD()).init(1)}
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


KINDS = (jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn, jnp.int8, jnp.uint16, jnp.bool_, jnp.complex64, jnp.uint32)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_every_kind_of_array(impl: str, tmp_path: Path) -> None:
    leaves, words = {}, np.random.default_rng(0).integers(0, 256, (len(KINDS), 64), np.uint8)
    for k, (word, kind) in enumerate(zip(words, map(np.dtype, KINDS), strict=True)):
        raw = word[:2] & 1 if kind.kind == "b" else word[: 2 * kind.itemsize]  # also NaNs with a payload
        leaves[f"array {k} / .."] = jnp.asarray(raw.view(kind))
    rest = {"x": jnp.zeros((3, 0)), "key": jax.random.key(9, impl=impl), "none": None, "one": (0.1,)}
    write(tmp_path / "a", tree := {"leaves": leaves, **rest})
    back = read(tmp_path / "a", tree)
    assert back["one"] == (0.1,) and type(back["one"][0]) is float
    assert same({**back, "one": ()}, {**tree, "one": ()})
    files = zipfile.ZipFile(tmp_path / "a").namelist()
    assert not any("/" in file or ".." in file for file in files) and len(files) == len(KINDS) + 4
    plain = {name: np.asarray(leaf)[::-1] for name, leaf in leaves.items()}
    tree |= {"leaves": plain, "x": np.zeros((3, 0), ">f8"), "one": (True,)}
    write(tmp_path / "a", tree)
    back = read(tmp_path / "a", tree)
    assert type(back["x"]) is np.ndarray and back["x"].dtype == np.float64 and back["x"].flags.writeable
    assert back["one"] == (True,) and all(type(leaf) is np.ndarray for leaf in back["leaves"].values())
    assert same(back["leaves"], plain)


def test_many_trees_side_by_side_and_another_tree(tmp_path: Path) -> None:
    seeds = jax.tree.map(lambda a: jnp.stack([a, a + 1]), TREE)
    write(tmp_path / "a", seeds)
    assert same(read(tmp_path / "a"), seeds)
    for like, message in (
        ({"weights": jnp.zeros(2)}, "bias is of no use"),
        ({**TREE, "more": 1}, "more is missing"),
        ({**TREE, "weights": jnp.zeros(3)}, r"weights must have shape \(2, 3\), got \(2, 2\)"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path / 'a'))}: {message}"):
            read(tmp_path / "a", like)


def test_only_what_can_be_read_back_is_written(tmp_path: Path) -> None:
    for leaf in ("much", None, object()):
        with pytest.raises(TypeError, match="a.0 must be an array of numbers, a number or a random key, got"):
            write(tmp_path / "a", {"a": [np.array(leaf)]})
    arrays = described(TREE)[1]
    wrong = {
        "at most 40 levels": {"notes": json.loads(deep(60))},
        "finite numbers": {"notes": [float("nan")]},
        "at most 33,554,432 bytes": {"notes": "x" * (1 << 25)},
        "it has format 2": {"format": FORMAT + 1},
        "bias must have a file": {"arrays": arrays | {"bias": {}}},
        "a file of its own": {"arrays": arrays | {"bias": arrays["weights"]}},
    }
    for message, header in wrong.items():
        with pytest.raises(ValueError, match=message):
            write(tmp_path / "a", TREE, **header)
    assert list(tmp_path.iterdir()) == []


def test_what_goes_wrong_in_the_block(tmp_path: Path) -> None:
    """What is not the fault of the file stays as it is."""
    write(tmp_path / "a")
    for error in (ImportError, MemoryError, KeyboardInterrupt):
        with pytest.raises(error, match="^here$"), reading(tmp_path / "a", {}):
            raise error("here")
    for error in (TypeError, ValueError, KeyError, zipfile.BadZipFile):
        with pytest.raises(ValueError, match="a: .*here"), reading(tmp_path / "a", {}):
            raise error("here")
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(OSError):
            read(path)


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
half = np.uint32(arrays["half"]) << 16
print(header["note"], arrays["a.0"].tolist(), half.view(np.float32))
"""


def test_numpy_and_zipfile_are_enough_to_read_it(tmp_path: Path) -> None:
    write(tmp_path / "a", {"a": [jnp.zeros(2)], "half": jnp.bfloat16(1.5)})
    done = run_python("-c", WITHOUT_JAX, tmp_path / "a")
    assert done.stdout == f"{NOTE} [0.0, 0.0] 1.5\n", done.stderr


# --- what is not believed ---


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file that is as it should be."""
    write(path := tmp_path_factory.mktemp("good") / "a")
    return path.read_bytes()


def refused(path: Path, data: bytes) -> str:
    """What is said of a file with these bytes: it is named, and still there."""
    path.write_bytes(data)
    with pytest.raises(ValueError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ") and path.read_bytes() == data
    return str(error.value)


def npy(array: np.ndarray, **options: Any) -> bytes:
    made = io.BytesIO()
    np.save(made, array, **options)
    return made.getvalue()


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


def headers(h: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """Headers that are not those of the file, and what is said of them."""

    def told(**changes: Any) -> dict[str, Any]:
        return with_array(h, "weights", **changes)

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
        "a larger array": (told(shape=[10**15]), r"weights must have shape \(2,\), got"),
        "a shape below 0": (told(shape=[-2]), "weights must have a file"),
        "a fraction of a shape": (told(shape=[2.0]), "weights must have a file"),
        "objects": (told(dtype="object"), "weights must have a file, .* got .*object"),
        "wider numbers": (told(dtype="float64"), r"must be float64 \(2,\), its member holds float32"),
        "other numbers": (told(dtype="int32"), r"must be int32 \(2,\), its member holds float32 \(2,\)"),
        "another kind": (told(kind="pickle"), "weights must have a file, .* got .*pickle"),
        "a key": (told(kind="rbg"), r"weights must have shape \(2,\), got \(\)"),
        "another checksum": (told(sha256="0"), "weights is damaged: its checksum is another"),
        "another's file": (told(file="bias.npy"), "every array must have a file of its own"),
        "the header's file": (told(file="header.json"), "every array must have a file of its own"),
        "a file elsewhere": (told(file="../../etc/passwd"), "its members are not those of its header"),
        "no note": ({k: v for k, v in h.items() if k != "note"}, r"arrays, note, some of \['note'\] is not there"),
        "a note of another type": (h | {"note": 1}, r"some of \['note'\] is not there or of another type"),
    }


@pytest.mark.parametrize("name", headers({"arrays": {"weights": {}}}))
def test_a_header_is_not_believed(name: str, good: bytes, tmp_path: Path) -> None:
    header, members = parts_of(good)
    (tmp_path / "a").write_bytes(zipped(header, members))
    assert same(read(tmp_path / "a"), TREE)  # it is the header that is refused
    changed, message = headers(header)[name]
    text = refused(tmp_path / "a", zipped(changed, members))
    assert re.search(message, text), text


def test_a_member_is_not_believed(good: bytes, tmp_path: Path) -> None:
    header, members = parts_of(good)
    path, name = tmp_path / "a", "weights.npy"
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
        with archive.open("weights.npy", "w") as member:
            for _ in range(16):
                member.write(bytes(1 << 24))
    tracemalloc.start()
    try:
        assert "are compressed" in refused(tmp_path / "b", (tmp_path / "a").read_bytes())
        large = with_array(header, "weights", shape=[1 << 40])
        assert "weights must have shape" in refused(tmp_path / "b", zipped(large, members))
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
    path, rng, harmless = tmp_path / "a", np.random.default_rng(0), set()
    for k in range(len(good)):
        data = bytearray(good)
        data[k] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            assert same(read(path), TREE)
            harmless.add(k)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
    header, members = parts_of(good)
    for member in (json.dumps(header).encode(), *members.values()):
        at = good.index(member)
        assert harmless.isdisjoint(range(at, at + len(member)))
    assert len(harmless) < 0.15 * len(good)


def test_every_length_but_its_own_is_refused(good: bytes, tmp_path: Path) -> None:
    for length in range(0, len(good), 7):
        assert "zip" in refused(tmp_path / "a", good[:length]) or "cut off" in refused(tmp_path / "a", good[:length])


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
    write(tmp_path / "a")

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, fails, fail)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "a", {"weights": jnp.ones(3)})
    assert same(read(tmp_path / "a"), TREE) and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_the_file_and_its_name_are_brought_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(module.os, "fsync", lambda fd: (done.append(os.fstat(fd).st_ino), sync(fd)))
    monkeypatch.setattr(module.os, "replace", lambda a, b: (done.append("renamed"), replace(a, b)))
    write(tmp_path / "a")
    assert done == [(tmp_path / "a").stat().st_ino, "renamed", tmp_path.stat().st_ino]


def test_threads_that_write_one_file_do_not_meet(tmp_path: Path) -> None:
    trees = [{"a": np.full(5, n), "b": [np.full((), n)]} for n in range(8)]
    threads = [threading.Thread(target=lambda t=t: [write(tmp_path / "a", t) for _ in range(5)]) for t in trees]
    for thread in threads:
        thread.start()
    for _ in range(20):
        if (tmp_path / "a").exists():
            back = read(tmp_path / "a", trees[0])
            assert same(back, trees[int(back["b"][0])])
    for thread in threads:
        thread.join()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


KILLED = """
import os, random, signal, sys, time
import numpy as np
from alberta_nb.loops.archive import described, read_tree, reading, write_archive

path, times = sys.argv[1], int(sys.argv[2])
like = {str(k): np.zeros(40, np.float32) for k in range(12)}  # of numpy: JAX starts no threads

def save(n):
    numbers, arrays = described({k: np.full(40, n, np.float32) for k in like})
    write_archive(path, {"arrays": arrays, "round": n}, numbers)

def check(least):
    with reading(path, {"round": int}) as (archive, header):
        n, tree = header["round"], read_tree(archive, header["arrays"], like)
    assert n >= least and all((a == n).all() for a in tree.values()), (n, least)
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
    write(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
