"""The formats a checkpoint comes in: where each matrix of the model is found, and how stored.

Knows nothing of recipes. No list of a repository says which tensor is how: that is read off
the tensors themselves, so mixed checkpoints work too.

- published BF16: experts fused, [E, in, out], gate and up in one;
- compressed-tensors FP8: experts one by one, `.weight` [out, in] and `.weight_scale`;
- fbgemm FP8: experts fused as in BF16, `gate_up_proj_scale` [E, 1, 2F], `down_proj_scale`
  [E, out, 1] (source: transformers, integrations/fbgemm_fp8.py);
- MLX: `experts.gate_proj.weight` [E, out, in], with `.scales` and `.biases` if quantised.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mlx_maverick.checkpoint import Checkpoint, Tensor
from mlx_maverick.config import ModelConfig, Quant
from mlx_maverick.errors import BadCheckpoint, UsageError
from mlx_maverick.names import canonical

from . import outputs, published
from .rule import BITS, GROUPS
from .source import FLOATS, FP8, Encoding, Floats, Packed, Scaled, Slice

# Rows read at once of a matrix that is no expert: the embedding alone is 2 GB. Experts of
# Maverick are 84 and 168 MB.
BLOCK_BYTES = 64 << 20
# How activations were quantised. Weights do not depend on it.
OF_ACTIVATIONS = (".input_scale", ".input_scale_ub", "_proj_input_scale_ub")
# Of compressed-tensors with fewer than 8 bits.
PACKED = ".weight_packed"
# Group sizes and bits of each mode of MLX, see its `quantize`.
MODES = {
    "affine": (GROUPS, BITS),
    "mxfp4": ((32,), (4,)),
    "nvfp4": ((16,), (4,)),
    "mxfp8": ((32,), (8,)),
}


@dataclass(frozen=True)
class Piece:
    """Part of an output tensor: `encoding` holds it from index `first` of its first axis on."""

    name: str
    shape: tuple[int, ...]  # of the whole tensor, [out, in], [E, out, in], or a vector
    first: int
    encoding: Encoding


class Source:
    """The matrices of one checkpoint."""

    def __init__(self, checkpoint: Checkpoint, config: ModelConfig):
        """Raises UsageError for a kind of quantisation that is not read."""
        self.checkpoint, self.config = checkpoint, config
        self.where = checkpoint.folder
        self.tensors: dict[str, Tensor] = {}
        for tensor in checkpoint.tensors.values():
            twin = self.tensors.setdefault(canonical(tensor.name), tensor)
            if twin is not tensor:
                raise BadCheckpoint(
                    f"{self.where} holds both {twin.name} and {tensor.name}, which are the same"
                    " tensor; download it again"
                )
        self.mlx = any(name.endswith(".experts.gate_proj.weight") for name in self.tensors)
        method = None if self.mlx else config.source_quantization
        packed = next((name for name in self.tensors if name.endswith(PACKED)), None)
        if packed or method not in (None, *published.READ_METHODS):
            raise UsageError(
                f"{self.where} is quantised with {method or packed}{' (packed)' if packed else ''}"
                ", which cannot be read; convert the published BF16 or FP8 checkpoint"
            )
        self._used: set[str] = set()

    @property
    def form(self) -> str:
        """How most of it is stored, in words."""
        if self.mlx:
            quantised = self.config.quantization
            return f"MLX, {quantised.default.bits} bits" if quantised else "MLX, not quantised"
        scaled = [name for name in self.tensors if name.endswith("_scale")]
        if not scaled:
            return max(self.tensors.values(), key=lambda tensor: tensor.nbytes).dtype
        unfused = any(name.endswith(".weight_scale") and ".experts." in name for name in scaled)
        return f"FP8 ({'compressed-tensors' if unfused else 'fbgemm'})"

    def pieces(self) -> Iterator[tuple[Piece, ...]]:
        """All of the model's tensors in order of computation, in pieces of bounded size; those
        of one tuple come from the same bytes.

        Raises BadCheckpoint for a tensor that is missing, left over, or of a shape or type
        that its config.json does not imply.
        """
        shapes = published.shapes(self.config)
        if self.mlx and not any(map(_vision, self.tensors)):  # mlx-lm drops the vision half
            shapes = {name: shape for name, shape in shapes.items() if not _vision(name)}
        missing = [name for name in shapes if not self._has(name)]
        if missing:
            raise BadCheckpoint(
                f"{self.where} lacks {missing[0]} ({len(missing)} of {len(shapes)} tensors are "
                "missing); download it again"
            )
        found = []
        for name, shape in shapes.items():
            fused = name.endswith((published.GATE_UP, published.DOWN))
            found += list(self._experts(name, shape) if fused else self._matrix(name, shape))
        left = [
            name for name in self.tensors
            if name not in self._used and not name.endswith(OF_ACTIVATIONS)
        ]  # fmt: skip
        if left:
            tensor = self.tensors[left[0]]
            raise BadCheckpoint(
                f"{tensor.file} holds {tensor.name}, which its config.json has no place for; "
                "use the config.json that belongs to it"
            )
        return iter(found)

    def _has(self, name: str) -> bool:
        """Whether a tensor of the published name is there, in any format."""
        if name in self.tensors:
            return True
        if name.endswith((published.GATE_UP, published.DOWN)):
            base, part = name.rsplit(".", 1)
            part = part.replace("gate_up", "gate")
            return any(f"{base}.{e}{part}.weight" in self.tensors for e in ("", "0."))
        return False

    def _matrix(self, name: str, shape: tuple[int, ...]) -> Iterator[tuple[Piece, ...]]:
        """A tensor that is no expert, in blocks of rows."""
        path = name.removesuffix(".weight")
        packed = self._packed(path, shape) if f"{path}.scales" in self.tensors else None
        scale = self._scale(path, shape)
        if not packed:
            self._float(name, shape, scale)
        step = max(1, BLOCK_BYTES * shape[0] // self.tensors[name].nbytes)
        for start in range(0, shape[0], step):
            rows = (start, min(start + step, shape[0]))
            encoding = packed.slice(*rows) if packed else _floats(self.tensors[name], scale, rows)
            yield (Piece(name, shape, start, encoding),)

    def _experts(self, name: str, shape: tuple[int, ...]) -> Iterator[tuple[Piece, ...]]:
        """All experts of a layer, one by one; `shape` is the published one, [E, in, out]."""
        base = name.rpartition(".")[0]
        matrices = dict(outputs.matrices(name, shape))
        paths = [matrix.removesuffix(".weight") for matrix in matrices]
        whole = next(iter(matrices.values()))  # [E, out, in]
        if name in self.tensors:
            yield from self._fused(name, shape, paths, whole)
        elif f"{paths[0]}.weight" in self.tensors:
            for path in paths:
                yield from self._stacked(path, whole)
        else:
            for path in paths:
                for e in range(whole[0]):
                    one, matrix = f"{base}.{e}.{path.rpartition('.')[2]}", whole[1:]
                    scale = self._scale(one, matrix)
                    tensor = self._float(f"{one}.weight", matrix, scale)
                    encoding = _floats(tensor, scale, (0, whole[1]))
                    yield (Piece(f"{path}.weight", whole, e, encoding),)

    def _fused(
        self, name: str, shape: tuple[int, ...], paths: list[str], whole: tuple[int, ...]
    ) -> Iterator[tuple[Piece, ...]]:
        scale = self.tensors.get(f"{name}_scale")
        if scale:
            self._check(scale, {(whole[0], 1, shape[2]), (whole[0], shape[2], 1)}, tuple(FLOATS))
        tensor = self._float(name, shape, scale)
        columns = [(i * whole[1], (i + 1) * whole[1]) for i in range(len(paths))]
        for e in range(whole[0]):
            yield tuple(
                Piece(f"{path}.weight", whole, e, _floats(tensor, scale, (e, e + 1), wanted))
                for path, wanted in zip(paths, columns, strict=True)
            )

    def _stacked(self, path: str, whole: tuple[int, ...]) -> Iterator[tuple[Piece, ...]]:
        name = f"{path}.weight"
        packed = self._packed(path, whole) if f"{path}.scales" in self.tensors else None
        tensor = self.tensors[name] if packed else self._float(name, whole, None)
        for e in range(whole[0]):
            rows = (e, e + 1)
            encoding = packed.slice(*rows) if packed else _floats(tensor, None, rows)
            yield (Piece(name, whole, e, encoding),)

    def _scale(self, path: str, shape: tuple[int, ...]) -> Tensor | None:
        """The rule that needs no list: a matrix is FP8 if and only if it has one."""
        scale = self.tensors.get(f"{path}.weight_scale")
        if scale:
            self._check(scale, {(shape[0], 1), (shape[0],)}, tuple(FLOATS))
        return scale

    def _float(self, name: str, shape: tuple[int, ...], scale: Tensor | None) -> Tensor:
        """Checked; FP8 if it has a scale."""
        tensor = self.tensors.get(name)
        if tensor is None:
            raise BadCheckpoint(f"{self.where} lacks {name}; download it again")
        if scale:
            self._check(tensor, {shape}, (FP8,), f"with {scale.name} beside it, ")
            return tensor
        if tensor.dtype == FP8:
            raise BadCheckpoint(
                f"{tensor.file} stores {tensor.name} as {FP8}, but there is no "
                f"{tensor.name}_scale; download it again"
            )
        self._check(tensor, {shape}, tuple(FLOATS))
        return tensor

    def _packed(self, path: str, shape: tuple[int, ...]) -> Packed:
        """The whole of a matrix that MLX quantised. How, only the shapes know for sure."""
        weight, scales, biases = (
            self.tensors.get(f"{path}.{kind}") for kind in ("weight", "scales", "biases")
        )
        assert scales is not None
        if weight is None:
            raise BadCheckpoint(f"{scales.file} lacks {path}.weight; download it again")
        inputs, settings = shape[-1], self.config.quantization
        said = (settings.of(path) or settings.default) if settings else None
        mode = said.mode if said else "affine"
        groups = scales.shape[-1] if scales.shape else 0
        words = weight.shape[-1] if weight.shape else 0
        quant = Quant(inputs // max(groups, 1), words * 32 // inputs, mode)
        grouped = (*shape[:-1], inputs // quant.group_size)
        self._check(weight, {(*shape[:-1], inputs * quant.bits // 32)}, ("U32",))
        group_sizes, widths = MODES.get(mode, ((), ()))
        if quant.group_size not in group_sizes or quant.bits not in widths:
            raise BadCheckpoint(
                f"{weight.file} holds {path} in {quant.bits} bits and groups of "
                f"{quant.group_size} (mode {mode!r}), which MLX does not have; use the "
                "config.json that belongs to it, or download it again"
            )
        self._check(scales, {grouped}, tuple(FLOATS) if mode == "affine" else ("U8",))
        if biases:
            self._check(biases, {grouped}, tuple(FLOATS))
        elif mode == "affine":
            raise BadCheckpoint(f"{weight.file} lacks {path}.biases; download it again")
        return Packed(
            Slice.all(weight), Slice.all(scales), Slice.all(biases) if biases else None, quant
        )

    def _check(
        self,
        tensor: Tensor,
        shapes: set[tuple[int, ...]],
        dtypes: tuple[str, ...],
        because: str = "",
    ) -> None:
        if tensor.dtype not in dtypes:
            raise BadCheckpoint(
                f"{tensor.file} stores {tensor.name} as {tensor.dtype}; {because}only "
                f"{', '.join(dtypes)} can be converted"
            )
        if tensor.shape not in shapes:
            raise BadCheckpoint(
                f"{tensor.file} holds {tensor.name} of shape {list(tensor.shape)}, but config.json "
                f"asks for {list(sorted(shapes)[-1])}; use the config.json that belongs to it"
            )
        self._used.add(canonical(tensor.name))


def _floats(
    tensor: Tensor,
    scale: Tensor | None,
    part: tuple[int, int],
    columns: tuple[int, int] | None = None,
) -> Encoding:
    values = Slice(tensor, *part)
    return Scaled(values, Slice(scale, *part), columns) if scale else Floats(values, columns)


def _vision(name: str) -> bool:
    return name.startswith(("vision_model.", "multi_modal_projector."))
