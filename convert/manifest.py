"""maverick.json: what a converted folder was made from, how, and the hash of every file.

Knows nothing of models. It holds no time and no absolute path: two runs give the same bytes,
and a folder put on the Hub does not tell its maker's directory names.
"""

import hashlib
import importlib.metadata
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_maverick import __version__
from mlx_maverick.config import read_json
from mlx_maverick.errors import BadCheckpoint

from .layout import json_bytes
from .progress import Callback, Progress
from .recipe import Recipe

MANIFEST = "maverick.json"
VERSION = 1
HASHED_AT_ONCE = 16 << 20


@dataclass(frozen=True)
class File:
    """One file of the folder."""

    size: int
    sha256: str  # hexadecimal


@dataclass(frozen=True)
class Manifest:
    """What maverick.json says."""

    recipe: str
    files: dict[str, File]  # all others of the folder, by name

    @staticmethod
    def read(folder: Path) -> "Manifest":
        """Raises NotFound without maverick.json, BadCheckpoint if it is not as written here."""
        raw = read_json(folder / MANIFEST)
        if raw.get("version") != VERSION:
            raise BadCheckpoint(
                f"{folder / MANIFEST} has version {raw.get('version')!r}, not {VERSION}; "
                "use a newer mlx-maverick"
            )
        try:
            files = {
                str(k): File(int(v["size"]), str(v["sha256"])) for k, v in raw["files"].items()
            }
            recipe = str(raw["recipe"]["name"])
        except (AttributeError, KeyError, TypeError, ValueError):
            raise BadCheckpoint(f"{folder / MANIFEST} is damaged; convert again") from None
        for name in files:
            if name in ("", ".", "..") or any(c in name for c in "/\\\0"):
                raise BadCheckpoint(f"{folder / MANIFEST} names a file outside it: {name!r}")
        return Manifest(recipe, files)


def manifest(source: Path, recipe: Recipe, files: dict[str, File]) -> bytes:
    """The text of maverick.json."""
    return json_bytes(
        {
            "version": VERSION,
            "recipe": recipe.describe(),
            "source": origin(source),
            "tools": {"mlx-maverick": __version__, "mlx": importlib.metadata.version("mlx")},
            "files": {name: asdict(files[name]) for name in sorted(files)},
        }
    )


def origin(source: Path) -> dict[str, Any]:
    """Repository and commit if `source` lies in the Hub's cache, else the folder's name."""
    folder = source.resolve()
    # .../models--<owner>--<name>/snapshots/<commit>, as huggingface_hub lays it out
    if folder.parent.name == "snapshots":
        kind, *names = folder.parent.parent.name.split("--")
        if kind == "models" and names:
            return {"repo": "/".join(names), "commit": folder.name}
    return {"folder": folder.name, "commit": None}


def hash_files(folder: Path, sizes: dict[str, int], progress: Callback) -> dict[str, File]:
    """Read the named files back from `folder`, as they are on the disk."""
    files, done, total = {}, 0, sum(sizes.values())
    for name in sorted(sizes):
        digest = hashlib.sha256()
        with (folder / name).open("rb", buffering=0) as handle:
            while block := handle.read(HASHED_AT_ONCE):
                digest.update(block)
                done += len(block)
                progress(Progress("hashing", done, total, name))
            files[name] = File(handle.tell(), digest.hexdigest())
    return files
