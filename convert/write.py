"""The folder being written: `<out>.partial`, which becomes `<out>` only when it is whole.

Knows files and offsets, nothing of models. Slices may be written in any order, by several
threads.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlx_maverick.disk import FULL, sync_path
from mlx_maverick.errors import MaverickError, NotFound, UsageError

from .journal import NAME as JOURNAL
from .journal import Journal, writing
from .layout import Layout, Shard

# What the Finder and disks without extended attributes put into folders.
DROPPINGS = (".DS_Store", "._*")
PARTIAL = ".partial"


class Output:
    """An existing `.partial` folder that is ours."""

    def __init__(self, folder: Path, journal: Journal, layout: Layout):
        self.folder, self.journal, self.layout = folder, journal, layout
        self._unsynced: set[str] = set()

    def missing(self) -> set[str]:
        """Weight files that are not there in their final size, so that nothing in them counts."""
        return {shard.name for shard in self.layout.shards if not self._whole(shard)}

    def prepare(self) -> None:
        """Give every weight file its final size and its header; one of another size is emptied
        first."""
        for shard in self.layout.shards:
            whole = self._whole(shard)
            with (
                writing(self.folder),
                _opened(self.folder / shard.name, os.O_RDWR | os.O_CREAT) as file,
            ):
                if not whole:
                    os.ftruncate(file, 0)
                _reserve(file, shard.nbytes)
                _pwrite(file, shard.header, 0)
            self._unsynced.add(shard.name)

    def allocated(self) -> int:
        """Bytes of the disk that the weight files have already."""
        paths = [self.folder / shard.name for shard in self.layout.shards]
        return sum(path.stat().st_blocks * 512 for path in paths if path.is_file())

    def write(self, name: str, offset: int, data: NDArray[np.generic]) -> None:
        """Put an array's bytes at `offset` bytes into the tensor `name`."""
        place = self.layout.places[name]
        if offset + data.nbytes > place.nbytes:
            raise ValueError(f"{data.nbytes} bytes at {offset} do not fit into {name}")
        with (
            writing(self.folder),
            _opened(self.folder / place.shard, os.O_WRONLY) as file,
        ):
            _pwrite(file, data.data.cast("B"), place.offset + offset)
        self._unsynced.add(place.shard)

    def add(self, name: str, text: bytes) -> None:
        """Write a whole small file."""
        with writing(self.folder):
            (self.folder / name).write_bytes(text)
        self._unsynced.add(name)

    def sync(self) -> None:
        """Wait until everything written so far is on the disk."""
        names, self._unsynced = self._unsynced, set()
        with writing(self.folder):
            for name in sorted(names):
                sync_path(self.folder / name)

    def clear(self) -> None:
        """Remove everything but the journal: of a conversion of which nothing is done."""
        _empty(self.folder)

    def tidy(self, planned: set[str]) -> None:
        """Remove what a file manager left. Raises UsageError for a file that was not `planned`,
        as it would become part of the model."""
        for path in self.folder.iterdir():
            if any(path.match(pattern) for pattern in DROPPINGS):
                path.unlink()
            elif path.name not in planned and path.name != JOURNAL:
                raise UsageError(
                    f"{self.folder} holds {path.name}, not of this conversion; move it away"
                )

    def finish(self, out: Path) -> None:
        """Rename the whole folder to `out`. The journal goes last: a folder that still has it is
        known to be ours, and complete if it has its final name (see `completed`)."""
        self.sync()
        if os.path.lexists(out):  # rename would replace an empty folder
            raise UsageError(f"{out} was created meanwhile; move it away")
        with writing(self.folder):
            sync_path(self.folder)
            self.folder.rename(out)
            sync_path(out.parent)
            (out / JOURNAL).unlink(missing_ok=True)  # by `completed`, of another run

    def _whole(self, shard: Shard) -> bool:
        path = self.folder / shard.name
        return path.is_file() and path.stat().st_size == shard.nbytes


def check_target(source: Path | None, out: Path) -> None:
    """Refuse an `out` that exists, has no parent folder, or lies in the source folder.

    Raises UsageError or NotFound.
    """
    if out.name.endswith(PARTIAL):
        raise UsageError(
            f"{out} is what an unfinished conversion is called; choose another output, or "
            f"{out.with_name(out.name.removesuffix(PARTIAL))} to go on with it"
        )
    if os.path.lexists(out):
        raise UsageError(f"{out} exists already; choose another output or remove it")
    if not out.parent.is_dir():
        raise NotFound(f"{out.parent} is not a folder; create it first")
    if source and out.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{out} lies inside the source {source}; choose another output")


def partial(out: Path) -> Path:
    """Where `out` is written until it is whole."""
    return Path(f"{out}{PARTIAL}")


@contextmanager
def output(out: Path, layout: Layout, restart: bool = False) -> Iterator[Output]:
    """The `.partial` folder, new or as an earlier run left it (`restart`: emptied), locked for
    the time of the block. After an exception it stays if any job of its is done."""
    folder = partial(out)
    lock = _claim(folder)
    try:
        if restart:
            _empty(folder)
            os.ftruncate(lock, 0)
        result = Output(folder, Journal(lock, folder), layout)
        try:
            yield result
        except BaseException:
            if not result.journal.done:
                with suppress(OSError, UsageError):  # the error under way is the one to tell
                    _remove(folder)
            raise
    finally:
        os.close(lock)


def completed(out: Path) -> bool:
    """Whether `out` is a conversion that was killed between its last two steps; if so, the
    last one is made up for. (Not if `out` names another conversion's `.partial` folder.)"""
    if out.name.endswith(PARTIAL) or not (out / JOURNAL).is_file():
        return False
    (out / JOURNAL).unlink(missing_ok=True)
    return True


def _claim(folder: Path) -> int:
    """Make the folder ours; the descriptor of its locked journal."""
    try:
        folder.mkdir()
        fresh = True
    except FileExistsError:
        fresh = False
    except OSError as e:
        raise MaverickError(
            f"{folder} cannot be created ({e.strerror}); choose another output"
        ) from None
    marker = folder / JOURNAL
    if not fresh and not marker.is_file() and (not folder.is_dir() or not _bare(folder)):
        raise UsageError(f"{folder} exists and is not a conversion's; move it away")
    lock = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _lock(lock, folder, fresh)
        # Between opening and locking, another conversion may have ended and renamed it.
        if not os.path.exists(marker) or not os.path.samestat(os.fstat(lock), os.stat(marker)):
            raise _in_use(folder)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _bare(folder: Path) -> bool:
    """Whether nothing is in it but what a file manager left."""
    return all(any(path.match(p) for p in DROPPINGS) for path in folder.iterdir())


def _empty(folder: Path) -> None:
    """Remove all files but the journal. Conversions make no sub-folders, so none is removed."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            raise UsageError(f"{folder} holds {path.name}, not a conversion's; move it away")
        if path.name != JOURNAL:
            path.unlink()


def _remove(folder: Path) -> None:
    _empty(folder)
    (folder / JOURNAL).unlink()  # last: till then the folder is known to be ours
    folder.rmdir()


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


def _pwrite(file: int, data: bytes | memoryview, offset: int) -> None:
    view, done = memoryview(data), 0
    while done < len(view):
        done += os.pwrite(file, view[done:], offset + done)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        yield file
    finally:
        os.close(file)
