"""The output in other programs: mlx-lm and mlx-vlm load it unchanged, whatever it is made of."""

import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import mlx_lm.utils
import mlx_vlm.utils
import pytest
from mlx.utils import tree_map

from mlx_maverick.convert import convert
from mlx_maverick.convert.recipe import Recipe
from mlx_maverick.model import load_model

from ..golden import Golden, difference, same_logits
from . import damage
from .conftest import Pair

Made = Callable[[str, str, bool], Path]
# By format and recipe. An MLX folder can only be made smaller, or kept.
OTHERS = [("compressed", "e3r4"), ("compressed-flat", "e3r4"), ("fbgemm", "e3r4"),
          ("mlx-8bit", "e3r4"), ("mlx-8bit", "keep"), ("mixed", "e4r6")]  # fmt: skip
TEXT_ONLY = [("mlx-lm", "e4r6"), ("mlx-bare", "keep")]


def in_float32(model: nn.Module) -> nn.Module:
    """Another program's model, computing in float32 like ours on a CPU."""
    model.update(
        tree_map(
            lambda a: a.astype(mx.float32) if a.dtype == mx.bfloat16 else a, model.parameters()
        )
    )
    return model


def as_in_mlx_lm(folder: Path) -> None:
    """Over several chunks, from the same quantised folder, in float32."""
    ids = mx.random.randint(0, 1000, (1, 70), key=mx.random.key(1))
    theirs = in_float32(mlx_lm.utils.load_model(folder)[0])
    wanted = theirs(ids, cache=theirs.make_cache())[0]
    same_logits(load_model(folder)(ids)[0], wanted, tolerance=1e-2)


def as_in_mlx_vlm(folder: Path) -> None:
    """Text inside one chunk: its pictures are known to be wrong."""
    ids = mx.random.randint(0, 1000, (1, 30), key=mx.random.key(2))
    theirs = in_float32(mlx_vlm.utils.load_model(folder))
    wanted = theirs.language_model(ids).logits[0]
    same_logits(load_model(folder)(ids)[0], wanted, tolerance=1e-2)


def test_our_logits_are_those_of_mlx_lm(pair: Pair) -> None:
    as_in_mlx_lm(pair.folder)


def test_our_logits_are_those_of_mlx_vlm(pair: Pair) -> None:
    as_in_mlx_vlm(pair.folder)


@pytest.mark.parametrize(("form", "recipe"), [*OTHERS, *TEXT_ONLY])
def test_mlx_lm_with_every_format(form: str, recipe: str, made: Made) -> None:
    as_in_mlx_lm(made(form, recipe, False))


@pytest.mark.parametrize(("form", "recipe"), OTHERS)
def test_mlx_vlm_with_every_format(form: str, recipe: str, made: Made) -> None:
    as_in_mlx_vlm(made(form, recipe, False))


@pytest.mark.parametrize(
    "rules",
    [
        ["routed@first,last=+1", "attention_v=8g32", "routed_down=3g128"],
        ["router=8", "vision=8", "projector=4", "lm_head=bf16", "dense@0=bf16"],
        [f"{c}=bf16" for c in ("routed", "shared", "dense", "attention", "embed", "lm_head")],
    ],
)
def test_both_with_mixed_bits(maverick_mini: Path, out: Path, rules: list[str]) -> None:
    convert(maverick_mini, out, Recipe.parse("e4r6", rules))
    as_in_mlx_lm(out)
    as_in_mlx_vlm(out)


def test_mlx_lm_has_the_same_bits(pair: Pair) -> None:
    model, _ = mlx_lm.utils.load_model(pair.folder)
    layer = model.layers[1]
    experts, rest = int(pair.recipe[1]), int(pair.recipe[3])
    assert layer.feed_forward.experts.up_proj.bits == experts
    assert layer.self_attn.q_proj.bits == rest
    assert isinstance(layer.feed_forward.router, nn.Linear)


def test_pictures_survive_quantisation(pair: Pair) -> None:
    """The tower stays bf16, so features are those of the source."""
    pixels = Golden(pair.source)["image_03.pixel_values"]
    wanted = load_model(pair.source).encode_image(pixels)
    assert difference(load_model(pair.folder).encode_image(pixels), wanted) <= 1e-6


@pytest.mark.parametrize("form", ["compressed", "fbgemm"])
def test_pictures_survive_fp8(form: str, maverick_mini: Path, made: Made) -> None:
    pixels = Golden(maverick_mini)["image_03.pixel_values"]
    wanted = load_model(maverick_mini).encode_image(pixels)
    model = load_model(made(form, "e3r4", False))
    assert difference(model.encode_image(pixels), wanted) <= 1e-6


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
    theirs = tmp_path / "theirs"
    mlx_lm.convert(str(maverick_mini), str(theirs), quantize=True, q_group_size=64, q_bits=4)
    convert(maverick_mini, out, "e4r4", fast=True)
    ours = damage.tensors(out)
    compared = 0
    for name, values in damage.tensors(theirs).items():
        if ".router." in name:
            continue
        assert mx.array_equal(values, ours[name]), name
        compared += 1
    assert compared == sum(n.startswith("language_model.") and ".router." not in n for n in ours)
