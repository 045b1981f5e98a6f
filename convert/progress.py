"""What the converter reports while it works.

Knows nothing of how it is shown.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from time import perf_counter


@dataclass(frozen=True)
class Planned:
    """Everything was checked; nothing has been read of the weights yet. Sizes in bytes."""

    source: str
    commit: str | None  # of a repository
    form: str  # how the source is stored
    recipe: str
    folder: Path
    to_read: int  # of the source, in all
    done: int  # of these, by an earlier run that is now resumed
    nbytes: int  # of the output
    files: tuple[str, ...]  # that the output will have
    kept: int  # matrices with fewer bits already than the recipe gives: they stay as they are
    memory: int  # that converting takes at most, an upper estimate
    weights: int
    layers: int


@dataclass(frozen=True)
class Progress:
    """Of the `total` bytes of this stage, `done` are finished; `what` is being worked on."""

    stage: str  # "converting" (bytes of the source), "hashing" (bytes of the output)
    done: int
    total: int
    what: str
    waited: float = 0.0  # seconds without any of its bytes, as from a network that is lost


@dataclass(frozen=True)
class Stages:
    """Seconds, of this run. Reading, quantising and writing overlap; the main thread spends its
    time on quantising and the two kinds of waiting."""

    reading: float  # summed over the threads that read
    quantising: float
    writing: float  # of the thread that writes, with the syncing
    waiting_for_reads: float
    waiting_for_writes: float


@dataclass(frozen=True)
class Converted:
    """A finished conversion."""

    folder: Path
    recipe: str
    nbytes: int  # of all files
    files: tuple[str, ...]
    weights: int  # converted by this run
    seconds: float  # spent on them
    stages: Stages


Event = Planned | Progress | Converted
Callback = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The callback of a caller who does not watch."""


@dataclass
class Clock:
    """Adds up the seconds of each stage, from any thread."""

    seconds: dict[str, float] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @contextmanager
    def on(self, stage: str) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            spent = perf_counter() - start
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

    @property
    def stages(self) -> Stages:
        names = Stages.__dataclass_fields__
        return Stages(**{name: self.seconds.get(name, 0.0) for name in names})
