"""Fixtures every test may use: the reference checkpoints and their golden outputs."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

REFERENCE = Path(__file__).parent / "reference"


class Golden:
    """One checkpoint's golden outputs: `g["text_5.logits"]`, `g.cases("text")`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.arrays: dict[str, mx.array] = mx.load(str(folder / "golden/golden.safetensors"))
        self.notes: dict[str, Any] = json.loads((folder / "golden/golden.json").read_text())

    def __getitem__(self, name: str) -> mx.array:
        return self.arrays[name]

    def cases(self, kind: str) -> list[dict[str, Any]]:
        return [case for case in self.notes["cases"] if case["kind"] == kind]

    def image(self, case: dict[str, Any]) -> Path:
        return self.folder / "golden" / case["file"]


@pytest.fixture(scope="session")
def maverick_mini() -> Path:
    return REFERENCE / "maverick-mini"


@pytest.fixture(scope="session")
def scout_mini() -> Path:
    return REFERENCE / "scout-mini"


@pytest.fixture(scope="session", params=["maverick-mini", "scout-mini"])
def mini(request: pytest.FixtureRequest) -> Path:
    """Either checkpoint, one after the other."""
    return REFERENCE / str(request.param)


@pytest.fixture(scope="session")
def golden(mini: Path) -> Golden:
    return Golden(mini)
