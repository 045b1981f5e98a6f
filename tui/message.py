"""One entry of the transcript: a person's message, a reply, or a notice.

Knows nothing of the model. An Entry outlives its widget, of which only the sheets in view are
mounted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from ..cli.terminal import printable
from .conversation import Draft, Picture
from .prose import Prose, parser
from .sheets import Sheet, Sheets, plain
from .thumbnail import Mode, Thumbnail
from .tray import label

if TYPE_CHECKING:
    from .conversation import Node


@dataclass(eq=False)
class Said:
    """What a person sent. `version`: which of how many, where it was edited."""

    draft: Draft
    version: tuple[int, int] = (1, 1)
    node: "Node | None" = None


@dataclass(eq=False)
class Reply:
    """What the model answers; it grows until it is `whole`."""

    text: str = ""
    note: str = ""
    whole: bool = False
    version: tuple[int, int] = (1, 1)
    node: "Node | None" = None


@dataclass(eq=False)
class Notice:
    """What the chat itself has to say."""

    text: str
    error: bool = False


@dataclass(eq=False)
class Queued:
    """A message that waits for the reply before it."""

    draft: Draft
    node: None = None  # it is no part of the conversation yet


Entry = Said | Reply | Notice | Queued


class Paper:
    """The sheets of an entry."""

    def __init__(self, entry: Entry):
        self.environment: dict[str, Any] = {}  # where links lead, for all sheets of a reply
        self._growing: Sheets | None = None
        match entry:
            case Reply():
                self._growing = Sheets(entry.text, entry.whole)
                self.sheets = self._growing.sheets
                self._define()
            case Said(draft) | Queued(draft):
                self.sheets = plain(draft.text)
            case Notice(text):
                self.sheets = plain(text)

    def append(self, text: str) -> None:
        if self._growing is not None:
            self._growing.append(text)

    def finish(self) -> bool:
        """No more text comes; whether links may lead elsewhere than they did."""
        if self._growing is None:
            return False
        self._growing.finish()
        return self._define()

    def _define(self) -> bool:
        if self._growing is None or not self._growing.definitions:
            return False
        parser().parse(printable("\n\n".join(self._growing.definitions)), self.environment)
        return True

    def code(self, number: int) -> str | None:
        """The code block of that number, from 1 on, without the fences; None if there is none."""
        found: list[str] = []
        for sheet in self.sheets:
            for piece in sheet.pieces:
                at = number - piece.first_fence
                if found and not piece.continued:
                    return "".join(found)
                if piece.kind == "plain" or not (found or 0 <= at < piece.fences):
                    continue
                tokens = [t for t in parser().parse(printable(piece.source)) if t.type == "fence"]
                if found:
                    found += [t.content for t in tokens[:1]]
                    if len(tokens) != 1 or piece.fences:
                        return "".join(found)
                elif at < len(tokens):
                    found.append(tokens[at].content)
                    if at + 1 < len(tokens):
                        return "".join(found)
        return "".join(found) if found else None


class Plain(Static):
    """Text exactly as it is: no markup, no control characters."""

    def __init__(self, text: str, classes: str = ""):
        super().__init__(Content(printable(text)), classes=classes)


class Shown(Vertical):
    """A picture of a message that was sent."""

    DEFAULT_CSS = "Shown { height: auto; }"

    def __init__(self, picture: Picture, mode: Mode):
        super().__init__(classes="picture")
        self.picture, self.mode = picture, mode

    def compose(self) -> ComposeResult:
        yield Plain(f"▣ {label(self.picture)}")
        if self.mode != "off":
            yield Thumbnail(self.picture, self.mode)


class Bubble(Vertical):
    """An entry's widget: some of its sheets, from `first` to before `last`."""

    BLANK = True  # its widgets cover it

    def __init__(self, entry: Entry, paper: Paper, first: int, last: int, thumbnails: Mode = "off"):
        super().__init__(classes=type(entry).__name__.lower())
        self.entry, self.paper = entry, paper
        self.first, self.last = first, last
        self.thumbnails = thumbnails
        self._sheets: dict[Sheet, Prose] = {}
        self._note: Plain | None = None
        self._remarked = ""

    def compose(self) -> ComposeResult:
        yield from self._head()
        yield from (self._prose(at) for at in range(self.first, self.last))
        yield from self._foot()

    async def show(self, first: int, last: int) -> None:
        """Have exactly these sheets mounted, and head and foot as they are now."""
        if (first == 0) != (self.first == 0):
            self.first = first
            for widget in self._pictures:
                await widget.remove()
            if head := list(self._head()):
                await self.mount_all(head, before=0)
        self.first, self.last = first, last
        keep = set(self.paper.sheets[first:last])
        for sheet in [s for s in self._sheets if s not in keep]:
            await self._sheets.pop(sheet).remove()
        place: Widget | None = self._note
        for at in reversed(range(first, last)):
            sheet = self.paper.sheets[at]
            if sheet not in self._sheets:
                await self.mount(self._prose(at), before=place)
            place = self._sheets[sheet]
        await self.mark()

    def edge(self, top: bool) -> Widget:
        """The first or last of its sheets that is mounted."""
        sheets = self.paper.sheets
        return self._sheets[sheets[self.first if top else self.last - 1]]

    async def mark(self) -> None:
        """The foot as it is now."""
        text = self._remark()
        if text == self._remarked:
            return
        if self._note is not None:
            self._remarked = text
            self._note.update(Content(text))
            self._note.display = bool(text)
        elif text:
            await self.mount_all(self._foot())

    def changed(self, everything: bool = False) -> bool:
        """The text is another; whether it takes more or fewer rows."""
        return sum(prose.changed(everything) for prose in self._sheets.values()) > 0

    def _head(self) -> Iterator[Widget]:
        self._pictures: list[Widget] = []
        if isinstance(self.entry, Said | Queued) and self.first == 0:
            self._pictures = [Shown(p, self.thumbnails) for p in self.entry.draft.pictures]
        return iter(self._pictures)

    def _prose(self, at: int) -> Prose:
        sheet = self.paper.sheets[at]
        error = isinstance(self.entry, Notice) and self.entry.error
        made = Prose(sheet, self.paper.environment, at == 0, "error" if error else "")
        if isinstance(self.entry, Said | Queued):
            made.display = bool(self.entry.draft.text)
        self._sheets[sheet] = made
        return made

    def _foot(self) -> Iterator[Plain]:
        if text := self._remark():
            self._remarked = text
            self._note = Plain(text, "note")
            yield self._note

    def _remark(self) -> str:
        """What stands below the last sheet."""
        if self.last < len(self.paper.sheets):
            return ""
        parts = []
        if isinstance(self.entry, Said | Reply) and self.entry.version[1] > 1:
            parts.append("‹ {}/{} ›".format(*self.entry.version))
        if isinstance(self.entry, Reply) and self.entry.note:
            parts.append(printable(self.entry.note))
        if isinstance(self.entry, Queued):
            parts.append("waits for the reply")
        return "  ".join(parts)
