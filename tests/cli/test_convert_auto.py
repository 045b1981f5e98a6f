"""`convert --recipe auto` and `--target-memory`: the recipe is chosen as `plan` says."""

import shutil
from pathlib import Path

import pytest

from mlx_maverick.cli.main import main
from mlx_maverick.convert.verify import verify
from tests.convert import full_size


@pytest.fixture
def full(tmp_path: Path, maverick_mini: Path) -> Path:
    """A folder whose config.json is the full model's, and that holds no weights."""
    import json

    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(full_size.CONFIG))
    shutil.copy(maverick_mini / "tokenizer.json", folder)
    return folder


@pytest.mark.parametrize(
    ("memory", "recipe", "command"),
    [
        ("128GB", "e2g128r4", True),
        ("192", "e3g128r6", True),
        ("256GB", "e4r6", False),
        ("512GiB", "e8r8", False),
    ],
)
def test_the_recipe_for_a_mac(
    full: Path, memory: str, recipe: str, command: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The choice is said before the missing weights are noticed."""
    assert main(["convert", str(full), "--target-memory", memory, "--context", "32768"]) == 3
    said = capsys.readouterr().err
    assert said.startswith(f"{recipe} for a Mac with ")
    assert ("sudo sysctl iogpu.wired_limit_mb=" in said) == command


def test_bits_of_the_kv_cache_count(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["convert", str(full), "--target-memory", "256", "--context", "1048576"]
    assert main(base) == 3
    assert capsys.readouterr().err.startswith("e3g128r6 for a Mac with 256 GB")
    assert main([*base, "--kv-bits", "4"]) == 3
    said = capsys.readouterr().err
    assert said.startswith("e4r4 for a Mac with 256 GB")
    assert "to run it within that memory, give --kv-bits 4 there as well" in said


@pytest.mark.parametrize("memory", ["64GB", "96GB"])
def test_what_does_not_fit_is_for_streaming(
    full: Path, memory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(full), "--target-memory", memory]) == 3
    said = capsys.readouterr().err
    assert said.startswith(f"e4r6 for a Mac with {memory[:2]} GB: needs 236.3 GB, and no recipe")
    assert "generate and chat read its experts from the SSD as they need them\n" in said


def test_what_cannot_be_streamed_either(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(full), "--target-memory", "16GB"]) == 4
    said = capsys.readouterr().err
    assert "the smallest, e2g128r4, needs 124.0 GB" in said
    assert "use a Mac with 64 GB" in said


def test_auto_is_for_this_machine(
    maverick_mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(maverick_mini), "-r", "auto", "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err.startswith("e8r8 for this ")
    assert verify(tmp_path / "out").recipe == "e8r8"


def test_options_that_contradict(
    maverick_mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["convert", str(maverick_mini), "-o", str(tmp_path / "out")]
    assert main([*base, "-r", "e4r4", "--target-memory", "128GB"]) == 2
    assert main([*base, "--context", "100"]) == 2
    assert main([*base, "-r", "auto", "--set", "routed=3"]) == 2
    assert main([*base, "-r", "keep", "--fast"]) == 2
    assert main([*base, "-r", "auto", "--target-memory", "much"]) == 2
    assert main([*base, "-r", "auto", "--context", "99999999"]) == 2
    assert not (tmp_path / "out").exists()
    assert capsys.readouterr().out == ""


def test_a_quantised_folder_is_only_made_smaller(
    maverick_mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    four, less = tmp_path / "four", tmp_path / "less"
    assert main(["convert", str(maverick_mini), "-r", "e4r4", "--fast", "-o", str(four)]) == 0
    capsys.readouterr()
    assert main(["convert", str(four), "--target-memory", "512GB", "-o", str(less)]) == 0
    said = capsys.readouterr().err
    assert said.startswith("e4r8 for a Mac with 512 GB")
    assert "matrices have fewer bits already than e4r8 gives them; they stay as they are" in said
    assert verify(less).recipe == "e4r8"
    assert main(["plan", str(four), "--memory", "512GB"]) == 0
    assert "e5r8" not in capsys.readouterr().out
