"""The outlook: what a machine has room for, of the published models and of one folder.

Knows nothing of weights but their size. Pure: the machine is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .. import memory, sizing
from ..errors import DoesNotFit
from ..macs import Machine
from ..memory import DEFAULT_CONTEXT, Budget, longest_context
from ..published_models import Published
from ..sizing import Choice, Size, Verdict


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
    disk: int | None  # what it takes there
    memory: int | None
    sysctl: str | None  # the command that raises the limit for it, where it has to be
    convert: str | None  # the command that makes it


def outlook(model: Published, machine: Machine, element_bytes: int) -> Outlook:
    """What fits of `model` with the default context; `element_bytes` as in `sizing.size`."""
    sizes = sizing.sizes(model.config, DEFAULT_CONTEXT, element_bytes=element_bytes)
    fits = [sizing.fit(size, machine) for size in sizes]
    chosen = _choice(sizes, machine)
    best = next((s for s in sizes if chosen and s.recipe == chosen.recipe), None)
    return Outlook(
        model=model.name,
        repo=model.repo,
        context=DEFAULT_CONTEXT,
        smallest=sizes[0].recipe.name,
        smallest_memory=sizes[0].budget.total,
        fits=tuple(f.size.recipe.name for f in fits if f.verdict is Verdict.FITS),
        raised=tuple(f.size.recipe.name for f in fits if f.verdict is Verdict.RAISED),
        best=best.recipe.name if best else None,
        disk=best.disk if best else None,
        memory=best.budget.total if best else None,
        sysctl=chosen.command if chosen else None,
        convert=f"mlx-maverick convert {model.repo} --recipe {best.recipe.name}" if best else None,
    )


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


def folder(name: str, budget: Budget, machine: Machine, available: int, mac: bool) -> Folder:
    """How `budget` fits, on a Mac or another machine."""
    now = min(machine.limit, available)
    fits = budget.total <= machine.limit
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
        longest=longest_context(budget, machine.limit),
        longest_now=longest_context(budget, now),
        advice=None if fits else memory.advice(budget, machine.limit, machine.memory if mac else 0),
    )
