"""Threads that read byte ranges of files straight into memory.

Knows nothing of experts. What somebody waits for comes before what is read ahead of time; a read
can be given up at any moment, and is then no longer under way when that returns.
"""

import mmap
import threading
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from ..errors import Interrupted
from .uncached import Uncached

# At once. One thread cannot keep an SSD busy, and a queue of eight saturates those of Macs.
THREADS = 8
# Bytes of one piece of work: large enough for full bandwidth, small enough that the parts of
# one expert keep all threads busy, and that background reads make way soon.
PIECE = 4 << 20


@dataclass(frozen=True)
class Piece:
    """A byte range of a file, and where it goes."""

    file: Uncached
    offset: int
    nbytes: int
    # Its memory; or what takes the bytes, where they are not kept as they are stored.
    target: memoryview | Callable[[memoryview], None]


@dataclass(eq=False)
class Read:
    """Pieces that are read together."""

    queue: deque[Piece]  # that no thread has taken
    running: int = 0  # that threads are at
    error: Exception | None = None
    failed: Piece | None = None  # the one with the error
    given_up: bool = False
    finished: threading.Event = field(default_factory=threading.Event)

    @property
    def done(self) -> bool:
        """Whether everything is in memory."""
        return self.finished.is_set() and self.error is None and not self.given_up


@dataclass(eq=False)
class _Work:
    """What threads and their owner share; the threads do not know the owner."""

    changed: threading.Condition  # what there is to do
    quiet: threading.Condition  # a read that was given up; of the same lock
    # Reads with pieces in their queue, in order.
    urgent: dict[Read, None] = field(default_factory=dict)
    later: dict[Read, None] = field(default_factory=dict)
    running: int = 0
    began: float = 0.0  # when the first of those that run now did
    seconds: float = 0.0
    nbytes: int = 0
    closing: bool = False

    @staticmethod
    def new() -> "_Work":
        lock = threading.Lock()
        return _Work(threading.Condition(lock), threading.Condition(lock))

    def drop(self, read: Read) -> None:
        """Of a read, begin no more pieces."""
        self.urgent.pop(read, None)
        self.later.pop(read, None)
        read.queue.clear()


class Reader:
    """The threads. Methods may be called from any thread."""

    def __init__(self, threads: int = THREADS, files: Collection[Uncached] = ()):
        """`files` are closed when the threads have ended, with what is in it by then."""
        self._work = _Work.new()
        self._threads = [
            threading.Thread(target=_serve, args=(self._work,), name="experts", daemon=True)
            for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()
        # Also at exit: no read may be under way while memory is taken down.
        self._closing = weakref.finalize(self, _close, self._work, self._threads, files)

    @property
    def nbytes(self) -> int:
        """Bytes read so far."""
        return self._work.nbytes

    @property
    def seconds(self) -> float:
        """In which at least one read was under way so far."""
        work = self._work
        with work.changed:
            return work.seconds + (perf_counter() - work.began if work.running else 0)

    def submit(self, pieces: Iterable[Piece], urgent: bool) -> Read:
        """Begin to read, before what is not `urgent`."""
        read, work = Read(deque(pieces)), self._work
        with work.changed:
            if work.closing:
                _close_read(read)
            elif not read.queue:
                read.finished.set()
            else:
                (work.urgent if urgent else work.later)[read] = None
                work.changed.notify(len(read.queue))
        return read

    def hurry(self, read: Read) -> None:
        """Let a read come before what is not urgent, and after what is."""
        work = self._work
        with work.changed:
            if read in work.later:
                del work.later[read]
                work.urgent[read] = None

    def wait(self, read: Read) -> None:
        """Until everything is read, now urgently. Raises what reading raised, and Interrupted if
        the read was given up."""
        if not read.finished.is_set():
            self.hurry(read)
        read.finished.wait()
        try:
            if read.error is not None:
                raise read.error
            if read.given_up:
                raise Interrupted("interrupted")
        finally:
            del read  # which the error's traceback would hold, in a circle

    def give_up(self, read: Read) -> None:
        """End a read, wherever it is; on return nothing is written any more."""
        work = self._work
        with work.changed:
            read.given_up |= not read.finished.is_set()
            work.drop(read)
            work.quiet.wait_for(lambda: not read.running)
            read.finished.set()

    def close(self) -> None:
        """Give everything up, end the threads and close the files."""
        self._closing()


def _close(work: _Work, threads: Sequence[threading.Thread], files: Collection[Uncached]) -> None:
    if threading.current_thread() in threads:
        # Garbage was collected there, perhaps while it holds the lock.
        threading.Thread(target=_close, args=(work, threads, files), name="closing").start()
        return
    with work.changed:
        work.closing = True
        for read in (*work.urgent, *work.later):
            work.drop(read)
            _close_read(read)
        work.changed.notify_all()
    for thread in threads:
        thread.join()
    for file in files:
        file.close()


def _close_read(read: Read) -> None:
    """Whoever waits for it, at exit, is not left waiting."""
    read.error = read.error or Interrupted("interrupted")
    read.finished.set()


def _serve(work: _Work) -> None:
    buffer: mmap.mmap | None = None
    while True:
        with work.changed:
            work.changed.wait_for(lambda: work.urgent or work.later or work.closing)
            if work.closing:
                return
            read = next(iter(work.urgent or work.later))
            piece = read.queue.popleft()
            if not read.queue:
                work.drop(read)
            read.running += 1
            work.running += 1
            if work.running == 1:
                work.began = perf_counter()
        error: Exception | None = None
        try:
            buffer = _read(piece, buffer)
        except Exception as e:  # noqa: BLE001 - it belongs to who waits
            error = e
        with work.changed:
            read.running -= 1
            work.running -= 1
            if not work.running:
                work.seconds += perf_counter() - work.began
            if error is None:
                work.nbytes += piece.nbytes
            elif read.error is None:
                read.error, read.failed = error, piece
                work.drop(read)
            if not read.running and not read.queue:
                read.finished.set()
                work.quiet.notify_all()
        del piece, read, error  # not kept, with all their memory, until the next ones come


def _read(piece: Piece, buffer: mmap.mmap | None) -> mmap.mmap | None:
    """Read one piece; the thread's buffer for those that are not kept as they are."""
    if isinstance(piece.target, memoryview):
        piece.file.read(piece.offset, piece.target)
        piece.file.check()  # it may have waited for long
        return buffer
    if buffer is None or len(buffer) < piece.nbytes:
        buffer = mmap.mmap(-1, piece.nbytes)  # begins on a page, as reads past the cache want it
    part = memoryview(buffer)[: piece.nbytes]
    piece.file.read(piece.offset, part)
    piece.file.check()
    piece.target(part)
    return buffer
