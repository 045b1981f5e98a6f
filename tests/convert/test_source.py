"""Slices and encodings: bytes of a tensor in, rows of a matrix out."""

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_maverick.checkpoint import Tensor
from mlx_maverick.config import Quant
from mlx_maverick.convert.source import (
    CHECKED_AT_ONCE,
    Encoding,
    Floats,
    Packed,
    Raw,
    Scaled,
    Slice,
    check_finite,
)
from mlx_maverick.errors import BadCheckpoint

from .damage import Stored, stored
from .forms import E4M3, fp8

FILE = Path("one.safetensors")
OFFSET = 1000
Cut = tuple[Slice, np.ndarray]


def cut(held: Stored, start: int = 0, stop: int | None = None, name: str = "w") -> Cut:
    """A slice of a tensor somewhere in a file, and the bytes there."""
    tensor = Tensor(name, held.dtype, held.shape, FILE, OFFSET, len(held.data))
    slice = Slice(tensor, start, held.shape[0] if stop is None else stop)
    first = slice.offset - OFFSET
    return slice, np.frombuffer(held.data[first : first + slice.nbytes], np.uint8)


def equal(a: mx.array, b: mx.array) -> bool:
    return a.dtype == b.dtype and bool(mx.array_equal(a, b))


def check(encoding: Encoding, cuts: Sequence[Cut], wanted: mx.array) -> None:
    """Rows are those of `wanted`, whichever are asked for."""
    data = dict(cuts)
    assert set(encoding.slices) == set(data)
    assert encoding.shape == wanted.shape
    for start, stop in [(0, len(wanted)), (0, 1), (1, len(wanted)), (1, 2)]:
        assert equal(encoding.rows(data, start, stop), wanted[start:stop])


def test_a_slice_is_a_range_of_the_file() -> None:
    tensor = Tensor("x.experts.down_proj", "F32", (4, 3, 5), FILE, OFFSET, 240)
    slice = Slice(tensor, 1, 3)
    assert (slice.offset, slice.nbytes, slice.shape) == (1060, 120, (2, 3, 5))
    assert str(slice) == "x.experts.down_proj (expert 1)"
    whole = Slice.all(Tensor("norm", "BF16", (7,), FILE, 10, 14))
    assert (whole.offset, whole.nbytes, whole.shape, str(whole)) == (10, 14, (7,), "norm")


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
def test_rows_of_floats(dtype: mx.Dtype) -> None:
    """bf16 as it is, all else in float32."""
    values = mx.random.normal((6, 8), key=mx.random.key(1)).astype(dtype)
    wanted = values if dtype == mx.bfloat16 else values.astype(mx.float32)
    one = cut(stored(values), 2, 5)
    check(Floats(one[0]), [one], wanted[2:5])
    vector = cut(stored(values[0]), 1, 7)
    check(Floats(vector[0]), [vector], wanted[0, 1:7])


@pytest.mark.parametrize("columns", [(0, 5), (5, 10), (0, 10)])
def test_columns_of_an_expert_are_the_rows(columns: tuple[int, int]) -> None:
    values = mx.random.normal((4, 6, 10), key=mx.random.key(2)).astype(mx.bfloat16)
    one = cut(stored(values), 2, 3)
    check(Floats(one[0], columns), [one], values[2, :, slice(*columns)].T)


def test_every_fp8_code() -> None:
    """Against the definition of E4M3; a NaN stays one, so that it can be found."""
    codes = mx.arange(256).astype(mx.uint8).reshape(2, 128)
    one, two = cut(stored(codes, "F8_E4M3")), cut(stored(mx.array([1.0, 0.5])), name="s")
    rows = np.array(Scaled(one[0], two[0]).rows(dict([one, two]), 0, 2))
    wanted = E4M3.reshape(2, 128) * np.array([[1.0], [0.5]], np.float32)
    np.testing.assert_array_equal(rows, wanted)
    assert np.isnan(rows).sum() == 2
    assert sorted(wanted[0, :4]) == [0, 2**-9, 2**-8, 3 * 2**-9]


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
@pytest.mark.parametrize("flat", [False, True])
def test_fp8_rows_have_their_own_scale(dtype: mx.Dtype, flat: bool) -> None:
    values = mx.random.normal((6, 8), key=mx.random.key(3)) * mx.arange(1, 7)[:, None]
    codes, scale = fp8(values, -1, dtype)
    wanted = mx.array(E4M3[np.frombuffer(codes.data, np.uint8)]).reshape(6, 8)
    wanted = wanted * scale.astype(mx.float32)
    assert mx.abs(wanted - values).max() < 1
    one, two = cut(codes, 2, 5), cut(stored(scale.flatten() if flat else scale), 2, 5, "s")
    check(Scaled(one[0], two[0]), [one, two], wanted[2:5])


@pytest.mark.parametrize("columns", [(0, 5), (5, 10)])
@pytest.mark.parametrize("shape", [(4, 1, 10), (4, 10, 1)])
def test_fp8_experts_that_are_fused(columns: tuple[int, int], shape: tuple[int, ...]) -> None:
    values = mx.random.normal((4, 6, 10), key=mx.random.key(4)) * mx.arange(1, 11)
    codes, scale = fp8(values, 1, mx.float32)
    wanted = mx.array(E4M3[np.frombuffer(codes.data, np.uint8)]).reshape(4, 6, 10) * scale
    one, two = cut(codes, 3, 4), cut(stored(scale.reshape(shape)), 3, 4, "s")
    check(Scaled(one[0], two[0], columns), [one, two], wanted[3, :, slice(*columns)].T)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_what_mlx_packed(bits: int, dtype: mx.Dtype) -> None:
    values = mx.random.normal((4, 6, 64), key=mx.random.key(5)).astype(dtype)
    parts = mx.quantize(values, 32, bits)
    cuts = [cut(stored(part), 1, 2, name) for part, name in zip(parts, "wsb", strict=True)]
    whole = Packed(*(Slice.all(c[0].tensor) for c in cuts), Quant(32, bits))
    one = whole.slice(1, 2)
    codes, scales, biases = parts
    wide = mx.dequantize(codes, scales.astype(mx.float32), biases.astype(mx.float32), 32, bits)
    check(one, cuts, wide[1])
    assert whole.shape == (24, 64)


def test_what_is_taken_over_as_it_is() -> None:
    values = (mx.arange(48).astype(mx.uint32) * 100_000_007).reshape(4, 3, 4)
    one = cut(stored(values), 2, 3)
    check(Raw(one[0]), [one], values[2])
    halves = cut(stored(mx.array([[1.0, -2.0]], mx.float16)))
    check(Raw(halves[0]), [halves], mx.array([[0x3C00, 0xC000]], mx.uint16))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
def test_values_that_are_no_numbers_are_refused(bad: float, dtype: mx.Dtype) -> None:
    values = mx.zeros((4, 3, 5), dtype)
    values[2, 1, 4] = bad
    check_finite(*cut(stored(values), 1, 2))
    with pytest.raises(BadCheckpoint, match=r"^w \(expert 2\) of one.safetensors holds infinite"):
        check_finite(*cut(stored(values), 2, 3))


def test_fp8_has_two_values_that_are_no_numbers() -> None:
    codes = np.arange(256, dtype=np.uint8)
    refused = []
    for code in codes:
        try:
            check_finite(*cut(Stored("F8_E4M3", (1,), bytes([code]))))
        except BadCheckpoint:
            refused.append(int(code))
    assert refused == [0x7F, 0xFF] == list(np.flatnonzero(np.isnan(E4M3)))


@pytest.mark.parametrize(
    ("dtype", "largest"), [(mx.bfloat16, 3.3895e38), (mx.float16, 65504.0), (mx.float32, 3.4e38)]
)
def test_the_check_sees_the_last_element_and_allows_the_largest(
    dtype: mx.Dtype, largest: float
) -> None:
    values = mx.full((CHECKED_AT_ONCE + 3,), -largest, dtype)
    check_finite(*cut(stored(values)))
    values[-1] = float("nan")
    with pytest.raises(BadCheckpoint, match="NaN"):
        check_finite(*cut(stored(values)))


def test_packed_codes_may_have_any_bits() -> None:
    check_finite(*cut(stored(mx.full((3, 4), 0xFFFFFFFF, mx.uint32))))
