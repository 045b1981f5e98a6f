"""A few threads that share the tasks of many calls, and never outlive anyone's interest.

Knows nothing of networks. Who waits for a call can be interrupted at any moment; from then
on nothing is written into his buffer any more.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from mlx_maverick.errors import MaverickError


class Stopped(Exception):
    """Nobody waits for these bytes any more."""


class Call:
    """One `Workers.run`: what is left of it, and whether someone still waits for it."""

    def __init__(self, tasks: int):
        self.stopped = threading.Event()
        self.done = threading.Event()
        self.error: BaseException | None = None
        self._left = tasks
        self._lock = threading.Lock()

    def write(self, target: memoryview, data: bytes) -> None:
        """Copy `data` over `target`. Raises Stopped instead once the buffer is its owner's."""
        with self._lock:
            if self.stopped.is_set():
                raise Stopped
            target[:] = data

    def finish(self) -> None:
        """One task ended well."""
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self.done.set()

    def stop(self, error: BaseException | None = None) -> None:
        """End the call: with an error its tasks met, or because nobody waits."""
        with self._lock:
            if not self.done.is_set():
                self.error = error
            self.stopped.set()
            self.done.set()


Task = Callable[[Call], None]


class Workers:
    """`count` threads, started by the first call.

    They are daemons: one that waits for a silent server must not hold up the program's end.
    """

    def __init__(self, count: int, name: str):
        self._count = count
        self._name = name
        self._queue: SimpleQueue[tuple[Call, Task] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._calls: set[Call] = set()
        self._closed = False

    def run(self, tasks: Sequence[Task]) -> None:
        """Run all of them, several at once; the first error ends the call and is raised."""
        call = Call(len(tasks))
        with self._lock:
            self._check_open()
            if not self._threads:
                self._start()
            self._calls.add(call)
        try:
            for task in tasks:
                self._queue.put((call, task))
            call.done.wait()
        finally:
            call.stop()
            with self._lock:
                self._calls.discard(call)
        if call.error is not None:
            raise call.error

    def close(self, timeout: float) -> None:
        """End every call with an error, and the threads, as far as `timeout` seconds suffice."""
        with self._lock:
            self._closed = True
            calls, threads = list(self._calls), self._threads
            self._threads = []
        for call in calls:
            call.stop(self._closed_error())
        for _ in threads:
            self._queue.put(None)
        until = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _start(self) -> None:
        for number in range(self._count):
            thread = threading.Thread(target=self._work, name=f"{self._name} {number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _check_open(self) -> None:
        if self._closed:
            raise self._closed_error()

    def _closed_error(self) -> MaverickError:
        return MaverickError(f"{self._name} was closed; open it again")

    def _work(self) -> None:
        while self._one():
            pass

    def _one(self) -> bool:
        # A function of its own: a thread that waits for work must not keep the buffer of
        # the last call alive.
        item = self._queue.get()
        if item is None:
            return False
        call, task = item
        if call.stopped.is_set():
            return True
        try:
            with contextlib.suppress(Stopped):
                task(call)
                call.finish()
        except BaseException as e:  # noqa: BLE001 - raised where the call waits
            call.stop(e)
        return True
