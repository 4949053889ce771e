"""The pinned shape of the interface: public names, parameters, defaults, readable fields, configurations."""

import dataclasses
import enum
import functools
import inspect
from typing import Any

import pinned_linear as linear
import pinned_networks as networks
from pinned_streams import STREAMS
from pinned_world import BOUNDERS, LINEAR, NETWORK, NORMALIZERS, STREAM, TD, TD_STREAM, needs_optax

import alberta_nb as nb
import alberta_nb.core

# The methods that users call; what else a class has is its own affair.
METHODS = (
    "init", "predict", "update", "step", "step_sizes", "traces", "init_for_shape", "update_from_gradient", "bound",
    "normalize", "normalize_only", "update_only", "to_config", "from_config", "replace", "update_many", "reset_traces",
    "member", "start", "noise", "advance", "true_weights", "pages",
)  # fmt: skip
GIVEN = (nb.TimeStep, nb.TDTimeStep, nb.HeadsTimeStep, nb.HordeTimeStep, nb.MLPParams, nb.StreamPosition)


def parameters(function: Any) -> list[list[str | None]]:
    """Name, kind and default of each parameter; annotations are left out, as is `self`."""
    found = inspect.signature(function).parameters.values()
    rows = [[p.name, p.kind.name, None if p.default is p.empty else repr(p.default)] for p in found]
    return [row for row in rows if row[0] != "self"]


def fields_of(kind: type[Any]) -> list[str]:
    """What can be read of an instance: fields, properties and annotated attributes."""
    fields = [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    noted = [name for base in kind.__mro__ for name in base.__dict__.get("__annotations__", {})]
    known = [name for name in dir(kind) if not callable(getattr(kind, name))]
    return sorted({name for name in [*fields, *noted, *known] if not name.startswith("_")})


def shape_of(value: Any) -> dict[str, Any]:
    """What the interface says of a public name.

    A state that only the library makes, and a result, shows its readable fields: whether one is a field or a property
    is free. Everything that users make or call shows its parameters.
    """
    if not inspect.isclass(value):
        return {"parameters": {"": parameters(value)}}
    if issubclass(value, enum.Enum):
        return {"members": [f"{member.name}={member.value}" for member in value]}
    methods = {name: getattr(value, name) for name in METHODS if callable(getattr(value, name, None))}
    made_by_users = issubclass(value, GIVEN) or not issubclass(value, nb.State | nb.LearningResult)
    if made_by_users and not getattr(value, "_is_protocol", False):
        methods[""] = value
    shown: dict[str, Any] = {"parameters": {name: parameters(method) for name, method in methods.items()}}
    return shown | ({"fields": fields_of(value)} if issubclass(value, nb.State | nb.LearningResult) else {})


@functools.cache
def names() -> dict[str, Any]:
    """All public names; those of the page `core` too."""
    shown = {name: shape_of(getattr(nb, name)) for name in sorted(nb.__all__)}
    return shown | {"core": {"members": sorted(alberta_nb.core.__all__)}}


def lost_parameters(have: list[Any], want: list[Any]) -> list[str]:
    """What calls of today would miss: positions, names, defaults; or a new parameter that they must give."""
    places = [row for row in want if row[1].startswith("POSITIONAL")]
    lost = [f"{row} at place {i}" for i, row in enumerate(places) if have[i : i + 1] != [row]]
    now = {row[0]: row[2] for row in have}
    lost += [f"{row}" for row in want if row[1] == "KEYWORD_ONLY" and now.get(row[0], "lost") != row[2]]
    known = [row[0] for row in want]
    return lost + [
        f"new and needed: {row}" for row in have if row[0] not in known and row[2] is None and row[1][:3] != "VAR"
    ]


def lost_of(have: dict[str, Any], want: dict[str, Any]) -> list[str]:
    """What is missing of one public name."""
    lost = [f"field {name}" for name in want.get("fields", []) if name not in have.get("fields", [])]
    lost += [f"member {name}" for name in want.get("members", []) if name not in have.get("members", [])]
    for method, rows in want.get("parameters", {}).items():
        found = have.get("parameters", {}).get(method)
        lost += [f"{method}: gone"] if found is None else [f"{method}({w})" for w in lost_parameters(found, rows)]
    return lost


@functools.cache
def settings() -> dict[str, Any]:
    """Settings of every kind, by name."""
    kinds = {"linear": LINEAR, "network": NETWORK, "td": TD, "normalizer": NORMALIZERS, "bounder": BOUNDERS}
    made = {
        f"{kind}-{name}": make()
        for kind, parts in kinds.items()
        for name, make in parts.items()
        if not needs_optax(name)
    }
    made |= {f"stream-{name}": stream for name, stream in STREAMS.items()} | {"stream": STREAM, "td_stream": TD_STREAM}
    made["LinearLearner"] = linear.linear("IDBD", "ema", "nobias")
    made["TDLinearLearner"] = linear.td("AutoTDIDBD", "welford", "bias")
    made["MLPLearner"] = networks.network((7, 4), "LMS", "obgd", "ema", "Autostep", True, False)
    made["MultiHeadMLPLearner"] = networks.heads((5,), "Autostep", True, bounder="agc", normalizer="welford")
    made |= {f"HordeLearner-{name}": networks.horde((), "TDIDBD", name) for name in networks.SPECS}
    made["LearnerBank"] = nb.LearnerBank((made["LinearLearner"], nb.LinearLearner(nb.LMS(0.1))))
    made |= {
        "defaults-linear": nb.LinearLearner(),
        "defaults-td": nb.TDLinearLearner(),
        "defaults-mlp": nb.MLPLearner(),
    }
    made |= {"sizes": nb.StepSizeTrackingConfig(3), "moments": nb.NormalizerTrackingConfig(3)}
    made |= {"traces": nb.TraceTrackingConfig(3), "looks": nb.DiagnosticsConfig(100)}
    return {name: made[name] for name in made if made[name] is not None}


def configs() -> dict[str, Any]:
    return {name: value.to_config() for name, value in settings().items()}


def dated(config: Any) -> Any:
    """What was written down, with the bound of its normalisers: they had none then."""
    if isinstance(config, list):
        return list(map(dated, config))
    if not isinstance(config, dict):
        return config
    bound = {"clip": None} if config.get("type") in ("EMANormalizer", "WelfordNormalizer") else {}
    return bound | {name: dated(value) for name, value in config.items()}


def lost_settings(have: Any, want: Any, path: str = "") -> list[str]:
    """What of a configuration is gone or changed; new settings may be there."""
    if isinstance(want, dict) and isinstance(have, dict):
        return [w for key in want for w in lost_settings(have.get(key, "gone"), want[key], f"{path}.{key}")]
    if isinstance(want, list) and isinstance(have, list) and len(have) == len(want):
        return [w for k in range(len(want)) for w in lost_settings(have[k], want[k], f"{path}[{k}]")]
    return [] if have == want else [f"{path}: {have!r}, was {want!r}"]
