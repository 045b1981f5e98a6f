"""Attention over quantised keys and values, against the same dequantised and with a mask."""

import mlx.core as mx
import pytest

from mlx_maverick import kv
from mlx_maverick.cache import Packed
from mlx_maverick.model.attend import attend

from ..golden import difference

KV_HEADS, HEADS, DIM = 2, 6, 64


def packed(values: mx.array, bits: int) -> Packed:
    return Packed(*mx.quantize(values, group_size=64, bits=bits), bits, 64)


def rows(batch: int, length: int, dtype: mx.Dtype = mx.float32) -> tuple[mx.array, ...]:
    return tuple(
        (2 * mx.random.normal((batch, KV_HEADS, length, DIM), key=mx.random.key(i))).astype(dtype)
        for i in (1, 2)
    )


def wanted(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    """In float32, one query after the other."""
    q, k, v = (part.astype(mx.float32) for part in (q, k, v))
    k, v = (mx.repeat(part, HEADS // KV_HEADS, axis=1) for part in (k, v))
    out, before = [], k.shape[2] - q.shape[2]
    for i in range(q.shape[2]):
        seen = slice(before + i + 1)
        scores = q[:, :, i : i + 1] @ k[:, :, seen].swapaxes(-1, -2) * DIM**-0.5
        out.append(mx.softmax(scores, axis=-1) @ v[:, :, seen])
    return mx.concatenate(out, axis=2)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length", [1, 2, 17])
@pytest.mark.parametrize("dequantised", [kv.DEQUANTISED_BYTES, 1])
def test_quantised_is_dequantised(
    bits: int, batch: int, length: int, dequantised: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv, "DEQUANTISED_BYTES", dequantised)
    k, v = (packed(part, bits) for part in rows(batch, 40))
    q = mx.random.normal((batch, HEADS, length, DIM), key=mx.random.key(3))
    out = attend(q, k, v, DIM**-0.5)
    assert difference(out, wanted(q, k.dense(), v.dense())) <= 1e-5
    assert difference(out, wanted(q, *rows(batch, 40))) > 1e-3


@pytest.mark.parametrize("length", [1, 17])
def test_plain(length: int) -> None:
    k, v = rows(2, 40)
    q = mx.random.normal((2, HEADS, length, DIM), key=mx.random.key(3))
    assert difference(attend(q, k, v, DIM**-0.5), wanted(q, k, v)) <= 1e-5


@pytest.mark.parametrize("length", [1, 9])
def test_half_precision_stays_close(length: int) -> None:
    """Values of bf16 have errors of 1/256; the result has no more than some of them. (MLX sums
    up products of codes in bf16 on a CPU, in float32 elsewhere.)"""
    k, v = (packed(part, 8) for part in rows(1, 500, mx.bfloat16))
    q = mx.random.normal((1, HEADS, length, DIM), key=mx.random.key(3)).astype(mx.bfloat16)
    out = attend(q, k, v, DIM**-0.5)
    assert out.dtype == mx.bfloat16
    assert difference(out, wanted(q, k.dense(), v.dense())) <= 0.1


def test_a_long_cache_is_never_dequantised_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv, "DEQUANTISED_BYTES", 1)
    length = 10_000
    k, v = (packed(part, 4) for part in rows(1, length))
    q = mx.random.normal((1, HEADS, 2, DIM), key=mx.random.key(3))
    mx.eval(k.codes, k.scales, k.biases, v.codes, v.scales, v.biases, q)
    peaks = []
    for limit in (1, 2**40):
        monkeypatch.setattr(kv, "DEQUANTISED_BYTES", limit)
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(attend(q, k, v, DIM**-0.5))
        peaks.append(mx.get_peak_memory() - before)
    head = 2 * length * DIM * 4
    assert peaks[0] < peaks[1] - head / 2
