"""What the pages on networks rest on: each rule on a whole network against its transcription, and its invariances."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from live import live as meet

from alberta_nb.learners.linear import LinearLearner
from alberta_nb.learners.mlp import MLPLearner, MLPLearnerState
from alberta_nb.learners.network import MLPParams, forward
from alberta_nb.normalizers import EMANormalizer, WelfordNormalizer
from alberta_nb.optimizers.adaptive_obgd import ScaledLMS
from alberta_nb.optimizers.autostep import Autostep
from alberta_nb.optimizers.base import Optimizer
from alberta_nb.optimizers.bounders import ObGDBounding
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.optimizers.lms import LMS
from alberta_nb.optimizers.obgd import ObGD
from alberta_nb.optimizers.optax import from_optax

RNG = np.random.default_rng(0)
XS = RNG.standard_normal((120, 4))
YS = XS @ [1.0, -2.0, 0.5, 0.0] + np.tanh(XS[:, 0] * XS[:, 1]) + 1.0
TRACED = {"gamma": 0.9, "lamda": 0.8}
DECAY = 0.72

Rule = Callable[[np.ndarray, float], np.ndarray]  # direction z and error to the steps, without the error


pytestmark = pytest.mark.usefixtures("float64")


def live(learner: Any, state: Any, xs: Any = XS, ys: Any = YS) -> tuple[Any, np.ndarray]:
    """The last state, and the errors."""
    errors, _, last = meet(learner, xs, ys, state)
    return last, errors


def start(learner: MLPLearner, zero: bool = False) -> MLPLearnerState:
    state = learner.init(XS.shape[1], jax.random.key(0))
    return state.replace(params=jax.tree.map(jnp.zeros_like, state.params)) if zero else state


# --- transcriptions: the whole network as one vector, gradients from jax.grad ---


def transcribed(learner: MLPLearner, state: MLPLearnerState, rule: Rule, decay: float = 0.0) -> np.ndarray:
    """The errors of a network whose parameters, one long vector, move by error times rule(z, error)."""
    vector, back = ravel_pytree(state.params)
    slope, norm = learner.leaky_relu_slope, learner.use_layer_norm
    value = jax.jit(jax.value_and_grad(lambda v, x: forward(back(v), x, slope, norm)[0]))
    w, z, errors = np.array(vector), np.zeros(len(vector)), []
    for x, y in zip(XS, YS, strict=True):
        now, g = value(w, x)
        z, delta = decay * z + np.asarray(g), float(y - now)
        w = w + delta * rule(z, delta)
        errors.append(delta)
    return np.array(errors)


def idbd(alpha: float, theta: float, meta_gradient: str, h_decay_mode: str) -> Rule:
    """IDBD for any parameters (Meyer): h follows the gradient of the loss."""
    beta: Any = np.log(alpha)
    h: Any = 0.0

    def rule(z: np.ndarray, delta: float) -> np.ndarray:
        nonlocal beta, h
        loss = -delta * z
        beta = np.clip(beta + theta * (z if meta_gradient == "prediction" else loss) * h, -10.0, 2.0)
        a = np.exp(beta)
        h = h * np.maximum(0.0, 1.0 - a * (z if h_decay_mode == "prediction_grads" else loss) ** 2) + a * loss
        return a * z

    return rule


def autostep(start: float, mu: float, tau: float) -> Rule:
    """Table 1 of Mahmood et al. 2012, with one sum over all parameters."""
    alpha: Any = start
    h: Any = 0.0
    v: Any = 0.0

    def rule(z: np.ndarray, delta: float) -> np.ndarray:
        nonlocal alpha, h, v
        signal = delta * z * h
        v = np.maximum(np.abs(signal), v + alpha * z**2 * (np.abs(signal) - v) / tau)
        alpha = alpha * np.exp(np.where(v > 0, mu * signal / np.where(v > 0, v, 1.0), 0.0))
        alpha = alpha / max(float(np.sum(alpha * z**2)), 1.0)
        h = h * (1.0 - alpha * z**2) + alpha * delta * z
        return alpha * z

    return rule


def adaptive_obgd(lr: float, kappa: float, beta2: float, eps: float) -> Rule:
    """Adaptive ObGD of Elsayed et al. 2024, in the order of its optim.py."""
    v: Any = 0.0
    t = 0

    def rule(z: np.ndarray, delta: float) -> np.ndarray:
        nonlocal v, t
        t += 1
        v = beta2 * v + (1.0 - beta2) * (delta * z) ** 2
        scaled = z / np.sqrt(v / (1.0 - beta2**t) + eps)
        m = max(abs(delta), 1.0) * np.abs(scaled).sum() * lr * kappa
        return (lr / m if m > 1 else lr) * scaled

    return rule


CASES: dict[str, tuple[Optimizer, Callable[[], Rule]]] = {
    f"IDBD {meta} {decay}": (IDBD(0.05, 0.01, decay, meta), functools.partial(idbd, 0.05, 0.01, meta, decay))
    for meta in ("prediction", "loss")
    for decay in ("prediction_grads", "loss_grads")
}
CASES["Autostep"] = Autostep(0.05, 0.02, 100.0), functools.partial(autostep, 0.05, 0.02, 100.0)
CASES["adaptive ObGD"] = ScaledLMS(0.5, 0.98), functools.partial(adaptive_obgd, 0.5, 3.0, 0.98, 1e-8)


@pytest.mark.parametrize("hidden, traced", [((), {}), ((), TRACED), ((6, 5), TRACED)])
@pytest.mark.parametrize("name", CASES)
def test_a_network_is_one_vector(name: str, hidden: tuple[int, ...], traced: dict[str, float]) -> None:
    optimizer, rule = CASES[name]
    bounder = ObGDBounding(3.0) if isinstance(optimizer, ScaledLMS) else None
    learner = MLPLearner(hidden, optimizer, bounder=bounder, sparsity=0.5, **traced)
    first = start(learner)
    _, errors = live(learner, first)
    assert np.allclose(errors, transcribed(learner, first, rule(), DECAY if traced else 0.0), rtol=1e-8, atol=1e-9)


# --- no hidden layer ---

LINEAR: dict[str, tuple[Optimizer, dict[str, Any]]] = {
    "LMS, traces": (ObGD(0.05, 0.0, 0.9, 0.8), {"optimizer": LMS(0.05), **TRACED}),  # kappa 0: no bound
    "IDBD, the other decay is of networks": (
        IDBD(0.05, 0.01, h_decay_mode="loss_grads"), {"optimizer": IDBD(0.05, 0.01, meta_gradient="loss")},
    ),
    "Autostep": (Autostep(0.3, 0.02), {"optimizer": Autostep(0.3, 0.02)}),
    "Adam": (from_optax("adam", learning_rate=0.01), {"optimizer": from_optax("adam", learning_rate=0.01)}),
    "ScaledLMS": (ScaledLMS(0.02), {"optimizer": ScaledLMS(0.02)}),
    "ObGD, traces": (ObGD(0.5, 2.0, 0.9, 0.8), {"optimizer": LMS(0.5), "bounder": ObGDBounding(), **TRACED}),
}  # fmt: skip


@pytest.mark.parametrize("normalizer", [EMANormalizer(decay=0.95), WelfordNormalizer(), None])
@pytest.mark.parametrize("name", LINEAR)
def test_no_hidden_layer_is_the_linear_learner(name: str, normalizer: Any) -> None:
    optimizer, settings = LINEAR[name]
    linear, network = LinearLearner(optimizer, normalizer), MLPLearner((), normalizer=normalizer, **settings)
    end, errors = live(linear, linear.init(XS.shape[1]))
    last, same = live(network, start(network, zero=True))
    assert np.abs(errors - same).max() < 1e-12
    assert np.allclose(end.weights, last.params.weights[0][0], rtol=0, atol=1e-12)
    assert np.allclose(end.bias, last.params.biases[0][0], rtol=0, atol=1e-12)


# --- units ---


@pytest.mark.parametrize("c, s", [(1e3, 1.0), (1.0, 1e3), (-1e-4, 1e-2)])
def test_autostep_has_no_unit_on_a_network(c: float, s: float) -> None:
    learner = MLPLearner((5, 4), Autostep(0.1, 0.02, 100.0), sparsity=0.0, use_layer_norm=False)
    first = start(learner)
    w, b, layers = first.params.weights, first.params.biases, 3
    params = MLPParams(weights=(w[0] / s, *w[1:-1], c * w[-1]), biases=b)  # the biases are 0
    factors = [(1 if k % layers == layers - 1 else c**-2) * (s**-2 if k == 0 else 1) for k in range(2 * layers)]
    kept = [o.replace(step_sizes=f * o.step_sizes) for o, f in zip(first.optimizer_states, factors, strict=True)]
    end, errors = live(learner, first)
    last, other = live(learner, first.replace(params=params, optimizer_states=tuple(kept)), s * XS, c * YS)
    assert np.allclose(other, c * errors, rtol=1e-7)
    for f, a, b in zip(factors, end.optimizer_states, last.optimizer_states, strict=True):
        assert np.allclose(f * a.step_sizes, b.step_sizes, rtol=1e-7)


# --- the second moment ---


def test_scaled_lms_is_adam_without_its_first_moment() -> None:
    adam = from_optax("adam", learning_rate=0.02, b1=0.0, b2=0.95, eps=0.0, eps_root=1e-6)
    ours, theirs = (MLPLearner((5,), optimizer, sparsity=0.5) for optimizer in (ScaledLMS(0.02, 0.95, 1e-6), adam))
    assert np.allclose(live(ours, start(ours))[1], live(theirs, start(theirs))[1], rtol=1e-9, atol=1e-12)


def test_scaled_lms_settings() -> None:
    assert Optimizer.from_config(ScaledLMS(0.1, 0.9, 1e-6).to_config()) == ScaledLMS(0.1, 0.9, 1e-6)
    assert ScaledLMS(0.1).structure == ScaledLMS(0.2, 0.5).structure, "a sweep compiles once"
    for settings, name in (
        ({"step_size": -1.0}, "step_size"),
        ({"beta2": 1.0}, "beta2"),
        ({"epsilon": 0.0}, "epsilon"),
    ):
        with pytest.raises(ValueError, match=name):
            ScaledLMS(**settings)
    weights, bias = ScaledLMS(0.5).step_sizes(ScaledLMS(0.5).init(3))
    assert weights.shape == (3,) and bias.shape == () and np.isfinite(weights).all()
    steps, _ = ScaledLMS(0.5).update_from_gradients([ScaledLMS(0.5).init_for_shape((2,))], [jnp.array([3.0, -1e-3])])
    assert np.allclose(steps[0], [0.5, -0.5], rtol=1e-2), "without an error the gradient holds it"
