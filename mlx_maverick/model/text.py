"""The text decoder: chunked rotary layers and global ones without positions, in turn.

Knows nothing of pictures: it takes embeddings. Names mirror the checkpoint
(`language_model.model.layers.N...`). Source: transformers' Llama4ForCausalLM.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence

import mlx.core as mx

from ..cache import Cache
from ..config import TextConfig
from .attend import attend
from .experts import MLP, MoE, Pause, Routed, go_on
from .linear import Embedding, Linear
from .weights import Weights


class RMSNorm:
    """x / rms(x) * weight"""

    def __init__(self, weight: mx.array, eps: float):
        self.weight, self.eps = weight, eps

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, self.weight, self.eps)


class Attention:
    """Grouped-query attention of one layer, causal over what the cache returns."""

    def __init__(self, weights: Weights, config: TextConfig, layer: int):
        self.layer = layer
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.scale = config.head_dim**-0.5
        self.eps = config.rms_norm_eps
        self.rotary = config.rope_layers[layer]
        self.chunked = config.chunked_layers[layer]
        self.qk_norm = config.use_qk_norm and self.rotary
        self.tuning = config.attn_temperature_tuning and not self.rotary
        self.floor_scale, self.attn_scale = config.floor_scale, config.attn_scale
        self.rope = _rope(config)
        q, kv, bias = (
            self.heads * self.head_dim,
            self.kv_heads * self.head_dim,
            config.attention_bias,
        )
        self.qkv = weights.joined(
            {"q_proj": q, "k_proj": kv, "v_proj": kv}, config.hidden_size, bias=bias
        )
        self.o_proj: Linear = weights.linear("o_proj", config.hidden_size, q, bias=bias)

    def __call__(
        self, x: mx.array, cache: Cache, position: int, in_chunk: int, last: bool = False
    ) -> mx.array:
        """[B, L, hidden] at `position` overall, `in_chunk` of its chunk -> [B, L, hidden], or
        [B, 1, hidden] where only the `last` position is asked for."""
        batch, length, _ = x.shape
        # Queries and keys stay one array up to here: one rotation, one norm for both.
        heads = self.qkv.whole(x).reshape(batch, length, -1, self.head_dim).swapaxes(1, 2)
        both, v = heads[:, : -self.kv_heads], heads[:, -self.kv_heads :]
        if self.rotary:
            # Rotary attention depends on distances only, and a chunked layer never looks
            # outside its chunk: counting from the chunk's start gives the same attention,
            # and keeps angles small, where float32 is exact, at a million tokens too.
            both = self.rope(both, in_chunk if self.chunked else position)
        if self.qk_norm:
            both = mx.fast.rms_norm(both, None, self.eps)
        q, k = both[:, : self.heads], both[:, self.heads :]
        if self.tuning and position + length >= self.floor_scale:  # 1 before
            # Rounded once: the factor itself has no exact bf16.
            q = (q * self._temperature(position, length)).astype(q.dtype)
        if last:
            q, length = q[:, :, -1:], 1
        out = attend(q, *cache.update(self.layer, k, v), self.scale)
        return self.o_proj(out.swapaxes(1, 2).reshape(batch, length, -1))

    def _temperature(self, position: int, length: int) -> mx.array:
        """[L, 1]: 1 + attn_scale * log(1 + floor((p + 1) / floor_scale)), float32.

        In whole numbers up to the logarithm, so that no position is rounded.
        """
        if length == 1:
            step = (position + 1) // self.floor_scale
            return mx.array([[1 + self.attn_scale * math.log1p(step)]])
        positions = mx.arange(position + 1, position + length + 1, dtype=mx.int32)
        steps = (positions // self.floor_scale).astype(mx.float32)
        return (1 + self.attn_scale * mx.log1p(steps))[:, None]


def _rope(config: TextConfig) -> Callable[[mx.array, int], mx.array]:
    """Rotary embedding of [B, H, L, head_dim] from an offset on, in interleaved pairs."""
    dims, freqs = config.head_dim, None
    if scaling := config.rope_scaling:
        # llama3: wavelengths above original / low are stretched by `factor`, those below
        # original / high are kept, and between the two it fades over.
        periods = config.rope_theta ** (mx.arange(0, dims, 2, dtype=mx.float32) / dims)
        original = scaling.original_max_position_embeddings
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        wavelengths = 2 * math.pi * periods
        stretched = periods * scaling.factor
        if high != low:
            fade = (original / wavelengths - low) / (high - low)
            between = periods / ((1 - fade) / scaling.factor + fade)
        else:
            between = periods
        freqs = mx.where(wavelengths > original / low, stretched, between)
        freqs = mx.where(wavelengths < original / high, periods, freqs)
        mx.eval(freqs)
    base = None if freqs is not None else config.rope_theta

    def rope(x: mx.array, offset: int) -> mx.array:
        return mx.fast.rope(
            x, dims, traditional=True, base=base, scale=1.0, offset=offset, freqs=freqs
        )

    return rope


class Layer:
    """One decoder layer: attention, then experts or a dense MLP, each with its norm."""

    def __init__(
        self, weights: Weights, config: TextConfig, layer: int, experts: Routed | None = None
    ):
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(weights.array("input_layernorm.weight", hidden), eps)
        self.self_attn = Attention(weights.at("self_attn"), config, layer)
        self.post_attention_layernorm = RMSNorm(
            weights.array("post_attention_layernorm.weight", hidden), eps
        )
        inner = weights.at("feed_forward")
        self.feed_forward: MoE | MLP = (
            MoE(inner, config, experts)
            if config.moe_layers[layer]
            else MLP(inner, hidden, config.intermediate_size_mlp)
        )

    def __call__(
        self,
        xs: Sequence[mx.array],
        cache: Cache,
        places: Sequence[tuple[int, int]],
        last: bool = False,
        pause: Pause = go_on,
    ) -> list[mx.array]:
        """Steps that follow each other, each [B, L, hidden] -> as many, or [B, 1, hidden] if only
        the `last` position of all is asked for."""
        seen = []
        for x, (position, in_chunk) in zip(xs, places, strict=True):
            if len(xs) > 1:
                pause()
                cache.place(position, x.shape[1])
            attended = self.self_attn(self.input_layernorm(x), cache, position, in_chunk, last)
            seen.append((x[:, -1:] if last else x) + attended)
            if len(xs) > 1 and not last:  # one step's activations at a time
                mx.eval(seen[-1])
        if last:
            seen = seen[-1:]
        normed = [self.post_attention_layernorm(x) for x in seen]
        if isinstance(self.feed_forward, MoE):
            out = self.feed_forward.steps(normed, seen, pause)
        else:
            out = [self.feed_forward(x) for x in normed]
        added = [x + y for x, y in zip(seen, out, strict=True)]
        if len(xs) > 1:
            for x in added:
                mx.eval(x)
        return added


class TextModel:
    """Embeddings in, hidden states or logits out."""

    # Called with the positions at which steps begin that are about to be taken.
    begun: Callable[[Sequence[int]], None] | None = None

    def __init__(
        self,
        weights: Weights,
        config: TextConfig,
        progress: Callable[[int, int], None],
        experts: Mapping[int, Routed] | None = None,
    ):
        """`experts`: by layer, those that are not to be read from `weights`."""
        hidden, vocab = config.hidden_size, config.vocab_size
        count = config.num_hidden_layers
        inner = weights.at("model")
        self.embed_tokens: Embedding = inner.embedding("embed_tokens", vocab, hidden)
        self.layers = []
        for i in range(count):
            layer = Layer(inner.at(f"layers.{i}"), config, i, (experts or {}).get(i))
            self.layers.append(layer)
            weights.settle()  # one layer in flight bounds the memory that loading takes
            progress(i + 1, count)
        self.norm = RMSNorm(inner.array("norm.weight", hidden), config.rms_norm_eps)
        self.lm_head: Linear = weights.linear("lm_head", vocab, hidden)
        weights.settle()

    def __call__(self, x: mx.array, cache: Cache, last: bool = False) -> mx.array:
        """One step that crosses no chunk boundary: [B, L, hidden] -> [B, L, hidden].

        With `last` the states of the last position alone, [B, 1, hidden]: the cache is the
        same, and the last layer computes its queries and its MLP for one token instead of L.
        """
        (x,) = deque(self.through([x], cache, last), maxlen=1)[0]
        return x

    def through(
        self, xs: Sequence[mx.array], cache: Cache, last: bool = False, pause: Pause = go_on
    ) -> Generator[list[mx.array]]:
        """Several steps that follow each other, which `Cache.passes` gives, layer by layer: what
        each layer makes of them. With `last`, the last one gives the last position alone.

        `pause` is called now and then. If it raises, or the generator is closed before its end,
        no step was taken, and the cache says from where to go on.
        """
        counts = [x.shape[1] for x in xs]
        places = cache.begin_all(counts)
        if self.begun is not None:
            self.begun([position for position, _ in places])
        try:
            for layer in self.layers:
                xs = layer(xs, cache, places, last and layer is self.layers[-1], pause)
                yield xs
        except BaseException:  # also where the generator is closed
            cache.abandon(counts)
            raise
        cache.advance(sum(counts))

    def logits(self, x: mx.array) -> mx.array:
        """Hidden states [..., hidden] -> [..., vocabulary]"""
        return self.lm_head(self.norm(x))
