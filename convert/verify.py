"""Whether a converted folder is whole: headers, index, shapes, and the hash of every file.

Knows nothing of how it was made; any folder with a maverick.json can be checked.
"""

from collections.abc import Callable
from pathlib import Path

from mlx_maverick.checkpoint import INDEX, Checkpoint
from mlx_maverick.config import ModelConfig, read_json
from mlx_maverick.errors import BadCheckpoint

from .formats import Source
from .hashes import hash_files
from .layout import Layout
from .manifest import Manifest
from .progress import Progress, ignore
from .source import Packed


def verify(folder: Path, progress: Callable[[Progress], None] = ignore) -> Manifest:
    """Read the whole folder and compare it with its index and its maverick.json.

    Raises NotFound if either or a shard is missing, BadCheckpoint naming the first file that
    is not what it was.
    """
    checkpoint = Checkpoint.open(folder)
    size = read_json(folder / INDEX).get("metadata", {}).get("total_size")
    if size != checkpoint.nbytes:
        raise _changed(f"{folder / INDEX} counts {size} bytes, the shards {checkpoint.nbytes}")
    _check_shapes(folder, checkpoint)
    manifest = Manifest.read(folder)
    unknown = [file.name for file in checkpoint.files if file.name not in manifest.files]
    if unknown:
        raise _changed(f"{folder / unknown[0]} is not listed in maverick.json")
    for name, file in manifest.files.items():
        if not (folder / name).is_file():
            raise _changed(f"{folder / name} is missing")
        if (found := (folder / name).stat().st_size) != file.size:
            raise _changed(f"{folder / name} has {found} bytes instead of {file.size}")
    sizes = {name: file.size for name, file in manifest.files.items()}
    hashes = hash_files(folder, sizes)
    try:
        while True:
            progress(next(hashes))
    except StopIteration as end:
        found, _ = end.value
    for name, hashed in found.items():
        if hashed.sha256 != manifest.files[name].sha256:
            raise _changed(f"{folder / name} is not what was written")
    return manifest


def _check_shapes(folder: Path, checkpoint: Checkpoint) -> None:
    """Raise BadCheckpoint unless names, shapes and bits are those that config.json implies."""
    config = ModelConfig.from_folder(folder)
    source = Source(checkpoint, config)
    if not source.mlx:
        raise _changed(f"{folder} is not an MLX folder")
    for piece in (piece for pieces in source.pieces() for piece in pieces if piece.first == 0):
        path, encoding = piece.name.removesuffix(".weight"), piece.encoding
        said = config.quantization.of(path) if config.quantization else None
        if isinstance(encoding, Packed) and encoding.quant != said:
            raise _changed(
                f"{folder / 'config.json'} says {said} of {path}, stored is {encoding.quant}"
            )


def verify_layout(folder: Path, layout: Layout) -> None:
    """Check that the files of `folder` say what `layout` planned; reads headers only."""
    checkpoint = Checkpoint.open(folder)
    for entry in layout.entries:
        place, found = layout.places[entry.name], checkpoint.tensors.get(entry.name)
        wanted = (entry.dtype, entry.shape, place.shard, place.offset)
        if not found or wanted != (found.dtype, found.shape, found.file.name, found.offset):
            raise BadCheckpoint(f"{folder / place.shard} was changed while it was written")
    if len(checkpoint.tensors) != len(layout.places):
        raise BadCheckpoint(f"{folder} was changed while it was written")


def _changed(what: str) -> BadCheckpoint:
    return BadCheckpoint(f"{what}; convert or download it again")
