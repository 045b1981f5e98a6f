"""`mlx-maverick generate` on a terminal that the model cannot control, and interrupted."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_maverick import replying
from mlx_maverick.choosing import Chooser
from mlx_maverick.cli.main import main
from mlx_maverick.loading import load
from mlx_maverick.maverick import Maverick
from mlx_maverick.model import load_model

CHILD = "from mlx_maverick.cli.entry import entry; entry()"
DOCUMENT = "The quick brown fox jumps over the lazy dog. " * 12
# Retitles the window, moves the cursor, types an answer; the same with one-byte controls.
EVIL = "a\x1b]0;title\x07b\x1b[2J\x9b6n\x08\r\x7f\u202ec"
HARMLESS = "a]0;titleb[2J6nc"


class Says:
    """Makes the model say something, token by token, and end its turn."""

    def __init__(self, maverick: Maverick, text: str):
        prompt = maverick.prompt
        self._left = [*prompt.plain_ids(text), min(prompt.stop_ids)]

    def mask(self, logits: mx.array) -> mx.array:
        return mx.where(mx.arange(logits.shape[-1]) == self._left[0], logits, -mx.inf)

    def accept(self, id: int) -> None:
        assert id == self._left.pop(0)


def on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, maverick: Maverick, says: str, *words: object
) -> str:
    """All that reaches the terminal, from stdout and stderr."""

    def make(*args: Any, **kwargs: Any) -> Chooser:
        return Chooser(*args, **{**kwargs, "constraint": Says(maverick, says)})

    monkeypatch.setattr(replying, "Chooser", make)
    master, slave = pty.openpty()
    with open(slave, "w", closefd=False) as out, open(slave, "w", closefd=False) as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        assert main(["generate", *map(str, words), "-p", "Hi", "--temp", "0"]) == 0
    monkeypatch.undo()
    os.close(slave)
    said = b""
    try:
        while piece := os.read(master, 1 << 16):
            said += piece
    except OSError:  # Linux's way to say that nobody has it open any more
        pass
    os.close(master)
    # What we write ourselves: the line that is rewritten. Terminals end lines with both.
    return said.decode().replace("\r\x1b[K", "").replace("\r\n", "\n")


def harmless(said: str) -> bool:
    return all(c == "\n" or (c.isprintable() and c != "\u202e") for c in said)


def test_control_characters_in_an_answer(
    maverick: Maverick, maverick_mini: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = on_a_terminal(monkeypatch, maverick, EVIL, "--model", maverick_mini, "-v")
    assert HARMLESS in said
    assert harmless(said)


@pytest.mark.parametrize("end", [")]", ""])
def test_control_characters_in_tool_calls(
    maverick: Maverick,
    maverick_mini: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: str,
) -> None:
    """In a call, and in what is said about one that is broken."""
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([{"name": "f"}]))
    call = f'[f(a="{EVIL}", b={EVIL[1:]}' if not end else f'[f(a="{EVIL}"{end}'
    said = on_a_terminal(
        monkeypatch, maverick, call, "--model", maverick_mini, "--tools", tools, "-m", "400"
    )
    assert ('"name": "f"' in said) == bool(end)
    assert ("no tool call: " in said) != bool(end)
    assert harmless(said)


def test_control_characters_in_json(
    maverick: Maverick, maverick_mini: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = on_a_terminal(
        monkeypatch, maverick, EVIL, "--model", maverick_mini, "--json", "--logprobs", "3"
    )
    said = said[said.index('{"model"') :]
    reply = json.loads(said, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert reply["text"] == EVIL
    assert harmless(said)


def words(model: Path, cache: Path, *more: object) -> list[str]:
    ask = ["generate", "--model", model, "--prompt-cache", cache, "--temp", "0", *more]
    return [str(word) for word in ask]


@pytest.mark.parametrize("layer", ["0", "3"])
def test_interrupted_while_loading_leaves_no_cache(
    maverick_mini: Path, tmp_path: Path, layer: str
) -> None:
    """By itself, in the middle of the layers."""
    script = (
        "import os, signal\n"
        "from mlx_maverick import loading\n"
        "load_model = loading.load_model\n"
        "def load(folder, dtype, report, *rest):\n"
        "    def told(done, layers):\n"
        f"        if done >= {layer}: os.kill(os.getpid(), signal.SIGINT)\n"
        "        report(done, layers)\n"
        "    return load_model(folder, dtype, told, *rest)\n"
        "loading.load_model = load\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script + CHILD, *words(maverick_mini, tmp_path / "kv", "-p", "x")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "mlx-maverick: interrupted\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_answering_keeps_the_cache_whole(
    endless: Path, tmp_path: Path, signum: signal.Signals
) -> None:
    cache = tmp_path / "kv"
    ask = words(endless, cache, "-p", DOCUMENT, "--context", "100000")
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, *ask], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(20)
        process.send_signal(signum)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err.count(b"\n")) == (130, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["kv"]
    session = load(endless, context=100_000).load_session(cache)
    assert session.length > 200


def test_interrupted_while_the_prompt_is_read(maverick_mini: Path, tmp_path: Path) -> None:
    """What was read is kept."""
    script = (
        "import os, signal\n"
        "from mlx_maverick import engine\n"
        "finished, count = engine._prefill, [0]\n"
        "def prefill(*args):\n"
        "    for hidden in finished(*args):\n"
        "        count[0] += 1\n"
        "        if count[0] == 5: os.kill(os.getpid(), signal.SIGINT)\n"
        "        yield hidden\n"
        "engine._prefill = prefill\n"
    )
    cache = tmp_path / "kv"
    ask = words(maverick_mini, cache, "-p", DOCUMENT * 20, "--context", "9000")
    done = subprocess.run(
        [sys.executable, "-c", script + CHILD, *ask], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "mlx-maverick: interrupted\n"
    session = load(maverick_mini, context=9000).load_session(cache)
    assert 5 * 32 <= session.length < 9000


def test_a_place_for_the_cache_is_looked_for_first(
    maverick_mini: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not after minutes of loading and reading."""
    monkeypatch.setattr("mlx_maverick.loading.load_model", lambda *a: pytest.fail("was read"))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for cache, code, why in (
        (tmp_path / "no" / "kv", 3, "make it first"),
        (tmp_path, 2, "is a folder"),
        (pipe, 2, "not an ordinary file"),
    ):
        assert main(words(maverick_mini, cache, "-p", "x")) == code
        said = capsys.readouterr().err
        assert why in said
        assert said.count("\n") == 1
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert main(words(maverick_mini, tmp_path / "kv", "-p", "x")) == 1
    assert "read-only" in capsys.readouterr().err


def test_what_damaged_weights_have_computed_is_not_kept(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_broken(folder: Path, *args: Any) -> Any:
        model = load_model(folder, *args)
        model.text.norm.weight = mx.full(model.text.norm.weight.shape, float("nan"))
        return model

    monkeypatch.setattr("mlx_maverick.loading.load_model", load_broken)
    assert main(words(copy, tmp_path / "kv", "-p", "x")) == 1
    assert "not numbers" in capsys.readouterr().err
    assert not (tmp_path / "kv").exists()
