"""Pictures are kept with the chats that hold them."""

import os
from pathlib import Path

import pytest

from mlx_maverick.errors import NotFound
from mlx_maverick.tui.conversation import Picture
from mlx_maverick.tui.store import Store

from .conftest import Clock

DAY = 24 * 3600


def seen(path: Path) -> Picture:
    return Picture(path, 4, 3, path.stat().st_size)


@pytest.fixture
def shot(tmp_path: Path) -> Path:
    path = tmp_path / "Screen Shot.PNG"
    path.write_bytes(b"pixels" * 1000)
    return path


def test_a_copy_outlives_the_original(path: Path, shot: Path) -> None:
    with Store.open(path) as store:
        kept = store.keep_picture(shot)
        assert kept.parent == path.parent / "pictures"
        assert kept.suffix == ".png"
        chat = store.create_chat("folder", None, {})
        store.add_message(chat, None, "user", "", (seen(kept), seen(shot)), True)
    shot.unlink()
    home = path.parent.rename(path.parent.with_name("moved"))
    with Store.open(home / path.name) as store:
        first, second = store.load(chat).messages[0].pictures
    assert first == Picture(home / "pictures" / kept.name, 4, 3, 6000)
    assert first.path.read_bytes() == b"pixels" * 1000
    assert second.path == shot  # one that was not kept is where it was


def test_the_same_is_kept_once(store: Store, shot: Path, tmp_path: Path) -> None:
    kept = store.keep_picture(shot)
    inode = kept.stat().st_ino
    other = tmp_path / "same.png"
    other.write_bytes(shot.read_bytes())
    assert store.keep_picture(other) == kept
    assert store.keep_picture(kept) == kept
    assert kept.stat().st_ino == inode
    assert list(kept.parent.iterdir()) == [kept]
    shot.write_bytes(b"another")
    assert store.keep_picture(shot) != kept
    assert kept.read_bytes() == b"pixels" * 1000


def test_what_is_not_there_cannot_be_kept(store: Store, tmp_path: Path) -> None:
    for wrong in (tmp_path / "no.png", tmp_path):
        with pytest.raises(NotFound, match="attach the picture again"):
            store.keep_picture(wrong)


def test_a_name_cannot_lead_out_of_the_folder(store: Store, tmp_path: Path) -> None:
    strange = tmp_path / "a.p\nn;g"
    strange.write_bytes(b"x")
    assert store.keep_picture(strange).suffix == ""


def test_what_no_chat_holds_goes(path: Path, shot: Path, tmp_path: Path, clock: Clock) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(b"other")
    with Store.open(path, clock=clock) as store:
        held, waiting = store.keep_picture(shot), store.keep_picture(other)
        torn = held.parent / "x.partial"  # of a process that died over it
        torn.write_bytes(b"half")
        for file in (held, waiting, torn):
            os.utime(file, (clock.now, clock.now))
        chat = store.create_chat("folder", None, {})
        store.add_message(chat, None, "user", "", (seen(held),), True)
        store.purge()  # what just came may be sent yet
        assert sorted(held.parent.iterdir()) == sorted([held, waiting, torn])
        clock.now += 2 * DAY
        assert store.keep_picture(other) == waiting  # wanted again
        store.purge()
        assert sorted(held.parent.iterdir()) == sorted([held, waiting])
        clock.now += 2 * DAY
        store.purge()
        assert list(held.parent.iterdir()) == [held]
        store.delete(chat)
        store.purge()
        assert held.exists()  # until it cannot be undone
    with Store.open(path, clock=clock) as store:
        store.purge()
        assert not held.exists()
