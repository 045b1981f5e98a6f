"""What tells two models of one shape apart, without reading all of their weights.

Knows nothing of what the weights are used for.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from .checkpoint import Checkpoint, Tensor
from .config import ModelConfig
from .files import Files, Folder

# Of every tensor: a fine-tune may leave most of them alone.
SAMPLED_BYTES = 256


def model_fingerprint(folder: str | Path, dtype: object) -> str:
    """What the KV cache of a prompt follows from, hashed: config, names, types and shapes of
    the tensors, some bytes of each, and `dtype`, the type that is computed in.

    Equal for copies of a folder, wherever they are and however they are split into files.
    Raises NotFound or BadCheckpoint.
    """
    files = Folder(Path(folder))
    config = ModelConfig.from_files(files)
    tensors = [tensor for _, tensor in sorted(Checkpoint.of(files).tensors.items())]
    said = {
        "config": asdict(config),
        "tensors": [[t.name, t.dtype, list(t.shape)] for t in tensors],
        "sample": sample(files, tensors, SAMPLED_BYTES),
        "dtype": str(dtype),
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def sample(files: Files, tensors: Iterable[Tensor], count: int) -> str:
    """A hash of `count` bytes in the middle of each tensor."""
    digest = hashlib.sha256()
    for tensor in tensors:
        buffer = bytearray(min(count, tensor.nbytes))
        offset = tensor.offset + (tensor.nbytes - len(buffer)) // 2
        files.read(tensor.file.name, offset, memoryview(buffer))
        digest.update(buffer)
    return digest.hexdigest()
