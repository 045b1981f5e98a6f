"""What counts as a word when chats are searched, and what a person's query asks for.

Knows nothing of the database.
"""

import re
import unicodedata
from dataclasses import dataclass

# Written without spaces between words: every character is a token, and a word of these is a
# phrase. Thai to Myanmar, Khmer, kana, Han, Hangul.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)
# Signs that people look for: C++, C#, $HOME, 50 %, me@home, currencies, arrows, emoji.
SIGNS = "+#$%&@<=>\u20a0-\u20cf\u2190-\u2bff\U0001f000-\U0001fbff"
# Vowel signs of India's scripts are no letters for Python, but belong to the word.
LETTER = rf"(?:(?![{UNSPACED}])[^\W_]|[\u0900-\u0963\u0966-\u0dff])"
TOKEN = re.compile(f"[{UNSPACED}{SIGNS}]|{LETTER}+")
# Latin, Greek and Cyrillic accents, Hebrew points, Arabic vowels: nobody types them to search.
ACCENTS = re.compile("[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u064b-\u065f\u0670]")
QUERY = re.compile(r'"([^"]*)("?)|([^\s"]+)')

LONGEST = 300  # characters of a query that are looked at
MOST = 16  # words of it


def fold(text: str) -> str:
    """`text` without case, accents and forms of width."""
    if text.isascii():
        return text.lower()
    plain = ACCENTS.sub("", unicodedata.normalize("NFKD", text))
    return unicodedata.normalize("NFC", plain.casefold())


def tokens(text: str) -> list[str]:
    return TOKEN.findall(fold(text))


@dataclass(frozen=True)
class Phrase:
    """Tokens that must follow each other; if `open`, the last one may be longer."""

    tokens: tuple[str, ...]
    open: bool = False

    def match(self) -> str:
        """As FTS5's expression. No token holds a quote."""
        return f'"{" ".join(self.tokens)}"{"*" * self.open}'


def phrases(query: str) -> list[Phrase]:
    """What a person asks for: every word, in any order; words in quotes one after the other.
    The last word may be unfinished, unless a space or a quote ends it."""
    query = query[:LONGEST]
    made = []
    for found in QUERY.finditer(query):
        quoted, closed, word = found.groups()
        last = found.end() == len(query) and not closed
        if split := tokens(word or quoted or ""):
            made.append(Phrase(tuple(split), last))
    return list(dict.fromkeys(made))[:MOST]
