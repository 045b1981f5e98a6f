"""Byte ranges of the source's tensors, and how values are stored in them.

Knows nothing of recipes or of the model. An encoding says which slices hold a matrix, and
turns their bytes into rows of it; where the bytes come from is the business of `Files`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_maverick.checkpoint import Tensor
from mlx_maverick.config import Quant
from mlx_maverick.errors import BadCheckpoint

# numpy has neither bfloat16 nor float8: bits travel as unsigned integers of the same width.
FLOATS: dict[str, tuple[np.dtype[Any], mx.Dtype]] = {
    "BF16": (np.dtype("<u2"), mx.bfloat16),
    "F16": (np.dtype("<u2"), mx.float16),
    "F32": (np.dtype("<u4"), mx.float32),
}
FP8 = "F8_E4M3"
# All ones there mean infinite or not a number. E4M3 has one NaN of each sign, no infinity.
EXPONENTS = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000, FP8: 0x7F}
CHECKED_AT_ONCE = 1 << 20  # elements; bounds the check's own memory
UNSIGNED: dict[int, np.dtype[Any]] = {8: np.dtype("u1"), 16: np.dtype("<u2"), 32: np.dtype("<u4")}


@dataclass(frozen=True)
class Slice:
    """`tensor[start:stop]` along its first axis: rows of a matrix, or experts."""

    tensor: Tensor
    start: int
    stop: int

    @staticmethod
    def all(tensor: Tensor) -> "Slice":
        return Slice(tensor, 0, tensor.shape[0])

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


Bytes = Mapping[Slice, NDArray[np.uint8]]  # what was read of each slice


class Encoding(Protocol):
    """Part of an output tensor as the source keeps it."""

    @property
    def slices(self) -> tuple[Slice, ...]:
        """What must be read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the values: [out, in], or a vector."""

    def rows(self, data: Bytes, start: int, stop: int) -> mx.array:
        """Rows of it in bfloat16 or float32, not yet evaluated.

        Values that are infinite or not a number come out as such.
        """


@dataclass(frozen=True)
class Floats:
    """BF16, F16 or F32, as [out, in]; or, with `columns`, one expert stored [1, in, more], of
    which these columns are the rows of the matrix."""

    slice: Slice
    columns: tuple[int, int] | None = None

    @property
    def slices(self) -> tuple[Slice, ...]:
        return (self.slice,)

    @property
    def shape(self) -> tuple[int, ...]:
        return _shape(self.slice, self.columns)

    def rows(self, data: Bytes, start: int, stop: int) -> mx.array:
        unsigned, dtype = FLOATS[self.slice.tensor.dtype]
        values = _rows(data, self.slice, unsigned, self.columns, start, stop).view(dtype)
        return values if dtype == mx.bfloat16 else values.astype(mx.float32)


@dataclass(frozen=True)
class Scaled:
    """FP8 (E4M3) with a scale for every output channel, oriented as in Floats.

    Source: compressed-tensors `float-quantized` and fbgemm: weight = code * scale.
    """

    slice: Slice
    scale: Slice
    columns: tuple[int, int] | None = None

    @property
    def slices(self) -> tuple[Slice, ...]:
        return (self.slice, self.scale)

    @property
    def shape(self) -> tuple[int, ...]:
        return _shape(self.slice, self.columns)

    def rows(self, data: Bytes, start: int, stop: int) -> mx.array:
        codes = _rows(data, self.slice, np.dtype("u1"), self.columns, start, stop)
        unsigned, dtype = FLOATS[self.scale.tensor.dtype]
        first = self.columns[0] if self.columns else 0
        scales = data[self.scale].view(unsigned).reshape(-1)[first + start : first + stop]
        scale = mx.array(scales).view(dtype).astype(mx.float32)
        return mx.from_fp8(codes, mx.float32) * scale[:, None]


@dataclass(frozen=True)
class Packed:
    """Quantised by MLX, all three (biases: affine mode only) as [out, ...] or [1, out, ...]."""

    weight: Slice
    scales: Slice
    biases: Slice | None
    quant: Quant

    def slice(self, start: int, stop: int) -> "Packed":
        """Rows, or experts, of a whole one."""
        first, second = (Slice(s.tensor, start, stop) for s in (self.weight, self.scales))
        third = Slice(self.biases.tensor, start, stop) if self.biases else None
        return Packed(first, second, third, self.quant)

    @property
    def slices(self) -> tuple[Slice, ...]:
        return (self.weight, self.scales, *((self.biases,) if self.biases else ()))

    @property
    def shape(self) -> tuple[int, ...]:
        *rows, words = self.weight.shape
        return (prod(rows), words * 32 // self.quant.bits)

    def rows(self, data: Bytes, start: int, stop: int) -> mx.array:
        def part(slice: Slice) -> mx.array:
            dtype = slice.tensor.dtype
            unsigned, floating = FLOATS.get(dtype, (UNSIGNED[8 * _width(slice)], None))
            table = data[slice].view(unsigned).reshape(-1, slice.shape[-1])
            values = mx.array(table[start:stop])
            return values.view(floating) if floating else values

        scales = part(self.scales)
        affine = self.quant.mode == "affine"
        return mx.dequantize(
            part(self.weight),
            scales.astype(mx.float32) if affine else scales,
            part(self.biases).astype(mx.float32) if self.biases else None,
            group_size=self.quant.group_size,
            bits=self.quant.bits,
            mode=self.quant.mode,
        )


@dataclass(frozen=True)
class Raw:
    """Bytes that are taken over as they are."""

    slice: Slice

    @property
    def slices(self) -> tuple[Slice, ...]:
        return (self.slice,)

    @property
    def shape(self) -> tuple[int, ...]:
        return _shape(self.slice, None)

    def rows(self, data: Bytes, start: int, stop: int) -> mx.array:
        """Of the stored values, as unsigned integers of their width."""
        table = data[self.slice].view(UNSIGNED[8 * _width(self.slice)]).reshape(self.shape)
        return mx.array(table[start:stop])


def check_finite(slice: Slice, data: NDArray[np.uint8]) -> None:
    """Raise BadCheckpoint if a slice's bytes hold infinite values or NaN: one such weight would
    spoil every answer, and quantising would hide where it came from."""
    exponent = EXPONENTS.get(slice.tensor.dtype)
    if exponent is None:
        return
    if not finite(data.view(UNSIGNED[8 * _width(slice)]), exponent):
        raise BadCheckpoint(
            f"{slice} of {slice.tensor.file} holds infinite values or NaN; download it again"
        )


def finite(bits: NDArray[np.unsignedinteger[Any]], exponent: int) -> bool:
    """Whether none of the values stored as these integers [n] has an exponent of all ones."""
    parts = (bits[i : i + CHECKED_AT_ONCE] for i in range(0, bits.size, CHECKED_AT_ONCE))
    return all((part & exponent).max() != exponent for part in parts)


def _shape(slice: Slice, columns: tuple[int, int] | None) -> tuple[int, ...]:
    if columns:
        return (columns[1] - columns[0], slice.shape[-2])
    *rows, columns_or_size = slice.shape
    return (prod(rows), columns_or_size) if rows else (columns_or_size,)


def _width(slice: Slice) -> int:
    """Bytes of one element."""
    return slice.nbytes // prod(slice.shape)


def _rows(
    data: Bytes,
    slice: Slice,
    unsigned: "np.dtype[Any]",
    columns: tuple[int, int] | None,
    start: int,
    stop: int,
) -> mx.array:
    """Rows of the stored bits: copied out of the buffer, which is reused."""
    table = data[slice].view(unsigned)
    if columns:
        first = columns[0]
        table = table.reshape(slice.shape[-2:])[:, first + start : first + stop]
        # numpy copies the columns quickly, MLX (from a strided array) one by one.
        return mx.swapaxes(mx.array(np.ascontiguousarray(table)), 0, 1)
    return mx.array(table.reshape(_shape(slice, None))[start:stop])
