"""One matrix -> codes, scales and biases.

Knows nothing of where matrices come from or go to. MLX's affine format:
weight = scale * code + bias, with one scale and bias for every `group_size` columns.
"""

import mlx.core as mx

from mlx_maverick.config import Quant
from mlx_maverick.errors import BadCheckpoint

from .outputs import names
from .source import finite


def quantise(matrix: mx.array, name: str, quant: Quant | None) -> dict[str, mx.array]:
    """The tensors of `outputs.entries(name, ...)`, evaluated, for a bf16 `matrix` [..., out, in]
    or rows of it: a group never spans two rows, so rows may come in any pieces.

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
