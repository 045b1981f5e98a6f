"""Every format of a source, with nothing of the converter in what is expected."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_maverick.checkpoint import Checkpoint
from mlx_maverick.config import ModelConfig, Quant
from mlx_maverick.convert import convert, formats
from mlx_maverick.convert.layout import Layout
from mlx_maverick.convert.manifest import MANIFEST
from mlx_maverick.convert.outputs import outputs
from mlx_maverick.convert.plan import make_plan
from mlx_maverick.convert.recipe import Recipe
from mlx_maverick.convert.values import BLOCK_WEIGHTS
from mlx_maverick.errors import BadCheckpoint, UsageError
from mlx_maverick.files import Folder
from mlx_maverick.model import load_model

from ..golden import REFERENCE, Golden, same_logits
from . import damage, forms
from .conftest import planned, refused
from .damage import stored
from .forms import FORMS, truth

RECIPE = "e3r4"  # below the 8 bits of quantised sources
TEXT_ONLY = ("mlx-bare", "mlx-lm")
PACKED = ("mlx-8bit", *TEXT_ONLY)
STAYS = ("vision_model.", "multi_modal_projector.", "norm.", ".router.")
KINDS = ("weight", "scales", "biases")
LAYER = "language_model.model.layers.1"
MOE = f"{LAYER}.feed_forward"
GATE_UP, DOWN, EXPERT = (f"{MOE}.experts.{n}" for n in ("gate_up_proj", "down_proj", "5.up_proj"))
ROUTER = f"{MOE}.router.weight"
BF16 = [f"{c}=bf16" for c in ("routed", "shared", "dense", "attention", "embed", "lm_head")]

In = Callable[[str], Path]
Made = Callable[[str, str, bool], Path]


@pytest.fixture
def damaged(in_form: In, tmp_path: Path) -> In:
    """A copy of maverick-mini in some format, to be damaged."""
    return lambda form: damage.copy(in_form(form), tmp_path / form)


def opened(tensors: forms.Tensors, path: str, bits: int) -> mx.array:
    weight, scales, biases = (tensors[f"{path}.{kind}"] for kind in KINDS)
    scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    return mx.dequantize(weight, scales, biases, group_size=64, bits=bits)


def expected(source: Path, experts: int, rest: int) -> forms.Tensors:
    """What the output must hold, from whole tensors; quantised sources have 8 bits."""
    found: forms.Tensors = {}
    tensors = truth(source)
    for name, values in tensors.items():
        path, _, kind = name.rpartition(".")
        packed = f"{path}.scales" in tensors
        if values.ndim == 1 or any(part in name for part in STAYS):
            found[name] = values if packed else values.astype(mx.bfloat16)
        elif kind == "weight":
            matrix = (opened(tensors, path, 8) if packed else values).astype(mx.bfloat16)
            bits = experts if ".experts." in name else rest
            made = mx.quantize(mx.contiguous(matrix), group_size=64, bits=bits)
            found |= {f"{path}.{kind}": part for kind, part in zip(KINDS, made, strict=True)}
    return found


def same(found: forms.Tensors, wanted: forms.Tensors) -> None:
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        assert found[name].dtype == values.dtype, name
        assert mx.array_equal(found[name], values), name


@pytest.mark.parametrize("form", FORMS)
def test_every_tensor_is_what_mlx_makes_of_the_whole_matrix(
    form: str, in_form: In, made: Made
) -> None:
    same(damage.tensors(made(form, RECIPE, True)), expected(in_form(form), 3, 4))


@pytest.mark.parametrize("form", ["bf16", "compressed", "compressed-flat", "fbgemm", "mlx-8bit"])
def test_the_search_is_nearer_to_the_source_than_min_max(
    form: str, in_form: In, made: Made
) -> None:
    fast, best = (damage.tensors(made(form, RECIPE, fast)) for fast in (True, False))
    assert {n: (v.shape, v.dtype) for n, v in best.items()} == {
        n: (v.shape, v.dtype) for n, v in fast.items()
    }
    source = truth(in_form(form))
    errors = []
    for name in best:
        path, _, kind = name.rpartition(".")
        if kind != "scales" or any(part in name for part in STAYS):
            continue
        wanted = source[f"{path}.weight"]
        if f"{path}.scales" in source:
            wanted = opened(source, path, 8)
        bits = 3 if ".experts." in path else 4
        two = [mx.square(opened(t, path, bits) - wanted.astype(mx.float32)) for t in (best, fast)]
        errors.append([float(e.mean()) for e in two])
        assert errors[-1][0] <= errors[-1][1], path
    assert len(errors) == 2 + 8 * 4 + 4 * 3 + 4 * 6  # every matrix of the language model
    assert sum(best for best, _ in errors) < 0.9 * sum(fast for _, fast in errors)


@pytest.mark.parametrize("form", ["bf16", "compressed-flat", "fbgemm", "mlx-8bit"])
def test_blocks_of_any_size_give_the_same_weights(
    form: str, in_form: In, made: Made, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the full-size model: matrices read and quantised in several pieces."""
    monkeypatch.setattr(formats, "BLOCK_BYTES", 10_000)
    of_any = dict.fromkeys(BLOCK_WEIGHTS, 50 * 128)
    monkeypatch.setattr("mlx_maverick.convert.values.BLOCK_WEIGHTS", of_any)
    convert(in_form(form), out, RECIPE, fast=True)
    same(damage.tensors(out), damage.tensors(made(form, RECIPE, True)))


def decoded(source: Path, folder: Path) -> Path:
    """A folder of what the converter reads, in float32: nothing is rounded."""
    files = Folder(source)
    raw = json.loads((source / "config.json").read_text())
    read: defaultdict[str, list[mx.array]] = defaultdict(list)
    shapes = {}
    config = ModelConfig.from_dict(raw)
    for pieces in formats.Source(Checkpoint.of(files), config).pieces():
        for piece in pieces:
            data = {}
            for slice in piece.encoding.slices:
                buffer = bytearray(slice.nbytes)
                files.read(slice.tensor.file.name, slice.offset, memoryview(buffer))
                data[slice] = np.frombuffer(buffer, np.uint8)
            rows = piece.encoding.rows(data, 0, piece.encoding.shape[0])
            read[piece.name].append(rows.astype(mx.float32))
            shapes[piece.name] = piece.shape
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(raw))
    damage.edit_json(folder / "config.json", quantization_config=None)
    values = {n: mx.concatenate(parts).reshape(shapes[n]) for n, parts in read.items()}
    return forms.write(folder, {name: stored(value) for name, value in values.items()})


def test_fp8_means_what_transformers_reads(in_form: In, tmp_path: Path) -> None:
    """Golden logits are those of the published FP8 layout, which `forms` makes to the byte."""
    golden = Golden(REFERENCE / "maverick-mini-fp8")
    model = load_model(decoded(in_form("compressed"), tmp_path / "float32"))
    logits = model(golden["text_70.input_ids"][None])[0]
    same_logits(logits, golden["text_70.logits"])


def test_fp8_as_bf16_is_as_near_as_bf16_can_be(in_form: In, out: Path) -> None:
    """Code times scale has more digits than bf16: logits up to 6 move by hundredths. In the
    checkpoint that FP8 was made from they differ by 2.7."""
    golden = Golden(REFERENCE / "maverick-mini-fp8")
    convert(in_form("compressed"), out, Recipe.parse("e8r8", BF16))
    assert {t.dtype for t in Checkpoint.open(out).tensors.values()} == {"BF16"}
    logits = load_model(out)(golden["text_70.input_ids"][None])[0]
    same_logits(logits, golden["text_70.logits"], tolerance=0.05)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", [1, 5000, formats.BLOCK_BYTES])
def test_the_jobs_read_and_write_every_byte_once(
    form: str, block: int, in_form: In, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "BLOCK_BYTES", block)
    plan = planned(in_form(form), RECIPE)
    written, read = defaultdict(list), defaultdict(list)
    for job in plan.jobs:
        for part in job.parts:
            for entry in part.entries:
                start, nbytes = part.extent(entry)
                written[entry.name].append((start, start + nbytes))
        for slice in job.slices:
            start = slice.offset - slice.tensor.offset
            read[slice.tensor.name].append((start, start + slice.nbytes))
    once(written, {name: place.nbytes for name, place in plan.layout.places.items()})
    once(read, {t.name: t.nbytes for t in Checkpoint.open(in_form(form)).tensors.values()})
    assert plan.read_nbytes == Checkpoint.open(in_form(form)).nbytes


def once(ranges: dict[str, list[tuple[int, int]]], sizes: dict[str, int]) -> None:
    assert set(ranges) == set(sizes)
    for name, found in ranges.items():
        found.sort()
        ends = [0, *(end for _, end in found)]
        assert [start for start, _ in found] == ends[:-1], name
        assert ends[-1] == sizes[name], name


@pytest.mark.parametrize("form", FORMS)
def test_every_file_has_the_planned_size(form: str, in_form: In, made: Made) -> None:
    plan, folder = planned(in_form(form), RECIPE), made(form, RECIPE, True)
    sizes = {p.name: p.stat().st_size for p in folder.iterdir()}
    assert plan.sizes == {n: s for n, s in sizes.items() if n not in (MANIFEST, "README.md")}
    found = {n: (t.dtype, t.shape) for n, t in Checkpoint.open(folder).tensors.items()}
    assert found == {e.name: (e.dtype, e.shape) for e in plan.layout.entries}


@pytest.mark.parametrize("form", [form for form in FORMS if form not in PACKED])
@pytest.mark.parametrize(
    ("recipe", "rules"),
    [
        ("e4r4", []),
        ("e2g128r8g32", []),
        ("e3r6", ["routed@first,last=+1", "attention_v=8g32", "vision=8", "router=bf16"]),
        ("e8r8", BF16),
    ],
)
def test_what_is_written_does_not_depend_on_the_format(
    form: str, recipe: str, rules: list[str], in_form: In
) -> None:
    plan = planned(in_form(form), recipe, *rules)
    assert plan.layout == Layout.of(outputs(plan.config, Recipe.parse(recipe, rules)))


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("bf16", "BF16"), ("f16", "F16"), ("f32", "F32"),
        ("compressed", "FP8 (compressed-tensors)"), ("compressed-flat", "FP8 (compressed-tensors)"),
        ("fbgemm", "FP8 (fbgemm)"), ("mlx", "MLX, not quantised"), ("mlx-8bit", "MLX, 8 bits"),
        ("mlx-lm", "MLX, 8 bits"),
    ],
)  # fmt: skip
def test_its_format_is_told(form: str, words: str, in_form: In) -> None:
    assert planned(in_form(form), RECIPE).form == words


def test_experts_of_fp8_are_spread_over_shards(in_form: In) -> None:
    """What the tests above rest on."""
    tensors = Checkpoint.open(in_form("compressed")).tensors
    files = [tensors[f"{MOE}.experts.{e}.up_proj.weight"].file.name for e in range(16)]
    assert len(set(files)) == 3
    assert tensors[f"{EXPERT}.weight"].file != tensors[f"{EXPERT}.weight_scale"].file


# Folders that MLX quantised


@pytest.mark.parametrize("form", PACKED)
def test_kept_as_it_is(form: str, in_form: In, made: Made) -> None:
    folder = made(form, "keep", False)
    same(damage.tensors(folder), truth(in_form(form)))
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization"] == config["quantization_config"] == forms.EIGHT
    about = json.loads((folder / MANIFEST).read_text())
    assert (about["recipe"], about["quantiser"]) == ({"name": "keep"}, "none")


def test_float16_is_kept_too(source: Path, out: Path) -> None:
    """A norm in bf16 beside scales in float16 would have mlx-lm compute in float32."""
    values = {n: v.astype(mx.float16) for n, v in damage.tensors(source).items()}
    for file in source.glob("model*"):
        file.unlink()
    forms.write(source, forms.packed(values))
    damage.edit_json(source / "config.json", quantization=forms.EIGHT)
    convert(source, out, "keep")
    assert {v.dtype for v in damage.tensors(out).values()} == {mx.float16, mx.uint32}
    same(damage.tensors(out), truth(source))
    ids = mx.array([[5, 6, 7]])
    assert mx.array_equal(load_model(out)(ids), load_model(source)(ids))


@pytest.mark.parametrize("form", ["bf16", "compressed", "fbgemm"])
def test_scout_too(form: str, scout_mini: Path, out: Path, tmp_path: Path) -> None:
    source = forms.make(form, scout_mini, tmp_path / form)
    convert(source, out, RECIPE, fast=True)
    same(damage.tensors(out), expected(source, 3, 4))


def test_what_has_these_bits_already_is_not_touched(in_form: In, made: Made) -> None:
    """And what the recipe would leave in bf16 is not expanded."""
    source, folder = truth(in_form("mlx-8bit")), made("mlx-8bit", "e3r8", False)
    held = damage.tensors(folder)
    changed = {n for n in held if n not in source or not mx.array_equal(held[n], source[n])}
    assert changed == {n for n in held if ".experts." in n}
    settings = ModelConfig.from_folder(folder).quantization
    assert settings is not None
    assert settings.of(f"{MOE}.experts.gate_proj") == Quant(64, 3)
    for path in (ROUTER, "vision_model.model.layers.0.self_attn.q_proj.weight"):
        assert settings.of(path.removesuffix(".weight")) == Quant(64, 8)


@pytest.mark.parametrize("recipe", ["e8g32r8", "e8g32r2"])
def test_bits_that_are_gone_cannot_be_had_back(recipe: str, in_form: In) -> None:
    refused(in_form("mlx-8bit"), UsageError, "has only 8 bits in groups of 64.*keep", recipe)


@pytest.mark.parametrize("mode", ["mxfp4", "nvfp4", "mxfp8"])
def test_other_modes_of_mlx(mode: str, source: Path, out: Path, tmp_path: Path) -> None:
    """The experts alone: kept, or made smaller."""
    group, bits = {"mxfp4": (32, 4), "nvfp4": (16, 4), "mxfp8": (32, 8)}[mode]
    held, opened = forms.stacked(damage.tensors(source)), {}
    for name, values in forms.experts(damage.tensors(source)).items():
        if ".experts." in name:
            path, matrix = name.removesuffix(".weight"), mx.contiguous(values)
            codes, scales = mx.quantize(matrix, group_size=group, bits=bits, mode=mode)
            held |= {name: stored(codes), f"{path}.scales": stored(scales)}
            opened[path] = mx.dequantize(codes, scales, None, group, bits, mode)
    for file in source.glob("model*"):
        file.unlink()
    forms.write(source, held)
    section = {"group_size": group, "bits": bits, "mode": mode}
    damage.edit_json(source / "config.json", quantization=section)

    kept = convert(source, tmp_path / "kept", "keep").folder
    same(damage.tensors(kept), truth(source))
    assert json.loads((kept / "config.json").read_text())["quantization"] == section

    convert(source, out, "e2r4", fast=True)
    found = damage.tensors(out)
    for path, matrix in opened.items():
        wanted = mx.quantize(matrix.astype(mx.bfloat16), group_size=64, bits=2)
        for kind, values in zip(KINDS, wanted, strict=True):
            assert mx.array_equal(found[f"{path}.{kind}"], values), path
    if bits == 4:
        refused(source, UsageError, "adds bytes and no precision", "e4g32r4")


def test_nothing_to_keep(in_form: In) -> None:
    for form in ("bf16", "mlx", "compressed"):
        refused(in_form(form), UsageError, "nothing to keep; name a recipe", "keep")


@pytest.mark.parametrize("form", TEXT_ONLY)
def test_a_folder_without_pictures(form: str, made: Made) -> None:
    folder = made(form, RECIPE, True)
    assert all(name.startswith("language_model.") for name in damage.tensors(folder))
    assert load_model(folder)(mx.array([[5, 6, 7]])).shape == (1, 3, 1024)


# Sources that are not as they should be


@pytest.mark.parametrize(
    ("form", "name", "shape", "match"),
    [
        ("compressed", f"{EXPERT}.weight", None, "lacks .*5.up_proj.weight"),
        ("compressed", f"{EXPERT}.weight_scale", None, "5.up_proj.weight as F8_E4M3.*no.*scale"),
        ("compressed", f"{EXPERT}.weight_scale", (1,), r"\[1\].*\[128, 1\]"),
        ("compressed", f"{EXPERT}.weight_scale", (), r"5.up_proj.weight_scale of shape \[\]"),
        ("compressed", f"{EXPERT}.weight_scale", (1, 128), r"\[1, 128\].*\[128, 1\]"),
        ("compressed-flat", f"{LAYER}.self_attn.q_proj.weight_scale", None, "q_proj.weight.*scale"),
        ("fbgemm", f"{GATE_UP}_scale", None, "gate_up_proj.*no.*scale"),
        ("fbgemm", f"{GATE_UP}_scale", (16, 1, 128), r"\[16, 1, 128\]"),
        ("fbgemm", f"{DOWN}_scale", (16, 64, 2), r"\[16, 64, 2\]"),
        ("fbgemm", DOWN, None, "lacks .*down_proj .1 of"),
        ("mlx", f"{MOE}.experts.up_proj.weight", None, "lacks .*experts.up_proj.weight"),
        ("mlx", f"{MOE}.experts.up_proj.weight", (16, 128, 64), r"\[16, 128, 64\]"),
        ("mlx-8bit", f"{MOE}.experts.up_proj.weight", None, "lacks .*experts.up_proj.weight"),
        ("mlx-8bit", f"{MOE}.experts.up_proj.scales", None, "experts.up_proj.weight as U32"),
        ("mlx-8bit", f"{MOE}.experts.up_proj.biases", None, "lacks .*experts.up_proj.biases"),
        ("mlx-8bit", f"{LAYER}.self_attn.q_proj.biases", None, "lacks .*q_proj.biases"),
        ("mlx-8bit", f"{LAYER}.self_attn.q_proj.biases", (128, 1), r"biases of shape \[128, 1\]"),
        ("mlx-8bit", f"{LAYER}.self_attn.q_proj.scales", (128, 3), "q_proj"),
        ("mlx-8bit", f"{LAYER}.self_attn.q_proj.scales", (128, 0), "q_proj"),
        ("mlx-8bit", f"{LAYER}.self_attn.q_proj.scales", (), "q_proj"),
        ("mlx-bare", "model.layers.1.input_layernorm.weight", None, "lacks .*input_layernorm"),
    ],
)  # fmt: skip
def test_missing_tensors_and_wrong_shapes(
    form: str, name: str, shape: tuple[int, ...] | None, match: str, damaged: In
) -> None:
    source = damaged(form)
    value = None if shape is None else stored(mx.zeros(shape, mx.bfloat16))
    damage.change(source, {name: value})
    refused(source, BadCheckpoint, match, RECIPE)


@pytest.mark.parametrize(
    ("words", "groups"), [(28, 2), (4, 2), (0, 2), (32, 1), (32, 3), (32, 8), (64, 2)]
)
def test_packed_shapes_that_mlx_does_not_have(words: int, groups: int, damaged: In) -> None:
    """7, 1, 0 and 16 bits, and groups of 128 / 3, 16; only 8 bits in groups of 128 are fine."""
    source, path = damaged("mlx-8bit"), f"{LAYER}.self_attn.q_proj"
    scales = stored(mx.zeros((128, groups), mx.bfloat16))
    damage.change(source, {
        f"{path}.weight": stored(mx.zeros((128, words), mx.uint32)),
        f"{path}.scales": scales, f"{path}.biases": scales,
    })  # fmt: skip
    if (words, groups) == (32, 1):
        assert planned(source, RECIPE)
        return
    for recipe in (RECIPE, "keep"):
        refused(source, BadCheckpoint, "q_proj", recipe)


def test_a_mode_that_mlx_does_not_have(damaged: In) -> None:
    source = damaged("mlx-8bit")
    damage.edit_json(source / "config.json", quantization=forms.EIGHT | {"mode": "int"})
    refused(source, BadCheckpoint, "'?int'?", "keep")


@pytest.mark.parametrize(
    ("form", "name", "dtype", "match"),
    [
        ("bf16", ROUTER, "I16", f"{ROUTER} as I16"),
        ("f32", ROUTER, "I32", f"{ROUTER} as I32"),
        ("compressed", f"{EXPERT}.weight", "I8", "5.up_proj.weight as I8"),
        ("compressed", f"{EXPERT}.weight", "F8_E5M2", "5.up_proj.weight as F8_E5M2"),
        ("compressed", f"{EXPERT}.weight_scale", "I16", "weight_scale as I16"),
        ("fbgemm", f"{GATE_UP}_scale", "I32", "gate_up_proj_scale as I32"),
        ("mlx-8bit", f"{MOE}.experts.up_proj.weight", "I32", "up_proj.weight as I32"),
        ("mlx-8bit", f"{MOE}.experts.up_proj.scales", "I16", "up_proj.scales as I16"),
    ],
)
def test_other_types(form: str, name: str, dtype: str, match: str, damaged: In) -> None:
    source = damaged(form)
    home = json.loads((source / damage.INDEX).read_text())["weight_map"]
    damage.retype(source / home[name], name, dtype)
    refused(source, BadCheckpoint, match, RECIPE)


def test_double_precision(damaged: In) -> None:
    source = damaged("bf16")
    damage.change(source, {ROUTER: damage.Stored("F64", (16, 128), bytes(16 * 128 * 8))})
    refused(source, BadCheckpoint, "router.weight as F64; only BF16, F16, F32 can be converted")


def test_fp8_that_has_no_scale(damaged: In) -> None:
    """In a BF16 checkpoint: a byte for each weight, and nothing that says how large they are."""
    source = damaged("bf16")
    damage.change(source, {ROUTER: damage.Stored("F8_E4M3", (16, 128), bytes(16 * 128))})
    refused(source, BadCheckpoint, "router.weight as F8_E4M3.*no.*scale")


def test_a_scale_beside_what_is_not_fp8(damaged: In) -> None:
    source = damaged("bf16")
    damage.change(source, {f"{ROUTER}_scale": mx.ones((16, 1))})
    refused(source, BadCheckpoint, "router.weight as BF16.*scale")


def test_a_tensor_without_a_place(damaged: In) -> None:
    for form, name in [
        ("compressed", f"{MOE}.experts.16.up_proj.weight"),
        ("compressed", f"{EXPERT}.weight_zero_point"),
        ("fbgemm", "x.weight_scale"),
    ]:
        source = damage.change(damaged(form), {name: mx.zeros((1,), mx.bfloat16)})
        refused(source, BadCheckpoint, f"{name}.*no place", RECIPE)
        for file in source.iterdir():
            file.unlink()
        source.rmdir()


def test_scales_of_activations_are_left_out(damaged: In, in_form: In) -> None:
    source, one = damaged("compressed"), mx.ones((1,))
    names = (f"{EXPERT}.input_scale", f"{MOE}.experts.gate_up_proj_input_scale_ub")
    damage.change(source, dict.fromkeys(names, one))
    assert planned(source, RECIPE).sizes == planned(in_form("compressed"), RECIPE).sizes


def test_two_names_for_one_tensor(damaged: In) -> None:
    source = damaged("bf16")
    damage.change(source, {"model.norm.weight": mx.zeros((128,), mx.bfloat16)})
    refused(source, BadCheckpoint, "both .*model.norm.weight and .*model.norm.weight")


def test_experts_twice(damaged: In) -> None:
    """Fused and apart, with different values perhaps: neither is taken for the right one."""
    source = damaged("bf16")
    damage.change(source, {f"{MOE}.experts.0.up_proj.weight": mx.zeros((128, 128), mx.bfloat16)})
    refused(source, BadCheckpoint, "experts.0.up_proj.weight, which.*no place")


@pytest.mark.parametrize("method", ["gptq", "bitsandbytes", "awq", "fp8", "modelopt"])
@pytest.mark.parametrize("half", [False, True])
def test_other_kinds_of_quantisation(method: str, half: bool, damaged: In) -> None:
    source, section = damaged("bf16"), {"quant_method": method}
    config = json.loads((source / "config.json").read_text())
    (config["text_config"] if half else config)["quantization_config"] = section
    (source / "config.json").write_text(json.dumps(config))
    refused(source, UsageError, f"quantised with {method}.*convert the published BF16 or FP8")


def test_compressed_tensors_of_four_bits(damaged: In) -> None:
    """Nothing is missing, so nothing should be downloaded again."""
    source = damaged("compressed")
    changes: dict[str, mx.array | damage.Stored | None] = {}
    for name in Checkpoint.open(source).tensors:
        if ".experts." in name and name.endswith(".weight"):
            changes |= {name: None, f"{name}_packed": mx.zeros((128, 16), mx.uint32)}
    damage.change(source, changes)
    refused(source, UsageError, "packed.*convert the published BF16 or FP8")


NAN, INF = float("nan"), float("inf")


def poked(values: mx.array, where: tuple[int, ...], value: float) -> damage.Stored:
    values = mx.array(values)
    values[where] = value
    return stored(values)


@pytest.mark.parametrize(
    ("form", "name", "where", "value", "told"),
    [
        ("bf16", GATE_UP, (5, 3, 200), NAN, f"{GATE_UP} (expert 5)"),
        ("bf16", ROUTER, (15, 127), -INF, ROUTER),
        ("f16", DOWN, (15, 127, 127), INF, f"{DOWN} (expert 15)"),
        ("f32", f"{LAYER}.input_layernorm.weight", (0,), NAN, f"{LAYER}.input_layernorm.weight"),
        ("f32", GATE_UP, (0, 0, 0), INF, f"{GATE_UP} (expert 0)"),
        ("compressed", f"{EXPERT}.weight_scale", (3, 0), NAN, f"{EXPERT}.weight_scale"),
        ("compressed-flat", f"{EXPERT}.weight_scale", (127,), INF, f"{EXPERT}.weight_scale"),
        ("compressed-flat", f"{EXPERT}.weight_scale", (127,), 3e38, "experts.up_proj.weight"),
        ("fbgemm", f"{GATE_UP}_scale", (2, 0, 255), INF, f"{GATE_UP}_scale (expert 2)"),
        ("fbgemm", f"{DOWN}_scale", (2, 0, 0), NAN, f"{DOWN}_scale (expert 2)"),
        ("mlx-8bit", f"{LAYER}.self_attn.q_proj.scales", (0, 1), INF, "q_proj.scales"),
        ("mlx-8bit", f"{MOE}.experts.up_proj.biases", (7, 0, 1), NAN, "up_proj.biases (expert 7)"),
    ],
)
def test_weights_that_are_no_numbers(
    form: str, name: str, where: tuple[int, ...], value: float, told: str, damaged: In, out: Path
) -> None:
    source = damaged(form)
    damage.change(source, {name: poked(damage.tensors(source)[name], where, value)})
    with pytest.raises(BadCheckpoint, match="download it again") as caught:
        convert(source, out, RECIPE)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize("code", [0x7F, 0xFF])
@pytest.mark.parametrize(("form", "name"), [("compressed", f"{EXPERT}.weight"), ("fbgemm", DOWN)])
def test_fp8_that_is_no_number(form: str, name: str, code: int, damaged: In, out: Path) -> None:
    source = damaged(form)
    values = damage.tensors(source)[name].flatten()
    values[-1] = code
    shape = damage.tensors(source)[name].shape
    damage.change(source, {name: stored(values.reshape(shape), "F8_E4M3")})
    with pytest.raises(BadCheckpoint, match=f"{name}.*infinite values or NaN"):
        convert(source, out, RECIPE, fast=True)


def test_a_float32_beyond_bf16(damaged: In, out: Path) -> None:
    """The search works in float32 and may hold it."""
    source = damaged("f32")
    for name, told in ((ROUTER, ROUTER), (GATE_UP, "experts.up_proj.weight")):
        values = damage.tensors(source)[name]
        damage.change(source, {name: poked(values, (0,) * (values.ndim - 1) + (-1,), 3.4e38)})
        with pytest.raises(BadCheckpoint, match=f"{told} holds values too large"):
            convert(source, out, RECIPE, fast=True)
        damage.change(source, {name: values})


def test_nothing_but_the_folder_is_needed_to_plan(in_form: In) -> None:
    """No value is read: a plan of a repository takes headers only."""

    class Headers(Folder):
        def read(self, name: str, offset: int, buffer: memoryview) -> None:
            if name.endswith(".safetensors"):
                first = min(t.offset for t in tensors if t.file.name == name)
                assert offset + len(buffer) <= first
            super().read(name, offset, buffer)

    for form in FORMS:
        tensors = Checkpoint.open(in_form(form)).tensors.values()
        make_plan(Headers(in_form(form)), Recipe.named(RECIPE))


def test_what_has_fewer_bits_already_stays(in_form: In, out: Path) -> None:
    """Only the routed experts decide whether a recipe makes a folder smaller."""
    source = in_form("mlx-8bit")
    kept = [
        make_plan(Folder(source), Recipe.parse("e2r8", rules)).kept
        for rules in ([], ["lm_head=8g32"], ["lm_head=8g32", "embed=bf16"])
    ]
    assert kept[1:] == [kept[0] + 1, kept[0] + 2]
    assert kept[0] > 0  # router and vision, bf16 by default
    convert(source, out, Recipe.parse("e2r8", ["lm_head=8g32"]), fast=True)
    old, new = damage.tensors(source), damage.tensors(out)
    name = "language_model.lm_head.scales"
    assert mx.array_equal(old[name].astype(mx.bfloat16), new[name].astype(mx.bfloat16)).item()
