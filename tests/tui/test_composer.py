"""Keys that come faster than the screen follows."""

from textual import events
from textual.keys import _character_to_key

from .conftest import Chat, Open


def burst(chat: Chat, *keys: str) -> None:
    """All at once, as a terminal gives what was typed while the app was busy."""
    for key in keys:
        if len(key) == 1:
            chat.app.post_message(events.Key(_character_to_key(key), key))
        else:
            chat.app.post_message(events.Key(key, None))


def sent(chat: Chat) -> list[str]:
    """What the model was asked, and what waits."""
    asked = [asked[0][-1]["content"] for asked in chat.engine.asked]
    return asked + [draft.text for draft in chat.screen.controller.queue]


async def test_what_is_typed_in_a_burst_is_sent_as_it_was_typed(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.ready()
        burst(chat, *"one", "ctrl+j", *"twp", "backspace", "o", "enter", *"three", "enter", *"fo")
        await chat.until(lambda: chat.composer.text == "fo")
        assert sent(chat) == ["one\ntwo", "three"]


async def test_a_message_right_after_a_command(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.ready()
        await chat.ask("old")
        await chat.reply("reply")
        burst(chat, "ctrl+n", *"new", "enter")
        await chat.until(lambda: chat.engine.id == 2)
        assert chat.engine.asked[-1][0] == [{"role": "user", "content": "new"}]
        chat.engine.die()
        await chat.until(lambda: chat.composer.text == "new")
        burst(chat, "ctrl+r", "enter")
        await chat.until(lambda: len(chat.engines) == 2 and sent(chat) == ["new"])
        assert chat.composer.text == ""


async def test_what_is_refused_comes_before_what_was_typed_since(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.ready()
        burst(chat, *"/imag x", "enter", *"y")
        await chat.until(lambda: chat.composer.text == "/imag x\ny")
        assert sent(chat) == []
        chat.composer.text = ""
        chat.engine.die()
        await chat.until(lambda: "killed by" in chat.seen())
        burst(chat, *"hello", "enter")
        await chat.until(lambda: "ctrl+r loads it" in chat.hint)
        assert chat.composer.text == "hello"


async def test_other_keys_for_sending_and_for_new_lines(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.ready()
        chat.app.set_keymap({"send": "ctrl+j", "newline": "enter,f5"})
        burst(chat, *"a", "enter", *"b", "f5", *"c", "ctrl+j", *"d")
        await chat.until(lambda: chat.composer.text == "d")
        assert sent(chat) == ["a\nb\nc"]
