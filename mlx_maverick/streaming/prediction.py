"""How fast a model decodes when routed experts are streamed: arithmetic from bandwidths.

Knows bytes and bytes per second, and measures nothing. Computing, and waiting that comes on top
of reading, are left out; so is what overlaps.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # at run time inside the function: plans are made without
    import numpy as np
    from numpy.typing import NDArray

Counts: TypeAlias = "NDArray[np.int64]"  # of uses, [layers with experts, experts]


@dataclass(frozen=True)
class Prediction:
    """Decoding one token after the other. Speeds are tokens per second."""

    hit_rate: float  # of the experts that tokens need, how many are in memory, 0 to 1
    missed: int  # bytes that a token reads from the SSD
    ssd: float  # bytes per second of it
    tps: float | None  # with an empty KV cache; None if no bandwidth that counts is known
    tps_full: float | None  # with the whole context in it
    ceiling: bool  # the memory's bandwidth is unknown: the SSD alone would allow as much

    @property
    def words(self) -> str:
        """As 'about 4.6 tok/s'."""
        if self.tps_full is None:
            return "at a speed that is unknown, as the memory's bandwidth is"
        if self.ceiling:
            return f"at most {rate(self.tps_full)} tok/s (by the SSD alone)"
        return f"about {rate(self.tps_full)} tok/s"


def rate(tps: float) -> str:
    """Tokens per second with two digits that say something."""
    return f"{tps:.0f}" if tps >= 9.95 else f"{tps:.1f}"


def predict(
    read: int, routed: int, hit_rate: float, memory: float | None, ssd: float, kv: int = 0
) -> Prediction:
    """The speed of a token for which `read` bytes of weights go through memory, and `routed`
    bytes are stored of its routed experts.

    A missed expert is read from the SSD and then, as any other, from memory. `kv`: bytes of a
    full KV cache. `memory` and `ssd` are bandwidths; that of the memory may be unknown.
    """
    missed = (1 - hit_rate) * routed

    def tps(more: int) -> float | None:
        seconds = missed / ssd + ((read + more) / memory if memory else 0.0)
        return 1 / seconds if seconds else None

    return Prediction(hit_rate, round(missed), ssd, tps(0), tps(kv), memory is None)


def even_hit_rate(slots: int, experts: int) -> float:
    """The share of uses that are hits if all `experts` of a model are used alike and `slots` of
    them are in memory. Real routing is uneven, which a cache gains by: a lower estimate."""
    return min(1.0, slots / experts)


def counted_hit_rate(counts: Counts, slots: int) -> float:
    """The share of past uses, [layers with experts, experts], that would have been hits if the
    `slots` most used experts had been in memory all the time.

    What was known only afterwards is known here before: an estimate that is rather high. Of no
    uses at all, what `even_hit_rate` says.
    """
    import numpy as np

    total = int(counts.sum())
    if total == 0:
        return even_hit_rate(slots, counts.size)
    most_used = np.sort(counts, axis=None)[::-1][: max(0, slots)]
    return int(most_used.sum()) / total
