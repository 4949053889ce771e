"""The adapter to and from optax: the same steps in both directions, under jit and scan, and clear errors."""

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import alberta_nb
from alberta_nb.learners.linear import LinearLearner
from alberta_nb.learners.mlp import MLPLearner
from alberta_nb.loops.mlp import run_mlp_learning_loop
from alberta_nb.loops.supervised import run_learning_loop
from alberta_nb.optimizers.autostep import Autostep
from alberta_nb.optimizers.base import Optimizer, optimizer_from_config
from alberta_nb.optimizers.idbd import IDBD
from alberta_nb.optimizers.lms import LMS
from alberta_nb.optimizers.obgd import ObGD
from alberta_nb.optimizers.optax import TRANSFORMS, from_optax, to_optax
from alberta_nb.streams.synthetic import RandomWalkStream

RNG = np.random.default_rng(0)
XS = RNG.standard_normal((100, 4))
YS = XS @ [1.0, -2.0, 0.0, 0.5] + 0.3
KEY = jax.random.key(0)
LOSS_IDBD = IDBD(0.05, 0.02, h_decay_mode="loss_grads", meta_gradient="loss")
LINEAR_IDBD = IDBD(0.05, 0.02, meta_gradient="loss", log_step_size_bounds=(-10.0, None))


def network(seed: int = 0) -> dict[str, Any]:
    first, second = jax.random.split(jax.random.key(seed))
    return {"hidden": (jax.random.normal(first, (6, 4)), jnp.zeros(6)), "out": jax.random.normal(second, (6,))}


def predict(p: Any, x: Any) -> Any:
    return p["out"] @ jnp.tanh(p["hidden"][0] @ x + p["hidden"][1])


def linear(p: Any, x: Any) -> Any:
    return p[0] @ x + p[1]


def train(tx: Any, params: Any, model: Any = predict, exact: bool = True) -> tuple[Any, Any]:
    "One pass over the rows, jitted and scanned; `exact`: prediction gradients and the error, else loss gradients."

    def step(carry: Any, row: Any) -> Any:
        (p, state), (x, y) = carry, row
        prediction, gradient = jax.value_and_grad(model)(p, x)
        error = y - prediction
        if exact:
            moves, state = tx.update(gradient, state, p, error=error)
        else:
            moves, state = tx.update(jax.tree.map(lambda g: -error * g, gradient), state, p)
        return (optax.apply_updates(p, moves), state), error

    rows = jnp.asarray(XS, float), jnp.asarray(YS, float)
    (params, state), _ = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), rows))()
    return params, state


def assert_close(a: Any, b: Any, **how: float) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **how), a, b)


def live(optimizer: Optimizer) -> Any:
    learner = LinearLearner(optimizer)
    state = learner.init(4)
    for x, y in zip(XS, YS, strict=True):
        state = learner.update(state, x, y).state
    return state


def test_lms_is_sgd(float64: None) -> None:
    theirs, _ = train(optax.sgd(0.05), network(), exact=False)
    assert_close(train(to_optax(LMS(0.05)), network(), exact=False)[0], theirs, rtol=1e-12)
    assert_close(train(to_optax(LMS(0.05)), network())[0], theirs, rtol=1e-10)


@pytest.mark.parametrize("optimizer", [LMS(0.05), Autostep(), Autostep(0.5), LINEAR_IDBD, ObGD()], ids=repr)
def test_a_linear_model_is_the_linear_learner(optimizer: Optimizer, float64: None) -> None:
    state = live(optimizer)
    params, _ = train(to_optax(optimizer), (jnp.zeros(4), jnp.zeros(())), linear)
    assert_close(params, (state.weights, state.bias), rtol=1e-9, atol=1e-12)


def test_step_sizes_are_where_the_parameters_are(float64: None) -> None:
    _, state = train(to_optax(Autostep()), (jnp.zeros(4), jnp.zeros(())), linear)
    ours = live(Autostep()).optimizer_state
    assert_close(state.parts[0].step_sizes, ours.step_sizes, rtol=1e-9)
    assert_close(state.parts[1].step_sizes, ours.bias_step_size, rtol=1e-9)


def test_idbd_from_loss_gradients_is_the_same_rule(float64: None) -> None:
    both = [train(to_optax(LOSS_IDBD), network(), exact=exact)[0] for exact in (True, False)]
    assert_close(*both, rtol=1e-9)
    plain, _ = train(optax.sgd(0.05), network(), exact=False)
    assert not np.allclose(both[0]["out"], plain["out"], rtol=1e-3)  # it did learn step sizes


def test_autostep_has_one_bound_over_the_tree(float64: None) -> None:
    tx, params = to_optax(Autostep(10.0)), network()
    gradient = jax.grad(predict)(params, jnp.asarray(XS[0]))
    _, state = tx.update(gradient, tx.init(params), error=jnp.asarray(1.0))
    is_part = lambda s: hasattr(s, "step_sizes")  # noqa: E731
    parts = jax.tree.leaves(state.parts, is_leaf=is_part)
    total = sum(float(jnp.sum(s.step_sizes * g**2)) for s, g in zip(parts, jax.tree.leaves(gradient), strict=True))
    assert total == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_error_may_be_any_single_number(shape: tuple[int, ...]) -> None:
    tx = to_optax(Autostep())
    moves, _ = tx.update(jnp.ones(3), tx.init(jnp.ones(3)), error=jnp.full(shape, 2.0), value=3.0)
    assert moves.shape == (3,) and np.allclose(moves, 0.02)


def test_dtype_of_parameters_is_kept() -> None:
    for optimizer in (LMS(0.1), Autostep(), ObGD()):
        tx, params = to_optax(optimizer), jnp.ones(3, jnp.bfloat16)
        moves, _ = tx.update(params, tx.init(params), error=jnp.asarray(1.0))
        assert moves.dtype == jnp.bfloat16


def test_in_a_chain_with_extra_arguments() -> None:
    tx = optax.chain(to_optax(Autostep()), optax.scale(0.5))
    alone = to_optax(Autostep())
    half, _ = tx.update(jnp.ones(3), tx.init(jnp.ones(3)), error=jnp.asarray(1.0))
    whole, _ = alone.update(jnp.ones(3), alone.init(jnp.ones(3)), error=jnp.asarray(1.0))
    assert np.allclose(half, 0.5 * whole)


@pytest.mark.parametrize("hidden", [(), (8, 8)])
def test_sgd_in_a_network_is_lms(hidden: tuple[int, ...], float64: None) -> None:
    pair = [MLPLearner(hidden, o, sparsity=0.5) for o in (from_optax("sgd", learning_rate=0.01), LMS(0.01))]
    runs = [np.asarray(run_mlp_learning_loop(n, RandomWalkStream(5), 300, KEY).metrics) for n in pair]
    assert np.allclose(*runs, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", ["adam", "rmsprop", "sgd", "adagrad", "nadam", "adamax"])
def test_linear_learner_is_optax_in_its_own_loop(name: str, float64: None) -> None:
    state = live(from_optax(name, learning_rate=0.02))
    theirs, _ = train(getattr(optax, name)(0.02), (jnp.zeros(4), jnp.zeros(())), linear, exact=False)
    assert_close((state.weights, state.bias), theirs, rtol=1e-9, atol=1e-12)


def test_adam_on_arrays_is_optax_in_its_own_loop(float64: None) -> None:
    optimizer, params = from_optax("adam", learning_rate=0.01), network()
    theirs, _ = train(optax.adam(0.01), params, exact=False)
    leaves, tree = jax.tree.flatten(params)
    states = [optimizer.init_for_shape(leaf.shape) for leaf in leaves]
    for x, y in zip(XS, YS, strict=True):
        prediction, gradient = jax.value_and_grad(predict)(tree.unflatten(leaves), x)
        steps, states = optimizer.update_from_gradients(states, jax.tree.leaves(gradient), y - prediction)
        leaves = [leaf + (y - prediction) * step for leaf, step in zip(leaves, steps, strict=True)]
    assert_close(tree.unflatten(leaves), theirs, rtol=1e-7, atol=1e-10)


def test_reported_step_size_of_sgd_is_its_rate() -> None:
    run = run_learning_loop(LinearLearner(from_optax("sgd", learning_rate=0.03)), RandomWalkStream(5), 50, KEY)
    assert np.allclose(run.metrics[:, 2], 0.03, rtol=1e-5)


def test_without_a_bias_it_stays() -> None:
    bare = LinearLearner(from_optax(optax.chain(optax.adam(0.1), optax.add_noise(1.0, 0.5, 0))), use_bias=False)
    assert run_learning_loop(bare, RandomWalkStream(3), 20, KEY).state.bias == 0.0


def test_an_error_of_zero_moves_nothing_and_poisons_nothing() -> None:
    optimizer = from_optax("adam", learning_rate=0.1)
    state = optimizer.init_for_shape((2, 2))
    for error in (1.0, 0.0, 1e-38, 1.0):
        step, state = optimizer.update_from_gradient(state, jnp.ones((2, 2)), jnp.float32(error))
        assert np.isfinite(step).all() and (np.abs(step) > 0).all() == (error == 1.0)
    whole, _ = optimizer.update_from_gradient(optimizer.init_for_shape((2,)), jnp.ones(2))
    assert np.allclose(whole, 0.1)  # without an error the gradient holds it, and the change is the step


def test_configs_and_values() -> None:
    adam = from_optax("adam", learning_rate=0.01, b1=0.8)
    assert adam == from_optax("adam", b1=0.8, learning_rate=0.01) and adam.structure is adam
    assert optimizer_from_config(json.loads(json.dumps(adam.to_config()))) == adam
    net = MLPLearner((4,), adam)
    assert MLPLearner.from_config(json.loads(json.dumps(net.to_config()))) == net
    own = optax.adam(0.01)
    assert from_optax(own) == from_optax(own) and hash(from_optax(own)) == hash(from_optax(own))
    with pytest.raises(TypeError, match="give a name instead"):
        MLPLearner((4,), from_optax(own)).to_config()
    assert {"from_optax", "to_optax"} <= set(alberta_nb.__all__)


@pytest.mark.parametrize(
    "call, kind, message",
    [
        (lambda: from_optax("adamm"), ValueError, "name of a function of optax, got 'adamm'"),
        (lambda: from_optax(""), ValueError, "got ''"),
        (lambda: from_optax(3), TypeError, "must be an optax GradientTransformation"),
        (lambda: from_optax(optax.sgd(0.1), learning_rate=1), TypeError, "arguments go with a name"),
        (lambda: from_optax("adamw", learning_rate=0.1), ValueError, "without parameters"),
        (lambda: from_optax(to_optax(Autostep())), ValueError, "error is needed by Autostep"),
        (lambda: to_optax(optax.sgd(0.1)), TypeError, "optimizer must be an Optimizer"),
        (lambda: to_optax(LMS()).init({"w": YS, "f": jnp.tanh}), TypeError, r"PjitFunction at \['f'\]; of an equinox"),
        (lambda: to_optax(ObGD()).init(np.arange(3)), TypeError, "arrays of floats and nothing else, got a ndarray at"),
        (lambda: train(to_optax(Autostep()), network(), exact=False), TypeError, "error is needed by Autostep"),
        (lambda: train(to_optax(IDBD()), network(), exact=False), TypeError, "error is needed by IDBD"),
        (lambda: train(to_optax(ObGD()), network(), exact=False), TypeError, "error is needed by ObGD"),
    ],
)
def test_errors(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


SGD = {"type": "OptaxOptimizer", "name": "sgd", "arguments": [["learning_rate", 0.1]], "transform": None}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": "contrib.muon"}, "name"),
        ({"name": "base.jax.numpy.save"}, "name"),
        ({"name": "apply_updates"}, "name"),  # public, and no transform
        ({"name": "chain"}, "name"),  # of other transforms
        ({"name": "__builtins__"}, "name"),
        ({"name": ["sgd"]}, "name"),
        ({"name": None}, "name"),
        ({"arguments": "learning_rate"}, "arguments"),
        ({"arguments": {"learning_rate": 0.1}}, "arguments"),
        ({"arguments": [["learning_rate"]]}, "arguments"),
        ({"arguments": [[7, 0.1]]}, "arguments"),
        ({"arguments": [["learning_rate", {"type": "LMS"}]]}, "arguments"),
        ({"arguments": [["learning_rate", 0.1], ["rate", 0.1]]}, "arguments"),
        ({"arguments": []}, "arguments"),
        ({"transform": "os.system"}, "transform"),
        ({"name": "", "transform": {"type": "LMS"}}, "tx"),
    ],
)
def test_a_configuration_names_transforms_and_nothing_else(wrong: dict[str, Any], field: str) -> None:
    assert optimizer_from_config(SGD) == from_optax("sgd", learning_rate=0.1)
    with pytest.raises(ValueError, match=f"{field} |{field}$"):
        optimizer_from_config(SGD | wrong)


def test_a_configuration_runs_no_command(tmp_path: Any) -> None:
    mark = tmp_path / "mark"
    for name in ("_src.base.jax.os.system", "os.system", "_src.utils.contextlib.os.system", "jax._src.os.system"):
        for key in ("command", "cmd"):
            evil = SGD | {"name": name, "arguments": [[key, f"echo x > {mark}"]]}
            with pytest.raises(ValueError, match="name must be in TRANSFORMS"):
                LinearLearner.from_config({"type": "LinearLearner", "optimizer": evil})
    with pytest.raises(ValueError, match="arguments must be pairs of a name and plain numbers"):
        from_optax("sgd", learning_rate=lambda step: 0.1)
    assert not mark.exists()


def test_all_named_transforms_are_there() -> None:
    assert {name for name in TRANSFORMS if not callable(getattr(optax, name, None))} == set()
    assert from_optax("scale_by_adam").init(2) is not None


def test_a_batch_of_errors_is_refused() -> None:
    tx = to_optax(Autostep())
    with pytest.raises(ValueError, match=r"one number, of one sample, got shape \(4,\)"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)), error=jnp.ones(4))


def test_without_optax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optax", None)
    for call in (lambda: to_optax(LMS()), lambda: from_optax("adam", learning_rate=0.1)):
        with pytest.raises(ImportError, match=r"pip install alberta_nb\[optax\]"):
            call()


@pytest.mark.parametrize("name", ["sm3", "scale_by_sm3"])
def test_what_cannot_take_a_bias_is_told_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must take a bias"):
        from_optax(name, **({"learning_rate": 0.1} if name == "sm3" else {}))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("apply_every", {"k": 0}),
        ("apply_every", {"k": True}),
        ("apply_every", {"k": 1.5}),
        *[("sgd", {"learning_rate": wrong}) for wrong in (None, True, -1.0, 1e308, "fast")],
        ("adam", {"learning_rate": 0.1, "b1": 1.0}),
        ("lion", {"learning_rate": 0.1, "b2": -0.1}),
        ("adan", {"learning_rate": 0.1, "b3": False}),
    ],
)
def test_arguments_are_checked_by_name(name: str, given: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^arguments of optax.{name}: {list(given)[-1]} must be"):
        from_optax(name, **given)


def test_an_argument_is_given_once() -> None:
    config = from_optax("sgd", learning_rate=0.1).to_config()
    config["arguments"] = [*config["arguments"], ["learning_rate", 0.2]]
    with pytest.raises(ValueError, match="arguments must have each name once"):
        Optimizer.from_config(config)
