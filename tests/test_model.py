"""What learners of a table know, in a file: bit for bit, and nothing believed of a file that is none."""

import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

import alberta_nb as ab
from alberta_nb.apps.futures import DiscountedMeanLearner, Futures
from alberta_nb.apps.life import Lives
from alberta_nb.apps.model import load_model, resumed, save_model, settings_of
from alberta_nb.apps.nexting import next_everything
from alberta_nb.apps.predict import predict_table
from alberta_nb.apps.predict_return import predict_returns
from alberta_nb.apps.tables import LaggedSource, all_rows
from alberta_nb.horde.gvf import horde_from_columns
from alberta_nb.horde.horde import HordeLearner
from alberta_nb.learners.td import TDLinearLearner
from alberta_nb.optimizers.td_lambda import TDLambda
from alberta_nb.streams.dialect import TableError

RNG = np.random.default_rng(7)
TABLE = pd.DataFrame(RNG.normal(size=(120, 4)).cumsum(axis=0) * [1e-3, 1.0, 1e6, 1.0] + 1e4, columns=list("abcd"))
TABLE.loc[[5, 60, 61, 90], "b"] = np.nan
TABLE.loc[:30, "d"] = np.nan  # a column that begins late


def lives_on(table: pd.DataFrame, **how: Any) -> Lives:
    source = LaggedSource(table, **how)
    linear, network = ab.LinearLearner(ab.Autostep(0.01), ab.EMANormalizer()), ab.MLPLearner((3,), ab.LMS(0.01))
    inside = {"linear": linear, "robust": ab.Robust(ab.PopArt(linear)), "network": network}
    return Lives(source, {name: ab.Interval(ab.Late(one, source.horizon - 1)) for name, one in inside.items()})


def live(lives: Lives, page: int = 17) -> dict[str, np.ndarray]:
    told = [lives.learn(rows) for rows in all_rows(lives.source, page)]
    return {name: np.concatenate([part.said[name] for part in told]) for name in told[0].said}


WAYS = [
    {"target": "a", "lags": 1},
    {"target": ["a", "b"], "lags": 4, "horizon": 3},
    {"target": "d", "lags": 2, "known": ["c"]},
    {"target": ["b"], "lags": 0, "known": ["a", "c"]},
    {"target": "b", "lags": 2, "features": ["d"], "horizon": 2},
]


@pytest.mark.parametrize("how", WAYS, ids=str)
@pytest.mark.parametrize("cut", [37, 61, 119])
def test_two_files_are_as_one(how: dict[str, Any], cut: int, tmp_path: Path) -> None:
    whole, before = lives_on(TABLE, **how), lives_on(TABLE[:cut], **how)
    wanted = live(whole)
    live(before, 9)
    save_model(tmp_path / "m", before)
    model = load_model(tmp_path / "m")
    assert model.place.rows == cut and model.learners == before.learners
    after = model.lives(TABLE[cut:].reset_index(drop=True), teach=True)
    said = live(after, 40)
    for name, values in said.items():
        assert len(values) == len(TABLE) - cut
        assert np.array_equal(values, wanted[name][-len(values) :], equal_nan=True), name
    for ours, theirs in zip(jax.tree.leaves(after.states), jax.tree.leaves(whole.states), strict=True):
        assert np.array_equal(ours, theirs)
    assert np.array_equal(after.place.past, whole.place.past) and after.place.rows == len(TABLE)


def test_columns_in_another_order_and_more_of_them(tmp_path: Path) -> None:
    before = lives_on(TABLE[:80], target="b", lags=2)
    live(before)
    save_model(tmp_path / "m", before)
    plain, mixed = TABLE[80:], TABLE[80:][list("dbca")].assign(new=1.0)
    a, b = (live(load_model(tmp_path / "m").lives(table, teach=True)) for table in (plain, mixed))
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_untaught_learners_stay_as_they_are(tmp_path: Path) -> None:
    before = lives_on(TABLE[:80], target="b", lags=0, known=["a"])
    live(before)
    save_model(tmp_path / "m", before)
    model = load_model(tmp_path / "m")
    silent = model.lives(TABLE[80:][["a"]], teach=False)  # its target is not in the table
    said = live(silent)
    now = silent.states["linear", 0].learner_state.learner_state
    for ours, theirs in zip(
        jax.tree.leaves(now), jax.tree.leaves(before.states["linear", 0].learner_state.learner_state), strict=True
    ):
        assert np.array_equal(ours, theirs)
    inputs = (TABLE["a"][80:].to_numpy() - TABLE["a"][0])[:, None]
    learner = before.learners["linear"].learner.learner
    wanted = [float(learner.predict(now, x.astype(np.float32))[0]) for x in inputs]
    origin = silent.place.origin[silent.source.columns.index("b")]
    assert np.allclose(said["linear"][:, 0], np.array(wanted) + origin, rtol=1e-5)


def test_times_of_another_zone_are_not_those_that_were_learned(tmp_path: Path) -> None:
    hours = pd.date_range("2024-01-01", periods=120, freq="h")
    zoned = {zone: TABLE.assign(t=hours.strftime(f"%Y-%m-%d %H:%M{zone}")) for zone in ("", "Z", "+02:00", "+05:00")}
    fitting = {"": ["", "Z"], "+02:00": ["Z", "+02:00", "+05:00"]}
    for learned, fits in fitting.items():
        before = lives_on(zoned[learned][:80], target="b", lags=0, known=["t"])
        for zone, table in zoned.items():
            if zone in fits:
                resumed(table[80:], settings_of(before.source), None)
            else:
                with pytest.raises(TableError, match="column 't' held times of .* where the model learned, and here"):
                    resumed(table[80:], settings_of(before.source), None)


@pytest.mark.parametrize("lags", [0, 2])
def test_a_column_that_is_missing_is_named(lags: int, tmp_path: Path) -> None:
    before = lives_on(TABLE[:80], target="b", lags=lags, known=["a"])
    live(before)
    save_model(tmp_path / "m", before)
    model = load_model(tmp_path / "m")
    with pytest.raises(TableError, match="'a'"):
        model.lives(TABLE[80:].drop(columns="a"), teach=True)
    with pytest.raises(TableError, match="'a'"):
        model.lives(TABLE[80:].assign(a="word"), teach=True)
    if lags:
        with pytest.raises(TableError, match="'b'"):
            model.lives(TABLE[80:].drop(columns="b"), teach=False)


def rewritten(path: Path, to: Path, change: Any) -> Path:
    """The same file with other notes; the header is the one file that is JSON."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith(".json"):
                header = json.loads(data)
                change(header["notes"])
                data = json.dumps(header).encode()
            new.writestr(item, data)
    return to


def put(*path: Any) -> Any:
    *names, last, value = path

    def change(notes: Any) -> None:
        for name in names:
            notes = notes[name]
        notes[last] = value

    return change


ONE_NAME = put("names", ["one"])  # of three
BAD = [
    put("table", {}), put("table", None), put("table", "targets", []), put("table", "targets", ["zz"]),
    put("table", "lags", -1), put("table", "lags", True), put("table", "lags", 2**40), put("table", "horizon", "1"),
    put("table", "columns", ["b", "b"]), put("table", "known", "a"), ONE_NAME, put("names", 3),
    put("origin", [1.0]), put("origin", ["x", 1, 2, 3]), put("past", [[0.0]]), put("past", None),
    put("past", 0, 0, float("nan")), put("rows", -1), put("rows", "many"), put("sums", []), put("counts", {}),
    lambda notes: notes.clear(), lambda notes: notes.pop("past"), put("table", "lags", 7),
]  # fmt: skip


@pytest.mark.parametrize("change", BAD)
def test_a_file_that_is_no_model_is_refused(change: Any, tmp_path: Path) -> None:
    before = lives_on(TABLE[:40], target="b", lags=2)
    live(before)
    save_model(tmp_path / "m", before)
    with pytest.raises(ValueError, match="bad"):
        load_model(rewritten(tmp_path / "m", tmp_path / "bad", change))


def test_a_learner_alone_is_no_model(tmp_path: Path) -> None:
    learner = ab.LinearLearner(ab.LMS())
    ab.save(tmp_path / "one", learner, learner.init(3))
    with pytest.raises(ValueError, match="no model of a table"):
        load_model(tmp_path / "one")
    with pytest.raises(ValueError, match="learned a row"):
        save_model(tmp_path / "none", lives_on(TABLE, target="a", lags=1))
    with pytest.raises(OSError, match="nowhere"):
        load_model(tmp_path / "nowhere")


def test_resumed_without_a_place_begins() -> None:
    source = LaggedSource(TABLE, "b", lags=3)
    a, b = (list(all_rows(s, 50)) for s in (source, resumed(TABLE, settings_of(source), None)))
    assert all(np.array_equal(x.inputs, y.inputs) for x, y in zip(a, b, strict=True))


# --- learners of futures ---


def futures_on(table: pd.DataFrame, target: Any = "b", **how: Any) -> Futures:
    source = LaggedSource(table, target, **{"lags": 2} | how)
    rule = TDLambda(0.01, 0.5)
    if isinstance(target, str):
        inside = TDLinearLearner(rule, ab.EMANormalizer())
        return Futures(
            source, ab.LearnerBank(tuple(DiscountedMeanLearner(inside, gamma=g) for g in (0.5, 0.8))), ["td"]
        )
    horde = HordeLearner(horde_from_columns(target, [0.0, 0.8], 0.5), (), rule, normalizer=ab.EMANormalizer())
    return Futures(source, DiscountedMeanLearner(horde), ["prediction"])


def live_futures(lives: Futures, page: int = 17) -> Futures:
    for rows in all_rows(lives.source, page):
        lives.learn(rows)
    return lives


@pytest.mark.parametrize("target", ["b", ["b", "d"]], ids=str)
@pytest.mark.parametrize("cut", [2, 6, 61, 62, 119])  # also where the row before has no value
def test_two_files_of_futures_are_as_one(target: Any, cut: int, tmp_path: Path) -> None:
    whole, before = live_futures(futures_on(TABLE, target)), live_futures(futures_on(TABLE[:cut], target), 9)
    save_model(tmp_path / "m", before)
    model = load_model(tmp_path / "m")
    assert model.place.rows == cut and model.learner == before.learner and model.names == before.names
    after = live_futures(model.lives(TABLE[cut:].reset_index(drop=True), teach=True), 40)
    assert all(map(np.array_equal, jax.tree.leaves(after.state), jax.tree.leaves(whole.state)))
    save_model(tmp_path / "m", after)
    save_model(tmp_path / "w", whole)
    assert (tmp_path / "m").read_bytes() == (tmp_path / "w").read_bytes()


@pytest.mark.parametrize("job", [predict_returns, next_everything])
@pytest.mark.parametrize("lags", [0, 2])
def test_two_files_of_a_network_of_futures_are_as_one(job: Any, lags: int, tmp_path: Path) -> None:
    asked = {"cumulant": "b"} if job is predict_returns else {"columns": ["b", "d"]}
    how = asked | {"lags": lags, "known": ["c"], "gammas": [0.0, 0.5], "record_every": 10, "optimizers": ["tdlambda"]}
    kinds = ["network", "linear"][: 1 + (job is predict_returns)]
    long = pd.concat([TABLE] * 4, ignore_index=True)
    job(long, kinds=kinds, **how, save=tmp_path / "w")
    job(long[:205], kinds=kinds, **how, save=tmp_path / "m")
    predict_table(tmp_path / "m", long[205:].reset_index(drop=True), learn=True, save=tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == (tmp_path / "w").read_bytes()
    assert any(64 in np.shape(leaf) for leaf in jax.tree.leaves(load_model(tmp_path / "m").state))


def test_a_model_of_futures_can_be_used_twice(tmp_path: Path) -> None:
    save_model(tmp_path / "m", live_futures(futures_on(TABLE[:80])))
    model = load_model(tmp_path / "m")
    rest = TABLE[80:].reset_index(drop=True)
    one, other = (live_futures(model.lives(rest, teach=True)) for _ in range(2))
    assert all(map(np.array_equal, jax.tree.leaves(one.state), jax.tree.leaves(other.state)))
    assert np.array_equal(one.means.sums, other.means.sums)


BAD_FUTURES = [
    *(change for change in BAD if change is not ONE_NAME),
    put("table", "horizon", 2), put("table", "targets", ["a", "b"]), put("names", ["td", "more"]),
    put("waiting", 3), put("waiting", {}), put("waiting", "inputs", [1.0]), put("waiting", "targets", [None]),
    put("waiting", "inputs", 0, None), put("waiting", "targets", ["x"]), put("waiting", "targets", [[1.0]]),
]  # fmt: skip


@pytest.mark.parametrize("change", BAD_FUTURES)
def test_a_file_that_is_no_model_of_futures_is_refused(change: Any, tmp_path: Path) -> None:
    save_model(tmp_path / "m", live_futures(futures_on(TABLE[:40])))
    with pytest.raises(ValueError, match="bad"):
        load_model(rewritten(tmp_path / "m", tmp_path / "bad", change))


TD, HORDE = TDLinearLearner(TDLambda(0.01)), HordeLearner(horde_from_columns(["b"], [0.5]), (), TDLambda(0.01))
TWICE = HordeLearner(horde_from_columns(["b"], [0.5, 0.8]), (), TDLambda(0.01))
ALIEN = {
    "a learner of rows": ab.LinearLearner(),
    "a bank of learners of rows without predictions": ab.LearnerBank((ab.LinearLearner(ab.LMS(0.01)),)),
    "a learner of returns, which answers nothing": ab.LearnerBank((TD,)),
    "a lone learner of one column": DiscountedMeanLearner(TD),
    "a bank of a Horde that asks twice": ab.LearnerBank((DiscountedMeanLearner(TWICE),)),
    "one answer from each of two kinds, and one more": ab.LearnerBank(
        (DiscountedMeanLearner(TD), DiscountedMeanLearner(HORDE), DiscountedMeanLearner(HORDE))
    ),
    "one and a plain one": ab.LearnerBank((DiscountedMeanLearner(TD), TD)),
    "a column too many": DiscountedMeanLearner(HordeLearner(horde_from_columns(["b", "c"], [0.5]), (), TDLambda(0.01))),
    "no end": DiscountedMeanLearner(HordeLearner(horde_from_columns(["b"], [1.0]), (), TDLambda(0.01))),
    "the same question twice": ab.LearnerBank((DiscountedMeanLearner(TD), DiscountedMeanLearner(TD))),
}


@pytest.mark.parametrize("learner", ALIEN.values(), ids=ALIEN.keys())
def test_the_learners_of_a_model_must_be_of_its_table(learner: Any, tmp_path: Path) -> None:
    save_model(tmp_path / "m", live_futures(futures_on(TABLE[:40])))
    notes = ab.load(tmp_path / "m").notes | {"names": ["td"]}
    ab.save(tmp_path / "bad", learner, learner.init(8), **notes)
    with pytest.raises(ValueError, match="bad: its columns and its learners do not fit"):
        load_model(tmp_path / "bad")


def test_a_model_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "m", live_futures(futures_on(TABLE[:40], ["b", "c"])))
    data = (tmp_path / "m").read_bytes()
    for size in (0, 10, len(data) // 2, len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:size])
        with pytest.raises(ValueError, match="cut"):
            load_model(tmp_path / "cut")


def test_futures_must_have_lived_before_they_are_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="learned a row"):
        save_model(tmp_path / "none", futures_on(TABLE))
