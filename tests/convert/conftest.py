"""Fixtures of the converter's tests."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from mlx_maverick.convert import convert

from . import damage


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
