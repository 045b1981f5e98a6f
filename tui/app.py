"""The chat as an app: its screens, commands, keys and themes, quitting, copying.

Knows nothing of messages.
"""

import asyncio
import signal
import threading
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from ..errors import Interrupted, MaverickError
from .clipboard import copy
from .composer import Composer
from .controller import Controller
from .given import NOTHING, Given
from .screen import ChatScreen
from .transcript import Transcript

if TYPE_CHECKING:
    from .chats import ChatsScreen


class ChatApp(App[None]):
    """`failure` is why it ended, if it did not end well."""

    CSS_PATH = "maverick.tcss"
    TITLE = "mlx-maverick"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "quit", "Quit", id="quit", priority=True),
        # Priority: the editor and the screen bind it too, for copying alone.
        Binding("ctrl+c", "copy_or_quit", "Copy what is selected, or quit", priority=True),
    ]

    def __init__(self, controller: Controller, given: Given = NOTHING):
        super().__init__()
        self._given = given
        self._chat = ChatScreen(controller, given)
        self._signal: MaverickError | None = None

    @property
    def failure(self) -> MaverickError | None:
        return self._signal or self._chat.failure

    def get_default_screen(self) -> ChatScreen:
        return self._chat

    def on_mount(self) -> None:
        self.set_keymap(dict(self._given.keymap))
        if self._given.theme is not None:
            self.theme = self._given.theme
        self.theme_changed_signal.subscribe(self, self._theme_changed)
        if threading.current_thread() is threading.main_thread():
            # An exception out of a signal handler would leave the terminal as it is.
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._terminated)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """All that a key does, and what Textual has."""
        if screen is self._chat:
            for binding in Binding.make_bindings(ChatScreen.BINDINGS):
                keys = self._keys(binding)
                run = partial(self._chat.run_action, binding.action)
                yield SystemCommand(binding.description, keys, partial(self.call_later, run))
        yield from super().get_system_commands(screen)

    def _keys(self, binding: Binding) -> str:
        keys = self._given.keymap.get(binding.id or "", binding.key)
        return ", ".join(keys.split(","))

    def on_chats_screen_deleted(self, message: "ChatsScreen.Deleted") -> None:
        self._chat.controller.forget(message.chat)

    def _theme_changed(self, theme: object) -> None:
        if self.theme != self._given.theme:
            try:
                self._given.remember_theme(self.theme)
            except MaverickError as e:
                self._chat.tell(str(e))

    def _terminated(self) -> None:
        self._signal = Interrupted("terminated")
        self.exit(return_code=self._signal.exit_code)

    def action_copy_or_quit(self) -> None:
        editor = self._chat.query_one(Composer)
        if selected := editor.selected_text or self.screen.get_selected_text():
            self.copy_to_clipboard(selected)
        else:
            self.exit()

    def copy_to_clipboard(self, text: str) -> None:
        problem = copy(text, super().copy_to_clipboard)
        self._clipboard = text  # what the editor pastes
        if problem:
            self.notify(problem, markup=False)


# What a person can give other keys.
REMAPPABLE: list[BindingType] = [
    *ChatApp.BINDINGS, *ChatScreen.BINDINGS, *Composer.BINDINGS, *Transcript.BINDINGS,
]  # fmt: skip
