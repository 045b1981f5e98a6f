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
        _check("temperature", self.temperature, 0, 100)
        _check("top_p", self.top_p, 0, 1)
        _check("min_p", self.min_p, 0, 1)
        if self.top_p == 0:  # mlx-lm takes it for "off", the opposite of what it says
            raise UsageError("top_p 0 would allow no token; use temperature 0 for the likeliest")
        for name, value, least in (("max_tokens", self.max_tokens, 1), ("seed", self.seed, 0)):
            if value is not None:
                _check(name, value, least, 2**63 - 1, int)
        stop: object = self.stop  # callers without a type checker give a bare string
        if isinstance(stop, str) or any(not s for s in self.stop):
            raise UsageError("stop is a sequence of strings, none of them empty")

    def sampler(self) -> "Callable[[mx.array], mx.array]":
        """A function from log-probabilities [B, V] to token ids [B]."""
        from mlx_lm.sample_utils import make_sampler

        made: Callable[[mx.array], mx.array] = make_sampler(
            # Below this, 1 / temperature overflows and every token would be equally likely.
            temp=self.temperature if self.temperature > 1e-6 else 0,
            top_p=self.top_p,
            min_p=self.min_p,
        )
        return made


def _check(name: str, value: object, least: float, most: float, kind: type = float) -> None:
    """Raises UsageError unless `value` is a number in range; NaN never is."""
    number = isinstance(value, kind if kind is int else int | float) and not isinstance(value, bool)
    if not number or not least <= value <= most:  # type: ignore[operator]
        whole = "whole " if kind is int else ""
        raise UsageError(f"{name} {value!r} is not a {whole}number from {least} to {most:,}")
