"""The output's weight files, to the byte, before any of them exists.

Knows the safetensors format and nothing of models. Two runs over the same entries give the
same bytes everywhere. Format: https://huggingface.co/docs/safetensors/index#format
"""

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from mlx_maverick.checkpoint import DTYPE_BITS, SINGLE

# mlx-lm's bound on the tensors of one file; only a single larger tensor may pass it.
MAX_SHARD_BYTES = 5 << 30
# Headers are padded with spaces so that the data begins on a page. Maverick's own tensors are
# whole pages long, so each of its experts can later be read at a page-aligned offset.
PAGE = 4096
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

    @staticmethod
    def of(entries: Iterable[Entry], limit: int = MAX_SHARD_BYTES) -> "Layout":
        """Fill files one after the other, in the order given."""
        groups = _fill(entries, limit)
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
