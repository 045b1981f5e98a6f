"""The output in other programs: mlx-lm and mlx-vlm load it unchanged."""

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import mlx_lm.utils
import mlx_vlm.utils
from mlx.utils import tree_map

from mlx_maverick.model import load_model

from ..golden import Golden, difference, same_logits
from . import damage
from .conftest import Pair


def test_mlx_lm_loads_and_runs_it(pair: Pair) -> None:
    model, _ = mlx_lm.utils.load_model(pair.folder)
    logits = model(mx.array([[5, 6, 7, 8, 9]]))
    assert logits.shape == (1, 5, 1024)
    assert mx.all(mx.isfinite(logits))
    layer = model.layers[1]
    experts, rest = int(pair.recipe[1]), int(pair.recipe[3])
    assert layer.feed_forward.experts.up_proj.bits == experts
    assert layer.self_attn.q_proj.bits == rest
    assert isinstance(layer.feed_forward.router, nn.Linear)


def in_float32(model: nn.Module) -> nn.Module:
    """Another program's model, computing in float32 like ours on a CPU."""
    model.update(
        tree_map(
            lambda a: a.astype(mx.float32) if a.dtype == mx.bfloat16 else a, model.parameters()
        )
    )
    return model


def test_our_logits_are_those_of_mlx_lm(pair: Pair) -> None:
    """Over several chunks, from the same quantised folder, in float32."""
    ids = mx.random.randint(0, 1000, (1, 100), key=mx.random.key(1))
    theirs = in_float32(mlx_lm.utils.load_model(pair.folder)[0])
    wanted = theirs(ids, cache=theirs.make_cache())[0]
    same_logits(load_model(pair.folder)(ids)[0], wanted, tolerance=1e-2)


def test_our_logits_are_those_of_mlx_vlm(pair: Pair) -> None:
    """Text inside one chunk: its pictures are known to be wrong."""
    ids = mx.random.randint(0, 1000, (1, 30), key=mx.random.key(2))
    theirs = in_float32(mlx_vlm.utils.load_model(pair.folder))
    wanted = theirs.language_model(ids).logits[0]
    same_logits(load_model(pair.folder)(ids)[0], wanted, tolerance=1e-2)


def test_pictures_survive_quantisation(pair: Pair) -> None:
    """The tower stays bf16, so features are those of the source."""
    pixels = Golden(pair.source)["image_03.pixel_values"]
    wanted = load_model(pair.source).encode_image(pixels)
    assert difference(load_model(pair.folder).encode_image(pixels), wanted) <= 1e-6


def test_mlx_lm_reads_the_tokenizer(pair: Pair) -> None:
    tokenizer = mlx_lm.utils.load_tokenizer(pair.folder)
    messages = [{"role": "user", "content": "hello"}]
    theirs = mlx_lm.utils.load_tokenizer(pair.source)
    assert tokenizer.apply_chat_template(messages) == theirs.apply_chat_template(messages)
    eos = json.loads((pair.source / "generation_config.json").read_text())["eos_token_id"]
    _, config = mlx_lm.utils.load_model(pair.folder, lazy=True)
    assert config["eos_token_id"] == eos


def test_mlx_vlm_loads_it_strictly(pair: Pair) -> None:
    model = mlx_vlm.utils.load_model(pair.folder)
    language = model.language_model.model.layers[1]
    assert language.feed_forward.experts.up_proj.bits == int(pair.recipe[1])
    assert language.self_attn.q_proj.bits == int(pair.recipe[3])
    assert isinstance(model.vision_model.model.layers[0].mlp.fc1, nn.Linear)
    logits = model.language_model(mx.array([[5, 6, 7]])).logits
    assert mx.all(mx.isfinite(logits))


def test_the_same_bits_as_mlx_lms_converter(maverick_mini: Path, tmp_path: Path, out: Path) -> None:
    """It has no vision and quantises the router; all else must agree to the bit."""
    from mlx_maverick.convert import convert

    theirs = tmp_path / "theirs"
    mlx_lm.convert(str(maverick_mini), str(theirs), quantize=True, q_group_size=64, q_bits=4)
    convert(maverick_mini, out, "e4r4")
    ours = damage.tensors(out)
    compared = 0
    for name, values in damage.tensors(theirs).items():
        if ".router." in name:
            continue
        assert mx.array_equal(values, ours[name]), name
        compared += 1
    assert compared == sum(n.startswith("language_model.") and ".router." not in n for n in ours)
