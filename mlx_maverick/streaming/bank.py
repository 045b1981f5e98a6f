"""A bank: slots in memory for the routed experts of layers that store them alike.

Knows files and memory, and nothing of routing. Memory is allocated once. An expert is read
straight into its slot, and computed with there; it is never copied, stacked or built anew.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..errors import BadCheckpoint
from ..model.experts import Experts, Pause, go_on
from ..model.linear import ExpertLinear, Matrix
from .places import LayerPlaces, Projection
from .plan import LEAST_SLOTS
from .reader import PIECE, Piece, Read, Reader
from .slab import Slab
from .slots import NONE, Slots
from .uncached import Uncached

Files = dict[Path, Uncached]

# While experts are computed with one after the other, so much is read ahead: enough to keep the
# disk busy, little enough that slots are left to others.
AHEAD_BYTES, MIN_AHEAD, MAX_AHEAD = 256 << 20, 2, 16


class Bank:
    """Slots of some layers. For the engine's thread, but for the bytes in slots."""

    def __init__(
        self,
        layers: Sequence[LayerPlaces],
        count: int,
        dtype: mx.Dtype,
        files: Files,
        reader: Reader,
        spare: int = 0,
        pause: Pause = go_on,
    ):
        """`layers` of one form share `count` slots, with values in `dtype`. `files` has every
        file that they are in. Of the slots so many are `spare`, to read ahead into. `pause` is
        called between arrays."""
        self.layers, self.dtype = tuple(layers), dtype
        self.experts = layers[0].experts  # of a layer
        self.slots = Slots(min(count, self.experts * len(layers)), self.experts * len(layers))
        self._files, self._reader = files, reader
        self._spare: AbstractSet[int] = frozenset()
        if not self.whole:
            self._spare = frozenset(range(min(spare, self.slots.count - LEAST_SLOTS)))
        self._reads: dict[int, Read] = {}  # by slot; of those that may not be done
        self._users: dict[int, mx.array] = {}  # by slot: what is computed from it, if not done
        made = [_projection(p, self.slots.count, dtype, pause) for p in layers[0].projections]
        self._slabs = [slab for slabs, _ in made for slab in slabs]
        gate, up, down = (linear for _, linear in made)
        self.matrices = Experts(gate, up, down)  # its experts are slots

    @property
    def nbytes(self) -> int:
        """Bytes allocated, as `plan.BankPlan` reckons them."""
        return sum(slab.nbytes for slab in self._slabs)

    @property
    def free(self) -> int:
        """Slots that the experts of one step can have at once."""
        return self.slots.count - len(self._spare)

    @property
    def spare(self) -> int:
        """Slots to read ahead into."""
        return len(self._spare)

    @property
    def ahead(self) -> int:
        """Experts to read at once while others are computed with."""
        size = self.nbytes // self.slots.count
        return min(max(MIN_AHEAD, AHEAD_BYTES // size), MAX_AHEAD, max(1, self.free - 1))

    @property
    def whole(self) -> bool:
        """Whether there is a slot for every expert. They are then in order."""
        return self.slots.count == len(self.slots.slot_of)

    def layer(self, index: int) -> Experts:
        """Of a whole bank, the experts of its layer number `index` in the same memory."""
        first, m = index * self.experts, self.matrices
        parts = (m.gate_proj, m.up_proj, m.down_proj)
        return Experts(*(part.part(first, first + self.experts) for part in parts))

    def slot(self, key: int) -> int:
        """The slot in which an expert is, or soon will be; or NONE."""
        return self.slots.find(key)

    def ready(self, key: int) -> bool:
        """Whether an expert is in a slot, read to the end."""
        slot = self.slots.find(key)
        return slot != NONE and self._is_read(slot)

    def all_ready(self, first: int) -> bool:
        """Whether all experts of the layer are, whose expert 0 has that key."""
        slots = self.slots.slot_of[first : first + self.experts]
        return int(slots.min()) != NONE and all(self._is_read(slot) for slot in slots.tolist())

    def _is_read(self, slot: int) -> bool:
        read = self._reads.get(slot)
        if read is not None and read.done:
            del self._reads[slot]
            return True
        return read is None

    def warm(self) -> None:
        """Begin to fill the slots in the background, with what has been used most; of experts
        that were not used yet, with some of every layer."""
        uses, layers = self.slots.uses, len(self.layers)
        keys = np.arange(len(uses)).reshape(layers, -1).T.reshape(-1)  # layers in turn
        keys = keys[np.argsort(-uses[keys], kind="stable")]
        slots = [slot for slot in range(self.slots.count) if slot not in self._spare]
        for key, slot in zip(keys.tolist(), slots, strict=False):
            self.fill(key, key if self.whole else slot, 0, urgent=False)

    def fetch(self, key: int, pinned: AbstractSet[int], step: int, passing: bool = False) -> int:
        """The slot of an expert, which is being read if it was in none; NONE if there is none for
        it, all that could be its being `pinned`. Raises BadCheckpoint if a file is not what it
        was."""
        slot = self.slots.find(key)
        if slot in self._spare:  # it has come true: the spare one is another now
            other = self.slots.victim(pinned | self._spare)
            if other != NONE:
                self._spare = (self._spare - {slot}) | {other}
        if slot in self._reads:  # perhaps in the background, and is wanted now
            self._reader.hurry(self._reads[slot])
        if slot == NONE:
            taken = pinned | self._spare
            slot = key if self.whole else self.slots.victim(taken, step if passing else None)
            if slot != NONE:
                self.fill(key, slot, step)
        return slot

    def read_ahead(self, key: int, step: int) -> None:
        """Read an expert that will probably be wanted into a spare slot, when there is nothing
        else to read; not, if no slot is spare."""
        if self.slots.find(key) == NONE and self._spare:
            keep = set(range(self.slots.count)) - self._spare
            try:
                self.fill(key, self.slots.victim(keep), step, urgent=False)
            except BadCheckpoint:  # whoever really wants it will say so
                return

    def fill(self, key: int, slot: int, step: int, urgent: bool = True) -> None:
        """Begin to read an expert into a slot, in place of what is there. Raises BadCheckpoint
        if a file is not what it was."""
        self.release(slot)
        self._reads[slot] = self._reader.submit(self._pieces(key, slot), urgent)
        self.slots.put(key, slot, step)

    def release(self, slot: int) -> None:
        """End what reads into a slot and what computes from it, and forget what is in it."""
        self.slots.drop(slot)
        read, user = self._reads.pop(slot, None), self._users.pop(slot, None)
        if read is not None:
            self._reader.give_up(read)
        if user is not None:
            mx.eval(user)

    def release_unread(self, keys: Iterable[int]) -> None:
        """End the reads of these experts, if they are under way: nothing is left of them then."""
        for key in keys:
            slot = self.slots.find(key)
            if slot != NONE and not self._is_read(slot):
                self.release(slot)

    def wait(self, key: int) -> None:
        """Until an expert that is in a slot is read. Raises BadCheckpoint if it cannot be; the
        slot is then empty."""
        slot = self.slots.find(key)
        read = self._reads.get(slot)
        if read is None:
            return
        with suppress(Exception):  # what stands in the way is met again below
            self._reader.wait(read)
        if read.error is not None:  # once more: it may have begun when nobody wanted it
            self.fill(key, slot, 0)
            read = self._reads[slot]
        try:
            self._reader.wait(read)
        except Exception as e:
            name = read.failed.file.path.name if read.failed else ""
            del read  # the error's traceback would hold it, and it the error, in a circle
            self.release(slot)
            if not isinstance(e, OSError):
                raise
            raise self._unreadable(key, name, e) from None
        del self._reads[slot]  # not before: a wait may be interrupted

    def used(self, slots: Iterable[int], output: mx.array) -> None:
        """Note what is computed from slots: they are not overwritten before that is done."""
        slots = list(slots)
        # What was computed from them before is done by now, unless it is of a sequence of tokens
        # that nobody has looked at yet.
        mx.eval([self._users[slot] for slot in slots if slot in self._users])
        self._users.update(dict.fromkeys(slots, output))

    def settled(self, slots: Iterable[int]) -> None:
        """What was computed from these slots is done."""
        for slot in slots:
            self._users.pop(slot, None)

    def _pieces(self, key: int, slot: int) -> list[Piece]:
        index, expert = divmod(key, self.experts)
        places = self.layers[index]
        for path in dict.fromkeys(part.tensor.file for part in places.parts):
            try:
                self._files[path].check()
            except OSError as e:
                raise self._unreadable(key, path.name, e) from None
        pieces: list[Piece] = []
        for slab, part in zip(self._slabs, places.parts, strict=True):
            file, start = self._files[part.tensor.file], part.offset(expert)
            pieces += [
                Piece(file, start + at, nbytes, target)
                for at, nbytes, target in slab.targets(slot, PIECE)
            ]
        return pieces

    def _unreadable(self, key: int, file: str, error: OSError) -> BadCheckpoint:
        index, expert = divmod(key, self.experts)
        places = self.layers[index]
        folder = next(places.parts).tensor.file.parent
        return BadCheckpoint(
            f"expert {expert} of layer {places.layer} cannot be read from {folder / file} "
            f"({error.strerror or error}); see that the disk is there and the file is whole "
            f"('mlx-maverick verify {folder}'), and load the model again"
        )


def _projection(
    projection: Projection, count: int, dtype: mx.Dtype, pause: Pause
) -> tuple[list[Slab], ExpertLinear]:
    """Memory for `count` experts' matrices, and what computes with it."""
    slabs = []
    for part in projection.parts:
        pause()
        slabs.append(Slab.of(part, count, dtype, projection.quant is None))
    arrays: list[mx.array | None] = [slab.matrices for slab in slabs]
    arrays += [None] * (3 - len(arrays))
    weight, scales, biases = arrays
    assert weight is not None
    linear = ExpertLinear(Matrix(weight, scales, biases, projection.quant))
    mx.eval(linear.arrays)
    return slabs, linear
