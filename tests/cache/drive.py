"""A network of nothing but attention, with given queries, keys and values: what it computes is
the cache's doing alone, so that it can be compared to the last bits, quantised or not.
"""

from dataclasses import replace
from functools import cache as remembered
from pathlib import Path

import mlx.core as mx

from mlx_maverick.cache import Cache
from mlx_maverick.config import ModelConfig, TextConfig
from mlx_maverick.kv import KVOptions
from mlx_maverick.model.attend import attend

from .reference import attention

LENGTH = 150
CHUNK = 32
CHUNKED = (True, False, True)
MINI = Path(__file__).parent.parent / "reference" / "maverick-mini"


@remembered
def text_config(head_dim: int = 32) -> TextConfig:
    text = ModelConfig.from_folder(MINI).text
    return replace(
        text, num_hidden_layers=3, chunked_layers=CHUNKED, rope_layers=CHUNKED,
        head_dim=head_dim, attention_chunk_size=CHUNK,
    )  # fmt: skip


@remembered
def rows(head_dim: int = 32) -> list[list[mx.array]]:
    """Of each layer q [1, 4, LENGTH, dim], and k and v [1, 2, LENGTH, dim]."""
    made = [
        [
            2 * mx.random.normal((1, heads, LENGTH, head_dim), key=mx.random.key(10 * i + j))
            for j, heads in enumerate((4, 2, 2))
        ]
        for i in range(len(CHUNKED))
    ]
    mx.eval(made)
    return made


@remembered
def expected(options: KVOptions, head_dim: int = 32) -> list[mx.array]:
    """Of each layer what all positions attend to, [1, 4, LENGTH, dim], from the definition."""
    made = [
        attention(*parts, CHUNK if chunked else None, options)
        for parts, chunked in zip(rows(head_dim), CHUNKED, strict=True)
    ]
    mx.eval(made)
    return made


def feed(cache: Cache, end: int, step: int | None = None) -> None:
    """Go on to position `end`, and compare everything on the way with what is expected."""
    dim = cache.config.head_dim
    wanted = expected(cache.options, dim)
    first = cache.length
    for a, b in cache.spans(end - first, step):
        at, to = first + a, first + b
        cache.begin(b - a)
        for i, parts in enumerate(rows(dim)):
            q, k, v = (part[:, :, at:to] for part in parts)
            out = attend(q, *cache.update(i, k, v), dim**-0.5)
            difference = mx.abs(out - wanted[i][:, :, at:to]).max().item()
            assert difference <= 1e-4, (cache.options, i, at, to, difference)
        cache.advance(b - a)


def outputs(cache: Cache, end: int) -> list[mx.array]:
    """What every layer computes for the positions up to `end`, token by token."""
    dim, found = cache.config.head_dim, []
    for at in range(cache.length, end):
        cache.begin(1)
        for i, parts in enumerate(rows(dim)):
            q, k, v = (part[:, :, at : at + 1] for part in parts)
            found.append(attend(q, *cache.update(i, k, v), dim**-0.5))
        cache.advance(1)
    mx.eval(found)
    return found
