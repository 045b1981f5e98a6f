"""Chats on the disk: saved as they happen, searched, exported.

Knows nothing of widgets and of the worker.
"""

from .faults import StoreError
from .records import ChatRow, StoredChat, StoredMessage
from .store import BROKEN_OFF, Store

__all__ = ["BROKEN_OFF", "ChatRow", "Store", "StoreError", "StoredChat", "StoredMessage"]
