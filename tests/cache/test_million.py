"""A million positions, at small width: what is computed there matches a full pass.

The full pass is numpy, from the formulas, without any cache. Three chunked layers are cheap for
all positions; the global one comes last, so that only its keys and values are needed of all.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_maverick import kv, synthetic
from mlx_maverick.cache import Cache
from mlx_maverick.kv import DENSE, KVOptions, allocated_bytes
from mlx_maverick.model import Llama4, load_model
from mlx_maverick.model.attend import attend

from .reference import rounded

MILLION = 2**20
PREFILLED, LENGTH = MILLION + 8, MILLION + 16  # the last ones are decoded
CHUNK, DIM, HEADS = 32, 32, 2
BATCH = 2**14  # positions that the reference computes at once

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Far:
    """A network, a million tokens, and what goes into its last layer."""

    model: Llama4
    ids: NDArray[np.int32]
    hidden: Array  # [LENGTH, hidden]: of the last layer, which is global
    keys: Array  # [LENGTH, DIM]
    values: Array


def weights(linear: object) -> Array:
    return np.array(linear.matrix.weight.T)  # type: ignore[attr-defined]


def norm(x: Array, weight: mx.array) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * np.array(weight)


def softmax(scores: Array) -> Array:
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def rotated(x: Array) -> Array:
    """Of whole chunks [N, heads, CHUNK, DIM]: pairs of neighbours turn by position."""
    angles = np.arange(CHUNK)[:, None] * 500000.0 ** (-np.arange(0, DIM, 2) / DIM)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    even, odd = x[..., 0::2], x[..., 1::2]
    return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)


class Layer:
    """A decoder layer as matrices."""

    def __init__(self, model: Llama4, number: int):
        layer = model.text.layers[number]
        self.qkv = np.concatenate([weights(p) for p in layer.self_attn.qkv.parts], 1)
        self.o = weights(layer.self_attn.o_proj)
        self.before, self.after = layer.input_layernorm, layer.post_attention_layernorm
        mlp = layer.feed_forward
        self.up = np.concatenate([weights(p) for p in mlp.gate_up.parts], 1)
        self.down = weights(mlp.down_proj)

    def projected(self, x: Array) -> tuple[Array, Array, Array]:
        """[L, hidden] -> q [L, HEADS, DIM], k and v [L, DIM]"""
        made = norm(x, self.before.weight) @ self.qkv
        q, k, v = np.split(made, [HEADS * DIM, (HEADS + 1) * DIM], axis=1)
        return q.reshape(-1, HEADS, DIM), k, v

    def finished(self, x: Array, attended: Array) -> Array:
        x = x + attended.reshape(len(x), -1) @ self.o
        gate, up = np.split(norm(x, self.after.weight) @ self.up, 2, axis=1)
        return x + (gate / (1 + np.exp(-gate)) * up) @ self.down

    def chunked(self, x: Array) -> Array:
        """Of whole chunks, [L, hidden] -> [L, hidden]"""
        q, k, v = (
            p.reshape(-1, CHUNK, p.size // len(x) // DIM, DIM).swapaxes(1, 2)
            for p in self.projected(x)
        )
        scores = rotated(q) @ rotated(k).swapaxes(-1, -2) * DIM**-0.5
        scores += np.triu(np.full((CHUNK, CHUNK), -np.inf, np.float32), 1)
        return self.finished(x, (softmax(scores) @ v).swapaxes(1, 2))


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Far:
    folder: Path = tmp_path_factory.mktemp("far")
    synthetic.write(
        folder, layers=4, experts=2, hidden_size=32, head_dim=DIM, num_attention_heads=HEADS,
        num_key_value_heads=1, intermediate_size=32, intermediate_size_mlp=32, moe_layers=[],
        attention_chunk_size=CHUNK, max_position_embeddings=2**21,
    )  # fmt: skip
    # Of the size that trained weights have at this width: attention is far from uniform then.
    tensors = {n: a.astype(mx.float32) for n, a in mx.load(f"{folder}/model.safetensors").items()}
    tensors = {n: a * (12 if "_proj" in n else 1) for n, a in tensors.items()}
    tensors = {n: mx.ones_like(a) if "norm" in n else a for n, a in tensors.items()}
    mx.save_safetensors(f"{folder}/model.safetensors", tensors)
    model = load_model(folder, mx.float32)
    assert model.config.text.chunked_layers == (True, True, True, False)
    ids = np.random.default_rng(0).integers(0, 2000, LENGTH, dtype=np.int32)
    embeddings = np.array(model.text.embed_tokens(mx.arange(2048)))
    layers = [Layer(model, i) for i in range(4)]
    hidden = np.zeros((LENGTH, 32), np.float32)
    keys, values = np.zeros((2, LENGTH, DIM), np.float32)
    for start in range(0, LENGTH, BATCH):
        count = min(BATCH, LENGTH - start)
        padded = np.zeros(-(-count // CHUNK) * CHUNK, np.int32)
        padded[:count] = ids[start : start + count]
        x = embeddings[padded]
        for layer in layers[:3]:
            x = layer.chunked(x)
        at = slice(start, start + count)
        hidden[at] = x[:count]
        _, keys[at], values[at] = layers[3].projected(x[:count])
    return Far(model, ids, hidden, keys, values)


def reference(far: Far, position: int, seen: NDArray[np.int64] | None = None) -> Array:
    """Logits [V] of one position, of which the last layer sees the positions `seen`, or all."""
    layer, x = Layer(far.model, 3), far.hidden[position : position + 1]
    q, _, _ = layer.projected(x)
    tuning = 1 + 0.1 * np.log1p(np.floor((position + 1) / 8192))
    which = slice(position + 1) if seen is None else seen
    scores = (far.keys[which] @ (q[0].T * np.float32(tuning * DIM**-0.5))).T
    x = layer.finished(x, (softmax(scores) @ far.values[which])[None])
    made: Array = norm(x, far.model.text.norm.weight)[0] @ weights(far.model.text.lm_head)
    return made


def given(far: Far, options: KVOptions, length: int) -> Cache:
    """A cache that was given the keys and values of the first `length` positions. The chunked
    layers get zeros, which no later chunk sees."""
    cache = far.model.make_cache(options, most=2**21)
    cache.reserve(LENGTH)
    keys, values = (mx.array(part)[None, None] for part in (far.keys, far.values))
    blank = mx.zeros((1, 1, CHUNK, DIM))
    for start, end in cache.spans(length):
        cache.begin(end - start)
        for layer in range(3):
            cache.update(layer, blank[:, :, : end - start], blank[:, :, : end - start])
        cache.update(3, keys[:, :, start:end], values[:, :, start:end])
        cache.advance(end - start)
        mx.eval([buffer.parts for buffer in cache.layers])
    return cache


def logits(far: Far, cache: Cache) -> Iterator[tuple[int, Array]]:
    """What the network computes from where the cache stands: one prefill, then token by token."""
    ids, first = mx.array(far.ids)[None], cache.length
    prefilled = np.array(far.model(ids[:, first:PREFILLED], cache=cache))[0]
    yield from enumerate(prefilled, first)
    for position in range(PREFILLED, LENGTH):
        one = far.model(ids[:, position : position + 1], cache=cache)
        yield position, np.array(one)[0, 0]


def test_positions_across_two_to_the_twentieth(far: Far) -> None:
    mx.reset_peak_memory()
    cache = given(far, DENSE, MILLION - CHUNK)
    found = dict(logits(far, cache))
    assert cache.length == LENGTH
    assert cache.nbytes == allocated_bytes(far.model.config.text, LENGTH, 4, DENSE, 2**21)
    every = [MILLION - CHUNK, *range(MILLION - 2, MILLION + 2), *range(PREFILLED - 1, LENGTH, 4)]
    for position in every:
        assert np.abs(found[position] - reference(far, position)).max() < 1e-3
    # A wrong position, or a lost token, is far more than that.
    shorter = reference(far, LENGTH - 1, np.arange(LENGTH - CHUNK, LENGTH))
    assert np.abs(found[LENGTH - 1] - shorter).max() > 1e-2
    assert mx.get_peak_memory() < 2e9


def test_a_million_positions_in_a_thousand_slots(far: Far) -> None:
    """Every position goes through the cache, which turns more than eight thousand times."""
    size, block = 1000, 124
    first = 1000 - 8 * block
    cache = given(far, KVOptions(max_size=size), MILLION - CHUNK)
    found = dict(logits(far, cache))
    assert cache.layers[3].capacity == size
    for position in [*range(MILLION - 3, MILLION + 3), *range(PREFILLED - 1, LENGTH)]:
        begun = size + (position - size) // block * block
        seen = np.r_[0:first, begun - 7 * block : position + 1]
        assert np.abs(found[position] - reference(far, position, seen)).max() < 1e-4


def test_a_million_positions_of_four_bits(far: Far) -> None:
    """Quantised half-way. One query, as layers before it would be quantised as well."""
    config, options = far.model.config.text, KVOptions(4, start=MILLION // 2)
    cache = given(far, options, MILLION)
    q = mx.random.normal((1, HEADS, 1, DIM), key=mx.random.key(1))
    at = slice(MILLION, MILLION + 1)
    cache.begin(1)
    last = (mx.array(part[at])[None, None] for part in (far.keys, far.values))
    out = np.array(attend(q, *cache.update(3, *last), DIM**-0.5))[0, :, 0]
    keys, values = (
        np.array(rounded(mx.array(part[: MILLION + 1]), 4)) for part in (far.keys, far.values)
    )
    wanted = softmax(np.array(q)[0, :, 0] @ keys.T * np.float32(DIM**-0.5)) @ values
    assert np.abs(out - wanted).max() < 1e-3
    assert np.abs(out - values.mean(0)).max() > 1e-2
    assert cache.layers[3].nbytes == kv.row_bytes(config, 4, 4) * kv.capacity(LENGTH)
    assert cache.layers[3].nbytes * 5 < kv.row_bytes(config, 4, None) * kv.capacity(LENGTH)
