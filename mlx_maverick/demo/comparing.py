"""Questions about two pictures, and about none where one is asked about.

Knows nothing of conversations.
"""

from collections.abc import Sequence
from random import Random

from .looking import THING, ask
from .scenes import COLOURS, SHAPES, Scene, known_scene
from .wording import listed, one, pick

BLIND = "I see no picture."


def compare(rng: Random, scenes: Sequence[Scene]) -> tuple[str, str, str]:
    """(kind, question, answer) about two scenes that are not strange."""
    first, second = scenes
    kind = rng.random()
    if kind < 0.15:
        question = pick(
            rng,
            "What is in the pictures?|What do the pictures show?|What is in the two pictures?"
            "|What do you see in the pictures?|What is in each picture?"
            "|What do both pictures show?",
        )
        shown = [listed([one(t.name) for t in s.things]) for s in scenes]
        return "two pictures", question, f"The first shows {shown[0]}, the second {shown[1]}."
    if kind < 0.5:
        a, b = len(first.things), len(second.things)
        question = pick(
            rng,
            "Which picture has more shapes?|Which picture shows more shapes?"
            "|Where are more shapes, in the first or the second picture?"
            "|Are there more shapes in the first or in the second picture?",
        )
        answer = "The first." if a > b else "The second." if b > a else "Both have the same."
        return "two pictures", question, answer
    thing = rng.choice((*first.things, *second.things))
    shape = thing.shape if rng.random() < 0.85 else rng.choice(SHAPES)
    colour = thing.colour if rng.random() < 0.85 else rng.choice(list(COLOURS))
    if rng.random() < 0.5:
        named, has = one(shape), [any(t.shape == shape for t in s.things) for s in scenes]
    else:
        named = one(f"{colour} {rng.choice(THING[:-1])}")
        has = [any(t.colour == colour for t in s.things) for s in scenes]
    question = pick(
        rng,
        "Which picture has {n}?|Which picture shows {n}?|In which picture is {n}?"
        "|In which picture do you see {n}?|Which of the pictures has {n}?",
        n=named,
    )
    answer = {
        (True, True): "Both.", (True, False): "The first.",
        (False, True): "The second.", (False, False): "Neither.",
    }[has[0], has[1]]  # fmt: skip
    return "two pictures", question, answer


def blind(rng: Random) -> tuple[str, str, str]:
    """A question about a picture where there is none."""
    _, question, _ = ask(rng, known_scene(rng), "the picture")
    return "no picture", question, BLIND
