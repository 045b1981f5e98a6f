"""What is to be told before there is a model: the machine, what it can run, what is on it.

Knows nothing of how that is found out, or shown, and loads nothing else of the package. A fact
crosses from one process to the other as a line of JSON.
"""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Fit(StrEnum):
    """How a model runs on a machine as it is set."""

    FITS = "fits"
    STREAMED = "streamed"  # with its experts on the SSD
    RAISED = "raised"  # once the GPU's limit is raised
    NO = "no"
    SOURCE = "source"  # a format to convert from, not to run


@dataclass(frozen=True)
class Computer:
    """This machine. Sizes are bytes."""

    name: str  # with its article
    chip: str | None
    memory: int
    limit: int  # what a model may take
    raised: int  # with a raised limit; `limit` where there is none to raise


@dataclass(frozen=True)
class Prospect:
    """What of a published model to get for this machine. Sizes are bytes."""

    model: str  # "maverick"
    recipe: str  # the smallest on offer if none fits
    fit: Fit
    disk: int
    memory: int
    speed: str  # in words; "" if unknown
    convert: str  # the command that makes it; "" if none fits
    sysctl: str  # the command that raises the limit for it, where it has to be


@dataclass(frozen=True)
class Found:
    """A model folder on this machine. Sizes are bytes."""

    model: str  # what loading takes: a folder, or owner/name in the Hub's cache
    name: str
    where: str
    disk: int  # of its weights
    bits: str  # "e4r6" if this program converted it, else "4 bits", "BF16", ...
    vision: bool  # sees pictures
    # What follows is known later:
    fit: Fit | None = None
    speed: str = ""
    command: str = ""  # that raises the limit so that all of it fits, or converts it


@dataclass(frozen=True)
class Remark:
    """Something to know about the search itself."""

    text: str


Fact = Computer | Prospect | Found | Remark
_KINDS: dict[str, type[Fact]] = {
    kind.__name__: kind for kind in (Computer, Prospect, Found, Remark)
}


def encode(fact: Fact) -> str:
    """One line."""
    return json.dumps({"kind": type(fact).__name__, **asdict(fact)})


def decode(line: str | bytes) -> Fact:
    """Raises KeyError, TypeError or ValueError for what `encode` has not written."""
    values: dict[str, Any] = json.loads(line)
    kind = _KINDS[values.pop("kind")]
    if values.get("fit") is not None:
        values["fit"] = Fit(values["fit"])
    return kind(**values)
