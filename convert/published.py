"""The published checkpoint: every tensor's name and shape, as its config implies them.

Knows nothing of files, values or recipes. Source of names and shapes:
meta-llama/Llama-4-Maverick-17B-128E-Instruct (BF16), tests/reference/maverick-tensors.json.
"""

from collections.abc import Iterator

from mlx_maverick.config import ModelConfig, TextConfig, VisionConfig

Shape = tuple[int, ...]
Named = Iterator[tuple[str, Shape]]

# Fused over all experts, and stored [E, in, out] without `.weight`, unlike everything else.
GATE_UP = ".experts.gate_up_proj"  # [E, in, 2F]: gate first, then up
DOWN = ".experts.down_proj"  # [E, F, out]

# `quant_method` of the FP8 checkpoints: Meta's own, and what transformers' fbgemm writes.
READ_METHODS = ("compressed-tensors", "fbgemm_fp8")


def shapes(config: ModelConfig) -> dict[str, Shape]:
    """Every tensor of the checkpoint this config describes, in the order of computation."""
    named = dict(_text(config.text))
    if config.vision:
        named |= _vision(config.vision)
        outputs = config.vision.vision_output_dim
        named["multi_modal_projector.linear_1.weight"] = (config.text.hidden_size, outputs)
    return named


def _text(c: TextConfig) -> Named:
    yield "language_model.model.embed_tokens.weight", (c.vocab_size, c.hidden_size)
    for i, moe in enumerate(c.moe_layers):
        layer = f"language_model.model.layers.{i}"
        yield f"{layer}.input_layernorm.weight", (c.hidden_size,)
        yield from _attention(f"{layer}.self_attn", c)
        yield f"{layer}.post_attention_layernorm.weight", (c.hidden_size,)
        if not moe:
            yield from _mlp(f"{layer}.feed_forward", c.hidden_size, c.intermediate_size_mlp)
            continue
        experts, hidden, inner = c.num_local_experts, c.hidden_size, c.intermediate_size
        yield f"{layer}.feed_forward.router.weight", (experts, hidden)
        yield from _mlp(f"{layer}.feed_forward.shared_expert", hidden, inner)
        yield f"{layer}.feed_forward{GATE_UP}", (experts, hidden, 2 * inner)
        yield f"{layer}.feed_forward{DOWN}", (experts, inner, hidden)
    yield "language_model.model.norm.weight", (c.hidden_size,)
    yield "language_model.lm_head.weight", (c.vocab_size, c.hidden_size)


def _attention(path: str, c: TextConfig) -> Named:
    queries, keys = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    rows = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "o_proj": c.hidden_size}
    for name, out in rows.items():
        yield f"{path}.{name}.weight", (out, queries if name == "o_proj" else c.hidden_size)
        if c.attention_bias:
            yield f"{path}.{name}.bias", (out,)


def _mlp(path: str, hidden: int, inner: int) -> Named:
    yield f"{path}.gate_proj.weight", (inner, hidden)
    yield f"{path}.up_proj.weight", (inner, hidden)
    yield f"{path}.down_proj.weight", (hidden, inner)


def _vision(c: VisionConfig) -> Named:
    hidden, inner = c.hidden_size, c.intermediate_size
    yield "vision_model.class_embedding", (hidden,)
    yield "vision_model.positional_embedding_vlm", (c.patches_per_side**2 + 1, hidden)
    pixels = c.num_channels * c.patch_size**2
    yield "vision_model.patch_embedding.linear.weight", (hidden, pixels)
    yield from _norm("vision_model.layernorm_pre", hidden)
    for i in range(c.num_hidden_layers):
        layer = f"vision_model.model.layers.{i}"
        yield from _norm(f"{layer}.input_layernorm", hidden)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield from _linear(f"{layer}.self_attn.{name}", hidden, hidden)
        yield from _norm(f"{layer}.post_attention_layernorm", hidden)
        yield from _linear(f"{layer}.mlp.fc1", inner, hidden)
        yield from _linear(f"{layer}.mlp.fc2", hidden, inner)
    yield from _norm("vision_model.layernorm_post", hidden)
    # After the pixel shuffle a patch is as wide as the MLP, hence the input of fc1.
    yield "vision_model.vision_adapter.mlp.fc1.weight", (c.projector_input_dim, inner)
    outputs = c.projector_output_dim
    yield "vision_model.vision_adapter.mlp.fc2.weight", (outputs, outputs)


def _linear(path: str, out: int, inputs: int) -> Named:
    yield f"{path}.weight", (out, inputs)
    yield f"{path}.bias", (out,)


def _norm(path: str, size: int) -> Named:
    yield f"{path}.weight", (size,)
    yield f"{path}.bias", (size,)
