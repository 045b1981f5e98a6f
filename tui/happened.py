"""What the controller tells the screen.

Knows nothing of who listens.
"""

from dataclasses import dataclass

from textual.message import Message

from ..client import Loaded
from ..errors import MaverickError
from .conversation import Draft, Node
from .live import Live


class Wake(Message):
    """Events wait, and nobody is draining them."""


@dataclass
class LiveChanged(Message):
    live: Live


@dataclass
class ModelReady(Message):
    model: Loaded


@dataclass
class ModelFailed(Message):
    """There is no model: it could not be loaded, or its process ended."""

    error: MaverickError
    loading: bool  # it never answered


class LoadingStopped(Message):
    """There is no model: a person stopped its loading."""


@dataclass
class Asked(Message):
    """Two more messages: what was sent, and a reply that is on its way."""

    question: Node
    reply: Node


@dataclass
class ReplyGrew(Message):
    text: str


@dataclass
class ReplyEnded(Message):
    """The reply stands as it is."""

    reply: Node


@dataclass
class PathChanged(Message):
    """Other messages are shown than before; `at` is what it is about, None for the end."""

    at: Node | None = None


@dataclass
class QueueChanged(Message):
    """Messages that wait for the present reply to end."""

    drafts: tuple[Draft, ...]


@dataclass
class MessageReturned(Message):
    """Nothing came of a message: it goes back to where it was written."""

    draft: Draft
    error: MaverickError | None  # None: the person stopped it


@dataclass
class Trouble(Message):
    """Something to tell that changes nothing."""

    text: str
