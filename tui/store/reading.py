"""A chat out of its rows.

Knows nothing of transactions: the caller has one.
"""

import json
import sqlite3
import struct

from ..conversation import Picture
from .blobs import Pictures
from .faults import StoreError
from .records import StoredChat, StoredMessage


def read_chat(db: sqlite3.Connection, chat: int, folder: Pictures) -> StoredChat:
    """All of a chat, with what has come so far of a message that is being written. Raises
    StoreError if there is none or it was deleted."""
    row = db.execute(
        "SELECT title, model, system, settings, leaf, created FROM chats"
        " WHERE id = ? AND deleted_by IS NULL",
        (chat,),
    ).fetchone()
    if row is None:
        raise StoreError(f"there is no chat {chat}; the list has those there are")
    title, model, system, settings, leaf, created = row
    pictures = _pictures(db, chat, folder)
    messages = []
    for id, parent, role, text, ids, note, writer, stats, written in db.execute(
        "SELECT id, parent, role, text, ids, note, writer, stats, created FROM messages"
        " WHERE chat = ? ORDER BY id",
        (chat,),
    ):
        if writer is not None:
            text, ids = pieces(db, id, text, ids)
        messages.append(
            StoredMessage(
                id, parent, role, text, tuple(pictures.get(id, ())), _unpacked(ids), note,
                writer is None, None if stats is None else json.loads(stats), written,
            )
        )  # fmt: skip
    return StoredChat(
        chat, title, model, system, json.loads(settings), leaf, created, tuple(messages)
    )


def pieces(db: sqlite3.Connection, message: int, text: str, ids: bytes) -> tuple[str, bytes]:
    """A message's text and tokens, with what came since they were written."""
    rest = db.execute(
        "SELECT text, ids FROM pieces WHERE message = ? ORDER BY n", (message,)
    ).fetchall()
    return "".join((text, *(t for t, _ in rest))), b"".join((ids, *(i for _, i in rest)))


def _pictures(db: sqlite3.Connection, chat: int, folder: Pictures) -> dict[int, list[Picture]]:
    """By message, in order."""
    found: dict[int, list[Picture]] = {}
    for message, path, width, height, nbytes, called in db.execute(
        "SELECT message, path, width, height, nbytes, called FROM pictures JOIN messages"
        " ON id = message WHERE chat = ? ORDER BY message, place",
        (chat,),
    ):
        picture = Picture(folder.path(path), width, height, nbytes, called)
        found.setdefault(message, []).append(picture)
    return found


def _unpacked(ids: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(ids) // 4}I", ids)
