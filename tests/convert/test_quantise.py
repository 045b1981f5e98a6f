"""Rows of a matrix -> what is stored of it."""

import mlx.core as mx
import pytest

from mlx_maverick.config import Quant
from mlx_maverick.convert.outputs import entries
from mlx_maverick.convert.quantise import finite, quantise
from mlx_maverick.convert.search import search
from mlx_maverick.errors import BadCheckpoint

FAST = pytest.mark.parametrize("fast", [False, True])
BITS = pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
DTYPE = {mx.uint32: "U32", mx.bfloat16: "BF16"}


def normal(*shape: int, dtype: mx.Dtype = mx.bfloat16) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(1)).astype(dtype)


@FAST
@BITS
@pytest.mark.parametrize("group", [32, 64, 128])
def test_the_planned_tensors_are_those_made(bits: int, group: int, fast: bool) -> None:
    matrix, quant = normal(6, 256), Quant(group, bits)
    made = quantise(matrix, "x.weight", quant, fast)
    planned = entries("x.weight", matrix.shape, quant)
    assert [(e.dtype, e.shape) for e in planned] == [(DTYPE[v.dtype], v.shape) for v in made]


@BITS
def test_fast_is_mlx_of_the_matrix_in_bf16(bits: int) -> None:
    for dtype in (mx.bfloat16, mx.float32):
        matrix = normal(6, 256, dtype=dtype)
        expected = mx.quantize(matrix.astype(mx.bfloat16), 64, bits)
        made = quantise(matrix, "x.weight", Quant(64, bits), fast=True)
        assert all(mx.array_equal(a, b) for a, b in zip(made, expected, strict=True))


@BITS
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32])
def test_the_default_is_no_worse_in_any_row(bits: int, dtype: mx.Dtype) -> None:
    matrix, quant = normal(50, 256, dtype=dtype) ** 3, Quant(64, bits)
    errors = []
    for fast in (False, True):
        codes, scales, biases = quantise(matrix, "x.weight", quant, fast)
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
        back = mx.dequantize(codes, scales, biases, 64, bits)
        errors.append(mx.square(back - matrix.astype(mx.float32)).sum(-1))
    assert mx.all(errors[0] <= errors[1] * (1 + 1e-5))
    assert mx.any(errors[0] < errors[1])


@BITS
def test_the_search_sees_every_digit(bits: int) -> None:
    """Of a float32 matrix, as FP8 times its scale is one."""
    matrix, quant = normal(6, 256, dtype=mx.float32) * 1.003, Quant(64, bits)
    made, wanted = quantise(matrix, "x.weight", quant), search(matrix, quant)
    assert all(mx.array_equal(a, b) for a, b in zip(made, wanted, strict=True))
    rounded = quantise(matrix.astype(mx.bfloat16), "x.weight", quant)
    assert not all(mx.array_equal(a, b) for a, b in zip(made, rounded, strict=True))


@FAST
def test_rows_may_come_in_pieces(fast: bool) -> None:
    matrix = normal(10, 128)
    whole = quantise(matrix, "x.weight", Quant(64, 4), fast)
    pieces = [quantise(matrix[a:b], "x.weight", Quant(64, 4), fast) for a, b in [(0, 3), (3, 10)]]
    for i, values in enumerate(whole):
        assert mx.array_equal(values, mx.concatenate([piece[i] for piece in pieces]))


@FAST
def test_a_transposed_matrix_is_quantised_as_if_it_had_been_stored_so(fast: bool) -> None:
    stored = normal(128, 6)
    copied = mx.array(stored.astype(mx.float32).tolist()).T.astype(mx.bfloat16)
    expected = quantise(mx.contiguous(copied), "x.weight", Quant(64, 6), fast)
    made = quantise(mx.swapaxes(stored, -1, -2), "x.weight", Quant(64, 6), fast)
    assert all(mx.array_equal(a, b) for a, b in zip(made, expected, strict=True))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32])
def test_unquantised_is_itself_in_bf16(dtype: mx.Dtype) -> None:
    for shape in ((3, 5), (7,)):
        matrix = normal(*shape, dtype=dtype)
        (made,) = quantise(matrix, "y", None)
        assert made.dtype == mx.bfloat16
        assert mx.array_equal(made, matrix.astype(mx.bfloat16))


@FAST
def test_a_range_beyond_bf16_is_refused(fast: bool) -> None:
    matrix = mx.zeros((2, 64), mx.bfloat16)
    matrix[1, 0], matrix[1, 1] = 3.3e38, -3.3e38
    with pytest.raises(BadCheckpoint, match=r"x\.weight holds values too large.*download it again"):
        quantise(matrix, "x.weight", Quant(64, 2), fast)


def test_a_float32_beyond_bf16_is_refused() -> None:
    with pytest.raises(BadCheckpoint, match="y holds values too large"):
        quantise(mx.array([[0.0, 3.4e38]]), "y", None)


def test_finite() -> None:
    values = mx.array([0.0, -3.38e38, 3.38e38], mx.bfloat16)
    mx.eval(values)
    assert finite(values)
    for bad in (float("nan"), float("inf"), -float("inf")):
        values = mx.array([0.0, bad], mx.bfloat16)
        mx.eval(values)
        assert not finite(values)
