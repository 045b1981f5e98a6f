"""`mlx-maverick chat`: talk to a model in the terminal.

Knows nothing of widgets, and loads neither MLX (the worker does) nor, before `run`, Textual.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MaverickError, NotFound, UsageError
from . import options

if TYPE_CHECKING:
    from ..tui.store import Store

REMEMBERED = 10  # models used before, to choose from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--continue", dest="latest", action="store_true", help="go on with the latest chat"
    )
    which.add_argument(
        "--resume", type=options.whole(1), metavar="ID", help="go on with this chat (ctrl+l there)"
    )
    options.add_kv(parser)
    options.add_experts(parser)
    options.add_message(parser)
    options.add_sampling(parser)


def run(args: argparse.Namespace) -> int:
    """Raises UsageError, NotFound, BadCheckpoint or BadImage before the screen opens."""
    # Textual draws on stderr.
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise UsageError(
            "chat needs a terminal for input, output and errors; in a script or a pipe use "
            "'mlx-maverick generate'"
        )
    from ..client import Client
    from ..pressure import read
    from ..tui.app import ChatApp
    from ..tui.controller import Controller
    from ..tui.given import Given
    from ..tui.keeper import Keeper
    from ..tui.pictures import look
    from ..tui.settings.file import config_file
    from ..tui.settings.preferences import Preferences, check_theme, from_anywhere, remember_theme
    from ..tui.settings.settings import NAMES, Settings, stored_place
    from ..tui.usable import check

    pictures = tuple(look(path) for path in args.image)
    config = config_file()
    preferences = Preferences.read(config)
    store, notes = _store()
    chat = _chat(args, store)
    kept = stored_place(store.load(chat).settings) if store and chat else {}
    models = _models(store)
    said = options.given(args, NAMES)
    if "model" in said:
        said["model"] = from_anywhere(said["model"])  # as a chat may be gone on with
    last = {"model": models[0]} if models else {}
    settings = Settings.merged(said, kept, preferences.place(), last)
    if settings.model is not None:
        try:
            check(settings.model)
        except MaverickError as e:
            if "model" in said:
                raise
            notes.append(f"{settings.model} cannot be used: {e}")
            settings = replace(settings, model=None)
    given = Given(
        pictures=pictures,
        notes=tuple(notes),
        models=models,
        keymap=_keymap(config, preferences.keys),
        theme=preferences.theme,
        thumbnails=preferences.thumbnails,
        remember_theme=lambda name: remember_theme(config, name),
    )
    controller = Controller(Client, settings, Keeper(store), read)
    if chat:
        controller.open_chat(chat, settings)  # which heed the command line
    app = ChatApp(controller, given)
    if preferences.theme is not None:
        check_theme(preferences.theme, app.available_themes, config)
    try:
        controller.start()  # loads while the screen opens
        app.run()
    finally:
        if not controller.close():
            print("mlx-maverick: the model is busy and ends by itself soon", file=sys.stderr)
        if controller.keeper.behind:
            print("mlx-maverick: not all of this chat could be saved", file=sys.stderr)
    if (chat := controller.chat) is not None:
        print(f"To go on: mlx-maverick chat --resume {chat}", file=sys.stderr)
    if app.failure is not None:
        raise app.failure
    return app.return_code or 0


def _keymap(config: Path, keys: Mapping[str, str]) -> dict[str, str]:
    """Raises UsageError naming the file."""
    from ..tui.app import REMAPPABLE
    from ..tui.settings.keys import defaults, described, keymap

    try:
        return keymap(keys, described(REMAPPABLE), defaults(REMAPPABLE))
    except UsageError as e:
        raise UsageError(f"{config}: {e}") from None


def _store() -> "tuple[Store | None, list[str]]":
    """Where chats are kept; or None, and why they are not."""
    from ..tui.store import Store

    try:
        return Store.open(), []
    except (MaverickError, OSError) as e:
        return None, [f"Chats are not kept: {e}"]


def _chat(args: argparse.Namespace, store: "Store | None") -> int | None:
    """The one to go on with. Raises NotFound if there is none."""
    if not args.latest and args.resume is None:
        return None
    chat = None if store is None else args.resume or store.latest()
    if chat is None:
        raise NotFound("there is no chat to go on with; start one with 'mlx-maverick chat'")
    return int(chat)


def _models(store: "Store | None") -> tuple[str, ...]:
    """Those that chats were had with, the latest first."""
    rows = store.chats(limit=100) if store else []
    return tuple(dict.fromkeys(row.model for row in rows if row.model))[:REMEMBERED]
