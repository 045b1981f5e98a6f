"""Picture files: which ones a pasted text names, and a first look at one.

Knows nothing of tiles and of widgets. The worker decodes a picture; this reads its header, so
that a file that is no picture is refused when it is attached and not when it is sent.
"""

import shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .conversation import Picture

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif")
)
MAX_PASTE = 16_384  # characters; a longer paste is a text
QUOTES = "'\""


def look(path: str | Path) -> Picture:
    """The picture at `path`, of which only the header is read.

    Raises NotFound, or BadImage with the reason.
    """
    from ..image_source import image_size

    file = Path(path).expanduser().absolute()
    width, height = image_size(file)
    nbytes = file.stat().st_size
    return Picture(file, width, height, nbytes)


def pasted(text: str) -> list[Path]:
    """The picture files `text` names, if it names nothing else; a drag into a terminal pastes
    paths, quoted or with backslashes, and file managers copy plain paths or file URLs."""
    text = text.strip()
    if not text or len(text) > MAX_PASTE:
        return []
    for words in ([text], text.splitlines(), _shell_words(text)):
        files = [_file(word.strip()) for word in words if word.strip()]
        if files and all(files):
            return [f for f in files if f is not None]
    return []


def typed(text: str) -> Path:
    """The path a person typed, quoted or not."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in QUOTES:
        text = text[1:-1]
    for word in (text, *_shell_words(text)[:1]):
        if (file := _file(word, anywhere=True)) is not None:
            return file
    return Path(text).expanduser()


def _shell_words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # an open quote
        return []


def _file(word: str, anywhere: bool = False) -> Path | None:
    """An existing picture file; of a relative path only `anywhere`, as a word may be a name."""
    if word.startswith("file://"):
        word = unquote(urlsplit(word).path)
    try:
        path = Path(word).expanduser()
        absolute = path.is_absolute() or anywhere
        known = path.suffix.lower() in SUFFIXES
        return path if absolute and known and path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # too long, no such user, a null byte
        return None
