"""Pictures to tiles: what Llama 4's vision tower is fed, from files, bytes, URLs or PIL.

Knows nothing of models or prompts, and does not import mlx. The rules are those of the
published image processor (transformers, Llama4ImageProcessorFast): a canvas of tiles that
suits the picture best, aspect kept, zero padding right and bottom, and the whole picture
squashed into one more tile at the end.
"""

import base64
import hashlib
import http.client
import io
import math
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .config import ModelConfig, VisionConfig
from .errors import BadImage, MaverickError, NotFound, UsageError

MAX_TILES = 16
# Above this a picture is refused before it is decoded: 100 megapixels take up to 0.8 GB while
# they are made RGB, and sixteen tiles of 336 pixels show 1.8 of them.
MAX_PIXELS = 100_000_000
MAX_BYTES = 200_000_000
TIMEOUT_SECONDS = 30
# Pictures people have. Not all that Pillow opens: EPS, for one, starts a PostScript
# interpreter on the file. HEIF is there where the pillow-heif plugin registered it.
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO", "PPM", "HEIF",
)  # fmt: skip

Source = str | Path | bytes | Image.Image


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture, ready for the vision tower."""

    pixels: np.ndarray[Any, np.dtype[np.float32]]  # [N, 3, T, T] in -1..1
    grid: tuple[int, int]  # rows, columns of the canvas
    size: tuple[int, int]  # width, height as seen
    digest: str  # equal for equal pixels and grid
    tokens: int  # patch positions in the prompt

    @property
    def tiles(self) -> int:
        """Tiles with the global one."""
        return int(self.pixels.shape[0])


def load_picture(source: "Source | Picture", config: ModelConfig | VisionConfig) -> Picture:
    """A picture from a path, bytes, a PIL image, or an http(s) or data URL.

    Raises NotFound for a missing file, BadImage for one that cannot be used, UsageError
    where the model sees no pictures.
    """
    if isinstance(source, Picture):
        return source
    vision = _vision(config)
    image = open_image(source)
    pixels, grid = preprocess(image, vision)
    digest = hashlib.sha256(repr((grid, pixels.shape)).encode() + pixels.tobytes()).hexdigest()
    tokens = len(pixels) * vision.tokens_per_tile
    return Picture(pixels, grid, image.size, digest, tokens)


def preprocess(
    image: Source, config: ModelConfig | VisionConfig
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], tuple[int, int]]:
    """Tiles [N, 3, T, T] float32, row by row with the global tile last (if more than one),
    and (rows, columns). Raises as `load_picture`."""
    tile = _vision(config).image_size
    rgb = open_image(image)
    rows, columns = best_grid(rgb.width, rgb.height, tile)
    width, height = fitted_size(rgb.width, rgb.height, columns * tile, rows * tile, tile)
    canvas = np.zeros((rows * tile, columns * tile, 3), dtype=np.uint8)
    canvas[:height, :width] = _resized(rgb, width, height)
    # [rows, tile, columns, tile, 3] -> one entry for each tile, row by row
    tiles = canvas.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2)
    tiles = tiles.reshape(rows * columns, tile, tile, 3)
    if rows * columns > 1:
        tiles = np.concatenate([tiles, _resized(rgb, tile, tile)[None]])
    # Mean and deviation are 0.5 for all channels.
    levels = ((np.arange(256) / 255 - 0.5) / 0.5).astype(np.float32)
    return levels[tiles.transpose(0, 3, 1, 2)], (rows, columns)


def _vision(config: ModelConfig | VisionConfig) -> VisionConfig:
    vision = config.vision if isinstance(config, ModelConfig) else config
    if vision is None:
        raise UsageError("this model sees no pictures: it has no vision tower")
    return vision


def _resized(image: Image.Image, width: int, height: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def best_grid(width: int, height: int, tile: int) -> tuple[int, int]:
    """(rows, columns) of the canvas for a picture: the one it must be enlarged least for,
    or, if it is larger than every canvas, shrunk least; the smallest canvas among equals."""
    scales = {
        (rows, columns): min(columns * tile / width, rows * tile / height)
        for rows, columns in _grids(MAX_TILES)
    }
    enlarging = [scale for scale in scales.values() if scale >= 1]
    wanted = min(enlarging) if enlarging else max(scales.values())
    fits = [grid for grid, scale in scales.items() if scale == wanted]
    return min(fits, key=lambda grid: grid[0] * grid[1])


@cache
def _grids(most: int) -> Sequence[tuple[int, int]]:
    return [(r, c) for r in range(1, most + 1) for c in range(1, most + 1) if r * c <= most]


def fitted_size(
    width: int, height: int, canvas_width: int, canvas_height: int, tile: int
) -> tuple[int, int]:
    """(width, height) of the picture inside its canvas: aspect kept, and never enlarged
    beyond one tile on a side that is smaller than a tile."""
    limit_width = min(max(width, tile), canvas_width)
    limit_height = min(max(height, tile), canvas_height)
    by_width, by_height = limit_width / width, limit_height / height
    if by_width < by_height:
        return limit_width, max(1, min(math.floor(height * by_width), limit_height))
    return max(1, min(math.floor(width * by_height), limit_width)), limit_height


def open_image(source: Source) -> Image.Image:
    """The picture as a person sees it: upright, on white where it is transparent, RGB.

    Raises NotFound for a missing file and BadImage for anything that is no usable picture.
    """
    if isinstance(source, Image.Image):
        return _upright_rgb(source.copy(), "the picture")
    if isinstance(source, bytes):
        return _decoded(io.BytesIO(source), f"the picture ({len(source)} bytes)")
    if isinstance(source, str) and source.startswith("data:"):
        return _decoded(io.BytesIO(_data_url(source)), "the picture in the data URL")
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return _decoded(io.BytesIO(_download(source)), source)
    if not isinstance(source, str | Path):
        raise UsageError(f"a picture is a path, bytes, a PIL image or a URL, not {source!r}")
    if not str(source) or "://" in str(source):
        raise UsageError(f"{source!r} is neither a path nor an http(s) or data URL")
    try:
        path = Path(source).expanduser()
        with path.open("rb") as file:
            return _decoded(file, str(path))
    except (FileNotFoundError, RuntimeError, ValueError):  # no such user; a NUL in the name
        raise NotFound(f"{source} does not exist; check the picture's path") from None
    except OSError as e:
        raise BadImage(f"{source} cannot be read ({e.strerror}); check the picture") from None


def _decoded(file: IO[bytes], name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Of sizes, which `_upright_rgb` judges, and of odd tags, which do no harm.
            warnings.simplefilter("ignore")
            Image.init()
            with Image.open(file, formats=[f for f in FORMATS if f in Image.OPEN]) as image:
                return _upright_rgb(image, name)
    except MaverickError:
        raise
    except UnidentifiedImageError:
        raise BadImage(f"{name} is not a picture we can read; save it as PNG or JPEG") from None
    except Image.DecompressionBombError:
        most = MAX_PIXELS // 10**6
        raise BadImage(f"{name} has over {most} megapixels, the limit; scale it down") from None
    except Exception as e:  # noqa: BLE001 - Pillow's decoders fail in every possible way
        raise BadImage(f"{name} is damaged ({e}); save it again as PNG or JPEG") from None


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width * height == 0:
        raise BadImage(f"{name} is empty ({width} x {height} pixels); use another")
    if width * height > MAX_PIXELS:
        raise BadImage(
            f"{name} has {width * height / 1e6:.0f} megapixels ({width} x {height}), above the "
            f"limit of {MAX_PIXELS // 10**6}; scale it down"
        )
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_grey_levels(np.asarray(image), name))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGB", rgba.size, "white")
        image.paste(rgba, mask=rgba)
    return image.convert("RGB")


def _grey_levels(values: Any, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Wide grey values as 0..255; Pillow would clip them to black or white."""
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        values = values * 255
    elif values.dtype == np.uint16 or (values.dtype.kind != "f" and 255 < high <= 65535):
        values = values >> 8
    if not (low >= 0 and values.max() <= 255):  # also false for NaN
        raise BadImage(
            f"{name} has grey values from {low} to {high}, whose scale is unknown; "
            "save it with 8 bits"
        )
    levels: np.ndarray[Any, np.dtype[np.uint8]] = values.round().astype(np.uint8)
    return levels


def _data_url(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise BadImage("the data URL is not of the form data:image/...;base64,...")
    try:
        return base64.b64decode(body, validate=True)
    except ValueError:
        raise BadImage("the data URL is not valid base64; encode the picture again") from None


def _download(url: str) -> bytes:
    # urllib follows redirects to the web only, never to a file.
    quoted = urllib.parse.quote(url, safe="%/:?#[]@!$&'()*+,;=~")
    try:
        request = urllib.request.Request(quoted, headers={"User-Agent": "mlx-maverick"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as reply:
            data: bytes = reply.read(MAX_BYTES + 1)
    except urllib.error.HTTPError as e:
        kind = NotFound if e.code == 404 else BadImage
        raise kind(f"{url} answers {e.code} {e.reason}; check the address") from None
    except (OSError, ValueError, http.client.HTTPException) as e:
        reason = getattr(e, "reason", e)
        raise BadImage(f"{url} cannot be fetched ({reason}); check address and network") from None
    if len(data) > MAX_BYTES:
        raise BadImage(f"{url} is larger than {MAX_BYTES // 10**6} MB; scale the picture down")
    return data
