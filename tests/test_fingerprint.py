"""Fingerprints: the same for copies of a model, another for anything that changes its answers."""

import json
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_maverick.convert import convert
from mlx_maverick.convert.recipe import Recipe
from mlx_maverick.errors import BadCheckpoint, NotFound
from mlx_maverick.fingerprint import model_fingerprint

from .convert import damage


def test_copies_are_the_same_wherever_they_are(maverick_mini: Path, copy: Path) -> None:
    wanted = model_fingerprint(maverick_mini, mx.float32)
    assert len(wanted) == 64
    assert model_fingerprint(copy, mx.float32) == wanted
    (copy / "tokenizer.json").write_text("{}")  # a prompt's ids are compared elsewhere
    assert model_fingerprint(str(copy), mx.float32) == wanted
    tensors = {n: a for f in copy.glob("*.safetensors") for n, a in mx.load(str(f)).items()}
    mx.eval(tensors)
    for file in copy.glob("model*"):
        file.unlink()
    mx.save_safetensors(str(copy / "model.safetensors"), tensors)
    assert model_fingerprint(copy, mx.float32) == wanted


def test_the_type_that_is_computed_in_counts(maverick_mini: Path) -> None:
    assert model_fingerprint(maverick_mini, mx.float32) != model_fingerprint(
        maverick_mini, mx.bfloat16
    )


def test_the_config_counts(maverick_mini: Path, copy: Path) -> None:
    raw = json.loads((copy / "config.json").read_text())
    raw["text_config"]["rope_theta"] = 10000.0
    (copy / "config.json").write_text(json.dumps(raw))
    assert model_fingerprint(copy, "float32") != model_fingerprint(maverick_mini, "float32")


def test_every_tensor_counts(maverick_mini: Path, copy: Path) -> None:
    """A fine-tune may change a single one."""
    wanted = model_fingerprint(maverick_mini, "float32")
    for shard in sorted(copy.glob("*.safetensors")):
        held = damage.read(shard)
        for name in list(held)[:: max(1, len(held) // 4)]:
            data = held[name].data
            changed = held | {name: held[name]._replace(data=bytes(b ^ 1 for b in data))}
            damage.write(shard, changed)
            assert model_fingerprint(copy, "float32") != wanted, name
        damage.write(shard, held)
    assert model_fingerprint(copy, "float32") == wanted


def test_types_and_shapes_count(maverick_mini: Path, copy: Path) -> None:
    """Of tensors with the very same bytes."""
    wanted = model_fingerprint(maverick_mini, "float32")
    shard = sorted(copy.glob("*.safetensors"))[0]
    held = damage.read(shard)
    name = next(name for name, tensor in held.items() if len(tensor.shape) == 2)
    rows, width = held[name].shape
    for other in (held[name]._replace(dtype="F16"), held[name]._replace(shape=(rows * width,))):
        damage.write(shard, held | {name: other})
        assert model_fingerprint(copy, "float32") != wanted


def test_recipes_count(maverick_mini: Path, tmp_path: Path) -> None:
    found = set()
    for name in ("e4r4", "e4r6"):
        convert(maverick_mini, tmp_path / name, Recipe.named(name), fast=True)
        found.add(model_fingerprint(tmp_path / name, "float32"))
    assert len(found) == 2


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        model_fingerprint(tmp_path / "none", "float32")
    with pytest.raises(NotFound):
        model_fingerprint(tmp_path, "float32")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadCheckpoint):
        model_fingerprint(tmp_path, "float32")
