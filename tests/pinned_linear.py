"""The pinned cases of linear learners, supervised and of temporal differences."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from pinned_world import (
    BIAS,
    DIM,
    GAMMAS,
    KEYS,
    LINEAR,
    NEXT_TD,
    NORMALIZERS,
    OFF_POLICY,
    RHOS,
    STEPS,
    STREAM,
    TD,
    TD_STREAM,
    UNPAGED,
    XS,
    XS_TD,
    YS,
    Case,
    many_runs,
    moments_of_one_run,
    one_run,
    seen,
    stepped,
    tracking,
)

import alberta_nb as nb

# 1. Linear learners


def linear(optimizer: str, normalizer: str, bias: str) -> nb.LinearLearner:
    return nb.LinearLearner(LINEAR[optimizer](), NORMALIZERS[normalizer](), BIAS[bias])


def linear_one(*settings: str) -> dict[str, Any]:
    """Given arrays, every row, everything tracked."""
    learner = linear(*settings)
    return one_run(learner, nb.run_learning_loop(learner, nb.ArraySource(XS, YS), **tracking(learner)))


def linear_many(*settings: str) -> dict[str, Any]:
    """The same for three seeds, each from a state of its own."""
    learner, source = linear(*settings), nb.ArraySource(XS, YS)
    kept = tracking(learner)
    states = moments_of_one_run(nb.run_learning_loop, learner, source, **kept)
    return many_runs(nb.run_learning_loop_batched(learner, source, STEPS, KEYS, states, **kept))


def linear_windows(*settings: str) -> dict[str, Any]:
    """A stream, rows that are means over seven steps: one seed, everything tracked, and three."""
    learner = linear(*settings)
    one = nb.run_learning_loop(learner, STREAM, STEPS, KEYS[1], record_every=7, **tracking(learner))
    many = nb.run_learning_loop_batched(learner, STREAM, STEPS, KEYS, record_every=7)
    return one_run(learner, one) | {"many": many_runs(many)}


def linear_split(*settings: str) -> dict[str, Any]:
    """A stranger's stream in two runs, the second from where the first stopped."""
    learner = linear(*settings)
    first = nb.run_learning_loop(learner, UNPAGED, 25, KEYS[2])
    second = nb.run_learning_loop(
        learner, UNPAGED, STEPS - 25, learner_state=first.state, stream_state=first.stream_state
    )
    return one_run(learner, second)


def linear_hand(*settings: str) -> dict[str, Any]:
    """Twenty updates from Python."""
    learner = linear(*settings)
    state, rows = learner.init(DIM), []
    for x, y in zip(XS[:20], YS[:20], strict=True):
        result = learner.update(state, x, y)
        state = result.state
        rows.append(np.concatenate([result.prediction, result.error, result.metrics]))
    return {"rows": np.array(rows), **seen(learner, state)}


def linear_stepper(*settings: str) -> dict[str, Any]:
    return stepped(linear(*settings))


def linear_skip(*settings: str) -> dict[str, Any]:
    """Rows that are not finite are passed by: one seed, and three."""
    learner, xs = linear(*settings), np.where(np.arange(STEPS)[:, None] % 9 == 4, np.nan, XS)
    source = nb.ArraySource(xs, YS)
    one = nb.run_learning_loop(learner, source, non_finite="skip", record_every=4)
    many = nb.run_learning_loop_batched(learner, source, STEPS, KEYS, non_finite="skip")
    return one_run(learner, one) | {"many": many_runs(many)}


def linear_bank() -> dict[str, Any]:
    """Linear learners in one bank, two of which differ only in numbers: one seed, and the sweep of three."""
    names = ("IDBD", "LMS", "IDBD_0", "Autostep", "ObGD_traces")
    bank = nb.LearnerBank(tuple(linear(name, "ema", "bias") for name in names))
    source, sizes = nb.ArraySource(XS, YS), nb.StepSizeTrackingConfig(20)
    one = nb.run_learning_loop(bank, source, step_size_tracking=sizes)
    members = {f"member{i}": bank.member(one.state, i) for i in range(len(names))}
    swept: Any = nb.sweep(bank.learners, STREAM, STEPS, KEYS, record_every=5)
    table = nb.sweep_table(swept, list(names), burn_in=3, limit=5.0)
    columns = {name: table[name].to_numpy(float) for name in ("mean", "median", "stderr", "exploded")}
    return {"metrics": one.metrics, "sizes": one[2], "swept": swept.metrics, **columns, **members}


# 2. Temporal differences


def td(optimizer: str, normalizer: str, bias: str) -> nb.TDLinearLearner:
    return nb.TDLinearLearner(TD[optimizer](), NORMALIZERS[normalizer](), BIAS[bias])


def td_source(off_policy: bool) -> nb.TDArraySource:
    return nb.TDArraySource(XS_TD, YS, NEXT_TD, GAMMAS, RHOS if off_policy else None)


def td_tracking(learner: Any) -> dict[str, Any]:
    return tracking(learner) | {"trace_tracking": nb.TraceTrackingConfig(15)}


def td_one(*settings: str, off_policy: bool = False) -> dict[str, Any]:
    """Given transitions, every row, everything tracked."""
    learner = td(*settings)
    return one_run(learner, nb.run_td_learning_loop(learner, td_source(off_policy), **td_tracking(learner)))


def td_many(*settings: str) -> dict[str, Any]:
    """The same for three seeds, each from a state of its own."""
    learner, source = td(*settings), td_source(False)
    kept = td_tracking(learner)
    states = moments_of_one_run(nb.run_td_learning_loop, learner, source, **kept)
    return many_runs(nb.run_td_learning_loop_batched(learner, source, STEPS, KEYS, states, **kept))


def td_split(*settings: str) -> dict[str, Any]:
    """A stream in two runs, in windows of seven steps."""
    learner = td(*settings)
    first = nb.run_td_learning_loop(learner, TD_STREAM, 28, KEYS[2], record_every=7)
    go_on = {"learner_state": first.state, "stream_state": first.stream_state}
    return one_run(learner, nb.run_td_learning_loop(learner, TD_STREAM, 28, record_every=7, **go_on))


def td_hand(*settings: str, off_policy: bool = False) -> dict[str, Any]:
    """Twenty updates from Python."""
    learner = td(*settings)
    state, rows = learner.init(DIM), []
    for i in range(20):
        rho = {"rho": RHOS[i]} if off_policy else {}
        result = learner.update(state, XS_TD[i], YS[i], NEXT_TD[i], GAMMAS[i], **rho)
        state = result.state
        rows.append(np.concatenate([result.prediction, result.td_error, result.metrics]))
    return {"rows": np.array(rows), **seen(learner, state)}


def td_bank() -> dict[str, Any]:
    """TD learners in one bank, and the sweep of three seeds."""
    names = ("TDLambda", "TDIDBD", "AutoTDIDBD", "TDC")
    bank = nb.LearnerBank(tuple(td(name, "plain", "bias") for name in names))
    one = nb.run_learning_loop(bank, td_source(False))
    members = {f"member{i}": bank.member(one.state, i) for i in range(len(names))}
    swept = nb.sweep(bank.learners, TD_STREAM, STEPS, KEYS, record_every=5)
    return {"metrics": one.metrics, "swept": swept.metrics, **members}


# 3. All of them


def pairs_of(names: Any, number: int) -> Iterator[tuple[str, str, str]]:
    """Each name with one, two, three or six of the pairs of normaliser and bias; up to three, no normaliser twice."""
    pairs = list(itertools.product(NORMALIZERS, BIAS))
    for i, name in enumerate(names):
        woven = [(0, 3, 4), (1, 2, 5)][i % 2]
        first = i // 2 % 3
        chosen = {1: woven[first : first + 1], 2: woven[:first] + woven[first + 1 :], 3: woven, 6: range(6)}[number]
        yield from ((name, *pairs[k]) for k in chosen)


FEW = ("LMS", "Autostep", "IDBD", "ObGD_traces")
Kinds = dict[str, tuple[Any, Any, int]]  # what runs, with which optimizers, and with how many pairs


def linear_cases() -> Iterator[tuple[str, Case]]:
    """All combinations for one seed, a third of them for three seeds; the other ways in turns."""
    kinds: Kinds = {
        "one": (linear_one, LINEAR, 6),
        "many": (linear_many, LINEAR, 2),
        "split": (linear_split, LINEAR, 1),
    }
    kinds |= {"hand": (linear_hand, LINEAR, 1), "stepper": (linear_stepper, LINEAR, 1)}
    kinds |= {"windows": (linear_windows, FEW, 1), "skip": (linear_skip, FEW[1:], 1)}
    for kind, (run, names, number) in kinds.items():
        for settings in pairs_of(names, number):
            yield "-".join(["linear", kind, *settings]), functools.partial(run, *settings)
    yield "linear-bank", linear_bank


def td_cases() -> Iterator[tuple[str, Case]]:
    """Each normaliser with each optimizer for one seed; the other ways in turns."""
    kinds: Kinds = {"one": (td_one, [*TD], 3), "many": (td_many, [*TD], 1)}
    kinds |= {"split": (td_split, [*TD][::2], 1), "hand": (td_hand, [*TD][1::2], 1)}
    for kind, (run, names, number) in kinds.items():
        for settings in pairs_of(names, number):
            yield "-".join(["td", kind, *settings]), functools.partial(run, *settings)
    for settings in pairs_of(OFF_POLICY, 3):
        yield "-".join(["td-ratios", *settings]), functools.partial(td_one, *settings, off_policy=True)
    for settings in pairs_of(OFF_POLICY, 1):
        yield "-".join(["td-hand-ratios", *settings]), functools.partial(td_hand, *settings, off_policy=True)
    yield "td-bank", td_bank
