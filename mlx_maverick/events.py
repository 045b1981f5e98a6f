"""What generation reports, step by step, and what a whole reply is.

Knows nothing of how any of it is computed or shown.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class FinishReason(StrEnum):
    """Why a reply ended."""

    STOP = "stop"  # the model ended its turn, or a stop string was met
    LENGTH = "length"  # max_tokens, or the context is full
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Stats:
    """Counts and times of one reply. Seconds are wall-clock, bytes are MLX's peak."""

    prompt_tokens: int
    cached_tokens: int  # of the prompt, taken over from the KV cache
    new_tokens: int
    prefill_seconds: float
    decode_seconds: float  # from the first new token to the last
    peak_memory: int

    @property
    def prefill_tps(self) -> float:
        """Prompt tokens computed per second."""
        return (self.prompt_tokens - self.cached_tokens) / max(self.prefill_seconds, 1e-9)

    @property
    def decode_tps(self) -> float:
        """New tokens per second after the first; 0 while there is none."""
        return max(self.new_tokens - 1, 0) / max(self.decode_seconds, 1e-9)


@dataclass(frozen=True)
class Prefill:
    """Of the prompt's `total` tokens, `done` are in the KV cache."""

    done: int
    total: int


@dataclass(frozen=True)
class Token:
    """One new token. `text` is what became printable with it, and may be empty: a character
    is shown when its last byte is there, and a possible stop string when it is none.
    The last one carries what was held back to the end, with the `id` it came from."""

    text: str
    id: int


@dataclass(frozen=True)
class Finished:
    """The last event."""

    reason: FinishReason
    stats: Stats


Event = Prefill | Token | Finished


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    text: str
    finish_reason: FinishReason
    stats: Stats


def collect(events: Iterable[Event]) -> Reply:
    """Run a stream to its end."""
    text, last = "", None
    for event in events:
        text += event.text if isinstance(event, Token) else ""
        last = event
    assert isinstance(last, Finished)  # every stream ends with it
    return Reply(text, last.reason, last.stats)
