"""What a person can do with messages that are there already, without an app."""

from typing import Any

import pytest

from mlx_maverick.events import FinishReason
from mlx_maverick.sampling import Sampling
from mlx_maverick.tui import happened as chat
from mlx_maverick.tui.conversation import Draft
from mlx_maverick.tui.live import Phase
from mlx_maverick.tui.settings.settings import Settings

from .desk import Desk


def said(desk: Desk) -> list[str]:
    """What is shown of the conversation."""
    return [node.text for node in desk.controller.conversation.path()]


def sent(desk: Desk) -> list[str]:
    """What the model was given last."""
    return [m["content"] for m in desk.engine.asked[-1][0]]


@pytest.fixture
def desk() -> Desk:
    """Two questions were answered."""
    desk = Desk().ready()
    desk.ask("one", "1")
    desk.ask("two", "2")
    return desk


def test_another_reply(desk: Desk) -> None:
    assert desk.controller.regenerate() == ""
    assert sent(desk) == ["one", "1", "two"]
    desk.answer("zwei")
    assert said(desk) == ["one", "1", "two", "zwei"]
    last = desk.controller.conversation.leaf
    assert last is not None
    assert desk.controller.conversation.version(last) == (2, 2)
    assert desk.controller.turn(last, -1) == ""
    assert said(desk) == ["one", "1", "two", "2"]
    assert "no other version" in desk.controller.turn(desk.controller.conversation.path()[-1], -1)


def test_another_reply_in_the_middle(desk: Desk) -> None:
    first = desk.controller.conversation.path()[1]
    assert desk.controller.regenerate(first) == ""
    assert sent(desk) == ["one"]
    desk.answer("eins")
    assert said(desk) == ["one", "eins"]
    assert desk.controller.turn(desk.controller.conversation.path()[1], -1) == ""
    assert said(desk) == ["one", "1", "two", "2"]  # and all that followed it


@pytest.mark.parametrize("way", ["stopped", "refused"])
def test_nothing_came_of_another_reply(desk: Desk, way: str) -> None:
    desk.controller.regenerate()
    if way == "stopped":
        desk.engine.finish(FinishReason.CANCELLED, new=0)
    else:
        desk.engine.refuse("no room")
    happened = desk.drain()
    assert said(desk) == ["one", "1", "two", "2"]
    assert not [m for m in happened if isinstance(m, chat.MessageReturned)]
    told = [m.text for m in happened if isinstance(m, chat.Trouble)]
    assert told == ([] if way == "stopped" else ["no room"])
    assert desk.controller.phase is Phase.READY


def test_an_earlier_question_in_other_words(desk: Desk) -> None:
    question = desk.controller.conversation.path()[0]
    assert desk.controller.edit(question, Draft("uno")) == ""
    assert sent(desk) == ["uno"]
    desk.answer("I")
    assert said(desk) == ["uno", "I"]
    desk.ask("due", "II")
    assert said(desk) == ["uno", "I", "due", "II"]
    desk.controller.turn(desk.controller.conversation.path()[0], -1)
    assert said(desk) == ["one", "1", "two", "2"]
    desk.controller.turn(question, 1)
    assert said(desk) == ["uno", "I", "due", "II"]


@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.CANCELLED])
def test_going_on_with_a_cut_reply(desk: Desk, reason: FinishReason) -> None:
    desk.controller.send(Draft("three"))
    desk.engine.say("because of", 3)
    desk.engine.finish(reason)
    desk.drain()
    assert desk.controller.go_on() == ""
    last = desk.engine.asked[-1][0][-1]
    assert last == {
        "role": "assistant", "content": "because of", "token_ids": [0, 1, 2], "partial": True,
    }  # fmt: skip
    desk.answer(" this", 2)
    leaf = desk.controller.conversation.leaf
    assert leaf is not None
    assert (leaf.text, leaf.ids, leaf.note) == ("because of this", [0, 1, 2, 0, 1], "")
    desk.ask("four", "4")
    assert "partial" not in desk.engine.asked[-1][0][-2]


def test_half_a_character_becomes_whole(desk: Desk) -> None:
    desk.controller.send(Draft("three"))
    desk.engine.say("caf\ufffd")
    desk.engine.finish(FinishReason.LENGTH)
    desk.drain()
    desk.controller.go_on()
    desk.answer("é")
    assert said(desk)[-1] == "café"


def test_nothing_came_of_going_on(desk: Desk) -> None:
    desk.controller.send(Draft("three"))
    desk.engine.say("because")
    desk.engine.finish(FinishReason.LENGTH)
    desk.drain()
    desk.controller.go_on()
    desk.engine.refuse("the context is full")
    desk.drain()
    leaf = desk.controller.conversation.leaf
    assert leaf is not None
    assert (leaf.text, leaf.note, leaf.whole) == ("because", "cut off at --max-tokens", True)
    assert desk.controller.go_on() == ""


def test_only_the_end_of_what_was_cut_can_go_on(desk: Desk) -> None:
    path = desk.controller.conversation.path()
    assert "went on after" in desk.controller.go_on(path[1])
    assert "is whole" in desk.controller.go_on()
    assert "no reply" in desk.controller.go_on(path[2])
    assert "nothing to answer" in Desk().ready().controller.regenerate()
    assert desk.controller.phase is Phase.READY


def test_messages_wait_for_the_reply(desk: Desk) -> None:
    desk.controller.send(Draft("three"))
    assert desk.controller.send(Draft("four")) == ""
    assert desk.controller.send(Draft("five")) == ""
    assert [d.text for d in desk.controller.queue] == ["four", "five"]
    assert desk.controller.live.queued == 2
    assert len(desk.engine.asked) == 3
    desk.answer("3")
    assert sent(desk)[-1] == "four"
    desk.answer("4")
    assert sent(desk) == ["one", "1", "two", "2", "three", "3", "four", "4", "five"]
    desk.answer("5")
    assert desk.controller.live.queued == 0
    assert desk.controller.phase is Phase.READY


def test_what_waits_can_be_taken_back(desk: Desk) -> None:
    desk.controller.send(Draft("three"))
    desk.controller.send(Draft("four"))
    desk.controller.send(Draft("five"))
    assert desk.controller.take_back() == Draft("five")
    assert desk.controller.take_back() == Draft("four")
    assert desk.controller.take_back() is None
    desk.answer("3")
    assert said(desk)[-2:] == ["three", "3"]


@pytest.mark.parametrize("way", ["stop", "fail", "die", "memory"])
def test_what_waits_goes_back_if_the_reply_ends_badly(desk: Desk, way: str) -> None:
    desk.controller.send(Draft("three"))
    desk.controller.send(Draft("four"))
    desk.controller.send(Draft("five"))
    desk.engine.say("3")
    match way:
        case "stop":
            desk.engine.finish(FinishReason.CANCELLED)
        case "memory":
            desk.engine.finish(FinishReason.MEMORY)
        case "fail":
            desk.engine.refuse("boom")
        case "die":
            desk.engine.die()
    (returned,) = desk.drain(chat.MessageReturned)
    assert returned.draft == Draft("four\nfive")
    assert said(desk)[-2:] == ["three", "3"]
    assert desk.controller.queue == ()
    assert len(desk.engine.asked) == 3


def test_what_was_written_while_loading_is_sent() -> None:
    desk = Desk()
    assert desk.controller.send(Draft("early")) == ""
    desk.ready()
    assert sent(desk) == ["early"]


def test_nothing_is_changed_under_a_reply(desk: Desk) -> None:
    controller = desk.controller
    path = controller.conversation.path()
    controller.send(Draft("three"))
    refusals = [
        controller.regenerate(), controller.go_on(), controller.edit(path[0], Draft("x")),
        controller.turn(path[0], 1), controller.new_chat(), controller.open_chat(1),
    ]  # fmt: skip
    assert all("esc stops" in refusal for refusal in refusals)
    assert len(desk.engine.asked) == 3


def test_a_new_chat(desk: Desk) -> None:
    assert desk.controller.new_chat() == ""
    assert said(desk) == []
    desk.ask("hello", "hi")
    assert sent(desk) == ["hello"]


def test_other_settings_of_replies_need_no_other_model(desk: Desk) -> None:
    new = Settings("folder", system="Be brief.", sampling=Sampling(temperature=0))
    desk.controller.change(new)
    assert (len(desk.engines), desk.controller.phase) == (1, Phase.READY)
    desk.ask("three", "3")
    messages, sampling = desk.engine.asked[-1]
    assert messages[0] == {"role": "system", "content": "Be brief."}
    assert sampling.temperature == 0


def test_a_longer_context_does(desk: Desk) -> None:
    before: Any = desk.engine
    desk.controller.change(Settings("folder", context=77))
    desk.wait(lambda: len(desk.engines) == 2)
    assert before.closed
    assert desk.engine.loads[0][:2] == ("folder", 77)
    desk.ready()
    assert said(desk) == ["one", "1", "two", "2"]


def test_closing_before_the_first_word_keeps_the_question(desk: Desk) -> None:
    desk.controller.send(Draft("three"))
    desk.controller.close()
    assert said(desk) == ["one", "1", "two", "2", "three"]
