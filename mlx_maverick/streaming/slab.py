"""The memory of one part of experts, their scales for instance: a matrix for each slot.

Knows nothing of which expert is in which slot, nor of reading: it says where bytes of a file go.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..disk import BLOCK
from .places import Part

CODES = {"U32": mx.uint32, "U8": mx.uint8}  # and scales of other modes than affine
VALUES = {"BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}
ROWS, SPARE = 64, 32  # of a strip that is converted at once

# Where bytes go: memory for them as they are, or a function that takes them.
Target = memoryview | Callable[[memoryview], None]


@dataclass(frozen=True)
class Slab:
    """Memory for so many slots, allocated once and for all."""

    part: Part
    array: mx.array  # [slots, *shape]
    bytes: NDArray[np.uint8]  # the same memory, [slots, bytes]
    converted: bool  # whether it holds other bytes than the file
    turned: bool  # whether each matrix is the transposed of the file's

    @staticmethod
    def of(part: Part, count: int, dtype: mx.Dtype, dense: bool) -> "Slab":
        """`count` slots for a part of matrices, with values in `dtype`; `dense` if these are not
        quantised."""
        # As `ExpertLinear` wants it: on a CPU what is not quantised is kept transposed.
        turned = dense and mx.default_device().type == mx.DeviceType.cpu
        kind = dtype if part.floating else CODES[part.tensor.dtype]
        shape = (count, *(part.shape[::-1] if turned else part.shape))
        array = _allocated(shape, kind)
        held = array.view(mx.uint16) if kind == mx.bfloat16 else array  # numpy has no bf16
        memory = np.array(held, copy=False).reshape(count, -1).view(np.uint8)
        converted = turned or (part.floating and VALUES[part.tensor.dtype] != dtype)
        return Slab(part, array, memory, converted, turned)

    @property
    def nbytes(self) -> int:
        """Bytes allocated, as `plan.BankPlan` reckons them."""
        return self.bytes.size + BLOCK

    @property
    def matrices(self) -> mx.array:
        """[slots, *shape of the part], whatever way round the memory is."""
        return mx.swapaxes(self.array, -1, -2) if self.turned else self.array

    def targets(self, slot: int, most: int) -> Iterator[tuple[int, int, Target]]:
        """The bytes of one expert in pieces of about `most`: where each begins, how long it is,
        and where it goes."""
        nbytes = self.part.nbytes
        if not self.converted:
            memory = memoryview(self.bytes[slot])
            for at in range(0, nbytes, most):
                end = min(at + most, nbytes)
                yield at, end - at, memory[at:end]
            return
        rows = self.part.shape[0]
        row = nbytes // rows
        step = max(1, most // row)
        for first in range(0, rows, step):
            last = min(rows, first + step)
            yield first * row, (last - first) * row, self._rows(slot, first, last)

    def _rows(self, slot: int, first: int, last: int) -> Callable[[memoryview], None]:
        """What puts rows of an expert's matrix, as they are in the file, into its slot."""

        def convert(stored: memoryview) -> None:
            # Of a transposed matrix, a column is a row of the file.
            held = self.bytes[slot].view(_NUMPY[self.array.dtype]).reshape(self.array.shape[1:])
            rows = (held.T if self.turned else held)[first:last]
            kind = _NUMPY[VALUES[self.part.tensor.dtype]]
            _cast(np.frombuffer(stored, kind).reshape(rows.shape), rows)

        return convert


# Types of the same size for numpy, which has no bf16.
_NUMPY = {mx.float32: np.float32, mx.float16: np.float16, mx.bfloat16: np.uint16}


def _allocated(shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """An array of zeros that begins on a block's boundary, as reading past the file cache asks
    for; on Metal all do."""
    size, spare = math.prod(shape), BLOCK // dtype.size
    memory = mx.zeros(size + spare, dtype=mx.uint16 if dtype == mx.bfloat16 else dtype)
    mx.eval(memory)
    address = np.array(memory, copy=False).ctypes.data
    first = -address % BLOCK // dtype.size
    array = memory[first : first + size].reshape(shape)
    if dtype == mx.bfloat16:
        array = array.view(mx.bfloat16)
    mx.eval(array)
    return array


def _cast(values: NDArray[np.generic], target: NDArray[np.generic]) -> None:
    """Write values [rows, columns], as MLX would cast them: rounded to the nearest, ties to even;
    uint16 stands for bf16."""
    columns = values.shape[1]
    if values.dtype == np.uint16 and target.dtype == np.float32:
        target = target.view(np.uint32)
    # A strip at a time, in memory with rows of an odd length: those of the file are a power of
    # two apart, which would all compete for the same few places of the processor's cache.
    strip = np.empty((ROWS, columns + SPARE), target.dtype)[:, :columns]
    for row in range(0, len(values), ROWS):
        part = values[row : row + ROWS]
        some = strip[: len(part)]
        _round(part, some)
        target[row : row + ROWS] = some


def _round(values: NDArray[np.generic], target: NDArray[np.generic]) -> None:
    """The same of a few rows; uint32 stands for float32 that was bf16."""
    if target.dtype == np.uint32:
        target[...] = values
        np.left_shift(target, 16, out=target)
        return
    if values.dtype == np.uint16 and target.dtype != np.uint16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    elif target.dtype == np.uint16 and values.dtype != np.uint16:
        bits = values.astype(np.float32).view(np.uint32)
        nan = np.isnan(values)
        values = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        values[nan] = 0x7FC0
    with np.errstate(over="ignore"):  # what is too large for float16 is infinite there, too
        target[...] = values
