"""The sockets that were opened for one purpose, so that they can be closed with it.

Knows nothing of requests. huggingface_hub has one HTTP client for the whole program, which
is not ours to close; and a thread that waits for a silent server only wakes up when its
socket is shut down.
"""

import contextlib
import socket
import threading
import weakref
from typing import Any


class Sockets:
    """Collects sockets from the HTTP library's `trace` extension.

    https://www.encode.io/httpcore/extensions/#trace
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._shut = False

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Told of every step of a request; a new connection (or its TLS) returns a stream."""
        if not event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            return
        found = info["return_value"].get_extra_info("socket")
        if isinstance(found, socket.socket):
            with self._lock:
                self._open.add(found)
                shut = self._shut
            if shut:
                _shut_down(found)

    def shut_down(self) -> None:
        """Wake up whoever waits for one of them; what they wait for fails."""
        with self._lock:
            self._shut = True
            found = list(self._open)
        for each in found:
            _shut_down(each)

    def close(self) -> None:
        """Give them back. Only when nobody uses them: their numbers are used again."""
        with self._lock:
            found = list(self._open)
        for each in found:
            each.close()


def _shut_down(each: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side was faster
        each.shutdown(socket.SHUT_RDWR)
