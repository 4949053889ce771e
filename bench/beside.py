"""Two checkouts of the library in one benchmark: two processes that take turns, race by race and round by round."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from bench.races import ROOT, Plan, chosen_races, name_of


def work(only: Sequence[str] | None, rows: str, plan: Plan) -> int:
    "Answer each line of stdin: the next race's name and rounds, or its library's time once more."
    races, library = chosen_races(only, rows, plan), None
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else prints must not be taken for an answer
    for line in sys.stdin:
        if line.strip() == "next":
            part, race = next(races, ("", None))
            if race is None:
                break
            library = race.contenders["library"]
            assert library is not None
            if race.warm:
                library()
            print(f"{name_of(part, race)}|{race.unit}|{race.repeats or 0}", file=answers)
        elif library is not None:
            print(library(), file=answers)
    print("end", file=answers)
    return 0


class Worker:
    "A process that measures one checkout."

    def __init__(self, folder: str, only: Sequence[str] | None, rows: str, quick: bool):
        words = ["--worker", "--package", folder, *(["--only", ",".join(only)] if only else [])]
        words += [f"--rows={rows}", *(["--quick"] if quick else [])]
        command = [sys.executable, os.path.join(ROOT, "bench", "__main__.py"), *words]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line: str) -> str:
        "What it answers to a line. Raises ValueError where it has ended."
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            print(line, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().strip()
        if not answer:
            raise ValueError("a worker of the benchmark has failed; its error stands above")
        return answer

    def close(self) -> None:
        "Let it end."
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


def race_beside(folder: str, only: Sequence[str] | None, rows: str, quick: bool, repeats: int) -> str:
    "This package's library over that of `folder`, in rounds of A B B A: medians, the ratio of them, and its range."
    import alberta_nb

    here = os.path.dirname(os.path.dirname(os.path.abspath(alberta_nb.__file__)))
    workers = [Worker(place, only, rows, quick) for place in (here, os.path.abspath(folder))]
    lines = [f"{'new / old':36s}{'new':>9s}{'old':>9s}{'ratio':>8s}{'range':>14s}"]
    try:
        while True:
            names = [worker.ask("next") for worker in workers]
            if "end" in names:
                break
            if names[0] != names[1]:
                raise ValueError(f"the checkouts run other races: {names}")
            name, unit, own = names[0].split("|")
            values: list[list[float]] = [[], []]
            for k in range(int(own) or repeats):
                for i in (0, 1) if k % 2 == 0 else (1, 0):
                    values[i].append(float(workers[i].ask("go")))
            new, old = np.array(values)
            ratio, rounds = np.median(new) / np.median(old), new / old
            spread = f"{rounds.min():.2f}-{rounds.max():.2f}"
            text = f"{name:36s}{np.median(new):9.3g}{np.median(old):9.3g}{ratio:8.3f}{spread:>14s}  {unit}"
            lines.append(text + ("  <-- slower" if ratio > 1.05 else ""))
            print(lines[-1], file=sys.stderr, flush=True)
    finally:
        for worker in workers:
            worker.close()
    return "\n".join(lines)
