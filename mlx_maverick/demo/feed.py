"""Batches from a process of their own, so that training does not wait for them.

Knows nothing of what is in them. As a program, `python -m mlx_maverick.demo.feed`, it writes
them to stdout, pickled, for the trainer that started it.
"""

import os
import pickle
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from .batches import GROUP, Batch, Encoder
from .world import Split

HEADER = struct.Struct("<QI")  # length and checksum of what follows


def stream(folder: Path, split: Split, step: int) -> Iterator[Batch]:
    """Batches from this step on, for ever. The process ends with this one, however that
    ends: nobody reads its pipe any more. While this one pauses, so does the other."""
    command = [sys.executable, "-m", __name__, str(folder), split, str(step // GROUP)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        if process.stdout is None:
            raise RuntimeError("the process has no pipe")
        try:
            skipped = step % GROUP
            while True:
                yield from received(process.stdout)[skipped:]
                skipped = 0
        finally:
            process.terminate()


def received(pipe: IO[bytes]) -> list[Batch]:
    """The next group from the pipe of such a process."""
    header = pipe.read(HEADER.size)
    if len(header) < HEADER.size:
        raise RuntimeError("the process that makes batches has ended; what it wrote is above")
    length, checksum = HEADER.unpack(header)
    data = pipe.read(length)
    if len(data) != length or zlib.crc32(data) != checksum:
        raise RuntimeError("a batch arrived damaged; go on with --resume")
    batches: list[Batch] = pickle.loads(data)
    return batches


def _send(data: bytes) -> None:
    """Not through sys.stdout: what its buffer wrote arrived damaged where the process was
    stopped in the middle and continued (SIGSTOP, SIGCONT; Python 3.11)."""
    left = memoryview(data)
    while left:
        left = left[os.write(sys.stdout.fileno(), left) :]


def main(folder: str, split: str, group: str) -> None:
    encoder = Encoder(Path(folder))
    number = int(group)
    try:
        while True:
            batches = encoder.group(cast(Split, split), number)
            data = pickle.dumps(batches, pickle.HIGHEST_PROTOCOL)
            _send(HEADER.pack(len(data), zlib.crc32(data)) + data)
            number += 1
    except (BrokenPipeError, KeyboardInterrupt):
        sys.stderr.close()  # nor does anyone read complaints


if __name__ == "__main__":
    main(*sys.argv[1:])
