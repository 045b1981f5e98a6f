"""The parent's end of the worker: starts it, sends requests, delivers its events as objects.

Imports neither MLX nor Textual, and knows nothing of what the events are for. `worker` says
what the requests and events are.
"""

import itertools
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from . import errors
from .errors import MaverickError
from .events import Finished, FinishReason, Prefill, Stats
from .kv import KVOptions
from .paths import log_file
from .sampling import Sampling
from .streaming.options import ExpertOptions
from .streaming.stats import ExpertStats

# -P: a file called json.py in the user's folder must not become our json.
COMMAND = (sys.executable, "-P", "-m", "mlx_maverick.worker")
PATIENCE = 10.0  # seconds, before and after SIGTERM: freeing hundreds of GB takes some
TAIL_LINES = 5
MAX_LOG = 1 << 20  # bytes; a longer log is started afresh


@dataclass(frozen=True)
class Ready:
    """The worker runs."""

    version: str


@dataclass(frozen=True)
class Loading:
    """Layers; `total` is 0 while unknown."""

    done: int
    total: int


@dataclass(frozen=True)
class Loaded:
    """The model answers now."""

    name: str
    parameters: int
    nbytes: int
    context: int  # tokens
    vision: bool  # sees pictures
    limit: int  # bytes that the process may hold


@dataclass(frozen=True)
class Memory:
    """Bytes, as MLX counts them; `kv` is the conversation's cache."""

    active: int
    cache: int
    peak: int
    kv: int
    experts: ExpertStats | None = None  # of this reply, where they are streamed


@dataclass(frozen=True)
class Text:
    """New text of reply `id`, and the tokens it came with."""

    id: int
    text: str
    ids: list[int]


@dataclass(frozen=True)
class Step:
    """Where reply `id` is: in its prompt, or at its end."""

    id: int
    event: Prefill | Finished


@dataclass(frozen=True)
class Failed:
    """A request was refused or went wrong; `id` is that of a reply, if it was one."""

    op: str | None
    id: int | None
    kind: str
    message: str
    exit_code: int

    def error(self) -> MaverickError:
        """As the exception it was in the worker."""
        kind = getattr(errors, self.kind, None)
        if not (isinstance(kind, type) and issubclass(kind, MaverickError)):
            kind = MaverickError
        error: MaverickError = kind(self.message)
        error.exit_code = self.exit_code
        return error


@dataclass(frozen=True)
class Died:
    """The worker ended although nobody asked it to. The last event there is."""

    status: int  # as subprocess has it: negative for a signal
    tail: tuple[str, ...]  # the last lines of its stderr
    log: Path

    def __str__(self) -> str:
        how = f"exit status {self.status}"
        if self.status < 0:
            try:
                how = f"killed by {signal.Signals(-self.status).name}"
            except ValueError:
                how = f"killed by signal {-self.status}"
        said = f": {self.tail[-1]}" if self.tail else ""
        return f"the model's process ended ({how}){said}; its log is {self.log}"


WorkerEvent = Ready | Loading | Loaded | Memory | Text | Step | Failed | Died


def decode(raw: Mapping[str, Any]) -> WorkerEvent:
    """The event in one decoded line. Raises KeyError, TypeError or ValueError if it is none."""
    values = dict(raw)
    match values.pop("event"):
        case "ready":
            return Ready(**values)
        case "loading":
            return Loading(**values)
        case "loaded":
            return Loaded(**values)
        case "memory":
            experts = values.pop("experts", None)
            return Memory(**values, experts=_experts(experts))
        case "token":
            return Text(**values)
        case "prefill":
            return Step(values["id"], Prefill(values["done"], values["total"]))
        case "finished":
            said = dict(values["stats"])
            said["experts"] = _experts(said.get("experts"))
            reason, stats = FinishReason(values["reason"]), Stats(**said)
            return Step(values["id"], Finished(reason, stats, problem=values["problem"]))
        case "error":
            return Failed(**values)
        case kind:
            raise ValueError(f"unknown event {kind!r}")


def _experts(values: Mapping[str, Any] | None) -> ExpertStats | None:
    return None if values is None else ExpertStats(**values)


class Client:
    """A running worker. `deliver` is called with each event, on a thread of the client's.

    The worker is started at once. No method waits for it, except `close`.
    """

    def __init__(
        self,
        deliver: Callable[[WorkerEvent], None],
        command: Sequence[str] = COMMAND,
        log: Path | None = None,
    ):
        self._deliver = deliver
        self._log = log or log_file("worker")
        self._closing = False
        self._ids = itertools.count(1)
        # A queue and a thread: a pipe is 64 KiB, and a worker inside MLX does not read.
        self._outgoing: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        fresh = not self._log.exists() or self._log.stat().st_size > MAX_LOG
        with open(self._log, "wb" if fresh else "ab") as stderr:
            self._log_start = stderr.tell()
            self._process = subprocess.Popen(
                list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
            )
        for target in (self._read, self._write):
            threading.Thread(target=target, name=f"worker{target.__name__}", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def load(
        self,
        model: str,
        context: int | None = None,
        kv: KVOptions | None = None,
        experts: ExpertOptions | None = None,
    ) -> None:
        """Load a folder or Hub repository: Loading ..., then Loaded, or Failed of op 'load'."""
        streaming = (experts or ExpertOptions()).fields()
        kept = asdict(kv or KVOptions())
        self._send(op="load", model=model, context=context, kv=kept, experts=streaming)

    def generate(self, messages: Sequence[Mapping[str, Any]], sampling: Sampling) -> int:
        """Ask for a reply; the id that its Step, Text and Failed events carry."""
        id = next(self._ids)
        options = asdict(sampling)
        self._send(op="generate", id=id, messages=list(messages), options=options)
        return id

    def cancel(self, id: int) -> None:
        """Stop reply `id`; it ends with Finished, reason cancelled."""
        self._send(op="cancel", id=id)

    def close(self, patience: float = PATIENCE) -> bool:
        """End the worker and its memory; whether it has ended.

        Its stdin closes, which it takes for quit; a worker deep in MLX sees that late, so after
        `patience` seconds it gets SIGTERM, and as long again. Never SIGKILL: on macOS that has
        leaked the wired memory of a loaded model, hundreds of GB, until the next boot. One that
        still runs ends by itself when it comes back from MLX.
        """
        self._closing = True
        self._outgoing.put(None)
        if self._wait(patience):
            return True
        self._process.terminate()
        return self._wait(patience)

    def _wait(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _send(self, **request: Any) -> None:
        self._outgoing.put(request)

    def _write(self) -> None:
        stdin = self._process.stdin
        assert stdin is not None  # a pipe was asked for
        try:
            with stdin:
                while (request := self._outgoing.get()) is not None:
                    stdin.write(json.dumps(request).encode() + b"\n")
                    stdin.flush()
        except OSError:
            return  # the worker is gone, and `_read` says so

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None  # a pipe was asked for
        with stdout:
            for line in stdout:
                try:
                    event = decode(json.loads(line))
                except (KeyError, TypeError, ValueError) as e:
                    event = Failed(None, None, "MaverickError", f"the worker sent no event: {e}", 1)
                self._deliver(event)
        status = self._process.wait()
        self._outgoing.put(None)
        if not self._closing:
            self._deliver(Died(status, self._tail(), self._log))

    def _tail(self) -> tuple[str, ...]:
        """The last lines this worker wrote to the log."""
        with open(self._log, "rb") as file:
            file.seek(0, 2)
            file.seek(max(self._log_start, file.tell() - (1 << 16)))
            text = file.read().decode(errors="replace")
        return tuple(line for line in text.splitlines() if line.strip())[-TAIL_LINES:]
