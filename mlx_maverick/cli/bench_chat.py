"""`mlx-maverick bench --chat`: what the chat costs while a reply comes, and while nothing does.

Knows nothing of widgets: the chat runs in a process and a terminal of its own, and asks a worker
without a model that answers at a given rate.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..paths import HOME_VARIABLE
from . import bench_terminal, options
from .bench_chat_subject import Report, Task
from .bench_chat_worker import TEXT
from .machine import aligned, machine
from .terminal import StatusLine

if TYPE_CHECKING:
    from ..tui.store import Store

SUBJECT = "mlx_maverick.cli.bench_chat_subject"
RATES = (50.0, 200.0)  # tokens per second
OLD = (0, 20, 200)  # messages that are there already
SECONDS = 20  # that a reply takes
IDLE_SECONDS = 3.0
OPENED = 500  # messages of a chat
CHATS, MESSAGES = 100, 100  # to be searched: messages of a chat
QUERIES = ("bandwidth", "M3 ultra", "tokens per sec", "nothing of that kind", "ceil")
OTHERS = (  # options of measurements of models
    "against", "synthetic", "convert", "context", "experts", "expert_memory", "look_ahead",
    "file_cache", "route_log", "filled", "filled_prompt", "float32",
)  # fmt: skip
PLACEHOLDER = "Write a message"  # in the editor, when the chat is there


@dataclass(frozen=True)
class Row:
    """Medians of a rate with so many old messages. Shares are of one core."""

    rate: float
    old: int
    bare: float  # seconds of a reply that nobody shows
    chat: float  # and of one in the chat
    slower: float  # by that part, median of pairs
    busy: float  # of the chat's process, while a reply came
    idle: float


@dataclass(frozen=True)
class Result:
    """Seconds."""

    rows: list[Row]
    paint: float | None  # from the command to the chat on the screen
    opened: float  # a chat of OPENED messages
    search: float  # the slowest of QUERIES over CHATS * MESSAGES
    runs: int
    machine: dict[str, str] = field(default_factory=dict)

    def table(self) -> Iterator[str]:
        yield "tok/s  old messages  bare      chat      slower  busy     idle"
        for row in self.rows:
            yield (
                f"{row.rate:<5.0f}  {row.old:<12}  {row.bare:6.2f} s  {row.chat:6.2f} s  "
                f"{row.slower:+6.1%}  {row.busy:6.1%}  {row.idle:6.2%}"
            )
        facts = {} if self.paint is None else {"first paint": f"{self.paint:.2f} s"}
        facts[f"open {OPENED} messages"] = f"{self.opened:.2f} s"
        facts[f"search {CHATS * MESSAGES:,}"] = f"{self.search * 1000:.0f} ms"
        yield from aligned(facts | self.machine)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("the chat").add_argument(
        "--chat",
        action="store_true",
        help="measure the chat instead, with a worker that has no model; with --model also how "
        "soon it is on the screen",
    )


def run(args: argparse.Namespace) -> int:
    """Raises UsageError for options that are about other measurements."""
    if others := options.given(args, OTHERS):
        name = next(iter(others)).replace("_", "-")
        raise UsageError(f"--chat measures the chat alone; leave out --{name}")
    status = StatusLine()
    try:
        with tempfile.TemporaryDirectory(prefix="mlx-maverick-bench-") as folder:
            result = measure(Path(folder), args.model, args.runs, status.show)
    finally:
        status.clear()
    print(json.dumps(asdict(result)) if args.json else "\n".join(result.table()))
    return 0


def measure(folder: Path, model: str | None, runs: int, report: Callable[[str], None]) -> Result:
    """In a folder that is empty."""
    from ..tui.store import Store

    path = folder / "chats.db"
    once = Runner(folder)
    paint = None
    if model is not None:  # first: it may not be there
        report("first paint")
        paint = statistics.median(once.paint(model) for _ in range(runs + 1))
    report("writing chats")
    with Store.open(path) as store:
        chats = {count: written(store, count) for count in (*OLD[1:], OPENED)} | {0: 0}
    rows = []
    for rate in RATES:
        for old in OLD:
            report(f"{rate:.0f} tok/s, {old} old messages")
            tokens = round(rate * SECONDS)
            task = Task("", "chat", str(path), chats[old], rate, tokens, IDLE_SECONDS)
            rows.append(_row(task, old, runs, once))
    report(f"opening {OPENED} messages")
    opened = [once(Task("", "open", str(path), chats[OPENED])).opened for _ in range(runs)]
    report("searching")
    with Store.open(folder / "many.db") as store:
        for _ in range(CHATS):
            written(store, MESSAGES)
        search = max(statistics.median(_searched(store, q) for _ in range(runs)) for q in QUERIES)
    what = machine() | {"textual": version("textual")}
    return Result(rows, paint, statistics.median(opened), search, runs, what)


class Runner:
    """Runs the subject in a terminal, with folders of its own."""

    def __init__(self, folder: Path):
        self._folder, self._environ = folder, {HOME_VARIABLE: str(folder / "home")}

    def __call__(self, task: Task) -> Report:
        output = self._folder / "report.json"
        said = json.dumps(asdict(task) | {"output": str(output)})
        bench_terminal.run([SUBJECT, said], self._environ, failure="the chat cannot be measured")
        return Report(**json.loads(output.read_text()))

    def paint(self, model: str) -> float:
        words = ["mlx_maverick", "chat", "--model", model]
        why = f"the chat with {model} does not come up"
        return bench_terminal.run(words, self._environ, until=PLACEHOLDER, failure=why)


def written(store: "Store", messages: int) -> int:
    """A chat of so many messages, half of them replies."""
    chat = store.create_chat("bench", None, {})
    parent = None
    for number in range(0, messages, 2):
        question = f"Question {chat}-{number}: how fast can a model decode?"
        parent = store.add_message(chat, parent, "user", question, (), True)
        parent = store.add_message(chat, parent, "assistant", "", (), False)
        store.append(parent, TEXT, range(len(TEXT) // 4))
        store.finish(parent, "", None)
    return chat


def _row(task: Task, old: int, runs: int, once: Callable[[Task], Report]) -> Row:
    bare, chat = [], []
    for _ in range(runs):
        bare.append(once(Task(**asdict(task) | {"kind": "bare"})))
        chat.append(once(task))
    median = statistics.median
    return Row(
        task.rate,
        old,
        bare=median(r.seconds for r in bare),
        chat=median(r.seconds for r in chat),
        slower=median(c.seconds / b.seconds - 1 for b, c in zip(bare, chat, strict=True)),
        busy=median(r.busy for r in chat),
        idle=median(r.idle for r in chat),
    )


def _searched(store: "Store", query: str) -> float:
    begun = perf_counter()
    store.chats(query)
    return perf_counter() - begun
