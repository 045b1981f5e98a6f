"""The full-size checkpoint's config and shapes, without its weights."""

import json
from pathlib import Path
from typing import Any

from mlx_maverick.checkpoint import Checkpoint, Tensor

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


def checkpoint(folder: Path) -> Checkpoint:
    """Headers as if read from `folder`; no file is there."""
    tensors, offset = {}, 0
    for name, shape in SHAPES.items():
        size = 2
        for n in shape:
            size *= n
        tensors[name] = Tensor(name, "BF16", shape, folder / "model.safetensors", offset, size)
        offset += size
    return Checkpoint(folder, tensors)
