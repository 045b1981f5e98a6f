"""What a conversion writes: every tensor of the output, from shapes and a recipe alone.

Knows nothing of files or values, and loads no mlx: `mlx-maverick plan` reckons sizes with the
same functions as the conversion.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mlx_maverick.config import ModelConfig, Quant
from mlx_maverick.errors import UsageError

from . import published
from .layout import Entry
from .recipe import Recipe


@dataclass(frozen=True)
class Part:
    """What a tensor of the checkpoint gives to the output tensor `name`, and its scales and
    biases if quantised.

    `columns` is set for experts, stored [in, out]: these columns, transposed to [out, in].
    """

    name: str
    shape: tuple[int, ...]  # of the whole tensor, not quantised
    quant: Quant | None
    columns: tuple[int, int] | None = None

    @property
    def entries(self) -> list[Entry]:
        """What is written. Raises UsageError if groups do not divide the rows."""
        if self.quant and self.shape[-1] % self.quant.group_size:
            raise UsageError(
                f"{self.name} has rows of {self.shape[-1]}, which groups of "
                f"{self.quant.group_size} do not divide; use smaller groups or bf16 for it"
            )
        return entries(self.name, self.shape, self.quant)


def outputs(config: ModelConfig, recipe: Recipe) -> list[Entry]:
    """Every tensor that converting the checkpoint of `config` writes, in its order.

    Raises UsageError for a rule about something that the model does not have, and for groups
    that do not divide a matrix.
    """
    resolved = recipe.resolved(config)
    return [
        entry
        for name, shape in published.shapes(config).items()
        for part in parts(name, shape, resolved)
        for entry in part.entries
    ]


def parts(name: str, shape: tuple[int, ...], recipe: Recipe) -> Iterator[Part]:
    """What a published tensor becomes with a resolved recipe."""
    quant = recipe.quant(name)
    if name.endswith(published.GATE_UP):
        experts, inputs, both = shape
        inner, path = both // 2, name.removesuffix("gate_up_proj")
        for i, half in enumerate(("gate_proj", "up_proj")):
            columns = (i * inner, (i + 1) * inner)
            yield Part(f"{path}{half}.weight", (experts, inner, inputs), quant, columns)
    elif name.endswith(published.DOWN):
        experts, inner, outs = shape
        yield Part(f"{name}.weight", (experts, outs, inner), quant, (0, outs))
    else:
        yield Part(name, shape, quant)


def entries(name: str, shape: tuple[int, ...], quant: Quant | None) -> list[Entry]:
    """What the tensor `name` of `shape` becomes: itself in bf16, or three packed ones.

    The last axis, divisible by the group size, is packed into 32-bit words.
    """
    if quant is None:
        return [Entry(name, "BF16", shape)]
    *rows, columns = shape
    groups = (*rows, columns // quant.group_size)
    weight, scales, biases = names(name)
    return [
        Entry(weight, "U32", (*rows, columns * quant.bits // 32)),
        Entry(scales, "BF16", groups),
        Entry(biases, "BF16", groups),
    ]


def names(name: str) -> tuple[str, str, str]:
    """Of the three tensors that stand for `<path>.weight`."""
    path = name.removesuffix(".weight")
    return f"{path}.weight", f"{path}.scales", f"{path}.biases"
