"""Copies of the pictures that chats hold, named by what is in them.

Knows nothing of chats. A chat can be resumed after a screenshot on the desktop is gone.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path

from ...errors import NotFound

# A picture nobody has sent yet may wait in a chat that is being written.
GRACE = 24 * 3600.0  # seconds
SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")


class Pictures:
    """The folder of them; made when the first one comes."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time):
        self.folder = folder
        self._clock = clock

    def keep(self, path: Path) -> Path:
        """The copy of `path`, made if there is none. Raises NotFound, or OSError."""
        if path.parent == self.folder and path.is_file():
            return path
        suffix = path.suffix.lower()
        suffix = suffix if SUFFIX.fullmatch(suffix) else ""
        try:
            kept = self.folder / f"{_sha256(path)}{suffix}"
        except (FileNotFoundError, IsADirectoryError):
            raise NotFound(f"{path} is no file any more; attach the picture again") from None
        try:
            os.utime(kept, (self._clock(),) * 2)  # young again: no sweep takes it
            return kept
        except FileNotFoundError:
            return self._copy(path, suffix)

    def _copy(self, path: Path, suffix: str) -> Path:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.folder, suffix=".partial")
        os.close(handle)
        try:
            shutil.copyfile(path, name)
            # Of the copy: the original may have changed meanwhile.
            kept = self.folder / f"{_sha256(Path(name))}{suffix}"
            os.replace(name, kept)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return kept

    def stored(self, path: Path) -> str:
        """How the database names it: one of ours by its bare name, so that the folder can move."""
        path = path.absolute()
        return path.name if path.parent == self.folder else str(path)

    def path(self, stored: str) -> Path:
        return self.folder / stored  # an absolute one stays as it is

    def sweep(self, used: Collection[str]) -> None:
        """Take away what no chat holds, but for what came lately."""
        if not self.folder.is_dir():
            return
        for file in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another sweeps too
                if file.name not in used and file.stat().st_mtime < self._clock() - GRACE:
                    file.unlink()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
