"""Prefill and decode: token ids in, events out.

Knows nothing of text, chat or terminals. Prefill goes in steps that never cross a chunk
boundary; decode stays one token ahead: while a token is handed out, the next one is already
being computed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import mlx.core as mx
import numpy as np

from .cache import Cache
from .errors import BadCheckpoint, UsageError
from .events import Finished, FinishReason, Prefill, Stats
from .memory import PREFILL_STEP
from .model import Llama4
from .sampling import Sampling

Sampler = Callable[[mx.array], mx.array]

NOT_A_NUMBER = -1  # in place of a token


class Features(Protocol):
    """Gives the features of a prompt's patch positions, encoded when first needed."""

    def between(self, first: int, last: int) -> mx.array:
        """Those of the prompt's patches number `first` to `last`: [last - first, hidden]."""


@dataclass(frozen=True)
class Sampled:
    """One new token; `stop` says that it ends the turn and is not part of the answer."""

    id: int
    stop: bool


def generate(
    model: Llama4,
    cache: Cache,
    ids: Sequence[int],
    *,
    sampling: Sampling,
    context: int,
    stop_ids: frozenset[int] = frozenset(),
    features: Features | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    step: int = PREFILL_STEP,
) -> Iterator[Prefill | Sampled | Finished]:
    """Continue `ids`, of which the cache already holds the first `cache.length`.

    `context` is the most tokens prompt and answer may have together. `should_stop` is asked
    between prefill steps and between tokens. At every event the cache holds a prefix of
    `ids` plus the tokens sampled so far. Raises UsageError for a prompt that is too long,
    BadCheckpoint if the weights make no numbers.
    """
    cached, total = cache.length, len(ids)
    check_length(total, context)
    if cached >= total:
        raise ValueError(f"the cache holds {cached} tokens of a prompt of {total}")
    limit = min(sampling.max_tokens or context, context - total)
    sample = sampling.sampler()
    if sampling.seed is not None:
        mx.random.seed(sampling.seed)
    mx.reset_peak_memory()
    cache.reserve(total + limit if sampling.max_tokens else total)
    started = perf_counter()

    yield Prefill(cached, total)
    hidden = mx.array([])
    for computed in _prefill(model, cache, ids, features, step):
        hidden = computed
        yield Prefill(cache.length, total)
        if should_stop():
            seconds = perf_counter() - started
            yield _finished(FinishReason.CANCELLED, total, cached, 0, seconds, 0.0)
            return
    ahead: mx.array | None = _sampled(model, hidden, sample)
    prefill_seconds = perf_counter() - started
    mx.clear_cache()  # prefill's large buffers are of no use to decode

    reason, count, first = FinishReason.LENGTH, 0, 0.0
    while ahead is not None:
        token, count = ahead, count + 1
        ahead = None
        if count < limit:
            hidden = model.text(model.text.embed_tokens(token[None]), cache)
            ahead = _sampled(model, hidden, sample)
        id = int(np.array(token)[0])
        if id == NOT_A_NUMBER:
            raise BadCheckpoint(
                "the model computes values that are not numbers: its weights are damaged; "
                "run 'mlx-maverick verify' on the folder, or make it again"
            )
        first = first or perf_counter()
        yield Sampled(id, stop=id in stop_ids)
        if id in stop_ids:
            reason = FinishReason.STOP
            break
        if should_stop():
            reason = FinishReason.CANCELLED
            break
    yield _finished(reason, total, cached, count, prefill_seconds, perf_counter() - first)


def check_length(total: int, context: int) -> None:
    """Raises UsageError for a prompt that leaves no room for an answer."""
    if total >= context:
        raise UsageError(
            f"the prompt has {total} tokens, which leaves no room for an answer in the context "
            f"of {context}; shorten it, or use a larger --context"
        )


def _prefill(
    model: Llama4, cache: Cache, ids: Sequence[int], features: Features | None, step: int
) -> Iterator[mx.array]:
    """Compute what the cache lacks of `ids`; the hidden states of each step, [1, L, hidden]."""
    every = np.array(ids, dtype=np.int32)
    # Patches before each position; those in the cache already keep their numbers.
    patches = np.concatenate([[0], np.cumsum(every == model.config.patch_token_id)])
    rest, patches = every[cache.length :], patches[cache.length :]
    for start, end in cache.spans(len(rest), step):
        first, last = int(patches[start]), int(patches[end])
        rows = features.between(first, last) if features and last > first else None
        hidden = model.text(model.embed(mx.array(rest[None, start:end]), rows), cache)
        mx.eval(hidden)
        yield hidden


def _sampled(model: Llama4, hidden: mx.array, sample: Sampler) -> mx.array:
    """The token after the last of `hidden` [1, L, hidden]: [1], on its way."""
    logits = model.text.logits(hidden[:, -1]).astype(mx.float32)
    total = mx.logsumexp(logits, axis=-1, keepdims=True)
    token = sample(logits - total)
    # Found out together with the token, at no extra wait.
    token = mx.where(mx.isfinite(total[:, 0]), token.astype(mx.int32), NOT_A_NUMBER)
    mx.async_eval(token)  # type: ignore[no-untyped-call]
    return token


def _finished(
    reason: FinishReason,
    prompt: int,
    cached: int,
    new: int,
    prefill_seconds: float,
    decode_seconds: float,
) -> Finished:
    peak = mx.get_peak_memory()
    return Finished(reason, Stats(prompt, cached, new, prefill_seconds, decode_seconds, peak))
