"""A small copy of a picture in half blocks: two pixels in each cell, one above the other.

Knows nothing of the model. Decoding happens off the app's thread, one picture at a time and of
bounded size; of a file that cannot be decoded there is no thumbnail, and nothing else happens.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from typing import Literal

from PIL import Image, UnidentifiedImageError
from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget

from .conversation import Picture

Mode = Literal["auto", "blocks", "off"]
COLUMNS, LINES = 24, 8  # at most
LEAST_COLUMNS = 60  # of a terminal in which there is room for them
# Above this a picture has no thumbnail: decoded it takes four bytes a pixel. A JPEG can be
# decoded at an eighth of its size.
MOST_PIXELS, MOST_JPEG_PIXELS = 30_000_000, 100_000_000
KEPT = 200  # thumbnails of 24 x 16 pixels


def possible(mode: Mode, colours: str | None, no_color: bool) -> bool:
    """Whether thumbnails are shown, in a terminal with these colours (Rich's name of them).
    With 16 colours one recognises nothing."""
    return mode == "blocks" or (mode == "auto" and not no_color and colours in ("truecolor", "256"))


def fitted(width: int, height: int, columns: int, lines: int) -> tuple[int, int]:
    """Columns and lines of a picture of that many pixels: aspect kept, never enlarged, and at
    least one cell. A cell is two pixels high."""
    scale = min(columns / width, 2 * lines / height, 1)
    return max(1, round(width * scale)), max(1, round(height * scale / 2))


@lru_cache(maxsize=KEPT)
def small(picture: Picture, changed: int) -> Image.Image | None:
    """The picture in at most 24 x 16 pixels, upright, on white, RGB; None if that cannot be.
    `changed` tells one state of the file from the next."""
    try:
        return _small(picture)
    except Exception:  # noqa: BLE001 - decoders fail in every way; whoever sends it hears why
        return None


def _small(picture: Picture) -> Image.Image | None:
    image = _opened(picture)
    if image is None:
        return None
    columns, lines = fitted(*image.size, COLUMNS, LINES)
    return image.resize((columns, 2 * lines), Image.Resampling.BOX)


def _opened(picture: Picture) -> Image.Image | None:
    from ..image_source import image_size, open_image

    width, height = image_size(picture.path)
    try:
        with Image.open(picture.path, formats=("JPEG",)) as image:
            if width * height > MOST_JPEG_PIXELS:
                return None
            image.draft("RGB", (8 * COLUMNS, 16 * LINES))
            return open_image(image)
    except UnidentifiedImageError:  # another format
        return open_image(picture.path) if width * height <= MOST_PIXELS else None


@cache
def _decoder() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "thumbnail")


def _changed(picture: Picture) -> int:
    try:
        return picture.path.stat().st_mtime_ns
    except OSError:
        return 0


def _decoded(picture: Picture) -> Image.Image | None:
    return small(picture, _changed(picture))


def blocks(image: Image.Image, columns: int, lines: int) -> list[Strip]:
    """The lines of a thumbnail."""
    if image.size != (columns, 2 * lines):
        image = image.resize((columns, 2 * lines), Image.Resampling.BOX)
    data = image.tobytes()

    def colour(x: int, y: int) -> Color:
        at = 3 * (y * columns + x)
        return Color.from_rgb(*data[at : at + 3])

    return [
        Strip(
            (
                Segment("▀", Style(color=colour(x, 2 * y), bgcolor=colour(x, 2 * y + 1)))
                for x in range(columns)
            ),
            columns,
        )
        for y in range(lines)
    ]


class Thumbnail(Widget):
    """Takes no room where it is not shown. `share`: of the terminal's lines at most one in
    that many is used."""

    ALLOW_SELECT = False
    DEFAULT_CSS = "Thumbnail { width: auto; height: auto; }"

    def __init__(self, picture: Picture, mode: Mode = "auto", share: int = 3):
        super().__init__()
        self.picture, self.mode, self.share = picture, mode, share
        self._image: Image.Image | None = None
        self._failed = False
        self._strips: list[Strip] = []

    @property
    def loaded(self) -> bool:
        """Whether the picture, and not an empty box, is shown."""
        return self._image is not None

    def on_mount(self) -> None:
        if self._possible:
            self.run_worker(self._load())

    @property
    def _possible(self) -> bool:
        return possible(self.mode, self.app.console.color_system, self.app.no_color)

    async def _load(self) -> None:
        loop = asyncio.get_running_loop()
        self._image = await loop.run_in_executor(_decoder(), _decoded, self.picture)
        self._failed = self._image is None
        self._strips = []
        # The box is the header's size: a photo that lies on its side is another one upright.
        self.refresh(layout=True)

    def _cells(self, viewport: Size) -> tuple[int, int]:
        """Columns and lines, both 0 where there is nothing to show."""
        lines = min(LINES, viewport.height // self.share)
        narrow = self.mode == "auto" and viewport.width < LEAST_COLUMNS
        if self._failed or narrow or not lines or not self._possible:
            return 0, 0
        width, height = self._image.size if self._image else _size(self.picture)
        return fitted(width, height, COLUMNS, lines)

    def get_content_width(self, container: Size, viewport: Size) -> int:
        return self._cells(viewport)[0]

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return self._cells(viewport)[1]

    def render_line(self, y: int) -> Strip:
        columns, lines = self.size
        if self._image is None or not columns or not lines:
            return Strip.blank(columns, self.rich_style)
        if len(self._strips) != lines or self._strips[0].cell_length != columns:
            self._strips = blocks(self._image, columns, lines)
        return self._strips[y] if y < lines else Strip.blank(columns, self.rich_style)


def _size(picture: Picture) -> tuple[int, int]:
    return max(1, picture.width), max(1, picture.height)
