"""What is left when a process dies, and two processes at once."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_maverick.tui.store import BROKEN_OFF, Store

from .conftest import say, titles

WRITE = """
import sys
from pathlib import Path
from mlx_maverick.tui.store import Store
store = Store.open(Path(sys.argv[1]))
chat = store.create_chat("folder", None, {})
asked = store.add_message(chat, None, "user", "Why?", (), True)
reply = store.add_message(chat, asked, "assistant", "", (), False)
for word in ("zebras ", "have ", "stripes"):
    store.append(reply, word, [len(word)])
print(chat, flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Other:
    """A process with the same store, in the middle of a reply."""

    def __init__(self, path: Path):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITE, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.chat = int(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def do(self, statement: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{statement}\n")
        self.process.stdin.flush()
        assert self._line() == "done\n"

    def kill(self) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.communicate()


@contextmanager
def other(path: Path) -> Iterator[Other]:
    made = Other(path)
    try:
        yield made
    finally:
        made.kill()


def test_nothing_is_lost_to_a_kill(path: Path) -> None:
    with other(path) as writer:
        writer.kill()
    with Store.open(path) as store:
        assert titles(store, "stripes") == ["Why?"]
        message = store.load(writer.chat).messages[-1]
        assert (message.text, message.ids) == ("zebras have stripes", (7, 5, 7))
        assert (message.note, message.whole, message.stats) == (BROKEN_OFF, True, None)
        assert store.load(writer.chat).leaf == message.id
        store.append(message.id, ", and more", [1])  # a person lets it go on
        store.finish(message.id, "", None)
        assert store.load(writer.chat).messages[-1].text == "zebras have stripes, and more"


def test_a_reply_that_another_process_writes_is_left_alone(path: Path) -> None:
    with other(path) as writer, Store.open(path) as store:
        message = store.load(writer.chat).messages[-1]
        assert (message.text, message.whole, message.note) == ("zebras have stripes", False, "")
        writer.do("store.append(reply, ', see', [1])")
        writer.do("store.finish(reply, '', None)")
        message = store.load(writer.chat).messages[-1]
        assert (message.text, message.whole, message.note) == ("zebras have stripes, see", True, "")


def test_a_death_is_seen_while_we_run(path: Path) -> None:
    with other(path) as writer, Store.open(path) as store:
        assert store.chats("stripes") == []  # not finished
        writer.kill()
        message = store.load(writer.chat).messages[-1]
        assert (message.text, message.note) == ("zebras have stripes", BROKEN_OFF)
        assert titles(store, "stripes") == ["Why?"]


def test_closing_in_the_middle_is_breaking_off(path: Path) -> None:
    with Store.open(path) as store:
        chat = say(store, "Why?")
        store.append(store.add_message(chat, 1, "assistant", "", (), False), "Be", [1])
    with Store.open(path) as store:
        message = store.load(chat).messages[-1]
        assert (message.text, message.note, message.whole) == ("Be", BROKEN_OFF, True)


def test_a_reply_of_which_nothing_came_is_broken_off_too(path: Path) -> None:
    with Store.open(path) as store:
        chat = say(store, "Why?")
        store.add_message(chat, 1, "assistant", "", (), False)
    with Store.open(path) as store:
        message = store.load(chat).messages[-1]
        assert (message.text, message.note) == ("", BROKEN_OFF)


def test_what_another_process_deleted_is_its_to_undo(path: Path) -> None:
    with other(path) as writer, Store.open(path) as store:
        writer.do("store.finish(reply, '', None)")
        writer.do("store.delete(chat)")
        assert store.chats() == []
        assert store.purge() == 0
        writer.do("store.restore(chat)")
        assert titles(store) == ["Why?"]
        writer.do("store.delete(chat)")
        writer.kill()
        assert store.purge() == 1


def test_a_chat_that_is_being_written_is_not_purged(path: Path) -> None:
    with other(path) as writer:
        with Store.open(path) as store:
            store.delete(writer.chat)
        with Store.open(path) as store:
            assert store.purge() == 0
            writer.do("store.append(reply, '!', [])")
            writer.do("store.finish(reply, '', None)")
            assert store.purge() == 1


def test_two_processes_write_at_once(path: Path) -> None:
    with other(path) as writer, Store.open(path) as store:
        chat = say(store, "Mine")
        reply = store.add_message(chat, store.load(chat).leaf, "assistant", "", (), False)
        for i in range(20):
            store.append(reply, f"{i} ", [i])
            writer.do("store.append(reply, '.', [0])")
        writer.do("store.finish(reply, '', None)")
        store.finish(reply, "", None)
        assert store.load(chat).messages[-1].ids == tuple(range(20))
        assert store.load(writer.chat).messages[-1].text == "zebras have stripes" + "." * 20


def test_many_processes_open_a_new_one(path: Path) -> None:
    code = WRITE.split("for line")[0]
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [p.communicate()[1] for p in processes] == [""] * 4
    with Store.open(path) as store:
        assert titles(store, "stripes") == ["Why?"] * 4


def test_the_files_of_the_dead_go(path: Path) -> None:
    with other(path) as writer:
        writer.kill()
    with other(path), Store.open(path) as store:
        store.purge()
        assert len(list(path.with_name("chats.db-writers").iterdir())) == 2  # the living
    with Store.open(path) as store:
        store.purge()
    assert list(path.with_name("chats.db-writers").iterdir()) == []
