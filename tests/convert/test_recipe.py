import pytest

from mlx_maverick.config import Quant
from mlx_maverick.convert.recipe import OFFERED, Recipe
from mlx_maverick.errors import UsageError
from mlx_maverick.names import TensorClass

BF16 = {TensorClass.ROUTER, TensorClass.NORM, TensorClass.VISION, TensorClass.PROJECTOR}


@pytest.mark.parametrize(("name", "rest"), [("e4r4", 4), ("e4r6", 6)])
def test_every_class_has_its_bits(name: str, rest: int) -> None:
    recipe = Recipe.named(name)
    for kind in TensorClass:
        bits = 4 if kind is TensorClass.EXPERTS else rest
        expected = None if kind in BF16 else Quant(64, bits)
        assert recipe.quant(kind) == expected, kind


def test_offered_recipes_are_found_by_their_names() -> None:
    assert [Recipe.named(recipe.name) for recipe in OFFERED] == list(OFFERED)


@pytest.mark.parametrize("name", ["e4", "e3r5", "e4r4 ", "E4R4", "", "4bit"])
def test_another_name_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(UsageError, match="e4r4, e4r6"):
        Recipe.named(name)
