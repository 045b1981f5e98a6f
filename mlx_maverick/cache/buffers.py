"""What one layer keeps: rows of keys and values, as they are or quantised.

Knows slots, not positions: who writes where is the cache's business. All arrays have their
tokens on the third axis, and are written in place.
"""

import copy
from collections.abc import Mapping
from typing import ClassVar

import mlx.core as mx

from .packed import Packed

Held = mx.array | Packed


class Buffer:
    """Keys and values of one layer as they are, each [B, kv_heads, capacity, head_dim]."""

    names: ClassVar[tuple[str, ...]] = ("keys", "values")

    def __init__(self) -> None:
        self.parts: tuple[mx.array, ...] = ()
        self.capacity = 0

    @property
    def nbytes(self) -> int:
        return sum(int(part.nbytes) for part in self.parts)

    def grow(self, keys: mx.array, values: mx.array, kept: int, capacity: int) -> None:
        """Make room for `capacity` rows like those of a step, [B, H, L, D]; the first `kept`
        that are there stay."""
        parts = self.encoded(keys[:, :, :1], values[:, :, :1])
        # All or none, should an interrupt come between them.
        self.parts = _grown(self.parts, parts, kept, capacity)
        self.capacity = capacity

    def encoded(self, keys: mx.array, values: mx.array) -> tuple[mx.array, ...]:
        """Rows as they are kept."""
        return keys, values

    def write(self, keys: mx.array, values: mx.array, at: int) -> tuple[Held, Held]:
        """Put [B, H, L, D] at slot `at`; everything up to there, [B, H, at + L, D]."""
        held, end = self.parts, at + keys.shape[2]
        held[0][:, :, at:end] = keys
        held[1][:, :, at:end] = values
        return held[0][:, :, :end], held[1][:, :, :end]

    def moved(self, source: int, target: int, count: int) -> "Buffer":
        """The same with `count` rows copied from slot `source` to slot `target`."""
        other = self.copy()
        for part in other.parts:
            part[:, :, target : target + count] = part[:, :, source : source + count]
        return other

    def copy(self) -> "Buffer":
        """One that shares memory with this until either is written: writing gives the array
        object another value, and MLX copies what another object still holds."""
        other = copy.copy(self)
        other.parts = tuple(copy.copy(part) for part in self.parts)
        return other

    def rows(self, count: int) -> dict[str, mx.array]:
        """The first `count` rows, by name."""
        parts = zip(self.names, self.parts, strict=True) if count else ()
        return {name: part[:, :, :count] for name, part in parts}

    def restore(self, parts: Mapping[str, mx.array]) -> None:
        """Take arrays by their names, of equal capacity; none for an empty buffer."""
        self.parts = tuple(parts[name] for name in self.names) if parts else ()
        self.capacity = self.parts[0].shape[2] if parts else 0


class PackedBuffer(Buffer):
    """The same quantised: codes, scales and biases, keys and values together as
    [B, 2 * kv_heads, capacity, ...], so that a step is quantised and written at once."""

    names: ClassVar[tuple[str, ...]] = ("codes", "scales", "biases")

    def __init__(self, bits: int, group_size: int):
        super().__init__()
        self.bits, self.group_size = bits, group_size

    def encoded(self, keys: mx.array, values: mx.array) -> tuple[mx.array, ...]:
        rows = mx.concatenate([keys, values], axis=1)
        return tuple(mx.quantize(rows, group_size=self.group_size, bits=self.bits))

    def write(self, keys: mx.array, values: mx.array, at: int) -> tuple[Held, Held]:
        heads, end = keys.shape[1], at + keys.shape[2]
        for part, rows in zip(self.parts, self.encoded(keys, values), strict=True):
            part[:, :, at:end] = rows
        codes, scales, biases = (part[:, :, :end] for part in self.parts)
        held = Packed(codes, scales, biases, self.bits, self.group_size)
        return held.heads(0, heads), held.heads(heads, 2 * heads)

    def take(self, buffer: Buffer, kept: int, capacity: int) -> None:
        """Quantise the first `kept` rows of one that is not, and compute it at once."""
        if kept:
            keys, values = (part[:, :, :kept] for part in buffer.parts)
            parts = self.encoded(keys, values)
            self.parts, self.capacity = _grown(parts, parts, kept, capacity), capacity
            mx.eval(self.parts)


def _grown(
    old: tuple[mx.array, ...], like: tuple[mx.array, ...], kept: int, capacity: int
) -> tuple[mx.array, ...]:
    """Arrays of `capacity` rows that begin with the first `kept` of `old`."""
    new = []
    for i, (batch, heads, _, width) in enumerate(part.shape for part in like):
        part = mx.zeros((batch, heads, capacity, width), dtype=like[i].dtype)
        if kept:
            part[:, :, :kept] = old[i][:, :, :kept]
        new.append(part)
    return tuple(new)
