"""The conversation on the screen, and what keys do with a message of it.

Knows nothing of the model: what is wanted of a message is told to whoever listens.
"""

from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from ..cli.terminal import printable
from .message import Bubble, Notice, Queued, Reply, Said
from .window import Window

HELP = "c copy · 1-9 code · e edit · r again · g on · ←→ · esc"  # while it has the focus


class Transcript(Window, can_focus=True, inherit_bindings=False):
    """With the focus, one message is selected: keys move on to others and say what to do with
    it."""

    @dataclass
    class Wanted(Message):
        """To do something with an entry: edit, regenerate, go_on, older, newer."""

        action: str
        entry: Said | Reply | Queued

    @dataclass
    class Copied(Message):
        """`text` is for the clipboard; `what` says what it is."""

        text: str
        what: str

    @dataclass
    class Left(Message):
        """The focus goes back to where messages are written, with what was typed."""

        typed: str

    FOCUS_ON_CLICK = False  # on a message only
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "select(-1)", "Message before", id="message_before", show=False),
        Binding("down,j", "select(1)", "Message after", id="message_after", show=False),
        Binding("home", "first", "First message", id="message_first", show=False),
        Binding("end", "last", "Last message", id="message_last", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("c", "copy", "Copy the message", id="message_copy", show=False),
        Binding("e", "want('edit')", "Edit the message", id="message_edit", show=False),
        Binding("r", "want('regenerate')", "Another reply", id="message_regenerate", show=False),
        Binding("g", "want('go_on')", "Go on with the reply", id="message_go_on", show=False),
        Binding("left", "want('older')", "Older version", id="message_older", show=False),
        Binding("right", "want('newer')", "Newer version", id="message_newer", show=False),
        Binding("escape", "leave", "Back to the editor", id="message_leave", show=False),
    ]

    def watch_has_focus(self, has_focus: bool) -> None:
        """The newest message is selected, or the last one in view."""
        super().watch_has_focus(has_focus)
        inside = self.scrollable_content_region
        seen = [e for e, b in self._bubbles.items() if b.region.overlaps(inside)]
        if has_focus and self.selected not in seen:
            messages = self._messages()
            if not self.following:
                messages = [e for e in messages if e in seen] or messages
            self.selected = messages[-1] if messages else None
        self._mark()

    def on_click(self, event: events.Click) -> None:
        if self.screen.get_selected_text():
            return  # text was selected with the mouse
        for node in event.widget.ancestors_with_self if event.widget else ():
            if isinstance(node, Bubble) and not isinstance(node.entry, Notice):
                self.selected = node.entry
                self.focus(scroll_visible=False)
                self._mark()

    async def on_key(self, event: events.Key) -> None:
        character = event.character or ""
        if character in "123456789" and character:
            event.stop()
            self._copy_code(int(character))
        elif event.is_printable and character and event.key not in self._bindings.key_to_bindings:
            event.stop()
            self.post_message(self.Left(character))

    def _messages(self) -> list[Said | Reply | Queued]:
        return [e for e in self.entries if not isinstance(e, Notice)]

    def _mark(self) -> None:
        for entry, bubble in self._bubbles.items():
            bubble.set_class(entry is self.selected and self.has_focus, "-selected")

    async def _choose(self, entry: Said | Reply | Queued) -> None:
        self.selected = entry
        self._mark()
        await self._reveal(entry)

    async def action_select(self, by: int) -> None:
        messages = self._messages()
        if self.selected in messages:
            at = messages.index(self.selected) + by
            if 0 <= at < len(messages):
                await self._choose(messages[at])
            elif by < 0:
                await self.first()
        elif messages:
            await self._choose(messages[-1])

    async def action_first(self) -> None:
        if messages := self._messages():
            self.selected = messages[0]
            self._mark()
        await self.first()

    async def action_last(self) -> None:
        if messages := self._messages():
            self.selected = messages[-1]
            self._mark()
        await self.last()

    async def action_page(self, pages: int) -> None:
        await self.page(pages)

    def action_leave(self) -> None:
        self.post_message(self.Left(""))

    def action_want(self, action: str) -> None:
        if self.selected is not None:
            self.post_message(self.Wanted(action, self.selected))

    def action_copy(self) -> None:
        match self.selected:
            case Said(draft) | Queued(draft):
                self.post_message(self.Copied(printable(draft.text), "the message"))
            case Reply(text):
                self.post_message(self.Copied(printable(text), "the reply"))

    def _copy_code(self, number: int) -> None:
        if self.selected is not None:
            code = self._papers[self.selected].code(number)
            if code is not None:
                self.post_message(self.Copied(code, f"code block {number}"))
