"""The routed experts of one layer, of which some are in memory: what takes the place of
`model.experts.Experts`.

Knows nothing of files. What it computes is to the bit what the layer in memory computes: each row
goes through the same kernel, wherever its expert's matrices lie.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from time import perf_counter
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..memory import PREFILL_STEP
from ..model.experts import SORT_FROM, Experts, Pause, swiglu
from ..model.linear import TILE_ROWS, ExpertLinear
from .bank import Bank
from .ledger import Late, Ledger
from .slots import NONE

Numbers = NDArray[np.integer[Any]]
# Rows of a step that wait for all of their experts, to be computed in one go; of more rows those
# whose expert is there are computed while others are read.
TOGETHER = 8


class StreamedExperts:
    """One layer's. For the engine's thread."""

    # What the next layer with experts would choose for [T, hidden], if that is wanted.
    expects: Callable[[mx.array], mx.array] | None = None
    following: "StreamedExperts | None" = None  # that layer

    def __init__(self, ledger: Ledger, layer: int):
        self.layer = layer  # among all layers
        self._ledger = ledger
        self._whole: Experts | None = None  # once everything is in order and read
        self._expected: tuple[int, list[int]] | None = None  # at which step, and which experts

    def place(self, bank: Bank, first: int) -> None:
        """Say where the slots are, and the key of expert 0 there."""
        self.bank, self.first = bank, first

    @property
    def uses(self) -> NDArray[np.int64]:
        """Rows that each expert has computed so far, [experts]; can be written to."""
        return self.bank.slots.uses[self.first : self.first + self.bank.experts]

    def steps(
        self,
        routes: Sequence[tuple[mx.array, mx.array]],
        meanwhile: Sequence[mx.array],
        residuals: Sequence[mx.array],
        pause: Pause,
    ) -> list[mx.array]:
        """See `model.experts.Routed`. Raises BadCheckpoint for experts that cannot be read."""
        at_hand = self._at_hand(routes)
        if at_hand is not None:
            return at_hand
        rows = sum(chosen.size for _, chosen in routes)
        ledger = self._ledger
        expected = None
        if self.expects is not None and rows <= TOGETHER:
            expected = self.expects(residuals[0].reshape(-1, residuals[0].shape[-1]))
        started = perf_counter()
        # In this order: reading begins as soon as the choice is known, and goes on beside the rest.
        known = [chosen for _, chosen in routes] + ([] if expected is None else [expected])
        mx.async_eval(*known, *(x for x, _ in routes))  # type: ignore[no-untyped-call]
        mx.async_eval(*meanwhile)  # type: ignore[no-untyped-call]
        numbers = np.concatenate([np.array(chosen) for _, chosen in routes]).astype(np.int64)
        ledger.tally.sync_seconds += perf_counter() - started
        self._note(numbers, ledger.step, ledger.position)
        if len(routes) == 1 and rows <= TOGETHER and len(set(numbers)) <= self.bank.free:
            out = [self._together(routes[0][0], numbers)]
        else:
            out = self._apart(routes, numbers, pause)
        if expected is not None and self.following is not None:
            self.following.expect(np.unique(np.array(expected)))
        return out

    def _at_hand(self, routes: Sequence[tuple[mx.array, mx.array]]) -> list[mx.array] | None:
        """[T, hidden] of each step, if all of the layer's experts are in memory: there is no need
        to know which are chosen. None if they are not."""
        bank = self.bank
        if self._whole is None:
            if not bank.all_ready(self.first):
                return None
            if bank.whole:
                self._whole = bank.layer(self.first // bank.experts)
        if self._whole is not None:
            out = [self._whole(x, chosen) for x, chosen in routes]
        elif len(routes) == 1 and routes[0][1].size < SORT_FROM:
            x, chosen = routes[0]
            slots = bank.slots.slot_of[self.first : self.first + bank.experts]
            out = [bank.matrices(x, mx.array(slots.astype(np.uint32))[chosen])]
            bank.used(slots.tolist(), out[0])
        else:
            return None
        self._ledger.later(self.layer, [chosen for _, chosen in routes])
        return out

    def note_late(self, late: Late) -> None:
        """What this layer chose when nobody waited for it."""
        numbers = np.concatenate([np.array(array) for array in late.chosen]).astype(np.int64)
        self._note(numbers, late.step, late.position)
        self._ledger.tally.hits += len(set(numbers.tolist()))

    def _note(self, numbers: Numbers, step: int, position: int) -> None:
        """Count what was chosen, and how good the expectation was."""
        tally, log = self._ledger.tally, self._ledger.log
        keys, rows = np.unique(numbers, return_counts=True)
        self.bank.slots.touch(keys + self.first, rows, step)
        expected = self._expected[1] if self._expected and self._expected[0] == step else None
        if expected is not None:
            tally.predicted += len(expected)
            tally.predicted_right += len(set(expected) & set(keys.tolist()))
        if log is not None:
            log.write(self.layer, position, numbers.tolist(), expected)

    def expect(self, numbers: Numbers) -> None:
        """These will probably be chosen in this step."""
        self._expected = (self._ledger.step, numbers.tolist())
        for number in numbers[: self.bank.spare]:
            self.bank.read_ahead(self.first + int(number), self._ledger.step)

    def _together(self, x: mx.array, numbers: Numbers) -> mx.array:
        """[T, hidden] -> [T, hidden], once all experts are there."""
        tally, bank, step = self._ledger.tally, self.bank, self._ledger.step
        keys = [self.first + n for n in dict.fromkeys(numbers.tolist())]
        pinned = {slot for slot in map(bank.slot, keys) if slot != NONE}
        missing = [key for key in keys if not bank.ready(key)]
        tally.hits += len(keys) - len(missing)
        tally.misses += len(missing)
        try:
            for key in keys:
                pinned.add(bank.fetch(key, pinned, step))
            started = perf_counter()
            for key in missing:
                bank.wait(key)
            tally.wait_seconds += perf_counter() - started
        finally:
            bank.release_unread(missing)
        slots = [bank.slot(self.first + n) for n in numbers.tolist()]
        out = bank.matrices(x, mx.array(np.array(slots, np.uint32)))
        bank.used(slots, out)
        return out

    def _apart(
        self, routes: Sequence[tuple[mx.array, mx.array]], numbers: Numbers, pause: Pause
    ) -> list[mx.array]:
        """[T, hidden] of each step -> [T, hidden], one expert after the other: those in memory
        first, the others as they come; each is read once, however many rows it takes."""
        sizes = [x.shape[0] for x, _ in routes]
        x = mx.concatenate([rows for rows, _ in routes]) if len(routes) > 1 else routes[0][0]
        tiles = [self._tiles(size) for size in sizes]
        kinds = sorted(set(tiles))
        kind = np.repeat([kinds.index(tile) for tile in tiles], sizes)
        order: list[NDArray[np.intp]] = []  # rows, as they are computed
        outputs: list[mx.array] = []
        by_expert = np.argsort(numbers, kind="stable")
        starts = np.searchsorted(numbers[by_expert], np.arange(self.bank.experts + 1))
        slots, under_way = set(), 0  # rows
        try:
            with closing(self._arriving(np.unique(numbers).tolist())) as arriving:
                for number, slot in arriving:
                    rows = by_expert[starts[number] : starts[number + 1]]
                    slots.add(slot)
                    for these, tile in _pieces(rows, kind, kinds):
                        order.append(these)
                        outputs.append(self._one(x[mx.array(these)], slot, tile))
                        mx.async_eval(outputs[-1])  # type: ignore[no-untyped-call]
                        under_way += len(these)
                        if under_way >= PREFILL_STEP:  # their activations are budgeted for
                            mx.eval(outputs[-1])
                            under_way = 0
                    self.bank.used([slot], outputs[-1])
                    pause()
            joined = mx.concatenate(outputs)
            mx.eval(joined)
            del x
            outputs.clear()  # one copy less of what is large for a long prompt
            out = joined[mx.array(np.argsort(np.concatenate(order)))]
            mx.eval(out)
        finally:
            mx.eval(outputs)  # nothing reads the slots any more
            self.bank.settled(slots)
        ends = np.cumsum(sizes).tolist()
        return [out[end - size : end] for size, end in zip(sizes, ends, strict=True)]

    def _arriving(self, numbers: Sequence[int]) -> Generator[tuple[int, int]]:
        """Experts and their slots, each when it is there; it stays until the next is asked for."""
        tally, bank, step = self._ledger.tally, self.bank, self._ledger.step
        keys = [self.first + number for number in numbers]
        ready = [key for key in keys if bank.ready(key)]
        pinned = {bank.slot(key) for key in ready}
        # First those that are on their way already.
        rest = sorted(set(keys) - set(ready), key=lambda key: (bank.slot(key) == NONE, key))
        missing = deque(rest)
        tally.hits += len(ready)
        tally.misses += len(missing)
        reading: deque[int] = deque()
        waiting = deque(ready)
        try:
            while waiting or reading or missing:
                while missing and len(reading) < bank.ahead:
                    slot = bank.fetch(missing[0], pinned, step, passing=True)
                    if slot == NONE:
                        break
                    pinned.add(slot)
                    reading.append(missing.popleft())
                if waiting:
                    key = waiting.popleft()
                else:
                    key = reading.popleft()
                    started = perf_counter()
                    bank.wait(key)
                    tally.wait_seconds += perf_counter() - started
                slot = bank.slot(key)
                yield key - self.first, slot
                pinned.discard(slot)
        finally:
            bank.release_unread(reading)

    def _tiles(self, rows: int) -> tuple[bool, ...]:
        """For each projection, whether a step of so many rows, all experts being in memory, is
        computed in tiles."""
        m, experts = self.bank.matrices, self.bank.experts
        linears = (m.gate_proj, m.up_proj, m.down_proj)
        return tuple(rows >= SORT_FROM and linear.tiled(rows, experts) for linear in linears)

    def _one(self, x: mx.array, slot: int, tiles: tuple[bool, ...]) -> mx.array:
        """[T, hidden] -> [T, hidden] through the expert in a slot."""
        rows = x.shape[0]
        cpu = mx.default_device().type == mx.DeviceType.cpu
        if any(tiles) and rows < TILE_ROWS and not cpu:  # so few would not be computed in tiles
            x = mx.concatenate([x, mx.repeat(x[-1:], TILE_ROWS - rows, axis=0)])
        first = mx.zeros(x.shape[0], mx.uint32)

        def project(linear: ExpertLinear, x: mx.array, tile: bool) -> mx.array:
            if tile:
                return linear.part(slot, slot + 1)(x, first, True)
            return linear(x, first + slot, False)

        m = self.bank.matrices
        lanes = x[:, None, :]
        gate, up = project(m.gate_proj, lanes, tiles[0]), project(m.up_proj, lanes, tiles[1])
        return project(m.down_proj, swiglu(gate, up), tiles[2])[:rows, 0, :]


def _pieces(
    rows: NDArray[np.intp], kind: NDArray[np.intp], kinds: Sequence[tuple[bool, ...]]
) -> Iterator[tuple[NDArray[np.intp], tuple[bool, ...]]]:
    """An expert's rows by the kind of their step, no more at once than a step in memory has."""
    for i, tile in enumerate(kinds):
        these = rows[kind[rows] == i]
        for start in range(0, len(these), PREFILL_STEP):
            yield these[start : start + PREFILL_STEP], tile
