"""The journal of a conversion: which jobs are on the disk for good, and what they wrote.

Knows nothing of tensors. One line of JSON for what is being made of what, then one for each
job: its number, and a CRC-32 of each range it wrote; without CRCs, the job is to be done again.
A line is added only after the ranges are on the disk, so whatever the moment of a kill or a
power cut, what it says is true; a last line cut short is dropped.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_maverick.disk import FULL, sync
from mlx_maverick.errors import DoesNotFit, MaverickError, UsageError

# Lies in every .partial folder and is locked as long as its converter lives. A folder without
# it is somebody else's, and is never touched.
NAME = ".mlx-maverick-converting"
VERSION = 2

Done = dict[int, list[int]]  # CRCs by job


class Journal:
    """An open journal, at its end."""

    def __init__(self, file: int, folder: Path):
        """`file` is the descriptor of the journal in `folder`, and stays the caller's.

        Raises UsageError for one that another version wrote."""
        self._file, self._folder = file, folder
        self.identity, self.done, self._size = _parse(_read(file), folder)

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Start anew, for a conversion that is told from others by `identity` (JSON values)."""
        self.identity, self.done, self._size = dict(identity), {}, 0
        self._append(json.dumps({"version": VERSION, **identity}))

    def add(self, jobs: Mapping[int, list[int]]) -> None:
        """Note jobs whose ranges are on the disk."""
        self._append("\n".join(json.dumps([number, *crcs]) for number, crcs in jobs.items()))
        self.done |= jobs

    def forget(self, jobs: Iterable[int]) -> None:
        """Have these done again."""
        lost = set(jobs)
        if lost:
            self._append("\n".join(json.dumps([number]) for number in sorted(lost)))
        self.done = {number: crcs for number, crcs in self.done.items() if number not in lost}

    def _append(self, lines: str) -> None:
        text = lines.encode() + b"\n"
        with writing(self._folder):
            os.ftruncate(self._file, self._size)  # without what a kill cut short
            while text:
                written = os.pwrite(self._file, text, self._size)
                self._size += written
                text = text[written:]
            sync(self._file)


def read(folder: Path) -> dict[str, Any] | None:
    """What the conversion begun in `folder` is told by; None if there is none.

    Raises as Journal."""
    try:
        data = (folder / NAME).read_bytes()
    except OSError:
        return None
    return _parse(data, folder)[0]


def refuse_other(
    found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path, share: float
) -> None:
    """Raise UsageError, naming the first difference, if a conversion was begun with another
    identity than the `wanted` one; `share` of it is done. "layout" is a digest, and of the same
    source, recipe and tools only another version's can differ."""
    for key in ("recipe", "quantiser", "source", "tools"):
        if found.get(key) != wanted[key]:
            begun, now = _difference(found.get(key), wanted[key])
            if begun.startswith("commit ") and not begun.endswith(" null"):
                begun += f" (--revision {begun.removeprefix('commit ')})"
            raise UsageError(
                f"{folder} holds {share:.0%} of a conversion with {key} {begun}, and this one has "
                f"{now}; repeat that command, choose another --out, or discard it with --restart"
            )
    if found.get("layout") != wanted["layout"]:
        raise _other_version(folder)


def _other_version(folder: Path) -> UsageError:
    return UsageError(
        f"{folder} was begun by another version of mlx-maverick; finish it with that one, choose "
        "another --out, or discard it with --restart"
    )


def _difference(found: Any, wanted: Any) -> tuple[str, str]:
    """Both in a few words: of an object the first value that differs."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*wanted, *found]:
            if found.get(key) != wanted.get(key):
                first, second = _difference(found.get(key), wanted.get(key))
                return f"{key} {first}", f"{key} {second}"
    texts = [v if isinstance(v, str) else json.dumps(v) for v in (found, wanted)]
    return texts[0][:80], texts[1][:80]


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What the disk of `folder` refuses, told as it is to be told."""
    try:
        yield
    except OSError as e:
        if e.errno in FULL:
            why = "became full; make room, and give the same command again"
            raise DoesNotFit(f"the disk of {folder} {why}") from None
        raise MaverickError(
            f"{folder} cannot be written ({e.strerror}); mend its disk, or choose another output"
        ) from e


def _read(file: int) -> bytes:
    size = os.fstat(file).st_size
    return os.pread(file, size, 0)


def _parse(data: bytes, folder: Path) -> tuple[dict[str, Any] | None, Done, int]:
    """Identity, jobs, and bytes of whole lines; without a whole first line nothing was done."""
    lines = data.split(b"\n")[:-1]  # what follows the last newline was cut short
    identity: dict[str, Any] | None = None
    done: Done = {}
    size = 0
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:  # a power cut may leave zeros
            break
        if identity is None:
            if not isinstance(value, dict):
                break
            if value.pop("version", None) != VERSION:
                raise _other_version(folder)
            identity = value
        else:
            if not value or not isinstance(value, list) or not all(type(n) is int for n in value):
                break
            done.pop(value[0], None)
            if value[1:]:
                done[value[0]] = value[1:]
        size += len(line) + 1
    return identity, done, size
