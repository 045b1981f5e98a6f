"""Whether a converted folder is whole: headers, index, shapes, and the hash of every file.

Knows nothing of how it was made; any folder with a maverick.json can be checked.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mlx_maverick.checkpoint import INDEX, Checkpoint
from mlx_maverick.config import ModelConfig, read_json
from mlx_maverick.errors import BadCheckpoint, NotFound

from .formats import Source
from .hashes import File, hash_files
from .layout import Layout
from .manifest import MANIFEST, Manifest, intact
from .progress import Progress, ignore
from .source import Packed

NAMED = 5  # files in one message


def verify(folder: Path, progress: Callable[[Progress], None] = ignore) -> Manifest:
    """Read the whole folder and compare it with its index and its maverick.json.

    Raises NotFound without maverick.json, BadCheckpoint naming the files that are not what they
    were.
    """
    if folder.is_dir() and not (folder / MANIFEST).exists():
        raise NotFound(
            f"{folder} has no {MANIFEST}: mlx-maverick did not make it, or not to the end, so "
            "there is nothing to check it against"
        )
    manifest = Manifest.read(folder)
    if not intact(folder):
        raise _changed(f"{folder / MANIFEST} is not what was written")
    faults = (_size_fault(folder / name, file) for name, file in manifest.files.items())
    _raise([fault for fault in faults if fault])
    # The small ones first: the structure is read off them, and an error there would be blamed
    # on the weights.
    _check_hashes(folder, {n: f for n, f in manifest.files.items() if not _weights(n)}, ignore)
    _check_structure(folder, manifest)
    _check_hashes(folder, manifest.files, progress)
    return manifest


def _weights(name: str) -> bool:
    return name.endswith(".safetensors")


def _check_hashes(
    folder: Path, files: Mapping[str, File], progress: Callable[[Progress], None]
) -> None:
    hashes = hash_files(folder, {name: file.size for name, file in files.items()})
    try:
        while True:
            progress(next(hashes))
    except StopIteration as end:
        found, _ = end.value
    _raise(
        [
            f"{folder / name} is not what was written"
            for name, hashed in found.items()
            if hashed.sha256 != files[name].sha256
        ]
    )


def _size_fault(path: Path, file: File) -> str | None:
    if not path.is_file():
        return f"{path} is missing"
    size = path.stat().st_size
    return None if size == file.size else f"{path} has {size} bytes instead of {file.size}"


def _raise(faults: Sequence[str]) -> None:
    """Name them all, or the first few and how many more there are."""
    if faults:
        more = len(faults) - NAMED
        raise _changed(", ".join(faults[:NAMED]) + (f", and {more} more" if more > 0 else ""))


def _check_structure(folder: Path, manifest: Manifest) -> None:
    """Headers, index and config.json must agree, and no other weights lie beside."""
    checkpoint = Checkpoint.open(folder)
    size = read_json(folder / INDEX).get("metadata", {}).get("total_size")
    if size != checkpoint.nbytes:
        raise _changed(f"{folder / INDEX} counts {size} bytes, the shards {checkpoint.nbytes}")
    _check_shapes(folder, checkpoint)
    unknown = [file.name for file in checkpoint.files if file.name not in manifest.files]
    if unknown:
        raise _changed(f"{folder / unknown[0]} is not listed in maverick.json")


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
    """Check that the weight files of `folder` have the sizes and headers that `layout` planned."""
    for shard in layout.shards:
        file = folder / shard.name
        with file.open("rb") as opened:
            header = opened.read(len(shard.header))
        if header != shard.header or file.stat().st_size != shard.nbytes:
            raise BadCheckpoint(f"{file} was changed while it was written")
    Checkpoint.open(folder)  # and that there are no others


def _changed(what: str) -> BadCheckpoint:
    return BadCheckpoint(f"{what}; convert or download it again")
