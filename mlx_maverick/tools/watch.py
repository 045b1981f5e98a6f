"""Tool calls in a reply as it arrives: what may become one is held back to the end.

Knows nothing of tokens. Text before a call is shown as it comes; a call that begins a line is
not, and what turns out to be none is shown whole.
"""

import re
from collections.abc import Sequence

from .parse import Parsed, parse

TAG = "<|python_start|>"
STARTS = (TAG, "<function", "[", "{")


class Watch:
    """Looks at one reply's text, piece by piece."""

    def __init__(self, names: Sequence[str]):
        """`names`: of the functions that may be called."""
        self._names = tuple(names)
        self._starts = (*STARTS, *(f"{name}(" for name in names))
        starts = "|".join(map(re.escape, self._starts))
        self._start = re.compile(rf"^[ \t]*(?:{starts})|{re.escape(TAG)}", re.MULTILINE)
        self._text = ""  # all so far
        self._shown = 0  # characters of it
        self._calling = False

    def add(self, text: str) -> str:
        """The text that can be shown after another piece of it came."""
        self._text += text
        if self._calling:
            return ""
        line = self._text.rfind("\n", 0, self._shown) + 1
        # Not from the line's beginning each time: a reply may be one long line.
        if found := self._start.search(self._text, max(line, self._shown - len(TAG))):
            self._calling = True
            return self._show(found.start())
        line = self._text.rfind("\n") + 1
        if line < self._shown:  # it does not begin with a call, else it would not be shown
            return self._show(len(self._text))
        begun = self._text[line:].lstrip(" \t")
        maybe = any(start.startswith(begun) for start in self._starts)
        return self._show(line if maybe else len(self._text))

    def finish(self, text: str) -> Parsed:
        """The calls, after the last piece; `text` is what is still to be shown."""
        self._text += text
        parsed = parse(self._text, self._names)
        shown = self._text[: self._shown].lstrip()
        rest = self._text[self._shown :]
        if parsed.calls and parsed.text.startswith(shown.rstrip()):
            rest = parsed.text[len(shown) :]
        return Parsed(rest, parsed.calls, parsed.problem)

    def _show(self, end: int) -> str:
        start, self._shown = self._shown, max(self._shown, end)
        return self._text[start : self._shown]
