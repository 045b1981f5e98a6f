"""The worker that answers now: started, replaced, ended; its events in one queue.

Knows nothing of what the events mean. Events of a worker that was replaced do not count.
"""

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from ..client import Failed, Text, WorkerEvent
from ..errors import MaverickError
from ..kv import KVOptions
from ..sampling import Sampling
from ..streaming.options import ExpertOptions


class Engine(Protocol):
    """What the chat uses of `Client`; tests bring their own."""

    def load(
        self,
        model: str,
        context: int | None = None,
        kv: KVOptions | None = None,
        experts: ExpertOptions | None = None,
    ) -> None: ...
    def generate(self, messages: list[dict[str, Any]], sampling: Sampling) -> int: ...
    def cancel(self, id: int) -> None: ...
    def close(self) -> bool: ...


Connect = Callable[[Callable[[WorkerEvent], None]], Engine]


class Link:
    """At most one worker. For the app's thread, but for what workers deliver."""

    def __init__(self, connect: Connect, wake: Callable[[], None], kept: Callable[[Text], None]):
        """`wake` is called when events wait that nobody was told of, and `kept` with all text of
        a reply, both on any thread."""
        self._connect, self._wake, self._kept = connect, wake, kept
        self._lock = threading.RLock()  # of what follows: one worker counts, and no other
        self._number = 0  # of that one
        self._events: deque[WorkerEvent] = deque()
        self._woken = False
        self._ending: list[threading.Thread] = []
        self._unended = False
        self.engine: Engine | None = None

    def start(self, load: Callable[[Engine], None]) -> None:
        """Start a worker, when those before it have given their memory back, and `load` its
        model. That a process cannot be started comes as Failed, of op 'load'."""
        self.end()
        number = self._number
        waiting = [thread for thread in self._ending if thread.is_alive()]
        if not waiting:
            self._begin(number, load)
            return

        def begin() -> None:
            for thread in waiting:
                thread.join()
            self._begin(number, load)

        threading.Thread(target=begin, name="starting", daemon=True).start()

    def end(self) -> None:
        """Let the worker end in the background; nothing of it counts any more."""
        with self._lock:
            self._number += 1
            self._events.clear()
            engine, self.engine = self.engine, None
        if engine is not None:
            thread = threading.Thread(target=self._close, args=(engine,), name="ending")
            self._ending = [*(t for t in self._ending if t.is_alive()), thread]
            thread.start()

    def close(self) -> bool:
        """End all workers and wait for them; whether they have ended."""
        self.end()
        for thread in self._ending:
            thread.join()
        return not self._unended

    def take(self) -> deque[WorkerEvent]:
        """The events that wait, to be taken from the left."""
        self._woken = False  # before the first look: an event that comes later wakes again
        return self._events

    def _begin(self, number: int, load: Callable[[Engine], None]) -> None:
        """Start a worker, unless another one is wanted by now, or none."""
        try:
            with self._lock:
                if number != self._number:
                    return
                engine = self.engine = self._connect(partial(self._deliver, number))
        except OSError as e:
            why = f"the model's process cannot be started: {e}"
            self._deliver(number, Failed("load", None, MaverickError.__name__, why, 1))
            return
        load(engine)

    def _close(self, engine: Engine) -> None:
        self._unended |= not engine.close()

    def _deliver(self, number: int, event: WorkerEvent) -> None:
        if number != self._number:
            return
        if isinstance(event, Text):
            self._kept(event)  # which may take its time
        with self._lock:
            if number != self._number:
                return
            self._events.append(event)
            woken, self._woken = self._woken, True
        if not woken:
            self._wake()
