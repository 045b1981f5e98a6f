"""How people put things: phrasings of a question, casual spelling, lists in words.

Knows nothing of what is asked.
"""

from collections.abc import Sequence
from random import Random

NUMBERS = ("none", "one", "two", "three")
OPENINGS = (
    "please tell me, ", "tell me, ", "hey, ", "ok, ", "now, ", "and ", "so, ", "please: ",
    "well, ", "I wonder, ", "can you tell me: ", "one more: ", "next question: ", "quick: ",
)  # fmt: skip
ENDINGS = (" please", " please?", " Thanks.", ", please.", " Thank you!")
CONTRACTED = (
    ("What is", "What's"), ("what is", "what's"), ("Where is", "Where's"),
    ("Who is", "Who's"), ("There is", "There's"),
)  # fmt: skip
SPELLINGS = (("colour", "color"), ("favourite", "favorite"))


def pick(rng: Random, phrasings: str, **values: object) -> str:
    """One of the phrasings, which `|` separates, with `{name}` filled in."""
    return rng.choice(phrasings.split("|")).strip().format(**values)


def casual(rng: Random, text: str, keep_case: bool = False) -> str:
    """The question as someone may type it; the words that decide the answer stay."""
    for british, american in SPELLINGS:
        if rng.random() < 0.5:
            text = text.replace(british, american)
    for full, short in CONTRACTED:
        if rng.random() < 0.25:
            text = text.replace(full, short)
    if rng.random() < 0.12:
        first = text[0] if keep_case or text.startswith("I ") else text[0].lower()
        opening = rng.choice(OPENINGS)
        if rng.random() < 0.6:
            opening = opening[0].upper() + opening[1:]
        text = opening + first + text[1:]
    if rng.random() < 0.12:
        text = text.rstrip("?.!")
    elif rng.random() < 0.06:
        text = text.rstrip("?.!") + rng.choice(ENDINGS)
    if rng.random() < 0.18 and not keep_case:
        text = text.lower()
    return text


def listed(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(items) == 1:
        return items[0]
    return ", ".join(items[:-1]) + " and " + items[-1]


def one(name: str) -> str:
    """With its article."""
    return ("an " if name[0] in "aeiou" else "a ") + name


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return text[0].upper() + text[1:] + "."
