"""Changed copies of a checkpoint: tensors swapped, files cut, configs edited.

Knows nothing of what the converter makes of them. Files are read and written without any
library, as neither MLX nor numpy has all types that a file may hold.
"""

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

INDEX = "model.safetensors.index.json"
DTYPES = {mx.bfloat16: "BF16", mx.float16: "F16", mx.float32: "F32", mx.uint32: "U32",
          mx.uint8: "U8", mx.int16: "I16", mx.int8: "I8"}  # fmt: skip


class Stored(NamedTuple):
    """A tensor as a file holds it."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def stored(values: mx.array, dtype: str | None = None) -> Stored:
    """An array as it is, or with its bytes under the name of another type."""
    bits = values.view(mx.uint16) if values.dtype == mx.bfloat16 else values
    data = memoryview(mx.contiguous(bits)).tobytes() if values.size else b""
    return Stored(dtype or DTYPES[values.dtype], values.shape, data)


def copy(source: Path, folder: Path) -> Path:
    """The checkpoint in `source`, without its golden outputs."""
    return Path(shutil.copytree(source, folder, ignore=shutil.ignore_patterns("golden")))


def tensors(folder: Path) -> dict[str, mx.array]:
    """Every tensor of a folder, read by MLX (FP8 as uint8)."""
    found: dict[str, mx.array] = {}
    for shard in sorted(folder.glob("model*.safetensors")):
        found |= mx.load(str(shard))
    return found


def read(file: Path) -> dict[str, Stored]:
    """Every tensor of one file."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    rest = data[8 + length :]
    return {
        name: Stored(entry["dtype"], tuple(entry["shape"]), rest[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def write(file: Path, held: Mapping[str, Stored]) -> None:
    """A safetensors file, whether it makes sense or not."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, tensor in held.items():
        end = start + len(tensor.data)
        header[name] = {
            "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]
        }  # fmt: skip
        start = end
    text = json.dumps(header).encode()
    body = b"".join(tensor.data for tensor in held.values())
    file.write_bytes(struct.pack("<Q", len(text)) + text + body)


def change(folder: Path, changes: Mapping[str, mx.array | Stored | None]) -> Path:
    """Replace, add (into the first shard) or drop (None) tensors, and keep the index true."""
    index = json.loads((folder / INDEX).read_text())
    home = index["weight_map"]
    first = min(home.values())
    for shard in {home.get(name, first) for name in changes}:
        held = read(folder / shard)
        for name, value in changes.items():
            if home.get(name, first) != shard:
                continue
            if value is None:
                held.pop(name)
            else:
                held[name] = stored(value) if isinstance(value, mx.array) else value
        write(folder / shard, held)
    for name, value in changes.items():
        if value is None:
            home.pop(name)
        else:
            home.setdefault(name, first)
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def edit_json(path: Path, **fields: Any) -> None:
    """Set top-level fields of a JSON file; None removes one."""
    value = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def retype(file: Path, name: str, dtype: str) -> None:
    """Say in a shard's header that a tensor is of another type of the same width."""
    held = read(file)
    write(file, held | {name: held[name]._replace(dtype=dtype)})


def cut(file: Path, nbytes: int = 1) -> None:
    """Take bytes off the end."""
    with file.open("r+b") as handle:
        handle.truncate(file.stat().st_size - nbytes)
