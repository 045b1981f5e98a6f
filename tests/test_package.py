"""The package as it is installed: lazy imports, and a wheel that holds everything once."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("mlx", "textual", "transformers", "numpy", "PIL", "huggingface_hub")


def loaded_by(statement: str) -> set[str]:
    """Which of the heavy packages a fresh Python holds after `statement`."""
    code = (
        f"import contextlib, sys\nwith contextlib.suppress(SystemExit):\n    {statement}\n"
        f"print('LOADED', *[m for m in {HEAVY!r} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(out.stdout.splitlines()[-1].split()[1:])


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import mlx_maverick") == set()
    assert loaded_by("from mlx_maverick import Token, UsageError, Sampling") == set()


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["generate", "--help"],
                                  ["chat", "--help"], ["convert", "--help"], ["show", "--help"],
                                  ["plan", "--help"], ["plan", "--memory", "128GB"],
                                  ["bench", "--help"], ["doctor", "--help"],
                                  ["bogus"]])  # fmt: skip
def test_help_loads_nothing_heavy(argv: list[str]) -> None:
    assert loaded_by(f"from mlx_maverick.cli.main import main; main({argv!r})") == set()


def test_public_names_exist() -> None:
    import mlx_maverick

    for name in mlx_maverick.__all__:
        assert getattr(mlx_maverick, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = mlx_maverick.nonsense


def sources() -> list[Path]:
    folders = (ROOT / name for name in ("mlx_maverick", "convert", "tui"))
    return [p for folder in folders for p in folder.rglob("*.py")]


def test_the_links_are_the_only_names_of_their_folders() -> None:
    for name in ("convert", "tui"):
        assert os.readlink(ROOT / "mlx_maverick" / name) == f"../{name}"
    absolute = re.compile(r"^\s*(from|import) (convert|tui)\b", re.MULTILINE)
    assert [p for p in sources() if absolute.search(p.read_text())] == []


def test_no_file_is_long() -> None:
    tests = list((ROOT / "tests").rglob("*.py"))
    assert [p for p in sources() + tests if len(p.read_text().splitlines()) > 600] == []


def test_the_wheel(tmp_path: Path) -> None:
    """Built from the sources as a person's pip does: one top-level name, every file of the
    linked folders, the command, and an installable result."""
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT)],
        check=True, capture_output=True,
    )  # fmt: skip
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    dist_info = next(n.split("/")[0] for n in names if n.endswith("METADATA"))
    assert {n.split("/")[0] for n in names} == {"mlx_maverick", dist_info}
    shipped = [p for p in (ROOT / "mlx_maverick" / "models").rglob("*") if p.is_file()]
    assert {f"{p.relative_to(ROOT)}" for p in shipped} <= set(names)
    for folder in ("convert", "tui"):
        wanted = {
            f"mlx_maverick/{p.relative_to(ROOT)}"
            for p in (ROOT / folder).rglob("*")
            if p.is_file() and "__pycache__" not in p.parts
        }
        assert len(wanted) > 1
        assert wanted <= set(names)
    assert "mlx_maverick/py.typed" in names
    installed = tmp_path / "installed"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(installed),
         str(wheel)], check=True,
    )  # fmt: skip
    out = subprocess.run(
        [sys.executable, "-m", "mlx_maverick", "--version"],
        env={**os.environ, "PYTHONPATH": str(installed)}, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert out.stdout.startswith("mlx-maverick ")
    answer = subprocess.run(
        [sys.executable, "-m", "mlx_maverick", "generate", "--model", "demo", "-i", "demo",
         "-p", "What is in the picture?", "--temp", "0"],
        env={**os.environ, "PYTHONPATH": str(installed)}, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert answer.stdout == "A red circle, a yellow star and a blue square.\n"
