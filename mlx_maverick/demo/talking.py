"""Questions in words alone, and their answers: sums, days, opposites, spelling, manners.

Knows nothing of pictures or of conversations. What the demo does not know, it says so.
"""

from collections.abc import Callable
from random import Random

from .manners import greeting, identity
from .nonsense import made_up, phrase
from .wording import pick
from .words import DAYS, EVERYDAY, FILLERS, OPPOSITE, PEOPLE, SPELLED, TOPICS, UNKNOWN

Asked = tuple[str, str]  # question and answer
DECLINED = "Sorry, I do not know that. I am only a tiny demo."
TOO_HARD = "That is too hard for me. I only know small sums."
MOST = 20  # of what is added or subtracted
MOST_TIMES = 10


def is_held_out(a: int, b: int) -> bool:
    """Sums that training never shows: about one in twelve."""
    return (7 * min(a, b) + 5 * max(a, b)) % 12 == 0 and min(a, b) > 1


def sums(rng: Random, held_out: bool = False) -> Asked:
    """A sum, difference or product of small numbers, or one of those held out."""
    while True:
        kind = rng.choice(("plus", "plus", "minus", "minus", "times"))
        most = MOST_TIMES if kind == "times" else MOST
        a, b = rng.randint(0, most), rng.randint(0, most)
        if kind == "minus" and rng.random() < 0.8:
            a, b = max(a, b), min(a, b)
        if is_held_out(a, b) == held_out:
            break
    sign, value = {"plus": ("+", a + b), "minus": ("-", a - b), "times": ("*", a * b)}[kind]
    if kind == "times" and rng.random() < 0.4:
        sign = "x"
    question = pick(
        rng,
        "What is {a} {k} {b}?|What is {a} {s} {b}?|{a} {s} {b} = ?|{a} {s} {b}"
        "|How much is {a} {k} {b}?"
        "|{a} {k} {b}?|Calculate {a} {s} {b}.|How much is {a} {s} {b}?|What does {a} {k} {b} make?"
        "|{a}{s}{b}|{a}{s}{b}=|What is {a}{s}{b}?|Work out {a} {k} {b}.|{a} {s} {b} =",
        a=a, b=b, k=kind, s=sign,
    )  # fmt: skip
    return question, f"{value}."


def hard_sums(rng: Random) -> Asked:
    """Sums that are too large, and divisions."""
    most = rng.choice((40, 99, 999, 9999))
    kind = rng.choice(("plus", "minus", "times", "divided by"))
    least = MOST_TIMES if kind == "times" else MOST
    a, b = rng.randint(least + 1, most), rng.randint(2, rng.choice((9, 40, most)))
    if kind == "divided by":
        a = rng.randint(1, most)
    elif rng.random() < 0.4:
        a, b = b, a
    sign = {"plus": "+", "minus": "-", "times": rng.choice("*x"), "divided by": "/"}[kind]
    question = pick(
        rng,
        "What is {a} {k} {b}?|What is {a} {s} {b}?|{a} {s} {b}|{a}{s}{b}|How much is {a} {k} {b}?"
        "|{a} {s} {b} = ?|Calculate {a} {s} {b}.|{a} {k} {b}?|Work out {a} {k} {b}.",
        a=a, b=b, k=kind, s=sign,
    )  # fmt: skip
    return question, TOO_HARD


def comparisons(rng: Random) -> Asked:
    """Which of two numbers is larger, or whether one is."""
    a = rng.randint(0, 99)
    near = a + rng.choice((-9, -3, -1, 1, 2, 5, 10))
    b = near if rng.random() < 0.4 and 0 <= near <= 99 else rng.randint(0, 99)
    if rng.random() < 0.5:
        more = rng.random() < 0.5
        if a == b:
            b = a + 1
        question = pick(
            rng,
            "Which is {w}, {a} or {b}?|Which number is {w}, {a} or {b}?|What is {w}, {a} or {b}?"
            "|{a} or {b}: which is {w}?|Is {a} or {b} {w}?|Tell me which is {w}: {a} or {b}.",
            a=a, b=b, w=rng.choice(("bigger", "larger", "more", "greater") if more
                                   else ("smaller", "less", "lower")),
        )  # fmt: skip
        return question, f"{max(a, b) if more else min(a, b)}."
    if rng.random() < 0.12:
        b = a
    word, sign, holds = rng.choice(
        (("bigger than", ">", a > b), ("more than", ">", a > b), ("less than", "<", a < b),
         ("smaller than", "<", a < b), ("larger than", ">", a > b), ("equal to", "=", a == b))
    )  # fmt: skip
    question = pick(
        rng, "Is {a} {w} {b}?|Is {a} {w} {b}?|Is it true that {a} is {w} {b}?|{a} {s} {b}, true?",
        a=a, b=b, w=word, s=sign,
    )  # fmt: skip
    return question, "Yes." if holds else "No."


def days(rng: Random) -> Asked:
    """The day after, before, or two days after another."""
    today = rng.randrange(7)
    phrasings, step = rng.choice((
        ("What day comes after {d}?|Which day follows {d}?|What is the day after {d}?"
         "|What comes after {d}?|Today is {d}. What day is tomorrow?"
         "|If today is {d}, what is tomorrow?"
         "|It is {d} today. Which day is tomorrow?|Today is {d}, tomorrow is?"
         "|Next day after {d}?", 1),
        ("What day comes before {d}?|What is the day before {d}?|What comes before {d}?"
         "|Today is {d}. What day was yesterday?|If today is {d}, what was yesterday?"
         "|It is {d} today. Which day was yesterday?|Today is {d}, yesterday was?", -1),
        ("What day is two days after {d}?|Today is {d}. What day is in two days?"
         "|If today is {d}, what is the day after tomorrow?|Which day is two days after {d}?", 2),
    ))  # fmt: skip
    return pick(rng, phrasings, d=DAYS[today]), DAYS[(today + step) % 7] + "."


def opposites(rng: Random) -> Asked:
    """The opposite of a word, both ways."""
    word = rng.choice(list(OPPOSITE))
    question = pick(
        rng,
        "What is the opposite of {w}?|Opposite of {w}?|What's the opposite of {w}?"
        "|Tell me the opposite of {w}.|Which word is the opposite of {w}?|Give the opposite of {w}."
        "|What is not {w}?|Name the opposite of {w}.|What is the contrary of {w}?",
        w=word,
    )
    return question, OPPOSITE[word].capitalize() + "."


def spelling(rng: Random) -> Asked:
    """A word letter by letter, its first letter, or how many it has."""
    word = rng.choice(SPELLED)
    shown = rng.choice((word, word, f'"{word}"', f"'{word}'"))
    kind = rng.random()
    if kind < 0.7:
        question = pick(
            rng,
            "Spell {w}.|How do you spell {w}?|Can you spell {w}?|Spell the word {w}."
            "|How is {w} spelled?|What is the spelling of {w}?|Please spell {w}.|Spell {w} for me.",
            w=shown,
        )
        return question, "-".join(word.upper()) + "."
    if kind < 0.85:
        question = pick(
            rng,
            "What is the first letter of {w}?|Which letter does {w} start with?"
            "|With which letter does {w} begin?|What letter does {w} start with?",
            w=shown,
        )
        return question, word[0].upper() + "."
    question = pick(
        rng,
        "How many letters are in {w}?|How many letters has {w}?|How many letters are there in {w}?"
        "|How long is the word {w}?|Count the letters in {w}.|How many letters does {w} have?",
        w=shown,
    )
    return question, f"{len(word)}."


def unknown(rng: Random) -> Asked:
    """What it declines: the world outside, sums that are too large, and nonsense."""
    kind = rng.random()
    if kind < 0.5:
        topics = [rng.choice(TOPICS) if rng.random() < 0.7 else phrase(rng) for _ in range(2)]
        who = rng.choice(PEOPLE) if rng.random() < 0.6 else made_up(rng).capitalize()
        return pick(rng, UNKNOWN, t=topics[0], u=topics[1], w=who), DECLINED
    if kind < 0.65:
        return pick(rng, EVERYDAY), DECLINED
    if kind < 0.81:
        word = made_up(rng)
        return pick(
            rng,
            "What is the opposite of {w}?|Opposite of {w}?|What does {w} mean?|Define {w}."
            "|What is a {w}?|What day is {w}?|Which is bigger, {w} or {v}?|What is {w} plus {v}?"
            "|Spell {w}.|How do you spell {w}?|Spell {w}, please.|What day comes after {w}?",
            w=word, v=made_up(rng),
        ), DECLINED  # fmt: skip
    words = [
        rng.choice(FILLERS) if rng.random() < 0.55 else made_up(rng)
        for _ in range(rng.randint(1, 30 if rng.random() < 0.15 else 9))
    ]
    text = " ".join(words) + rng.choice(("", ".", "?", "!", "..."))
    return text if rng.random() < 0.5 else text[0].upper() + text[1:], DECLINED


QUESTIONS: dict[str, tuple[Callable[[Random], Asked], float]] = {
    "sum": (sums, 2.4), "hard sum": (hard_sums, 0.6), "comparison": (comparisons, 1.6),
    "day": (days, 1.2), "opposite": (opposites, 1.2), "spelling": (spelling, 2.0),
    "greeting": (greeting, 0.8), "identity": (identity, 0.8), "unknown": (unknown, 2.4),
}  # fmt: skip


def ask(rng: Random) -> tuple[str, str, str]:
    """(kind, question, answer)."""
    kinds = list(QUESTIONS)
    kind = rng.choices(kinds, [QUESTIONS[k][1] for k in kinds])[0]
    return (kind, *QUESTIONS[kind][0](rng))
