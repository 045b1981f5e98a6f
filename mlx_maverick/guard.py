"""The guard: watches the machine's memory while a model generates, and says when to stop.

Knows nothing of models, nor of what can be freed: `shed` does that. It has no thread, as what
it frees belongs to the thread that generates: whoever generates asks, as often as it likes.
"""

import math
import time
from collections.abc import Callable

from . import pressure
from .errors import MaverickError
from .pressure import Pressure, Reading
from .units import gb

EVERY = 0.5  # seconds between two readings
# A reply ends only on two critical readings this far apart, both taken after all was freed
# that can be. One may be the moment in which another program starts, and the kernel needs
# some milliseconds to take freed pages back and to compress; much longer would be too late,
# as macOS stalls within seconds once nothing can be had.
CONFIRM = 0.1
# Freed buffers are soon allocated again: shed at every reading, they would only be a slower
# way to generate.
SHED_EVERY = 5.0  # seconds, while a warning lasts


class Guard:
    """Samples memory pressure for one reply. Used by the thread that generates."""

    def __init__(
        self,
        read: Callable[[], Reading] = pressure.read,
        clock: Callable[[], float] = time.monotonic,
        every: float = EVERY,
        shed: Callable[[], None] = lambda: None,
    ):
        """`read` takes one reading, or raises MaverickError; `shed` frees what can be made
        again: MLX's buffer cache, pictures that are kept. `clock` and `every` are seconds."""
        self._read, self._clock, self._every, self._shed = read, clock, every, shed
        self._due = -math.inf  # when the next reading is taken
        self._shed_again = -math.inf  # not before, for a warning
        self._doubt = False  # critical at the last reading, although all was freed
        self.reading: Reading | None = None  # the last one
        self.problem: str | None = None  # why the guard sees nothing any more
        self.ended = False  # whether it has said that generation must end

    def check(self) -> bool:
        """Whether generation must end now; once it must, that stays.

        To be called between prefill steps, layers and tokens: when no reading is due it
        costs one look at the clock. A machine that cannot be read is not watched.
        """
        now = self._clock()
        if now < self._due:
            return self.ended
        self._due = now + self._every
        try:
            self._look(now)
        except MaverickError as e:
            self.problem, self._due = str(e), math.inf
        return self.ended

    def _look(self, now: float) -> None:
        reading = self._take()
        if reading.pressure < Pressure.CRITICAL:
            self._doubt = False
            if reading.pressure is Pressure.WARNING and now >= self._shed_again:
                self._free(now)
        elif self._doubt:
            self.ended, self._due = True, math.inf
        else:
            self._free(now)
            self._doubt = self._take().pressure is Pressure.CRITICAL
            if self._doubt:
                self._due = now + min(CONFIRM, self._every)

    def _take(self) -> Reading:
        self.reading = self._read()
        return self.reading

    def _free(self, now: float) -> None:
        self._shed_again = now + SHED_EVERY
        self._shed()

    @property
    def why(self) -> str | None:
        """Why generation had to end, in one line; None if it had not."""
        if not self.ended or self.reading is None:
            return None
        now = self.reading
        return (
            f"the machine is out of memory: {gb(now.available)} of {gb(now.total)} available, "
            f"{gb(now.swap_used)} swapped; close other programs, or use a shorter --context"
        )
