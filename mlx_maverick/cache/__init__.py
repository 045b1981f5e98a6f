"""The KV cache of one conversation, in memory and in a file.

Knows nothing of tokens, prompts or the network.
"""

from .cache import Cache
from .packed import Packed
from .store import Stored, load, save

__all__ = ["Cache", "Packed", "Stored", "load", "save"]
