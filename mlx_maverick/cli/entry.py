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
_AGAIN_SECONDS = 0.001


def entry() -> NoReturn:
    """Run the command line and exit with its code; 130 after SIGINT or SIGTERM."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        if signal.getsignal(signum) != signal.SIG_IGN:  # as nohup and `&` in scripts ask for
            signal.signal(signum, _interrupt)
    _open_missing_streams()
    try:
        from .main import main

        code = main()
    except KeyboardInterrupt as e:  # before `main` could see to it
        print(f"mlx-maverick: {e or 'interrupted'}", file=sys.stderr)
        code = 130
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(signum, signal.SIG_IGN)  # the command is done, whatever comes now
    sys.exit(code)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, which no `except Exception` on the way can swallow; but not
    out of an import: native modules abort the process if their initialisation raises."""
    global _first
    _first = _first or signum
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
            return
        frame = frame.f_back
    word = "terminated" if _first == signal.SIGTERM else "interrupted"
    _first = 0
    raise KeyboardInterrupt(word)


_first = 0


def _open_missing_streams() -> None:
    """A parent may have closed stdin, stdout or stderr; Python then has None there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for the whole run
