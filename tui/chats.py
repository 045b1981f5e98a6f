"""The list of chats: find one by anything that was said, open, rename, delete, export it.

Knows nothing of the chat that is open, but its number. What is asked of the store runs beside
the screen: a big database or another process's lock never stops the keys.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.timer import Timer
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from ..cli.terminal import printable
from ..errors import MaverickError
from .store import ChatRow, Store, StoredChat, export
from .store.records import Marks, one_line

LIMIT = 100  # chats that are listed: laying them out is the UI's work
PAUSE = 0.08  # seconds without a key, and the search begins
HIT = "underline $text-accent"
UNTITLED = "Untitled"
NO_CHATS = "No chats yet. What you write is saved here as you go."
RENAMING = "enter keeps the name  esc leaves it as it was"


def when(seconds: float, now: float) -> str:
    """A time as short as it is clear: '14:03', 'yesterday 14:03', '3 Nov', '3 Nov 2025'."""
    then, today = datetime.fromtimestamp(seconds), datetime.fromtimestamp(now)
    days = (today.date() - then.date()).days
    if days == 0:
        return f"{then:%H:%M}"
    if days == 1:
        return f"yesterday {then:%H:%M}"
    return f"{then.day} {then:%b}" + (f" {then.year}" if then.year != today.year else "")


def marked(text: str, hits: Marks, style: str = "") -> Content:
    made = Content(printable(text)).stylize(style)
    for start, end in hits:
        made = made.stylize(HIT, start, end)
    return made


def described(row: ChatRow, now: float, current: bool) -> Content:
    """Two lines, or three if something was searched for."""
    said = "1 message" if row.count == 1 else f"{row.count} messages"
    model = Path(row.model).name
    about = [when(row.updated, now), said, model, "open now" if current else ""]
    lines = [
        marked(row.title, row.title_hits, "bold") if row.title else Content.styled(UNTITLED, "dim"),
        Content(printable(" · ".join(filter(None, about)))).stylize("dim"),
    ]
    if row.snippet:
        lines.append(marked(row.snippet, row.hits))
    return Content("\n").join(lines)


class Field(Input):
    """One line; what is pasted becomes one, and harmless."""

    def __init__(self, *, id: str, placeholder: str, max_length: int):
        super().__init__(id=id, placeholder=placeholder, max_length=max_length, compact=True)
        self.cursor_blink = False  # a blinking cursor is a timer

    def _on_paste(self, event: events.Paste) -> None:
        event.stop()
        event.prevent_default()
        self.insert_text_at_cursor(one_line(event.text))


class Panel(Vertical):
    """The frame."""


class ChatsScreen(ModalScreen[int | None]):
    """Dismisses with the number of the chat to open, or None."""

    DEFAULT_CSS = """
    ChatsScreen {
        align: center middle;
        Panel {
            width: 1fr;
            max-width: 100;
            height: 1fr;
            max-height: 40;
            padding: 0 1;
            background: $surface;
            border: round $primary;
            border-subtitle-color: $text-muted;
        }
        Field { padding: 0 1; background: $boost; }
        #name { display: none; }
        #list {
            height: 1fr;
            margin: 1 0 0 0;
            padding: 0;
            border: none;
            background: transparent;
            text-wrap: nowrap;
            text-overflow: ellipsis;
            scrollbar-size-vertical: 1;
        }
        #empty { display: none; height: 1fr; margin: 1 0 0 0; color: $text-muted; }
        #note { display: none; height: auto; max-height: 4; color: $text-warning; }
        #note.error { color: $text-error; }
        #keys { height: auto; color: $text-muted; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "back"),
        Binding("up", "move('cursor_up')", "Up", show=False),
        Binding("down", "move('cursor_down')", "Down", show=False),
        Binding("pageup", "move('page_up')", "Page up", show=False),
        Binding("pagedown", "move('page_down')", "Page down", show=False),
        # Priority: the search field, which has the focus, knows some of these keys too.
        Binding("ctrl+r", "rename", "rename", priority=True, id="rename_chat"),
        Binding("ctrl+d", "delete", "delete", priority=True, id="delete_chat"),
        Binding("ctrl+z", "restore", "undo", priority=True, id="restore_chat"),
        Binding("ctrl+s", "export('md')", "export", priority=True, id="export_markdown"),
        Binding("ctrl+t", "export('json')", "as JSON", priority=True, id="export_json"),
    ]

    @dataclass
    class Deleted(Message):
        """The chat is hidden; it may be the one that is open."""

        chat: int

    @dataclass
    class Restored(Message):
        chat: int

    @dataclass
    class Renamed(Message):
        chat: int
        title: str

    def __init__(self, store: Store, current: int | None = None, folder: Path | None = None):
        """`current` is the chat that is open; exports go to `folder`, or where the program was
        started."""
        super().__init__()
        self._store, self._current, self._folder = store, current, folder
        self._rows: Sequence[ChatRow] = ()
        self._shown: str | None = None  # the query whose chats are listed
        self._turn = 0  # of the newest search
        self._pause: Timer | None = None
        self._deleted: list[tuple[int, str]] = []
        self._renamed: int | None = None  # the chat whose name is being written

    def compose(self) -> ComposeResult:
        with Panel() as panel:
            panel.border_title = "Chats"
            yield Field(id="query", placeholder="Search everything that was said", max_length=300)
            yield Field(id="name", placeholder="Its first line", max_length=200)
            yield OptionList(id="list", markup=False)
            yield Static(id="empty", markup=False)
            yield Static(id="note", markup=False)
            yield Static(id="keys", markup=False)

    def on_mount(self) -> None:
        self._query_field.focus()
        self._begin()

    def on_resize(self) -> None:
        self.call_after_refresh(self._list.scroll_to_highlight)

    @property
    def _query_field(self) -> Input:
        return self.query_one("#query", Input)

    @property
    def _title_field(self) -> Input:
        return self.query_one("#name", Input)

    @property
    def _list(self) -> OptionList:
        return self.query_one("#list", OptionList)

    @property
    def _chosen(self) -> ChatRow | None:
        at = self._list.highlighted
        return None if at is None else self._rows[at]

    # Searching.

    @on(Input.Changed, "#query")
    def _typing(self) -> None:
        if self._pause is not None:
            self._pause.stop()
        self._pause = self.set_timer(PAUSE, self._begin)
        self._tell("")

    def _begin(self) -> None:
        self.run_worker(self._find(), group="find", exclusive=True)

    async def _find(self, at: int = 0) -> None:
        """List the chats that the field asks for; the one at `at` is marked."""
        query = self._query_field.value
        self._turn += 1
        turn = self._turn
        try:
            rows = await asyncio.to_thread(self._store.chats, query, LIMIT)
        except MaverickError as e:
            self._tell(str(e), error=True)
            return
        if turn == self._turn:  # else a newer search is on its way
            self._show(query, rows, at)

    def _show(self, query: str, rows: Sequence[ChatRow], at: int) -> None:
        self._rows, self._shown = rows, query
        now = datetime.now().timestamp()
        self._list.set_options(Option(described(row, now, row.id == self._current)) for row in rows)
        self._list.highlighted = min(at, len(rows) - 1) if rows else None
        self._list.display = bool(rows)
        empty = self.query_one("#empty", Static)
        empty.display = not rows
        asked = one_line(query)
        empty.update(Content(f"Nothing was said about “{asked}”." if asked else NO_CHATS))
        self.query_one(Panel).border_subtitle = (
            f"the first {LIMIT}" if len(rows) == LIMIT else str(len(rows))
        )
        self._show_keys()

    # What a person does.

    @on(Input.Submitted, "#query")
    @on(OptionList.OptionSelected)
    async def _open(self) -> None:
        if self._shown != self._query_field.value:
            await self._find()  # enter was faster than the search
        if self._chosen is not None and self._shown == self._query_field.value:
            self.dismiss(self._chosen.id)

    def action_back(self) -> None:
        if self._renamed is not None:
            self._end_renaming()
        else:
            self.dismiss(None)

    def action_move(self, how: str) -> None:
        getattr(self._list, f"action_{how}")()

    def action_rename(self) -> None:
        if (row := self._chosen) is None:
            return
        self._renamed = row.id
        self._query_field.display, self._title_field.display = False, True
        self._title_field.value = row.title
        self._title_field.focus()
        self._list.disabled = True  # it is this one
        self._tell("")
        self._show_keys()

    @on(Input.Submitted, "#name")
    async def _named(self) -> None:
        chat, title = self._renamed, self._title_field.value
        if chat is not None and await self._do(lambda: self._store.rename(chat, title)):
            self._end_renaming()
            await self._find(self._list.highlighted or 0)
            self.post_message(self.Renamed(chat, title))

    def _end_renaming(self) -> None:
        self._renamed = None
        self._list.disabled = False
        self._query_field.display, self._title_field.display = True, False
        self._query_field.focus()
        self._show_keys()

    async def action_delete(self) -> None:
        row, at = self._chosen, self._list.highlighted
        if row is None or at is None or not await self._do(lambda: self._store.delete(row.id)):
            return
        self._deleted.append((row.id, row.title or UNTITLED))
        await self._find(at)
        self._tell(f"Deleted “{row.title or UNTITLED}”. {self._key('restore')} brings it back.")
        self._show_keys()
        self.post_message(self.Deleted(row.id))

    async def action_restore(self) -> None:
        if not self._deleted:
            return
        chat, title = self._deleted[-1]
        if not await self._do(lambda: self._store.restore(chat)):
            return
        self._deleted.pop()
        await self._find()
        places = [i for i, row in enumerate(self._rows) if row.id == chat]
        self._list.highlighted = places[0] if places else self._list.highlighted
        self._tell(f"“{title}” is back.")
        self._show_keys()
        self.post_message(self.Restored(chat))

    async def action_export(self, suffix: str) -> None:
        if (row := self._chosen) is None:
            return
        text: Callable[[StoredChat], str]
        text = export.markdown if suffix == "md" else export.as_json
        written: list[Path] = []

        def write() -> None:
            chat = self._store.load(row.id)
            folder = self._folder or Path.cwd()
            written.append(export.write(folder, chat.title, f".{suffix}", text(chat)))

        if await self._do(write):
            self._tell(f"Written to {written[0]}")

    # Helpers.

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("rename", "delete", "export"):
            return self._renamed is None and bool(self._rows)
        if action == "restore":
            return self._renamed is None and bool(self._deleted)
        return self._renamed is None if action == "move" else True

    async def _do(self, work: Callable[[], None]) -> bool:
        """Do what may have to wait; say so if it fails."""
        try:
            await asyncio.to_thread(work)
        except (MaverickError, OSError) as e:
            self._tell(str(e), error=True)
            return False
        return True

    def _tell(self, text: str, error: bool = False) -> None:
        note = self.query_one("#note", Static)
        note.update(Content(printable(text)))
        note.set_class(error, "error")
        note.display = bool(text)

    def _key(self, action: str) -> str:
        """The key that a person would press, as it may have been remapped; empty if it would do
        nothing now."""
        for active in self.active_bindings.values():
            if active.node is self and active.binding.action == action:
                return self.app.get_key_display(active.binding)
        return ""

    def _show_keys(self) -> None:
        said = ["enter open"] if self._rows else []
        for binding in self.BINDINGS:
            if isinstance(binding, Binding) and binding.show and (key := self._key(binding.action)):
                said.append(f"{key} {binding.description}")
        # A key and what it does stay on one line.
        text = "  ".join(part.replace(" ", "\u00a0") for part in said)
        self.query_one("#keys", Static).update(
            Content(RENAMING if self._renamed is not None else text)
        )
