"""Sizing: what a model takes with a recipe, whether a machine has it, and which recipe to take.

Knows shapes only; nothing is read and mlx is not loaded. Sizes are those of the very tensors
that `convert.outputs` makes, laid out in files as `convert.layout` does.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from . import macs
from .checkpoint import DTYPE_BITS, FLOATS, Checkpoint, Tensor
from .config import ModelConfig, TextConfig
from .convert import published
from .convert.layout import Layout
from .convert.outputs import outputs
from .convert.recipe import DEFAULT, OFFERED, Recipe
from .disk import BLOCK
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
from .names import TensorClass, canonical, tensor_class
from .streaming.plan import LEAST_SLOTS
from .streaming.prediction import Prediction, even_hit_rate, predict
from .units import gb

BF16_BYTES = 2
# Of the experts: a machine with room for fewer is not advised to stream them. A judgement: hits
# are rare then, and a longer context or another program leaves nothing.
LEAST_SHARE = 0.05
# Of the experts: up to here each bit more is worth a raised limit, or streaming. A judgement,
# from the error of the weights, which every bit makes four times smaller.
ENOUGH_BITS = 4
# Of the rest, where experts are streamed. What every token passes costs little there: these are
# 5 % slower than 4 bits on a Mac with 128 GB, by the arithmetic of `streaming.prediction`.
STREAMED_REST_BITS = 6


class Verdict(StrEnum):
    """How a model runs on a machine."""

    FITS = "fits"  # within the machine's limit
    RAISED = "raised"  # with a raised limit
    STREAMED = "streamed"  # only with its routed experts on the SSD
    NO = "no"


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a model takes, in bytes."""

    config: ModelConfig
    budget: Budget  # in memory, at a context
    experts: int  # of the budget's weights, those of routed experts
    stored: int  # what these take in their files
    read: int  # of the weights, what one decoded token needs
    least: int  # the smallest memory that routed experts can be streamed with
    streamable: bool = True  # has routed experts, each of which can be read by itself

    @property
    def shared(self) -> int:
        """What must be in memory if experts are streamed: all else, KV cache, working room."""
        return self.budget.streamed(self.budget.weights - self.experts, 0).total

    @property
    def expert_count(self) -> int:
        """Routed experts of all layers."""
        return sum(self.config.text.moe_layers) * self.config.text.num_local_experts

    def with_slots(self, share: float) -> Budget:
        """The budget of streaming with a share of the experts in memory, or with the fewest that
        do if those are more."""
        rest = self.budget.weights - self.experts
        return self.budget.streamed(rest, max(self.least, math.ceil(self.experts * share)))

    def ceiling(self, bandwidth: float, cached: bool) -> float:
        """Tokens per second of decoding if reading memory were all it took, with a cache that
        is empty, or `cached`: full."""
        return bandwidth / (self.read + (self.budget.kv if cached else 0))


@dataclass(frozen=True, kw_only=True)
class Size(Need):
    """A model converted with one recipe, in bytes."""

    recipe: Recipe
    disk: int  # weight files and their index; the tokenizer adds some tens of MB


N = TypeVar("N", bound=Need)


@dataclass(frozen=True)
class Fit(Generic[N]):
    """A size on a machine."""

    size: N
    verdict: Verdict
    command: str | None  # that raises the limit, where it has to be
    room: int  # bytes left for routed experts within the limit that the verdict is about

    @property
    def expert_share(self) -> float:
        """Of the routed experts, how much is in memory at once, 0 to 1."""
        return max(0.0, min(1.0, self.room / self.size.experts)) if self.size.experts else 1.0

    @property
    def slots(self) -> int:
        """How many routed experts that is, of all layers."""
        return int(self.expert_share * self.size.expert_count)

    def prediction(self, machine: Machine, hit_rate: float | None = None) -> Prediction:
        """How fast it decodes with its experts streamed; as if all were used alike, unless a
        hit rate is given."""
        size, count = self.size, self.size.expert_count
        if hit_rate is None:
            hit_rate = even_hit_rate(self.slots, count)
        routed = size.stored // size.config.text.num_local_experts
        return predict(size.read, routed, hit_rate, machine.bandwidth, machine.ssd, size.budget.kv)


@dataclass(frozen=True)
class Choice:
    """The recipe for a machine, and why."""

    recipe: Recipe
    verdict: Verdict  # any but NO
    command: str | None  # that raises the limit, where it has to be
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
    sizes: dict[TensorClass | None, int] = {}  # in memory, by class
    stored = 0
    for entry in entries:
        loaded = math.prod(entry.shape) * element_bytes if entry.dtype == "BF16" else entry.nbytes
        cls = tensor_class(entry.name)
        sizes[cls] = sizes.get(cls, 0) + loaded
        stored += entry.nbytes if cls is TensorClass.EXPERTS else 0
    budget = Budget.of(
        config, sum(sizes.values()), context, element_bytes=element_bytes, options=options
    )
    return Size(
        config=config,
        recipe=recipe,
        disk=layout.nbytes + len(layout.index(parameters)),
        budget=budget,
        experts=sizes.get(TensorClass.EXPERTS, 0),
        stored=stored,
        read=_read(sizes, text),
        least=_least(((e.name, e.dtype, e.shape) for e in entries), element_bytes),
        streamable=any(text.moe_layers),
    )


def of_folder(
    config: ModelConfig,
    checkpoint: Checkpoint,
    context: int,
    options: KVOptions = DENSE,
    element_bytes: int = BF16_BYTES,
) -> Need:
    """The same of a folder that can be run, as it is. Raises UsageError for a KV cache that does
    not suit the model."""
    classes: dict[TensorClass | None, list[Tensor]] = {}
    for name, tensor in checkpoint.tensors.items():
        classes.setdefault(tensor_class(canonical(name)), []).append(tensor)
    sizes = {cls: sum(t.memory(element_bytes) for t in ts) for cls, ts in classes.items()}
    weights, experts = sum(sizes.values()), classes.get(TensorClass.EXPERTS, [])
    fused = any(t.name.endswith(published.GATE_UP) for t in experts)  # as they are published
    return Need(
        config=config,
        budget=Budget.of(config, weights, context, element_bytes=element_bytes, options=options),
        experts=sizes.get(TensorClass.EXPERTS, 0),
        stored=sum(t.nbytes for t in experts),
        read=_read(sizes, config.text),
        least=_least(((t.name, t.dtype, t.shape) for t in experts), element_bytes),
        streamable=bool(experts) and not fused,
    )


def _read(sizes: Mapping[TensorClass | None, int], text: TextConfig) -> int:
    """Of weights by class, what one decoded token needs: no pictures, one row of the embedding,
    one routed expert of each layer."""
    embedding, experts = (sizes.get(c, 0) for c in (TensorClass.EMBED, TensorClass.EXPERTS))
    unread = sum(sizes.get(c, 0) for c in (TensorClass.VISION, TensorClass.PROJECTOR))
    unread += embedding - embedding // text.vocab_size
    return sum(sizes.values()) - unread - experts + experts // text.num_local_experts


def _least(tensors: Iterable[tuple[str, str, tuple[int, ...]]], element_bytes: int) -> int:
    """Of tensors by name, type and shape, what `streaming.plan.least_bytes` says of the folder
    that has them: layers whose experts are stored in other forms have slots of their own."""
    layers: dict[str, set[tuple[str, str, tuple[int, ...]]]] = {}
    for name, dtype, shape in tensors:
        if tensor_class(canonical(name)) is TensorClass.EXPERTS:
            layer, _, part = canonical(name).partition(".experts.")
            layers.setdefault(layer, set()).add((part, dtype, shape))
    least = 0
    for form in {frozenset(parts) for parts in layers.values()}:
        for _, dtype, shape in form:
            value = element_bytes if dtype in FLOATS else DTYPE_BITS[dtype] // 8
            least += LEAST_SLOTS * math.prod(shape[1:]) * value + BLOCK
    return least


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


def fit(size: N, machine: Machine) -> Fit[N]:
    """Whether and how a size fits.

    Streamed experts get what the limit leaves as the machine is set; only where that is less
    than is worth while, what a raised one leaves.
    """
    need, limit, raised = size.budget.total, machine.limit, machine.raised_limit
    if need <= limit:
        return Fit(size, Verdict.FITS, None, limit - size.shared)
    if need <= raised:
        return Fit(size, Verdict.RAISED, raise_limit(need, raised), raised - size.shared)
    for share in (LEAST_SHARE, 0.0) if size.streamable else ():
        least = size.with_slots(share).total
        if least <= limit:
            return Fit(size, Verdict.STREAMED, None, limit - size.shared)
        if least <= raised:
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
    above the stock limit is taken from the system. Where none fits, that of `best_streamed`.
    Raises DoesNotFit, with what would do, if there is none either.
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
        if streamed := best_streamed(fits):
            why = (
                f"needs {_need(streamed)}, and no recipe fits; with its experts streamed from the "
                f"SSD it needs {gb(streamed.size.shared)}, and there is room for "
                f"{percent(streamed.expert_share)} of them"
            )
            return Choice(streamed.size.recipe, streamed.verdict, streamed.command, why)
        raise DoesNotFit(_nothing_fits(sizes, machine))
    why = f"needs {_need(stock)} and fits the limit of {gb(machine.limit)}"
    larger = fits[fits.index(stock) + 1 :]
    if larger:
        why += f"; the next larger, {larger[0].size.recipe.name}, needs {_need(larger[0])}"
    return Choice(stock.size.recipe, stock.verdict, None, why)


def best_streamed(fits: Sequence[Fit[Size]]) -> Fit[Size] | None:
    """Of those, the smallest first, that have to be streamed the one to take.

    Bits of experts are read from the SSD with every miss: `ENOUGH_BITS`, or what a source that
    is quantised already has left. Those of the rest stay in memory and hardly count:
    `STREAMED_REST_BITS`. None if none has room for `LEAST_SHARE` of its experts.
    """
    enough = [f for f in fits if _bits(f) <= ENOUGH_BITS]
    most = max((_bits(f) for f in enough), default=0)
    able = [
        f
        for f in enough
        if f.verdict is Verdict.STREAMED
        and f.expert_share >= LEAST_SHARE
        and _bits(f) == most
        and f.size.recipe.rest.bits <= STREAMED_REST_BITS
    ]
    return able[-1] if able else None


def more_bits(sizes: Sequence[Size], machine: Machine, choice: Choice) -> Fit[Size] | None:
    """What to stream for more bits than a choice that is in memory has; None if that has
    enough, or nothing better can be streamed."""
    streamed = best_streamed([fit(size, machine) for size in sizes])
    bits = choice.recipe.experts.bits
    if choice.verdict is Verdict.STREAMED or bits >= ENOUGH_BITS or streamed is None:
        return None
    return streamed if _bits(streamed) > bits else None


def percent(share: float) -> str:
    """0.153 -> '15 %'"""
    return f"{share * 100:.0f} %"


def _largest(fits: Sequence[Fit[Size]], verdict: Verdict) -> Fit[Size] | None:
    return next((f for f in reversed(fits) if f.verdict is verdict), None)


def _bits(fit: Fit[Size]) -> int:
    return fit.size.recipe.experts.bits


def _need(fit: Fit[Size]) -> str:
    return gb(fit.size.budget.total)


def _nothing_fits(sizes: Sequence[Size], machine: Machine) -> str:
    """What the smallest recipe needs, in memory and streamed, and the ways out."""
    least, most = sizes[0], machine.raised_limit
    streamed = next((s for s in sizes if s.recipe == DEFAULT), least)
    budget, ways = streamed.with_slots(LEAST_SHARE), []
    if (context := longest_context(budget, most)) >= MIN_CONTEXT:
        ways.append(f"use --context {context}")
    if kv := fewer_bits(budget, most):
        ways.append(f"use --kv-bits {kv.bits}")
    for memory in macs.SIZES:
        larger = macs.mac(memory * macs.GIB)
        if larger.memory > machine.memory and budget.total <= larger.raised_limit:
            ways.append(f"use a Mac with {memory} GB")
            break
    return (
        f"no recipe fits {machine.name} at {budget.context:,} tokens: the smallest, "
        f"{least.recipe.name}, needs {gb(least.budget.total)}, with its experts streamed from the "
        f"SSD {streamed.recipe.name} needs {gb(budget.total)}, and a model gets at most "
        f"{gb(most)} there; {', or '.join(ways) or 'use a shorter context'}"
    )
