"""One reply as it is made: an iterator of events, for loops and for asyncio.

Knows nothing of models. Every step is taken on the engine's thread, when the next event is
asked for; so several streams may take turns, and one that nobody reads computes nothing.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from types import TracebackType

from . import engine_thread
from .events import Event

ShouldStop = Callable[[], bool]


class Stream(Iterator[Event]):
    """The events of one reply: `Prefill`, `Token`, and `Finished` last.

    Use it in `for`, or in `async for`; `cancel` may be called from any thread. Two threads
    must not iterate over one stream.
    """

    def __init__(self, start: Callable[[ShouldStop], Iterator[Event]], should_stop: ShouldStop):
        """`start` makes the events, given a function that says when to end early."""
        self._cancelled = cancelled = threading.Event()
        # Not of `self`: in a circle, a stream that nobody reads to its end would keep its KV
        # cache until Python looks for circles.
        self._events = start(lambda: cancelled.is_set() or engine_thread.ending() or should_stop())

    def cancel(self) -> None:
        """End the reply at the next token, prefill step or layer. From any thread; the stream
        then ends with `Finished(FinishReason.CANCELLED)`."""
        self._cancelled.set()

    def watched(self, watch: Callable[[Iterator[Event]], Iterator[Event]]) -> "Stream":
        """The same stream, of which `watch` sees every event on its way."""
        self._events = watch(self._events)
        return self

    def close(self) -> None:
        """Give the reply up; no more events come. What was generated stays in the session."""
        self._cancelled.set()
        engine_thread.run(self._close)

    def __next__(self) -> Event:
        try:
            event = engine_thread.run(self._next)
        except BaseException:
            self._cancelled.set()  # an interrupted wait leaves a step running: it ends early
            raise
        if event is None:
            raise StopIteration
        return event

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Event:
        try:
            event = await asyncio.wrap_future(engine_thread.submit(self._next))
        except BaseException:
            self._cancelled.set()
            raise
        if event is None:
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        """`close`, without blocking the event loop."""
        self._cancelled.set()
        await asyncio.wrap_future(engine_thread.submit(self._close))

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> "Stream":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _next(self) -> Event | None:
        return next(self._events, None)

    def _close(self) -> None:
        close = getattr(self._events, "close", None)
        if close is not None:
            close()
