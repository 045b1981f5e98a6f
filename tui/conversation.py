"""What was said: a tree of questions and replies, and how a path through it becomes messages
for the model.

Knows nothing of widgets, of the worker and of files. Nothing is ever overwritten: another
reply to a question, or a question asked in other words, is a sibling of the first.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Role = Literal["user", "assistant"]
# What a token that ended in the middle of a character left behind.
HALF = "\ufffd"


@dataclass(frozen=True)
class Picture:
    """A picture file that was looked at: pixels and bytes."""

    path: Path
    width: int
    height: int
    nbytes: int
    called: str = field(default="", compare=False)  # its name, where the path is a copy's

    @property
    def name(self) -> str:
        return self.called or self.path.name


@dataclass(frozen=True)
class Draft:
    """What a person is about to send, or sent."""

    text: str
    pictures: tuple[Picture, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.text.strip() or self.pictures)

    def __add__(self, other: "Draft") -> "Draft":
        """Both, one below the other."""
        text = "\n".join(filter(None, (self.text, other.text)))
        return Draft(text, self.pictures + other.pictures)


@dataclass(eq=False)
class Node:
    """One message. A reply's `text` and `ids` are exactly what the model sampled."""

    role: Role
    text: str = ""
    pictures: tuple[Picture, ...] = ()
    ids: list[int] = field(default_factory=list)
    note: str = ""  # why it is not whole
    whole: bool = True  # nothing is going to come any more
    stats: dict[str, Any] | None = None
    created: float = field(default_factory=time.time)  # seconds since 1970
    key: int | None = None  # its row in the store
    parent: "Node | None" = None
    children: "list[Node]" = field(default_factory=list)
    shown: "Node | None" = None  # the child that the path goes on with
    before: "Node | None" = None  # the sibling that was shown when it was added

    @property
    def draft(self) -> Draft:
        return Draft(self.text, self.pictures)

    def message(self) -> dict[str, Any]:
        """As a message of the model's; pictures come before the text, as in its training."""
        if self.role == "assistant":
            answer: dict[str, Any] = {"role": "assistant", "content": self.text}
            return {**answer, "token_ids": list(self.ids)} if self.ids else answer
        if not self.pictures:
            return {"role": "user", "content": self.text}
        content: list[dict[str, str]] = [
            {"type": "image", "image": str(p.path)} for p in self.pictures
        ]
        if self.text:
            content.append({"type": "text", "text": self.text})
        return {"role": "user", "content": content}


class Conversation:
    """The tree, the path through it that is shown, and the system prompt above it."""

    def __init__(self, system: str | None = None):
        self.system = system
        self._top = Node("user")  # above the first messages; none itself

    def __bool__(self) -> bool:
        return bool(self._top.children)

    @property
    def leaf(self) -> Node | None:
        """The last message of the path."""
        node = self._top
        while node.shown is not None:
            node = node.shown
        return None if node is self._top else node

    def path(self) -> list[Node]:
        """What is shown, from the first message on."""
        path, node = [], self._top.shown
        while node is not None:
            path.append(node)
            node = node.shown
        return path

    def nodes(self) -> Iterator[Node]:
        """All, each after its parent."""
        waiting = [*self._top.children]
        while waiting:
            node = waiting.pop(0)
            yield node
            waiting += node.children

    def parent(self, node: Node) -> Node | None:
        """The message before it, or None for a first one."""
        return None if node.parent is self._top else node.parent

    def add(self, node: Node, parent: Node | None) -> Node:
        """Put a message below another one, or first, and show it."""
        node.parent = parent or self._top
        node.before = node.parent.shown
        node.parent.children.append(node)
        self.show(node)
        return node

    def remove(self, node: Node) -> None:
        """Take a message without children back; what was shown before it is shown instead."""
        above = node.parent
        if above is None or node.children:
            raise ValueError("only a message that nothing follows can be taken back")
        above.children.remove(node)
        if above.shown is node:
            last = above.children[-1] if above.children else None
            above.shown = node.before if node.before in above.children else last
        node.parent = None

    def show(self, node: Node) -> None:
        """Let the path go through a message, and on below it as it was."""
        while node.parent is not None:
            node.parent.shown = node
            node = node.parent

    def version(self, node: Node) -> tuple[int, int]:
        """Which one of how many that stand in the same place, from 1."""
        siblings = self._siblings(node)
        return siblings.index(node) + 1, len(siblings)

    def turn(self, node: Node, by: int) -> Node | None:
        """Show the version so many places on, if there is one."""
        siblings = self._siblings(node)
        at = siblings.index(node) + by
        if not 0 <= at < len(siblings):
            return None
        self.show(siblings[at])
        return siblings[at]

    def messages(self, last: Node) -> list[dict[str, Any]]:
        """All from the system prompt to a message. A reply at the end is one to go on with."""
        said: list[dict[str, Any]] = []
        node: Node | None = last
        while node is not None and node is not self._top:
            said.append(node.message())
            node = node.parent
        if self.system:
            said.append({"role": "system", "content": self.system})
        said.reverse()
        if last.role == "assistant":
            said[-1]["partial"] = True
        return said

    def _siblings(self, node: Node) -> list[Node]:
        return [node] if node.parent is None else node.parent.children
