"""When macOS's clipboard is used, and how."""

import shutil
import stat
from pathlib import Path

import pytest

from mlx_maverick.tui import clipboard


def test_only_on_a_mac_one_sits_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert clipboard.has_pasteboard({}, "darwin")
    assert not clipboard.has_pasteboard({}, "linux")
    assert not clipboard.has_pasteboard({"SSH_CONNECTION": "1 2 3 4"}, "darwin")
    assert not clipboard.has_pasteboard({"SSH_TTY": "/dev/ttys1"}, "darwin")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not clipboard.has_pasteboard({}, "darwin")


@pytest.mark.parametrize("status", [0, 1])
def test_pbcopy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    tool = tmp_path / "pbcopy"
    tool.write_text(f'#!/bin/sh\n/bin/cat > "{tmp_path}/copied"\nexit {status}\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert clipboard.pbcopy("é\n漢") is (status == 0)
    assert (tmp_path / "copied").read_text(encoding="utf-8") == "é\n漢"


def test_without_pbcopy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not clipboard.pbcopy("x")
