"""A window of at most 20 sheets over all there are, which follows what comes.

Knows nothing of the model and of keys. Every mounted widget costs layout time with each new
line, so what is out of the window is unmounted and comes back with "earlier" and "later".
"""

import asyncio

from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Static

from .message import Bubble, Entry, Paper, Queued, Reply, Said
from .thumbnail import Mode

WINDOW = 20
STEP = 10
PACE = 0.1  # seconds between two changes of a reply that comes,
SLOW = 0.15  # and after one that moved all rows


class More(Static):
    """A line to click that moves the window."""

    class Clicked(Message):
        def __init__(self, sheets: int):
            super().__init__()
            self.sheets = sheets

    def __init__(self, arrow: str, direction: int):
        super().__init__("", markup=False)
        self.arrow, self.direction = arrow, direction
        self.display = False
        self.hidden = 0

    def show(self, hidden: int) -> None:
        if hidden != self.hidden:
            self.hidden = hidden
            where = "earlier" if self.direction < 0 else "later"
            self.update(f"{self.arrow} {hidden} {where}")
            self.display = hidden > 0

    def on_click(self, event: events.Click) -> None:
        event.stop()
        self.post_message(self.Clicked(self.direction * STEP))


class Below(Static):
    """Over the last row while it is not followed."""

    class Clicked(Message):
        pass

    def __init__(self) -> None:
        super().__init__("↓ more below", markup=False)
        self.display = False

    def on_click(self, event: events.Click) -> None:
        event.stop()
        self.post_message(self.Clicked())


class Window(VerticalScroll, can_focus=False, inherit_bindings=False):
    """All entries, of which a window is mounted. New ones are shown at once."""

    BLANK = True  # drawn at once: nothing but a background
    DEFAULT_CSS = """
    Window {
        layers: default above;
        scrollbar-gutter: stable;
    }
    Window > Below {
        dock: bottom;
        layer: above;
        width: 100%;
        height: 1;
        text-align: center;
        color: $text-accent;
        background: $surface;
    }
    """

    def __init__(self, *, id: str | None = None):
        super().__init__(id=id)
        self.entries: list[Entry] = []
        self.thumbnails: Mode = "auto"  # of pictures in messages that come
        self.selected: Said | Reply | Queued | None = None  # marked while it has the focus
        self._papers: dict[Entry, Paper] = {}  # entries compare by identity
        self._bubbles: dict[Entry, Bubble] = {}  # those mounted
        self._first = 0  # sheet of the window
        self._text: list[str] = []  # of the reply, not shown yet
        self._pace: Timer | None = None
        self._due = 0.0
        self._busy = asyncio.Lock()  # one change of the window at a time

    def compose(self) -> ComposeResult:
        yield More("↑", -1)
        yield More("↓", 1)
        yield Below()

    def on_mount(self) -> None:
        if self.app.no_color:
            self.BLANK = False  # type: ignore[misc]  # or its background would not be filtered
        self.anchor()

    @property
    def hidden_before(self) -> int:
        """Sheets above the window."""
        return self._first

    @property
    def hidden_after(self) -> int:
        """Sheets below the window."""
        return max(0, self._count() - self._first - WINDOW)

    @property
    def following(self) -> bool:
        """Whether what comes is in view: a person has not scrolled up."""
        # Textual has no public word for an anchor that was released.
        return not self._anchor_released and not self.hidden_after

    # What there is.

    async def show(self, entries: list[Entry], keep: Entry | None = None) -> None:
        """Exactly these entries, and the end of them, or the beginning of `keep`."""
        async with self._busy:
            if (reply := self._open_reply()) is not None:
                self._papers[reply].append("".join(self._text))  # it may be among them
            self._halt()
            self.entries = list(entries)
            self._papers = {e: self._papers.get(e) or Paper(e) for e in entries}
            if self.selected not in self._papers:
                self.selected = None
                if self.has_focus and isinstance(keep, Said | Reply | Queued):
                    self.selected = keep
            if keep is None or keep not in self._papers:
                await self._show(self._count() - WINDOW)
            else:
                self.release_anchor()
                await self._show(self._place(keep) - WINDOW // 2)
        if keep in self._bubbles:
            self._look_at(keep)
        else:
            self.anchor()
        self._hint()

    async def add(self, *entries: Entry) -> None:
        """Append, before what waits. It is in view where the end was followed."""
        async with self._busy:
            following = self.following
            at = len(self.entries)
            while at and isinstance(self.entries[at - 1], Queued):
                at -= 1
            self.entries[at:at] = entries
            self._papers.update((e, Paper(e)) for e in entries)
            await self._show(self._count() - WINDOW if following else self._first)
        if following:
            self.anchor()
        self._hint()

    async def remove_entries(self, *entries: Entry) -> None:
        """Take these away."""
        async with self._busy:
            for entry in entries:
                if self._papers.pop(entry, None) is not None:
                    self.entries.remove(entry)
            if self.selected not in self._papers:
                self.selected = None
            await self._show(min(self._first, self._count() - WINDOW))

    async def grow(self, text: str) -> None:
        """The newest reply goes on."""
        if (reply := self._open_reply()) is not None:
            reply.text += text
            self._text.append(text)
            if self._pace is None:
                wait = self._due - self._clock()
                if wait > 0:
                    self._pace = self.set_timer(wait, self._write)
                else:
                    await self._write()

    async def finish(self, note: str) -> None:
        """The newest reply is whole."""
        if (reply := self._open_reply()) is not None:
            await self._write()
            reply.note, reply.whole = note, True
            paper = self._papers[reply]
            links = paper.finish()
            async with self._busy:
                await self._show(self._first)
                if bubble := self._bubbles.get(reply):
                    bubble.changed(everything=links)

    async def update_entry(self, entry: Entry) -> None:
        """Its note or version is another."""
        if bubble := self._bubbles.get(entry):
            await bubble.mark()

    async def take_back(self) -> None:
        """Remove the reply that has not come, and the message it was to answer."""
        if (reply := self._open_reply()) is not None:
            self._halt()
            at = self.entries.index(reply)
            start = at - 1 if at and isinstance(self.entries[at - 1], Said) else at
            await self.remove_entries(*self.entries[start : at + 1])

    def last_reply(self) -> Reply | None:
        return next((e for e in reversed(self.entries) if isinstance(e, Reply)), None)

    def _open_reply(self) -> Reply | None:
        reply = self.last_reply()
        return None if reply is None or reply.whole else reply

    def _clock(self) -> float:
        return asyncio.get_running_loop().time()

    def _halt(self) -> None:
        """Forget what was to be shown."""
        self._text.clear()
        if self._pace is not None:
            self._pace.stop()
            self._pace = None

    async def _write(self) -> None:
        """Show what has come."""
        async with self._busy:
            text = "".join(self._text)
            self._halt()
            reply = self._open_reply()
            if not text or reply is None:
                return
            following, paper = self.following, self._papers[reply]
            count = len(paper.sheets)
            paper.append(text)
            if len(paper.sheets) != count:
                await self._show(self._count() - WINDOW if following else self._first)
            bubble = self._bubbles.get(reply)
            moved = bubble is not None and bubble.changed()
            self._hint()
            self._due = self._clock() + (SLOW if moved else PACE)

    # The window.

    def _count(self) -> int:
        return sum(len(self._papers[e].sheets) for e in self.entries)

    def _place(self, entry: Entry) -> int:
        """The number of its first sheet."""
        place = 0
        for other in self.entries:
            if other is entry:
                break
            place += len(self._papers[other].sheets)
        return place

    async def _show(self, first: int) -> None:
        """Mount exactly the sheets from `first` on that fit the window."""
        self._first = max(0, min(first, self._count() - WINDOW))
        wanted: dict[Entry, tuple[int, int]] = {}
        at = 0
        for entry in self.entries:
            count = len(self._papers[entry].sheets)
            begin, end = max(0, self._first - at), min(count, self._first + WINDOW - at)
            if begin < end:
                wanted[entry] = begin, end
            at += count
        earlier, later = self.query(More)
        with self.app.batch_update():
            gone = [e for e in self._bubbles if e not in wanted]
            if gone:
                await self.remove_children([self._bubbles.pop(e) for e in gone])
            before: Static | Bubble = later
            new: list[Bubble] = []
            for entry in reversed(wanted):
                bubble = self._bubbles.get(entry)
                if bubble is None:
                    bubble = Bubble(entry, self._papers[entry], *wanted[entry], self.thumbnails)
                    bubble.set_class(entry is self.selected and self.has_focus, "-selected")
                    self._bubbles[entry] = bubble
                    new.insert(0, bubble)
                    continue
                if new:
                    await self.mount_all(new, after=bubble)
                    new = []
                await bubble.show(*wanted[entry])
                before = bubble
            if new:
                await self.mount_all(new, before=before)
            earlier.show(self.hidden_before)
            later.show(self.hidden_after)

    async def _shift(self, by: int) -> None:
        """Move the window and keep in view what was next to the edge."""
        async with self._busy:
            shown = [e for e in self.entries if e in self._bubbles]
            if not shown:
                return
            edge = self._bubbles[shown[0 if by < 0 else -1]].edge(top=by < 0)
            self.release_anchor()
            await self._show(self._first + by)
        if edge.is_attached:
            self.scroll_to_widget(edge, animate=False, top=by > 0)

    async def page(self, pages: int) -> None:
        """Scroll, and at an end move the window."""
        at_end = self.scroll_y <= 0 if pages < 0 else self.scroll_y >= self.max_scroll_y
        if at_end and (self.hidden_before if pages < 0 else self.hidden_after):
            await self._shift(STEP if pages > 0 else -STEP)
        else:  # a row less than fits, and the one the hint hides
            rows = max(1, self.scrollable_content_region.height - 2)
            self.scroll_relative(y=pages * rows, animate=False, immediate=True)
            self._hint()

    async def first(self) -> None:
        """To the first entry."""
        self.release_anchor()
        async with self._busy:
            await self._show(0)
        self.scroll_home(animate=False)

    async def last(self) -> None:
        """To the end, and follow what comes."""
        async with self._busy:
            await self._show(self._count() - WINDOW)
        self.anchor()
        self._hint()

    async def on_more_clicked(self, event: More.Clicked) -> None:
        event.stop()
        await self._shift(event.sheets)

    async def on_below_clicked(self, event: Below.Clicked) -> None:
        event.stop()
        await self.last()

    async def on_mouse_scroll_up(self) -> None:
        if self.scroll_y <= 0 and self.hidden_before:
            await self._shift(-STEP)

    async def on_mouse_scroll_down(self) -> None:
        if self.scroll_y >= self.max_scroll_y and self.hidden_after:
            await self._shift(STEP)
        self.call_later(self._hint)  # at the end it follows, though nothing has moved

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._hint()

    def _hint(self) -> None:
        """Say that there is more, where it is not followed."""
        if self._anchor_released and self.scroll_y >= self.max_scroll_y and not self.hidden_after:
            self.anchor()
        below = bool(self.entries) and not self.following
        for hint in self.query_children(Below):
            hint.display = below

    async def _reveal(self, entry: Entry) -> None:
        """Bring an entry into view: all of it if possible, else its beginning."""
        if entry is self.entries[-1]:
            await self.last()
            return
        place = self._place(entry)
        async with self._busy:
            if not self._first <= place < self._first + WINDOW:
                await self._show(place - WINDOW // 2)
        self._look_at(entry)

    def _look_at(self, entry: Entry) -> None:
        def scroll() -> None:
            if (bubble := self._bubbles.get(entry)) is not None:
                self.scroll_to_widget(bubble, animate=False, top=self._tall(bubble))
                self._hint()

        self.release_anchor()
        self.call_after_refresh(scroll)  # it has no place before

    def _tall(self, bubble: Bubble) -> bool:
        return bubble.outer_size.height > self.scrollable_content_region.height
