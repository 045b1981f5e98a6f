"""The decoder's parts: chunking, positions, temperature, layers of every kind."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_maverick.config import ModelConfig
from mlx_maverick.model import Llama4, load_model
from mlx_maverick.model.weights import Weights

from ..golden import difference

IDS = mx.array([[7, 300, 41, 5, 900, 12, 77, 3, 250, 18]])


def rebuilt(folder: Path, layers: int, **changes: Any) -> Llama4:
    """The first `layers` layers of a checkpoint under a changed text config."""
    config = ModelConfig.from_folder(folder)
    text = replace(
        config.text,
        num_hidden_layers=layers,
        rope_layers=config.text.rope_layers[:layers],
        chunked_layers=config.text.chunked_layers[:layers],
        moe_layers=config.text.moe_layers[:layers],
    )
    text = replace(text, **changes)
    dropped = tuple(f"language_model.model.layers.{i}." for i in range(layers, 8))
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    tensors: dict[str, mx.array] = {}
    for shard in set(index.values()):
        tensors.update(mx.load(str(folder / shard)))
    kept = {name: a for name, a in tensors.items() if not name.startswith(dropped)}
    config = replace(config, text=text)
    return Llama4(config, Weights.from_arrays(kept, config, mx.float32))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_models_with_fewer_than_four_layers_work(maverick_mini: Path, layers: int) -> None:
    """No layer is global then."""
    model = rebuilt(maverick_mini, layers)
    full = model(IDS)
    cache = model.make_cache()
    steps = [model(IDS[:, i : i + 1], cache=cache) for i in range(IDS.shape[1])]
    assert difference(mx.concatenate(steps, axis=1), full) <= 1e-5


def test_a_chunked_layer_never_looks_into_another_chunk(maverick_mini: Path) -> None:
    model = rebuilt(maverick_mini, 3, attention_chunk_size=4)
    changed = mx.concatenate([IDS[:, :4] + 1, IDS[:, 4:]], axis=1)
    before, after = model(IDS), model(changed)
    assert difference(before[:, 4:], after[:, 4:]) == 0
    assert difference(before[:, :4], after[:, :4]) > 0.01


def test_chunked_layers_work_beyond_a_million_positions(maverick_mini: Path) -> None:
    """They count from their chunk's start, so a chunk far out is like the first one."""
    model = rebuilt(maverick_mini, 3)
    cache = model.make_cache()
    cache.length = cache.chunk_start = 2**20
    far = [model(IDS[:, :6], cache=cache), model(IDS[:, 6:7], cache=cache)]
    assert difference(mx.concatenate(far, axis=1), model(IDS[:, :7])) <= 1e-5
    assert cache.length == 2**20 + 7


def test_a_global_layer_looks_at_everything(maverick_mini: Path) -> None:
    model = rebuilt(maverick_mini, 4, attention_chunk_size=4)
    changed = mx.concatenate([IDS[:, :1] + 1, IDS[:, 1:]], axis=1)
    assert difference(model(IDS)[:, -1], model(changed)[:, -1]) > 1e-4


def test_no_rope_layers_are_honoured(maverick_mini: Path) -> None:
    """Two tokens that change places change the sum of what a NoPE layer sees by nothing."""
    nope = rebuilt(maverick_mini, 1, rope_layers=(False,))
    rope = rebuilt(maverick_mini, 1)
    swapped = mx.concatenate([IDS[:, 1:2], IDS[:, :1], IDS[:, 2:]], axis=1)
    assert difference(nope(IDS)[:, -1], nope(swapped)[:, -1]) <= 1e-4
    assert difference(rope(IDS)[:, -1], rope(swapped)[:, -1]) > 1e-3


def test_temperature_tuning_counts_absolute_positions(maverick_mini: Path) -> None:
    """1 + scale * log(1 + floor((p + 1) / floor_scale)), also far out."""
    attention = rebuilt(maverick_mini, 4).text.layers[3].self_attn
    for position in (0, 14, 15, 16, 2**20 + 5):
        steps = (position + 1) // 16
        wanted = 1 + 0.1 * mx.log(mx.array(1.0 + steps))
        assert difference(attention._temperature(position, 1)[0, 0], wanted) <= 1e-6
    many = attention._temperature(2**20 - 4, 9)
    single = mx.concatenate([attention._temperature(2**20 - 4 + i, 1) for i in range(9)])
    assert difference(many, single) <= 1e-6


def test_attention_bias_is_used(maverick_mini: Path) -> None:
    config = ModelConfig.from_folder(maverick_mini)
    text = replace(config.text, attention_bias=True)
    config = replace(config, text=text)
    tensors: dict[str, mx.array] = {}
    for shard in sorted(maverick_mini.glob("*.safetensors")):
        tensors.update(mx.load(str(shard)))
    for i in range(8):
        for name, size in (("q", 128), ("k", 64), ("v", 64), ("o", 128)):
            tensors[f"language_model.model.layers.{i}.self_attn.{name}_proj.bias"] = mx.full(
                size, 0.1
            )
    biased = Llama4(config, Weights.from_arrays(tensors, config, mx.float32))
    assert difference(biased(IDS), load_model(maverick_mini)(IDS)) > 0.01


def test_the_last_position_alone(mini: Path) -> None:
    """Its state, and a cache that goes on, are those of the whole step."""
    model = load_model(mini)
    whole, last = model.make_cache(), model.make_cache()
    for ids in (IDS, IDS[:, :3], IDS[:, :1]):
        x = model.text.embed_tokens(ids)
        states, state = model.text(x, whole), model.text(x, last, last=True)
        assert state.shape == (1, 1, states.shape[-1])
        assert difference(states[:, -1:], state) <= 1e-5
    assert last.length == whole.length
