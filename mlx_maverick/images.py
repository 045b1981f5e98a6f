"""Pictures to tiles: what Llama 4's vision tower is fed.

Knows nothing of models, prompts or file formats, and does not import mlx. The rules are those
of the published image processor (transformers, Llama4ImageProcessorFast): a canvas of tiles
that suits the picture best, aspect kept, zero padding right and bottom, and the whole picture
squashed into one more tile at the end.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .config import ModelConfig, VisionConfig
from .errors import UsageError
from .image_source import Source, open_image

MAX_TILES = 16
# Of the levels 0..255; mean and deviation are 0.5 for all channels.
LEVELS = ((np.arange(256) / 255 - 0.5) / 0.5).astype(np.float32)

Pixels = np.ndarray[Any, np.dtype[np.float32]]
Tiles = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture, ready for the vision tower."""

    pixels: Pixels  # [N, 3, T, T] in -1..1
    grid: tuple[int, int]  # rows, columns of the canvas
    size: tuple[int, int]  # width, height as seen
    digest: str  # equal for equal pixels and grid
    tokens: int  # patch positions in the prompt

    @property
    def tiles(self) -> int:
        """Tiles with the global one."""
        return int(self.pixels.shape[0])

    @property
    def levels(self) -> Tiles:
        """[N, 3, T, T]: the pixels in 0..255, as they were in the picture."""
        levels: Tiles = np.rint((self.pixels + 1) * 127.5).astype(np.uint8)
        return levels

    @staticmethod
    def of(levels: Tiles, grid: tuple[int, int], size: tuple[int, int], tokens: int) -> "Picture":
        """From what `levels` gives: [N, 3, T, T] in 0..255."""
        pixels = LEVELS[levels]
        named = repr((grid, pixels.shape)).encode() + pixels.tobytes()
        return Picture(pixels, grid, size, hashlib.sha256(named).hexdigest(), tokens)


def load_picture(source: "Source | Picture", config: ModelConfig | VisionConfig) -> Picture:
    """A picture from a path, bytes, a PIL image, or an http(s) or data URL.

    Raises NotFound for a missing file, BadImage for one that cannot be used, UsageError
    where the model sees no pictures.
    """
    if isinstance(source, Picture):
        return source
    vision = _vision(config)
    image = open_image(source)
    levels, grid = _tiles(image, vision.image_size)
    return Picture.of(levels, grid, image.size, len(levels) * vision.tokens_per_tile)


def listed(images: "Sequence[Source | Picture] | Source | Picture | None") -> list[Any]:
    """Pictures as they may be given: one is as good as a list of one. Raises UsageError for
    what is no list."""
    if images is None:
        return []
    if isinstance(images, str | bytes | Path | Image.Image | Picture):
        return [images]
    if not isinstance(images, Sequence):
        raise UsageError(f"images is not a list of pictures but {type(images).__name__}")
    return list(images)


def preprocess(image: Source, config: ModelConfig | VisionConfig) -> tuple[Pixels, tuple[int, int]]:
    """Tiles [N, 3, T, T] float32, row by row with the global tile last (if more than one),
    and (rows, columns). Raises as `load_picture`."""
    vision = _vision(config)  # first: a model without eyes opens no files
    levels, grid = _tiles(open_image(image), vision.image_size)
    return LEVELS[levels], grid


def _tiles(rgb: Image.Image, tile: int) -> tuple[Tiles, tuple[int, int]]:
    """Tiles [N, 3, T, T] in 0..255 of a picture that was opened already, and the grid."""
    rows, columns = best_grid(rgb.width, rgb.height, tile)
    width, height = fitted_size(rgb.width, rgb.height, columns * tile, rows * tile, tile)
    canvas = np.zeros((rows * tile, columns * tile, 3), dtype=np.uint8)
    canvas[:height, :width] = _resized(rgb, width, height)
    # [rows, tile, columns, tile, 3] -> one entry for each tile, row by row
    tiles = canvas.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2)
    tiles = tiles.reshape(rows * columns, tile, tile, 3)
    if rows * columns > 1:
        tiles = np.concatenate([tiles, _resized(rgb, tile, tile)[None]])
    return tiles.transpose(0, 3, 1, 2), (rows, columns)


def _vision(config: ModelConfig | VisionConfig) -> VisionConfig:
    vision = config.vision if isinstance(config, ModelConfig) else config
    if vision is None:
        raise UsageError("this model sees no pictures: it has no vision tower")
    return vision


def _resized(image: Image.Image, width: int, height: int) -> Tiles:
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
