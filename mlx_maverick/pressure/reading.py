"""One look at a machine's memory, and what counts as little of it.

Knows nothing of systems.
"""

from dataclasses import dataclass
from enum import IntEnum


class Pressure(IntEnum):
    """The levels of `kern.memorystatus_vm_pressure_level`.

    The kernel answers with libdispatch's flags (dispatch/source.h,
    DISPATCH_MEMORYPRESSURE_NORMAL, _WARN, _CRITICAL), not with its internal 0..3: the
    conversion is in xnu's bsd/kern/kern_memorystatus_notify.c.
    """

    NORMAL = 1
    WARNING = 2
    CRITICAL = 4


@dataclass(frozen=True)
class Reading:
    """One look at the machine's memory, in bytes."""

    total: int
    used: int  # what could not be handed to a program without swapping
    available: int
    swap_used: int
    pressure: Pressure
    wired: int | None = None  # can be neither compressed nor swapped, as a model on Metal; macOS
    compressed: int | None = None  # what the compressor takes to hold the pages it has; macOS
    free: int | None = None  # holds nothing, not even files that could be read again


# Below these the machine is called pressed whatever its kernel says. The absolute bounds are
# for big machines, where a share would be gigabytes; the shares for small ones.
LOW_AVAILABLE = {Pressure.CRITICAL: (10**9, 1 / 64), Pressure.WARNING: (4 * 10**9, 1 / 16)}


def by_available(total: int, available: int) -> Pressure:
    """The pressure that little available memory alone amounts to."""
    for level, bound in LOW_AVAILABLE.items():
        if below(bound, total, available):
            return level
    return Pressure.NORMAL


def below(bound: tuple[int, float], total: int, nbytes: int) -> bool:
    """Whether `nbytes` are less than a bound in bytes and less than its share of `total`."""
    return nbytes < min(bound[0], total * bound[1])
