"""A rule of a recipe: how many bits one class of weights gets, in all layers or in some.

Knows names and layer numbers, and nothing of tensors or files. One grammar serves `--set` and
recipe files: `CLASS[@LAYERS]=BITS[gGROUP]|bf16|+1`, for instance `routed_down=5`,
`attention_v=8g32`, `dense@0-3=6`, `routed@first,last=+1`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

from mlx_maverick.config import Quant
from mlx_maverick.errors import UsageError

# MLX's affine format, see its `quantize`.
BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (32, 64, 128)
# Scales and biases cost 32 / group bits per weight; 64 is what published MLX folders use.
GROUP_SIZE = 64

_LAYER = r"language_model\.model\.layers\.\d+\."
_ATTENTION = {f"attention_{c}": _LAYER + rf"self_attn\.{c}_proj\.weight" for c in "qkvo"}
# The matrices that MLX can hold packed, by class: Linear and Embedding modules of mlx-lm and
# mlx-vlm. Not among vision's: positions and class embedding, which are no modules, and the patch
# embedding, whose 588 columns no group divides. Experts have their published names (fused,
# without `.weight`), those of the output, and those of unfused checkpoints.
PATTERNS = {
    "routed_gate_up": _LAYER + r"feed_forward\.experts\.(gate_up_proj"
    r"|(\d+\.)?(gate|up)_proj\.weight)",
    "routed_down": _LAYER + r"feed_forward\.experts\.(down_proj|(\d+\.)?down_proj\.weight)",
    "shared": _LAYER + r"feed_forward\.shared_expert\.(gate|up|down)_proj\.weight",
    "dense": _LAYER + r"feed_forward\.(gate|up|down)_proj\.weight",
    **_ATTENTION,
    "embed": r"language_model\.model\.embed_tokens\.weight",
    "lm_head": r"language_model\.lm_head\.weight",
    "router": _LAYER + r"feed_forward\.router\.weight",
    "vision": r"vision_model\.(model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.fc[12])"
    r"|vision_adapter\.mlp\.fc[12])\.weight",
    "projector": r"multi_modal_projector\.linear_1\.weight",
}
GROUPED = {"routed": ("routed_gate_up", "routed_down"), "attention": tuple(_ATTENTION)}
GRAMMAR = "CLASS[@LAYERS]=BITS, for instance 'routed_down=5' or 'routed@first,last=+1'"


@cache
def kind(name: str) -> str | None:
    """The class of the matrix with this canonical name; None for a tensor that is never
    quantised: norms, biases, embeddings of the vision tower."""
    return next((k for k, pattern in PATTERNS.items() if re.fullmatch(pattern, name)), None)


def layer(name: str) -> int | None:
    """The number of the layer that a tensor belongs to, if it belongs to one."""
    found = re.search(r"\.layers\.(\d+)\.", name)
    return int(found[1]) if found else None


def checked_quant(bits: str, group: str | None, where: str) -> Quant:
    """Raises UsageError for bits or groups that MLX does not have."""
    if int(bits) not in BITS:
        raise UsageError(f"{where}: MLX has no {bits}-bit weights; {_either(BITS)}")
    if group and int(group) not in GROUPS:
        raise UsageError(f"{where}: MLX has no groups of {group} weights; {_either(GROUPS)}")
    return Quant(int(group or GROUP_SIZE), int(bits))


def _either(values: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, values[:-1]))} or {values[-1]}"


@dataclass(frozen=True)
class Rule:
    """What matrices of `kinds` become, in the layers that `layers` names (empty: everywhere).

    `change` is the new setting, None for bf16, or a number of steps among the bits there are.
    """

    text: str  # as written
    kinds: tuple[str, ...]
    layers: tuple[str, ...]  # "first", "last", "7", "0-3"
    change: Quant | int | None
    numbers: frozenset[int] | None = None  # the layers of one model, once resolved

    @staticmethod
    def parse(text: str) -> "Rule":
        """Raises UsageError for anything that is not in the grammar."""
        left, equals, value = (part.strip() for part in text.partition("="))
        name, at, where = (part.strip() for part in left.partition("@"))
        if not equals:
            raise UsageError(f"{text!r} is not a rule; write {GRAMMAR}")
        kinds = GROUPED.get(name) or ((name,) if name in PATTERNS else None)
        if not kinds:
            known = ", ".join([*GROUPED, *PATTERNS])
            raise UsageError(f"{text!r}: there is no class {name!r}; choose one of: {known}")
        layers = tuple(part.strip() for part in where.split(",")) if at else ()
        wrong = [part for part in layers if not re.fullmatch(r"first|last|\d+(-\d+)?", part)]
        if wrong:
            raise UsageError(
                f"{text!r}: {wrong[0]!r} is not a layer; write numbers, ranges such as 0-3, "
                "'first' or 'last', with commas between"
            )
        written = f"{name}{'@' if at else ''}{','.join(layers)}={value}"
        return Rule(written, kinds, layers, _change(value, text))

    def resolved(self, model: Mapping[str, frozenset[int]]) -> "Rule":
        """With its layers as numbers, for a model that has `model`'s classes in these layers
        (none: outside of layers).

        Raises UsageError for a class or layer that the model does not have.
        """
        present = [k for k in self.kinds if k in model]
        name = self.text.partition("=")[0].partition("@")[0]
        if not present:
            raise UsageError(f"{self.text!r}: this model has no {name}; leave the rule out")
        if not self.layers:
            return self
        there = sorted({n for k in present for n in model[k]})
        if not there:
            raise UsageError(f"{self.text!r}: {name} is not in layers; write '{name}=...'")
        # The tower has layers of its own.
        tower = name == "vision"
        last = max(n for k, ns in model.items() if (k == "vision") == tower for n in ns)
        return replace(self, numbers=frozenset(self._numbers(name, there, last)))

    def _numbers(self, name: str, there: list[int], last: int) -> Iterator[int]:
        for part in self.layers:
            if part in ("first", "last"):
                yield there[0 if part == "first" else -1]
                continue
            low, _, high = part.partition("-")
            start, stop = int(low), int(high or low)
            if start > stop or stop > last:
                no = f"are no layers {part}" if high else f"is no layer {part}"
                raise UsageError(f"{self.text!r}: there {no}; this model has 0 to {last}")
            found = [n for n in there if start <= n <= stop]
            if not found:
                raise UsageError(
                    f"{self.text!r}: layer {part} has no {name}; it is in {_few(there)}"
                )
            yield from found

    def covers(self, name: str) -> bool:
        """Whether this is a rule for the tensor with this canonical name."""
        if kind(name) not in self.kinds:
            return False
        if self.layers and self.numbers is None:
            raise ValueError(f"rule {self.text!r} is not resolved for a model")
        return not self.layers or layer(name) in (self.numbers or ())

    def applied(self, quant: Quant | None) -> Quant | None:
        """What becomes of a matrix that would be `quant`. Raises UsageError for a step beyond
        the bits there are."""
        if not isinstance(self.change, int):
            return self.change
        if quant is None:
            raise UsageError(f"{self.text!r}: without it this is bf16, which has no steps")
        index = BITS.index(quant.bits) + self.change
        if not 0 <= index < len(BITS):
            raise UsageError(
                f"{self.text!r}: there is no such step from {quant.bits} bits; "
                f"MLX has {_either(BITS)}"
            )
        return replace(quant, bits=BITS[index])


def _change(value: str, text: str) -> Quant | int | None:
    if value == "bf16":
        return None
    if re.fullmatch(r"[+-][1-5]", value):
        return int(value)
    found = re.fullmatch(r"(\d+)(?:g(\d+))?", value)
    if not found:
        raise UsageError(
            f"{text!r}: {value!r} is not a setting; write bits (5), bits and group (5g32), "
            "steps (+1) or bf16"
        )
    return checked_quant(found[1], found[2], repr(text))


def _few(numbers: list[int]) -> str:
    """[1, 3, 5, 7, 9] -> '1, 3, 5 ... 9'"""
    words = [str(n) for n in numbers]
    return ", ".join(words) if len(words) < 6 else f"{', '.join(words[:3])} ... {words[-1]}"
