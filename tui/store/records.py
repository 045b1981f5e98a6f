"""What the store gives back: chats, messages, rows of the list.

Knows nothing of how they are kept.
"""

from dataclasses import dataclass
from typing import Any, Literal

from ...cli.terminal import printable
from ..conversation import Picture

Role = Literal["user", "assistant"]
Marks = tuple[tuple[int, int], ...]  # (start, end) of each hit in a text

TITLE = 80  # characters


@dataclass(frozen=True)
class StoredMessage:
    """One message. `parent` is the message it answers, None for a first one. While `whole` is
    false a living process still writes it, and `text` is what has come so far."""

    id: int
    parent: int | None
    role: Role
    text: str
    pictures: tuple[Picture, ...]
    ids: tuple[int, ...]  # tokens of the model's
    note: str
    whole: bool
    stats: dict[str, Any] | None
    created: float  # seconds since 1970


@dataclass(frozen=True)
class StoredChat:
    """A chat with the tree of its messages, parents first. `leaf` ends the branch that is shown."""

    id: int
    title: str
    model: str
    system: str | None
    settings: dict[str, Any]
    leaf: int | None
    created: float
    messages: tuple[StoredMessage, ...]

    def path(self) -> tuple[StoredMessage, ...]:
        """The branch that is shown, from the first message to the leaf."""
        by_id = {message.id: message for message in self.messages}
        branch = []
        at = self.leaf
        while at is not None:
            branch.append(by_id[at])
            at = by_id[at].parent
        return tuple(reversed(branch))


@dataclass(frozen=True)
class ChatRow:
    """A chat in the list. The texts are one line each and printable; `count` is of all messages,
    `updated` in seconds since 1970. Without a query there is no snippet."""

    id: int
    title: str
    model: str
    updated: float
    count: int
    snippet: str = ""
    hits: Marks = ()  # in the snippet
    title_hits: Marks = ()


def one_line(text: str) -> str:
    """`text` harmless and without line ends; runs of space are one."""
    return printable(" ".join(text.split()))


def title_of(text: str) -> str:
    """The first line that says something, cut."""
    line = next((made for made in map(one_line, text.splitlines()) if made), "")
    return line if len(line) <= TITLE else f"{line[: TITLE - 1].rstrip()}…"
