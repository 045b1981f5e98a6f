"""SHA-256 of files, and whether ranges of them are still what was written.

Knows nothing of models.
"""

import hashlib
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from zlib import crc32

from mlx_maverick.errors import Interrupted

from .progress import Progress

READ_AT_ONCE = 8 << 20
THREADS = 4  # one hashes about as fast as an old SSD reads; new ones are faster
REPORT_SECONDS = 0.1


@dataclass(frozen=True)
class File:
    """One file of a folder."""

    size: int
    sha256: str  # hexadecimal


@dataclass(frozen=True)
class Extent:
    """Bytes of a file, written by the job of that number."""

    offset: int
    nbytes: int
    crc: int
    job: int


def hash_files(
    folder: Path, sizes: Mapping[str, int], extents: Mapping[str, Sequence[Extent]] | None = None
) -> Generator[Progress, None, tuple[dict[str, File], set[int]]]:
    """Read the named files of `folder` as they are on the disk. Returns size and hash of each,
    and the jobs of which an extent does not have its CRC."""
    counted, stop = dict.fromkeys(sizes, 0), Event()
    total = sum(sizes.values())

    def one(name: str) -> tuple[File, set[int]]:
        return _hash(folder / name, (extents or {}).get(name, ()), counted, stop)

    with ThreadPoolExecutor(THREADS) as pool:
        futures = {name: pool.submit(one, name) for name in sorted(sizes)}
        try:
            waiting = set(futures.values())
            while waiting:
                waiting = wait(waiting, REPORT_SECONDS).not_done
                unfinished = [n for n, f in futures.items() if not f.done()]
                what = unfinished[0] if unfinished else max(futures)
                yield Progress("hashing", sum(counted.values()), total, what)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    found = {name: future.result() for name, future in futures.items()}
    return {n: file for n, (file, _) in found.items()}, set().union(*(j for _, j in found.values()))


def _hash(
    path: Path, extents: Sequence[Extent], counted: dict[str, int], stop: Event
) -> tuple[File, set[int]]:
    digest, changed = hashlib.sha256(), set()
    left = sorted(extents, key=lambda e: e.offset, reverse=True)
    crc = position = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(READ_AT_ONCE):
            if stop.is_set():
                raise Interrupted("interrupted")
            digest.update(block)
            view, end = memoryview(block), position + len(block)
            while left and left[-1].offset < end:
                extent = left[-1]
                last = extent.offset + extent.nbytes
                part = view[max(extent.offset - position, 0) : min(last, end) - position]
                crc = crc32(part, crc)
                if last > end:
                    break
                if crc != extent.crc:
                    changed.add(extent.job)
                crc = 0
                left.pop()
            position = end
            counted[path.name] = position
    changed |= {extent.job for extent in left}  # beyond the end
    return File(position, digest.hexdigest()), changed
