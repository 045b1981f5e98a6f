"""A program in a terminal that nobody looks at: started, watched, ended.

Knows nothing of what it does. Its screen is read and thrown away, as fast as it comes.
"""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from selectors import EVENT_READ, DefaultSelector
from time import perf_counter

from ..errors import MaverickError

COLUMNS, LINES = 100, 40
SECONDS = 900.0


def run(
    words: Sequence[str], environ: Mapping[str, str], until: str = "", failure: str = ""
) -> float:
    """Run `python -m WORDS` until it ends, or until it has shown `until`, after which it is
    ended. Seconds from its start to that, or to its end.

    Raises MaverickError beginning with `failure` if it ends badly or not at all.
    """
    terminal, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    begun = perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", *words], stdin=its, stdout=its, stderr=its,
        env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", **environ},
        start_new_session=True, preexec_fn=_own_terminal,
    )  # fmt: skip
    os.close(its)
    seen, at = b"", None
    try:
        with DefaultSelector() as selector:
            selector.register(terminal, EVENT_READ)
            while perf_counter() - begun < SECONDS:
                if not selector.select(1.0):
                    continue
                try:
                    data = os.read(terminal, 1 << 16)
                except OSError:  # how Linux says that the other end is closed
                    data = b""
                if not data:
                    break
                seen = (seen + data)[-(1 << 16) :]
                if until and at is None and until.encode() in seen:
                    at = perf_counter() - begun
                    child.send_signal(signal.SIGTERM)
        status = child.wait(SECONDS)
    except subprocess.TimeoutExpired:
        raise MaverickError(f"{failure}: it does not end") from None
    finally:
        if child.poll() is None:
            child.terminate()
        os.close(terminal)
    if at is not None:
        return at
    if until or status:
        last = seen.decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(last) if line.strip()), "nothing")
        raise MaverickError(f"{failure}: it ended with {status} and said {said[:200]!r}")
    return perf_counter() - begun


def _own_terminal() -> None:
    """Runs in the child: it ends with its terminal, so if this process is killed, too."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
