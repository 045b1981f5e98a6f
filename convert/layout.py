"""The output's weight files, to the byte, before any of them exists.

Knows the safetensors format and nothing of models. Two runs over the same entries give the
same bytes everywhere. Format: https://huggingface.co/docs/safetensors/index#format

The format allows no gaps between tensors, so what aligns them is their order: in each file those
of whole pages come first. Every tensor begins on a multiple of the largest power of two that
divides its size, up to a page. An expert's share of each of Maverick's tensors is whole pages,
and so begins and ends on pages: what reading past the system's file cache asks for.
"""

import hashlib
import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from math import prod

from mlx_maverick.checkpoint import DTYPE_BITS, SINGLE

# mlx-lm's bound on the tensors of one file; only a single larger tensor may pass it.
MAX_SHARD_BYTES = 5 << 30
# Headers are padded with spaces so that the data begins on a page. This is Apple silicon's; it
# is a multiple of x86's and of the blocks of SSDs, which O_DIRECT on Linux asks for.
PAGE = 16384
METADATA = {"format": "mlx"}  # mlx-lm and transformers look at it


@dataclass(frozen=True)
class Entry:
    """A tensor to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * DTYPE_BITS[self.dtype] // 8


@dataclass(frozen=True)
class Shard:
    """One file: its header, then its tensors without gaps."""

    name: str
    header: bytes  # with the 8 bytes of its length
    entries: tuple[Entry, ...]

    @property
    def data_nbytes(self) -> int:
        return sum(entry.nbytes for entry in self.entries)

    @property
    def nbytes(self) -> int:
        return len(self.header) + self.data_nbytes


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes go: `nbytes` at `offset` of the file named `shard`."""

    shard: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Layout:
    """All weight files, and the place of every tensor in them."""

    shards: tuple[Shard, ...]
    places: dict[str, Place]

    @property
    def nbytes(self) -> int:
        """Of all weight files, headers included."""
        return sum(shard.nbytes for shard in self.shards)

    @property
    def entries(self) -> list[Entry]:
        return [entry for shard in self.shards for entry in shard.entries]

    @property
    def digest(self) -> str:
        """Tells layouts apart: equal ones have every tensor at the same place. Hexadecimal."""
        parts = (part for shard in self.shards for part in (shard.name.encode(), shard.header))
        return hashlib.sha256(b"".join(parts)).hexdigest()

    @staticmethod
    def of(entries: Iterable[Entry], limit: int = MAX_SHARD_BYTES) -> "Layout":
        """Fill files one after the other, of at most `limit` bytes of data unless a single
        tensor is larger. The order given decides which file a tensor is in, except that the
        tensors of one module may change places; the place in the file is for alignment."""
        given = list(entries)
        # With 8 bits one matrix of Maverick's experts is exactly what a file may hold, with 4
        # bits two are: scales and biases should not come between. With 3 bits the given order is
        # better.
        groups = min((_fill(order, limit) for order in (given, _small_first(given))), key=len)
        groups = [sorted(group, key=_alignment, reverse=True) for group in groups]
        names = [SINGLE]
        if len(groups) > 1:
            count = len(groups)
            names = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
        shards = tuple(
            Shard(name, _header(group), tuple(group))
            for name, group in zip(names, groups, strict=True)
        )
        places = {}
        for shard in shards:
            offset = len(shard.header)
            for entry in shard.entries:
                places[entry.name] = Place(shard.name, offset, entry.nbytes)
                offset += entry.nbytes
        return Layout(shards, places)

    def index(self, parameters: int) -> bytes:
        """The text of `model.safetensors.index.json`; `parameters` as the source counts them."""
        size = sum(shard.data_nbytes for shard in self.shards)
        weight_map = {name: self.places[name].shard for name in sorted(self.places)}
        metadata = {"total_size": size, "total_parameters": parameters}
        return json_bytes({"metadata": metadata, "weight_map": weight_map})


def json_bytes(value: object) -> bytes:
    """JSON for a person to read, ending in a newline; the same bytes for the same value."""
    return (json.dumps(value, indent=2) + "\n").encode()


def _small_first(entries: Iterable[Entry]) -> list[Entry]:
    """With the tensors of each module (`<module>.<matrix>.weight`) by their size."""
    modules = groupby(entries, key=lambda entry: entry.name.rsplit(".", 2)[0])
    return [entry for _, group in modules for entry in sorted(group, key=lambda e: e.nbytes)]


def _alignment(entry: Entry) -> int:
    """The largest power of two that divides its size, up to a page. In falling order, what
    comes before a tensor is a multiple of its own. 0 for one without bytes."""
    return min(PAGE, entry.nbytes & -entry.nbytes)


def _fill(entries: Iterable[Entry], limit: int) -> list[list[Entry]]:
    groups: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if groups[-1] and size + entry.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += entry.nbytes
    return groups


def _header(entries: Iterable[Entry]) -> bytes:
    fields: dict[str, object] = {"__metadata__": METADATA}
    offset = 0
    for entry in entries:
        fields[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + entry.nbytes],
        }
        offset += entry.nbytes
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % PAGE)
    return struct.pack("<Q", len(text)) + text
