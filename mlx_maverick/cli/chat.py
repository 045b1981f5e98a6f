"""`mlx-maverick chat`: talk to a model in the terminal.

Knows nothing of widgets, and loads neither MLX (the worker does) nor, before `run`, Textual.
"""

import argparse
import sys

from ..errors import UsageError
from . import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
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
    model, sampling = options.required_model(args), options.sampling(args)
    kv, experts = options.kv(args), options.experts(args)
    check_model(model)

    from ..client import Client
    from ..memory import read
    from ..tui.app import ChatApp
    from ..tui.controller import Controller, Options
    from ..tui.pictures import look

    pictures = tuple(look(path) for path in args.image)
    settings = Options(model, args.context, args.system, sampling, kv, experts)
    controller = Controller(Client, settings, read)
    app = ChatApp(controller, pictures)
    try:
        controller.start()  # loads while the screen opens
        app.run()
    finally:
        if not controller.close():
            print("mlx-maverick: the model is busy and ends by itself soon", file=sys.stderr)
    if app.failure is not None:
        raise app.failure
    return app.return_code or 0


def check_model(model: str) -> None:
    """Raises what is wrong with a model that can be told without reading its weights."""
    from .. import hub
    from ..checkpoint import Checkpoint
    from ..config import ModelConfig

    folder = hub.resolve(model)
    ModelConfig.from_folder(folder)
    Checkpoint.open(folder)
