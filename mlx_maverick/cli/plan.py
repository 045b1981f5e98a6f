"""`mlx-maverick plan`: every recipe's size, whether a Mac has room for it, and how fast it can be.

Knows nothing of weights: sizes follow from shapes. mlx is loaded only to ask this machine, when
no memory size is given; of a folder there some experts are read, to measure its disk.
"""

import argparse
import json
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import hub, macs, sizing
from ..config import ModelConfig
from ..convert import origin
from ..convert.recipe import DEFAULT, OFFERED, Recipe
from ..errors import BadCheckpoint, DoesNotFit, NotFound, UsageError
from ..macs import Machine
from ..memory import DEFAULT_CONTEXT
from ..published_models import MODELS
from ..sizing import BF16_BYTES, Choice, Fit, Size, Verdict, percent
from ..streaming.prediction import rate
from ..units import GB, gb
from .options import add_kv, kv, whole
from .terminal import printable

WIDTH = 88  # columns
STREAMED = (
    "streamed: experts that are not in memory are read from the SSD when they are needed",
    "~: reckoned from bandwidths as if all experts were used alike, with a full cache; some are",
    "   used more than others, so that fewer are read. Not measured",
)
SSD_ALONE = "<: what the SSD alone would allow, as the memory's bandwidth is unknown"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    known = ", ".join(MODELS)
    parser.add_argument(
        "name",
        nargs="?",
        metavar="MODEL",
        help=f"{known}, demo, or a model folder (default: maverick)",
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
    parser.add_argument(
        "--ssd",
        type=_positive,
        metavar="GB/S",
        help=f"that the SSD reads, for experts that are streamed (default: of this machine and a "
        f"model folder as measured, otherwise {macs.SSD / GB:.0f})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_kv(parser)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


_positive.__name__ = "number"  # how argparse names it in an error


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
    ceiling: float | None  # with an empty cache; None if streamed
    ceiling_full: float | None  # with the whole context in it
    hit_rate: float | None  # if streamed: of the experts that are needed, how many are in memory
    ssd_per_token: int | None  # bytes read from the SSD
    streamed: float | None  # with an empty cache
    streamed_full: float | None  # with the whole context in it


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
    if any(fit.verdict is Verdict.STREAMED for fit in fits):
        machine = _with_ssd(machine, args, wanted)
    offered = [s for s in sizes if s.recipe in OFFERED]
    choice, streamed, refusal = None, None, None
    try:
        choice = sizing.choose_from(offered, machine)
        streamed = sizing.more_bits(offered, machine, choice)
    except DoesNotFit as e:
        refusal = str(e)
    rows = [_row(fit, machine) for fit in fits]
    if args.json:
        said = {
            "model": wanted,
            "machine": asdict(machine),
            "context": context,
            "kv_bits": args.kv_bits,
            "quantized_kv_start": args.quantized_kv_start or 0,
            "max_kv_size": args.max_kv_size,
            "recipes": [asdict(row) for row in rows],
            "choice": _choice(choice, source),
            "more_bits": _more_bits(streamed, machine, source),
            "refusal": refusal,
        }
        print(json.dumps(said, indent=2, ensure_ascii=False))
        return 0
    print(printable("\n".join(_lines(name, machine, fits[0], rows))))
    print(printable("\n".join(_advice(choice, source, refusal))))
    if streamed:
        print(printable("\n".join(_better(streamed, machine, source))))
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


def _with_ssd(machine: Machine, args: argparse.Namespace, wanted: str) -> Machine:
    """With the SSD's bandwidth as given or, of this machine and a model folder, as measured."""
    if args.ssd:
        return machine.with_ssd(args.ssd * GB, "as given")
    if args.memory or wanted.lower() in MODELS:
        return machine
    from ..streaming import ssd  # loads numpy

    folder = hub.local(wanted) or hub.cached(wanted)
    try:
        measured = ssd.bandwidth(folder) if folder else None
    except (NotFound, BadCheckpoint):  # a folder without weights can be planned for, too
        measured = None
    return machine.with_ssd(measured, "measured") if measured else machine


def _row(fit: Fit[Size], machine: Machine) -> Row:
    size, budget = fit.size, fit.size.budget
    resident = fit.verdict in (Verdict.FITS, Verdict.RAISED)
    speed = machine.bandwidth if resident else None  # else the SSD decides, not the memory
    streamed = fit.prediction(machine) if fit.verdict is Verdict.STREAMED else None
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
        hit_rate=round(streamed.hit_rate, 4) if streamed else None,
        ssd_per_token=streamed.missed if streamed else None,
        streamed=_rounded(streamed.tps) if streamed else None,
        streamed_full=_rounded(streamed.tps_full) if streamed else None,
    )


def _rounded(tps: float | None) -> float | None:
    return None if tps is None else round(tps, 1)


def _convert(source: str, recipe: str) -> str:
    return f"mlx-maverick convert {shlex.quote(source)} --recipe {recipe}"


def _run(source: str, recipe: str) -> str:
    """How to run what that makes, by the name it gives it."""
    out = shlex.quote(f"{Path(source).resolve().name}-{recipe}")
    return f'mlx-maverick generate --experts stream --model {out} -p "Hello"'


def _choice(choice: Choice | None, source: str) -> dict[str, Any] | None:
    if choice is None:
        return None
    return {
        "recipe": choice.recipe.name,
        "verdict": choice.verdict.value,
        "sysctl": choice.command,
        "why": choice.why,
        "convert": _convert(source, choice.recipe.name),
    }


def _more_bits(streamed: Fit[Size] | None, machine: Machine, source: str) -> dict[str, Any] | None:
    if streamed is None:
        return None
    return {
        "recipe": streamed.size.recipe.name,
        "verdict": streamed.verdict.value,
        "sysctl": streamed.command,
        "expert_share": round(streamed.expert_share, 4),
        "streamed": _rounded(streamed.prediction(machine).tps),
        "convert": _convert(source, streamed.size.recipe.name),
    }


def _lines(name: str, machine: Machine, first: Fit[Size], rows: list[Row]) -> Iterator[str]:
    budget, streamed = first.size.budget, any(row.verdict == Verdict.STREAMED for row in rows)
    yield f"{name} on {machine.name}, with {budget.context:,} tokens of context"
    for assumption in machine.assumptions:
        yield f"  {assumption}"
    if streamed:
        yield f"  {machine.ssd_words}"
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
        sizes = f"{gb(row.disk):>9}{gb(row.memory):>12}{_speed(row, machine):>9}"
        yield f"{row.recipe:<{width}}{sizes}   {_verdict(row)}"
    yield ""
    yield "on disk: the weights; tokenizer and config add some tens of MB"
    if any(row.ceiling for row in rows):
        yield "tok/s: the memory's bandwidth as a ceiling, with a full and with an empty cache"
    if streamed:
        yield STREAMED[0]
        yield from STREAMED[1:] if machine.bandwidth else [SSD_ALONE]
    if raised := [row for row in rows if row.sysctl]:
        yield "raised limit: the GPU's, until the next restart, with"
        yield from (f"  {row.recipe:<{width}}{row.sysctl}" for row in raised)


def _speed(row: Row, machine: Machine) -> str:
    if row.ceiling:
        return f"{row.ceiling_full:.0f}-{row.ceiling:.0f}"
    if row.streamed_full:
        return f"{'~' if machine.bandwidth else '<'}{rate(row.streamed_full)}"
    return "-"


def _verdict(row: Row) -> str:
    if row.verdict == Verdict.STREAMED:
        how = "streamed with a raised limit" if row.sysctl else "streamed"
        return f"{how}, {percent(row.expert_share)} of experts in {gb(row.expert_room)}"
    return {"fits": "fits", "raised": "raised limit", "no": "does not fit"}[row.verdict]


def _advice(choice: Choice | None, source: str, refusal: str | None) -> Iterator[str]:
    yield ""
    if choice is None:
        text = refusal or ""
        yield textwrap.fill(f"{text[:1].upper()}{text[1:]}.", WIDTH)
        return
    yield textwrap.fill(f"Best: {choice.recipe.name} {choice.why}.", WIDTH)
    yield f"  {_convert(source, choice.recipe.name)}"
    if choice.command:
        yield f"  {choice.command}    (until the next restart)"
    if choice.verdict is Verdict.STREAMED:
        yield f"  {_run(source, choice.recipe.name)}"


def _better(streamed: Fit[Size], machine: Machine, source: str) -> Iterator[str]:
    """Beside a choice with few bits, what it takes to have more."""
    name = streamed.size.recipe.name
    yield ""
    yield textwrap.fill(
        f"With {streamed.size.recipe.experts.bits} bits, streamed: {name} with "
        f"{percent(streamed.expert_share)} of its experts in {gb(streamed.room)} of memory and "
        f"the others read from the SSD, {streamed.prediction(machine).words}.",
        WIDTH,
    )
    yield f"  {_convert(source, name)}"
    if streamed.command:
        yield f"  {streamed.command}    (until the next restart)"
    yield f"  {_run(source, name)}"
