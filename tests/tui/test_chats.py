"""The list of chats as a person uses it."""

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.app import App
from textual.message import Message
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from mlx_maverick.tui.chats import LIMIT, ChatsScreen, described, when
from mlx_maverick.tui.store import ChatRow, Store, StoreError

from .watched import SECONDS, Watched

NOON = time.mktime((2026, 11, 20, 12, 0, 0, 0, 0, -1))


class Host(App[None]):
    """Any app: notes what the screen says."""

    ENABLE_COMMAND_PALETTE = False

    def __init__(self, store: Store, current: int | None, folder: Path, keys: dict[str, str]):
        super().__init__()
        self.list = ChatsScreen(store, current, folder)
        self.results: list[int | None] = []
        self.told: list[Message] = []
        self.set_keymap(keys)

    def on_mount(self) -> None:
        self.push_screen(self.list, self.results.append)

    def on_chats_screen_deleted(self, message: Message) -> None:
        self.told.append(message)

    on_chats_screen_restored = on_chats_screen_renamed = on_chats_screen_deleted


class View(Watched):
    """The running screen, and short ways to look at it."""

    def __init__(self, app: Host, pilot: Pilot[None], store: Store):
        self.app, self.pilot, self.store = app, pilot, store

    @property
    def titles(self) -> list[str]:
        return [row.title for row in self.app.list._rows]

    @property
    def chosen(self) -> str | None:
        at = self.app.list.query_one(OptionList).highlighted
        return None if at is None else self.titles[at]

    @property
    def note(self) -> str:
        note = self.app.list.query_one("#note")
        return str(note.render()) if note.display else ""

    def flat(self) -> str:
        """What is seen, as one line: long texts wrap."""
        return " ".join(self.seen().replace("│", " ").replace("\xa0", " ").split())

    async def type(self, text: str) -> None:
        await self.pilot.press(*("space" if c == " " else c for c in text))

    async def search(self, text: str, *titles: str) -> None:
        await self.type(text)
        await self.until(lambda: self.titles == list(titles))


Open = Callable[..., AbstractAsyncContextManager[View]]


@pytest.fixture
def store(tmp_path: Path) -> Any:
    now = [NOON]

    def clock() -> float:
        now[0] += 60
        return now[0]

    with Store.open(tmp_path / "data" / "chats.db", clock=clock) as opened:
        yield opened


@pytest.fixture
def chats(store: Store) -> Store:
    say(store, "How do zebras sleep?", "Standing, mostly.")
    say(store, "A recipe for Käsespätzle", "Flour, eggs and a lot of cheese.")
    say(store, "What is C++?", "A language, older than Rust.", "And Rust?")
    return store


ALL = ("What is C++?", "A recipe for Käsespätzle", "How do zebras sleep?")


def say(store: Store, *texts: str) -> int:
    chat = store.create_chat("/models/Maverick-e4r6", None, {})
    parent = None
    for i, text in enumerate(texts):
        role = "assistant" if i % 2 else "user"
        parent = store.add_message(chat, parent, role, text, (), True)
    return chat


@pytest.fixture
def open_list(store: Store, tmp_path: Path) -> Open:
    @asynccontextmanager
    async def opened(
        size: tuple[int, int] = (80, 30), current: int | None = None, keys: Any = None
    ) -> AsyncIterator[View]:
        app = Host(store, current, tmp_path / "exports", keys or {})
        async with app.run_test(size=size) as pilot:
            view = View(app, pilot, store)
            await view.until(lambda: app.list._shown is not None and "esc" in view.seen())
            yield view

    return opened


async def test_what_a_chat_says_of_itself(chats: Store, open_list: Open) -> None:
    async with open_list(current=2) as view:
        assert view.titles == list(ALL)
        assert view.chosen == ALL[0]
        seen = view.flat()
        assert "What is C++?" in seen
        assert "3 messages · Maverick-e4r6" in seen
        assert "2 messages · Maverick-e4r6 · open now" in seen
        assert seen.count("open now") == 1
        assert "enter open esc back ^r rename ^d delete ^s export ^t as JSON" in seen
        assert view.app.list.focused is view.app.list.query_one("#query")


@pytest.mark.parametrize(
    ("query", "found"),
    [("zeb", ALL[2]), ("kasesp", ALL[1]), ("cheese eggs", ALL[1]), ("c++", ALL[0])],
)
async def test_typing_searches_and_enter_opens(
    chats: Store, open_list: Open, query: str, found: str
) -> None:
    async with open_list() as view:
        await view.search(query, found)
        await view.pilot.press("enter")
        await view.until(lambda: view.app.results)
        assert view.app.results == [3 - ALL.index(found)]


async def test_the_hits_are_seen(chats: Store, open_list: Open) -> None:
    async with open_list() as view:
        await view.search("chees", ALL[1])
        await view.until(lambda: "Flour, eggs and a lot of cheese." in view.seen())
        strips = view.app.screen._compositor.render_strips()
        marked = [s.text for strip in strips for s in strip if s.style and s.style.underline]
        assert marked == ["chees"]
        await view.pilot.press("ctrl+u")
        await view.search("zeb", ALL[2])
        await view.until(lambda: "Flour" not in view.seen())
        strips = view.app.screen._compositor.render_strips()
        assert "zeb" in [s.text for strip in strips for s in strip if s.style and s.style.underline]


async def test_enter_does_not_open_what_was_listed_before(chats: Store, open_list: Open) -> None:
    """The keys may be faster than the search."""
    async with open_list() as view:
        view.app.list.query_one("#query", Input).value = "zebras"
        assert view.chosen == ALL[0]
        await view.pilot.press("enter")
        await view.until(lambda: view.app.results)
        assert view.app.results == [1]


async def test_enter_with_nothing_found_stays(chats: Store, open_list: Open) -> None:
    async with open_list() as view:
        await view.search("nowhere")
        await view.until(lambda: "Nothing was said about “nowhere”." in view.seen())
        assert "^r" not in view.seen()
        await view.pilot.press("enter", "ctrl+d", "ctrl+r", "ctrl+s", "down", "up", "pagedown")
        assert view.app.results == []
        await view.pilot.press("ctrl+u")
        await view.until(lambda: view.titles == list(ALL))
        await view.until(lambda: "Nothing" not in view.seen())


async def test_no_chats_yet(open_list: Open) -> None:
    async with open_list() as view:
        assert "No chats yet." in view.seen()
        await view.pilot.press("enter", "down", "ctrl+d", "ctrl+z", "escape")
        await view.until(lambda: view.app.results)
        assert view.app.results == [None]


async def test_moving_and_opening(chats: Store, open_list: Open) -> None:
    async with open_list() as view:
        await view.pilot.press("down")
        assert view.chosen == ALL[1]
        await view.pilot.press("pagedown")
        assert view.chosen == ALL[2]
        await view.pilot.press("up", "enter")
        await view.until(lambda: view.app.results)
        assert view.app.results == [2]


async def test_a_click_opens(chats: Store, open_list: Open) -> None:
    async with open_list() as view:
        await view.pilot.click("#list", offset=(3, 3))
        await view.until(lambda: view.app.results)
        assert view.app.results == [2]


async def test_deleting_and_undoing(chats: Store, open_list: Open) -> None:
    async with open_list() as view:
        assert "undo" not in view.seen()
        await view.pilot.press("down", "ctrl+d")
        await view.until(lambda: view.titles == [ALL[0], ALL[2]])
        assert view.chosen == ALL[2]  # the next one
        assert view.note == f"Deleted “{ALL[1]}”. ^z brings it back."
        await view.until(lambda: "^z undo" in view.flat())
        assert view.store.chats("käse") == []
        await view.pilot.press("ctrl+d", "ctrl+d")
        await view.until(lambda: view.titles == [])
        await view.pilot.press("ctrl+z")
        await view.until(lambda: view.titles == [ALL[0]])
        await view.pilot.press("ctrl+z", "ctrl+z")
        await view.until(lambda: view.titles == list(ALL))
        assert view.chosen == ALL[1]  # the one that came back
        assert view.note == f"“{ALL[1]}” is back."
        await view.pilot.press("ctrl+z")
        await view.until(lambda: "undo" not in view.seen())
        assert [(type(m).__name__, m.chat) for m in view.app.told] == [
            ("Deleted", 2), ("Deleted", 1), ("Deleted", 3),
            ("Restored", 3), ("Restored", 1), ("Restored", 2),
        ]  # fmt: skip


async def test_renaming(chats: Store, open_list: Open) -> None:
    async with open_list() as view:
        await view.search("zebras", ALL[2])
        await view.pilot.press("ctrl+r")
        field = view.app.list.query_one("#name", Input)
        assert (field.value, field.has_focus) == (ALL[2], True)
        await view.until(lambda: "enter keeps the name" in view.seen())
        await view.pilot.press("ctrl+d", "ctrl+s", "ctrl+r")  # now of the field, or of nothing
        await view.pilot.click("#list", offset=(3, 0))
        field.focus()
        await view.type("Sleep of zebras")
        await view.pilot.press("enter")
        await view.until(lambda: view.titles == ["Sleep of zebras"])
        assert view.app.list.focused is view.app.list.query_one("#query")
        assert view.store.load(1).title == "Sleep of zebras"
        assert [(m.chat, m.title) for m in view.app.told] == [(1, "Sleep of zebras")]
        await view.pilot.press("ctrl+r", "x", "escape")
        assert view.store.load(1).title == "Sleep of zebras"
        assert view.titles == ["Sleep of zebras"]
        assert view.app.results == []
        await view.pilot.press("escape")
        await view.until(lambda: view.app.results)
        assert view.app.results == [None]


async def test_exporting(chats: Store, open_list: Open, tmp_path: Path) -> None:
    async with open_list(size=(200, 30)) as view:
        await view.pilot.press("ctrl+s")
        await view.until(lambda: view.note)
        path = tmp_path / "exports" / "What is C++.md"
        assert view.note == f"Written to {path}"
        assert "## You\n\nAnd Rust?" in path.read_text()
        await view.pilot.press("down", "ctrl+t")
        await view.until(lambda: view.note.endswith(".json"))
        made = json.loads((tmp_path / "exports" / "A recipe for Käsespätzle.json").read_text())
        assert made["messages"][1]["text"] == "Flour, eggs and a lot of cheese."


async def test_what_fails_is_said(
    chats: Store, open_list: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "exports").write_text("a file in the way")
    async with open_list() as view:
        await view.pilot.press("ctrl+s")
        await view.until(lambda: "cannot be written" in view.note)

        def full(*args: Any) -> None:
            raise StoreError("the disk is full [/]: free some space")

        for name in ("delete", "rename", "chats"):
            monkeypatch.setattr(view.store, name, full)
        await view.pilot.press("ctrl+d")
        await view.until(lambda: view.note == "the disk is full [/]: free some space")
        assert view.titles == list(ALL)
        await view.pilot.press("ctrl+r", "x", "enter")
        await view.until(lambda: "disk is full" in view.note)
        assert view.app.list.query_one("#name", Input).value == "x"  # nothing typed is lost
        await view.pilot.press("escape", "y")
        await view.until(lambda: "disk is full" in view.note)
        await view.pilot.press("enter")  # the list is not of what was typed
        assert view.app.results == []
        assert view.app.told == []


async def test_a_slow_search_never_stops_the_keys(
    chats: Store, open_list: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes late of an older search is not shown."""
    late, search = threading.Event(), chats.chats

    def slow(query: str = "", limit: int = 200) -> list[ChatRow]:
        if query == "z":
            assert late.wait(SECONDS)
        return search(query, limit)

    async with open_list() as view:
        monkeypatch.setattr(view.store, "chats", slow)
        await view.type("z")
        await view.until(lambda: view.app.list._turn == 2)
        await view.type("ebras ")
        await view.until(lambda: view.titles == [ALL[2]])
        await view.pilot.press("ctrl+u")
        await view.until(lambda: view.titles == list(ALL))
        late.set()
        await view.type("rust")
        await view.until(lambda: view.app.list._shown == "rust")
        assert view.titles == [ALL[0]]


async def test_a_search_from_before_does_not_bring_back_what_was_deleted(
    chats: Store, open_list: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, late, over, search = threading.Event(), threading.Event(), threading.Event(), chats.chats

    def slow(query: str = "", limit: int = 200) -> list[ChatRow]:
        rows = search(query, limit)
        if query and not waits.is_set():
            waits.set()
            assert late.wait(SECONDS)
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).add_done_callback(
                lambda future: over.set()
            )
        return rows

    async with open_list() as view:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(view.store, "chats", slow)
        await view.type("a")
        await view.until(waits.is_set)
        await view.pilot.press("ctrl+d")
        await view.until(lambda: view.note.startswith("Deleted"))
        left = view.titles
        assert ALL[0] not in left
        late.set()
        await view.until(over.is_set)
        await view.until(lambda: not view.app.workers._workers)
        assert view.titles == left


def test_nothing_in_a_row_reaches_the_terminal_raw() -> None:
    row = ChatRow(1, "a\x1b[2J", "m\x07", NOON, 1, "s\u202e", ((0, 1),))
    assert described(row, NOON, False).plain == "a[2J\n12:00 · 1 message · m\ns"


@pytest.mark.parametrize("size", [(60, 16), (40, 12), (200, 60)])
async def test_any_size(chats: Store, open_list: Open, size: tuple[int, int]) -> None:
    say(chats, "[b]bold[/b] \x1b[31m \u202eevil " + "very " * 30, "x")
    say(chats, "我在北京工作" * 12, "\x1b]0;title\x07 " + "word " * 99 + "needle")
    async with open_list(size=size) as view:
        assert "[b]bold[/b] [31m evil" in view.seen()
        assert all(len(line) <= size[0] for line in view.seen().splitlines())
        assert "\x1b" not in view.seen()
        assert "esc back" in view.flat()
        assert "^t as JSON" in view.flat()
        await view.search("needle", ("我在北京工作" * 12)[:72])
        options = view.app.list.query_one(OptionList)
        await view.until(lambda: "needle" in options.render_line(2).text)
        await view.pilot.resize_terminal(50, 14)
        await view.until(lambda: view.app.size.width == 50)
        await view.until(lambda: "needle" in options.render_line(2).text)


async def test_many_chats(store: Store, open_list: Open) -> None:
    for i in range(LIMIT + 5):
        say(store, f"Chat number {i}")
    async with open_list() as view:
        assert len(view.titles) == LIMIT
        assert f"the first {LIMIT}" in view.seen()
        await view.pilot.press("up")  # around
        assert view.chosen == "Chat number 5"
        await view.until(lambda: "Chat number 5" in view.seen())
        await view.pilot.resize_terminal(70, 12)
        await view.until(lambda: view.app.size.width == 70)
        assert "Chat number 5" in view.seen()
        await view.search("number 104", "Chat number 104")


async def test_a_paste_is_one_harmless_line(chats: Store, open_list: Open) -> None:
    async with open_list() as view:
        field = view.app.list.query_one("#query", Input)
        field.post_message(events.Paste("eggs\r\n\x1b[31mcheese\x07\n"))
        await view.until(lambda: field.value)
        assert field.value == "eggs [31mcheese"


async def test_keys_can_be_others(chats: Store, open_list: Open) -> None:
    async with open_list(keys={"delete_chat": "f8", "restore_chat": "f9"}) as view:
        await view.until(lambda: "f8 delete" in view.flat())
        await view.pilot.press("f8")
        await view.until(lambda: view.titles == list(ALL[1:]))
        assert "f9 brings it back" in view.note
        await view.pilot.press("f9")
        await view.until(lambda: view.titles == list(ALL))


async def test_without_colours(
    chats: Store, open_list: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "NO_COLOR", "1")
    async with open_list() as view:
        await view.search("chees", ALL[1])
        await view.until(lambda: "a lot of cheese" in view.seen())


async def test_no_timer_while_nothing_happens(chats: Store, open_list: Open) -> None:
    async with open_list() as view:
        await view.search("zeb", ALL[2])
        nodes = [view.app, view.app.list, *view.app.list.query("*")]
        assert [
            t for node in nodes for t in node._timers if t._active.is_set() and t._repeat is None
        ] == []


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ((2026, 11, 20, 9, 5), "09:05"),
        ((2026, 11, 19, 23, 59), "yesterday 23:59"),
        ((2026, 11, 18, 12, 0), "18 Nov"),
        ((2026, 1, 3, 12, 0), "3 Jan"),
        ((2025, 11, 20, 12, 0), "20 Nov 2025"),
    ],
)
def test_when(then: tuple[int, ...], said: str) -> None:
    assert when(time.mktime((*then, 0, 0, 0, -1)), NOON) == said
