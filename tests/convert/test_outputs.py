"""What is written, from shapes and a recipe alone."""

import subprocess
import sys
from math import prod
from pathlib import Path

import pytest

from mlx_maverick.config import ModelConfig, Quant
from mlx_maverick.convert import published
from mlx_maverick.convert.layout import Entry
from mlx_maverick.convert.outputs import entries, grouped, matrices, outputs
from mlx_maverick.convert.recipe import Recipe
from mlx_maverick.errors import UsageError

from . import full_size

MAVERICK = ModelConfig.from_dict(full_size.CONFIG)
MOE = "language_model.model.layers.1.feed_forward"


def test_gate_comes_before_up_and_both_are_turned_round() -> None:
    name = f"{MOE}.experts.gate_up_proj"
    assert list(matrices(name, (128, 5120, 16384))) == [
        (f"{MOE}.experts.gate_proj.weight", (128, 8192, 5120)),
        (f"{MOE}.experts.up_proj.weight", (128, 8192, 5120)),
    ]
    name = f"{MOE}.experts.down_proj"
    assert list(matrices(name, (128, 8192, 5120))) == [(f"{name}.weight", (128, 5120, 8192))]
    assert list(matrices("a.weight", (3, 4))) == [("a.weight", (3, 4))]


def test_one_tensor_becomes_three() -> None:
    assert entries("a.weight", (2, 6, 128), Quant(64, 3)) == [
        Entry("a.weight", "U32", (2, 6, 12)),
        Entry("a.scales", "BF16", (2, 6, 2)),
        Entry("a.biases", "BF16", (2, 6, 2)),
    ]
    assert entries("a.bias", (6,), None) == [Entry("a.bias", "BF16", (6,))]


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_bits_for_each_weight(group: int, bits: int) -> None:
    made = entries("a.weight", (128, 8192, 5120), Quant(group, bits))
    assert sum(e.nbytes for e in made) * 8 == 128 * 8192 * 5120 * (bits + 32 / group)


def test_groups_must_divide_the_rows() -> None:
    assert grouped("a", (3, 100), None) is None
    assert grouped("a", (3, 128), Quant(64, 4)) == Quant(64, 4)
    with pytest.raises(UsageError, match=r"a has rows of 96, which groups of 64 do not divide"):
        grouped("a", (3, 96), Quant(64, 4))


def test_all_weights_are_there_whatever_the_recipe() -> None:
    shapes = published.shapes(MAVERICK)
    for recipe in ("e2g128r4", "e8r8"):
        quant = Recipe.named(recipe)
        count = 0
        for entry in outputs(MAVERICK, quant):
            if entry.dtype == "U32":
                count += prod(entry.shape) * 32 // (quant.quant(entry.name) or Quant(1, 1)).bits
            elif not entry.name.endswith((".scales", ".biases")):
                count += prod(entry.shape)
        assert count == sum(map(prod, shapes.values()))


def test_no_name_twice_and_layers_together() -> None:
    names = [e.name for e in outputs(MAVERICK, Recipe.named("e4r4"))]
    assert len(set(names)) == len(names)
    layers = [name.split("layers.")[1].split(".")[0] for name in names if "el.layers." in name]
    turns = [a for a, b in zip(layers, [*layers[1:], ""], strict=True) if a != b]
    assert turns == [*map(str, range(48)), *map(str, range(34))]


def test_sizes_need_no_mlx(tmp_path: Path) -> None:
    code = "import sys, mlx_maverick.convert.outputs; sys.exit('mlx' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
