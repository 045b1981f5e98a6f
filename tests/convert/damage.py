"""Changed copies of a checkpoint: tensors swapped, files cut, configs edited.

Knows nothing of what the converter makes of them.
"""

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

INDEX = "model.safetensors.index.json"


def copy(source: Path, folder: Path) -> Path:
    """The checkpoint in `source`, without its golden outputs."""
    return Path(shutil.copytree(source, folder, ignore=shutil.ignore_patterns("golden")))


def tensors(folder: Path) -> dict[str, mx.array]:
    """Every tensor of a folder, read by MLX."""
    found: dict[str, mx.array] = {}
    for shard in sorted(folder.glob("model*.safetensors")):
        found |= mx.load(str(shard))
    return found


def change(folder: Path, changes: Mapping[str, mx.array | None]) -> Path:
    """Replace, add (into the first shard) or drop (None) tensors, and keep the index true."""
    mx.eval([value for value in changes.values() if value is not None])
    index = json.loads((folder / INDEX).read_text())
    home = index["weight_map"]
    first = min(home.values())
    for shard in {home.get(name, first) for name in changes}:
        held = mx.load(str(folder / shard))
        for name, value in changes.items():
            if home.get(name, first) != shard:
                continue
            if value is None:
                held.pop(name)
            else:
                held[name] = value
        mx.eval(held)  # lazy arrays may still have to be read from the file to be replaced
        mx.save_safetensors(str(folder / shard), held, metadata={"format": "pt"})
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
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header[name]["dtype"] = dtype
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def cut(file: Path, nbytes: int = 1) -> None:
    """Take bytes off the end."""
    with file.open("r+b") as handle:
        handle.truncate(file.stat().st_size - nbytes)
