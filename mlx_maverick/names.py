"""Tensor names of a Llama 4 checkpoint, and the class of weights each belongs to.

Knows nothing of files or values. Source of the names: the published
meta-llama/Llama-4-Maverick-17B-128E-Instruct and the MLX folders made from it.
"""

import re
from enum import StrEnum


class TensorClass(StrEnum):
    """Weights that share a role, and therefore a precision."""

    EXPERTS = "routed experts"
    SHARED = "shared experts"
    DENSE = "dense MLP"
    ATTENTION = "attention"
    EMBED = "embedding"
    LM_HEAD = "lm_head"
    ROUTER = "router"
    NORM = "norms"
    VISION = "vision"
    PROJECTOR = "projector"


_LAYER = r"language_model\.model\.layers\.\d+\."
_CLASSES = [
    (TensorClass.EXPERTS, re.compile(_LAYER + r"feed_forward\.experts\.")),
    (TensorClass.SHARED, re.compile(_LAYER + r"feed_forward\.shared_expert\.")),
    (TensorClass.ROUTER, re.compile(_LAYER + r"feed_forward\.router\.")),
    (TensorClass.DENSE, re.compile(_LAYER + r"feed_forward\.(gate|up|down)_proj\.")),
    (TensorClass.ATTENTION, re.compile(_LAYER + r"self_attn\.[qkvo]_proj\.")),
    (TensorClass.NORM, re.compile(_LAYER + r"(input|post_attention)_layernorm\.")),
    (TensorClass.NORM, re.compile(r"language_model\.model\.norm\.")),
    (TensorClass.EMBED, re.compile(r"language_model\.model\.embed_tokens\.")),
    (TensorClass.LM_HEAD, re.compile(r"language_model\.lm_head\.")),
    (TensorClass.VISION, re.compile(r"vision_model\.")),
    (TensorClass.PROJECTOR, re.compile(r"multi_modal_projector\.")),
]


def tensor_class(name: str) -> TensorClass | None:
    """The class of the tensor with this canonical name; None if Llama 4 has no such tensor."""
    for cls, pattern in _CLASSES:
        if pattern.match(name):
            return cls
    return None


def canonical(name: str) -> str:
    """The name of a tensor or module as in the published checkpoint; text-only ones leave
    `language_model.` out."""
    if name.startswith(("model.", "lm_head.")) or name == "lm_head":
        return "language_model." + name
    return name
