"""Fixtures of the converter's tests."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from mlx_maverick.convert import convert
from mlx_maverick.convert.plan import Plan, make_plan
from mlx_maverick.convert.recipe import Recipe
from mlx_maverick.errors import MaverickError
from mlx_maverick.files import Folder

from . import damage, forms


@dataclass(frozen=True)
class Pair:
    """A checkpoint and what was made of it."""

    source: Path
    folder: Path
    recipe: str


@pytest.fixture(scope="session", params=["e4r4", "e4r6"])
def pair(request: pytest.FixtureRequest, mini: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("converted") / f"{mini.name}-{request.param}"
    convert(mini, folder, request.param)
    return Pair(mini, folder, request.param)


@pytest.fixture(scope="session")
def in_form(maverick_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Maverick-mini in one of `forms.FORMS`, made once; not to be changed."""
    folder = tmp_path_factory.mktemp("forms")
    return cache(lambda form: forms.make(form, maverick_mini, folder / form))


@pytest.fixture(scope="session")
def made(
    in_form: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str, bool], Path]:
    """What becomes of it: by form, recipe, and whether scales are min-max; made once."""
    folder = tmp_path_factory.mktemp("made")

    def make(form: str, recipe: str, fast: bool) -> Path:
        return convert(in_form(form), folder / f"{form}-{recipe}-{fast}", recipe, fast=fast).folder

    return cache(make)


@pytest.fixture
def source(maverick_mini: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return damage.copy(maverick_mini, tmp_path / "source")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "model"


@pytest.fixture(autouse=True)
def _out_parent(out: Path) -> None:
    out.parent.mkdir()


def planned(source: Path, recipe: str, *rules: str) -> Plan:
    """The plan for a local folder; "keep" is no recipe."""
    return make_plan(Folder(source), None if recipe == "keep" else Recipe.parse(recipe, rules))


def refused(source: Path, error: type[MaverickError], match: str, recipe: str = "e4r4") -> None:
    """Assert that there is no plan for a folder, and that one line says why."""
    with pytest.raises(error, match=match) as caught:
        planned(source, recipe)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
