"""The files of one model, wherever they are: names, sizes and byte ranges.

Knows nothing of formats. `Folder` is a local one; the converter adds one for the Hub
(`convert.remote`). Only names directly in it count: sub-folders are not looked at.
"""

import os
from pathlib import Path
from typing import Protocol

from .errors import BadCheckpoint, NotFound, UsageError


class Files(Protocol):
    """What both kinds offer. Every method may be called from several threads at once."""

    @property
    def where(self) -> str:
        """For messages: a path, or `owner/name`."""

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of every file, by name."""

    def path(self, name: str) -> Path:
        """What to call a file in messages; of a Folder also where it can be opened."""

    def read(self, name: str, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes) from `offset` of the file.

        Raises BadCheckpoint if the file ends too early or cannot be read, NotFound without it.
        """


def given(path: object) -> Path:
    """A path as it may be given. Raises UsageError for what is none."""
    if not isinstance(path, str | os.PathLike) or "\0" in str(path):
        raise UsageError(f"{path!r} is not a path")
    return Path(path)


def read_whole(files: Files, name: str, limit: int = 1 << 30) -> bytes:
    """All bytes of a small file. Raises NotFound without it, BadCheckpoint above `limit`."""
    size = files.sizes.get(name)
    if size is None:
        raise NotFound(f"{files.where} has no {name}; is it a model?")
    if size > limit:
        raise BadCheckpoint(f"{files.path(name)} has {size} bytes, far more than such a file has")
    buffer = bytearray(size)
    files.read(name, 0, memoryview(buffer))
    return bytes(buffer)


class Folder:
    """A local folder. No file stays open between reads."""

    def __init__(self, folder: Path):
        """Raises NotFound if there is no such folder."""
        if not folder.is_dir():
            raise NotFound(f"{folder} is not a folder; give the path of a model folder")
        self.folder = folder

    @property
    def where(self) -> str:
        return str(self.folder)

    @property
    def sizes(self) -> dict[str, int]:
        return {p.name: p.stat().st_size for p in sorted(self.folder.iterdir()) if p.is_file()}

    def path(self, name: str) -> Path:
        return self.folder / name

    def read(self, name: str, offset: int, buffer: memoryview) -> None:
        path = self.folder / name
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _fill(file, path, offset, buffer)
            finally:
                os.close(file)
        except FileNotFoundError:
            raise NotFound(f"{path} is missing; download it again") from None
        except OSError as e:
            raise BadCheckpoint(f"{path} cannot be read ({e.strerror})") from e


def _fill(file: int, path: Path, offset: int, buffer: memoryview) -> None:
    filled = 0
    while filled < len(buffer):
        count = os.preadv(file, [buffer[filled:]], offset + filled)
        if count == 0:
            raise BadCheckpoint(
                f"{path} ends before byte {offset + len(buffer)}; is it still being downloaded?"
            )
        filled += count
