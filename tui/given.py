"""What the chat begins with, beside settings.

Knows nothing of where that was said.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .conversation import Picture
from .thumbnail import Mode


@dataclass(frozen=True)
class Given:
    """All of it may be left out."""

    pictures: tuple[Picture, ...] = ()  # for the first message
    notes: tuple[str, ...] = ()  # what to say at once
    models: tuple[str, ...] = ()  # that were used before, the latest first
    keymap: Mapping[str, str] = field(default_factory=dict)  # keys by binding id
    theme: str | None = None
    thumbnails: Mode = "auto"
    remember_theme: Callable[[str], None] = lambda name: None


NOTHING = Given()
