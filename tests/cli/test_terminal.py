"""What reaches a terminal: nothing that could control it."""

import io
import os

import pytest

from mlx_maverick.cli.terminal import StatusLine, printable
from mlx_maverick.units import gb


@pytest.mark.parametrize("bad", ["\x1b[31m", "\x07", "\r", "\x9b2J", "\x00", "\u202e", "\x7f"])
def test_control_characters_are_taken_out(bad: str) -> None:
    shown = printable(f"a{bad}b")
    assert shown[0] == "a"
    assert shown[-1] == "b"
    assert not set("\x1b\x07\r\x9b\x00\u202e\x7f") & set(shown)


def test_text_of_any_script_stays() -> None:
    text = "ü\n\tשלום 🙂 नमस्ते"
    assert printable(text) == text


@pytest.mark.parametrize(
    ("nbytes", "text"), [(227_100_000_000, "227.1 GB"), (9_311_616, "9.3 MB"), (512, "0.5 kB")]
)
def test_sizes(nbytes: int, text: str) -> None:
    assert gb(nbytes) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_status_line_is_rewritten_and_cleared() -> None:
    terminal = Terminal()
    status = StatusLine(terminal)
    status.clear()
    assert terminal.getvalue() == ""
    status.show("one\ntwo\x1b[2J")
    assert terminal.getvalue() == "\r\x1b[Kone two[2J"
    status.clear()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_off_a_terminal_it_is_silent() -> None:
    stream = io.StringIO()
    status = StatusLine(stream)
    status.show("loading")
    status.clear()
    assert stream.getvalue() == ""


def test_a_line_is_cut_to_the_terminals_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that wraps could not be rewritten; the last column is left free."""
    terminal = Terminal()
    status = StatusLine(terminal)
    status.show("x" * 300)
    assert terminal.getvalue() == "\r\x1b[K" + "x" * 79  # it does not tell
    monkeypatch.setattr(terminal, "fileno", lambda: 2)
    for columns, shown in [(120, 119), (40, 39), (0, 79)]:
        size = os.terminal_size((columns, 24))
        monkeypatch.setattr(os, "get_terminal_size", lambda file, size=size: size)
        terminal.truncate(0)
        terminal.seek(0)
        status.show("x" * 300)
        assert terminal.getvalue() == "\r\x1b[K" + "x" * shown
