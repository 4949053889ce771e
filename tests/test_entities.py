"""A learner a key: the numbers of a stepper a key, whatever is in a batch and whatever had to go to disk."""

import copy
import functools
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

from alberta_nb import load
from alberta_nb.learners.linear import LinearLearner
from alberta_nb.learners.mlp import MLPLearner
from alberta_nb.loops.entities import EntityBank, Shelf
from alberta_nb.loops.guard import NonFiniteError
from alberta_nb.loops.lanes import entity_random
from alberta_nb.loops.stepper import Stepper
from alberta_nb.optimizers.bounders import ObGDBounding
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.optimizers.lms import LMS

D, N = 6, 1_200
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, D)).astype(np.float32)
Y = (X[:, :3].sum(axis=1) + 0.1 * RNG.standard_normal(N)).astype(np.float32)
HOSTILE = ["../../x", "/etc/passwd", "", ".", "a\0b", "CON", "é", "e\u0301", "漢字", "x" * 100_000, "1", 1, -1, 2**200]
HOSTILE += ["a/b", "a\\b", "\n", "number 1", "text ", 0]
KEYS: list[Any] = [HOSTILE[int(len(HOSTILE) * r**2)] for r in RNG.random(N)]
LEARNER = LinearLearner(IDBD(0.02))
NETWORK = MLPLearner((4,), LMS(1.0), bounder=ObGDBounding())
ROOT = jax.random.key(5)


def same(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def in_batches(bank: EntityBank, cuts: Sequence[int], keys: Any = KEYS, x: Any = X, y: Any = Y) -> np.ndarray:
    return np.concatenate([bank.update_many(keys[a:b], x[a:b], y[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)])


@functools.cache
def steppers(learner: Any, kind: str) -> tuple[np.ndarray, dict[Any, Stepper]]:
    """The rows of all events, and a stepper a key that has learned its own."""
    rows, alone = np.empty((N, 4), kind), {}
    for key in set(KEYS):
        state = learner.init(D, entity_random(ROOT, key)) if learner is NETWORK else None
        its = [k == key for k in KEYS]
        alone[key] = Stepper(learner, D, state=state)
        scale = 1 if kind == "float32" else 3
        rows[its] = alone[key].update_many(X[its].astype(kind) / scale, Y[its].astype(kind) / scale)
    return rows, alone


def same_as_steppers(bank: EntityBank, rows: np.ndarray) -> bool:
    wanted, alone = steppers(bank.learner, rows.dtype.name)
    states = all(same(one.state, bank.state(key)) for key, one in alone.items())
    said = [np.isclose(one.predict(X[0]), bank.predict(k, X[0]), rtol=1e-5, atol=1e-6) for k, one in alone.items()]
    return states and same(wanted, rows) and all(said)


CUTS = {
    "whole": [0, N],
    "singles": [*range(120), N],
    "uneven": [0, 1, 2, 9, 9, 30, 31, 64, 200, 700, 701, N],
    "hundreds": list(range(0, N + 1, 100)),
}


@pytest.mark.parametrize("capacity", [1, 2, 5, 19, 20, 1_000])
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_the_numbers_of_a_stepper_a_key(capacity: int, cuts: list[int], tmp_path: Path) -> None:
    bank = EntityBank(LEARNER, D, capacity, spill=tmp_path)
    assert same_as_steppers(bank, in_batches(bank, cuts))
    assert len(bank) == len(set(KEYS)) == len(bank.keys()) and set(bank.keys()) == set(KEYS) and bank.skipped == 0
    assert len(bank._lane) == min(capacity, len(bank)) and not list(tmp_path.iterdir())
    assert bank.keys()[-1] == KEYS[-1]
    assert bank._shelf is not None and bank._shelf.rows <= 2 * len(bank)


@pytest.mark.parametrize("capacity", [1, 7, 20])
def test_networks_start_by_their_keys_alone(capacity: int, tmp_path: Path) -> None:
    bank = EntityBank(NETWORK, D, capacity, spill=tmp_path, key=ROOT)
    assert same_as_steppers(bank, in_batches(bank, CUTS["uneven"]))
    other = EntityBank(NETWORK, D, 100, key=jax.random.PRNGKey(5))
    for key in reversed(HOSTILE):
        its = [k for k, name in enumerate(KEYS) if name == key and type(name) is type(key)]
        other.update_many([key] * len(its), X[its], Y[its])
    assert all(same(bank.state(key), other.state(key)) for key in set(KEYS))
    assert EntityBank(NETWORK, D, 1, key=jax.random.key(6)).predict("a", X[0]) != bank.predict("new", X[0])


def test_in_float64(float64: None, tmp_path: Path) -> None:
    x, y = X.astype(np.float64) / 3, Y.astype(np.float64) / 3
    bank = EntityBank(LEARNER, D, 3, spill=tmp_path)
    rows = in_batches(bank, CUTS["uneven"], x=x, y=y)
    assert rows.dtype == np.float64 and same_as_steppers(bank, rows)
    with jax.enable_x64(False):
        later = bank.update_many(KEYS[:50], x[:50], y[:50])
        assert later.dtype == np.float64 and bank.predict("a", x[0]).dtype == np.float64
    bank.save(tmp_path / "wide")
    back = EntityBank.load(tmp_path / "wide", spill=tmp_path)
    assert same(back.state("1"), bank.state("1")) and back._lanes.wide
    narrow = EntityBank.load(saved_narrow(tmp_path))
    assert not narrow._lanes.wide and narrow.update("a", x[0], 1.0).dtype == np.float32  # type: ignore[union-attr]


def saved_narrow(folder: Path) -> Path:
    with jax.enable_x64(False):
        bank = EntityBank(LEARNER, D, 3)
        bank.update("a", X[0], Y[0])
        bank.save(folder / "narrow")
    return folder / "narrow"


def test_who_leaves_is_the_one_not_used_for_longest(tmp_path: Path) -> None:
    bank = EntityBank(LEARNER, D, 3, spill=tmp_path)
    for batch, inside in (("abc", "abc"), ("a", "bca"), ("d", "cad"), ("caca", "dca"), ("e", "cae"), ("bdfg", "dfg")):
        bank.update_many(list(batch), X[: len(batch)], Y[: len(batch)])
        assert "".join(map(str, bank._lane)) == inside, batch
    bank.predict("b", X[0])
    bank.state("b")
    assert "".join(map(str, bank._lane)) == "dfg", "a question changes nothing"
    bank.update_many([], np.zeros((0, D)), [])
    assert "".join(map(str, bank._lane)) == "dfg" and len(bank) == 7


def test_keys_of_any_column() -> None:
    wanted = EntityBank(LEARNER, D, 9).update_many([3, 1, 3], X[:3], Y[:3])
    for keys in (
        np.array([3, 1, 3]),
        np.array([3, 1, 3], np.uint8),
        pd.Series([3, 1, 3]),
        (3, np.int64(1), np.array(3)),
    ):
        bank = EntityBank(LEARNER, D, 9)
        assert same(bank.update_many(keys, X[:3], Y[:3]), wanted) and bank.keys() == [1, 3]
        assert set(map(type, bank.keys())) == {int} and 3 in bank and "3" not in bank
    texts = EntityBank(LEARNER, D, 9)
    for keys in (np.array(["c", "a", "c"]), pd.Series(["c", "a", "c"]), pd.Categorical(["c", "a", "c"])):
        texts.update_many(keys, X[:3], Y[:3])
    assert texts.keys() == ["a", "c"] and set(map(type, texts.keys())) == {str}


@pytest.mark.parametrize(
    ("keys", "error", "named"),
    [
        ("ab", TypeError, "keys must be a sequence with one key for each event, got str"),
        (b"ab", TypeError, "got bytes"),
        ({"a": 1, "b": 2}, TypeError, "got dict"),
        (5, TypeError, "got int"),
        (["a", None], TypeError, r"keys\[1\] must be text or a whole number, got 'None'"),
        ([True, False], TypeError, r"keys\[0\] must be text or a whole number"),
        ([0.5, 1.0], TypeError, r"keys\[0\]"),
        (["a"], ValueError, "keys must have one key for each event: 2, got 1"),
        (["a", "\ud800"], ValueError, "UTF-8"),
        (["a", 2**300], ValueError, "256 bits"),
    ],
)
def test_keys_that_are_refused(keys: Any, error: type[Exception], named: str) -> None:
    bank = EntityBank(LEARNER, D, 9)
    for call in (lambda: bank.update_many(keys, X[:2], Y[:2]), lambda: bank.predict_many(keys, X[:2])):
        with pytest.raises(error, match=named):
            call()
    assert len(bank) == 0 and not bank.update_many([], np.zeros((0, D)), []).size


def test_what_is_refused_when_it_is_made(tmp_path: Path) -> None:
    for capacity in (0, -1, 2**25):
        with pytest.raises(ValueError, match="capacity must be"):
            EntityBank(LEARNER, D, capacity)
    with pytest.raises(TypeError, match="capacity must be a whole number"):
        EntityBank(LEARNER, D, 2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="non_finite must be 'raise' or 'skip', got 'show'"):
        EntityBank(LEARNER, D, 5, non_finite="show")
    with pytest.raises(TypeError, match="key is needed, a MLPLearner"):
        EntityBank(NETWORK, D, 5)
    with pytest.raises(ValueError, match="feature_dim must be 1 or more"):
        EntityBank(LEARNER, 0, 5)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        EntityBank(LEARNER, D, 5, spill=tmp_path / "file" / "folder")


def test_events_that_are_refused() -> None:
    bank = EntityBank(LEARNER, D, 9)
    with pytest.raises(ValueError, match=r"observations must have shape \(n, 6\), got \(2, 5\)"):
        bank.update_many(["a", "b"], X[:2, :5], Y[:2])
    with pytest.raises(ValueError, match=r"targets must have shape \(2,\)"):
        bank.update_many(["a", "b"], X[:2], Y[:3])
    with pytest.raises(ValueError, match=r"observation must have shape \(6,\)"):
        bank.predict("a", X[:2])
    with pytest.raises(TypeError, match="targets must be numeric"):
        bank.update_many(["a"], X[:1], ["b"])
    assert len(bank) == 0
    with pytest.raises(KeyError, match="a"):
        bank.state("a")
    with pytest.raises(KeyError, match="a"):
        bank.forget("a")


BAD = {"nan": np.nan, "inf": np.inf, "burst": 1e38}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("capacity", [2, 50])
def test_an_event_in_the_middle_that_is_bad(kind: str, capacity: int, tmp_path: Path) -> None:
    y = Y.copy()
    bad = [5, 6, 300, N - 1]
    y[bad] = BAD[kind]
    bank = EntityBank(LEARNER, D, capacity, spill=tmp_path, non_finite="skip")
    rows = in_batches(bank, CUTS["uneven"], y=y)
    assert np.flatnonzero(np.isnan(rows).any(axis=1)).tolist() == bad and bank.skipped == 4
    good = np.setdiff1d(np.arange(N), bad)
    clean = EntityBank(LEARNER, D, 50)
    assert same(clean.update_many([KEYS[k] for k in good], X[good], Y[good]), rows[good])
    assert all(same(clean.state(key), bank.state(key)) for key in clean.keys())
    careful = EntityBank(LEARNER, D, capacity, spill=tmp_path)
    careful.update_many(KEYS[:5], X[:5], Y[:5])
    before = {key: careful.state(key) for key in careful.keys()}
    with pytest.raises(NonFiniteError, match="event 0 of this call") as caught:
        careful.update_many(KEYS[5:400], X[5:400], y[5:400])
    assert caught.value.what == ("state" if kind == "burst" else "time step") and careful.skipped == 0
    assert careful.keys() == list(before) and all(same(careful.state(key), before[key]) for key in before)


def test_an_entity_that_never_learned_is_not_there() -> None:
    bank = EntityBank(LEARNER, D, 2, non_finite="skip")
    for k in range(5):
        assert bank.update(f"bad {k}", X[0], np.nan) is None
    assert len(bank) == 0 and bank.skipped == 5 and "bad 0" not in bank
    assert bank.update("good", X[0], 1.0) is not None and bank.keys() == ["good"]


def test_a_question_changes_nothing(tmp_path: Path) -> None:
    bank = EntityBank(NETWORK, D, 4, spill=tmp_path, key=ROOT)
    bank.update_many(KEYS[:300], X[:300], Y[:300])
    keys, states = bank.keys(), {key: bank.state(key) for key in bank.keys()}
    asked = [*KEYS[:200], *(f"new {k}" for k in range(100))]
    said = bank.predict_many(asked, X[:300])
    assert said.shape == (300,) and bank.predict_many([], np.zeros((0, D))).shape == (0,)
    assert bank.keys() == keys and all(same(bank.state(key), states[key]) for key in keys)
    assert [bank.predict(key, x)[0] for key, x in zip(asked, X[:300], strict=True)][::7] == said[::7].tolist()
    for key, x, one in list(zip(asked, X, said, strict=False))[::23]:
        state = states[key] if key in states else NETWORK.init(D, entity_random(ROOT, key))
        assert np.isclose(one, NETWORK.predict(state, x)[0], rtol=1e-5, atol=1e-6)


def test_to_forget(tmp_path: Path) -> None:
    bank, other = (EntityBank(LEARNER, D, 2, spill=tmp_path) for _ in range(2))
    bank.update_many(list("abcd"), X[:4], Y[:4])
    for key in ("a", "d"):  # on disk, and in a lane
        bank.forget(key)
        assert key not in bank
    assert sorted(map(str, bank.keys())) == ["b", "c"]
    later = bank.update_many(list("abcd"), X[4:8], Y[4:8])
    other.update_many(list("bc"), X[1:3], Y[1:3])
    assert same(later, other.update_many(list("abcd"), X[4:8], Y[4:8]))
    assert len(bank) == 4 and bank._shelf is not None and bank._shelf.rows <= 4


def test_without_a_folder_what_does_not_fit_is_refused() -> None:
    bank = EntityBank(LEARNER, D, 3)
    bank.update_many(list("ab"), X[:2], Y[:2])
    states = [bank.state("a"), bank.state("b")]
    for keys in (list("acde"), list("cde"), list("abcd")):
        with pytest.raises(ValueError, match="capacity is 3, and more are needed"):
            bank.update_many(keys, X[: len(keys)], Y[: len(keys)])
        assert bank.keys() == ["a", "b"] and same([bank.state("a"), bank.state("b")], states)
    bank.update("c", X[0], Y[0])
    assert len(bank) == 3


@pytest.mark.skipif(os.name == "nt", reason="a folder that is in use stays there")
def test_a_folder_that_vanishes(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    bank = EntityBank(LEARNER, D, 2, spill=folder)
    first = bank.update_many(KEYS[:600], X[:600], Y[:600])
    folder.rmdir()
    second = bank.update_many(KEYS[600:], X[600:], Y[600:])
    assert same_as_steppers(bank, np.concatenate([first, second]))


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of a file")
def test_a_disk_that_is_full(tmp_path: Path) -> None:
    import resource

    bank = EntityBank(LEARNER, D, 3, spill=tmp_path)
    bank.update_many(list("abcde"), X[:5], Y[:5])
    keys, states = bank.keys(), [bank.state(key) for key in bank.keys()]
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    width = sum(bank._lanes.sizes) * 4
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * width + width // 2, limits[1]))  # one and a half more
    try:
        for _ in range(3):
            with pytest.raises(OSError, match="too large"):
                bank.update_many(list("fghij"), X[:5], Y[:5])
            assert bank.keys() == keys and all(same(bank.state(k), s) for k, s in zip(keys, states, strict=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    rows = bank.update_many(list("fghij"), X[:5], Y[:5])
    assert same(rows, EntityBank(LEARNER, D, 5).update_many(list("fghij"), X[:5], Y[:5]))
    assert all(same(bank.state(key), state) for key, state in zip(keys, states, strict=True)) and len(bank) == 10


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=tmp_path.name):
        EntityBank(LEARNER, D, 3, spill=tmp_path)


def test_a_folder_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**named: Any) -> None:
        raise PermissionError(13, "Permission denied", str(named["dir"]))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(PermissionError, match=tmp_path.name):
        EntityBank(LEARNER, D, 3, spill=tmp_path)


def test_a_shelf(tmp_path: Path) -> None:
    shelf, rows = Shelf(tmp_path, 3), RNG.integers(0, 2**32, (50, 3)).astype(np.uint32)
    there: dict[int, int] = {}
    for _ in range(200):
        taken = [int(k) for k in RNG.permutation(50)[: RNG.integers(0, 9)] if int(k) not in there]
        there |= dict(zip(taken, shelf.put([rows[k] for k in taken]), strict=True))
        for k in [k for k in there if RNG.random() < 0.3]:
            shelf.free.append(there.pop(k))
        assert len(set(there.values())) == len(there) and not set(there.values()) & set(shelf.free)
        assert all(np.array_equal(shelf.get(place), rows[k]) for k, place in there.items())
    assert shelf.rows <= 50 and not list(tmp_path.iterdir())
    shelf.file.truncate(5)
    with pytest.raises(OSError, match="cannot be read"):
        shelf.get(0)


@pytest.mark.parametrize("learner", [LEARNER, NETWORK], ids=["linear", "network"])
def test_save_and_load(learner: Any, tmp_path: Path) -> None:
    bank = EntityBank(learner, D, 5, spill=tmp_path, key=ROOT, non_finite="skip")
    in_batches(bank, CUTS["hundreds"])
    bank.update("1", X[0], np.nan)
    bank.save(tmp_path / "bank", offset=N, who={"a": [1]})
    for capacity in (None, 1, 7, 100):
        back = EntityBank.load(tmp_path / "bank", spill=tmp_path, capacity=capacity)
        assert back.keys() == bank.keys() and [*map(type, back.keys())] == [*map(type, bank.keys())]
        assert back.notes == {"offset": N, "who": {"a": [1]}} and back.skipped == 1 and back.non_finite == "skip"
        assert back.capacity == capacity or (capacity is None and list(back._lane) == list(bank._lane))
        assert all(same(back.state(key), bank.state(key)) for key in bank.keys())
        assert back.predict("new", X[0]) == bank.predict("new", X[0])
        twin = EntityBank.load(tmp_path / "bank", spill=tmp_path, capacity=50)
        assert same(in_batches(back, CUTS["uneven"]), in_batches(twin, CUTS["whole"]))
    saved = load(tmp_path / "bank")
    assert saved.learner == learner and saved.notes["entities"]["keys"] == bank.keys()
    assert same(jax.tree.map(lambda a: a[3], saved.state), bank.state(bank.keys()[3]))
    with pytest.raises(ValueError, match="bank: capacity is 3, and more are needed"):
        EntityBank.load(tmp_path / "bank", capacity=3)
    with pytest.raises(ValueError, match="learner"):
        EntityBank.load(tmp_path / "bank", learner=LinearLearner(IDBD(0.03)))
    with pytest.raises(TypeError, match="must be what JSON gives back"):
        bank.save(tmp_path / "bank", bad=object())
    assert EntityBank.load(tmp_path / "bank", spill=tmp_path).keys() == bank.keys(), "the old file stays"


def test_save_and_load_nobody(tmp_path: Path) -> None:
    EntityBank(LEARNER, D, 5).save(tmp_path / "bank")
    back = EntityBank.load(tmp_path / "bank")
    assert len(back) == 0 and back.capacity == 5 and back.feature_dim == D
    assert same(back.update("a", X[0], Y[0]), EntityBank(LEARNER, D, 5).update("a", X[0], Y[0]))


def test_files_that_hold_no_bank(tmp_path: Path) -> None:
    from alberta_nb import save

    bank, path = EntityBank(LEARNER, D, 5), tmp_path / "bank"
    bank.update_many(["a", "b"], X[:2], Y[:2])
    states, about = bank._lanes.unpacked(bank._gather(["a", "b"])), {}
    bank.save(path)
    about = load(path).notes["entities"]
    wrong = [
        ({}, "holds no entities"),
        ({"entities": 5}, "holds no entities"),
        ({"entities": about | {"more": 1}}, "holds no entities"),
        ({"entities": about | {"keys": ["a"]}}, "states must hold"),
        ({"entities": about | {"keys": ["a", "a"]}}, "twice"),
        ({"entities": about | {"keys": ["a", None]}}, "must be text"),
        ({"entities": about | {"capacity": 0}}, "capacity"),
        ({"entities": about | {"capacity": 1}}, "capacity is 1"),
        ({"entities": about | {"non_finite": "show"}}, "non_finite"),
        ({"entities": about | {"wide": True}}, "states must hold"),
    ]
    for notes, named in wrong:
        save(path, LEARNER, states, **notes)
        with pytest.raises(ValueError, match=f"bank: .*{named}"):
            EntityBank.load(path)
    with pytest.raises(OSError, match="missing"):
        EntityBank.load(tmp_path / "missing")


def test_threads_share_a_bank(tmp_path: Path) -> None:
    bank, errors = EntityBank(LEARNER, D, 3, spill=tmp_path), []

    def work(who: int) -> None:
        try:
            for k in range(0, N, 40):
                bank.update_many([f"{who} {key}" for key in KEYS[k : k + 40]], X[k : k + 40], Y[k : k + 40])
                bank.predict_many(KEYS[k : k + 40], X[k : k + 40])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not errors and len(bank) == 3 * len(set(map(str, KEYS)))
    by_one = EntityBank(LEARNER, D, 100)
    by_one.update_many([f"0 {key}" for key in KEYS], X, Y)
    for who in range(3):
        assert all(same(bank.state(f"{who} {key}"), by_one.state(f"0 {key}")) for key in set(KEYS))


SPILLS = """
import sys, numpy as np
from alberta_nb import EntityBank, IDBD, LinearLearner
bank = EntityBank(LinearLearner(IDBD(0.02)), 6, 2, spill=sys.argv[1])
rng = np.random.default_rng(0)
for k in range(10**9):
    bank.update_many(rng.integers(0, 50, 10), np.ones((10, 6), np.float32), np.ones(10))
    if k == 20:
        bank.save(sys.argv[2], offset=k)
        print("saved", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="kills as POSIX does")
def test_killed_in_the_middle_of_a_spill(tmp_path: Path) -> None:
    folder, path = tmp_path / "spill", tmp_path / "bank"
    child = subprocess.Popen([sys.executable, "-c", SPILLS, folder, path], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"saved\n"
    time.sleep(0.05 + 0.1 * RNG.random())
    child.kill()
    assert child.wait() == -signal.SIGKILL and not list(folder.iterdir()), "nothing is left behind"
    back, again = EntityBank.load(path, spill=folder), EntityBank(LEARNER, D, 100)
    rng = np.random.default_rng(0)
    for _ in range(back.notes["offset"] + 1):
        again.update_many(rng.integers(0, 50, 10), np.ones((10, D), np.float32), np.ones(10))
    assert set(back.keys()) == set(again.keys()) and len(back._lane) == 2
    assert all(same(back.state(key), again.state(key)) for key in back.keys())


def test_a_hundred_thousand_events_of_a_thousand_keys() -> None:
    rng = np.random.default_rng(1)
    keys, x = rng.integers(0, 1_000, 100_000), rng.standard_normal((100_000, 20)).astype(np.float32)
    y = x[:, :5].sum(axis=1)
    whole, pieces = (EntityBank(LEARNER, 20, 1_000) for _ in range(2))
    rows = whole.update_many(keys, x, y)
    assert same(in_batches(pieces, range(0, 100_001, 4_000), keys, x, y), rows)
    for k in range(0, 1_000, 25):
        alone, its = Stepper(LEARNER, 20), keys == k
        assert same(alone.update_many(x[its], y[its]), rows[its])
        assert same(alone.state, whole.state(k)) and same(alone.state, pieces.state(k))


def test_how_it_is_shown() -> None:
    bank = EntityBank(LEARNER, D, 5)
    bank.update("a", X[0], Y[0])
    assert "feature_dim=6: 1 entities, 1 of 5 lanes in use, skipped=0" in repr(bank)


def test_a_bank_is_not_shared_by_a_copy_and_keeps_its_policy() -> None:
    bank = EntityBank(LinearLearner(), 2, 4)
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="an EntityBank cannot be copied or pickled: save"):
            attempt(bank)
    with pytest.raises(ValueError, match="non_finite must be 'raise' or 'skip', got 'nonsense'"):
        bank.non_finite = "nonsense"
    with pytest.raises(TypeError, match="keys must be a sequence"):
        bank.update_many({"a", "b"}, np.ones((2, 2)), np.ones(2))
    with pytest.raises(ValueError, match="key must be one random key"):
        EntityBank(MLPLearner((3,)), 2, 4, key=jax.random.split(jax.random.key(0), 2))
