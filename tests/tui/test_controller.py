"""What the worker's events mean, without an app."""

from typing import Any

import pytest
from textual.message import Message

from mlx_maverick.client import Failed, Loading, Memory, Step, Text
from mlx_maverick.errors import MaverickError
from mlx_maverick.events import Finished, FinishReason, Stats
from mlx_maverick.kv import KVOptions
from mlx_maverick.pressure import Pressure, Reading
from mlx_maverick.sampling import Sampling
from mlx_maverick.streaming.options import ExpertOptions
from mlx_maverick.tui import controller as chat
from mlx_maverick.tui.controller import Controller, Options
from mlx_maverick.tui.conversation import Draft
from mlx_maverick.tui.live import Phase

from .conftest import FakeEngine


class Desk:
    """A controller with a fake worker, a clock that stands still, and what it posted."""

    def __init__(self, **options: Any) -> None:
        self.engines: list[FakeEngine] = []
        self.now = 100.0
        self.readings = 0
        self.pressure = Pressure.NORMAL
        self.posted: list[Message] = []
        self.controller = Controller(
            self.connect, Options("folder", **options), self.read, lambda: self.now
        )
        self.controller.start()
        self.controller.bind(self.posted.append)

    @property
    def engine(self) -> FakeEngine:
        return self.engines[-1]

    def connect(self, deliver: Any) -> FakeEngine:
        self.engines.append(FakeEngine(deliver))
        return self.engines[-1]

    def read(self) -> Reading:
        self.readings += 1
        return Reading(1, 1, 0, 0, self.pressure)

    def drain(self, *kinds: type[Message]) -> list[Any]:
        """What is posted by handling what came."""
        self.posted.clear()
        self.controller.drain()
        return [m for m in self.posted if isinstance(m, kinds or (Message,))]

    def ready(self) -> "Desk":
        self.engine.loaded()
        self.drain()
        return self


def test_loading() -> None:
    desk = Desk(context=77)
    assert desk.engine.loads == [("folder", 77, KVOptions(), ExpertOptions())]
    assert desk.controller.busy
    assert desk.controller.send(Draft("x")) == "the model is still loading"
    desk.engine.deliver(Loading(3, 48))
    desk.now += 1
    (changed,) = desk.drain(chat.LiveChanged)
    assert (changed.live.loaded, changed.live.to_load) == (3, 48)
    desk.engine.loaded()
    (ready,) = desk.drain(chat.ModelReady)
    assert ready.model.name == "fake"
    assert desk.controller.phase is Phase.READY
    assert not desk.controller.busy


def test_the_status_changes_four_times_a_second() -> None:
    desk = Desk().ready()
    desk.controller.send(Draft("x"))
    shown = 0
    for _ in range(40):  # two seconds of drains
        desk.now += 0.05
        desk.engine.say("word ")
        shown += len(desk.drain(chat.LiveChanged))
    assert 5 <= shown <= 8
    assert desk.readings <= 4  # the machine is asked once a second


def test_speed_is_live_and_counts_tokens_not_events() -> None:
    desk = Desk().ready()
    desk.controller.send(Draft("x"))
    desk.engine.prefill(0, 30)
    desk.engine.prefill(30, 30)
    desk.engine.say("a", 2)
    desk.drain()
    desk.now += 2
    desk.engine.say("b c d", 20)
    (changed,) = desk.drain(chat.LiveChanged)
    assert changed.live.tps == pytest.approx(10)
    assert (changed.live.prompt, changed.live.context_used) == (30, 52)
    desk.engine.finish(prompt=30, new=22)
    desk.drain()
    assert desk.controller.live.tps == pytest.approx(21 / 0.5)  # the worker's own
    assert desk.controller.live.context_used == 52


def test_text_of_one_drain_is_one_message() -> None:
    desk = Desk().ready()
    desk.controller.send(Draft("x"))
    for word in ("a", "b", "", "c"):
        desk.engine.say(word)
    assert [m.text for m in desk.drain(chat.ReplyGrew)] == ["abc"]
    assert desk.drain(chat.ReplyGrew) == []


def test_a_conversation_goes_back_as_it_was() -> None:
    desk = Desk(system="Be brief.", sampling=Sampling(seed=1)).ready()
    desk.controller.send(Draft("one"))
    desk.engine.say("\x1bred")  # shown without, but the model's own text is not changed
    desk.engine.finish()
    desk.drain()
    assert desk.controller.send(Draft("two")) == ""
    messages, sampling = desk.engine.asked[-1]
    assert messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "\x1bred", "token_ids": [0]},
        {"role": "user", "content": "two"},
    ]
    assert sampling.seed == 1


def test_one_reply_at_a_time() -> None:
    desk = Desk().ready()
    assert desk.controller.send(Draft("x")) == ""
    assert "esc" in desk.controller.send(Draft("y"))
    assert len(desk.engine.asked) == 1


def test_events_of_an_earlier_reply_are_not_this_ones() -> None:
    desk = Desk().ready()
    desk.controller.send(Draft("x"))
    desk.engine.deliver(Text(99, "late", [1]))
    desk.engine.deliver(Step(99, Finished(FinishReason.STOP, Stats(1, 0, 1, 1, 1, 1))))
    assert desk.drain(chat.ReplyGrew, chat.ReplyEnded) == []
    assert desk.controller.phase is Phase.ANSWERING


@pytest.mark.parametrize(
    ("reason", "used", "note"),
    [
        (FinishReason.STOP, 15, ""),
        (FinishReason.CANCELLED, 15, "stopped"),
        (FinishReason.LENGTH, 15, "cut off at --max-tokens"),
        (FinishReason.LENGTH, 1000, "cut off: the context is full"),
    ],
)
def test_ends(reason: FinishReason, used: int, note: str) -> None:
    desk = Desk().ready()
    desk.controller.send(Draft("x"))
    desk.engine.say("partial")
    desk.engine.finish(reason, prompt=used - 5, new=5)
    (ended,) = desk.drain(chat.ReplyEnded)
    assert ended.note == note
    assert desk.controller.conversation.turns[-1].reply == "partial"


def test_stopping_before_the_first_word_returns_the_message() -> None:
    desk = Desk().ready()
    desk.controller.send(Draft("x"))
    desk.controller.stop()
    assert desk.engine.cancelled == [1]
    desk.engine.finish(FinishReason.CANCELLED, new=0)
    (returned,) = desk.drain(chat.MessageReturned)
    assert (returned.draft, returned.error) == (Draft("x"), None)
    assert desk.controller.conversation.turns == []
    desk.controller.stop()
    assert desk.engine.cancelled == [1]  # nothing to stop


def test_a_refusal_returns_the_message() -> None:
    desk = Desk().ready()
    desk.controller.send(Draft("x"))
    desk.engine.refuse("too long")
    (returned,) = desk.drain(chat.MessageReturned)
    assert str(returned.error) == "too long"
    assert desk.controller.phase is Phase.READY


def test_a_failure_after_some_words_keeps_them() -> None:
    desk = Desk().ready()
    desk.controller.send(Draft("x"))
    desk.engine.say("some")
    desk.engine.refuse("boom", "MaverickError", 1)
    (ended,) = desk.drain(chat.ReplyEnded)
    assert ended.note == "broken off: boom"
    assert desk.controller.conversation.turns[-1].reply == "some"


def test_trouble_that_belongs_to_nothing_is_told() -> None:
    desk = Desk().ready()
    desk.engine.deliver(Failed(None, None, "UsageError", "what?", 2))
    assert [m.text for m in desk.drain(chat.Trouble)] == ["what?"]


@pytest.mark.parametrize("words", ["", "some"])
def test_death_and_another_life(words: str) -> None:
    desk = Desk().ready()
    desk.controller.send(Draft("one"))
    desk.engine.say("1")
    desk.engine.finish()
    desk.drain()
    desk.controller.send(Draft("two"))
    desk.engine.say(words)
    desk.engine.die()
    *_, failed = desk.drain(chat.MessageReturned, chat.ReplyEnded, chat.ModelFailed)
    assert "SIGABRT" in str(failed.error)
    assert "out of memory" in str(failed.error)
    assert bool([m for m in desk.posted if isinstance(m, chat.MessageReturned)]) == (not words)
    assert desk.controller.phase is Phase.ENDED
    assert "ctrl+r" in desk.controller.send(Draft("three"))
    desk.controller.restart()
    assert len(desk.engines) == 2
    assert desk.engines[0].closed
    desk.ready()
    assert desk.controller.send(Draft("three")) == ""
    said = [m["content"] for m in desk.engine.asked[-1][0]]
    assert said == ["one", "1", *(["two", "some"] if words else []), "three"]


def test_restarting_what_runs_does_nothing() -> None:
    desk = Desk().ready()
    desk.controller.restart()
    assert len(desk.engines) == 1


def test_a_process_that_cannot_start_is_told() -> None:
    desk = Desk().ready()
    desk.engine.die()
    desk.drain()

    def fail(deliver: Any) -> FakeEngine:
        raise OSError("too many processes")

    desk.controller._connect = fail
    desk.posted.clear()
    desk.controller.restart()
    assert any(
        "too many processes" in str(m.error) for m in desk.posted if isinstance(m, chat.ModelFailed)
    )
    assert desk.controller.phase is Phase.ENDED


def test_a_wake_for_what_comes_while_nobody_drains() -> None:
    desk = Desk().ready()
    desk.posted.clear()
    desk.engine.deliver(Memory(1, 1, 1, 1))
    desk.engine.deliver(Memory(2, 2, 2, 2))
    assert [type(m) for m in desk.posted] == [chat.Wake]
    desk.drain()
    desk.posted.clear()
    desk.engine.deliver(Memory(3, 3, 3, 3))
    assert [type(m) for m in desk.posted] == [chat.Wake]
    desk.controller.bind(None)
    desk.posted.clear()
    desk.drain()
    desk.engine.deliver(Memory(4, 4, 4, 4))
    assert desk.posted == []


def test_a_machine_that_does_not_tell_its_pressure() -> None:
    desk = Desk()

    def fail() -> Reading:
        raise MaverickError("not here")

    desk.controller._read_memory = fail
    desk.now += 10
    desk.ready()
    assert desk.controller.live.pressure == "unknown"
