"""`mlx-maverick chat`: talk to a model in the terminal.

Knows nothing of widgets, and loads neither MLX (the worker does) nor, before `run`, Textual.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from ..errors import MaverickError, NotFound, UsageError
from . import options

if TYPE_CHECKING:
    from ..tui.store import Store

# What is said of one of these is said of the model.
LOADING = ("model", "context")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    group = parser.add_argument_group("chats, which are kept")
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--continue", dest="go_on", action="store_true", help="go on with the latest one"
    )
    which.add_argument(
        "--resume", type=options.whole(1), metavar="ID", help="go on with this one"
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
    from ..tui.keeper import Keeper
    from ..tui.pictures import look
    from ..tui.settings.file import config_file
    from ..tui.settings.preferences import Preferences
    from ..tui.settings.settings import NAMES, Settings, stored_place
    from ..tui.store import Store

    pictures = tuple(look(path) for path in args.image)
    preferences = Preferences.read(config_file())
    said = options.given(args, NAMES)
    store, trouble = _store()
    chat = _wanted(args, store, trouble)
    kept = {} if chat is None or store is None else stored_place(store.load(chat).settings)
    settings = Settings.merged(said, kept, preferences.place())
    if settings.model is None and store is not None:
        settings = settings.with_model(store.latest_model())
    return 0
