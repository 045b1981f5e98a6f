"""How tokens are chosen: the options of one reply.

Knows nothing of models; mlx-lm's samplers do the choosing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import UsageError

if TYPE_CHECKING:
    import mlx.core as mx


@dataclass(frozen=True)
class Sampling:
    """Options of one reply. The defaults are those recommended for Llama 4."""

    temperature: float = 0.6  # 0 is greedy
    top_p: float = 0.9
    min_p: float = 0.01
    seed: int | None = None  # equal seeds give equal replies on one machine and version
    max_tokens: int | None = None  # None: until the context is full
    stop: tuple[str, ...] = ()  # the reply ends before the first of these

    def __post_init__(self) -> None:
        """Raises UsageError naming the option that is out of range."""
        if not 0 <= self.temperature <= 100:  # also refuses NaN
            raise UsageError(f"temperature {self.temperature} is not between 0 and 100")
        for name, value in (("top_p", self.top_p), ("min_p", self.min_p)):
            if not 0 <= value <= 1:
                raise UsageError(f"{name} {value} is not between 0 and 1")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"max_tokens {self.max_tokens} is not at least 1")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise UsageError(f"seed {self.seed} is not between 0 and 2^64 - 1")
        stop: object = self.stop  # callers without a type checker give a bare string
        if isinstance(stop, str) or any(not s for s in self.stop):
            raise UsageError("stop is a sequence of strings, none of them empty")

    def sampler(self) -> "Callable[[mx.array], mx.array]":
        """A function from log-probabilities [B, V] to token ids [B]."""
        from mlx_lm.sample_utils import make_sampler

        made: Callable[[mx.array], mx.array] = make_sampler(
            temp=self.temperature, top_p=self.top_p, min_p=self.min_p
        )
        return made
