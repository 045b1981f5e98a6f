"""From logits to the next token, for the length of one reply.

Knows nothing of models or caches. The order: logits processors, the constraint, then the
sampler, which sees log-probabilities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import mlx.core as mx
import numpy as np

from .sampling import Sampling

if TYPE_CHECKING:
    from .sampling import LogitsProcessor, Sampler

NOT_A_NUMBER = -1  # in place of a token


class Constraint(Protocol):
    """What the answer may be, a JSON schema for instance."""

    def mask(self, logits: mx.array) -> mx.array:
        """Logits [1, V] with -inf where a token may not come next."""

    def accept(self, id: int) -> None:
        """Note the token that came."""


@dataclass(frozen=True)
class Choice:
    """One chosen token on its way: arrays that are being computed."""

    token: mx.array  # [1]
    logprob: mx.array | None = None  # [1]
    top_ids: mx.array | None = None  # [n], the likeliest first
    top_logprobs: mx.array | None = None  # [n]

    @property
    def id(self) -> int:
        """Waits for the token; NOT_A_NUMBER if the logits held none."""
        return int(np.array(self.token)[0])

    @property
    def value(self) -> float | None:
        """The token's log-probability."""
        return None if self.logprob is None else float(np.array(self.logprob)[0])

    @property
    def top(self) -> tuple[tuple[int, float], ...]:
        """(id, log-probability) of the likeliest tokens."""
        if self.top_ids is None or self.top_logprobs is None:
            return ()
        pairs = zip(np.array(self.top_ids), np.array(self.top_logprobs), strict=True)
        return tuple((int(id), float(value)) for id, value in pairs)


class Chooser:
    """Chooses one reply's tokens."""

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int],
        vocabulary: int,
        *,
        sampler: "Sampler | None" = None,
        processors: "Sequence[LogitsProcessor]" = (),
        constraint: Constraint | None = None,
    ):
        """`sampler` takes the place of the sampling options'; `processors` come after theirs.

        Raises UsageError for options that do not suit the vocabulary.
        """
        self._sample = sampler or sampling.sampler(vocabulary)
        self._processors = [*sampling.processors(vocabulary), *processors]
        self._constraint = constraint
        self._logprobs = sampling.logprobs
        self._vocabulary = vocabulary
        # Only processors read it, and it grows with every token.
        self._tokens = mx.array(list(prompt)) if self._processors else None

    @property
    def waits(self) -> bool:
        """Whether a token must be known (`accept`) before the next can be chosen."""
        return self._constraint is not None

    def accept(self, id: int) -> None:
        """Note a token of the answer."""
        if self._constraint is not None:
            self._constraint.accept(id)

    def __call__(self, logits: mx.array) -> Choice:
        """The token that follows logits [1, V], on its way."""
        logits = logits.astype(mx.float32)
        total = mx.logsumexp(logits, axis=-1, keepdims=True)
        finite = mx.isfinite(total[:, 0])
        if self._tokens is not None:
            for process in self._processors:
                logits = process(self._tokens, logits)
        if self._constraint is not None:
            logits = self._constraint.mask(logits)
        if self._tokens is not None or self._constraint is not None:
            total = mx.logsumexp(logits, axis=-1, keepdims=True)
        logprobs = logits - total
        token = self._sample(logprobs).astype(mx.int32)
        # Found out together with the token, at no extra wait.
        token = mx.where(finite, token, NOT_A_NUMBER)
        choice = Choice(token, *self._reported(logprobs, token))
        arrays = [choice.token, choice.logprob, choice.top_ids, choice.top_logprobs]
        mx.async_eval([a for a in arrays if a is not None])  # type: ignore[no-untyped-call]
        if self._tokens is not None:
            self._tokens = mx.concatenate([self._tokens, token])
        return choice

    def _reported(self, logprobs: mx.array, token: mx.array) -> tuple[mx.array | None, ...]:
        if self._logprobs is None:
            return None, None, None
        own = mx.take_along_axis(logprobs, mx.maximum(token, 0)[:, None], axis=-1)[:, 0]
        count = min(self._logprobs, self._vocabulary)
        if not count:
            return own, None, None
        top = mx.argpartition(-logprobs[0], kth=count - 1)[:count]
        top = top[mx.argsort(-logprobs[0, top])]
        return own, top, logprobs[0, top]
