"""What is wrong in the engine shows in the answers: the demo's accuracy, and what breaks it.

Each fault is one that inference programs were seen to have. With it the model still talks; it
only is wrong more often, which random weights could not show.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, islice
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_maverick import images
from mlx_maverick.cache import Cache
from mlx_maverick.cli.bench_quality import PICTURES, WORDS, answers, in_two
from mlx_maverick.config import TextConfig
from mlx_maverick.demo.world import Conversation, conversation
from mlx_maverick.loading import load
from mlx_maverick.maverick import Maverick
from mlx_maverick.model import Llama4, text
from mlx_maverick.model.experts import MoE

BAR = 0.95
CLEARLY = 0.05  # below it
TALKS = 36
CHUNK = 128  # tokens
Patch = pytest.MonkeyPatch


def telling() -> Iterator[Conversation]:
    """Conversations in which a fault has something to spoil: pictures of several tiles, and
    more turns than a chunk holds. Each up to its tenth."""
    for number in count(50_000):
        talk = conversation("test", number)
        scenes = [scene for turn in talk.turns for scene in turn.scenes]
        wide = any(max(scene.width, scene.height) > 56 for scene in scenes)
        if wide and len(talk.turns) >= 4:
            yield replace(talk, turns=talk.turns[:10])


@pytest.fixture(scope="module")
def talks() -> list[Conversation]:
    return list(islice(telling(), TALKS))


def accuracy(model: Maverick, talks: list[Conversation]) -> tuple[float, float]:
    """Shares of right answers: about pictures, and of all others."""
    both = in_two(answers(model, talks, lambda number: None))
    seen, said = (sum(both[part]) / len(both[part]) for part in (PICTURES, WORDS))
    return seen, said


def test_nothing_is_broken(demo: Maverick, talks: list[Conversation]) -> None:
    longest = max(len(demo.prompt.encode(talk.messages[:-1]).ids) for talk in talks)
    assert longest > 3 * CHUNK
    assert min(accuracy(demo, talks)) >= BAR


def tiles(change: Callable[[Any], Any]) -> Callable[[Patch], None]:
    """A fault in the tiles [N, 3, T, T] of pictures that have several."""

    def apply(patch: Patch) -> None:
        make = images._tiles

        def made(rgb: Any, tile: int) -> Any:
            levels, grid = make(rgb, tile)
            return (change(levels) if len(levels) > 1 else levels), grid

        patch.setattr(images, "_tiles", made)

    return apply


def shifted(levels: Any) -> Any:
    """Every tile is half a tile off, and goes on at its other side."""
    return np.roll(levels, levels.shape[-1] // 2, axis=-1)


def in_another_order(levels: Any) -> Any:
    """The whole picture first, not last, so that every tile is in the place of the next."""
    return np.roll(levels, 1, axis=0)


def without_global(levels: Any) -> Any:
    """Grey where the whole picture should be."""
    return np.concatenate([levels[:-1], np.full_like(levels[-1:], 128)])


def rotary_in_halves(patch: Patch) -> None:
    """Pairs of the first and second half instead of neighbours, as most models have them."""

    def rope_of(config: TextConfig) -> Callable[[mx.array, int], mx.array]:
        def rope(x: mx.array, offset: int) -> mx.array:
            return mx.fast.rope(
                x, config.head_dim, traditional=False, base=config.rope_theta, scale=1.0,
                offset=offset,
            )  # fmt: skip

        return rope

    patch.setattr(text, "_rope", rope_of)


def chunks_too_short(patch: Patch) -> None:
    """A cache that also begins afresh in the middle of a chunk."""
    make = Cache.__init__

    def made(self: Cache, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        self.chunk //= 2

    patch.setattr(Cache, "__init__", made)


def experts_swapped(patch: Patch) -> None:
    """Each token goes to the neighbour of the expert that it chose."""
    route = MoE._route

    def routed(self: MoE, rows: mx.array) -> tuple[mx.array, mx.array]:
        scaled, chosen = route(self, rows)
        return scaled, mx.bitwise_xor(chosen, mx.array(1, chosen.dtype))

    patch.setattr(MoE, "_route", routed)


def without_features(patch: Patch) -> None:
    """The picture's place is in the prompt, but nothing of it."""
    embed = Llama4.embed

    def embedded(self: Llama4, ids: mx.array, features: mx.array | None = None) -> mx.array:
        return embed(self, ids, None if features is None else mx.zeros_like(features))

    patch.setattr(Llama4, "embed", embedded)


# What each of them spoils: answers about pictures, or all others.
SEEING, TALKING = 0, 1
FAULTS: dict[str, tuple[Callable[[Patch], None], int]] = {
    "a shifted tile": (tiles(shifted), SEEING),
    "tiles in another order": (tiles(in_another_order), SEEING),
    "a missing global tile": (tiles(without_global), SEEING),
    "a dropped picture": (without_features, SEEING),
    "wrong rotary": (rotary_in_halves, TALKING),
    "a cache error across chunks": (chunks_too_short, SEEING),
    "swapped experts": (experts_swapped, TALKING),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_shows(fault: str, talks: list[Conversation], monkeypatch: Patch) -> None:
    break_it, spoiled = FAULTS[fault]
    break_it(monkeypatch)
    assert accuracy(load("demo", context=4096), talks)[spoiled] < BAR - CLEARLY
