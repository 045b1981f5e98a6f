"""The soak, in short; see soak.py for a long one."""

from pathlib import Path

import pytest

from mlx_maverick.convert import convert
from mlx_maverick.maverick import Maverick

from .soak import EVERY, Soak


def test_random_calls_leave_answers_right_and_memory_flat(
    maverick: Maverick, maverick_mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_MAVERICK_HOME", str(tmp_path / "home"))
    convert(maverick_mini, tmp_path / "streamed", "e4r4", fast=True)
    soak = Soak(maverick, tmp_path / "streamed", seed=5, folder=tmp_path)
    report = soak.run(steps=3 * EVERY)
    report.check()
    assert report.replies > EVERY
    assert 0 < report.cached < report.prompted
    assert maverick.run(lambda: soak.streams.stats).misses > EVERY
