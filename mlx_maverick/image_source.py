"""A picture from wherever it is: files, bytes, URLs or PIL, as a person sees it.

Knows nothing of tiles or models. Whatever cannot be used is an error that says why: no
picture is dropped, guessed at or half decoded.
"""

import base64
import http.client
import io
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import BadImage, MaverickError, NotFound, UsageError
from .hub import DEMO, DEMO_FOLDER

# Above this a picture is refused before it is decoded: 100 megapixels take up to 0.8 GB while
# they are made RGB, and sixteen tiles of 336 pixels show 1.8 of them.
MAX_PIXELS = 100_000_000
MAX_BYTES = 200_000_000
TIMEOUT_SECONDS = 30
# Pictures people have. Not all that Pillow opens: EPS, for one, starts a PostScript
# interpreter on the file. HEIF is how phones keep photos.
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO", "PPM", "HEIF",
)  # fmt: skip

DEMO_PICTURE = DEMO_FOLDER.parent / "shapes.png"

Source = str | Path | bytes | Image.Image


def open_image(source: Source) -> Image.Image:
    """The picture as a person sees it: upright, on white where it is transparent, RGB.
    `demo` is the one that comes with the package, unless there is a file of that name.

    Raises NotFound for a missing file and BadImage for anything that is no usable picture.
    """
    if isinstance(source, Image.Image):
        _check_size(source, "the picture")
        return _upright_rgb(source.copy(), "the picture")
    if isinstance(source, bytes):
        return _decoded(io.BytesIO(source), f"the picture ({len(source)} bytes)")
    if isinstance(source, str) and source.startswith("data:"):
        return _decoded(io.BytesIO(_data_url(source)), "the picture in the data URL")
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return _decoded(io.BytesIO(_download(source)), source)
    if not isinstance(source, str | Path):
        raise UsageError(f"a picture is a path, bytes, a PIL image or a URL, not {_kind(source)}")
    if not str(source) or "://" in str(source):
        raise UsageError(f"{source!r} is neither a path nor an http(s) or data URL")
    with _file(source) as file:
        return _decoded(file, str(source))


def _kind(value: object) -> str:
    return type(value).__name__  # an array would be shown over many lines


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of a picture file, of which only the header is read.

    Raises as `open_image`, as far as the header tells.
    """
    with _file(path) as file, _opened(file, str(path)) as image:
        return image.size


def located(path: str | Path) -> Path:
    """The file that a path means. Raises RuntimeError for the home of a user there is not."""
    file = Path(path).expanduser()
    return DEMO_PICTURE if path == DEMO and not file.is_file() else file


@contextmanager
def _file(path: str | Path) -> Iterator[IO[bytes]]:
    try:
        file = located(path).open("rb")
    except (FileNotFoundError, RuntimeError, ValueError):  # no such user; a NUL in the name
        raise NotFound(f"{path} does not exist; check the picture's path") from None
    except OSError as e:
        raise BadImage(f"{path} cannot be read ({e.strerror}); check the picture") from None
    with file:
        yield file


@cache
def _formats() -> list[str]:
    """Those of FORMATS that this Pillow has."""
    import pi_heif

    pi_heif.register_heif_opener()
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


@contextmanager
def _opened(file: IO[bytes], name: str) -> Iterator[Image.Image]:
    """The picture, not decoded yet; what goes wrong inside the block is the picture's fault."""
    try:
        with warnings.catch_warnings():
            # Of sizes, which are checked here, and of odd tags, which do no harm.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=_formats()) as image:
                _check_size(image, name)
                yield image
    except MaverickError:
        raise
    except UnidentifiedImageError:
        raise BadImage(f"{name} is not a picture we can read; save it as PNG or JPEG") from None
    except Image.DecompressionBombError:
        most = MAX_PIXELS // 10**6
        raise BadImage(f"{name} has over {most} megapixels, the limit; scale it down") from None
    except Exception as e:  # noqa: BLE001 - Pillow's decoders fail in every possible way
        raise BadImage(f"{name} is damaged ({e}); save it again as PNG or JPEG") from None


def _decoded(file: IO[bytes], name: str) -> Image.Image:
    with _opened(file, name) as image:
        return _upright_rgb(image, name)


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height == 0:
        raise BadImage(f"{name} is empty ({width} x {height} pixels); use another")
    if width * height > MAX_PIXELS:
        raise BadImage(
            f"{name} has {width * height / 1e6:.0f} megapixels ({width} x {height}), above the "
            f"limit of {MAX_PIXELS // 10**6}; scale it down"
        )


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
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
