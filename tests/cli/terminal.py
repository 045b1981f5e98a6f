"""A terminal with a program in it, and what a person would see there.

What a program writes comes in pieces, over what was there before: only an emulator tells what is
on the screen. Colours are not its business, see `hues`.
"""

import codecs
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fcntl import ioctl

import pyte

SECONDS = 60
# Not of the machine that the tests run on.
FOREIGN = ("COLUMNS", "LINES", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "TERM_PROGRAM", "SSH_TTY")
COLOUR = re.compile(r"\x1b\[([\d;]*)m")
GREYS = {*range(232, 256), 0, 7, 8, 15, 16, 59, 102, 145, 188, 231}  # of 256


class Terminal:
    """`columns` x `rows` cells with `words` running in them."""

    def __init__(
        self, words: Sequence[str], environ: Mapping[str, str], columns: int = 60, rows: int = 24
    ):
        self.master, slave = pty.openpty()
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.Stream(self._screen)
        self._set_size(columns, rows)
        kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        self.process = subprocess.Popen(
            words,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**kept, "TERM": "xterm-256color", "LANG": "C.UTF-8", **environ},
            start_new_session=True,
            preexec_fn=_own_terminal,
        )
        os.close(slave)
        self.output = ""  # all there was, raw
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def seen(self) -> str:
        """The screen, line by line."""
        return "\n".join(line.rstrip() for line in self._screen.display)

    def says(self, text: str) -> bool:
        """Whether a text is on the screen, which may have broken it into lines."""
        return text in " ".join(self.seen().split())

    def shows(self, text: str) -> None:
        """Wait until a text is on the screen."""
        self.until(lambda: self.says(text))

    def until(self, true: Callable[[], object], every: float = 0.0) -> None:
        """Wait until `true()`, which is asked after so many seconds again."""
        end = time.monotonic() + SECONDS
        while not true():
            again = time.monotonic() + every
            assert again < end, self.seen()
            goes_on = self.read()
            while goes_on and time.monotonic() < again:
                goes_on = self.read()
            assert goes_on or true(), self.seen()

    def settles(self) -> None:
        """Wait until nothing has come for a while."""
        before = None
        while before != self.output:
            before = self.output
            self.read(0.5)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def paste(self, text: str) -> None:
        self.type(f"\x1b[200~{text}\x1b[201~")

    def resize(self, columns: int, rows: int) -> None:
        self.read(0)
        self._screen.resize(rows, columns)
        self._screen.erase_in_display(2)  # what stood there is in no known place now
        self._set_size(columns, rows)  # of which the kernel tells the program

    def ends(self) -> int:
        """Wait for the end; the exit status."""
        end = time.monotonic() + SECONDS
        while self.read() and time.monotonic() < end:
            pass
        return self.process.wait(SECONDS)

    def hang_up(self) -> int:
        """The window is closed, or the connection lost; the exit status."""
        os.close(self.master)
        self.master = -1
        return self.process.wait(SECONDS)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.ends()
        if self.master >= 0:
            os.close(self.master)

    def children(self) -> list[int]:
        """Processes that this one started."""
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True)
        pairs = [line.split() for line in listed.stdout.splitlines()]
        return [int(pid) for pid, parent in pairs if int(parent) == self.process.pid]

    def read(self, seconds: float = 0.1) -> bool:
        """Take what there is; False at the end."""
        if not select.select([self.master], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.master, 1 << 16)
        except OSError:  # Linux's way to say that nobody writes any more
            return False
        text = self._decoder.decode(data)
        self.output += text
        self._stream.feed(text)
        return bool(data)

    def _set_size(self, columns: int, rows: int) -> None:
        ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _own_terminal() -> None:
    """What is on stdin is this process's terminal: it hears of another size and of its end."""
    ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup


def wait(true: Callable[[], object]) -> None:
    """Until it is so."""
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def over(pid: int) -> bool:
    """Whether a process has ended, though perhaps nobody has asked for its status."""
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True
    ).stdout.strip()
    return not listed or listed.startswith("Z")


def hues(output: str) -> Iterator[str]:
    """The sequences in raw output that ask for a colour which is no grey."""
    for sequence in COLOUR.finditer(output):
        codes = [int(code or 0) for code in sequence[1].split(";")]
        while codes:
            code = codes.pop(0)
            grey = True
            if code in (38, 48) and codes[0] == 5:
                grey = codes[1] in GREYS
                codes = codes[2:]
            elif code in (38, 48):
                grey = len(set(codes[1:4])) == 1
                codes = codes[4:]
            elif 30 <= code < 48 or 90 <= code < 108:
                grey = code % 10 in (0, 7, 8, 9)
            if not grey:
                yield sequence[0]
