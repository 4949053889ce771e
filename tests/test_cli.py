"""The command line: exit codes, messages, files, in processes of their own where that is the point."""

import itertools
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tqdm.auto import tqdm

import alberta_nb
from alberta_nb.apps import cli, command, learn
from alberta_nb.apps.command import load_learners
from alberta_nb.apps.learn import learn_table

FILES = ["config.json", "features.csv", "learn.png", "metrics.csv", "predictions.csv"]


def run(*words: object, folder: Path) -> subprocess.CompletedProcess:
    """The command in a process of its own, stdout and stderr in pipes."""
    command = [sys.executable, "-m", "alberta_nb.apps.cli", *map(str, words)]
    path = os.pathsep.join([str(Path(alberta_nb.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "default"}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, check=False, timeout=300
    )


def call(capsys, *words: object) -> tuple[int, str, str]:
    """The same in this process: exit code, stdout, stderr."""
    try:
        code = cli.main([str(word) for word in words])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err


def table(rows: int) -> str:
    rng = np.random.default_rng(0)
    x = rng.normal(size=rows)
    y = np.cumsum(np.concatenate([[0.0], x[:-1]]) + 0.1 * rng.normal(size=rows))
    return pd.DataFrame({"when": range(rows), "x": x, "y": y, "place": "here"}).to_csv(index=False)


@pytest.fixture
def small(tmp_path) -> Path:
    (tmp_path / "t.csv").write_text(table(300))
    return tmp_path / "t.csv"


# --- in a process of its own ---


def test_without_arguments_it_runs_on_the_shipped_series(tmp_path) -> None:
    done = run("learn", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(p.name for p in (tmp_path / "alberta-nb-output").iterdir()) == FILES
    for word in ("running mean", "lms", "idbd", "autostep", "steps/s", "dest 43", "times (time): 2013-01-01"):
        assert word in done.stdout
    config = json.loads((tmp_path / "alberta-nb-output" / "config.json").read_text())
    assert config["steps"] == 41_665 and config["scores"]["autostep"]["skill"] > 0.6
    assert (tmp_path / "alberta-nb-output" / "learn.png").read_bytes().startswith(b"\x89PNG")


def test_a_mistake_ends_with_a_sentence(tmp_path) -> None:
    done = run("learn", "none.csv", "--target", "a", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "alberta-nb: error: none.csv: there is no such file\n"


def test_who_names_no_column_is_told_what_there_is(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(capsys, "learn", "none.csv") == (2, "", "alberta-nb: error: none.csv: there is no such file\n")
    (tmp_path / "two.csv").write_text("when,flow\n" + "".join(f"{k},{k % 7}\n" for k in range(40)))
    code, _, said = call(capsys, "learn", "two.csv")
    assert code == 2
    assert said == "alberta-nb: error: which column of two.csv? Say --target COLUMN; it has: 'when', 'flow'\n"


def test_progress_is_shown_where_nobody_looks_and_length_is_unknown(tmp_path) -> None:
    (tmp_path / "long.csv").write_text(table(130_000))
    assert (tmp_path / "long.csv").stat().st_size > command.LONG_FILE
    done = run("learn", "long.csv", "--target", "y", "--lags", 1, folder=tmp_path)
    assert done.returncode == 0 and "rows/s]" in done.stderr and "Traceback" not in done.stderr
    assert json.loads((tmp_path / "alberta-nb-output" / "config.json").read_text())["steps"] == 129_999


@pytest.mark.parametrize("quiet", [False, True])
def test_progress_only_on_long_input(capsys, small, monkeypatch, quiet) -> None:
    words = ["learn", small, "--target", "y", "--lags", 1, "--output", small.parent / "out"]
    assert call(capsys, *words)[2] == ""
    monkeypatch.setattr(command, "LONG_FILE", 100)
    monkeypatch.setattr(learn, "tqdm", lambda **how: tqdm(**how | {"delay": 0}))  # this pass ends before that
    _, _, err = call(capsys, *words, *["--no-progress"] * quiet)
    assert ("rows/s" in err) != quiet


MEMORY = """
import resource, sys
from alberta_nb.apps.cli import main
peaks = []
unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
for name in ("short.csv", "short.csv", "long.csv"):
    assert main(["learn", name, "--target", "a", "--lags", "8", "--no-progress", "--optimizer", "idbd"]) == 0
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
print("growth", peaks[-1] - peaks[-2])
"""


def test_memory_does_not_grow_with_the_file(tmp_path) -> None:
    rng = np.random.default_rng(0)
    block = pd.DataFrame(rng.normal(size=(50_000, 5)), columns=list("abcde")).to_csv(index=False)
    head, _, rows = block.partition("\n")
    for name, times in (("short.csv", 4), ("long.csv", 24)):
        with open(tmp_path / name, "w") as file:
            file.write(head + "\n")
            file.writelines([rows] * times)
    path = os.pathsep.join([str(Path(alberta_nb.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", MEMORY],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    growth = float(done.stdout.split("growth")[1])
    # The file grows by 96 MB, and its 1.2 million rows of 40 inputs would take 192 MB.
    assert growth < 60, f"{growth:.0f} MB more for {(tmp_path / 'long.csv').stat().st_size >> 20} MB of file"


# --- whoever goes away, or wants an end ---


def begin(*words: object, folder: Path, handler: str = "default_int_handler") -> subprocess.Popen:
    "The command in a process of its own, which does that at Ctrl-C, whatever this one does; it is about to begin."
    path = os.pathsep.join([str(Path(alberta_nb.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    code = f"import signal; signal.signal(signal.SIGINT, signal.{handler})\n"
    code += "from alberta_nb.apps.cli import main\nprint('here', flush=True)\nmain()"
    command, pipe = [sys.executable, "-c", code, *map(str, words)], subprocess.PIPE
    job = subprocess.Popen(command, stdout=pipe, stderr=pipe, cwd=folder, env=os.environ | {"PYTHONPATH": path})
    assert job.stdout.readline() == b"here\n"
    return job


@pytest.mark.parametrize("words", [["learn"], ["predict-return", "--gamma", "0.5"], ["learn", "--help"], ["--version"]])
def test_results_are_there_whoever_reads(tmp_path, words) -> None:
    job = begin(*words, *["--lags", 1] * ("-" not in words[-1]), folder=tmp_path)
    job.stdout.close()
    err = job.stderr.read().decode()
    assert (job.wait(), err) == (0, "")
    assert (tmp_path / "alberta-nb-output" / "config.json").is_file() == ("-" not in words[-1])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_results_are_there_where_nothing_can_be_printed(tmp_path) -> None:
    done = subprocess.run(
        f"{sys.executable} -c 'from alberta_nb.apps.cli import main; main()' learn --lags 1 > /dev/full",
        shell=True, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=300,
        env=os.environ | {"PYTHONPATH": str(Path(alberta_nb.__file__).parent.parent)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "alberta-nb: error: [Errno 28] No space left on device\n")
    assert (tmp_path / "alberta-nb-output" / "config.json").is_file()


def test_progress_that_nobody_reads_is_no_trouble(tmp_path) -> None:
    (tmp_path / "long.csv").write_text(table(130_000))
    job = begin("learn", "long.csv", "--target", "y", "--lags", 1, "--optimizer", "lms", folder=tmp_path)
    job.stderr.close()
    assert "129,999 steps" in job.stdout.read().decode() and job.wait() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_end_is_an_end_at_every_moment(tmp_path, number, code) -> None:
    for wait in (0.0, 0.4, 1.0, 1.8):
        job = begin("learn", "--lags", 3, "--no-cache", folder=tmp_path)
        time.sleep(wait + 0.05)
        if job.poll() is None:
            job.send_signal(number)
            _, err = job.communicate()
            assert job.returncode == code and b"Traceback" not in err and err.count(b"interrupted") == 1, (wait, err)


def test_an_end_while_the_package_is_loaded(tmp_path) -> None:
    for argument, code in (("/usr/bin/alberta-nb", 143), ("alberta-nb.exe", 143), ("other.py", -signal.SIGTERM)):
        program = f"import sys; sys.argv[0] = {argument!r}; import alberta_nb, os; os.kill(os.getpid(), 15)"
        path = str(Path(alberta_nb.__file__).parent.parent)
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, env=os.environ | {"PYTHONPATH": path}, check=False
        )
        assert (done.returncode, done.stderr) == (code, b"alberta-nb: interrupted\n" * (code > 0))


def test_an_end_in_the_pass_keeps_what_was_learned(tmp_path) -> None:
    (tmp_path / "long.csv").write_text(table(400_000))
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        job = begin("learn", "long.csv", "--target", "y", "--lags", 1, folder=tmp_path)
        said = b""
        while not re.search(rb" [1-9][0-9]*/[0-9]+", said):
            said += job.stderr.read(1)
        job.send_signal(number)
        out, err = job.communicate()
        steps = json.loads((tmp_path / "alberta-nb-output" / "config.json").read_text())["steps"]
        assert job.returncode == code and 0 < steps < 399_999 and f"interrupted after {steps:,} steps".encode() in err
        assert not list((tmp_path / "alberta-nb-output").glob(".*"))


def test_who_was_told_to_ignore_it_does(tmp_path) -> None:
    job = begin("learn", "--lags", 1, folder=tmp_path, handler="SIG_IGN")
    time.sleep(0.3)
    job.send_signal(signal.SIGINT)
    assert job.communicate()[1] == b"" and job.returncode == 0


def test_signals_are_given_back(capsys, small) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert call(capsys, "learn", small)[0] == 2 and call(capsys, "bake")[0] == 2
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_ctrl_c_while_it_compiles_is_not_swallowed(small, monkeypatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(learn, "compile_for", stopped)
    with pytest.raises(KeyboardInterrupt):
        learn_table(small, "y", lags=1)


# --- exit codes and messages ---


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", "", "is empty"),
        ("head.csv", "x,y\n", "has column names, but no rows"),
        ("one.csv", "x,y\n1,2\n", "a prediction needs two rows"),
        ("other.csv", "x,z\n1,2\n1,2\n", "has no column 'y'; it has: 'x', 'z'"),
        ("prose.csv", "Once upon a time\nthere was no table.\n", "has no column 'y'"),
        ("text.csv", "x,y\na,b\nc,d\n", "column 'y' holds no numbers"),
        ("void.csv", "x,y\n1,\n2,\n", "column 'y' has no value at all"),
        ("ragged.csv", "x,y\n1,2\n1,2,3\n", "is no table"),
        ("wide.csv", "x,y\n1,2,3\n1,2,3\n", "more fields"),
        ("binary.csv", "\0\1\2", "binary data"),
        ("fake.parquet", "x,y\n1,2\n", "is no table"),
        ("fake.csv.gz", "PK\3\4 x,y\n1,2\n", "cannot be read"),
        (
            "two.csv",
            "x,y\n1,0.5\n1,0.5\n1,'0,5'\n".replace("'", '"'),
            "holds numbers in two formats, like '0.5' and '0,5'",
        ),
        ("notes.doc", "x,y\n1,2\n", "must end in .csv"),
        (".", None, "is a folder"),
    ],
)
def test_files_that_cannot_be_used(capsys, tmp_path, name, content, message) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    code, out, err = call(capsys, "learn", tmp_path / name, "--target", "y", "--lags", 1, "--output", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err.startswith("alberta-nb: error: ") and message in err and err.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "nope"], "has no column 'nope'"),
        ([], "Say --target COLUMN"),
        (["--target", ""], "Say --target COLUMN"),
        (["--target", " "], "Say --target COLUMN"),
        (["--target", "y", "--features", ""], "features must name one or more columns, got ''"),
        (["--target", "y", "--features", ","], "features must name one or more columns, got ','"),
        (["--target", "y", "--features", "x,nope"], "has no column 'nope'"),
        (["--target", "place"], "holds no numbers, like 'here'; it can be an input"),
        (["--target", "y", "--lags", 0], "lags must be 1 or more"),
        (["--target", "y", "--lags", -1], "lags must be 0 or more"),
        (["--target", "y", "--known", "y"], "known must not name"),
        (["--target", "y", "--known", "nope"], "has no column 'nope'"),
        (["--target", "y", "--horizon", 0], "horizon must be 1 or more"),
        (["--target", "y", "--learner", "forest"], "--learner must be of linear, network"),
        (["--target", "y", "--interval", 2], "--interval must be a finite number in (0.0, 1.0), got 2.0"),
        (["--target", "y", "--interval", "nan"], "--interval must be"),
        (["--target", "y", "--lags", "two"], "invalid int value"),
        (["--target", "y", "--optimizer", "lms,adam"], "unknown optimizer 'adam'"),
        (["--target", "y", "--optimizer", ","], "--optimizer must be one or more"),
        (["--target", "y", "--normalizer", "batch"], "unknown normalizer 'batch'"),
        (["--target", "y", "--step-size", 0], "--step-size must be"),
        (["--target", "y", "--step-size", "nan"], "--step-size must be"),
        (["--target", "y", "--record-every", 0], "--record-every must be 1 or more"),
        (["--target", "y", "--bogus"], "unrecognized arguments"),
    ],
)
def test_arguments_that_cannot_be_used(capsys, small, words, message) -> None:
    output = ["--output", small.parent / "out"]
    code, out, err = call(capsys, "learn", small, *words, *output)
    assert (code, out) == (2, "") and message in err and "Traceback" not in err


def test_an_output_that_cannot_be_written(capsys, small) -> None:
    code, out, err = call(capsys, "learn", small, "--target", "y", "--output", small / "below")
    assert (code, out) == (2, "") and f"cannot write to {small / 'below'}" in err


def test_a_full_disk_leaves_no_half_file(capsys, small, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command.json, "dumps", fail)
    code, _, err = call(capsys, "learn", small, "--target", "y", "--lags", 1, "--output", small.parent / "out")
    assert code == 2 and "No space left on device" in err
    assert sorted(p.name for p in (small.parent / "out").iterdir()) == [f for f in FILES if f != "config.json"]


# --- what comes out ---


def test_a_table_of_ones_own(capsys, small) -> None:
    output = small.parent / "a" / "b"
    words = ["--target", "y", "--features", "x", "--lags", 2, "--optimizer", "idbd, lms", "--normalizer", "welford"]
    code, out, err = call(capsys, "learn", small, *words, "--output", output, "--step-size", 0.02)
    assert (code, err) == (0, "") and "2 columns: 4 inputs" in out
    assert sorted(p.name for p in output.iterdir()) == FILES
    learners = load_learners(output / "config.json")
    assert list(learners) == ["idbd", "lms"]
    expected = learn_table(small, "y", ["x"], 2, ["idbd", "lms"], "welford", 0.02)
    metrics = pd.read_csv(output / "metrics.csv")
    pd.testing.assert_frame_equal(metrics, expected.windows, rtol=1e-5)


@pytest.mark.parametrize(
    ("header", "words", "columns"),
    [
        ("y, b", ["--features", " b"], ["y", "b"]),
        ("y, b", ["--features", "b"], ["y", "b"]),
        ('y,"a, in C"', ["--features", "a, in C"], ["y", "a, in C"]),
        ('y,"a, in C",b', ["--features", '"a, in C",b'], ["y", "a, in C", "b"]),
        ('y,"say ""b"""', ["--features", 'say "b"'], ["y", 'say "b"']),
        ("y,", ["--features", "column 2"], ["y", "column 2"]),
        ("y,y", ["--features", "y.1"], ["y", "y.1"]),
        ("y;-b", ["--features=-b"], ["y", "-b"]),
    ],
)
def test_every_column_can_be_named(capsys, tmp_path, header, words, columns) -> None:
    n = len(columns)
    rows = "\n".join((";" if ";" in header else ",").join(str((k * j) % 7) for j in range(1, n + 1)) for k in range(50))
    (tmp_path / "t.csv").write_text(f"{header}\n{rows}\n")
    words = [*words, "--lags", 1, "--optimizer", "lms", "--output", tmp_path / "out"]
    code, _, err = call(capsys, "learn", tmp_path / "t.csv", "--target", " y ", *words)
    assert (code, err) == (0, "")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["table"]["columns"] == columns


@pytest.mark.parametrize("job", ["learn", "predict-return", "nexting"])
def test_divergence_is_told_by_every_job(capsys, small, job) -> None:
    question = {"learn": ["--target", "y"], "predict-return": ["--cumulant", "y", "--gamma", "0.5"]}.get(job, [])
    lms = "lms" if job == "learn" else "tdlambda"
    words = [*question, "--lags", 2, "--normalizer", "none", "--step-size", 1e9, "--optimizer", lms]
    code, out, err = call(capsys, job, small, *words, "--output", small.parent / "out")
    assert code == 2 and "unstable: " in out and "not one prediction has a finite error" in err
    assert (small.parent / "out" / "config.json").is_file()


@pytest.mark.parametrize("job", ["learn", "predict-return", "nexting"])
@pytest.mark.filterwarnings("error")
def test_a_window_longer_than_the_table_is_told(capsys, small, job) -> None:
    question = {"learn": ["--target", "y"], "predict-return": ["--cumulant", "y", "--gamma", "0.5"]}.get(job, [])
    words = [*question, "--lags", 1, "--record-every", 10**6, "--output", small.parent / "out"]
    code, out, err = call(capsys, job, small, *words)
    assert (code, err) == (0, "") and ("no window of 1,000,000 rows was filled" in out) == (job != "nexting")


def test_what_was_guessed_is_printed(capsys, small) -> None:
    text = small.read_text().replace(",", ";").replace(".", ",")
    small.write_bytes(("sep=;\n" + text).encode("utf-16"))
    code, out, _ = call(capsys, "learn", small, "--target", "y", "--lags", 1, "--output", small.parent / "out")
    assert code == 0 and "read as: cut at ';', decimal comma, text in utf-16, 1 line above the names left out" in out
    assert json.loads((small.parent / "out" / "config.json").read_text())["scores"]["idbd"]["skill"] > 0.5


def test_numbers_that_are_names_on_the_command_line(capsys, small) -> None:
    words = ["--lags", 0, "--known", "k", "--words", "k", "--output", small.parent / "out"]
    small.write_text("k,y\n" + "".join(f"{7 * (n % 3)},{[2, -1, 5][n % 3]}\n" for n in range(200)))
    code, out, _ = call(capsys, "learn", small, "--target", "y", *words)
    assert code == 0 and "words, as an input for each: k 4" in out
    code, out, _ = call(capsys, "learn", small, "--words", "k", "--explain")
    assert code == 0 and "k  category, 3 values" in out
    code, _, err = call(capsys, "learn", small, "--target", "y", "--words", "j", "--output", small.parent / "out")
    assert code == 2 and "has no column 'j'" in err


def test_it_can_run_twice(capsys, small) -> None:
    for _ in range(2):
        code, *_ = call(capsys, "learn", small, "--target", "y", "--lags", 1, "--output", small.parent / "out")
        assert code == 0
    assert sorted(p.name for p in (small.parent / "out").iterdir()) == FILES


def test_ctrl_c_writes_what_was_learned(capsys, small, monkeypatch) -> None:
    def stopped(pages):
        for k, page in enumerate(pages):
            if k == 2:
                raise KeyboardInterrupt
            yield page

    monkeypatch.setattr(learn, "read_ahead", stopped)
    monkeypatch.setattr(learn, "_page_rows", lambda source: 100)
    code, out, err = call(capsys, "learn", small, "--target", "y", "--lags", 1, "--output", small.parent / "out")
    assert code == 130 and "200 steps of 3 learners" in out and "interrupted after 200 steps" in err
    assert json.loads((small.parent / "out" / "config.json").read_text())["interrupted"] is True


def test_help_and_version(capsys) -> None:
    code, out, _ = call(capsys, "--version")
    assert (code, out.strip()) == (0, f"alberta-nb {alberta_nb.__version__}")
    code, out, _ = call(capsys, "learn", "--help")
    assert code == 0
    for option in ("--target", "--features", "--lags", "--optimizer", "--normalizer", "--output"):
        assert option in out
    for words in ([], ["bake"]):
        assert call(capsys, *words)[0] == 2


# --- the benchmark's door ---


def test_a_checkout_runs_its_benchmark(capsys) -> None:
    code, out, _ = call(capsys, "bench", "--help")
    assert code == 0 and "--against" in out and "--rows" in out
    code, _, err = call(capsys, "bench", "--only", "z")
    assert code == 2 and "only must name parts" in err


def test_an_installed_wheel_says_where_the_benchmark_is(capsys, tmp_path) -> None:
    assert cli.bench_door(["--quick"], tmp_path) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "git clone" in err and "python -m bench" in err


# --- compiled programs that are kept ---

KEPT = """
from alberta_nb.apps.cli import keep_programs
keep_programs(True)
import jax
from alberta_nb import IDBD, LinearLearner, SuttonExperiment1Stream, run_learning_loop
run = run_learning_loop(LinearLearner(IDBD(0.05, 0.01)), SuttonExperiment1Stream(), 500, jax.random.key(0))
print(bytes(run.metrics).hex())
"""


def numbers(cache: Path, **more: str) -> str:
    """What a process gives that keeps its programs there; it must not say a word about them."""
    clean = {name: value for name, value in os.environ.items() if "CACHE" not in name and name != "XLA_FLAGS"}
    places = {name: str(cache) for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME")}
    path = os.pathsep.join([str(Path(alberta_nb.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", KEPT], capture_output=True, text=True, env=clean | places | {"PYTHONPATH": path} | more
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_kept_programs_give_the_same_numbers_and_broken_ones_no_trouble(tmp_path) -> None:
    first = numbers(tmp_path)
    kept = set(tmp_path.rglob("*-cache"))
    assert kept and numbers(tmp_path) == first
    assert set(tmp_path.rglob("*-cache")) == kept, "the second run compiled something"
    for path, damage in zip(kept, itertools.cycle((b"", b"no program", bytes(3_000)))):
        path.write_bytes(damage)
    assert numbers(tmp_path) == first


def test_kept_programs_can_be_refused_and_need_no_folder(tmp_path) -> None:
    first = numbers(tmp_path, ALBERTA_NB_CACHE="0")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert numbers(tmp_path / "file") == first


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="the flag names processors of x86")
def test_programs_for_another_processor_are_others(tmp_path) -> None:
    first = numbers(tmp_path)
    kept = set(tmp_path.rglob("*-cache"))
    numbers(tmp_path, XLA_FLAGS="--xla_cpu_max_isa=SSE4_2")
    assert kept < set(tmp_path.rglob("*-cache")) and numbers(tmp_path) == first


def test_no_cache_is_an_option_of_every_job() -> None:
    for job in ("learn", "predict-return", "nexting"):
        assert cli.make_parser(job).parse_args([job, "--no-cache"]).no_cache


def test_two_jobs_in_one_folder_do_not_mix(capsys, small) -> None:
    folder = small.parent / "out"
    words = ["learn", small, "--target", "y", "--lags", 1, "--output", folder]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        folder.mkdir()
        mark = folder / f".job.{platform.node()}-{other.pid}.part"
        mark.touch()
        code, _, err = call(capsys, *words)
        assert code == 2 and f"another job is writing to {folder} (it left {mark.name})" in err
        assert [path.name for path in folder.iterdir()] == [mark.name]
        other.kill()
    assert call(capsys, *words)[0] == 0  # who is gone holds nothing
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert call(capsys, *words[:3], "nothing", *words[4:])[0] == 2
    assert sorted(path.name for path in folder.iterdir()) == FILES
