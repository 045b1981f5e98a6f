"""Conversations of the world as token ids and tiles: what training reads.

Knows nothing of networks. `mlx_maverick.prompt` encodes them, so the model is trained on
exactly what it is given later.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from ..prompt import Prompt
from .folder import TILE
from .world import Conversation, Split, conversation, finding, pairing, reckoning

SIZE = 16  # conversations in a batch
GROUP = 16  # batches made at once, of conversations of similar length
LONGEST = 1024  # tokens of a conversation; later turns are left out
# Training begins with the first turns of conversations alone: steps are quick, and what an
# answer depends on is near, until the model has learned to look for it.
SHORT_GROUPS, SHORT_TURNS = 375, 2
# By then it has learned to read out pictures in order, but not to find in them what a question
# names: in conversations of all kinds too little depends on that. What it forgets meanwhile comes
# back when all kinds do, at first half of them, beside more to find and sums, which are many.
FINDING_GROUPS = range(782, 907)
MIXED_GROUPS = range(907, 1000)
# One in eight conversations is about two pictures; then one in eight each of all of these; at last
# two of what has to be found, as pictures are what it is weakest in.
PAIRING_GROUPS = range(1032, 1250)
HARD_GROUPS = range(1250, 1750)
LAST_GROUPS = range(1750, 2000)

Ids = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class Example:
    """One conversation as the model reads it."""

    ids: list[int]
    answers: list[tuple[int, int]]  # first and last + 1 of each answer, <|eot|> included
    kinds: list[str]
    tiles: np.ndarray[Any, np.dtype[np.uint8]]  # [N, 3, T, T]


@dataclass(frozen=True, eq=False)
class Batch:
    """Conversations side by side, padded on the right."""

    ids: Ids  # [B, L]
    lengths: Ids  # [B]
    answers: Ids  # [A, 3]: row, first, last + 1
    kinds: list[str]  # of the answers
    tiles: np.ndarray[Any, np.dtype[np.uint8]]  # [N, 3, T, T], in the order of the patches


class Encoder:
    """Encodes conversations with the tokenizer and template of one folder."""

    def __init__(self, folder: Path):
        self.prompt = Prompt.from_folder(folder)
        # Most pieces of text come again and again.
        self.prompt.plain_ids = lru_cache(100_000)(self.prompt.plain_ids)  # type: ignore[method-assign]
        special = self.prompt.special
        self.eot, self.pad = special["<|eot|>"], special["<|finetune_right_pad|>"]
        plain = self.prompt.plain_ids
        self._header = [
            special["<|header_start|>"], *plain("assistant"), special["<|header_end|>"],
            *plain("\n\n"),
        ]  # fmt: skip

    def example(self, split: Split, number: int, most_turns: int | None = None) -> Example:
        """A conversation, or its first turns."""
        return self.encoded(conversation(split, number), number, most_turns)

    def encoded(self, talk: Conversation, number: int, most_turns: int | None = None) -> Example:
        """The first turns of a conversation, as many as LONGEST has room for."""
        turns = talk.turns[:most_turns]
        messages = replace(talk, turns=turns).messages
        while True:
            encoded = self.prompt.encode(messages[:-1])
            ids = [*encoded.ids, *self.prompt.plain_ids(messages[-1]["content"]), self.eot]
            if len(ids) <= LONGEST or len(turns) == 1:
                break
            messages, turns = messages[:-2], turns[:-1]
        answers = self._answers(ids)
        if len(answers) != len(turns):
            raise RuntimeError(f"conversation {number}: {len(answers)} answers found")
        none = np.zeros((0, 3, TILE, TILE), np.uint8)
        tiles = np.concatenate([none, *(image.levels for image in encoded.images)])
        return Example(ids, answers, [turn.kind for turn in turns], tiles)

    def _answers(self, ids: list[int]) -> list[tuple[int, int]]:
        found = []
        long = len(self._header)
        for at in range(len(ids)):
            if ids[at] == self._header[0] and ids[at : at + long] == self._header:
                found.append((at + long, ids.index(self.eot, at) + 1))
        return found

    def batch(self, examples: list[Example]) -> Batch:
        """Side by side, in this order."""
        lengths = [len(e.ids) for e in examples]
        ids = np.full((len(examples), max(lengths)), self.pad, np.int64)
        for row, example in enumerate(examples):
            ids[row, : len(example.ids)] = example.ids
        answers = [(row, *span) for row, e in enumerate(examples) for span in e.answers]
        return Batch(
            ids, np.array(lengths), np.array(answers), [k for e in examples for k in e.kinds],
            np.concatenate([e.tiles for e in examples]),
        )  # fmt: skip

    def group(self, split: Split, number: int) -> list[Batch]:
        """GROUP batches: together the conversations from GROUP * SIZE * number on."""
        first = GROUP * SIZE * number
        numbers = range(first, first + GROUP * SIZE)
        most = None
        if split == "train" and number < SHORT_GROUPS:
            most = SHORT_TURNS
        make: tuple[Callable[[int], Conversation], ...] = (partial(conversation, split),)
        if split == "train" and number in FINDING_GROUPS:
            make = (finding,)
        elif split == "train" and number in MIXED_GROUPS:
            make = (finding, reckoning, *make, *make)
        elif split == "train" and number in PAIRING_GROUPS:
            make = (pairing, *7 * make)
        elif split == "train" and number in HARD_GROUPS:
            make = (pairing, finding, reckoning, *5 * make)
        elif split == "train" and number in LAST_GROUPS:
            make = (pairing, finding, finding, reckoning, *4 * make)
        examples = [self.encoded(make[n % len(make)](n), n, most) for n in numbers]
        examples.sort(key=lambda e: len(e.ids))
        batches = [self.batch(examples[n * SIZE : (n + 1) * SIZE]) for n in range(GROUP)]
        Random(f"order {number}").shuffle(batches)
        return batches
