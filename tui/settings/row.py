"""A field of the settings on the screen: its name, where to write, what it means, what is wrong.

Knows nothing of settings. What comes in is made harmless here, because editors show what they
hold as it is.
"""

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Input, Static, TextArea

from ...cli.terminal import printable
from .form import SYSTEM, Field, clean


class Line(Input):
    """One line of text; up and down leave it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "app.focus_previous", show=False),
        Binding("down", "app.focus_next", show=False),
    ]

    def __init__(self, text: str, placeholder: str):
        super().__init__(text, placeholder=placeholder, compact=True, select_on_focus=False)
        self.cursor_blink = False  # a blinking cursor is a timer

    def validate_value(self, value: str) -> str:
        return clean(value).replace("\n", " ")


class Prompt(TextArea):
    """Several lines of text; tab leaves it."""

    def __init__(self, text: str):
        super().__init__(
            text,
            soft_wrap=True,
            tab_behavior="focus",
            compact=True,
            highlight_cursor_line=False,
        )
        self.cursor_blink = False

    async def _on_paste(self, event: events.Paste) -> None:
        # Both handlers would run, this one and the editor's own.
        event.stop()
        event.prevent_default()
        if result := self._replace_via_keyboard(clean(event.text), *self.selection):
            self.move_cursor(result.end_location)


class Row(Vertical):
    """The field; `reason` says why what is written there cannot be."""

    DEFAULT_CSS = """
    Row {
        height: auto;
        Horizontal { height: auto; }
        .label { width: 14; }
        Line { width: 1fr; background: $panel; }
        Prompt { height: 6; background: $panel; }
        .meaning { color: $text-muted; }
        .reason { color: $text-error; text-style: bold; }
    }
    """
    reason: reactive[str] = reactive("", init=False)

    def __init__(self, field: Field, text: str):
        super().__init__()
        self.field = field
        self.editor = Prompt(text) if field is SYSTEM else Line(text, f"left empty: {field.empty}")

    @property
    def text(self) -> str:
        return self.editor.text if isinstance(self.editor, Prompt) else self.editor.value

    def put(self, text: str) -> None:
        """In place of what is there; ctrl+z brings that back, where there are several lines."""
        if isinstance(self.editor, Prompt):
            self.editor.replace(text, (0, 0), self.editor.document.end)
            self.editor.move_cursor((0, 0))
            self.editor.focus()
        else:
            self.editor.value = text

    def compose(self) -> ComposeResult:
        label = Static(self.field.label, classes="label", markup=False)
        if isinstance(self.editor, Prompt):
            yield label
            yield self.editor
        else:
            yield Horizontal(label, self.editor)
        yield Static(self.field.meaning, classes="meaning", markup=False)
        yield (reason := Static(classes="reason", markup=False))
        reason.display = False

    def watch_reason(self, reason: str) -> None:
        line = self.query_one(".reason", Static)
        line.update(Content(printable(f"✗ {reason}")))
        line.display = bool(reason)
