"""The other screens: earlier chats, settings, models, a model that cannot be loaded.

Knows nothing of what is in them: it opens them, and does what they are left with. They are
imported when they are opened, so that the chat is there at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from textual.app import App

from ..errors import MaverickError
from .controller import Controller
from .settings.settings import Settings

if TYPE_CHECKING:
    from .start.trouble import Way


class Dialogs:
    """For one chat. `tell` shows a line to the person; `models` are those used before, the latest
    first."""

    def __init__(
        self,
        app: App[Any],
        controller: Controller,
        tell: Callable[[str], None],
        models: Sequence[str],
    ):
        self._app, self._controller, self._tell, self._models = app, controller, tell, models
        self._failure: MaverickError | None = None  # why the model was not loaded

    def chats(self) -> None:
        """Show the chats that are kept, to go on with one."""
        from .chats import ChatsScreen

        store = self._controller.keeper.store
        if store is None:
            self._tell("no chats are kept; why was said at the beginning")
            return
        self._app.push_screen(ChatsScreen(store, self._controller.keeper.chat), self._open)

    def _open(self, chat: int | None) -> None:
        if chat is None:
            return
        try:
            self._tell(self._controller.open_chat(chat))
        except MaverickError as e:
            self._tell(str(e))

    def settings(self) -> None:
        """Show what this chat runs with, to change it."""
        from .settings.file import config_file
        from .settings.screen import SettingsScreen
        from .usable import check

        screen = SettingsScreen(self._controller.settings, config_file(), check_model=check)
        self._app.push_screen(screen, self._change)

    def _change(self, settings: Settings | None) -> None:
        if settings is not None:
            self._controller.change(settings)

    def models(self) -> None:
        """Show what models there are, to load one."""
        from .start.welcome import WelcomeScreen

        settings = self._controller.settings
        asked = [*filter(None, [settings.model]), *self._models]
        screen = WelcomeScreen(asked, settings.context, settings.kv)
        self._app.push_screen(screen, self._load)

    def _load(self, model: str | None) -> None:
        settings = self._controller.settings
        if model is not None:
            self._controller.change(replace(settings, model=model))
        elif settings.model is None and not self._controller.conversation:
            self._app.exit()  # there is nothing to come back to

    def trouble(self, error: MaverickError) -> None:
        """Let a model that cannot be loaded be loaded otherwise."""
        from .start.trouble import Asked, TroubleScreen

        self._failure = error
        now = self._controller.settings
        assert now.model is not None  # it was to be loaded
        asked = Asked(now.model, now.context, now.kv, now.experts)
        self._app.push_screen(TroubleScreen(error, asked), self._take)

    def _take(self, way: "Way | None") -> None:
        from .start.trouble import Kind

        if way is None:
            return
        if way.kind is Kind.QUIT:
            self._app.exit(return_code=self._failure.exit_code if self._failure else 0)
        elif way.kind is Kind.ANOTHER:
            self.models()
        else:
            settings = self._controller.settings
            self._controller.change(replace(settings, **way.changes(settings.kv)))
