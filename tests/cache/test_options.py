"""Rotating and quantised caches: what is computed follows from positions alone."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_maverick import kv
from mlx_maverick.cache import Cache, load, save
from mlx_maverick.errors import UsageError
from mlx_maverick.kv import KVOptions, Rotation, allocated_bytes
from mlx_maverick.model import Llama4

from ..golden import difference
from .drive import CHUNK, LENGTH, expected, feed, outputs, rows, text_config
from .reference import full_pass, visible

OPTIONS = [
    KVOptions(),
    KVOptions(8),
    KVOptions(4),
    KVOptions(4, start=50),
    KVOptions(8, start=64),
    KVOptions(max_size=16),
    KVOptions(max_size=40),
    KVOptions(max_size=100),
    KVOptions(4, max_size=45),
    KVOptions(8, start=37, max_size=33),
    KVOptions(4, start=70, max_size=40),
]
each = pytest.mark.parametrize("options", OPTIONS, ids=str)


def landing(length: int, options: KVOptions, to: int) -> int:
    """Where a rewind from `length`, reached without one, is to land: from the documentation."""
    turned, keep = 0, 0
    if options.max_size and length > options.max_size:
        r = Rotation.of(options.max_size)
        turned = options.max_size + (length - 1 - options.max_size) // r.block * r.block
        keep = r.keep
    chunk_start = (length - 1) // CHUNK * CHUNK if length else 0
    while True:
        before = to
        if options.bits and options.start < length and to < options.start:
            to = 0
        if to < turned:
            to = min(to, keep)
        if to < chunk_start:
            to = to // CHUNK * CHUNK
        if to == before:
            return to


@each
@pytest.mark.parametrize("step", [1, 5, 32, None])
def test_any_step_gives_what_the_definition_says(options: KVOptions, step: int | None) -> None:
    feed(Cache(text_config(), options), LENGTH, step)


@pytest.mark.parametrize("bits", [8, 4])
def test_heads_of_64_have_groups_of_64(bits: int) -> None:
    options = KVOptions(bits, start=20, max_size=40)
    cache = Cache(text_config(64), options)
    feed(cache, LENGTH, 7)
    assert cache.nbytes == allocated_bytes(text_config(64), LENGTH, 4, options)


@each
def test_options_make_a_difference(options: KVOptions) -> None:
    """Far more than the tolerance of the other tests."""
    if options == KVOptions():
        return
    plain, with_options = expected(KVOptions())[1], expected(options)[1]
    assert difference(plain[:, :, -1], with_options[:, :, -1]) > 5e-3


@each
def test_every_rewind_from_many_lengths(options: KVOptions) -> None:
    """It lands where the documentation says, and goes on as if nothing had been."""
    for length in (1, 31, 33, 64, 90, 103, 133):
        full = Cache(text_config(), options)
        feed(full, length, 11)
        for to in range(0, length + 1, 1 if length == 90 else 9):
            cache = full.fork()
            landed = cache.rewind(to)
            assert landed == landing(length, options, to) == cache.length
            feed(cache, min(length + 9, LENGTH), 16)


MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("prefill"), st.integers(1, 80)),
        st.tuples(st.just("decode"), st.integers(1, 4)),
        st.tuples(st.just("rewind"), st.integers(0, LENGTH)),
        st.tuples(st.just("fork"), st.integers(1, 20)),
        st.tuples(st.just("reserve"), st.integers(0, 400)),
        st.tuples(st.just("restore"), st.just(0)),
    ),
    min_size=2,
    max_size=10,
)


@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from([None, 8, 4]),
    start=st.integers(0, 100),
    size=st.none() | st.integers(16, 120),
    step=st.integers(1, 40),
    moves=MOVES,
)
def test_random_options_and_sequences(
    tmp_path_factory: pytest.TempPathFactory,
    bits: int | None,
    start: int,
    size: int | None,
    step: int,
    moves: list[tuple[str, int]],
) -> None:
    options = KVOptions(bits, start if bits else 0, size)
    file = tmp_path_factory.getbasetemp() / "kv"
    cache = Cache(text_config(), options)
    for move, count in moves:
        if move == "rewind":
            wanted = min(count, cache.length)
            assert cache.rewind(wanted) <= wanted
        elif move == "fork":
            left, cache = cache, cache.fork()
            feed(left, min(left.length + count, LENGTH))
        elif move == "reserve":
            cache.reserve(count)
        elif move == "restore":
            save(file, cache, fingerprint="model")
            cache = load(file, lambda: Cache(text_config(), options), fingerprint="model").cache
        else:
            feed(cache, min(cache.length + count, LENGTH), 1 if move == "decode" else step)
    feed(cache, min(cache.length + 3, LENGTH))


@each
def test_two_ways_to_one_length_hold_the_same_bits(options: KVOptions) -> None:
    one, other = Cache(text_config(), options), Cache(text_config(), options)
    feed(one, 110)
    for end, step in ((61, 3), (90, None), (110, 1)):
        feed(other, end, step)
    other.rewind(other.rewind(105))
    feed(other, 110, 2)
    for a, b in zip(outputs(one, 115), outputs(other, 115), strict=True):
        assert bool(mx.array_equal(a, b))


def test_a_size_that_is_never_reached_changes_no_bit() -> None:
    plain, bounded = Cache(text_config()), Cache(text_config(), KVOptions(max_size=LENGTH))
    for a, b in zip(outputs(plain, LENGTH), outputs(bounded, LENGTH), strict=True):
        assert bool(mx.array_equal(a, b))


def test_a_rotating_cache_is_bounded_and_keeps_the_first_and_the_latest() -> None:
    options = KVOptions(max_size=40)
    cache = Cache(text_config(), options)
    feed(cache, LENGTH)
    assert cache.layers[1].capacity == 40
    assert cache.nbytes == allocated_bytes(text_config(), LENGTH, 4, options)
    seen = visible(LENGTH, None, options).sum(axis=1)
    assert seen[:40].tolist() == list(range(1, 41))
    r = Rotation.of(40)
    assert (r.keep, r.block, r.old) == (4, 4, 8)
    assert set(seen[40:]) == set(range(r.keep + r.old * r.block + 1, 41))
    # A token sees itself and its predecessors back to a block; the first ones always.
    last = np.flatnonzero(visible(LENGTH, None, options)[-1]).tolist()
    assert last == [0, 1, 2, 3, *range(LENGTH - len(last) + 4, LENGTH)]


@pytest.mark.parametrize("size", [16, 17, 40, 100, 2049, 8192, 32768, 100_003])
def test_rotation_fills_its_size(size: int) -> None:
    r = Rotation.of(size)
    assert r.keep >= 4
    assert 1 <= r.block <= 2048
    assert r.old >= 7
    assert r.keep + (r.old + 1) * r.block == size
    # What is forgotten at once is at most an eighth, and where blocks are short no more than
    # a block is kept for good.
    assert r.block <= size / 8
    assert r.keep < r.block + 4


@each
def test_steps_are_cut_where_something_happens(options: KVOptions) -> None:
    """And a step that is not cut there is refused."""
    config = text_config()
    cuts = set(range(0, LENGTH, CHUNK)) | {options.start}
    if options.max_size:
        r = Rotation.of(options.max_size)
        cuts |= set(range(options.max_size, LENGTH, r.block))
    cache = Cache(config, options)
    assert [start for start, _ in cache.spans(LENGTH)] == sorted(cuts)
    for (start, end), (_, beyond) in pairwise(list(cache.spans(LENGTH))):
        assert cache.length == start
        with pytest.raises(ValueError, match="cut it with Cache.spans"):
            cache.begin(beyond - start)
        feed(cache, end)


@pytest.mark.parametrize("options", [KVOptions(8), KVOptions(4, 50), KVOptions(4, 9, 64)], ids=str)
def test_prefill_may_dequantise_heads_one_by_one(
    options: KVOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv, "DEQUANTISED_BYTES", 1)
    feed(Cache(text_config(), options), LENGTH)


@each
@pytest.mark.parametrize("most", [None, 150, 1500])
def test_allocated_bytes_are_those_predicted(options: KVOptions, most: int | None) -> None:
    """At every length up to 150, in steps, and at some far out."""
    config = text_config()
    for reserved in (0, 100, 1300):
        cache = Cache(config, options, most)
        cache.reserve(reserved)
        blank = mx.zeros((1, 2, CHUNK, 32))
        for start, end in cache.spans(1400, 13):
            cache.begin(end - start)
            for i in range(3):
                part = blank[:, :, : end - start]
                cache.update(i, part, part)
            cache.advance(end - start)
            if end < 150 or end % 5 == 0:
                mx.eval([layer.parts for layer in cache.layers])
                wanted = allocated_bytes(config, end, 4, options, most, reserved)
                assert cache.nbytes == wanted, (end, reserved)


def test_a_cache_to_be_quantised_never_has_room_for_more_than_until_then() -> None:
    options, blank = KVOptions(8, start=2100), mx.zeros((1, 2, CHUNK, 32))
    for reserved in (0, 5000):
        cache = Cache(text_config(), options, most=8000)
        cache.reserve(reserved)
        for start, end in cache.spans(2101):
            cache.begin(end - start)
            for i in range(3):
                cache.update(i, blank[:, :, : end - start], blank[:, :, : end - start])
            cache.advance(end - start)
            mx.eval([layer.parts for layer in cache.layers])
            wanted = allocated_bytes(text_config(), end, 4, options, 8000, reserved)
            assert cache.nbytes == wanted
            assert end > 2100 or cache.layers[1].capacity <= 2304


def test_quantising_goes_layer_by_layer() -> None:
    """What it takes beside the cache is for one layer of six, and no dense value stays."""
    config = replace(text_config(), num_hidden_layers=6, chunked_layers=(False,) * 6)
    cache, length = Cache(config, KVOptions(4, start=20_000)), 20_000
    for start, end in cache.spans(length):
        cache.begin(end - start)
        for i in range(6):
            part = mx.ones((1, 2, end - start, 32))
            cache.update(i, part, part)
        cache.advance(end - start)
        mx.eval([layer.parts for layer in cache.layers])
    dense = cache.nbytes
    assert dense == allocated_bytes(config, length, 4, cache.options)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    cache.begin(1)
    assert [type(layer).__name__ for layer in cache.layers] == ["PackedBuffer"] * 6
    assert cache.nbytes == allocated_bytes(config, length + 1, 4, cache.options)
    assert mx.get_active_memory() < before - dense / 2
    # One layer of values joined, as codes, and as codes with room for more.
    assert mx.get_peak_memory() - before < dense / 6 * 1.7


@pytest.mark.parametrize(
    ("bits", "start", "size", "said"),
    [
        (3, 0, None, "3 bits is not possible; use 8 or 4"),
        (16, 0, None, "use 8 or 4"),
        (8.0, 0, None, "use 8 or 4"),
        (8, -1, None, "from token -1 on"),
        (8, 1.5, None, "from token 1.5 on"),
        (None, 5, None, "no bits"),
        (None, 0, 15, "at most 15 tokens is not possible; use 16 or more"),
        (None, 0, 0, "use 16 or more"),
        (None, 0, True, "use 16 or more"),
    ],
)
def test_options_that_make_no_sense(bits: int, start: int, size: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        KVOptions(bits, start, size)


def test_heads_that_cannot_be_quantised() -> None:
    with pytest.raises(UsageError, match="heads of 48 values"):
        Cache(text_config(48), KVOptions(8))
    Cache(text_config(48), KVOptions(max_size=100))


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [(KVOptions(max_size=40), 1e-4), (KVOptions(max_size=99), 1e-4), (KVOptions(8, 30, 60), 2e-2)],
    ids=str,
)
def test_the_network_with_a_bounded_cache(
    model: Llama4, options: KVOptions, tolerance: float
) -> None:
    """Against a full pass with masks. A value at the edge between two codes may become either,
    so that with few bits the two are less close."""
    ids = mx.random.randint(0, 1000, (1, 120), key=mx.random.key(3))
    wanted = full_pass(model, ids, options)
    cache = model.make_cache(options, most=120)
    rows = [model(ids[:, :95], cache=cache)[0]]
    rows += [model(ids[:, i : i + 1], cache=cache)[0] for i in range(95, 120)]
    assert difference(mx.concatenate(rows), wanted) <= tolerance
    assert difference(full_pass(model, ids, KVOptions()), wanted) > 20 * tolerance


def test_half_precision_is_kept(maverick_mini: Path) -> None:
    """The activations' type is that of scales and of what is dequantised."""
    cache = Cache(text_config(), KVOptions(4))
    cache.begin(5)
    k, v = (part[:, :, :5].astype(mx.bfloat16) for part in rows()[1][1:])
    for i in range(3):
        held = cache.update(i, k, v)
    assert held[0].dense().dtype == held[0].scales.dtype == mx.bfloat16
    assert cache.nbytes == allocated_bytes(text_config(), 5, 2, KVOptions(4))
