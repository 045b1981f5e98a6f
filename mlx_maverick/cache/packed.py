"""Keys or values of one layer as codes, with a scale and a bias for each group of a head.

Knows nothing of what is attended to. MLX's affine quantisation, each row on its own.
"""

from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True)
class Packed:
    """[B, kv_heads, L, head_dim], quantised along the head."""

    codes: mx.array  # [B, kv_heads, L, head_dim * bits / 32] uint32
    scales: mx.array  # [B, kv_heads, L, head_dim / group_size]
    biases: mx.array
    bits: int
    group_size: int

    @property
    def head_bytes(self) -> int:
        """Bytes of one head (of each of B), dequantised."""
        batch, _, length, groups = self.scales.shape
        return batch * length * groups * self.group_size * self.scales.itemsize

    def heads(self, first: int, last: int) -> "Packed":
        """Some of the heads, not copied."""
        codes, scales, biases = (
            part[:, first:last] for part in (self.codes, self.scales, self.biases)
        )
        return Packed(codes, scales, biases, self.bits, self.group_size)

    def dense(self) -> mx.array:
        """[B, kv_heads, L, head_dim] in the type of the scales."""
        return mx.dequantize(
            self.codes, self.scales, self.biases, group_size=self.group_size, bits=self.bits
        )
