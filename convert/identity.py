"""What a conversion is told from others by: the source, the recipe, and the tools.

Knows nothing of files.
"""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from mlx_maverick import __version__

from .plan import Plan
from .recipe import KEEP, Recipe


def identity(plan: Plan, source: Mapping[str, Any], fast: bool) -> dict[str, Any]:
    """What is made of what, and with what: the conversions of equal identity give equal bytes.
    JSON values."""
    return {
        "recipe": recipe_words(plan.recipe),
        "quantiser": quantiser_word(plan.recipe, fast),
        "source": {**source, "form": plan.form, "fingerprint": plan.fingerprint},
        "tools": {
            "mlx-maverick": __version__,
            "mlx": importlib.metadata.version("mlx"),
            "device": str(mx.default_device().type).rpartition(".")[2],
        },
    }


def recipe_words(recipe: Recipe | None) -> dict[str, Any]:
    """JSON values; without a recipe the source's quantisation is kept."""
    return recipe.describe() if recipe else {"name": KEEP}


def quantiser_word(recipe: Recipe | None, fast: bool) -> str:
    return "none" if not recipe else "min-max" if fast else "least squares"
