"""Whether a converted folder still means what its source says: samples of it are made anew.

Knows nothing of files that are whole or not; `verify` sees to that.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_maverick.checkpoint import Checkpoint, Tensor
from mlx_maverick.config import read_json
from mlx_maverick.errors import BadCheckpoint, UsageError
from mlx_maverick.files import Folder

from . import origin
from .identity import identity
from .manifest import MANIFEST
from .pipeline import read, room
from .plan import Job, Part, Plan, make_plan
from .progress import Clock, Progress, ignore
from .recipe import KEEP, Recipe
from .source import Bytes
from .values import blocks, values

# Another MLX version or device may round otherwise: that changes a few codes, and the squared
# error by much less than this.
MORE_ERROR = 1.02
EXPERTS_EACH = 4  # so many experts are sampled for one other matrix


@dataclass(frozen=True)
class Sampled:
    """What was compared: parts of matrices, and how many of them are the same to the byte."""

    parts: int
    same: int


def sample(
    folder: Path,
    source: str | Path,
    count: int = 64,
    seed: int = 0,
    progress: Callable[[Progress], None] = ignore,
) -> Sampled:
    """Convert `count` random slices of `source` (see `conversion.stream`) again, most of them
    experts, and compare them with what `folder` holds. It must be the same to the byte if MLX
    and device are those of then, otherwise as near to the source.

    Raises UsageError if the folder was made from something else, BadCheckpoint naming the
    first tensor that is not what its source makes; NotFound and so on as converting does.
    """
    about = read_json(folder / MANIFEST)
    with origin.opened(source, None, about) as files:
        plan = make_plan(files, _recipe(about, folder))
        fast = about.get("quantiser") == "min-max"
        now = identity(plan, origin.describe(files), fast)
        if plan.fingerprint != about.get("source", {}).get("fingerprint"):
            raise UsageError(
                f"{folder} was made from another source than {files.where}; give the one that "
                f"its {MANIFEST} names"
            )
        exact, same, parts = now["tools"] == about.get("tools"), 0, 0
        tensors = Checkpoint.open(folder).tensors
        jobs = _chosen(plan, count, random.Random(seed))
        for done, job in enumerate(jobs):
            progress(Progress("comparing", done, len(jobs), str(job)))
            data = read(files, job, np.empty(room(job), np.uint8), Clock())
            for part in job.parts:
                new = _made(part, data, fast)
                old = [_held(folder, tensors, part, i, array) for i, array in enumerate(new)]
                equal = all(np.array_equal(a, b) for a, b in zip(new, old, strict=True))
                parts, same = parts + 1, same + equal
                if not equal and (exact or not _as_near(part, data, new, old)):
                    raise BadCheckpoint(
                        f"{folder} does not hold {part.piece.name} as {files.where} has it; "
                        "convert it again"
                    )
    return Sampled(parts, same)


def _recipe(about: Mapping[str, Any], folder: Path) -> Recipe | None:
    """That of maverick.json; None if the source's quantisation was kept."""
    try:
        said = about["recipe"]
        return None if said["name"] == KEEP else Recipe.described(said)
    except (KeyError, TypeError, ValueError):
        raise BadCheckpoint(f"{folder / MANIFEST} names no recipe; convert again") from None


def _chosen(plan: Plan, count: int, rng: random.Random) -> list[Job]:
    """Random jobs in their order, experts and others in proportion."""
    experts = [i for i, job in enumerate(plan.jobs) if len(job.parts[0].piece.shape) == 3]
    others = sorted(set(range(len(plan.jobs))) - set(experts))
    fewer = min(len(others), max(1, count // (EXPERTS_EACH + 1)))
    more = min(len(experts), count - fewer)
    chosen = rng.sample(others, fewer) + rng.sample(experts, more)
    return [plan.jobs[i] for i in sorted(chosen)]


def _made(part: Part, data: Bytes, fast: bool) -> list[NDArray[np.generic]]:
    made = [values(part, data, start, stop, fast) for start, stop in blocks(part)]
    return [np.concatenate(arrays) for arrays in zip(*made, strict=True)]


def _held(
    folder: Path,
    tensors: Mapping[str, Tensor],
    part: Part,
    number: int,
    like: NDArray[np.generic],
) -> NDArray[np.generic]:
    """The folder's share of the part's `number`-th entry, wherever its files have it."""
    entry = part.entries[number]
    first, nbytes = part.extent(entry)
    tensor = tensors.get(entry.name)
    if not tensor or (tensor.dtype, tensor.shape) != (entry.dtype, entry.shape):
        raise BadCheckpoint(f"{folder} has no {entry.name} as its recipe makes it; convert again")
    held = np.empty(like.shape, like.dtype)
    assert held.nbytes == nbytes
    Folder(folder).read(tensor.file.name, tensor.offset + first, held.data.cast("B"))
    return held


def _as_near(
    part: Part,
    data: Bytes,
    new: Sequence[NDArray[np.generic]],
    old: Sequence[NDArray[np.generic]],
) -> bool:
    """Whether the old values are as near to the source as the new ones."""
    if part.quant is None:
        return False
    errors = [0.0, 0.0]
    for start, stop in blocks(part):
        wanted = part.piece.encoding.rows(data, start, stop).astype(mx.float32)
        for i, arrays in enumerate((new, old)):
            codes, scales, biases = (mx.array(array[start:stop]) for array in arrays)
            found = mx.dequantize(
                codes,
                scales.view(mx.bfloat16).astype(mx.float32),
                biases.view(mx.bfloat16).astype(mx.float32),
                group_size=part.quant.group_size,
                bits=part.quant.bits,
            )
            errors[i] += float(np.array(mx.square(found - wanted).sum()))
    return errors[1] <= errors[0] * MORE_ERROR  # False for NaN
