"""A chat as a file for people or for programs.

Knows nothing of the database. Markdown has the branch that is shown, JSON all branches and
everything that is known.
"""

import itertools
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...cli.terminal import printable
from .faults import StoreError
from .records import StoredChat, StoredMessage, one_line

FORMAT = "mlx-maverick chat"
FORMAT_VERSION = 1
NAME_BYTES = 120  # of a file; systems take 255
UNSAFE = '/\\:*?"<>|'  # on one system or another


def markdown(chat: StoredChat) -> str:
    """The branch that is shown; the messages are as they were written, but for control
    characters."""
    when = datetime.fromtimestamp(chat.created).strftime("%Y-%m-%d %H:%M")
    parts = [f"# {one_line(chat.title) or 'Chat'}", f"*{one_line(chat.model)}, {when}*"]
    if chat.system:
        parts += ["## System", chat.system.strip("\n")]
    for message in chat.path():
        parts.append("## You" if message.role == "user" else "## Assistant")
        parts += [f"![picture](<{picture.path.as_uri()}>)" for picture in message.pictures]
        parts.append(_closed(message.text.strip("\n")))
        if message.note:
            parts.append(f"*({one_line(message.note)})*")
    return printable("\n\n".join(part for part in parts if part) + "\n")


def _closed(text: str) -> str:
    """`text` with a code block that it left open, as a stopped reply may, closed: what follows
    in the file is none of it."""
    fence = ""
    for line in text.splitlines():
        bare = line.strip()
        if fence:
            if bare.startswith(fence) and not bare.strip(fence[0]):
                fence = ""
        elif bare.startswith(("```", "~~~")):
            fence = bare[: len(bare) - len(bare.lstrip(bare[0]))]
    return f"{text}\n{fence}" if fence else text


def as_json(chat: StoredChat) -> str:
    """Everything; a message's `parent` is the one it answers, `leaf` ends the branch shown."""
    whole = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "title": chat.title,
        "model": chat.model,
        "created": _iso(chat.created),
        "system": chat.system,
        "settings": chat.settings,
        "leaf": chat.leaf,
        "messages": [_message(message) for message in chat.messages],
    }
    return json.dumps(whole, ensure_ascii=False, indent=2) + "\n"


def _message(message: StoredMessage) -> dict[str, Any]:
    return {
        "id": message.id,
        "parent": message.parent,
        "role": message.role,
        "created": _iso(message.created),
        "text": message.text,
        "note": message.note,
        "whole": message.whole,
        "pictures": [
            {"path": str(p.path), "width": p.width, "height": p.height, "bytes": p.nbytes}
            for p in message.pictures
        ],
        "stats": message.stats,
        "token_ids": list(message.ids),
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def write(folder: Path, title: str, suffix: str, text: str) -> Path:
    """Write `text` as `title` with `suffix` ('.md') into `folder`, whole or not at all, and
    beside what is there: 'title 2.md'. The path. Raises StoreError."""
    name = file_name(title)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=folder, suffix=".partial")
        taken: Path | None = None
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                file.write(text)
            taken = _take(folder, name, suffix)
            os.replace(partial, taken)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            if taken is not None:
                taken.unlink(missing_ok=True)
            raise
    except OSError as e:
        raise StoreError(f"{folder} cannot be written ({e.strerror or e}); export elsewhere") from e
    return taken


def file_name(title: str) -> str:
    """A name that every file system takes, of what the title says."""
    plain = "".join("-" if c in UNSAFE else c for c in one_line(title))
    plain = plain.encode()[:NAME_BYTES].decode(errors="ignore").strip(" .-")
    return plain or "chat"


def _take(folder: Path, name: str, suffix: str) -> Path:
    """An empty file of ours under the first name that is free."""
    for n in itertools.count(1):
        path = folder / (f"{name}{suffix}" if n == 1 else f"{name} {n}{suffix}")
        try:
            path.touch(mode=0o600, exist_ok=False)
            return path
        except FileExistsError:
            continue
    raise AssertionError("a count has no end")
