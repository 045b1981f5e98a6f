"""Many steps that go through the layers together: what the cache then holds is what it holds
after one at a time, and what was begun can be taken back.
"""

from itertools import product
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_maverick.cache import Cache
from mlx_maverick.cache.buffers import Buffer
from mlx_maverick.kv import DENSE, KVOptions, allocated_bytes
from mlx_maverick.model.attend import attend

from . import drive
from .drive import CHUNK, CHUNKED, LENGTH

Group = list[tuple[int, int]]
# Rotating: 12 or 13 tokens for good, and blocks of 4 or 9.
OPTIONS = [
    DENSE,
    KVOptions(8),
    KVOptions(4, start=45),
    KVOptions(8, start=64),
    KVOptions(max_size=40),
    KVOptions(max_size=85),
    KVOptions(8, max_size=40),
    KVOptions(8, start=70, max_size=40),
    KVOptions(4, start=20, max_size=85),
]
options = pytest.mark.parametrize("options", OPTIONS, ids=str)


def fresh(options: KVOptions) -> Cache:
    return Cache(drive.text_config(), options)


def layer_step(cache: Cache, layer: int, at: int, end: int) -> None:
    """What a layer does with the tokens from `at` to `end`, compared with what is expected."""
    cache.place(at, end - at)
    q, k, v = (part[:, :, at:end] for part in drive.rows()[layer])
    out = attend(q, *cache.update(layer, k, v), cache.config.head_dim**-0.5)
    wanted = drive.expected(cache.options)[layer][:, :, at:end]
    difference = mx.abs(out - wanted).max().item()
    assert difference <= 1e-4, (cache.options, layer, at, end, difference)


def take(cache: Cache, group: Group, first: int) -> None:
    """A group of steps, each layer all of them before the next one; counted from `first`."""
    steps = [(first + a, first + b) for a, b in group]
    places = cache.begin_all([b - a for a, b in steps])
    assert places == [(at, at % CHUNK) for at, _ in steps]
    for layer in range(len(CHUNKED)):
        for at, end in steps:
            layer_step(cache, layer, at, end)
    cache.advance(group[-1][1] - group[0][0])


def take_all(cache: Cache, end: int, step: int, most: int | None) -> None:
    first = cache.length
    for group in list(cache.passes(end - first, step, most)):
        assert cache.length == first + group[0][0]
        take(cache, group, first)


def stepwise(options: KVOptions, *ends: int) -> Cache:
    """One that was filled step by step up to each of these positions."""
    cache = fresh(options)
    for end in ends:
        drive.feed(cache, end)
    return cache


def same(a: Cache, b: Cache) -> bool:
    """Whether two caches hold the same, to the bit."""
    state = [(c.length, c.chunk_start, c.turns, c.packed, c.held) for c in (a, b)]
    if state[0] != state[1]:
        return False
    for mine, other, held in zip(a.layers, b.layers, a.held, strict=True):
        rows, others = mine.rows(held), other.rows(held)
        if rows.keys() != others.keys():
            return False
        if not all(np.array_equal(np.array(rows[n]), np.array(others[n])) for n in rows):
            return False
    return True


@options
@pytest.mark.parametrize("at", [0, 31, 50])
def test_groups_are_the_pieces_of_spans(options: KVOptions, at: int) -> None:
    cache = stepwise(options, at)
    for step, most in product((1, 7, 32, 2048), (None, 1, 40, 64, 10_000)):
        pieces = list(cache.spans(LENGTH - at, step))
        groups = list(cache.passes(LENGTH - at, step, most))
        assert [piece for group in groups for piece in group] == pieces
        if most is None:
            assert all(len(group) == 1 for group in groups)
        else:
            assert all(len(g) == 1 or g[-1][1] - g[0][0] <= most for g in groups)


def changes(options: KVOptions, group: Group, at: int) -> bool:
    """Whether the whole cache changes in a group, once its first step has begun."""
    rotation = options.rotation
    turns = {rotation.turns(at + start) if rotation else 0 for start, _ in group}
    packed = {options.packed(at + end) for _, end in group}
    return len(turns) > 1 or len(packed) > 1


@options
@pytest.mark.parametrize("at", [0, 31, 32, 69])
def test_a_group_ends_where_the_cache_changes_and_not_before(options: KVOptions, at: int) -> None:
    cache = stepwise(options, at)
    for step, most in product((1, 7, 32), (40, 64, 10_000)):
        groups = list(cache.passes(LENGTH - at, step, most))
        for group, following in zip(groups, [*groups[1:], None], strict=True):
            assert not changes(options, group, at)
            if following:
                longer = [*group, following[0]]
                assert changes(options, longer, at) or longer[-1][1] - longer[0][0] > most


def test_a_plain_cache_takes_everything_at_once() -> None:
    (group,) = fresh(DENSE).passes(LENGTH, 2048, 10_000)
    assert group == [(0, 32), (32, 64), (64, 96), (96, 128), (128, 150)]
    (group,) = fresh(KVOptions(8)).passes(LENGTH, 20, 10_000)
    assert group[:3] == [(0, 20), (20, 32), (32, 52)]
    assert list(fresh(DENSE).passes(0, 2048, 10_000)) == []


@options
@pytest.mark.parametrize(
    ("at", "end", "step", "most"),
    [(0, 140, 2048, 10_000), (33, 128, 5, 64), (64, 129, 9, 50), (5, 96, 40, 10_000)],
)
def test_the_same_is_held_as_after_one_step_at_a_time(
    options: KVOptions, at: int, end: int, step: int, most: int
) -> None:
    cache = stepwise(options, at)
    take_all(cache, end, step, most)
    other = stepwise(options, at)
    drive.feed(other, end, step)
    assert same(cache, other)
    assert cache.nbytes == other.nbytes
    drive.feed(cache, LENGTH, 1)


@options
def test_room_that_was_asked_for_is_taken_once(
    options: KVOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none that will not be needed."""
    grown, grow = [], Buffer.grow

    def counted(buffer: Buffer, *args: Any) -> None:
        grown.append(buffer)
        grow(buffer, *args)

    monkeypatch.setattr(Buffer, "grow", counted)
    cache = fresh(options)
    cache.reserve(600)
    take_all(cache, 140, 16, 10_000)
    assert cache.nbytes == allocated_bytes(cache.config, 140, 4, options, None, 600)
    assert len(grown) <= 2 * len(CHUNKED)  # once more when it is quantised
    grown.clear()
    take_all(fresh(options), 140, 16, 10_000)
    assert len(grown) <= 2 * len(CHUNKED)  # once more when it is quantised


def test_one_step_is_begun_as_ever() -> None:
    cache = fresh(KVOptions(max_size=40))
    assert cache.begin_all([30]) == [(0, 0)]
    with pytest.raises(ValueError, match="crosses a chunk boundary"):
        cache.begin_all([33])
    drive.feed(cache, 32)
    with pytest.raises(ValueError, match="rotates"):
        cache.begin_all([9])


def begun(cache: Cache, group: Group, layers: int, steps: int) -> list[int]:
    """Begin a group, and take it through some layers, and in the next one some steps."""
    first = cache.length
    assert group[0][0] == 0
    counts = [b - a for a, b in group]
    cache.begin_all(counts)
    assert cache.under_way == (len(counts) > 1)
    done = [(layer, piece) for layer in range(layers) for piece in group]
    if layers < len(CHUNKED):
        done += [(layers, piece) for piece in group[:steps]]
    for layer, (a, b) in done:
        layer_step(cache, layer, first + a, first + b)
    mx.eval([part for layer in cache.layers for part in layer.parts])
    return counts


def abandoned(cache: Cache, group: Group, layers: int, steps: int) -> None:
    """The same, and take it back."""
    cache.abandon(begun(cache, group, layers, steps))
    assert not cache.under_way


@options
@pytest.mark.parametrize("at", [0, 31, 45, 64, 101])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_what_is_abandoned_leaves_what_a_fresh_cache_would_hold(
    options: KVOptions, at: int, layers: int
) -> None:
    cache = stepwise(options, at)
    groups = list(cache.passes(LENGTH - at, 12, 10_000))
    abandoned(cache, groups[0], layers, 1)
    inside = groups[0][-1][0] + at < (at // CHUNK + 1) * CHUNK  # all steps in one chunk
    landed = cache.length
    if inside:
        assert landed == at
    elif options == DENSE:
        assert landed == at - at % CHUNK
    else:
        assert landed <= at
    assert cache.chunk_start <= landed
    # All that is held is what a fresh cache has there, as far as positions go.
    drive.feed(cache, LENGTH, 13)
    other = stepwise(options, at, LENGTH)
    assert cache.length == other.length
    assert (cache.turns, cache.packed, cache.held) == (other.turns, other.packed, other.held)
    # And it can be gone back from as ever.
    cache.rewind(LENGTH - 3)
    drive.feed(cache, LENGTH, 1)


def test_what_lies_in_one_chunk_costs_nothing() -> None:
    """What was there still is, to the bit, and nothing has to be computed again."""
    cache = stepwise(DENSE, 70)
    before = stepwise(DENSE, 70)
    abandoned(cache, [(0, 10), (10, 20), (20, 26)], 2, 2)
    assert same(cache, before)
    assert cache.rewind(66) == 66
    drive.feed(cache, LENGTH, 1)


def test_what_was_abandoned_can_be_taken_again() -> None:
    for options in OPTIONS:
        cache = stepwise(options, 50)
        group = next(iter(cache.passes(LENGTH - 50, 12, 10_000)))
        abandoned(cache, group, 2, 1)
        take_all(cache, LENGTH, 12, 10_000)
        assert cache.length == LENGTH


@pytest.mark.parametrize("at", [50, 64])
@pytest.mark.parametrize("way", ["begin", "rewind", "fork", "settle"])
def test_whoever_comes_in_between_takes_it_back(at: int, way: str) -> None:
    """A reply that was left in the middle, and ends late or never."""
    cache = stepwise(DENSE, at)
    counts = begun(cache, next(iter(cache.passes(60, 10, 64))), 2, 3)
    if way == "begin":
        cache.begin(1)
    elif way == "rewind":
        assert cache.rewind(at) == at - at % CHUNK
    elif way == "fork":
        other = cache.fork()
        assert cache.under_way
        assert other.length == at - at % CHUNK
        drive.feed(other, LENGTH, 7)
        cache.settle()
    else:
        cache.settle()
    assert not cache.under_way
    assert cache.length == at - at % CHUNK
    drive.feed(cache, 100, 7)
    cache.abandon(counts)  # is of nothing any more
    assert cache.length == 100
    late = begun(cache, [(0, 28), (28, 40)], 1, 0)
    cache.abandon(counts)  # nor of what is going on now
    assert cache.under_way
    cache.abandon(late)
    assert cache.length == 96
    drive.feed(cache, LENGTH, 7)


def test_what_is_taken_is_not_under_way() -> None:
    cache = fresh(DENSE)
    take(cache, [(0, 32), (32, 40)], 0)
    assert not cache.under_way
    cache.settle()
    assert cache.length == 40
    assert same(cache, stepwise(DENSE, 40))


def test_a_fork_does_not_see_what_is_abandoned() -> None:
    cache = stepwise(DENSE, 70)
    other = cache.fork()
    abandoned(cache, next(iter(cache.passes(60, 12, 10_000))), 3, 0)
    assert same(other, stepwise(DENSE, 70))
    drive.feed(other, LENGTH, 1)


@settings(max_examples=40, deadline=None)
@given(
    options=st.sampled_from(OPTIONS),
    moves=st.lists(
        st.one_of(
            st.tuples(st.just("pass"), st.integers(1, 90), st.integers(1, 40)),
            st.tuples(st.just("step"), st.integers(1, 20), st.just(0)),
            st.tuples(st.just("abandon"), st.integers(1, 90), st.integers(0, 30)),
            st.tuples(st.just("rewind"), st.integers(0, LENGTH), st.just(0)),
        ),
        min_size=2,
        max_size=8,
    ),
)
def test_random_histories(options: KVOptions, moves: list[tuple[str, int, int]]) -> None:
    """Everything that is computed on the way is compared with the definition."""
    cache = fresh(options)
    for move, count, more in moves:
        end = min(cache.length + count, LENGTH)
        if move == "pass":
            take_all(cache, end, more, 64)
        elif move == "step":
            drive.feed(cache, end)
        elif move == "rewind":
            cache.rewind(min(count, cache.length))
        elif end > cache.length:
            group = next(iter(cache.passes(end - cache.length, 1 + more, 64)))
            before = cache.length
            abandoned(cache, group, more % 4, more % 3)
            assert cache.length <= before
    drive.feed(cache, LENGTH, 16)
