"""`mlx-maverick bench --convert`: how fast checkpoints are converted, and in how much memory.

Knows nothing of how they are converted: every run is a process of its own, ours and another
program's in turn, so that both meet the same machine.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ..checkpoint import Checkpoint
from ..errors import UsageError
from ..streaming.options import ExpertOptions
from ..units import gb
from . import bench_synthetic, options
from .bench_children import OURS, THEIRS, Child, in_turn, paired, run_child
from .machine import aligned, machine
from .terminal import StatusLine

RECIPE = "e4r4"
FAST = f"{OURS} --fast"
EXPERTS = 8  # of the random checkpoint


@dataclass(frozen=True)
class Run:
    """One conversion in a process of its own."""

    child: Child
    stages: dict[str, float]  # shares of the time; empty for other programs


@dataclass(frozen=True)
class Result:
    """Medians over the runs."""

    name: str
    seconds: float
    weights_per_second: float
    weights_per_cpu_second: float
    memory: int
    ratio: float | None  # of weights per CPU second to mlx-lm's, median of pairs
    stages: dict[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("converting")
    group.add_argument(
        "--convert",
        nargs="?",
        const="",
        metavar="SOURCE",
        help="measure converting a local checkpoint instead; without SOURCE one of random "
        "weights, with Maverick's matrices, is made for the time of the run",
    )


def run(args: argparse.Namespace) -> int:
    """Raises UsageError for options that are about other measurements."""
    if args.model or args.synthetic is not None:
        raise UsageError("--convert takes its own SOURCE; leave out --model and --synthetic")
    if args.against not in (None, THEIRS):
        raise UsageError(f"{args.against} is no converter; --convert runs --against {THEIRS}")
    others = [name for name in bench_synthetic.given(args) if name != "expert_count"]
    streamed = options.experts(args) != ExpertOptions()
    if others or streamed or args.evict or args.filled or args.filled_prompt or args.float32:
        raise UsageError(
            "of the options for other measurements --convert takes --expert-count alone"
        )
    experts = EXPERTS if args.expert_count is None else args.expert_count
    status = StatusLine()
    with tempfile.TemporaryDirectory(prefix="mlx-maverick-bench-") as folder:
        try:
            source = Path(args.convert).expanduser() if args.convert else Path(folder, "source")
            if not args.convert:
                from .. import synthetic

                status.show("writing a random checkpoint")
                source.mkdir()
                synthetic.write(source, experts=experts)
            results = measure(source, Path(folder), args, status.show)
        finally:
            status.clear()
    facts = machine()
    if args.json:
        print(json.dumps({"results": [asdict(r) for r in results], "machine": facts}))
    else:
        print("\n".join(table(results, facts)))
    return 0


def measure(
    source: Path, folder: Path, args: argparse.Namespace, report: Callable[[str], None]
) -> list[Result]:
    """Convert `source` into `folder` with every program in turn, `args.runs` times after one
    that fills the system's file cache."""
    weights = sum(t.size for t in Checkpoint.open(source).tensors.values())
    programs = [*([THEIRS] if args.against else []), FAST, OURS]

    def once(name: str) -> Run:
        return _once(name, source, folder / "out")

    measured = in_turn(programs, args.runs, once, once, report)
    return [_result(name, runs, measured.get(THEIRS), weights) for name, runs in measured.items()]


def _once(name: str, source: Path, out: Path) -> Run:
    """One conversion."""
    if name == THEIRS:
        words = ["mlx_lm", "convert", "--hf-path", str(source), "--mlx-path", str(out)]
        words += ["-q", "--q-bits", "4", "--q-group-size", "64"]
    else:
        words = ["mlx_maverick", "convert", str(source), "--out", str(out), "--recipe", RECIPE]
        words += ["--json", *(["--fast"] if name == FAST else [])]
    child = run_child(words, f"{name} failed on {source}")
    shutil.rmtree(out)
    if name == THEIRS:
        return Run(child, {})
    return Run(child, _shares(json.loads(child.output.splitlines()[-1]), child.seconds))


def _shares(converted: dict[str, dict[str, float]], seconds: float) -> dict[str, float]:
    """Of the whole process's time; reading and writing run beside quantising."""
    return {name: spent / seconds for name, spent in converted["stages"].items()}


def _result(name: str, runs: list[Run], theirs: list[Run] | None, weights: int) -> Result:
    def median(key: Callable[[Child], float]) -> float:
        return statistics.median(key(run.child) for run in runs)

    ratio = None
    if theirs is not None:
        ratio = paired([r.child.cpu_seconds for r in theirs], [r.child.cpu_seconds for r in runs])
    seconds = median(lambda child: child.seconds)
    return Result(
        name=name,
        seconds=seconds,
        weights_per_second=weights / seconds,
        weights_per_cpu_second=weights / median(lambda child: child.cpu_seconds),
        memory=int(median(lambda child: child.memory)),
        ratio=ratio,
        stages={
            stage: statistics.median(run.stages[stage] for run in runs) for stage in runs[0].stages
        },
    )


def table(results: list[Result], facts: dict[str, str]) -> Iterator[str]:
    yield f"{'':<20}{'seconds':>9}{'M weights/s':>13}{'per core':>10}{'ratio':>7}{'memory':>10}"
    for r in results:
        rates = f"{r.weights_per_second / 1e6:>13.1f}{r.weights_per_cpu_second / 1e6:>10.1f}"
        ratio = "" if r.ratio is None else f"{r.ratio:.2f}"
        yield f"{r.name:<20}{r.seconds:>9.1f}{rates}{ratio:>7}{gb(r.memory):>10}"
    for r in results:
        if r.stages:
            yield f"\n{r.name}, shares of its time"
            for name, share in r.stages.items():
                yield f"  {name.replace('_', ' '):<22}{share:>6.1%}"
    yield ""
    yield from aligned(facts)
