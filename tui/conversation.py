"""What was said: drafts, pictures and turns, and how they become messages for the model.

Knows nothing of widgets and of the worker.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Picture:
    """A picture file that was looked at: pixels and bytes."""

    path: Path
    width: int
    height: int
    nbytes: int


@dataclass(frozen=True)
class Draft:
    """What a person is about to send, or sent."""

    text: str
    pictures: tuple[Picture, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.text.strip() or self.pictures)

    def message(self) -> dict[str, Any]:
        """As a message of the model's; pictures come before the text, as in its training."""
        if not self.pictures:
            return {"role": "user", "content": self.text}
        content: list[dict[str, str]] = [
            {"type": "image", "image": str(p.path)} for p in self.pictures
        ]
        if self.text:
            content.append({"type": "text", "text": self.text})
        return {"role": "user", "content": content}


@dataclass(frozen=True)
class Turn:
    """A message and its reply, exactly as the model wrote it, and in the model's own tokens."""

    draft: Draft
    reply: str
    ids: tuple[int, ...] = ()


@dataclass
class Conversation:
    """The turns so far, and the system prompt above them."""

    system: str | None = None
    turns: list[Turn] = field(default_factory=list)

    def messages(self, draft: Draft) -> list[dict[str, Any]]:
        """Everything said, and `draft` as the newest message."""
        said: list[dict[str, Any]] = []
        if self.system:
            said.append({"role": "system", "content": self.system})
        for turn in self.turns:
            said.append(turn.draft.message())
            answer: dict[str, Any] = {"role": "assistant", "content": turn.reply}
            if turn.ids:
                answer["token_ids"] = list(turn.ids)
            said.append(answer)
        return [*said, draft.message()]
