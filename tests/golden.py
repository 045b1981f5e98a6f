"""The golden outputs of a reference checkpoint, and the agreement asked for."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx

REFERENCE = Path(__file__).parent / "reference"
TOLERANCE = 1e-3  # of logits and features in float32


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

    def images(self, case: dict[str, Any]) -> list[Path]:
        files = case.get("files") or [case["file"]]
        return [self.folder / "golden" / file for file in files]


def difference(a: mx.array, b: mx.array) -> float:
    """The largest absolute difference of two arrays of one shape."""
    assert a.shape == b.shape
    return float(mx.abs(a.astype(mx.float32) - b.astype(mx.float32)).max())


def same_logits(logits: mx.array, wanted: mx.array, tolerance: float = TOLERANCE) -> None:
    """Assert agreement of [L, V]: close everywhere, and the same argmax in every row."""
    assert difference(logits, wanted) <= tolerance
    assert bool(mx.all(mx.argmax(logits, axis=-1) == mx.argmax(wanted, axis=-1)))
