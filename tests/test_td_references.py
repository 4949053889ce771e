"""The numbers of the 19-state walk and of the relevance ring that others have measured."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alberta_nb.experiments.episodes import EpisodeErrors, episode_sweep
from alberta_nb.experiments.sweep import sweep
from alberta_nb.learners.bank import BankResult
from alberta_nb.learners.linear import LinearLearner
from alberta_nb.learners.td import TDLinearLearner
from alberta_nb.loops.td import run_td_learning_loop
from alberta_nb.normalizers import EMANormalizer
from alberta_nb.optimizers.td_lambda import TDLambda
from alberta_nb.optimizers.tdidbd import TDIDBD
from alberta_nb.optimizers.true_online import TrueOnlineTD
from alberta_nb.streams.chains import BoyanChain, RandomWalkChain, RelevanceRing, ring_sign, rms_value_error
from alberta_nb.types import Settings, State, TDTimeStep, floats

WALK = RandomWalkChain(19, left_reward=-1.0)
# (lambda, alpha): TD(lambda), true online TD(lambda); 1,000 runs, standard error at most 0.003
KNOWN = {(0.0, 0.8): (0.345, 0.345), (0.4, 0.7): (0.272, 0.272), (0.8, 0.3): (0.261, 0.266), (0.8, 0.4): (0.272, 0.253)}
GRID = [(lam, round(0.1 * k, 1)) for lam in (0.0, 0.4, 0.8, 0.9, 0.95, 0.99) for k in range(1, 11)]


def learners_of(optimizers: list) -> list[TDLinearLearner]:
    """The learners of the textbook: one weight for each state, no bias."""
    return [TDLinearLearner(optimizer, use_bias=False) for optimizer in optimizers]


@pytest.fixture(scope="module")
def walk_errors() -> np.ndarray:
    """The error of the eight known points, (400 runs, 4 settings, 2 algorithms)."""
    optimizers = [make(a, lam) for lam, a in KNOWN for make in (TDLambda, TrueOnlineTD)]
    errors = episode_sweep(learners_of(optimizers), WALK, 10, 4_000, jax.random.split(jax.random.key(400), 400))
    return errors.mean(axis=2).reshape(400, 4, 2)


def test_known_points_of_the_walk(walk_errors: np.ndarray) -> None:
    stderr = walk_errors.std(axis=0, ddof=1) / 20
    assert (stderr < 0.004).all()
    off = np.abs(walk_errors.mean(axis=0) - np.array(list(KNOWN.values())))
    assert (off < 3 * np.hypot(0.003, stderr)).all(), off


def test_order_of_the_algorithms_on_the_same_lives(walk_errors: np.ndarray) -> None:
    difference = walk_errors[:, :, 1] - walk_errors[:, :, 0]
    mean, stderr = difference.mean(axis=0), difference.std(axis=0, ddof=1) / 20
    known = np.diff(np.array(list(KNOWN.values())), axis=1)[:, 0]
    assert np.allclose(walk_errors[:, 0, 0], walk_errors[:, 0, 1], atol=1e-4)  # lambda 0: one algorithm
    assert (np.abs(mean - known) < 3 * np.hypot(0.003, stderr)).all()
    assert mean[2] > 2 * stderr[2] and mean[3] < -2 * stderr[3]


def test_a_whole_sweep_stays_stable() -> None:
    # 3 algorithms, 60 settings, 25 runs of 10 episodes in one compiled program.
    makers = (TDLambda, lambda a, lam: TDLambda(a, lam, "replacing"), TrueOnlineTD)
    learners = learners_of([make(a, lam) for make in makers for lam, a in GRID])
    errors = episode_sweep(learners, WALK, 10, 2_500, jax.random.split(jax.random.key(1), 25))
    assert errors.shape == (25, 180, 10)
    stable = errors[:, 60:].mean(axis=(0, 2))
    assert (stable > 0.2).all() and (stable < 0.9).all()  # replacing and dutch traces never explode


def test_episode_errors_are_those_of_single_runs() -> None:
    keys = jax.random.split(jax.random.key(2), 3)
    (learner,) = learners_of([TDLambda(0.1, 0.8)])
    errors = episode_sweep([learner], WALK, 2, 1_500, keys)
    for key, found in zip(keys, errors[:, 0], strict=True):
        metrics = run_td_learning_loop(EpisodeErrors(learner, WALK, 2), WALK, 1_500, key)
        assert np.allclose(metrics.state.errors, found, atol=1e-5)
        world, gammas = WALK.init(key), []
        step = jax.jit(WALK.step)
        while gammas.count(0.0) < 2:
            seen, world = step(world, len(gammas))
            gammas.append(float(seen.gamma[0]))
        state = run_td_learning_loop(learner, WALK, len(gammas), key).state
        assert np.isclose(rms_value_error(state.weights, WALK.true_values), found[1], atol=1e-5)


def test_episode_errors_with_shared_features_and_a_bias() -> None:
    learners, chain = [TDLinearLearner(TDLambda(0.05, 0.5))], BoyanChain()
    keys = jax.random.split(jax.random.key(3), 4)
    errors = episode_sweep(learners, chain, 3, 60, keys)
    run = sweep([EpisodeErrors(learners[0], chain, 3)], chain, 60, keys, record_every=60)
    assert np.allclose(run.states[0].errors[:, 0], errors[:, 0])
    assert (errors[:, 0, 0] > errors[:, 0, 2]).all()


def test_episode_errors_say_what_they_need() -> None:
    (learner,) = learners_of([TDLambda()])
    with pytest.raises(ValueError, match="num_steps is 20: too few for 10 episodes"):
        episode_sweep([learner], WALK, 10, 20, jax.random.split(jax.random.key(0), 2))
    with pytest.raises(TypeError, match="learner must learn from transitions"):
        EpisodeErrors(LinearLearner(), WALK)
    with pytest.raises(TypeError, match="without a normaliser"):
        EpisodeErrors(TDLinearLearner(normalizer=EMANormalizer()), WALK)
    with pytest.raises(TypeError, match="world must be a chain"):
        EpisodeErrors(learner, "walk")
    with pytest.raises(ValueError, match="episodes must be 1 or more"):
        EpisodeErrors(learner, WALK, 0)


RING = RelevanceRing()


class RingState(State):
    learner: Any
    steps: Any


class OnTheRing(Settings):
    """A learner whose metrics are its squared value error, the noise's part counted, and two mean step sizes."""

    learner: Any

    normalizer = None
    time_step = TDTimeStep

    def init(self, feature_dim: int) -> RingState:
        return RingState(learner=self.learner.init(feature_dim), steps=jnp.uint32(0))

    def step(self, state: RingState, time_step: TDTimeStep) -> BankResult:
        after = self.learner.step(state.learner, time_step).state
        truth = floats(RING.true_values, 10) * ring_sign(state.steps, RING.flip_interval)
        error = jnp.mean(jnp.square(after.weights[:10] - truth)) + jnp.sum(jnp.square(after.weights[10:]))
        sizes = jnp.broadcast_to(self.learner.step_sizes(after)["step_sizes"], (30,))
        metrics = jnp.stack([error, jnp.mean(sizes[:10]), jnp.mean(sizes[10:])])
        return BankResult(state=RingState(learner=after, steps=state.steps + 1), metrics=metrics)


def test_relevance_ring() -> None:
    optimizers = [TDLambda(0.005), TDLambda(0.02, 0.9), TDIDBD(0.05, 0.01, 0.9), TDIDBD(0.05, 0.05, 0.9)]
    judges = [OnTheRing(learner) for learner in learners_of(optimizers)]
    rows = np.asarray(sweep(judges, RING, 50_000, jax.random.split(jax.random.key(0), 8), record_every=5_000).metrics)
    errors = np.sqrt(rows[:, 5:, :, 0].mean(axis=1)).mean(axis=0)
    assert abs(errors[0] - 0.952) < 0.005 and abs(errors[1] - 0.940) < 0.005  # the reference's best fixed step sizes
    assert abs(errors[2] - 0.586) < 0.02 and abs(errors[3] - 0.335) < 0.02  # measured by a second program
    assert (rows[:, -1, 3, 1] > 15 * rows[:, -1, 3, 2]).all()
