"""What goes to a person's terminal: harmless text, and a line that is rewritten.

Knows nothing of verbs.
"""

import os
import sys
import unicodedata
from typing import TextIO

COLUMNS = 80  # of a terminal that does not tell


def printable(text: str) -> str:
    """`text` without control characters, which could move the cursor, retitle the window or
    type on the user's behalf. Newlines and tabs stay; so does right-to-left text, but not
    the overrides that reorder what surrounds it."""
    if text.replace("\n", "").isprintable():  # as nearly all is, of long texts too
        return text
    return "".join(c for c in text if c in "\n\t" or not _unsafe(c))


def _unsafe(c: str) -> bool:
    return (
        unicodedata.category(c) in ("Cc", "Cs") or c in "\u202a\u202b\u202d\u202e\u2066\u2067\u2068"
    )


class StatusLine:
    """One line on stderr that is rewritten in place; silent when stderr is no terminal."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.shown = False

    def show(self, text: str) -> None:
        if self.live:
            text = printable(text).replace("\n", " ")
            # One that wraps could not be rewritten, only its last row.
            self.stream.write("\r\x1b[K" + text[: _columns(self.stream) - 1])
            self.stream.flush()
            self.shown = True

    def clear(self) -> None:
        if self.shown:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
            self.shown = False

    def say(self, text: str) -> None:
        """A line that stays, on a terminal or not."""
        self.clear()
        self.stream.write(printable(text).replace("\n", " ") + "\n")
        self.stream.flush()


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or COLUMNS
    except OSError:  # no descriptor, or of no terminal
        return COLUMNS
