"""The bytes of a learner: each event once, the bank's numbers, and nobody else's state."""

import subprocess
import sys
import zlib
from typing import Any

import jax
import numpy as np
import pytest

from alberta_nb.learners.linear import LinearLearner
from alberta_nb.learners.mlp import MLPLearner
from alberta_nb.loops.entities import EntityBank
from alberta_nb.loops.fold import Event, fold
from alberta_nb.loops.guard import NonFiniteError
from alberta_nb.normalizers import EMANormalizer
from alberta_nb.optimizers.autostep import Autostep
from alberta_nb.optimizers.bounders import ObGDBounding
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.optimizers.lms import LMS

D, N = 4, 60
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, D)).astype(np.float32)
Y = X.sum(axis=1)
WHO = RNG.choice(["a", "../../b", ""], N).tolist()
ROOT = jax.random.key(3)
LEARNERS = {
    "linear": LinearLearner(IDBD(0.02)),
    "scaled": LinearLearner(Autostep(), normalizer=EMANormalizer()),
    "network": MLPLearner((4,), LMS(1.0), bounder=ObGDBounding()),
}


def same(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def log(x: Any = X, y: Any = Y) -> list[Event]:
    return [Event(10 * k, *event) for k, event in enumerate(zip(x, y, WHO, strict=True))]


def folded(step: Any, events: list[Event], store: dict[Any, bytes] | None = None) -> tuple[dict[Any, bytes], list[Any]]:
    store, rows = {} if store is None else dict(store), []
    for event in events:
        store[event.entity], row = step(store.get(event.entity), event)
        rows.append(row)
    return store, rows


@pytest.mark.parametrize("name", LEARNERS)
def test_the_numbers_of_a_bank(name: str) -> None:
    step, bank = fold(LEARNERS[name], D, ROOT), EntityBank(LEARNERS[name], D, 3, key=ROOT)
    store, rows = folded(step, log())
    assert same(np.stack(rows), bank.update_many(WHO, X, Y))
    for who, state in store.items():
        assert same(step.state(state), bank.state(who)) and step.skipped(state) == 0
        assert step.predict(state, X[0]) == bank.predict(who, X[0])
    assert step.predict(None, X[0], "new") == bank.predict("new", X[0])


@pytest.mark.parametrize("name", LEARNERS)
def test_each_event_once(name: str) -> None:
    step = fold(LEARNERS[name], D, ROOT)
    wanted, rows = folded(step, log())
    for first in range(0, N, 7):  # the engine goes back to each of these places, and on from there
        store, _ = folded(step, log()[: first + 5])
        again, answers = folded(step, log()[first:], store)
        assert again == wanted
        last = {event.entity: k for k, event in enumerate(log()[: first + 5])}
        for k, answer in enumerate(answers, first):
            told_again = k >= first + 5 or last[WHO[k]] == k
            assert (answer is not None) == told_again and (answer is None or same(answer, rows[k]))


def test_offsets_of_any_kind() -> None:
    step, x = fold(LEARNERS["linear"], 2), [1.0, 2.0]
    state, offsets = None, [0, 1, 2**31, 2**63, (1_526_919_030_474 << 64) | 55, 2**128 - 1]
    for offset in offsets:
        before = state
        state, row = step(state, (offset, x, 1.0))
        assert row is not None and step.offset(state) == offset and state != before
        assert step(state, Event(np.int64(offset) if offset < 2**63 else offset, x, 5.0))[0] is state
    for wrong, error in ((-1, ValueError), (2**128, ValueError), (1.5, TypeError), ("5", TypeError), (True, TypeError)):
        with pytest.raises(error, match="offset must be"):
            step(None, (wrong, x, 1.0))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38])
def test_events_that_are_not_numbers(bad: float) -> None:
    y = Y.copy()
    y[[20, 30]] = bad
    step, careful = fold(LEARNERS["linear"], D, non_finite="skip"), fold(LEARNERS["linear"], D)
    bank = EntityBank(LEARNERS["linear"], D, 3, non_finite="skip")
    store, rows = folded(step, log(y=y))
    assert [k for k, row in enumerate(rows) if row is None] == [20, 30]
    wanted = bank.update_many(WHO, X, y)
    assert same(np.stack([row for row in rows if row is not None]), wanted[~np.isnan(wanted[:, 0])])
    assert all(same(step.state(state), bank.state(who)) for who, state in store.items())
    assert sum(map(step.skipped, store.values())) == 2
    again, answers = folded(step, log(y=y)[15:], store)
    assert again == store and sum(row is not None for row in answers) == 3, "what was skipped is not tried again"
    before = folded(careful, log(y=y)[:20])[0]
    with pytest.raises(NonFiniteError, match="the event"):
        careful(before.get(WHO[20]), log(y=y)[20])
    with pytest.raises(ValueError, match="non_finite must be"):
        fold(LEARNERS["linear"], D, non_finite="show")


def test_bytes_that_are_refused() -> None:
    step = fold(LEARNERS["linear"], D)
    state = folded(step, log())[0]["a"]
    assert step.state(bytearray(state)) is not None and same(step.state(memoryview(state)), step.state(state))
    for k in range(len(state)):
        turned = bytearray(state)
        turned[k] ^= 1 << int(RNG.integers(8))
        with pytest.raises(ValueError, match="state"):
            step(turned, log()[-1])
    for cut in (b"", state[:1], state[:48], state[:-1], state + b"\0", b"x" * len(state)):
        with pytest.raises(ValueError, match="state"):
            step.predict(cut, X[0])
    longer = state[:-4] + b"\0" * 4
    with pytest.raises(ValueError, match="state is damaged"):
        step.state(longer + zlib.crc32(longer).to_bytes(4, "little"))
    for wrong in ("text", 5, [state], {"state": state}):
        with pytest.raises(TypeError, match="state must be the bytes that a fold gave, or None"):
            step(wrong, log()[0])
    others = {
        "settings": fold(LinearLearner(IDBD(0.03)), D),
        "learner": fold(LEARNERS["scaled"], D),
        "inputs": fold(LEARNERS["linear"], D + 1),
    }
    with jax.enable_x64(True):
        others["type"] = fold(LEARNERS["linear"], D)
    for other in others.values():
        with pytest.raises(ValueError, match="state is of another learner, or of other settings or inputs"):
            other.state(state)


def test_events_that_are_refused() -> None:
    step = fold(LEARNERS["linear"], D)
    for event, error, named in (
        ((0, X[0, :2], 1.0), ValueError, r"observation must have shape \(4,\)"),
        ((0, X[0], [1.0, 2.0]), ValueError, r"target must have shape \(1,\)"),
        ((0, X[0], "a"), TypeError, "target must be numeric"),
        ((0, X[0], 1.0, None), TypeError, "entity must be text or a whole number"),
        ((0, X[0]), TypeError, "target"),
    ):
        with pytest.raises(error, match=named):
            step(None, event)
    with pytest.raises(TypeError, match="key is needed"):
        fold(LEARNERS["network"], D)


def test_in_float64(float64: None) -> None:
    step, bank = fold(LEARNERS["linear"], D), EntityBank(LEARNERS["linear"], D, 3)
    store, rows = folded(step, log(X.astype(float) / 3, Y.astype(float) / 3))
    assert same(np.stack(rows), bank.update_many(WHO, X.astype(float) / 3, Y.astype(float) / 3))
    with jax.enable_x64(False):
        state, row = step(store["a"], Event(10**6, X[0], 1.0))
    assert row.dtype == np.float64 and step.offset(state) == 10**6


ELSEWHERE = """
import sys, numpy as np
from alberta_nb import IDBD, LinearLearner, fold
step = fold(LinearLearner(IDBD(0.02)), 4)
sys.stdout.buffer.write(step(bytes.fromhex(sys.argv[1]), (10**6, np.ones(4, np.float32), 1.0))[0])
"""


def test_in_another_process() -> None:
    step = fold(LEARNERS["linear"], D)
    state = folded(step, log())[0]["a"]
    there = subprocess.run([sys.executable, "-c", ELSEWHERE, state.hex()], capture_output=True, check=True).stdout
    assert there == step(state, (10**6, np.ones(4, np.float32), 1.0))[0]
