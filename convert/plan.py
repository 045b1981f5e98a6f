"""The plan: everything a conversion will read and write, checked before it writes anything.

Knows nothing of values. Config + checkpoint + recipe -> the exact output and a list of jobs,
each of which reads one slice and writes its part of the output, in any order.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_maverick.checkpoint import INDEX, Checkpoint, Tensor
from mlx_maverick.config import ModelConfig, read_json
from mlx_maverick.errors import BadCheckpoint, DoesNotFit, UsageError
from mlx_maverick.units import gb

from . import documents, published
from .layout import Layout, json_bytes
from .outputs import Part, parts
from .recipe import Recipe
from .source import DTYPES, Slice

# Rows read at once of a matrix that is no expert: the embedding alone is 2 GB. Experts of
# Maverick are 84 and 168 MB.
BLOCK_BYTES = 64 << 20
# For maverick.json, whose size is the only one not known beforehand.
MARGIN_BYTES = 1 << 20


@dataclass(frozen=True)
class Job:
    """Read one slice, write its parts. All parts have the slice's first axis."""

    slice: Slice
    parts: tuple[Part, ...]

    def offset(self, nbytes: int) -> int:
        """Where the slice's share of an output tensor of so many bytes begins."""
        return nbytes // self.slice.tensor.shape[0] * self.slice.start


@dataclass(frozen=True)
class Plan:
    """A conversion that can be carried out."""

    source: Path
    recipe: Recipe
    layout: Layout
    jobs: tuple[Job, ...]
    documents: dict[str, bytes]  # files whose text is already known
    copies: tuple[Path, ...]  # files taken over unchanged

    @property
    def read_nbytes(self) -> int:
        return sum(job.slice.nbytes for job in self.jobs)

    @property
    def sizes(self) -> dict[str, int]:
        """Every file of the output except maverick.json, and its exact size."""
        sizes = {shard.name: shard.nbytes for shard in self.layout.shards}
        sizes |= {name: len(text) for name, text in self.documents.items()}
        return sizes | {path.name: path.stat().st_size for path in self.copies}

    @property
    def nbytes(self) -> int:
        return sum(self.sizes.values())

    def check_room(self, folder: Path) -> None:
        """Raise DoesNotFit if the disk that holds `folder` has too little space."""
        free, needed = shutil.disk_usage(folder).free, self.nbytes + MARGIN_BYTES
        if needed > free:
            raise DoesNotFit(
                f"the output needs {gb(needed)}, and the disk of {folder.parent} has {gb(free)} "
                "free; make room, or choose another disk"
            )


def make_plan(source: Path, recipe: Recipe) -> Plan:
    """The plan for a local BF16 folder.

    Raises NotFound or BadCheckpoint for a folder that is incomplete, damaged or not as its
    config.json says, UsageError for one that is already quantised.
    """
    raw = read_json(source / "config.json")
    _refuse_other_formats(source, raw)
    return plan(raw, Checkpoint.open(source), recipe)


def plan(raw: Mapping[str, Any], checkpoint: Checkpoint, recipe: Recipe) -> Plan:
    """The plan for a checkpoint whose config.json (`raw`) and headers were read."""
    source = checkpoint.folder
    config = ModelConfig.from_dict(raw, str(source))
    tensors, resolved = _checked(checkpoint, config), recipe.resolved(config)
    jobs, outputs, quants = [], [], {}
    for tensor in tensors:
        made = tuple(parts(tensor.name, tensor.shape, resolved))
        for part in made:
            outputs += part.entries
            if part.quant:
                quants[part.name.removesuffix(".weight")] = part.quant
        jobs += [Job(piece, made) for piece in _slices(tensor)]
    layout = Layout.of(outputs)
    texts = {
        "config.json": json_bytes(documents.config(raw, quants)),
        INDEX: layout.index(sum(tensor.size for tensor in tensors)),
    }
    return Plan(source, recipe, layout, tuple(jobs), texts, tuple(documents.copies(source)))


def _refuse_other_formats(source: Path, raw: Mapping[str, Any]) -> None:
    config = ModelConfig.from_dict(raw, str(source))
    if config.quantization:
        raise UsageError(
            f"{source} is an MLX folder, quantised already; convert the published BF16 "
            "checkpoint instead"
        )
    if config.source_quantization:
        raise UsageError(
            f"{source} is stored as {config.source_quantization} (FP8), not supported yet by this "
            "version; convert the BF16 checkpoint"
        )
    if raw["model_type"] != "llama4":
        raise UsageError(
            f"{source} is the text half alone (model_type {raw['model_type']!r}); convert the "
            "complete published checkpoint"
        )


def _checked(checkpoint: Checkpoint, config: ModelConfig) -> list[Tensor]:
    """The checkpoint's tensors in order of computation, exactly those its config implies."""
    shapes, folder = published.shapes(config), checkpoint.folder
    for name, tensor in checkpoint.tensors.items():
        if tensor.dtype.startswith("F8_") or name.endswith(("_scale", ".scales")):
            raise UsageError(
                f"{folder} is quantised ({name} is {tensor.dtype}), not supported yet by this "
                "version; convert the BF16 checkpoint"
            )
        if name not in shapes:
            raise BadCheckpoint(
                f"{tensor.file} holds {name}, which its config.json has no place for; use the "
                "config.json that belongs to it"
            )
        if tensor.dtype not in DTYPES:
            raise BadCheckpoint(
                f"{tensor.file} stores {name} as {tensor.dtype}; only "
                f"{', '.join(DTYPES)} can be converted"
            )
    missing = [name for name in shapes if name not in checkpoint.tensors]
    if missing:
        raise BadCheckpoint(
            f"{folder} lacks {missing[0]} ({len(missing)} of {len(shapes)} tensors are missing); "
            "download it again"
        )
    for name, shape in shapes.items():
        found = checkpoint.tensors[name].shape
        if found != shape:
            raise BadCheckpoint(
                f"{checkpoint.tensors[name].file} holds {name} of shape {list(found)}, but "
                f"config.json asks for {list(shape)}; use the config.json that belongs to it"
            )
    return [checkpoint.tensors[name] for name in shapes]


def _slices(tensor: Tensor) -> Iterator[Slice]:
    """Single experts, or blocks of rows of bounded size."""
    count = tensor.shape[0]
    step = 1 if len(tensor.shape) == 3 else max(1, BLOCK_BYTES * count // tensor.nbytes)
    for start in range(0, count, step):
        yield Slice(tensor, start, min(start + step, count))
