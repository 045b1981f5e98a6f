"""`mlx-maverick bench --convert`: real runs, of a small checkpoint."""

import json
from pathlib import Path

import pytest

from mlx_maverick.cli.main import main


def test_against_mlx_lm(maverick_mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--convert", str(maverick_mini), "--against", "mlx-lm", "--runs", "1"]
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert "mlx-lm" in said["machine"]
    theirs, fast, ours = said["results"]
    assert [r["name"] for r in said["results"]] == [
        "mlx-lm", "mlx-maverick --fast", "mlx-maverick",
    ]  # fmt: skip
    assert theirs["ratio"] == 1
    for result in (fast, ours):
        # A ratio of medians, and of a single pair the quotient itself.
        rates = result["weights_per_cpu_second"] / theirs["weights_per_cpu_second"]
        assert result["ratio"] == pytest.approx(rates)
        assert 0 < result["stages"]["quantising"] < 1
        assert result["memory"] > 50e6
    assert theirs["stages"] == {}


def test_the_table(maverick_mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--convert", str(maverick_mini), "--runs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["seconds", "M", "weights/s", "per", "core", "ratio", "memory"]
    assert lines[1].startswith("mlx-maverick --fast ")
    assert any(line.startswith("  waiting for reads") for line in lines)
    assert any(line.startswith("mlx ") for line in lines)


def test_errors(maverick_mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--convert", str(tmp_path)]) == 3
    assert main(["bench", "--convert", "--expert-count", "1"]) == 2
    capsys.readouterr()
    convert = ["bench", "--convert", str(maverick_mini)]
    assert main([*convert, "--against", "mlx-vlm"]) == 2
    assert "no converter" in capsys.readouterr().err
    assert main([*convert, "--model", str(maverick_mini)]) == 2
    assert "leave out --model" in capsys.readouterr().err
    assert main([*convert, "--hidden", "128"]) == 2
    assert "takes --expert-count alone" in capsys.readouterr().err


def test_a_program_that_fails_is_named(
    maverick_mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in maverick_mini.iterdir():
        if path.is_file() and path.name != "tokenizer_config.json":
            (source / path.name).symlink_to(path)
    (source / "tokenizer.json").unlink()
    (source / "tokenizer.json").write_text("[]")
    assert main(["bench", "--convert", str(source), "--runs", "1"]) == 1
    assert "mlx-maverick --fast failed" in capsys.readouterr().err
