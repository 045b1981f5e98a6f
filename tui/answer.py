"""A reply that is on its way: its text so far, and how fast it comes.

Knows nothing of the worker and of widgets. Times are of any clock, in seconds.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from .conversation import HALF, Node

RECENT_SECONDS = 2.0  # over which the live speed is taken


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
    note: str = ""  # of what it goes on with
    prompt: int = 0
    _recent: deque[tuple[float, int]] = field(default_factory=deque)  # time, tokens by then
    _first: tuple[float, int] | None = None
    _read: tuple[float, int] | None = None  # when the first step of the prompt was done
    _reading: tuple[float, int] = (0.0, 0)

    @staticmethod
    def on(node: Node) -> "Answer":
        """To go on with a reply."""
        node.text = node.text.rstrip(HALF)  # the rest of that character comes now
        answer = Answer(node, Kind.ON, before=node.text, note=node.note)
        node.note, node.whole = "", False
        return answer

    @property
    def something(self) -> bool:
        """Whether any text came."""
        return any(self.fresh) or len(self.node.text) > len(self.before)

    def add(self, text: str, ids: list[int], now: float) -> None:
        """Text and tokens came; the text is the node's with `take`."""
        self.node.ids += ids
        self.fresh.append(text)
        self.tokens += len(ids)
        if self._first is None:
            self._first = now, self.tokens
        self._recent.append((now, self.tokens))
        while len(self._recent) > 2 and self._recent[1][0] < now - RECENT_SECONDS:
            self._recent.popleft()

    def read(self, done: int, total: int, now: float) -> None:
        """So many tokens of the prompt are in the KV cache."""
        self.prompt = total
        self._read = self._read or (now, done)
        self._reading = now, done

    def take(self) -> str:
        """What is not shown yet; it is now."""
        text = "".join(self.fresh)
        self.fresh.clear()
        self.node.text += text
        return text

    @property
    def tps(self) -> float:
        """Tokens per second of late; 0 while unknown."""
        return _rate(self._recent[0], self._recent[-1]) if self._recent else 0.0

    @property
    def average(self) -> float:
        """Tokens per second since the first."""
        return _rate(self._first, self._recent[-1]) if self._first else 0.0

    @property
    def prefill_tps(self) -> float:
        """Tokens of the prompt per second."""
        return _rate(self._read, self._reading) if self._read else 0.0

    @property
    def eta(self) -> float:
        """Seconds until the prompt is read; 0 while unknown."""
        tps = self.prefill_tps
        return max(0, self.prompt - self._reading[1]) / tps if tps else 0.0


def _rate(first: tuple[float, int], last: tuple[float, int]) -> float:
    seconds = last[0] - first[0]
    return (last[1] - first[1]) / seconds if seconds > 0 else 0.0
