"""What goes to a person's terminal: harmless text, and a line that is rewritten.

Knows nothing of verbs.
"""

import sys
import unicodedata
from typing import TextIO


def printable(text: str) -> str:
    """`text` without control characters, which could move the cursor, retitle the window or
    type on the user's behalf. Newlines and tabs stay; so does right-to-left text, but not
    the overrides that reorder what surrounds it."""
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
            self.stream.write("\r\x1b[K" + printable(text).replace("\n", " "))
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
