"""`mlx-maverick convert` as a person or a script meets it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
    first, last = captured.err.splitlines()
    assert first.startswith(
        f"{maverick_mini}, BF16: 9.3 MB to read, e4r6 makes 3.5 MB, in at most "
    )
    assert last.startswith(f"{out}: 3.5 MB, e4r6, ")
    assert verify(out).recipe == "e4r6"
    assert [p.name for p in out.parent.iterdir()] == [out.name]


def test_json(maverick_mini: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(maverick_mini), "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    planned, *progress, converted = map(json.loads, captured.out.splitlines())
    assert captured.err == ""
    assert (planned["event"], planned["recipe"], planned["done"]) == ("planned", "e4r4", 0)
    assert {event["event"] for event in progress} == {"progress"}
    assert progress[-1]["stage"] == "hashing"
    assert progress[-1]["done"] == progress[-1]["total"] == planned["nbytes"] + readme(out)
    assert converted["event"] == "converted"
    assert converted["folder"] == str(out)
    assert converted["bytes"] == sum(p.stat().st_size for p in out.iterdir())
    assert set(converted["files"]) == {p.name for p in out.iterdir()}


def readme(out: Path) -> int:
    """It is not in the planned size, as it tells sizes itself."""
    return (out / "README.md").stat().st_size


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
    assert "100%  9.3/9.3 MB" in "".join(line for line in shown if "converting" in line)
    assert any("layer 7/8" in line for line in shown)
    assert any(line.startswith("hashing 100%") for line in shown)
    status = [line for line in shown if line.startswith(("converting", "hashing"))]
    assert all("RAM " in line for line in status)
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
    command = [sys.executable, "-m", "mlx_maverick", "convert", "meta-llama/none", "--out", out]
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    assert subprocess.run(command, env=offline, capture_output=True).returncode == 3
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


# The child stops in the middle of its work and says so, until the test has sent its signal.
CHILD = """
import os, select, signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup
arrived, wakeup = os.pipe()
os.set_blocking(wakeup, False)
signal.set_wakeup_fd(wakeup)
def pause():
    select.select([arrived], [], [], 60)  # till a signal is here,
    time.sleep(1.0)  # and the main thread has taken it
from mlx_maverick.cli.entry import entry
from mlx_maverick.convert import pipeline
{before}
entry()
"""
WRITING = """
write, count = os.pwrite, 0
def counted(*args):
    global count
    count += 1
    if count == {at}:
        sys.stdout.write("writing\\n"); sys.stdout.flush()
        pause()
    return write(*args)
os.pwrite = counted
"""


@contextmanager
def child(before: str, *words: object) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", CHILD.format(before=before), "convert", *map(str, words)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        yield process


def same(one: Path, other: Path) -> None:
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {
        p.name: p.read_bytes() for p in other.iterdir()
    }


@pytest.fixture(scope="module")
def whole(maverick_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As nothing disturbed it."""
    out = tmp_path_factory.mktemp("whole") / "model"
    assert main(["convert", str(maverick_mini), "--fast", "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("at", [30, 700])
def test_a_signal_says_what_is_kept_and_the_same_command_goes_on(
    maverick_mini: Path,
    out: Path,
    whole: Path,
    number: signal.Signals,
    at: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [str(maverick_mini), "--fast", "--out", str(out)]
    with child(WRITING.format(at=at), *words) as process:
        assert process.stdout
        assert process.stdout.readline() == "writing\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.count("\n") == 2
    last = said.splitlines()[1]
    word = "terminated" if number == signal.SIGTERM else "interrupted"
    assert re.fullmatch(
        rf"mlx-maverick: {word}; \d+% is kept in {out}\.partial: the same command goes on", last
    )
    capsys.readouterr()
    assert main(["convert", *words]) == 0
    assert f"{out}.partial has {last.split()[2]} of it already" in capsys.readouterr().err
    same(out, whole)
    assert [p.name for p in out.parent.iterdir()] == [out.name]


def test_a_signal_before_anything_is_done_leaves_nothing(maverick_mini: Path, out: Path) -> None:
    """Here the first header is being written."""
    with child(WRITING.format(at=2), maverick_mini, "--out", out) as process:
        assert process.stdout
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "mlx-maverick: interrupted\n"
    assert list(out.parent.iterdir()) == []


SHOWING = """
from mlx_maverick.cli import converting
show, count = converting.Report.show, 0
def counted(self, event):
    global count
    count += 1
    if count == 150:
        os.kill(os.getpid(), signal.{number})
    show(self, event)
converting.Report.show = counted
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_while_progress_is_shown(
    maverick_mini: Path, out: Path, whole: Path, number: str
) -> None:
    """Outside of the conversion itself, which is to know all the same."""
    with child(SHOWING.format(number=number), maverick_mini, "--fast", "--out", out) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "% is kept in" in said
    assert main(["convert", str(maverick_mini), "--fast", "--out", str(out)]) == 0
    same(out, whole)


TWICE = """
wait, count = os.fsync, 0
def slow(file):
    global count
    count += 1
    if count == 3:
        sys.stdout.write("syncing\\n"); sys.stdout.flush()
        pause()
    return wait(file)
os.fsync = slow
"""


def test_a_second_ctrl_c(maverick_mini: Path, out: Path, whole: Path) -> None:
    """While what is done is put on the disk for good: it ends, with one line, and goes on later."""
    with child(TWICE, maverick_mini, "--fast", "--out", out) as process:
        assert process.stdout
        assert process.stdout.readline() == "syncing\n"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert not out.exists()
    assert main(["convert", str(maverick_mini), "--fast", "--out", str(out)]) == 0
    same(out, whole)


def test_a_second_conversion_into_the_same_folder_is_refused(
    maverick_mini: Path, out: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --restart, too; and when the first is killed outright, the next goes on."""
    words = [str(maverick_mini), "--fast", "--out", str(out)]
    capsys.readouterr()
    with child(WRITING.format(at=30), *words) as process:
        assert process.stdout
        assert process.stdout.readline() == "writing\n"
        for more in ([], ["--restart"]):
            code, said = failed(capsys, *words, *more)
            assert code == 2
            assert "is being written by another conversion" in said
        process.kill()
        process.wait(timeout=60)
    assert [p.name for p in out.parent.iterdir()] == [out.name + ".partial"]
    assert main(["convert", *words]) == 0
    same(out, whole)


def test_another_recipe_is_refused_until_restarted(
    maverick_mini: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with child(WRITING.format(at=700), maverick_mini, "--fast", "--out", out) as process:
        assert process.stdout
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    code, said = failed(capsys, maverick_mini, "--out", out)
    assert code == 2
    assert "quantiser min-max, and this one has least squares" in said
    assert "the same command goes on" not in said
    code, said = failed(capsys, maverick_mini, "--out", out, "--fast", "-r", "e4r6")
    assert code == 2
    assert "recipe name e4r4, and this one has name e4r6" in said
    assert main(["convert", str(maverick_mini), "-r", "e4r6", "-o", str(out), "--restart"]) == 0
    assert verify(out).recipe == "e4r6"


def test_a_reader_of_events_that_goes_away(maverick_mini: Path, out: Path, whole: Path) -> None:
    """`convert --json | head -1`: it ends, and what is done is kept."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "mlx_maverick", "convert", maverick_mini, "--fast", "--json"]
    with subprocess.Popen([*command, "--out", out], stdout=writing, stderr=subprocess.PIPE) as made:
        os.close(writing)
        assert os.read(reading, 20).startswith(b'{"event": "planned"')
        os.close(reading)
        _, said = made.communicate(timeout=60)
    assert made.returncode == 1
    assert said == b""
    assert not out.exists()
    assert main(["convert", str(maverick_mini), "--fast", "--out", str(out)]) == 0
    same(out, whole)


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
