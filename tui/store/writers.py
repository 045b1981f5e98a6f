"""Which processes write: each holds a locked file, and the system lets go of it when one dies.

Knows nothing of the database. A process number says less: it is given again, and a heartbeat
would need a timer.
"""

import contextlib
import fcntl
import os
import secrets
from pathlib import Path


class Writer:
    """This run: `name` is alive until `close`, or the end of the process, however that comes."""

    def __init__(self, folder: Path):
        """Raises OSError."""
        folder.mkdir(mode=0o700, exist_ok=True)
        while True:
            self.name = secrets.token_hex(8)
            self._path = folder / self.name
            self._file = open(self._path, "xb", opener=_private)  # noqa: SIM115, held open
            if _lock(self._file.fileno()) and self._path.exists():
                return
            self._file.close()  # a sweep came between

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        self._file.close()


def alive(folder: Path, name: str) -> bool:
    """Whether a process, this one included, still is the writer `name`."""
    try:
        file = os.open(folder / name, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _lock(file)
    finally:
        os.close(file)


def sweep(folder: Path) -> None:
    """Take away the files of those that died."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another sweeps too
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if _lock(file):
                    path.unlink(missing_ok=True)
            finally:
                os.close(file)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _lock(file: int) -> bool:
    """Whether it is ours now. Of `flock`: a second opening conflicts even in one process."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
