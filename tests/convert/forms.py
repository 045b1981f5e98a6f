"""One checkpoint in every format that the converter reads, and what each of them says.

Knows nothing of the converter. The formats are made from the published BF16 one, in FP8 with
one scale for every output channel: its largest weight / 448. `truth` reads any of them,
whole tensors at a time.
"""

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np

from . import damage
from .damage import Stored, stored

SHARDS = 3
EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(\w+_proj\.weight)")
# Beyond the routed experts, what an FP8 checkpoint may hold in FP8 as well.
LINEAR = re.compile(
    r"language_model.*\.(self_attn\.[qkvo]|feed_forward\.(shared_expert\.)?\w+)_proj\.weight"
)
TOWER = re.compile(r"vision_model\.model\..*_proj\.weight")
Tensors = dict[str, mx.array]


def e4m3(code: int) -> float:
    """The value of an FP8 code: https://arxiv.org/abs/2209.05433, table 1."""
    sign, exponent, mantissa = -1 if code & 0x80 else 1, code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    if exponent == 0:
        return sign * mantissa * 2.0**-9
    return sign * (8 + mantissa) * 2.0 ** (exponent - 10)


E4M3 = np.array([e4m3(code) for code in range(256)], np.float32)


def fp8(matrix: mx.array, axis: int, dtype: mx.Dtype) -> tuple[Stored, mx.array]:
    """Codes, and the scale of each output channel; `axis` is that of the inputs."""
    values = matrix.astype(mx.float32)
    scale = (mx.abs(values).max(axis, keepdims=True) / 448).astype(dtype)
    return stored(mx.to_fp8(values / scale.astype(mx.float32)), "F8_E4M3"), scale


def experts(tensors: Tensors) -> Tensors:
    """The routed experts apart, as [E, out, in]; all else as it is."""
    found = {}
    for name, values in tensors.items():
        if name.endswith(".gate_up_proj"):
            base = name.removesuffix("gate_up_proj")
            for part, half in zip(("gate", "up"), mx.split(values, 2, axis=-1), strict=True):
                found[f"{base}{part}_proj.weight"] = mx.swapaxes(half, 1, 2)
        elif name.endswith(".experts.down_proj"):
            found[f"{name}.weight"] = mx.swapaxes(values, 1, 2)
        else:
            found[name] = values
    return found


def floats(dtype: mx.Dtype) -> Callable[[Tensors], dict[str, Stored]]:
    """As published, in another type, with values that bf16 does not have."""
    return lambda tensors: {
        name: stored((values.astype(mx.float32) * 1.003).astype(dtype))
        for name, values in tensors.items()
    }


def compressed(
    tensors: Tensors, scale: mx.Dtype = mx.bfloat16, flat: bool = False, linears: bool = False
) -> dict[str, Stored]:
    """compressed-tensors: experts one by one, with scales of [out, 1] or (`flat`) [out]."""
    found: dict[str, Stored] = {}

    def add(name: str, matrix: mx.array) -> None:
        found[name], scales = fp8(matrix, -1, scale)
        found[f"{name}_scale"] = stored(scales.flatten() if flat else scales)

    for name, values in experts(tensors).items():
        if ".experts." in name:
            base, _, part = name.partition(".experts.")
            for e in range(values.shape[0]):
                add(f"{base}.experts.{e}.{part}", values[e])
        elif linears and LINEAR.fullmatch(name):
            add(name, values)
        else:
            found[name] = stored(values)
    return found


def fbgemm(tensors: Tensors) -> dict[str, Stored]:
    """transformers' FP8: experts fused as in BF16, linear layers in FP8 too, scales float32."""
    found: dict[str, Stored] = {}
    for name, values in tensors.items():
        if name.endswith((".gate_up_proj", ".experts.down_proj")):
            found[name], scale = fp8(values, 1, mx.float32)
            if name.endswith("down_proj"):
                scale = mx.swapaxes(scale, 1, 2)  # [E, out, 1]
            found[f"{name}_scale"] = stored(scale)
        elif LINEAR.fullmatch(name) and "self_attn" not in name:
            found[name], scale = fp8(values, -1, mx.float32)
            found[f"{name}_scale"] = stored(scale)
        else:
            found[name] = stored(values)
    return found


def stacked(tensors: Tensors) -> dict[str, Stored]:
    """MLX, not quantised."""
    return {name: stored(values) for name, values in experts(tensors).items()}


def packed(tensors: Tensors) -> dict[str, Stored]:
    """MLX with everything quantised, router and vision too, as its older converters did."""
    found: dict[str, Stored] = {}
    for name, values in experts(tensors).items():
        if values.ndim > 1 and (name.startswith("language_model.") or TOWER.fullmatch(name)):
            path = name.removesuffix("weight")
            made = mx.quantize(mx.contiguous(values), group_size=64, bits=8)
            for kind, part in zip(("weight", "scales", "biases"), made, strict=True):
                found[path + kind] = stored(part)
        else:
            found[name] = stored(values)
    return found


def mixed(tensors: Tensors) -> dict[str, Stored]:
    """A format for each layer of experts."""
    ways = {1: floats(mx.float16), 3: compressed, 5: fbgemm, 7: stacked}
    found: dict[str, Stored] = {}
    for name, values in tensors.items():
        match = re.match(r"language_model.*\.layers\.([1357])\.feed_forward\.", name)
        found |= ways[int(match[1])]({name: values}) if match else {name: stored(values)}
    return found


def bare(tensors: Tensors) -> dict[str, Stored]:
    """The names of mlx-lm's text models; what is quantised has `model.` at its front."""
    text = {k: v for k, v in packed(tensors).items() if k.startswith("language_model.")}
    return {name.removeprefix("language_model."): value for name, value in text.items()}


METHOD = {"compressed": "compressed-tensors", "fbgemm": "fbgemm_fp8"}
EIGHT = {"group_size": 64, "bits": 8, "mode": "affine"}
WAYS: Mapping[str, tuple[Callable[[Tensors], dict[str, Stored]], dict[str, Any]]] = {
    "f32": (floats(mx.float32), {}),
    "f16": (floats(mx.float16), {}),
    "compressed": (compressed, {"quantization_config": {"quant_method": "compressed-tensors"}}),
    "compressed-flat": (
        lambda tensors: compressed(tensors, mx.float32, flat=True, linears=True),
        {"quantization_config": {"quant_method": "compressed-tensors"}},
    ),
    "fbgemm": (fbgemm, {"quantization_config": {"quant_method": "fbgemm_fp8"}}),
    "mixed": (mixed, {}),
    "mlx": (stacked, {}),
    "mlx-8bit": (packed, {"quantization": EIGHT, "quantization_config": EIGHT}),
    "mlx-bare": (bare, {"quantization": EIGHT}),
}
FORMS = ("bf16", *WAYS, "mlx-lm")


def make(form: str, source: Path, folder: Path) -> Path:
    """The checkpoint `source` (as published) in another format, in several shards."""
    if form == "bf16":
        return damage.copy(source, folder)
    if form == "mlx-lm":  # no vision; the router in 8 bits as all else
        mlx_lm.convert(str(source), str(folder), quantize=True, q_group_size=64, q_bits=8)
        return folder
    way, config = WAYS[form]
    folder.mkdir()
    for file in source.iterdir():
        if file.is_file() and "model" not in file.name:
            shutil.copy(file, folder)
    damage.edit_json(folder / "config.json", **config)
    return write(folder, way(damage.tensors(source)))


def write(folder: Path, held: Mapping[str, Stored], shards: int = SHARDS) -> Path:
    """Dealt like cards: no matrix has its scale beside it, no layer all of its experts."""
    groups: defaultdict[str, dict[str, Stored]] = defaultdict(dict)
    for i, (name, tensor) in enumerate(held.items()):
        groups[f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors"][name] = tensor
    for shard, group in groups.items():
        damage.write(folder / shard, group)
    weight_map = {name: shard for shard, group in groups.items() for name in group}
    (folder / damage.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return folder


def truth(folder: Path) -> Tensors:
    """Every tensor by its name in an MLX folder, experts as [E, out, in]: in float32 if it was
    scaled, else as it is stored, which packed ones also are."""
    held = {k: v for f in sorted(folder.glob("model*.safetensors")) for k, v in _read(f).items()}
    found: Tensors = {}
    for name, values in held.items():
        scale = held.get(f"{name}_scale")
        if name.endswith("_scale"):
            continue
        if scale is not None:
            values = values * scale.astype(mx.float32).reshape(
                (scale.shape[0], 1, -1) if values.ndim == 3 else (-1, 1)
            )
        prefix = "language_model." if name.startswith(("model.", "lm_head.")) else ""
        found[prefix + name] = values
    found = experts(found)
    apart: defaultdict[str, dict[int, mx.array]] = defaultdict(dict)
    for name in list(found):
        if match := EXPERT.fullmatch(name):
            apart[f"{match[1]}.{match[3]}"][int(match[2])] = found.pop(name)
    for name, each in apart.items():
        found[name] = mx.stack([each[e] for e in range(len(each))])
    return found


def _read(file: Path) -> Tensors:
    arrays = mx.load(str(file))
    return {
        name: mx.array(E4M3[np.array(arrays[name])]) if tensor.dtype == "F8_E4M3" else arrays[name]
        for name, tensor in damage.read(file).items()
    }
