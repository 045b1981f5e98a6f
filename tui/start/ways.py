"""Ways out when a model cannot be loaded: what each one is, and what it changes.

Knows nothing of which are possible (`judge` does), nor of how they are shown.
"""

from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from ...kv import DENSE, KVOptions
from ...streaming.options import ExpertOptions, Mode


class Kind(StrEnum):
    """What a way is; in brackets what its value is."""

    STREAM = "stream"  # experts from the SSD [and a context, in tokens, if it must be shorter]
    AUTO = "auto"  # leave it to the program where experts are
    CONTEXT = "context"  # a shorter one [tokens]
    KV_BITS = "kv_bits"  # another KV cache [bits, or None for one that is not quantised]
    COPY = "copy"  # a command to run somewhere else [the command]; the screen stays
    AGAIN = "again"
    ANOTHER = "another"  # model
    QUIT = "quit"


@dataclass(frozen=True)
class Asked:
    """What was to be loaded, as `Client.load` takes it."""

    model: str
    context: int | None = None
    kv: KVOptions = DENSE
    experts: ExpertOptions = field(default_factory=ExpertOptions)

    def fields(self) -> dict[str, Any]:
        """For JSON: what protocol's `load` has."""
        return {
            "model": self.model,
            "context": self.context,
            "kv": asdict(self.kv),
            "experts": self.experts.fields(),
        }


@dataclass(frozen=True)
class Way:
    """One way out."""

    kind: Kind
    value: int | str | None = None

    def changes(self, kv: KVOptions) -> dict[str, Any]:
        """The fields to replace in what was asked, or in settings that have the same names:
        context, kv, experts. `kv` is what was asked. Empty where nothing changes."""
        match self:
            case Way(Kind.STREAM, int(context)):
                return {"experts": ExpertOptions(Mode.STREAM), "context": context}
            case Way(Kind.STREAM):
                return {"experts": ExpertOptions(Mode.STREAM)}
            case Way(Kind.AUTO):
                return {"experts": ExpertOptions()}
            case Way(Kind.CONTEXT, int(context)):
                return {"context": context}
            case Way(Kind.KV_BITS, int(bits)):
                return {"kv": replace(kv, bits=bits)}
            case Way(Kind.KV_BITS):
                return {"kv": replace(kv, bits=None, start=0)}
        return {}

    def applied(self, asked: Asked) -> Asked:
        """What to ask for instead."""
        return replace(asked, **self.changes(asked.kv))

    @property
    def words(self) -> str:
        """As a choice reads."""
        match self:
            case Way(Kind.STREAM, int(context)):
                return f"Stream the experts from the SSD, with a context of {context:,} tokens"
            case Way(Kind.CONTEXT, int(context)):
                return f"Use a context of {context:,} tokens"
            case Way(Kind.KV_BITS, int(bits)):
                return f"Keep the KV cache in {bits} bits"
            case Way(Kind.COPY, command):
                return f"Copy the command: {command}"
        return _WORDS[self.kind]


_WORDS = {
    Kind.STREAM: "Stream the experts from the SSD",
    Kind.AUTO: "Let the program say where experts are",
    Kind.KV_BITS: "Do not quantise the KV cache",
    Kind.AGAIN: "Try again",
    Kind.ANOTHER: "Choose another model",
    Kind.QUIT: "Quit",
}
