"""The entry point: verbs, exit codes, one line for every error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_maverick.cli import generate
from mlx_maverick.cli.main import VERBS, main
from mlx_maverick.errors import DoesNotFit, MaverickError, NotFound, UsageError


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mlx-maverick: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    return captured.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MaverickError("it broke"), 1),
        (UsageError("it broke"), 2),
        (NotFound("it broke"), 3),
        (DoesNotFit("it broke"), 4),
        (KeyboardInterrupt(), 130),
        (OSError(28, "No space left on device", "out.txt"), 1),
        (MemoryError(), 1),
    ],
)
def test_errors_are_one_line_and_a_code(
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr(generate, "run", fail)
    assert main(["generate"]) == code
    one_line(capsys)


def test_names_cannot_break_the_line_or_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--model", "a\nb\x1b[2Jc", "-p", "x"]) == 3
    assert "\x1b" not in one_line(capsys)


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--debug", "--model", "nope", "-p", "x"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_no_verb_off_a_terminal_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "VERB" in captured.err


@pytest.mark.parametrize("argv", [["bogus"], ["generate", "--bogus"], ["generate", "-m", "0"],
                                  ["generate", "-m", "x"], ["bench", "--runs", "0"]])  # fmt: skip
def test_bad_arguments_are_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert "--help" in one_line(capsys)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main([verb, "--help"])
    assert exit.value.code == 0
    assert f"mlx-maverick {verb}" in capsys.readouterr().out


def test_a_reader_that_went_away_is_no_traceback(maverick_mini: Path) -> None:
    """`mlx-maverick show ... | true`, where `true` is gone before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "mlx_maverick", "show", str(maverick_mini)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 1
