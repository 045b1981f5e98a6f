"""Where files live, by platform and environment."""

from pathlib import Path

import pytest

from mlx_maverick import paths
from mlx_maverick.errors import MaverickError
from mlx_maverick.paths import Kind, locate


@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        (Kind.DATA, "Library/Application Support"),
        (Kind.CACHE, "Library/Caches"),
        (Kind.LOGS, "Library/Logs"),
    ],
)
def test_macos(kind: Kind, folder: str) -> None:
    assert locate(kind, {}, "darwin") == Path.home() / folder / "mlx-maverick"
    # XDG variables are Linux's; a Mac that has them set for other programs is still a Mac.
    assert locate(kind, {"XDG_DATA_HOME": "/x"}, "darwin") == Path.home() / folder / "mlx-maverick"


@pytest.mark.parametrize(
    ("kind", "variable", "default"),
    [
        (Kind.DATA, "XDG_DATA_HOME", ".local/share"),
        (Kind.CACHE, "XDG_CACHE_HOME", ".cache"),
        (Kind.LOGS, "XDG_STATE_HOME", ".local/state"),
    ],
)
def test_xdg(kind: Kind, variable: str, default: str) -> None:
    assert locate(kind, {}, "linux") == Path.home() / default / "mlx-maverick"
    assert locate(kind, {variable: "/x/y"}, "linux") == Path("/x/y/mlx-maverick")
    for invalid in ("", "relative/path"):
        found = locate(kind, {variable: invalid}, "linux")
        assert found == Path.home() / default / "mlx-maverick"


@pytest.mark.parametrize("platform", ["darwin", "linux"])
def test_one_folder_for_everything(platform: str) -> None:
    environ = {"MLX_MAVERICK_HOME": "~/m", "XDG_DATA_HOME": "/x"}
    found = [locate(kind, environ, platform) for kind in Kind]
    assert found == [Path.home() / "m" / name for name in ("data", "cache", "logs")]


def test_folders_are_made_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_MAVERICK_HOME", str(tmp_path / "home"))
    assert paths.log_file("worker") == tmp_path / "home/logs/worker.log"
    for folder in (paths.data_dir(), paths.cache_dir(), tmp_path / "home/logs"):
        assert folder.is_dir()
        assert folder.stat().st_mode & 0o077 == 0


def test_a_place_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").touch()
    monkeypatch.setenv("MLX_MAVERICK_HOME", str(tmp_path))
    with pytest.raises(MaverickError, match=r"data cannot be made \(File exists\); see"):
        paths.data_dir()
