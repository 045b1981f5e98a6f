"""`mlx-maverick chat`: talk to a model in the terminal.

Knows nothing of widgets, and loads neither MLX (the worker does) nor, before `run`, Textual.
"""

import argparse
import sys

from ..errors import UsageError
from ..sampling import Sampling

DEFAULTS = Sampling()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="DIR", help="a model folder, or a repository of the Hub")
    parser.add_argument(
        "--image",
        "-i",
        action="append",
        default=[],
        metavar="PATH",
        help="a picture to go with the first message; repeats",
    )
    parser.add_argument("--system", metavar="TEXT", help="a system prompt")
    parser.add_argument("--context", type=int, metavar="N", help="tokens to have room for")
    parser.add_argument("--max-tokens", "-m", type=int, metavar="N", help="of one reply")
    parser.add_argument("--temp", type=float, default=DEFAULTS.temperature, help="0 is greedy")
    parser.add_argument("--top-p", type=float, default=DEFAULTS.top_p)
    parser.add_argument("--min-p", type=float, default=DEFAULTS.min_p)
    parser.add_argument("--seed", type=int, metavar="N", help="makes replies repeatable")


def run(args: argparse.Namespace) -> int:
    """Raises UsageError, NotFound, BadCheckpoint or BadImage before the screen opens."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("chat needs a terminal; in a script or a pipe use 'mlx-maverick generate'")
    if not args.model:
        raise UsageError(
            "chat needs a model: mlx-maverick chat --model DIR, "
            "where DIR is a folder that 'mlx-maverick convert' wrote"
        )
    if args.context is not None and args.context < 1:
        raise UsageError(f"--context {args.context} is not at least 1")
    sampling = Sampling(
        temperature=args.temp,
        top_p=args.top_p,
        min_p=args.min_p,
        seed=args.seed,
        max_tokens=args.max_tokens,
    )
    check_model(args.model)

    from ..client import Client
    from ..memory import read
    from ..tui.app import ChatApp
    from ..tui.controller import Controller, Options
    from ..tui.pictures import look

    pictures = tuple(look(path) for path in args.image)
    options = Options(args.model, args.context, args.system, sampling)
    controller = Controller(Client, options, read)
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
    """Raises NotFound for a model that is not there, and what its config.json is wrong with."""
    from .. import hub
    from ..config import ModelConfig

    ModelConfig.from_folder(hub.resolve(model))
