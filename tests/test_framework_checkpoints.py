"""States that are saved and loaded by the names of alberta_framework."""

import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from alberta_nb.framework.core.checkpoints import (
    checkpoint_exists,
    load_checkpoint,
    load_checkpoint_metadata,
    save_checkpoint,
)
from files import same

import alberta_nb as ab

KEY = jax.random.key(0)
LINEAR, NETWORK = ab.LinearLearner(ab.Autostep(), ab.EMANormalizer()), ab.MLPLearner((5, 4), ab.IDBD(), gamma=0.9)
HEADS, TD = ab.MultiHeadMLPLearner(2, (5,), ab.LMS(0.1)), ab.TDLinearLearner(ab.TDLambda())
DEMONS = ab.create_horde_spec([ab.GVFSpec(f"d{k}", "prediction", 0.5, 0.8, k) for k in range(2)])
STATES: dict[str, tuple[Any, Any]] = {
    "linear": (LINEAR.init(4), LINEAR.init(4).replace(weights=jnp.arange(4.0))),
    "network": (NETWORK.init(4, jax.random.key(1)), NETWORK.init(4, KEY)),
    "heads": (HEADS.init(4, jax.random.key(1)), HEADS.init(4, KEY)),
    "horde": (ab.HordeLearner(DEMONS, (5,)).init(4, jax.random.key(1)), ab.HordeLearner(DEMONS, (5,)).init(4, KEY)),
    "td": (TD.init(4), TD.init(4).replace(bias=jnp.float32(2.0))),
    "shapes alone": (jax.eval_shape(lambda: LINEAR.init(4)), LINEAR.init(4)),
    "a batch": (jax.vmap(lambda k: NETWORK.init(4, k))(jax.random.split(KEY, 3)),) * 2,
    "a tree": ({"a": (KEY, [np.zeros(2)]), "b": jnp.bfloat16(1)}, {"a": (KEY, [np.ones(2)]), "b": jnp.bfloat16(3)}),
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_comes_back(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template, state = STATES[name]
    monkeypatch.chdir(tmp_path)
    path = Path("deep") / "er" / name
    assert not checkpoint_exists(path) and not checkpoint_exists(str(path))
    save_checkpoint(state, str(path), {"step": 7, "more": {"x": [1.5, None]}})
    back, metadata = load_checkpoint(template, path)
    assert same(back, state) and metadata == load_checkpoint_metadata(path) == {"step": 7, "more": {"x": [1.5, None]}}
    assert checkpoint_exists(path) and not checkpoint_exists("deep")
    save_checkpoint(state, path)
    assert load_checkpoint(template, path.absolute())[1] == {}


def test_another_structure_is_refused(tmp_path: Path) -> None:
    path, state = tmp_path / "a", LINEAR.init(4)
    save_checkpoint(state, path)
    batch = jax.tree.map(lambda a: jnp.stack([a, a]), state)
    linear, td = ab.LinearLearner(ab.LMS()).init(4), ab.learners.td.TDLearnerState
    wrong: list[tuple[Any, str]] = [
        (LINEAR.init(5), r"state.weights must be float32 \(5,\), got float32 \(4,\)|must have shape"),
        (batch, "must have shape"),
        (NETWORK.init(4, KEY), "is missing"),
        (ab.LinearLearner(ab.Autostep()).init(4), "is of no use"),
        (td(**vars(state)), "must be made of .*'LearnerState'.*, got .*'TDLearnerState'"),
        (state.replace(bias=jnp.bfloat16(0)), r"state.bias must be bfloat16 \(\), got float32 \(\)"),
        (state.replace(bias=jnp.int32(0)), r"state.bias must be int32 \(\), got float32 \(\)"),
        ([state], "state.0.bias is missing"),
        (None, "is of no use"),
    ]
    for template, message in wrong:
        with pytest.raises(ValueError, match=f"{path}: .*({message})"):
            load_checkpoint(template, path)
    save_checkpoint(batch, path)
    with pytest.raises(ValueError, match="must be"):
        load_checkpoint(state, path)
    save_checkpoint({"a": jax.random.key_data(KEY)}, path)
    with pytest.raises(ValueError, match="another structure"):
        load_checkpoint({"a": KEY}, path)
    save_checkpoint((linear, 1), path)
    with pytest.raises(ValueError, match="made of"):
        load_checkpoint([linear, 1], path)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    for call in (load_checkpoint_metadata, lambda path: load_checkpoint(LINEAR.init(4), path)):
        with pytest.raises(FileNotFoundError):
            call(tmp_path / "none")
        (tmp_path / "text").write_text("no zip")
        with pytest.raises(ValueError, match="text: "):
            call(tmp_path / "text")
        ab.save(tmp_path / "other", LINEAR, LINEAR.init(4))
        with pytest.raises(ValueError, match="other: .*'kinds', 'metadata'"):
            call(tmp_path / "other")
    for metadata in ({"a": np.ones(2)}, {"a": float("nan")}, {"a": object()}, [1]):
        with pytest.raises(TypeError, match="metadata must be"):
            save_checkpoint(LINEAR.init(4), tmp_path / "new" / "a", metadata)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"state.a must be an array of numbers"):
        save_checkpoint({"a": "text"}, tmp_path / "new" / "a")
    assert not (tmp_path / "new").exists(), "nothing is made for what cannot be written"


def test_it_is_read_without_pickle(tmp_path: Path) -> None:
    save_checkpoint({"w": jnp.arange(3.0)}, tmp_path / "a", {"n": 1})
    with zipfile.ZipFile(tmp_path / "a") as archive:
        header = json.loads(archive.read("header.json"))
        with archive.open("state.w.npy") as member:
            assert np.array_equal(np.load(member, allow_pickle=False), np.arange(3.0))
    assert header["metadata"] == {"n": 1} and header["kinds"] == ["dict"]
