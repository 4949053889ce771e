"""States and settings: what may change, what may not, and what an error says."""

import contextlib
import copy
import dataclasses
import decimal
import enum
import fractions
import json
import pickle
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alberta_nb
import alberta_nb as nb
from alberta_nb import Settings, State, TimeStep
from alberta_nb.types import (
    OffPolicyTimeStep,
    TDTimeStep,
    as_numbers,
    check_discounts,
    check_int,
    check_number,
    check_settings,
    floats,
    in_state,
    one_discount,
    plain,
    ranged,
    require,
    scalar,
    vector,
)


class Color(enum.Enum):
    WARM = "warm"


class Pair(State):
    first: Any
    second: Any = None


class Leaf(Settings):
    step_size: float = in_state(default=0.1)
    order: int = 1


class SpecialLeaf(Leaf):
    bounds: tuple[float | None, float | None] = (-10.0, None)


class Tree(Settings):
    leaf: Leaf
    color: Color = Color.WARM
    table: tuple[tuple[int, ...], ...] = ((1, 2), (3,))

    def __post_init__(self) -> None:
        object.__setattr__(self, "color", Color(self.color))


# --- states ---


def test_state_is_immutable_and_keyword_only() -> None:
    pair = Pair(first=jnp.zeros(2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair.first = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        Pair(jnp.zeros(2))  # type: ignore[misc]
    with pytest.raises(TypeError, match="third"):
        pair.replace(third=0)


def test_replace_copies() -> None:
    old = Pair(first=jnp.zeros(2), second=3)
    new = old.replace(second=4)
    assert (old.second, new.second) == (3, 4) and new.first is old.first and type(new) is Pair


def test_state_is_a_pytree() -> None:
    nested = Pair(first=Pair(first=jnp.arange(3.0), second=None), second={"a": jnp.ones(())})
    assert len(jax.tree.leaves(nested)) == 2
    doubled = jax.jit(lambda p: jax.tree.map(lambda a: 2 * a, p))(nested)
    assert isinstance(doubled.first, Pair) and doubled.first.first.tolist() == [0, 2, 4]
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(nested)]
    assert names == [".first.first", ".second['a']"]
    batched = jax.vmap(lambda p: p.replace(second=p.first.sum()))(Pair(first=jnp.ones((4, 3)), second=None))
    assert batched.second.tolist() == [3.0] * 4


def test_time_step_is_observation_and_target() -> None:
    assert [f.name for f in dataclasses.fields(TimeStep)] == ["observation", "target"]  # type: ignore[arg-type]


# --- settings ---


def test_settings_are_compared_and_hashed_by_value() -> None:
    assert Tree(Leaf(0.2)) == Tree(Leaf(0.2)) != Tree(Leaf(0.3))
    assert hash(Tree(Leaf(0.2))) == hash(Tree(Leaf(0.2))) and len({Leaf(), Leaf(), Leaf(0.2)}) == 2
    assert Leaf() != SpecialLeaf()
    with pytest.raises(dataclasses.FrozenInstanceError):
        Leaf().order = 2  # type: ignore[misc]


@pytest.mark.parametrize("settings", [Leaf(0.25, 3), SpecialLeaf(0.5), Tree(SpecialLeaf(bounds=(None, 2.0)))])
def test_config_survives_json(settings: Settings) -> None:
    config = json.loads(json.dumps(settings.to_config()))
    assert config["type"] == type(settings).__name__
    assert type(settings).from_config(config) == Settings.from_config(config) == settings


def test_config_takes_numpy_and_jax_numbers() -> None:
    config = Leaf(np.float64(0.25), np.int64(3)).to_config()  # type: ignore[arg-type]
    assert json.loads(json.dumps(config)) == {"type": "Leaf", "step_size": 0.25, "order": 3}
    assert Tree(Leaf(), table=jnp.arange(3)).to_config()["table"] == [0, 1, 2]  # type: ignore[arg-type]


def test_config_without_type_is_of_the_class_that_is_asked() -> None:
    assert Leaf.from_config({"order": 2}) == Leaf(order=2)


@pytest.mark.parametrize(
    ("base", "config", "message"),
    [
        (Leaf, {"type": "Leef"}, r"config\['type'\] must be one of \['Leaf', 'SpecialLeaf'\], got 'Leef'"),
        (Leaf, {"type": "Tree", "leaf": {"type": "Leaf"}}, "must be one of .* got 'Tree'"),
        (Leaf, {"type": "Leaf", "stepsize": 1}, r"Leaf has no setting \['stepsize'\]; it has \['order', 'step_size'\]"),
        (Tree, {"type": "Tree"}, r"Tree needs the settings \['leaf'\], got \['type'\]"),
        (Tree, {"type": "Tree", "leaf": {"type": "Twig"}}, "got 'Twig'"),
    ],
)
def test_wrong_config(base: type[Settings], config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        base.from_config(config)


def test_config_must_be_a_dict_of_plain_data() -> None:
    with pytest.raises(TypeError, match="config must be a dict, got str"):
        Leaf.from_config("Leaf")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="leaf must be settings or plain data to go into a config, got object"):
        Tree(object()).to_config()  # type: ignore[arg-type]


def nested(levels: int) -> dict:
    config: dict = {"type": "Leaf"}
    for _ in range(levels):
        config = {"type": "Tree", "leaf": config}
    return config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (nested(400), "at most 40 levels deep"),
        (nested(100_000), "at most 40 levels deep"),
        ({"type": "Tree", "leaf": {}, "table": [[0] * 1000] * 1001}, "at most 1,000,000 values, got 1,002,004 or more"),
        ({"type": "Leaf", "step_size": float("nan")}, "finite numbers, got .nan"),
        ({"type": "Tree", "leaf": {"type": "Leaf", "step_size": float("-inf")}}, "finite numbers, got .-inf"),
        ({"type": "Tree", "leaf": {"type": "SpecialLeaf", "bounds": [0.0, 10**400]}}, "finite numbers, got .1000"),
        ({"type": ["Leaf"]}, "must be one of"),
        ({"type": None}, "must be one of"),
        ({"type": {"type": "Leaf"}}, "must be one of"),
        ({"type": "Leaf", 7: 1}, r"has no setting \[7\]"),
    ],
)
def test_what_nobody_should_build_is_refused_first(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings.from_config(config)


def test_a_configuration_that_holds_itself_is_refused() -> None:
    leaf: dict = {"type": "Tree"}
    leaf["leaf"] = leaf
    wide: list = []
    wide += [wide] * 2
    for config in (leaf, {"type": "Tree", "leaf": wide}):
        with pytest.raises(ValueError, match="levels deep|values"):
            Settings.from_config(config)


HOSTILE = (None, True, -1, 10**30, 1.5, "", "os.system", "__class__", [], [[]], [1e18], [10**18], ["a"], [None], {})
HOSTILE += ({"a": 1}, {"type": "LMS"}, {"type": None}, [{"type": "LMS"}], [["a", 1]], [[1, 2, 3]], {"type": "Settings"})


def test_no_setting_of_the_book_breaks_in_another_way() -> None:
    for name in alberta_nb.__all__:
        getattr(alberta_nb, name)
    tried = 0
    for kind in [k for k in Settings._types.values() if k.__module__.startswith("alberta_nb.")]:
        try:
            config = kind().to_config()
        except (TypeError, ValueError):
            config = {"type": kind.__name__}
        for field in dataclasses.fields(kind):
            for value in HOSTILE:
                tried += 1
                with contextlib.suppress(TypeError, ValueError):
                    Settings.from_config(config | {field.name: value})
    assert tried > 3000


def test_template_forgets_what_the_state_holds() -> None:
    assert Leaf(0.7, 2).template() == Leaf(order=2)
    assert Tree(Leaf(0.7)).template() == Tree(Leaf()) != Tree(Leaf(0.7))
    assert SpecialLeaf(0.7).template() == SpecialLeaf()


def test_equal_settings_compile_once() -> None:
    traced = []

    @jax.jit
    def warm_up(x: Any) -> Any:
        return x

    def scaled(settings: Leaf, x: Any) -> Any:
        traced.append(settings)
        return settings.order * warm_up(x)

    compiled = jax.jit(scaled, static_argnums=0)
    for leaf in (Leaf(order=2), Leaf(order=2), Leaf(0.9, order=2).template(), Leaf(order=3)):
        compiled(leaf, 1.0)
    assert traced == [Leaf(order=2), Leaf(order=3)]


# --- checks ---


def test_require_raises_the_error_that_is_asked_for() -> None:
    require(True, "never")
    with pytest.raises(ValueError, match="^why$"):
        require(False, "why")
    with pytest.raises(KeyError):
        require(False, "why", KeyError)


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.5), np.int64(1), jnp.float32(0.5), np.array(0.5)])
def test_check_number_takes_numbers(value: Any) -> None:
    check_number("step_size", value, 0.0, 1.0)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (-0.1, ValueError, r"step_size must be a finite number in \(0.0, inf\), got -0.1"),
        (0.0, ValueError, r"in \(0.0, inf\), got 0.0"),
        (float("nan"), ValueError, "got nan"),
        (float("inf"), ValueError, "got inf"),
        ("0.1", TypeError, "step_size must be a number, got '0.1'"),
        (None, TypeError, "step_size must be a number, got None"),
        (True, TypeError, "step_size must be a number, got True"),
        (np.ones(2), TypeError, "step_size must be a number"),
    ],
)
def test_check_number_says_what_is_wrong(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_number("step_size", value, 0.0, open_low=True)


def test_check_number_lets_traced_values_pass() -> None:
    assert jax.jit(lambda a: (check_number("a", a, 0.0), a)[1])(-1.0) == -1.0


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, "feature_dim must be 1 or more, got 0"),
        (2.0, TypeError, "feature_dim must be a whole number, got 2.0"),
        (True, TypeError, "feature_dim must be a whole number, got True"),
        ("2", TypeError, "feature_dim must be a whole number, got '2'"),
    ],
)
def test_check_int_says_what_is_wrong(value: Any, error: type[Exception], message: str) -> None:
    check_int("feature_dim", np.int32(2))
    with pytest.raises(error, match=message):
        check_int("feature_dim", value)


# --- arrays ---


def test_scalar_is_strongly_typed() -> None:
    assert not scalar(1).weak_type and scalar(1).dtype == jnp.float32
    with jax.enable_x64(True):
        assert scalar(1).dtype == jnp.float64


@pytest.mark.parametrize(
    "value", [[1, 2, 3], (1.0, 2.0, 3.0), np.arange(3), jnp.arange(3), np.array([True, False, True])]
)
def test_vector_takes_array_likes(value: Any) -> None:
    checked = vector("observation", value, 3)
    assert (
        checked.shape == (3,) and floats(checked, 3, 1).dtype == jnp.float32 and floats(checked, 3, 1).shape == (3, 1)
    )


def test_vector_takes_a_number_where_one_is_enough() -> None:
    array = jnp.ones(1)
    assert vector("target", array, 1) is array and vector("target", 2.0, 1).shape == ()


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([1.0], ValueError, r"observation must have shape \(3,\), got \(1,\)"),
        (np.ones((3, 1)), ValueError, r"observation must have shape \(3,\), got \(3, 1\)"),
        (2.0, ValueError, r"got \(\)"),
        (["a", "b", "c"], TypeError, "observation must be numeric, got dtype <U1"),
        ([None, 1, 2], TypeError, "observation must be numeric, got dtype object"),
    ],
)
def test_vector_says_what_is_wrong(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        vector("observation", value, 3)


@pytest.mark.parametrize(
    ("width", "decay", "error", "message"),
    [
        (0, 0.5, ValueError, "width must be 1 or more, got 0"),
        (1.0, 0.5, TypeError, "width must be a whole number"),
        (1, -0.5, ValueError, r"decay must be a finite number in \[0.0, inf\)"),
        (1, "a", TypeError, "decay must be a number"),
    ],
)
def test_check_settings_says_what_is_wrong(width: Any, decay: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_settings(types.SimpleNamespace(width=width, decay=decay), width=1, decay=0.0)
    check_settings(types.SimpleNamespace(width=1, decay=0.0), width=1, decay=0.0)


# --- plain numbers ---

LONG = np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (np.float16(0.5), 0.5),
        (np.longdouble(0.25), 0.25),
        (jnp.bfloat16(2), 2.0),
        (jnp.array(2, jnp.bfloat16), 2.0),
        (np.array(1.5), 1.5),
        (np.array(1.5, ">f8"), 1.5),
        (jnp.float32(0.1), float(np.float32(0.1))),
        (np.int8(20), 20),
        (np.uint64(2**63), 2**63),
        (jnp.array(3), 3),
        (np.True_, True),
        (jnp.array(True), True),
        ([1, [np.int64(2), (jnp.array(3.0),)]], (1, (2, (3.0,)))),
        ("word", "word"),
        (None, None),
    ],
)
def test_plain_numbers_are_pythons(value: Any, wanted: Any) -> None:
    found = plain(value)
    assert found == wanted and type(found) is type(wanted)


def test_plain_leaves_what_is_no_number() -> None:
    for value in (np.ones(2), np.timedelta64(3, "s"), np.ma.masked, jax.random.key(0), np.complex64(1), {"a": [1]}):
        assert plain(value) is value
    jax.jit(lambda a: [plain(a)])(1.0)


@pytest.mark.parametrize("whole", [np.int8(20), np.uint8(200), np.int64(3), jnp.array(7), np.array(7, np.int16)])
def test_check_int_gives_pythons_int(whole: Any) -> None:
    assert type(check_int("n", whole)) is int and check_int("n", whole) == int(whole)


@pytest.mark.parametrize("value", [np.bool_(True), np.array(True), jnp.array(True), np.timedelta64(3, "s")])
def test_flags_and_times_are_no_numbers(value: Any) -> None:
    for check in (check_int, check_number):
        with pytest.raises(TypeError, match="^n must be a"):
            check("n", value)


@pytest.mark.parametrize("value", [10**400, -(10**400), np.longdouble("1e400"), 1e39, np.float64(1e300)])
def test_a_number_too_large_for_a_float_is_refused(value: Any) -> None:
    if LONG or not isinstance(value, np.longdouble):
        with pytest.raises(ValueError, match="^size must be a finite number in .*, got "):
            check_number("size", value)
    if isinstance(value, int):
        with pytest.raises(ValueError, match="^size must be .* got a whole number of [0-9]+ bits"):
            check_int("size", value)


def test_the_largest_float_is_that_of_the_default_type() -> None:
    assert check_number("size", 3.3e38) == 3.3e38
    with jax.enable_x64(True):
        assert check_number("size", 1e300) == 1e300


# --- settings hold them ---

SETTINGS: list[tuple[Callable[..., Settings], str, float]] = [
    (nb.LMS, "step_size", 0.25),
    (nb.IDBD, "initial_step_size", 0.25),
    (nb.Autostep, "tau", 4.0),
    (nb.ObGD, "kappa", 2.0),
    (nb.TDLambda, "trace_decay", 0.5),
    (nb.ObGDBounding, "kappa", 2.0),
    (nb.AGCBounding, "eps", 0.25),
    (nb.EMANormalizer, "decay", 0.5),
    (nb.WelfordNormalizer, "clip", 4.0),
    (lambda **more: nb.RandomWalkStream(2, **more), "drift_rate", 0.5),
    (lambda **more: nb.ScaleDriftStream(2, **more), "min_log_scale", -1.0),
    (lambda **more: nb.PeriodicChangeStream(2, **more), "period", 16),
    (nb.SuttonExperiment1Stream, "num_relevant", 4),
    (nb.RandomWalkChain, "n_states", 5),
    (lambda **more: nb.MLPLearner((4,), bounder=nb.ObGDBounding(), **more), "sparsity", 0.5),
    (lambda **more: nb.GVFSpec("a", "prediction", lamda=0.0, **more), "gamma", 0.5),
    (lambda **more: nb.StepSizeTrackingConfig(**more), "interval", 20),
]


@pytest.mark.parametrize(("make", "name", "value"), SETTINGS)
@pytest.mark.parametrize("kind", [np.array, jnp.array, np.float32, np.float64, np.float16, np.int8])
def test_settings_are_equal_hashable_and_written_down(make: Any, name: str, value: float, kind: Any) -> None:
    if (kind is np.int8) != isinstance(value, int) and kind not in (np.array, jnp.array):
        pytest.skip("of another kind")
    given, wanted = make(**{name: kind(value)}), make(**{name: value})
    assert given == wanted and hash(given) == hash(wanted) and repr(given) == repr(wanted)
    assert json.loads(json.dumps(given.to_config())) == wanted.to_config()
    assert given.template() == wanted.template()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda v: nb.LMS(v), "step_size"),
        (lambda v: nb.EMANormalizer(epsilon=v), "epsilon"),
        (lambda v: nb.EMANormalizer(clip=v), "clip"),
        (lambda v: nb.RandomWalkStream(2, noise_std=v), "noise_std"),
        (lambda v: nb.ObGDBounding(v), "kappa"),
        (lambda v: nb.TDLambda(0.1, v), "trace_decay"),
    ],
)
@pytest.mark.parametrize("value", [jnp.array(-0.5), np.float32(-0.5), np.array(-0.5), np.int16(-1), jnp.nan, 10**400])
def test_settings_of_all_kinds_are_range_checked(make: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be a finite number in"):
        make(value)


def test_lists_and_flags_of_numpy_are_settings() -> None:
    bounder = nb.ObGDBounding()
    assert nb.MLPLearner([np.int64(4), 4], bounder=bounder) == nb.MLPLearner((4, 4), bounder=bounder)
    assert nb.IDBD(log_step_size_bounds=[-3.0, None]).log_step_size_bounds == (-3.0, None)
    assert nb.LinearLearner(use_bias=np.True_) == nb.LinearLearner()  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="learners must be a sequence"):
        nb.LearnerBank(nb.LinearLearner())  # type: ignore[arg-type]


def test_traced_settings_pass() -> None:
    found = jax.jit(lambda a: nb.LMS(a).init(2).step_size)(0.5)  # type: ignore[arg-type]
    assert found == 0.5


def test_settings_are_copied_without_what_was_computed() -> None:
    learner = nb.LinearLearner(nb.IDBD(0.3))
    assert learner.structure is learner.structure and "structure" in vars(learner)
    for twin in (pickle.loads(pickle.dumps(learner)), copy.copy(learner), copy.deepcopy(learner)):
        assert twin == learner and "structure" not in vars(twin) and twin.structure == learner.structure


# --- the gate of arrays ---

NATIVE = ("float32", "float64", "bool", "int8", "int16", "int32", "uint8", "uint16", "uint32")
OTHER = ("float16", "longdouble", "int64", "uint64", ">f4", ">f8", ">i4", ">u2", ">i8")


@pytest.mark.parametrize("kind", NATIVE)
def test_native_arrays_pass_as_they_are(kind: str) -> None:
    array = np.array([0, 1, 1], kind)
    assert as_numbers("x", array) is array and vector("x", array, 3) is array


@pytest.mark.parametrize("kind", OTHER)
def test_other_arrays_keep_their_values(kind: str) -> None:
    array = np.array([0, 1, 7], kind)
    found = as_numbers("x", array)
    assert found.dtype == np.float64 and found.tolist() == [0, 1, 7]


def test_numbers_of_every_size_keep_their_values() -> None:
    for value in (1_700_000_000_000, 2**33, -(2**40), 2**63, 10**30, np.int64(2**40), np.uint64(2**63)):
        assert float(vector("x", value, 1)) == float(value)  # type: ignore[arg-type]
    top = np.array([2**24 + 1, 2**31 - 1, -(2**31)], np.int32), np.array([2**32 - 1, 2**31], np.uint32)
    for array in top:
        made = jax.jit(lambda a: floats(a, -1))(vector("x", array, len(array)))
        assert np.array_equal(made, array.astype(np.float32))
    assert as_numbers("x", [2**63, -1]).tolist() == [2.0**63, -1.0]


def test_arrays_of_jax_pass_and_objects_of_numbers_are_read() -> None:
    for kind in (jnp.bfloat16, jnp.float16, jnp.uint8, jnp.int32, bool):
        array = jnp.ones(2, kind)
        assert as_numbers("x", array) is array
    mixed = [1, 2.5, np.int8(3), decimal.Decimal("4.5"), np.float16(1.5), True]
    assert as_numbers("x", np.array(mixed, object)).tolist() == [1, 2.5, 3, 4.5, 1.5, 1]
    assert jax.jit(lambda a: as_numbers("x", a))(jnp.ones(2)).tolist() == [1, 1]


@pytest.mark.parametrize("kind", ["Int64", "Float64", "boolean", "Int8"])
def test_nullable_columns_of_pandas_are_read(kind: str) -> None:
    pd = pytest.importorskip("pandas")
    assert np.array_equal(as_numbers("x", pd.Series([1, 0, None], dtype=kind)), [1, 0, np.nan], equal_nan=True)
    assert as_numbers("x", pd.Series([1, 0], dtype=kind)).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (np.ma.array([1.0, 2.0], mask=[0, 1]), TypeError, "x must have no mask, got a masked array: fill it"),
        (np.ma.array([1.0, 2.0]), TypeError, "masked"),
        (np.ma.masked, TypeError, "masked"),
        (np.array([1j]), TypeError, "x must be numeric, got dtype complex128"),
        (jnp.array([1j]), TypeError, "x must be numeric, got dtype complex64"),
        (["1"], TypeError, "x must be numeric, got dtype <U1"),
        ([b"1"], TypeError, "got dtype .S1"),
        (np.array(["2026-01-01"], "M8[D]"), TypeError, "got dtype datetime64"),
        (np.array([5], "m8[s]"), TypeError, "got dtype timedelta64"),
        (np.array([np.timedelta64(5, "s"), 1], object), TypeError, "dtype object"),
        ([None, 1.0], TypeError, "dtype object with None in it"),
        (["1", 2, None], TypeError, "dtype object with '1' in it"),
        (np.array([1j, None], object), TypeError, "dtype object with 1j in it"),
        ([fractions.Fraction(1, 2)], TypeError, "dtype object with Fraction"),
        ([[1.0], [1.0, 2.0]], ValueError, "x must hold rows of one length, got list"),
        ([10**400], ValueError, "x must hold numbers that fit into a float, got a whole number of 1329 bits"),
        (np.zeros(1, "i2,i2"), TypeError, "x must be numeric"),
        (jax.random.key(0), TypeError, "got dtype key"),
        (object(), TypeError, "dtype object"),
    ],
)
def test_what_is_no_number_is_refused(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_numbers("x", value)


# --- discounts and ratios ---


@pytest.mark.parametrize("flag", [True, False, np.True_, np.array([True]), jnp.array([False]), np.array(True)])
def test_a_flag_is_no_discount(flag: Any) -> None:
    with pytest.raises(TypeError, match="^gamma must hold discounts, got flags .*terminated"):
        one_discount("gamma", flag)


def test_numbers_of_a_transition_are_range_checked_where_looking_is_free() -> None:
    for good in (0.5, -1.0, 0, np.float32(1), np.array([-0.5]), jnp.array([7.0])):  # JAX's own are not looked at
        assert np.shape(one_discount("gamma", good)) in ((), (1,))
    for bad in (1.5, np.float32(1.5), np.array([-1.5]), np.array(2, ">i4"), np.float16(1.5), np.nan, 10**25):
        with pytest.raises(ValueError, match="^gamma must be a finite number in"):
            one_discount("gamma", bad)
    for bad in (-1.0, np.inf, np.array([-0.5]), np.nan):
        with pytest.raises(ValueError, match="^rho must be a finite number in"):
            ranged("rho", bad, 0.0, np.inf)
    check_discounts("gammas", np.array([0.5, np.nan]))
    with pytest.raises(ValueError, match=r"gammas must lie in .* got \[1.5\] at 6"):
        check_discounts("gammas", np.array([0.5, 1.5]), first=5)


# --- time steps ---


def test_a_number_of_a_time_step_is_one_of_one() -> None:
    for number in (np.float32(2.0), np.array(2.0), jnp.array(2.0)):
        assert TimeStep(observation=np.ones(2), target=number).target.shape == (1,)
        step = TDTimeStep(observation=np.ones(2), reward=number, next_observation=np.ones(2), gamma=number)
        assert step.reward.shape == step.gamma.shape == (1,) and step.truncated is None
        assert step.replace(truncated=number).truncated.shape == (1,)
        more = OffPolicyTimeStep(**vars(step), rho=number)
        assert more.rho.shape == (1,) and more.replace(rho=number).rho.shape == (1,)
    lone = TimeStep(observation=jnp.array(1.0), target=jnp.ones(1))
    assert lone.observation.shape == ()  # an observation is not a number


def test_a_time_step_is_still_a_pytree_of_anything() -> None:
    step = TimeStep(observation=jnp.ones((3, 2)), target=jnp.ones((3, 1)))
    axes = TimeStep(observation=0, target=0)  # type: ignore[arg-type]
    assert jax.vmap(lambda s: s.observation.sum() + s.target[0], in_axes=(axes,))(step).shape == (3,)
    assert jax.vmap(lambda x: TimeStep(observation=x, target=x.sum()))(step.observation).target.shape == (3, 1)
    assert jax.eval_shape(lambda x: TimeStep(observation=x, target=x.sum()), jnp.ones(2)).target.shape == (1,)
    assert jax.tree.leaves(jax.tree.map(np.ndim, step)) == [2, 2]


def test_networks_and_banks_that_no_memory_holds_are_told_before_it_runs_out() -> None:
    "Each size alone is allowed; their product, or their number, is not."
    key, network = jax.random.key(0), nb.MLPLearner(hidden_sizes=(256,), step_size=0.1)
    bank = nb.LearnerBank((nb.LinearLearner(),)).to_config()
    for make, name in (
        (lambda: nb.MLPLearner((2**24, 2**24), step_size=0.1), "hidden_sizes .* 2,147,483,648 weights"),
        (lambda: nb.MLPLearner.from_config(network.to_config() | {"hidden_sizes": [2**16, 2**16]}), "hidden_sizes"),
        (lambda: nb.MultiHeadMLPLearner(2**24, (2**24,), step_size=0.1), "hidden_sizes"),
        (lambda: nb.PopArt(network).init(2**24, key), "feature_dim .* 2,147,483,648 weights, got 4,294,967,552"),
        (lambda: nb.MultiHeadMLPLearner(2**12, (), step_size=0.1).init(2**20, key), "feature_dim"),
        (lambda: nb.sparse_init(key, (2**20, 2**12)), "shape"),
        (lambda: nb.MLPLearner((1,) * 1001, step_size=0.1), "hidden_sizes .* 1,000 layers, got 1,001"),
        (lambda: nb.Settings.from_config(bank | {"learners": bank["learners"] * 10_001}), "learners .* 10,000"),
    ):
        with pytest.raises(ValueError, match=name):
            make()


@pytest.mark.parametrize("size", [2**24 + 1, 10**18, 2**63])
def test_sizes_that_no_memory_holds_are_told_before_it_runs_out(size: int) -> None:
    "XLA aborts the process where a product of sizes leaves 63 bits."
    key, learner = jax.random.key(0), nb.LinearLearner(nb.LMS(0.1))
    network = nb.MLPLearner(hidden_sizes=(8,), step_size=0.1)
    for make in (
        lambda: nb.MLPLearner(hidden_sizes=(8, size)),
        lambda: nb.MLPLearner.from_config(network.to_config() | {"hidden_sizes": [size]}),
        lambda: network.init(size, key),
        lambda: learner.init(size),
        lambda: nb.MultiHeadMLPLearner(n_heads=size),
        lambda: nb.sparse_init(key, (size, 3)),
        lambda: nb.WelfordNormalizer().init(size),
        lambda: nb.Stepper(learner, size),
        lambda: nb.RandomWalkStream(size),
        lambda: nb.CyclicStream(3, num_configurations=size),
    ):
        with pytest.raises(ValueError, match="must be 16777216 or less"):
            make()


@pytest.mark.parametrize("kind", ["Around", "PopArtSettings", "LearnerSettings", "NetworkFields", "Heads", "Rule"])
def test_a_part_of_settings_is_no_type_of_a_config(kind: str) -> None:
    "Its fields are checked by the whole, so that it would take anything."
    with pytest.raises(ValueError, match=r"config\['type'\] must be one of"):
        Settings.from_config({"type": kind, "learner": 3, "n_heads": "many"})


def test_a_masked_array_is_told_how_it_is_filled() -> None:
    for given in (np.ma.masked_array([1, 2], [0, 1]), np.ma.masked_array([1.0, 2.0])):
        with pytest.raises(TypeError, match=r"\.astype\(float\)\.filled\(np\.nan\) .* or np\.asarray\(it\)"):
            vector("x", given, 2)
