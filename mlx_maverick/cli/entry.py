"""Where the process begins and ends: signals are taken first, the command comes second.

Imports next to nothing at the top, so that a signal finds our handler as early as it can be.
"""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

# A module that is being imported runs from here, native initialisation included.
_IMPORTING = "<frozen importlib._bootstrap>"
_AGAIN_SECONDS = 0.0002


def entry() -> NoReturn:
    """Run the command line and exit with its code; 130 after SIGINT or SIGTERM."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        if signal.getsignal(signum) != signal.SIG_IGN:  # as nohup and `&` in scripts ask for
            signal.signal(signum, _interrupt)
    _open_missing_streams()
    try:
        from .main import main

        code = main()
        _interrupt(0, None)  # one that waited for an import to end
    except KeyboardInterrupt as e:  # outside of what `main` sees to
        print(f"mlx-maverick: {e}", file=sys.stderr)
        code = 130
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(signum, signal.SIG_IGN)  # the command is done, whatever comes now
    sys.exit(code)


_waiting = 0  # the signal that could not be raised yet


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, which no `except Exception` on the way can swallow; but not
    out of an import: native modules abort the process if their initialisation raises."""
    global _waiting
    if signum != signal.SIGALRM:
        _waiting = _waiting or signum
    if not _waiting:
        return
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
            return
        frame = frame.f_back
    word = "terminated" if _waiting == signal.SIGTERM else "interrupted"
    _waiting = 0
    raise KeyboardInterrupt(word)


def _open_missing_streams() -> None:
    """A parent may have closed stdin, stdout or stderr; Python then has None there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for the whole run
