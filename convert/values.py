"""What a part of the output holds, computed from the source's bytes.

Knows nothing of files. A part is computed in blocks of rows, each independent of the others.
"""

from collections.abc import Iterator

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .plan import Part
from .quantise import quantise
from .source import Bytes, Raw

# Weights quantised at once: on a GPU enough to keep it busy; on a CPU so few that temporaries
# stay small enough for malloc to reuse, which is twice as fast.
TEMPORARY_BYTES = 60  # per weight of a block
BLOCK_WEIGHTS = {mx.DeviceType.gpu: 4 << 20, mx.DeviceType.cpu: 1 << 19}


def blocks(part: Part) -> Iterator[tuple[int, int]]:
    """First row and end of each block."""
    rows = part.piece.encoding.shape[0]
    block = BLOCK_WEIGHTS[mx.default_device().type]
    step = max(1, block * rows // max(1, part.size))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def values(part: Part, data: Bytes, start: int, stop: int, fast: bool) -> list[NDArray[np.generic]]:
    """Rows of each of the part's entries; bfloat16 as unsigned integers, as numpy has none."""
    rows = part.piece.encoding.rows(data, start, stop)
    if isinstance(part.piece.encoding, Raw):
        mx.eval(rows)
        return [np.array(rows, copy=False)]
    made = quantise(rows, part.piece.name, part.quant, fast)
    return [np.array(a.view(mx.uint16) if a.dtype == mx.bfloat16 else a, copy=False) for a in made]
