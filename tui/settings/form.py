"""The fields of the settings: what each means, what it shows, and the settings that come of
what a person wrote into them.

Knows nothing of widgets. What is allowed is decided by the library's own dataclasses; a range
in a field's words is there to be read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...cli.terminal import printable
from ...errors import UsageError
from ...memory import DEFAULT_CONTEXT
from ...sampling import Sampling
from .settings import UNQUANTISED, Settings

_BUILT_IN = Sampling()


@dataclass(frozen=True)
class Field:
    """One of them. `name` is as in `settings.NAMES`."""

    name: str
    label: str
    meaning: str
    empty: str = ""  # what it means to leave it empty
    kind: type[int] | type[float] | type[str] = str


SYSTEM = Field(
    "system",
    "System prompt",
    "What the model is told before the chat. ctrl+r puts in the one that Meta recommends for "
    "Llama 4, ctrl+z takes it out again.",
    "none",
)
NEXT_REPLY = (
    Field(
        "temperature",
        "Temperature",
        "0 to 100. How bold: 0 always takes the likeliest token.",
        f"{_BUILT_IN.temperature}",
        float,
    ),
    Field(
        "top_p",
        "Top p",
        "Above 0, to 1. Only the likeliest tokens, with this much probability together.",
        f"{_BUILT_IN.top_p}",
        float,
    ),
    Field(
        "min_p",
        "Min p",
        "0 to 1. Only tokens with this share of the likeliest one's probability.",
        f"{_BUILT_IN.min_p}",
        float,
    ),
    Field(
        "max_tokens",
        "Max tokens",
        "1 or more. The longest reply.",
        "until the context is full",
        int,
    ),
    Field(
        "seed",
        "Seed",
        "0 or more. Equal seeds give equal replies to equal chats.",
        "another one for each reply",
        int,
    ),
)
LOADED = (
    Field("model", "Model", "A folder, or a repository in the Hub's cache.", "none"),
    Field(
        "context",
        "Context",
        "2 or more. Tokens that the whole chat may have; more take more memory.",
        f"at most {DEFAULT_CONTEXT:,}",
        int,
    ),
    Field(
        "kv_bits",
        "KV bits",
        "16 keeps the chat in memory as computed; 8 or 4 take less memory, and are less exact.",
        f"{UNQUANTISED}",
        int,
    ),
)
FIELDS = (SYSTEM, *NEXT_REPLY, *LOADED)


def clean(text: str) -> str:
    """Without control characters, and with line ends as an editor has them."""
    return printable(text.replace("\r\n", "\n").replace("\r", "\n"))


def shown(settings: Settings) -> dict[str, str]:
    """What the fields show for settings."""
    values = settings.as_dict()
    texts = {f.name: "" if (v := values[f.name]) is None else clean(str(v)) for f in FIELDS}
    return {**texts, "model": " ".join(texts["model"].split("\n"))}


@dataclass(frozen=True)
class Filled:
    """What came of the fields."""

    settings: Settings | None  # None: something is wrong
    wrong: Mapping[str, str]  # the reason, by the field's name


def filled(given: Settings, texts: Mapping[str, str]) -> Filled:
    """`given`, with what the fields say now. What was not touched stays as it was, also where a
    field cannot show it exactly."""
    before = shown(given)
    settings, wrong = given, {}
    for field in FIELDS:
        if texts[field.name] == before[field.name]:
            continue
        try:
            settings = _changed(settings, field, texts[field.name])
        except UsageError as e:
            wrong[field.name] = str(e)
    return Filled(None if wrong else settings, wrong)


def _changed(settings: Settings, field: Field, text: str) -> Settings:
    value = _parsed(text, field.kind)
    match field.name:
        case "system":
            return replace(settings, system=value)
        case "context":
            return replace(settings, context=value)
        case "model":
            if value is None:
                raise UsageError("a chat needs a model")
            return replace(settings, model=value)
        case "kv_bits":
            bits = None if value == UNQUANTISED else value
            start = 0 if bits is None else settings.kv.start
            return replace(settings, kv=replace(settings.kv, bits=bits, start=start))
        case name:
            built_in = getattr(_BUILT_IN, name)
            sampling = settings.sampling.changed({name: built_in if value is None else value})
            return replace(settings, sampling=sampling)


def _parsed(text: str, kind: type[int] | type[float] | type[str]) -> Any:
    """A value for the library to judge, which says best what is wrong with a text."""
    text = text.strip()
    if not text:
        return None
    if kind is int and re.fullmatch(r"[0-9]{1,3}(,[0-9]{3})+", text):  # as we write it
        text = text.replace(",", "")
    try:
        return kind(text)
    except ValueError:
        return text
