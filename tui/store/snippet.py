"""The piece of a text in which a search's words stand, and where they stand in it.

Knows nothing of the database: it looks for the words again, in one text.
"""

import re
import unicodedata
from collections.abc import Sequence
from itertools import islice

from .records import Marks, one_line
from .words import SIGNS, UNSPACED, Phrase, fold

WINDOW = 140  # characters
BEFORE = 20  # of them before the first hit, where the text's beginning is not NEAR
NEAR = 35  # characters; the hit is in view at 60 columns
MOST = 50  # hits that are looked at

ALONE = re.compile(f"[{UNSPACED}{SIGNS}]")


class _Flat(dict[int, int]):
    """Each character without case and accents, one for one: places stay the same."""

    def __missing__(self, c: int) -> int:
        self[c] = ord((fold(chr(c)) or chr(c))[0])
        return self[c]


_FLAT = _Flat()


def _flat(text: str) -> str:
    return text.lower() if text.isascii() else text.translate(_FLAT)


class Finder:
    """Finds any of `phrases`."""

    def __init__(self, phrases: Sequence[Phrase]):
        longest_first = sorted(phrases, key=lambda p: -len(" ".join(p.tokens)))
        self._pattern = re.compile("|".join(f"({_pattern(p)})" for p in longest_first))

    @classmethod
    def exactly(cls, text: str) -> "Finder":
        """For a query that has no words: `text` as it is."""
        made = cls(())
        made._pattern = re.compile(f"({re.escape(_flat(text))})")
        return made

    def hits(self, line: str) -> Marks:
        return tuple(found.span() for found in self._pattern.finditer(_flat(line)))

    def snippet(self, text: str) -> tuple[str, Marks]:
        """One printable line out of `text`, where most of the phrases are near each other, and
        the places of the hits in it."""
        text = unicodedata.normalize("NFC", text)
        at = self._best(_flat(text))
        start = 0 if at < NEAR else at - BEFORE
        if start > 0:  # not in the middle of a word, if one begins before the hit
            space = text.find(" ", start, at)
            start = start if space < 0 else space + 1
        line = one_line(text[start : start + WINDOW])
        line = ("…" if start > 0 else "") + line + ("…" if start + WINDOW < len(text) else "")
        return line, self.hits(line)

    def _best(self, flat: str) -> int:
        """Where to begin: the first hit from which the window holds the most phrases."""
        hits = islice(self._pattern.finditer(flat), MOST)
        found = [(match.start(), match.lastindex) for match in hits]
        best, most = 0, 0
        for i, (start, _) in enumerate(found):
            near = set()
            for at, which in found[i:]:
                if at >= start + WINDOW - BEFORE:
                    break
                near.add(which)
            if len(near) > most:
                best, most = start, len(near)
            if most == self._pattern.groups:
                break
        return best


def _pattern(phrase: Phrase) -> str:
    first, *rest = (re.escape(_flat(token)) for token in phrase.tokens)
    # Looking back comes after the word: a pattern that begins with letters is found faster.
    alone = "" if ALONE.match(phrase.tokens[0]) else rf"(?<![^\W_]{first})"
    ended = phrase.open or ALONE.match(phrase.tokens[-1])
    words = "".join(rf"[\W_]*{token}" for token in rest)
    return first + alone + words + ("" if ended else r"(?![^\W_])")
