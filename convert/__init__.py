"""The converter: a published Llama 4 checkpoint in, an MLX model folder out.

Importing this does not load mlx; the names below arrive when used. The main path is
`conversion.convert`, and the modules it walks through are named after what they hold.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "convert": "conversion", "stream": "conversion",
    "Planned": "progress", "Progress": "progress", "Converted": "progress",
}  # fmt: skip
__all__ = ["Converted", "Planned", "Progress", "convert", "stream"]

if TYPE_CHECKING:
    from .conversion import convert as convert
    from .conversion import stream as stream
    from .progress import Converted as Converted
    from .progress import Planned as Planned
    from .progress import Progress as Progress


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
