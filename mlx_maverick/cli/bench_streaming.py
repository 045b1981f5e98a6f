"""`mlx-maverick bench --against resident,mlx-vlm-offload,mapped`: experts streamed from the disk
by this package, and other ways to run the same model, in turn.

Knows nothing of how a program is run and measured; `bench_streaming_subject` does.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..config import ModelConfig
from ..errors import UsageError
from ..hub import resolve
from ..paths import HOME_VARIABLE
from ..streaming.options import ExpertOptions
from ..units import gb
from . import bench_disk, options
from .bench_against import STREAMED
from .bench_children import OURS, in_turn, paired, run_child
from .bench_streaming_subject import DISK, Report, Task
from .bench_subject import Figure
from .machine import aligned, machine

RESIDENT, OFFLOAD, _ = STREAMED
BEFORE, THROUGHOUT = "before", "throughout"
CACHES = {
    BEFORE: "emptied of the model before each run",
    THROUGHOUT: "emptied of the model before and throughout each run",
    None: "as it comes",
}
RATED = ("s", "tok/s")  # units of what can be better or worse


@dataclass(frozen=True)
class Row:
    """One measurement: medians over the runs, by program that has it, and how many times better
    ours is than each other program's, the median over the rounds."""

    name: str
    unit: str
    values: dict[str, float]
    ratios: dict[str, float]


@dataclass(frozen=True)
class Routing:
    """Which experts the measured tokens went through."""

    experts: int  # of all layers
    hottest_quarter: float  # see `_hottest`
    in_prefill: int  # experts that the prompt needs, each counted once


@dataclass(frozen=True)
class Result:
    model: str
    expert_memory: int
    expert_bytes: int  # of all experts, in the files
    prompt_tokens: int
    new_tokens: int
    rows: list[Row]
    disk: dict[str, float]  # bytes per second
    routing: Routing | None
    # Share of positions at which a program finds the same token likeliest as ours.
    agreement: dict[str, float]
    repacked_bytes: int | None  # by mlx-vlm, beside the model
    repack_seconds: float | None
    evict: str | None
    runs: int
    machine: dict[str, str]

    def table(self) -> Iterator[str]:
        """A column for each program; after the others' values how many times better ours is."""
        programs = list(self.rows[0].values)
        cells = [["", *programs]]
        cells += [[row.name, *(_cell(row, p) for p in programs)] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for name, *values in cells:
            rest = "".join(f"  {v:>{w}}" for v, w in zip(values, widths[1:], strict=True))
            yield f"{name:<{widths[0]}}{rest}".rstrip()
        yield ""
        yield from aligned(dict(self._facts()) | self.machine)

    def _facts(self) -> Iterator[tuple[str, str]]:
        times = self.expert_bytes / self.expert_memory
        yield "model", self.model
        yield "experts", f"{gb(self.expert_bytes)}, {times:.2f} times {gb(self.expert_memory)}"
        yield "tokens", f"{self.prompt_tokens:,} prefilled, {self.new_tokens:,} decoded"
        if r := self.routing:
            yield "hottest quarter", f"of the experts took {r.hottest_quarter:.1%} of the tokens"
            yield "the prompt needs", f"{r.in_prefill} of {r.experts} experts"
        for name, rate in self.disk.items():
            yield f"plain reads, {name}", f"{gb(rate)}/s"
        for program, share in self.agreement.items():
            yield f"same token as {program}", f"{share:.0%}"
        if self.repacked_bytes is not None:
            yield "mlx-vlm's repacking", f"{gb(self.repacked_bytes)}, {self.repack_seconds:.1f} s"
        yield "file cache", CACHES[self.evict]
        yield "runs", str(self.runs)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("comparing experts that are streamed")
    group.add_argument(
        "--warm-tokens",
        type=options.whole(1),
        default=64,
        metavar="N",
        help="decode so many before what is measured, which fills the slots (default: %(default)s)",
    )
    group.add_argument(
        "--evict",
        choices=(BEFORE, THROUGHOUT),
        help="take the model's files out of the system's file cache before each run, or again "
        "and again, so that everything read comes from the disk (Linux; default: neither)",
    )


def is_wanted(against: str | None) -> bool:
    return against is not None and against.split(",")[0] in STREAMED


def check(args: argparse.Namespace) -> None:
    """Raises UsageError for options that are about other measurements, or are missing."""
    if not is_wanted(args.against):
        if args.evict:
            raise UsageError(f"--evict needs --against with one of {', '.join(STREAMED)}")
        return
    if args.filled or args.filled_prompt or args.float32 or len(args.prompt_tokens) > 1:
        raise UsageError(
            "--filled, --float32 and several --prompt-tokens are about whole models; with "
            "streamed experts everything is computed as fits the machine, from one real prompt"
        )
    if ExpertOptions.of(args.experts, args.expert_memory).memory is None:
        raise UsageError("--expert-memory BYTES is what is compared; give it")


def run(args: argparse.Namespace, model: str, report: Callable[[str], None]) -> Result:
    """Raises UsageError for what cannot be compared, and MaverickError where a program fails."""
    folder = resolve(model)
    config = ModelConfig.from_folder(folder)
    others = args.against.split(",")
    memory = ExpertOptions.of(args.experts, args.expert_memory).memory
    assert memory is not None
    if OFFLOAD in others:
        _check_offload(config)
    expert_bytes = sum(r.nbytes for e in bench_disk.expert_ranges(folder) for r in e)
    task = Task("", str(folder), memory, args.warm_tokens, args.prompt_tokens[0], args.new_tokens)
    with ExitStack() as stack:
        repacked, seconds = None, None
        if OFFLOAD in others:
            place = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="mlx-vlm-", dir=folder.parent)
            )
            repacked, seconds = Path(place), _repack(folder, Path(place), report)
        files = _files(folder) + (_files(repacked) if repacked else [])

        def once(program: str) -> tuple[Report, int]:
            mine = str(repacked) if program == OFFLOAD else str(folder)
            throughout = args.evict == THROUGHOUT
            with bench_disk.evicted(files, throughout) if args.evict else nullcontext():
                return _once(replace(task, program=program, folder=mine))

        def warm(program: str) -> None:
            if not args.evict and program != DISK:
                once(program)

        reports = in_turn([OURS, *others, DISK], args.runs, once, warm, report)
        watched = reports.get(RESIDENT)
        if watched is None and args.synthetic is not None:
            report("which experts are chosen")
            watched = [once(RESIDENT)]
        size = sum(f.stat().st_size for f in _files(repacked)) if repacked else None
    disk = rows({DISK: [r.figures for r, _ in reports.pop(DISK)]}, DISK)
    return Result(
        model=folder.name,
        expert_memory=memory,
        expert_bytes=expert_bytes,
        prompt_tokens=task.prompt,
        new_tokens=task.new_tokens,
        rows=rows(
            {
                name: [[*r.figures, Figure("resident", "bytes", peak)] for r, peak in runs]
                for name, runs in reports.items()
            },
            OURS,
        ),
        disk={row.name: row.values[DISK] for row in disk},
        routing=_routing(watched[0][0]) if watched else None,
        agreement={name: _agreement(reports[OURS][0][0], reports[name][0][0]) for name in others},
        repacked_bytes=size,
        repack_seconds=seconds,
        evict=args.evict,
        runs=args.runs,
        machine=machine() | ({"mlx-vlm": version("mlx-vlm")} if OFFLOAD in others else {}),
    )


def _check_offload(config: ModelConfig) -> None:
    if find_spec("mlx_vlm") is None:
        raise UsageError("mlx-vlm is not installed; install it with 'pip install mlx-vlm'")
    if config.vision is None:
        raise UsageError(
            "mlx-vlm loads no Llama 4 without a vision tower; give --synthetic with "
            "--vision-layers 1 --vision-hidden 88, or another model"
        )


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def _repack(folder: Path, out: Path, report: Callable[[str], None]) -> float:
    """Seconds it takes."""
    report("mlx-vlm writes the model a second time, by expert")
    words = ["mlx_vlm.moe_offload", "--build", str(folder), "--out", str(out)]
    return run_child(words, f"mlx-vlm cannot repack {folder}").seconds


def _once(task: Task) -> tuple[Report, int]:
    """What a process says, and the most memory it took."""
    words = ["mlx_maverick.cli.bench_streaming_subject", json.dumps(asdict(task))]
    with tempfile.TemporaryDirectory(prefix="mlx-maverick-bench-") as home:
        # A home of its own: what earlier runs have counted is not known.
        child = run_child(words, f"{task.program} failed on {task.folder}", {HOME_VARIABLE: home})
    # Other programs may print while they load; the report is the last line.
    said = json.loads(child.output.splitlines()[-1])
    return Report(**said | {"figures": [Figure(**f) for f in said["figures"]]}), child.memory


def rows(runs: dict[str, list[list[Figure]]], ours: str) -> list[Row]:
    """Figures of every run of every program -> medians and ratios, by measurement; not every
    program has every one."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for program, every in runs.items():
        for figures in every:
            for f in figures:
                found.setdefault((f.name, f.unit), {}).setdefault(program, []).append(f.value)
    made = []
    for (name, unit), values in found.items():
        mine = values.get(ours)
        ratios = {
            program: paired(mine, theirs) if unit == "tok/s" else paired(theirs, mine)
            for program, theirs in values.items()
            if mine and unit in RATED and program != ours
        }
        medians = {program: statistics.median(v) for program, v in values.items()}
        made.append(Row(name, unit, medians, ratios))
    return made


def _routing(watched: Report) -> Routing:
    layers, experts = len(watched.decoded), watched.experts
    needed = sum(len(set(layer)) for layer in watched.prefilled)
    both = [a + b for a, b in zip(watched.decoded, watched.prefilled, strict=True)]
    hottest = statistics.mean(_hottest(layer, experts) for layer in both)
    return Routing(layers * experts, hottest, needed)


def _hottest(chosen: list[int], experts: int) -> float:
    """The share of every second token that went to those experts, a quarter of all, which most
    of the other tokens went to: of the same tokens, few in number, even chance would favour
    some."""
    counts = np.bincount(chosen[::2], minlength=experts)
    quarter = np.argsort(-counts)[: max(1, experts // 4)]
    return float(np.isin(chosen[1::2], quarter).mean())


def _agreement(ours: Report, other: Report) -> float:
    pairs: Sequence[tuple[int, int]] = list(zip(ours.likeliest, other.likeliest, strict=True))
    return statistics.mean(a == b for a, b in pairs)


def _cell(row: Row, program: str) -> str:
    value = row.values.get(program)
    if value is None:
        return "-"
    if row.unit in ("bytes", "B/s"):
        text = gb(value) + row.unit.removeprefix("bytes").replace("B/s", "/s")
    else:
        digits = 0 if row.unit == "" else 1 if row.unit == "%" or value >= 100 else 2
        text = f"{value:,.{digits}f} {row.unit}".strip()
    return f"{text} {row.ratios[program]:>6.2f}x" if program in row.ratios else text
