"""Sizing: what a model takes with a recipe, whether a machine has it, and which recipe to take.

Knows shapes only; nothing is read and mlx is not loaded. Sizes are those of the very tensors
that `convert.outputs` makes, laid out in files as `convert.layout` does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from . import macs
from .config import ModelConfig
from .convert import published
from .convert.layout import Layout
from .convert.outputs import outputs
from .convert.recipe import DEFAULT, OFFERED, Recipe
from .errors import DoesNotFit, UsageError
from .kv import DENSE, KVOptions
from .macs import Machine
from .memory import (
    DEFAULT_CONTEXT,
    MIN_CONTEXT,
    Budget,
    fewer_bits,
    longest_context,
    raise_limit,
)
from .names import TensorClass, tensor_class
from .units import gb

BF16_BYTES = 2
# Slots of a layer when experts are streamed: one is computed with while another is read.
LEAST_SLOTS = 2
# Of the experts: up to here each bit more is worth a raised limit. A judgement, from the error
# of the weights, which every bit makes four times smaller.
ENOUGH_BITS = 4


class Verdict(StrEnum):
    """How a model runs on a machine."""

    FITS = "fits"  # within the machine's limit
    RAISED = "raised"  # with a raised limit
    STREAMED = "streamed"  # only with its routed experts on the SSD
    NO = "no"


@dataclass(frozen=True)
class Size:
    """A model converted with one recipe, in bytes."""

    config: ModelConfig
    recipe: Recipe
    disk: int  # weight files and their index; the tokenizer adds some tens of MB
    budget: Budget  # in memory, at a context
    experts: int  # of the budget's weights, those of routed experts
    read: int  # of the weights, what one decoded token needs

    @property
    def shared(self) -> int:
        """What must be in memory however experts are kept: all else, KV cache, working room."""
        return self.budget.total - self.experts

    def ceiling(self, bandwidth: float, cached: bool) -> float:
        """Tokens per second of decoding if reading memory were all it took, with a cache that
        is empty, or `cached`: full."""
        return bandwidth / (self.read + (self.budget.kv if cached else 0))


@dataclass(frozen=True)
class Fit:
    """A size on a machine."""

    size: Size
    verdict: Verdict
    command: str | None  # that raises the limit, where it has to be
    room: int  # bytes left for routed experts within the limit that the verdict is about

    @property
    def expert_share(self) -> float:
        """Of the routed experts, how much is in memory at once, 0 to 1."""
        return max(0.0, min(1.0, self.room / self.size.experts))


@dataclass(frozen=True)
class Choice:
    """The recipe for a machine, and why."""

    recipe: Recipe
    verdict: Verdict  # FITS or RAISED
    command: str | None  # that raises the limit, if RAISED
    why: str


def checked_context(config: ModelConfig, context: int | None) -> int:
    """`context`, or the default. Raises UsageError for one that the model does not have."""
    most = config.text.max_position_embeddings
    wanted = min(DEFAULT_CONTEXT, most) if context is None else context
    if not 0 < wanted <= most:
        raise UsageError(f"--context {wanted} is not possible; this model takes 1 to {most} tokens")
    return wanted


def size(
    config: ModelConfig,
    recipe: Recipe,
    context: int,
    options: KVOptions = DENSE,
    element_bytes: int = BF16_BYTES,
) -> Size:
    """What the model of `config` takes with `recipe`; `element_bytes` is what a value that is
    not quantised takes in memory.

    Raises UsageError for a recipe with rules, or a KV cache, that do not suit the model.
    """
    text, entries = config.text, outputs(config, recipe)
    layout = Layout.of(entries)
    parameters = sum(math.prod(shape) for shape in published.shapes(config).values())
    sizes = dict.fromkeys([*TensorClass, None], 0)  # in memory, by class
    for entry in entries:
        loaded = math.prod(entry.shape) * element_bytes if entry.dtype == "BF16" else entry.nbytes
        sizes[tensor_class(entry.name)] += loaded
    weights, experts = sum(sizes.values()), sizes[TensorClass.EXPERTS]
    unread = sizes[TensorClass.VISION] + sizes[TensorClass.PROJECTOR]
    embedding = sizes[TensorClass.EMBED]  # of which a token reads one row
    return Size(
        config=config,
        recipe=recipe,
        disk=layout.nbytes + len(layout.index(parameters)),
        budget=Budget.of(
            config, weights, context, element_bytes=element_bytes, options=options
        ),
        experts=experts,
        read=weights - unread
        - embedding + embedding // text.vocab_size
        - experts + experts // text.num_local_experts,
    )  # fmt: skip


def sizes(
    config: ModelConfig,
    context: int,
    options: KVOptions = DENSE,
    element_bytes: int = BF16_BYTES,
    more: Sequence[Recipe] = (),
) -> list[Size]:
    """Of all recipes on offer, and of `more`, the smallest first.

    Of a model that is quantised already only those that make its routed experts no larger;
    raises UsageError if there are none.
    """
    most = _stored(config)
    offered = [r for r in OFFERED if most is None or r.experts.bits_per_weight <= most]
    recipes = [*offered, *(recipe for recipe in more if recipe not in offered)]
    if not recipes:
        raise UsageError("its experts have so few bits already that no recipe makes it smaller")
    made = [size(config, recipe, context, options, element_bytes) for recipe in recipes]
    return sorted(made, key=lambda size: size.disk)


def _stored(config: ModelConfig) -> float | None:
    """Bits per weight that the routed experts of a quantised model have."""
    if not config.quantization or not any(config.text.moe_layers):
        return None
    layer = config.text.moe_layers.index(True)
    path = f"language_model.model.layers.{layer}.feed_forward.experts.gate_proj"
    quant = config.quantization.of(path)
    return quant.bits_per_weight if quant else None


def fit(size: Size, machine: Machine) -> Fit:
    """Whether and how a size fits."""
    need, limit, raised = size.budget.total, machine.limit, machine.raised_limit
    if need <= limit:
        return Fit(size, Verdict.FITS, None, limit - size.shared)
    if need <= raised:
        return Fit(size, Verdict.RAISED, raise_limit(need, raised), raised - size.shared)
    slots = size.experts * LEAST_SLOTS // size.config.text.num_local_experts
    if size.shared + slots <= limit:
        return Fit(size, Verdict.STREAMED, None, limit - size.shared)
    if size.shared + slots <= raised:
        return Fit(size, Verdict.STREAMED, raise_limit(raised, raised), raised - size.shared)
    return Fit(size, Verdict.NO, None, 0)


def choose(
    config: ModelConfig,
    machine: Machine,
    context: int | None = None,
    options: KVOptions = DENSE,
    element_bytes: int = BF16_BYTES,
) -> Choice:
    """The recipe on offer for a machine.

    The largest that fits as the machine is set; only where that has fewer than 4 bits for the
    experts one with a raised limit that has more, and of those the smallest, as every byte
    above the stock limit is taken from the system. Raises DoesNotFit, with what would do, if
    there is none.
    """
    tokens = checked_context(config, context)
    return choose_from(sizes(config, tokens, options, element_bytes), machine)


def choose_from(sizes: Sequence[Size], machine: Machine) -> Choice:
    """The same among `sizes`, ordered by size; rules of a recipe are not looked at."""
    fits = [fit(size, machine) for size in sizes]
    stock = _largest(fits, Verdict.FITS)
    raised = _largest(fits, Verdict.RAISED)
    if raised and (stock is None or _bits(stock) < min(ENOUGH_BITS, _bits(raised))):
        raised = next(f for f in fits if f.verdict is Verdict.RAISED and _bits(f) == _bits(raised))
        best = f"the largest is {stock.size.recipe.name}" if stock else "there is none"
        why = f"needs {_need(raised)}; within the limit of {gb(machine.limit)} {best}"
        return Choice(raised.size.recipe, raised.verdict, raised.command, why)
    if stock is None:
        raise DoesNotFit(_nothing_fits(sizes, machine))
    why = f"needs {_need(stock)} and fits the limit of {gb(machine.limit)}"
    larger = fits[fits.index(stock) + 1 :]
    if larger:
        why += f"; the next larger, {larger[0].size.recipe.name}, needs {_need(larger[0])}"
    return Choice(stock.size.recipe, stock.verdict, None, why)


def _largest(fits: Sequence[Fit], verdict: Verdict) -> Fit | None:
    return next((f for f in reversed(fits) if f.verdict is verdict), None)


def _bits(fit: Fit) -> int:
    return fit.size.recipe.experts.bits


def _need(fit: Fit) -> str:
    return gb(fit.size.budget.total)


def _nothing_fits(sizes: Sequence[Size], machine: Machine) -> str:
    """What the smallest recipe needs, and the ways out."""
    least = sizes[0]
    budget, most = least.budget, machine.raised_limit
    ways = []
    if (context := longest_context(budget, most)) >= MIN_CONTEXT:
        ways.append(f"use --context {context}")
    if kv := fewer_bits(budget, most):
        ways.append(f"use --kv-bits {kv.bits}")
    for memory in macs.SIZES:
        verdict = fit(least, macs.mac(memory * macs.GIB)).verdict
        if memory * macs.GIB > machine.memory and verdict in (Verdict.FITS, Verdict.RAISED):
            raised = " and a raised limit" if verdict is Verdict.RAISED else ""
            ways.append(f"use a Mac with {memory} GB{raised}")
            break
    advice = ", or ".join(ways) or "use a shorter context"
    streamed = next((s for s in sizes if s.recipe == DEFAULT), least)
    if fit(streamed, machine).verdict is Verdict.STREAMED:
        advice += (
            f" (with its experts streamed from the SSD {streamed.recipe.name} would need "
            f"{gb(streamed.shared)} and slots for some experts, but this version cannot do that "
            "yet)"
        )
    return (
        f"no recipe fits {machine.name} at {budget.context:,} tokens: the smallest, "
        f"{least.recipe.name}, needs {gb(budget.total)}, and a model gets at most {gb(most)} "
        f"there; {advice}"
    )
