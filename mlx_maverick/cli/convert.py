"""`mlx-maverick convert`: its options, and what they choose.

Knows nothing of how a checkpoint is converted, or how progress is shown.
"""

import argparse
import signal
from pathlib import Path

from ..config import ModelConfig
from ..convert.recipe import DEFAULT, KEEP, OFFERED, Recipe
from ..errors import UsageError
from ..kv import KV_BITS, KVOptions
from .converting import Report
from .options import whole
from .terminal import StatusLine

AUTO = "auto"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    known = ", ".join(recipe.name for recipe in OFFERED)
    parser.add_argument(
        "source",
        nargs="?",
        help="a folder, a repository of the Hub (read without download), or demo, which comes "
        "with mlx-maverick",
    )
    parser.add_argument(
        "--recipe",
        "-r",
        metavar="NAME",
        help=f"bits of experts and rest, for instance one of {known}; a recipe file (.toml); "
        f"'{AUTO}' for the best that fits; '{KEEP}' to repack an MLX folder as it is "
        f"(default: {DEFAULT.name})",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="RULE",
        help="change single classes or layers, for instance routed_down=5, attention_v=8g32 or "
        "routed@first,last=+1; may be repeated",
    )
    parser.add_argument(
        "--fast",
        action="store_true",
        help="take scales from each group's smallest and largest weight, without a search",
    )
    parser.add_argument(
        "--out",
        "--mlx-path",
        "-o",
        type=Path,
        metavar="DIR",
        help="new folder to write (default: the source's name and the recipe, in this folder)",
    )
    parser.add_argument("--hf-path", metavar="SOURCE", help="the source, as mlx-lm says it")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a repository")
    parser.add_argument(
        "--restart", action="store_true", help="discard what an earlier run left unfinished"
    )
    fit = parser.add_argument_group(f"choosing the recipe (with --recipe {AUTO})")
    fit.add_argument(
        "--target-memory", metavar="SIZE", help="the Mac's memory, as 192GB (default: this one's)"
    )
    fit.add_argument("--context", type=whole(1), metavar="N", help="tokens it must have room for")
    fit.add_argument("--kv-bits", type=int, choices=KV_BITS, help="bits of the KV cache")
    parser.add_argument("--json", action="store_true", help="print events as lines of JSON")


def run(args: argparse.Namespace) -> int:
    if (args.source is None) == (args.hf_path is None):
        raise UsageError("give one source: a folder, or a repository of the Hub")
    source: str = args.source or args.hf_path
    recipe = _recipe(args, source)
    name = recipe if isinstance(recipe, str) else recipe.name
    out: Path = args.out or Path(f"{Path(source).resolve().name}-{name}")

    from ..convert.conversion import convert  # loads mlx

    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # a closed window ends it as SIGTERM does
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
    report = Report(args.json)
    how = {"fast": args.fast, "revision": args.revision, "restart": args.restart}
    try:
        report.opening(source)
        convert(source, out, recipe, report.show, **how)
    finally:
        report.close()
    return 0


def _recipe(args: argparse.Namespace, source: str) -> Recipe | str:
    wanted: str | None = args.recipe
    if args.target_memory and wanted is None:
        wanted = AUTO
    if wanted != AUTO and (args.target_memory or args.context or args.kv_bits):
        raise UsageError(
            f"--target-memory, --context and --kv-bits choose a recipe, and {wanted or 'none'} is "
            f"named; leave them out, or give --recipe {AUTO}"
        )
    if wanted == KEEP:
        if args.set or args.fast:
            raise UsageError(f"--recipe {KEEP} changes nothing; leave --set and --fast out")
        return KEEP
    if wanted != AUTO:
        return Recipe.parse(wanted or DEFAULT.name, args.set)

    if args.set:
        raise UsageError(
            "--set changes a recipe that is named; see 'mlx-maverick plan --recipe NAME --set "
            "RULE' for what it comes to, then name it"
        )
    return _chosen(args, source)


def _chosen(args: argparse.Namespace, source: str) -> Recipe:
    """The best recipe for the Mac and the context, which is said on stderr."""
    from .. import macs, sizing
    from ..convert import origin

    memory = args.target_memory
    machine = macs.mac(macs.parse_memory(memory)) if memory else macs.this_machine()
    with origin.opened(source, args.revision) as files:
        config = ModelConfig.from_files(files)
    choice = sizing.choose(config, machine, args.context, KVOptions(args.kv_bits))
    line = StatusLine()
    line.say(f"{choice.recipe.name} for {machine.name}: {choice.why}")
    if choice.command:
        line.say(f"to run it, raise the GPU's limit after each restart: {choice.command}")
    if choice.verdict is sizing.Verdict.STREAMED:
        line.say("generate and chat read its experts from the SSD as they need them")
    if args.kv_bits:
        line.say(f"to run it within that memory, give --kv-bits {args.kv_bits} there as well")
    return choice.recipe
