"""The parent's end of the worker, with small children and with the real one."""

import os
import queue
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from mlx_maverick import errors
from mlx_maverick.client import (
    Client,
    Died,
    Failed,
    Loaded,
    Loading,
    Memory,
    Ready,
    Step,
    Text,
    WorkerEvent,
    decode,
)
from mlx_maverick.events import Finished, FinishReason, Prefill, Stats
from mlx_maverick.kv import KVOptions
from mlx_maverick.sampling import Sampling
from mlx_maverick.streaming.options import ExpertOptions, Mode
from mlx_maverick.streaming.stats import ExpertStats

SECONDS = 30
STATS = Stats(1, 0, 2, 0.5, 0.25, 3)
EXPERTS = ExpertStats(4, 16, 1000, hits=3, misses=1, bytes_read=250, read_seconds=0.5)


class Inbox:
    """What a client delivered."""

    def __init__(self) -> None:
        self.events: queue.Queue[WorkerEvent] = queue.Queue()

    def next(self, kind: type[Any]) -> Any:
        """The next event of a kind; others are passed over, except the end."""
        while True:
            event = self.events.get(timeout=SECONDS)
            if isinstance(event, kind):
                return event
            assert not isinstance(event, Died), event


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


Start = Callable[..., Client]


@pytest.fixture
def start(inbox: Inbox, tmp_path: Path) -> Iterator[Start]:
    """Start a client of a Python script, or of the real worker."""
    clients = []

    def make(script: str | None = None) -> Client:
        log = tmp_path / "worker.log"
        if script is None:
            clients.append(Client(inbox.events.put, log=log))
        else:
            clients.append(Client(inbox.events.put, [sys.executable, "-c", script], log))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    ("raw", "event"),
    [
        ({"event": "ready", "version": "1"}, Ready("1")),
        ({"event": "loading", "done": 1, "total": 2}, Loading(1, 2)),
        ({"event": "memory", "active": 1, "cache": 2, "peak": 3, "kv": 4}, Memory(1, 2, 3, 4)),
        (
            {"event": "memory", "active": 1, "cache": 2, "peak": 3, "kv": 4}
            | {"experts": asdict(EXPERTS)},
            Memory(1, 2, 3, 4, EXPERTS),
        ),
        ({"event": "token", "id": 1, "text": "x", "ids": [3, 4]}, Text(1, "x", [3, 4])),
        ({"event": "prefill", "id": 1, "done": 2, "total": 3}, Step(1, Prefill(2, 3))),
        (
            {
                "event": "finished",
                "id": 1,
                "reason": "memory",
                "stats": vars(STATS),
                "problem": "1 GB left",
            },
            Step(1, Finished(FinishReason.MEMORY, STATS, problem="1 GB left")),
        ),
        (
            {
                "event": "finished",
                "id": 1,
                "reason": "stop",
                "stats": asdict(replace(STATS, experts=EXPERTS)),
                "problem": None,
            },
            Step(1, Finished(FinishReason.STOP, replace(STATS, experts=EXPERTS))),
        ),
    ],
)
def test_events(raw: dict[str, Any], event: WorkerEvent) -> None:
    assert decode(raw) == event


@pytest.mark.parametrize(
    "raw",
    [{}, {"event": "fly"}, {"event": "token", "id": 1}, {"event": "finished", "reason": "why"}],
)
def test_no_events(raw: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        decode(raw)


def test_errors_come_back_as_what_they_were() -> None:
    error = Failed("load", None, "DoesNotFit", "too big", 4).error()
    assert type(error) is errors.DoesNotFit
    assert (str(error), error.exit_code) == ("too big", 4)
    for name in ("KeyError", "annotations", "__name__", ""):
        assert type(Failed(None, None, name, "x", 9).error()) is errors.MaverickError
    assert Failed(None, None, "New", "x", 9).error().exit_code == 9
    assert errors.MaverickError.exit_code == 1


def test_what_is_sent(start: Start, inbox: Inbox) -> None:
    echo = (
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "  e = {'event': 'token', 'id': 0, 'text': line, 'ids': [1]}\n"
        "  print(json.dumps(e), flush=True)\n"
    )
    client = start(echo)
    client.load("m", 5, KVOptions(8))
    streamed = ExpertOptions(Mode.STREAM, memory=7, route_log=Path("/tmp/routes"))
    client.load("m", experts=streamed)
    big = "x" * 300_000  # more than a pipe holds
    first = client.generate([{"role": "user", "content": big}], Sampling(seed=3))
    second = client.generate([], Sampling(stop=("a",)))
    client.cancel(first)
    said = [decode_json(inbox.next(Text).text) for _ in range(5)]
    kv = {"bits": 8, "start": 0, "max_size": None}
    experts = ExpertOptions().fields()
    assert said[0] == {"op": "load", "model": "m", "context": 5, "kv": kv, "experts": experts}
    assert said[1]["experts"] == {
        "mode": "stream",
        "memory": 7,
        "look_ahead": False,
        "file_cache": False,
        "route_log": "/tmp/routes",
    }
    assert (said[2]["op"], said[2]["id"], said[2]["options"]["seed"]) == ("generate", first, 3)
    assert said[2]["messages"][0]["content"] == big
    assert (said[3]["id"], said[3]["options"]["stop"]) == (second, ["a"])
    assert first != second
    assert said[4] == {"op": "cancel", "id": first}


def decode_json(text: str) -> Any:
    import json

    return json.loads(text)


def test_death_says_how_and_why(start: Start, inbox: Inbox, tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_text("of an earlier run\n")
    client = start(
        "import os, sys, signal\n"
        "for i in range(9): print('line', i, file=sys.stderr)\n"
        "print('libc++abi: out of memory', file=sys.stderr, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGABRT)\n"
    )
    died = inbox.next(Died)
    assert died.status == -signal.SIGABRT
    assert died.tail == ("line 5", "line 6", "line 7", "line 8", "libc++abi: out of memory")
    assert "killed by SIGABRT" in str(died)
    assert "libc++abi: out of memory" in str(died)
    assert str(tmp_path / "worker.log") in str(died)
    assert not client.alive
    client.generate([], Sampling())  # nobody hears it, and nothing breaks
    assert client.close()


def test_a_silent_death_quotes_no_earlier_run(start: Start, inbox: Inbox, tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_text("of an earlier run\n")
    start("raise SystemExit(3)")
    died = inbox.next(Died)
    assert (died.status, died.tail) == (3, ())
    assert "exit status 3" in str(died)


def test_a_line_that_is_no_event(start: Start, inbox: Inbox) -> None:
    start("print('noise', flush=True); import sys; sys.stdin.read()")
    assert "no event" in inbox.next(Failed).message


def test_closing_is_no_death(start: Start, inbox: Inbox) -> None:
    client = start("import sys; sys.stdin.read()")
    assert client.alive
    assert client.close()
    assert not client.alive
    assert client.close()
    assert inbox.events.empty()


def test_closing_terminates_what_does_not_listen(start: Start, inbox: Inbox) -> None:
    client = start('print(\'{"event": "ready", "version": ""}\', flush=True)\nwhile True: pass')
    inbox.next(Ready)
    assert client.close(patience=0.2)


def test_closing_never_kills(start: Start, inbox: Inbox) -> None:
    client = start(
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        'print(\'{"event": "ready", "version": ""}\', flush=True)\nwhile True: pass'
    )
    inbox.next(Ready)
    assert not client.close(patience=0.2)
    assert client.alive
    os.kill(client.pid, signal.SIGKILL)  # it holds no model


def test_a_long_log_is_started_afresh(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_bytes(b"x" * (1 << 21))
    start("import sys; sys.stdin.read()").close()
    assert log.stat().st_size == 0


def test_the_real_worker(start: Start, inbox: Inbox, maverick_mini: Path) -> None:
    client = start()
    client.load(str(maverick_mini))
    loaded = inbox.next(Loaded)
    assert (loaded.name, loaded.vision) == ("maverick-mini", True)
    messages = [{"role": "user", "content": "Hello"}]
    id = client.generate(messages, Sampling(temperature=0, max_tokens=6))
    assert inbox.next(Step).id == id
    text = inbox.next(Text)
    assert text.id == id
    end = inbox.next(Step)
    while isinstance(end.event, Prefill):
        end = inbox.next(Step)
    assert end.event.reason is FinishReason.LENGTH
    endless = client.generate(messages, Sampling(max_tokens=30_000, top_p=1, min_p=0, seed=1))
    client.cancel(endless)
    end = inbox.next(Step)
    while isinstance(end.event, Prefill):
        end = inbox.next(Step)
    assert end.id == endless
    assert end.event.stats.new_tokens < 30_000
    assert client.close()


def test_a_model_that_is_not_there(start: Start, inbox: Inbox, tmp_path: Path) -> None:
    start().load(str(tmp_path))
    failed = inbox.next(Failed)
    assert failed.op == "load"
    assert type(failed.error()) is errors.NotFound
    assert failed.exit_code == 3
