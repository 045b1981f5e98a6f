"""The demo model in torch: transformers' Llama 4, made fit for training on a CPU.

Knows nothing of data or optimisers. Weights keep their published names; only the routed
expert of a token is computed, where transformers computes all of them.
"""

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import Llama4Config, Llama4ForConditionalGeneration
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .batches import Batch
from .folder import config


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the model makes of a batch."""

    loss: Any  # scalar: mean over the answers' tokens
    balance: Any  # scalar, 1 if all experts are used alike, mean over the layers
    right: list[bool]  # of each answer: greedy decoding gives all its tokens


def build(seed: int) -> Any:
    """A model with fresh weights."""
    torch.manual_seed(seed)
    ALL_ATTENTION_FUNCTIONS.register("by chunks", _attend)
    settings = Llama4Config(**config())
    settings._attn_implementation = "sdpa"
    model = Llama4ForConditionalGeneration(settings)
    _start(model)
    model.language_model.config._attn_implementation = "by chunks"
    for layer in model.language_model.model.layers:
        if layer.is_moe_layer:
            layer.feed_forward.forward = functools.partial(_routed, layer.feed_forward)
    return model.train()


def _start(model: Any) -> None:
    """Fresh weights that suit so narrow a model better than 0.02 everywhere."""
    depth = (2 * len(model.language_model.model.layers)) ** -0.5
    into_residual = ("o_proj.weight", "down_proj.weight", "down_proj", "mlp.fc2.weight")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim < 2 or any(word in name for word in ("router", "lm_head", "positional")):
                continue
            inputs = weight.shape[-2 if "experts." in name else -1]
            if "embed_tokens" in name:
                weight.normal_(0, 0.5)
            elif name.endswith(into_residual) and "vision_adapter" not in name:
                weight.normal_(0, inputs**-0.5 * depth)
            else:
                weight.normal_(0, inputs**-0.5)


def _routed(moe: Any, hidden: Any) -> tuple[Any, Any]:
    """`Llama4TextMoe.forward` that computes one expert for each token. [..., D] -> [N, D].
    Keeps its router's logits in `moe.logits`."""
    flat = hidden.reshape(-1, moe.hidden_dim)
    logits = F.linear(flat, moe.router.weight)
    moe.logits = logits
    top, chosen = logits.max(dim=-1)
    order = torch.argsort(chosen, stable=True)
    counts = torch.bincount(chosen, minlength=moe.num_experts).tolist()
    # The score multiplies what goes into the expert.
    routed = (flat * torch.sigmoid(top)[:, None])[order]
    parts = []
    for expert, part in enumerate(routed.split(counts)):
        gate, up = (part @ moe.experts.gate_up_proj[expert]).chunk(2, dim=-1)
        parts.append((F.silu(gate) * up) @ moe.experts.down_proj[expert])
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    return moe.shared_expert(flat) + torch.cat(parts)[back], logits


def _attend(
    layer: Any, queries: Any, keys: Any, values: Any, mask: None, scaling: float, **_: Any
) -> tuple[Any, None]:
    """Causal attention without masks: chunks are rows of a batch. [B, H, L, D] -> [B, L, H, D]."""
    length = queries.shape[2]
    chunk = layer.config.attention_chunk_size
    chunked = layer.use_rope and length > chunk
    if chunked:
        queries, keys, values = (_chunks(x, chunk) for x in (queries, keys, values))
    out = F.scaled_dot_product_attention(
        queries, keys, values, is_causal=True, scale=scaling, enable_gqa=True
    ).transpose(1, 2)
    if chunked:
        out = out.reshape(-1, -(-length // chunk) * chunk, *out.shape[2:])[:, :length]
    return out, None


def _chunks(x: Any, chunk: int) -> Any:
    """[B, H, L, D] -> [B * chunks, H, chunk, D], padded at the end of the last one."""
    batch, heads, length, size = x.shape
    x = F.pad(x, (0, 0, 0, -length % chunk))
    return x.reshape(batch, heads, -1, chunk, size).transpose(1, 2).reshape(-1, heads, chunk, size)


def see(model: Any, tiles: Any) -> Any:
    """What the language model is given of tiles. [N, 3, T, T], uint8 -> [N * positions, D]."""
    features = model.vision_model(tiles.float() / 127.5 - 1).last_hidden_state
    return model.multi_modal_projector(features.reshape(-1, features.shape[-1]))


def run(model: Any, batch: Batch) -> Outcome:
    """One forward pass."""
    ids = torch.from_numpy(batch.ids)
    embedded = model.language_model.model.embed_tokens(ids)
    if len(batch.tiles):
        patches = (ids == model.config.image_token_id)[..., None]
        embedded = embedded.masked_scatter(patches, see(model, torch.from_numpy(batch.tiles)))
    # Padding is on the right, where nothing that counts can see it: no mask of it is needed.
    masks = {"full_attention": None, "chunked_attention": None}
    hidden = model.language_model.model(
        inputs_embeds=embedded, attention_mask=masks, use_cache=False
    ).last_hidden_state
    # The token before each of an answer's predicts it.
    rows = [row for row, first, last in batch.answers for _ in range(first, last)]
    places = [at - 1 for _, first, last in batch.answers for at in range(first, last)]
    logits = model.language_model.lm_head(hidden[rows, places])
    targets = ids[rows, [at + 1 for at in places]]
    hits = logits.argmax(-1).eq(targets)
    lengths = [int(last - first) for _, first, last in batch.answers]
    return Outcome(
        F.cross_entropy(logits, targets),
        _balance(model, batch),
        [bool(part.all()) for part in hits.split(lengths)],
    )


def _balance(model: Any, batch: Batch) -> Any:
    """Share of tokens times mean probability of each expert, summed: the load-balancing term
    of the Switch Transformer (Fedus et al., 2021). Padding does not count."""
    lengths = torch.from_numpy(batch.lengths)
    counted = (torch.arange(batch.ids.shape[1])[None] < lengths[:, None]).reshape(-1)
    terms = []
    for layer in model.language_model.model.layers:
        if layer.is_moe_layer:
            logits = layer.feed_forward.logits[counted]
            experts = logits.shape[-1]
            share = torch.bincount(logits.argmax(-1), minlength=experts) / len(logits)
            terms.append(experts * (share * logits.softmax(-1).mean(0)).sum())
    return torch.stack(terms).mean()


def usage(model: Any) -> list[list[float]]:
    """The share of each expert in each MoE layer, of the last batch with its padding."""
    moes = [x.feed_forward for x in model.language_model.model.layers if x.is_moe_layer]
    chosen = [torch.bincount(m.logits.argmax(-1), minlength=m.num_experts) for m in moes]
    return [(c / c.sum()).tolist() for c in chosen]


def save(model: Any, folder: Path) -> None:
    """Its weights as `model.safetensors`, bf16. Not `model.to(bfloat16)`, which would also
    cast the vision tower's complex rotary table."""
    tensors = {
        name: value.detach().to(torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
    }
    partial = folder / "model.safetensors.partial"
    save_file(tensors, partial, {"format": "pt"})
    os.replace(partial, folder / "model.safetensors")
