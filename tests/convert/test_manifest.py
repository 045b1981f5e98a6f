"""maverick.json, and the identity of a conversion."""

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_maverick.convert.hashes import File
from mlx_maverick.convert.identity import identity
from mlx_maverick.convert.manifest import MANIFEST, Manifest, manifest
from mlx_maverick.convert.origin import describe
from mlx_maverick.errors import BadCheckpoint, NotFound

from . import damage
from .conftest import planned

FILES = {"b": File(3, "ff"), "a": File(0, "00")}


def about(source: Path, recipe: str = "e4r6", *rules: str, fast: bool = False) -> dict[str, Any]:
    plan = planned(source, recipe, *rules)
    return identity(plan, describe(plan.files), fast)


def test_it_is_read_back(maverick_mini: Path, tmp_path: Path) -> None:
    text = manifest(about(maverick_mini), FILES)
    (tmp_path / MANIFEST).write_bytes(text)
    assert Manifest.read(tmp_path) == Manifest("e4r6", FILES)
    raw = json.loads(text)
    assert raw["recipe"]["rest"] == {"group_size": 64, "bits": 6, "mode": "affine"}
    assert set(raw["tools"]) == {"mlx-maverick", "mlx", "device"}
    assert raw["source"]["form"] == "BF16"
    assert str(maverick_mini.parent) not in text.decode()
    assert list(raw["files"]) == ["a", "b"]


def test_the_same_conversion_has_the_same_identity(source: Path, maverick_mini: Path) -> None:
    first = about(source)
    assert json.loads(json.dumps(first)) == first  # as the journal keeps it
    assert about(source) == first
    other = about(maverick_mini)  # a copy, but for its name
    assert other["source"].pop("folder") != first["source"].pop("folder")
    assert other == first


def test_every_difference_shows(source: Path) -> None:
    first = about(source)
    different = [
        about(source, "e4r4"),
        about(source, "e4r6", "routed@first=5"),
        about(source, fast=True),
    ]
    name = "language_model.lm_head.weight"
    values = damage.tensors(source)[name]
    damage.change(source, {name: values[::-1]})
    different.append(about(source))
    damage.edit_json(source / "config.json", torch_dtype="float16")
    different.append(about(source))
    texts = {json.dumps(value) for value in [first, *different]}
    assert len(texts) == 1 + len(different)
    assert first["quantiser"] == "least squares"
    assert different[2]["quantiser"] == "min-max"


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", '{"version": 2}', '{"version": 1}',
     '{"version": 1, "recipe": {"name": "e4r4"}, "files": {"a": {"size": 1}}}',
     '{"version": 1, "recipe": {"name": "e4r4"}, "files": ["a"]}',
     '{"version": 1, "recipe": "e4r4", "files": {}}',
     '{"version": 1, "recipe": {"name": "x"}, "files": {"../a": {"size": 1, "sha256": "0"}}}',
     '{"version": 1, "recipe": {"name": "x"}, "files": {"..": {"size": 1, "sha256": "0"}}}'],
)  # fmt: skip
def test_a_damaged_one_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(BadCheckpoint, match=r"maverick\.json"):
        Manifest.read(tmp_path)


def test_none_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Manifest.read(tmp_path)
