"""Finding chats by what was said in them: the full-text index, and asking it.

Knows nothing of transactions: the caller has one. Ranks are simple, so that a person can foresee
them: chats whose title has all the words come first, then those that have them in one message,
then those that have them here and there; the newest first among each.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import islice

from .records import ChatRow, one_line
from .snippet import Finder
from .words import Phrase, phrases, tokens

# A row of the index stands for a message: its chat and itself in one number, so that hits need no
# look at the messages. SQLite has 63 bits.
BITS = 32
IN_MESSAGES = f"""
    SELECT rowid >> {BITS} AS chat, max(rowid) & {(1 << BITS) - 1} FROM words
    WHERE words MATCH ? GROUP BY chat"""
IN_TITLES = "SELECT rowid FROM title_words WHERE title_words MATCH ?"
EXACTLY = "SELECT chat, max(id) FROM messages WHERE instr(text, ?) GROUP BY chat"
EXACTLY_IN_TITLES = "SELECT id FROM chats WHERE instr(title, ?)"
# A chat in which nothing was said is not one yet.
NEWEST = """
    SELECT id FROM chats WHERE deleted_by IS NULL
    AND EXISTS (SELECT 1 FROM messages WHERE chat = chats.id) ORDER BY updated DESC, id DESC"""
ROW = """
    SELECT title, model, updated, (SELECT count(*) FROM messages WHERE chat = chats.id)
    FROM chats WHERE id = ?"""


def index(db: sqlite3.Connection, chat: int, message: int, text: str) -> None:
    """Make a message findable by `text`, and by nothing that it was before."""
    _index(db, "words", chat << BITS | message, text)


def index_title(db: sqlite3.Connection, chat: int, title: str) -> None:
    _index(db, "title_words", chat, title)


def _index(db: sqlite3.Connection, table: str, row: int, text: str) -> None:
    db.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))
    if said := " ".join(tokens(text)):
        db.execute(f"INSERT INTO {table} (rowid, tokens) VALUES (?, ?)", (row, said))


def index_all(db: sqlite3.Connection) -> None:
    for chat, message, text in db.execute("SELECT chat, id, text FROM messages"):
        index(db, chat, message, text)
    for row, title in db.execute("SELECT id, title FROM chats"):
        index_title(db, row, title)


def forget(db: sqlite3.Connection, chat: int, message: int) -> None:
    db.execute("DELETE FROM words WHERE rowid = ?", (chat << BITS | message,))


def forget_chat(db: sqlite3.Connection, chat: int) -> None:
    db.execute(
        "DELETE FROM words WHERE rowid BETWEEN ? AND ?",
        (chat << BITS, ((chat + 1) << BITS) - 1),
    )
    db.execute("DELETE FROM title_words WHERE rowid = ?", (chat,))


def find(db: sqlite3.Connection, query: str, limit: int) -> list[ChatRow]:
    """The chats that `query` asks for; all without one."""
    if not query.strip():
        return [_row(db, chat) for chat in _newest(db, None, limit)]
    finder, ranks = _by_words(db, wanted) if (wanted := phrases(query)) else _exactly(db, query)
    found: dict[int, int | None] = {}  # the chat, and the message of its snippet
    for rank in ranks:
        fresh = rank.keys() - found.keys()
        newest = _newest(db, fresh, limit - len(found))
        found |= {chat: rank[chat] for chat in newest}
        if len(found) >= limit:
            break
    return [_row(db, chat, finder, message) for chat, message in found.items()]


def _newest(db: sqlite3.Connection, among: set[int] | None, limit: int) -> list[int]:
    if among is not None and not among:
        return []
    chats = (chat for (chat,) in db.execute(NEWEST) if among is None or chat in among)
    return list(islice(chats, limit))


Rank = dict[int, int | None]  # chats, each with the message that says what was asked for


def _by_words(db: sqlite3.Connection, wanted: Sequence[Phrase]) -> tuple[Finder, Iterator[Rank]]:
    def ranks() -> Iterator[Rank]:
        everything = " AND ".join(phrase.match() for phrase in wanted)
        said: Rank = dict(db.execute(IN_MESSAGES, (everything,)))
        yield {chat: said.get(chat) for (chat,) in db.execute(IN_TITLES, (everything,))}
        yield said
        if len(wanted) > 1:
            yield _spread(db, wanted)

    return Finder(wanted), ranks()


def _spread(db: sqlite3.Connection, wanted: Sequence[Phrase]) -> Rank:
    """Chats with every phrase in some message or in the title: a person remembers a talk, not a
    message."""
    found: Rank | None = None
    for phrase in wanted:
        here: Rank = {chat: None for (chat,) in db.execute(IN_TITLES, (phrase.match(),))}
        here.update(db.execute(IN_MESSAGES, (phrase.match(),)))
        if found is None:
            found = here
        else:
            found = {c: m if m is not None else here[c] for c, m in found.items() if c in here}
        if not found:
            break
    return found or {}


def _exactly(db: sqlite3.Connection, query: str) -> tuple[Finder, Iterator[Rank]]:
    """For a query that is nothing but punctuation."""
    query = query.strip()

    def ranks() -> Iterator[Rank]:
        said: Rank = dict(db.execute(EXACTLY, (query,)))
        yield {chat: said.get(chat) for (chat,) in db.execute(EXACTLY_IN_TITLES, (query,))}
        yield said

    return Finder.exactly(query), ranks()


def _row(
    db: sqlite3.Connection, chat: int, finder: Finder | None = None, message: int | None = None
) -> ChatRow:
    title, model, updated, count = db.execute(ROW, (chat,)).fetchone()
    title, model = one_line(title), one_line(model)
    if finder is None:
        return ChatRow(chat, title, model, updated, count)
    text = ""
    if message is not None:
        [text] = db.execute("SELECT text FROM messages WHERE id = ?", (message,)).fetchone()
    return ChatRow(chat, title, model, updated, count, *finder.snippet(text), finder.hits(title))
