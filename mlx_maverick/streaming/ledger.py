"""What the streamed layers of a model write down together: where they are, and what was done.

Knows nothing of memory or files. For the engine's thread.
"""

from collections import deque
from dataclasses import dataclass, field

import mlx.core as mx

from .route_log import RouteLog


@dataclass
class Tally:
    """What `ExpertStats` says of the engine's thread."""

    hits: int = 0
    misses: int = 0
    wait_seconds: float = 0.0
    sync_seconds: float = 0.0
    predicted: int = 0
    predicted_right: int = 0


@dataclass(frozen=True)
class Late:
    """What a layer chose without anybody waiting for it."""

    layer: int
    chosen: list[mx.array]
    step: int
    position: int


@dataclass
class Ledger:
    """The present step, and all that was done so far."""

    log: RouteLog | None
    tally: Tally = field(default_factory=Tally)
    step: int = 0  # that is computed now
    position: int = 0  # of its first token
    late: deque[Late] = field(default_factory=deque)

    def later(self, layer: int, chosen: list[mx.array]) -> None:
        """To be looked at when it is known anyway."""
        self.late.append(Late(layer, chosen, self.step, self.position))
