"""`mlx-maverick chat`: what it refuses before the screen opens, and the whole on a terminal."""

import os
import pty
import select
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

from mlx_maverick.prompt import Prompt
from mlx_maverick.sampling import Sampling
from mlx_maverick.tui.settings.settings import Settings
from mlx_maverick.tui.store import Store

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
        self.home = home

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
        (["--continue"], 3, "there is no chat to go on with"),
        (["--resume", "7"], 1, "there is no chat 7"),
        (["--continue", "--resume", "7"], 2, "not allowed with"),
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


def test_a_start_without_a_model(terminal: Open, maverick_mini: Path) -> None:
    t = terminal()
    t.shows("Models on this machine")
    t.shows("What it can run")
    t.type(f"{maverick_mini}")
    t.shows(maverick_mini.name)
    t.type("\r")
    t.shows("4.7 M parameters")
    t.type("\x11")
    assert t.ends() == 0
    again = terminal()  # the model is remembered
    again.shows("4.7 M parameters")
    again.type("\x11")
    assert again.ends() == 0


@pytest.fixture
def endless(maverick_mini: Path, tmp_path: Path) -> tuple[str, ...]:
    """A chat whose replies do not end by themselves."""
    bias = dict.fromkeys(Prompt.from_folder(maverick_mini).stop_ids, -1000.0)
    settings = Settings(str(maverick_mini), sampling=Sampling(logit_bias=bias))
    with Store.open(tmp_path / "home" / "data" / "chats.db") as store:
        chat = store.create_chat(str(maverick_mini), None, settings.as_dict())
    return "--resume", str(chat), "--max-tokens", "20000"


def said(terminal: Terminal) -> int:
    """Characters of the last message of the first chat, as another process sees it."""
    with Store.open(terminal.home / "data" / "chats.db") as store:
        path = store.load(1).path()
    return len(path[-1].text) if path else 0


def test_killed_and_resumed(terminal: Open, maverick_mini: Path, endless: tuple[str, ...]) -> None:
    """Nothing is lost but the token in flight."""
    t = terminal(*endless)
    t.shows("4.7 M parameters")
    t.type("Talk at length\r")
    t.until(lambda: said(t) > 100)
    (worker,) = t.children()
    t.process.send_signal(signal.SIGKILL)
    t.ends()
    with Store.open(t.home / "data" / "chats.db") as store:
        question, reply = store.load(1).path()
    assert question.text == "Talk at length"
    assert reply.note == "broken off"
    assert reply.text == Prompt.from_folder(maverick_mini).decode(reply.ids)
    assert len(reply.ids) > 20
    again = terminal("--continue", "--max-tokens", "5")
    again.shows("Talk at length")
    again.shows("broken off")
    again.shows("4.7 M parameters")
    again.output = ""
    again.type("\x02")  # ctrl+b
    again.shows("cut off at --max-tokens")
    again.type("\x11")
    assert again.ends() == 0
    with Store.open(t.home / "data" / "chats.db") as store:
        _, longer = store.load(1).path()
    assert longer.ids[: len(reply.ids)] == reply.ids
    assert len(longer.ids) == len(reply.ids) + 5
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)  # it saw that nobody listens


def test_a_killed_engine(terminal: Open, endless: tuple[str, ...]) -> None:
    t = terminal(*endless)
    t.shows("4.7 M parameters")
    t.type("Talk at length\r")
    t.until(lambda: said(t) > 100)
    (worker,) = t.children()
    os.kill(worker, signal.SIGABRT)  # as Metal does without memory
    t.shows("killed by SIGABRT")
    t.type("\x12")  # ctrl+r
    t.output = ""
    t.type("Go on\r")
    t.shows("tok/s")
    t.type("\x11")
    assert t.ends() == 0


def test_a_database_in_the_way(terminal: Open, maverick_mini: Path, tmp_path: Path) -> None:
    data = tmp_path / "home" / "data"
    data.mkdir(parents=True)
    (data / "chats.db").write_bytes(b"something else" * 100)
    t = terminal("--model", str(maverick_mini), "--max-tokens", "5")
    t.shows("Chats are not kept")
    t.shows("4.7 M parameters")
    t.type("Hello\r")
    t.shows("cut off at --max-tokens")
    t.type("\x11")
    assert t.ends() == 0
    assert (data / "chats.db").read_bytes() == b"something else" * 100


def test_a_wrong_config(terminal: Open, maverick_mini: Path, tmp_path: Path) -> None:
    data = tmp_path / "home" / "data"
    data.mkdir(parents=True)
    (data / "config.toml").write_text("temperatur = 0.5\n")
    t = terminal("--model", str(maverick_mini))
    assert t.ends() == 2
    assert "did you mean temperature" in t.output
