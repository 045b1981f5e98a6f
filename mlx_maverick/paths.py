"""Where files of our own live: every location, and every environment variable that moves one.

Knows nothing of what is in them. Model folders are the user's and are not here.

- `MLX_MAVERICK_HOME` puts everything under one folder.
- macOS: `~/Library/Application Support`, `~/Library/Caches`, `~/Library/Logs`.
- elsewhere the XDG base directories: `XDG_DATA_HOME`, `XDG_CACHE_HOME`, `XDG_STATE_HOME`.
"""

import os
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from .errors import MaverickError

APP = "mlx-maverick"
HOME_VARIABLE = "MLX_MAVERICK_HOME"


class Kind(Enum):
    """What a folder is for: below MLX_MAVERICK_HOME, on macOS, by XDG variable and default."""

    DATA = ("data", "Library/Application Support", "XDG_DATA_HOME", ".local/share")
    CACHE = ("cache", "Library/Caches", "XDG_CACHE_HOME", ".cache")
    LOGS = ("logs", "Library/Logs", "XDG_STATE_HOME", ".local/state")


def locate(kind: Kind, environ: Mapping[str, str], platform: str) -> Path:
    """The folder for `kind`, not created. A `~` in MLX_MAVERICK_HOME is the user's home."""
    name, mac, variable, fallback = kind.value
    if home := environ.get(HOME_VARIABLE):
        return Path(home).expanduser().absolute() / name
    if platform == "darwin":
        return Path.home() / mac / APP
    base = environ.get(variable, "")
    # The XDG specification: a relative value is invalid and must be ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / fallback) / APP


def data_dir() -> Path:
    """What a user would miss: chats, settings. Created, readable by the user only."""
    return _made(locate(Kind.DATA, os.environ, sys.platform))


def cache_dir() -> Path:
    """What can be computed or downloaded again. Created, readable by the user only."""
    return _made(locate(Kind.CACHE, os.environ, sys.platform))


def log_file(name: str) -> Path:
    """The log called `name`, for instance 'worker'; its folder is created."""
    return _made(locate(Kind.LOGS, os.environ, sys.platform)) / f"{name}.log"


def _made(folder: Path) -> Path:
    """Raises MaverickError where it cannot be."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise MaverickError(
            f"the folder {folder} cannot be made ({e.strerror}); see what is there, or name "
            f"another place in {HOME_VARIABLE}"
        ) from None
    return folder
