"""The full-size model as converted: config and headers, with no file behind them."""

from functools import cache
from math import prod
from pathlib import Path

from mlx_maverick.checkpoint import DTYPE_BITS, Checkpoint, Tensor
from mlx_maverick.config import ModelConfig, Quant, Quantization
from mlx_maverick.convert.outputs import outputs
from mlx_maverick.convert.recipe import Recipe

from ..convert import full_size

FOLDER = Path("/models/maverick")


@cache
def converted(recipe: str | None, *rules: str) -> tuple[Checkpoint, ModelConfig]:
    """With a recipe and rules; None: experts apart, and everything in bf16."""
    if recipe is None:
        recipe, rules = "e4r4", ("routed=bf16",)
    config = ModelConfig.from_dict(full_size.CONFIG)
    made = Recipe.named(recipe).with_rules(rules)
    tensors: dict[str, Tensor] = {}
    offset = 0
    for entry in outputs(config, made):
        size = prod(entry.shape) * DTYPE_BITS[entry.dtype] // 8
        file = FOLDER / f"model-{offset // 10**10}.safetensors"
        tensors[entry.name] = Tensor(entry.name, entry.dtype, entry.shape, file, offset, size)
        offset += size
    settings = Quantization(Quant(64, 4))
    raw = {**full_size.CONFIG, "quantization": {"group_size": 64, "bits": 4}}
    config = ModelConfig.from_dict(raw)
    assert config.quantization == settings
    return Checkpoint(FOLDER, tensors), config
