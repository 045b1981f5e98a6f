"""The vision tower: tiles in, one feature for each patch token out.

Knows nothing of text. Names mirror the checkpoint (`vision_model...`,
`multi_modal_projector...`). Source: transformers' Llama4VisionModel.
"""

import mlx.core as mx
import mlx.nn as nn

from ..config import VisionConfig
from .linear import Linear
from .weights import Weights


class LayerNorm:
    """(x - mean) / deviation * weight + bias"""

    def __init__(self, weights: Weights, name: str, dims: int, eps: float):
        self.weight = weights.array(f"{name}.weight", dims)
        self.bias = weights.array(f"{name}.bias", dims)
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.layer_norm(x, self.weight, self.bias, self.eps)


class VisionAttention:
    """Full attention over the patches of one tile, with 2-D rotary positions."""

    def __init__(self, weights: Weights, config: VisionConfig):
        width = config.hidden_size
        self.heads, self.head_dim = config.num_attention_heads, width // config.num_attention_heads
        self.qkv = weights.joined(
            {"q_proj": width, "k_proj": width, "v_proj": width}, width, bias=True
        )
        self.o_proj: Linear = weights.linear("o_proj", width, width, bias=True)

    def __call__(self, x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
        """[N, S, hidden], angles [S, head_dim / 2] -> [N, S, hidden]"""
        tiles, length, _ = x.shape
        q, k, v = (
            part.reshape(tiles, length, self.heads, self.head_dim).swapaxes(1, 2)
            for part in self.qkv(x)
        )
        out = mx.fast.scaled_dot_product_attention(
            _rotate(q, cos, sin), _rotate(k, cos, sin), v, scale=self.head_dim**-0.5
        )
        return self.o_proj(out.swapaxes(1, 2).reshape(tiles, length, -1))


def _rotate(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Rotate the interleaved pairs of [N, H, S, D] by angles [S, D / 2], in float32."""
    pairs = x.astype(mx.float32).reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    turned = mx.stack([a * cos - b * sin, a * sin + b * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def rotary_angles(config: VisionConfig) -> mx.array:
    """[patches + 1, head_dim / 2], float32: the first half of the pairs turns with the
    column, the second with the row, counted from 1; the class token, last, does not turn."""
    side = config.patches_per_side
    half = config.hidden_size // config.num_attention_heads // 2
    freqs = config.rope_theta ** -(mx.arange(0, half, 2, dtype=mx.float32) / half)
    steps = mx.arange(side * side)
    columns = ((steps % side + 1)[:, None] * freqs).astype(mx.float32)
    rows = ((steps // side + 1)[:, None] * freqs).astype(mx.float32)
    angles = mx.concatenate([columns, rows], axis=-1)
    return mx.concatenate([angles, mx.zeros((1, half))], axis=0)


class VisionLayer:
    """One encoder layer."""

    def __init__(self, weights: Weights, config: VisionConfig):
        width, inner, eps = config.hidden_size, config.intermediate_size, config.norm_eps
        self.input_layernorm = LayerNorm(weights, "input_layernorm", width, eps)
        self.self_attn = VisionAttention(weights.at("self_attn"), config)
        self.post_attention_layernorm = LayerNorm(weights, "post_attention_layernorm", width, eps)
        self.fc1: Linear = weights.linear("mlp.fc1", inner, width, bias=True)
        self.fc2: Linear = weights.linear("mlp.fc2", width, inner, bias=True)

    def __call__(self, x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        # nn.gelu is the exact one (erf); the tanh approximation is off by 2 % at the end.
        return x + self.fc2(nn.gelu(self.fc1(self.post_attention_layernorm(x))))


class VisionModel:
    """Tower, pixel shuffle and adapter: pixels to features of width `vision_output_dim`."""

    def __init__(self, weights: Weights, config: VisionConfig):
        self.config = config
        width, eps = config.hidden_size, config.norm_eps
        patch = config.num_channels * config.patch_size**2
        patches = config.patches_per_side**2
        self.patch_embedding: Linear = weights.linear("patch_embedding.linear", width, patch)
        self.class_embedding = weights.array("class_embedding", width)
        self.positional_embedding = weights.array("positional_embedding_vlm", patches + 1, width)
        self.layernorm_pre = LayerNorm(weights, "layernorm_pre", width, eps)
        self.layernorm_post = LayerNorm(weights, "layernorm_post", width, eps)
        self.layers = [
            VisionLayer(weights.at(f"model.layers.{i}"), config)
            for i in range(config.num_hidden_layers)
        ]
        adapter = weights.at("vision_adapter.mlp")
        shuffled = int(width / config.pixel_shuffle_ratio**2)
        self.fc1: Linear = adapter.linear("fc1", config.projector_input_dim, shuffled)
        self.fc2: Linear = adapter.linear(
            "fc2", config.projector_output_dim, config.projector_input_dim
        )
        angles = rotary_angles(config)
        self.cos, self.sin = mx.cos(angles), mx.sin(angles)
        weights.settle(self.cos, self.sin)

    def __call__(self, pixels: mx.array) -> mx.array:
        """Tiles [N, 3, T, T] -> [N, tokens_per_tile, vision_output_dim]"""
        x = self.patch_embedding(unfold(pixels, self.config.patch_size))
        tiles, _, width = x.shape
        cls = mx.broadcast_to(self.class_embedding, (tiles, 1, width))
        x = mx.concatenate([x, cls], axis=1) + self.positional_embedding
        x = self.layernorm_pre(x)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        x = self.layernorm_post(x)[:, :-1]
        x = pixel_shuffle(x, self.config.pixel_shuffle_ratio)
        features: mx.array = nn.gelu(self.fc2(nn.gelu(self.fc1(x))))
        return features


def unfold(pixels: mx.array, patch: int) -> mx.array:
    """[N, C, T, T] -> [N, patches row by row, C * patch * patch]"""
    tiles, channels, height, width = pixels.shape
    x = pixels.reshape(tiles, channels, height // patch, patch, width // patch, patch)
    return x.transpose(0, 2, 4, 1, 3, 5).reshape(tiles, -1, channels * patch * patch)


def pixel_shuffle(x: mx.array, ratio: float) -> mx.array:
    """[N, side * side, C] -> [N, side * side * ratio^2, C / ratio^2]: fewer, wider patches."""
    tiles, patches, channels = x.shape
    side = int(patches**0.5)
    x = x.reshape(tiles, side, int(side * ratio), int(channels / ratio)).swapaxes(1, 2)
    x = x.reshape(tiles, int(side * ratio), int(side * ratio), int(channels / ratio**2))
    return x.swapaxes(1, 2).reshape(tiles, -1, int(channels / ratio**2))
