"""What a state tells of its inputs: paths, step sizes, sensitivities, for every kind of learner."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alberta_nb import (
    IDBD,
    LMS,
    TDIDBD,
    Autostep,
    EMANormalizer,
    GVFSpec,
    HordeLearner,
    LinearLearner,
    MLPLearner,
    MultiHeadMLPLearner,
    TDLambda,
    TDLinearLearner,
    compute_feature_relevance,
    compute_feature_sensitivity,
    create_horde_spec,
    relevance_to_dict,
)

KEY = jax.random.key(0)
SPEC = create_horde_spec([GVFSpec(str(i), "prediction", 0.5, 0.5) for i in range(3)])


@pytest.mark.parametrize(
    "learner, size",
    [
        (LinearLearner(LMS(0.2)), 0.2),
        (LinearLearner(IDBD(0.03)), 0.03),
        (TDLinearLearner(TDIDBD(0.03)), 0.03),
        (MLPLearner((6, 4), Autostep(0.03)), 0.03),
        (MultiHeadMLPLearner(3, (6, 4), IDBD(0.03)), 0.03),
        (MultiHeadMLPLearner(3, (), LMS(0.2)), 0.2),
        (HordeLearner(SPEC, (6,), LMS(0.2)), 0.2),
        (HordeLearner(SPEC, (), TDLambda(0.2)), 0.2),
        (HordeLearner(SPEC, (), TDIDBD(0.03)), 0.03),
    ],
    ids=lambda value: getattr(value, "__class__", type(value)).__name__,
)
def test_every_learner_has_its_paths_and_step_sizes(learner: Any, size: float) -> None:
    linear = isinstance(learner, LinearLearner | TDLinearLearner)
    state = learner.init(5) if linear else learner.init(5, KEY)
    found = compute_feature_relevance(state)
    paths = np.abs(state.weights[None] if linear else state.params.weights[0])
    for weights in () if linear else state.params.weights[1:]:
        paths = np.abs(weights) @ paths
    assert np.allclose(found.weights, paths, atol=1e-6) and found.weights.shape[1] == 5
    used = np.asarray(found.weights) > 0 if not linear else np.ones((1, 5), bool)
    assert np.allclose(np.asarray(found.step_sizes)[used], size, rtol=1e-5)
    assert np.allclose(np.asarray(found.log_step_sizes)[used], np.log(size), rtol=1e-5)
    told = relevance_to_dict(found)
    assert len(told["heads"]) == len(paths) and json.dumps(told)


def test_sensitivity_is_the_mean_size_of_derivatives() -> None:
    learner = HordeLearner(SPEC, (6,), normalizer=EMANormalizer(), leaky_relu_slope=1.0)  # no kinks
    state, rows = learner.init(5, KEY), np.random.default_rng(0).standard_normal((4, 5))
    for row in rows:
        state = learner.update(state, row, np.ones(3), row).state
    got = compute_feature_sensitivity(learner, state, rows)
    h = 1e-2
    ends = [[learner.predict(state, row + s * h * e) for s in (1, -1)] for row in rows for e in np.eye(5)]
    slopes = np.array([np.abs(up - down) / (2 * h) for up, down in ends]).reshape(4, 5, 3).mean(axis=0).T
    assert np.allclose(got, slopes, rtol=0.05, atol=1e-3)
    told = relevance_to_dict(compute_feature_relevance(state), list("abcde"), list("xyz"))
    assert set(told["features"]["a"]) == {"mean", "deviation"} and set(told["heads"]) == set("xyz")


def test_bad_input() -> None:
    found = compute_feature_relevance(LinearLearner().init(2))
    with pytest.raises(ValueError, match="feature_names must hold 2 different names"):
        relevance_to_dict(found, ["a", "a"])
    with pytest.raises(TypeError, match="state must be of a linear"):
        compute_feature_relevance(jnp.ones(3))
    with pytest.raises(ValueError, match="observations must have shape"):
        compute_feature_sensitivity(LinearLearner(), LinearLearner().init(2), np.ones((0, 2)))
