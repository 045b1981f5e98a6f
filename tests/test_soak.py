"""The soak, in short; see soak.py for a long one."""

from pathlib import Path

from mlx_maverick.maverick import Maverick

from .soak import EVERY, Soak


def test_random_calls_leave_answers_right_and_memory_flat(
    maverick: Maverick, tmp_path: Path
) -> None:
    report = Soak(maverick, seed=5, folder=tmp_path).run(steps=3 * EVERY)
    report.check()
    assert report.replies > EVERY
    assert 0 < report.cached < report.prompted
