"""Picture files: which ones a pasted text names, a first look at one, and what it costs.

Knows nothing of widgets. The worker decodes a picture; this reads its header, so that a file
that is no picture is refused when it is attached and not when it is sent.
"""

import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from rich.cells import cell_len, set_cell_size

from ..cli.terminal import printable
from ..errors import BadImage
from ..hub import DEMO
from ..units import gb
from .conversation import Picture

if TYPE_CHECKING:
    from ..config import ModelConfig, VisionConfig

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif")
)
MAX_PASTE = 16_384  # characters; a longer paste is a text
QUOTES = "'\""
NAME_CELLS = 12  # of a name at least, before numbers are left out
TAIL_CELLS = 6  # of a shortened name, its end: the suffix


@dataclass(frozen=True)
class Tiling:
    """How a model cuts pictures: pixels on a tile's side, and positions a tile takes."""

    side: int
    tokens_per_tile: int

    @staticmethod
    def of(config: "ModelConfig | VisionConfig | None") -> "Tiling | None":
        """None for a model that sees no pictures."""
        from ..config import ModelConfig

        vision = config.vision if isinstance(config, ModelConfig) else config
        return Tiling(vision.image_size, vision.tokens_per_tile) if vision else None

    def tiles(self, picture: Picture) -> int:
        """With the whole picture as one more tile, if there is more than one."""
        rows, columns = self._grid(picture)
        return rows * columns + (rows * columns > 1)

    def tokens(self, picture: Picture) -> int:
        """Positions of the prompt, with the marks around tiles and picture."""
        rows, columns = self._grid(picture)
        separators = rows * columns if rows * columns > 1 else 0
        return self.tiles(picture) * self.tokens_per_tile + separators + 3

    def _grid(self, picture: Picture) -> tuple[int, int]:
        from ..images import best_grid  # with NumPy, which the first paint does not wait for

        return best_grid(picture.width, picture.height, self.side)


def label(picture: Picture, tiling: Tiling | None = None, cells: int | None = None) -> str:
    """'cat.jpg  640×480  1.2 MB  5 tiles  727 tokens', in at most `cells` columns if given:
    the name gets shorter, then numbers are left out."""
    name = printable(" ".join(picture.name.split()))
    # The most telling first; they are shown in another order.
    numbers = {1: f"{picture.width}×{picture.height}", 2: gb(picture.nbytes)}
    order = [1, 2]
    if tiling is not None:
        tiles = tiling.tiles(picture)
        numbers |= {
            3: "1 tile" if tiles == 1 else f"{tiles} tiles",
            4: f"{tiling.tokens(picture):,} tokens",
        }
        order = [4, 1, 3, 2]
    while True:
        facts = "".join(f"  {numbers[place]}" for place in sorted(order))
        room = cell_len(name) if cells is None else cells - cell_len(facts)
        if room >= min(NAME_CELLS, cell_len(name)) or not order:
            return shortened(name, max(0, room)) + facts
        order.pop()


def shortened(text: str, cells: int) -> str:
    """`text` in at most `cells` columns, without what is in the middle."""
    if cell_len(text) <= cells:
        return text
    tail = text[-TAIL_CELLS:] if cells >= NAME_CELLS else ""
    head = set_cell_size(text, max(0, cells - 1 - cell_len(tail))).rstrip()
    return f"{head}…{tail}" if cells else ""


def look(path: str | Path) -> Picture:
    """The picture at `path`, of which only the header is read.

    Raises NotFound, or BadImage with the reason.
    """
    from ..image_source import image_size, located

    file = located(path).absolute()
    try:
        mode = file.stat().st_mode
    except (OSError, ValueError):  # which `image_size` puts into words
        mode = stat.S_IFREG
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe would be waited for
        raise BadImage(f"{file} is not a file; save the picture as one")
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
    """The path a person typed, quoted or not, or `demo`."""
    text = text.strip()
    if text == DEMO:
        from ..image_source import located

        return located(text)
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
