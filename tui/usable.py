"""What can be told of a model without reading its weights.

Knows nothing of the worker, which reads them.
"""

from typing import TYPE_CHECKING

from ..errors import MaverickError

if TYPE_CHECKING:
    from .pictures import Tiling


def check(model: str) -> None:
    """Raises what is wrong with a model: NotFound, BadCheckpoint and the like."""
    from .. import hub
    from ..checkpoint import Checkpoint
    from ..config import ModelConfig

    folder = hub.resolve(model)
    ModelConfig.from_folder(folder)
    Checkpoint.open(folder)


def tiling(model: str | None) -> "Tiling | None":
    """How it cuts pictures; None for one that sees none, or is not there any more."""
    from .. import hub
    from ..config import ModelConfig
    from .pictures import Tiling

    if model is None:
        return None
    try:
        return Tiling.of(ModelConfig.from_folder(hub.resolve(model)))
    except MaverickError:
        return None
