"""All chats: saved as they happen, so that a crash at any moment loses nothing that was saved.

Knows nothing of widgets and of the worker. Every method may be called from any thread, is one
transaction, and raises StoreError for what the disk or another process does to it; then nothing
was changed.
"""

import json
import sqlite3
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from ... import paths
from ..conversation import Picture
from . import search
from .blobs import Pictures
from .database import Database
from .faults import StoreError, told
from .reading import pieces, read_chat
from .records import ChatRow, Role, StoredChat, one_line, title_of
from .writers import Writer, alive, sweep

FILE = "chats.db"
BUSY_SECONDS = 5.0
BROKEN_OFF = "broken off"  # the note of a reply whose process died
EMPTY_DAYS = 1  # a chat in which nothing was said is kept that long
DAY = 24 * 3600.0
OPEN = "SELECT id, writer FROM messages WHERE writer IS NOT NULL"


class Unset(Enum):
    """Told from None, which is a value."""

    UNSET = 0


UNSET = Unset.UNSET


class Store:
    """`Store.open()`, and `close()` at the end."""

    def __init__(self, path: Path, busy_seconds: float, clock: Callable[[], float]):
        self.path = path
        self._clock = clock
        self._database = Database(path, busy_seconds)
        self._pictures = Pictures(path.with_name("pictures"), clock)
        self._folder = path.with_name(f"{path.name}-writers")
        self._writing: set[int] = set()  # messages that this one has open
        try:
            with told(path):
                self._writer = Writer(self._folder)
            with self._database.writing() as db:
                self._mend(db)
        except BaseException:
            self._database.close()
            raise

    @classmethod
    def open(
        cls,
        path: Path | None = None,
        *,
        busy_seconds: float = BUSY_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> "Store":
        """The chats in `path`, `data_dir()/chats.db` without one; the file is made if there is
        none. Another process's lock is waited for `busy_seconds`. Raises StoreError for a file
        that is none of ours, damaged, of a newer version, or may not be read or written."""
        if path is None:
            with told(Path(FILE)):
                path = paths.data_dir() / FILE
        return cls(path.absolute(), busy_seconds, clock)

    def close(self) -> None:
        """What is still being written counts as broken off from now on."""
        with told(self.path):
            self._writer.close()
        self._database.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # A chat as it happens.

    def create_chat(self, model: str, system: str | None, settings: dict[str, Any]) -> int:
        """A new chat; it is in no list until something is said in it."""
        now = self._clock()
        row = (_text(model), _prompt(system), json.dumps(settings), now, now)
        with self._database.writing() as db:
            return _inserted(
                db.execute(
                    "INSERT INTO chats (model, system, settings, created, updated)"
                    " VALUES (?, ?, ?, ?, ?)",
                    row,
                )
            )

    def change_chat(
        self,
        chat: int,
        *,
        title: str | Unset = UNSET,
        system: str | Unset | None = UNSET,
        settings: dict[str, Any] | Unset = UNSET,
        model: str | Unset = UNSET,
        leaf: int | Unset | None = UNSET,
    ) -> None:
        """What is given is changed. An empty title stands for the first line again; `leaf`, of
        this chat, is the message that ends the branch to show."""
        with self._database.writing() as db:
            _known(db, chat)
            if title is not UNSET:
                _set_title(db, chat, one_line(_text(title)))
            if system is not UNSET:
                db.execute("UPDATE chats SET system = ? WHERE id = ?", (_prompt(system), chat))
            if settings is not UNSET:
                dumped = json.dumps(settings)
                db.execute("UPDATE chats SET settings = ? WHERE id = ?", (dumped, chat))
            if model is not UNSET:
                db.execute("UPDATE chats SET model = ? WHERE id = ?", (_text(model), chat))
            if leaf is not UNSET:
                _belongs(db, leaf, chat)
                db.execute("UPDATE chats SET leaf = ? WHERE id = ?", (leaf, chat))

    def add_message(
        self,
        chat: int,
        parent: int | None,
        role: Role,
        text: str,
        pictures: Sequence[Picture],
        whole: bool,
    ) -> int:
        """A message that answers `parent`, shown from now on. One that is not `whole` grows by
        `append` until `finish`. A chat that was deleted meanwhile is back: something is said
        in it."""
        now = self._clock()
        writer = None if whole else self._writer.name
        with self._database.writing() as db:
            _known(db, chat)
            _belongs(db, parent, chat)
            message = _inserted(
                db.execute(
                    "INSERT INTO messages (chat, parent, role, created, writer, text)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (chat, parent, role, now, writer, _text(text)),
                )
            )
            db.executemany(
                "INSERT INTO pictures VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        message,
                        i,
                        self._pictures.stored(p.path),
                        p.width,
                        p.height,
                        p.nbytes,
                        _text(p.name),
                    )
                    for i, p in enumerate(pictures)
                ),
            )
            db.execute(
                "UPDATE chats SET leaf = ?, updated = ?, deleted_by = NULL WHERE id = ?",
                (message, now, chat),
            )
            search.index(db, chat, message, _text(text))
            _title(db, chat)
        if not whole:
            self._writing.add(message)
        return message

    def append(self, message: int, text: str, ids: Sequence[int]) -> None:
        """More of a message. One that was finished is open again, until `finish`."""
        reopen = message not in self._writing
        with self._database.writing() as db:
            if reopen:
                db.execute(
                    "UPDATE messages SET writer = ? WHERE id = ?", (self._writer.name, message)
                )
            db.execute(
                "INSERT INTO pieces SELECT ?1, coalesce(max(n), -1) + 1, ?2, ?3"
                " FROM pieces WHERE message = ?1",
                (message, _text(text), _packed(ids)),
            )
        self._writing.add(message)

    def finish(self, message: int, note: str, stats: dict[str, Any] | None) -> None:
        """The message is whole; `note` says why it is shorter than it might be."""
        with self._database.writing() as db:
            self._fold(db, message, _text(note), None if stats is None else json.dumps(stats))
            db.execute(
                "UPDATE chats SET updated = ? WHERE id = (SELECT chat FROM messages WHERE id = ?)",
                (self._clock(), message),
            )
        self._writing.discard(message)

    def discard(self, message: int) -> None:
        """Take away a message that nothing answers: a reply of which nothing came, or a message
        that went back to where it was written. What it answered ends the branch."""
        with self._database.writing() as db:
            row = db.execute("SELECT chat, parent FROM messages WHERE id = ?", (message,))
            chat, parent = row.fetchone() or (None, None)
            if chat is None:
                return
            if db.execute("SELECT 1 FROM messages WHERE parent = ?", (message,)).fetchone():
                raise StoreError("a message that was answered cannot be taken back")
            db.execute(
                "UPDATE chats SET leaf = ? WHERE id = ? AND leaf = ?", (parent, chat, message)
            )
            search.forget(db, chat, message)
            db.execute("DELETE FROM messages WHERE id = ?", (message,))
            _title(db, chat)
        self._writing.discard(message)

    # Chats that were.

    def load(self, chat: int) -> StoredChat:
        """All of a chat; StoreError if there is none or it was deleted. A reply that a process
        died over is marked as broken off."""
        if self._cut():
            with self._database.writing() as db:
                self._mend(db)
        with self._database.reading() as db:
            return read_chat(db, chat, self._pictures)

    def latest(self) -> int | None:
        """The chat in which something was said last."""
        with self._database.reading() as db:
            row = db.execute(f"{search.NEWEST} LIMIT 1").fetchone()
        return None if row is None else int(row[0])

    def chats(self, query: str = "", limit: int = 200) -> list[ChatRow]:
        """The chats that have every word of `query` in their title or messages, those with all
        of them in the title first, then the newest; without a query all. Any text is a query."""
        with self._database.reading() as db:
            return search.find(db, _text(query), limit)

    def rename(self, chat: int, title: str) -> None:
        """An empty title stands for the first line of the first message again."""
        self.change_chat(chat, title=title)

    def delete(self, chat: int) -> None:
        """Hide it. It can come back until a `purge` after this process has ended."""
        with self._database.writing() as db:
            _known(db, chat)
            db.execute("UPDATE chats SET deleted_by = ? WHERE id = ?", (self._writer.name, chat))

    def restore(self, chat: int) -> None:
        """Undo `delete`."""
        with self._database.writing() as db:
            _known(db, chat)
            db.execute("UPDATE chats SET deleted_by = NULL WHERE id = ?", (chat,))

    def purge(self) -> int:
        """Take away for good what was deleted by runs that have ended, chats in which nothing was
        ever said, and pictures that no chat holds; how many chats went. For a program's start."""
        old = self._clock() - EMPTY_DAYS * DAY
        with self._database.writing() as db:
            gone = [
                chat
                for chat, by in db.execute(
                    "SELECT id, deleted_by FROM chats WHERE deleted_by IS NOT NULL"
                ).fetchall()
                if not alive(self._folder, by) and not self._being_written(db, chat)
            ]
            gone += _first_column(
                db.execute(
                    "SELECT id FROM chats WHERE deleted_by IS NULL AND updated < ?"
                    " AND NOT EXISTS (SELECT 1 FROM messages WHERE chat = chats.id)",
                    (old,),
                )
            )
            for chat in gone:
                search.forget_chat(db, chat)
                db.execute("DELETE FROM chats WHERE id = ?", (chat,))
            if gone:  # the words themselves leave the index only when it is merged
                db.execute("INSERT INTO words (words) VALUES ('optimize')")
                db.execute("INSERT INTO title_words (title_words) VALUES ('optimize')")
            # In the transaction: no message may come to hold one now.
            self._pictures.sweep(set(_first_column(db.execute("SELECT path FROM pictures"))))
            sweep(self._folder)
        return len(gone)

    def keep_picture(self, path: Path) -> Path:
        """A copy of a picture's file among ours, made once. Raises NotFound if there is none."""
        with told(path):
            return self._pictures.keep(path.absolute())

    # Helpers.

    def _mend(self, db: sqlite3.Connection) -> None:
        """Finish what processes that died left open."""
        for message, writer in db.execute(OPEN).fetchall():
            if not alive(self._folder, writer):
                self._fold(db, message, BROKEN_OFF, None)

    def _cut(self) -> bool:
        """Whether there is something to mend. Asked first: a reader disturbs nobody."""
        with self._database.reading() as db:
            return any(not alive(self._folder, writer) for _, writer in db.execute(OPEN))

    def _fold(self, db: sqlite3.Connection, message: int, note: str, stats: str | None) -> None:
        row = db.execute("SELECT chat, text, ids FROM messages WHERE id = ?", (message,)).fetchone()
        if row is None:
            raise StoreError("this message's chat was deleted")
        chat, *begun = row
        text, ids = pieces(db, message, *begun)
        db.execute(
            "UPDATE messages SET writer = NULL, text = ?, ids = ?, note = ?, stats = ?"
            " WHERE id = ?",
            (text, ids, note, stats, message),
        )
        db.execute("DELETE FROM pieces WHERE message = ?", (message,))
        search.index(db, chat, message, text)

    def _being_written(self, db: sqlite3.Connection, chat: int) -> bool:
        writers = db.execute(
            "SELECT DISTINCT writer FROM messages WHERE chat = ? AND writer IS NOT NULL", (chat,)
        )
        return any(alive(self._folder, writer) for writer in _first_column(writers.fetchall()))


def _known(db: sqlite3.Connection, chat: int) -> None:
    if db.execute("SELECT 1 FROM chats WHERE id = ?", (chat,)).fetchone() is None:
        raise StoreError(f"there is no chat {chat}; the list has those there are")


def _belongs(db: sqlite3.Connection, message: int | None, chat: int) -> None:
    if message is None:
        return
    row = db.execute("SELECT chat FROM messages WHERE id = ?", (message,)).fetchone()
    if row != (chat,):
        raise StoreError(f"message {message} is none of chat {chat}")


def _title(db: sqlite3.Connection, chat: int) -> None:
    """The first line a person wrote in it, unless it has a name."""
    [old, named] = db.execute("SELECT title, named FROM chats WHERE id = ?", (chat,)).fetchone()
    if named:
        return
    said = db.execute(
        "SELECT text FROM messages WHERE chat = ? AND role = 'user' ORDER BY id", (chat,)
    )
    title = next((made for made in (title_of(text) for (text,) in said) if made), "")
    if title != old:
        db.execute("UPDATE chats SET title = ? WHERE id = ?", (title, chat))
        search.index_title(db, chat, title)


def _set_title(db: sqlite3.Connection, chat: int, title: str) -> None:
    db.execute("UPDATE chats SET title = ?, named = ? WHERE id = ?", (title, bool(title), chat))
    search.index_title(db, chat, title)
    _title(db, chat)


def _packed(ids: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(ids)}I", *ids)


def _text(text: str) -> str:
    """What UTF-8 can hold: half a character, as a model may write, is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _prompt(system: str | None) -> str | None:
    return None if system is None else _text(system)


def _inserted(cursor: sqlite3.Cursor) -> int:
    assert cursor.lastrowid is not None  # it was an INSERT
    return cursor.lastrowid


def _first_column(rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    return [row[0] for row in rows]
