"""`mlx-maverick verify` as a person runs it."""

from pathlib import Path

import pytest

from mlx_maverick.cli.main import main
from mlx_maverick.convert import convert


def test_a_folder_and_one_flipped_bit(
    scout_mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "made"
    convert(scout_mini, folder, "e4r4")
    assert main(["verify", str(folder)]) == 0
    assert "as written" in capsys.readouterr().out
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-100] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    assert main(["verify", str(folder)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "model.safetensors is not what was written" in captured.err


def test_what_convert_did_not_write(
    maverick_mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(maverick_mini)]) == 3
    assert main(["verify", str(tmp_path / "nope")]) == 3
    assert capsys.readouterr().err.count("\n") == 2
