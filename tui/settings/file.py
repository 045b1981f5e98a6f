"""config.toml: where it is, reading it, replacing it at once.

Knows nothing of what its keys mean.
"""

import os
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from ...errors import MaverickError, UsageError
from ...paths import data_dir


def config_file() -> Path:
    """Where it is, whether there is one or not."""
    return data_dir() / "config.toml"


def read(path: Path) -> str:
    """What is in it; nothing if there is none. Raises UsageError for what is no text, and
    MaverickError if it cannot be read."""
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as e:
        raise UsageError(f"{path}: byte {e.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as e:
        raise MaverickError(f"{path} cannot be read ({e.strerror})") from e


def parse(text: str, path: Path) -> dict[str, Any]:
    """Its keys. Raises UsageError naming the line that is no TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise UsageError(f"{path}: {e}; correct the line, or move the file away") from None
    except RecursionError:
        raise UsageError(f"{path}: nested too deeply; correct it, or move it away") from None


def write(path: Path, text: str) -> None:
    """Replace the file at once: after a crash it holds the old text or the new one.

    A link stays one: what it leads to is replaced. Raises MaverickError.
    """
    new = None
    try:
        path = path.resolve()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, new = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.chmod(new, path.stat().st_mode & 0o777)
        os.replace(new, path)
        new = None
    except (OSError, RuntimeError) as e:  # RuntimeError: a link that leads to itself
        raise MaverickError(f"{path} cannot be written ({getattr(e, 'strerror', e)})") from e
    finally:
        if new is not None:
            os.unlink(new)
