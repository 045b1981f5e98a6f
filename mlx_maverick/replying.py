"""One reply: what the engine samples, as text; tool calls, limits and the guard on the way.

Knows nothing of threads or terminals: whoever iterates has to be on the engine's thread.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from . import engine, engine_thread, grammar
from .choosing import Chooser
from .events import Event, Finished, FinishReason, Likely, Token
from .grammar import JsonSchema
from .guard import Guard
from .prompt import Encoded
from .sampling import Sampling
from .session import PictureFeatures, Session
from .textstream import TextStream
from .tools.watch import Watch

if TYPE_CHECKING:
    from .maverick import Maverick
    from .sampling import LogitsProcessor, Sampler
    from .streaming.streams import Streams

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What is asked of one reply."""

    sampling: Sampling
    tools: tuple[str, ...] = ()  # names of functions it may call
    schema: JsonSchema | None = None
    sampler: "Sampler | None" = None
    processors: "tuple[LogitsProcessor, ...]" = ()


def events(
    model: "Maverick",
    prompt: Encoded,
    session: Session,
    request: Request,
    should_stop: Callable[[], bool],
) -> Iterator[Event]:
    """The events of the reply to `prompt`."""
    sampling = request.sampling
    text = TextStream(model.prompt.detokenizer(), sampling.stop, prompt.begun)
    calls = Watch(request.tools) if request.tools else None
    chooser = Chooser(
        sampling,
        prompt.ids,
        model.config.text.vocab_size,
        sampler=request.sampler,
        processors=request.processors,
        constraint=grammar.constraint(request.schema, model.prompt) if request.schema else None,
    )

    guard = Guard(shed=model.shed)

    def interrupt() -> FinishReason | None:
        if text.stopped:
            return FinishReason.STOP
        if should_stop():
            return FinishReason.CANCELLED
        return FinishReason.MEMORY if guard.check() else None

    most = len(prompt.ids) + (sampling.max_tokens or 0)
    model.make_room(session, min(most, model.context))
    turn = session.begin(prompt)
    try:
        for event in engine.generate(
            model.model,
            session.cache,
            prompt.ids,
            sampling=sampling,
            context=model.context,
            stop_ids=model.prompt.stop_ids,
            features=PictureFeatures(model.model, prompt, model.pictures),
            interrupt=interrupt,
            chooser=chooser,
        ):
            if isinstance(event, engine.Sampled):
                session.append(event.id)
                if not event.stop:
                    piece = text.add(event.id)
                    piece = calls.add(piece) if calls else piece
                    yield _token(model, event, piece)
            elif isinstance(event, Finished):
                if event.reason is FinishReason.MEMORY:
                    event = replace(event, problem=guard.why)
                yield from _end(event, text, calls)
            else:  # a step of the prompt, and the pictures in it, are in the cache
                model.forget_pictures()
                yield event
            session.check(turn)
    finally:
        model.forget_pictures()  # also when the caller stops listening
        if (streams := model.model.streams) is not None:
            if engine_thread.is_here():
                _keep_noted(streams)
            elif not engine_thread.ending():  # in a process that ends, what computes would abort
                # This thread only drops the reply; another may be computed meanwhile.
                engine_thread.submit(_keep_noted, streams)


def _keep_noted(streams: "Streams") -> None:
    """Nobody waits for it, and the reply is there all the same."""
    try:
        streams.save()
    except Exception as e:  # noqa: BLE001 - said, and to whom else?
        log.warning("what streaming noted is not kept: %s", e)


def _token(model: "Maverick", sampled: engine.Sampled, text: str) -> Token:
    likely = tuple(
        Likely(id, model.prompt.tokenizer.decode([id]), logprob) for id, logprob in sampled.top
    )
    return Token(text, sampled.id, sampled.logprob, likely)


def _end(event: Finished, text: TextStream, calls: Watch | None) -> Iterator[Event]:
    """What was held back, and the last event."""
    rest = text.finish()
    if text.stopped and event.reason is FinishReason.LENGTH:
        event = replace(event, reason=FinishReason.STOP)  # its end was held back
    if calls is None:
        if rest:
            yield Token(rest, None)
        yield event
        return
    parsed = calls.finish(rest)
    if parsed.text:
        yield Token(parsed.text, None)
    reason = event.reason
    if parsed.calls and reason is FinishReason.STOP:
        reason = FinishReason.TOOL_CALLS
    yield replace(
        event, reason=reason, tool_calls=parsed.calls, problem=event.problem or parsed.problem
    )
