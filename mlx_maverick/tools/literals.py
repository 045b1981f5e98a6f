"""JSON and Python literals, read where they stand inside a longer text.

Knows nothing of tools. Models mix the two notations (`True` in JSON, `null` in Python), so one
reader takes both; nothing is ever evaluated.
"""

import math
import re
from typing import Any

DEPTH = 64  # of lists and objects inside each other
WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}

_SPACE = re.compile(r"[ \t\r\n]*")
_WORD = re.compile(r"[^\W\d]\w*")
_NUMBER = re.compile(
    r"[+-]?(?:(?:0|[1-9](?:_?[0-9])*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.])"
)
_QUOTE = re.compile(r'"""|\'\'\'|"|\'')
# What follows an opening quote, up to and with the closing one.
_STRINGS = {
    '"': re.compile(r'([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL),
    "'": re.compile(r"([^'\\]*+(?:\\.[^'\\]*+)*+)'", re.DOTALL),
    '"""': re.compile(r'((?:[^\\"]|\\.|"(?!""))*+)"""', re.DOTALL),
    "'''": re.compile(r"((?:[^\\']|\\.|'(?!''))*+)'''", re.DOTALL),
}
_ESCAPE = re.compile(
    r"\\(u[0-9a-fA-F]{4}|U00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[0-7]{1,3}|.)",
    re.DOTALL,
)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a",
            "\\": "\\", "'": "'", '"': '"', "/": "/", "\n": ""}  # fmt: skip


class Malformed(ValueError):
    """The text is not a literal from here; the message says why in a few words."""


class Reader:
    """A place in a text, which moves on with what is read."""

    def __init__(self, text: str, at: int = 0):
        self.text, self.at = text, at
        self._depth = 0

    def skip(self) -> "Reader":
        """Past white space."""
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self

    def take(self, token: str) -> bool:
        """Past `token` and white space before it, if it comes next."""
        self.skip()
        found = self.text.startswith(token, self.at)
        self.at += len(token) if found else 0
        return found

    def match(self, pattern: re.Pattern[str]) -> str:
        """Past what the pattern matches here, or '' if it does not."""
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return match[0] if match else ""

    def expect(self, token: str) -> None:
        """Raises Malformed unless `token` comes next."""
        if not self.take(token):
            raise self.malformed(f"expected {token!r}")

    def malformed(self, wanted: str) -> Malformed:
        rest = self.text[self.at : self.at + 16]
        return Malformed(f"{wanted}, not {rest!r}" if rest else f"{wanted}, but the text ends")

    def value(self) -> Any:
        """The literal that comes next: what JSON can hold; tuples are lists.

        Raises Malformed also for what JSON cannot hold (sets, NaN, keys that are not strings),
        for names that come twice in one object, and for nesting deeper than DEPTH.
        """
        self.skip()
        opening = self.text[self.at : self.at + 1]
        if opening in ("[", "(", "{") and opening:
            return self._nested(opening)
        if opening in ('"', "'") and opening:
            return self._string()
        if number := self.match(_NUMBER):
            return self._number(number)
        start = self.at
        word = self.match(_WORD)
        if word in WORDS:
            return WORDS[word]
        self.at = start
        raise self.malformed("expected a value")

    def _nested(self, opening: str) -> Any:
        if self._depth == DEPTH:
            raise Malformed(f"nested deeper than {DEPTH}")
        self._depth += 1
        self.at += 1
        if opening == "{":
            made: Any = self._pairs()
        else:
            made, commas = self._items("]" if opening == "[" else ")")
            if opening == "(" and len(made) == 1 and not commas:
                made = made[0]  # only parentheses
        self._depth -= 1
        return made

    def _items(self, closing: str) -> tuple[list[Any], int]:
        items: list[Any] = []
        commas = 0
        while not self.take(closing):
            if len(items) > commas:
                raise self.malformed(f"expected ',' or {closing!r}")
            items.append(self.value())
            commas += self.take(",")
        return items, commas

    def _pairs(self) -> dict[str, Any]:
        pairs: dict[str, Any] = {}
        more = True
        while not self.take("}"):
            if not more:
                raise self.malformed("expected ',' or '}'")
            if not _QUOTE.match(self.text, self.at):
                raise self.malformed("expected a name in quotes")
            name = self._string()
            if name in pairs:
                raise Malformed(f"{name!r} is given twice")
            self.expect(":")
            pairs[name] = self.value()
            more = self.take(",")
        return pairs

    def _string(self) -> str:
        quote = self.match(_QUOTE)
        match = _STRINGS[quote].match(self.text, self.at)
        if not match:
            self.at = len(self.text)
            raise Malformed("a string has no end")
        self.at = match.end()
        return _unescaped(match[1])

    def _number(self, text: str) -> int | float:
        if set(text) <= set("+-_0123456789"):
            try:
                return int(text)
            except ValueError:  # Python reads 4,300 digits at most
                raise Malformed(f"a number of {len(text)} digits") from None
        number = float(text)
        if not math.isfinite(number):
            raise Malformed(f"{text} is too large")
        return number


def _unescaped(text: str) -> str:
    """Escapes of both languages; one that neither knows stays as it is, as in Python."""
    if "\\" in text:
        text = _ESCAPE.sub(_character, text)
    try:
        # JSON writes characters beyond U+FFFF as two halves.
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise Malformed("half a character (a lone surrogate)") from None


def _character(escape: re.Match[str]) -> str:
    code = escape[1]
    if code[0] in "uUx" and len(code) > 1:
        return chr(int(code[1:], 16))
    if code[0] in "01234567":
        return chr(int(code, 8))
    return _ESCAPED.get(code, escape[0])
