"""Where the bytes of every routed expert are: ranges of the model's own files.

Knows names, shapes and offsets; reads nothing, and loads no mlx.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ..checkpoint import FLOATS, Checkpoint, Tensor
from ..config import ModelConfig, Quant, stored_quant
from ..errors import BadCheckpoint, UsageError
from ..names import TensorClass, canonical, tensor_class

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Part:
    """One tensor of a projection, as it is stored: a matrix for each expert, one after the
    other."""

    tensor: Tensor
    kind: str  # "weight", "scales" or "biases"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one expert."""
        return self.tensor.shape[1:]

    @property
    def nbytes(self) -> int:
        """Of one expert."""
        return self.tensor.nbytes // self.tensor.shape[0]

    def offset(self, expert: int) -> int:
        """Where the bytes of one begin in the file."""
        return self.tensor.offset + expert * self.nbytes

    @property
    def floating(self) -> bool:
        """Whether it holds values, which are computed in the model's type, and not codes."""
        return self.tensor.dtype in FLOATS

    def memory(self, element: int) -> int:
        """Bytes of one expert in memory, where values take `element` each."""
        return self.tensor.memory(element) // self.tensor.shape[0]


@dataclass(frozen=True)
class Projection:
    """One projection of all experts of a layer."""

    name: str
    parts: tuple[Part, ...]
    quant: Quant | None
    shape: tuple[int, int]  # of one expert's weights, [out, in]

    @property
    def form(self) -> tuple[object, ...]:
        """What those that may share slots have in common."""
        return (self.quant, *((part.tensor.dtype, part.shape) for part in self.parts))


@dataclass(frozen=True)
class LayerPlaces:
    """The routed experts of one layer."""

    layer: int  # among all layers of the model
    experts: int
    projections: tuple[Projection, ...]  # in the order of PROJECTIONS

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.experts * sum(math.prod(projection.shape) for projection in self.projections)

    @property
    def parts(self) -> Iterator[Part]:
        for projection in self.projections:
            yield from projection.parts

    @property
    def form(self) -> tuple[object, ...]:
        """Layers of the same form may share slots."""
        return (self.experts, *(projection.form for projection in self.projections))

    def memory(self, element: int) -> int:
        """Bytes of one expert in memory, where values take `element` each."""
        return sum(part.memory(element) for part in self.parts)


def expert_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of routed experts, by canonical name."""
    named = {canonical(name): tensor for name, tensor in checkpoint.tensors.items()}
    return {n: t for n, t in named.items() if tensor_class(n) is TensorClass.EXPERTS}


def places(checkpoint: Checkpoint, config: ModelConfig) -> tuple[LayerPlaces, ...]:
    """The experts of every layer that has some.

    Raises UsageError for a folder whose experts cannot be read one by one, BadCheckpoint for
    one that disagrees with its config.
    """
    tensors = expert_tensors(checkpoint)
    fused = (t for n, t in tensors.items() if n.endswith("gate_up_proj") or t.dtype[:2] == "F8")
    if published := next(fused, None):
        raise UsageError(
            f"{checkpoint.folder} holds experts as they are published ({published.name}), of which "
            "none can be read by itself; run 'mlx-maverick convert' on it to stream them"
        )
    text = config.text
    return tuple(
        LayerPlaces(
            layer,
            text.num_local_experts,
            tuple(_projection(checkpoint, config, tensors, layer, name) for name in PROJECTIONS),
        )
        for layer, is_moe in enumerate(text.moe_layers)
        if is_moe
    )


def _projection(
    checkpoint: Checkpoint, config: ModelConfig, tensors: dict[str, Tensor], layer: int, name: str
) -> Projection:
    text = config.text
    out, inputs = text.intermediate_size, text.hidden_size
    if name == "down_proj":
        out, inputs = inputs, out
    path = f"language_model.model.layers.{layer}.feed_forward.experts.{name}"

    def part(kind: str, types: Collection[str], *shape: int) -> Part:
        tensor = tensors.get(f"{path}.{kind}")
        if tensor is None:
            raise BadCheckpoint(
                f"{checkpoint.folder} lacks {path}.{kind}; download or convert the model again"
            )
        wanted = (text.num_local_experts, *shape)
        if tensor.shape != wanted:
            raise BadCheckpoint(
                f"{checkpoint.folder}: {tensor.name} has shape {list(tensor.shape)}, but "
                f"config.json asks for {list(wanted)}; is this config.json of another model?"
            )
        if tensor.dtype not in types:
            raise BadCheckpoint(
                f"{checkpoint.folder}: {tensor.name} is {tensor.dtype}, and not one of "
                f"{', '.join(types)}; convert the model again"
            )
        return Part(tensor, kind)

    weight, scales = tensors.get(f"{path}.weight"), tensors.get(f"{path}.scales")
    if scales is None:
        return Projection(name, (part("weight", FLOATS, out, inputs),), None, (out, inputs))
    quant = stored_quant(
        config.quantization,
        path,
        inputs,
        weight.shape[-1] if weight and weight.shape else 0,
        scales.shape[-1] if scales.shape else 0,
        checkpoint.folder,
    )
    kinds = ["scales", "biases"] if quant.mode == "affine" else ["scales"]
    groups = inputs // quant.group_size
    return Projection(
        name,
        (
            part("weight", ("U32",), out, inputs * quant.bits // 32),
            *(part(kind, (*FLOATS, "U8"), out, groups) for kind in kinds),
        ),
        quant,
        (out, inputs),
    )
