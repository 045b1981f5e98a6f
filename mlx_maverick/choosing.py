"""From logits to the next token, for the length of one reply.

Knows nothing of models or caches. The order: logits processors, the constraint, then the
sampler, which sees log-probabilities.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import mlx.core as mx
import numpy as np

from .errors import BadCheckpoint, MaverickError, UsageError
from .sampling import Sampling

if TYPE_CHECKING:
    from .sampling import LogitsProcessor, Sampler

# In place of a token:
NOT_A_NUMBER = -1  # the model's logits are none
NOTHING_LEFT = -2  # processors have left no token, or infinitely likely ones
NOT_A_TOKEN = -3  # a sampler has chosen what is none


def no_token(code: int) -> MaverickError:
    """What to raise for one of them."""
    if code == NOT_A_NUMBER:
        return BadCheckpoint(
            "the model computes values that are not numbers: its weights are damaged; "
            "run 'mlx-maverick verify' on the folder, or make it again"
        )
    if code == NOTHING_LEFT:
        return UsageError(
            "the logits processors leave nothing to choose from: all logits are -inf, or one "
            "is inf or not a number; leave some of them finite, and none of them inf"
        )
    return UsageError(
        "the sampler chose a token that the model does not have; return one of the positions "
        "of the log-probabilities it is given"
    )


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
        """Waits for the token; one of the numbers above if there is none."""
        return int(np.array(self.token)[0])

    @property
    def value(self) -> float | None:
        """The token's log-probability."""
        return None if self.logprob is None else float(np.array(self.logprob)[0])

    @property
    def top(self) -> tuple[tuple[int, float], ...]:
        """(id, log-probability) of the likeliest tokens that could have come."""
        if self.top_ids is None or self.top_logprobs is None:
            return ()
        pairs = zip(np.array(self.top_ids), np.array(self.top_logprobs), strict=True)
        return tuple((int(id), float(value)) for id, value in pairs if value > -math.inf)


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
        # Every token has a seed of its own: MLX's random state is also that of other replies,
        # which may be made in between.
        self._seeds = np.random.default_rng(sampling.seed)
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
                logits = _processed(process(self._tokens, logits), logits)
        if self._constraint is not None:
            logits = self._constraint.mask(logits)
        left = finite
        if self._tokens is not None or self._constraint is not None:
            total = mx.logsumexp(logits, axis=-1, keepdims=True)
            left = mx.isfinite(total[:, 0])
        logprobs = logits - total
        mx.random.seed(int(self._seeds.integers(2**63)))
        token = _sampled(self._sample(logprobs), self._vocabulary)
        # Found out together with the token, at no extra wait.
        token = mx.where(finite, mx.where(left, token, NOTHING_LEFT), NOT_A_NUMBER)
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


def _processed(made: object, logits: mx.array) -> mx.array:
    """What a logits processor made of them. Raises UsageError for anything else."""
    if not isinstance(made, mx.array) or made.shape != logits.shape:
        raise UsageError(
            f"a logits processor returned {_shown(made)}, not logits of the shape "
            f"{list(logits.shape)} that it was given"
        )
    return made


def _sampled(made: object, vocabulary: int) -> mx.array:
    """A sampler's token [1], or NOT_A_TOKEN: looked up, it would be read from foreign memory.
    Raises UsageError for what is not one number."""
    if not isinstance(made, mx.array) or made.size != 1 or mx.issubdtype(made.dtype, mx.inexact):
        raise UsageError(f"the sampler returned {_shown(made)}, not a token id as an array [1]")
    token = made.reshape(1).astype(mx.int64)
    token = mx.where((token >= 0) & (token < vocabulary), token, NOT_A_TOKEN)
    return token.astype(mx.int32)


def _shown(value: object) -> str:
    if isinstance(value, mx.array):
        return f"an array {list(value.shape)} of {value.dtype}"
    return type(value).__name__
