"""`mlx-maverick generate` as a person runs it."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_maverick.cli.main import main
from mlx_maverick.maverick import Maverick

from ..golden import REFERENCE

PICTURE = str(REFERENCE / "maverick-mini/golden/images/03_200x130_RGB.png")
OTHER = str(REFERENCE / "maverick-mini/golden/images/05_640x480_RGB.png")


CHILD = """
from mlx_maverick.cli.entry import entry
entry()
"""


def generate(model: Path, *args: str) -> list[str]:
    return ["generate", "--model", str(model), "--temp", "0", *args]


def test_the_answer_goes_to_stdout_and_nothing_else(
    maverick: Maverick, maverick_mini: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(generate(maverick_mini, "-p", "Hello there", "-m", "12")) == 0
    captured = capsys.readouterr()
    reply = maverick.generate("Hello there", max_tokens=12, temperature=0)
    assert captured.out == reply.text + "\n"
    assert captured.err == ""


def test_pictures_change_the_answer(
    maverick: Maverick, maverick_mini: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = []
    for pictures in ([], ["-i", PICTURE], ["-i", OTHER], ["-i", PICTURE, "--image", OTHER]):
        assert main(generate(maverick_mini, "-p", "What?", "-m", "12", *pictures)) == 0
        answers.append(capsys.readouterr().out)
    assert len(set(answers)) == 4
    wanted = maverick.generate("What?", images=[PICTURE, OTHER], max_tokens=12, temperature=0)
    assert answers[3] == wanted.text + "\n"


def test_json(maverick_mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(generate(maverick_mini, "-p", "Hi", "-m", "5", "--json")) == 0
    reply = json.loads(capsys.readouterr().out)
    assert reply["model"] == "maverick-mini"
    assert reply["finish_reason"] == "length"
    assert reply["stats"]["new_tokens"] == 5
    assert reply["stats"]["decode_tps"] > 0


def test_verbose_counts_on_stderr(maverick_mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(generate(maverick_mini, "-p", "Hi", "-m", "5", "-v")) == 0
    err = capsys.readouterr().err
    assert "answer 5 tokens" in err
    assert "peak memory" in err


def test_the_prompt_from_stdin(
    maverick_mini: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(generate(maverick_mini, "-p", "Grüße", "-m", "8"))
    wanted = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("Grüße".encode())))
    assert main(generate(maverick_mini, "-p", "-", "-m", "8")) == 0
    assert capsys.readouterr().out == wanted
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9")))
    assert main(generate(maverick_mini, "-p", "-")) == 2
    assert "not UTF-8 (byte 3)" in capsys.readouterr().err


def test_system_stop_and_raw(
    maverick: Maverick, maverick_mini: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(generate(maverick_mini, "-p", "Hi", "-m", "30"))
    plain = capsys.readouterr().out
    main(generate(maverick_mini, "-p", "Hi", "-m", "30", "--system", "Be brief."))
    assert capsys.readouterr().out != plain
    main(generate(maverick_mini, "-p", "Hi", "-m", "30", "--stop", plain[5:8]))
    assert capsys.readouterr().out == plain[: plain.index(plain[5:8])] + "\n"
    main(generate(maverick_mini, "-p", "Hi", "-m", "30", "--raw"))
    assert capsys.readouterr().out != plain


@pytest.mark.parametrize(
    ("args", "code", "why"),
    [
        (["-p", ""], 2, "empty"),
        ([], 2, "no prompt"),
        (["-p", "x", "-i", "no-such.png"], 3, "does not exist"),
        (["-p", "x", "-i", __file__], 1, "not a picture"),
        (["-p", "x " * 3000, "--context", "512"], 2, "context of 512"),
        (["-p", "x", "--context", "2000000"], 2, "1048576"),
        (["-p", "x", "--top-p", "3"], 2, "top_p"),
        (["-p", "x", "--raw", "-i", PICTURE], 2, "--raw"),
        (["-p", "caf\udce9"], 2, "UTF-8"),
    ],
)
def test_bad_input_is_one_line(
    maverick_mini: Path,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    code: int,
    why: str,
) -> None:
    assert main(generate(maverick_mini, *args)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert why in captured.err
    assert captured.err.count("\n") == 1


def test_a_mistake_does_not_cost_a_load(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tensors are all wrong, but the picture is noticed first."""
    raw = json.loads((copy / "config.json").read_text())
    raw["text_config"]["hidden_size"] = 256
    (copy / "config.json").write_text(json.dumps(raw))
    assert main(generate(copy, "-p", "x", "-i", "no-such.png")) == 3
    assert "no-such.png" in capsys.readouterr().err


def test_models_that_are_none(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (copy / "config.json").write_text('{"model_type": "qwen3"}')
    for model, code, why in (
        (tmp_path / "nope", 3, "does not exist"),
        (tmp_path / "empty", 3, "config.json"),
        (copy, 1, "Llama 4"),
    ):
        assert main(generate(model, "-p", "x")) == code
        err = capsys.readouterr().err
        assert why in err
        assert err.count("\n") == 1
    assert main(["generate", "-p", "x"]) == 2
    assert "--model" in capsys.readouterr().err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_with_what_there_is(endless: Path, signum: signal.Signals) -> None:
    arguments = [*generate(endless, "-p", "Hi"), "--context", "1000000"]
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(20)  # it is answering
        process.send_signal(signum)
        rest, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert rest.endswith(b"\n")
    assert err.count(b"\n") == 1
    assert b"interrupted" in err or b"terminated" in err
