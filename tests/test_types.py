"""States and settings: what may change, what may not, and what an error says."""

import contextlib
import dataclasses
import enum
import json
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alberta_nb
from alberta_nb import Settings, State, TimeStep
from alberta_nb.types import check_int, check_number, check_settings, floats, in_state, require, scalar, vector


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
