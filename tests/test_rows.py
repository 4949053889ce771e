"""A model of a table as a service: rows by name, with the numbers of `predict --learn`, whatever happens in between."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from files import same

import alberta_nb as ab
import alberta_nb.apps.rows as rows_module
from alberta_nb.apps.growing import Growing, RowColumns, go_behind
from alberta_nb.apps.http import answers
from alberta_nb.apps.kept import Every, Kept, begin
from alberta_nb.apps.learn import learn_table
from alberta_nb.apps.nexting import next_everything
from alberta_nb.apps.predict import predict_table
from alberta_nb.apps.serve import Ending, answer_lines
from alberta_nb.apps.service import Place, Service, metrics, summary

RNG, N, CUT = np.random.default_rng(3), 90, 60
TABLE = pd.DataFrame({
    "time": pd.date_range("2024-01-01", periods=N, freq="h").astype(str), "wind": RNG.normal(size=N).round(3),
    "kind": RNG.choice(["north", "south", "7"], N), "open": RNG.choice(["yes", "no"], N),
    "temp": RNG.normal(size=N).cumsum().round(3), "flow": RNG.normal(size=N).round(2), "note": RNG.random(N),
})  # fmt: skip
for column in ("wind", "kind", "open", "temp", "flow"):
    TABLE.loc[RNG.choice(N, 7, replace=False), column] = np.nan
TABLE.loc[70, ["temp", "flow"]] = np.nan
AFTER = TABLE[CUT:]
ROWS: list[dict[str, Any]] = AFTER.astype(object).where(AFTER.notna(), None).to_dict("records")
HOW: dict[str, Any] = {"target": "temp", "lags": 3, "known": ["time", "kind", "open"], "kinds": ["linear", "network"]}
TWO: dict[str, Any] = {"target": ["temp", "flow"], "features": ["wind"], "lags": 2, "known": ["kind"], "horizon": 3}
NONE: dict[str, Any] = {"target": "flow", "lags": 0, "known": ["wind", "kind"], "interval": None}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models of the first rows, and the rows behind them."""
    folder = tmp_path_factory.mktemp("rows")
    TABLE[:CUT].to_csv(folder / "first.csv", index=False)
    AFTER.to_csv(folder / "then.csv", index=False)
    for name, how in {"how": HOW, "two": TWO, "none": NONE}.items():
        learn_table(folder / "first.csv", save=folder / f"{name}.alberta", optimizers=["lms", "autostep"], **how)
    return folder


def served(path: Path, most: int = 100) -> Service:
    return begin(path, None, most)


def behind(service: Service) -> Any:
    return service.taught.whole()()[1:]


def check_said(said: list[dict[str, Any]], found: Any) -> None:
    """Every prediction, and each end of its interval, is that of `predict --learn`."""
    target = found.targets[0]
    for name in found.learners:
        of = found.predictions[found.predictions.learner == name]
        for part, column in {"prediction": "prediction", "lower": "low", "upper": "high"}.items():
            if part == "prediction" or found.predictions.low.notna().any():
                assert [answer[part][target][name] for answer in said] == of[column].tolist()


# --- the numbers ---


@pytest.mark.parametrize("name", ["how", "two", "none"])
def test_rows_are_those_of_the_next_table(name: str, files: Path, tmp_path: Path) -> None:
    right = predict_table(files / f"{name}.alberta", files / "then.csv", learn=True, window=N, save=tmp_path / "after")
    service = served(files / f"{name}.alberta")
    said = [service.answer(json.dumps({"row": row}).encode()) for row in ROWS]
    check_said(said, right)
    after, (state, notes) = ab.load(tmp_path / "after"), behind(service)
    assert same(after.state, state)
    assert {k for k in notes if notes[k] != after.notes[k]} <= (
        set() if name == "how" else {"time"}
    )  # which is known of an input only
    seen = [row for row in ROWS if any(row[target] is not None for target in right.targets)]
    assert service.counts["learned"] == len(seen) and service.counts["missing"] == len(ROWS) - len(seen) > 0
    assert summary(service)["targets"] == right.targets
    errors = [answer["error"][right.target]["lms"] for answer in said if "error" in answer]
    total = sum(error * error for error in errors if error is not None)
    assert f'squared_error_total{{target="{right.target}",learner="lms"}} {total!r}\n' in metrics(service)


@pytest.mark.parametrize("name", ["how", "two", "none"])
def test_a_question_leaves_no_trace_and_its_target_may_come_later(name: str, files: Path) -> None:
    service, right = served(files / f"{name}.alberta"), served(files / f"{name}.alberta")
    taught: Any = service.taught
    for k, row in enumerate(ROWS[:12]):
        known = {column: row[column] for column in taught.first}
        before = behind(service)
        asked = service.answer({"row": known})
        assert service.answer({"id": k, "row": known}) == {"id": k} | asked
        assert service.answer({"id": k, "row": known}) == {"id": k} | asked | {"already": True}
        assert same(behind(service)[0], before[0]) and behind(service)[1] == before[1]
        rest = {column: value for column, value in row.items() if column not in known}
        said, at_once = service.answer({"id": k, ("y", "row")[k % 2]: rest}), right.answer({"row": row})
        assert said == {"id": k} | at_once and said["prediction"] == asked["prediction"]
    assert same(behind(service)[0], behind(right)[0]) and behind(service)[1] == behind(right)[1]
    assert service.counts["late"] == service.counts["learned"] > 0 == len(service.waiting) == right.counts["late"]


def test_several_wait_and_are_learned_as_they_were_asked(files: Path) -> None:
    service = served(files / "none.alberta", 2)
    rows = [row for row in ROWS if row["flow"] is not None][:4]
    known = [{"wind": row["wind"], "kind": row["kind"]} for row in rows]
    asked = [service.answer({"id": k, "row": row}) for k, row in enumerate(known)]
    assert list(service.waiting) == [2, 3] and service.counts["dropped"] == 2
    said = [service.answer({"id": k, "y": rows[k]["flow"]}) for k in (3, 2, 0)]
    assert [answer.get("prediction") for answer in said] == [asked[3]["prediction"], asked[2]["prediction"], None]
    assert said[1]["error"]["flow"]["lms"] == rows[2]["flow"] - asked[2]["prediction"]["flow"]["lms"]
    assert "why" in said[2] and service.counts["unknown"] == 1
    assert (
        service.answer({"row": rows[0], "seq": 4})["learned"] and service.answer({"row": rows[0], "seq": 4})["already"]
    )


@pytest.mark.parametrize(("event", "what"), [
    ({"row": {}}, r"must have \['time', 'kind', 'open'\]"),
    ({"row": ROWS[0] | {"temp": "3"}}, "temp must be a number or null, got '3'"),
    ({"row": {k: v for k, v in ROWS[0].items() if k != "wind"}}, r"must have \['wind'\]"),
    ({"row": ROWS[0] | {"time": "soon"}}, "time must be a time or null"),
    ({"row": ROWS[0] | {"time": "2024-01-01T00:00+05:00"}}, "time must be of UTC or say no zone"),
    ({"row": ROWS[0] | {"open": "perhaps"}}, "open must be no or yes or null"),
    ({"row": ROWS[0] | {"kind": ["a"]}}, "kind must be a number, text"),
    ({"row": ROWS[0] | {"kind": "a" * 1001}}, "kind must be a number, text"),
    ({"row": ROWS[0] | {"temp": 1e19}}, "temp must be a number up to 1e18"),
    ({"row": ROWS[0] | {"temp": float("nan")}}, "temp must be a number up to 1e18"),
    ({"row": [1, 2]}, "row must be an object"),
    ({"row": ROWS[0], "y": 99.0}, r"another \['temp'\] already"),
    ({"id": "w", "row": ROWS[0] | {"kind": "west"}}, r"another \['kind'\] already"),
    ({"id": "w", "y": [1, 2]}, "y must have a value for each"),
    ({"id": "w", "y": 1.0}, r"must have \['wind', 'flow', 'note'\]"),
    ({"x": [1, 2], "y": 1}, "unknown"),
    ({"y": 1}, "an event must have row"),
])  # fmt: skip
def test_rows_that_are_none(event: dict[str, Any], what: str, files: Path) -> None:
    service = served(files / "how.alberta")
    service.answer({"id": "w", "row": {name: ROWS[0][name] for name in ("time", "kind", "open")}})
    before = behind(service)
    said = service.answer(event)
    assert re.search(what, said["malformed"]), said
    assert same(behind(service)[0], before[0]) and behind(service)[1] == before[1] and list(service.waiting) == ["w"]


def test_words_and_times_in_other_clothes(files: Path) -> None:
    service, row = served(files / "how.alberta"), ROWS[0] | {"kind": "7", "open": "yes", "temp": 1.0}
    del row["temp"]
    right = service.answer({"row": row})
    written = row["time"].replace(" ", "T") + "Z"
    for other in ({"kind": 7}, {"kind": 7.0}, {"open": True}, {"open": "YES"}, {"time": written}, {"extra": [1]}):
        assert service.answer({"row": row | other}) == right
    assert service.answer({"row": row | {"kind": "never seen"}})["prediction"] != right["prediction"]
    assert service.answer({"row": row | {"kind": None}}) == service.answer({"row": row | {"kind": " "}}) != right


def test_what_a_learner_does_not_survive_is_skipped(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = served(files / "none.alberta")
    names = [name for name, _ in service.taught.pairs]
    for size in (1e18, -1e18, 1e18, -1e18):
        state = service.taught.lives.states
        said = service.answer({"row": {"wind": size, "kind": "north", "flow": size}})
        assert same(service.taught.lives.states, state) == (not said["learned"])
    assert service.counts["skipped"] > 0
    service, row = served(files / "none.alberta"), {"wind": 1.0, "kind": "north", "flow": 2.0}
    state = service.taught.lives.states
    gone = iter([True, False])
    monkeypatch.setattr(rows_module, "_survives", lambda state, new: not next(gone))
    said = service.answer({"row": row})
    assert said["learned"] and list(said["error"]["flow"]) == names
    assert [same(state[pair], service.taught.lives.states[pair]) for pair in state] == [True, False]
    assert service.counts["learned"] == 1 and service.counts["skipped"] == 0


# --- the file ---


def events() -> list[bytes]:
    """Questions, rows, late rows and rubbish."""
    lines = list[Any]()
    for k, row in enumerate(ROWS):
        known = {name: row[name] for name in ("time", "kind", "open")}
        rest = {name: value for name, value in row.items() if name not in known}
        kinds: list[list[Any]] = [
            [{"row": row}], [{"id": k, "row": known}, {"id": k, "y": rest}],
            [{"row": known}, {"row": row, "seq": k + 1}],
            [{"id": f"never {k}", "row": known}, {"row": {"wind": 1}}, {"row": row}],
        ]  # fmt: skip
        lines += kinds[k % 4]
    return [json.dumps(event).encode() for event in lines] + [b'{"row": {"temp": NaN}}', b'{"row": ']


def test_a_replay_from_any_place_changes_nothing(files: Path, tmp_path: Path) -> None:
    lines, model = events(), files / "how.alberta"

    def live(file: Path, at: int, often: int) -> list[dict[str, Any]]:
        said, kept = list[dict[str, Any]](), Kept(begin(model, file, 3), file, Every(0, often), pytest.fail)
        answer_lines(kept.service, io.BytesIO(b"\n".join(lines[:at])), said.append, Ending())
        if at == len(lines):
            assert kept.end()
        return said

    right, file = live(tmp_path / "right.alberta", len(lines), 10**9), tmp_path / "crashed.alberta"
    for at in (17, 30, len(lines)):  # what came behind the last save is lost each time
        known = ab.load(file).notes["service"]["offsets"]["standard input"] if file.exists() else 0
        said = live(file, at, 5)
        assert [answer for answer in said if answer.keys() != {"line", "already"}] == right[known:at]
    assert file.read_bytes() == (tmp_path / "right.alberta").read_bytes()
    assert begin(model, file, 3).counts["dropped"] > 0 < len(begin(file, file, 3).waiting)
    found = predict_table(file, files / "then.csv", learn=True, save=tmp_path / "on.alberta")  # it is a model still
    assert found.steps > 0 and begin(tmp_path / "on.alberta", None, 3).counts["events"] == 0


def test_states_of_others_are_refused(files: Path, tmp_path: Path) -> None:
    kept = Kept(served(files / "none.alberta"), tmp_path / "live.alberta", Every(0, 1), pytest.fail)
    assert kept.service.answer({"id": 1, "row": {"wind": 1, "kind": "north"}}) and kept.end()
    saved = ab.load(tmp_path / "live.alberta")
    for wrong in ({"rows": [5]}, {"rows": []}, {"x": ""}, {"said": 5}):
        told = saved.notes["service"]
        notes = saved.notes | {"service": told | {"waiting": told["waiting"] | wrong}}
        ab.save(tmp_path / "wrong.alberta", saved.learner, saved.state, **notes)
        with pytest.raises(ValueError, match=r"wrong\.alberta: what it says of a service cannot be"):
            begin(files / "none.alberta", tmp_path / "wrong.alberta", 9)
    other = {
        **saved.notes,
        "table": saved.notes["table"] | {"targets": ["temp"], "columns": ["temp", *saved.notes["table"]["known"]]},
    }
    ab.save(tmp_path / "other.alberta", saved.learner, saved.state, **other)
    with pytest.raises(ValueError, match=r"other\.alberta: it is of another table than"):
        begin(files / "none.alberta", tmp_path / "other.alberta", 9)


def test_futures_are_for_another_command(files: Path, tmp_path: Path) -> None:
    next_everything(files / "first.csv", ["temp"], [0.5], lags=1, save=tmp_path / "next.alberta")
    with pytest.raises(ValueError, match=r"next\.alberta: its learners predict the futures.*`alberta-nb predict"):
        served(tmp_path / "next.alberta")


# --- the doors ---


def test_http_knows_a_row_with_its_target(files: Path) -> None:
    service, known = served(files / "none.alberta"), {"wind": 1, "kind": "north"}
    for event, learn, status in (
        ({"row": known}, False, 200), ({"row": known}, True, 400), ({"row": known | {"flow": 1}}, True, 200),
        ({"row": known | {"flow": 1}}, False, 400), ({"row": known, "y": 1}, True, 200), ({"row": 5}, True, 400),
    ):  # fmt: skip
        assert answers(service, json.dumps(event).encode(), learn)[0] == status, event


def test_following_a_file_is_predicting_it(files: Path, tmp_path: Path) -> None:
    """Also with semicolons and decimal commas, and whatever the file calls missing."""
    AFTER.to_csv(tmp_path / "then.csv", index=False, sep=";", decimal=",", na_rep="n.a.")
    path, model = tmp_path / "grows.csv", files / "how.alberta"
    right = predict_table(model, tmp_path / "then.csv", learn=True, window=N)
    data = (tmp_path / "then.csv").read_bytes()
    service, said, seen = served(model), list[dict[str, Any]](), list[str]()
    path.write_bytes(data[:200])
    growing = Growing(path, lambda header: RowColumns(path, service.taught), Place(), seen.append)  # type: ignore[arg-type]
    for cut in (200, 700, len(data)):
        path.write_bytes(data[:cut])
        said += [service.answer(event, place=place) for event, place in growing.rows()]
    check_said(said, right)
    assert service.place.rows == len(ROWS) and seen == []
    with path.open("a") as file:
        file.write("2024-01-05 00:00:00;x;north;perhaps;1,5;0,1;0\n2024;1\n")
    one, two = (service.answer(event) for event, _ in growing.rows())
    assert one["learned"] and "a row must have 7 cells" in two["malformed"]
    path.write_text("time,wind\n")
    assert list(growing.rows()) == [] and f"{path} has no column 'kind'" in seen[-1][: len(str(path)) + 30]


@pytest.mark.parametrize("name", ["how", "none"])
def test_a_file_that_begins_with_what_was_learned(name: str, files: Path, tmp_path: Path) -> None:
    taught: Any = served(files / f"{name}.alberta").taught

    def grows(text: str) -> Growing:
        (tmp_path / "log.csv").write_text(text)
        return Growing(
            tmp_path / "log.csv", lambda header: RowColumns(tmp_path / "log.csv", taught), Place(), pytest.fail
        )

    first, then = ((files / f"{part}.csv").read_text() for part in ("first", "then"))
    rows = then.partition("\n")[2]
    whole = grows(first + rows)
    assert go_behind(whole, taught) and whole.place.rows == CUT
    assert [place.rows for _, place in whole.rows()] == list(range(CUT + 1, N + 1))
    lines = first.splitlines(keepends=True)
    others = [then, first[: len(first) // 2], "".join(lines[:-2] + lines[-1:]) + rows, lines[0], "time,wi"]
    for text in others:
        other = grows(text)
        assert not go_behind(other, taught) and other.place.rows == 0
    assert len(list(grows(then).rows())) == len(ROWS)


def test_the_command_follows_and_is_killed(files: Path, tmp_path: Path) -> None:
    path, state = tmp_path / "grows.csv", tmp_path / "live.alberta"
    lines = (files / "then.csv").read_text().splitlines(keepends=True)
    right = served(files / "none.alberta")
    wanted = [right.answer({"row": row}) for row in ROWS]
    words = ["serve", files / "none.alberta", "--follow", path, "--state", state, "--save-every", 1]
    code = [sys.executable, "-m", "alberta_nb.apps.cli", *map(str, words)]
    env = os.environ | {"PYTHONPATH": str(Path(ab.__file__).parent.parent)}
    path.write_text("".join(lines[:12]))
    for first, last, end in ((0, 11, signal.SIGKILL), (11, len(ROWS), signal.SIGTERM)):
        process = subprocess.Popen(code, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout
        said = [json.loads(process.stdout.readline()) for _ in range(last - first)]
        assert said == [{"row": k + 1} | wanted[k] for k in range(first, last)]
        process.send_signal(end)
        process.communicate()
        path.write_text("".join(lines))
    assert process.returncode == 143 and same(ab.load(state).state, behind(right)[0])
