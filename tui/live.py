"""The numbers of the status line, and how they read.

Knows nothing of widgets.
"""

from dataclasses import dataclass
from enum import Enum

from ..streaming.stats import ExpertStats
from ..units import gb


class Phase(Enum):
    """What the model is doing."""

    LOADING = "loading"
    READY = "ready"
    ANSWERING = "answering"
    ENDED = "ended"  # the worker is gone


@dataclass(frozen=True)
class Live:
    """One moment. Bytes and tokens; 0 is 'not known yet', except for `context_used`."""

    phase: Phase = Phase.LOADING
    pressure: str = ""  # of the machine's memory: normal, warning, critical
    loaded: int = 0  # layers
    to_load: int = 0
    model: int = 0  # what MLX holds
    kv: int = 0
    prefilled: int = 0
    prompt: int = 0
    context_used: int = 0
    context: int = 0
    tps: float = 0.0  # decode
    experts: ExpertStats | None = None  # where they are streamed

    def fields(self) -> list[str]:
        """What there is to say, most important first; `pressure` is the caller's to colour."""
        said = []
        if self.phase is Phase.LOADING:
            layers = f" {self.loaded}/{self.to_load} layers" if self.to_load else ""
            said.append(f"loading{layers}")
        elif self.phase is Phase.ENDED:
            said.append("ended")
        if self.model:
            said.append(f"model {gb(self.model)}")
        if self.kv:
            said.append(f"KV {gb(self.kv)}")
        if self.prompt:
            part = f"{self.prefilled:,}/" if self.prefilled < self.prompt else ""
            said.append(f"prompt {part}{self.prompt:,}")
        if self.context:
            said.append(f"context {self.context_used:,}/{self.context:,}")
        if self.tps:
            said.append(f"{self.tps:.1f} tok/s")
        if self.experts:
            said.append(f"experts {gb(self.experts.slab_bytes)}")
            if self.experts.wanted:
                said.append(f"hits {self.experts.hit_rate * 100:.0f} %")
            if self.experts.read_seconds:
                said.append(f"SSD {gb(self.experts.bandwidth)}/s")
        return said
