"""A model's safetensors: which tensor lies where, checked before a byte of it is used.

Knows the file format and nothing of models: no values are read here. Headers are bounded,
offsets must lie inside the file, and shard names cannot leave the folder.
Format: https://huggingface.co/docs/safetensors/index#format
"""

import json
import math
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import parse_json
from .errors import BadCheckpoint, NotFound
from .files import Files, Folder, read_whole

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# The safetensors library's own bound on a header.
MAX_HEADER_BYTES = 100_000_000
HEADERS_AT_ONCE = 8  # over a network each takes a moment
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"

# Bits of one element. Sub-byte and exotic types are listed so that an error can name them.
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
}  # fmt: skip
FLOATS = ("BF16", "F16", "F32")  # values of a model that is run; other types are codes


@dataclass(frozen=True)
class Tensor:
    """Where one tensor's bytes are: `nbytes` at `offset` of `file`, row-major."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def memory(self, element: int) -> int:
        """Bytes in memory, where floating-point values take `element` each; codes stay as they
        are."""
        return self.size * element if self.dtype in FLOATS else self.nbytes


@dataclass(frozen=True)
class Checkpoint:
    """Every tensor of a model, in the order of files and offsets."""

    folder: Path
    tensors: dict[str, Tensor]

    @property
    def files(self) -> list[Path]:
        return sorted({t.file for t in self.tensors.values()})

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors (without headers)."""
        return sum(t.nbytes for t in self.tensors.values())

    def memory(self, element: int) -> int:
        """Bytes of all tensors in memory; see `Tensor.memory`."""
        return sum(t.memory(element) for t in self.tensors.values())

    @staticmethod
    def open(folder: Path) -> "Checkpoint":
        """Read the headers of a folder's shards.

        Raises NotFound for a folder or shard that is missing, BadCheckpoint for anything
        that contradicts itself: index against headers, headers against file sizes.
        """
        return Checkpoint.of(Folder(folder))

    @staticmethod
    def of(files: Files) -> "Checkpoint":
        """The same for files that may be elsewhere."""
        folder, sizes = files.path("."), files.sizes
        weight_map = _weight_map(files) if INDEX in sizes else None
        names = sorted(set(weight_map.values())) if weight_map else [SINGLE]
        missing = [n for n in names if n not in sizes]
        if missing and weight_map is None:
            raise NotFound(f"{folder} holds neither {INDEX} nor {SINGLE}; is it a model folder?")
        if missing:
            raise NotFound(
                f"{folder / missing[0]} is missing ({len(missing)} of {len(names)} shards are); "
                "download it again"
            )
        shards = (n for n in sizes if n.startswith("model") and n.endswith(".safetensors"))
        extra = sorted(set(shards) - set(names))
        if extra:
            raise BadCheckpoint(
                f"{folder / extra[0]} is not listed in {INDEX if weight_map else SINGLE}: "
                "other programs would mix it in; move it away, or download the folder again"
            )
        tensors: dict[str, Tensor] = {}
        pool = ThreadPoolExecutor(HEADERS_AT_ONCE)
        try:
            headers = list(pool.map(lambda name: header(files, name, sizes[name]), names))
        finally:  # not waiting: Ctrl-C must not wait for a network that fell silent
            pool.shutdown(wait=False, cancel_futures=True)
        for name, found in zip(names, headers, strict=True):
            for tensor in found:
                twin = tensors.setdefault(tensor.name, tensor)
                if twin is not tensor:
                    raise BadCheckpoint(
                        f"{tensor.name} is in both {twin.file.name} and {name} of {folder}; "
                        "download the folder again"
                    )
        if weight_map is not None:
            _agree(folder, weight_map, tensors)
        return Checkpoint(folder, tensors)


def _weight_map(files: Files) -> dict[str, str]:
    index = files.path(INDEX)
    raw = parse_json(read_whole(files, INDEX), index).get("weight_map")
    if not isinstance(raw, dict) or not raw:
        raise BadCheckpoint(f"{index} has no weight_map; download it again")
    for name, shard in raw.items():
        # A plain name only: links inside the folder (the Hub's cache) are fine, paths are not.
        plain = isinstance(shard, str) and shard not in ("", ".", "..")
        if not plain or any(c in shard for c in "/\\\0"):
            raise BadCheckpoint(
                f"{index} puts {name} into {shard!r}, which is not a file of the folder; "
                "do not use this checkpoint"
            )
    return raw


def _agree(folder: Path, weight_map: dict[str, str], tensors: dict[str, Tensor]) -> None:
    for name, shard in weight_map.items():
        if name not in tensors:
            raise BadCheckpoint(f"{folder / shard} lacks {name} of {INDEX}; download it again")
        if tensors[name].file.name != shard:
            raise BadCheckpoint(
                f"{name} is in {tensors[name].file.name}, not in {shard} as {INDEX} of {folder} "
                "says; download the folder again"
            )
    unlisted = next((t for n, t in tensors.items() if n not in weight_map), None)
    if unlisted:
        raise BadCheckpoint(
            f"{unlisted.file} holds {unlisted.name}, which {INDEX} does not list; "
            "download the folder again"
        )


def read_header(file: Path) -> list[Tensor]:
    """The tensors of one local safetensors file, by offset. Raises as `header` does."""
    return header(Folder(file.parent), file.name, file.stat().st_size)


def header(files: Files, name: str, size: int) -> list[Tensor]:
    """The tensors of one safetensors file of `size` bytes, by offset. Raises as `parsed`."""
    return parsed(files, name, size).tensors


@dataclass(frozen=True)
class Header:
    """What one file says of itself."""

    text: bytes  # as it is in the file, after the 8 bytes of its length
    tensors: list[Tensor]  # by offset
    metadata: Any  # "__metadata__", unchecked: a dict of strings if it is as it should be


def parsed(files: Files, name: str, size: int, remedy: str = "download it again") -> Header:
    """The header of one safetensors file of `size` bytes; `remedy` is what errors advise.

    Raises BadCheckpoint if the header is larger than the file, is not valid, or places a
    tensor outside the file or over another; a file cut short is told apart from a bad one.
    """
    file = files.path(name)

    def bad(why: str) -> BadCheckpoint:
        return BadCheckpoint(f"{file} {why}; {remedy}")

    try:
        if size < 8:
            raise bad(f"is cut short ({size} bytes)")
        head = bytearray(8)
        files.read(name, 0, memoryview(head))
        if head == LFS_POINTER[:8]:
            raise BadCheckpoint(
                f"{file} is a Git LFS pointer, not the file; fetch it with 'hf download'"
            )
        (length,) = struct.unpack("<Q", head)
        if length > size - 8:
            raise bad(f"has a header of {length} bytes, larger than the file ({size})")
        if length > MAX_HEADER_BYTES:
            raise bad(f"has a header of {length} bytes, above the format's limit")
        text = bytearray(length)
        files.read(name, 8, memoryview(text))
        raw = json.loads(text, object_pairs_hook=_once)
    except OSError as e:
        raise BadCheckpoint(f"{file} cannot be read ({e.strerror})") from None
    except KeyError as e:
        raise bad(f"stores {e.args[0]} twice") from None
    except ValueError:  # JSON and UTF-8 errors
        raise bad("has a damaged header") from None
    if not isinstance(raw, dict):
        raise bad("has a damaged header")
    metadata = raw.pop("__metadata__", None)
    data = 8 + length
    tensors = sorted(
        (_tensor(name, entry, file, data, bad) for name, entry in raw.items()),
        key=lambda t: t.offset,
    )
    end = data
    for tensor in tensors:
        if tensor.offset < end:
            raise bad(f"stores {tensor.name} over another tensor")
        end = tensor.offset + tensor.nbytes
    if end > size:
        raise bad(f"is cut short: {size} of {end} bytes")
    return Header(bytes(text), tensors, metadata)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; KeyError if a key is in it twice, of which json would keep the last."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise KeyError(key)
        found[key] = value
    return found


def _tensor(
    name: str, entry: Any, file: Path, data: int, bad: Callable[[str], BadCheckpoint]
) -> Tensor:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in [start, end, *shape])
    except (KeyError, TypeError, ValueError):
        raise bad(f"has a damaged header entry for {name}") from None
    bits = DTYPE_BITS.get(dtype)
    if bits is None:
        raise bad(f"stores {name} as {dtype!r}, a type this program does not know")
    if not whole or (end - start) * 8 != math.prod(shape) * bits:
        raise bad(f"gives {name} {shape} of {dtype} the bytes {start} to {end}, which disagree")
    return Tensor(name, dtype, tuple(shape), file, data + start, end - start)
