"""One entry of the transcript: a person's message, a reply, or a notice.

Knows nothing of the model. An Entry outlives its widget, which is mounted only while it is in
view.
"""

import asyncio
from dataclasses import dataclass

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from ..cli.terminal import printable
from .conversation import Draft
from .prose import Prose
from .tray import label


@dataclass(eq=False)
class Said:
    """What a person sent."""

    draft: Draft


@dataclass(eq=False)
class Reply:
    """What the model answers; it grows until it is `whole`."""

    text: str = ""
    note: str = ""
    whole: bool = False


@dataclass(eq=False)
class Notice:
    """What the chat itself has to say."""

    text: str
    error: bool = False


Entry = Said | Reply | Notice


class Plain(Static):
    """Text exactly as it is: no markup, no control characters."""

    def __init__(self, text: str, classes: str = ""):
        super().__init__(Content(printable(text)), classes=classes)


class Bubble(Vertical):
    """An entry's widget."""

    def __init__(self, entry: Entry):
        super().__init__(classes=type(entry).__name__.lower())
        self.entry = entry
        self._stream: MarkdownStream | None = None

    def compose(self) -> ComposeResult:
        match self.entry:
            case Said(draft):
                yield from (Plain(f"▣ {label(p)}", "picture") for p in draft.pictures)
                if draft.text:
                    yield Plain(draft.text)
            case Reply(text, note):
                yield Prose(text)
                yield (remark := Plain(note, "note"))
                remark.display = bool(note)
            case Notice(text, error):
                yield Plain(text, "error" if error else "")

    async def write(self, text: str) -> None:
        """Show more of a reply. `text` is the end of the entry's."""
        if self._stream is None:
            self._stream = Markdown.get_stream(self.query_one(Prose))
            await asyncio.sleep(0)  # its task must have begun, or `stop` loses what is written
        await self._stream.write(printable(text))

    async def rest(self) -> None:
        """Write out what waits, and stop writing: before the widget goes away."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.stop()

    async def finish(self) -> None:
        """The reply is whole: show it as that. Piece by piece only the last block is parsed
        again, so a link defined further down or a list that turns out loose comes late."""
        assert isinstance(self.entry, Reply)
        await self.rest()
        await self.query_one(Prose).update(printable(self.entry.text))
        remark = self.query_one(".note", Plain)
        remark.update(Content(printable(self.entry.note)))
        remark.display = bool(self.entry.note)
