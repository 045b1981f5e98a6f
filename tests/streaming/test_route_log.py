"""The file of chosen experts: its lines, and what happens where it cannot be written."""

import json
import os
from pathlib import Path

import pytest

from mlx_maverick.errors import MaverickError, UsageError
from mlx_maverick.streaming.route_log import RouteLog

from .full_disk import full_disk


def test_lines(tmp_path: Path) -> None:
    file = tmp_path / "routes.jsonl"
    log = RouteLog(file)
    log.write(1, 0, [3, 0, 3], None)
    log.write(3, 7, [15], [15, 2])
    log.write(5, 7, [1], [])
    log.flush()
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"layer": 1, "position": 0, "experts": [3, 0, 3], "expected": None},
        {"layer": 3, "position": 7, "experts": [15], "expected": [15, 2]},
        {"layer": 5, "position": 7, "experts": [1], "expected": []},
    ]
    log.write(1, 8, [4], None)
    log.flush()
    assert len(file.read_text().splitlines()) == 4


def test_a_log_is_added_to(tmp_path: Path) -> None:
    """A chat whose engine is started again opens it again."""
    file = tmp_path / "routes.jsonl"
    for position in range(2):
        log = RouteLog(file)
        log.write(1, position, [3], None)
        log.flush()
    assert [json.loads(line)["position"] for line in file.read_text().splitlines()] == [0, 1]


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    """The model's own, above all."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    with pytest.raises(UsageError, match="no route log, and is left alone"):
        RouteLog(file)
    assert file.read_bytes() == b"weights"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="no route log"):
        RouteLog(tmp_path / "pipe")
    RouteLog(Path(os.devnull)).write(1, 0, [1], None)


@pytest.mark.parametrize("name", [".", "missing/routes", "file/routes"])
def test_a_file_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"route log .* cannot be written .* give another file"):
        RouteLog(tmp_path / name)


def test_a_full_disk(tmp_path: Path) -> None:
    log = RouteLog(tmp_path / "routes")
    log.write(1, 0, [1], None)  # kept until there is more
    with full_disk():
        with pytest.raises(MaverickError, match=r"routes cannot be written \(File too large\)"):
            log.flush()
        with pytest.raises(MaverickError, match="load the model without it"):
            for position in range(10_000):
                log.write(1, position, [1], None)
