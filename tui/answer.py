"""A reply that is on its way: its text so far, and how fast it comes.

Knows nothing of the worker and of widgets. Times are of any clock, in seconds.
"""

from dataclasses import dataclass, field
from enum import Enum

from .conversation import HALF, Node
from .rates import Rate


class Kind(Enum):
    """What a reply answers."""

    NEW = "new"  # a message that was just sent
    AGAIN = "again"  # one that has a reply already
    ON = "on"  # nothing: it goes on with what is there of it


@dataclass
class Answer:
    """One reply. `node` grows with it."""

    node: Node
    kind: Kind
    id: int = 0
    fresh: list[str] = field(default_factory=list)  # not shown yet
    tokens: int = 0  # that came now
    before: str = ""  # the text that it goes on with
    shortened: bool = False  # which was longer
    note: str = ""  # of what it goes on with
    prompt: int = 0
    reading: Rate | None = None  # of tokens of the prompt
    writing: Rate | None = None  # of new ones

    @staticmethod
    def on(node: Node) -> "Answer":
        """To go on with a reply."""
        text = node.text
        node.text = text.rstrip(HALF)  # the rest of that character comes now
        answer = Answer(
            node, Kind.ON, before=node.text, shortened=node.text != text, note=node.note
        )
        node.note, node.whole = "", False
        return answer

    @property
    def something(self) -> bool:
        """Whether any text came."""
        return any(self.fresh) or len(self.node.text) > len(self.before)

    def read(self, done: int, total: int, now: float) -> None:
        """So many tokens of the prompt are in the KV cache."""
        self.prompt = total
        if self.reading is None:
            self.reading = Rate(now, done)
        self.reading.add(now, done)

    def add(self, text: str, ids: list[int], now: float) -> None:
        """Text and tokens came; the text is the node's with `take`."""
        self.node.ids += ids
        self.fresh.append(text)
        self.tokens += len(ids)
        if self.writing is None:
            self.writing = Rate(now, self.tokens)
        self.writing.add(now, self.tokens)

    def take(self) -> str:
        """What is not shown yet; it is now."""
        text = "".join(self.fresh)
        self.fresh.clear()
        self.node.text += text
        return text
