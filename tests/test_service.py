"""A service: events that count once, whatever happens to the process, the input, the disk and the clients."""

import contextlib
import functools
import http.client
import io
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from files import same

import alberta_nb as ab
from alberta_nb.apps import kept as kept_module
from alberta_nb.apps.growing import Columns, Growing
from alberta_nb.apps.http import LONGEST_BODY, Door
from alberta_nb.apps.kept import Every, Kept, alone, begin, every
from alberta_nb.apps.serve import Ending, answer_lines
from alberta_nb.apps.service import COUNTS, Place, Service, as_text, metrics, told_of
from alberta_nb.apps.taught import Taught, warm

D, WAITING = 3, 4
LEARNER = ab.LinearLearner(ab.IDBD(0.05), normalizer=ab.EMANormalizer())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    ab.save(tmp_path / "model.alberta", LEARNER, LEARNER.init(D))
    return tmp_path / "model.alberta"


def service_of(learner: Any, path: Path, state: Any = None, most: int = 100) -> Service:
    ab.save(path / "own.alberta", learner, learner.init(D) if state is None else state)
    return Service(Taught(ab.load(path / "own.alberta")), most)


def mixed(n: int, seed: int = 0) -> list[bytes]:
    """Lines of every kind: learned at once, late, never, twice, and what cannot be read."""
    rng, lines, open_ids = np.random.default_rng(seed), list[bytes](), list[int]()
    for k in range(n):
        x = rng.normal(size=D).round(3).tolist()
        kind, y = rng.integers(8), round(sum(x), 3)
        if kind < 2:
            event: Any = {"x": x, "y": y}
        elif kind < 4:
            event = {"id": k, "x": x}
            open_ids.append(k)
        elif kind in (4, 5) and open_ids:
            event = {"id": open_ids.pop(rng.integers(len(open_ids))), "y": None if kind == 5 and k % 3 == 0 else y}
        elif kind == 5:
            event = {"id": "gone", "y": y}
        elif kind == 6:
            event = {"x": x, "y": y, "seq": k + 1, "source": "a"}
        else:
            lines.append([b'{"x": [1', b"[]", b'{"x": [1, 2, NaN], "y": 1}', b"\xff", b'{"y": 1}'][k % 5])
            continue
        lines.append(json.dumps(event).encode())
    return lines


def live(model: Path, file: Path, lines: list[bytes], often: Every | None = None) -> list[dict[str, Any]]:
    """All lines in this process, and the state at their end."""
    said = list[dict[str, Any]]()
    kept = Kept(begin(model, file, WAITING), file, often or Every(0, 10**9), pytest.fail)
    answer_lines(kept.service, io.BytesIO(b"\n".join(lines)), said.append, Ending())
    assert kept.end()
    return said


# --- what an event does ---


def test_events_learn_what_update_learns(model, tmp_path, float64) -> None:
    service, state, rng = service_of(LEARNER, tmp_path), LEARNER.init(D), np.random.default_rng(1)
    waiting = {}
    for k in range(60):
        x, y = rng.normal(size=D), rng.normal()
        predicted = float(LEARNER.predict(state, x)[0])
        if k % 3 == 0:
            waiting[k] = x
            assert service.answer({"id": k, "x": x.tolist()}) == {
                "id": k,
                "prediction": pytest.approx(predicted, 1e-12),
            }
        elif k % 3 == 1:
            said, right = service.answer({"x": x.tolist(), "y": y}), LEARNER.update(state, x, y)
            assert said["prediction"] == pytest.approx(float(right.prediction[0]), 1e-12) and said["learned"]
            assert said["error"] == pytest.approx(float(right.error[0]), rel=1e-12)
            state = right.state
        elif k % 2:  # late: with the learner of now
            assert service.answer({"id": k - 2, "y": y})["learned"]
            state = LEARNER.update(state, waiting[k - 2], y).state
    for a, b in zip(jax.tree.leaves(service.taught.held.state), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    assert service.counts["late"] == 10 and len(service.waiting) == 10 and service.counts["learned"] == 30


def test_late_missing_and_repeated_targets(model) -> None:
    service = begin(model, None, 2)
    one, two = [1.0, 2.0, 3.0], [0.0, 1.0, 0.0]
    first = service.answer({"id": "a", "x": one})
    assert service.answer({"id": "a", "x": one}) == first | {"already": True}
    assert "another x" in service.answer({"id": "a", "x": two})["malformed"]
    assert service.answer({"id": "a", "y": 1})["error"] == 1.0 - first["prediction"]
    assert service.answer({"x": one, "y": [1.0]}).keys() == {"prediction", "learned", "error"}
    after = service.taught.held.state
    assert not service.answer({"id": "a", "y": 1})["learned"] and not service.answer({"id": "b", "y": 1})["learned"]
    assert service.answer({"id": "c", "x": one})["prediction"] == service.answer({"x": one, "y": None})["prediction"]
    assert list(service.answer({"id": "c", "y": None})) == ["id", "prediction", "learned"]
    for name in "def":  # the oldest goes
        service.answer({"id": name, "x": two})
    assert list(service.waiting) == ["e", "f"] and not service.answer({"id": "d", "y": 1})["learned"]
    assert same(after, service.taught.held.state)
    wanted = {"learned": 2, "late": 1, "missing": 2, "unknown": 3, "dropped": 1, "malformed": 1, "skipped": 0}
    assert {name: service.counts[name] for name in wanted} == wanted


def test_an_id_keeps_its_type_and_a_waiting_one_may_be_learned_at_once(model) -> None:
    service = begin(model, None, 9)
    service.answer({"id": 1, "x": [1, 0, 0]})
    service.answer({"id": "1", "x": [0, 1, 0]})
    assert list(service.waiting) == [1, "1"]
    assert service.answer({"id": 1, "x": [1, 0, 0], "y": 2})["learned"] and list(service.waiting) == ["1"]
    for wrong in (None, True, 1.5, [], "x" * 201, 2**63):
        assert "id must be" in service.answer({"id": wrong, "x": [1, 0, 0]})["malformed"]


def test_numbers_of_a_source_count_once(model) -> None:
    service = begin(model, None, 9)
    event = {"x": [1, 2, 3], "y": 1}
    assert service.answer(event | {"seq": 3})["learned"]
    for seq in (1, 3):
        assert service.answer(event | {"seq": seq}) == {"seq": seq, "already": True}
    assert service.answer(event | {"seq": 1, "source": "b"})["learned"]
    assert "malformed" in service.answer({"x": "no", "seq": 4}) and service.answer(event | {"seq": 4})["already"]
    for wrong in (0, -1, "1", 1.0, True, 2**63, None):
        assert "seq must be" in service.answer(event | {"seq": wrong})["malformed"]
    assert "source must not" in service.answer(event | {"seq": 9, "source": "standard input"})["malformed"]
    assert "source must come" in service.answer(event | {"source": "c"})["malformed"]
    for k in range(1_100):
        said = service.answer(event | {"seq": 1, "source": f"s{k}"})
    assert "1000 sources already" in said["malformed"] and len(service.offsets) == 1_000
    assert service.counts["learned"] == 2 + 998 and service.own["again"] == 3


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e400"])
def test_answers_are_json_whatever_was_sent(model, number) -> None:
    service = begin(model, None, 9)
    events = [
        {"x": [1, 2, 3], "y": 1, "seq": "@"}, {"x": [1, "@", 3]}, {"id": "@", "y": 1}, {"ask": "@"},
        {"x": [1, 2, 3], "seq": 1, "source": "@"},
    ]  # fmt: skip
    for event in events:
        text = json.dumps(event).replace('"@"', number)
        for given in (text.encode(), json.loads(text)):
            said = service.answer(given)
            assert list(said) == ["malformed"] and as_text(said)
    assert service.counts["malformed"] == 10 and service.counts["learned"] == 0 and service.offsets == {}
    with pytest.raises(ValueError, match="JSON compliant"):
        as_text({"prediction": np.inf})


def test_what_is_no_json_is_told_to_be_none(model) -> None:
    service = begin(model, None, 9)
    assert service.answer(b"hello") == {"malformed": "it is no JSON: Expecting value, at character 1"}
    assert "at character 9" in service.answer(b'{"x": [1')["malformed"]


@pytest.mark.parametrize("wrong", [
    [1, 2], [1, 2, None], [1, 2, "3"], "123", 3, None, {"a": 1}, [[1, 2, 3]], [1, 2, 1e39], [1, 2, 10**400],
    [1, 2, [3]], [],
])  # fmt: skip
def test_inputs_that_are_none(model, wrong) -> None:
    service = begin(model, None, 9)
    assert service.answer({"x": wrong, "y": 1})["malformed"].startswith("x must")
    assert same(service.taught.held.state, LEARNER.init(D)) and service.counts["malformed"] == 1


@pytest.mark.parametrize("wrong", ["1", [1, 2], {}, [], 1e39, [None, 1], [[1]]])
def test_targets_that_are_none(model, wrong) -> None:
    service = begin(model, None, 9)
    service.answer({"id": 1, "x": [1, 2, 3]})
    for event in ({"x": [1, 2, 3], "y": wrong}, {"id": 1, "y": wrong}):
        assert "malformed" in service.answer(event)
    assert same(service.taught.held.state, LEARNER.init(D)) and list(service.waiting) == [1]


def test_what_makes_the_state_infinite_is_skipped(tmp_path) -> None:
    service = service_of(ab.LinearLearner(ab.LMS(1.0)), tmp_path)
    before = service.taught.held.state
    said = service.answer({"x": [1e30, 1e30, 1e30], "y": 1e30})
    assert said["learned"] is False and service.counts["skipped"] == 1
    assert same(before, service.taught.held.state) and service.answer({"x": [1, 2, 3], "y": 1})["learned"]


def test_hordes_and_heads_and_transitions(tmp_path) -> None:
    demons = [ab.GVFSpec(f"d{k}", ab.DemonType.PREDICTION, 0.9 * k, 0.5, k) for k in range(2)]
    horde, rng = ab.HordeLearner(ab.create_horde_spec(demons), (4,), ab.LMS(0.1)), np.random.default_rng(0)
    state = horde.init(D, jax.random.key(0))
    service = service_of(horde, tmp_path, state)
    warm(service.taught)
    assert same(service.taught.held.state, state)
    x, following = rng.normal(size=(2, D)).astype(np.float32)
    event = {"x": x.tolist(), "y": [1.0, None], "next": following.tolist(), "terminated": False}
    said = service.answer(event)
    right = horde.update(state, x, np.float32([1.0, np.nan]), following, terminated=0.0)
    assert said == {"prediction": np.asarray(right.predictions).tolist(), "learned": True}
    assert same(service.taught.held.state, right.state)
    lost = {name: value for name, value in event.items() if name != "next"}
    assert (
        "'next'" in service.answer(lost)["malformed"]
        and "unknown ['gama']" in service.answer(event | {"gama": 1})["malformed"]
    )
    assert service.answer({"x": x.tolist()})["prediction"] == np.asarray(horde.predict(right.state, x)).tolist()
    assert "squared_error" not in metrics(service)
    td = service_of(ab.TDLinearLearner(ab.TDLambda(0.1, 0.8)), tmp_path)
    warm(td.taught)
    assert td.taught.required == ["next", "gamma"]
    assert td.answer({"x": [1, 0, 0], "y": 1, "next": [0, 1, 0], "gamma": 0.9})["learned"]
    heads = ab.MultiHeadMLPLearner(2, (), ab.LMS(0.1))
    many = service_of(heads, tmp_path, heads.init(D, jax.random.key(0)))
    warm(many.taught)
    assert many.answer({"x": [1, 0, 0], "y": [1, None]})["learned"]
    assert not many.answer({"x": [1, 0, 0], "y": [None, None]})["learned"]


def test_what_does_not_answer(tmp_path) -> None:
    ab.save(tmp_path / "last.alberta", ab.LastValue(), ab.LastValue().init(D))
    with pytest.raises(ValueError, match=r"last\.alberta: learner must have predict"):
        begin(tmp_path / "last.alberta", None, 9)


def test_a_learner_with_the_notes_of_a_table_is_no_model_of_one(tmp_path) -> None:
    ab.save(tmp_path / "table.alberta", LEARNER, LEARNER.init(D), table={"lags": 1})
    with pytest.raises(ValueError, match=r"table\.alberta: it holds a learner, but no model of a table"):
        begin(tmp_path / "table.alberta", None, 9)


def test_a_learner_for_each_key_answers_elsewhere(tmp_path) -> None:
    bank = ab.EntityBank(LEARNER, D, capacity=4)
    bank.update_many(["a", "b"], np.ones((2, D)), np.ones(2))
    bank.save(tmp_path / "keys.alberta")
    with pytest.raises(ValueError, match=r"keys\.alberta: it is of an EntityBank.*`EntityBank\.load` answers"):
        begin(tmp_path / "keys.alberta", None, 9)


@pytest.mark.skipif(not hasattr(ab.LearnerBank, "predict"), reason="a bank does not answer yet")
def test_a_bank_answers_with_all_its_learners(tmp_path) -> None:
    service = service_of(ab.LearnerBank((LEARNER, LEARNER)), tmp_path)
    warm(service.taught)
    assert service.answer({"x": [1, 2, 3], "y": 1}) == {"prediction": [0.0, 0.0], "learned": True}
    first, second = service.answer({"x": [1, 2, 3]})["prediction"]
    assert first == second > 0.0


def test_a_bank_says_what_it_could_not_learn(tmp_path) -> None:
    wild, tame = ab.LinearLearner(ab.LMS(1.0)), ab.LinearLearner(ab.LMS(1e-30))
    event = {"x": [1e16, 1e16, 1e16], "y": 1e16}
    lost = service_of(ab.LearnerBank((wild, wild)), tmp_path)
    before = lost.taught.held.state
    assert lost.answer(event) == {"prediction": [0.0, 0.0], "learned": False} and same(lost.taught.held.state, before)
    assert lost.counts["skipped"] == 1 and lost.counts["learned"] == 0
    some = service_of(ab.LearnerBank((wild, tame)), tmp_path)
    assert some.answer({"x": [1, 2, 3], "y": 1})["learned"]
    ready = some.answer({"x": event["x"]})["prediction"]
    assert some.answer(event) == {"prediction": ready, "learned": True} and some.counts["skipped"] == 0


# --- what a replay does ---


def test_a_replay_from_any_place_changes_nothing(model, tmp_path) -> None:
    lines, rng = mixed(300), np.random.default_rng(5)
    right = live(model, tmp_path / "right.alberta", lines)
    file, at = tmp_path / "crashed.alberta", 0
    for often in (3, 40):
        file.unlink(missing_ok=True)
        at = 0
        while at < len(lines):  # it is killed some lines later, and the input comes again from its beginning
            at = min(at + int(rng.integers(1, 90)), len(lines))
            kept, said = Kept(begin(model, file, WAITING), file, Every(0, often), pytest.fail), list[Any]()
            known = kept.service.offsets.get("standard input", 0)
            answer_lines(kept.service, io.BytesIO(b"\n".join(lines[:at])), said.append, Ending())
            assert said == [{"line": k + 1, "already": True} for k in range(known)] + right[known:at]
        assert kept.end() and file.read_bytes() == (tmp_path / "right.alberta").read_bytes()
    assert {name for name, n in kept.service.counts.items() if n == 0} == {"skipped"}


def serve(*words: object, **how: Any) -> subprocess.Popen[bytes]:
    """The command, in a process of its own."""
    path = os.pathsep.join([str(Path(ab.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "alberta_nb.apps.cli", "serve", *map(str, words)]
    env = os.environ | {"PYTHONPATH": path} | how.pop("env", {})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
    return subprocess.Popen(command, env=env, **pipes)


def test_killed_at_any_moment_it_ends_with_the_same_bits(model, tmp_path) -> None:
    lines, file = mixed(3_000), tmp_path / "live.alberta"
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    right = live(model, tmp_path / "right.alberta", lines)
    words = (model, "--state", file, "--waiting", WAITING, "--save-every", 100)
    for read in (700, 1_900):
        with open(tmp_path / "events.jsonl", "rb") as events:
            process = serve(*words, stdin=events)
            assert process.stdout
            for _ in range(read):
                last = json.loads(process.stdout.readline())
            process.kill()
            process.communicate()
        assert last["line"] == read and 0 < ab.load(file).notes["service"]["offsets"]["standard input"] < len(lines)
    with open(tmp_path / "events.jsonl", "rb") as events:
        out, err = serve(*words, stdin=events).communicate()
    assert b"lines were counted already" in err
    said = [json.loads(line) for line in out.splitlines()]
    new = [answer for answer in said if "already" not in answer or "prediction" in answer]
    assert 0 < len(new) < len(lines) and all(answer == right[answer["line"] - 1] for answer in new)
    assert file.read_bytes() == (tmp_path / "right.alberta").read_bytes()


def test_nobody_reads_the_answers_and_then_it_is_told_to_end(model, tmp_path) -> None:
    lines, file = mixed(30_000), tmp_path / "live.alberta"
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(lines))
    with open(tmp_path / "events.jsonl", "rb") as events:
        process = serve(model, "--state", file, "--waiting", WAITING, "--save-every", "100 ms", stdin=events)
        before = -1
        while (now := _counted(file)) < 100 or now != before:  # it has stopped: the pipe is full
            before = now
            time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 143
        assert process.stderr and b"ended by SIGTERM" in process.stderr.read()
    n = _counted(file)
    assert 100 < n < len(lines)
    live(model, tmp_path / "right.alberta", lines[:n])
    assert file.read_bytes() == (tmp_path / "right.alberta").read_bytes()


def _counted(file: Path) -> int:
    with contextlib.suppress(OSError):
        return ab.load(file).notes["service"]["offsets"].get("standard input", 0)
    return 0


def test_http_until_sigterm(model, tmp_path) -> None:
    file = tmp_path / "live.alberta"
    process = serve(model, "--state", file, "--http", "0", env={"ALBERTA_NB_TOKEN": "sixteen or more letters"})
    assert process.stderr
    ready = process.stderr.readline().decode()
    assert "ready, http://127.0.0.1:" in ready
    second = serve(model, "--state", file)
    assert second.wait(timeout=60) == 2 and second.stderr and b"another service writes" in second.stderr.read()
    line = http.client.HTTPConnection("127.0.0.1", int(ready.strip().rpartition(":")[2]))
    for token, status in (("sixteen or more letters", 200), ("sixteen or more letterz", 401)):
        line.request("POST", "/learn", '{"x": [1, 2, 3], "y": 1, "seq": 7}', {"Authorization": f"Bearer {token}"})
        answer = line.getresponse()
        assert answer.status == status and answer.read()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    told = ab.load(file).notes["service"]
    assert told["offsets"] == {"": 7} and told["counts"]["learned"] == 1


# --- what others do ---


def test_a_flood_that_cannot_be_read(model, tmp_path) -> None:
    rng = np.random.default_rng(0)
    wrong = [
        b"{", b"[]", b"0", b'{"x": []}', b'{"x": [1,2,3], "y": Infinity}', b'{"x": [1,2,3], "x": [1,2,3]}', b'"x"',
        b"\0", b"[" * 5_000, b'{"id": {}, "y": 1}', b'{"x": [1,2,3], "why": 1}', b"9" * 5_000, b'{"ask": "bids"}',
    ]  # fmt: skip
    noise = (rng.bytes(30).replace(b"\n", b"") + b"!" for _ in range(10_000))
    lines = [wrong[k % 20] if k % 20 < len(wrong) else junk for k, junk in enumerate(noise)]
    service, said = begin(model, None, 9), list[dict[str, Any]]()
    answer_lines(
        service,
        io.BytesIO(b"\n".join(lines) + b"\n" + b"x" * (3 << 20) + b'\n{"x": [1, 2, 3], "y": 1}'),
        said.append,
        Ending(),
    )
    assert len(said) == 10_002 and all(answer["malformed"] for answer in said[:-1]) and said[-1]["learned"]
    assert service.counts["malformed"] == 10_001 and max(len(answer["malformed"]) for answer in said[:-1]) < 600
    assert max(len(json.dumps(answer)) for answer in said) < 5_000


@pytest.fixture
def door(model) -> Iterator[Door]:
    made = Door(begin(model, None, 9))
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def ask(line: http.client.HTTPConnection, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    text = body if isinstance(body, bytes | None) else json.dumps(body)
    line.request(method, path, text, headers)
    answer = line.getresponse()
    said = answer.read()
    return answer.status, json.loads(said) if answer.headers["Content-Type"] == "application/json" else said.decode()


def test_http_answers_and_refuses(door) -> None:
    line = http.client.HTTPConnection(*door.server_address)
    good = {"x": [1, 2, 3], "y": 1}
    assert ask(line, "POST", "/learn", good)[0] == 200
    status, said = ask(
        line, "POST", "/learn", [good | {"seq": k} for k in (1, 1, 2)] + [{"x": 1}, 5, good | {"ask": "state"}]
    )
    assert status == 200 and [sorted(answer)[0] for answer in said] == ["error", "already", "error"] + ["malformed"] * 3
    for path, body in (
        ("/learn", {"x": [1, 2, 3]}),
        ("/predict", good),
        ("/predict", b"[1, NaN"),
        ("/learn", b"\xff"),
        ("/learn", b""),
    ):
        assert ask(line, "POST", path, body)[0] == 400
    for method, path, status in (
        ("GET", "/learn", 404),
        ("POST", "/state", 404),
        ("DELETE", "/learn", 501),
        ("GET", "/state", 200),
    ):
        assert ask(line, method, path)[0] == status
    assert ask(line, "POST", "/learn", b"x" * (LONGEST_BODY + 1))[0] == 413
    assert ask(line, "POST", "/learn", [0] * 10_001)[0] == 413 and door.service.counts["malformed"] < 20
    assert ask(line, "POST", "/learn", good, Origin="http://elsewhere.example")[0] == 403
    assert ask(line, "GET", "/metrics")[1].count("\n# TYPE alberta_nb_") > len(COUNTS)
    assert door.service.counts["learned"] == 3
    marked = "\ufeff".encode()
    assert ask(line, "POST", "/learn", marked + json.dumps(good).encode())[0] == 200
    status, said = ask(line, "POST", "/learn", marked + b" " * 100 + json.dumps([good, good]).encode())
    assert status == 200 and len(said) == 2


LEARN = b"POST /learn HTTP/1.1\r\n"


@pytest.mark.parametrize("request_", [
    LEARN + b"\r\n", LEARN + b"Content-Length: -5\r\n\r\n", LEARN + b"Content-Length: 999999999999999999999\r\n\r\n",
    LEARN + b"Content-Length: 9\r\n\r\n{}", LEARN + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    LEARN + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}",
    b"rubbish\r\n\r\n", b"G" * 70_000, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200,
])  # fmt: skip
def test_requests_that_are_none(door, request_) -> None:
    with socket.create_connection(door.server_address) as raw:
        raw.sendall(request_)
        raw.shutdown(socket.SHUT_WR)
        said = b"".join(iter(functools.partial(raw.recv, 1 << 16), b""))
    assert not said or b" 4" in said[:13] or said.startswith(b"Bad request")  # of HTTP 0.9
    assert ask(http.client.HTTPConnection(*door.server_address), "GET", "/healthz") == (200, "ok\n")


def test_a_client_of_http_1_0_is_let_go(door) -> None:
    body = b'{"x": [1, 2, 3]}'
    with socket.create_connection(door.server_address, timeout=5) as raw:
        raw.sendall(b"POST /predict HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert b"prediction" in b"".join(iter(functools.partial(raw.recv, 1 << 16), b""))


def test_many_clients_are_one_order(door) -> None:
    def client(name: str) -> None:
        line = http.client.HTTPConnection(*door.server_address)
        for k in [*range(1, 41), *range(20, 41)]:
            ask(line, "POST", "/learn", {"x": [1, k, 3], "y": k, "seq": k, "source": name})

    threads = [threading.Thread(target=client, args=(str(k),)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert door.service.counts["learned"] == 240 and door.service.own["again"] == 6 * 21
    assert door.service.offsets == {str(k): 40 for k in range(6)} and sum(door.service.times) == 6 * 61


def test_after_its_end_nothing_is_answered(door) -> None:
    kept = Kept(door.service, None, Every(), pytest.fail)
    assert kept.end()
    assert ask(http.client.HTTPConnection(*door.server_address), "POST", "/learn", {"x": [1, 2, 3], "y": 1})[0] == 503
    assert door.service.counts["events"] == 0


# --- what the disk does ---


def test_a_full_disk(model, tmp_path, monkeypatch) -> None:
    said, file, names = list[str](), tmp_path / "live.alberta", itertools.count()
    kept = Kept(begin(model, file, 9), file, Every(0.02), said.append)
    assert kept.save(always=True)
    before = file.read_bytes()

    def full(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", f"{path}.{next(names)}.part")

    with monkeypatch.context() as patch:
        patch.setattr(kept_module, "save", full)
        kept.service.answer({"x": [1, 2, 3], "y": 1})
        _until(lambda: kept.service.own["save_errors"] > 2)
        assert file.read_bytes() == before and kept.service.answer({"x": [1, 2, 3], "y": 1})["learned"]
        assert len(said) == 1 and "No space left on device" in said[0]
        assert "alberta_nb_unsaved 2\n" in metrics(kept.service)
    _until(lambda: kept.service.unsaved == 0)
    _until(lambda: len(said) == 2)
    assert "written again" in said[1] and begin(model, file, 9).counts["learned"] == 2
    assert kept.end()


def _until(what: Any) -> None:
    for _ in range(2_000):
        if what():
            return
        time.sleep(0.005)
    pytest.fail("it never came")


def test_a_state_that_is_none(model, tmp_path) -> None:
    file = tmp_path / "live.alberta"
    live(model, file, mixed(50))
    saved = ab.load(file)
    told = saved.notes["service"]
    wrong = [
        5,
        {},
        told | {"counts": {}},
        told | {"place": [-1, 0, ""]},
        told | {"offsets": {"a": "1"}},
        told | {"waiting": {"ids": [1], "x": "", "said": ""}},
    ]
    for notes in wrong:
        ab.save(tmp_path / "wrong.alberta", saved.learner, saved.state, service=notes)
        with pytest.raises(ValueError, match=r"wrong\.alberta: what it says of a service cannot be"):
            begin(model, tmp_path / "wrong.alberta", 9)
    with pytest.raises(ValueError, match="holds a learner, but no service"):
        ab.save(tmp_path / "wrong.alberta", saved.learner, saved.state)
        begin(model, tmp_path / "wrong.alberta", 9)
    with pytest.raises(ValueError, match="it is for 4 inputs, not 3"):
        ab.save(tmp_path / "wrong.alberta", saved.learner, LEARNER.init(4), service=told)
        begin(model, tmp_path / "wrong.alberta", 9)
    with pytest.raises(OSError, match="nothing.alberta"):
        begin(tmp_path / "nothing.alberta", None, 9)


def test_the_state_may_be_the_model_and_does_without_it(model, tmp_path) -> None:
    lines = mixed(56) + [b'{"id": "w%d", "x": [1, 2, 3]}' % k for k in range(WAITING)]
    live(model, model, lines)
    live(model, tmp_path / "live.alberta", lines[:1])
    assert begin(model, model, 9).offsets["standard input"] == 60
    moved = begin(tmp_path / "gone.alberta", model, 9)
    assert told_of(moved)["counts"]["events"] == 60 == begin(model, model, 9).counts["events"]
    fewer = begin(model, model, 1)
    assert len(moved.waiting) == WAITING and fewer.counts["dropped"] == moved.counts["dropped"] + WAITING - 1
    assert list(fewer.waiting) == list(moved.waiting)[-1:]
    assert begin(model, None, 9).counts["events"] == 0  # a learner, whatever else the file knows


def test_words_for_times() -> None:
    assert (every("2 s"), every("5min"), every("1000"), every("3 events")) == ((2, 0), (300, 0), (0, 1000), (0, 3))
    for wrong in ("0 s", "1.5 events", "s", "1 day", "1e3", "inf s", "10 S"):
        with pytest.raises(ValueError, match="save_every must be"):
            every(wrong)


def test_nobody_else_writes(tmp_path) -> None:
    with alone(tmp_path / "a"), pytest.raises(ValueError, match="another service"), alone(tmp_path / "a"):
        pass
    with alone(tmp_path / "a"), alone(tmp_path / "b"):
        pass


# --- a file that grows ---


def grows(path: Path, **how: Any) -> Growing:
    return Growing(path, lambda header: Columns(header, "y", None, D), **{"place": Place(), "say": pytest.fail} | how)


def test_rows_come_whole_however_they_are_written(tmp_path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, D + 1)).round(3)
    data = b"a,b,c,y\r\n" + b"".join(
        ",".join(map(str, row)).encode() + [b"\n", b"\r\n", b"\n\n"][k % 3] for k, row in enumerate(values)
    )
    path = tmp_path / "log.csv"
    path.write_bytes(data[:3])
    growing, at, seen = grows(path), 3, list[Any]()
    while at < len(data):
        step = int(rng.integers(1, 60))
        with path.open("ab") as file:
            file.write(data[at : at + step])
        at += step
        seen += growing.rows()
        if rng.random() < 0.2:  # it dies, and comes again
            growing = grows(path, place=seen[-1][1] if seen else Place())
    assert [[*event["x"], event["y"]] for event, _ in seen] == values.tolist()
    assert [place.rows for _, place in seen] == list(range(1, 201))


def test_a_file_that_turns(tmp_path) -> None:
    said, path = list[str](), tmp_path / "log.csv"
    path.write_text("a,b,c,y\n1,2,3,4\n")
    growing = grows(path, say=said.append)
    assert len(list(growing.rows())) == 1
    path.unlink()  # between two files
    assert list(growing.rows()) == [] and said == []
    path.write_text("y;c;b;a\n8;7;6;5\n")
    assert list(growing.rows()) == [] and "was replaced" in said[0]
    ((event, place),) = growing.rows()
    assert event == {"x": [7.0, 6.0, 5.0], "y": 8.0} and place.rows == 2
    path.write_text("y;c\n1;2\n")
    assert list(growing.rows()) == list(growing.rows()) == [] and "cut or written anew" in said[1] and len(said) == 3
    path.write_text("a,b,c,y\n" + "1,2,3," + "4" * (2 << 20) + "\n1,2,3,\n1,2,3\n,2,3,4\n1,2,3,4\n")
    kinds = [event if isinstance(event, dict) else str(event)[:20] for event, _ in growing.rows()]
    rows = [{"x": [x, 2.0, 3.0], "y": y} for x, y in ((1.0, None), (None, 4.0), (1.0, 4.0))]
    assert kinds == ["a row must have at m", rows[0], "a row must have 4 ce", *rows[1:]]
    again = grows(path, place=growing.place._replace(tail=b"others\n"), say=said.append)
    assert "not the file that was read before" in said[-1] and len(list(again.rows())) == 5


def test_columns_that_do_not_fit(tmp_path) -> None:
    for header, what in (
        (b"a,b,y\n", "3 inputs, and there are 2"),
        (b"a,b,c,d\n", r"\['y'\]"),
        (b"a,y,c,y\n", r"\['y'\]"),
    ):
        with pytest.raises(ValueError, match=what):
            Columns(header, "y", None, D)
    with pytest.raises(ValueError, match=r"log\.csv: it must have"):
        (tmp_path / "log.csv").write_text("a\n")
        grows(tmp_path / "log.csv")


def test_following_until_it_is_told_to_end(model, tmp_path) -> None:
    path, file = tmp_path / "log.csv", tmp_path / "live.alberta"
    path.write_text("t,a,b,c,y\nx,1,2,3,4\nx,1,2,3,\nx,oh,2,3,4\nx,1,2,3,4")
    words = (model, "--follow", path, "--target", "y", "--features", "a,b,c", "--state", file, "--save-every", 1)
    process = serve(*words)
    assert process.stdout
    said = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert [answer.get("learned") for answer in said] == [True, False, None] and said[2]["row"] == 3
    process.kill()
    process.communicate()
    with path.open("a") as log:
        log.write("\nx,4,5,6,7\n")
    process = serve(*words)
    assert process.stdout
    said = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert [answer["row"] for answer in said] == [4, 5]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    counts = ab.load(file).notes["service"]["counts"]
    assert (counts["learned"], counts["missing"], counts["malformed"], counts["events"]) == (3, 1, 1, 5)
