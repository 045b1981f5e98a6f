"""The outlook: what a machine has room for, of the published models and of one folder.

Knows nothing of weights but their size. Pure: the machine is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .. import memory, sizing
from ..errors import DoesNotFit
from ..macs import Machine
from ..memory import DEFAULT_CONTEXT, longest_context
from ..published_models import Published
from ..sizing import Choice, Fit, N, Need, Size, Verdict, percent
from ..streaming.prediction import Counts, Prediction, counted_hit_rate
from ..units import GB, gb


@dataclass(frozen=True)
class Streamed:
    """A model with its routed experts read from the SSD. Sizes are bytes."""

    recipe: str | None  # None for a folder, whose recipe is not asked for
    disk: int | None
    memory: int  # all that it takes: what it needs, and as many experts as there is room for
    resident: int  # of that, what it needs: all but the routed experts
    room: int  # and what is left for those
    share: float  # of the routed experts that this holds
    sysctl: str | None  # the command that raises the limit for it, where it has to be
    speed: Prediction
    ssd_source: str  # "assumed", "as given" or "measured"

    @property
    def words(self) -> str:
        ssd = f"{self.speed.ssd / GB:.1f} GB/s, {self.ssd_source}"
        return (
            f"{percent(self.share)} of its experts in {gb(self.room)} of memory, the others read "
            f"from the SSD ({ssd}): {self.speed.words}"
        )


def streamed(fit: Fit[N], machine: Machine, counts: "Counts | None" = None) -> Streamed:
    """What streaming comes to; as if all experts were used alike, unless it is known how often
    each was used."""
    size = fit.size
    hit_rate = None if counts is None else counted_hit_rate(counts, fit.slots)
    return Streamed(
        recipe=size.recipe.name if isinstance(size, Size) else None,
        disk=size.disk if isinstance(size, Size) else None,
        memory=size.shared + fit.room,
        resident=size.shared,
        room=fit.room,
        share=round(fit.expert_share, 4),
        sysctl=fit.command,
        speed=fit.prediction(machine, hit_rate),
        ssd_source=machine.ssd_source,
    )


def streamed_folder(
    need: Need, machine: Machine, counts: "Counts | None" = None
) -> Streamed | None:
    """The same of a folder on a machine as it is set; None if it fits, or cannot be streamed."""
    room = machine.limit - need.shared
    if need.budget.total <= machine.limit or not need.streamable:
        return None
    if need.with_slots(0).total > machine.limit:
        return None
    return streamed(Fit(need, Verdict.STREAMED, None, room), machine, counts)


@dataclass(frozen=True)
class Outlook:
    """What of one published model fits a machine. Sizes are bytes."""

    model: str  # "maverick"
    repo: str  # its BF16 checkpoint
    context: int  # tokens that memory is reckoned for
    smallest: str  # of all recipes on offer
    smallest_memory: int
    fits: tuple[str, ...]  # recipes that do as the machine is set, the smallest first
    raised: tuple[str, ...]  # those that need a raised limit
    best: str | None  # the recipe to take; None if none fits
    verdict: str | None  # how: "fits", "raised" or "streamed"
    disk: int | None  # what it takes there
    memory: int | None
    sysctl: str | None  # the command that raises the limit for it, where it has to be
    convert: str | None  # the command that makes it
    streamed: Streamed | None  # the best if that is streamed, or what has more bits than the best


def outlook(model: Published, machine: Machine, element_bytes: int) -> Outlook:
    """What fits of `model` with the default context; `element_bytes` as in `sizing.size`."""
    sizes = sizing.sizes(model.config, DEFAULT_CONTEXT, element_bytes=element_bytes)
    fits = [sizing.fit(size, machine) for size in sizes]
    chosen = _choice(sizes, machine)
    best = next((f for f in fits if chosen and f.size.recipe == chosen.recipe), None)
    more = sizing.more_bits(sizes, machine, chosen) if chosen else None
    if best and best.verdict is Verdict.STREAMED:
        more = best
    from_ssd = streamed(more, machine) if more else None
    name = best.size.recipe.name if best else None
    return Outlook(
        model=model.name,
        repo=model.repo,
        context=DEFAULT_CONTEXT,
        smallest=sizes[0].recipe.name,
        smallest_memory=sizes[0].budget.total,
        fits=tuple(f.size.recipe.name for f in fits if f.verdict is Verdict.FITS),
        raised=tuple(f.size.recipe.name for f in fits if f.verdict is Verdict.RAISED),
        best=name,
        verdict=best.verdict.value if best else None,
        disk=best.size.disk if best else None,
        memory=from_ssd.memory if from_ssd and more is best else _total(best),
        sysctl=chosen.command if chosen else None,
        convert=f"mlx-maverick convert {model.repo} --recipe {name}" if name else None,
        streamed=from_ssd,
    )


def _total(fit: Fit[Size] | None) -> int | None:
    return fit.size.budget.total if fit else None


def _choice(sizes: Sequence[Size], machine: Machine) -> Choice | None:
    try:
        return sizing.choose_from(sizes, machine)
    except DoesNotFit:
        return None


@dataclass(frozen=True)
class Folder:
    """A model folder on a machine, as it is now. Sizes are bytes."""

    name: str
    context: int  # tokens, the default or the model's maximum
    weights: int
    kv: int
    working: int
    total: int
    limit: int  # what the machine gives a model
    available: int  # memory that is available right now
    fits: bool  # within the limit
    fits_now: bool  # and within what is available
    longest: int  # tokens of context that fit the limit
    longest_now: int  # and what is available
    advice: str | None  # what to do if it does not fit the limit
    streamed: Streamed | None  # if it does not fit, but runs with its experts on the SSD


def folder(
    name: str,
    need: Need,
    machine: Machine,
    available: int,
    mac: bool,
    counts: "Counts | None" = None,
) -> Folder:
    """How what a folder needs fits, on a Mac or another machine; `counts` says how often each of
    its experts was used, if that is known."""
    budget, now = need.budget, min(machine.limit, available)
    fits = budget.total <= machine.limit
    from_ssd = streamed_folder(need, machine, counts)
    longest = need.with_slots(0) if from_ssd else budget  # what the context is reckoned with
    return Folder(
        name=name,
        context=budget.context,
        weights=budget.weights,
        kv=budget.kv,
        working=budget.working,
        total=budget.total,
        limit=machine.limit,
        available=available,
        fits=fits,
        fits_now=budget.total <= now,
        longest=longest_context(longest, machine.limit),
        longest_now=longest_context(longest, now),
        advice=None if fits else memory.advice(budget, machine.limit, machine.memory if mac else 0),
        streamed=from_ssd,
    )
