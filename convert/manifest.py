"""maverick.json: what a converted folder was made from, how, and the hash of every file.

Knows nothing of models. It holds no time and no absolute path: two runs give the same bytes,
and a folder put on the Hub does not tell its maker's directory names.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_maverick.config import read_json
from mlx_maverick.errors import BadCheckpoint

from .hashes import File
from .layout import json_bytes

MANIFEST = "maverick.json"
VERSION = 1


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


def manifest(about: Mapping[str, Any], files: Mapping[str, File]) -> bytes:
    """The text of maverick.json for a conversion of this identity (see `identity`)."""
    named = {name: asdict(files[name]) for name in sorted(files)}
    return _sealed({"version": VERSION, **about, "files": named})


def intact(folder: Path) -> bool:
    """Whether maverick.json is, to the byte, what `manifest` made."""
    raw = read_json(folder / MANIFEST)
    raw.pop("sha256", None)
    return (folder / MANIFEST).read_bytes() == _sealed(raw)


def _sealed(raw: Mapping[str, Any]) -> bytes:
    """With a hash of all that comes before it."""
    return json_bytes({**raw, "sha256": hashlib.sha256(json_bytes(raw)).hexdigest()})
