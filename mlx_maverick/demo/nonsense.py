"""Words that are none: what nobody can know, and names that nobody has heard.

Knows nothing of questions.
"""

from random import Random

from .words import OPPOSITE, SPELLED

# Syllables of words that are none.
STARTS = (*"bcdfghjklmnprstvwz", "ch", "sh", "st", "br", "tr", "pl")
VOWELS = (*"aeiou", "ai", "ee", "ou")
ENDS = tuple("lmnrstx")


def made_up(rng: Random) -> str:
    """A word that is none."""
    syllables = rng.randint(1, 4)
    word = "".join(
        rng.choice(STARTS) + rng.choice(VOWELS) + (rng.choice(ENDS) if rng.random() < 0.35 else "")
        for _ in range(syllables)
    )
    if word in SPELLED or word in OPPOSITE or len(word) < 3:
        return made_up(rng)
    return word


def phrase(rng: Random) -> str:
    """Something with such words in it, as a topic may be called."""
    words = [made_up(rng)]
    if rng.random() < 0.5:
        words.insert(0, rng.choice(("the", "a", "my", "the old", "some", "the great")))
    if rng.random() < 0.3:
        words += ["of", made_up(rng).capitalize()]
    return " ".join(words)
