"""Model folders as people have them, of full size and without a byte of weights.

The files are as long as they would be, and sparse: headers first, then nothing.
"""

import json
import os
import shutil
import struct
from collections import defaultdict
from pathlib import Path

from mlx_maverick.checkpoint import Checkpoint, Tensor

from ...convert import full_size as published
from ...golden import REFERENCE
from ...streaming.full_size import converted


def mini(folder: Path, name: str = "maverick-mini") -> Path:
    """A reference checkpoint, to be damaged."""
    shutil.copytree(REFERENCE / name, folder, ignore=shutil.ignore_patterns("golden"))
    return folder


def full_size(folder: Path, recipe: str, named: bool = True) -> Path:
    """Maverick converted with a recipe; not `named`: as other programs leave it."""
    checkpoint, _ = converted(recipe)
    raw = {**published.CONFIG, "quantization": {"group_size": 64, "bits": int(recipe[1])}}
    _write(folder, checkpoint, raw)
    if named:
        (folder / "maverick.json").write_text(json.dumps({"recipe": {"name": recipe}}))
    return folder


def source(folder: Path, form: str) -> Path:
    """Maverick as it was published: BF16, or compressed (FP8)."""
    _write(folder, published.checkpoint(folder, form), dict(published.config(form)))
    return folder


def _write(folder: Path, checkpoint: Checkpoint, config: object) -> None:
    folder.mkdir(parents=True)
    files: dict[str, list[Tensor]] = defaultdict(list)
    size = 0
    for tensor in checkpoint.tensors.values():
        files[f"model-{size // 10**10:05}.safetensors"].append(tensor)
        size += tensor.nbytes
    for name, tensors in files.items():
        header, end = {}, 0
        for tensor in tensors:
            offsets = [end, end + tensor.nbytes]
            header[tensor.name] = {
                "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets
            }  # fmt: skip
            end += tensor.nbytes
        text = json.dumps(header).encode()
        with open(folder / name, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            os.truncate(file.fileno(), 8 + len(text) + end)
    index = {"weight_map": {t.name: name for name, tensors in files.items() for t in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))


def in_hub(cache: Path, repo: str, folder: Path) -> Path:
    """The folder as a repository in the Hub's cache; the snapshot."""
    place = cache / f"models--{repo.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    snapshot = place / "snapshots" / commit
    snapshot.parent.mkdir()  # else it would be copied, with its holes filled
    folder.rename(snapshot)
    return snapshot
