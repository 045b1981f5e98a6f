"""The KV cache of one conversation: what every layer keeps of the tokens so far.

Knows nothing of tokens or of the network; it counts positions. Two kinds of layers share one
buffer type. A *global* layer writes position p at p. A *chunked* layer writes it at
p - start of its chunk, into a buffer that holds one chunk and starts afresh at the next:
no window is copied, nothing is trimmed, and inside its chunk the layer is plainly causal.
That is why no step may cross a chunk boundary; `spans` cuts the work so that none does.
"""

from collections.abc import Iterator

import mlx.core as mx

from .config import TextConfig
from .memory import KV_STEP


class KVBuffer:
    """Keys and values of one layer, each [B, kv_heads, capacity, head_dim]."""

    def __init__(self, limit: int | None):
        """`limit`: tokens the buffer ever holds (a chunk), None for as many as come."""
        self.limit = limit
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    @property
    def capacity(self) -> int:
        return self.keys.shape[2] if self.keys is not None else 0

    @property
    def nbytes(self) -> int:
        if self.keys is None or self.values is None:
            return 0
        return int(self.keys.nbytes + self.values.nbytes)

    def write(
        self, keys: mx.array, values: mx.array, at: int, reserve: int
    ) -> tuple[mx.array, mx.array]:
        """Put [B, H, L, D] at position `at`; everything up to there, [B, H, at + L, D].

        `reserve` is the length to make room for when the buffer has to grow anyway.
        """
        end = at + keys.shape[2]
        if end > self.capacity:
            wanted = -(-max(end, reserve) // KV_STEP) * KV_STEP
            capacity = min(wanted, self.limit) if self.limit else wanted
            # Both or neither, should an interrupt come between them.
            self.keys, self.values = (
                _grown(self.keys, keys, at, capacity),
                _grown(self.values, values, at, capacity),
            )
        assert self.keys is not None
        assert self.values is not None
        self.keys[:, :, at:end] = keys
        self.values[:, :, at:end] = values
        return self.keys[:, :, :end], self.values[:, :, :end]


def _grown(old: mx.array | None, like: mx.array, kept: int, capacity: int) -> mx.array:
    """A buffer of `capacity` tokens that begins with the first `kept` of `old`."""
    batch, heads, _, dim = like.shape
    if old is None or kept == 0:
        return mx.zeros((batch, heads, capacity, dim), dtype=like.dtype)
    rest = mx.zeros((batch, heads, capacity - kept, dim), dtype=like.dtype)
    return mx.concatenate([old[:, :, :kept], rest], axis=2)


class Cache:
    """All layers' buffers, and where the conversation stands.

    `length` tokens are in; the chunked layers hold `[chunk_start, length)` of them.
    """

    def __init__(self, config: TextConfig):
        self.chunk = config.attention_chunk_size
        self.chunked = config.chunked_layers
        self.layers = [KVBuffer(self.chunk if chunked else None) for chunked in self.chunked]
        self.length = 0
        self.chunk_start = 0
        self.reserved = 0

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(layer.nbytes for layer in self.layers)

    def reserve(self, length: int) -> None:
        """Say that `length` tokens will come, so that buffers grow once instead of often."""
        self.reserved = length

    def spans(self, count: int, step: int | None = None) -> Iterator[tuple[int, int]]:
        """Cut the next `count` tokens into (start, end) pieces of at most `step`, none of
        which crosses a chunk boundary. Start and end count from the first of them."""
        first, at = self.length, 0
        while at < count:
            size = self.chunk - (first + at) % self.chunk
            end = min(count, at + size, at + step if step else count)
            yield at, end
            at = end

    def begin(self, count: int) -> tuple[int, int]:
        """Start a step of `count` tokens: their first position overall, and in the chunk.

        The layers then `update`; `advance` ends the step.
        """
        if self.length - self.chunk_start == self.chunk:
            self.chunk_start = self.length
        offset = self.length - self.chunk_start
        if offset + count > self.chunk:
            raise ValueError(
                f"a step of {count} tokens at {self.length} crosses a chunk boundary "
                f"({self.chunk}); cut it with Cache.spans"
            )
        return self.length, offset

    def update(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Store a step's keys and values [B, H, L, D]; all that the layer may attend to."""
        at = self.length - self.chunk_start if self.chunked[layer] else self.length
        return self.layers[layer].write(keys, values, at, self.reserved)

    def advance(self, count: int) -> None:
        self.length += count

    def rewind(self, length: int) -> int:
        """Forget everything after the first `length` tokens, as far as that is exact.

        Returns where the cache stands now: `length` itself if it lies in the chunk that is
        held (or on a boundary), else the start of its chunk, because the keys of an earlier
        chunk are gone. The tokens from there to `length` have to be prefilled again.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind to {length}: the cache holds {self.length} tokens")
        if length < self.chunk_start:
            length -= length % self.chunk
            self.chunk_start = length
        self.length = length
        return length
