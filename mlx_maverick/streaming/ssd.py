"""How fast the disk below a model gives its experts: a short test that reads some of them.

Knows where routed experts are, and nothing of what they are for.
"""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from mmap import mmap
from pathlib import Path
from time import monotonic

from ..checkpoint import Checkpoint, Tensor
from ..disk import BLOCK
from ..errors import BadCheckpoint
from .places import expert_tensors
from .reader import PIECE, THREADS
from .uncached import Uncached

SECONDS = 1.0
# Half a second of the fastest SSD in a Mac: the test is to be short on slow ones, and to leave
# no mark on fast ones.
MOST_BYTES = 8 << 30


def bandwidth(
    folder: Path, seconds: float = SECONDS, most: int = MOST_BYTES, seed: int = 0
) -> float | None:
    """Bytes per second that experts of a model folder are read with, one after the other in
    random order, past the file cache, by several threads.

    Ends after `seconds` or about `most` bytes, or when all have been read: of small models the
    figure says more about the overhead of reading than about the disk. None if the folder has
    no routed experts of a block or more. What macOS has in its cache already, of a folder that
    was just written for instance, comes from there.

    Raises as Checkpoint.open does, and BadCheckpoint for a file that cannot be read.
    """
    ranges = _ranges(Checkpoint.open(folder), seed)
    files: dict[Path, Uncached] = {}
    with ExitStack() as opened:
        for file in sorted({file for file, _, _ in ranges}):
            files[file] = _open(file)
            opened.callback(files[file].close)
        pieces, lock = _pieces(ranges), threading.Lock()
        left = most
        start = monotonic()

        def take() -> tuple[Path, int, int] | None:
            nonlocal left
            with lock:
                piece = next(pieces, None) if left > 0 else None
                left -= piece[2] if piece else 0
                return piece

        def read() -> int:
            """Bytes that one thread has read."""
            done, view = 0, memoryview(mmap(-1, PIECE))  # its address is a block's
            while piece := take():
                file, offset, nbytes = piece
                _read(files[file], offset, view[:nbytes])
                done += nbytes
                if monotonic() - start >= seconds:
                    break
            return done

        with ThreadPoolExecutor(THREADS) as pool:
            done = sum(pool.map(lambda _: read(), range(THREADS)))
        elapsed = monotonic() - start
    return done / elapsed if done and elapsed > 0 else None


def _ranges(checkpoint: Checkpoint, seed: int) -> list[tuple[Path, int, int]]:
    """File, offset and bytes of every expert's part of every tensor, in random order; whole
    blocks inside of it."""
    found = []
    for tensor in expert_tensors(checkpoint).values():
        for offset, nbytes in _experts(tensor):
            first, last = -(-offset // BLOCK) * BLOCK, (offset + nbytes) // BLOCK * BLOCK
            if last > first:
                found.append((tensor.file, first, last - first))
    random.Random(seed).shuffle(found)
    return found


def _experts(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """Offset and bytes of each expert in a tensor: of [experts, ...], or of one expert only."""
    count = tensor.shape[0] if len(tensor.shape) == 3 else 1
    each = tensor.nbytes // max(1, count)
    return ((tensor.offset + each * expert, each) for expert in range(count))


def _pieces(ranges: list[tuple[Path, int, int]]) -> Iterator[tuple[Path, int, int]]:
    for file, offset, nbytes in ranges:
        for start in range(0, nbytes, PIECE):
            yield file, offset + start, min(PIECE, nbytes - start)


def _open(file: Path) -> Uncached:
    try:
        return Uncached.open(file)
    except OSError as e:
        raise BadCheckpoint(f"{file} cannot be opened ({e.strerror})") from None


def _read(file: Uncached, offset: int, view: memoryview) -> None:
    try:
        file.read(offset, view)
    except OSError as e:
        raise BadCheckpoint(f"{file.path} cannot be read ({e.strerror})") from None
