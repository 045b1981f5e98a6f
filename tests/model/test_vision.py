"""The vision tower's parts that the golden features alone would not explain."""

from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_maverick.config import ModelConfig
from mlx_maverick.model.vision import pixel_shuffle, rotary_angles, unfold


def test_unfold_is_patches_row_by_row_channels_first() -> None:
    pixels = np.arange(2 * 3 * 4 * 4, dtype=np.float32).reshape(2, 3, 4, 4)
    patches = np.array(unfold(mx.array(pixels), 2))
    assert patches.shape == (2, 4, 12)
    for row in range(2):
        for column in range(2):
            patch = pixels[1, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert (patches[1, 2 * row + column] == patch.reshape(-1)).all()


def test_pixel_shuffle_joins_squares_of_four() -> None:
    x = mx.arange(16 * 2).reshape(1, 16, 2)
    y = np.array(pixel_shuffle(x, 0.5))
    assert y.shape == (1, 4, 8)
    # The first joined patch holds patches 0, 1 of the first row and 4, 5 of the second.
    assert sorted(y[0, 0].tolist()) == sorted([0, 1, 2, 3, 8, 9, 10, 11])


def test_the_class_token_is_not_rotated(maverick_mini: Path) -> None:
    vision = ModelConfig.from_folder(maverick_mini).vision
    assert vision is not None
    angles = np.array(rotary_angles(vision))
    assert angles.shape == (17, 8)
    assert (angles[-1] == 0).all()
    assert (angles[:-1] > 0).all()
    assert (angles[0, :4] == angles[0, 4:]).all()  # first column, first row
    assert (angles[1, :4] > angles[0, :4]).all()  # next column
    assert (angles[1, 4:] == angles[0, 4:]).all()  # same row
