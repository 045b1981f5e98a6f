"""The tables, as an ordered list of migrations: the database's `user_version` counts those done.

Knows nothing of files and of what uses the tables. A migration that was released is never changed:
another one follows it.
"""

import sqlite3
from collections.abc import Callable, Sequence

from .search import index_all

Migration = Callable[[sqlite3.Connection], None]

APPLICATION_ID = 0x4D4C784D  # "MLxM": tells our databases from those of others


def _chats(db: sqlite3.Connection) -> None:
    db.execute("""
        CREATE TABLE chats (
          id INTEGER PRIMARY KEY AUTOINCREMENT,
          title TEXT NOT NULL DEFAULT '',
          named INTEGER NOT NULL DEFAULT 0,  -- by the user: a first message changes it no more
          model TEXT NOT NULL,
          system TEXT,
          settings TEXT NOT NULL,            -- JSON
          leaf INTEGER REFERENCES messages ON DELETE SET NULL,
          created REAL NOT NULL,
          updated REAL NOT NULL,
          deleted_by TEXT                    -- the run that hid it, until it is purged
        )""")
    db.execute("CREATE INDEX chats_by_time ON chats (updated)")
    # Fat columns last: what is before them is read without them.
    db.execute("""
        CREATE TABLE messages (
          id INTEGER PRIMARY KEY AUTOINCREMENT,
          chat INTEGER NOT NULL REFERENCES chats ON DELETE CASCADE,
          parent INTEGER REFERENCES messages ON DELETE CASCADE,
          role TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
          created REAL NOT NULL,
          writer TEXT,                       -- the run that still writes it
          note TEXT NOT NULL DEFAULT '',
          stats TEXT,                        -- JSON
          text TEXT NOT NULL DEFAULT '',
          ids BLOB NOT NULL DEFAULT x''      -- tokens, 32 bits each, little-endian
        )""")
    db.execute("CREATE INDEX messages_by_chat ON messages (chat, id)")
    db.execute("CREATE INDEX messages_by_parent ON messages (parent)")
    db.execute("CREATE INDEX messages_open ON messages (writer) WHERE writer IS NOT NULL")
    # What came of a message that is being written: adding a row costs the same however long
    # the message is.
    db.execute("""
        CREATE TABLE pieces (
          message INTEGER NOT NULL REFERENCES messages ON DELETE CASCADE,
          n INTEGER NOT NULL,
          text TEXT NOT NULL,
          ids BLOB NOT NULL,
          PRIMARY KEY (message, n)
        ) WITHOUT ROWID""")
    db.execute("""
        CREATE TABLE pictures (
          message INTEGER NOT NULL REFERENCES messages ON DELETE CASCADE,
          place INTEGER NOT NULL,
          path TEXT NOT NULL,                -- a bare name is one of our own folder
          width INTEGER NOT NULL,
          height INTEGER NOT NULL,
          nbytes INTEGER NOT NULL,
          called TEXT NOT NULL,              -- as the user knows it
          PRIMARY KEY (message, place)
        ) WITHOUT ROWID""")


def _search(db: sqlite3.Connection) -> None:
    # What is indexed are the tokens of `search.tokens`, with spaces between: the tokenizer only
    # splits at these, so that nothing depends on the Unicode tables of this or that SQLite.
    for table in ("words", "title_words"):
        db.execute(f"""
            CREATE VIRTUAL TABLE {table} USING fts5(
              tokens, columnsize = 0, prefix = '1 2',
              tokenize = "ascii tokenchars '+#$%&@<=>'"
            )""")
    index_all(db)


MIGRATIONS: Sequence[Migration] = (_chats, _search)


def version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def migrate(db: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Do what is missing: all of it or, if anything fails, nothing. Another process may be
    doing the same."""
    if version(db) >= len(migrations):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        for step in migrations[version(db) :]:
            step(db)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {max(version(db), len(migrations))}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
