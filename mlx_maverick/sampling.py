"""How tokens are chosen: the options of one reply.

Knows nothing of models; mlx-lm's samplers and logits processors do the choosing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from .errors import UsageError

if TYPE_CHECKING:
    import mlx.core as mx

    # Log-probabilities [1, V] -> token ids [1].
    Sampler = Callable[[mx.array], mx.array]
    # All tokens so far [n] (prompt and answer), logits [1, V] -> logits [1, V]. As in mlx-lm.
    LogitsProcessor = Callable[[mx.array, mx.array], mx.array]

MOST_LOGPROBS = 100
PENALTY_TOKENS = 20  # how far back the penalties look; mlx-lm's default


@dataclass(frozen=True)
class Sampling:
    """Options of one reply. The defaults are those recommended for Llama 4."""

    temperature: float = 0.6  # 0 is greedy
    top_p: float = 0.9  # nucleus: the likeliest tokens that have this much probability together
    min_p: float = 0.01  # tokens with at least this share of the likeliest one's probability
    top_k: int = 0  # only the k likeliest; 0 for no limit
    xtc_probability: float = 0.0  # how often all likely tokens but the least likely are left out
    xtc_threshold: float = 0.1  # what counts as likely there
    repetition_penalty: float = 1.0  # above 1, tokens of late are less likely
    presence_penalty: float = 0.0  # subtracted once from the logits of tokens of late
    frequency_penalty: float = 0.0  # subtracted for each time
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # added, by token id
    seed: int | None = None  # equal seeds give equal replies on one machine and version
    max_tokens: int | None = None  # None: until the context is full
    stop: tuple[str, ...] = ()  # the reply ends before the first of these
    logprobs: int | None = None  # log-probabilities of the tokens, and of so many likeliest ones

    def __post_init__(self) -> None:
        """Raises UsageError naming the option that is out of range."""
        _check("temperature", self.temperature, 0, 100)
        _check("top_p", self.top_p, 0, 1)
        _check("min_p", self.min_p, 0, 1)
        _check("top_k", self.top_k, 0, 2**31 - 1, int)
        _check("xtc_probability", self.xtc_probability, 0, 1)
        _check("xtc_threshold", self.xtc_threshold, 0, 0.5)
        _check("repetition_penalty", self.repetition_penalty, 0.01, 100)
        _check("presence_penalty", self.presence_penalty, -100, 100)
        _check("frequency_penalty", self.frequency_penalty, -100, 100)
        if self.top_p == 0:  # mlx-lm takes it for "off", the opposite of what it says
            raise UsageError("top_p 0 would allow no token; use temperature 0 for the likeliest")
        for name, value, least, most in (
            ("max_tokens", self.max_tokens, 1, 2**63 - 1),
            ("seed", self.seed, 0, 2**63 - 1),
            ("logprobs", self.logprobs, 0, MOST_LOGPROBS),
        ):
            if value is not None:
                _check(name, value, least, most, int)
        if not isinstance(self.logit_bias, Mapping):
            raise UsageError("logit_bias is not a mapping of token ids to numbers")
        for id, bias in self.logit_bias.items():
            _check("a token id of logit_bias", id, 0, 2**31 - 1, int)
            _check(f"the logit_bias of {id}", bias, -1000, 1000)
        stop: object = self.stop  # callers without a type checker give a bare string or a list
        listed = tuple(stop) if isinstance(stop, Iterable) and not isinstance(stop, str) else None
        if listed is None or any(not isinstance(s, str) or not s for s in listed):
            raise UsageError("stop is a sequence of strings, none of them empty")
        object.__setattr__(self, "stop", listed)

    def changed(self, options: Mapping[str, Any]) -> "Sampling":
        """With other values for some fields. Raises UsageError also for other names."""
        known = [f.name for f in fields(self)]
        if unknown := [name for name in options if name not in known]:
            raise UsageError(f"unknown option {unknown[0]!r}; there are {', '.join(known)}")
        return replace(self, **options)

    def sampler(self, vocabulary: int) -> "Sampler":
        """A function from log-probabilities [B, V] to token ids [B]."""
        from mlx_lm.sample_utils import make_sampler

        made: Sampler = make_sampler(
            # Below this, 1 / temperature overflows and every token would be equally likely.
            temp=self.temperature if self.temperature > 1e-6 else 0,
            top_p=self.top_p,
            min_p=self.min_p,
            top_k=self.top_k if self.top_k < vocabulary else 0,
            xtc_probability=self.xtc_probability,
            xtc_threshold=self.xtc_threshold,
        )
        return made

    def processors(self, vocabulary: int) -> "Sequence[LogitsProcessor]":
        """What bias and penalties do to the logits. Raises UsageError for a bias of a token
        that the vocabulary does not have."""
        if beyond := [id for id in self.logit_bias if id >= vocabulary]:
            raise UsageError(f"logit_bias names token {beyond[0]} of a vocabulary of {vocabulary}")
        from mlx_lm.sample_utils import make_logits_processors

        made: Sequence[LogitsProcessor] = make_logits_processors(
            logit_bias=dict(self.logit_bias) or None,
            repetition_penalty=None if self.repetition_penalty == 1 else self.repetition_penalty,
            repetition_context_size=PENALTY_TOKENS,
            presence_penalty=self.presence_penalty or None,
            presence_context_size=PENALTY_TOKENS,
            frequency_penalty=self.frequency_penalty or None,
            frequency_context_size=PENALTY_TOKENS,
        )
        return made


def _check(name: str, value: object, least: float, most: float, kind: type = float) -> None:
    """Raises UsageError unless `value` is a number in range; NaN never is."""
    number = isinstance(value, kind if kind is int else int | float) and not isinstance(value, bool)
    if not number or not least <= value <= most:  # type: ignore[operator]
        whole = "whole " if kind is int else ""
        raise UsageError(f"{name} {value!r} is not a {whole}number from {least} to {most:,}")
