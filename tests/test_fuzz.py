"""Files and options that nobody meant: an exit code of 0 or 2 and a sentence, in seconds, whatever is given."""

import gzip
import random
import re
import time
from pathlib import Path

import pytest

from alberta_nb.apps import cli

CASES, SECONDS = 30, 60  # of a test, and of one command that has nothing to do but to read a few rows
NAMES = ("a", "b", "y", "a", "", "x y", "a,b", 'q"q', "é", "$z$", "y ", "t", "-1", "in\nlines")
CELLS = (
    """NA|-|x|1,5|1.5|1.500|1,500|1e5|1e400|inf|nan|true|12%|$3|<0.1|2013-01-01|12:30|"|''|1 000|−3|0x10|é|a;b|#|--5
+5|1.2.3|1e-320|1e17|-9999|1_000""".replace("\n", "|").split("|")
    + ["", " 7 ", "9" * 25, "9" * 400, "\x00"]
)
WORDS = {
    "--step-size": ("1e9", "0", "-1", "nan", "1e-300", "x"),
    "--meta-step-size": ("1e9", "0", "nan"),
    "--normalizer": ("none", "welford", "zz", ""),
    "--record-every": ("1", "1000000", "9" * 20, "0", "-5"),
    "--optimizer": ("lms,lms", "", "zz"),
}


def quoted(rng: random.Random, cell: str, separator: str) -> str:
    """A cell as most programs write it, and some do not."""
    special = any(sign in cell for sign in (separator, '"', "\n"))
    return '"' + cell.replace('"', '""') + '"' if special and rng.random() < 0.8 else cell


def make_file(rng: random.Random) -> tuple[bytes, list[str]]:
    """A table in some dialect, sound or not, and the names of its columns."""
    columns, rows, separator = (
        rng.choice((1, 2, 2, 3)),
        rng.choice((0, 1, 2, *(3, 40, 200) * 5)),
        rng.choice(",,,;\t| "),
    )
    sound, comma = rng.random() < 0.8, rng.random() < 0.2
    names = [rng.choice(NAMES) for _ in range(columns)]
    lines = [names]
    for _ in range(rows):
        row = [rng.choice(CELLS) if not sound and rng.random() < 0.4 else f"{rng.gauss(0, 9):.3f}" for _ in names]
        row = [cell.replace(".", ",") for cell in row] if comma else row
        lines.append(row[: len(row) - (rng.random() < 0.02)] + ["1"] * (rng.random() < 0.02))
    text = [separator.join(quoted(rng, cell, separator) for cell in line) for line in lines]
    text = rng.choices(["# comment", f"sep={separator}", "", "Station 5"], k=rng.choice((0, 0, 0, 1, 2))) + text
    data = (
        rng.choice(("\n", "\n", "\r\n", "\r"))
        .join(text)
        .encode(rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")), errors="replace")
    )
    if rng.random() < 0.2:
        place = rng.randrange(len(data) + 1)
        data = rng.choice((data[:place], data[:place] + b'"' + data[place:], rng.randbytes(300)))
    return (gzip.compress(data)[: None if rng.random() < 0.8 else -5] if rng.random() < 0.1 else data), names


def make_words(rng: random.Random, names: list[str]) -> list[str]:
    """A job and its options, of which some fit."""
    some = lambda: rng.choice([*names * 6, "a", "", "zz"])  # noqa: E731
    job = rng.choice(("learn", "learn", "predict-return", "nexting"))
    words = {
        "learn": [f"--target={some()}", "--optimizer=lms"],
        "predict-return": [f"--cumulant={some()}", "--gamma=0.5", "--optimizer=tdlambda"],
        "nexting": ["--gammas=0", *[f"--columns={some()}"] * (rng.random() < 0.5)],
    }[job]
    words += [f"--features={some()}"] * (rng.random() < 0.5)
    for option in rng.sample(sorted(WORDS), rng.choice((0, 0, 0, 1, 2))):
        words.append(f"{option}={rng.choice(WORDS[option])}")
    return [job, *words]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("error")
def test_nothing_ends_otherwise_than_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture, seed: int) -> None:
    rng, codes = random.Random(seed), []
    for number in range(CASES):
        data, names = make_file(rng)
        path = tmp_path / f"t{number}{rng.choice(('.csv',) * 9 + ('.txt', '.csv.gz', '.parquet', '.xls'))}"
        path.write_bytes(data)
        job, *words = make_words(rng, names)
        began = time.perf_counter()
        try:
            code = cli.main([job, str(path), "--lags=1", f"--output={tmp_path / 'out'}", *words])
        except SystemExit as stop:  # of the parser
            code = stop.code
        out, err = capsys.readouterr()
        shown = f"{path}: {job} {words}\n{out}\n{err}"
        assert code in (0, 2) and "Traceback" not in err and time.perf_counter() - began < SECONDS, shown
        assert (code == 2) == bool(re.search("error: .", err)), shown
        assert code == 2 or "diverged" not in out or "unstable" in out, shown
        codes.append(code)
    assert set(codes) == {0, 2}
