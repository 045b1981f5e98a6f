"""Joins the worker and the conversation: what a person may do when, and what the events mean.

Knows nothing of widgets: it posts the messages below. `deliver` is called on the client's
thread; everything else belongs to the app's.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from textual.message import Message

from ..client import Died, Failed, Loaded, Loading, Memory, Step, Text, WorkerEvent
from ..errors import MaverickError
from ..events import Finished, FinishReason, Prefill
from ..kv import KVOptions
from ..sampling import Sampling
from ..streaming.options import ExpertOptions
from .conversation import Conversation, Draft, Turn
from .live import Live, Phase

if TYPE_CHECKING:
    from ..memory import Reading

LIVE_SECONDS = 0.25  # the status line changes at most four times a second
PRESSURE_SECONDS = 1.0


class Engine(Protocol):
    """What the chat uses of `Client`; tests bring their own."""

    def load(
        self,
        model: str,
        context: int | None = None,
        kv: KVOptions | None = None,
        experts: ExpertOptions | None = None,
    ) -> None: ...
    def generate(self, messages: list[dict[str, Any]], sampling: Sampling) -> int: ...
    def cancel(self, id: int) -> None: ...
    def close(self) -> bool: ...


Connect = Callable[[Callable[[WorkerEvent], None]], Engine]


@dataclass(frozen=True)
class Options:
    """What the chat was started with."""

    model: str
    context: int | None = None
    system: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    kv: KVOptions = field(default_factory=KVOptions)
    experts: ExpertOptions = field(default_factory=ExpertOptions)


class Wake(Message):
    """Events wait, and nobody is draining them."""


@dataclass
class LiveChanged(Message):
    live: Live


@dataclass
class ModelReady(Message):
    model: Loaded


@dataclass
class ModelFailed(Message):
    """There is no model: it could not be loaded, or its process ended."""

    error: MaverickError


@dataclass
class ReplyGrew(Message):
    text: str


@dataclass
class ReplyEnded(Message):
    """The reply stands as it is; `note` says why it is not whole, and is empty if it is."""

    note: str


@dataclass
class MessageReturned(Message):
    """Nothing came of a message: it goes back to where it was written."""

    draft: Draft
    error: MaverickError | None  # None: the person stopped it


@dataclass
class Trouble(Message):
    """Something to tell that changes nothing."""

    text: str


class Controller:
    """The chat without its looks. `bind` it to an app before the first `drain`."""

    def __init__(
        self,
        connect: Connect,
        options: Options,
        read_memory: "Callable[[], Reading] | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.options = options
        self.conversation = Conversation(options.system)
        self.live = Live()
        self.vision: bool | None = None  # None: not known yet
        self._connect = connect
        self._read_memory = read_memory
        self._clock = clock
        self._post: Callable[[Message], object] = lambda message: None
        self._bound = False
        self._woken = False
        self._events: deque[WorkerEvent] = deque()
        self._engine: Engine | None = None
        self._id: int | None = None  # of the reply that is being written
        self._draft = Draft("")
        self._parts: list[str] = []
        self._fresh: list[str] = []  # not posted yet
        self._tokens = self._first_tokens = 0
        self._token_ids: list[int] = []
        self._first_time = self._live_due = self._pressure_due = 0.0

    @property
    def phase(self) -> Phase:
        return self.live.phase

    @property
    def busy(self) -> bool:
        return self.phase in (Phase.LOADING, Phase.ANSWERING)

    # What a person does.

    def start(self) -> None:
        """Start a worker and load the model. Raises OSError if no process can be started."""
        self._id = None
        self._set(phase=Phase.LOADING, loaded=0, to_load=0, model=0, kv=0, tps=0.0)
        self._engine = self._connect(self.deliver)
        asked = self.options
        self._engine.load(asked.model, asked.context, asked.kv, asked.experts)
        self._wake()

    def restart(self) -> None:
        """Start another worker after the last one ended; the conversation goes on."""
        if self.phase is not Phase.ENDED:
            return
        self.close()
        try:
            self.start()
        except OSError as e:
            self._lost(MaverickError(f"the model's process cannot be started: {e}"))

    def send(self, draft: Draft) -> str:
        """Ask for a reply. What is in the way, or the empty string if nothing is."""
        match self.phase:
            case Phase.LOADING:
                return "the model is still loading"
            case Phase.ANSWERING:
                return "esc stops this reply first"
            case Phase.ENDED:
                return "the model's process has ended: ctrl+r starts it again"
        if draft.pictures and self.vision is False:
            return "this model sees no pictures: remove them first"
        assert self._engine is not None  # READY comes from an engine
        self._draft, self._parts, self._fresh = draft, [], []
        self._tokens = self._first_tokens = 0
        self._token_ids = []
        self._id = self._engine.generate(self.conversation.messages(draft), self.options.sampling)
        self._set(phase=Phase.ANSWERING, prefilled=0, prompt=0, tps=0.0)
        self._wake()
        return ""

    def stop(self) -> None:
        """Stop the reply; what there is of it stays."""
        if self._engine is not None and self._id is not None:
            self._engine.cancel(self._id)

    def close(self) -> bool:
        """End the worker; whether it has ended."""
        engine, self._engine = self._engine, None
        return engine is None or engine.close()

    # From the worker to the app.

    def bind(self, post: Callable[[Message], object] | None) -> None:
        """Where messages go from now on; None for nowhere, when the app closes."""
        self._post = post or (lambda message: None)
        self._bound = post is not None
        self._wake()

    def deliver(self, event: WorkerEvent) -> None:
        """Take an event from any thread."""
        self._events.append(event)
        if not self._woken:
            self._wake()

    def _wake(self) -> None:
        if self._bound:
            self._woken = True
            self._post(Wake())

    def drain(self) -> None:
        """Handle what came. Call it at 20 Hz while `busy`, and after each Wake."""
        self._woken = False  # before the first look: an event that comes later wakes again
        while self._events:
            self._handle(self._events.popleft())
        self._flush()
        now = self._clock()
        if now >= self._live_due:
            self._update(now)

    def _handle(self, event: WorkerEvent) -> None:
        match event:
            case Loading(done, total):
                self.live = replace(self.live, loaded=done, to_load=total)
            case Loaded():
                self.vision = event.vision
                self._set(phase=Phase.READY, model=event.nbytes, context=event.context)
                self._post(ModelReady(event))
            case Memory():
                self.live = replace(
                    self.live, model=event.active, kv=event.kv, experts=event.experts
                )
            case Text(id=id) if id == self._id:
                self._text(event)
            case Step(id=id, event=Prefill(done, total)) if id == self._id:
                self.live = replace(self.live, prefilled=done, prompt=total, context_used=done)
            case Step(id=id, event=Finished() as finished) if id == self._id:
                self._finished(finished)
            case Failed(op="load"):
                self._lost(event.error())
            case Failed(id=id) if id is not None and id == self._id:
                self._failed(event.error())
            case Failed():
                self._post(Trouble(event.message))
            case Died():
                self._lost(MaverickError(str(event)))

    def _text(self, event: Text) -> None:
        if not self._parts:
            self._first_time, self._first_tokens = self._clock(), len(event.ids)
        self._parts.append(event.text)
        self._fresh.append(event.text)
        self._tokens += len(event.ids)
        self._token_ids += event.ids
        seconds = self._clock() - self._first_time
        tps = (self._tokens - self._first_tokens) / seconds if seconds > 0 else 0.0
        used = self.live.prompt + self._tokens
        self.live = replace(self.live, prefilled=self.live.prompt, tps=tps, context_used=used)

    def _finished(self, finished: Finished) -> None:
        stats, note = finished.stats, ""
        if finished.reason is FinishReason.CANCELLED:
            if not "".join(self._parts):
                self._return(None)
                return
            note = "stopped"
        elif finished.reason is FinishReason.MEMORY:
            note = f"cut off: {finished.problem}"
        elif finished.reason is FinishReason.LENGTH:
            used = stats.prompt_tokens + stats.new_tokens
            full = self.live.context and used >= self.live.context
            note = "cut off: the context is full" if full else "cut off at --max-tokens"
        self._end(note)
        self._set(
            phase=Phase.READY,
            prompt=stats.prompt_tokens,
            prefilled=stats.prompt_tokens,
            context_used=stats.prompt_tokens + stats.new_tokens,
            tps=stats.decode_tps,
        )

    def _failed(self, error: MaverickError) -> None:
        """The reply cannot go on: what there is of it stays, or the message goes back."""
        if "".join(self._parts):
            self._end(f"broken off: {error}")
            self._set(phase=Phase.READY)
        else:
            self._return(error)

    def _return(self, error: MaverickError | None) -> None:
        self._id = None
        self._set(phase=Phase.READY, prompt=0, prefilled=0, tps=0.0)
        self._post(MessageReturned(self._draft, error))

    def _end(self, note: str) -> None:
        self._flush()
        self._id = None
        self.conversation.turns.append(
            Turn(self._draft, "".join(self._parts), tuple(self._token_ids))
        )
        self._post(ReplyEnded(note))

    def _lost(self, error: MaverickError) -> None:
        if self._id is not None:
            if "".join(self._parts):
                self._end("broken off")
            else:
                self._return(None)
        self._set(phase=Phase.ENDED, model=0, kv=0, tps=0.0)
        self._post(ModelFailed(error))

    def _flush(self) -> None:
        if text := "".join(self._fresh):
            self._post(ReplyGrew(text))
        self._fresh = []

    def _set(self, **changes: Any) -> None:
        """A change that is shown at once."""
        self.live = replace(self.live, **changes)
        self._update(self._clock())

    def _update(self, now: float) -> None:
        if self._read_memory is not None and now >= self._pressure_due:
            self._pressure_due = now + PRESSURE_SECONDS
            try:
                pressure = self._read_memory().pressure.name.lower()
            except (MaverickError, OSError):
                pressure = "unknown"
            self.live = replace(self.live, pressure=pressure)
        self._live_due = now + LIVE_SECONDS
        self._post(LiveChanged(self.live))
