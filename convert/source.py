"""Slices of the source's tensors: byte ranges in, finite bf16 arrays out.

Knows nothing of models or recipes. Nothing but the wanted range is read, and no file stays
open, so several threads may read at once.
"""

import os
from dataclasses import dataclass
from math import prod
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_maverick.checkpoint import Tensor
from mlx_maverick.errors import BadCheckpoint

# numpy has no bfloat16: bits travel as unsigned integers of the same width.
DTYPES: dict[str, tuple[np.dtype[Any], mx.Dtype]] = {
    "BF16": (np.dtype("<u2"), mx.bfloat16),
    "F16": (np.dtype("<u2"), mx.float16),
    "F32": (np.dtype("<u4"), mx.float32),
}
EXPONENT = 0x7F80  # of a bf16; all ones means infinite or not a number
CHECKED_AT_ONCE = 1 << 22  # elements; bounds the check's own memory


@dataclass(frozen=True)
class Slice:
    """`tensor[start:stop]` along its first axis: rows of a matrix, or experts."""

    tensor: Tensor
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.stop - self.start, *self.tensor.shape[1:])

    @property
    def nbytes(self) -> int:
        return self.row_nbytes * (self.stop - self.start)

    @property
    def offset(self) -> int:
        """In the tensor's file."""
        return self.tensor.offset + self.row_nbytes * self.start

    @property
    def row_nbytes(self) -> int:
        return self.tensor.nbytes // self.tensor.shape[0]

    def __str__(self) -> str:
        one_expert = len(self.tensor.shape) == 3
        return f"{self.tensor.name} (expert {self.start})" if one_expert else self.tensor.name


def read(piece: Slice) -> mx.array:
    """The slice as an evaluated bf16 array of `piece.shape`, whatever float type it is stored as.

    Raises BadCheckpoint if the file ends too early, or a value is infinite or not a number:
    one such weight would spoil every answer, and quantising would hide where it came from.
    """
    unsigned, dtype = DTYPES[piece.tensor.dtype]
    buffer = np.empty(prod(piece.shape), unsigned)
    _fill(buffer.data.cast("B"), piece)
    values = mx.array(buffer).view(dtype).astype(mx.bfloat16).reshape(piece.shape)
    mx.eval(values)
    if not finite(values):
        raise BadCheckpoint(
            f"{piece} of {piece.tensor.file} holds infinite values or NaN; download it again"
        )
    return values


def finite(values: mx.array) -> bool:
    """Whether an evaluated bf16 array holds neither infinities nor NaN."""
    bits = np.array(values.view(mx.uint16), copy=False).reshape(-1)
    blocks = range(0, bits.size, CHECKED_AT_ONCE)
    return all((bits[i : i + CHECKED_AT_ONCE] & 0x7FFF).max() < EXPONENT for i in blocks)


def _fill(buffer: memoryview, piece: Slice) -> None:
    file = os.open(piece.tensor.file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        filled = 0
        while filled < len(buffer):
            count = os.preadv(file, [buffer[filled:]], piece.offset + filled)
            if count == 0:
                raise BadCheckpoint(
                    f"{piece.tensor.file} became shorter while it was read; is it still being "
                    "downloaded?"
                )
            filled += count
    finally:
        os.close(file)
