import json
import os
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_maverick.checkpoint import Checkpoint
from mlx_maverick.config import ModelConfig, Quant
from mlx_maverick.convert import Progress, convert
from mlx_maverick.convert import plan as plan_module
from mlx_maverick.convert.manifest import MANIFEST
from mlx_maverick.convert.plan import make_plan
from mlx_maverick.convert.recipe import Recipe
from mlx_maverick.convert.verify import verify

from . import damage
from .conftest import Pair

BF16_PARTS = ("vision_model.", "multi_modal_projector.", "norm.", ".router.")


def expected(folder: Path, experts: int, rest: int) -> dict[str, mx.array]:
    """What the output must hold, computed from whole tensors with nothing of the converter."""
    result: dict[str, mx.array] = {}

    def add(path: str, matrix: mx.array, bits: int) -> None:
        packed = mx.quantize(mx.contiguous(matrix), group_size=64, bits=bits)
        for suffix, values in zip(("weight", "scales", "biases"), packed, strict=True):
            result[f"{path}.{suffix}"] = values

    for name, values in damage.tensors(folder).items():
        values = values.astype(mx.bfloat16)
        if name.endswith("experts.gate_up_proj"):
            inner = values.shape[-1] // 2
            path = name.removesuffix("gate_up_proj")
            add(f"{path}gate_proj", values[:, :, :inner].transpose(0, 2, 1), experts)
            add(f"{path}up_proj", values[:, :, inner:].transpose(0, 2, 1), experts)
        elif name.endswith("experts.down_proj"):
            add(name, values.transpose(0, 2, 1), experts)
        elif any(part in name for part in BF16_PARTS) or values.ndim == 1:
            result[name] = values
        else:
            add(name.removesuffix(".weight"), values, rest)
    return result


def bits_of(recipe: str) -> tuple[int, int]:
    return int(recipe[1]), int(recipe[3])


def same(a: dict[str, mx.array], b: dict[str, mx.array]) -> None:
    assert set(a) == set(b)
    for name, values in a.items():
        assert values.dtype == b[name].dtype, name
        assert mx.array_equal(values, b[name]), name


def test_every_tensor_is_what_mlx_makes_of_the_whole_matrix(pair: Pair) -> None:
    same(damage.tensors(pair.folder), expected(pair.source, *bits_of(pair.recipe)))


def test_dequantised_matrices_are_near_the_source(pair: Pair) -> None:
    """Catches what the test above could share with the converter: a swapped gate and up, a
    transposition, the wrong expert."""
    source, made = damage.tensors(pair.source), damage.tensors(pair.folder)
    config = ModelConfig.from_folder(pair.folder)
    assert config.quantization
    for name, values in source.items():
        if name in made and f"{name.removesuffix('.weight')}.scales" not in made:
            assert mx.array_equal(made[name].view(mx.uint16), values.view(mx.uint16)), name
            continue
        paths = {name.removesuffix(".weight"): values}
        if name.endswith("gate_up_proj"):
            gate, up = mx.split(values, 2, axis=-1)
            path = name.removesuffix("gate_up_proj")
            paths = {f"{path}gate_proj": mx.swapaxes(gate, 1, 2)}
            paths[f"{path}up_proj"] = mx.swapaxes(up, 1, 2)
        elif name.endswith("experts.down_proj"):
            paths = {name: mx.swapaxes(values, 1, 2)}
        for path, matrix in paths.items():
            quant = config.quantization.of(path)
            assert quant is not None
            back = mx.dequantize(
                made[f"{path}.weight"], made[f"{path}.scales"], made[f"{path}.biases"],
                quant.group_size, quant.bits,
            ).astype(mx.float32)  # fmt: skip
            # Half a step, as much again at the far edge (MLX puts zero onto a code, which may
            # cut the other end), and the rounding of scale and bias to bf16.
            step = mx.repeat(mx.abs(made[f"{path}.scales"]), 64, axis=-1).astype(mx.float32)
            error = mx.abs(back - matrix.astype(mx.float32))
            assert mx.all(error <= step * (1 + 2**quant.bits * 2**-8)), path


def test_two_runs_give_the_same_bytes(pair: Pair, out: Path) -> None:
    convert(pair.source, out, pair.recipe)
    names = sorted(p.name for p in pair.folder.iterdir())
    assert sorted(p.name for p in out.iterdir()) == names
    for name in names:
        assert (out / name).read_bytes() == (pair.folder / name).read_bytes(), name


def test_the_plan_predicts_every_byte(pair: Pair) -> None:
    plan = make_plan(pair.source, Recipe.named(pair.recipe))
    sizes = {p.name: p.stat().st_size for p in pair.folder.iterdir()}
    del sizes[MANIFEST]
    assert plan.sizes == sizes
    assert plan.nbytes == sum(sizes.values())
    shards = pair.folder.glob("*.safetensors")
    assert plan.layout.nbytes == sum(p.stat().st_size for p in shards)


def test_config_and_index(pair: Pair) -> None:
    config = ModelConfig.from_folder(pair.folder)
    assert config.quantization
    experts, rest = bits_of(pair.recipe)
    layer = "language_model.model.layers.1"
    assert config.quantization.of(f"{layer}.feed_forward.experts.up_proj") == Quant(64, experts)
    assert config.quantization.of(f"{layer}.self_attn.q_proj") == Quant(64, rest)
    assert config.quantization.of("language_model.lm_head") == Quant(64, rest)
    written = json.loads((pair.folder / "config.json").read_text())
    source = json.loads((pair.source / "config.json").read_text())
    assert written.pop("quantization") == written.pop("quantization_config")
    assert written == source
    index = json.loads((pair.folder / damage.INDEX).read_text())
    parameters = sum(t.size for t in Checkpoint.open(pair.source).tensors.values())
    size = sum(t.nbytes for t in Checkpoint.open(pair.folder).tensors.values())
    assert index["metadata"] == {"total_size": size, "total_parameters": parameters}


def test_the_folder_is_whole_and_has_the_tokenizer(pair: Pair) -> None:
    assert verify(pair.folder).recipe == pair.recipe
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
                 "generation_config.json", "preprocessor_config.json"):  # fmt: skip
        assert (pair.folder / name).read_bytes() == (pair.source / name).read_bytes()
    assert not (pair.folder / "golden").exists()


def test_small_blocks_and_several_shards_give_the_same_weights(
    maverick_mini: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the full-size model: an embedding in many blocks, experts in other shards."""
    monkeypatch.setattr(plan_module, "BLOCK_BYTES", 5000)
    of = plan_module.Layout.of
    monkeypatch.setattr(plan_module.Layout, "of", lambda entries: of(entries, 300_000))
    convert(maverick_mini, out, "e4r6")
    assert len(list(out.glob("model-*.safetensors"))) > 5
    same(damage.tensors(out), expected(maverick_mini, 4, 6))
    verify(out)


@pytest.mark.parametrize(
    "recipe",
    [Recipe.named("e2r4"), Recipe.named("e3r6"), Recipe.named("e5r8"), Recipe.named("e8r8")],
)
def test_recipes_still_to_come(scout_mini: Path, out: Path, recipe: Recipe) -> None:
    convert(scout_mini, out, recipe)
    same(damage.tensors(out), expected(scout_mini, recipe.experts.bits, recipe.rest.bits))


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
def test_sources_of_other_floats(source: Path, out: Path, dtype: mx.Dtype) -> None:
    damage.change(source, {k: v.astype(dtype) for k, v in damage.tensors(source).items()})
    convert(source, out, "e4r4")
    same(damage.tensors(out), expected(source, 4, 4))


def test_nothing_larger_than_an_expert_is_read_at_once(
    maverick_mini: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "BLOCK_BYTES", 10_000)
    sizes, preadv = [], os.preadv

    def spy(file: int, buffers: list[memoryview], offset: int) -> int:
        sizes.append(sum(len(b) for b in buffers))
        return preadv(file, buffers, offset)

    monkeypatch.setattr(os, "preadv", spy)
    monkeypatch.setattr(mx, "load", None)  # would read whole tensors
    convert(maverick_mini, out, "e4r4")
    assert max(sizes) == 128 * 256 * 2  # one expert's gate and up
    assert sum(sizes) == Checkpoint.open(maverick_mini).nbytes


def test_mlx_keeps_little_and_its_limit_is_given_back(maverick_mini: Path, out: Path) -> None:
    before = mx.set_cache_limit(123_456_789)
    try:
        convert(maverick_mini, out, "e4r4")
        assert mx.set_cache_limit(before) == 123_456_789
    finally:
        mx.set_cache_limit(before)


def test_progress_counts_every_byte_once(maverick_mini: Path, out: Path) -> None:
    seen: list[Progress] = []
    convert(maverick_mini, out, "e4r4", seen.append)
    for stage in ("converting", "hashing"):
        steps = [p for p in seen if p.stage == stage]
        assert [p.done for p in steps] == sorted(p.done for p in steps)
        assert steps[-1].done == steps[-1].total > 0
    assert any("experts.gate_up_proj (expert 15)" in p.what for p in seen)
