"""Which expert is in which slot, and which one has to go.

Knows numbers only: neither memory nor files. An expert is a *key*, its number among all that
share the slots, whatever layers they are of.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

NONE = -1
# Of experts that a step has been through, fewer are not a choice: the least used of them may be
# used more than most.
FEW = 4


class Slots:
    """`count` slots for `keys` experts. What was used longest ago goes first, and of what was
    used in the same step what has been used less often."""

    def __init__(self, count: int, keys: int):
        self.key_of: NDArray[np.int32] = np.full(count, NONE, np.int32)
        self.slot_of: NDArray[np.int32] = np.full(keys, NONE, np.int32)
        self.uses: NDArray[np.int64] = np.zeros(keys, np.int64)  # rows computed so far
        self._used: NDArray[np.int64] = np.full(count, NONE, np.int64)  # the last step, by slot

    @property
    def count(self) -> int:
        return len(self.key_of)

    def find(self, key: int) -> int:
        """The slot of an expert, or NONE."""
        return int(self.slot_of[key])

    def touch(self, keys: NDArray[np.integer], rows: NDArray[np.integer], step: int) -> None:
        """Note that a step uses experts, for so many rows each; in slots or not."""
        self.uses[keys] += rows
        slots = self.slot_of[keys]
        self._used[slots[slots != NONE]] = step

    def victim(self, pinned: Iterable[int] = (), passing: int | None = None) -> int:
        """The slot to fill next: an empty one, or the one whose expert has to go; NONE if all
        are `pinned`.

        While one step, `passing`, goes through many experts of each layer in turn, what it has
        been through goes before what it may still come to.
        """
        used = self._used
        free = np.ones(len(used), bool)
        free[list(pinned)] = False
        if not free.any():
            return NONE
        empty = free & (used == NONE)
        behind = free & (used == passing)
        if empty.any():
            return int(empty.argmax())
        if behind.sum() >= FEW:
            candidates = np.flatnonzero(behind)
        else:
            candidates = np.flatnonzero(free & (used == used[free].min()))
        return int(candidates[np.argmin(self.uses[self.key_of[candidates]])])

    def put(self, key: int, slot: int, step: int) -> None:
        """An expert takes a slot from whatever was in it. `step` is when it was last used; 0:
        before any."""
        self.drop(slot)
        self.key_of[slot], self.slot_of[key], self._used[slot] = key, slot, step

    def drop(self, slot: int) -> None:
        """Nothing is in a slot any more."""
        key = self.key_of[slot]
        if key != NONE:
            self.slot_of[key] = NONE
        self.key_of[slot] = self._used[slot] = NONE
