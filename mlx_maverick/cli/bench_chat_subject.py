"""The chat in a process of its own, asking a worker without a model, and what that took.

Knows nothing of tables. `bench_chat` starts it in a terminal as `python -m
mlx_maverick.cli.bench_chat_subject TASK`, and reads a line of JSON from the file it names.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ..client import Client, Loaded, Step, WorkerEvent
from ..events import Finished
from ..sampling import Sampling

WORKER = "mlx_maverick.cli.bench_chat_worker"
SECONDS = 600.0  # in which anything has to happen


@dataclass(frozen=True)
class Task:
    """One measurement."""

    output: str  # a file
    kind: str  # "bare", "chat" or "open"
    store: str = ""  # a database of chats
    chat: int = 0  # to go on with, 0 for a new one
    rate: float = 50.0  # tokens per second that the worker gives
    tokens: int = 1000
    idle: float = 0.0  # seconds in which nothing is to happen


@dataclass(frozen=True)
class Report:
    """Seconds; shares are of one core."""

    seconds: float = 0.0  # from asking to the last token
    busy: float = 0.0  # share while a reply came
    idle: float = 0.0  # share while nothing went on
    opened: float = 0.0  # until a chat that was kept is shown


def main(task: Task) -> None:
    client = partial(Client, command=(sys.executable, "-P", "-m", WORKER, *map(str, _worker(task))))
    report = bare(client) if task.kind == "bare" else shown(client, task)
    Path(task.output).write_text(json.dumps(asdict(report)))


def _worker(task: Task) -> tuple[float, int]:
    return task.rate, task.tokens


def bare(connect: Callable[..., Client]) -> Report:
    """Nobody looks at what comes."""
    events: SimpleQueue[WorkerEvent] = SimpleQueue()
    client = connect(events.put)

    def until(true: Callable[[WorkerEvent], Any]) -> None:
        while not true(events.get(timeout=SECONDS)):
            pass

    client.load("bench")
    until(lambda event: isinstance(event, Loaded))
    begun, cpu = time.perf_counter(), time.process_time()
    client.generate([{"role": "user", "content": "Go"}], Sampling())
    until(lambda event: isinstance(event, Step) and isinstance(event.event, Finished))
    seconds, used = time.perf_counter() - begun, time.process_time() - cpu
    client.close()
    return Report(seconds=seconds, busy=used / seconds)


def shown(connect: Callable[..., Client], task: Task) -> Report:
    """In the chat, as a person sees it."""
    from ..tui.app import ChatApp
    from ..tui.controller import Controller
    from ..tui.conversation import Draft
    from ..tui.keeper import Keeper
    from ..tui.live import Phase
    from ..tui.settings.settings import Settings
    from ..tui.store import Store

    store = Store.open(Path(task.store))
    controller = Controller(connect, Settings("bench"), Keeper(store))
    app = ChatApp(controller)
    reports: list[Report] = []

    async def until(true: Callable[[], Any]) -> None:
        end = time.monotonic() + SECONDS
        while not true():
            if time.monotonic() > end:
                raise RuntimeError("the chat did not come to an end")
            await asyncio.sleep(0.02)

    async def drawn() -> None:
        """All that is to be shown is on the terminal."""
        done = asyncio.Event()
        app.screen.call_after_refresh(done.set)
        await done.wait()

    async def run() -> None:
        await until(lambda: controller.phase is Phase.READY)
        opened = 0.0
        if task.chat:
            begun = time.perf_counter()
            controller.open_chat(task.chat)
            await drawn()
            opened = time.perf_counter() - begun
        seconds = busy = 0.0
        if task.kind == "chat":
            begun, cpu = time.perf_counter(), time.process_time()
            controller.send(Draft("Go"))
            await until(lambda: controller.phase is Phase.READY)
            await drawn()
            seconds, busy = time.perf_counter() - begun, time.process_time() - cpu
            await asyncio.sleep(min(1, task.idle))  # what is done once afterwards is not idling
        begun, cpu = time.perf_counter(), time.process_time()
        await asyncio.sleep(task.idle)
        idle = (time.process_time() - cpu) / (time.perf_counter() - begun)
        reports.append(Report(seconds, busy / seconds if seconds else 0.0, idle, opened))
        app.exit()

    controller.start()

    async def main() -> None:
        task = asyncio.create_task(run())
        await app.run_async()
        await task

    asyncio.run(main())
    controller.close()
    return reports[0]


if __name__ == "__main__":
    main(Task(**json.loads(sys.argv[1])))
