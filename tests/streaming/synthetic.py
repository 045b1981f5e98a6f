"""Files of experts whose bytes are random, in every form that they are stored in.

Random bits are values of all kinds: infinite, too small, too large, and none.
"""

import errno
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_maverick.checkpoint import DTYPE_BITS, Tensor
from mlx_maverick.config import Quant
from mlx_maverick.streaming.bank import Bank
from mlx_maverick.streaming.places import PROJECTIONS, LayerPlaces, Part, Projection
from mlx_maverick.streaming.reader import Reader
from mlx_maverick.streaming.uncached import Uncached

LAYERS, EXPERTS, HIDDEN, INNER = (1, 3, 5), 4, 64, 96
KEYS = len(LAYERS) * EXPERTS
VALUES = {"BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}


class Flaky(Uncached):
    """A file on a disk that fails, and that can be made to wait."""

    bad: frozenset[int] | set[int] = frozenset()  # experts' keys whose bytes cannot be read
    reads = 0

    def __init__(self, *args: object):
        super().__init__(*args)  # type: ignore[arg-type]
        self.ranges: list[tuple[int, int, int]] = []  # first byte, end, key
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Semaphore(0)

    @staticmethod
    def opened(path: Path) -> "Flaky":
        usual = Uncached.open(path)
        flaky = Flaky(path, usual._file, usual._direct, usual._drop)
        usual._file, usual._direct = -1, None
        return flaky

    def read(self, offset: int, view: memoryview) -> None:
        self.reads += 1
        if not self.gate.is_set():
            self.waiting.release()
            assert self.gate.wait(30)
        if any(start <= offset < end and key in self.bad for start, end, key in self.ranges):
            raise OSError(errno.EIO, "Input/output error", str(self.path))
        super().read(offset, view)


@dataclass
class Experts:
    """Layers of one form, in two files."""

    folder: Path
    quant: Quant | None
    stored: str  # type of what is not packed
    layers: list[LayerPlaces] = field(default_factory=list)
    files: dict[Path, Uncached] = field(default_factory=dict)

    def bank(self, slots: int, dtype: mx.Dtype, reader: Reader, spare: int = 0) -> Bank:
        return Bank(self.layers, slots, dtype, self.files, reader, spare)

    @property
    def flaky(self) -> list[Flaky]:
        return [file for file in self.files.values() if isinstance(file, Flaky)]

    def break_(self, keys: set[int]) -> None:
        """From now on the bytes of these experts alone cannot be read."""
        for file in self.flaky:
            file.bad = keys

    def values(self, part: Part, key: int, dtype: mx.Dtype) -> mx.array:
        """What of an expert is to be in memory, by MLX's own arithmetic."""
        start = part.tensor.offset + key % EXPERTS * part.nbytes
        data = part.tensor.file.read_bytes()[start : start + part.nbytes]
        kind = {2: np.uint16, 4: np.uint32}[DTYPE_BITS[part.tensor.dtype] // 8]
        bits = mx.array(np.frombuffer(data, kind).reshape(part.shape))
        if part.tensor.dtype == "U32":
            return bits
        return bits.view(VALUES[part.tensor.dtype]).astype(dtype)

    def wanted(self, key: int, dtype: mx.Dtype) -> list[mx.array]:
        """All of one expert's."""
        return [self.values(part, key, dtype) for part in self.layers[key // EXPERTS].parts]


def held(bank: Bank, slot: int) -> list[mx.array]:
    """What is in a slot, as it is computed with."""
    m = bank.matrices
    return [a[slot] for part in (m.gate_proj, m.up_proj, m.down_proj) for a in part.arrays]


def content_hash(arrays: list[mx.array]) -> str:
    """Of bits; those of what is no number are all the same."""
    found = hashlib.sha256()
    for array in arrays:
        if array.dtype == mx.uint32:
            bits = array
        else:
            kind = mx.uint32 if array.dtype == mx.float32 else mx.uint16
            bits = mx.where(mx.isnan(array), mx.array(1, kind), array.view(kind))
        found.update(str((array.dtype, array.shape)).encode() + np.array(bits).tobytes())
    return found.hexdigest()


@contextmanager
def experts(folder: Path, quant: Quant | None, stored: str) -> Iterator[Experts]:
    """Files with random bytes."""
    made, draw = Experts(folder, quant, stored), np.random.default_rng(11)
    files = [folder / "model-00001.safetensors", folder / "model-00002.safetensors"]
    sizes = [1000, 24]  # of what comes before
    ranges: dict[Path, list[tuple[int, int, int]]] = {file: [] for file in files}
    for index, layer in enumerate(LAYERS):
        projections = []
        for name in PROJECTIONS:
            out, inputs = (HIDDEN, INNER) if name == "down_proj" else (INNER, HIDDEN)
            which = (index + (name == "down_proj")) % 2
            parts = []
            for kind, dtype, columns in _parts(quant, stored, inputs):
                shape = (EXPERTS, out, columns)
                nbytes = prod(shape) * DTYPE_BITS[dtype] // 8
                path = f"language_model.model.layers.{layer}.feed_forward.experts.{name}.{kind}"
                tensor = Tensor(path, dtype, shape, files[which], sizes[which], nbytes)
                parts.append(Part(tensor, kind))
                for expert in range(EXPERTS):
                    start = sizes[which] + expert * parts[-1].nbytes
                    found = (start, start + parts[-1].nbytes, index * EXPERTS + expert)
                    ranges[files[which]].append(found)
                sizes[which] += nbytes
            projections.append(Projection(name, tuple(parts), quant, (out, inputs)))
        made.layers.append(LayerPlaces(layer, EXPERTS, tuple(projections)))
    for file, size in zip(files, sizes, strict=True):
        file.write_bytes(draw.bytes(size))
        opened = Flaky.opened(file)
        opened.ranges = ranges[file]
        made.files[file] = opened
    yield made
    for opened in made.files.values():
        opened.close()


def _parts(quant: Quant | None, stored: str, inputs: int) -> list[tuple[str, str, int]]:
    """Kind, type and columns."""
    if quant is None:
        return [("weight", stored, inputs)]
    groups = inputs // quant.group_size
    return [
        ("weight", "U32", inputs * quant.bits // 32),
        ("scales", stored, groups),
        ("biases", stored, groups),
    ]
