"""Chats saved as they happen, and read back."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlx_maverick import paths
from mlx_maverick.tui.conversation import Picture
from mlx_maverick.tui.store import Store, StoreError

from .conftest import NOON, Clock, say, titles


def test_a_chat_comes_back_as_it_was(path: Path, clock: Clock) -> None:
    picture = Picture(Path("/photos/cat.png"), 40, 30, 123)
    stats = {"new_tokens": 3, "seconds": 0.5}
    with Store.open(path, clock=clock) as store:
        chat = store.create_chat("folder", "Be brief.", {"temperature": 0.6, "seed": None})
        asked = store.add_message(chat, None, "user", "What is\nthis?", (picture,), True)
        reply = store.add_message(chat, asked, "assistant", "", (), False)
        store.append(reply, "A ", [7])
        store.append(reply, "", [200_000])
        store.append(reply, "cat.\x00\n", [9, 4_294_967_295])
        store.finish(reply, "stopped", stats)
    with Store.open(path) as store:
        back = store.load(chat)
    assert (back.title, back.model, back.system) == ("What is", "folder", "Be brief.")
    assert back.settings == {"temperature": 0.6, "seed": None}
    assert back.leaf == reply
    first, second = back.messages
    assert (first.id, first.parent, first.role, first.text) == (
        asked,
        None,
        "user",
        "What is\nthis?",
    )
    assert first.pictures == (picture,)
    assert (first.whole, first.note, first.stats, first.ids) == (True, "", None, ())
    assert (second.id, second.parent, second.role) == (reply, asked, "assistant")
    assert second.text == "A cat.\x00\n"
    assert second.ids == (7, 200_000, 9, 4_294_967_295)
    assert (second.whole, second.note, second.stats) == (True, "stopped", stats)
    assert NOON < first.created < second.created < NOON + 10
    assert back.path() == (first, second)


def test_a_reply_that_comes_is_seen_so_far(store: Store) -> None:
    chat = say(store, "Why?")
    reply = store.add_message(chat, 1, "assistant", "Be", (), False)
    store.append(reply, "cause", [1, 2])
    message = store.load(chat).messages[-1]
    assert (message.text, message.ids, message.whole, message.note) == (
        "Because",
        (1, 2),
        False,
        "",
    )


def test_a_tree_of_replies_and_questions(store: Store) -> None:
    chat = say(store, "Why?", "Because.")
    other = store.add_message(chat, 1, "assistant", "Who knows.", (), True)
    edited = store.add_message(chat, None, "user", "Why not?", (), True)
    back = store.load(chat)
    assert [(m.id, m.parent) for m in back.messages] == [
        (1, None),
        (2, 1),
        (other, 1),
        (edited, None),
    ]
    assert [m.text for m in back.path()] == ["Why not?"]
    store.change_chat(chat, leaf=other)
    assert [m.text for m in store.load(chat).path()] == ["Why?", "Who knows."]
    store.change_chat(chat, leaf=None)
    assert store.load(chat).path() == ()


def test_going_on_with_a_reply(store: Store) -> None:
    chat = say(store, "Count")
    reply = store.add_message(chat, 1, "assistant", "", (), False)
    store.append(reply, "one two", [1, 2])
    store.finish(reply, "cut off", {"new_tokens": 2})
    store.append(reply, " three", [3])
    assert not store.load(chat).messages[-1].whole
    store.finish(reply, "", {"new_tokens": 1})
    message = store.load(chat).messages[-1]
    assert (message.text, message.ids, message.note) == ("one two three", (1, 2, 3), "")
    assert message.stats == {"new_tokens": 1}
    assert message.whole
    assert titles(store, "three") == ["Count"]


def test_a_message_is_taken_back(store: Store) -> None:
    chat = say(store, "One", "Two", "Three")
    reply = store.add_message(chat, 3, "assistant", "", (), False)
    with pytest.raises(StoreError, match="answered"):
        store.discard(3)
    store.discard(reply)
    assert store.load(chat).leaf == 3
    store.discard(3)
    store.discard(3)  # it is gone
    assert [m.text for m in store.load(chat).path()] == ["One", "Two"]
    assert titles(store, "three") == []
    store.discard(2)
    store.discard(1)
    assert store.chats() == []
    assert store.latest() is None
    store.add_message(chat, None, "user", "Another one", (), True)
    assert titles(store) == ["Another one"]
    assert titles(store, "one") == ["Another one"]


def test_the_leaf_stays_where_a_person_left_it(store: Store) -> None:
    chat = say(store, "One", "Two")
    other = store.add_message(chat, 1, "assistant", "", (), False)
    store.change_chat(chat, leaf=2)
    store.discard(other)
    assert store.load(chat).leaf == 2


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ("\n  \n Hello   there \nand more", "Hello there"),
        ("\x1b[31mred\x1b[0m \u202etxt", "[31mred[0m txt"),
        ("word " * 100, "word " * 15 + "word…"),
    ],
)
def test_a_title_is_the_first_line(store: Store, said: str, title: str) -> None:
    say(store, said, "Not this")
    assert titles(store) == [title]


def test_a_title_comes_with_the_first_words(store: Store) -> None:
    chat = store.create_chat("folder", None, {})
    picture = Picture(Path("/cat.png"), 1, 1, 1)
    message = store.add_message(chat, None, "user", "", (picture,), True)
    message = store.add_message(chat, message, "assistant", "A cat", (), True)
    assert titles(store) == [""]
    store.add_message(chat, message, "user", "What breed?", (), True)
    assert titles(store) == ["What breed?"]


def test_a_name_stays_until_it_is_emptied(store: Store) -> None:
    chat = say(store, "First", "Reply")
    store.rename(chat, " My\n chat ")
    store.add_message(chat, 2, "user", "Second", (), True)
    assert titles(store) == ["My chat"]
    assert titles(store, "my") == ["My chat"]
    store.rename(chat, " ")
    assert titles(store) == ["First"]
    assert titles(store, "my") == []


def test_what_is_changed_and_what_is_not(store: Store) -> None:
    chat = store.create_chat("folder", "Be brief.", {"a": 1})
    store.add_message(chat, None, "user", "Hi", (), True)
    updated = store.chats()[0].updated
    store.change_chat(chat, system=None, model="other")
    store.change_chat(chat, settings={"b": [2]})
    back = store.load(chat)
    assert (back.system, back.model, back.settings, back.leaf) == (None, "other", {"b": [2]}, 1)
    assert store.chats()[0].updated == updated


def test_the_list_is_of_what_was_said_last(store: Store) -> None:
    store.create_chat("folder", None, {})  # nothing was said in it
    one, two = say(store, "One", "Reply", model="/models/one"), say(store, "Two")
    assert titles(store) == ["Two", "One"]
    assert store.latest() == two
    reply = store.add_message(one, 1, "assistant", "", (), False)
    store.finish(reply, "", None)
    assert titles(store) == ["One", "Two"]
    assert store.latest() == one
    assert [row.title for row in store.chats(limit=1)] == ["One"]
    row = store.chats()[0]
    assert (row.id, row.model, row.count, row.snippet) == (one, "/models/one", 3, "")


def test_deleting_and_undoing(store: Store) -> None:
    one, two = say(store, "One cat"), say(store, "Two cats")
    store.delete(two)
    assert titles(store) == titles(store, "cat") == ["One cat"]
    assert store.latest() == one
    with pytest.raises(StoreError, match="no chat 2"):
        store.load(two)
    store.purge()  # of this run nothing goes
    store.restore(two)
    assert titles(store) == titles(store, "cat") == ["Two cats", "One cat"]
    assert [m.text for m in store.load(two).messages] == ["Two cats"]


def test_saying_something_brings_a_chat_back(store: Store) -> None:
    chat = say(store, "One")
    store.delete(chat)
    store.add_message(chat, 1, "assistant", "Two", (), True)
    assert titles(store) == ["One"]


def test_purging_what_earlier_runs_deleted(path: Path, clock: Clock) -> None:
    with Store.open(path, clock=clock) as store:
        say(store, "Stays")
        store.delete(say(store, "Xylophone secrets", "Hush"))
    with Store.open(path, clock=clock) as store:
        assert store.purge() == 1
        assert store.purge() == 0
        assert titles(store) == ["Stays"]
        assert store.chats("xylophone") == store.chats("hush") == []
        with pytest.raises(StoreError, match="no chat 2"):
            store.restore(2)
    for file in path.parent.rglob("chats.db*"):
        assert file.is_dir() or b"ylophone" not in file.read_bytes()


def test_purging_what_was_never_begun(store: Store, clock: Clock) -> None:
    chat = store.create_chat("folder", None, {})
    assert store.purge() == 0
    clock.now += 2 * 24 * 3600
    assert store.purge() == 1
    with pytest.raises(StoreError, match=f"no chat {chat}"):
        store.load(chat)


def test_what_is_not_there(store: Store) -> None:
    chat, other = say(store, "One"), say(store, "Two")
    for wrong in (99, 10**30):
        with pytest.raises(StoreError):
            store.load(wrong)
        with pytest.raises(StoreError):
            store.rename(wrong, "x")
        with pytest.raises(StoreError):
            store.delete(wrong)
        with pytest.raises(StoreError):
            store.add_message(wrong, None, "user", "x", (), True)
        with pytest.raises(StoreError):
            store.append(wrong, "x", [])
        with pytest.raises(StoreError):
            store.finish(wrong, "", None)
    with pytest.raises(StoreError, match="none of chat"):
        store.add_message(other, 1, "user", "x", (), True)
    with pytest.raises(StoreError, match="none of chat"):
        store.change_chat(other, title="x", leaf=1)
    assert titles(store) == ["Two", "One"]
    assert [m.text for m in store.load(chat).messages] == ["One"]


def test_half_a_character_is_none(store: Store) -> None:
    chat = say(store, "a \ud83d b", "\ud83d\ude00")
    assert [m.text for m in store.load(chat).messages] == ["a \ufffd b", "😀"]


def test_many_threads_at_once(store: Store) -> None:
    chat = say(store, "Go")
    replies = [store.add_message(chat, 1, "assistant", "", (), False) for _ in range(4)]

    def write(reply: int) -> None:
        for i in range(50):
            store.append(reply, f"{i} ", [i])
            store.chats("go")
        store.finish(reply, "", None)

    with ThreadPoolExecutor() as threads:
        assert list(threads.map(write, replies)) == [None] * 4
    for message in store.load(chat).messages[1:]:
        assert message.text == "".join(f"{i} " for i in range(50))
        assert message.ids == tuple(range(50))


def test_the_files_are_the_users_alone(path: Path) -> None:
    with Store.open(path) as store:
        say(store, "One")
        files = [f for f in path.parent.rglob("*") if f.is_file()]
        assert {path.name, f"{path.name}-wal"} <= {f.name for f in files}
        assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}
    path.chmod(0o644)
    Store.open(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_where_it_is(tmp_path: Path) -> None:
    with Store.open() as store:
        assert store.path == paths.data_dir() / "chats.db"
        assert store.path.is_file()
