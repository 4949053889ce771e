"""Words and times as numbers: what each input is, what comes later, and what a file may not say."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from alberta_nb.apps.cli import main
from alberta_nb.apps.learn import describe, learn_table
from alberta_nb.apps.model import codings_of, resumed, settings_of
from alberta_nb.apps.predict import predict_table
from alberta_nb.apps.tables import LaggedSource, all_rows
from alberta_nb.streams.columns import kind_of
from alberta_nb.streams.dialect import TableError
from alberta_nb.streams.inputs import BUCKETS, MOST_VALUES, Coding, calendar, coding_of, indicators
from alberta_nb.streams.pieces import input_names, look_at
from alberta_nb.streams.reading import Reading
from alberta_nb.streams.tables import TableSource, explain, open_table
from alberta_nb.streams.times import Clock

HOURS = pd.date_range("2026-03-02", periods=400, freq="h")


def shops(rows: int = 400, seed: int = 0) -> pd.DataFrame:
    "Sales that depend on the shop, on whether it is open, and on the hour."
    rng = np.random.default_rng(seed)
    shop, opened = rng.choice(["north", "south", "east"], rows), rng.choice(["yes", "no"], rows)
    level = pd.Series(shop).map({"north": 5.0, "south": -3.0, "east": 0.0}).to_numpy()
    wave = 4 * np.cos(2 * np.pi * (np.arange(rows) % 24 - 15) / 24)
    sales = 20 + level + 6 * (opened == "yes") + wave + 0.1 * rng.normal(size=rows)
    return pd.DataFrame({"when": HOURS[:rows].astype(str), "shop": shop, "open": opened, "sales": sales})


def test_a_wave_of_a_year_that_was_no_year_is_told(tmp_path) -> None:
    year = "when: its wave of a year was learned from less than one"
    rows, model, days = np.arange(400), tmp_path / "m", pd.date_range("2024-01-01", periods=400)
    days = pd.DataFrame({"when": days.astype(str), "y": np.sin(rows)})
    given = {"lags": 0, "known": ["when"], "optimizers": "lms"}
    assert year in describe(learn_table(days[:300], "y", save=model, **given), "t")
    assert year not in describe(learn_table(days, "y", **given), "t")
    assert year not in describe(predict_table(model, days[300:]), "t")
    assert year not in describe(learn_table(days[:300], "y", lags=2, optimizers="lms"), "t")


# --- words ---


@pytest.mark.parametrize("kind", [object, "string", "category"])
def test_each_word_has_an_input(kind) -> None:
    column = pd.Series(["b", "a", None, " a", "c"], dtype=object).astype(kind)
    expected = [[0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1]]
    np.testing.assert_array_equal(indicators(column, ("a", "b"), 1), expected)
    assert indicators(column[:0], ("a",), 1).shape == (0, 2)
    assert not indicators(pd.Series([None, None], dtype=object), ("a",), 2).any()


def test_numbers_of_a_column_with_holes_are_the_words_they_were() -> None:
    np.testing.assert_array_equal(indicators(pd.Series([3.0, np.nan, 2.5]), ("3", "2.5"), 1)[[0, 2]], np.eye(3)[:2])


def test_many_words_share_inputs_and_always_the_same() -> None:
    words = pd.Series([f"user {k}" for k in range(500)])
    coding = coding_of("user", kind_of(words))
    assert coding is not None and len(coding.numbers) == MOST_VALUES + BUCKETS
    read = coding.read(words)
    assert (read.sum(axis=1) == 1).all() and (read[:, MOST_VALUES:].sum(axis=0) > 0).mean() > 0.9
    np.testing.assert_array_equal(read[::-1], coding.read(words[::-1]))


def test_words_are_told_apart_and_new_ones_may_come() -> None:
    found = learn_table(shops(), "sales", lags=0, known=["shop", "open"], optimizers=["autostep"])
    assert found.known == ["shop=east", "shop=north", "shop=south", "shop: other", "open"]
    text = describe(found, "t")
    assert "words, as an input for each: shop 4" in text and "yes and no, as 1 and 0: open" in text
    weights = found.features.set_index("feature").weight
    assert weights["shop=north"] > weights["shop=east"] > weights["shop=south"]
    late = pd.concat([shops(), shops(50, 1).assign(shop="west", sales=40.0)], ignore_index=True)
    source = LaggedSource(late, "sales", lags=0, known=["shop"], piece_rows=400)
    read = np.concatenate([page.inputs for page in all_rows(source, 1000)]) + source.origin[:4]
    new = read[:, source.known.index("shop: other")]  # the first row is no one to be judged
    assert (new[399:] == 1).all() and new[:399].sum() == 0


def test_what_was_not_named_is_told() -> None:
    found = learn_table(shops(), "sales", lags=1, optimizers=["lms"])
    assert found.columns == ["open", "sales"]  # yes and no need no asking
    assert "words, ignored unless --known or --features names them: shop" in describe(found, "t")
    for target in ("shop", "when"):
        with pytest.raises(TableError, match=f"column '{target}' holds no numbers, like"):
            learn_table(shops(), target)


def test_a_target_of_yes_and_no() -> None:
    rows = np.arange(300)
    table = pd.DataFrame({"x": rows % 2, "y": np.where(rows % 2, "yes", "no")})
    found = learn_table(table, "y", lags=0, known=["x"], optimizers=["autostep"])
    assert found.predictions.actual.isin([0, 1]).all() and found.scores.rmse["autostep"] < 0.5


def test_words_of_the_past_are_inputs_too() -> None:
    source = LaggedSource(shops(), "sales", features=["shop"], lags=2)
    names = ["shop=east", "shop=north", "shop=south", "shop: other", "sales"]
    assert source.feature_names == [f"{n}[-1]" for n in names] + [f"{n}[-1]-[-2]" for n in names]


def test_a_column_that_is_called_like_an_input_keeps_its_name() -> None:
    table = shops().assign(**{"shop=north": 7.0})
    source = LaggedSource(table, "sales", ["shop=north"], 1, known=["shop"])
    assert "shop=north.1" in source.known and "shop=north" in source.lagged


def test_sources_of_tables_take_words() -> None:
    source = TableSource(shops(), "sales", ["open", "shop"])
    assert source.feature_dim == 5 and len(next(source.pages(0, 10)).observation) == 10


# --- times ---


def test_the_calendar_by_hand() -> None:
    seconds = np.array([0.0, 6 * 3600.0])
    np.testing.assert_allclose(calendar(seconds)[:, :2], [[0, 1], [1, 0]], atol=1e-9)
    week = calendar(np.array([0.0, 7 * 86_400.0]))
    np.testing.assert_allclose(week[0, 2:4], week[1, 2:4], atol=1e-9)


@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M", "%d.%m.%Y %H:%M", "%m/%d/%Y %I:%M %p"])
def test_the_hour_is_learned_however_it_is_written(form) -> None:
    table = shops().assign(when=HOURS.strftime(form), shop=0.0, open=1.0)
    found = learn_table(table, "sales", lags=0, known=["when"], optimizers=["autostep"])
    assert len(found.known) == 6 and "times, as waves of a day, a week and a year: when" in describe(found, "t")
    plain = learn_table(table.assign(c=np.arange(400) % 7), "sales", lags=0, known=["c"], optimizers=["autostep"])
    assert found.scores.rmse["autostep"] < 0.9 * plain.scores.rmse["autostep"]  # the wave is 8 of a variance of 28


@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Kolkata"])
def test_predictions_say_their_time(tmp_path, zone) -> None:
    table = shops().assign(when=HOURS.tz_localize(zone))
    table.loc[5, "when"] = pd.NaT
    learn_table(table, "sales", lags=1, optimizers=["lms"], predictions=tmp_path / "p.csv")
    said = pd.read_csv(tmp_path / "p.csv")
    moment = pd.Timestamp("2026-03-02 01:00", tz=zone)
    expected = f"{moment:%Y-%m-%dT%H:%M:%S}" if zone is None else f"{moment.tz_convert('UTC'):%Y-%m-%dT%H:%M:%S}Z"
    assert said.columns[:3].tolist() == ["row", "when", "sales"] and said.when[0] == expected and pd.isna(said.when[4])


def test_parts_of_seconds_and_an_epoch(tmp_path) -> None:
    table = shops().assign(when=1_700_000_000_000 + 250 * np.arange(400)).rename(columns={"when": "timestamp"})
    learn_table(table, "sales", lags=1, optimizers=["lms"], predictions=tmp_path / "p.csv")
    assert pd.read_csv(tmp_path / "p.csv").timestamp[1] == "2023-11-14T22:13:20.500000Z"


def test_pieces_of_a_clock_are_the_whole() -> None:
    seconds = np.array([np.nan, 0, 60, 120, 120, 600, 540, 660, np.nan, 720])
    whole, cut = Clock(), Clock()
    whole.add(seconds)
    for part in np.split(seconds, [4, 5, 9]):
        cut.add(part)
    assert whole.order() == cut.order() and "out of order first at row 7" in str(whole.order())
    assert (whole.repeats, whole.gaps) == (1, 2)


def test_rows_out_of_order_are_told_and_sorted_when_asked(tmp_path, capsys) -> None:
    late = shops().sample(frac=1.0, random_state=1).reset_index(drop=True)
    late.to_csv(tmp_path / "t.csv", index=False)
    first = 1 + int(np.flatnonzero(np.diff(pd.to_datetime(late.when).astype("int64")) < 0)[0]) + 1
    found = learn_table(tmp_path / "t.csv", "sales", lags=1)
    assert f"row {first} is earlier than the row above it" in describe(found, "t")
    ordered = open_table(tmp_path / "t.csv", reading=Reading(sort=True))
    again, straight = learn_table(ordered, "sales", lags=1), learn_table(shops(), "sales", lags=1)
    pd.testing.assert_frame_equal(again.scores, straight.scores, rtol=1e-5)
    with pytest.raises(TableError, match="sort needs a column of times, and it has none"):
        open_table(shops()[["sales"]], reading=Reading(sort=True))


# --- what was coded once ---


@pytest.mark.parametrize("cut", [57, 299, 399])
def test_a_model_goes_on_with_its_coding(tmp_path, cut) -> None:
    whole, files = shops(), [tmp_path / name for name in ("m", "1.csv", "2.csv", "whole.csv")]
    whole.loc[300:, "shop"] = "later"
    asked: dict[str, Any] = {"lags": 2, "known": ["shop", "when", "open"], "optimizers": ["autostep"]}
    first, second = whole[:cut], whole[cut:]
    learn_table(first, "sales", **asked, save=files[0], predictions=files[1])
    predict_table(files[0], second, learn=True, predictions=files[2])
    learn_table(LaggedSource(whole, "sales", piece_rows=cut).table, "sales", **asked, predictions=files[3])
    one, two, both = (pd.read_csv(file) for file in files[1:])
    pd.testing.assert_frame_equal(
        pd.concat([one, two], ignore_index=True).drop(columns="row"), both.drop(columns="row")
    )
    table = LaggedSource(first, "sales", lags=2, known=["shop", "when"])
    settings: dict[str, Any] = settings_of(table)
    assert [coding.column for coding, _ in codings_of(settings)] == ["when", "shop", "open"]
    assert resumed(second, settings, None).feature_names == table.feature_names
    with pytest.raises(TableError, match="has no column 'shop'"):
        predict_table(tmp_path / "m", second.drop(columns="shop"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "poem"}, {"column": 3}, {"values": (1,)}, {"values": "ab"}, {"others": 0}, {"others": 10**6},
        {"others": True}, {"form": None}, {"kind": "boolean", "values": ("no",)},
    ],
)  # fmt: skip
def test_a_coding_that_cannot_be_is_refused(wrong) -> None:
    right: dict[str, Any] = {"column": "c", "kind": "category", "values": ("a", "b"), "others": 1}
    assert Coding(**right).numbers == ["c=a", "c=b", "c: other"]
    with pytest.raises((TypeError, ValueError)):
        Coding(**right | wrong)


def test_input_names_need_a_column() -> None:
    table = open_table(shops())
    look_at(table)
    assert input_names(table, ["open", "shop", "open"])[:1] == ["open"]
    with pytest.raises(TableError, match="has no column 'shops'"):
        input_names(table, ["shops"])


# --- tables that strangers brought ---


def test_words_keep_their_text_in_every_piece_of_a_file(tmp_path) -> None:
    names = ["A01", "B02", "TRUE", "003", "1E5"]
    code = [name for k in range(100) for name in ("A01", "B02", "C03", names[k % 5])]
    code += [name for name in names for _ in range(50)]
    pd.DataFrame({"code": code, "y": range(650)}).to_csv(tmp_path / "t.csv", index=False)
    for rows in (None, 50):
        source = LaggedSource(tmp_path / "t.csv", "y", lags=0, known=["code"], piece_rows=rows)
        read = np.concatenate([page.inputs for page in all_rows(source, 300)]) + source.origin[:-1]
        assert [source.known[k].removeprefix("code=") for k in read.argmax(axis=1)] == code[1:]


def test_no_word_is_no_word(tmp_path) -> None:
    promo = np.random.default_rng(0).choice(["None", "TV", "Radio"], 2000)
    pd.DataFrame({"promo": promo, "y": (promo == "TV") * 10.0 + (promo == "Radio") * 5.0}).to_csv(tmp_path / "t.csv")
    found = learn_table(tmp_path / "t.csv", "y", lags=0, known=["promo"], optimizers=["autostep"], window=500)
    assert (found.predictions.prediction - found.predictions.actual).abs().max() < 0.1


def test_names_of_inputs_go_with_the_model(tmp_path) -> None:
    table = shops()
    learn_table(table, "sales", lags=0, known=["shop"], optimizers=["lms"], save=tmp_path / "m")
    plain, other = (predict_table(tmp_path / "m", t) for t in (table, table.assign(**{"shop=north": 9.0})))
    pd.testing.assert_frame_equal(plain.predictions, other.predictions)
    whole = table.assign(**{"shop=north": 9.0})
    learn_table(whole, "sales", ["sales"], lags=0, known=["shop"], optimizers=["lms"], save=tmp_path / "m")
    assert predict_table(tmp_path / "m", table).steps == 400


@pytest.mark.parametrize("form", ["%d.%m.%Y %H:%M", "%Y%m%d%H", "epoch"])
def test_times_of_a_new_table_are_judged_anew(tmp_path, form) -> None:
    table = shops().assign(other=shops().when)
    asked: dict[str, Any] = {"lags": 0, "known": ["other"], "optimizers": ["lms"]}
    learn_table(table, "sales", **asked, save=tmp_path / "m")
    epoch = HOURS.astype("datetime64[ns]").astype("int64") // 10**9
    new = table.assign(other=epoch if form == "epoch" else HOURS.strftime(form)).rename(columns={"other": "other"})
    expected = predict_table(tmp_path / "m", table).predictions.prediction
    if form == "%d.%m.%Y %H:%M":
        np.testing.assert_allclose(predict_table(tmp_path / "m", new).predictions.prediction, expected, rtol=1e-5)
    else:  # a number is a time only under a name that says so
        with pytest.raises(TableError, match="column 'other' held times where the model learned, and here it does not"):
            predict_table(tmp_path / "m", new)


@pytest.mark.parametrize(
    ("name", "cells", "kind"),
    [
        ("MESS_DATUM", [2026122000, 2026122001, 2026122023], "time"),
        ("timestamp", [1_767_225_600, 1_767_229_200], "time"),
        ("validated_bytes", [300_000_000, 2_900_000_000], "numeric"),
        ("Mandate value", [3 * 10**8, 9 * 10**8], "numeric"),
        ("t", ["2026-12-20 23:00", "2026-12-20 24:00"], "time"),
        ("at", ["20.12.2026 23:00", "20.12.2026 24:00"], "time"),
        ("t", ["2026-12-20 05:23:00", "2026-12-20 05:24:00", "2026-12-20 05:25:00"], "time"),
        ("t", ["20.12.2026 05:24:00", "20.12.2026 05:25:00", "20.12.2026 24:00:00"], "time"),
        ("t", ["2026-12-20T05:24:00.5", "2026-12-20T05:25:00.5", "2026-12-20T24:00:00"], "time"),
        ("c", pd.Categorical([1, 2, 3, 1]), "category"), ("RH", [1.5, "NAN", 2.5], "refused"),
    ],
)  # fmt: skip
def test_kinds_of_columns_that_strangers_brought(name, cells, kind) -> None:
    column = pd.Series(cells)
    found = kind_of(column, name)
    assert found.name == kind
    if kind == "time":
        assert found.order is not None and found.order.late == 0 and found.missing == 0
        assert found.order.last[:10] in ("2026-12-20", "2026-12-21", "2026-01-01")
        assert ("-21 00:00" in found.order.last) == ("24:00" in str(cells[-1])[10:16])


def test_zones_that_come_later_are_no_mistake() -> None:
    table = pd.DataFrame({"t": [str(h) for h in HOURS[:200]] + [f"{h}+02:00" for h in HOURS[200:]], "y": range(400)})
    found = learn_table(open_table(table, piece_rows=200), "y", lags=1, known=["t"], optimizers=["lms"])
    assert found.steps == 399


def test_a_network_alone_has_several_targets() -> None:
    table = shops()[["sales"]].assign(x=1.0 * np.arange(400), z=2.0)
    found = learn_table(table, ["sales", "z"], lags=0, known=["x"], kinds=["network"])
    assert not len(found.features) and found.scores.index.nlevels == 2 and "network" in describe(found, "t")


def test_a_prediction_does_not_depend_on_its_own_target() -> None:
    table, said = pd.DataFrame({"x": np.sin(np.arange(300.0))}), []
    for target in (0.5, 1e6, 1e12):
        y = table.x.where(table.index != 200, target)
        rows = learn_table(table.assign(y=y), "y", lags=0, known=["x"], window=300, optimizers=["autostep"]).predictions
        said.append(rows[rows["row"] == 201].prediction.item())
    assert said[0] == said[1] == said[2]


def test_what_meant_missing_does_so_for_the_next_table(tmp_path) -> None:
    files = [tmp_path / name for name in ("1.csv", "2.csv")]
    for k, file in enumerate(files):
        table = shops(seed=k)[["sales"]].assign(x=1.0 * np.arange(400))
        table.loc[100, "sales"] = -9999.0
        table.to_csv(file, index=False)
    learn_table(open_table(files[0], reading=Reading(na=[-9999])), "sales", lags=1, save=tmp_path / "m")
    found = predict_table(tmp_path / "m", files[1], learn=True)
    assert found.report.missing == {"sales": 1} and found.scores.rmse["last value"] < 50


def test_words_of_any_letters(tmp_path) -> None:
    table = shops().assign(shop=["$x$", "\U0001f600", 'a,"b"\n=', "x" * 10_000] * 100)
    assert len(learn_table(table, "sales", lags=0, known=["shop"], optimizers=["lms"]).known) == 5


@pytest.mark.parametrize(("text", "message"), [("<DATE>,<OPEN>\n1,2\n2,3\n", ""), ('[\n  {"a": 1}\n]\n', "it is JSON")])
def test_what_begins_like_another_kind_of_file(tmp_path, text, message) -> None:
    (tmp_path / "t.csv").write_text(text)
    if message:
        with pytest.raises(TableError, match=message):
            open_table(tmp_path / "t.csv")
    else:
        assert open_table(tmp_path / "t.csv").columns == ["<DATE>", "<OPEN>"]


# --- times of day in a column of their own ---


def test_times_of_day_are_waves_and_belong_to_the_day_beside_them(tmp_path) -> None:
    frame = pd.DataFrame({"Datum": HOURS.strftime("%d.%m.%Y"), "Uhr": HOURS.strftime("%H:%M"), "y": np.arange(400.0)})
    source = LaggedSource(frame, "y", lags=0, known=["Uhr"])
    (rows,) = all_rows(source, 400)
    np.testing.assert_array_equal(rows.times, HOURS.as_unit("s").astype(np.int64)[1:])
    assert source.feature_names == ["Uhr: day sine", "Uhr: day cosine"]
    turns = 2 * np.pi * HOURS.hour.to_numpy() / 24
    waves = np.stack([np.sin(turns), np.cos(turns)], axis=1)
    np.testing.assert_allclose(rows.inputs, (waves - waves[0])[1:], atol=1e-6)
    order = source.report.order
    assert order is not None and order.step == "1 hour" and not order.repeats
    (shuffled,) = all_rows(LaggedSource(open_table(frame[::-1], reading=Reading(sort=True)), "y", lags=1), 400)
    np.testing.assert_array_equal(shuffled.targets[:, 0], np.arange(1.0, 400.0))


@pytest.mark.parametrize("cells", [["9:30", "24:00", "13:05"], ["9:30 AM", "12:00 am", "1:05 pm"], ["9:30:00.0"] * 3])
def test_times_of_day_in_other_forms(cells) -> None:
    kind = kind_of(pd.Series(cells))
    assert (kind.name, kind.form, kind.order) == ("time", "clock", None)
    coding = coding_of("at", kind)
    assert coding is not None and coding.read(pd.Series([*cells, None, "late"])).shape == (5, 2)
    hours = {"9": 9.5, "1": 13 + 1 / 12, "2": 0.0}
    wanted = [0.0 if cell.startswith("12:00") else hours[cell[0]] for cell in cells]
    np.testing.assert_allclose(
        coding.read(pd.Series(cells))[:, 0], np.sin(2 * np.pi * np.array(wanted) / 24), atol=1e-9
    )


def test_lengths_of_time_are_no_times_of_day() -> None:
    assert kind_of(pd.Series(["36:15", "41:02", "9:30", "55:00"])).name == "category"


def test_whole_moments_need_no_times_of_day() -> None:
    frame = pd.DataFrame({"when": HOURS, "alarm": ["06:30"] * 400, "y": np.arange(400.0)})
    (rows,) = all_rows(LaggedSource(frame, "y", lags=1), 400)
    np.testing.assert_array_equal(rows.times, HOURS.as_unit("s").astype(np.int64)[1:])
    nothing = LaggedSource(frame.drop(columns="when"), "y", lags=1)  # a time of day alone is no moment
    assert np.isnan(next(all_rows(nothing, 400)).times).all() and nothing.report.order is None


# --- numbers that are names ---


@pytest.mark.parametrize("file", [True, False])
def test_numbers_that_are_names_have_an_input_each(tmp_path, file) -> None:
    store = np.array([7, 12, 7, 40, 12, 7] * 50)
    frame = pd.DataFrame({"store": store, "y": np.where(store == 12, 5.0, -1.0)})
    frame.to_csv(tmp_path / "s.csv", index=False)
    table = open_table(tmp_path / "s.csv" if file else frame, 100, Reading(words=["store"]))
    source = LaggedSource(table, "y", lags=0, known=["store"])
    assert source.feature_names == ["store=12", "store=40", "store=7", "store: other"]
    inputs = np.concatenate([rows.inputs for rows in all_rows(source, 100)])
    lanes = np.stack([store == 12, store == 40, store == 7, store < 0], axis=1).astype(float)
    np.testing.assert_array_equal(inputs, (lanes - lanes[0])[1:])
    assert not source.report.rare


def test_names_keep_their_zeros_and_holes(tmp_path) -> None:
    path = tmp_path / "zip.csv"
    path.write_text("zip,y\n" + "".join(f"{code},{k}\n" for k, code in enumerate(["01067", "1067", "", "80331"] * 20)))
    source = LaggedSource(open_table(path, reading=Reading(words="zip")), "y", lags=0, known=["zip"])
    assert source.feature_names[:3] == ["zip=01067", "zip=1067", "zip=80331"]
    (rows,) = all_rows(source, 100)
    np.testing.assert_array_equal(
        rows.inputs[:4].sum(axis=1), [0, -1, 0, 0]
    )  # counted from the first row, which has one
    with pytest.raises(TableError, match="no column 'plz'"):
        look_at(open_table(path, reading=Reading(words=["plz"])))
    with pytest.raises(TableError, match="'zip' holds no numbers.*it can be an input, and is not predicted"):
        LaggedSource(open_table(path, reading=Reading(words=["zip"])), "zip")


# --- what a model had seen ---


def test_a_model_says_what_it_had_not_seen_and_what_it_had(tmp_path) -> None:
    model = tmp_path / "m"
    learn_table(shops()[:200], "sales", lags=0, known=["shop"], optimizers=["lms"], save=model)
    again = describe(predict_table(model, shops()[100:], learn=True), "again")
    assert "begins at 2026-03-06 04:00:00, and the model has seen rows until 2026-03-10 07:00:00" in again
    moved = shops()[200:]
    moved["sales"] += np.linspace(0, 300, 200)
    moved.loc[220:259, "shop"] = "west"
    new = describe(predict_table(model, moved), "new")
    assert "has seen rows" not in new and "no input of their own: shop 40" in new
    assert "intervals were made for 90% of targets and hold " in new and "--learn" in new
    assert "intervals were made" not in describe(predict_table(model, moved, learn=True), "new")
    blank = describe(predict_table(model, moved.assign(sales=np.nan)), "blank")
    assert "no row has a value" in blank and "was filled" not in blank and "never changes" not in blank


def test_several_series_in_one_table_are_told() -> None:
    frame = shops().loc[np.repeat(np.arange(400), 3)]
    assert "800 rows have the time of the row above" in describe(
        learn_table(frame, "sales", optimizers=["lms"]), "three"
    )
    assert "time of the row above" not in describe(learn_table(shops(), "sales", optimizers=["lms"]), "one")


# --- what strangers brought ---


def test_a_date_among_which_a_total_stands_is_a_date() -> None:
    days = ["01.02.2024"] * 40 + ["14.02.2024"] * 40 + ["Summe"]
    assert kind_of(pd.Series(days), "Datum").name == "time"


def test_names_are_names_whatever_they_look_like() -> None:
    days = np.array([20240101, 20240102, 20240105])[np.arange(90) % 3]
    frame = pd.DataFrame({"batch_date": days, "y": np.arange(90) % 3 * 2.0})
    table = open_table(frame, reading=Reading(words=["batch_date"]))
    source = LaggedSource(table, "y", lags=0, known=["batch_date"])
    assert source.feature_names[:1] == ["batch_date=20240101"] and len(source.feature_names) == 4
    assert table.codings.clock is None and "category, 3 values" in explain(table)


@pytest.mark.parametrize(("known", "other"), [("3", "3.0"), ("3.0", "3"), ("-12.0", "-12")])
def test_a_number_with_a_hole_has_the_name_that_it_had(known, other) -> None:
    cells = pd.Series([known, other, f"{other}1", f"v{other}", "", None], dtype=object)
    assert indicators(cells, (known,), 1).tolist() == [[1, 0]] * 2 + [[0, 1]] * 2 + [[0, 0]] * 2
    shared = indicators(cells[:2], ("7",), BUCKETS)  # without an input of its own it still is the same
    assert (shared[0] == shared[1]).all()


@pytest.mark.parametrize("words", [tuple("uvwxyz"), ("2",)])
@pytest.mark.parametrize("kind", ["frame", "string", "arrow", "csv", "parquet"])
def test_words_that_look_like_numbers_keep_their_text(tmp_path, kind, words) -> None:
    cells = ["1.0", "1", "01", "1.10", "1.1", *words] * 3
    table: Any = pd.DataFrame({"A": cells, "y": np.arange(len(cells))})
    if kind == "string":
        table["A"] = table.A.astype("string")
    if kind == "arrow":
        table = pytest.importorskip("pyarrow").table(table)
    if kind in ("csv", "parquet"):
        getattr(table, f"to_{kind}")(tmp_path / f"t.{kind}", index=False)
        table = tmp_path / f"t.{kind}"
    for reading in (Reading(words=["A"]), Reading())[: len(words)]:  # where most are text, nobody has to say so
        opened = open_table(table, reading=reading)
        look_at(opened)
        names = input_names(opened, ["A"])
        values = np.concatenate([values for values, _ in opened.pieces(names)])
        assert [names[k] for k in values.argmax(axis=1)] == [f"A={cell}" for cell in cells]


def test_a_word_keeps_its_text_where_a_later_piece_has_only_numbers(tmp_path) -> None:
    frame = pd.DataFrame({"when": HOURS[:40].astype(str), "shop": ["x", "y"] * 10 + ["01", "1.0"] * 10, "y": range(40)})
    frame.to_csv(tmp_path / "s.csv", index=False)
    table = open_table(tmp_path / "s.csv", 20, Reading(sort=True))
    assert [cell for piece in table.frames([1]) for cell in piece.iloc[:, 0]] == frame.shop.tolist()


def test_a_model_knows_its_names_in_a_file_that_is_sorted(tmp_path, capsys) -> None:
    rng = np.random.default_rng(0)
    shop = np.array(["01", "02", "10"])[rng.integers(0, 3, 400)]
    frame = pd.DataFrame({"when": HOURS.astype(str), "shop": shop, "y": np.where(shop == "02", 5.0, -1.0)})
    frame.to_csv(tmp_path / "s.csv", index=False)
    words = ["learn", tmp_path / "s.csv", "--target", "y", "--known", "shop", "--words", "shop", "--lags", 0]
    more = ["--save", tmp_path / "m", "--output", tmp_path / "out"]
    assert main([*map(str, words), *map(str, more), "--optimizer", "lms"]) == 0
    capsys.readouterr()
    assert main(["predict", *map(str, [tmp_path / "m", tmp_path / "s.csv", "--sort", *more[2:]])]) == 0
    assert "no input of their own" not in capsys.readouterr().out


def test_rows_without_a_time_stay_where_they_are_when_all_are_sorted() -> None:
    frame = pd.DataFrame({"when": [None, "2026-01-02", None, "2026-01-01", "2026-01-03"], "y": [0.0, 1, 2, 3, 4]})
    values = next(open_table(frame, reading=Reading(sort=True)).pieces(["y"]))[0][:, 0]
    assert values.tolist() == [0.0, 3.0, 1.0, 2.0, 4.0]


def test_a_time_that_never_changes_says_nothing_of_the_rows() -> None:
    frame = pd.DataFrame({"_start": "2026-01-01T00:00:00Z", "_time": HOURS.astype(str), "y": np.arange(400.0)})
    source = LaggedSource(frame, "y", lags=1)
    next(all_rows(source, 400))
    assert source.report.order is not None and source.report.order.step == "1 hour"


def test_clocks_in_two_columns_are_told_together() -> None:
    frame = pd.DataFrame({"day": HOURS.strftime("%Y-%m-%d"), "time": HOURS.strftime("%I:%M%p"), "y": np.arange(400.0)})
    assert "day and time together: 2026-03-02 00:00:00 to 2026-03-18 15:00:00, in order" in explain(open_table(frame))
    text = describe(learn_table(frame, "y", optimizers=["lms"]), "t")
    assert "times (day, time): " in text and "ignored" not in text


def test_rows_without_a_word_are_counted() -> None:
    frame = shops()
    frame.loc[:9, "shop"] = None
    assert "rows without a word: shop 10" in describe(learn_table(frame, "sales", lags=0, known=["shop"]), "t")


@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1e3, 1e9])
def test_an_input_may_have_any_unit(unit: float) -> None:
    x = np.random.default_rng(0).normal(size=1000)
    one, other = (learn_table({"x": x * scale, "y": x}, "y", lags=0, known=["x"]).scores.rmse for scale in (1.0, unit))
    np.testing.assert_allclose(other, one, rtol=1e-3)
