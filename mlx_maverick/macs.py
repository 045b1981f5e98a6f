"""Machines: how much memory they have, what of it the GPU may use, and how fast it is.

Knows nothing of models, and loads mlx only to ask this machine.
"""

import re
import sys
from dataclasses import dataclass, replace

from . import memory, pressure
from .errors import UsageError
from .units import GB, gb

GIB = 2**30
SIZES = (64, 96, 128, 192, 256, 512)  # GiB; Macs with enough for any of this

# What the GPU may keep resident with the stock setting on macOS 26, in GiB, as
# `max_recommended_working_set_size` says it there. Other sizes have not been reported.
STOCK_MACOS_26 = {128: 107.5, 256: 222.6, 512: 464.0}
STOCK_SHARE = 0.75  # of memory, on older macOS

# GB/s as Apple announced them with each chip; no measurement. Where a chip is sold with two
# GPUs, that of the larger: M3 Max 300 or 400, M4 Max 410 or 546, M5 Max 460 or 614. Later chips
# are left out until known.
BANDWIDTH = {
    "M1": 68, "M1 Pro": 200, "M1 Max": 400, "M1 Ultra": 800,
    "M2": 100, "M2 Pro": 200, "M2 Max": 400, "M2 Ultra": 800,
    "M3": 100, "M3 Pro": 150, "M3 Max": 400, "M3 Ultra": 819,
    "M4": 120, "M4 Pro": 273, "M4 Max": 546,
    "M5": 153, "M5 Pro": 307, "M5 Max": 614,
}  # fmt: skip
# Bytes per second of reading, where it has not been measured. Reported for the SSDs of Macs
# are 5 to 7 GB/s, and 13 for the newest: the least of these.
SSD = 5 * GB
# The usual chip of a Mac with so many GiB, where only the size is given.
USUAL_CHIP = {
    64: "M4 Max", 96: "M3 Ultra", 128: "M4 Max", 192: "M2 Ultra", 256: "M3 Ultra", 512: "M3 Ultra",
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """A Mac, or another computer, in bytes and bytes per second."""

    name: str  # with its article
    memory: int
    limit: int  # what a model may take without changing a setting
    raised_limit: int  # what it may take with a raised limit; `limit` where there is no setting
    chip: str | None
    bandwidth: float | None
    assumptions: tuple[str, ...]  # in words
    ssd: float = SSD
    ssd_source: str = "assumed"  # "assumed", "as given" or "measured"

    @property
    def ssd_words(self) -> str:
        """What is known of the SSD, as an assumption."""
        said = f"SSD {self.ssd / GB:.1f} GB/s, {self.ssd_source}"
        return f"{said} (Macs have 5 to 7, the newest 13)" if self.ssd_source == "assumed" else said

    def with_limit(self, limit: int) -> "Machine":
        """With another limit than the stock one. Raises UsageError if memory is smaller."""
        if not 0 < limit <= self.memory:
            raise UsageError(
                f"--limit {gb(limit)} is not possible with {gb(self.memory)} of memory; "
                "give at most as much as the machine has"
            )
        said = f"GPU limit {gb(limit)}, as given"
        return replace(
            self,
            limit=limit,
            raised_limit=max(limit, self.raised_limit),
            assumptions=(said, *self.assumptions[1:]),
        )

    def with_bandwidth(self, bandwidth: float) -> "Machine":
        """With another memory bandwidth, in bytes per second."""
        said = f"memory bandwidth {bandwidth / GB:.0f} GB/s, as given"
        return replace(self, bandwidth=bandwidth, assumptions=(*self.assumptions[:1], said))

    def with_ssd(self, ssd: float, source: str) -> "Machine":
        """With another bandwidth of the SSD, in bytes per second."""
        return replace(self, ssd=ssd, ssd_source=source)


def mac(memory_size: int) -> Machine:
    """A Mac with so many bytes of memory, its stock limit and its usual chip."""
    size = memory_size // GIB
    share = int(memory_size * STOCK_SHARE)
    stock = int(STOCK_MACOS_26.get(size, 0) * GIB) or share
    said = f"stock GPU limit {gb(stock)}, 75 % of memory, as on older macOS (newer gives more)"
    if stock != share:
        said = f"stock GPU limit {gb(stock)}, as on macOS 26 (older: 75 %, {gb(share)})"
    chip = USUAL_CHIP.get(size)
    return Machine(
        name=f"a Mac with {size} GB",
        memory=memory_size,
        limit=stock,
        raised_limit=max(stock, memory.usable(memory_size)),
        chip=chip,
        bandwidth=_bandwidth(chip),
        assumptions=(said, _speed(chip, ", the usual chip with that memory")),
    )


def this_machine() -> Machine:
    """The machine this runs on, with its limit as it is now. Loads mlx."""
    import mlx.core as mx

    size, limit = pressure.read().total, memory.machine_limit()
    metal = sys.platform == "darwin"
    # "Apple M3 Ultra"
    chip = str(mx.device_info().get("device_name", "")) if metal else None
    said = "as it is set now" if metal else "memory less a reserve for the system"
    return _this(size, limit, chip, metal, f"limit {gb(limit)}, {said}")


def this_machine_without_mlx(size: int, chip: str | None, metal: bool) -> Machine:
    """The same where mlx cannot be loaded: a Mac (`metal`) with `size` bytes of memory and its
    stock limit, or another machine."""
    if metal:
        stock = mac(size)
        return _this(size, stock.limit, chip, metal, stock.assumptions[0])
    limit = memory.usable(size)
    return _this(size, limit, None, metal, f"limit {gb(limit)}, if MLX computes on the CPU")


def _this(size: int, limit: int, device: str | None, metal: bool, said: str) -> Machine:
    chip = (device or "").removeprefix("Apple ")
    return Machine(
        name=f"this {'Mac' if metal else 'machine'} with {size / GIB:.0f} GB",
        memory=size,
        limit=limit,
        raised_limit=max(limit, memory.usable(size)) if metal else limit,
        chip=chip or None,
        bandwidth=_bandwidth(chip),
        assumptions=(said, _speed(chip or None, "")),
    )


def _bandwidth(chip: str | None) -> float | None:
    known = BANDWIDTH.get(chip or "")
    return known * GB if known else None


def _speed(chip: str | None, why: str) -> str:
    known = BANDWIDTH.get(chip or "")
    if not known:
        name = f"memory bandwidth of {chip}" if chip else "memory bandwidth"
        return f"{name} unknown; give --bandwidth for a ceiling of the speed"
    return f"memory bandwidth {known} GB/s: {chip}{why}"


def parse_memory(text: str) -> int:
    """'128GB', '128' or '128GiB' -> bytes. A Mac's GB are always 2^30 bytes.

    Raises UsageError.
    """
    found = re.fullmatch(r"(\d{1,5})\s*(gb|gib|g)?", text.strip(), re.IGNORECASE | re.ASCII)
    if not found or int(found[1]) == 0:
        raise UsageError(f"{text!r} is not a memory size; give one such as 128GB")
    return int(found[1]) * GIB


def parse_limit(text: str) -> int:
    """'230GB' (as sizes are printed, 10^9), '214GiB' or '214000MiB' -> bytes.

    Raises UsageError.
    """
    units = {"gb": GB, "gib": GIB, "mib": 2**20}
    found = re.fullmatch(r"(\d{1,7}(?:\.\d+)?)\s*(gb|gib|mib)", text.strip(), re.I | re.ASCII)
    if not found:
        raise UsageError(f"{text!r} is not a limit; give one such as 230GB, 214GiB or 219136MiB")
    return int(float(found[1]) * units[found[2].lower()])
