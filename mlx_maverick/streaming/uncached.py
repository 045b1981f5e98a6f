"""A file that is read without filling the system's file cache with it.

Knows nothing of models. Experts that are read are kept in memory of our own; a second copy in
the cache would only push out what other programs have there, and on a full machine our own.
"""

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..disk import BLOCK

# <sys/fcntl.h> of macOS; Python has the first from 3.13 on, and on a Mac only.
F_RDAHEAD = 45
F_NOCACHE = 48

Control = Callable[[int, int, int], object]


class Changed(OSError):
    """A file is not what it was when it was opened."""


class EndsEarly(OSError):
    """A file ends before what was to be read."""


class Uncached:
    """One file that is open. Reads from several threads at once are fine; `close` only when no
    read is under way."""

    def __init__(self, path: Path, file: int, direct: int | None, drop: bool):
        """Takes over two descriptors: `file`, after which the cache is told to `drop` what was
        read, and perhaps `direct`, which never fills it but reads whole blocks only."""
        self.path = path
        self._file, self._direct, self._drop = file, direct, drop
        self._reads_direct = direct is not None
        self._opened = self._state()

    @staticmethod
    def open(
        path: Path,
        keep_cached: bool = False,
        *,
        platform: str = sys.platform,
        control: Control = fcntl.fcntl,
    ) -> "Uncached":
        """Open a file for reading in no particular order; with `keep_cached` the system's file
        cache keeps what is read, as it does of other files.

        `platform` and `control` (its fcntl) are for tests. Raises OSError.
        """
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        direct = None
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError(errno.EINVAL, "it is not a file", str(path))
            if platform == "darwin":
                _set_mac(file, keep_cached, control)
            elif platform == "linux":
                _not_ahead(file)
                direct = None if keep_cached else _direct(path, file)
            return Uncached(path, file, direct, platform == "linux" and not keep_cached)
        except BaseException:
            os.close(file)
            if direct is not None:
                os.close(direct)
            raise

    @property
    def size(self) -> int:
        """Bytes of the file, when it was opened."""
        return self._opened[0]

    def read(self, offset: int, view: memoryview) -> None:
        """Fill `view`, which is contiguous and can be written to, from byte `offset` on.

        Raises EndsEarly if the file ends before that, and other OSErrors; `view` then holds
        some of it, or none.
        """
        if view.nbytes == 0:
            return
        view = view.cast("B")
        address = np.frombuffer(view, np.uint8).ctypes.data
        filled = 0
        while filled < len(view):
            count = self._some(offset + filled, view[filled:], address + filled)
            if count == 0:
                end = offset + len(view)
                raise EndsEarly(errno.EIO, f"it ends before byte {end}", str(self.path))
            filled += count

    def check(self) -> None:
        """Raises Changed if the file's size or time of change is not what it was when it was
        opened, and OSError if it cannot be asked. A path that is gone, or names another file by
        now, is no matter: this one is still there."""
        if self._state() != self._opened:
            raise Changed(errno.ESTALE, "it was changed while in use", str(self.path))

    def close(self) -> None:
        """A second time does nothing."""
        file, direct = self._file, self._direct
        self._file, self._direct, self._reads_direct = -1, None, False
        if file >= 0:
            os.close(file)
        if direct is not None:
            os.close(direct)

    def _state(self) -> tuple[int, int]:
        now = os.fstat(self._file)
        return now.st_size, now.st_mtime_ns

    def _some(self, offset: int, view: memoryview, address: int) -> int:
        direct = self._direct if self._reads_direct else None
        if direct is not None and not (offset | len(view) | address) % BLOCK:
            try:
                return os.preadv(direct, [view], offset)
            except OSError as e:
                if e.errno != errno.EINVAL:  # opened, but the file system does not have it
                    raise
                self._reads_direct = False
        count = os.preadv(self._file, [view], offset)
        if self._drop:
            _drop(self._file, offset, count)
        return count


def _set_mac(file: int, keep_cached: bool, control: Control) -> None:
    """Set what macOS does with reads of a descriptor."""
    settings = [(F_RDAHEAD, 0)] if keep_cached else [(F_RDAHEAD, 0), (F_NOCACHE, 1)]
    for command, value in settings:
        try:
            control(file, command, value)
        except OSError as e:
            # Advice: a file system that does not take it reads as well without.
            if e.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOTTY):
                raise


def _direct(path: Path, file: int) -> int | None:
    """A second descriptor of the same file that reads past the cache, if the file system has
    that."""
    if sys.platform == "linux":
        try:
            direct = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise
            return None
        if not os.path.sameopenfile(file, direct):
            os.close(direct)
            raise Changed(errno.ESTALE, "it was changed while in use", str(path))
        return direct
    else:
        return None


def _not_ahead(file: int) -> None:
    """Have nothing read but what is asked for."""
    if sys.platform == "linux":
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)


def _drop(file: int, offset: int, nbytes: int) -> None:
    """Take what was read out of the cache. Of pages that are in it in part nothing would be
    dropped: whole ones are named."""
    if sys.platform == "linux":
        first = offset // BLOCK * BLOCK
        last = -(-(offset + nbytes) // BLOCK) * BLOCK
        os.posix_fadvise(file, first, last - first, os.POSIX_FADV_DONTNEED)
