"""What can be wrong with a database, in one line that says what to do.

Knows nothing of what is in it.
"""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...disk import FULL
from ...errors import MaverickError


class StoreError(MaverickError):
    """Chats cannot be read or saved."""


@contextmanager
def told(path: Path) -> Iterator[None]:
    """What SQLite and the system say about the database at `path`, as StoreError."""
    try:
        yield
    except sqlite3.Error as e:
        raise StoreError(_reason(path, e)) from e
    except OverflowError as e:  # an id that no row can have
        raise StoreError(f"{path} has no such number") from e
    except OSError as e:
        raise StoreError(_system(path, e)) from e


def damaged(path: Path, how: str) -> StoreError:
    return StoreError(
        f"{path} is damaged ({how}); move it away to start afresh: "
        "`sqlite3 chats.db .recover` may save what is in it"
    )


def _reason(path: Path, error: sqlite3.Error) -> str:
    # The low byte is the kind of error, https://sqlite.org/rescode.html; what Python's module
    # itself complains about has none.
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_FULL:
            return _full(path)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"another program keeps {path} locked; close it, or try again"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return str(damaged(path, str(error)))
        case sqlite3.SQLITE_READONLY:
            return f"{path} is read-only; make it and its folder writable"
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return f"{path} cannot be opened; check the permissions of it and of its folder"
        case sqlite3.SQLITE_IOERR:
            return f"{path} cannot be read or written ({error}); check the disk and its free space"
        case sqlite3.SQLITE_CONSTRAINT:
            return f"what is to be saved belongs to a chat that {path} no longer has"
        case _:
            return f"{path} cannot be used: {error}"


def _system(path: Path, error: OSError) -> str:
    at = error.filename or path
    if error.errno in FULL:
        return _full(path)
    permissions = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    check = "its permissions" if permissions else "it and the disk"
    return f"{at} cannot be used ({error.strerror or error}); check {check}"


def _full(path: Path) -> str:
    return f"the disk is full: nothing more can be saved in {path}; free some space"
