"""Entry point: picks the verb, prints its error in one line, returns the exit code.

Imports neither mlx nor textual: a verb's module is imported when it is chosen. It has
`add_arguments(parser)` and `run(args) -> int`.
"""

import argparse
import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from .. import __version__
from ..errors import Interrupted, MaverickError, UsageError
from .terminal import printable

VERBS = {
    "chat": "talk to a model in the terminal (the default on a terminal)",
    "generate": "answer one prompt, with pictures if given",
    "convert": "make MLX weights that fit this Mac from a published checkpoint",
    "plan": "say which recipes fit a Mac, how large they are and how fast they can be",
    "show": "say what a model folder is and what it needs",
    "verify": "check every byte of a converted folder",
    "doctor": "say what this machine is, what fits it and what to change",
    "bench": "measure load time, speed and memory of a model",
}


TALKING = ("chat", "generate")  # whose texts may be empty


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit code (errors.py says which means what)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words and sys.stdin.isatty() and sys.stdout.isatty():
        words = ["chat"]
    verb = next((w for w in words if w in VERBS), None)
    try:
        if verb not in TALKING and any(word == "" or word.endswith("=") for word in words):
            raise UsageError("an argument is empty; give it a value, or leave it out")
        args = _parser(verb).parse_args(words)
    except UsageError as e:
        return _report(e, debug=False)
    debug = getattr(args, "debug", False)
    if args.verb is None:
        _parser(None).print_help(sys.stderr)
        return 2
    # Its warnings about checkpoints it did not write are no use to our users.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character shows "?"
            stream.reconfigure(errors="replace")
    try:
        code = int(importlib.import_module(f".{args.verb}", __package__).run(args))
        sys.stdout.flush()  # here, where a reader that went away can still be handled
        return code
    except BrokenPipeError:
        # The reader of our output went away (`| head`); Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as e:  # see entry.py; its text says which signal it was
        return _report(Interrupted(str(e) or "interrupted"), debug)
    except MaverickError as e:
        return _report(e, debug)
    except MemoryError:
        return _report(MaverickError("out of memory; close other programs"), debug)
    except OSError as e:
        where = f" ({e.filename})" if e.filename else ""
        return _report(MaverickError(f"{e.strerror or e}{where}"), debug)


class Parser(argparse.ArgumentParser):
    """One whose errors are one line like all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see '{self.prog} --help'")


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    """The parser; only the chosen verb's module is imported to fill in its arguments."""
    common = Parser(add_help=False)
    # SUPPRESS: else the verb's default would overwrite what stood before the verb.
    common.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the traceback of an error",
    )
    parser = Parser(
        prog="mlx-maverick",
        parents=[common],
        description="Llama 4 Maverick on one Mac: convert it, ask it, talk to it.",
        epilog="Run 'mlx-maverick VERB --help' for one verb's options.",
    )
    parser.add_argument("--version", action="version", version=f"mlx-maverick {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for verb, purpose in VERBS.items():
        sub = verbs.add_parser(verb, help=purpose, description=purpose, parents=[common])
        if verb == chosen:
            importlib.import_module(f".{verb}", __package__).add_arguments(sub)
    return parser


def _report(error: MaverickError, debug: bool) -> int:
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    # One line whatever it quotes: a file name may hold a newline.
    line = printable(" ".join(str(error).split()))
    print(f"mlx-maverick: {line}", file=sys.stderr)
    return error.exit_code
