"""A conversation in Python: messages that grow, and the KV cache they share.

Knows nothing of terminals.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .events import Event, Prefill, Reply, Token, collect
from .image_source import Source
from .images import Picture, load_picture
from .sampling import Sampling

if TYPE_CHECKING:
    from .maverick import Maverick


class Chat:
    """Made by `Maverick.chat()`; only what is new in a turn is computed."""

    def __init__(self, model: "Maverick", system: str | None, sampling: Sampling):
        self.model, self.sampling = model, sampling
        self.session = model.session()
        self.messages: list[dict[str, Any]] = []
        if system:
            self.messages.append({"role": "system", "content": system})

    def send(self, text: str, images: Sequence[Source | Picture] = ()) -> Reply:
        """One turn: the whole answer. Raises UsageError, NotFound or BadImage for a message
        that cannot be answered; the conversation is then as before."""
        return collect(self.stream(text, images))

    def stream(
        self,
        text: str,
        images: Sequence[Source | Picture] = (),
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """One turn as events. A turn that is cut short keeps the answer so far."""
        pictures = [load_picture(image, self.model.config) for image in images]
        parts = [{"type": "image", "image": picture} for picture in pictures]
        question: dict[str, Any] = {"role": "user", "content": text}
        if parts:
            question["content"] = [*parts, {"type": "text", "text": text}]
        events = self.model.stream(
            [*self.messages, question],
            session=self.session,
            sampling=self.sampling,
            should_stop=should_stop,
        )
        return self._turn(question, events)

    def _turn(self, question: dict[str, Any], events: Iterator[Event]) -> Iterator[Event]:
        answer = {"role": "assistant", "content": ""}
        accepted = False
        for event in events:
            # The first event only says what the cache holds; with the next, work was done.
            if not accepted and not (isinstance(event, Prefill) and event.done < event.total):
                self.messages += [question, answer]
                accepted = True
            if isinstance(event, Token):
                answer["content"] += event.text
            yield event

    def rewind(self, turns: int = 1) -> None:
        """Take back the last `turns` questions with their answers. The cache follows with
        the next turn. Raises UsageError if there are fewer."""
        kept = [m for m in self.messages if m["role"] == "system"]
        rest = self.messages[len(kept) :]
        if not 0 <= turns * 2 <= len(rest):
            raise UsageError(f"cannot take back {turns} turns of {len(rest) // 2}")
        self.messages = kept + rest[: len(rest) - 2 * turns]
