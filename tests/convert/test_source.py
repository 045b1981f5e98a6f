import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_maverick.checkpoint import Tensor, read_header
from mlx_maverick.convert.source import CHECKED_AT_ONCE, Slice, finite, read
from mlx_maverick.errors import BadCheckpoint


def stored(folder: Path, name: str, values: mx.array) -> Tensor:
    file = folder / "one.safetensors"
    # A neighbour in front: an offset that is wrong by the header or a row would show.
    mx.save_safetensors(str(file), {"a": mx.arange(7).astype(mx.bfloat16), name: values})
    return next(t for t in read_header(file) if t.name == name)


def equal(a: mx.array, b: mx.array) -> bool:
    return a.dtype == b.dtype and bool(mx.array_equal(a, b))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
def test_rows_arrive_as_bf16(tmp_path: Path, dtype: mx.Dtype) -> None:
    values = mx.random.normal((5, 6)).astype(dtype)
    tensor = stored(tmp_path, "w", values)
    assert equal(read(Slice(tensor, 1, 4)), values[1:4].astype(mx.bfloat16))


def test_one_expert(tmp_path: Path) -> None:
    values = mx.random.normal((4, 3, 5)).astype(mx.bfloat16)
    tensor = stored(tmp_path, "x.experts.down_proj", values)
    assert equal(read(Slice(tensor, 2, 3)), values[2:3])


def test_only_the_slice_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = stored(tmp_path, "w", mx.zeros((8, 16), mx.bfloat16))
    ranges, preadv = [], os.preadv

    def spy(file: int, buffers: list[memoryview], offset: int) -> int:
        ranges.append((offset, sum(len(b) for b in buffers)))
        return preadv(file, buffers, offset)

    monkeypatch.setattr(os, "preadv", spy)
    read(Slice(tensor, 3, 5))
    assert ranges == [(tensor.offset + 3 * 32, 2 * 32)]


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = mx.random.normal((8, 16)).astype(mx.bfloat16)
    tensor = stored(tmp_path, "w", values)
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda f, b, o: preadv(f, [b[0][:50]], o))
    assert equal(read(Slice(tensor, 0, 8)), values)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
def test_values_that_are_no_numbers_are_refused(
    tmp_path: Path, bad: float, dtype: mx.Dtype
) -> None:
    values = mx.zeros((4, 3, 5), dtype)
    values[2, 1, 4] = bad
    tensor = stored(tmp_path, "x.experts.down_proj", values)
    assert read(Slice(tensor, 1, 2)).shape == (1, 3, 5)
    with pytest.raises(BadCheckpoint, match=r"x\.experts\.down_proj \(expert 2\)"):
        read(Slice(tensor, 2, 3))


def test_a_float32_beyond_bf16_is_refused(tmp_path: Path) -> None:
    values = mx.array(np.full((2, 2), np.finfo(np.float32).max))
    with pytest.raises(BadCheckpoint, match="w of"):
        read(Slice(stored(tmp_path, "w", values), 0, 2))


def test_the_check_sees_the_last_element_and_allows_the_largest() -> None:
    values = mx.full((CHECKED_AT_ONCE + 3,), 3.3895e38, mx.bfloat16)
    mx.eval(values)
    assert finite(values)
    values[-1] = float("nan")
    mx.eval(values)
    assert not finite(values)


def test_a_file_that_shrinks_is_told(tmp_path: Path) -> None:
    tensor = stored(tmp_path, "w", mx.zeros((8, 16), mx.bfloat16))
    os.truncate(tensor.file, tensor.offset + 40)
    with pytest.raises(BadCheckpoint, match="became shorter"):
        read(Slice(tensor, 0, 8))
