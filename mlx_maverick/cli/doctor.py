"""`mlx-maverick doctor`: what this machine is, what fits it, and what to change.

Knows nothing of how that is found out or judged: `host` asks, `outlook` reckons, `diagnosis`
judges. Of a folder that does not fit some experts are read, to measure its disk.
"""

import argparse
import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__, hub, macs, pressure, sizing
from ..doctor import diagnosis, host, outlook
from ..doctor.diagnosis import Facts, Finding
from ..errors import BadCheckpoint, MaverickError, UsageError
from ..kv import DENSE, KVOptions
from ..memory import raise_limit
from ..published_models import MODELS
from ..sizing import Verdict
from ..units import GB, gb
from .options import add_kv, kv, whole
from .terminal import printable

if TYPE_CHECKING:
    from ..streaming.prediction import Counts

WIDTH = 80  # columns
LABEL = 12
READY = "Nothing: this machine is ready."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="DIR",
        help="whether this model folder, or repository in the Hub's cache, can be loaded now",
    )
    parser.add_argument(
        "--context",
        type=whole(2),
        metavar="N",
        help="tokens to reckon its memory for (default: as generate and chat have it)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_kv(parser)


def run(args: argparse.Namespace) -> int:
    if args.model is None and (args.context is not None or kv(args) != DENSE):
        raise UsageError(
            "--context and the KV cache's options are about a model folder; give --model too, or "
            "ask 'mlx-maverick plan'"
        )
    facts = gather(args.model, args.context, kv(args))
    found = diagnosis.findings(facts)
    if args.json:
        print(json.dumps(as_json(facts, found), indent=2, ensure_ascii=False))
    else:
        print(printable("\n".join(lines(facts, found))))
    return 0


def gather(
    model: str | None = None, context: int | None = None, options: KVOptions = DENSE
) -> Facts:
    """Ask the machine. Raises MaverickError if a reading fails, and for a folder that is no
    model as `load` does."""
    computer, device, reading = host.this_host(), host.device(), pressure.read()
    if device.kind:
        machine = macs.this_machine()
    else:
        machine = macs.this_machine_without_mlx(reading.total, computer.chip, computer.mac)
    folder = None
    if model is not None:
        if not device.kind:
            raise MaverickError(
                f"{model} cannot be judged, as MLX cannot be loaded ({device.problem}); "
                "'mlx-maverick doctor' without --model says what to do about it"
            )
        from ..streaming import ssd  # loads numpy

        path = hub.resolve(model)
        wanted = need(path, context, device.element_bytes, options)
        used = None
        if wanted.budget.total > machine.limit and wanted.streamable:
            if measured := ssd.bandwidth(path):
                machine = machine.with_ssd(measured, "measured")
            used = _used(path, wanted)
        free = diagnosis.available(device, reading)
        folder = outlook.folder(model, wanted, machine, free, computer.mac, used)
    return Facts(
        host=computer,
        device=device,
        machine=machine,
        reading=reading,
        places=host.places(),
        outlooks=tuple(
            outlook.outlook(published, machine, device.element_bytes)
            for published in MODELS.values()
        ),
        folder=folder,
    )


def _used(path: Path, wanted: sizing.Need) -> "Counts | None":
    """How often each expert of a folder was used here; None if it never was."""
    from ..fingerprint import model_fingerprint
    from ..model import default_dtype
    from ..streaming import counts

    text = wanted.config.text
    file = counts.place(model_fingerprint(path, default_dtype()))
    found = counts.load(file, sum(text.moe_layers), text.num_local_experts)
    return found if found.any() else None


def need(
    path: Path, context: int | None, element_bytes: int, options: KVOptions = DENSE
) -> sizing.Need:
    """What a folder needs, as loading it reckons. Raises NotFound, BadCheckpoint, UsageError."""
    from ..checkpoint import Checkpoint
    from ..config import ModelConfig

    config, checkpoint = ModelConfig.from_folder(path), Checkpoint.open(path)
    if config.source_quantization:
        raise BadCheckpoint(
            f"{path} is in a format to convert from, not to run ({config.source_quantization}); "
            "run 'mlx-maverick convert' on it first"
        )
    tokens = sizing.checked_context(config, context)
    return sizing.of_folder(config, checkpoint, tokens, options, element_bytes)


def as_json(facts: Facts, found: list[Finding]) -> dict[str, Any]:
    """The fields of `Facts` by their names, with the pressure in words; `sysctl` is the command
    that raises the GPU's limit to `machine.raised_limit`; `findings` those of `diagnosis`."""
    raw = asdict(facts)
    raw["reading"]["pressure"] = facts.reading.pressure.name.lower()
    findings = [asdict(finding) for finding in found]
    return {"version": __version__, **raw, "sysctl": _raised(facts), "findings": findings}


def _raised(facts: Facts) -> str | None:
    most = facts.machine.raised_limit
    return raise_limit(most, most) if most > facts.machine.limit else None


def lines(facts: Facts, found: list[Finding]) -> Iterator[str]:
    """What is printed, at most `WIDTH` columns wide but for names and commands."""
    yield f"mlx-maverick {__version__} on {facts.machine.name}"
    yield ""
    yield from _machine(facts)
    yield ""
    yield from _memory(facts)
    yield ""
    context = facts.outlooks[0].context
    yield f"What fits, with {context:,} tokens of context"
    for one in facts.outlooks:
        yield from _outlook(one)
    if best := facts.recommended:
        yield f"{'':<{LABEL}}  mlx-maverick convert --recipe {best.best} \\"
        yield f"{'':<{LABEL}}    {best.repo}"
    if facts.folder:
        yield ""
        yield from _folder(facts.folder)
    yield ""
    yield "What to change"
    for number, finding in enumerate(found, 1):
        yield from _wrapped(f"{number}.", finding.text, 3)
        if finding.command:
            yield f"     {finding.command}"
    if not found:
        yield READY


def _machine(facts: Facts) -> Iterator[str]:
    computer, device, machine = facts.host, facts.device, facts.machine
    speed = f", {machine.bandwidth / GB:.0f} GB/s" if machine.bandwidth else ""
    yield from _row("chip", f"{computer.chip or 'unknown'}{speed}")
    yield from _row("system", computer.system)
    yield from _row("python", f"{computer.python}, {computer.architecture}")
    on = f"on {device.kind}" if device.kind else "cannot be loaded"
    if device.kind == "CUDA" and device.name:
        on += f", {device.name}"
    versions = dict(computer.packages)
    yield from _row("mlx", f"{versions.pop('mlx') or 'not installed'} {on}")
    said = (f"{name} {version or 'not installed'}" for name, version in versions.items())
    yield from _row("packages", ", ".join(said))
    files = "any number" if computer.open_files is None else f"{computer.open_files:,}"
    yield from _row("open files", f"{files} at once")


def _memory(facts: Facts) -> Iterator[str]:
    now, machine = facts.reading, facts.machine
    swap = f"{gb(now.swap_used)} swapped" if now.swap_used else "nothing swapped"
    yield from _row(
        "memory", f"{gb(now.total)}: {gb(now.used)} in use, {gb(now.available)} available, {swap}"
    )
    parts = (("wired", now.wired), ("compressed", now.compressed), ("free", now.free))
    if now.wired is not None:
        yield from _row("", ", ".join(f"{gb(n)} {name}" for name, n in parts if n is not None))
    yield from _row("pressure", now.pressure.name.lower())
    if facts.host.mac:
        stock = " (stock)" if facts.host.limit_mib == 0 else ""
        yield from _row("GPU limit", f"{gb(machine.limit)}{stock}")
        if command := _raised(facts):
            yield from _row("", f"could be {gb(machine.raised_limit)} until the next restart:")
            yield f"{'':<{LABEL}}  {command}"
    else:
        yield from _row("model limit", gb(machine.limit))
    for number, place in enumerate(facts.places):
        text = f"{gb(place.free)} of {gb(place.total)} free in {place.name}, {place.path}"
        yield from _row("" if number else "disk", text)


def _outlook(one: outlook.Outlook) -> Iterator[str]:
    label = one.model.capitalize()
    if one.best is None or one.disk is None or one.memory is None:
        text = f"nothing: the smallest, {one.smallest}, needs {gb(one.smallest_memory)}"
        yield from _row(label, text)
        return
    ways = [f"up to {one.fits[-1]} as it is set"] if one.fits else []
    if one.raised:
        ways.append(f"up to {one.raised[-1]} with a raised limit")
    if one.verdict != Verdict.STREAMED:
        yield from _row(label, f"{one.best}: {gb(one.disk)} on disk, {gb(one.memory)} in memory")
        yield from _row("", f"(recipes {', '.join(ways)})")
        label = ""
    if (more := one.streamed) and more.disk:
        yield from _row(label, f"{more.recipe}: {gb(more.disk)} on disk, {more.words}")


def _folder(one: outlook.Folder) -> Iterator[str]:
    if one.fits_now:
        verdict = "fits"
    elif one.fits:
        verdict = "fits, but not what is available now"
    else:
        verdict = "does not fit" + (", but can be streamed" if one.streamed else "")
    yield f"{one.name}: {verdict}"
    yield from _row(
        "needs",
        f"{gb(one.total)} with {one.context:,} tokens of context: weights {gb(one.weights)}, "
        f"KV cache {gb(one.kv)}, working room {gb(one.working)}",
    )
    yield from _row("has", f"{gb(one.limit)} at most, {gb(one.available)} available now")
    if one.streamed:
        yield from _row("streamed", one.streamed.words)
    longest = [f"{n:,}" if n else "none" for n in (one.longest, one.longest_now)]
    yield from _row("context", f"up to {longest[0]} tokens, up to {longest[1]} now")


def _row(label: str, text: str) -> Iterator[str]:
    yield from _wrapped(label, text, LABEL)


def _wrapped(label: str, text: str, indent: int) -> Iterator[str]:
    yield from textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{label:<{indent}}",
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
