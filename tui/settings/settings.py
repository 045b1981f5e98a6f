"""What one chat runs with, and how it comes of what was said where.

Knows nothing of files and widgets. What was said in one place is a mapping of some of the names
in `NAMES` to values, where None says "none" (no system prompt, no limit). Places are listed
strongest first: the command line, the chat's own, config.toml; what none of them says is built
in.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ...errors import MaverickError, UsageError
from ...kv import KVOptions
from ...sampling import Sampling
from ...streaming.options import ExpertOptions

Said = Mapping[str, Any]

UNQUANTISED = 16  # bits; how a person says that a KV cache stays as it is computed
MIN_CONTEXT = 2  # tokens: one of the prompt and one of the answer

PLAIN = ("model", "system", "context", "kv_max_size")
# What makes sense together only: of these, what a stronger place says holds alone.
KV = ("kv_bits", "kv_start")
EXPERTS = ("experts", "expert_memory", "look_ahead", "file_cache", "route_log")
SAMPLING = tuple(f.name for f in fields(Sampling))
NAMES = (*PLAIN, *KV, *EXPERTS, *SAMPLING)


@dataclass(frozen=True)
class Settings:
    """Raises UsageError for what makes no sense."""

    model: str | None = None  # a folder, or a repository in the Hub's cache
    system: str | None = None
    context: int | None = None  # tokens; None: what `load` takes by itself
    kv: KVOptions = field(default_factory=KVOptions)
    experts: ExpertOptions = field(default_factory=ExpertOptions)
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        for name in ("model", "system"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise UsageError(f"{name} {value!r} is not text")
            if value is not None and not value.strip():
                object.__setattr__(self, name, None)
        if self.context is not None:
            whole = isinstance(self.context, int) and not isinstance(self.context, bool)
            if not whole or self.context < MIN_CONTEXT:
                raise UsageError(
                    f"context {self.context!r} is not a whole number of at least {MIN_CONTEXT}"
                )

    @staticmethod
    def merged(*places: Said) -> "Settings":
        """Of what was said, strongest place first. Raises UsageError for an unknown name, and
        for values that make no sense, alone or together."""
        said = _strongest(places, PLAIN + SAMPLING)
        for group in (KV, EXPERTS):
            place = next((p for p in places if any(name in p for name in group)), {})
            said |= {name: place[name] for name in group if name in place}
        if unknown := [name for place in places for name in place if name not in NAMES]:
            raise UsageError(f"unknown setting {unknown[0]!r}; there are {', '.join(NAMES)}")
        bits = said.get("kv_bits")
        return Settings(
            model=said.get("model"),
            system=said.get("system"),
            context=said.get("context"),
            kv=KVOptions(
                None if bits == UNQUANTISED else bits,
                said.get("kv_start") or 0,
                said.get("kv_max_size"),
            ),
            experts=ExpertOptions.of(
                said.get("experts") or "auto",
                said.get("expert_memory"),
                said.get("look_ahead") or False,
                said.get("file_cache") or False,
                said.get("route_log"),
            ),
            sampling=Sampling().changed({n: v for n, v in said.items() if n in SAMPLING}),
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `stored_place` makes a place of it again. All but the route log, which is of
        one run: a chat that is gone on with would overwrite it."""
        sampling = {name: getattr(self.sampling, name) for name in SAMPLING}
        sampling["stop"] = list(self.sampling.stop)
        sampling["logit_bias"] = {str(id): b for id, b in self.sampling.logit_bias.items()}
        return {
            "model": self.model,
            "system": self.system,
            "context": self.context,
            "kv_bits": self.kv.bits,
            "kv_start": self.kv.start,
            "kv_max_size": self.kv.max_size,
            "experts": str(self.experts.mode),
            "expert_memory": self.experts.memory,
            "look_ahead": self.experts.look_ahead,
            "file_cache": self.experts.file_cache,
            **sampling,
        }

    @staticmethod
    def of_dict(stored: object) -> "Settings":
        """What `as_dict` gave, perhaps in another version: see `stored_place`."""
        return Settings.merged(stored_place(stored))

    def reloads(self, loaded: "Settings") -> tuple[str, ...]:
        """What differs from the settings a model was loaded with so that it must be loaded
        again, in words."""
        parts = {
            "model": self.model != loaded.model,
            "context": self.context != loaded.context,
            "KV cache": self.kv != loaded.kv,
            "experts": self.experts != loaded.experts,
        }
        return tuple(name for name, differs in parts.items() if differs)


def stored_place(stored: object) -> dict[str, Any]:
    """What a chat's stored settings say, for `merged`. Another version may have written them:
    names that this one does not know, and values that it cannot take, are left out."""
    if not isinstance(stored, Mapping):
        return {}
    said = {name: stored[name] for name in NAMES if name in stored}
    if isinstance(said.get("logit_bias"), Mapping):  # JSON has no other names than texts
        said["logit_bias"] = {_id(id): bias for id, bias in said["logit_bias"].items()}
    for group in (KV, EXPERTS, *((name,) for name in PLAIN + SAMPLING)):
        part = {name: said[name] for name in group if name in said}
        try:
            Settings.merged(part)
        except MaverickError:
            for name in part:
                del said[name]
    return said


def _strongest(places: tuple[Said, ...], names: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: next(place[name] for place in places if name in place)
        for name in names
        if any(name in place for place in places)
    }


def _id(text: object) -> object:
    return int(text) if isinstance(text, str) and re.fullmatch(r"[0-9]{1,10}", text) else text
