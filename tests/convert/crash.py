"""A conversion in a process of its own, which kills itself at a step of it: when it calls
something that changes files, or has an event, for the n-th time.

    python crash.py STEP N HOW SOURCE OUT     (without such a step: to the end; prints all steps)

HOW: `before` the call, `after` it, or `torn`: after half of a write. Tests import `shrink`,
without which a small checkpoint is a matter of few jobs, `run`, and what looks at the outcome.
"""

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL
from typing import Any

from mlx_maverick.convert import conversion, formats, hashes, journal, pipeline, values
from mlx_maverick.convert.layout import Layout
from mlx_maverick.convert.progress import Event, Progress

CALLS = ("mkdir", "ftruncate", "posix_fallocate", "pwrite", "fsync", "rename", "unlink")
TORN = {"pwrite", "write_bytes"}
RECIPE = "e4r4"


def shrink(change: Callable[[Any, str, object], None] = setattr) -> None:
    """Many jobs and shards."""
    change(formats, "BLOCK_BYTES", 64 << 10)
    change(Layout.of, "__defaults__", (512 << 10,))
    change(hashes, "REPORT_SECONDS", 0.0005)


def slow_down(change: Callable[[Any, str, object], None] = setattr) -> None:
    """Many blocks of a job, and a note in the journal for each job."""
    change(values, "BLOCK_WEIGHTS", dict.fromkeys(values.BLOCK_WEIGHTS, 8 << 10))
    change(pipeline, "SYNC_SECONDS", 0.0)
    change(hashes, "READ_AT_ONCE", 4 << 10)


def command(step: str, n: int, how: str, source: Path, out: Path) -> list[str]:
    return [sys.executable, __file__, step, str(n), how, str(source), str(out)]


def run(step: str, n: int, how: str, source: Path, out: Path) -> "subprocess.CompletedProcess[str]":
    words = command(step, n, how, source, out)
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def noted(folder: Path) -> journal.Done:
    """What the journal of a `.partial` folder lists as done."""
    file = os.open(folder / journal.NAME, os.O_RDWR)
    try:
        return journal.Journal(file, folder).done
    finally:
        os.close(file)


class Steps:
    """Counts them, from any thread."""

    def __init__(self, step: str, n: int, how: str):
        self.last, self.how = (step, n), how
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def wrap(self, owner: Any, name: str) -> None:
        call = getattr(owner, name, None)
        if call is None:  # macOS has no posix_fallocate
            return

        def counted(*args: Any) -> Any:
            with self._lock:  # when the process is killed, no other thread is in a call
                self.counts[name] += 1
                if (name, self.counts[name]) != self.last:
                    return call(*args)
                if self.how == "torn" and name in TORN:
                    file, data, *rest = args
                    call(file, data[: len(data) // 2], *rest)
                elif self.how != "before":
                    call(*args)
                os.kill(os.getpid(), SIGKILL)

        setattr(owner, name, counted)

    def event(self, event: Event) -> None:
        name = event.stage if isinstance(event, Progress) else type(event).__name__
        with self._lock:
            self.counts[name] += 1
            if (name, self.counts[name]) == self.last:
                os.kill(os.getpid(), SIGKILL)


if __name__ == "__main__":
    step, n, how, source, out = sys.argv[1:]
    shrink()
    slow_down()
    steps = Steps(step, int(n), how)
    for name in CALLS:
        steps.wrap(os, name)
    steps.wrap(Path, "write_bytes")
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    conversion.convert(source, out, RECIPE, steps.event, fast=True)
    sys.stdout.write("\n".join(steps.counts.elements()))
