"""Every kind of loop, once, beside the same steps made by hand: for the oldest jax that settings.ini declares.

The tests need a newer one. Run it in an environment of its own: pip install . "jax==..." && python tools/oldest_jax.py
"""

import warnings

import jax
import numpy as np

import alberta_nb as nb

warnings.filterwarnings("error", message="(?!alberta_nb: loops run)", category=UserWarning)
KEYS = jax.random.split(jax.random.key(0), 3)


def by_hand(learner, stream, state, key, steps, observe):
    """The errors of so many updates, outside of any loop."""
    at, errors = stream.init(key), []
    for i in range(steps):
        time_step, at = stream.step(at, i)
        result = learner.update(state, *observe(time_step))
        state = result.state
        errors.append(float(result.metrics[1]))
    return np.array(errors)


def pair(time_step):
    return time_step.observation, time_step.target


def transition(time_step):
    return time_step.observation, time_step.reward, time_step.next_observation, time_step.gamma


stream, chain = nb.RandomWalkStream(5), nb.RandomWalkChain()
for optimizer in (nb.LMS(), nb.IDBD(), nb.Autostep(), nb.ObGD(), nb.ScaledLMS()):
    learner = nb.LinearLearner(optimizer, normalizer=nb.EMANormalizer())
    alone = nb.run_learning_loop(learner, stream, 60, KEYS[1], non_finite="skip")
    batch = nb.run_learning_loop_batched(learner, stream, 60, KEYS, record_every=1)
    hand = by_hand(learner, stream, learner.init(5), KEYS[1], 60, pair)
    np.testing.assert_allclose(alone.metrics[:, 1], hand, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(batch.metrics[1, :, 1], hand, rtol=1e-3, atol=1e-4)
for optimizer in (nb.TDLambda(0.1, 0.8), nb.TDIDBD(), nb.AutoTDIDBD(), nb.TDC(), nb.SwiftTD(), nb.WithTraces(nb.LMS())):
    learner = nb.TDLinearLearner(optimizer)
    alone = nb.run_td_learning_loop(learner, chain, 60, KEYS[1])
    hand = by_hand(learner, chain, learner.init(chain.feature_dim), KEYS[1], 60, transition)
    np.testing.assert_allclose(alone.metrics[:, 1], hand, rtol=1e-3, atol=1e-4)
network = nb.MLPLearner((8,), bounder=nb.ObGDBounding(), gamma=0.9, lamda=0.8)
alone = nb.run_mlp_learning_loop(network, stream, 60, KEYS[1])
batch = nb.run_mlp_learning_loop_batched(network, stream, 60, KEYS)
np.testing.assert_allclose(batch.metrics[1], alone.metrics, rtol=1e-3, atol=1e-4)
questions = [nb.GVFSpec(n, nb.DemonType.PREDICTION, g, 0.5) for n, g in (("a", 0.9), ("b", 0.0))]
horde = nb.HordeLearner(nb.create_horde_spec(questions), (8,), bounder=nb.ObGDBounding())
x = np.random.default_rng(0).standard_normal((61, 5))
run = nb.run_horde_learning_loop(horde, horde.init(5, KEYS[0]), x[:-1], x[:-1, :2], x[1:])
assert np.isfinite(run.per_demon_metrics).all() and run.per_demon_metrics.shape == (60, 2, 3)
stepper = nb.Stepper(nb.LinearLearner(nb.IDBD()), 5)
assert np.isfinite(stepper.update(x[0], 1.0)).all() and stepper.update_many(x, x[:, 0]).shape == (61, 4)
print("jax", jax.__version__, "carries every kind of loop")
