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

from mlx_maverick.checkpoint import Checkpoint
from mlx_maverick.config import ModelConfig, Quant
from mlx_maverick.convert import convert
from mlx_maverick.convert.outputs import outputs
from mlx_maverick.convert.recipe import OFFERED, Recipe
from mlx_maverick.model import load_model

from ..golden import REFERENCE, Golden, difference, same_logits
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


def test_both_with_nothing_quantised(maverick_mini: Path, out: Path) -> None:
    names = ("routed", "shared", "dense", "attention", "embed", "lm_head")
    convert(maverick_mini, out, Recipe.parse("e4r4", [f"{name}=bf16" for name in names]))
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


# A rule of every kind: classes, layers, groups, steps, bf16, and what is bf16 by default.
RULES = (
    "routed_down=5", "routed@first,last=+1", "shared@1,3=8", "attention_v=8g32",
    "attention_o=3g128", "lm_head=bf16", "embed=8", "router=8", "vision=6", "vision@last=8g32",
    "projector=4g128",
)  # fmt: skip
MANY = Recipe.parse("e3g128r6", RULES)


def modules(model: nn.Module) -> dict[str, Quant]:
    """What another program takes the module at each path to be."""
    return {
        path: Quant(module.group_size, module.bits, module.mode)
        for path, module in model.named_modules()
        if hasattr(module, "bits")
    }


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        *(("maverick-mini", recipe) for recipe in OFFERED),
        ("maverick-mini", MANY.with_rules(["dense@0-3=2g32"])),
        ("scout-mini", MANY),
        ("maverick-mini", Recipe.parse("e4r4", ["routed_gate_up=bf16", "attention_k=bf16"])),
    ],
    ids=lambda value: value.name if isinstance(value, Recipe) else value,
)
def test_every_recipe_loads_everywhere(name: str, recipe: Recipe, out: Path) -> None:
    """With the bits it says, and the same logits in mlx-lm, mlx-vlm and here."""
    source = REFERENCE / name
    convert(source, out, recipe, fast=True)  # which numbers there are does not matter
    config, made = ModelConfig.from_folder(source), Checkpoint.open(out)
    resolved = recipe.resolved(config)
    wanted = {
        path: resolved.quant(f"{path}.weight")
        for path in (n.removesuffix(".scales") for n in made.tensors if n.endswith(".scales"))
    }
    assert made.nbytes == sum(entry.nbytes for entry in outputs(config, recipe))

    ids = mx.random.randint(0, 1000, (1, 30), key=mx.random.key(3))
    ours = load_model(out)(ids)[0]
    lm = in_float32(mlx_lm.utils.load_model(out)[0])
    assert modules(lm) == {p: q for p, q in wanted.items() if p.startswith("language_model.")}
    same_logits(ours, lm(ids)[0], tolerance=1e-2)
    vlm = in_float32(mlx_vlm.utils.load_model(out))
    assert modules(vlm) == wanted
    same_logits(ours, vlm.language_model(ids).logits[0], tolerance=1e-2)


def test_a_packed_tower_still_sees(maverick_mini: Path, out: Path) -> None:
    pixels = Golden(maverick_mini)["image_03.pixel_values"]
    wanted = load_model(maverick_mini).encode_image(pixels)
    convert(maverick_mini, out, Recipe.parse("e4r4", ["vision=8g32", "projector=8"]), fast=True)
    features = load_model(out).encode_image(pixels)
    error = mx.sqrt(mx.mean((features - wanted) ** 2) / mx.mean(wanted**2)).item()
    assert 1e-6 < error < 0.05
