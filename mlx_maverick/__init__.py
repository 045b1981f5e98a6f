"""Llama 4 Maverick on one Mac: `load` a model, then `generate`, `stream` or `chat`.

Importing this loads neither mlx nor textual nor transformers; the names below arrive when used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "load": "loading",
    "Maverick": "maverick",
    "Chat": "chat",
    "Session": "session",
    "Stream": "stream",
    "Sampling": "sampling",
    "KVOptions": "kv",
    "JsonSchema": "grammar",
    "ToolCall": "tools.call",
    "Prefill": "events",
    "Token": "events",
    "Likely": "events",
    "Finished": "events",
    "FinishReason": "events",
    "Reply": "events",
    "Stats": "events",
    "MaverickError": "errors",
    "UsageError": "errors",
    "NotFound": "errors",
    "DoesNotFit": "errors",
    "BadCheckpoint": "errors",
    "BadImage": "errors",
    "Interrupted": "errors",
}
__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from .chat import Chat as Chat
    from .errors import BadCheckpoint as BadCheckpoint
    from .errors import BadImage as BadImage
    from .errors import DoesNotFit as DoesNotFit
    from .errors import Interrupted as Interrupted
    from .errors import MaverickError as MaverickError
    from .errors import NotFound as NotFound
    from .errors import UsageError as UsageError
    from .events import Finished as Finished
    from .events import FinishReason as FinishReason
    from .events import Likely as Likely
    from .events import Prefill as Prefill
    from .events import Reply as Reply
    from .events import Stats as Stats
    from .events import Token as Token
    from .grammar import JsonSchema as JsonSchema
    from .kv import KVOptions as KVOptions
    from .loading import load as load
    from .maverick import Maverick as Maverick
    from .sampling import Sampling as Sampling
    from .session import Session as Session
    from .stream import Stream as Stream
    from .tools.call import ToolCall as ToolCall


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
