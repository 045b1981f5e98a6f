"""What the converter reports while it works.

Knows nothing of how it is shown.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Of the `total` bytes of this stage, `done` are finished; `what` is being worked on."""

    stage: str  # "converting" (bytes of the source), "hashing" (bytes of the output)
    done: int
    total: int
    what: str


Callback = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """The callback of a caller who does not watch."""
