"""What generation reports, step by step, and what a whole reply is.

Knows nothing of how any of it is computed or shown.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .streaming.stats import ExpertStats
    from .tools.call import ToolCall


class FinishReason(StrEnum):
    """Why a reply ended."""

    STOP = "stop"  # the model ended its turn, or a stop string was met
    LENGTH = "length"  # max_tokens, or the context is full
    TOOL_CALLS = "tool_calls"  # the model wants functions to be called
    CANCELLED = "cancelled"
    MEMORY = "memory"  # the machine ran out of memory; the text so far is kept


@dataclass(frozen=True)
class Stats:
    """Counts and times of one reply. Seconds are wall-clock, bytes are MLX's peak."""

    prompt_tokens: int
    cached_tokens: int  # of the prompt, taken over from the KV cache
    new_tokens: int
    prefill_seconds: float
    decode_seconds: float  # from the first new token to the last
    peak_memory: int
    experts: "ExpertStats | None" = None  # where they are streamed

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
    """Of the prompt's `total` tokens, `done` are read: in the KV cache; or, where experts are
    streamed and many tokens go through each layer together, that share of the work is done."""

    done: int
    total: int


@dataclass(frozen=True)
class Likely:
    """A token that could have come, with its natural log-probability."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class Token:
    """One new token. `text` is what became printable with it, and may be empty: a character
    is shown when its last byte is there, and a possible stop string when it is none. What was
    held back to the end comes last, with no `id`.

    With `logprobs` in the sampling options, `logprob` is the natural logarithm of the
    probability that the sampler saw before temperature, top-p and the like, and `likely` has
    the likeliest tokens, best first.
    """

    text: str
    id: int | None
    logprob: float | None = None
    likely: tuple[Likely, ...] = ()


@dataclass(frozen=True)
class Finished:
    """The last event."""

    reason: FinishReason
    stats: Stats
    tool_calls: "tuple[ToolCall, ...]" = ()
    # Why text that looks like a tool call was not taken for one, or what memory was short.
    problem: str | None = None


Event = Prefill | Token | Finished


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    text: str
    finish_reason: FinishReason
    stats: Stats
    tokens: tuple[Token, ...] = ()
    tool_calls: "tuple[ToolCall, ...]" = ()  # which are then no part of `text`
    problem: str | None = None  # as of Finished

    @property
    def ids(self) -> list[int]:
        """The tokens' ids, without the one that ended the turn."""
        return [token.id for token in self.tokens if token.id is not None]


def collect(events: Iterable[Event]) -> Reply:
    """Run a stream to its end."""
    tokens: list[Token] = []
    last: Event | None = None
    for event in events:
        if isinstance(event, Token):
            tokens.append(event)
        last = event
    assert isinstance(last, Finished)  # every stream ends with it
    text = "".join(token.text for token in tokens)
    return Reply(text, last.reason, last.stats, tuple(tokens), last.tool_calls, last.problem)
