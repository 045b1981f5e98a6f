"""The worker's protocol: in this process with a fake model, and as the real child."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_maverick.errors import BadImage, DoesNotFit, UsageError
from mlx_maverick.events import Event, Finished, FinishReason, Prefill, Stats, Token
from mlx_maverick.protocol import Load
from mlx_maverick.sampling import Sampling
from mlx_maverick.worker import Memory, Worker

SECONDS = 20
HI = [{"role": "user", "content": "hi"}]


class FakeModel:
    """Answers with `words`; a word may be an exception, or called to be waited for."""

    name, context, nbytes, parameters = "fake", 64, 1000, 500
    vision = False
    memory_limit = 10**9

    def __init__(self, words: list[Any]):
        self.words = words
        self.sessions = 0
        self.seen: list[tuple[Any, Sampling]] = []

    experts = None

    def session(self) -> Any:
        self.sessions += 1
        return SimpleNamespace(nbytes=7 * self.sessions)

    def stream(
        self, messages: Any, *, session: Any, sampling: Sampling, should_stop: Callable[[], bool]
    ) -> Iterator[Event]:
        self.seen.append((messages, sampling))
        yield Prefill(3, 3)
        reason, n = FinishReason.STOP, 0
        for word in self.words:
            if isinstance(word, Exception):
                raise word
            if callable(word):
                word()
                continue
            if should_stop():
                reason = FinishReason.CANCELLED
                break
            n += 1
            yield Token(word, n)
        yield Finished(reason, Stats(3, 0, n, 0.1, 0.2, 9))


class Harness:
    """A Worker on a thread, and both ends of its pipes."""

    def __init__(self, model: FakeModel, load: Any = None):
        requests, self.requests = os.pipe()
        events, out = os.pipe()
        self.events = os.fdopen(events, "rb")
        self.requests_open = True
        self.status: int | None = None

        def fake_load(request: Load, progress: Any) -> FakeModel:
            progress(1, 1)
            return model

        worker = Worker(requests, out, load or fake_load, lambda: Memory(1, 2, 3))

        def run() -> None:
            self.status = worker.run()
            os.close(out)

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def send(self, **request: Any) -> None:
        self.raw(json.dumps(request))

    def raw(self, line: str) -> None:
        os.write(self.requests, line.encode() + b"\n")

    def close(self) -> None:
        if self.requests_open:
            self.requests_open = False
            os.close(self.requests)

    def next(self, *kinds: str) -> dict[str, Any]:
        """The next event of these kinds; others are passed over."""
        for line in self.events:
            event: dict[str, Any] = json.loads(line)
            if event["event"] in kinds:
                return event
        raise AssertionError(f"the worker ended before {kinds}")

    def until_finished(self) -> list[dict[str, Any]]:
        seen = []
        while not seen or seen[-1]["event"] not in ("finished", "error"):
            seen.append(self.next("prefill", "token", "finished", "error"))
        return seen

    def ended(self) -> int | None:
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()
        return self.status


@pytest.fixture
def harness() -> Iterator[Callable[..., Harness]]:
    made: list[Harness] = []

    def make(words: list[Any], load: Any = None) -> Harness:
        made.append(Harness(FakeModel(words), load))
        return made[-1]

    yield make
    for h in made:
        h.close()
        h.thread.join(SECONDS)
        h.events.close()


def test_a_reply(harness: Callable[..., Harness]) -> None:
    h = harness(["a", "b\n", "é"])
    assert h.next("ready", "error")["event"] == "ready"
    h.send(op="load", model="x", context=None)
    assert h.next("loaded", "error") == {
        "event": "loaded",
        "name": "fake",
        "parameters": 500,
        "nbytes": 1000,
        "context": 64,
        "vision": False,
        "limit": 10**9,
    }
    assert h.next("memory") == {
        "event": "memory",
        "active": 1,
        "cache": 2,
        "peak": 3,
        "kv": 0,
        "experts": None,
    }
    h.send(op="generate", id=5, messages=HI, options={"max_tokens": 9, "stop": ["x"]})
    assert h.next("prefill") == {"event": "prefill", "id": 5, "done": 3, "total": 3}
    *tokens, last = h.until_finished()
    assert "".join(t["text"] for t in tokens) == "ab\né"
    assert [id for t in tokens for id in t["ids"]] == [1, 2, 3]
    assert last["id"] == 5
    assert last["reason"] == "stop"
    assert Stats(**last["stats"]) == Stats(3, 0, 3, 0.1, 0.2, 9)
    h.send(op="quit")
    assert h.ended() == 0


def test_the_session_is_kept(harness: Callable[..., Harness]) -> None:
    h = harness(["a"])
    h.send(op="load", model="x", context=10)
    kv = []
    for id in (1, 2):
        h.send(op="generate", id=id, messages=HI)
        while (event := h.next("memory", "finished"))["event"] == "memory":
            kv.append(event["kv"])
    assert set(kv) == {0, 7}  # a second session would say 14


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("17", "JSON object"),
        ('{"op": "fly"}', "'fly'"),
        ('{"no": "op"}', "unknown op None"),
        ('{"op": "load"}', "model"),
        ('{"op": "load", "model": "x", "context": "9"}', "context"),
        ('{"op": "generate", "id": true, "messages": []}', "id"),
        ('{"op": "generate", "id": 1, "messages": "hi"}', "messages"),
        ('{"op": "generate", "id": 1, "messages": [1]}', "message"),
        ('{"op": "generate", "id": 1, "messages": [], "options": {"heat": 1}}', "'heat'"),
        ('{"op": "generate", "id": 1, "messages": [], "options": {"top_p": 7}}', "top_p"),
        ('{"op": "generate", "id": 1, "messages": [], "options": {"top_p": "x"}}', "top_p"),
        ('{"op": "generate", "id": 1, "messages": [], "options": {"stop": 3}}', "stop"),
        ('{"op": "cancel"}', "id"),
        ('{"op": "generate", "id": 1, "messages": []}', "no model"),
    ],
)
def test_a_bad_request_is_an_error_and_no_more(
    harness: Callable[..., Harness], line: str, says: str
) -> None:
    h = harness(["a"])
    h.raw(line)
    error = h.next("error")
    assert says in error["message"]
    assert error["kind"] == "UsageError"
    assert error["exit_code"] == 2
    if '"id": 1' in line:
        assert error["id"] == 1  # whoever waits for it hears of it
    h.send(op="load", model="x", context=None)
    assert h.next("loaded", "error")["event"] == "loaded"


def test_cancel_counts_at_once(harness: Callable[..., Harness]) -> None:
    started, go_on = threading.Event(), threading.Event()

    def pause() -> None:
        started.set()
        go_on.wait(SECONDS)

    h = harness(["a", pause, "b", "c"])
    h.send(op="load", model="x", context=None)
    h.send(op="generate", id=1, messages=HI)
    h.send(op="generate", id=2, messages=HI)
    assert started.wait(SECONDS)
    h.send(op="cancel", id=1)
    h.send(op="cancel", id=2)  # not begun yet
    h.raw("?")  # answered by the thread that reads: the cancels before it are in force
    h.next("error")
    go_on.set()
    first, second = h.next("finished"), h.next("finished")
    assert (first["id"], first["reason"], first["stats"]["new_tokens"]) == (1, "cancelled", 1)
    assert (second["id"], second["reason"], second["stats"]["new_tokens"]) == (2, "cancelled", 0)
    h.send(op="generate", id=3, messages=HI)
    assert h.next("finished")["reason"] == "stop"


@pytest.mark.parametrize(
    ("error", "kind", "message", "code"),
    [
        (BadImage("cat.png: no\npicture"), "BadImage", "cat.png: no picture", 1),
        (UsageError("too long"), "UsageError", "too long", 2),
        (KeyError("x"), "MaverickError", "KeyError: 'x'", 1),
        (ValueError(), "MaverickError", "ValueError", 1),
    ],
)
def test_a_failed_reply_leaves_it_usable(
    harness: Callable[..., Harness], error: Exception, kind: str, message: str, code: int
) -> None:
    words: list[Any] = ["a", error]
    h = harness(words)
    h.send(op="load", model="x", context=None)
    h.send(op="generate", id=1, messages=HI)
    said = h.next("error")
    assert (said["op"], said["id"], said["kind"]) == ("generate", 1, kind)
    assert (said["message"], said["exit_code"]) == (message, code)
    words.pop()
    h.send(op="generate", id=2, messages=HI)
    assert h.next("finished")["id"] == 2


@pytest.mark.parametrize("error", [DoesNotFit("too big"), RuntimeError("boom")])
def test_a_failed_load_leaves_it_usable(harness: Callable[..., Harness], error: Exception) -> None:
    errors = [error]

    def load(request: Load, progress: Any) -> FakeModel:
        if errors:
            raise errors.pop()
        return FakeModel([])

    h = harness([], load)
    h.send(op="load", model="x", context=None)
    said = h.next("error")
    assert said["op"] == "load"
    assert str(error) in said["message"]
    assert said["exit_code"] == (4 if isinstance(error, DoesNotFit) else 1)
    h.send(op="load", model="x", context=None)
    h.next("loaded")


@pytest.mark.parametrize("how", ["eof", "quit"])
def test_the_end_of_requests_stops_a_reply(harness: Callable[..., Harness], how: str) -> None:
    started, go_on = threading.Event(), threading.Event()

    def pause() -> None:
        started.set()
        go_on.wait(SECONDS)

    h = harness(["a", pause] + ["b"] * 10_000)
    h.send(op="load", model="x", context=None)
    h.send(op="generate", id=1, messages=HI)
    assert started.wait(SECONDS)
    if how == "quit":
        h.send(op="quit")
    h.close()
    go_on.set()
    assert h.ended() == 0


def test_the_end_of_requests_stops_a_load(harness: Callable[..., Harness]) -> None:
    started = threading.Event()

    def load(request: Load, progress: Any) -> FakeModel:
        started.set()
        while True:
            progress(1, 1000)

    h = harness([], load)
    h.send(op="load", model="x", context=None)
    assert started.wait(SECONDS)
    h.close()
    assert h.ended() == 0


# The real child.


class Child:
    def __init__(self, *command: str):
        self.process = subprocess.Popen(
            [sys.executable, *(command or ("-m", "mlx_maverick.worker"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def send(self, **request: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()

    def next(self, *kinds: str) -> dict[str, Any]:
        assert self.process.stdout
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] in kinds:
                return event
        raise AssertionError(f"the worker ended before {kinds}")

    def end(self) -> tuple[int, bytes]:
        assert self.process.stdin
        assert self.process.stdout
        assert self.process.stderr
        self.process.stdin.close()
        self.process.stdout.read()
        said = self.process.stderr.read()
        status = self.process.wait(SECONDS)
        self.process.stdout.close()
        self.process.stderr.close()
        return status, said


NOISY = """
import os, sys
from mlx_maverick import worker
def load(request, progress):
    os.write(1, b"native noise")
    print("python noise", flush=True)
    assert os.read(0, 1) == b""
    assert "mlx" not in sys.modules
    raise ValueError("no more")
sys.exit(worker.main(load))
"""


def test_nothing_else_reaches_the_protocol() -> None:
    child = Child("-c", NOISY)
    child.send(op="load", model="x", context=None)
    assert child.next("error")["message"] == "ValueError: no more"
    status, said = child.end()
    assert status == 0
    assert b"native noise" in said
    assert b"python noise" in said


def test_interrupts_are_the_parents() -> None:
    child = Child()
    child.next("ready")
    child.process.send_signal(signal.SIGINT)
    child.send(op="fly")
    assert child.next("error")["op"] == "fly"
    assert child.end() == (0, b"")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_termination_is_clean(signum: signal.Signals) -> None:
    child = Child()
    child.next("ready")
    child.process.send_signal(signum)
    assert child.process.wait(SECONDS) == 0
    assert child.end() == (0, b"")


def test_importing_it_loads_no_mlx() -> None:
    code = (
        "import sys, mlx_maverick.worker, mlx_maverick.client;"
        "sys.exit(any(m in sys.modules for m in ('mlx', 'mlx_lm', 'textual', 'PIL')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_real_model(maverick_mini: Path, golden_picture: Path) -> None:
    child = Child()
    child.send(op="load", model=str(maverick_mini), context=2048)
    layers = child.next("loading")
    loaded = child.next("loaded", "error")
    assert layers["event"] == "loading"
    assert (loaded["event"], loaded["context"], loaded["vision"]) == ("loaded", 2048, True)
    options = {"temperature": 0, "max_tokens": 4}
    child.send(op="generate", id=1, messages=HI, options=options)
    assert child.next("finished", "error")["stats"]["new_tokens"] == 4
    picture = [
        {"type": "image", "image": str(golden_picture)},
        {"type": "text", "text": "What is this?"},
    ]
    seen = [{"role": "user", "content": picture}]
    child.send(op="generate", id=2, messages=seen, options=options)
    assert child.next("finished", "error")["event"] == "finished"
    missing = [{"role": "user", "content": [{"type": "image", "image": "/none.png"}]}]
    child.send(op="generate", id=3, messages=missing, options=options)
    error = child.next("finished", "error")
    assert (error["event"], error["id"]) == ("error", 3)
    assert "/none.png" in error["message"]
    child.send(op="generate", id=4, messages=seen, options=options)
    again = child.next("finished", "error")
    assert again["stats"]["cached_tokens"] > 0  # the refusal cost nothing
    assert child.end()[0] == 0


@pytest.fixture
def golden_picture(maverick_mini: Path) -> Path:
    return maverick_mini.parent / "tiles-336/00_300x200.png"
