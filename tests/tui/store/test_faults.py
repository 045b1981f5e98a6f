"""Databases that cannot be used say why, and stay as they are."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mlx_maverick.errors import MaverickError
from mlx_maverick.tui.store import Store, StoreError
from mlx_maverick.tui.store.schema import MIGRATIONS

from .conftest import say, titles


def refused(path: Path, match: str) -> None:
    """Opening fails, and every byte is as before."""
    before = path.read_bytes()
    with pytest.raises(StoreError, match=match) as caught:
        Store.open(path, busy_seconds=0.05)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    assert path.read_bytes() == before


@pytest.fixture
def written(path: Path) -> Path:
    with Store.open(path) as store:
        for i in range(50):
            say(store, f"Question {i}", "word " * 500)
    return path


@pytest.mark.parametrize("content", [b"x", b"SQLite format 3\0", b"not a database\n" * 1000])
def test_not_a_database(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    refused(path, "is not a database; move it away")


def test_another_programs(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE songs (name)")
    other.close()
    refused(path, "another program; move it away")


def test_a_newer_version(written: Path) -> None:
    db = sqlite3.connect(written)
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    refused(written, "newer mlx-maverick .format 3, this one knows 2.; update")


def test_a_newer_version_with_a_log(written: Path, tmp_path: Path) -> None:
    """As a newer one leaves it when it is killed: closing would write the log into the file."""
    db = sqlite3.connect(written, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.execute("PRAGMA wal_checkpoint")
    db.execute("UPDATE chats SET title = 'Newer'")
    left = tmp_path / "left"
    shutil.copytree(written.parent, left)
    db.close()
    log = (left / "chats.db-wal").read_bytes()
    refused(left / "chats.db", "newer mlx-maverick")
    assert (left / "chats.db-wal").read_bytes() == log != b""


def test_a_newer_version_that_is_only_in_the_log(written: Path) -> None:
    db = sqlite3.connect(written)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    refused(written, "newer mlx-maverick")
    db.close()


@pytest.mark.parametrize("part", ["end", "pages", "tables"])
def test_damaged(written: Path, part: str) -> None:
    if part == "end":
        os.truncate(written, written.stat().st_size // 2 // 4096 * 4096)
    elif part == "pages":
        with open(written, "r+b") as file:
            file.seek(100)
            file.write(b"\xff" * 20_000)
    else:
        db = sqlite3.connect(written)
        db.execute("DROP TABLE pieces")
        db.close()
    refused(written, "is damaged .*move it away to start afresh: .*recover")


def test_damage_that_is_met_later(written: Path) -> None:
    with Store.open(written) as store:
        size = written.stat().st_size
    with open(written, "r+b") as file:
        file.seek(4096 * 14)
        file.write(b"\xff" * (size - 4096 * 14))
    with Store.open(written) as store, pytest.raises(StoreError, match="is damaged"):
        for row in store.chats():
            store.load(row.id)


def test_a_folder_in_its_place(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StoreError, match=r"chats\.db cannot be used"):
        Store.open(path)


def test_a_file_where_its_folder_should_be(path: Path) -> None:
    path.parent.write_text("x")
    with pytest.raises(StoreError, match="cannot be used"):
        Store.open(path)


READ_ONLY = """
import os, sys
from pathlib import Path
from mlx_maverick.tui.store import Store, StoreError
if os.getuid() == 0:  # who may write anything
    os.setgid(65534)
    os.setuid(65534)
try:
    Store.open(Path(sys.argv[1]))
except StoreError as e:
    print(e)
"""


@pytest.mark.parametrize(
    ("file", "folder"), [(0o400, 0o500), (0o400, 0o700), (0o600, 0o500), (0, 0o700)]
)
def test_no_permission(written: Path, file: int, folder: int) -> None:
    # Not under pytest's folder, into which nobody else can look.
    home = Path(tempfile.mkdtemp())
    try:
        place = home / "chats.db"
        shutil.copy(written, place)
        if os.getuid() == 0:
            os.chown(home, 65534, 65534)
            os.chown(place, 65534, 65534)
        before = place.read_bytes()
        place.chmod(file)
        home.chmod(folder)
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(place)], capture_output=True, text=True
        )
        assert done.stderr == ""
        assert "chats.db" in done.stdout
        assert "permissions" in done.stdout or "read-only" in done.stdout
        home.chmod(0o700)
        assert place.read_bytes() == before
    finally:
        home.chmod(0o700)
        shutil.rmtree(home)


def test_a_lock_that_is_held_too_long(written: Path) -> None:
    with Store.open(written, busy_seconds=0.05) as store:
        holder = sqlite3.connect(written, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another program keeps .* locked"):
            say(store, "One")
        assert store.load(1).title == "Question 0"  # reading goes on
        assert len(store.chats("question")) == 50
        holder.execute("COMMIT")
        holder.close()
        say(store, "One")
        assert titles(store, "one") == ["One"]


FULL = """
import resource, sys
from pathlib import Path
from mlx_maverick.tui.store import Store, StoreError
store = Store.open(Path(sys.argv[1]))
chat = store.create_chat("folder", None, {})
asked = store.add_message(chat, None, "user", "Why?", (), True)
reply = store.add_message(chat, asked, "assistant", "", (), False)
old = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), old[1]))
said = 0
try:
    while said < 100_000:
        store.append(reply, "x" * 100, [said])
        said += 1
except StoreError as e:
    print("append:", e)
for name, work in {
    "finish": lambda: store.finish(reply, "", None),
    "add": lambda: store.add_message(chat, reply, "user", "y" * 1_000_000, (), True),
    "create": lambda: store.create_chat("m" * 1_000_000, None, {}),
    "keep": lambda: store.keep_picture(Path(sys.argv[3])),
}.items():
    try:
        work()
    except StoreError as e:
        print(f"{name}:", e)
assert store.load(chat).messages[-1].ids == tuple(range(said)), "reading goes on"
resource.setrlimit(resource.RLIMIT_FSIZE, old)
store.append(reply, "end", [said])
store.finish(reply, "", None)
message = store.load(chat).messages[-1]
assert message.text == "x" * 100 * said + "end", "nothing twice, nothing lost"
assert message.ids == tuple(range(said + 1))
assert [row.title for row in store.chats()] == ["Why?", "Before"]
store.close()
print("said", said)
"""


def test_a_full_disk(path: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for it; each method fails whole, and when there is
    room again it goes on."""
    picture = tmp_path / "big.png"
    picture.write_bytes(os.urandom(1_000_000))
    with Store.open(path) as store:
        say(store, "Before")
    limit = path.stat().st_size + 200_000
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path), str(limit), str(picture)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    *said, last = done.stdout.splitlines()
    assert last.startswith("said ")
    assert 10 < int(last[5:]) < 100_000
    assert [line.split(":")[0] for line in said] == ["append", "finish", "add", "create", "keep"]
    assert all("chats.db" in line for line in said[:4])
    assert "big.png cannot be used (File too large)" in said[4]
    assert list((path.parent / "pictures").iterdir()) == []
    with Store.open(path) as store:
        assert [row.title for row in store.chats()] == ["Why?", "Before"]
        db = sqlite3.connect(path)
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        db.close()


def test_a_database_that_is_full(store: Store) -> None:
    """SQLite's own word for a disk without room."""
    chat = say(store, "Before")
    with store._database.reading() as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    with store._database._lock:
        store._database._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreError, match="the disk is full.*free some space"):
        store.add_message(chat, 1, "assistant", "word " * 10_000, (), True)
    assert [m.text for m in store.load(chat).messages] == ["Before"]
    assert store.load(chat).leaf == 1


def test_after_closing(path: Path) -> None:
    store = Store.open(path)
    store.close()
    store.close()
    with pytest.raises(MaverickError, match="closed"):
        store.chats()
    with pytest.raises(MaverickError, match="closed"):
        store.append(1, "x", [])
