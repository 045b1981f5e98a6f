"""What the worker's events mean, without an app."""

import threading

import pytest

from mlx_maverick.client import Failed, Loading, Memory, Step, Text
from mlx_maverick.errors import MaverickError
from mlx_maverick.events import Finished, FinishReason, Stats
from mlx_maverick.kv import KVOptions
from mlx_maverick.pressure import Reading
from mlx_maverick.sampling import Sampling
from mlx_maverick.streaming.options import ExpertOptions
from mlx_maverick.tui import happened as chat
from mlx_maverick.tui.conversation import Draft
from mlx_maverick.tui.live import Phase

from .desk import Desk


def test_loading() -> None:
    desk = Desk(context=77)
    assert desk.engine.loads == [("folder", 77, KVOptions(), ExpertOptions())]
    assert desk.controller.busy
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
    assert (ended.reply.text, ended.reply.note, ended.reply.whole) == ("partial", note, True)
    assert desk.controller.conversation.leaf is ended.reply


def test_stopping_before_the_first_word_returns_the_message() -> None:
    desk = Desk().ready()
    desk.controller.send(Draft("x"))
    desk.controller.stop()
    assert desk.engine.cancelled == [1]
    desk.engine.finish(FinishReason.CANCELLED, new=0)
    (returned,) = desk.drain(chat.MessageReturned)
    assert (returned.draft, returned.error) == (Draft("x"), None)
    assert not desk.controller.conversation
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
    assert (ended.reply.text, ended.reply.note) == ("some", "broken off: boom")


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
    desk.restart()
    assert len(desk.engines) == 2
    assert desk.engines[0].closed
    desk.ready()
    assert desk.controller.send(Draft("three")) == ""
    said = [m["content"] for m in desk.engine.asked[-1][0]]
    assert said == ["one", "1", *(["two", "some"] if words else []), "three"]


def test_a_model_that_answers_can_be_loaded_again() -> None:
    """Its files were changed, for instance; what an ended worker still says does not count."""
    desk = Desk().ready()
    before = desk.engine
    desk.restart()
    assert before.closed
    assert desk.controller.phase is Phase.LOADING
    before.loaded()
    before.die()
    assert desk.drain(chat.ModelReady, chat.ModelFailed) == []
    assert desk.controller.phase is Phase.LOADING


def test_a_reply_on_its_way_is_not_disturbed() -> None:
    desk = Desk().ready()
    desk.controller.send(Draft("x"))
    desk.controller.restart()
    assert (len(desk.engines), desk.controller.phase) == (1, Phase.ANSWERING)


def test_the_next_model_waits_for_the_memory_of_the_last() -> None:
    desk = Desk().ready()
    freed = threading.Event()
    desk.engine.ending = freed
    desk.controller.restart()
    assert (len(desk.engines), desk.controller.phase) == (1, Phase.LOADING)
    freed.set()
    desk.wait(lambda: len(desk.engines) == 2)
    desk.ready()
    assert desk.controller.phase is Phase.READY


def test_loading_can_be_stopped() -> None:
    desk = Desk()
    assert desk.controller.send(Draft("early")) == ""
    desk.controller.stop()
    assert desk.controller.phase is Phase.ENDED
    desk.wait(lambda: desk.engine.closed)
    assert [m for m in desk.posted if isinstance(m, chat.LoadingStopped)]
    (returned,) = [m for m in desk.posted if isinstance(m, chat.MessageReturned)]
    assert (returned.draft, returned.error) == (Draft("early"), None)
    desk.engine.loaded()  # too late
    assert desk.drain(chat.ModelReady) == []


def test_a_process_that_cannot_start_is_told() -> None:
    desk = Desk().ready()
    desk.engine.die()
    desk.drain()

    desk.broken = OSError("too many processes")
    desk.restart()
    desk.wait(lambda: desk.drain(chat.ModelFailed) or desk.controller.phase is Phase.ENDED)
    (failed,) = [m for m in desk.posted if isinstance(m, chat.ModelFailed)]
    assert "too many processes" in str(failed.error)
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


def test_nothing_can_be_asked_without_a_model() -> None:
    desk = Desk().ready()
    desk.ask("one", "1")
    question, reply = desk.controller.conversation.path()
    desk.engine.die()
    desk.drain()
    refusals = {
        desk.controller.send(Draft("two")),
        desk.controller.edit(question, Draft("two")),
        desk.controller.regenerate(),
        desk.controller.go_on(reply),
    }
    assert refusals == {"there is no model: ctrl+r loads it"}
    assert desk.controller.conversation.path() == [question, reply]
    assert desk.controller.phase is Phase.ENDED


def test_what_came_before_the_end_is_kept() -> None:
    """Also if nobody has looked yet."""
    desk = Desk().ready()
    desk.controller.send(Draft("x"))
    desk.engine.say("some")
    desk.controller.close()
    question, reply = desk.controller.conversation.path()
    assert (question.text, reply.text, reply.note) == ("x", "some", "broken off")
