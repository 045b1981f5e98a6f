"""The engine as a child process: requests come in and events go out, one JSON object a line.

Knows nothing of terminals and widgets; `client` is the other end. The main thread owns the
model: load, prefill, decode (MLX arrays belong to the thread that made them). A second thread
reads requests, so that a cancel counts at once; a third writes events, so that a slow reader
never holds up a token.

Requests, told apart by `op`:
    load      model, context (tokens, or null for the default)
    generate  id, messages (pictures as paths), options (fields of Sampling)
    cancel    id
    quit      as the end of stdin: stops what is going on and exits
Events, told apart by `event`:
    ready     version
    loading   done, total (layers; total 0 while unknown)
    loaded    name, parameters, nbytes, context, vision
    prefill   id, done, total
    token     id, text, count (more than one token when the reader was slow)
    finished  id, reason, stats
    memory    active, cache, peak, kv (bytes)
    error     op, id (null where there is none), kind, message, exit_code
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from queue import SimpleQueue
from types import FrameType
from typing import Any, Protocol

from . import __version__
from .errors import MaverickError, UsageError
from .events import Event, Finished, FinishReason, Prefill, Stats, Token
from .sampling import Sampling

log = logging.getLogger(__name__)

MEMORY_SECONDS = 0.5  # between two memory events while generating
READ_SIZE = 1 << 16
FLUSH_SECONDS = 2.0  # at exit, for a parent that no longer reads


class Model(Protocol):
    """What the worker uses of `Maverick`; tests bring their own."""

    @property
    def name(self) -> str: ...
    @property
    def context(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def parameters(self) -> int: ...
    @property
    def config(self) -> Any: ...

    def session(self) -> Any: ...

    def stream(
        self,
        messages: list[dict[str, Any]],
        *,
        session: Any,
        sampling: Sampling,
        should_stop: Callable[[], bool],
    ) -> Iterable[Event]: ...


Progress = Callable[[int, int], None]  # layers done, of how many
Loader = Callable[[str, int | None, Progress], Model]


@dataclass(frozen=True)
class Memory:
    """MLX's view, in bytes."""

    active: int = 0
    cache: int = 0
    peak: int = 0


@dataclass(frozen=True)
class Load:
    model: str
    context: int | None


@dataclass(frozen=True)
class Generate:
    id: int
    messages: list[dict[str, Any]]
    sampling: Sampling


@dataclass(frozen=True)
class Cancel:
    id: int


@dataclass(frozen=True)
class Quit:
    pass


Request = Load | Generate | Cancel | Quit


class _Stop(BaseException):
    """Leaves a load, out of its progress callback."""


def parse(raw: Any) -> Request:
    """The request in a decoded line. Raises UsageError naming what is wrong with it."""
    if not isinstance(raw, dict):
        raise UsageError("a request is a JSON object")
    match raw.get("op"):
        case "load":
            context = raw.get("context")
            return Load(
                _typed(raw, "model", str), None if context is None else _int(raw, "context")
            )
        case "generate":
            messages = _typed(raw, "messages", list)
            if not all(isinstance(m, dict) for m in messages):
                raise UsageError("generate: every message is an object")
            return Generate(_int(raw, "id"), messages, _sampling(raw.get("options", {})))
        case "cancel":
            return Cancel(_int(raw, "id"))
        case "quit":
            return Quit()
        case op:
            raise UsageError(f"unknown op {op!r}")


def _typed(raw: dict[str, Any], key: str, kind: type) -> Any:
    value = raw.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UsageError(f"{raw['op']}: {key} is {value!r}, not a {kind.__name__}")
    return value


def _int(raw: dict[str, Any], key: str) -> int:
    return int(_typed(raw, key, int))


def _sampling(options: Any) -> Sampling:
    if not isinstance(options, dict):
        raise UsageError("generate: options is an object")
    known = {f.name for f in fields(Sampling)}
    if unknown := sorted(set(options) - known):
        raise UsageError(f"generate: unknown option {unknown[0]!r}")
    try:
        return Sampling(**{**options, "stop": tuple(options.get("stop", ()))})
    except TypeError as e:
        raise UsageError(f"generate: options are of the wrong type ({e})") from None


class Outbox:
    """Events on their way to the parent, in order, written by a thread of their own."""

    def __init__(self, fd: int):
        self._fd = fd
        self._pending: deque[dict[str, Any]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._write, name="events", daemon=True)
        self._thread.start()

    def put(self, event: str, **values: Any) -> None:
        """Queue one event. What waits and says the same thing is brought up to date instead."""
        new = {"event": event, **values}
        with self._changed:
            last = self._pending[-1] if self._pending else None
            same = last and last["event"] == event and last.get("id") == new.get("id")
            if last is not None and same and event == "token":
                last["text"] += new["text"]
                last["count"] += new["count"]
            elif last is not None and same and event in ("prefill", "memory", "loading"):
                last.update(new)
            else:
                self._pending.append(new)
            self._changed.notify()

    def close(self) -> None:
        """Write what waits, unless the parent does not read it."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(FLUSH_SECONDS)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                if not self._pending:
                    return
                event = self._pending.popleft()
            line = memoryview(json.dumps(event).encode() + b"\n")
            try:
                while line:
                    line = line[os.write(self._fd, line) :]
            except OSError:
                # The parent is gone. Its end of stdin closed with it, which ends the worker.
                return


class Worker:
    """The main loop: one request after the other, on the thread that calls `run`.

    `requests` and `events` are file descriptors.
    """

    def __init__(
        self,
        requests: int,
        events: int,
        load: Loader,
        memory: Callable[[], Memory],
    ):
        self._requests = requests
        self._load_model = load
        self._memory = memory
        self._out = Outbox(events)
        # SimpleQueue: `put` is reentrant, so a signal handler may use it.
        self._queue: SimpleQueue[Request] = SimpleQueue()
        self._cancelled: set[int] = set()
        self._stopping = False
        self._model: Model | None = None
        self._session: Any = None
        self._memory_due = 0.0

    def run(self) -> int:
        """Serve until quit, the end of the requests, or `terminate`; the exit status."""
        self._out.put("ready", version=__version__)
        threading.Thread(target=self._read, name="requests", daemon=True).start()
        try:
            while not self._stopping:
                match self._queue.get():
                    case Load() as request:
                        self._load(request)
                    case Generate() as request:
                        self._generate(request)
        except _Stop:
            log.info("stopped while loading")
        self._out.close()
        return 0

    def terminate(self) -> None:
        """Stop at the next token, prefill step or layer. From any thread or signal handler."""
        self._stopping = True
        self._queue.put(Quit())

    # The reading thread.

    def _read(self) -> None:
        for line in _lines(self._requests):
            raw: Any = None
            try:
                raw = json.loads(line)
                request = parse(raw)
            except (ValueError, RecursionError) as e:
                self._error(UsageError(f"a request is not JSON: {e}"))
                continue
            except UsageError as e:
                known = raw if isinstance(raw, dict) else {}
                self._error(e, op=known.get("op"), id=known.get("id"))
                continue
            if isinstance(request, Cancel):
                self._cancelled.add(request.id)
            elif isinstance(request, Quit):
                break
            else:
                self._queue.put(request)
        self.terminate()

    # The main thread.

    def _load(self, request: Load) -> None:
        self._model = self._session = None  # before the new one needs the room
        self._progress(0, 0)
        try:
            model = self._load_model(request.model, request.context, self._progress)
        except MaverickError as e:
            self._error(e, op="load")
            return
        except Exception as e:  # whatever it is, the parent shows it
            log.exception("load failed")
            self._error(_unexpected(e), op="load")
            return
        self._model = model
        self._out.put(
            "loaded",
            name=model.name,
            parameters=model.parameters,
            nbytes=model.nbytes,
            context=model.context,
            vision=model.config.vision is not None,
        )
        self._report_memory()

    def _progress(self, done: int, total: int) -> None:
        if self._stopping:
            raise _Stop
        self._out.put("loading", done=done, total=total)
        self._report_memory_if_due()

    def _generate(self, request: Generate) -> None:
        if self._model is None:
            self._error(UsageError("no model is loaded"), op="generate", id=request.id)
            return
        try:
            if self._should_stop(request.id):
                nothing = Stats(0, 0, 0, 0.0, 0.0, 0)
                self._report(request.id, Finished(FinishReason.CANCELLED, nothing))
                return
            if self._session is None:
                self._session = self._model.session()
            for event in self._model.stream(
                request.messages,
                session=self._session,
                sampling=request.sampling,
                should_stop=lambda: self._should_stop(request.id),
            ):
                if isinstance(event, Finished):
                    self._report_memory()
                self._report_memory_if_due()
                self._report(request.id, event)
        except MaverickError as e:
            self._error(e, op="generate", id=request.id)
        except Exception as e:  # one failed reply must not end the chat
            log.exception("generate failed")
            self._session = None  # nobody knows what it holds
            self._error(_unexpected(e), op="generate", id=request.id)
        finally:
            self._cancelled.discard(request.id)

    def _should_stop(self, id: int) -> bool:
        return self._stopping or id in self._cancelled

    def _report(self, id: int, event: Event) -> None:
        match event:
            case Prefill(done, total):
                self._out.put("prefill", id=id, done=done, total=total)
            case Token(text, _):
                self._out.put("token", id=id, text=text, count=1)
            case Finished(reason, stats):
                self._out.put("finished", id=id, reason=str(reason), stats=asdict(stats))

    def _report_memory_if_due(self) -> None:
        if time.monotonic() >= self._memory_due:
            self._report_memory()

    def _report_memory(self) -> None:
        self._memory_due = time.monotonic() + MEMORY_SECONDS
        kv = self._session.nbytes if self._session is not None else 0
        self._out.put("memory", **asdict(self._memory()), kv=kv)

    def _error(self, error: MaverickError, op: str | None = None, id: int | None = None) -> None:
        self._out.put(
            "error",
            op=op,
            id=id,
            kind=type(error).__name__,
            message=" ".join(str(error).split()),
            exit_code=error.exit_code,
        )


def _unexpected(e: Exception) -> MaverickError:
    return MaverickError(f"{type(e).__name__}: {e}" if str(e) else type(e).__name__)


def _lines(fd: int) -> Iterator[bytes]:
    """Lines of a descriptor until its end. Not a buffered file: a daemon thread that sleeps in
    one holds its lock, and the interpreter aborts at exit when it cannot take that."""
    rest = b""
    while data := os.read(fd, READ_SIZE):
        *lines, rest = (rest + data).split(b"\n")
        yield from (line for line in lines if line.strip())
    if rest.strip():
        yield rest


def _load(model: str, context: int | None, progress: Progress) -> Model:
    from . import maverick  # not before it is needed: this imports MLX

    return maverick.load(model, context=context, progress=progress)


def _mlx_memory() -> Memory:
    mx = sys.modules.get("mlx.core")
    if mx is None:  # nothing is loaded yet, and this is no reason to
        return Memory()
    return Memory(mx.get_active_memory(), mx.get_cache_memory(), mx.get_peak_memory())


def main(load: Loader = _load) -> int:
    """Take stdin and stdout for the protocol, and leave nothing else a way to touch them."""
    requests, events = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)  # what native code prints lands in the log
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    worker = Worker(requests, events, load, _mlx_memory)

    def terminate(signum: int, frame: FrameType | None) -> None:
        worker.terminate()

    # The terminal sends SIGINT to the whole group, and the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGHUP, terminate)
    return worker.run()


if __name__ == "__main__":
    sys.exit(main())
