"""Workers that are replaced, at any moment."""

import threading
from collections.abc import Callable, Iterator

import pytest

from mlx_maverick.client import Failed, Ready, Text, WorkerEvent
from mlx_maverick.tui.link import Engine, Link

from .conftest import FakeEngine
from .watched import SECONDS


class Workers:
    """All that were started, and the link to them; `moment` happens while one is starting."""

    def __init__(self) -> None:
        self.started: list[FakeEngine] = []
        self.woken = 0
        self.kept: list[str] = []
        self.moment: Callable[[], object] = lambda: None
        self.keeping: Callable[[], object] = lambda: None
        self.link = Link(self.connect, self.wake, self.keep)

    def connect(self, deliver: Callable[[WorkerEvent], None]) -> FakeEngine:
        engine = FakeEngine(deliver)
        self.started.append(engine)
        self.moment()
        return engine

    def wake(self) -> None:
        self.woken += 1

    def keep(self, event: Text) -> None:
        self.kept.append(event.text)
        self.keeping()

    def start(self, model: str) -> None:
        def load(engine: Engine) -> None:
            engine.load(model)

        self.link.start(load)

    @property
    def loads(self) -> list[str]:
        """What was loaded, and by how many."""
        return [load[0] for engine in self.started for load in engine.loads]

    def events(self) -> list[WorkerEvent]:
        taken = self.link.take()
        return [taken.popleft() for _ in range(len(taken))]


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers()
    yield workers
    for engine in workers.started:
        engine.ending.set()
    workers.link.close()


def join(name: str) -> None:
    """Wait for the threads of this name."""
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(SECONDS)
            assert not thread.is_alive()


def test_events_come_in_their_order_and_wake_once(workers: Workers) -> None:
    workers.start("a")
    (engine,) = workers.started
    first, second, third = Ready("1"), Text(1, "x", [1]), Ready("2")
    engine.deliver(first)
    engine.deliver(second)
    assert workers.woken == 1
    assert workers.events() == [first, second]
    engine.deliver(third)
    assert workers.woken == 2
    assert workers.events() == [third]
    assert workers.kept == ["x"]


def test_events_of_a_replaced_worker_never_count(workers: Workers) -> None:
    workers.start("a")
    (old,) = workers.started
    old.deliver(Ready("waits"))
    workers.start("b")
    join("starting")
    old.deliver(Ready("late"))
    old.deliver(Text(1, "late", [1]))
    assert workers.events() == []
    assert workers.kept == []
    new = Ready("new")
    workers.started[1].deliver(new)
    assert workers.events() == [new]
    workers.link.end()
    workers.started[1].deliver(Ready("late"))
    assert workers.events() == []
    assert workers.link.engine is None


def test_an_event_on_its_way_while_its_worker_is_ended(workers: Workers) -> None:
    workers.start("a")
    workers.keeping = workers.link.end
    workers.started[0].deliver(Text(1, "x", [1]))
    assert workers.events() == []


def test_starting_waits_until_the_memory_is_given_back(workers: Workers) -> None:
    workers.start("a")
    (old,) = workers.started
    old.ending.clear()
    workers.start("b")
    assert workers.started == [old]
    assert workers.link.engine is None
    old.ending.set()
    join("starting")
    assert old.closed
    assert workers.loads == ["a", "b"]
    assert workers.link.engine is workers.started[1]


def test_only_the_last_one_that_is_wanted_starts(workers: Workers) -> None:
    workers.start("a")
    (old,) = workers.started
    old.ending.clear()
    for model in "bcd":
        workers.start(model)
    old.ending.set()
    join("starting")
    assert workers.loads == ["a", "d"]


def test_none_starts_if_none_is_wanted_any_more(workers: Workers) -> None:
    workers.start("a")
    (old,) = workers.started
    old.ending.clear()
    workers.start("b")
    workers.link.end()
    old.ending.set()
    join("starting")
    assert workers.loads == ["a"]
    assert workers.link.engine is None


def test_ended_while_its_process_starts(workers: Workers) -> None:
    """It must not stay behind with the memory of a model."""
    starting, go = threading.Event(), threading.Event()

    def moment() -> None:
        starting.set()
        assert go.wait(SECONDS)

    workers.start("a")
    workers.started[0].ending.clear()
    workers.moment = moment
    workers.start("b")
    workers.started[0].ending.set()
    assert starting.wait(SECONDS)
    ending = threading.Thread(target=workers.link.end)
    ending.start()
    ending.join(0.05)  # it may be through already, or wait
    go.set()
    ending.join(SECONDS)
    join("starting")
    join("ending")
    assert workers.link.engine is None
    assert all(engine.closed for engine in workers.started)


def test_closing_waits_for_all(workers: Workers) -> None:
    results: list[bool] = []
    workers.start("a")
    workers.started[0].ending.clear()
    workers.link.end()
    workers.link._ending[0].join(0)  # it goes on
    closing = threading.Thread(target=lambda: results.append(workers.link.close()))
    closing.start()
    closing.join(0.05)
    assert results == []
    workers.started[0].ending.set()
    closing.join(SECONDS)
    assert results == [True]
    assert workers.started[0].closed


def test_closing_says_if_one_has_not_ended(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers.start("a")
    monkeypatch.setattr(workers.started[0], "close", lambda: False)
    workers.start("b")
    join("starting")
    assert workers.link.close() is False
    assert workers.started[1].closed


def test_a_process_that_cannot_be_started(workers: Workers) -> None:
    def moment() -> None:
        raise OSError("no processes left")

    workers.moment = moment
    workers.start("a")
    (event,) = workers.events()
    assert isinstance(event, Failed)
    assert (event.op, workers.link.engine) == ("load", None)
    assert "no processes left" in event.message
    assert workers.woken == 1
