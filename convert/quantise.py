"""One matrix -> codes, scales and biases.

Knows nothing of where matrices come from or go to. MLX's affine format:
weight = scale * code + bias, with one scale and bias for every `group_size` columns.
"""

import mlx.core as mx

from mlx_maverick.config import Quant
from mlx_maverick.errors import BadCheckpoint

from .layout import Entry
from .source import finite


def entries(name: str, shape: tuple[int, ...], quant: Quant | None) -> list[Entry]:
    """What the tensor `name` of `shape` becomes: itself in bf16, or three packed ones.

    The last axis, divisible by the group size, is packed into 32-bit words.
    """
    if quant is None:
        return [Entry(name, "BF16", shape)]
    *rows, columns = shape
    groups = (*rows, columns // quant.group_size)
    weight, scales, biases = names(name)
    return [
        Entry(weight, "U32", (*rows, columns * quant.bits // 32)),
        Entry(scales, "BF16", groups),
        Entry(biases, "BF16", groups),
    ]


def names(name: str) -> tuple[str, str, str]:
    """Of the three tensors that stand for `<path>.weight`."""
    path = name.removesuffix(".weight")
    return f"{path}.weight", f"{path}.scales", f"{path}.biases"


def quantise(matrix: mx.array, name: str, quant: Quant | None) -> dict[str, mx.array]:
    """The tensors of `entries(name, ...)`, evaluated, for a bf16 `matrix` [..., out, in] or rows
    of it: a group never spans two rows, so rows may come in any pieces.

    Raises BadCheckpoint if a group's range is beyond what bf16 can hold.
    """
    if quant is None:
        values = mx.contiguous(matrix)
        mx.eval(values)
        return {name: values}
    # Min-max of each group. A search for the scale and bias of least error goes here: any
    # (codes, scale, bias) is legal in this format, so nothing else would change.
    codes, scales, biases = mx.quantize(matrix, quant.group_size, quant.bits, mode=quant.mode)
    mx.eval(codes, scales, biases)
    if not (finite(scales) and finite(biases)):
        raise BadCheckpoint(
            f"{name} holds values too large to be quantised; no trained model has such weights, "
            "download it again"
        )
    return dict(zip(names(name), (codes, scales, biases), strict=True))
