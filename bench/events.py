"""Events of a service: how long one takes, behind every door, what a million cost, and what kill -9 does.

python -m bench.events [core] [doors] [million] [malformed] [kill]
"""

import argparse
import functools
import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

from alberta_nb import IDBD, LMS, LinearLearner, MLPLearner, load, save
from alberta_nb.apps.kept import Every, Kept, begin
from alberta_nb.apps.service import Service
from alberta_nb.apps.taught import Taught
from bench.horde import bench_horde_learner

KEY = jax.random.key(0)
LEARNERS: dict[str, Callable[[], Any]] = {
    "linear, d=20": lambda: LinearLearner(IDBD(0.005)),
    "network of 128": lambda: MLPLearner((128,), LMS(0.01)),
    "Horde of 100": lambda: bench_horde_learner(100),
}


def model_of(name: str, folder: Path) -> Path:
    "A file with a learner of the table above."
    learner, path = LEARNERS[name](), folder / "model.alberta"
    save(path, learner, learner.init(20, *([] if name.startswith("linear") else [KEY])))
    return path


def events_of(name: str, n: int) -> Iterator[bytes]:
    "Lines that are predicted and learned: 20 inputs of 7 digits."
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((1001, 20)).round(6)
    for k in range(n):
        x = xs[k % 1000].tolist()
        if name.startswith("Horde"):
            event: Any = {
                "x": x,
                "y": np.tanh(5 * xs[k % 1000, :1] * np.arange(100)).round(6).tolist(),
                "next": xs[k % 1000 + 1].tolist(),
            }
        else:
            event = {"x": x, "y": round(sum(x[:5]), 6)}
        yield json.dumps(event).encode()


def told(what: str, seconds: list[float]) -> None:
    "p50, p99 and p99.9, in microseconds."
    p50, p99, p999 = np.quantile(seconds, [0.5, 0.99, 0.999]) * 1e6
    print(f"{what:<44} p50 {p50:8.0f}   p99 {p99:8.0f}   p99.9 {p999:8.0f} us   ({len(seconds):,} events)", flush=True)


def timed(job: Callable[[Any], Any], given: list[Any]) -> list[float]:
    "Seconds of each call."
    found = []
    for one in given:
        start = time.perf_counter()
        job(one)
        found.append(time.perf_counter() - start)
    return found


def _learn(taught: Taught, given: tuple[Any, ...]) -> None:
    taught.learn(*given)


def _spoken(service: Service, line: bytes) -> str:
    return json.dumps(service.answer(line))


def core(folder: Path, n: int = 50_000) -> None:
    "The learner alone, an event as a dict, an event as bytes with the state written every second."
    for name in LEARNERS:
        service = begin(model_of(name, folder), None, 100)
        taught: Any = service.taught
        taught.warm()
        lines = list(events_of(name, n // 5 if name.startswith("Horde") else n))
        found = list(map(json.loads, lines))
        ready = [(taught.inputs(event), taught.targets(event), event) for event in found]
        told(f"{name}: learner", timed(functools.partial(_learn, taught), ready))
        told(f"{name}: service, a dict", timed(service.answer, found))
        told(f"{name}: service, JSON and back", timed(functools.partial(_spoken, service), lines))
        kept = Kept(service, folder / "state.alberta", Every(1.0), print)
        told(f"{name}: the same, written every second", timed(functools.partial(_spoken, service), lines))
        kept.end()


def served(model: Path, *words: object, **how: Any) -> subprocess.Popen[bytes]:
    "The command in a process of its own, ready."
    command = [sys.executable, "-m", "alberta_nb.apps.cli", "serve", str(model), *map(str, words)]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, **pipes | how)


def ready(process: subprocess.Popen[bytes]) -> str:
    "What it says when it is ready."
    assert process.stderr
    return process.stderr.readline().decode().strip()


def doors(folder: Path, n: int = 10_000) -> None:
    "From line to answer through a pipe, and from request to answer over HTTP, of a client that waits for each."
    for name in LEARNERS:
        model, lines = model_of(name, folder), list(events_of(name, n))
        process = served(model, "--state", folder / "live.alberta")
        ready(process)
        stdin, stdout = process.stdin, process.stdout
        assert stdin and stdout

        def piped(line: bytes, stdin: IO[bytes] = stdin, stdout: IO[bytes] = stdout) -> None:
            stdin.write(line + b"\n")
            stdin.flush()
            stdout.readline()

        told(f"{name}: a pipe, there and back", timed(piped, lines))
        process.communicate()
        process = served(model, "--state", folder / "http.alberta", "--http", 0)
        port = int(ready(process).rpartition(":")[2])
        line = http.client.HTTPConnection("127.0.0.1", port)

        def asked(body: bytes, line: http.client.HTTPConnection = line) -> None:
            line.request("POST", "/learn", body)
            line.getresponse().read()

        told(f"{name}: HTTP, there and back", timed(asked, lines))
        lists = [b"[" + b",".join(lines[k : k + 100]) + b"]" for k in range(0, n, 100)]
        told(f"{name}: HTTP, an event of a list of 100", [s / 100 for s in timed(asked, lists)])
        process.terminate()
        process.communicate()
        for file in ("live.alberta", "http.alberta"):
            (folder / file).unlink()


def million(folder: Path, n: int = 1_000_000) -> None:
    "Memory of a service while it answers, and events in a second."
    model, file = model_of("linear, d=20", folder), folder / "events.jsonl"
    with file.open("wb") as lines:
        for k, line in enumerate(events_of("linear, d=20", n)):
            lines.write(
                line + b"\n"
                if k % 3
                else line.replace(b'{"x"', f'{{"id": {k}, "x"'.encode()).partition(b', "y"')[0] + b"}\n"
            )
    with file.open("rb") as lines:
        process = served(model, "--state", folder / "live.alberta", stdin=lines)
        ready(process)
        assert process.stdout
        start, counts = time.perf_counter(), {n // 100: "1%", n // 10: "10%", n // 2: "50%", n: "100%"}
        for k in range(1, n + 1):
            process.stdout.readline()
            if k in counts:
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                print(f"{counts[k]:>5}: {pages * os.sysconf('SC_PAGE_SIZE') / 2**20:.1f} MiB", flush=True)
        seconds = time.perf_counter() - start
        print(f"{n:,} events, one in three waiting for a target that never comes: {n / seconds:,.0f} a second")
        process.communicate()
    counts_ = load(folder / "live.alberta").notes["service"]["counts"]
    print({name: count for name, count in counts_.items() if count})


def malformed(folder: Path, n: int = 10_000) -> None:
    "Lines that cannot be read, then one that can."
    rng = random.Random(0)
    lines = [
        rng.choice([b"{", b"[]", b'{"x": [1]}', b'{"y": NaN}', rng.randbytes(40).replace(b"\n", b"") + b"!"])
        for _ in range(n)
    ]
    process = served(model_of("linear, d=20", folder))
    out, _ = process.communicate(b"\n".join([*lines, next(events_of("linear", 1))]))
    answers = [json.loads(line) for line in out.splitlines()]
    found = sum("malformed" in answer for answer in answers)
    print(
        f"{found:,} of {n:,} told as malformed, then learned: {answers[-1]['learned']}; exit code {process.returncode}"
    )


def kill(folder: Path, moments: int = 20, n: int = 100_000) -> None:
    "kill -9 at random moments, the input from its beginning each time; the last state against that of one life."
    model, file, rng = model_of("linear, d=20", folder), folder / "events.jsonl", random.Random(time.time_ns())
    file.write_bytes(b"\n".join(events_of("linear, d=20", n)))
    states = []
    for name, kills in (("whole", 0), ("killed", moments)):
        state, words = folder / f"{name}.alberta", ("--save-every", "50 ms")
        for left in range(kills, -1, -1):
            with file.open("rb") as lines, (folder / "answers").open("wb") as answers:
                process = served(model, "--state", state, *words, stdin=lines, stdout=answers)
                if left:
                    ready(process)
                    time.sleep(rng.random() * 2)
                    process.kill()
                process.wait()
            offset = load(state).notes["service"]["offsets"].get("standard input", 0)
            print(f"{name}: {offset:,} lines on disk", flush=True)
        states.append(state.read_bytes())
    counts = load(state).notes["service"]["counts"]
    print(f"{moments} times kill -9: the same bytes: {states[0] == states[1]}; learned {counts['learned']:,} of {n:,}")


PARTS: dict[str, Callable[[Path], None]] = {
    "core": core,
    "doors": doors,
    "million": million,
    "malformed": malformed,
    "kill": kill,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m bench.events", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)} (default: all)")
    parts = parser.parse_args().parts or list(PARTS)
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"PART must be any of {', '.join(PARTS)}, got {unknown[0]!r}")
    for part in parts:
        with tempfile.TemporaryDirectory() as where:
            print(f"--- {part}: {PARTS[part].__doc__}")
            PARTS[part](Path(where))
