"""The clipboard: copying text to it, and a picture from it on a Mac.

Knows nothing of Textual, which copies with OSC 52 where the Mac's own clipboard cannot be used:
that reaches the terminal a person sits at, also over SSH, but macOS's Terminal does not take it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import MaverickError, UsageError
from ..units import gb
from .pictures import SUFFIXES

SECONDS = 2.0
SCRIPT_SECONDS = 10.0  # a screenshot of a large screen takes a second or two as PNG
# Bytes of text that terminals take by OSC 52: hterm and many others at most 100,000 with the
# base64 around it (chromium/hterm, etc/osc52.sh). Some take more, a few much less.
OSC52_BYTES = 74_994

Script = Callable[..., str]

INFO = "clipboard info"
FILE = "POSIX path of (the clipboard as «class furl»)"
# The data goes to the file itself: as output it would come in hexadecimal.
SAVE = """on run argv
    set theData to the clipboard as {kind}
    set theFile to open for access (POSIX file (item 1 of argv)) with write permission
    try
        set eof theFile to 0
        write theData to theFile
        close access theFile
    on error theReason
        close access theFile
        error theReason
    end try
end run"""
# As `clipboard info` calls them and AppleScript takes them, the best first: a screenshot and
# what a browser copies are there in several.
KINDS = {
    "«class PNGf»": ".png",
    "JPEG picture": ".jpg",
    "«class TIFF»": ".tiff",
    "TIFF picture": ".tiff",
    "GIF picture": ".gif",
}


def has_pasteboard(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> bool:
    """A Mac that the person sits at; over SSH `pbcopy` would fill the wrong clipboard."""
    return platform == "darwin" and not _remote(environ) and shutil.which("pbcopy") is not None


def _remote(environ: Mapping[str, str]) -> bool:
    return bool(environ.get("SSH_CONNECTION") or environ.get("SSH_TTY"))


def pbcopy(text: str) -> bool:
    """Copy with macOS's tool; whether it worked."""
    try:
        done = subprocess.run(
            ["pbcopy"],
            input=text.encode(errors="replace"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LC_CTYPE": "UTF-8"},  # without it pbcopy takes it for MacRoman
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def copy(text: str, by_terminal: Callable[[str], object]) -> str:
    """Copy `text`, with `by_terminal` (OSC 52) where macOS's tool cannot be used. What is to be
    said about it, or the empty string: a terminal does not tell whether it took it."""
    if has_pasteboard() and pbcopy(text):
        return ""
    encoded = text.encode(errors="replace")  # half a surrogate pair has no bytes
    by_terminal(encoded.decode())
    if len(encoded) <= OSC52_BYTES:
        return ""
    return (
        f"{gb(len(encoded))} are more than many terminals take ({gb(OSC52_BYTES)}); if pasting "
        "gives nothing, copy a part of it"
    )


def osascript(source: str, *arguments: str) -> str:
    """What AppleScript answers. Raises MaverickError with its reason."""
    try:
        done = subprocess.run(
            ["osascript", "-e", source, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SCRIPT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise MaverickError(
            f"the clipboard did not answer in {SCRIPT_SECONDS:.0f} s; save the picture and drag "
            "the file in"
        ) from None
    except OSError as e:
        raise MaverickError(
            f"the clipboard cannot be read: osascript cannot be started ({e.strerror}); drag the "
            "picture's file in"
        ) from None
    if done.returncode != 0:
        reason = " ".join(done.stderr.decode(errors="replace").split()) or "osascript failed"
        raise MaverickError(f"the clipboard cannot be read: {reason}; drag the picture's file in")
    return done.stdout.decode(errors="replace").strip()


def picture(
    folder: Path,
    script: Script = osascript,
    environ: Mapping[str, str] = os.environ,
    platform: str = sys.platform,
) -> Path | None:
    """The picture in the clipboard: the file that was copied, or a new one in `folder`; None if
    there is none. It takes up to seconds.

    Raises UsageError where the clipboard cannot be had, MaverickError if reading it failed.
    """
    if _remote(environ):
        raise UsageError(
            "over SSH the clipboard of your own machine cannot be read; copy the file here and "
            "type /image PATH"
        )
    if platform != "darwin":
        raise UsageError("pictures are pasted on a Mac only; drag the file in or type /image PATH")
    kinds = script(INFO)
    # First: with a file the Finder copies its icon, too.
    if "«class furl»" in kinds:
        file = Path(script(FILE))
        return file if file.suffix.lower() in SUFFIXES else None
    for kind, suffix in KINDS.items():
        if kind in kinds:
            return _saved(folder, kind, suffix, script)
    return None


def _saved(folder: Path, kind: str, suffix: str, script: Script) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(suffix, "pasted-", folder)
    except OSError as e:
        raise MaverickError(
            f"the picture cannot be saved in {folder} ({e.strerror}); drag its file in instead"
        ) from None
    os.close(handle)
    file = Path(name)
    try:
        script(SAVE.format(kind=kind), name)
        if file.stat().st_size == 0:
            raise MaverickError("the clipboard gave an empty picture; copy it again")
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return file
