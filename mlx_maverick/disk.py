"""What is on the disk for good, what it says when it is full, and in what units it is read.

Knows nothing of what is written.
"""

import errno
import os
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
# Offset, length and address of what is read past the file cache: no disk asks for more.
BLOCK = 4096


def sync(file: int) -> None:
    """Wait until a file is on the disk. macOS's fsync hands it to the drive, which may still
    lose it in a power cut; F_FULLFSYNC waits for the drive (man 2 fsync there)."""
    import fcntl

    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        try:
            fcntl.fcntl(file, full)
            return
        except OSError:  # a disk that does not have it, over a network for instance
            pass
    os.fsync(file)


def sync_path(path: Path) -> None:
    """The same for a file, or for what a folder lists."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync(file)
    finally:
        os.close(file)
