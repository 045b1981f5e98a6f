"""A cache as numbers and named arrays, and back.

Knows nothing of files. What comes back is checked against what a cache can be.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ..kv import group_size
from .cache import Cache

VALUES = {mx.float32: "F32", mx.bfloat16: "BF16", mx.float16: "F16"}  # that a cache may hold
KEYS = ("length", "chunk_start", "turns", "packed", "chunk", "layers", "dtype")


@dataclass(frozen=True)
class Row:
    """An array of a layer: what it must be, and for how many tokens it is to have room."""

    part: str
    dtype: str
    shape: tuple[int, ...]
    capacity: int


def rows(cache: Cache) -> dict[str, mx.array]:
    """What the cache holds, without spare room. Raises ValueError for more than one sequence."""
    named = {
        f"layers.{i}.{name}": array
        for i, (layer, held) in enumerate(zip(cache.layers, cache.held, strict=True))
        for name, array in layer.rows(held).items()
    }
    if any(array.shape[0] != 1 for array in named.values()):
        raise ValueError("a cache of several sequences cannot be saved")
    return named


def numbers(cache: Cache) -> dict[str, Any]:
    """Where the cache stands."""
    found = [part.dtype for layer in cache.layers for part in layer.parts]
    values = [VALUES[dtype] for dtype in found if dtype in VALUES]
    return {
        "length": cache.length,
        "chunk_start": cache.chunk_start,
        "turns": cache.turns,
        "packed": int(cache.packed),
        "chunk": cache.chunk,
        "layers": len(cache.layers),
        "dtype": values[0] if values else "F32",
    }


def restore(cache: Cache, numbers: Mapping[str, Any]) -> dict[int, dict[str, Row]]:
    """Let an empty cache stand where the numbers say; for each layer the arrays it then needs,
    by their names in `rows`.

    Raises ValueError for numbers that no cache with these options and this model can have.
    """
    if sorted(numbers) != sorted(KEYS):
        raise ValueError("its numbers are not those of a cache")
    dtype = numbers["dtype"]
    if dtype not in VALUES.values():
        raise ValueError(f"its values are {dtype!r}")
    if any(type(numbers[key]) is not int or numbers[key] < 0 for key in KEYS if key != "dtype"):
        raise ValueError("a count is not a whole number")
    length, chunk_start = numbers["length"], numbers["chunk_start"]
    if (numbers["chunk"], numbers["layers"]) != (cache.chunk, len(cache.layers)):
        raise ValueError("its chunk or number of layers is another")
    if length > cache.config.max_position_embeddings:
        raise ValueError(f"{length} tokens are more than the model has positions")
    if chunk_start % cache.chunk or not 0 <= length - chunk_start <= cache.chunk:
        raise ValueError(f"of {length} tokens the last chunk cannot begin at {chunk_start}")
    # At the place where a cache rotates or is quantised it may have been done or not: a rewind
    # to there leaves it done.
    rotation = cache.rotation
    possible = {rotation.turns(max(0, length - 1)), rotation.turns(length)} if rotation else {0}
    if numbers["turns"] not in possible:
        raise ValueError(f"{length} tokens do not make {numbers['turns']} turns")
    options = cache.options
    packed = {options.packed(length), options.bits is not None and length == options.start}
    if bool(numbers["packed"]) not in packed:
        raise ValueError("it is quantised at another place than it says")
    cache.stand(length, chunk_start, numbers["turns"], bool(numbers["packed"]))
    return {i: _wanted(cache, i, dtype) for i in range(len(cache.layers))}


def _wanted(cache: Cache, layer: int, dtype: str) -> dict[str, Row]:
    held, config, bits = cache.held[layer], cache.config, cache.options.bits
    heads, dim = config.num_key_value_heads, config.head_dim
    if held == 0:
        return {}
    widths = {"keys": (heads, dim, dtype), "values": (heads, dim, dtype)}
    if cache.packed and bits is not None:
        groups = dim // group_size(dim)
        widths = {
            "codes": (2 * heads, dim * bits // 32, "U32"),
            "scales": (2 * heads, groups, dtype),
            "biases": (2 * heads, groups, dtype),
        }
    return {
        f"layers.{layer}.{name}": Row(name, kind, (1, count, held, width), cache.room(layer))
        for name, (count, width, kind) in widths.items()
    }
