"""What a conversion is told from others by: the source, the recipe, and the tools.

Knows nothing of files.
"""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from mlx_maverick import __version__

from .plan import Plan


def identity(plan: Plan, source: Mapping[str, Any], fast: bool) -> dict[str, Any]:
    """What is made of what, and with what: the conversions of equal identity give equal bytes.
    JSON values."""
    recipe = plan.recipe
    return {
        "recipe": recipe.describe() if recipe else {"name": "keep"},
        "quantiser": "none" if not recipe else "min-max" if fast else "least squares",
        "source": {**source, "form": plan.form, "fingerprint": plan.fingerprint},
        "tools": {
            "mlx-maverick": __version__,
            "mlx": importlib.metadata.version("mlx"),
            "device": str(mx.default_device().type).rpartition(".")[2],
        },
    }
