import json
from pathlib import Path

import pytest

from mlx_maverick.convert.manifest import MANIFEST, File, Manifest, manifest, origin
from mlx_maverick.convert.recipe import Recipe
from mlx_maverick.errors import BadCheckpoint, NotFound

FILES = {"b": File(3, "ff"), "a": File(0, "00")}


def test_it_is_read_back(tmp_path: Path) -> None:
    text = manifest(tmp_path / "some-model", Recipe.named("e4r6"), FILES)
    (tmp_path / MANIFEST).write_bytes(text)
    assert Manifest.read(tmp_path) == Manifest("e4r6", FILES)
    raw = json.loads(text)
    assert raw["recipe"]["rest"] == {"group_size": 64, "bits": 6, "mode": "affine"}
    assert set(raw["tools"]) == {"mlx-maverick", "mlx"}
    assert str(tmp_path) not in text.decode()


def test_the_hubs_cache_tells_repository_and_commit(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--meta-llama--Llama-4/snapshots/0123abc"
    assert origin(snapshot) == {"repo": "meta-llama/Llama-4", "commit": "0123abc"}
    assert origin(tmp_path / "plain") == {"folder": "plain", "commit": None}


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", '{"version": 2}', '{"version": 1}',
     '{"version": 1, "recipe": {"name": "e4r4"}, "files": {"a": {"size": 1}}}',
     '{"version": 1, "recipe": {"name": "e4r4"}, "files": ["a"]}',
     '{"version": 1, "recipe": {"name": "x"}, "files": {"../a": {"size": 1, "sha256": "0"}}}'],
)  # fmt: skip
def test_a_damaged_one_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(BadCheckpoint, match=r"maverick\.json"):
        Manifest.read(tmp_path)


def test_none_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Manifest.read(tmp_path)
