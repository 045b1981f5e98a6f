"""How much memory streamed experts get, and how it is shared out.

Knows sizes only: no files, no values, and loads no mlx.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..disk import BLOCK
from ..errors import DoesNotFit
from ..units import gb
from .places import LayerPlaces

LEAST_SLOTS = 2  # of a bank: one is computed with while another is read
# Elements of one array, with what lets it begin on a block's boundary. MLX's CPU kernels count
# them in 32 bits with a sign.
MOST_ELEMENTS = 2**31 - 1 - BLOCK


@dataclass(frozen=True)
class BankPlan:
    """Layers that share slots, and how many of those."""

    layers: tuple[LayerPlaces, ...]
    slots: int
    element: int  # bytes of a value

    @property
    def keys(self) -> int:
        """Experts that the slots are for."""
        return sum(layer.experts for layer in self.layers)

    @property
    def slot_bytes(self) -> int:
        return self.layers[0].memory(self.element)

    @property
    def nbytes(self) -> int:
        """Bytes allocated: each array of slots begins on a block's boundary."""
        return self.slots * self.slot_bytes + fixed_bytes(self.layers[0])


@dataclass(frozen=True)
class Plan:
    """All banks of a model."""

    banks: tuple[BankPlan, ...]

    @property
    def layers(self) -> list[LayerPlaces]:
        """All that share them, as they come in the model."""
        found = [layer for bank in self.banks for layer in bank.layers]
        return sorted(found, key=lambda layer: layer.layer)

    @property
    def nbytes(self) -> int:
        return sum(bank.nbytes for bank in self.banks)

    @property
    def slots(self) -> int:
        return sum(bank.slots for bank in self.banks)

    @property
    def keys(self) -> int:
        return sum(bank.keys for bank in self.banks)


def fixed_bytes(layer: LayerPlaces) -> int:
    """Bytes of a bank beside its slots."""
    return BLOCK * sum(1 for _ in layer.parts)


def least_bytes(layers: Iterable[LayerPlaces], element: int) -> int:
    """The smallest memory that experts can be streamed with."""
    forms = {layer.form: layer for layer in layers}
    return sum(LEAST_SLOTS * layer.memory(element) + fixed_bytes(layer) for layer in forms.values())


def share(
    layers: Sequence[LayerPlaces], element: int, memory: int, largest: int | None = None
) -> Plan:
    """Slots for `memory` bytes, the same share of every layer's experts. `element`: bytes of a
    value in memory; `largest`: bytes that one array may take, if that is bounded.

    Raises DoesNotFit if memory is too small for any.
    """
    forms: dict[object, list[LayerPlaces]] = {}
    for layer in layers:
        forms.setdefault(layer.form, []).append(layer)
    everything = sum(layer.experts * layer.memory(element) for layer in layers)
    part = min(1.0, memory / everything)
    groups = [group for form in forms.values() for group in _split(form, element, part, largest)]
    sizes = [group[0].memory(element) for group in groups]
    keys = [len(group) * group[0].experts for group in groups]
    most = [
        min(n, _most(group[0], element, largest)) for n, group in zip(keys, groups, strict=True)
    ]
    counts = [min(LEAST_SLOTS, bound) for bound in most]
    used = sum(fixed_bytes(group[0]) for group in groups)
    used += sum(count * size for count, size in zip(counts, sizes, strict=True))
    if used > memory:
        raise DoesNotFit(
            f"{gb(memory)} for experts are too little to stream any: {gb(used)} hold "
            f"{LEAST_SLOTS} at a time; give more expert memory"
        )
    lacking = [n - count for n, count in zip(keys, counts, strict=True)]
    lacked = sum(count * size for count, size in zip(lacking, sizes, strict=True))
    wanted = [count * (memory - used) // max(1, lacked) for count in lacking]
    for once in (wanted, [1] * len(groups)):  # first its share, then what rounding down has left
        for i, more in enumerate(once):
            more = min(more, most[i] - counts[i], (memory - used) // sizes[i])
            counts[i] += more
            used += more * sizes[i]
    return Plan(
        tuple(
            BankPlan(tuple(group), count, element)
            for group, count in zip(groups, counts, strict=True)
        )
    )


def _most(layer: LayerPlaces, element: int, largest: int | None) -> int:
    """Slots that one bank may have."""
    bounds = []
    for part in layer.parts:
        elements = part.tensor.size // layer.experts
        bounds.append(MOST_ELEMENTS // elements)
        if largest is not None:
            bounds.append((largest - BLOCK) // part.memory(element))
    return max(LEAST_SLOTS, min(bounds))


def _split(
    layers: Sequence[LayerPlaces], element: int, part: float, largest: int | None
) -> list[Sequence[LayerPlaces]]:
    """Layers of one form in as few banks of about one size as arrays can hold."""
    each = int(_most(layers[0], element, largest) / max(1.0, part * layers[0].experts)) or 1
    banks = -(-len(layers) // each)
    ends = [len(layers) * (i + 1) // banks for i in range(banks)]
    return [layers[start:end] for start, end in zip([0, *ends], ends, strict=False)]
