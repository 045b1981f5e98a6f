"""Prefill and decode: the reference's tokens, limits, stops, cancellation, seeds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_maverick.engine import Sampled, generate
from mlx_maverick.errors import BadCheckpoint, UsageError
from mlx_maverick.events import Finished, FinishReason, Prefill
from mlx_maverick.model import Llama4, load_model
from mlx_maverick.sampling import Sampling

from .golden import Golden

GREEDY = Sampling(temperature=0)


def run(model: Llama4, ids: list[int], **options: Any) -> tuple[list[int], Finished, list[Prefill]]:
    """(tokens, last event, prefill events) of one generation."""
    settings: dict[str, Any] = {"sampling": GREEDY, "context": 4096} | options
    cache = settings.pop("cache", None) or model.make_cache()
    events = list(generate(model, cache, ids, **settings))
    last = events[-1]
    assert isinstance(last, Finished)
    tokens = [e.id for e in events if isinstance(e, Sampled)]
    return tokens, last, [e for e in events if isinstance(e, Prefill)]


@pytest.mark.parametrize("step", [1, 7, 31, 32, 33, 64, 100, 2048])
def test_greedy_tokens_match_the_reference(model: Llama4, golden: Golden, step: int) -> None:
    ids, wanted = golden["greedy.input_ids"].tolist(), golden["greedy.new_ids"].tolist()
    assert len(wanted) == 48
    tokens, last, _ = run(model, ids, sampling=Sampling(temperature=0, max_tokens=48), step=step)
    assert tokens == wanted
    assert last.reason is FinishReason.LENGTH
    assert (last.stats.prompt_tokens, last.stats.new_tokens) == (len(ids), 48)


def test_prefill_is_reported_and_never_crosses_a_chunk(model: Llama4) -> None:
    _, _, prefills = run(model, list(range(1, 71)), sampling=Sampling(max_tokens=1), step=20)
    assert [p.done for p in prefills] == [0, 20, 32, 52, 64, 70]
    assert {p.total for p in prefills} == {70}


def test_the_cache_holds_prompt_and_answer(model: Llama4, golden: Golden) -> None:
    """The last token of a reply cut by its limit is not in the cache; all others are, and
    continuing from there gives what one run gives."""
    ids, wanted = golden["greedy.input_ids"].tolist(), golden["greedy.new_ids"].tolist()
    cache = model.make_cache()
    run(model, ids, cache=cache, sampling=Sampling(temperature=0, max_tokens=20))
    assert cache.length == len(ids) + 19
    tokens, last, _ = run(
        model, ids + wanted[:20], cache=cache, sampling=Sampling(temperature=0, max_tokens=28)
    )
    assert tokens == wanted[20:]
    assert last.stats.cached_tokens == len(ids) + 19


def test_a_stop_id_ends_the_turn(model: Llama4, golden: Golden) -> None:
    ids, wanted = golden["greedy.input_ids"].tolist(), golden["greedy.new_ids"].tolist()
    stop = wanted[10]
    first = wanted.index(stop)
    events = list(
        generate(
            model,
            model.make_cache(),
            ids,
            sampling=GREEDY,
            context=4096,
            stop_ids=frozenset([stop]),
        )
    )
    sampled = [e for e in events if isinstance(e, Sampled)]
    assert [s.id for s in sampled] == wanted[: first + 1]
    assert [s.stop for s in sampled] == [False] * first + [True]
    assert isinstance(events[-1], Finished)
    assert events[-1].reason is FinishReason.STOP


def test_the_context_is_a_limit(model: Llama4) -> None:
    tokens, last, _ = run(model, [1] * 30, context=36)
    assert len(tokens) == 6
    assert last.reason is FinishReason.LENGTH


@pytest.mark.parametrize("length", [36, 40])
def test_a_prompt_that_fills_the_context_is_refused(model: Llama4, length: int) -> None:
    cache = model.make_cache()
    with pytest.raises(UsageError, match=f"{length} tokens.*context of 36"):
        run(model, [1] * length, context=36, cache=cache)
    assert cache.length == 0


def test_cancelling_between_prefill_steps(model: Llama4) -> None:
    answers = iter([False, True])
    cache = model.make_cache()
    tokens, last, prefills = run(
        model,
        [1] * 100,
        cache=cache,
        interrupt=lambda: FinishReason.CANCELLED if next(answers) else None,
        step=32,
    )
    assert tokens == []
    assert last.reason is FinishReason.CANCELLED
    assert prefills[-1].done == cache.length == 64


def test_cancelling_between_tokens(model: Llama4, golden: Golden) -> None:
    ids, wanted = golden["greedy.input_ids"].tolist(), golden["greedy.new_ids"].tolist()
    cache = model.make_cache()
    seen: list[int] = []
    for event in generate(
        model,
        cache,
        ids,
        sampling=GREEDY,
        context=4096,
        interrupt=lambda: FinishReason.CANCELLED if len(seen) == 5 else None,
    ):
        if isinstance(event, Sampled):
            seen.append(event.id)
    assert seen == wanted[:5]
    assert isinstance(event, Finished)
    assert event.reason is FinishReason.CANCELLED
    # What the cache holds is what was handed out: it can be continued.
    assert cache.length == len(ids) + 5


def test_closing_the_stream_leaves_a_usable_cache(model: Llama4, golden: Golden) -> None:
    ids, wanted = golden["greedy.input_ids"].tolist(), golden["greedy.new_ids"].tolist()
    cache = model.make_cache()
    events = generate(model, cache, ids, sampling=GREEDY, context=4096)
    seen = [e.id for e in first_sampled(events, 7)]
    events.close()
    assert seen == wanted[:7]
    prompt = ids + seen
    cache.rewind(min(cache.length, len(prompt) - 1))
    tokens, _, _ = run(model, prompt, cache=cache, sampling=Sampling(temperature=0, max_tokens=10))
    assert tokens == wanted[7:17]


def first_sampled(events: Iterator[Any], count: int) -> Iterator[Sampled]:
    for event in events:
        if isinstance(event, Sampled):
            yield event
            count -= 1
            if count == 0:
                return


def test_equal_seeds_give_equal_answers(model: Llama4) -> None:
    def tokens(seed: int) -> list[int]:
        return run(model, [5, 6, 7], sampling=Sampling(temperature=1.5, seed=seed, max_tokens=30))[
            0
        ]

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


def test_sampling_follows_the_distribution(model: Llama4) -> None:
    """The likeliest token comes about as often as its probability says."""
    ids = [5, 6, 7]
    logits = model(mx.array([ids]))[0, -1]
    best = int(mx.argmax(logits).item())
    temperature = 0.5
    wanted = float(mx.softmax(logits / temperature)[best].item())
    draws = 400
    options: dict[str, Any] = {"temperature": temperature, "top_p": 1, "min_p": 0, "max_tokens": 1}
    hits = sum(
        run(model, ids, sampling=Sampling(seed=seed, **options))[0] == [best]
        for seed in range(draws)
    )
    assert abs(hits / draws - wanted) < 4 * (wanted * (1 - wanted) / draws) ** 0.5 + 1e-9


def test_weights_that_make_no_numbers_are_an_error(maverick_mini: Path) -> None:
    """Else they would answer the same token for ever."""
    broken = load_model(maverick_mini)
    broken.text.norm.weight = mx.full(broken.text.norm.weight.shape, float("nan"))
    for sampling in (GREEDY, Sampling(temperature=1)):
        cache = broken.make_cache()
        with pytest.raises(BadCheckpoint, match="not numbers"):
            run(broken, [5, 6, 7], sampling=sampling, cache=cache)
        assert cache.length == 0  # so that nobody saves it


class Features:
    """Hands out rows of given features and remembers which were asked for."""

    def __init__(self, rows: mx.array):
        self.rows, self.asked = rows, []

    def between(self, first: int, last: int) -> mx.array:
        self.asked.append((first, last))
        return self.rows[first:last]


@pytest.mark.parametrize("step", [1, 7, 33, 2048])
def test_pictures_arrive_in_any_step(model: Llama4, golden: Golden, step: int) -> None:
    """A picture cut by prefill steps and chunk boundaries gives the same first token."""
    ids = golden["image_03.input_ids"].tolist()
    features = Features(golden["image_03.features"].reshape(-1, 128))
    tokens, _, _ = run(
        model, ids, features=features, sampling=Sampling(temperature=0, max_tokens=1), step=step
    )
    assert tokens == [int(mx.argmax(golden["image_03.logits_last"]).item())]
    assert [n for a, b in features.asked for n in range(a, b)] == list(range(len(features.rows)))


def test_pictures_in_the_cache_keep_their_numbers(model: Llama4, golden: Golden) -> None:
    ids = golden["image_03.input_ids"].tolist()
    features = Features(golden["image_03.features"].reshape(-1, 128))
    cache = model.make_cache()
    one = Sampling(temperature=0, max_tokens=1)
    wanted, _, _ = run(model, ids, features=features, cache=cache, sampling=one)
    landed = cache.rewind(40)
    before = sum(id == model.config.patch_token_id for id in ids[:landed])
    assert before > 0
    features.asked.clear()
    again, _, _ = run(model, ids, features=features, cache=cache, sampling=one)
    assert again == wanted
    assert features.asked[0][0] == before


def test_logits_are_not_kept_for_the_whole_prompt(model: Llama4) -> None:
    """Prefill computes one row of logits, not one for every position of the prompt."""
    before = mx.get_active_memory()  # other tests' models are in memory too
    _, last, _ = run(model, [1] * 1500, sampling=Sampling(temperature=0, max_tokens=1))
    all_logits = 1500 * model.config.text.vocab_size * 4
    assert last.stats.peak_memory - before < all_logits
