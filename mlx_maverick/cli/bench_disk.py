"""The disk below a benchmark: a file cache without the model, and what plain reads reach.

Knows nothing of how a model is run; of its files only where each expert's bytes are.
"""

import mmap
import os
import queue
import random
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from ..checkpoint import Checkpoint
from ..config import ModelConfig
from ..disk import BLOCK, sync_path
from ..errors import UsageError
from ..streaming.places import places
from ..streaming.reader import PIECE, THREADS
from ..streaming.uncached import Uncached

ENOUGH = 1 << 30  # bytes that one measurement reads at most
SOONEST = 0.05  # seconds


@dataclass(frozen=True)
class Range:
    """Bytes of a file."""

    file: Path
    offset: int
    nbytes: int


def evict(files: Sequence[Path]) -> None:
    """Take files out of the system's file cache; pages that a process maps stay.

    Raises UsageError where the system cannot do that.
    """
    if sys.platform == "linux":
        for path in files:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)
    else:
        raise UsageError("--evict needs Linux; on a Mac run 'sudo purge' before the benchmark")


@contextmanager
def evicted(files: Sequence[Path], every: float | None = None) -> Iterator[None]:
    """A block that begins with files out of the cache; they are taken out again `every` so many
    seconds while it runs, so that what is read again comes from the disk again.

    Not too often: what was read ahead goes as well. Who keeps what he read last in memory does
    not read it again before the disk could have filled that memory anew.
    """
    for path in files:
        sync_path(path)  # what is not written yet stays in the cache
    evict(files)
    ended = threading.Event()

    def again() -> None:
        while not ended.wait(every):
            with suppress(FileNotFoundError):
                evict(files)

    thread = threading.Thread(target=again, name="evict", daemon=True)
    if every is not None:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if every is not None:
            thread.join()


def expert_ranges(folder: Path) -> list[list[Range]]:
    """Where the bytes of each routed expert are; what follows each other in a file is one range."""
    layers = places(Checkpoint.open(folder), ModelConfig.from_folder(folder))
    return [
        _joined([Range(p.tensor.file, p.offset(expert), p.nbytes) for p in layer.parts])
        for layer in layers
        for expert in range(layer.experts)
    ]


def _joined(ranges: list[Range]) -> list[Range]:
    joined: list[Range] = []
    for r in sorted(ranges, key=lambda r: (r.file, r.offset)):
        last = joined[-1] if joined else None
        if last and last.file == r.file and last.offset + last.nbytes == r.offset:
            joined[-1] = Range(r.file, last.offset, last.nbytes + r.nbytes)
        else:
            joined.append(r)
    return joined


def plain_reads(folder: Path) -> dict[str, float]:
    """Bytes per second of experts in random order, read past the cache by THREADS threads in
    pieces of PIECE bytes that begin and end with blocks of the disk: as many pieces at once as
    there are threads, and with all of one expert read before the next, as decoding needs it."""
    experts = expert_ranges(folder)
    random.Random(0).shuffle(experts)
    size = sum(r.nbytes for r in experts[0])
    count = max(1, min(len(experts) // 2, ENOUGH // size))
    files = {path: Uncached.open(path) for path in {r.file for e in experts for r in e}}
    buffers: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
    for _ in range(THREADS):
        buffers.put(mmap.mmap(-1, PIECE + BLOCK))  # begins on a page

    def read(piece: Range) -> int:
        buffer = buffers.get()
        files[piece.file].read(piece.offset, memoryview(buffer)[: piece.nbytes])
        buffers.put(buffer)
        return piece.nbytes

    with ThreadPoolExecutor(THREADS) as pool:

        def rate(groups: Sequence[Sequence[Range]]) -> float:
            started = perf_counter()
            for group in groups:
                pieces = [p for r in group for p in _pieces(r, files[r.file].size)]
                futures: list[Future[int]] = [pool.submit(read, piece) for piece in pieces]
                for future in futures:
                    future.result()
            useful = sum(r.nbytes for group in groups for r in group)
            return useful / (perf_counter() - started)

        try:
            return {
                "many experts at once": rate([[r for e in experts[:count] for r in e]]),
                "one expert at a time": rate(experts[-count:]),
            }
        finally:
            for file in files.values():
                file.close()


def _pieces(whole: Range, size: int) -> Iterator[Range]:
    """Of a file of `size` bytes, in whole blocks."""
    start = whole.offset // BLOCK * BLOCK
    end = min(-(-(whole.offset + whole.nbytes) // BLOCK) * BLOCK, size)
    for at in range(start, end, PIECE):
        yield Range(whole.file, at, min(PIECE, end - at))


def bytes_read() -> int | None:
    """What this process has read from disks so far, mapped files included; None where the
    system does not tell."""
    try:
        text = Path("/proc/self/io").read_text()
    except OSError:  # a Mac; a container without it
        return None
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("read_bytes"))
