"""`mlx-maverick bench --convert`: how fast checkpoints are converted, and in how much memory.

Knows nothing of how they are converted: every run is a process of its own, ours and another
program's in turn, so that both meet the same machine.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter

from ..checkpoint import Checkpoint
from ..errors import MaverickError, UsageError
from ..units import gb
from .machine import machine
from .terminal import StatusLine

RECIPE = "e4r4"
OURS, FAST, THEIRS = "mlx-maverick", "mlx-maverick --fast", "mlx-lm"


@dataclass(frozen=True)
class Run:
    """One conversion in a process of its own."""

    seconds: float  # of the whole process
    cpu_seconds: float  # user and system, all cores
    memory: int  # peak resident, bytes
    stages: dict[str, float]  # shares of the time; empty for other programs


@dataclass
class Program:
    """Its measured runs."""

    name: str
    runs: list[Run] = field(default_factory=list)

    def median(self, key: Callable[[Run], float]) -> float:
        return statistics.median(map(key, self.runs))


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
    group.add_argument(
        "--against", choices=["mlx-lm"], help="run this program on the same checkpoint in turn"
    )
    group.add_argument(
        "--experts",
        type=int,
        default=8,
        metavar="N",
        help="of the random checkpoint (default: %(default)s; 0.13 billion weights each)",
    )


def run(args: argparse.Namespace) -> int:
    if args.experts < 2:
        raise UsageError("--experts must be at least 2")
    status = StatusLine()
    with tempfile.TemporaryDirectory(prefix="mlx-maverick-bench-") as folder:
        try:
            source = Path(args.convert).expanduser() if args.convert else Path(folder, "source")
            if not args.convert:
                from .. import synthetic

                status.show("writing a random checkpoint")
                source.mkdir()
                synthetic.write(source, experts=args.experts)
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
    programs = [Program(FAST), Program(OURS)]
    if args.against:
        programs.insert(0, Program(THEIRS))
    for i in range(args.runs + 1):
        for program in programs:
            report(
                f"run {i} of {args.runs}: {program.name}" if i else f"warming up: {program.name}"
            )
            once = _once(program.name, source, folder / "out")
            program.runs += [once] if i else []
    return [_result(program, programs[0], weights) for program in programs]


def _once(name: str, source: Path, out: Path) -> Run:
    """One conversion."""
    if name == THEIRS:
        words = ["mlx_lm", "convert", "--hf-path", str(source), "--mlx-path", str(out)]
        words += ["-q", "--q-bits", "4", "--q-group-size", "64"]
    else:
        words = ["mlx_maverick", "convert", str(source), "--out", str(out), "--recipe", RECIPE]
        words += ["--json", *(["--fast"] if name == FAST else [])]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", *words], stdin=subprocess.DEVNULL, stdout=output, stderr=errors
        )
        try:
            _, status, usage = os.wait4(child.pid, 0)  # usage of this child alone
        except BaseException:
            child.terminate()
            child.wait()
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = perf_counter() - start
        if child.returncode:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["no word"])[-1]
            raise MaverickError(f"{name} failed on {source}: {last}")
        output.seek(0)
        lines = output.read().splitlines()
    shutil.rmtree(out)
    stages = {} if name == THEIRS else _shares(json.loads(lines[-1]), seconds)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, see man 2 getrusage
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit, stages)


def _shares(converted: dict[str, dict[str, float]], seconds: float) -> dict[str, float]:
    """Of the whole process's time; reading and writing run beside quantising."""
    return {name: spent / seconds for name, spent in converted["stages"].items()}


def _result(program: Program, first: Program, weights: int) -> Result:
    ratio = None
    if first.name == THEIRS:
        pairs = zip(first.runs, program.runs, strict=True)
        ratio = statistics.median(a.cpu_seconds / b.cpu_seconds for a, b in pairs)
    seconds = program.median(lambda run: run.seconds)
    return Result(
        name=program.name,
        seconds=seconds,
        weights_per_second=weights / seconds,
        weights_per_cpu_second=weights / program.median(lambda run: run.cpu_seconds),
        memory=int(program.median(lambda run: run.memory)),
        ratio=ratio,
        stages={
            name: statistics.median(run.stages[name] for run in program.runs)
            for name in program.runs[0].stages
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
    width = max(map(len, facts))
    for name, value in facts.items():
        yield f"{name:<{width}}  {value}"
