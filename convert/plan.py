"""The plan: everything a conversion will read and write, checked before it writes anything.

Knows nothing of values. Config + checkpoint + recipe -> the exact output and a list of jobs,
each of which reads a few slices and writes its part of the output, in any order.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from mlx_maverick.checkpoint import INDEX, Checkpoint
from mlx_maverick.config import ModelConfig, Quant, parse_json
from mlx_maverick.errors import DoesNotFit, UsageError
from mlx_maverick.files import Files, read_whole
from mlx_maverick.names import TensorClass, tensor_class
from mlx_maverick.units import gb

from . import documents
from .formats import Piece, Source
from .layout import Entry, Layout, json_bytes
from .outputs import entries, grouped
from .recipe import Recipe
from .source import Floats, Packed, Raw, Slice

# For maverick.json and the journal, whose sizes are the only ones not known beforehand.
MARGIN_BYTES = 4 << 20


@dataclass(frozen=True)
class Part:
    """What a piece of the source becomes: quantised, in bf16, or as it is stored."""

    piece: Piece
    quant: Quant | None

    @property
    def entries(self) -> list[Entry]:
        """The whole output tensors that it is part of."""
        name, shape, encoding = self.piece.name, self.piece.shape, self.piece.encoding
        if isinstance(encoding, Raw):
            return [Entry(name, encoding.slice.tensor.dtype, shape)]
        return entries(name, shape, self.quant)

    def extent(self, entry: Entry) -> tuple[int, int]:
        """First byte and number of bytes of its share of one of them."""
        shape = self.piece.shape
        count = 1 if len(shape) == 3 else self.piece.encoding.shape[0]
        each = entry.nbytes // shape[0]
        return each * self.piece.first, each * count

    @property
    def size(self) -> int:
        """Number of values."""
        return prod(self.piece.encoding.shape)

    @property
    def weights(self) -> int:
        """How many of them are weights; what is copied as it is stored is not counted."""
        return 0 if isinstance(self.piece.encoding, Raw) else self.size


@dataclass(frozen=True)
class Job:
    """Read some slices, write the parts made of them."""

    parts: tuple[Part, ...]

    @property
    def slices(self) -> tuple[Slice, ...]:
        return tuple(dict.fromkeys(s for part in self.parts for s in part.piece.encoding.slices))

    @property
    def nbytes(self) -> int:
        """To be read."""
        return sum(slice.nbytes for slice in self.slices)

    def __str__(self) -> str:
        return str(self.slices[0])


@dataclass(frozen=True)
class Plan:
    """A conversion that can be carried out."""

    files: Files
    config: ModelConfig
    recipe: Recipe | None
    layout: Layout
    jobs: tuple[Job, ...]
    documents: dict[str, bytes]  # all other files but maverick.json and README.md
    fingerprint: str  # of what is read: config, shapes, places
    form: str  # how the source is stored, in words
    quants: Mapping[str, Quant]  # of each quantised matrix, by path
    kept: int  # matrices that have fewer bits already than the recipe gives, and stay so

    @cached_property
    def read_nbytes(self) -> int:  # asked for after every one of ten thousand jobs
        return sum(job.nbytes for job in self.jobs)

    @property
    def weights(self) -> int:
        """How many go through the quantiser, or are copied as bf16."""
        return sum(part.weights for job in self.jobs for part in job.parts)

    @property
    def sizes(self) -> dict[str, int]:
        """Every file of the output except maverick.json and README.md, and its exact size."""
        sizes = {shard.name: shard.nbytes for shard in self.layout.shards}
        return sizes | {name: len(text) for name, text in self.documents.items()}

    @property
    def nbytes(self) -> int:
        return sum(self.sizes.values())

    def check_room(self, folder: Path, there: int = 0) -> None:
        """Raise DoesNotFit if the disk that holds `folder` has too little space, given that
        `there` bytes of the output are on it already."""
        free, needed = shutil.disk_usage(folder).free, self.nbytes + MARGIN_BYTES - there
        if needed > free:
            raise DoesNotFit(
                f"the output needs {gb(needed)}, and the disk of {folder.parent} has {gb(free)} "
                "free; make room, or choose another disk"
            )


def make_plan(files: Files, recipe: Recipe | None) -> Plan:
    """The plan for a checkpoint; without a recipe an MLX folder is repacked as it is.

    Raises NotFound or BadCheckpoint for one that is incomplete, damaged or not as its
    config.json says, UsageError for a recipe that does not suit it.
    """
    text = read_whole(files, "config.json")
    raw = parse_json(text, files.path("config.json"))
    if raw.get("model_type") == "llama4_text":
        raise UsageError(
            f"{files.where} is the text half alone (model_type 'llama4_text'); convert the "
            "complete published checkpoint"
        )
    return plan(raw, Checkpoint.of(files), recipe, files)


def plan(
    raw: Mapping[str, Any], checkpoint: Checkpoint, recipe: Recipe | None, files: Files
) -> Plan:
    """The plan for a checkpoint whose config.json (`raw`) and headers were read."""
    config = ModelConfig.from_dict(raw, files.where)
    source = Source(checkpoint, config)
    if recipe is None and not config.quantization:
        raise UsageError(
            f"{files.where} is not quantised by MLX, so there is nothing to keep; name a recipe"
        )
    recipe = recipe.resolved(config) if recipe else None
    jobs, weights, kept = [], 0, 0
    outputs: dict[str, Entry] = {}
    quants: dict[str, Quant] = {}
    for pieces in source.pieces():
        parts: list[Part] = []
        for piece in pieces:
            wanted = _wanted(piece, recipe)
            stored = _kept(piece, wanted)
            parts += _parts(piece, stored, wanted, keep=recipe is None)
            if quant := stored or wanted:
                quants[piece.name.removesuffix(".weight")] = quant
            if piece.first == 0:
                weights += prod(piece.shape)
                kept += bool(recipe and stored and stored != wanted)
        jobs.append(Job(tuple(parts)))
        for part in parts:
            outputs |= {entry.name: entry for entry in part.entries}
    layout = Layout.of(outputs.values())
    texts = {
        "config.json": json_bytes(documents.config(raw, quants)),
        INDEX: layout.index(weights),
    }
    return Plan(
        files, config, recipe, layout, tuple(jobs), texts | documents.copies(files),
        _fingerprint(raw, checkpoint), source.form, quants, kept,
    )  # fmt: skip


def _parts(piece: Piece, stored: Quant | None, wanted: Quant | None, keep: bool) -> Iterator[Part]:
    """What a piece becomes; a matrix that keeps its quantisation is copied tensor by tensor."""
    encoding = piece.encoding
    if keep and isinstance(encoding, Floats) and _foreign(encoding):
        # Beside float16 scales a norm in bf16 would have other programs compute in float32.
        yield Part(replace(piece, encoding=Raw(encoding.slice)), None)
        return
    if not stored:
        yield Part(piece, wanted)
        return
    assert isinstance(encoding, Packed)
    path = piece.name.removesuffix(".weight")
    for kind, slice in zip(("weight", "scales", "biases"), encoding.slices, strict=False):
        shape = (*piece.shape[:-1], slice.shape[-1])
        yield Part(Piece(f"{path}.{kind}", shape, piece.first, Raw(slice)), None)


def _foreign(encoding: Floats) -> bool:
    """Whether it can be copied as it is, and is not bf16 anyway."""
    return encoding.columns is None and encoding.slice.tensor.dtype != "BF16"


def _wanted(piece: Piece, recipe: Recipe | None) -> Quant | None:
    """How the recipe has this matrix quantised."""
    return grouped(piece.name, piece.shape, recipe.quant(piece.name)) if recipe else None


def _kept(piece: Piece, wanted: Quant | None) -> Quant | None:
    """The quantisation that a matrix already has and keeps, unless the wanted one is smaller:
    what was rounded away cannot be had back. Raises UsageError if the recipe asks for more bits
    of the routed experts, which it is mostly about."""
    if not isinstance(piece.encoding, Packed):
        return None
    stored = piece.encoding.quant
    if wanted is None or stored.bits_per_weight <= wanted.bits_per_weight:
        if wanted not in (None, stored) and tensor_class(piece.name) is TensorClass.EXPERTS:
            raise UsageError(
                f"{piece.name} has only {stored.bits} bits in groups of {stored.group_size}, and "
                f"the recipe asks for {wanted.bits} in groups of {wanted.group_size}: that adds "
                "bytes and no precision; choose a recipe with fewer bits, or --recipe keep"
            )
        return stored
    return None


def _fingerprint(raw: Mapping[str, Any], checkpoint: Checkpoint) -> str:
    """Of config and headers: what makes two sources differ without reading their values."""
    places = [
        (t.name, t.dtype, t.shape, t.file.name, t.offset) for t in checkpoint.tensors.values()
    ]
    return hashlib.sha256(json.dumps([raw, sorted(places)], sort_keys=True).encode()).hexdigest()
