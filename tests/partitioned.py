"""A log in memory with partitions, consumer groups and transactions, as confluent-kafka shows them; and crashes."""

import random
import threading
from collections.abc import Callable
from typing import Any, NamedTuple


class Crash(Exception):
    """The process is gone: nothing that was not written counts."""


class Fenced(Exception):
    """Somebody else has the partitions by now."""


class Finished(BaseException):
    """All messages are crossed off: what ends a test's endless loops."""


class TopicPartition(NamedTuple):
    """A place in a partition; -1001 is none."""

    topic: str
    partition: int
    offset: int = -1001


class Message(NamedTuple):
    """A message, or the end of a partition."""

    place: TopicPartition
    data: tuple[bytes | None, bytes | str | None]
    end: bool = False

    def error(self) -> object:
        return self.end or None

    def key(self) -> Any:
        return self.data[0]

    def value(self) -> Any:
        return self.data[1]

    def offset(self) -> int:
        return self.place.offset

    def partition(self) -> int:
        return self.place.partition


class Log:
    """Topics of `partitions` each, who reads what, and how far they have come; any call may crash with a chance."""

    def __init__(self, partitions: int, chance: float, seed: int):
        self.partitions, self.chance, self.random, self.crashes = partitions, chance, random.Random(seed), 0
        self.topics: dict[str, list[list[tuple[Any, Any]]]] = {}
        self.places, self.members, self.generation, self.lock = [0] * partitions, list[Any](), 0, threading.RLock()

    def of(self, topic: str) -> list[list[tuple[Any, Any]]]:
        return self.topics.setdefault(topic, [[] for _ in range(self.partitions)])

    def risk(self) -> None:
        if self.random.random() < self.chance:
            self.crashes += 1
            raise Crash

    def join(self, member: object) -> None:
        with self.lock:
            self.members.append(member)
            self.generation += 1

    def leave(self, member: object) -> None:
        with self.lock:
            self.members.remove(member)
            self.generation += 1


class Consumer:
    """One of a group, or the reader of a partition that it is assigned to."""

    def __init__(self, log: Log):
        self.log, self.generation, self.at = log, -1, dict[tuple[str, int], int]()
        self.on_assign: Callable[..., None] | None = None

    def subscribe(self, topics: list[str], on_assign: Callable[..., None]) -> None:
        (self.topic,), self.on_assign = topics, on_assign
        self.log.join(self)

    def assign(self, places: list[TopicPartition]) -> None:
        self.at = {(p.topic, p.partition): max(p.offset, 0) for p in places}

    def committed(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        self.log.risk()
        return [p._replace(offset=self.log.places[p.partition]) for p in partitions]

    def consume(self, count: int, timeout: float) -> list[Message]:
        self.log.risk()
        with self.log.lock:
            if self.on_assign is not None and self.generation != self.log.generation:
                self.generation, number = self.log.generation, self.log.members.index(self)
                mine = range(number, self.log.partitions, len(self.log.members))
                self.on_assign(self, [TopicPartition(self.topic, p) for p in mine])
            if self.on_assign is not None and self.log.places == [len(part) for part in self.log.of(self.topic)]:
                raise Finished
            return self._next(self.log.random.randint(1, count))

    def poll(self, timeout: float) -> Message | None:
        return next(iter(self.consume(1, timeout)), None)

    def _next(self, count: int) -> list[Message]:
        found = []
        for (topic, partition), first in self.at.items():
            rows = self.log.of(topic)[partition][first : first + count]
            found += [Message(TopicPartition(topic, partition, first + k), row) for k, row in enumerate(rows)]
            self.at[topic, partition] = first + len(rows)
            if not rows and self.on_assign is None:
                found.append(Message(TopicPartition(topic, partition, first), (None, None), True))
        return found

    def assignment(self) -> list[TopicPartition]:
        return [TopicPartition(*place) for place in self.at]

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        return [p._replace(offset=self.at[p.topic, p.partition]) for p in partitions]

    def consumer_group_metadata(self) -> int:
        return self.generation


class Producer:
    """Writes in transactions: all of one is there, or nothing."""

    def __init__(self, log: Log):
        self.log = log

    def init_transactions(self) -> None:
        self.log.risk()

    def begin_transaction(self) -> None:
        self.written, self.places, self.generation = list[Any](), list[TopicPartition](), -1

    def produce(self, topic: str, value: Any = None, key: Any = None, partition: int = -1) -> None:
        self.log.risk()
        self.written.append((topic, partition, (key, value)))

    def send_offsets_to_transaction(self, places: list[TopicPartition], metadata: int) -> None:
        self.log.risk()
        self.places, self.generation = places, metadata

    def commit_transaction(self) -> None:
        self.log.risk()
        with self.log.lock:
            if self.generation != self.log.generation:
                raise Fenced
            for topic, partition, row in self.written:
                self.log.of(topic)[partition].append(row)
            for place in self.places:
                self.log.places[place.partition] = place.offset
        self.log.risk()  # it was written, and nobody has heard of it
