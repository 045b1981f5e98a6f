"""`mlx-maverick convert`: its options, its progress line and its summary.

Knows nothing of how a checkpoint is converted.
"""

import argparse
import json
import time
from pathlib import Path

from .. import hub
from ..convert.progress import Progress
from ..convert.recipe import DEFAULT, OFFERED
from ..errors import UsageError
from ..units import gb
from .terminal import StatusLine, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    known = ", ".join(recipe.name for recipe in OFFERED)
    parser.add_argument(
        "source", nargs="?", type=Path, help="folder of the published BF16 checkpoint"
    )
    parser.add_argument(
        "--recipe",
        "-r",
        default=DEFAULT.name,
        metavar="NAME",
        help=f"bits of experts and rest, one of: {known} (default: {DEFAULT.name})",
    )
    parser.add_argument(
        "--out",
        "--mlx-path",
        "-o",
        type=Path,
        metavar="DIR",
        help="new folder to write (default: the source's name and the recipe, in this folder)",
    )
    parser.add_argument("--hf-path", type=Path, metavar="DIR", help="the source, as mlx-lm says it")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    if (args.source is None) == (args.hf_path is None):
        raise UsageError("give one source: the folder of the published checkpoint")
    source: Path = args.source or args.hf_path
    name = source.resolve().name
    source = hub.resolve(source)
    out: Path = args.out or Path(f"{name}-{args.recipe}")

    from ..convert.conversion import convert  # loads mlx

    line, start = StatusLine(), time.monotonic()

    def show(progress: Progress) -> None:
        line.show(_status(progress, time.monotonic() - start))

    try:
        done = convert(source, out, args.recipe, show)
    finally:
        line.clear()
    seconds = time.monotonic() - start
    line.stream.write(printable(f"{done.folder}: {gb(done.nbytes)}, {done.recipe}, "))
    line.stream.write(f"{_duration(seconds)}\n")
    if "tokenizer.json" not in done.files:
        line.stream.write("The source has no tokenizer.json: copy one in before you use it.\n")
    if args.json:
        result = {"folder": str(done.folder), "recipe": done.recipe, "bytes": done.nbytes}
        print(json.dumps(result | {"seconds": round(seconds, 3)}))
    return 0


def _status(progress: Progress, elapsed: float) -> str:
    share = progress.done / max(progress.total, 1)
    left = f", {_duration(elapsed / share - elapsed)} left" if share else ""
    total = f"{gb(progress.done)} of {gb(progress.total)}"
    return f"{progress.stage} {share:4.0%}  {total}{left}  {progress.what}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
