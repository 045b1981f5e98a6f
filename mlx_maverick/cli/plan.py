"""`mlx-maverick plan`: every recipe's size, whether a Mac has room for it, and how fast it can be.

Knows nothing of weights: sizes follow from shapes. mlx is loaded only to ask this machine, when
no memory size is given.
"""

import argparse
import json
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from .. import macs, sizing
from ..config import ModelConfig
from ..convert import origin
from ..convert.recipe import DEFAULT, OFFERED, Recipe
from ..errors import DoesNotFit, UsageError
from ..macs import Machine
from ..memory import DEFAULT_CONTEXT
from ..published_models import MODELS
from ..sizing import BF16_BYTES, Choice, Fit, Verdict
from ..units import GB, gb
from .options import add_kv, kv, whole
from .terminal import printable

WIDTH = 88  # columns
NO_STREAMING = "streamed: with routed experts on the SSD, which this version cannot do yet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    known = ", ".join(MODELS)
    parser.add_argument(
        "name", nargs="?", metavar="MODEL", help=f"{known}, or a model folder (default: maverick)"
    )
    parser.add_argument("--model", metavar="MODEL", help="the same, as an option")
    parser.add_argument(
        "--memory", metavar="SIZE", help="of a Mac, such as 128GB (default: this machine's)"
    )
    parser.add_argument(
        "--context",
        type=whole(1),
        metavar="N",
        help=f"tokens to reckon memory for (default: {DEFAULT_CONTEXT}, or the model's maximum)",
    )
    parser.add_argument(
        "--recipe",
        "-r",
        metavar="NAME",
        help="another recipe to list, such as e4g32r8 or mine.toml",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="RULE",
        help="change it, for instance routed@first,last=+1; may be repeated",
    )
    parser.add_argument(
        "--limit", metavar="SIZE", help="what the GPU may use, such as 230GB (10^9) or 214GiB"
    )
    parser.add_argument(
        "--bandwidth", type=whole(1), metavar="GB/S", help="of the memory, if not the usual chip's"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_kv(parser)


@dataclass(frozen=True)
class Row:
    """One recipe; `--json` prints these names. Sizes are bytes, speeds tokens per second."""

    recipe: str
    disk: int
    memory: int  # weights + kv + working
    weights: int
    kv: int
    working: int
    verdict: str  # "fits", "raised", "streamed" or "no"
    sysctl: str | None  # the command that raises the limit, where it has to be
    streamed_resident: int  # all but the routed experts
    expert_room: int  # left for routed experts within the limit
    expert_share: float  # of the routed experts that this holds
    read_per_token: int  # with an empty cache; a full one is read as well
    ceiling: float | None  # with an empty cache
    ceiling_full: float | None  # with the whole context in it


def run(args: argparse.Namespace) -> int:
    if args.name is not None and args.model is not None:
        raise UsageError("give one model: mlx-maverick plan MODEL")
    wanted = args.name or args.model or "maverick"
    name, source, config = _model(wanted)
    context = sizing.checked_context(config, args.context)
    more = [Recipe.parse(args.recipe or DEFAULT.name, args.set)] if args.recipe or args.set else []
    machine, element = _machine(args)
    options = kv(args)
    sizes = sizing.sizes(config, context, options, element, more)
    fits = [sizing.fit(size, machine) for size in sizes]
    try:
        choice = sizing.choose_from([s for s in sizes if s.recipe in OFFERED], machine)
        refusal = None
    except DoesNotFit as e:
        choice, refusal = None, str(e)
    command = (
        f"mlx-maverick convert {shlex.quote(source)} --recipe {choice.recipe.name}"
        if choice
        else None
    )
    rows = [_row(fit, machine) for fit in fits]
    if args.json:
        said = {
            "model": wanted,
            "machine": asdict(machine),
            "context": context,
            "kv_bits": args.kv_bits,
            "quantized_kv_start": args.quantized_kv_start,
            "max_kv_size": args.max_kv_size,
            "streaming_supported": False,
            "recipes": [asdict(row) for row in rows],
            "choice": _choice(choice, command),
            "refusal": refusal,
        }
        print(json.dumps(said, indent=2, ensure_ascii=False))
        return 0
    print(printable("\n".join(_lines(name, machine, fits[0], rows))))
    print(printable("\n".join(_advice(choice, command, refusal))))
    return 0


def _model(wanted: str) -> tuple[str, str, ModelConfig]:
    """A name to print, the source to convert, and the config."""
    for model in MODELS.values():
        if wanted.lower() in (model.name, model.repo.lower()):
            return f"Llama 4 {model.name.capitalize()}", model.repo, model.config
    with origin.opened(wanted, None) as files:  # of a repository only its config.json is read
        return wanted, wanted, ModelConfig.from_files(files)


def _machine(args: argparse.Namespace) -> tuple[Machine, int]:
    """The machine asked about, and the bytes of a value that is not quantised there."""
    element = BF16_BYTES
    if args.memory:
        machine = macs.mac(macs.parse_memory(args.memory))
    else:
        from ..model.llama4 import default_dtype  # loads mlx, as asking for the limit does

        machine, element = macs.this_machine(), default_dtype().size
    if args.limit:
        machine = machine.with_limit(macs.parse_limit(args.limit))
    if args.bandwidth:
        machine = machine.with_bandwidth(args.bandwidth * GB)
    return machine, element


def _row(fit: Fit, machine: Machine) -> Row:
    size, budget = fit.size, fit.size.budget
    resident = fit.verdict in (Verdict.FITS, Verdict.RAISED)
    speed = machine.bandwidth if resident else None  # else the SSD decides, not the memory
    return Row(
        recipe=size.recipe.name,
        disk=size.disk,
        memory=budget.total,
        weights=budget.weights,
        kv=budget.kv,
        working=budget.working,
        verdict=fit.verdict.value,
        sysctl=fit.command,
        streamed_resident=size.shared,
        expert_room=max(0, fit.room),
        expert_share=round(fit.expert_share, 4),
        read_per_token=size.read,
        ceiling=round(size.ceiling(speed, cached=False), 1) if speed else None,
        ceiling_full=round(size.ceiling(speed, cached=True), 1) if speed else None,
    )


def _choice(choice: Choice | None, command: str | None) -> dict[str, Any] | None:
    if choice is None:
        return None
    return {
        "recipe": choice.recipe.name,
        "verdict": choice.verdict.value,
        "sysctl": choice.command,
        "why": choice.why,
        "convert": command,
    }


def _lines(name: str, machine: Machine, first: Fit, rows: list[Row]) -> Iterator[str]:
    budget = first.size.budget
    yield f"{name} on {machine.name}, with {budget.context:,} tokens of context"
    for assumption in machine.assumptions:
        yield f"  {assumption}"
    if machine.raised_limit > machine.limit:
        left = gb(machine.memory - machine.raised_limit)
        yield f"  raised GPU limit {gb(machine.raised_limit)}, which leaves {left} to the system"
    kind = f"{budget.options.bits or 8 * budget.element_bytes}-bit"
    yield (
        f"  in memory: weights, {kind} KV cache {gb(budget.kv)}, working room {gb(budget.working)}"
    )
    if size := budget.options.max_size:
        yield f"  layers that attend to everything hold at most {size:,} tokens of it"
    width = max(len(row.recipe) for row in rows) + 2
    yield ""
    yield f"{'recipe':<{width}}{'on disk':>9}{'in memory':>12}{'tok/s':>9}   fit"
    for row in rows:
        speed = f"{row.ceiling_full:.0f}-{row.ceiling:.0f}" if row.ceiling else "-"
        sizes = f"{gb(row.disk):>9}{gb(row.memory):>12}{speed:>9}"
        yield f"{row.recipe:<{width}}{sizes}   {_verdict(row)}"
    yield ""
    yield "on disk: the weights; tokenizer and config add some tens of MB"
    if any(row.ceiling for row in rows):
        yield "tok/s: the memory's bandwidth as a ceiling, with a full and with an empty cache"
    if any(row.verdict == Verdict.STREAMED for row in rows):
        yield NO_STREAMING
    if raised := [row for row in rows if row.verdict == Verdict.RAISED]:
        yield "raised limit: the GPU's, until the next restart, with"
        yield from (f"  {row.recipe:<{width}}{row.sysctl}" for row in raised)


def _verdict(row: Row) -> str:
    if row.verdict == Verdict.STREAMED:
        return f"streamed, {row.expert_share * 100:.0f} % of experts in {gb(row.expert_room)}"
    return {"fits": "fits", "raised": "raised limit", "no": "does not fit"}[row.verdict]


def _advice(choice: Choice | None, command: str | None, refusal: str | None) -> Iterator[str]:
    yield ""
    if choice is None:
        text = refusal or ""
        yield textwrap.fill(f"{text[:1].upper()}{text[1:]}.", WIDTH)
        return
    yield f"Best: {choice.recipe.name} {choice.why}."
    yield f"  {command}"
    if choice.command:
        yield f"  {choice.command}    (until the next restart)"
