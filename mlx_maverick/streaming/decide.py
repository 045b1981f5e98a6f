"""Whether a model's experts are streamed, and with how many slots.

Knows sizes only, and loads no mlx.
"""

from ..checkpoint import Checkpoint
from ..config import ModelConfig
from ..errors import DoesNotFit, UsageError
from ..memory import Budget
from ..units import gb
from .options import ExpertOptions, Mode
from .places import places
from .plan import Plan, least_bytes, share


def decide(
    checkpoint: Checkpoint,
    config: ModelConfig,
    resident: Budget,
    options: ExpertOptions,
    limit: int,
    held: int = 0,
    largest: int | None = None,
) -> tuple[Budget, Plan | None]:
    """The budget to load a folder with, and the slots of its experts; None if they are to be in
    memory, in which case the budget is `resident`, whether it fits or not.

    `limit`: bytes for this process, of which it holds `held` already. `largest`: bytes that one
    array may take, if that is bounded. Raises UsageError for a folder that cannot be streamed
    and options that ask for it, and DoesNotFit for expert memory that is too much or too little.
    """
    if not any(config.text.moe_layers):
        if options.wants_streaming:
            raise UsageError(f"{checkpoint.folder} has no routed experts; leave --experts out")
        return resident, None
    fits = resident.total + held <= limit
    if options.mode is Mode.RESIDENT or (fits and not options.wants_streaming):
        return resident, None
    try:
        layers = places(checkpoint, config)
    except UsageError:
        if options.wants_streaming:
            raise
        return resident, None
    element = resident.element_bytes
    everything = sum(layer.experts * layer.memory(element) for layer in layers)
    rest = resident.weights - everything
    least = least_bytes(layers, element)
    room = limit - held - resident.streamed(rest, 0).total
    if room < least:
        smallest = resident.streamed(rest, least)
        if not options.wants_streaming and resident.total < smallest.total:
            smallest = resident  # a tiny model: what a long prompt holds is more than experts
        return smallest, None
    wanted = room if options.memory is None else options.memory
    if (taken := min(wanted, everything)) > room:
        raise DoesNotFit(
            f"{gb(taken)} for experts do not fit: of the {gb(limit)} that this machine "
            f"gives, {gb(limit - room)} are taken by the rest of the model, KV cache, working "
            f"room and what is loaded already; give at most --expert-memory {_most(room)}"
        )
    plan = share(layers, element, min(room, wanted), largest)
    return resident.streamed(rest, plan.nbytes), plan


def streamable(
    checkpoint: Checkpoint, config: ModelConfig, resident: Budget, limit: int, held: int = 0
) -> bool:
    """Whether a model that does not fit would, with its experts streamed."""
    auto = ExpertOptions()
    return decide(checkpoint, config, resident, auto, limit, held)[1] is not None


def _most(room: int) -> str:
    """As it can be given, rounded down."""
    return f"{room // 10**8 / 10:.1f}GB" if room >= 10**9 else f"{room // 10**6}MB"
