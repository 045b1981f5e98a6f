"""The numbers of the status line, and how they read: long where there is room, and shorter.

Knows nothing of widgets, and not where the numbers come from.
"""

from dataclasses import dataclass, replace
from enum import Enum

from ..streaming.stats import ExpertStats
from ..units import gb

HISTORY = 20  # readings of the memory's pressure that are kept
LEVELS = ("", "normal", "warning", "critical")  # a reading in the history is a place in here
# Told apart by their height, so that they can be without colours; no reading is a dot.
HEIGHTS = "·▂▅█"
NEARLY_FULL = 0.9  # of the context


class Phase(Enum):
    """What the model is doing."""

    LOADING = "loading"
    READY = "ready"
    ANSWERING = "answering"
    ENDED = "ended"  # the worker is gone


@dataclass(frozen=True)
class Field:
    """One thing to say. `forms` are ever shorter; `level`, if it has one, is one of LEVELS."""

    forms: tuple[str, ...]
    level: str = ""
    extra: bool = False  # left out before another field takes a form after its `least`
    least: int | None = None  # a place in `forms`; None: the last

    @property
    def usual(self) -> int:
        """The shortest form as long as extras can be left out."""
        return len(self.forms) - 1 if self.least is None else self.least


@dataclass(frozen=True)
class Live:
    """One moment. Bytes, tokens and seconds; 0 is 'not known yet', except for `context_used`."""

    phase: Phase = Phase.LOADING
    pressure: str = ""  # of the machine's memory: normal, warning, critical
    loaded: int = 0  # layers
    to_load: int = 0
    model: int = 0  # what MLX holds: weights, KV cache, slots of experts
    kv: int = 0  # of that
    prefilled: int = 0
    prompt: int = 0
    context_used: int = 0
    context: int = 0
    tps: float = 0.0  # decode; now, while answering
    experts: ExpertStats | None = None  # where they are streamed
    prefill_tps: float = 0.0
    eta: float = 0.0  # until the prompt is read
    tps_average: float = 0.0  # decode, over the whole reply
    queued: int = 0  # messages that wait
    limit: int = 0  # what the model may take of the machine's memory
    history: tuple[int, ...] = ()  # of the pressure, oldest first: places in LEVELS
    unsaved: bool = False  # what is said now cannot be kept

    @property
    def prefilling(self) -> bool:
        return self.phase is Phase.ANSWERING and self.prefilled < self.prompt

    def pressed(self, pressure: str) -> "Live":
        """With one more reading of the pressure."""
        level = LEVELS.index(pressure) if pressure in LEVELS else 0
        return replace(self, pressure=pressure, history=(*self.history, level)[-HISTORY:])

    def fields(self, beats: int = 0) -> list[Field]:
        """What there is to say, most important first; of the history `beats` readings."""
        said = [
            self._pressure(beats),
            Field(("not saved", "unsaved"), "critical") if self.unsaved else None,
            self._phase(),
            self._prefill(),
            self._speed(),
            Field((f"{self.queued} queued",)) if self.queued else None,
            self._context(),
            self._model(),
            Field((f"KV {gb(self.kv)}",)) if self.kv else None,
            *(_experts(self.experts) if self.experts else ()),
            self._prefilled_at(),
        ]
        return [field for field in said if field]

    def _pressure(self, beats: int) -> Field | None:
        if not self.pressure:
            return None
        said = f"● {self.pressure}"
        shown = "".join(HEIGHTS[level] for level in self.history[-beats:]) if beats else ""
        forms = (f"{said} {shown}", said) if shown else (said,)
        return Field(forms, self.pressure if self.pressure in LEVELS else "")

    def _phase(self) -> Field | None:
        match self.phase:
            case Phase.LOADING if self.to_load:
                done = f"{self.loaded}/{self.to_load}"
                return Field((f"loading {done} layers", f"loading {done}"))
            case Phase.LOADING:
                return Field(("loading",))
            case Phase.ENDED:
                return Field(("ended",), "critical")
        return None

    def _prefill(self) -> Field | None:
        if not self.prefilling:
            return None
        share = f"{self.prefilled * 100 // self.prompt} %"
        tps = f" {_rate(self.prefill_tps)} tok/s" if self.prefill_tps else ""
        left = f" {duration(self.eta)} left" if self.eta else ""
        terse = f" {_rate(self.prefill_tps)}/s {duration(self.eta)}" if tps and left else tps
        return Field(
            (
                f"prompt {self.prefilled:,}/{self.prompt:,}{tps}{left}",
                f"prompt {count(self.prefilled)}/{count(self.prompt)}{tps}{left}",
                f"prompt {share}{terse}",
                f"prompt {share}{left}",
                f"prompt {share}",
            ),
            least=2,
        )

    def _speed(self) -> Field | None:
        if self.prefilling or not (self.tps or self.tps_average):
            return None
        if self.phase is not Phase.ANSWERING:
            return Field((f"{_rate(self.tps_average or self.tps)} tok/s",))
        now = f"{_rate(self.tps)} tok/s"
        if not self.tps_average:
            return Field((now,))
        average = _rate(self.tps_average)
        return Field((f"{now}, average {average}", f"{now} (avg {average})", now))

    def _prefilled_at(self) -> Field | None:
        if self.prefilling or not self.prompt:
            return None
        read = f"prompt {self.prompt:,}"
        if not self.prefill_tps:
            return Field((read,), extra=True)
        tps = f"{_rate(self.prefill_tps)} tok/s"
        return Field((f"{read} at {tps}", f"prompt at {tps}"), extra=True)

    def _context(self) -> Field | None:
        if not self.context:
            return None
        used, full = self.context_used, self.context
        share = f"{used * 100 // full} %"
        forms = (
            f"context {used:,}/{full:,} ({share})",
            f"context {count(used)}/{count(full)} ({share})",
            f"context {share}",
            f"ctx {share}",
        )
        return Field(forms, "warning" if used >= full * NEARLY_FULL else "")

    def _model(self) -> Field | None:
        if not self.model:
            return None
        if not self.limit:
            return Field((f"model {gb(self.model)}",))
        held, unit = gb(self.model).split(" ")
        most, its_unit = gb(self.limit).split(" ")
        both = f"{held}/{most} {unit}" if unit == its_unit else f"{held} {unit}/{most} {its_unit}"
        forms = (f"model {gb(self.model)} of {gb(self.limit)}", f"model {both}")
        return Field(forms, "warning" if self.model > self.limit else "")


def _experts(experts: ExpertStats) -> list[Field]:
    said = []
    if experts.wanted:
        hits = f"{experts.hit_rate * 100:.0f} %"
        said.append(Field((f"expert hits {hits}", f"hits {hits}")))
    if experts.bandwidth:
        said.append(Field((f"SSD {gb(experts.bandwidth)}/s",), extra=True))
    if experts.slab_bytes:
        said.append(Field((f"experts {gb(experts.slab_bytes)}",), extra=True))
    return said


def _rate(tps: float) -> str:
    """'0.32', '50.1' or '1,234': what says something."""
    if tps >= 1000:
        return f"{tps:,.0f}"
    return f"{tps:.1f}" if tps >= 1 else f"{tps:.2f}"


def count(tokens: int) -> str:
    """'950', '20k', '1.05M'."""
    if tokens < 1000:
        return str(tokens)
    if tokens < 999_500:
        return f"{tokens / 1000:.0f}k" if tokens >= 9950 else f"{tokens / 1000:.1f}k"
    return f"{tokens / 1e6:.2f}M"


def duration(seconds: float) -> str:
    """'84 s', '14 min', '2.1 h'."""
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
