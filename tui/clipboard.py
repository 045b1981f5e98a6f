"""Whether the Mac's own clipboard can be used, and using it.

Knows nothing of Textual, which copies with OSC 52 everywhere else: that reaches the terminal a
person sits at, also over SSH, but macOS's Terminal does not take it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

SECONDS = 2.0


def has_pasteboard(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> bool:
    """A Mac that the person sits at; over SSH `pbcopy` would fill the wrong clipboard."""
    remote = environ.get("SSH_CONNECTION") or environ.get("SSH_TTY")
    return platform == "darwin" and not remote and shutil.which("pbcopy") is not None


def pbcopy(text: str) -> bool:
    """Copy with macOS's tool; whether it worked."""
    try:
        done = subprocess.run(
            ["pbcopy"],
            input=text.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LC_CTYPE": "UTF-8"},  # without it pbcopy takes it for MacRoman
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
