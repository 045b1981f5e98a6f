"""What streaming has done: counts and times, as a whole and of one reply.

Knows nothing of how.
"""

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class ExpertStats:
    """Of routed experts that are streamed. Seconds are wall-clock, as the engine sees them."""

    slots: int = 0  # experts that memory has room for
    experts: int = 0  # that the model has, in all layers
    slab_bytes: int = 0  # that the slots take
    hits: int = 0  # experts that a layer wanted and had in a slot, once a step
    misses: int = 0  # ... and had to read
    bytes_read: int = 0  # from files, also in the background
    read_seconds: float = 0.0  # in which at least one read was under way
    wait_seconds: float = 0.0  # in which computing waited for reads
    sync_seconds: float = 0.0  # for the router's choice, and so for what is computed before it
    predicted: int = 0  # experts that the look-ahead expected
    predicted_right: int = 0  # ... and that were then chosen

    @property
    def wanted(self) -> int:
        """Experts asked for: hits and misses."""
        return self.hits + self.misses

    @property
    def hit_rate(self) -> float:
        """Of the experts asked for, the share that was in a slot; 1 where none was."""
        return self.hits / self.wanted if self.wanted else 1.0

    @property
    def bandwidth(self) -> float:
        """Bytes per second while reading; 0 where nothing was read."""
        return self.bytes_read / self.read_seconds if self.read_seconds else 0.0

    @property
    def accuracy(self) -> float | None:
        """Of the look-ahead's expectations, the share that came true; None without any."""
        return self.predicted_right / self.predicted if self.predicted else None

    def since(self, earlier: "ExpertStats") -> "ExpertStats":
        """What came after `earlier`; slots, experts and slab are what they are."""
        fixed = ("slots", "experts", "slab_bytes")
        names = [f.name for f in fields(self) if f.name not in fixed]
        return replace(self, **{n: getattr(self, n) - getattr(earlier, n) for n in names})
