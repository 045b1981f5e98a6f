"""Colours for code, also while it is still being written.

Knows nothing of widgets. What was coloured stays as it is while lines are added: each addition
colours the last lines again, from a place where no string or comment is open.
"""

from functools import lru_cache
from typing import Any

from pygments.lexer import Lexer  # type: ignore[import-untyped]
from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]
from pygments.token import Comment, String  # type: ignore[import-untyped]
from pygments.util import ClassNotFound  # type: ignore[import-untyped]
from textual.content import Content, Span
from textual.highlight import HighlightTheme

from .rows import TAB

AGAIN = 24  # lines that are coloured with each addition, at most so many where the code allows
KEPT = 4  # of them the last ones, which may turn out part of something


@lru_cache(maxsize=16)
def lexer(language: str) -> Lexer | None:
    """None: no such language, or none is named."""
    if not language:
        return None
    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=True)
    except ClassNotFound:
        return None


@lru_cache(maxsize=512)
def style(kind: Any) -> str:
    """Textual's style for a kind of token."""
    while kind is not None:
        if found := HighlightTheme.STYLES.get(kind):
            return found
        kind = kind.parent
    return ""


class Colours:
    """The lines of one code block, coloured."""

    def __init__(self, language: str):
        self.language = language
        self._done: list[Content] = []
        self._text = ""  # of the lines that are done

    def lines(self, code: str, whole: bool) -> list[Content]:
        """`code`, line by line. Lines stay coloured as they are until it is `whole`."""
        code = code.expandtabs(TAB).rstrip("\n")
        reader = lexer(self.language)
        if reader is None:
            return [Content(line) for line in code.split("\n")]
        if whole or not code.startswith(self._text):
            self._done, self._text = [], ""
        fresh, cut = _coloured(reader, code[len(self._text) :])
        lines = [*self._done, *fresh]
        if not whole and len(fresh) > AGAIN and cut:
            self._done += fresh[:cut]
            self._text += "".join(f"{line.plain}\n" for line in fresh[:cut])
        return lines


def _coloured(reader: Lexer, code: str) -> tuple[list[Content], int]:
    """The lines, and how many of them could stay as they are."""
    lines: list[str] = [""]
    spans: list[list[Span]] = [[]]
    fresh = [0]  # lines that begin outside of strings and comments
    for kind, text in reader.get_tokens(code):
        look = style(kind)
        for at, part in enumerate(text.split("\n")):
            if at:
                lines.append("")
                spans.append([])
            if part:
                start = len(lines[-1])
                lines[-1] += part
                if look:
                    spans[-1].append(Span(start, start + len(part), look))
        if text.endswith("\n") and not (kind in String or kind in Comment):
            fresh.append(len(lines) - 1)
    count = code.count("\n") + 1
    made = [Content(line, spans) for line, spans in zip(lines, spans, strict=True)]
    made += [Content("")] * (count - len(made))
    cut = max((at for at in fresh if at <= count - KEPT), default=0)
    return made[:count], cut
