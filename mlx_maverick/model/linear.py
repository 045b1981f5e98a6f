"""Matrices of the network, dense or quantised, behind one call each.

Knows nothing of layers or files. A weight is [out, in], as in the checkpoint; a quantised
one is packed along `in` and has `scales` and `biases`.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from ..config import Quant

# See `ExpertLinear.tiled`: at least so many rows in all, and so many for each expert there is.
TILE_ROWS, TILE_ROWS_EACH = 16, 4


@dataclass(frozen=True)
class Matrix:
    """One stored matrix, or [E, out, in] of them, with how it is quantised."""

    weight: mx.array
    scales: mx.array | None = None
    biases: mx.array | None = None
    quant: Quant | None = None

    @property
    def arrays(self) -> list[mx.array]:
        return [a for a in (self.weight, self.scales, self.biases) if a is not None]


def _dense(matrix: Matrix) -> tuple[Matrix, mx.array | None]:
    """A matrix that is not quantised, and its weights transposed, [..., in, out], to multiply
    by: one array and a view of it.

    On a CPU the copy is the transposed one: the BLAS of MLX's Linux wheels takes 2.4 times as
    long for a transposed view, whatever the number of rows. Kernels on a GPU do not mind.
    """
    if matrix.quant is not None:
        return matrix, None
    columns = mx.swapaxes(matrix.weight, -1, -2)
    if mx.default_device().type == mx.DeviceType.cpu:
        columns = mx.contiguous(columns)
    return replace(matrix, weight=mx.swapaxes(columns, -1, -2)), columns


class Linear:
    """y = x W^T (+ bias)."""

    def __init__(self, matrix: Matrix, bias: mx.array | None = None):
        self.matrix, self._dense = _dense(matrix)
        self.bias = bias

    @property
    def arrays(self) -> list[mx.array]:
        bias = [] if self.bias is None else [self.bias]
        return [*self.matrix.arrays, *bias]

    def __call__(self, x: mx.array) -> mx.array:
        """[..., in] -> [..., out]"""
        m = self.matrix
        if self._dense is not None:
            if self.bias is not None:
                return mx.addmm(self.bias, x, self._dense)
            return x @ self._dense
        assert m.quant is not None
        assert m.scales is not None
        y = mx.quantized_matmul(
            x,
            m.weight,
            m.scales,
            m.biases,
            transpose=True,
            group_size=m.quant.group_size,
            bits=m.quant.bits,
            mode=m.quant.mode,
        )
        return y if self.bias is None else y + self.bias


class JoinedLinear:
    """Projections that share their input, computed as one where their bits agree."""

    def __init__(self, parts: Sequence[Linear], outs: Sequence[int]):
        fused = _fuse(parts)
        self.parts = [fused] if fused else list(parts)
        self.cuts = [sum(outs[: i + 1]) for i in range(len(outs) - 1)] if fused else None

    def __call__(self, x: mx.array) -> list[mx.array]:
        """[..., in] -> one [..., out] for each projection"""
        if self.cuts is None:
            return [part(x) for part in self.parts]
        return list(mx.split(self.parts[0](x), self.cuts, axis=-1))

    def whole(self, x: mx.array) -> mx.array:
        """[..., in] -> the outputs one after the other, [..., sum of out]"""
        outputs = [part(x) for part in self.parts]
        return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=-1)


def _fuse(parts: Sequence[Linear]) -> Linear | None:
    """One matrix of the rows of all, or None where they are stored differently."""
    first = parts[0]
    if any(p.matrix.quant != first.matrix.quant for p in parts):
        return None
    if any((p.bias is None) != (first.bias is None) for p in parts):
        return None
    columns = list(zip(*(p.matrix.arrays for p in parts), strict=True))
    joined = [mx.concatenate(list(column), axis=0) for column in columns]
    biases = [p.bias for p in parts if p.bias is not None]
    matrix = replace(
        first.matrix,
        weight=joined[0],
        scales=joined[1] if len(joined) > 1 else None,
        biases=joined[2] if len(joined) > 2 else None,
    )
    return Linear(matrix, mx.concatenate(biases) if biases else None)


class Embedding:
    """Rows of a matrix by number."""

    def __init__(self, matrix: Matrix, dtype: mx.Dtype):
        self.matrix, self.dtype = matrix, dtype

    def __call__(self, ids: mx.array) -> mx.array:
        """[...] of integers -> [..., in]"""
        m = self.matrix
        if m.quant is None or m.scales is None:
            return m.weight[ids]
        return mx.dequantize(
            m.weight[ids],
            m.scales[ids],
            m.biases[ids] if m.biases is not None else None,
            group_size=m.quant.group_size,
            bits=m.quant.bits,
            mode=m.quant.mode,
        ).astype(self.dtype)


class ExpertLinear:
    """One projection of every expert, [E, out, in]; each row of the input names its expert."""

    def __init__(self, matrix: Matrix):
        self.matrix, self._dense = _dense(matrix)

    @property
    def arrays(self) -> list[mx.array]:
        return self.matrix.arrays

    def __call__(self, x: mx.array, experts: mx.array, ordered: bool) -> mx.array:
        """[T, 1, in] and [T] -> [T, 1, out]; `ordered` says that `experts` ascends."""
        m = self.matrix
        if self._dense is not None:
            return mx.gather_mm(x, self._dense, rhs_indices=experts, sorted_indices=ordered)
        assert m.quant is not None
        assert m.scales is not None
        return mx.gather_qmm(
            x,
            m.weight,
            m.scales,
            m.biases,
            rhs_indices=experts,
            transpose=True,
            group_size=m.quant.group_size,
            bits=m.quant.bits,
            mode=m.quant.mode,
            sorted_indices=ordered,
        )

    def part(self, start: int, stop: int) -> "ExpertLinear":
        """The experts from `start` to before `stop`, in the same memory."""
        m, other = self.matrix, copy.copy(self)
        weight, scales, biases = (
            None if a is None else a[start:stop] for a in (m.weight, m.scales, m.biases)
        )
        assert weight is not None
        other.matrix = Matrix(weight, scales, biases, m.quant)
        other._dense = None if self._dense is None else self._dense[start:stop]
        return other

    def tiled(self, rows: int, experts: int) -> bool:
        """Whether Metal multiplies so many ordered rows of so many experts in tiles, which rounds
        otherwise than one row at a time (GatherQMM::eval_gpu and GatherMM::eval_gpu, MLX 0.32)."""
        return self._dense is not None or rows // experts >= TILE_ROWS_EACH
