"""A recipe: how many bits each class of weights gets.

Knows nothing of tensors or files. `e4r6` reads: experts 4 bits, the rest 6.
"""

from dataclasses import dataclass

from mlx_maverick.config import Quant
from mlx_maverick.errors import UsageError
from mlx_maverick.names import TensorClass

# Scales and biases cost 32 / group bits per weight; 64 is what published MLX folders use.
GROUP_SIZE = 64

# Few bytes and much harm: a router off by little picks another expert, and a norm scales
# everything after it. Vision with its projector is 0.2 % of the weights.
UNQUANTISED = {TensorClass.ROUTER, TensorClass.NORM, TensorClass.VISION, TensorClass.PROJECTOR}


@dataclass(frozen=True)
class Recipe:
    """Bits of the routed experts, and of everything else that is quantised at all."""

    experts_bits: int
    rest_bits: int

    @property
    def name(self) -> str:
        return f"e{self.experts_bits}r{self.rest_bits}"

    @property
    def experts(self) -> Quant:
        return Quant(GROUP_SIZE, self.experts_bits)

    @property
    def rest(self) -> Quant:
        return Quant(GROUP_SIZE, self.rest_bits)

    def quant(self, kind: TensorClass) -> Quant | None:
        """How matrices of this class are quantised; None: they stay bf16."""
        if kind in UNQUANTISED:
            return None
        return self.experts if kind is TensorClass.EXPERTS else self.rest

    @staticmethod
    def named(name: str) -> "Recipe":
        """The offered recipe of this name. Raises UsageError for any other."""
        for recipe in OFFERED:
            if recipe.name == name:
                return recipe
        known = ", ".join(recipe.name for recipe in OFFERED)
        raise UsageError(f"there is no recipe {name!r}; choose one of: {known}")


# 227 GB and 231 GB for Maverick. The second costs 1.6 % more disk, but 6 bits where every
# token passes.
OFFERED = (Recipe(4, 4), Recipe(4, 6))
DEFAULT = OFFERED[0]
