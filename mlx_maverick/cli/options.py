"""Options that several verbs share, spelled as in mlx-lm.

Knows nothing of what the verbs do with them.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

from ..errors import UsageError
from ..kv import KV_BITS, MIN_SIZE, KVOptions
from ..memory import DEFAULT_CONTEXT
from ..sampling import Sampling
from ..streaming.options import ExpertOptions, Mode


def whole(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number of at least `least`."""

    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is not at least {least}")
        return value

    parse.__name__ = "whole number"  # how argparse names it in an error
    return parse


def wholes(least: int) -> Callable[[str], list[int]]:
    """An argparse type: such numbers, separated by commas."""
    one = whole(least)

    def parse(text: str) -> list[int]:
        return [one(part) for part in text.split(",")]

    parse.__name__ = "list of whole numbers"
    return parse


def add_model(parser: argparse.ArgumentParser, context: str = f"{DEFAULT_CONTEXT}") -> None:
    """`context` says in words what the default is."""
    parser.add_argument(
        "--model",
        metavar="DIR",
        help="a model folder, a repository in the Hub's cache, or demo, the one that comes with "
        "mlx-maverick",
    )
    parser.add_argument(
        "--context",
        type=whole(2),
        metavar="N",
        help=f"tokens that prompt and answer may have together (default: {context})",
    )


def add_kv(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("KV cache")
    group.add_argument(
        "--kv-bits", type=int, choices=KV_BITS, help="quantise it (default: as computed)"
    )
    group.add_argument(
        "--quantized-kv-start",
        type=whole(0),
        metavar="N",
        help="only from a length of N tokens on (default: 0)",
    )
    group.add_argument(
        "--max-kv-size",
        type=whole(MIN_SIZE),
        metavar="N",
        help="tokens that global layers keep: the first few and the latest (default: all)",
    )


def kv(args: argparse.Namespace) -> KVOptions:
    """Raises UsageError for options that make no sense."""
    return KVOptions(args.kv_bits, args.quantized_kv_start or 0, args.max_kv_size)


def add_experts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("routed experts")
    group.add_argument(
        "--experts",
        choices=[str(mode) for mode in Mode],
        help="all in memory (resident), or read from the folder when they are wanted (stream); "
        f"auto streams if the model does not fit (default: {Mode.AUTO})",
    )
    group.add_argument(
        "--expert-memory",
        metavar="SIZE",
        help="for streamed ones, such as 90GB (default: what there is); this and what follows "
        "streams them",
    )
    group.add_argument(
        "--look-ahead",
        action="store_true",
        help="read what the next layer will probably want, when there is nothing else to read",
    )
    group.add_argument(
        "--file-cache",
        action="store_true",
        help="let the system's file cache keep what is read",
    )
    group.add_argument(
        "--route-log", metavar="FILE", help="write which experts were chosen, for analysis"
    )


def experts(args: argparse.Namespace) -> ExpertOptions:
    """Raises UsageError for options that make no sense."""
    return ExpertOptions.of(
        args.experts or str(Mode.AUTO),
        args.expert_memory,
        args.look_ahead,
        args.file_cache,
        args.route_log,
    )


def required_model(args: argparse.Namespace) -> str:
    """Raises UsageError without one."""
    if not args.model:
        raise UsageError(
            "no model; give --model DIR (make one with 'mlx-maverick convert'), or --model demo"
        )
    return str(args.model)


def add_message(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--image",
        "-i",
        action="append",
        default=[],
        metavar="FILE",
        help="a picture, shown before the text; may be repeated (demo: one that comes with "
        "mlx-maverick)",
    )
    parser.add_argument("--system", metavar="TEXT", help="the system prompt")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    default = Sampling()
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--max-tokens", "-m", type=whole(1), metavar="N", help="longest answer (default: no limit)"
    )
    group.add_argument(
        "--temp",
        type=float,
        metavar="T",
        help=f"temperature; 0 always takes the likeliest token (default: {default.temperature})",
    )
    group.add_argument("--top-p", type=float, metavar="P", help=f"default: {default.top_p}")
    group.add_argument("--min-p", type=float, metavar="P", help=f"default: {default.min_p}")
    group.add_argument(
        "--top-k", type=whole(0), metavar="K", help=f"0 for no limit (default: {default.top_k})"
    )
    for name, value, help in (
        ("xtc-probability", default.xtc_probability, "leave likely tokens out, that often"),
        ("xtc-threshold", default.xtc_threshold, "what counts as likely there"),
        ("repetition-penalty", default.repetition_penalty, "1 for none"),
        ("presence-penalty", default.presence_penalty, "0 for none"),
        ("frequency-penalty", default.frequency_penalty, "0 for none"),
    ):
        group.add_argument(f"--{name}", type=float, metavar="X", help=f"{help} (default: {value})")
    group.add_argument("--seed", type=int, metavar="N", help="equal seeds give equal answers")
    group.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end the answer before TEXT; may be repeated",
    )


# Options that are called otherwise in Python.
NAMES = {
    "temp": "temperature", "quantized_kv_start": "kv_start", "max_kv_size": "kv_max_size",
}  # fmt: skip


def given(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Those of these settings, by their names in Python, that the command line says."""
    said = {NAMES.get(name, name): value for name, value in vars(args).items()}
    return {name: said[name] for name in names if _is_given(said.get(name))}


def _is_given(value: object) -> bool:
    return value is not None and value is not False and value != []


def sampling(args: argparse.Namespace) -> Sampling:
    """Raises UsageError for a value out of range."""
    return Sampling().changed(given(args, [field.name for field in fields(Sampling)]))
