"""What a conversion writes: every tensor of the output, from shapes and a recipe alone.

Knows nothing of files or values, and loads no mlx: `mlx-maverick plan` reckons sizes with the
same functions as the conversion.
"""

from collections.abc import Iterator

from mlx_maverick.config import ModelConfig, Quant
from mlx_maverick.errors import UsageError

from . import published
from .layout import Entry
from .recipe import Recipe


def outputs(config: ModelConfig, recipe: Recipe) -> list[Entry]:
    """Every tensor that converting the checkpoint of `config` writes, in its order.

    Raises UsageError for a rule about something that the model does not have, and for groups
    that do not divide a matrix.
    """
    resolved = recipe.resolved(config)
    return [
        entry
        for published_name, published_shape in published.shapes(config).items()
        for name, shape in matrices(published_name, published_shape)
        for entry in entries(name, shape, grouped(name, shape, resolved.quant(name)))
    ]


def matrices(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of what a published tensor becomes: experts are unfused, [E, out, in]."""
    if name.endswith(published.GATE_UP):
        experts, inputs, both = shape
        path = name.removesuffix("gate_up_proj")
        for half in ("gate_proj", "up_proj"):
            yield f"{path}{half}.weight", (experts, both // 2, inputs)
    elif name.endswith(published.DOWN):
        experts, inner, outs = shape
        yield f"{name}.weight", (experts, outs, inner)
    else:
        yield name, shape


def grouped(name: str, shape: tuple[int, ...], quant: Quant | None) -> Quant | None:
    """The same setting, checked. Raises UsageError if its groups do not divide the rows."""
    if quant and shape[-1] % quant.group_size:
        raise UsageError(
            f"{name} has rows of {shape[-1]}, which groups of {quant.group_size} do not divide; "
            "use smaller groups or bf16 for it"
        )
    return quant


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
