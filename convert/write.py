"""The folder being written: `<out>.partial`, which becomes `<out>` only when it is whole.

Knows files and offsets, nothing of models. Slices may be written in any order, by several
threads.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_maverick.errors import DoesNotFit, MaverickError, NotFound, UsageError

from .layout import Layout

# Lies in every .partial folder and is locked as long as its converter lives. A folder with
# this file that nobody locks was left by a kill or a power cut, and may be replaced; one
# without it is somebody else's, and is never touched.
MARKER = ".mlx-maverick-converting"
FULL = (errno.ENOSPC, errno.EDQUOT)


class Output:
    """An existing `.partial` folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.layout = Layout((), {})

    def preallocate(self, layout: Layout) -> None:
        """Create every weight file at its final size, with its header."""
        self.layout = layout
        for shard in layout.shards:
            with _full_disk(self.folder), (self.folder / shard.name).open("wb") as file:
                _reserve(file.fileno(), shard.nbytes)
                file.write(shard.header)

    def write(self, name: str, offset: int, values: mx.array) -> None:
        """Put an evaluated array at `offset` bytes into the tensor `name`."""
        if values.dtype == mx.bfloat16:
            values = values.view(mx.uint16)  # numpy has no bfloat16
        data = np.array(values, copy=False).data.cast("B")
        place = self.layout.places[name]
        if offset + len(data) > place.nbytes:
            raise ValueError(f"{len(data)} bytes at {offset} do not fit into {name}")
        with _full_disk(self.folder):
            file = os.open(self.folder / place.shard, os.O_WRONLY | os.O_CLOEXEC)
            try:
                done = 0
                while done < len(data):
                    done += os.pwrite(file, data[done:], place.offset + offset + done)
            finally:
                os.close(file)

    def add(self, name: str, text: bytes) -> None:
        """Write a whole small file."""
        with _full_disk(self.folder):
            (self.folder / name).write_bytes(text)

    def copy(self, path: Path) -> None:
        with _full_disk(self.folder):
            shutil.copyfile(path, self.folder / path.name)

    def sync(self) -> None:
        """Wait until everything is on the disk."""
        for path in [*self.folder.iterdir(), self.folder]:
            _sync(path)


def check_target(source: Path, out: Path) -> None:
    """Refuse an `out` that exists, has no parent folder, or lies in the source.

    Raises UsageError or NotFound.
    """
    if os.path.lexists(out):
        raise UsageError(f"{out} exists already; choose another output or remove it")
    if not out.parent.is_dir():
        raise NotFound(f"{out.parent} is not a folder; create it first")
    if out.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{out} lies inside the source {source}; choose another output")


@contextmanager
def output(out: Path) -> Iterator[Output]:
    """A new `.partial` folder, renamed to `out` at the end of the block; removed if the block
    is left by any exception, KeyboardInterrupt included."""
    folder = out.with_name(out.name + ".partial")
    lock = _claim(folder)
    try:
        result = Output(folder)
        yield result
        (folder / MARKER).unlink()
        result.sync()
        if os.path.lexists(out):  # rename would replace an empty folder
            raise UsageError(f"{out} was created meanwhile; choose another output")
        folder.rename(out)
        _sync(out.parent)
    except BaseException:
        # The error under way is the one to tell. What cannot be removed, the next run will.
        with suppress(OSError):
            _empty(folder)
            (folder / MARKER).unlink(missing_ok=True)  # last: till then the folder is ours
            folder.rmdir()
        raise
    finally:
        os.close(lock)


def _claim(folder: Path) -> int:
    """Make the folder ours and empty; the descriptor that holds its lock."""
    try:
        folder.mkdir()
        fresh = True
    except FileExistsError:
        fresh = False
    except OSError as e:
        raise MaverickError(
            f"{folder} cannot be created ({e.strerror}); choose another output"
        ) from None
    marker = folder / MARKER
    if not fresh and any(folder.iterdir()) and not marker.is_file():
        raise UsageError(f"{folder} exists and is not a conversion's; move it away")
    lock = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _lock(lock, folder, fresh)
        # Between opening and locking, another conversion may have ended and renamed it.
        if not os.path.exists(marker) or not os.path.samestat(os.fstat(lock), os.stat(marker)):
            raise _in_use(folder)
        _empty(folder)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _empty(folder: Path) -> None:
    """Remove all files but the marker. Conversions make no sub-folders, so none is removed."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            raise UsageError(f"{folder} holds {path.name}, not a conversion's; move it away")
        if path.name != MARKER:
            path.unlink()


def _lock(file: int, folder: Path, fresh: bool) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(folder) from None
    except OSError:
        # Some network disks have no locks. A folder we just made is ours without one; about
        # one left behind nothing can be proved.
        if not fresh:
            raise UsageError(f"{folder} was left by another run; remove it") from None


def _in_use(folder: Path) -> UsageError:
    return UsageError(f"{folder} is being written by another conversion; wait for it")


def _reserve(file: int, size: int) -> None:
    """Give a file its size, and its space on the disk where the system can promise it."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        try:
            os.posix_fallocate(file, 0, size)
            return
        except OSError as e:
            if e.errno in FULL:
                raise
    os.ftruncate(file, size)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        if e.errno not in FULL:
            raise
        raise DoesNotFit(f"the disk of {folder} became full; make room and start again") from None
