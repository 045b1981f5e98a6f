"""Programs measured in turn: every run is a process of its own, so that all of them meet the
same machine.

Knows nothing of what they do.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

from ..errors import MaverickError

OURS, THEIRS = "mlx-maverick", "mlx-lm"

T = TypeVar("T")


@dataclass(frozen=True)
class Child:
    """A process that ended well."""

    output: str  # on stdout
    seconds: float  # from start to end
    cpu_seconds: float  # user and system, all cores
    memory: int  # peak resident, bytes


def run_child(
    words: Sequence[str], failure: str, environ: Mapping[str, str] | None = None
) -> Child:
    """Run `python -m WORDS`, with `environ` added to the environment.

    Raises MaverickError beginning with `failure` and ending with the last line the process
    wrote on stderr.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", *words], stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
            env={**os.environ, **(environ or {})},
        )  # fmt: skip
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
            silent = f"it ended with {child.returncode} and said nothing"
            last = (errors.read().strip().splitlines() or [silent])[-1]
            raise MaverickError(f"{failure}: {last}")
        output.seek(0)
        text = output.read()
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, see man 2 getrusage
    return Child(text, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


def in_turn(
    programs: Sequence[str],
    runs: int,
    once: Callable[[str], T],
    warm: Callable[[str], object],
    report: Callable[[str], None],
) -> dict[str, list[T]]:
    """What `once(program)` gives, `runs` times for each: A, B, A, B, ...; before that
    `warm(program)`, which is to fill the system's file cache."""
    for program in programs:
        report(f"warming up: {program}")
        warm(program)
    measured: dict[str, list[T]] = {program: [] for program in programs}
    for i in range(runs):
        for program in programs:
            report(f"run {i + 1} of {runs}: {program}")
            measured[program].append(once(program))
    return measured


def paired(top: Sequence[float], bottom: Sequence[float]) -> float:
    """The median of the ratios of runs that followed each other."""
    return statistics.median(a / b for a, b in zip(top, bottom, strict=True))
