"""The converter: a published Llama 4 checkpoint in, an MLX model folder out.

Importing this does not load mlx; the names below arrive when used. The main path is
`conversion.convert`, and the modules it walks through are named after what they hold.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {"convert": "conversion", "Converted": "conversion", "Progress": "progress"}
__all__ = ["Converted", "Progress", "convert"]

if TYPE_CHECKING:
    from .conversion import Converted as Converted
    from .conversion import convert as convert
    from .progress import Progress as Progress


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
