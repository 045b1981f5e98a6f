"""A fork goes its own way, and memory is shared until it does."""

import mlx.core as mx
import pytest

from mlx_maverick.cache import Cache
from mlx_maverick.kv import KVOptions

from .drive import feed, outputs, rows, text_config

OPTIONS = [
    KVOptions(),
    KVOptions(4),
    KVOptions(8, 60),
    KVOptions(max_size=40),
    KVOptions(4, 55, 33),
]


def held(cache: Cache) -> list[bytes]:
    """All bytes of all buffers."""
    parts = [part for layer in cache.layers for part in layer.parts]
    return [memoryview(mx.contiguous(part)).tobytes() for part in parts]


def scribble(cache: Cache, count: int) -> None:
    """Add tokens that are in no other test."""
    for a, b in cache.spans(count):
        cache.begin(b - a)
        for i in range(len(cache.layers)):
            noise = mx.full((1, 2, b - a, 32), 7.5)
            cache.update(i, noise, -noise)
        cache.advance(b - a)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("evaluated", [True, False])
def test_neither_sees_what_the_other_writes(options: KVOptions, evaluated: bool) -> None:
    """Also where what was written before is not computed yet."""
    for length in (20, 58, 100):
        cache = Cache(text_config(), options)
        feed(cache, length)
        if evaluated:
            mx.eval([layer.parts for layer in cache.layers])
        fork = cache.fork()
        other = cache.fork()
        scribble(fork, 30)
        mx.eval([layer.parts for layer in fork.layers])
        scribble(cache, 3)
        before = held(other)
        mx.eval([layer.parts for layer in cache.layers])
        assert held(other) == before
        feed(other, length + 30, 8)
        assert fork.length == length + 30
        assert cache.length == length + 3
        cache.rewind(cache.rewind(length))
        feed(cache, length + 5)


def test_a_fork_continues_with_the_same_bits() -> None:
    options = KVOptions(4, 55, 33)
    cache = Cache(text_config(), options, most=140)
    feed(cache, 100)
    cache.reserve(130)
    fork = cache.fork()
    assert (fork.length, fork.nbytes, fork.reserved) == (100, cache.nbytes, 130)
    for a, b in zip(outputs(cache, 130), outputs(fork, 130), strict=True):
        assert bool(mx.array_equal(a, b))
    assert fork.nbytes == cache.nbytes


def test_memory_is_shared_until_one_is_written() -> None:
    cache = Cache(text_config())
    cache.reserve(50_000)
    feed(cache, 10)
    mx.eval([layer.parts for layer in cache.layers])
    before = mx.get_active_memory()
    forks = [cache.fork() for _ in range(5)]
    assert mx.get_active_memory() == before
    feed(forks[0], 12)
    mx.eval([layer.parts for layer in forks[0].layers])
    assert before < mx.get_active_memory() <= before + cache.nbytes + 10**6


def test_in_place_writing_copies_nothing_without_a_fork() -> None:
    """A step's memory is not that of the whole cache."""
    cache = Cache(text_config())
    cache.reserve(200_000)
    feed(cache, 10)
    mx.eval([layer.parts for layer in cache.layers], rows())
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    feed(cache, 30, 1)
    mx.eval([layer.parts for layer in cache.layers])
    assert mx.get_peak_memory() - before < cache.nbytes / 10
