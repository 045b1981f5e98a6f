"""`mlx-maverick bench --against resident,mlx-vlm-offload,mapped`: experts streamed from the disk
by this package, and other ways to run the same model, in turn.

Knows nothing of how a program is run and measured; `bench_streaming_subject` does.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from ..config import ModelConfig
from ..errors import UsageError
from ..hub import resolve
from ..paths import HOME_VARIABLE
from ..streaming.options import Mode
from . import options
from .bench_against import STREAMED
from .bench_children import OURS, in_turn, run_child
from .bench_streaming_result import BEFORE, THROUGHOUT, Result, agreement, routing, rows
from .bench_streaming_task import DISK, Report, Task
from .bench_subject import Figure
from .machine import machine

RESIDENT, OFFLOAD, _ = STREAMED


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
    experts = options.experts(args)
    if not is_wanted(args.against):
        if args.evict:
            raise UsageError(f"--evict needs --against with one of {', '.join(STREAMED)}")
        if args.against and (experts.wants_streaming or experts.mode is not Mode.AUTO):
            raise UsageError(
                f"--against {args.against} is about models in memory; leave out --experts and "
                "what goes with it"
            )
        return
    if args.filled or args.filled_prompt or args.float32 or len(args.prompt_tokens) > 1:
        raise UsageError(
            "--filled, --float32 and several --prompt-tokens are about whole models; with "
            "streamed experts everything is computed as fits the machine, from one real prompt"
        )
    if experts.route_log is not None:
        raise UsageError("--route-log is one program's; leave it out, or leave out --against")
    if experts.memory is None:
        raise UsageError("programs are compared with the same memory; give --expert-memory")


def run(args: argparse.Namespace, model: str, report: Callable[[str], None]) -> Result:
    """Raises UsageError for what cannot be compared, and MaverickError where a program fails."""
    from . import bench_disk

    folder = resolve(model)
    config = ModelConfig.from_folder(folder)
    others = args.against.split(",")
    experts = options.experts(args)
    assert experts.memory is not None
    if OFFLOAD in others:
        _check_offload(config)
    expert_bytes = sum(r.nbytes for e in bench_disk.expert_ranges(folder) for r in e)
    task = Task(
        "", str(folder), experts.memory, experts.look_ahead, experts.file_cache,
        args.warm_tokens, args.prompt_tokens[0], args.new_tokens,
    )  # fmt: skip
    with ExitStack() as stack:
        repacked, seconds = None, None
        if OFFLOAD in others:
            place = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="mlx-vlm-", dir=folder.parent)
            )
            repacked, seconds = Path(place), _repack(folder, Path(place), report)
        files = _files(folder) + (_files(repacked) if repacked else [])

        every = None
        if args.evict == THROUGHOUT:
            report("how fast the disk is")
            rate = max(bench_disk.plain_reads(folder).values())
            every = max(bench_disk.SOONEST, task.memory / rate)

        def once(program: str) -> tuple[Report, int]:
            mine = str(repacked) if program == OFFLOAD else str(folder)
            with bench_disk.evicted(files, every) if args.evict else nullcontext():
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
        expert_memory=task.memory,
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
        routing=routing(watched[0][0]) if watched else None,
        agreement={name: agreement(reports[OURS][0][0], reports[name][0][0]) for name in others},
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
