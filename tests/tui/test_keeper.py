"""What is said is kept as it is said: with the real store, and without an app."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from mlx_maverick.events import FinishReason
from mlx_maverick.sampling import Sampling
from mlx_maverick.tui import happened as chat
from mlx_maverick.tui.conversation import Draft
from mlx_maverick.tui.keeper import Keeper, tree
from mlx_maverick.tui.pictures import look
from mlx_maverick.tui.settings.settings import Settings
from mlx_maverick.tui.store import Store

from .desk import Desk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.db"


@pytest.fixture
def desk(path: Path) -> Iterator[Desk]:
    desk = Desk(Keeper(Store.open(path)), system="Be brief.").ready()
    yield desk
    desk.controller.close()


def kept(path: Path, number: int | None = None) -> list[tuple[str, str, str]]:
    """Role, text and note of what another process would find now."""
    with Store.open(path) as store:
        latest = number or store.latest()
        assert latest is not None
        return [(m.role, m.text, m.note) for m in store.load(latest).path()]


def full(desk: Desk) -> Callable[[], object]:
    """The disk has no room for anything more, until what this returns is called."""
    store = desk.controller.keeper.store
    assert store is not None
    with store._database.writing() as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
    limit = store._database._db.execute
    limit(f"PRAGMA max_page_count = {pages}")
    return partial(limit, "PRAGMA max_page_count = 1000000")


def test_question_and_reply(desk: Desk, path: Path) -> None:
    desk.controller.send(Draft("one"))
    assert kept(path) == [("user", "one", ""), ("assistant", "", "")]
    desk.engine.say("because ")
    desk.engine.say("of")  # nobody has drained yet
    assert kept(path)[1] == ("assistant", "because of", "")
    desk.engine.finish(FinishReason.LENGTH)
    desk.drain()
    assert kept(path)[1] == ("assistant", "because of", "cut off at --max-tokens")
    with Store.open(path) as store:
        stored = store.load(1)
    assert (stored.system, stored.model, stored.title) == ("Be brief.", "folder", "one")
    assert stored.messages[1].stats is not None
    assert stored.messages[1].stats["new_tokens"] == 5


def test_it_goes_on_in_another_app(desk: Desk, path: Path) -> None:
    desk.ask("one", "1")
    desk.ask("two", "2")
    desk.controller.regenerate()
    desk.answer("zwei")
    other = Desk(Keeper(Store.open(path))).ready()
    assert other.controller.open_chat(1) == ""
    assert [n.text for n in other.controller.conversation.path()] == ["one", "1", "two", "zwei"]
    assert other.controller.settings.system == "Be brief."
    assert other.controller.live.context_used == 15  # as after its last reply
    last = other.controller.conversation.leaf
    assert last is not None
    other.controller.turn(last, -1)
    assert kept(path)[-1][1] == "2"
    other.ask("three", "3")
    assert [m["content"] for m in other.engine.asked[-1][0]] == [
        "Be brief.", "one", "1", "two", "2", "three",
    ]  # fmt: skip
    assert [text for _, text, _ in kept(path)] == ["one", "1", "two", "2", "three", "3"]
    other.controller.close()


def test_going_on_with_a_reply(desk: Desk, path: Path) -> None:
    desk.controller.send(Draft("one"))
    desk.engine.say("caf\ufffd", 2)
    desk.engine.finish(FinishReason.LENGTH)
    desk.drain()
    desk.controller.go_on()
    desk.answer("é au lait", 3)
    assert kept(path) == [("user", "one", ""), ("assistant", "café au lait", "")]
    with Store.open(path) as store:
        assert len(store.load(1).messages[1].ids) == 5


def test_what_came_to_nothing_is_not_kept(desk: Desk, path: Path) -> None:
    desk.ask("one", "1")
    desk.controller.send(Draft("two"))
    desk.engine.refuse("too long")
    desk.drain()
    assert kept(path) == [("user", "one", ""), ("assistant", "1", "")]
    desk.controller.regenerate()
    desk.engine.finish(FinishReason.CANCELLED, new=0)
    desk.drain()
    assert kept(path) == [("user", "one", ""), ("assistant", "1", "")]


def test_the_end_of_the_app_keeps_the_question(desk: Desk, path: Path) -> None:
    desk.controller.send(Draft("one"))
    desk.controller.close()
    assert kept(path) == [("user", "one", "")]
    other = Desk(Keeper(Store.open(path))).ready()
    other.controller.open_chat(1)
    assert other.controller.regenerate() == ""
    other.answer("1")
    assert [text for _, text, _ in kept(path)] == ["one", "1"]
    other.controller.close()


def test_the_end_of_the_app_keeps_half_a_reply(desk: Desk, path: Path) -> None:
    desk.controller.send(Draft("one"))
    desk.engine.say("half")
    desk.drain()
    desk.controller.close()
    assert kept(path) == [("user", "one", ""), ("assistant", "half", "broken off")]


def test_chats_are_apart(desk: Desk, path: Path) -> None:
    desk.ask("one", "1")
    desk.controller.new_chat()
    desk.ask("hello", "hi")
    assert kept(path, 1) == [("user", "one", ""), ("assistant", "1", "")]
    assert kept(path, 2) == [("user", "hello", ""), ("assistant", "hi", "")]
    desk.controller.open_chat(1)
    desk.ask("two", "2")
    assert [text for _, text, _ in kept(path, 1)] == ["one", "1", "two", "2"]


def test_pictures_outlive_their_files(desk: Desk, path: Path, tmp_path: Path) -> None:
    file = tmp_path / "my cat.png"
    Image.new("RGB", (40, 30), "red").save(file)
    desk.controller.send(Draft("what?", (look(file),)))
    desk.answer("red")
    file.unlink()
    desk.ask("sure?", "yes")
    sent = desk.engine.asked[-1][0][1]["content"][0]["image"]
    assert Image.open(sent).size == (40, 30)
    with Store.open(path) as store:
        (picture,) = store.load(1).messages[0].pictures
    assert (str(picture.path), picture.name) == (sent, "my cat.png")


def test_a_picture_that_is_gone_already(desk: Desk, tmp_path: Path) -> None:
    """It is refused before anything is written, where it is sent at once and where it waits."""
    file = tmp_path / "cat.png"
    Image.new("RGB", (40, 30)).save(file)
    draft = Draft("what?", (look(file),))
    desk.controller.send(Draft("one"))
    assert desk.controller.send(draft) == ""
    file.unlink()
    assert desk.controller.send(draft).startswith("cat.png is no file any more")
    desk.engine.say("1")
    desk.engine.finish()
    returned, *trouble = desk.drain(chat.MessageReturned, chat.Trouble)
    assert (returned.draft, trouble) == (draft, [])
    assert "cat.png is no file any more" in str(returned.error)
    assert not desk.controller.keeper.unsaved
    assert desk.controller.conversation.path()[-1].text == "1"


def test_a_full_disk(desk: Desk, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chat goes on, says so once, and catches up when there is room again."""
    desk.ask("one", "1")
    make_room = full(desk)
    long = "x" * 100_000
    told = []
    for number in range(3):
        desk.controller.send(Draft(f"{number} {long}"))
        desk.engine.say(long)
        desk.engine.finish()
        told += desk.drain(chat.Trouble)
        told += [m for m in desk.posted if isinstance(m, chat.Trouble) and m not in told]
    assert desk.controller.live.unsaved
    assert len(desk.controller.conversation.path()) == 8
    make_room()
    desk.ask("two", "2")
    assert not desk.controller.live.unsaved
    texts = [text for _, text, _ in kept(path)]
    assert texts[:2] == ["one", "1"]
    assert texts[-2:] == ["two", "2"]
    assert [len(t) for t in texts[2:-2]] == [len(long) + 2, len(long)] * 3


@pytest.mark.parametrize("next_", ["asks", "goes on"])
def test_a_disk_that_is_full_in_the_middle_of_a_reply(desk: Desk, path: Path, next_: str) -> None:
    """It is said at once, nothing that was written is lost, and the rest follows."""
    desk.controller.send(Draft("one"))
    desk.engine.say("begun ", 3)
    make_room = full(desk)
    long = [str(number) * 5000 for number in range(9)]
    for text in long:
        desk.engine.say(text)
    assert desk.controller.keeper.unsaved
    assert [text[:6] for _, text, _ in kept(path)] == ["one", "begun "]
    desk.engine.finish(FinishReason.LENGTH)
    (told,) = desk.drain(chat.Trouble)
    assert "not saved" in told.text
    assert desk.controller.live.unsaved
    assert [text[:6] for _, text, _ in kept(path)] == ["one", "begun "]
    make_room()
    if next_ == "asks":
        desk.ask("two", "2")
    else:
        desk.controller.go_on()
        desk.answer("2")
    (*_, last) = desk.controller.conversation.path()
    assert not desk.controller.live.unsaved
    whole = "begun " + "".join(long)
    texts = [text for _, text, _ in kept(path)]
    assert texts == (["one", whole, "two", "2"] if next_ == "asks" else ["one", f"{whole}2"])
    with Store.open(path) as other:
        stored = other.load(1).path()
    assert [len(m.ids) for m in stored] == ([0, 12, 0, 1] if next_ == "asks" else [0, 13])
    assert list(stored[-1].ids) == last.ids


@pytest.mark.parametrize("room", [False, True])
def test_closing_tries_once_more(desk: Desk, path: Path, room: bool) -> None:
    desk.ask("one", "1")
    make_room = full(desk)
    long = "x" * 100_000
    desk.ask(long, long)
    assert desk.controller.keeper.behind
    if room:
        make_room()
    desk.controller.close()
    assert desk.controller.keeper.behind is not room
    assert (kept(path)[-1][1] == long) is room


def test_without_a_store_one_can_talk() -> None:
    desk = Desk().ready()
    desk.ask("one", "1")
    assert desk.controller.live.unsaved
    desk.controller.new_chat()
    desk.ask("two", "2")


def test_a_tree_comes_back_as_it_was(path: Path) -> None:
    with Store.open(path) as store:
        number = store.create_chat("m", None, {})
        first = store.add_message(number, None, "user", "a", (), True)
        left = store.add_message(number, first, "assistant", "b", (), True)
        store.add_message(number, first, "assistant", "c", (), True)
        below = store.add_message(number, left, "user", "d", (), True)
        store.change_chat(number, leaf=below)
        conversation = tree(store.load(number))
    assert [n.text for n in conversation.path()] == ["a", "b", "d"]
    assert conversation.version(conversation.path()[1]) == (1, 2)
    assert [n.key for n in conversation.nodes()] == [first, left, left + 1, below]


def test_going_on_with_other_settings(desk: Desk, path: Path) -> None:
    """As the command line asks for; the chat keeps them with the next message."""
    desk.ask("one", "1")
    desk.controller.close()
    other = Desk(Keeper(Store.open(path))).ready()
    settings = Settings("folder", system="Be long.", sampling=Sampling(seed=3, max_tokens=9))
    assert other.controller.open_chat(1, settings) == ""
    other.ask("two", "2")
    messages, sampling = other.engine.asked[-1]
    assert messages[0] == {"role": "system", "content": "Be long."}
    assert (sampling.seed, sampling.max_tokens) == (3, 9)
    other.controller.close()
    again = Desk(Keeper(Store.open(path))).ready()
    assert again.controller.open_chat(1) == ""
    assert (again.controller.settings.system, again.controller.settings.sampling.seed) == (
        "Be long.", 3,
    )  # fmt: skip
    again.controller.close()
