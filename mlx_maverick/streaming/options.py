"""How a model's routed experts are to be kept: what a user can say about it.

Knows nothing of models or machines, and loads no mlx.
"""

import os
import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from ..errors import UsageError
from ..files import given
from ..units import GB

_UNITS = {
    "kb": 1000, "kib": 2**10, "mb": 10**6, "m": 10**6, "mib": 2**20,
    "gb": GB, "g": GB, "gib": 2**30, "tb": 10**12, "tib": 2**40,
}  # fmt: skip


class Mode(StrEnum):
    """Where routed experts are."""

    AUTO = "auto"  # in memory if the model fits, otherwise streamed
    STREAM = "stream"  # in slots, as many as there is memory for, read when they are needed
    RESIDENT = "resident"  # all of them in memory


@dataclass(frozen=True)
class ExpertOptions:
    """Options of `load` about routed experts. Raises UsageError for what makes no sense."""

    mode: Mode = Mode.AUTO
    memory: int | None = None  # bytes of the slab; None: what the budget leaves
    look_ahead: bool = False  # read what the next layer will probably want
    file_cache: bool = False  # let the system keep what is read in its file cache
    route_log: Path | None = None  # where to write which experts were chosen

    def __post_init__(self) -> None:
        if self.mode is Mode.RESIDENT:
            given = {
                "memory for experts": self.memory is not None,
                "a look-ahead": self.look_ahead,
                "a file cache": self.file_cache,
                "a route log": self.route_log is not None,
            }
            if wrong := next((name for name, is_given in given.items() if is_given), None):
                raise UsageError(
                    f"{wrong} is about streamed experts, and these are to be resident; leave out "
                    "one of the two"
                )

    @property
    def wants_streaming(self) -> bool:
        """Whether experts are to be streamed also if they would all fit: what is said about
        streaming says so, too."""
        others = (self.memory is not None, self.look_ahead, self.file_cache, self.route_log)
        return self.mode is Mode.STREAM or any(others)

    @staticmethod
    def of(
        mode: str = "auto",
        memory: str | float | None = None,
        look_ahead: bool = False,
        file_cache: bool = False,
        route_log: str | Path | None = None,
    ) -> "ExpertOptions":
        """From what a user writes: `memory` may be "90GB" (10^9) or "84GiB", or "auto"."""
        modes = [str(known) for known in Mode]
        if mode not in modes:
            raise UsageError(f"experts {mode!r} is not possible; use one of {', '.join(modes)}")
        for name, value in (("look_ahead", look_ahead), ("file_cache", file_cache)):
            if not isinstance(value, bool):
                raise UsageError(f"{name} {value!r} is not True or False")
        log = None if route_log is None else Path(os.path.expanduser(given(route_log)))
        return ExpertOptions(Mode(mode), parse_bytes(memory), look_ahead, file_cache, log)

    def fields(self) -> dict[str, object]:
        """What `of` takes, for JSON."""
        log = None if self.route_log is None else str(self.route_log)
        return {**asdict(self), "mode": str(self.mode), "route_log": log}


def parse_bytes(memory: str | float | None) -> int | None:
    """Bytes; None for "auto". Raises UsageError."""
    if memory is None or memory == "auto":
        return None
    if isinstance(memory, float) and memory.is_integer():  # 90e9
        memory = int(memory)
    if isinstance(memory, int) and not isinstance(memory, bool) and memory > 0:
        return memory
    if isinstance(memory, str):
        text = memory.strip().lower()
        found = re.fullmatch(r"(\d{1,7}(?:\.\d{1,6})?)\s*([tgmk]i?b|[gm])", text, re.ASCII)
        if found and (size := round(float(found[1]) * _UNITS[found[2]])):
            return size
    raise UsageError(
        f"expert memory {memory!r} is not a size; give one such as 90GB (10^9), 84GiB, or auto"
    )
