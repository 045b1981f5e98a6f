"""The chat as an app: its screens, commands and keys, quitting, copying.

Knows nothing of messages.
"""

import asyncio
import signal
import threading
from collections.abc import Mapping
from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType

from ..errors import Interrupted, MaverickError
from .clipboard import has_pasteboard, pbcopy
from .composer import Composer
from .controller import Controller
from .conversation import Picture
from .screen import ChatScreen


class ChatApp(App[None]):
    """`failure` is why it ended, if it did not end well."""

    CSS_PATH = "maverick.tcss"
    TITLE = "mlx-maverick"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "quit", "Quit", id="quit", priority=True),
        # Priority: the editor and the screen bind it too, for copying alone.
        Binding("ctrl+c", "copy_or_quit", "Copy what is selected, or quit", priority=True),
    ]

    def __init__(
        self,
        controller: Controller,
        pictures: tuple[Picture, ...] = (),
        keymap: Mapping[str, str] | None = None,
    ):
        """`keymap`: keys by binding id, in place of those that are built in."""
        super().__init__()
        self._chat = ChatScreen(controller, pictures)
        self._signal: MaverickError | None = None
        self._keys = dict(keymap or {})

    @property
    def failure(self) -> MaverickError | None:
        return self._signal or self._chat.failure

    def get_default_screen(self) -> ChatScreen:
        return self._chat

    def on_mount(self) -> None:
        self.set_keymap(self._keys)
        if threading.current_thread() is threading.main_thread():
            # An exception out of a signal handler would leave the terminal as it is.
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._terminated)

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
        if has_pasteboard() and pbcopy(text):
            self._clipboard = text  # what the editor pastes
        else:
            super().copy_to_clipboard(text)
