"""A file of which experts were chosen, for analysis.

One JSON object a line: `layer`, `position` of the first token, `experts` chosen for it and those
that follow it, and `expected`: those that the layer before had expected, or null.
"""

import json
import logging
import stat
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from ..errors import MaverickError, UsageError

log = logging.getLogger(__name__)


BEGINNING = b'{"layer":'  # of every line


class RouteLog:
    """The file. What a log holds already stays, and is added to."""

    def __init__(self, file: Path):
        """Raises UsageError if it cannot be written, or is something else than a log."""
        self.file = file
        try:
            if file.exists() and not _is_log(file):
                raise UsageError(f"{file} is no route log, and is left alone; give another file")
            self._out = file.open("a", encoding="ascii")
        except OSError as e:
            raise UsageError(
                f"the route log {file} cannot be written ({e.strerror}); give another file"
            ) from None
        weakref.finalize(self, _close, self._out)

    def write(
        self, layer: int, position: int, experts: Sequence[int], expected: Sequence[int] | None
    ) -> None:
        """Raises MaverickError, for instance for a full disk."""
        line = {"layer": layer, "position": position, "experts": experts, "expected": expected}
        try:
            self._out.write(json.dumps(line, separators=(",", ":")) + "\n")
        except OSError as e:
            raise self._failed(e) from None

    def flush(self) -> None:
        """Raises MaverickError."""
        try:
            self._out.flush()
        except OSError as e:
            raise self._failed(e) from None

    def _failed(self, e: OSError) -> MaverickError:
        return MaverickError(
            f"the route log {self.file} cannot be written ({e.strerror}); make room, or load the "
            "model without it"
        )


def _is_log(file: Path) -> bool:
    """Whether a file that is there is one, or empty; a device such as /dev/null will do."""
    kind = file.stat().st_mode
    if not stat.S_ISREG(kind):
        return not stat.S_ISFIFO(kind)  # which would wait for a reader
    with file.open("rb") as there:
        return there.read(len(BEGINNING)) in (b"", BEGINNING)


def _close(out: TextIO) -> None:
    try:
        out.close()
    except OSError as e:  # said before, when it was written; and nobody listens now
        log.warning("the route log is not complete (%s)", e.strerror)
