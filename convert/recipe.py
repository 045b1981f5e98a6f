"""A recipe: how many bits each matrix gets.

Knows names, not tensors. `e4r6` reads: experts 4 bits, the rest 6; `e2g128r4` has its experts
in groups of 128. Rules change single classes or layers.
"""

import re
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlx_maverick.config import ModelConfig, Quant
from mlx_maverick.errors import NotFound, UsageError

from . import published
from .rule import GROUP_SIZE, Rule, checked_quant, kind, layer

# Few bytes and much harm: a router off by little picks another expert. Vision with its
# projector is 0.2 % of the weights. Rules can say otherwise.
UNQUANTISED = {"router", "vision", "projector"}
GRAMMAR = "e<bits>[g<group>]r<bits>[g<group>] (experts, rest)"
_NAME = re.compile(r"e(\d+)(?:g(\d+))?r(\d+)(?:g(\d+))?", re.ASCII)
# TOML reads +1 as 1: a step in a file without quotes would silently be a number of bits.
_BARE_STEP = re.compile(r"""^\s*("[^"\n]*"|'[^'\n]*'|[\w-]+)\s*=\s*[+-]\d""", re.MULTILINE)
MIXED = "-mixed"
KEEP = "keep"  # instead of a recipe: an MLX folder keeps its quantisation


@dataclass(frozen=True)
class Recipe:
    """Settings of the routed experts, of everything else that is quantised at all, and rules.

    Rules that name layers are for a model with such layers: `resolved` binds them to one.
    """

    name: str  # usable as part of a folder's name
    experts: Quant
    rest: Quant
    rules: tuple[Rule, ...] = ()

    def quant(self, name: str) -> Quant | None:
        """How the tensor with this canonical name (of the output, or as published) is
        quantised; None: it stays bf16.

        Rules apply in their order, those with layers after those without. ValueError if rules
        with layers are not resolved.
        """
        cls = kind(name)
        if cls is None:
            return None
        quant = None if cls in UNQUANTISED else self.rest
        if cls.startswith("routed"):
            quant = self.experts
        for rule in sorted(self.rules, key=lambda rule: bool(rule.layers)):  # keeps their order
            if rule.covers(name):
                quant = rule.applied(quant)
        return quant

    def resolved(self, config: ModelConfig) -> "Recipe":
        """The same recipe for the model of `config`.

        Raises UsageError for a rule about something that the model does not have.
        """
        if not self.rules:
            return self
        names = list(published.shapes(config))
        layers: defaultdict[str, set[int]] = defaultdict(set)  # by class
        for name in names:
            if cls := kind(name):
                number = layer(name)
                layers[cls] |= set() if number is None else {number}
        model = {cls: frozenset(numbers) for cls, numbers in layers.items()}
        resolved = replace(self, rules=tuple(rule.resolved(model) for rule in self.rules))
        for name in names:  # steps beyond the bits there are
            resolved.quant(name)
        return resolved

    def with_rules(self, rules: Sequence[str]) -> "Recipe":
        """With more rules after its own, and a name that tells it from the one without."""
        if not rules:
            return self
        name = self.name if self.name.endswith(MIXED) else self.name + MIXED
        parsed = tuple(Rule.parse(rule) for rule in rules)
        return replace(self, name=name, rules=self.rules + parsed)

    def describe(self) -> dict[str, Any]:
        """For maverick.json: everything needed to write the recipe down again."""
        return {
            "name": self.name,
            "experts": asdict(self.experts),
            "rest": asdict(self.rest),
            "rules": [rule.text for rule in self.rules],
        }

    @staticmethod
    def described(raw: Mapping[str, Any]) -> "Recipe":
        """The recipe that `describe` described. KeyError or TypeError if it did not."""
        rules = tuple(Rule.parse(rule) for rule in raw["rules"])
        return Recipe(raw["name"], Quant(**raw["experts"]), Quant(**raw["rest"]), rules)

    @staticmethod
    def parse(text: str, rules: Sequence[str] = ()) -> "Recipe":
        """The recipe that `text` names, or that the TOML file `text` holds, with `rules` added.

        Raises UsageError for anything not understood, NotFound for a file that is not there.
        """
        recipe = from_file(Path(text)) if text.endswith(".toml") else Recipe.named(text)
        return recipe.with_rules(rules)

    @staticmethod
    def named(name: str) -> "Recipe":
        """The recipe of this name. Raises UsageError for what is none."""
        found = _NAME.fullmatch(name)
        if not found:
            offered = ", ".join(recipe.name for recipe in OFFERED)
            raise UsageError(
                f"there is no recipe {name!r}; give {GRAMMAR} or a .toml file, for instance "
                f"one of: {offered}"
            )
        experts = checked_quant(found[1], found[2], repr(name))
        rest = checked_quant(found[3], found[4], repr(name))
        return Recipe(f"e{_short(experts)}r{_short(rest)}", experts, rest)


def from_file(path: Path) -> Recipe:
    """The recipe of a TOML file: `base = "e3r6"`, perhaps `name = "mine"`, and under `[bits]`
    rules as `"routed@first,last" = 5` or `attention_v = "8g32"`.

    Raises NotFound without the file, UsageError for anything in it that is not understood.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist; give the recipe's file, or its name") from None
    except (OSError, ValueError) as e:
        raise UsageError(f"{path} cannot be read ({e}); give a text file") from None
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise UsageError(f"{path} is not TOML ({e}); quote keys that have an @") from None
    if step := _BARE_STEP.search(text):
        raise UsageError(f'{path}: {step[0].strip()!r} needs quotes around the step, as in "+1"')
    unknown = sorted(set(raw) - {"base", "name", "bits"})
    if unknown:
        raise UsageError(f"{path} has a key {unknown[0]!r}; it may have base, name and [bits]")
    base, name, bits = raw.get("base"), raw.get("name"), raw.get("bits", {})
    if not isinstance(base, str):
        raise UsageError(f'{path} has no base; add one, for instance base = "{DEFAULT.name}"')
    if not isinstance(bits, dict):
        raise UsageError(f"{path}: bits is not a table; write [bits] and the rules below it")
    rules = []
    for key, value in bits.items():
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise UsageError(f"{path}: bits of {key!r} are {value!r}; write a number or a text")
        rules.append(f"{key}={value}")
    try:
        recipe = Recipe.named(base).with_rules(rules)
    except UsageError as e:
        raise UsageError(f"{path}: {e}") from None
    return recipe if name is None else replace(recipe, name=_folder_name(name, path))


def _folder_name(name: Any, path: Path) -> str:
    """Raises UsageError for one that is no plain name, or would pass for a named recipe's."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w][\w.-]{0,63}", name, re.ASCII):
        raise UsageError(
            f"{path}: name is {name!r}; use up to 64 letters, digits, dots and dashes, as it "
            "becomes part of a folder's name"
        )
    if _NAME.fullmatch(name):
        raise UsageError(f"{path}: name is {name!r}, which is another recipe's; choose a new one")
    return name


def _short(quant: Quant) -> str:
    group = "" if quant.group_size == GROUP_SIZE else f"g{quant.group_size}"
    return f"{quant.bits}{group}"


# From 118 to 428 GB for Maverick, the smallest first. Beyond those of equal steps: e4r6 costs
# 1.6 % more disk than e4r4, but gives 6 bits where every token passes.
OFFERED = tuple(
    Recipe.named(name)
    for name in ("e2g128r4", "e2r4", "e2r6", "e3g128r6", "e3r6", "e4r4", "e4r6", "e4r8", "e5r8",
                 "e6r8", "e8r8")
)  # fmt: skip
DEFAULT = Recipe.named("e4r4")
