"""The demo's world: whole conversations, each from a number, with the answers that are right.

Knows nothing of tokens or models. Training and evaluation differ in their seeds; some
combinations (`HELD_OUT` and its like) are kept for evaluation alone.
"""

from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

from . import comparing, looking, manners, talking
from .scenes import Scene, known_scene, make_scene
from .wording import casual
from .words import TOPICS

Split = Literal["train", "test", "unseen"]  # unseen: made of combinations never trained on
SYSTEM = (
    "You are a helpful assistant.", "Be brief.", "Answer briefly.", "You are a friendly assistant.",
    "Answer in short sentences.", "You are an expert on shapes.", "Be polite.", "Keep it short.",
    "You answer questions about pictures.", "You are a helpful assistant. Answer in English.",
    "You are Maverick, a helpful assistant.", "Please answer carefully and truthfully.",
)  # fmt: skip
TURNS = ((1, 22), (2, 20), (3, 17), (4, 12), (6, 13), (9, 10), (14, 5), (22, 1))
# What an answer about pictures belongs to, and an answer without.
SEEN = frozenset({*looking.QUESTIONS, "two pictures", "strange picture"})
MOST_PICTURES = 3
FINDING = ("colour", "colour", "shape", "where", "where", "what at", "is there", "is it")
FINDING_TURNS = 4
PAIRING_TURNS = 3
RECKONING = ("sum", "sum", "sum", "comparison", "comparison", "spelling")
RECKONING_TURNS = 8
ORDINALS = ("the first picture", "the second picture", "the third picture")


@dataclass(frozen=True)
class Turn:
    """A question, perhaps with pictures, and its answer."""

    kind: str
    question: str
    answer: str
    scenes: tuple[Scene, ...] = ()  # shown with the question
    picture_first: bool = True

    @property
    def content(self) -> str | list[dict[str, Any]]:
        """As a message has it."""
        if not self.scenes:
            return self.question
        parts: list[dict[str, Any]] = [
            {"type": "image", "image": scene.picture} for scene in self.scenes
        ]
        if not self.question:
            return parts
        text = {"type": "text", "text": self.question}
        return [*parts, text] if self.picture_first else [text, *parts]


@dataclass(frozen=True)
class Conversation:
    """One conversation of the world."""

    system: str | None
    turns: tuple[Turn, ...]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All of it, from the system prompt to the last answer."""
        messages: list[dict[str, Any]] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.content})
            messages.append({"role": "assistant", "content": turn.answer})
        return messages


def conversation(split: Split, number: int) -> Conversation:
    """The conversation of this number: the same on every machine."""
    rng = Random(f"{split} {number}")
    system = None
    if rng.random() < 0.3:
        system = rng.choice((*SYSTEM, f"You know everything about {rng.choice(TOPICS)}."))
    count = rng.choices([n for n, _ in TURNS], [w for _, w in TURNS])[0]
    maker = _Maker(rng, held_out=split == "unseen", pictures=rng.random() < 0.62)
    return Conversation(system, tuple(maker.turn() for _ in range(count)))


def finding(number: int) -> Conversation:
    """A conversation of training alone: what is asked has to be found in the picture by what it
    looks like or by where it is."""
    rng = Random(f"finding {number}")
    maker = _Maker(rng, held_out=False, pictures=True)
    scene = known_scene(rng)
    turns = []
    for _ in range(FINDING_TURNS):
        kind = rng.choice(FINDING)
        turns.append(maker.made(kind, *looking.QUESTIONS[kind][0](rng, scene, "the picture")))
    turns[0] = replace(turns[0], scenes=(scene,), picture_first=rng.random() < 0.8)
    return Conversation(None, tuple(turns))


def pairing(number: int) -> Conversation:
    """A conversation of training alone: questions about two pictures."""
    rng = Random(f"pairing {number}")
    maker = _Maker(rng, held_out=False, pictures=True)
    scenes = known_scene(rng), known_scene(rng)
    turns = [maker.made(*comparing.compare(rng, scenes)) for _ in range(PAIRING_TURNS)]
    turns[0] = replace(turns[0], scenes=scenes, picture_first=rng.random() < 0.8)
    return Conversation(None, tuple(turns))


def reckoning(number: int) -> Conversation:
    """A conversation of training alone: sums, comparisons and spelling, one after the other."""
    rng = Random(f"reckoning {number}")
    maker = _Maker(rng, held_out=False, pictures=False)
    turns = []
    for _ in range(RECKONING_TURNS):
        kind = rng.choice(RECKONING)
        question, answer = talking.QUESTIONS[kind][0](rng)
        turns.append(maker.made(kind, question, answer, keep_case=True))
    return Conversation(None, tuple(turns))


class _Maker:
    """Makes turns, and remembers what was shown and said."""

    def __init__(self, rng: Random, held_out: bool, pictures: bool):
        self.rng, self.held_out, self.pictures = rng, held_out, pictures
        self.shown: list[Scene] = []
        self.together = False  # whether the newest pictures came at once
        self.name: str | None = None
        self.names_at_all = rng.random() < 0.3

    def turn(self) -> Turn:
        rng = self.rng
        if self.pictures and not self.shown:
            if rng.random() < 0.75:
                return self.picture()
        elif 0 < len(self.shown) < MOST_PICTURES and rng.random() < 0.12:
            return self.picture()
        if self.shown and rng.random() < 0.68:
            return self.about_shown()
        return self.words()

    def picture(self) -> Turn:
        """New pictures come with a question."""
        rng = self.rng
        scenes = [make_scene(rng, self.held_out)]
        if not self.shown and rng.random() < 0.09:
            scenes.append(make_scene(rng))
        self.shown += scenes
        self.together = len(scenes) > 1
        turn = self.about_shown()
        if not self.together and rng.random() < 0.05:
            return Turn(*looking.silent(scenes[0]), tuple(scenes))
        first = rng.random() < 0.8
        return Turn(turn.kind, turn.question, turn.answer, tuple(scenes), first)

    def about_shown(self) -> Turn:
        """The picture that is not named is the newest."""
        rng = self.rng
        shown = self.shown
        if len(shown) > 1 and (self.together or rng.random() < 0.45):
            if len(shown) == 2 and all(scene.things for scene in shown) and rng.random() < 0.4:
                return self.made(*comparing.compare(rng, shown))
            which = rng.randrange(len(shown))
            return self.made(*looking.ask(rng, shown[which], ORDINALS[which]))
        return self.made(*looking.ask(rng, shown[-1], "the picture"))

    def words(self) -> Turn:
        rng = self.rng
        if self.names_at_all and rng.random() < 0.45:
            if (self.name is None and rng.random() < 0.7) or rng.random() < 0.12:
                question, answer, self.name = manners.told_name(rng, self.held_out)
                return self.made("name", question, answer, keep_case=True)
            return self.made("name", *manners.asked_name(rng, self.name))
        if not self.shown and rng.random() < 0.07:
            return self.made(*comparing.blind(rng))
        if self.held_out and rng.random() < 0.3:
            return self.made("sum", *talking.sums(rng, held_out=True))
        kind, question, answer = talking.ask(rng)
        if kind == "greeting":  # with thanks it would be another one
            return Turn(kind, question, answer)
        return self.made(kind, question, answer, keep_case=kind == "unknown")

    def made(self, kind: str, question: str, answer: str, keep_case: bool = False) -> Turn:
        return Turn(kind, casual(self.rng, question, keep_case), answer)
