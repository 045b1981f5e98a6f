"""The full-size checkpoint's config and headers in each published format, without weights."""

import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from mlx_maverick.checkpoint import DTYPE_BITS, Checkpoint, Tensor

REFERENCE = Path(__file__).parents[1] / "reference/maverick-tensors.json"
SHAPES = {name: tuple(shape) for name, shape in json.loads(REFERENCE.read_text()).items()}

CONFIG: dict[str, Any] = {
    "model_type": "llama4",
    "text_config": {
        "hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 202048,
        "intermediate_size": 8192, "intermediate_size_mlp": 16384, "num_local_experts": 128,
        "interleave_moe_layer_step": 2, "attention_chunk_size": 8192, "use_qk_norm": False,
    },
    "vision_config": {
        "hidden_size": 1408, "num_hidden_layers": 34, "num_attention_heads": 16,
        "intermediate_size": 5632, "image_size": 336, "patch_size": 14,
        "projector_input_dim": 4096, "projector_output_dim": 4096, "vision_output_dim": 4096,
    },
}  # fmt: skip
COMPRESSED = {"quant_method": "compressed-tensors", "format": "float-quantized"}

Named = Iterator[tuple[str, str, tuple[int, ...]]]  # name, dtype, shape


def checkpoint(folder: Path, form: str = "BF16") -> Checkpoint:
    """Headers as if read from `folder`; no file is there. `form`: BF16, compressed, fbgemm."""
    named = {"BF16": _bf16, "compressed": _compressed, "fbgemm": _fbgemm}[form]()
    tensors: dict[str, Tensor] = {}
    offset = 0
    for name, dtype, shape in named:
        size = prod(shape) * DTYPE_BITS[dtype] // 8
        tensors[name] = Tensor(name, dtype, shape, folder / "model.safetensors", offset, size)
        offset += size
    return Checkpoint(folder, tensors)


def config(form: str = "BF16") -> Mapping[str, Any]:
    """The config.json that belongs to it."""
    return CONFIG | ({"quantization_config": COMPRESSED} if form == "compressed" else {})


def _bf16() -> Named:
    for name, shape in SHAPES.items():
        yield name, "BF16", shape


def _compressed() -> Named:
    for name, shape in SHAPES.items():
        if ".experts." not in name:
            yield name, "BF16", shape
            continue
        experts, inputs, outs = shape
        base, _, part = name.rpartition(".")
        both = part == "gate_up_proj"
        for e in range(experts):
            for proj in ("gate_proj", "up_proj") if both else ("down_proj",):
                rows = outs // 2 if both else outs
                yield f"{base}.{e}.{proj}.weight", "F8_E4M3", (rows, inputs)
                yield f"{base}.{e}.{proj}.weight_scale", "BF16", (rows, 1)


def _fbgemm() -> Named:
    for name, shape in SHAPES.items():
        if ".experts." in name:
            experts, _, outs = shape
            yield name, "F8_E4M3", shape
            flat = name.endswith("gate_up_proj")
            yield f"{name}_scale", "F32", (experts, 1, outs) if flat else (experts, outs, 1)
        elif ".shared_expert." in name:
            yield name, "F8_E4M3", shape
            yield f"{name}_scale", "F32", (shape[0], 1)
        else:
            yield name, "BF16", shape
