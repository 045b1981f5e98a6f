"""Which expert is in which slot, and which one has to go.

Knows numbers only: neither memory nor files. An expert is a *key*, its number among all that
share the slots, whatever layers they are of.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

NONE = -1


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

    def victim(self, pinned: Iterable[int] = ()) -> int:
        """The slot to fill next: an empty one, or the one whose expert has to go; NONE if all
        are `pinned`."""
        used = self._used
        if pinned := list(pinned):
            used = used.copy()
            used[pinned] = np.iinfo(np.int64).max
            if len(set(pinned)) == len(used):
                return NONE
        oldest = np.flatnonzero(used == used.min())
        if len(oldest) == 1 or self.key_of[oldest[0]] == NONE:
            return int(oldest[0])
        return int(oldest[np.argmin(self.uses[self.key_of[oldest]])])

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
