"""What a cache with options means, written down without one: a full pass with explicit masks.

Knows nothing of slots, steps or buffers. Every query of every layer is computed at once from
the definition of what it sees.
"""

import mlx.core as mx
import numpy as np

from mlx_maverick.config import TextConfig
from mlx_maverick.kv import KVOptions
from mlx_maverick.model import Llama4


def visible(length: int, chunk: int | None, options: KVOptions) -> np.ndarray:
    """[query, key]: whether a key is seen, in a layer with chunks or (None) without."""
    query, key = np.arange(length)[:, None], np.arange(length)[None]
    seen = key <= query
    if chunk:
        return seen & (key // chunk == query // chunk)
    if not options.max_size:
        return seen
    # As the documentation has it: the size is the first tokens, and blocks of an eighth.
    size = options.max_size
    block = min(2048, max(1, (size - 4) // 8))
    blocks = (size - 4) // block
    first = size - blocks * block
    begun = size + (query - size) // block * block  # where the latest block of a query begins
    latest = key >= begun - (blocks - 1) * block
    return seen & ((query < size) | (key < first) | latest)


def rounded(values: mx.array, bits: int) -> mx.array:
    """Values after they were quantised."""
    group = 64 if values.shape[-1] % 64 == 0 else 32
    return mx.dequantize(
        *mx.quantize(values, group_size=group, bits=bits), group_size=group, bits=bits
    )


def full_pass(model: Llama4, ids: mx.array, options: KVOptions) -> mx.array:
    """[1, L] -> logits [L, V]"""
    text = model.config.text
    x = model.embed(ids)
    for i, layer in enumerate(model.text.layers):
        x = x + _attention(layer.self_attn, layer.input_layernorm(x), text, i, options)
        x = x + layer.feed_forward(layer.post_attention_layernorm(x))
    return model.text.logits(x)[0]


def _attention(own, x: mx.array, text: TextConfig, layer: int, options: KVOptions) -> mx.array:  # type: ignore[no-untyped-def]
    length, dim = x.shape[1], text.head_dim
    q, k, v = (
        part.reshape(1, length, -1, dim).swapaxes(1, 2) for part in own.qkv(x)
    )  # [1, heads, L, dim]
    chunk = text.attention_chunk_size if text.chunked_layers[layer] else None
    if text.rope_layers[layer]:
        step = chunk or length
        q, k = (
            mx.concatenate([own.rope(p[:, :, s : s + step], 0) for s in range(0, length, step)], 2)
            for p in (q, k)
        )
        if text.use_qk_norm:
            q, k = (mx.fast.rms_norm(p, None, text.rms_norm_eps) for p in (q, k))
    elif text.attn_temperature_tuning:
        steps = np.floor((np.arange(length) + 1) / text.floor_scale)
        q = q * mx.array((1 + text.attn_scale * np.log(1 + steps)).astype(np.float32))[:, None]
    out = attention(q, k, v, chunk, options)
    return own.o_proj(out.swapaxes(1, 2).reshape(1, length, -1))


def attention(
    q: mx.array, k: mx.array, v: mx.array, chunk: int | None, options: KVOptions
) -> mx.array:
    """All positions of one layer: [1, heads, L, dim] over [1, kv_heads, L, dim]"""
    mask = mx.array(visible(q.shape[2], chunk, options))

    def attended(k: mx.array, v: mx.array) -> mx.array:
        k, v = (mx.repeat(part, q.shape[1] // k.shape[1], axis=1) for part in (k, v))
        scores = mx.where(mask, (q @ k.swapaxes(-1, -2)) * q.shape[-1] ** -0.5, -mx.inf)
        return mx.softmax(scores, axis=-1) @ v

    out = attended(k, v)
    if options.bits is None:
        return out
    late = mx.arange(q.shape[2])[:, None] >= options.start
    return mx.where(late, attended(rounded(k, options.bits), rounded(v, options.bits)), out)
