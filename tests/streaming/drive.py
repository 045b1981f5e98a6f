"""Models with streamed experts as tests load them, and all that a reply leaves to be compared."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_maverick import engine_thread
from mlx_maverick.cache import Cache, state
from mlx_maverick.checkpoint import Checkpoint
from mlx_maverick.config import ModelConfig
from mlx_maverick.events import Reply, collect
from mlx_maverick.loading import load
from mlx_maverick.maverick import Maverick
from mlx_maverick.prompt import Encoded
from mlx_maverick.session import Session
from mlx_maverick.streaming.places import places
from mlx_maverick.streaming.plan import least_bytes, share
from mlx_maverick.streaming.streams import Streams

CONTEXT = 1000
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 5, "logprobs": 4}
FOX = "The quick brown fox jumps over the lazy dog. "
Numbers = np.ndarray[Any, Any]


def slab(folder: Path, part: float, element: int = 4) -> int:
    """Bytes for that part of all experts, and for no less than two slots of each bank."""
    layers = places(Checkpoint.open(folder), ModelConfig.from_folder(folder))
    least = least_bytes(layers, element)
    everything = share(layers, element, 10**12).nbytes
    return max(least, int(part * everything))


def streamed(folder: Path, part: float = 0.0, **options: Any) -> Maverick:
    """With slots for a `part` of the experts; 0: for as few as can be."""
    options.setdefault("context", CONTEXT)
    dtype = options.get("dtype", mx.float32)
    return load(folder, expert_memory=slab(folder, part, dtype.size), **options)


def resident(folder: Path, **options: Any) -> Maverick:
    options.setdefault("context", CONTEXT)
    return load(folder, experts="resident", **options)


def streams(model: Maverick) -> Streams:
    found = model.model.streams
    assert found is not None
    return found


def settle(model: Maverick) -> None:
    """Wait until nothing is read any more, warm start included."""

    def wait() -> None:
        for bank in streams(model).banks:
            for read in list(bank._reads.values()):
                read.finished.wait()

    model.run(wait)


def quiet(model: Maverick) -> bool:
    """Whether no thread reads, and none has anything to read."""
    work = streams(model)._reader._work
    with work.changed:
        return not (work.running or work.urgent or work.later)


def ids(length: int, seed: int = 0) -> Encoded:
    """A prompt of that many tokens, none of them special."""
    numbers = np.random.default_rng(seed).integers(1, 900, length)
    return Encoded([int(n) for n in numbers], [])


def held(cache: Cache) -> dict[str, Numbers]:
    """Keys and values of all tokens in a cache, as they are stored, by layer."""
    return {name: _bits(array) for name, array in state.rows(cache).items()}


def _bits(array: mx.array) -> Numbers:
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


def said(reply: Reply) -> Any:
    """What is the same for two models that compute the same to the bit."""
    return reply.text, reply.tokens, reply.finish_reason, reply.stats.prompt_tokens


def ask(model: Maverick, prompt: Encoded, session: Session | None = None, **how: Any) -> Reply:
    return collect(model.stream_encoded(prompt, session=session, **GREEDY | how))


class Wanted:
    """What a model in memory says to a prompt in a new session, computed once for each."""

    def __init__(self, folder: Path):
        self.model = resident(folder)
        self._known: dict[str, tuple[Reply, Session]] = {}

    def __call__(self, prompt: Encoded, **how: Any) -> tuple[Reply, Session]:
        key = repr((prompt.ids, how))
        if key not in self._known:
            session = self.model.session()
            self._known[key] = (ask(self.model, prompt, session, **how), session)
        return self._known[key]

    def check(self, model: Maverick, prompt: Encoded, session: Session) -> None:
        """That a streamed model answers the same in its session, and leaves the same there."""
        wanted, fresh = self(prompt)
        assert said(ask(model, prompt, session)) == said(wanted)
        assert_same(session, fresh)


def assert_same(found: Session, wanted: Session) -> None:
    """Two sessions hold the same, to the bit."""
    assert found.length == wanted.length
    mine = engine_thread.run(held, found.cache)
    theirs = engine_thread.run(held, wanted.cache)
    assert mine.keys() == theirs.keys()
    for name, array in theirs.items():
        assert np.array_equal(mine[name], array), name
