"""Replies that end before their time: what they leave is as if they had not gone further."""

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_maverick.errors import UsageError
from mlx_maverick.events import Finished, FinishReason, Prefill, collect
from mlx_maverick.maverick import Maverick
from mlx_maverick.prompt import Encoded
from mlx_maverick.session import Session
from mlx_maverick.stream import Stream

from .drive import GREEDY, Wanted, ask, assert_same, ids, quiet, said, streamed

START = ids(45)  # in the second chunk of 32
LONG = Encoded([*START.ids, *ids(90, 1).ids], [])  # one pass over three more
NEXT = Encoded([*START.ids, *ids(20, 2).ids], [])
AT = [1, 3, 5, 8]  # events after which it ends: layers that have taken the whole pass


@pytest.fixture(scope="module")
def wanted(e4r4: Path) -> Wanted:
    return Wanted(e4r4)


@pytest.fixture(scope="module")
def model(e4r4: Path) -> Maverick:
    """One for all: each test finds what those before have left."""
    return streamed(e4r4, 0.1)


def begun(model: Maverick, session: Session, events: int) -> Stream:
    """A reply to LONG in a session that holds START, left after so many events."""
    ask(model, START, session, max_tokens=1)
    stream = model.stream_encoded(LONG, session=session, **GREEDY)
    seen = [next(stream) for _ in range(events)]
    assert all(isinstance(event, Prefill) for event in seen)
    return stream


def right(model: Maverick, session: Session, wanted: Wanted) -> None:
    """Whatever comes next in the session is right."""
    for prompt in (NEXT, LONG, NEXT):
        wanted.check(model, prompt, session)


@pytest.mark.parametrize("events", AT)
@pytest.mark.parametrize("how", ["cancel", "close", "drop"])
def test_ended_in_the_middle_of_a_pass(
    model: Maverick, wanted: Wanted, events: int, how: str
) -> None:
    session = model.session()
    stream = begun(model, session, events)
    if how == "cancel":
        stream.cancel()
        last = list(stream)[-1]
        assert isinstance(last, Finished)
        assert last.reason is FinishReason.CANCELLED
    elif how == "close":
        stream.close()
    del stream
    assert quiet(model)
    right(model, session, wanted)


@pytest.mark.parametrize("events", AT)
def test_a_session_that_is_taken_from_a_reply_in_a_pass(
    model: Maverick, wanted: Wanted, events: int
) -> None:
    """The old reply may be there still, and go away at any time after that."""
    session = model.session()
    old = begun(model, session, events)
    wanted.check(model, NEXT, session)
    with pytest.raises(UsageError, match="its session was used for another one"):
        next(old)
    assert_same(session, wanted(NEXT)[1])
    old = begun(model, session, events)
    other = model.stream_encoded(NEXT, session=session, **GREEDY)
    seen = [next(other) for _ in range(4)]
    del old  # while the other one is in the middle of its own pass
    assert said(collect([*seen, *other])) == said(wanted(NEXT)[0])
    right(model, session, wanted)


@pytest.mark.parametrize("events", AT)
def test_a_fork_in_the_middle_of_a_pass(model: Maverick, wanted: Wanted, events: int) -> None:
    session = model.session()
    stream = begun(model, session, events)
    fork = session.fork()
    right(model, fork, wanted)
    assert said(collect(stream)) == said(wanted(LONG)[0])  # it goes on untouched
    assert_same(session, wanted(LONG)[1])


@pytest.mark.parametrize("events", AT)
def test_saved_in_the_middle_of_a_pass(
    model: Maverick, wanted: Wanted, tmp_path: Path, events: int
) -> None:
    session = model.session()
    stream = begun(model, session, events)
    session.save(tmp_path / "session")
    right(model, model.load_session(tmp_path / "session"), wanted)
    assert said(collect(stream)) == said(wanted(LONG)[0])
    assert_same(session, wanted(LONG)[1])


@pytest.mark.parametrize("question", [1, 2, 5, 9, 14, 30])
def test_stopped_at_any_question(model: Maverick, wanted: Wanted, question: int) -> None:
    """Also between experts of a layer."""
    session, asked = model.session(), 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == question

    ask(model, START, session, max_tokens=1)
    reply = ask(model, LONG, session, should_stop=stop)
    assert reply.finish_reason is FinishReason.CANCELLED
    assert asked == question
    assert quiet(model)
    right(model, session, wanted)


def test_cancelled_by_another_thread_while_it_reads(
    model: Maverick, wanted: Wanted, gate: Callable[[], tuple[threading.Event, threading.Event]]
) -> None:
    waits, go = gate()
    session = model.session()
    stream = model.stream_encoded(LONG, session=session, **GREEDY)
    replies: list[object] = []
    thread = threading.Thread(target=lambda: replies.append(collect(stream)))
    thread.start()
    assert waits.wait(20)
    stream.cancel()
    go.set()
    thread.join(20)
    (reply,) = replies
    assert reply.finish_reason is FinishReason.CANCELLED  # type: ignore[attr-defined]
    assert quiet(model)
    right(model, session, wanted)


def test_what_nobody_reads_on_is_given_up_at_once(model: Maverick, wanted: Wanted) -> None:
    """On another thread than the one that computes, while that is at another reply."""
    session = model.session()
    streams = [begun(model, model.session(), events) for events in AT * 3]
    gc.disable()
    try:
        dropping = threading.Thread(target=streams.clear)
        dropping.start()
        reply = ask(model, LONG, session)
        dropping.join()
    finally:
        gc.enable()
    assert said(reply) == said(wanted(LONG)[0])
