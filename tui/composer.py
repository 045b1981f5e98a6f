"""Where a message is written: enter sends, shift+enter and ctrl+j make a new line.

Knows nothing of the model. Text that comes in is made harmless here, because an editor shows
what it holds as it is.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from ..cli.terminal import printable
from .pictures import pasted


def clean(text: str) -> str:
    """`text` with line ends as the editor has them and without control characters; a terminal
    sends a carriage return for each line end of a paste."""
    return printable(text.replace("\r\n", "\n").replace("\r", "\n"))


class Composer(TextArea):
    """The editor at the bottom."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send", id="send"),
        Binding("shift+enter,ctrl+j", "newline", "New line", id="newline"),
    ]

    @dataclass
    class Submitted(Message):
        text: str

    @dataclass
    class Dropped(Message):
        """Picture files were pasted, or dragged into the terminal."""

        paths: list[Path]

    @dataclass
    class Recalled(Message):
        """An arrow key at the first or the last line: the text before or after is wanted."""

        by: int

    class Pasted(Message):
        """Something is to be pasted, a picture perhaps."""

    class Emptied(Message):
        """Backspace where there is nothing left to delete."""

    @dataclass
    class Paged(Message):
        """The page keys scroll the transcript: the editor has a few lines only."""

        pages: int

    def __init__(self, *, id: str | None = None):
        super().__init__(
            id=id,
            soft_wrap=True,
            tab_behavior="focus",
            compact=True,
            highlight_cursor_line=False,
            placeholder="Write a message, or paste the path of a picture",
        )
        self.cursor_blink = False  # a blinking cursor is a timer

    def replace_all(self, text: str) -> None:
        """Hold `text` alone, the cursor at the end."""
        self.text = clean(text)
        self.move_cursor(self.document.end)

    def put(self, text: str) -> None:
        """Put `text` before what is there, the cursor at the end."""
        self.replace_all("\n".join(filter(None, (text, self.text))))

    def sent(self, text: str) -> None:
        """`text` is on its way: what was typed after it stays."""
        with self.prevent(self.Changed):
            self.replace_all(self.text.removeprefix(text))

    async def _on_key(self, event: events.Key) -> None:
        if event.key == "backspace" and not self.text:
            self.post_message(self.Emptied())
        # What keys do is done here, before the next key. Textual would do it when the key has
        # come back to the app, or before those that are still on their way here; after a moment
        # in which the app was held up, enter would send half a message.
        active = None if event.is_printable else self.screen.active_bindings.get(event.key)
        if active is not None and active.node is self:
            event.stop()
            event.prevent_default()  # the editor makes a new line of enter
            await self.run_action(active.binding.action)

    def action_send(self) -> None:
        self.post_message(self.Submitted(self.text))

    def action_newline(self) -> None:
        self._replace_via_keyboard("\n", *self.selection)

    async def _on_paste(self, event: events.Paste) -> None:
        # Both handlers would run, this one and the editor's own.
        event.stop()
        event.prevent_default()
        if paths := pasted(event.text):
            self.post_message(self.Dropped(paths))
        elif result := self._replace_via_keyboard(clean(event.text), *self.selection):
            self.move_cursor(result.end_location)

    def action_cursor_up(self, select: bool = False) -> None:
        if self.navigator.is_first_wrapped_line(self.selection.end) and not select:
            self.post_message(self.Recalled(-1))
        else:
            super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        if self.navigator.is_last_wrapped_line(self.selection.end) and not select:
            self.post_message(self.Recalled(1))
        else:
            super().action_cursor_down(select)

    def action_paste(self) -> None:
        self.post_message(self.Pasted())

    def paste_text(self) -> None:
        """What was copied within the app, or nothing."""
        super().action_paste()

    def action_cursor_page_up(self) -> None:
        self.post_message(self.Paged(-1))

    def action_cursor_page_down(self) -> None:
        self.post_message(self.Paged(1))
