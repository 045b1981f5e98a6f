"""Databases of older versions are brought up to date, whole or not at all."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from mlx_maverick.tui.store import Store
from mlx_maverick.tui.store.schema import APPLICATION_ID, MIGRATIONS, migrate, version

from .conftest import titles


@pytest.fixture
def old(path: Path) -> Path:
    """As the first version wrote it: chats, and no search."""
    path.parent.mkdir()
    db = sqlite3.connect(path, isolation_level=None)
    migrate(db, MIGRATIONS[:1])
    db.execute(
        "INSERT INTO chats (title, model, settings, created, updated, leaf)"
        " VALUES ('Old chat', 'folder', '{}', 1, 2, NULL)"
    )
    db.execute(
        "INSERT INTO messages (chat, role, created, text) VALUES (1, 'user', 1, 'Zebras, please')"
    )
    db.execute("UPDATE chats SET leaf = 1")
    db.close()
    return path


def test_an_older_version_is_brought_up_to_date(old: Path) -> None:
    with Store.open(old) as store:
        assert titles(store, "zebr") == titles(store, "old") == ["Old chat"]
        assert [m.text for m in store.load(1).path()] == ["Zebras, please"]
    db = sqlite3.connect(old)
    assert version(db) == len(MIGRATIONS)
    assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    db.close()


def test_each_step_is_done_once(path: Path) -> None:
    done = []
    steps = [lambda db, n=n: done.append(n) for n in range(3)]
    db = sqlite3.connect(":memory:", isolation_level=None)
    migrate(db, steps[:1])
    migrate(db, steps)
    migrate(db, steps)
    assert done == [0, 1, 2]
    assert version(db) == 3


def test_a_step_that_fails_changes_nothing(old: Path) -> None:
    def half(db: sqlite3.Connection) -> None:
        db.execute("DROP TABLE pieces")
        db.execute("no SQL")

    db = sqlite3.connect(old, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError):
        migrate(db, (*MIGRATIONS, half))
    assert version(db) == 1
    assert db.execute("SELECT count(*) FROM pieces").fetchone() == (0,)
    db.close()
    with Store.open(old) as store:
        assert titles(store, "zebras") == ["Old chat"]


def test_two_that_migrate_at_once(old: Path) -> None:
    """The one that comes second waits, and finds it done."""
    started, waiting = threading.Event(), threading.Event()
    connect = partial(sqlite3.connect, old, isolation_level=None)
    connect().execute("PRAGMA journal_mode = WAL")

    def slow(db: sqlite3.Connection) -> None:
        started.set()
        assert waiting.wait(20)
        MIGRATIONS[1](db)

    def first() -> None:
        with closing(connect()) as db:
            migrate(db, (MIGRATIONS[0], slow))

    def second() -> None:
        def seen(statement: str) -> None:
            if statement.startswith(("BEGIN", "CREATE")):
                waiting.set()

        with closing(connect()) as db:
            db.set_trace_callback(seen)
            migrate(db)

    with ThreadPoolExecutor() as threads:
        one = threads.submit(first)
        assert started.wait(20)
        other = threads.submit(second)
        one.result()
        other.result()
    with Store.open(old) as store:
        assert titles(store, "zebras") == ["Old chat"]
