"""The conversation on the screen: a window of at most 20 entries over all of them.

Knows nothing of the model. Every mounted entry costs layout time with each new token, so what
is out of the window is unmounted and comes back with "earlier" and "later".
"""

from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import Static

from .message import Bubble, Entry, Reply, Said

WINDOW = 20
STEP = 10


class More(Static):
    """A line to click that moves the window."""

    class Clicked(Message):
        def __init__(self, entries: int):
            super().__init__()
            self.entries = entries

    def __init__(self, arrow: str, direction: int):
        super().__init__("", markup=False)
        self.arrow, self.direction = arrow, direction
        self.display = False

    def show(self, hidden: int) -> None:
        where = "earlier" if self.direction < 0 else "later"
        self.update(f"{self.arrow} {hidden} {where}")
        self.display = hidden > 0

    def on_click(self, event: events.Click) -> None:
        event.stop()
        self.post_message(self.Clicked(self.direction * STEP))


class Transcript(VerticalScroll, can_focus=False):
    """All entries, of which a window is mounted. New ones are shown at once."""

    def __init__(self, *, id: str | None = None):
        super().__init__(id=id)
        self.entries: list[Entry] = []
        self._first = 0
        self._bubbles: dict[Entry, Bubble] = {}  # those mounted; entries compare by identity

    def compose(self) -> ComposeResult:
        yield More("↑", -1)
        yield More("↓", 1)

    def on_mount(self) -> None:
        self.anchor()

    @property
    def hidden_before(self) -> int:
        return self._first

    @property
    def hidden_after(self) -> int:
        return max(0, len(self.entries) - self._first - WINDOW)

    async def add(self, *entries: Entry) -> None:
        """Append, and go to the end."""
        self.entries.extend(entries)
        await self._show(len(self.entries) - WINDOW)
        self.anchor()

    async def grow(self, text: str) -> None:
        """The newest reply goes on."""
        if (reply := self._open_reply()) is not None:
            reply.text += text
            if bubble := self._bubbles.get(reply):
                await bubble.write(text)

    async def finish(self, note: str) -> None:
        """The newest reply is whole."""
        if (reply := self._open_reply()) is not None:
            reply.note, reply.whole = note, True
            if bubble := self._bubbles.get(reply):
                await bubble.finish()

    async def take_back(self) -> None:
        """Remove the reply that has not come, and the message it was to answer."""
        reply = self._open_reply()
        if reply is None:
            return
        at = self.entries.index(reply)
        start = at - 1 if at and isinstance(self.entries[at - 1], Said) else at
        gone = self.entries[start : at + 1]
        del self.entries[start : at + 1]
        for entry in gone:
            if bubble := self._bubbles.pop(entry, None):
                await bubble.rest()
                await bubble.remove()
        await self._show(min(self._first, len(self.entries) - WINDOW))

    def last_reply(self) -> Reply | None:
        return next((e for e in reversed(self.entries) if isinstance(e, Reply)), None)

    async def page(self, pages: int) -> None:
        """Scroll, and at an end move the window."""
        at_end = self.scroll_y <= 0 if pages < 0 else self.scroll_y >= self.max_scroll_y
        if at_end and (self.hidden_before if pages < 0 else self.hidden_after):
            await self._shift(STEP if pages > 0 else -STEP)
        elif pages < 0:
            self.scroll_page_up(animate=False)
        else:
            self.scroll_page_down(animate=False)

    async def on_more_clicked(self, event: More.Clicked) -> None:
        event.stop()
        await self._shift(event.entries)

    def _open_reply(self) -> Reply | None:
        reply = self.last_reply()
        return None if reply is None or reply.whole else reply

    async def _shift(self, by: int) -> None:
        """Move the window and keep in view what was next to the edge."""
        shown = self.entries[self._first : self._first + WINDOW]
        edge = shown[0] if by < 0 else shown[-1]
        self.release_anchor()
        await self._show(self._first + by)
        if bubble := self._bubbles.get(edge):
            self.scroll_to_widget(bubble, animate=False, top=by > 0)

    async def _show(self, first: int) -> None:
        """Mount exactly the entries from `first` on that fit the window."""
        self._first = max(0, min(first, len(self.entries) - WINDOW))
        wanted = self.entries[self._first : self._first + WINDOW]
        keep = set(wanted)
        earlier, later = self.query(More)
        with self.app.batch_update():
            for entry in [e for e in self._bubbles if e not in keep]:
                bubble = self._bubbles.pop(entry)
                await bubble.rest()
                await bubble.remove()
            before: Static | Bubble = later
            new: list[tuple[Bubble, Static | Bubble]] = []
            for entry in reversed(wanted):
                if entry not in self._bubbles:
                    self._bubbles[entry] = Bubble(entry)
                    new.append((self._bubbles[entry], before))
                before = self._bubbles[entry]
            for bubble, place in new:
                await self.mount(bubble, before=place)
            earlier.show(self.hidden_before)
            later.show(self.hidden_after)
