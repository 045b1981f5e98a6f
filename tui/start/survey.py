"""Asks `judge`, in a process of its own, what this machine can do with a model.

Knows nothing of widgets, and loads no MLX: that stays out of the process that draws. A folder
on a disk that does not answer holds up the child, and never the chat.
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired
from typing import Any, TypeVar

from ...errors import MaverickError
from ...kv import DENSE, KVOptions
from ...paths import log_file
from .facts import Fact, decode
from .ways import Asked, Kind, Way

# -P as for the worker: no file of the user's folder becomes our module.
COMMAND = (sys.executable, "-P", "-m", "mlx_maverick.tui.start.judge")
SECONDS = 60.0  # a search takes at most a quarter of that, and a disk may sleep
END_SECONDS = 0.2

T = TypeVar("T")


async def facts(
    asked: Sequence[str] = (), context: int | None = None, kv: KVOptions = DENSE
) -> AsyncGenerator[Fact, None]:
    """The machine, models on it, and what it can run, as they come to be known.

    Raises MaverickError if that cannot be found out; what came before holds.
    """
    request = {"find": list(asked), "context": context, "kv": asdict(kv)}
    async with aclosing(_answers(request)) as lines:  # so that the child ends when this does
        async for line in lines:
            yield decode(line)


async def ways(asked: Asked) -> list[Way]:
    """What could be changed so that a model is loaded, the least change first.

    Raises MaverickError if that cannot be found out.
    """
    found = []
    async for line in _answers({"ways": asked.fields()}):
        raw = json.loads(line)
        found.append(Way(Kind(raw["kind"]), raw["value"]))
    return found


async def _answers(
    request: Mapping[str, Any], command: Sequence[str] | None = None, seconds: float = SECONDS
) -> AsyncGenerator[bytes, None]:
    """The lines a child answers with."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    log = log_file("survey")
    try:
        with open(log, "wb") as errors:
            child = Popen(
                [*(command or COMMAND), json.dumps(request)],
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=errors,
            )
    except OSError as e:
        raise MaverickError(f"no process can be started to look around: {e}") from None
    try:
        assert child.stdout is not None  # a pipe was asked for
        # Not asyncio's processes: one that outlives the loop by a moment makes it complain.
        while line := await _soon(child.stdout.readline, end - loop.time()):
            yield line
        status = await _soon(child.wait, max(1.0, end - loop.time()))
    except TimeoutError:
        raise MaverickError(f"looking around took more than {seconds:.0f} seconds") from None
    finally:
        _end(child)
    if status:
        *_, last = log.read_text(errors="replace").splitlines() or [f"exit status {status}"]
        raise MaverickError(f"looking around failed: {last}; see {log}")


async def _soon(wait: Callable[[], T], seconds: float) -> T:
    """What a thread waits for. Raises TimeoutError."""
    return await asyncio.wait_for(asyncio.to_thread(wait), seconds)


def _end(child: "Popen[bytes]") -> None:
    """Let go of a child that is not wanted any more; it has nothing to lose."""
    if child.poll() is None:
        child.terminate()
        with suppress(TimeoutExpired):  # it waits for a disk, and ends after that
            child.wait(END_SECONDS)
