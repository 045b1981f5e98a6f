"""`mlx-maverick chat`: what it refuses before the screen opens, and the whole on a terminal."""

import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from fcntl import ioctl
from pathlib import Path

import pytest

SECONDS = 60
MAIN = "from mlx_maverick.cli.entry import entry; entry()"


class Terminal:
    """A pseudo-terminal with `mlx-maverick chat` in it."""

    def __init__(self, home: Path, *arguments: str, size: tuple[int, int] = (60, 24)):
        self.master, slave = pty.openpty()
        columns, rows = size
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, "chat", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm-256color", "MLX_MAVERICK_HOME": str(home)},
            start_new_session=True,
        )
        os.close(slave)
        self.output = ""

    def read(self, seconds: float = 0.1) -> bool:
        """Take what there is; False at the end."""
        if select.select([self.master], [], [], seconds)[0]:
            try:
                data = os.read(self.master, 1 << 16)
            except OSError:  # Linux's way to say that nobody writes any more
                return False
            self.output += data.decode(errors="replace")
            return bool(data)
        return True

    def until(self, true: Callable[[], bool]) -> None:
        end = time.monotonic() + SECONDS
        while not true():
            assert time.monotonic() < end, self.output[-3000:]
            assert self.read() or true(), self.output[-3000:]

    def shows(self, text: str) -> None:
        self.until(lambda: text in self.output)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def ends(self) -> int:
        end = time.monotonic() + SECONDS
        while self.read() and time.monotonic() < end:
            pass
        return self.process.wait(SECONDS)

    def children(self) -> list[int]:
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True)
        pairs = [line.split() for line in listed.stdout.splitlines()]
        return [int(pid) for pid, parent in pairs if int(parent) == self.process.pid]


Open = Callable[..., Terminal]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Open]:
    opened: list[Terminal] = []

    def make(*arguments: str) -> Terminal:
        opened.append(Terminal(tmp_path / "home", *arguments))
        return opened[-1]

    yield make
    for t in opened:
        if t.process.poll() is None:
            t.process.terminate()
            t.ends()
        os.close(t.master)


def last_line(terminal: Terminal) -> str:
    return terminal.output.rstrip().splitlines()[-1]


def test_without_a_terminal_or_a_model() -> None:
    command = [sys.executable, "-c", MAIN, "chat"]
    done = subprocess.run(
        [*command, "--model", "x"], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "mlx-maverick generate" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "--model DIR"),
        (["--model", "/no/such/model"], 3, "/no/such/model does not exist"),
        (["--model", "MINI", "--image", "/no/such.png"], 3, "/no/such.png does not exist"),
        (["--model", "MINI", "--temp", "-1"], 2, "temperature"),
        (["--model", "MINI", "--max-tokens", "0"], 2, "--max-tokens"),
        (["--model", "MINI", "--context", "0"], 2, "context"),
    ],
)
def test_refused_before_the_screen_opens(
    terminal: Open, maverick_mini: Path, arguments: list[str], code: int, says: str
) -> None:
    t = terminal(*(str(maverick_mini) if a == "MINI" else a for a in arguments))
    assert t.ends() == code
    assert says in t.output
    assert "\x1b[?1049h" not in t.output  # the alternate screen


def test_a_model_that_does_not_load(terminal: Open, maverick_mini: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in maverick_mini.glob("*.json"):
        shutil.copy(file, broken)
    t = terminal("--model", str(broken))
    assert t.ends() == 3
    *_, after = t.output.split("\x1b[?1049l")  # the screen is closed first
    assert "mlx-maverick: " in after
    assert "missing" in after


def test_a_conversation(terminal: Open, maverick_mini: Path) -> None:
    picture = maverick_mini.parent / "tiles-336/00_300x200.png"
    t = terminal("--model", str(maverick_mini), "--max-tokens", "12", "--seed", "1")
    t.shows("4.7 M parameters")
    t.type("Hello\r")
    t.shows("cut off at --max-tokens")
    t.shows("tok/s")
    t.type(f"\x1b[200~{picture}\x1b[201~")
    t.shows("300×200")
    t.output = ""
    t.type("What is this?\r")
    t.shows("▣ 00_300x200.png")
    t.shows("cut off at --max-tokens")
    (worker,) = t.children()
    t.type("\x11")  # ctrl+q
    assert t.ends() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


@pytest.mark.parametrize("when", ["loading", "loaded"])
def test_terminated(terminal: Open, maverick_mini: Path, when: str) -> None:
    t = terminal("--model", str(maverick_mini))
    t.shows("4.7 M parameters" if when == "loaded" else "loading")
    children = t.children()
    t.process.send_signal(signal.SIGTERM)
    assert t.ends() == 130
    assert last_line(t).endswith("mlx-maverick: terminated")
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
