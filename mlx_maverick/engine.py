"""Prefill and decode: token ids in, events out.

Knows nothing of text, chat or terminals. Prefill goes in steps that never cross a chunk
boundary; decode stays one token ahead: while a token is handed out, the next one is already
being computed.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import mlx.core as mx
import numpy as np

from .cache import Cache
from .choosing import NOT_A_NUMBER, Choice, Chooser, no_token
from .errors import UsageError
from .events import Finished, FinishReason, Prefill, Stats
from .memory import PASS_TOKENS, PREFILL_STEP
from .model import Llama4
from .sampling import Sampling
from .streaming.stats import ExpertStats

# Of a prefill step. From so many tokens on it is computed layer by layer, so that it can be
# stopped in between; a layer of so many then takes much longer than waiting for it.
PAUSE_FROM = 256


class Features(Protocol):
    """Gives the features of a prompt's patch positions, encoded when first needed."""

    def between(self, first: int, last: int) -> mx.array:
        """Those of the prompt's patches number `first` to `last`: [last - first, hidden]."""


class Interrupt(Protocol):
    """Asked between tokens, prefill steps and layers whether to go on."""

    def __call__(self) -> FinishReason | None:
        """Why the reply has to end now; None to go on."""


@dataclass(frozen=True)
class Sampled:
    """One new token; `stop` says that it ends the turn and is not part of the answer."""

    id: int
    stop: bool
    logprob: float | None = None  # where the sampling asks for it
    top: tuple[tuple[int, float], ...] = ()  # (id, log-probability), the likeliest first


def generate(
    model: Llama4,
    cache: Cache,
    ids: Sequence[int],
    *,
    sampling: Sampling,
    context: int,
    stop_ids: frozenset[int] = frozenset(),
    features: Features | None = None,
    interrupt: Interrupt = lambda: None,
    chooser: Chooser | None = None,
    step: int = PREFILL_STEP,
) -> Iterator[Prefill | Sampled | Finished]:
    """Continue `ids`, of which the cache already holds the first `cache.length`.

    `context` is the most tokens prompt and answer may have together. `chooser` takes the place
    of one made from `sampling`. At every event the cache holds a prefix of `ids` plus the
    tokens sampled so far. Raises UsageError for a prompt that is too long, BadCheckpoint if
    the weights make no numbers.
    """
    cached, total = cache.length, len(ids)
    check_length(total, context)
    if cached >= total:
        raise ValueError(f"the cache holds {cached} tokens of a prompt of {total}")
    limit = min(sampling.max_tokens or context, context - total)
    choose = chooser or Chooser(sampling, ids, model.config.text.vocab_size)
    mx.reset_peak_memory()
    cache.reserve(total + limit if sampling.max_tokens else total)
    before = model.streams.stats if model.streams else None
    started = perf_counter()

    yield Prefill(cached, total)
    hidden = mx.array([])
    try:
        for done, computed in _prefill(model, cache, ids, features, step, interrupt):
            hidden = computed
            yield Prefill(done, total)
            if why := interrupt():
                raise _Interrupted(why)
    except _Interrupted as e:
        stats = _stats(model, before, total, cached, 0, perf_counter() - started, 0.0)
        yield Finished(e.reason, stats)
        return
    ahead: Choice | None = choose(model.text.logits(hidden[:, -1]))
    prefill_seconds = perf_counter() - started
    mx.clear_cache()  # prefill's large buffers are of no use to decode

    reason, count, first = FinishReason.LENGTH, 0, 0.0
    while ahead is not None:
        choice, count = ahead, count + 1
        ahead = None
        if count < limit:
            hidden = model.text(model.text.embed_tokens(choice.token[None]), cache)
            if not choose.waits:
                ahead = choose(model.text.logits(hidden[:, -1]))
            else:  # for the token's number; the network computes meanwhile
                mx.async_eval(hidden)  # type: ignore[no-untyped-call]
        id = choice.id
        if id < 0:
            if id == NOT_A_NUMBER:
                cache.rewind(0)  # what is in it is no use to anybody
            raise no_token(id)
        stop = id in stop_ids
        if choose.waits and not stop:
            choose.accept(id)
            if count < limit:
                ahead = choose(model.text.logits(hidden[:, -1]))
        first = first or perf_counter()
        yield Sampled(id, stop, choice.value, choice.top)
        if stop:
            reason = FinishReason.STOP
            break
        if why := interrupt():
            reason = why
            break
    decode_seconds = perf_counter() - first
    stats = _stats(model, before, total, cached, count, prefill_seconds, decode_seconds)
    yield Finished(reason, stats)


def check_length(total: int, context: int) -> None:
    """Raises UsageError for a prompt that leaves no room for an answer."""
    if total >= context:
        raise UsageError(
            f"the prompt has {total} tokens, which leaves no room for an answer in the context "
            f"of {context}; shorten it, or use a larger --context"
        )


class _Interrupted(Exception):
    """Leaves the prefill, also between two layers of a step."""

    def __init__(self, reason: FinishReason):
        self.reason = reason


def _prefill(
    model: Llama4,
    cache: Cache,
    ids: Sequence[int],
    features: Features | None,
    step: int,
    interrupt: Interrupt,
) -> Iterator[tuple[int, mx.array]]:
    """Compute what the cache lacks of `ids`; after each step, how many of them are in the cache
    and the hidden state of the last one, [1, 1, hidden]. Where experts are streamed, steps go
    through each layer together, and after each layer tokens are counted by their share of layers.

    Raises _Interrupted in the middle of a step, of which the cache then knows nothing.
    """
    every = np.array(ids, dtype=np.int32)
    # Patches before each position; those in the cache already keep their numbers.
    patches = np.concatenate([[0], np.cumsum(every == model.config.patch_token_id)])
    rest, patches = every[cache.length :], patches[cache.length :]

    def embedded(start: int, end: int) -> mx.array:
        first, last = int(patches[start]), int(patches[end])
        rows = features.between(first, last) if features and last > first else None
        return model.embed(mx.array(rest[None, start:end]), rows)

    def pause() -> None:
        if reason := interrupt():
            raise _Interrupted(reason)

    layers, streamed = len(model.text.layers), model.streams is not None
    most = PASS_TOKENS if streamed else None
    for steps in cache.passes(len(rest), step, most):
        before, count = cache.length, steps[-1][1] - steps[0][0]
        xs = [embedded(start, end) for start, end in steps]
        through = model.text.through(xs, cache, last=True, pause=pause)
        with closing(through):
            for layer, xs in enumerate(through, 1):
                if count >= PAUSE_FROM:
                    mx.eval(xs)
                    pause()
                if streamed and layer < layers:
                    yield before + count * layer // layers, xs[-1]
        mx.eval(xs)
        yield cache.length, xs[-1]


def _stats(
    model: Llama4,
    before: ExpertStats | None,
    prompt: int,
    cached: int,
    new: int,
    prefill_seconds: float,
    decode_seconds: float,
) -> Stats:
    peak = mx.get_peak_memory()
    experts = model.streams.stats.since(before) if model.streams and before else None
    return Stats(prompt, cached, new, prefill_seconds, decode_seconds, peak, experts)
