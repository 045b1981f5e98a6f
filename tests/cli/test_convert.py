"""`mlx-maverick convert` as a person or a script meets it."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_maverick.cli.main import main
from mlx_maverick.cli.terminal import StatusLine
from mlx_maverick.convert.verify import verify


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """`main` installs a handler; give the test process its own back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out/model"


def failed(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Exit code and message of a run that must fail, checked to be one line."""
    code = main(["convert", *map(str, words)])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mlx-maverick: ")
    assert captured.err.count("\n") == 1
    return code, captured.err


def test_it_converts_and_says_so_on_stderr(
    maverick_mini: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(maverick_mini), "--recipe", "e4r6", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"{out}: 3.4 MB, e4r6, ")
    assert captured.err.count("\n") == 1
    assert verify(out).recipe == "e4r6"
    assert [p.name for p in out.parent.iterdir()] == [out.name]


def test_json(maverick_mini: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(maverick_mini), "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result.pop("seconds") >= 0
    size = sum(p.stat().st_size for p in out.iterdir())
    assert result == {"folder": str(out), "recipe": "e4r4", "bytes": size}


def test_the_default_name_and_mlx_lms_spellings(
    maverick_mini: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(out.parent)
    assert main(["convert", str(maverick_mini)]) == 0
    assert main(["convert", "--hf-path", str(maverick_mini), "--mlx-path", "b"]) == 0
    assert sorted(p.name for p in out.parent.iterdir()) == ["b", "maverick-mini-e4r4"]


def test_progress_on_a_terminal(
    maverick_mini: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert StatusLine().live
    assert main(["convert", str(maverick_mini), "--out", str(out)]) == 0
    shown = capsys.readouterr().err.split("\r\x1b[K")
    assert "100%  9.3 MB of 9.3 MB" in "".join(line for line in shown if "converting" in line)
    assert any("experts.down_proj (expert 7)" in line for line in shown)
    assert shown[-1].startswith(f"{out}: ")


def test_a_source_without_tokenizer_is_said(
    maverick_mini: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in maverick_mini.iterdir():
        if path.is_file() and path.name != "tokenizer.json":
            (source / path.name).symlink_to(path)
    assert main(["convert", str(source), "--out", str(out)]) == 0
    assert "no tokenizer.json" in capsys.readouterr().err


def test_usage_errors(maverick_mini: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert failed(capsys)[0] == 2
    assert failed(capsys, maverick_mini, "--hf-path", maverick_mini)[0] == 2
    code, said = failed(capsys, maverick_mini, "--recipe", "r1e1", "--out", out)
    assert code == 2
    assert "e4r4, e4r6" in said
    out.mkdir()
    code, said = failed(capsys, maverick_mini, "--out", out)
    assert code == 2
    assert "exists already" in said
    code, said = failed(capsys, maverick_mini, "--out", maverick_mini / "x")
    assert code == 2
    assert "inside the source" in said


def test_not_found(
    maverick_mini: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failed(capsys, "meta-llama/nothing-here", "--out", out)[0] == 3
    assert failed(capsys, tmp_path, "--out", out)[0] == 3
    assert failed(capsys, maverick_mini, "--out", tmp_path / "none/here")[0] == 3


def test_bad_checkpoint(
    maverick_mini: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in maverick_mini.iterdir():
        (source / path.name).symlink_to(path)
    shard = source / "model-00004-of-00004.safetensors"
    data = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(data[:-1])
    code, said = failed(capsys, source, "--out", out)
    assert code == 1
    assert "model-00004-of-00004.safetensors is cut short" in said
    assert list(out.parent.iterdir()) == []


def test_too_little_disk(
    maverick_mini: Path,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = type("Disk", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert failed(capsys, maverick_mini, "--out", out)[0] == 4
    assert list(out.parent.iterdir()) == []


# The child writes its first slice, says so, and waits for the signal in the middle of it.
CHILD = """
import os, signal, sys, time
from mlx_maverick.cli.entry import entry
write = os.pwrite
def first(*args):
    count = write(*args)
    print("writing", flush=True)
    while True:  # not signal.pause(): a signal just before it would be missed
        time.sleep(0.01)
os.pwrite = first
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored under nohup
entry()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(maverick_mini: Path, out: Path, number: signal.Signals) -> None:
    words = ["convert", str(maverick_mini), "--out", str(out)]
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "writing\n"
        partial = out.with_name(out.name + ".partial")
        assert any(partial.glob("*.safetensors"))
        child.send_signal(number)
        _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert said.startswith("mlx-maverick: ")
    assert said.count("\n") == 1
    assert list(out.parent.iterdir()) == []


def test_killed_outright_it_leaves_no_output_and_the_next_run_succeeds(
    maverick_mini: Path, out: Path
) -> None:
    words = ["convert", str(maverick_mini), "--out", str(out)]
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, *words], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "writing\n"
        assert main(words) == 2  # the folder is in use
        child.kill()
        child.wait(timeout=60)
    assert [p.name for p in out.parent.iterdir()] == [out.name + ".partial"]
    assert main(words) == 0
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    verify(out)


def test_help_loads_neither_mlx_nor_textual() -> None:
    code = (
        "import sys; from mlx_maverick.cli.main import main\n"
        "try: main(['convert', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'mlx.core', 'textual', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--recipe" in done.stdout
    assert "e4r4, e4r6" in done.stdout
