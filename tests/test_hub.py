"""Where a model is: folders, and the Hub's cache as huggingface_hub lays it out."""

from pathlib import Path

import pytest

from mlx_maverick.errors import NotFound
from mlx_maverick.hub import resolve


def test_a_folder(tmp_path: Path) -> None:
    assert resolve(tmp_path) == tmp_path
    assert resolve(str(tmp_path)) == tmp_path


def test_nothing(tmp_path: Path) -> None:
    for name in (tmp_path / "nope", "./a/b", "just-a-name", "a/b/c", "~nosuchuser/m", "a\0b"):
        with pytest.raises(NotFound, match="does not exist"):
            resolve(name)


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(NotFound, match="is a file"):
        resolve(file)


def test_a_repository_that_is_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(NotFound, match="hf download owner/name"):
        resolve("owner/name")


def test_a_cached_repository(
    maverick_mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links to blobs, as the cache has them, are no way out of the folder."""
    from mlx_maverick.checkpoint import Checkpoint

    commit = "0123456789012345678901234567890123456789"
    repo = tmp_path / "models--owner--name"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    for file in maverick_mini.iterdir():
        if file.is_file():
            (snapshot / file.name).symlink_to(file)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert resolve("owner/name") == snapshot
    assert len(Checkpoint.open(snapshot).files) == 4
