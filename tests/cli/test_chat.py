"""`mlx-maverick chat`: what it refuses before the screen opens, and the whole on a terminal."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mlx_maverick.image_source import DEMO_PICTURE
from mlx_maverick.prompt import Prompt
from mlx_maverick.sampling import Sampling
from mlx_maverick.tui.conversation import HALF
from mlx_maverick.tui.settings.settings import Settings
from mlx_maverick.tui.store import Store

from .terminal import Terminal, hues, over, wait

MAIN = "from mlx_maverick.cli.entry import entry; entry()"
# No file may grow beyond so many bytes: as if the disk were full.
FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}));"
READY = "4.7 M parameters"
ALTERNATE = "\x1b[?1049h"
QUIT, AGAIN, GO_ON, ESCAPE = "\x11", "\x12", "\x02", "\x1b"

Open = Callable[..., Terminal]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def database(home: Path) -> Path:
    """Where chats are kept; there are none."""
    path = home / "data" / "chats.db"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def terminal(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """`mlx-maverick chat` with some arguments, in an empty folder."""
    opened: list[Terminal] = []
    monkeypatch.chdir(tmp_path)

    def make(*arguments: str, full: int = 0, **environ: str) -> Terminal:
        main = FULL.format(full) + MAIN if full else MAIN
        words = [sys.executable, "-c", main, "chat", *arguments]
        opened.append(Terminal(words, {"MLX_MAVERICK_HOME": str(home), **environ}))
        return opened[-1]

    yield make
    for t in opened:
        t.close()


@pytest.fixture(scope="module")
def prompt(maverick_mini: Path) -> Prompt:
    return Prompt.from_folder(maverick_mini)


@pytest.fixture
def endless(maverick_mini: Path, prompt: Prompt, database: Path) -> tuple[str, ...]:
    """A chat whose replies do not end by themselves."""
    bias = dict.fromkeys(prompt.stop_ids, -1000.0)
    settings = Settings(str(maverick_mini), sampling=Sampling(logit_bias=bias))
    with Store.open(database) as store:
        chat = store.create_chat(str(maverick_mini), None, settings.as_dict())
    return "--resume", str(chat), "--max-tokens", "20000"


def messages(database: Path) -> list[Any]:
    """Of the first chat, as another process sees them."""
    with Store.open(database) as store:
        return store.load(1).path()


def replies(t: Terminal, database: Path, count: int, tokens: int) -> None:
    """Wait until the last of so many messages has so many tokens."""

    def enough() -> bool:
        path = messages(database)
        return len(path) == count and len(path[-1].ids) >= tokens

    t.until(enough, every=0.2)


def quit(t: Terminal) -> None:
    t.type(QUIT)
    assert t.ends() == 0


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
    assert ALTERNATE not in t.output


def test_a_conversation(terminal: Open) -> None:
    """With the model that comes with the package, which sees, and remembers."""
    t = terminal("--model", "demo", "--temp", "0")
    t.shows("3.2 M parameters")
    t.type("My name is Anna.\r")
    t.shows("Nice to meet you, Anna.")
    t.shows("tok/s")
    t.paste(str(DEMO_PICTURE))
    t.shows("168×112")
    t.type("What is in the picture?\r")
    t.shows("▣ shapes.png")
    t.shows("A red circle, a yellow star and a blue square.")
    t.type("What is my name?\r")
    t.shows("Your name is Anna.")
    (worker,) = t.children()
    quit(t)
    assert over(worker)
    assert any(hues(t.output))


def test_the_models_own_picture_by_name(terminal: Open, database: Path) -> None:
    t = terminal("--model", "demo", "--temp", "0", "--image", "demo")
    t.shows("168×112")
    t.type("Where is the star?\r")
    t.shows("At the top right.")
    t.type("/image demo\r")
    t.shows("7 tiles")
    quit(t)
    (question, _) = messages(database)
    assert [picture.name for picture in question.pictures] == ["shapes.png"]
    again = terminal("--continue")
    again.shows("3.2 M parameters")
    again.shows("At the top right.")
    quit(again)


@pytest.mark.parametrize("when", ["loading", "loaded"])
def test_terminated(terminal: Open, maverick_mini: Path, when: str) -> None:
    t = terminal("--model", str(maverick_mini))
    t.shows(READY if when == "loaded" else "loading")
    children = t.children()
    t.process.send_signal(signal.SIGTERM)
    assert t.ends() == 130
    assert t.output.rstrip().splitlines()[-1].endswith("mlx-maverick: terminated")
    assert all(over(child) for child in children)


def test_a_start_without_a_model(terminal: Open, maverick_mini: Path) -> None:
    t = terminal("--max-tokens", "5", "--seed", "1")
    t.shows("Models on this machine")
    t.shows("What it can run")
    t.type(f"{maverick_mini}\r")
    t.shows(READY)
    t.type("Hello\r")
    t.shows("cut off at --max-tokens")
    quit(t)
    again = terminal()  # the model of the last chat
    again.shows(READY)
    assert not again.says("Hello")
    quit(again)


def test_killed_and_resumed(
    terminal: Open, prompt: Prompt, database: Path, endless: tuple[str, ...]
) -> None:
    """Nothing is lost but the token in flight."""
    t = terminal(*endless)
    t.shows(READY)
    t.type("Talk at length\r")
    replies(t, database, 2, tokens=30)
    (worker,) = t.children()
    t.process.kill()
    t.ends()
    question, reply = messages(database)
    assert question.text == "Talk at length"
    assert reply.note == "broken off"
    # A character that was not whole yet has no text.
    whole = prompt.decode(reply.ids)
    assert whole.rstrip(HALF) == reply.text.rstrip(HALF)
    again = terminal("--continue", "--max-tokens", "5")
    again.shows("broken off · ctrl+b goes on")
    again.shows("enter sends")
    again.type(GO_ON)
    again.shows("cut off at --max-tokens")
    quit(again)
    _, longer = messages(database)
    assert longer.ids[: len(reply.ids)] == reply.ids
    assert len(longer.ids) == len(reply.ids) + 5
    wait(lambda: over(worker))  # it saw that nobody listens


def test_a_closed_window(terminal: Open, database: Path, endless: tuple[str, ...]) -> None:
    t = terminal(*endless)
    t.shows(READY)
    t.type("Talk at length\r")
    replies(t, database, 2, tokens=10)
    (worker,) = t.children()
    assert t.hang_up() == -signal.SIGHUP
    _, reply = messages(database)
    assert (reply.note, reply.whole) == ("broken off", True)
    wait(lambda: over(worker))


def test_a_killed_engine(terminal: Open, database: Path, endless: tuple[str, ...]) -> None:
    t = terminal(*endless)
    t.shows(READY)
    t.type("Talk at length\r")
    replies(t, database, 2, tokens=10)
    (worker,) = t.children()
    os.kill(worker, signal.SIGABRT)  # as Metal does without memory
    t.shows("killed by SIGABRT")
    t.type(f"{AGAIN}Go on\r")
    replies(t, database, 4, tokens=10)  # of one there may be no text yet
    quit(t)
    first, broken, second, reply = messages(database)
    assert (first.text, second.text) == ("Talk at length", "Go on")
    assert broken.note == reply.note == "broken off"


def test_a_full_disk(terminal: Open, database: Path, endless: tuple[str, ...]) -> None:
    t = terminal(*endless, full=100_000)
    t.shows(READY)
    t.type("Talk at length\r")
    t.shows("not saved")  # in the status line, while the reply comes
    t.type(ESCAPE)
    t.shows("this chat is not saved")
    t.shows("stopped")
    t.shows("enter sends")
    assert not t.says("saved again")
    t.type("And more\r")
    t.shows("esc stops")
    quit(t)
    question, reply = messages(database)
    assert question.text == "Talk at length"
    assert reply.note == "broken off"
    assert reply.ids


def test_no_colour(terminal: Open, maverick_mini: Path) -> None:
    t = terminal("--model", str(maverick_mini), "--max-tokens", "5", "--seed", "1", NO_COLOR="1")
    t.shows(READY)
    t.type("Hello\r")
    t.shows("cut off at --max-tokens")
    quit(t)
    assert ALTERNATE in t.output
    assert not list(hues(t.output))


def test_another_size_while_a_reply_comes(terminal: Open, endless: tuple[str, ...]) -> None:
    t = terminal(*endless)
    t.shows(READY)
    t.type("Talk at length\r")
    for columns, rows in ((40, 12), (60, 24), (40, 30), (100, 20), (60, 24)):
        t.shows("esc stops")
        t.resize(columns, rows)
        t.until(partial(_drawn, t, columns))
    t.type(ESCAPE)
    t.shows("stopped")
    t.shows("enter sends")
    t.settles()
    before = t.seen()
    t.resize(61, 24)
    t.settles()
    t.resize(60, 24)  # which draws everything anew
    t.settles()
    assert t.seen() == before
    quit(t)


def _drawn(t: Terminal, columns: int) -> bool:
    """Whether the editor is drawn, and as wide as the terminal."""
    lines = t.seen().splitlines()
    return any(
        line.startswith("╭") and line.endswith("╮") and len(line) == columns for line in lines
    )


def test_a_database_in_the_way(terminal: Open, maverick_mini: Path, database: Path) -> None:
    database.write_bytes(b"something else" * 100)
    t = terminal("--model", str(maverick_mini), "--max-tokens", "5", "--seed", "1")
    t.shows("Chats are not kept")
    t.shows(READY)
    t.type("Hello\r")
    t.shows("cut off at --max-tokens")
    quit(t)
    assert database.read_bytes() == b"something else" * 100


def test_a_wrong_config(terminal: Open, maverick_mini: Path, database: Path) -> None:
    database.with_name("config.toml").write_text("temperatur = 0.5\n")
    t = terminal("--model", str(maverick_mini))
    assert t.ends() == 2
    assert "did you mean temperature" in t.output
    assert ALTERNATE not in t.output
