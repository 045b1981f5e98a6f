"""Joins worker, conversation and store: what a person may do when, and what the events mean.

Knows nothing of widgets: it posts what `happened`. Everything belongs to the app's thread.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from textual.message import Message

from ..client import Died, Failed, Loaded, Loading, Memory, Step, Text, WorkerEvent
from ..errors import MaverickError
from ..events import Finished, FinishReason, Prefill
from . import happened
from .answer import Answer, Kind
from .conversation import Conversation, Draft, Node
from .keeper import Keeper
from .link import Connect, Engine, Link
from .live import Live, Phase
from .settings.settings import Settings

if TYPE_CHECKING:
    from ..memory import Reading

LIVE_SECONDS = 0.25  # the status line changes at most four times a second
PRESSURE_SECONDS = 1.0
BROKEN_OFF = "broken off"
NO_MODEL = "there is no model: ctrl+r loads it"
TELLING = 64  # tokens; how fast fewer are read says nothing


class Controller:
    """The chat without its looks. `bind` it to an app before the first `drain`."""

    def __init__(
        self,
        connect: Connect,
        settings: Settings,
        keeper: Keeper | None = None,
        read_memory: "Callable[[], Reading] | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`keeper`: what is said goes nowhere without one."""
        self.settings = settings
        self.conversation = Conversation(settings.system)
        self.keeper = keeper or Keeper(None)
        self.keeper.tell = lambda text: self._post(happened.Trouble(text))
        self.live = Live(phase=Phase.ENDED)
        self.model: Loaded | None = None
        self.queue: tuple[Draft, ...] = ()
        self._link = Link(connect, self._wake, self._keep)
        self._read_memory = read_memory
        self._clock = clock
        self._post: Callable[[Message], object] = lambda message: None
        self._bound = False
        self._answer: Answer | None = None  # the reply that is being written
        self._live_due = self._pressure_due = 0.0

    @property
    def phase(self) -> Phase:
        return self.live.phase

    @property
    def busy(self) -> bool:
        return self.phase in (Phase.LOADING, Phase.ANSWERING)

    @property
    def chat(self) -> int | None:
        """The number of this chat, once something of it is kept."""
        return self.keeper.chat

    @property
    def vision(self) -> bool | None:
        """Whether the model sees pictures; None while that is not known."""
        return None if self.model is None else self.model.vision

    # The model.

    def start(self) -> None:
        """Start a worker and load the model, in place of what there is."""
        settings, self.model = self.settings, None
        if settings.model is None:
            return
        model = settings.model

        def load(engine: Engine) -> None:
            engine.load(model, settings.context, settings.kv, settings.experts)

        self._link.start(load)
        self._set(phase=Phase.LOADING, loaded=0, to_load=0, model=0, kv=0, **_NO_SPEED)
        self._wake()

    def restart(self) -> None:
        """Load the model again; the conversation goes on."""
        if self.phase in (Phase.ENDED, Phase.READY):
            self.start()

    def change(self, settings: Settings) -> None:
        """Go on with other settings; the model is loaded again if they ask for that."""
        before, self.settings = self.settings, settings
        self.conversation.system = settings.system
        self.keeper.changed(settings.model or "", settings.system, settings.as_dict())
        if settings.reloads(before) or self.phase is Phase.ENDED:
            self._break_off(None)
            self.start()

    def close(self) -> bool:
        """End the worker; whether it has ended. What was said is kept, and what there is of a
        reply."""
        self.drain()
        if self._answer is not None and not self._answer.something:
            self._answer.kind = Kind.AGAIN  # the question stays
        self._break_off(None)
        if self.keeper.behind:
            self.keeper.shown(self.conversation)  # there may be room again
        self.keeper.close()
        return self._link.close()

    # Talking. What returns text says what is in the way, if anything is.

    def send(self, draft: Draft) -> str:
        """Ask for a reply, now or when the present one is there."""
        if self.phase is Phase.ENDED:
            return NO_MODEL
        if refusal := self._unseen(draft):
            return refusal
        if self.busy:
            self._queue(*self.queue, draft)
        else:
            self._ask(draft, self.conversation.leaf)
        return ""

    def edit(self, node: Node, draft: Draft) -> str:
        """Ask a question in other words; the first ones stay as another version."""
        if refusal := self._cannot_ask():
            return refusal
        if refusal := self._unseen(draft):
            return refusal
        self._ask(draft, self.conversation.parent(node))
        self._post(happened.PathChanged())
        return ""

    def regenerate(self, node: Node | None = None) -> str:
        """Ask for another reply in place of one, or of the last; or for the one that never
        came."""
        if refusal := self._cannot_ask():
            return refusal
        node = node or self.conversation.leaf
        question = self.conversation.parent(node) if node and node.role == "assistant" else node
        if question is None:
            return "there is nothing to answer yet"
        reply = self.conversation.add(Node("assistant", whole=False), question)
        self._begin(Answer(reply, Kind.AGAIN))
        self._post(happened.PathChanged())
        return ""

    def go_on(self, node: Node | None = None) -> str:
        """Go on with a reply that was cut off."""
        if refusal := self._cannot_ask():
            return refusal
        node = node or self.conversation.leaf
        if node is None or node.role != "assistant":
            return "there is no reply to go on with"
        if node.children:
            return "the conversation went on after this reply: r asks for another one"
        if not node.note:
            return "this reply is whole: ctrl+g asks for another one"
        self.conversation.show(node)
        self._begin(Answer.on(node))
        self._post(happened.PathChanged())
        return ""

    def turn(self, node: Node, by: int) -> str:
        """Show another version of a message."""
        if refusal := self._in_the_way():
            return refusal
        if (other := self.conversation.turn(node, by)) is None:
            return "there is no other version"
        self.keeper.shown(self.conversation)
        self._post(happened.PathChanged(other))
        return ""

    def take_back(self) -> Draft | None:
        """The last message that waits, which waits no more."""
        if not self.queue:
            return None
        *rest, last = self.queue
        self._queue(*rest)
        return last

    def stop(self) -> None:
        """Stop the reply; what there is of it stays. Or stop loading."""
        if self.phase is Phase.LOADING:
            self._link.end()
            self._set(phase=Phase.ENDED, model=0, kv=0, **_NO_SPEED)
            self._post(happened.LoadingStopped())
            self._return_queue()
        elif self._link.engine is not None and self._answer is not None:
            self._link.engine.cancel(self._answer.id)

    # Chats.

    def new_chat(self) -> str:
        """Begin another one."""
        if refusal := self._in_the_way():
            return refusal
        self.keeper.forget()
        self._show(Conversation(self.settings.system))
        return ""

    def open_chat(self, chat: int, settings: Settings | None = None) -> str:
        """Go on with one that was kept, with `settings`, or else with its own but the present
        model. Raises MaverickError if it cannot be read."""
        if refusal := self._in_the_way():
            return refusal
        stored, conversation = self.keeper.open(chat)
        if settings is None:
            theirs = Settings.of_dict(stored.settings)
            settings = replace(self.settings, system=stored.system, sampling=theirs.sampling)
        self.settings = settings
        conversation.system = settings.system
        self._show(conversation)
        return ""

    def forget(self, chat: int) -> None:
        """A chat was deleted; if it is this one, another begins."""
        if chat != self.keeper.chat:
            return
        self.keeper.forget()  # before what there is of a reply would bring it back
        if self.phase is Phase.ANSWERING:
            self.stop()
            self._break_off(None)
            self._set(phase=Phase.READY)
        self._show(Conversation(self.settings.system))

    # Between the worker and the app.

    def bind(self, post: Callable[[Message], object] | None) -> None:
        """Where messages go from now on; None for nowhere, when the app closes."""
        self._post = post or (lambda message: None)
        self._bound = post is not None
        self._wake()

    def _wake(self) -> None:
        if self._bound:
            self._post(happened.Wake())

    def _keep(self, event: Text) -> None:
        self.keeper.append(event.text, event.ids)

    def drain(self) -> None:
        """Handle what came. Call it at 20 Hz while `busy`, and after each Wake."""
        events = self._link.take()
        while events:
            self._handle(events.popleft())
        self._flush()
        now = self._clock()
        if now >= self._live_due:
            self._update(now)

    def _handle(self, event: WorkerEvent) -> None:
        id = self._answer.id if self._answer else None
        match event:
            case Loading(done, total):
                self.live = replace(self.live, loaded=done, to_load=total)
            case Loaded():
                self.model = event
                self._set(
                    phase=Phase.READY, model=event.nbytes, context=event.context, limit=event.limit
                )
                self._post(happened.ModelReady(event))
                self._next()
            case Memory():
                self.live = replace(
                    self.live, model=event.active, kv=event.kv, experts=event.experts
                )
            case Text() if event.id == id:
                self._text(event)
            case Step(event=Prefill(done, total)) if event.id == id:
                self._read(done, total)
            case Step(event=Finished() as finished) if event.id == id:
                self._finished(finished)
            case Failed(op="load"):
                self._lost(event.error())
            case Failed() if event.id is not None and event.id == id:
                self._failed(event.error())
            case Failed():
                self._post(happened.Trouble(event.message))
            case Died():
                self._lost(MaverickError(str(event)))

    # One reply.

    def _in_the_way(self) -> str:
        match self.phase:
            case Phase.LOADING:
                return "the model is still loading: esc stops that"
            case Phase.ANSWERING:
                return "esc stops this reply first"
        return ""

    def _cannot_ask(self) -> str:
        return NO_MODEL if self.phase is Phase.ENDED else self._in_the_way()

    def _unseen(self, draft: Draft) -> str:
        if draft.pictures and self.vision is False:
            return "this model sees no pictures: remove them first"
        gone = [picture.name for picture in draft.pictures if not picture.path.is_file()]
        return f"{gone[0]} is no file any more: remove it, or attach it again" if gone else ""

    def _ask(self, draft: Draft, parent: Node | None) -> None:
        question = self.conversation.add(Node("user", draft.text, draft.pictures), parent)
        reply = self.conversation.add(Node("assistant", whole=False), question)
        self._begin(Answer(reply, Kind.NEW))
        self._post(happened.Asked(question, reply))

    def _begin(self, answer: Answer) -> None:
        engine, settings = self._link.engine, self.settings
        assert engine is not None  # READY comes from an engine
        reply = answer.node
        above = self.conversation.parent(reply)
        assert above is not None  # a reply answers something
        self.keeper.asked(
            self.conversation, settings.model or "", settings.as_dict(), reply, answer.shortened
        )
        asked = self.conversation.messages(reply if answer.kind is Kind.ON else above)
        self._answer = answer
        answer.id = engine.generate(asked, settings.sampling)
        self._set(phase=Phase.ANSWERING, prefilled=0, prompt=0, **_NO_SPEED)
        self._wake()

    def _read(self, done: int, total: int) -> None:
        assert self._answer is not None
        self._answer.read(done, total, self._clock())
        self.live = replace(self.live, prefilled=done, prompt=total, context_used=done)

    def _text(self, event: Text) -> None:
        answer = self._answer
        assert answer is not None
        answer.add(event.text, event.ids, self._clock())
        used = self.live.prompt + answer.tokens
        self.live = replace(self.live, prefilled=self.live.prompt, context_used=used)

    def _finished(self, finished: Finished) -> None:
        answer, stats, note = self._answer, finished.stats, ""
        assert answer is not None
        used = stats.prompt_tokens + stats.new_tokens
        if finished.reason is FinishReason.CANCELLED:
            if not answer.something:
                self._return(None)
                return
            note = "stopped"
        elif finished.reason is FinishReason.MEMORY:
            note = f"cut off: {finished.problem}"
        elif finished.reason is FinishReason.LENGTH:
            full = self.live.context and used >= self.live.context
            note = "cut off: the context is full" if full else "cut off at --max-tokens"
        answer.node.stats = asdict(stats)
        self._end(note)
        computed = stats.prompt_tokens - stats.cached_tokens
        self._set(
            phase=Phase.READY, prompt=stats.prompt_tokens, prefilled=stats.prompt_tokens,
            context_used=used, tps=stats.decode_tps, tps_average=stats.decode_tps, eta=0.0,
            prefill_tps=stats.prefill_tps if computed >= TELLING else 0.0,
        )  # fmt: skip
        if finished.reason in (FinishReason.STOP, FinishReason.LENGTH):
            self._next()
        else:
            self._return_queue()

    def _failed(self, error: MaverickError) -> None:
        """The reply cannot go on: what there is of it stays, or the message goes back."""
        self._break_off(error)
        self._set(phase=Phase.READY, prompt=0, prefilled=0, **_NO_SPEED)
        self._return_queue()

    def _lost(self, error: MaverickError) -> None:
        """There is no worker any more."""
        self._break_off(None)
        self._link.end()
        self.model = None
        loading = self.phase is Phase.LOADING
        self._set(phase=Phase.ENDED, model=0, kv=0, **_NO_SPEED)
        self._return_queue()
        self._post(happened.ModelFailed(error, loading))

    def _break_off(self, error: MaverickError | None) -> None:
        if self._answer is not None:
            if self._answer.something:
                self._end(f"{BROKEN_OFF}: {error}" if error else BROKEN_OFF)
            else:
                self._return(error)

    def _end(self, note: str) -> None:
        """The reply stands as it is."""
        self._flush()
        answer, self._answer = self._answer, None
        assert answer is not None
        answer.node.note, answer.node.whole = note, True
        self.keeper.ended(self.conversation, answer.node)
        self._post(happened.ReplyEnded(answer.node))

    def _return(self, error: MaverickError | None) -> None:
        """Nothing came of a reply: all is as it was before it was asked for."""
        answer, self._answer = self._answer, None
        assert answer is not None
        reply = answer.node
        self._set(phase=Phase.READY, prompt=0, prefilled=0, **_NO_SPEED)
        if answer.kind is Kind.ON:
            reply.note, reply.whole = answer.note, True
            self.keeper.ended(self.conversation, reply)
        else:
            question = self.conversation.parent(reply)
            self._take_out(reply)
            if answer.kind is Kind.NEW and question is not None:
                self._take_out(question)
                self._post(happened.MessageReturned(question.draft, error))
                return
        self._post(happened.PathChanged())
        if error is not None:
            self._post(happened.Trouble(str(error)))

    def _take_out(self, node: Node) -> None:
        self.conversation.remove(node)
        self.keeper.discard(node)
        self.keeper.shown(self.conversation)

    def _queue(self, *drafts: Draft) -> None:
        self.queue = drafts
        self._set(queued=len(drafts))
        self._post(happened.QueueChanged(drafts))

    def _next(self) -> None:
        """What waits is sent now."""
        if self.queue:
            first, *rest = self.queue
            self._queue(*rest)
            if refusal := self.send(first):
                self._post(happened.MessageReturned(first, MaverickError(refusal)))

    def _return_queue(self) -> None:
        """What waits goes back to where it was written."""
        if self.queue:
            returned = sum(self.queue, Draft(""))
            self._queue()
            self._post(happened.MessageReturned(returned, None))

    # What is shown.

    def _show(self, conversation: Conversation) -> None:
        self.conversation = conversation
        used = _used(conversation)
        self._set(prompt=0, prefilled=0, context_used=used, kv=0, **_NO_SPEED)
        self._post(happened.PathChanged())

    def _flush(self) -> None:
        if self._answer is not None and (text := self._answer.take()):
            self._post(happened.ReplyGrew(text))

    def _set(self, **changes: Any) -> None:
        """A change that is shown at once."""
        self.live = replace(self.live, **changes)
        self._update(self._clock())

    def _update(self, now: float) -> None:
        if self._read_memory is not None and now >= self._pressure_due:
            self._pressure_due = now + PRESSURE_SECONDS
            self._look(self._read_memory)
        if self._answer is not None:
            self.live = replace(self.live, **_speeds(self._answer, now))
        if self.live.unsaved != self.keeper.unsaved:
            self.live = replace(self.live, unsaved=self.keeper.unsaved)
        self._live_due = now + LIVE_SECONDS
        self._post(happened.LiveChanged(self.live))

    def _look(self, read_memory: "Callable[[], Reading]") -> None:
        try:
            pressure = read_memory().pressure
        except (MaverickError, OSError):
            self.live = self.live.pressed("unknown")
            return
        self.live = self.live.pressed(pressure.name.lower())


def _speeds(answer: Answer, now: float) -> dict[str, Any]:
    said = {}
    if answer.reading is not None and answer.prompt >= TELLING:
        said = {"prefill_tps": answer.reading.average}
        said["eta"] = answer.reading.left(now, answer.prompt)
    if answer.writing is not None:
        said |= {"tps": answer.writing.recent(now), "tps_average": answer.writing.average}
    return said


def _used(conversation: Conversation) -> int:
    """Tokens of the context that a chat took after its last reply; 0 before there is one."""
    for node in reversed(conversation.path()):
        if node.stats is not None:
            return int(node.stats["prompt_tokens"] + node.stats["new_tokens"])
    return 0


_NO_SPEED: dict[str, Any] = {"tps": 0.0, "tps_average": 0.0, "prefill_tps": 0.0, "eta": 0.0}
