"""The command line of the training, where torch is not installed and nothing is trained."""

import sys
from pathlib import Path

import pytest

from mlx_maverick.demo.train import main


def test_without_torch_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "mlx_maverick.demo.training", raising=False)
    assert main(["--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "pip install 'mlx-maverick[demo-training]'" in error
    assert not (tmp_path / "run").exists()


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "--out" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["--out", "x", "--save-every", "0"])
    assert "--save-every" in capsys.readouterr().err
