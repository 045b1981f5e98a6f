"""Attention over what a cache holds, plain or quantised.

Knows nothing of positions or layers: every query sees all keys but those of its own step that
come after it.
"""

import mlx.core as mx

from .. import kv
from ..cache import Packed
from ..cache.buffers import Held


def attend(q: mx.array, keys: Held, values: Held, scale: float) -> mx.array:
    """Queries [B, heads, L, D] over keys and values [B, kv_heads, S, D], of which the last L
    are the step's own -> [B, heads, L, D]"""
    if isinstance(keys, mx.array) or isinstance(values, mx.array):
        assert isinstance(keys, mx.array)
        assert isinstance(values, mx.array)
        return _fused(q, keys, values, scale)
    if q.shape[2] == 1:
        return _one(q, keys, values, scale)
    return _many(q, keys, values, scale)


def _fused(q: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
    # "causal" aligns the last query with the last key, so earlier keys are all seen.
    mask = "causal" if q.shape[2] > 1 else None
    return mx.fast.scaled_dot_product_attention(q, keys, values, scale=scale, mask=mask)


def _one(q: mx.array, keys: Packed, values: Packed, scale: float) -> mx.array:
    """One token: decoding reads the cache once, and reads codes."""
    batch, heads, length, dim = q.shape
    group, bits, wide = keys.group_size, keys.bits, mx.float32
    # All queries of a key head together: nothing of the cache is repeated. Scores are float32,
    # as in the fused kernel: rounded to bf16 a score of 10 is off by up to 0.03, and so is its
    # share. That costs a cast of the keys' scales, which are a ninth of them at most.
    rows = (q.astype(wide) * scale).reshape(batch, keys.codes.shape[1], -1, dim)
    scales, biases = keys.scales.astype(wide), keys.biases.astype(wide)
    scores = mx.quantized_matmul(rows, keys.codes, scales, biases, group_size=group, bits=bits)
    shares = mx.softmax(scores, axis=-1).astype(q.dtype)
    v = (values.codes, values.scales, values.biases)
    out = mx.quantized_matmul(shares, *v, transpose=False, group_size=group, bits=bits)
    return out.reshape(batch, heads, length, dim)


def _many(q: mx.array, keys: Packed, values: Packed, scale: float) -> mx.array:
    """A prefill step: dequantised, of a long cache some heads at a time, each lot computed
    before the next is begun, so that the whole is never there."""
    count = keys.codes.shape[1]
    repeats, step = q.shape[1] // count, kv.heads_at_once(count, 2 * keys.head_bytes)
    out = []
    for first in range(0, count, step):
        last = min(count, first + step)
        k, v = keys.heads(first, last).dense(), values.heads(first, last).dense()
        out.append(_fused(q[:, first * repeats : last * repeats], k, v, scale))
        if step < count:
            mx.eval(out[-1])
            del k, v
    return mx.concatenate(out, axis=1) if len(out) > 1 else out[0]
