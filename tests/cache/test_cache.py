"""The KV caches: exact after any rewind, whatever came before it."""

from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_maverick.cache import Cache
from mlx_maverick.config import ModelConfig
from mlx_maverick.memory import kv_bytes
from mlx_maverick.model import Llama4

from ..golden import Golden, difference

CHUNK = 32
LENGTH = 140


@pytest.fixture(scope="module")
def ids(model: Llama4) -> mx.array:
    return mx.random.randint(0, 1000, (1, LENGTH), key=mx.random.key(5))


@pytest.fixture(scope="module")
def fresh(model: Llama4, ids: mx.array) -> mx.array:
    """What a run that never rewound gives, [LENGTH, V]."""
    return model(ids)[0]


def decode(model: Llama4, cache: Cache, ids: mx.array, end: int) -> mx.array:
    """Feed ids from where the cache stands up to `end`, token by token."""
    rows = [model(ids[:, i : i + 1], cache=cache)[0] for i in range(cache.length, end)]
    return mx.concatenate(rows)


@pytest.mark.parametrize("prefilled", [40, 64, 65, 96, 130])
@pytest.mark.parametrize("back", [0, 1, 2, 31, 32, 33, 63, 64, 96, 129])
def test_rewinding_and_continuing_equals_a_fresh_run(
    model: Llama4, ids: mx.array, fresh: mx.array, prefilled: int, back: int
) -> None:
    """Inside the chunk, onto a boundary, across one, and across three."""
    wanted = prefilled - back
    if wanted < 0:
        wanted = 0
    cache = model.make_cache()
    model(ids[:, :prefilled], cache=cache)
    landed = cache.rewind(wanted)
    held = (prefilled - 1) // CHUNK * CHUNK
    exact = wanted >= held or wanted % CHUNK == 0
    assert landed == (wanted if exact else wanted // CHUNK * CHUNK)
    assert cache.length == landed
    end = min(prefilled + 40, LENGTH)
    assert difference(decode(model, cache, ids, end), fresh[landed:end]) <= 1e-4


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    moves=st.lists(
        st.one_of(
            st.tuples(st.just("prefill"), st.integers(1, 70)),
            st.tuples(st.just("decode"), st.integers(1, 3)),
            st.tuples(st.just("rewind"), st.integers(0, LENGTH)),
        ),
        min_size=2,
        max_size=10,
    )
)
def test_random_sequences_match_a_fresh_pass(
    model: Llama4, ids: mx.array, fresh: mx.array, moves: list[tuple[str, int]]
) -> None:
    cache = model.make_cache()
    for move, count in moves:
        start = cache.length
        if move == "rewind":
            wanted = min(count, start)
            landed = cache.rewind(wanted)
            assert wanted - CHUNK < landed <= wanted
        elif move == "prefill" and start < LENGTH:
            end = min(start + count, LENGTH)
            rows = model(ids[:, start:end], cache=cache)[0]
            assert difference(rows, fresh[start:end]) <= 1e-4
        elif move == "decode" and start + count <= LENGTH:
            rows = decode(model, cache, ids, start + count)
            assert difference(rows, fresh[start : start + count]) <= 1e-4


def test_a_different_continuation_leaves_no_trace(model: Llama4, ids: mx.array) -> None:
    """What was rewound is overwritten, also across a boundary."""
    cache = model.make_cache()
    model(ids[:, :50], cache=cache)
    model(ids[:, 90:120], cache=cache)  # now 80 tokens
    landed = cache.rewind(50)
    assert landed == 32
    other = mx.concatenate([ids[:, :50], ids[:, 100:130]], axis=1)
    assert difference(model(other[:, landed:], cache=cache)[0], model(other)[0, landed:]) <= 1e-4


def test_rewinding_beyond_what_is_there_is_an_error(model: Llama4, ids: mx.array) -> None:
    cache = model.make_cache()
    model(ids[:, :10], cache=cache)
    for length in (-1, 11):
        with pytest.raises(ValueError, match="holds 10 tokens"):
            cache.rewind(length)


def test_no_step_may_cross_a_boundary(model: Llama4) -> None:
    cache = model.make_cache()
    with pytest.raises(ValueError, match="crosses a chunk boundary"):
        cache.begin(CHUNK + 1)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 200), count=st.integers(0, 200), step=st.integers(1, 100))
def test_spans_cover_everything_and_cross_nothing(
    maverick_mini: Path, at: int, count: int, step: int
) -> None:
    cache = Cache(ModelConfig.from_folder(maverick_mini).text)
    cache.length = at
    spans = list(cache.spans(count, step))
    assert [i for start, end in spans for i in range(start, end)] == list(range(count))
    for start, end in spans:
        assert end - start <= step
        assert (at + start) // CHUNK == (at + end - 1) // CHUNK


@pytest.mark.parametrize("length", [1, 31, 33, 255, 256, 257, 600])
def test_allocated_bytes_are_those_predicted(maverick_mini: Path, length: int) -> None:
    """Prefilled at once or token by token."""
    text = ModelConfig.from_folder(maverick_mini).text
    wanted = kv_bytes(text, length, element_bytes=4)
    cache = Cache(text)
    for start, end in cache.spans(length, 7):
        cache.begin(end - start)
        rows = mx.zeros((1, text.num_key_value_heads, end - start, text.head_dim))
        for layer in range(text.num_hidden_layers):
            cache.update(layer, rows, rows)
        cache.advance(end - start)
    assert cache.nbytes == wanted


def test_reserving_allocates_once(maverick_mini: Path) -> None:
    text = ModelConfig.from_folder(maverick_mini).text
    cache = Cache(text)
    cache.reserve(1000)
    rows = mx.zeros((1, text.num_key_value_heads, 5, text.head_dim))
    cache.begin(5)
    for layer in range(text.num_hidden_layers):
        cache.update(layer, rows, rows)
    assert cache.nbytes == kv_bytes(text, 1000, element_bytes=4)


def test_golden_decoding_after_a_rewind(model: Llama4, golden: Golden) -> None:
    longest = max(golden.cases("text"), key=lambda case: case["tokens"])["name"]
    ids, wanted = golden[f"{longest}.input_ids"], golden[f"{longest}.logits"]
    cache = model.make_cache()
    model(ids[None], cache=cache)
    landed = cache.rewind(len(ids) - 40)
    rows = model(ids[None, landed:], cache=cache)[0]
    shared = min(len(rows), len(wanted))
    assert difference(rows[-shared:], wanted[-shared:]) <= 1e-3
