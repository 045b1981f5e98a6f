"""The settings of a chat, to look at and to change.

Knows nothing of the worker and of chats: it is given settings and gives back others. It writes
config.toml only when they are to hold in new chats, too.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Button, Input, Static, TextArea

from ...cli.terminal import printable
from ...errors import MaverickError
from .form import FIELDS, LOADED, NEXT_REPLY, SYSTEM, Filled, filled, shown
from .preferences import Preferences, save
from .row import Row
from .settings import Settings
from .system_prompt import RECOMMENDED

LEAVE = "Not used yet: esc again goes back without the changes, ctrl+s uses them."


class SettingsScreen(ModalScreen[Settings | None]):
    """Dismisses with the settings to use from now on, or None if nothing is to change.

    `given`: those of the chat. `config`: the file that holds those of new chats. `loaded`: those
    that the model was loaded with, where they are others. `check_model`: raises MaverickError
    for a model that cannot be used; called on a thread before another model is taken.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        # Priority: the editors bind some of them.
        Binding("ctrl+s,ctrl+enter", "use", "Use in this chat", priority=True),
        Binding("ctrl+g", "use_in_new", "Use, also in new chats", priority=True),
        Binding("ctrl+r", "recommended", "Put in the recommended system prompt", priority=True),
        Binding("escape", "leave", "Back"),
    ]
    DEFAULT_CSS = """
    SettingsScreen {
        align: center middle;
        #settings {
            width: 100%;
            max-width: 92;
            height: 100%;
            max-height: 38;
            padding: 0 1;
            border: round $primary;
            background: $surface;
        }
        #fields { scrollbar-size-vertical: 1; }
        .heading { text-style: bold; color: $text-primary; margin: 1 0 0 0; }
        .heading:first-child { margin: 0; }
        #outcome { height: auto; margin: 1 0 0 0; color: $text-warning; }
        #buttons { height: 1; }
        #buttons Button { margin: 0 1 0 0; min-width: 8; }
    }
    """

    def __init__(
        self,
        given: Settings,
        config: Path,
        loaded: Settings | None = None,
        check_model: Callable[[str], object] | None = None,
    ):
        super().__init__()
        self._given, self._config, self._loaded = given, config, loaded or given
        self._check_model = check_model
        self._refused: tuple[str, str] | None = None  # a model, and why it cannot be used
        self._leaving = False

    def compose(self) -> ComposeResult:
        texts = shown(self._given)
        with Vertical(id="settings") as frame:
            frame.border_title = "Settings of this chat"
            with VerticalScroll(id="fields", can_focus=False):
                yield Static("From the next reply on", classes="heading")
                yield Row(SYSTEM, texts["system"])
                yield from (Row(field, texts[field.name]) for field in NEXT_REPLY)
                yield Static("These load the model again", classes="heading")
                yield from (Row(field, texts[field.name]) for field in LOADED)
            yield Static(id="outcome", markup=False)
            with Horizontal(id="buttons"):
                yield Button("Use ctrl+s", id="use", compact=True, variant="primary")
                yield Button("Also in new chats ctrl+g", id="use_in_new", compact=True)
                yield Button("Back esc", id="leave", compact=True)

    def on_mount(self) -> None:
        self._rows = {row.field.name: row for row in self.query(Row)}
        self._show()

    def scroll_to_center(self, widget: Widget, *args: Any, **options: Any) -> None:
        """Textual calls it for what gets the focus. Here the whole field comes into view, with
        its name and what is wrong with it, and nothing moves that need not."""
        row = next((w for w in widget.ancestors if isinstance(w, Row)), None)
        self.scroll_to_widget(row or widget, animate=False)

    # What a person does.

    @on(Input.Changed)
    @on(TextArea.Changed)
    def _edited(self) -> None:
        self._leaving = False
        self._show()

    @on(Input.Submitted)
    def _entered(self) -> None:
        self.focus_next()

    @on(Button.Pressed)
    async def _pressed(self, event: Button.Pressed) -> None:
        await self.run_action(f"screen.{event.button.id}")

    def action_recommended(self) -> None:
        self._rows["system"].put(RECOMMENDED)

    def action_leave(self) -> None:
        if self._leaving or self._fill() == Filled(self._given, {}):
            self.dismiss(None)
        else:
            self._leaving = True
            self._say(LEAVE)

    def action_use(self) -> None:
        self._use_later(in_new=False)

    def action_use_in_new(self) -> None:
        self._use_later(in_new=True)

    # Helpers.

    def _use_later(self, in_new: bool) -> None:
        """After what was typed before: a key with priority overtakes it."""
        (self.focused or self).call_later(self._use, in_new)

    def _use(self, in_new: bool) -> None:
        now = self._fill()
        if now.settings is None:
            self._rows[next(f.name for f in FIELDS if f.name in now.wrong)].editor.focus()
        else:
            self.run_worker(self._finish(now.settings, in_new), exclusive=True)

    async def _finish(self, settings: Settings, in_new: bool) -> None:
        model = settings.model
        if self._check_model is not None and model and model != self._given.model:
            self._say("Looking at the model …")
            try:
                await asyncio.to_thread(self._check_model, model)
            except MaverickError as e:
                self._refused = model, str(e)
                self._rows["model"].editor.focus()
            self._show()
            if self._fill().settings != settings:  # refused, or somebody went on typing
                return
        if in_new:
            try:
                save(self._config, Preferences.read(self._config).changes(settings))
            except MaverickError as e:
                self._say(str(e))
                return
        self.dismiss(settings)

    def _fill(self) -> Filled:
        now = filled(self._given, {name: row.text for name, row in self._rows.items()})
        if self._refused and now.settings and now.settings.model == self._refused[0]:
            return Filled(None, {"model": self._refused[1]})
        return now

    def _show(self) -> None:
        """What is wrong, beside each field, and what comes of all."""
        now = self._fill()
        for name, row in self._rows.items():
            row.reason = now.wrong.get(name, "")
        self._say(self._outcome(now))

    def _outcome(self, now: Filled) -> str:
        if now.settings is None:
            return f"Wrong: {', '.join(f.label for f in FIELDS if f.name in now.wrong)}."
        if now.settings == self._given:
            return "Nothing is changed."
        if parts := now.settings.reloads(self._loaded):
            return f"The model is loaded again: another {', '.join(parts)}."
        if now.settings.system != self._given.system:
            return "The next reply begins by reading the whole chat again."
        return "From the next reply on."

    def _say(self, text: str) -> None:
        self.query_one("#outcome", Static).update(Content(printable(text)))
