"""Rows of a matrix -> codes, scales and biases.

Knows nothing of where matrices come from or go to. MLX's affine format:
weight = scale * code + bias, with one scale and bias for every `group_size` columns.
"""

import mlx.core as mx
import numpy as np

from mlx_maverick.config import Quant
from mlx_maverick.errors import BadCheckpoint

from . import source
from .search import search


def quantise(
    matrix: mx.array, name: str, quant: Quant | None, fast: bool = False
) -> list[mx.array]:
    """The values of `outputs.entries(name, ...)`, evaluated, for rows [rows, in] of a matrix or
    part of a vector, in bfloat16 or float32. A group never spans two rows, so rows may come in
    any pieces.

    With `fast` a group's scale and bias are those of its smallest and largest weight, else
    those of least squared error. Raises BadCheckpoint if a value is beyond what bf16 can hold.
    """
    if quant is None:
        values = [mx.contiguous(matrix.astype(mx.bfloat16))]
        mx.eval(values)
        checked = values
    else:
        if fast:
            bits = matrix.astype(mx.bfloat16)
            values = list(mx.quantize(bits, quant.group_size, quant.bits, mode=quant.mode))
        else:
            values = list(search(matrix, quant))
        mx.eval(values)
        checked = values[1:]
    if not all(map(finite, checked)):
        raise BadCheckpoint(
            f"{name} holds values too large to be stored; no trained model has such weights, "
            "download it again"
        )
    return values


def finite(values: mx.array) -> bool:
    """Whether an evaluated bf16 array holds neither infinities nor NaN."""
    bits = np.array(values.view(mx.uint16), copy=False).reshape(-1)
    return source.finite(bits, source.EXPONENTS["BF16"])
