"""Reading ahead and writing behind, so that the quantiser hardly ever waits.

Knows nothing of what is computed. Threads only move bytes: MLX's arrays belong to the thread
that computes them until they are evaluated. Both directions are bounded in bytes.
"""

import queue
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Thread
from time import monotonic
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from mlx_maverick.files import Files

from .plan import Job
from .progress import Clock
from .source import Bytes, Slice, check_finite
from .write import Output

# Three of the largest slices: one being quantised, two being read.
AHEAD_BYTES = 512 << 20
AHEAD_JOBS = 16
ROOMY = 1.25  # how much larger than needed a buffer may be to be used again
ALIGNED = 64  # bytes; slices of one buffer are viewed as wider integers
HEARTBEAT_SECONDS = 1.0
READERS = 4  # threads; one alone does not fill an SSD's queue
BEHIND_BYTES = 128 << 20
# How often what was written is made durable and noted: what a kill may cost.
SYNC_SECONDS = 5.0


def ahead_bytes(jobs: Iterable[Job]) -> int:
    """Most that is held of the source at once, in buffers that may be a little larger."""
    largest = max((job.nbytes for job in jobs), default=0)
    return int(max(AHEAD_BYTES, largest) * ROOMY)


class Reader:
    """Gives jobs in order, each with the bytes of its slices; and, once a second while one is
    awaited, the job with the seconds since."""

    def __init__(self, files: Files, jobs: Sequence[tuple[int, Job]], clock: Clock):
        self._files, self._jobs, self._clock = files, jobs, clock
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="read")
        self._spare: list[NDArray[np.uint8]] = []

    def __iter__(self) -> Iterator[tuple[int, Job, Bytes | float]]:
        waiting: deque[tuple[int, Job, NDArray[np.uint8], Future[Bytes]]] = deque()
        ahead, upcoming = 0, iter(self._jobs)
        following = next(upcoming, None)
        while following or waiting:
            # The job given last is done with by now: its buffer is among the spare ones.
            while following and (not waiting or self._near(following[1], ahead, len(waiting))):
                number, job = following
                buffer = self._buffer(room(job))
                waiting.append(
                    (
                        number,
                        job,
                        buffer,
                        self._pool.submit(read, self._files, job, buffer, self._clock),
                    )
                )
                ahead += job.nbytes
                following = next(upcoming, None)
            number, job, buffer, future = waiting.popleft()
            since = monotonic()
            while not self._arrived(future):
                yield number, job, monotonic() - since
            yield number, job, future.result()
            ahead -= job.nbytes
            self._spare.append(buffer)

    def close(self) -> None:
        """Drop what is not read yet. Reads under way end by themselves, or when their files are
        closed: over a network that fell silent, that is all that ends them."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _arrived(self, future: Future[Bytes]) -> bool:
        with self._clock.on("waiting_for_reads"):
            return bool(wait([future], HEARTBEAT_SECONDS).done)

    @staticmethod
    def _near(job: Job, ahead: int, jobs: int) -> bool:
        """Whether a job may be read while so much is waiting."""
        return ahead + job.nbytes <= AHEAD_BYTES and jobs < AHEAD_JOBS

    def _buffer(self, nbytes: int) -> NDArray[np.uint8]:
        """A used one of about that size, as fresh memory costs a page fault for every page; but
        no buffers are kept that do not fit what is read now."""
        fitting = [b for b in self._spare if nbytes <= b.nbytes <= ROOMY * nbytes]
        if fitting:
            buffer = min(fitting, key=lambda b: b.nbytes)
            self._spare = [b for b in self._spare if b is not buffer]
            return buffer
        self._spare.clear()
        return np.empty(nbytes, np.uint8)


def read(files: Files, job: Job, buffer: NDArray[np.uint8], clock: Clock) -> Bytes:
    """A job's slices, read into `buffer` of at least `room(job)` bytes, and checked."""
    data: dict[Slice, NDArray[np.uint8]] = {}
    start = 0
    for slice in job.slices:
        part = buffer[start : start + slice.nbytes]
        with clock.on("reading"):
            files.read(slice.tensor.file.name, slice.offset, part.data)
        check_finite(slice, part)
        data[slice] = part
        start += _aligned(slice.nbytes)
    return data


def room(job: Job) -> int:
    """Bytes that its slices take in one buffer."""
    return sum(_aligned(slice.nbytes) for slice in job.slices)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNED) * ALIGNED


_Piece = tuple[int, str, int, NDArray[np.generic]]


class Writer:
    """Writes arrays in the background, and notes a job when all it wrote is durable."""

    def __init__(self, output: Output, clock: Clock):
        self._output, self._clock = output, clock
        # A piece to write, the number of a job that is complete, or the end.
        self._queue: queue.SimpleQueue[_Piece | int | None] = queue.SimpleQueue()
        # Bytes of each piece once it is written. Queues and no locks: Ctrl-C may come between
        # taking a lock and the block that gives it back, and the thread would wait for ever.
        self._written: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._pending = 0
        self._error: BaseException | None = None
        self._hurry = self._ended = False
        self._thread = Thread(target=self._run, name="write", daemon=True)
        self._thread.start()

    def put(self, entry: int, name: str, offset: int, data: NDArray[np.generic]) -> None:
        """Write `data` at `offset` into the tensor `name`, which is the job's `entry`-th; the
        pieces of an entry come in order. Raises what an earlier write raised."""
        with self._clock.on("waiting_for_writes"):
            while self._pending > BEHIND_BYTES and not self._error:
                self._pending -= self._written.get()
        self._check()
        self._pending += data.nbytes
        self._queue.put((entry, name, offset, data))

    def end(self, number: int) -> None:
        """All of job `number` was put."""
        self._queue.put(number)

    def finish(self) -> None:
        """Wait until everything is durable and noted."""
        self._queue.put(None)
        with self._clock.on("waiting_for_writes"):
            # Not Thread.join: interrupted once, it takes a running thread for one that has
            # ended (CPython before 3.13, bpo-45274).
            while not self._ended:
                self._written.get()
        self._check()

    def close(self) -> None:
        """End the thread, also after an error elsewhere: whole jobs are still noted. Interrupted
        now, it gives them up; but nothing writes to the folder any more when it returns."""
        while not self._ended:
            try:
                self._queue.put(None)
                self._written.get()
            except KeyboardInterrupt:
                self._hurry = True
        self._thread.join()

    def _check(self) -> None:
        if self._error:
            raise self._error

    def _run(self) -> None:
        crcs: dict[int, int] = {}
        written: dict[int, list[int]] = {}
        synced = monotonic()
        try:
            while (item := self._queue.get()) is not None and not self._hurry:
                with self._clock.on("writing"):
                    if isinstance(item, int):
                        written[item] = [crcs[entry] for entry in sorted(crcs)]
                        crcs = {}
                        if monotonic() - synced >= SYNC_SECONDS:
                            self._note(written)
                            synced = monotonic()
                        continue
                    entry, name, offset, data = item
                    crcs[entry] = crc32(data.data.cast("B"), crcs.get(entry, 0))
                    self._output.write(name, offset, data)
                self._written.put(data.nbytes)
            with self._clock.on("writing"):
                if not self._hurry:
                    self._note(written)
        except BaseException as e:  # noqa: BLE001 - raised again by the thread that waits
            self._error = e
        self._ended = True
        self._written.put(0)  # wakes who waits

    def _note(self, written: dict[int, list[int]]) -> None:
        if written:
            self._output.sync()
            self._output.journal.add(written)
            written.clear()
