"""The pinned cases of networks, learners with many heads, and Hordes."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from pinned_world import (
    BOUNDERS,
    DIM,
    GAMMAS,
    KEYS,
    NETWORK,
    NORMALIZERS,
    OFF_POLICY,
    SHARED,
    STEPS,
    STREAM,
    TARGETS,
    TD,
    XS,
    YS,
    Case,
    many_runs,
    numbers,
    of_run,
    one_run,
    seen,
    stepped,
    tracking,
)

import alberta_nb as nb

# 1. Networks

CLOCKS: Any = np.zeros(3, np.uint32)


def start(learner: Any, seed: int = 0) -> Any:
    """A first state with given weights, about half of them 0."""
    state = learner.init(DIM, KEYS[0])
    drawn = [numbers(20 + seed + i, *w.shape) for i, w in enumerate(state.params.weights)]
    weights = tuple(jnp.asarray(np.where(np.abs(w) < 0.5, w, 0.0)) for w in drawn)
    return state.replace(params=state.params.replace(weights=weights))


def network(
    hidden: tuple[int, ...], optimizer: str, bounder: str = "free", normalizer: str = "plain", head: str | None = None,
    traces: bool = False, layer_norm: bool = True,
) -> nb.MLPLearner:  # fmt: skip
    """A learner from the names of its parts."""
    return nb.MLPLearner(
        hidden, NETWORK[optimizer](), bounder=BOUNDERS[bounder](), normalizer=NORMALIZERS[normalizer](),
        gamma=0.9 if traces else 0.0, lamda=0.8 if traces else 0.0, use_layer_norm=layer_norm,
        head_optimizer=None if head is None else NETWORK[head](),
    )  # fmt: skip


def mlp_one(hidden: tuple[int, ...], optimizer: str, **settings: Any) -> dict[str, Any]:
    """Given arrays, every row, the normaliser tracked."""
    learner = network(hidden, optimizer, **settings)
    source, first = nb.ArraySource(XS, YS), start(learner)
    return of_run(nb.run_mlp_learning_loop(learner, source, learner_state=first, **tracking(learner)))


def mlp_many(hidden: tuple[int, ...], optimizer: str, **settings: Any) -> dict[str, Any]:
    """Three seeds with weights of their own: on a stream in windows of five, and on given arrays."""
    learner = network(hidden, optimizer, **settings)
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(start(learner, 10 * k) for k in range(3)))
    place: Any = nb.StreamPosition(state=jax.vmap(STREAM.init)(KEYS), steps=CLOCKS)
    go_on = {"learner_state": states, "record_every": 5}
    drifting = nb.run_mlp_learning_loop_batched(learner, STREAM, STEPS, stream_state=place, **go_on)
    given = nb.run_mlp_learning_loop_batched(learner, nb.ArraySource(XS, YS), None, KEYS, **go_on, **tracking(learner))
    return {"drifting": many_runs(drifting), "given": many_runs(given)}


def mlp_drawn(hidden: tuple[int, ...], optimizer: str, **settings: Any) -> dict[str, Any]:
    """One seed and three on a stream; keys, streams and first weights are jax's."""
    learner = network(hidden, optimizer, **settings)
    one = nb.run_mlp_learning_loop(learner, STREAM, STEPS, KEYS[0])
    many = nb.run_mlp_learning_loop_batched(learner, STREAM, STEPS, KEYS)
    first = learner.init(DIM, KEYS[1])
    weights = [nb.sparse_init(KEYS[2], (3, 7), 0.6, kind) for kind in ("uniform", "normal")]
    return {"one": of_run(one), "many": many_runs(many), "first": first, "weights": weights}


def mlp_split(hidden: tuple[int, ...], optimizer: str, **settings: Any) -> dict[str, Any]:
    """A stream in two runs."""
    learner = network(hidden, optimizer, **settings)
    place: Any = nb.StreamPosition(state=STREAM.init(KEYS[1]), steps=CLOCKS[0])
    first = nb.run_mlp_learning_loop(learner, STREAM, 25, learner_state=start(learner), stream_state=place)
    go_on = {"learner_state": first.state, "stream_state": first.stream_state}
    return one_run(learner, nb.run_mlp_learning_loop(learner, STREAM, STEPS - 25, **go_on))


def mlp_hand(hidden: tuple[int, ...], optimizer: str, **settings: Any) -> dict[str, Any]:
    """Twenty updates from Python with discounts of their own, and one sequence that is cut off."""
    learner = network(hidden, optimizer, **settings)
    state, rows = start(learner), []
    for i in range(20):
        result = learner.update(state, XS[i], YS[i], np.abs(GAMMAS[i]))
        state = learner.reset_traces(result.state) if i == 15 else result.state
        rows.append(np.concatenate([result.prediction, result.error, result.metrics]))
    return {"rows": np.array(rows), **seen(learner, state)}


def mlp_stepper(hidden: tuple[int, ...], optimizer: str, **settings: Any) -> dict[str, Any]:
    learner = network(hidden, optimizer, **settings)
    return stepped(learner, start(learner))


# 2. Many heads


def shared_parts(hidden: tuple[int, ...], optimizer: str, **settings: Any) -> dict[str, Any]:
    """The settings that networks, heads and Hordes have in common."""
    if optimizer in TD:
        return {"optimizer": TD[optimizer](), "hidden_sizes": hidden}
    names = ("hidden_sizes", "optimizer", "bounder", "normalizer", "use_layer_norm", "head_optimizer")
    one = network(hidden, optimizer, **settings)
    return {name: getattr(one, name) for name in names}


def heads(hidden: tuple[int, ...], optimizer: str, traces: bool = False, **settings: Any) -> nb.MultiHeadMLPLearner:
    """A learner with three heads, from the names of its parts."""
    products = (0.0, 0.72, 0.4) if traces else None
    return nb.MultiHeadMLPLearner(3, per_head_gamma_lamda=products, **shared_parts(hidden, optimizer, **settings))


def heads_one(hidden: tuple[int, ...], optimizer: str, **settings: Any) -> dict[str, Any]:
    """Given arrays with targets missing, every row."""
    learner = heads(hidden, optimizer, **settings)
    run = nb.run_multi_head_learning_loop(learner, start(learner), XS, TARGETS)
    return {"metrics": run.per_head_metrics, "state": run.state}


def heads_hand(hidden: tuple[int, ...], optimizer: str, **settings: Any) -> dict[str, Any]:
    """Fifteen updates from Python."""
    learner = heads(hidden, optimizer, **settings)
    state, rows = start(learner), []
    for x, y in zip(XS[:15], TARGETS[:15], strict=True):
        result = learner.update(state, x, y)
        state = result.state
        told = result.predictions, result.errors, result.per_head_metrics, result.trunk_bounding_metric
        rows.append(np.concatenate([np.ravel(part) for part in told]))
    return {"rows": np.array(rows), **seen(learner, state)}


def heads_drawn(hidden: tuple[int, ...], optimizer: str, **settings: Any) -> dict[str, Any]:
    """Three seeds, in windows of seven steps; the first weights are jax's."""
    learner = heads(hidden, optimizer, **settings)
    run = nb.run_multi_head_learning_loop_batched(learner, XS, TARGETS, KEYS, record_every=7)
    return {"metrics": run.per_head_metrics, "state": run.states}


# 3. A Horde


def spec_of(index: tuple[int, ...], lamdas: tuple[float, ...] = (0.0, 0.8, 1.0)) -> nb.HordeSpec:
    """Three questions: the next number, a long sum, and a short one that is paid at its end."""
    parts = zip((0.0, 0.9, 0.5), lamdas, index, (0.0, 0.0, 0.7), strict=True)
    kind = nb.DemonType.PREDICTION
    return nb.create_horde_spec([nb.GVFSpec(f"q{i}", kind, *part) for i, part in enumerate(parts)])


SPECS = {"own": spec_of((-1, -1, -1)), "select": spec_of((2, 0, 2)), "no_traces": spec_of((-1, -1, -1), (0.0,) * 3)}
FOLLOWING = np.roll(XS, -1, axis=0)
ENDS = np.arange(STEPS) % 13 == 12
OUTSIDE = {
    "gammas": np.where(numbers(10, STEPS, 3) > 0.7, 0.0, np.where(numbers(11, STEPS, 3) > 0.8, -0.6, 0.8)),
    "terminated": ENDS,
    "rhos": 1.0 + numbers(12, STEPS, 3),
}
GIVEN: dict[str, tuple[str, ...]] = {"plain": (), "ends": ("terminated",), "discounts": ("gammas", "terminated")}
GIVEN |= {"ratios": ("rhos",), "all": tuple(OUTSIDE)}


def horde(hidden: tuple[int, ...], optimizer: str, questions: str = "own", **settings: Any) -> nb.HordeLearner:
    """A Horde from the names of its parts."""
    return nb.HordeLearner(SPECS[questions], **shared_parts(hidden, optimizer, **settings))


def transitions(given: str) -> tuple[tuple[Any, Any, Any], dict[str, Any]]:
    """Observations, cumulants and what follows, and what comes from outside."""
    outside = {name: OUTSIDE[name] for name in GIVEN[given]}
    behind = np.nan if "terminated" in outside else 0.5  # nobody reads behind an end
    return (XS, TARGETS, np.where(ENDS[:, None], behind, FOLLOWING)), outside


def horde_one(hidden: tuple[int, ...], optimizer: str, given: str = "plain", **settings: Any) -> dict[str, Any]:
    """Given transitions, every row."""
    learner = horde(hidden, optimizer, **settings)
    arrays, outside = transitions(given)
    run = nb.run_horde_learning_loop(learner, start(learner), *arrays, **outside)
    return {"metrics": run.per_demon_metrics, "td_errors": run.td_errors, "state": run.state}


def horde_hand(hidden: tuple[int, ...], optimizer: str, given: str = "plain", **settings: Any) -> dict[str, Any]:
    """Fifteen updates from Python."""
    learner = horde(hidden, optimizer, **settings)
    arrays, outside = transitions(given)
    state, rows = start(learner), []
    for i in range(15):
        result = learner.update(state, *(a[i] for a in arrays), **{name: a[i] for name, a in outside.items()})
        state = result.state
        told = result.predictions, result.td_errors, result.td_targets, result.per_demon_metrics
        rows.append(np.concatenate([np.ravel(part) for part in (*told, result.trunk_bounding_metric)]))
    return {"rows": np.array(rows), **seen(learner, state)}


def horde_drawn(hidden: tuple[int, ...], optimizer: str, given: str = "plain", **settings: Any) -> dict[str, Any]:
    """Three seeds, in windows of seven steps; the first weights are jax's."""
    learner = horde(hidden, optimizer, **settings)
    arrays, outside = transitions(given)
    run = nb.run_horde_learning_loop_batched(learner, *arrays, keys=KEYS, record_every=7, **outside)
    return {"metrics": run.per_demon_metrics, "td_errors": run.td_errors, "state": run.states}


# 4. All of them

FLAT, DEEP = (5,), (7, 4)
FEW = ("LMS", "Autostep", "IDBD_prediction_loss", "ScaledLMS", "IDBD_loss_prediction")
IDBD_MODES = [name for name in NETWORK if name not in SHARED]
OTHER_HEADS = {"LMS": "Autostep", "Autostep": "LMS", "IDBD_prediction_loss": "ScaledLMS", "ScaledLMS": "IDBD_loss_loss"}


def named(kind: str, run: Any, hidden: tuple[int, ...], optimizer: str, **settings: Any) -> tuple[str, Case]:
    """A case, and a name that tells all of it."""
    told = [(k if v else f"no_{k}") if isinstance(v, bool) else v for k, v in settings.items()]
    layers = "x".join(map(str, hidden)) or "0"
    return "-".join([kind, layers, optimizer, *told]), functools.partial(run, hidden, optimizer, **settings)


def turns() -> Iterator[dict[str, Any]]:
    """Normaliser and layer norm, which take turns where the other parts are combined in full."""
    for normalizer, norm in itertools.cycle(zip([*NORMALIZERS] * 2, [True, False] * 3, strict=True)):
        yield {"normalizer": normalizer, "layer_norm": norm}


def in_turns(
    names: Any, hidden: Iterator[tuple[int, ...]], **choices: Any
) -> Iterator[tuple[Any, str, dict[str, Any]]]:
    """Each name once, with layers, and with the other parts in turns."""
    parts, others = turns(), {name: itertools.cycle(values) for name, values in choices.items()}
    for name in names:
        yield next(hidden), name, {k: next(values) for k, values in others.items()} | next(parts)


def full(kind: str, run: Any, every: int = 1) -> Iterator[tuple[str, Case]]:
    """Optimizer x bounder x traces on one hidden layer, IDBD's modes in turns; then two layers, and none.

    Of five optimizers, three bounders and two kinds of traces, `every` 2 takes pairs only: each bounder with each
    optimizer, traces in turns.
    """
    parts, modes = turns(), itertools.cycle(IDBD_MODES)
    triples = list(itertools.product((False, True), BOUNDERS, (*SHARED, "IDBD")))
    for traces, bounder, optimizer in triples[::every]:
        name = next(modes) if optimizer == "IDBD" else optimizer
        yield named(kind, run, FLAT, name, bounder=bounder, traces=traces, **next(parts))
    options: dict[str, Any] = {"bounder": BOUNDERS, "traces": (True, True, False)}
    for layers, names in ((DEEP, FEW), ((), FEW)):
        for hidden, optimizer, settings in in_turns(names, itertools.repeat(layers), **options):
            yield named(kind, run, hidden, optimizer, **settings)
    for optimizer, head in [*OTHER_HEADS.items()][::every]:
        yield named(kind, run, FLAT, optimizer, bounder="obgd", head=head)


def few(kind: str, run: Any, names: Any, **choices: Any) -> Iterator[tuple[str, Case]]:
    """Each name once, with everything else in turns."""
    for hidden, optimizer, settings in in_turns(names, itertools.cycle((FLAT, DEEP, ())), **choices):
        yield named(kind, run, hidden, optimizer, **settings)


def network_cases() -> Iterator[tuple[str, Case]]:
    parts: dict[str, Any] = {"bounder": BOUNDERS, "traces": (True, False)}
    yield from full("mlp-one", mlp_one)
    yield from few("mlp-many", mlp_many, FEW[:3], **parts)
    yield from few("mlp-hand", mlp_hand, FEW, **parts)
    yield named("mlp-drawn", mlp_drawn, FLAT, "LMS", bounder="obgd")
    yield from few("mlp-split", mlp_split, ["Autostep", "IDBD_loss_loss"], **parts)
    yield from few("mlp-stepper", mlp_stepper, ["LMS", "Autostep", "IDBD_prediction_loss"], **parts)


def head_cases() -> Iterator[tuple[str, Case]]:
    parts: dict[str, Any] = {"bounder": BOUNDERS, "traces": (True, False)}
    yield from full("heads-one", heads_one, 2)
    yield from few("heads-hand", heads_hand, FEW[:4], **parts)
    for optimizer in ("IDBD_prediction_loss", "Autostep"):
        yield named("heads-drawn", heads_drawn, FLAT, optimizer, bounder="obgd", normalizer="ema", traces=True)
    for optimizer in [*TD][::2]:
        yield named("heads-one", heads_one, (), optimizer)


def horde_cases() -> Iterator[tuple[str, Case]]:
    parts: dict[str, Any] = {"bounder": BOUNDERS, "given": GIVEN, "questions": ("own", "select")}
    yield from few("horde-one", horde_one, [*NETWORK, *SHARED], **parts)
    yield from few("horde-hand", horde_hand, ["LMS", "Autostep", "IDBD_prediction_loss", "ScaledLMS"], **parts)
    yield named("horde-drawn", horde_drawn, FLAT, "Autostep", bounder="agc", normalizer="welford", given="all")
    yield named("horde-one", horde_one, FLAT, "LMS", questions="no_traces")
    for optimizer, given in zip(TD, itertools.cycle(("plain", "ends", "discounts"))):
        yield named("horde-one", horde_one, (), optimizer, given=given)
    for optimizer in OFF_POLICY:
        yield named("horde-one", horde_one, (), optimizer, given="all")
    for optimizer in ("TDIDBD_full", "TDC"):
        yield named("horde-hand", horde_hand, (), optimizer, given="discounts")
