"""The arithmetic of KV caches, at lengths that no test could allocate."""

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_maverick.kv import (
    KV_STEP,
    KVOptions,
    allocated_bytes,
    capacity,
    copied_bytes,
    dequantised_bytes,
    kv_bytes,
)
from mlx_maverick.published_models import MODELS

MAVERICK = MODELS["maverick"].config.text
MILLION = 2**20
TOKEN = 4096  # bytes of one token in one layer in bf16


@given(length=st.integers(1, 2**21), most=st.none() | st.integers(1, 2**21))
def test_capacities(length: int, most: int | None) -> None:
    room = capacity(length, most)
    assert room >= length
    assert room % KV_STEP == 0
    assert room - length < max(KV_STEP, length / 4)
    if most is not None:
        assert room < max(length, most) + KV_STEP
    # What was allocated for a length is what any other length within it would have got.
    assert capacity(room, max(most, room) if most else None) == room
    assert capacity((length + room) // 2, most) == room


def test_growing_to_a_million_copies_seldom() -> None:
    """With steps of 256 there would be 4,096 copies, of half a million tokens on average."""
    rooms, length = [], 1
    while length <= MILLION:
        rooms.append(capacity(length))
        length = rooms[-1] + 1
    assert rooms[-1] == MILLION
    assert len(rooms) < 45
    assert all(b <= 2 * a for a, b in pairwise(rooms))
    copied = sum(rooms[:-1])
    assert copied < 6 * MILLION
    assert capacity(0) == 0


def test_mavericks_cache_at_a_million_tokens() -> None:
    every = 12 * MILLION + 36 * 8192
    assert kv_bytes(MAVERICK, MILLION) == TOKEN * every
    assert kv_bytes(MAVERICK, MILLION, 4) == 2 * TOKEN * every
    for bits, row in ((8, 2048 * 1 + 2 * 2 * 32), (4, 2048 // 2 + 2 * 2 * 32)):
        assert kv_bytes(MAVERICK, MILLION, 2, KVOptions(bits)) == row * every
    bounded = KVOptions(max_size=30_000)
    assert kv_bytes(MAVERICK, MILLION, 2, bounded) == TOKEN * (12 * 30_000 + 36 * 8192)
    assert kv_bytes(MAVERICK, 20_000, 2, bounded) == kv_bytes(MAVERICK, 20_000)
    assert allocated_bytes(MAVERICK, MILLION + 1) == TOKEN * (12 * 1310720 + 36 * 8192)
    assert allocated_bytes(MAVERICK, MILLION + 1, most=MILLION + 300) == TOKEN * (
        12 * (MILLION + 512) + 36 * 8192
    )


def test_a_cache_that_is_quantised_late_is_largest_just_before() -> None:
    late = KVOptions(4, start=32768)
    dense, row = kv_bytes(MAVERICK, 32768), 2048 // 2 + 2 * 2 * 32
    assert kv_bytes(MAVERICK, 32768, 2, late) == dense
    # While the first layer is converted all others are as they were.
    assert kv_bytes(MAVERICK, 33000, 2, late) == dense + 33024 * row
    assert kv_bytes(MAVERICK, MILLION, 2, late) == kv_bytes(MAVERICK, MILLION, 2, KVOptions(4))
    assert allocated_bytes(MAVERICK, 32768, 2, late, MILLION, reserved=MILLION) == dense


@given(
    a=st.integers(0, 2**20),
    b=st.integers(0, 2**20),
    start=st.integers(0, 2**17),
    bits=st.sampled_from([4, 8]),
    size=st.none() | st.integers(16, 2**17),
)
def test_the_budget_covers_every_length(a: int, b: int, start: int, bits: int, size: int) -> None:
    options, (length, context) = KVOptions(bits, start, size), sorted((a, b))
    budget = kv_bytes(MAVERICK, context, 2, options)
    assert allocated_bytes(MAVERICK, length, 2, options, context) <= budget
    assert allocated_bytes(MAVERICK, length, 2, options, context, reserved=context) <= budget


def test_what_is_dequantised_at_once() -> None:
    assert dequantised_bytes(MAVERICK, MILLION) == 0
    assert dequantised_bytes(MAVERICK, 32768, 2, KVOptions(4, start=32768)) == 0
    options = KVOptions(4)
    assert dequantised_bytes(MAVERICK, 8192, 2, options) == 8192 * TOKEN
    assert dequantised_bytes(MAVERICK, 65536, 2, options) == 65536 * TOKEN
    assert dequantised_bytes(MAVERICK, 131072, 2, options) == 131072 * TOKEN // 2
    assert dequantised_bytes(MAVERICK, MILLION, 2, options) == MILLION * TOKEN // 8
    bounded = KVOptions(4, max_size=16384)
    assert dequantised_bytes(MAVERICK, MILLION, 2, bounded) == 16384 * TOKEN


def test_what_is_copied_at_once() -> None:
    """The largest layer."""
    assert copied_bytes(MAVERICK, 5000) == 5120 * TOKEN
    assert copied_bytes(MAVERICK, MILLION) == MILLION * TOKEN
    assert copied_bytes(MAVERICK, MILLION, 2, KVOptions(8)) == MILLION * (2048 + 128)
    assert copied_bytes(MAVERICK, MILLION, 2, KVOptions(8, start=9)) == MILLION * TOKEN
    assert copied_bytes(MAVERICK, MILLION, 2, KVOptions(max_size=4096)) == 8192 * TOKEN


def test_nothing_loads_mlx() -> None:
    code = "import sys, mlx_maverick.kv; sys.exit('mlx' in {m.split('.')[0] for m in sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "options", [KVOptions(), KVOptions(8), KVOptions(4, 5), KVOptions(4, 5, 16)]
)
def test_an_empty_cache_takes_nothing(options: KVOptions) -> None:
    assert kv_bytes(MAVERICK, 0, 2, options) == 0
