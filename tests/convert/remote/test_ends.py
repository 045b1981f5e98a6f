"""The end of reading from the Hub: Ctrl-C, closing, and the end of the whole program."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import pytest

from mlx_maverick.convert.remote import Repository
from mlx_maverick.convert.remote.patience import Patience
from mlx_maverick.convert.remote.workers import Call, Stopped
from mlx_maverick.errors import MaverickError

from .hub_server import Answer, Fault, HubServer, Request, Stall, Status
from .mini_hub import CONTENT, REPO, SIZE, TOKEN, read

# Interruptions


def interrupted(hub: HubServer, action: Callable[[], object]) -> float:
    """Seconds from Ctrl-C, pressed when the server has fallen silent, to KeyboardInterrupt."""
    pressed = 0.0

    def press() -> None:
        nonlocal pressed
        assert hub.stalled.wait(10)
        pressed = time.monotonic()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    finger = threading.Thread(target=press)
    finger.start()
    with pytest.raises(KeyboardInterrupt):
        action()
    finger.join()
    return time.monotonic() - pressed


@pytest.mark.parametrize("count", [100, 50_000, SIZE])
def test_ctrl_c(hub: HubServer, count: int) -> None:
    with Repository.open(REPO, endpoint=hub.endpoint) as repository:
        hub.faults.always("cdn", Stall(99))
        assert interrupted(hub, lambda: read(repository, 0, count)) < 2
        if count < SIZE:  # otherwise every thread waits until its server is silent for too long
            hub.faults.clear()
            assert read(repository, 500, count) == CONTENT[500 : 500 + count]
        begin = time.monotonic()
    assert time.monotonic() - begin < 2
    assert hub.wait_until_left(2)


def test_ctrl_c_between_two_tries(hub: HubServer) -> None:
    with Repository.open(REPO, endpoint=hub.endpoint) as repository:

        def busy(_: Request) -> Fault:
            hub.stalled.set()
            return Status(503, {"Retry-After": "60"})

        hub.faults.choose("cdn", busy)
        assert interrupted(hub, lambda: read(repository)) < 2


def test_a_buffer_is_not_touched_after_its_read() -> None:
    call, buffer = Call(1), bytearray(3)
    call.write(memoryview(buffer), b"abc")
    call.stop()
    with pytest.raises(Stopped):
        call.write(memoryview(buffer), b"xyz")
    assert buffer == b"abc"


def test_an_interrupted_block_does_not_hold_up_others(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()
    fetch = repository._fetch

    def interrupted_once(name: str, offset: int, buffer: memoryview) -> None:
        if entered.is_set():
            return fetch(name, offset, buffer)
        entered.set()
        assert leave.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(repository._blocks, "_fetch", interrupted_once)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(read, repository, 0, 10)
        assert entered.wait(10)
        second = threads.submit(read, repository, 0, 10)
        time.sleep(0.05)
        leave.set()
        assert isinstance(first.exception(10), KeyboardInterrupt)
        assert second.result(10) == CONTENT[:10]


def test_closing_ends_reads_threads_and_connections(hub: HubServer) -> None:
    before = set(threading.enumerate())
    repository = Repository.open(REPO, endpoint=hub.endpoint)
    assert read(repository, 0, 50_000) == CONTENT[:50_000]
    hub.faults.always("cdn", Stall(99))
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(read, repository)
        assert hub.stalled.wait(10)
        begin = time.monotonic()
        repository.close()
        assert time.monotonic() - begin < 2
        error = reading.exception(2)
    assert isinstance(error, MaverickError)
    assert "closed" in str(error)
    left = {t for t in set(threading.enumerate()) - before if t.name.startswith(REPO)}
    assert left == set()
    huggingface_hub.close_session()  # the one connection of the listing is its own
    assert hub.wait_until_left(2)
    with pytest.raises(MaverickError, match="closed"):
        read(repository)
    repository.close()


def test_closing_gives_idle_connections_back(hub: HubServer, repository: Repository) -> None:
    assert read(repository) == CONTENT
    opened = list(repository._ranges.sockets._open)
    assert max(each.fileno() for each in opened) > 0
    repository.close()
    assert {each.fileno() for each in opened} == {-1}


def test_one_end_does_not_disturb_another(hub: HubServer, patience: Patience) -> None:
    one = Repository.open(REPO, endpoint=hub.endpoint, patience=patience)
    two = Repository.open(REPO, endpoint=hub.endpoint, patience=patience)
    assert read(one) == read(two) == CONTENT
    one.close()
    assert read(two) == CONTENT
    huggingface_hub.close_session()  # anyone may do this
    assert read(two) == CONTENT
    two.close()


# Another process: the environment, what is printed, the end

SCRIPT = """
import sys, threading
from mlx_maverick.convert.remote import Repository
from mlx_maverick.errors import MaverickError
try:
    repository = Repository.open(sys.argv[1])
    buffer = bytearray(repository.sizes["model.safetensors"])
    def read():
        repository.read("model.safetensors", 0, memoryview(buffer))
    if sys.argv[2] == "thread":
        threading.Thread(target=read, daemon=True).start()
        sys.stdin.readline()
    else:
        read()
        sys.stdout.buffer.write(buffer)
except MaverickError as e:
    print(e)
    sys.exit(e.exit_code)
"""


def child(hub: HubServer, home: Path, how: str, **environment: str) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, REPO, how],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**hub.environment(home), "PYTHONPATH": str(root), **environment},
    )  # fmt: skip


def test_the_environment_is_honoured_and_nothing_printed(hub_folder: Path, tmp_path: Path) -> None:
    with HubServer({REPO: hub_folder}, token=TOKEN) as hub:
        hub.faults.next("api", Answer(headers={"X-HF-Warning": "topic; You have no token."}))
        with child(hub, tmp_path, "read") as process:
            out, err = process.communicate(timeout=30)
        assert (out, err, process.returncode) == (CONTENT, b"", 0)
        with child(hub, tmp_path, "read", HF_TOKEN="hf_other") as process:
            out, err = process.communicate(timeout=30)
        assert (b"refuses the token" in out, err, process.returncode) == (True, b"", 1)
        with child(hub, tmp_path, "read", HF_HUB_OFFLINE="1") as process:
            out, err = process.communicate(timeout=30)
        assert (b"HF_HUB_OFFLINE" in out, err, process.returncode) == (True, b"", 3)


@pytest.mark.parametrize("how", ["read", "thread"])
def test_a_program_ends_at_once(hub: HubServer, tmp_path: Path, how: str) -> None:
    """By Ctrl-C in a read, or at its end while a thread still reads."""
    hub.faults.always("cdn", Stall(99))
    with child(hub, tmp_path, how) as process:
        assert hub.stalled.wait(30)
        begin = time.monotonic()
        if how == "read":
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(b"\n", timeout=30)
        assert time.monotonic() - begin < 5
    assert process.returncode == (-signal.SIGINT if how == "read" else os.EX_OK)
    assert (b"KeyboardInterrupt" in err) == (how == "read")
    assert b"Fatal" not in err
