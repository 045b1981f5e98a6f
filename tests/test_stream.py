"""Replies from any thread, cancelled from any thread, and in asyncio."""

import asyncio
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import pytest

from mlx_maverick.errors import UsageError
from mlx_maverick.events import Event, Finished, FinishReason, Prefill, Token, collect
from mlx_maverick.maverick import Maverick

PROMPTS = [f"Tell me about number {i}" for i in range(6)]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


def test_many_threads_get_their_own_answers(maverick: Maverick) -> None:
    wanted = [maverick.generate(p, **GREEDY).text for p in PROMPTS]
    assert len(set(wanted)) > 1
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        got = list(pool.map(lambda p: maverick.generate(p, **GREEDY).text, PROMPTS * 2))
    assert got == wanted * 2


def test_a_stream_may_be_read_on_another_thread(maverick: Maverick) -> None:
    stream = maverick.stream(PROMPTS[0], **GREEDY)
    first = next(stream)
    assert isinstance(first, Prefill)
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(collect, stream).result()
    assert reply.text == maverick.generate(PROMPTS[0], **GREEDY).text


def test_cancelled_from_another_thread(maverick: Maverick) -> None:
    stream = maverick.stream("Go on", temperature=0)
    tokens = threading.Semaphore(0)

    def cancel() -> None:
        for _ in range(5):
            tokens.acquire(timeout=60)
        stream.cancel()

    other = threading.Thread(target=cancel)
    other.start()
    seen: list[Event] = []
    for event in stream:
        seen.append(event)
        tokens.release()
    other.join()
    assert isinstance(seen[-1], Finished)
    assert seen[-1].reason is FinishReason.CANCELLED
    assert seen[-1].stats.new_tokens < 4000


def test_a_long_prefill_is_cancelled_between_layers(maverick: Maverick) -> None:
    """One step of 2,048 tokens would be the whole of it."""
    session = maverick.session()
    asked = 0

    def soon() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2

    ids = maverick.encode("word " * 600)
    events = list(maverick.stream_encoded(ids, session=session, should_stop=soon))
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.reason is FinishReason.CANCELLED
    assert not any(isinstance(e, Token) for e in events)
    # What was begun is forgotten, and the next attempt gives what a fresh one gives.
    again = collect(maverick.stream_encoded(ids, session=session, **GREEDY))
    assert again.text == maverick.generate("word " * 600, **GREEDY).text


def test_closing(maverick: Maverick) -> None:
    with maverick.stream(PROMPTS[1], **GREEDY) as stream:
        while not isinstance(next(stream), Token):
            pass
    assert list(stream) == []


def test_in_asyncio(maverick: Maverick) -> None:
    async def ask(prompt: str) -> str:
        stream = maverick.stream(prompt, **GREEDY)
        return "".join([e.text async for e in stream if isinstance(e, Token)])

    async def all_of_them() -> list[str]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        answers = await asyncio.gather(*(ask(p) for p in PROMPTS[:3]))
        ticking.cancel()
        assert ticks > 10  # the loop was never blocked for a whole reply
        return answers

    wanted = [maverick.generate(p, **GREEDY).text for p in PROMPTS[:3]]
    assert asyncio.run(all_of_them()) == wanted


def test_cancelling_a_task_ends_its_reply(maverick: Maverick) -> None:
    async def main() -> Maverick:
        stream = maverick.stream("Go on", temperature=0)
        begun = asyncio.Event()

        async def read() -> None:
            async with stream:
                async for event in stream:
                    if isinstance(event, Token):
                        begun.set()

        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [e async for e in stream] == []
        return maverick

    asyncio.run(main())
    assert maverick.generate("Hi", max_tokens=2).stats.new_tokens


def test_errors_arrive_where_the_events_are_read(maverick: Maverick) -> None:
    def broken(tokens: Any, logits: Any) -> Any:
        raise ZeroDivisionError("in a processor")

    stream = maverick.stream("Hi", logits_processors=[broken], **GREEDY)
    with pytest.raises(ZeroDivisionError, match="in a processor"):
        list(stream)
    assert maverick.generate("Hi", **GREEDY).text


def test_a_session_is_for_one_reply_at_a_time(maverick: Maverick) -> None:
    session = maverick.session()
    old = maverick.stream(PROMPTS[0], session=session, temperature=0, max_tokens=60)
    while not isinstance(next(old), Token):
        pass
    new = maverick.stream(PROMPTS[1], session=session, **GREEDY)
    assert collect(new).text == maverick.generate(PROMPTS[1], **GREEDY).text
    with pytest.raises(UsageError, match="its session was used for another one"):
        list(old)
    # Which did the newer one no harm.
    again = collect(maverick.stream(PROMPTS[1], session=session, **GREEDY))
    assert again.text == maverick.generate(PROMPTS[1], **GREEDY).text


@pytest.fixture
def without_gc() -> Iterator[None]:
    """Python looks for circles when it has made many objects, however large they are."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_gc")
def test_memory_is_free_once_a_stream_is_dropped(maverick: Maverick) -> None:
    before = maverick.run(mx.get_active_memory)
    stream = maverick.stream("word " * 300, temperature=0)
    while not isinstance(next(stream), Token):
        pass
    held = maverick.run(mx.get_active_memory) - before
    del stream
    assert held > 10**5
    assert maverick.run(mx.get_active_memory) - before < 10**4


@pytest.mark.usefixtures("without_gc")
def test_memory_is_free_once_a_reply_has_failed(maverick: Maverick) -> None:
    def broken(tokens: Any, logits: Any) -> Any:
        raise ZeroDivisionError

    before = maverick.run(mx.get_active_memory)
    with pytest.raises(ZeroDivisionError):
        maverick.generate("word " * 300, logits_processors=[broken])
    assert maverick.run(mx.get_active_memory) - before < 10**4


def test_seeded_replies_are_the_same_between_others(maverick: Maverick) -> None:
    """And with a prompt that is cached, and on another thread."""
    how: dict[str, Any] = {"temperature": 1.5, "max_tokens": 10}
    wanted = [maverick.generate(PROMPTS[i], seed=i, **how).ids for i in range(3)]
    streams = [maverick.stream(PROMPTS[i], seed=i, **how) for i in range(3)]
    found: list[list[int]] = [[], [], []]
    for _ in range(14):
        for ids, stream in zip(found, streams, strict=True):
            ids += [e.id for e in [next(stream, None)] if isinstance(e, Token) and e.id is not None]
            maverick.generate("Hi", max_tokens=1)  # without a seed
    assert found == wanted
    session = maverick.session()
    maverick.generate(PROMPTS[0], session=session, max_tokens=3)
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(maverick.generate, PROMPTS[0], session=session, seed=0, **how).result()
    assert again.ids == wanted[0]
    assert again.stats.cached_tokens > 0


def test_replies_without_a_seed_are_not_those_after_the_last_one_with_one(
    maverick: Maverick,
) -> None:
    replies = set()
    for _ in range(3):
        maverick.generate("Hi", seed=1, temperature=1.5, max_tokens=5)
        replies.add(maverick.generate("Hi", temperature=1.5, max_tokens=20).text)
    assert len(replies) > 1
