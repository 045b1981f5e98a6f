"""The engine as a child process: requests come in and events go out, one JSON object a line.

Knows nothing of terminals and widgets; `client` is the other end. The main thread takes one
request after the other, while the engine's thread computes. A second thread reads requests, so
that a cancel counts at once; a third writes events, so that a slow reader never holds up a
token; a fourth waits for signals.

`protocol` says what the lines are.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from queue import SimpleQueue
from typing import Any, Protocol

from . import __version__
from .errors import MaverickError, UsageError
from .events import Event, Finished, FinishReason, Prefill, Stats, Token
from .protocol import Cancel, Generate, Load, Outbox, Quit, Request, lines, parse
from .sampling import Sampling
from .streaming.stats import ExpertStats

log = logging.getLogger(__name__)

MEMORY_SECONDS = 0.5  # between two memory events while generating
ENDING = (signal.SIGTERM, signal.SIGHUP)


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
    def vision(self) -> bool: ...
    @property
    def memory_limit(self) -> int: ...
    @property
    def experts(self) -> ExpertStats | None: ...

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
Loader = Callable[[Load, Progress], Model]


@dataclass(frozen=True)
class Memory:
    """MLX's view, in bytes."""

    active: int = 0
    cache: int = 0
    peak: int = 0


class _Stop(BaseException):
    """Leaves a load, out of its progress callback."""


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
        self._queue: SimpleQueue[Request] = SimpleQueue()
        self._cancelled: set[int] = set()
        self._stopping = False
        self._model: Model | None = None
        self._session: Any = None
        self._experts: ExpertStats | None = None  # what was done before this reply
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
        """Stop at the next token, prefill step or layer. From any thread."""
        self._stopping = True
        self._queue.put(Quit())

    # The reading thread.

    def _read(self) -> None:
        for line in lines(self._requests):
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
        self._model = self._session = self._experts = None  # before the new one needs the room
        self._progress(0, 0)
        try:
            model = self._load_model(request, self._progress)
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
            vision=model.vision,
            limit=model.memory_limit,
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
            self._experts = self._model.experts
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
            case Token(text, token):
                self._out.put("token", id=id, text=text, ids=[] if token is None else [token])
            case Finished(reason, stats, _, problem):
                said = {"reason": str(reason), "stats": asdict(stats), "problem": problem}
                self._out.put("finished", id=id, **said)

    def _report_memory_if_due(self) -> None:
        if time.monotonic() >= self._memory_due:
            self._report_memory()

    def _report_memory(self) -> None:
        self._memory_due = time.monotonic() + MEMORY_SECONDS
        kv = self._session.nbytes if self._session is not None else 0
        now, before = self._model.experts if self._model else None, self._experts
        experts = asdict(now.since(before) if before else now) if now else None
        self._out.put("memory", **asdict(self._memory()), kv=kv, experts=experts)

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


def _load(request: Load, progress: Progress) -> Model:
    from .loading import Unread  # not before it is needed: this imports MLX

    unread = Unread.open(request.model, request.context, kv=request.kv, experts=request.experts)
    return unread.load(progress)


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
    # The terminal sends SIGINT to the whole group, and the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not handlers: Python runs those in the main thread only, and a signal that arrives just
    # before that thread goes to sleep in `get` would wait until something else wakes it. Before
    # there are other threads, which take this over.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    worker = Worker(requests, events, load, _mlx_memory)

    def terminate() -> None:
        signal.sigwait(ENDING)
        worker.terminate()

    threading.Thread(target=terminate, name="signals", daemon=True).start()
    return worker.run()


if __name__ == "__main__":
    sys.exit(main())
