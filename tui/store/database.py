"""The database file: opened with care, one connection behind a lock, whole transactions.

Knows nothing of what the tables mean. A file that is not ours, damaged, or written by a newer
version is left exactly as it is.
"""

import contextlib
import os
import sqlite3
import stat
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from .faults import StoreError, damaged, told
from .schema import APPLICATION_ID, MIGRATIONS, migrate, version

# https://sqlite.org/fileformat.html: the header's first bytes, where user_version and
# application_id are in it.
MAGIC = b"SQLite format 3\0"
HEADER = 100
VERSION = struct.Struct(">I")
VERSION_AT = 60
WAIT = 0.01  # seconds between tries where SQLite itself does not wait


class Database:
    """`reading()` and `writing()` give the connection, from any thread."""

    def __init__(self, path: Path, busy_seconds: float):
        """Open or create. Raises StoreError."""
        self.path = path
        self._lock = threading.RLock()
        with told(path):
            _make(path)
            _check_header(path)
            self._db = sqlite3.connect(
                path, timeout=busy_seconds, isolation_level=None, check_same_thread=False
            )
        try:
            with told(path):
                self._prepare(busy_seconds)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, busy_seconds: float) -> None:
        db = self._db
        with self.reading():  # in one moment: another process may be making the tables
            _check(self.path, db)
        _use_wal(db, busy_seconds)
        # In WAL this loses nothing when a process is killed, and cannot damage the file.
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA secure_delete = ON")  # what was purged is not in the file any more
        migrate(db)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One moment of the database. Raises StoreError for whatever goes wrong inside."""
        with self._transaction("BEGIN") as db:
            yield db

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The same, and all that is changed inside is saved, or nothing."""
        with self._transaction("BEGIN IMMEDIATE") as db:
            yield db

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._lock, told(self.path):
            self._db.execute(begin)
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite may have rolled back itself
                    self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        with self._lock, told(self.path):
            self._db.close()


def _make(path: Path) -> None:
    """An empty file if there is none, for the user alone; SQLite's side files get its mode."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)


def _check_header(path: Path) -> None:
    """What the first bytes say, before SQLite may touch the file."""
    with open(path, "r+b") as file:  # SQLite would find out at the first message it cannot save
        header = file.read(HEADER)
    if not header:
        return
    if len(header) < HEADER or not header.startswith(MAGIC):
        raise StoreError(f"{path} is not a database; move it away to start afresh")
    _check_version(path, VERSION.unpack_from(header, VERSION_AT)[0])


def _check_version(path: Path, found: int) -> None:
    if found > len(MIGRATIONS):
        raise StoreError(
            f"{path} was written by a newer mlx-maverick (format {found}, this one knows "
            f"{len(MIGRATIONS)}); update mlx-maverick"
        )


def _check(path: Path, db: sqlite3.Connection) -> None:
    """What SQLite reads in it."""
    found = version(db)
    _check_version(path, found)
    [application] = db.execute("PRAGMA application_id").fetchone()
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables and not found:
        return  # a new one
    if application != APPLICATION_ID:
        raise StoreError(f"{path} is a database of another program; move it away to start afresh")
    if not found or not {"chats", "messages", "pieces", "pictures"} <= tables:
        raise damaged(path, "tables are missing")


def _use_wal(db: sqlite3.Connection, seconds: float) -> None:
    """Readers and a writer at once. A file system that cannot have it, a network's for instance,
    keeps the old journal: slower and as safe."""
    end = time.monotonic() + seconds
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as e:
            # Another process opens it too: for this SQLite does not wait by itself.
            if e.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(WAIT)
