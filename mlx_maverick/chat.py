"""A conversation in Python: messages that grow, and the KV cache they share.

Knows nothing of terminals.
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from . import chat_file
from .errors import UsageError
from .events import Event, Finished, FinishReason, Prefill, Reply, Token, collect
from .image_source import Source
from .images import Picture, listed, load_picture
from .sampling import Sampling
from .session import Session
from .stream import Stream
from .tools.definitions import definitions

if TYPE_CHECKING:
    from .maverick import Maverick, Options, TurnOptions

Message = dict[str, Any]
# Options of a turn that are none of sampling.
BESIDES = ("json_schema", "sampler", "logits_processors", "should_stop")


class Chat:
    """Made by `Maverick.chat()`; only what is new in a turn is computed.

    Options given with a turn (`TurnOptions`) count for that turn, in place of the chat's own.

    `messages` may be read and changed between turns. An answer carries the `token_ids` that
    were sampled, which stand for its `content` as long as that is what they say.
    """

    def __init__(
        self, model: "Maverick", system: str | None, sampling: Sampling, tools: Sequence[Any] = ()
    ):
        if not isinstance(system, str | None):
            raise UsageError(f"the system prompt is not text but {type(system).__name__}")
        definitions(tools)  # raises UsageError
        self.model, self.sampling, self.tools = model, sampling, tuple(tools)
        self.session: Session = model.session()
        self.messages: list[Message] = []
        if system:
            self.messages.append({"role": "system", "content": system})

    @property
    def turns(self) -> int:
        """Questions asked so far."""
        return len(self._questions())

    def send(
        self,
        text: str,
        images: Sequence[Source | Picture] = (),
        **options: "Unpack[TurnOptions]",
    ) -> Reply:
        """One turn: the whole answer. Raises UsageError, NotFound or BadImage for a message
        that cannot be answered; the conversation is then as before."""
        return collect(self.stream(text, images, **options))

    def stream(
        self,
        text: str,
        images: Sequence[Source | Picture] = (),
        **options: "Unpack[TurnOptions]",
    ) -> Stream:
        """One turn as events. A turn that is cut short keeps the answer so far; one without
        any leaves the conversation as it was."""
        return self._ask(self.messages, [self._question(text, images)], options)

    def send_results(self, *results: Any, **options: "Unpack[TurnOptions]") -> Reply:
        """The answer to what the functions gave that the last reply called, in its order:
        strings, or anything that JSON can say. Raises UsageError if there are not as many."""
        return collect(self.stream_results(*results, **options))

    def stream_results(self, *results: Any, **options: "Unpack[TurnOptions]") -> Stream:
        """The same as events."""
        calls = self.messages[-1].get("tool_calls", ()) if self.messages else ()
        if len(results) != len(calls) or not calls:
            raise UsageError(f"{len(results)} results for {len(calls)} tool calls")
        new = [
            {"role": "tool", "content": result, "tool_call_id": call["id"]}
            for result, call in zip(results, calls, strict=True)
        ]
        return self._ask(self.messages, new, options)

    def regenerate(self, **options: "Unpack[TurnOptions]") -> Reply:
        """Another answer to the last question. Raises UsageError if there is none."""
        return collect(self.stream_regenerate(**options))

    def stream_regenerate(self, **options: "Unpack[TurnOptions]") -> Stream:
        """The same as events; the old answer stays until there is something of the new one."""
        at = self._at(-1)
        return self._ask(self.messages[:at], [self.messages[at]], options)

    def edit(
        self,
        text: str,
        turn: int = -1,
        images: Sequence[Source | Picture] | None = None,
        **options: "Unpack[TurnOptions]",
    ) -> Reply:
        """Ask the question of a turn (0 is the first, -1 the last) in other words, with its
        pictures or other ones; what came after it is dropped. Raises as `send`."""
        return collect(self.stream_edit(text, turn, images, **options))

    def stream_edit(
        self,
        text: str,
        turn: int = -1,
        images: Sequence[Source | Picture] | None = None,
        **options: "Unpack[TurnOptions]",
    ) -> Stream:
        """The same as events."""
        at = self._at(turn)
        question = self._question(text, images)
        if images is None:
            content = self.messages[at]["content"]
            parts = content if isinstance(content, list) else []
            if shown := [part for part in parts if part["type"] != "text"]:
                question["content"] = [*shown, {"type": "text", "text": text}]
        return self._ask(self.messages[:at], [question], options)

    def fork(self) -> "Chat":
        """A copy of the conversation that goes its own way, without computing anything."""
        other = copy.copy(self)
        # A reply on its way goes on writing its message.
        other.session, other.messages = self.session.fork(), [_copied(m) for m in self.messages]
        return other

    def rewind(self, turns: int = 1) -> None:
        """Take back the last `turns` questions with their answers. The cache follows with
        the next turn. Raises UsageError if there are fewer."""
        _check_whole("turns", turns)
        if not 0 <= turns <= self.turns:
            raise UsageError(f"cannot take back {turns} turns of {self.turns}")
        if turns:
            self.messages = self.messages[: self._at(-turns)]

    def save(self, path: str | Path) -> None:
        """Write the conversation with its KV cache and pictures to a file, from which
        `Maverick.load_chat` goes on without computing it again. Raises MaverickError if it
        cannot be written; an older file of that name is then as it was."""
        notes, arrays = chat_file.pack(self.messages, self.sampling, self.tools)
        self.session.save(path, notes, arrays)

    @staticmethod
    def load(model: "Maverick", path: str | Path, **options: "Unpack[Options]") -> "Chat":
        """See `Maverick.load_chat`."""
        session = model.session()
        stored = session.load(path)
        messages, sampling, tools = chat_file.unpack(stored.notes, stored.arrays, str(path))
        chat = Chat(model, None, sampling.changed(options), tools)
        chat.session, chat.messages = session, messages
        return chat

    def _question(self, text: str, images: Sequence[Source | Picture] | None) -> Message:
        pictures = [load_picture(image, self.model.config) for image in listed(images)]
        if not pictures:
            return {"role": "user", "content": text}
        parts = [{"type": "image", "image": picture} for picture in pictures]
        return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}

    def _questions(self) -> list[int]:
        return [i for i, message in enumerate(self.messages) if message["role"] == "user"]

    def _at(self, turn: int) -> int:
        """Where in the messages a turn begins."""
        _check_whole("turn", turn)
        questions = self._questions()
        if not -len(questions) <= turn < len(questions):
            raise UsageError(f"there is no turn {turn}: {len(questions)} questions were asked")
        return questions[turn]

    def _ask(self, before: list[Message], new: list[Message], options: "TurnOptions") -> Stream:
        single: dict[str, Any] = {**options}
        other: Any = {name: single.pop(name) for name in BESIDES if name in single}
        sampling = self.sampling.changed(single)
        prompt = self.model.encode([*before, *new], tools=self.tools)
        stream = self.model.stream_encoded(
            prompt, session=self.session, sampling=sampling, tools=self.tools, **other
        )
        was = list(self.messages)
        return stream.watched(lambda events: self._turn(was, [*before, *new], events))

    def _turn(
        self, was: list[Message], messages: list[Message], events: Iterator[Event]
    ) -> Iterator[Event]:
        """The events of a turn after which `messages` take the place of what `was` there."""
        answer: Message = {"role": "assistant", "content": "", "token_ids": []}
        accepted = False
        for event in events:
            if not accepted and self.messages != was:
                raise UsageError(
                    "the conversation has changed since this turn was asked for; ask again"
                )
            if not accepted and _answers(event):
                self.messages = [*messages, answer]
                accepted = True
            if isinstance(event, Token):
                answer["content"] += event.text
                if event.id is not None:
                    answer["token_ids"].append(event.id)
            elif isinstance(event, Finished) and event.tool_calls:
                answer["tool_calls"] = [call.as_openai() for call in event.tool_calls]
            yield event


def _answers(event: Event) -> bool:
    """Whether there is something of the answer, which may be that it is empty."""
    if isinstance(event, Finished):
        return event.reason not in (FinishReason.CANCELLED, FinishReason.MEMORY)
    return not isinstance(event, Prefill)


def _copied(message: Message) -> Message:
    """Another message that says the same; its lists are others too, its pictures are not."""
    return {k: list(v) if isinstance(v, list) else v for k, v in message.items()}


def _check_whole(name: str, value: object) -> None:
    if not isinstance(value, int):
        raise UsageError(f"{name} {value!r} is not a whole number")
