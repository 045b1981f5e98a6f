"""The published Llama 4 models: their repositories, and what their config.json says.

Knows no weights. With these, sizes can be reckoned before anything is downloaded. The configs
are those of the repositories' config.json, with the keys that decide shapes and memory; what
they leave out has the same default here as there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .config import ModelConfig

# The same in both models.
_TEXT: dict[str, Any] = {
    "hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 202048,
    "intermediate_size": 8192, "intermediate_size_mlp": 16384, "attention_chunk_size": 8192,
    "num_experts_per_tok": 1, "attention_bias": False, "rms_norm_eps": 1e-5,
    "model_type": "llama4_text", "hidden_act": "silu",
    "rope_theta": 500000.0,
}  # fmt: skip
_VISION: dict[str, Any] = {
    "hidden_size": 1408, "num_hidden_layers": 34, "num_attention_heads": 16,
    "intermediate_size": 5632, "image_size": 336, "patch_size": 14, "num_channels": 3,
    "norm_eps": 1e-5, "rope_theta": 10000, "pixel_shuffle_ratio": 0.5,
    "projector_input_dim": 4096, "projector_output_dim": 4096, "vision_output_dim": 4096,
}  # fmt: skip
_MAVERICK: dict[str, Any] = {
    "num_local_experts": 128, "interleave_moe_layer_step": 2, "use_qk_norm": False,
    "max_position_embeddings": 1048576, "rope_scaling": None,
}  # fmt: skip
_SCOUT: dict[str, Any] = {
    "num_local_experts": 16, "interleave_moe_layer_step": 1, "use_qk_norm": True,
    "max_position_embeddings": 10485760,
    "rope_scaling": {
        "rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Published:
    """A model as its makers put it on the Hub."""

    name: str
    repo: str  # the BF16 checkpoint
    raw: Mapping[str, Any]  # of config.json

    @property
    def config(self) -> ModelConfig:
        return ModelConfig.from_dict(self.raw, self.repo)


def _published(name: str, repo: str, text: dict[str, Any]) -> Published:
    raw = {
        "model_type": "llama4",
        "image_token_index": 200092,
        "text_config": _TEXT | text,
        "vision_config": _VISION,
    }
    return Published(name, repo, raw)


MODELS = {
    model.name: model
    for model in (
        _published("maverick", "meta-llama/Llama-4-Maverick-17B-128E-Instruct", _MAVERICK),
        _published("scout", "meta-llama/Llama-4-Scout-17B-16E-Instruct", _SCOUT),
    )
}
