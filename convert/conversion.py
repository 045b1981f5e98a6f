"""The main path: a published checkpoint in, an MLX model folder out.

Knows the order of the steps; each step's module knows how.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from .manifest import MANIFEST, hash_files, manifest
from .plan import Job, make_plan
from .progress import Callback, Progress, ignore
from .quantise import quantise
from .recipe import Recipe
from .source import read
from .verify import verify_layout
from .write import Output, check_target, output

# Freed buffers MLX may keep for the next slice. Its own limit is all of the memory.
CACHE_BYTES = 512 << 20


@dataclass(frozen=True)
class Converted:
    """A finished conversion."""

    folder: Path
    recipe: str
    nbytes: int  # of all files
    files: tuple[str, ...]


def convert(
    source: Path, out: Path, recipe: Recipe | str, progress: Callback = ignore
) -> Converted:
    """Write `source`, a local BF16 folder, as the MLX folder `out`.

    `out` appears at the end, whole; if anything fails it does not, and nothing is left.
    Raises UsageError (recipe, or `out` exists), NotFound, BadCheckpoint (anything wrong with
    the source), DoesNotFit (disk).
    """
    recipe = Recipe.named(recipe) if isinstance(recipe, str) else recipe
    plan = make_plan(source, recipe)
    check_target(source, out)

    with output(out) as result, _small_cache():
        plan.check_room(result.folder)  # here: what an earlier run left is gone by now
        result.preallocate(plan.layout)
        done = 0
        for job in plan.jobs:
            run(job, result)
            done += job.slice.nbytes
            progress(Progress("converting", done, plan.read_nbytes, str(job.slice)))
        for name, text in plan.documents.items():
            result.add(name, text)
        for path in plan.copies:
            result.copy(path)
        verify_layout(result.folder, plan.layout)
        files = hash_files(result.folder, plan.sizes, progress)
        result.add(MANIFEST, manifest(source, recipe, files))

    names = (*files, MANIFEST)
    nbytes = sum((out / name).stat().st_size for name in names)
    return Converted(out, recipe.name, nbytes, names)


def run(job: Job, result: Output) -> None:
    """Read, quantise and write one slice. Independent of every other job."""
    values = read(job.slice)
    for part in job.parts:
        matrix = values
        if part.columns:
            first, end = part.columns
            matrix = mx.swapaxes(values[..., first:end], -1, -2)
        for name, packed in quantise(matrix, part.name, part.quant).items():
            result.write(name, job.offset(result.layout.places[name].nbytes), packed)


@contextmanager
def _small_cache() -> Iterator[None]:
    before = mx.set_cache_limit(CACHE_BYTES)
    try:
        yield
    finally:
        mx.set_cache_limit(before)
