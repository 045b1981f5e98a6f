"""A checkpoint's tensors, taken one by one by the modules they belong to.

Knows names, shapes and how a matrix is stored, and nothing of what is computed with it.
Every module asks for its own tensors with the shape the config implies; what is missing, of
another shape, or left over at the end is an error that names it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx

from ..checkpoint import Checkpoint
from ..config import ModelConfig, Quant, Quantization, stored_quant
from ..errors import BadCheckpoint
from ..names import TensorClass, canonical, tensor_class
from .linear import Embedding, ExpertLinear, JoinedLinear, Linear, Matrix


@dataclass
class _Store:
    """What all views of one checkpoint share."""

    folder: Path
    tensors: dict[str, mx.array]
    quantization: Quantization | None
    dtype: mx.Dtype
    pending: list[mx.array] = field(default_factory=list)
    nbytes: int = 0
    parameters: int = 0


class Weights:
    """The tensors below one prefix. Arrays are lazy until `settle` is called."""

    def __init__(self, store: _Store, prefix: str = ""):
        self._store, self._prefix = store, prefix

    @staticmethod
    def from_folder(
        folder: Path, config: ModelConfig, dtype: mx.Dtype, experts: bool = True
    ) -> "Weights":
        """All tensors of a folder, with values to be computed in `dtype`; without those of
        routed `experts` if these are read elsewhere.

        Raises as Checkpoint.open does, and BadCheckpoint for a format that only the
        converter reads.
        """
        checkpoint = Checkpoint.open(folder)
        fp8 = next((t for t in checkpoint.tensors.values() if t.dtype.startswith("F8")), None)
        if fp8 or config.source_quantization:
            found = f"{fp8.name} is {fp8.dtype}" if fp8 else config.source_quantization
            raise BadCheckpoint(
                f"{folder} is in a format to convert from, not to run ({found}); "
                "run 'mlx-maverick convert' on it first"
            )
        tensors: dict[str, mx.array] = {}
        for file in checkpoint.files:
            loaded = mx.load(str(file))  # lazy: no values are read yet
            assert isinstance(loaded, dict)
            tensors.update(loaded)
        if not experts:
            routed = TensorClass.EXPERTS
            tensors = {n: t for n, t in tensors.items() if tensor_class(canonical(n)) is not routed}
        return Weights.from_arrays(tensors, config, dtype, folder)

    @staticmethod
    def from_arrays(
        tensors: Mapping[str, mx.array],
        config: ModelConfig,
        dtype: mx.Dtype,
        folder: Path = Path("weights"),
    ) -> "Weights":
        """The same from arrays by name; `folder` is for messages."""
        named = _split_experts({canonical(name): array for name, array in tensors.items()})
        return Weights(_Store(folder, named, config.quantization, dtype))

    @property
    def dtype(self) -> mx.Dtype:
        return self._store.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of everything settled so far."""
        return self._store.nbytes

    @property
    def parameters(self) -> int:
        """Number of weights taken so far; scales and biases of groups are not weights."""
        return self._store.parameters

    def at(self, path: str) -> "Weights":
        """The view below `path`."""
        return Weights(self._store, f"{self._prefix}{path}.")

    def has(self, path: str) -> bool:
        """Whether any tensor lies below `path`."""
        below = f"{self._prefix}{path}."
        return any(name.startswith(below) for name in self._store.tensors)

    def array(self, name: str, *shape: int) -> mx.array:
        """One tensor that is never quantised, of exactly this shape."""
        return self._keep(self._take(name, shape))

    def linear(self, path: str, out: int, inputs: int, bias: bool = False) -> Linear:
        """The projection [out, inputs] at `path`."""
        linear = self._linear(path, out, inputs, bias)
        self._keep(*linear.arrays)
        return linear

    def joined(self, outs: Mapping[str, int], inputs: int, bias: bool = False) -> JoinedLinear:
        """The projections `{path: out}` of one input, as one matrix where they agree."""
        parts = [self._linear(path, out, inputs, bias) for path, out in outs.items()]
        joined = JoinedLinear(parts, list(outs.values()))
        for part in joined.parts:
            self._keep(*part.arrays)
        return joined

    def embedding(self, path: str, rows: int, width: int) -> Embedding:
        """The embedding [rows, width] at `path`."""
        matrix = self._matrix(path, (rows, width))
        self._keep(*matrix.arrays)
        return Embedding(matrix, self.dtype)

    def experts(self, path: str, count: int, out: int, inputs: int) -> ExpertLinear:
        """The projections [count, out, inputs] of all routed experts at `path`."""
        experts = ExpertLinear(self._matrix(path, (count, out, inputs)))
        self._keep(*experts.matrix.arrays)
        return experts

    def settle(self, *more: mx.array) -> None:
        """Read and compute everything taken since the last call."""
        arrays = [*self._store.pending, *more]
        mx.eval(arrays)
        self._store.nbytes += sum(a.nbytes for a in arrays)
        self._store.pending.clear()

    def finish(self) -> None:
        """Raises BadCheckpoint if tensors are left over."""
        left = sorted(self._store.tensors)
        if left:
            raise BadCheckpoint(
                f"{self._store.folder} holds {len(left)} tensors its config.json has no place "
                f"for, such as {left[0]}; is this config.json of another model?"
            )

    def _keep(self, *arrays: mx.array) -> mx.array:
        self._store.pending.extend(arrays)
        return arrays[0]

    def _linear(self, path: str, out: int, inputs: int, bias: bool) -> Linear:
        return Linear(
            self._matrix(path, (out, inputs)),
            self._take(f"{path}.bias", (out,)) if bias else None,
        )

    def _matrix(self, path: str, shape: tuple[int, ...]) -> Matrix:
        if f"{self._prefix}{path}.scales" not in self._store.tensors:
            return Matrix(self._take(f"{path}.weight", shape))
        quant = self._quant(path, shape[-1])
        packed = (*shape[:-1], shape[-1] * quant.bits // 32)
        groups = (*shape[:-1], shape[-1] // quant.group_size)
        affine = quant.mode == "affine"
        stored = math.prod(packed) + math.prod(groups) * (2 if affine else 1)
        self._store.parameters += math.prod(shape) - stored
        return Matrix(
            self._take(f"{path}.weight", packed, cast=False),
            self._take(f"{path}.scales", groups, cast=affine),
            self._take(f"{path}.biases", groups) if affine else None,
            quant,
        )

    def _quant(self, path: str, inputs: int) -> Quant:
        full, tensors = self._prefix + path, self._store.tensors
        weight = tensors.get(f"{full}.weight")
        columns = weight.shape[-1] if weight is not None else 0
        groups = tensors[f"{full}.scales"].shape[-1]
        settings, folder = self._store.quantization, self._store.folder
        return stored_quant(settings, full, inputs, columns, groups, folder)

    def _take(self, name: str, shape: tuple[int, ...], cast: bool = True) -> mx.array:
        full = self._prefix + name
        array = self._store.tensors.pop(full, None)
        if array is None:
            raise BadCheckpoint(
                f"{self._store.folder} lacks {full}; download or convert the model again"
            )
        if array.shape != shape:
            raise BadCheckpoint(
                f"{self._store.folder}: {full} has shape {list(array.shape)}, but config.json "
                f"asks for {list(shape)}; is this config.json of another model?"
            )
        self._store.parameters += array.size
        return array.astype(self.dtype) if cast else array


def _split_experts(tensors: dict[str, mx.array]) -> dict[str, mx.array]:
    """Published expert tensors, [E, in, out] with gate and up in one, as [E, out, in] each.

    The transposition is a view: gather_mm wants [E, in, out] anyway.
    """
    for name in [n for n in tensors if n.endswith("experts.gate_up_proj")]:
        fused, base = tensors.pop(name), name.removesuffix("gate_up_proj")
        for part, half in zip(("gate_proj", "up_proj"), mx.split(fused, 2, axis=-1), strict=True):
            tensors[f"{base}{part}.weight"] = mx.swapaxes(mx.contiguous(half), -1, -2)
    for name in [n for n in tensors if n.endswith("experts.down_proj")]:
        tensors[f"{name}.weight"] = mx.swapaxes(tensors.pop(name), -1, -2)
    return tensors
