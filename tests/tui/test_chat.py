"""The chat as a person uses it."""

import asyncio
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from textual import events

from mlx_maverick.events import FinishReason
from mlx_maverick.tui import clipboard
from mlx_maverick.tui.given import Given
from mlx_maverick.tui.message import Bubble, Reply
from mlx_maverick.tui.pictures import look
from mlx_maverick.tui.window import WINDOW, More

from .conftest import Chat, Open


async def test_a_reply_streams(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.ready()
        await chat.ask("Why?")
        assert chat.engine.asked[-1][0] == [{"role": "user", "content": "Why?"}]
        assert chat.composer.text == ""
        chat.engine.prefill(4, 10)
        await chat.until(lambda: "prompt 4/10" in chat.status)
        chat.engine.prefill(10, 10)
        chat.engine.say("Because **of")
        await chat.until(lambda: "Because **of" in chat.seen())
        chat.engine.say(" this**.\n\n- one\n- two\n")
        await chat.until(lambda: "• two" in chat.seen())
        assert "Because of this." in chat.seen()
        chat.engine.finish(prompt=10, new=11)
        await chat.until(lambda: not chat.screen.draining)
        assert "20.0 tok/s" in chat.status
        assert "context 21/1,000" in chat.status
        assert "model 21.0 MB" in chat.status
        assert "normal" in chat.status
        assert [type(b.entry).__name__ for b in chat.bubbles] == ["Notice", "Said", "Reply"]


async def test_the_whole_is_shown_as_if_never_streamed(open_chat: Open) -> None:
    text = (
        "See [the *page*][p].\n\n- a\n\n- b\n\n```py\nx = 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    )
    text += "\n\n[p]: https://example.org\n"
    async with open_chat() as chat:
        await chat.ready()
        await chat.ask("x")
        for at in range(0, len(text), 3):
            chat.engine.say(text[at : at + 3])
            await asyncio.sleep(0)
        chat.engine.finish()
        await chat.until(lambda: not chat.screen.draining)
        *before, reply = chat.transcript.entries
        assert isinstance(reply, Reply)
        assert reply.text == text
        streamed = chat.seen()
        await chat.transcript.show([*before, Reply(text, whole=True)])
        await chat.pilot.pause()
        assert chat.seen() == streamed
        assert "the page" in streamed


async def test_escape_stops_and_keeps_what_there_is(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.ready()
        await chat.pilot.press("escape")
        assert chat.engine.cancelled == []
        await chat.ask("Why?")
        chat.engine.say("Because ")
        await chat.until(lambda: "Because" in chat.seen())
        await chat.pilot.press("escape")
        assert chat.engine.cancelled == [1]
        chat.engine.say("of")  # was on its way
        chat.engine.finish(FinishReason.CANCELLED)
        await chat.until(lambda: "stopped" in chat.seen())
        assert "Because of" in chat.seen()
        await chat.ask("Go on")
        assert [m["content"] for m in chat.engine.asked[-1][0]] == ["Why?", "Because of", "Go on"]


async def test_escape_before_the_first_word_gives_the_message_back(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.ready()
        await chat.ask("Why?")
        chat.composer.text = "next"
        await chat.pilot.press("escape")
        chat.engine.finish(FinishReason.CANCELLED, new=0)
        await chat.until(lambda: chat.composer.text == "Why?\nnext")
        assert [type(b.entry).__name__ for b in chat.bubbles] == ["Notice"]


async def test_a_refused_message_comes_back_whole(open_chat: Open, picture: Path) -> None:
    async with open_chat(pictures=(look(picture),)) as chat:
        await chat.ready()
        await chat.ask("What is [this]?")
        assert chat.tray.pictures == ()
        chat.engine.refuse("the picture is damaged", "BadImage", 1)
        await chat.until(lambda: "Not sent: the picture is damaged" in chat.seen())
        assert chat.composer.text == "What is [this]?"
        assert chat.tray.pictures == (look(picture),)
        assert not [b for b in chat.bubbles if isinstance(b.entry, Reply)]
        await chat.pilot.press("enter")
        await chat.until(lambda: chat.engine.id == 2)
        assert len(chat.engine.asked[-1][0]) == 1


async def test_what_is_sent_too_early_waits(open_chat: Open) -> None:
    async with open_chat() as chat:
        chat.composer.text = "early"
        await chat.pilot.press("enter")
        await chat.until(lambda: "early" in chat.seen())
        assert chat.composer.text == ""
        assert "1 queued" in chat.status
        chat.engine.loaded()
        await chat.until(lambda: chat.engine.id == 1)
        await chat.type("more")
        await chat.type("and more")
        assert "2 queued" in chat.status
        assert [type(b.entry).__name__ for b in chat.bubbles][-2:] == ["Queued", "Queued"]
        await chat.reply("first")
        await chat.until(lambda: chat.engine.id == 2)
        entries = [type(b.entry).__name__ for b in chat.bubbles]
        assert entries == ["Notice", "Said", "Reply", "Said", "Reply", "Queued"]
        await chat.pilot.press("up")  # takes the last one back
        await chat.until(lambda: chat.composer.text == "and more")
        await chat.reply("second")
        assert chat.engine.id == 2
        assert "queued" not in chat.status


async def test_nothing_is_not_sent(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.ready()
        chat.composer.text = " \n "
        await chat.pilot.press("enter")
        await chat.pilot.pause()
        assert chat.engine.id == 0


@pytest.mark.parametrize("key", ["shift+enter", "ctrl+j"])
async def test_new_lines(open_chat: Open, key: str) -> None:
    async with open_chat() as chat:
        await chat.ready()
        height = chat.composer.size.height
        await chat.pilot.press("a", key, "b", key, "c", key, "d")
        assert chat.composer.text == "a\nb\nc\nd"
        await chat.until(lambda: chat.composer.size.height > height)
        await chat.pilot.press("enter")
        await chat.until(lambda: chat.engine.id == 1)
        assert chat.engine.asked[-1][0][-1]["content"] == "a\nb\nc\nd"


async def test_text_is_never_markup_and_never_raw(open_chat: Open) -> None:
    nasty = "[bold]x[/bold] [@click=app.quit]y[/] \x1b[31mz\x07\u202eq"
    async with open_chat(size=(100, 30)) as chat:
        await chat.ready()
        chat.screen.post_message(events.Paste(nasty))
        await chat.until(lambda: chat.composer.text)
        assert chat.composer.text == "[bold]x[/bold] [@click=app.quit]y[/] [31mzq"
        await chat.pilot.press("enter")
        await chat.until(lambda: chat.engine.id == 1)
        await chat.reply(nasty)
        await chat.ask("again")
        chat.engine.refuse(nasty)
        await chat.until(lambda: "Not sent" in chat.seen())
        seen = chat.seen()
        assert seen.count("[bold]x[/bold] [@click=app.quit]y[/] [31mzq") == 3
        assert not set("\x1b\x07\u202e") & set(seen)


async def test_a_paste_has_the_editors_line_ends(open_chat: Open) -> None:
    async with open_chat() as chat:
        chat.composer.post_message(events.Paste("a\rb\r\nc\nd"))
        await chat.until(lambda: chat.composer.text == "a\nb\nc\nd")


@pytest.mark.parametrize("key", ["ctrl+q", "ctrl+c"])
@pytest.mark.parametrize("when", ["loading", "ready", "answering"])
async def test_quitting_at_any_time(open_chat: Open, key: str, when: str) -> None:
    async with open_chat() as chat:
        if when != "loading":
            await chat.ready()
        if when == "answering":
            await chat.ask("Why?")
        await chat.pilot.press(key)
        await chat.until(lambda: chat.app.return_code is not None)
        assert chat.app.return_code == 0
        assert chat.app.failure is None


async def test_no_timer_while_idle(open_chat: Open) -> None:
    async with open_chat() as chat:
        assert chat.screen.draining
        await chat.ready()
        assert not chat.screen.draining

        def timers() -> list[Any]:
            widgets: list[Any] = [chat.app, chat.screen, *chat.screen.query("*")]
            return [t for w in widgets for t in w._timers if t._active.is_set()]

        await chat.ask("x")
        assert chat.screen.draining
        assert timers()
        await chat.reply("y")
        assert not chat.screen.draining
        await chat.until(lambda: not timers())


async def fill(chat: Chat, turns: int) -> None:
    for i in range(turns):
        await chat.ask(f"question {i}")
        await chat.reply(f"answer {i}")


async def test_at_most_twenty_are_mounted(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.ready()
        await fill(chat, 15)  # 31 entries with the notice
        assert len(chat.bubbles) == WINDOW
        assert "answer 14" in chat.seen()
        earlier, later = chat.screen.query(More)
        assert "11 earlier" in str(earlier.render())
        assert not later.display
        for _ in range(60):
            await chat.pilot.press("pageup")
            if chat.transcript.hidden_before == 0:
                break
        assert chat.transcript.hidden_before == 0
        assert len(chat.bubbles) == WINDOW
        shown = [b.entry for b in chat.bubbles]
        assert shown == chat.transcript.entries[:WINDOW]
        assert "11 later" in str(later.render())
        await chat.ask("newest")  # goes to the end
        await chat.until(lambda: "newest" in chat.seen())
        assert chat.transcript.hidden_after == 0
        await chat.reply("done")
        assert "done" in chat.seen()
        assert [b.entry for b in chat.bubbles] == chat.transcript.entries[-WINDOW:]


async def test_a_click_loads_earlier_ones(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.ready()
        await fill(chat, 12)
        chat.transcript.scroll_home(animate=False)
        await chat.pilot.pause()
        await chat.pilot.click(chat.screen.query(More).first())
        await chat.until(lambda: chat.transcript.hidden_before == 0)


async def test_a_reply_goes_on_out_of_sight(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.ready()
        await fill(chat, 14)
        await chat.ask("long")
        chat.engine.say("begun")
        await chat.until(lambda: "begun" in chat.seen())
        while chat.transcript.hidden_before:
            await chat.pilot.press("pageup")
        chat.engine.say(" and ended")
        chat.engine.finish()
        await chat.until(lambda: not chat.screen.draining)
        while chat.transcript.hidden_after:
            await chat.pilot.press("pagedown")
        chat.transcript.scroll_end(animate=False)
        await chat.until(lambda: "begun and ended" in chat.seen())


async def test_scrolling_up_stays_while_text_comes(open_chat: Open) -> None:
    async with open_chat(size=(60, 16)) as chat:
        await chat.ready()
        await chat.ask("long")
        chat.engine.say("line\n\n" * 40)
        await chat.until(lambda: chat.transcript.max_scroll_y > 40)
        assert chat.transcript.scroll_y == chat.transcript.max_scroll_y
        await chat.pilot.press("pageup", "pageup")
        await chat.pilot.pause()
        at = chat.transcript.scroll_y
        chat.engine.say("more\n\n" * 20)
        chat.engine.finish()
        await chat.until(lambda: not chat.screen.draining)
        assert chat.transcript.scroll_y == at


async def test_sixty_columns(open_chat: Open, picture: Path) -> None:
    long = picture.with_name("a-very-long-name-" * 6 + ".png")
    long.write_bytes(picture.read_bytes())
    async with open_chat(size=(60, 24), pictures=(look(long),)) as chat:
        await chat.ready()
        chat.engine.prefill(0, 0)
        await chat.ask("word " * 40)
        chat.engine.prefill(20_000, 123_456)
        chat.engine.say("reply " * 40)
        await chat.until(lambda: "reply" in chat.seen())
        await chat.until(lambda: "tok/s" in chat.status or "123,456" in chat.status)
        lines = chat.seen().splitlines()
        assert len(lines) == 24
        assert max(len(line) for line in lines) <= 60
        status = chat.status.splitlines()
        assert len(status) == 2
        for field in ("normal", "model 21.0 MB", "context"):
            assert field in chat.seen()
        assert chat.composer.region.bottom <= 24 - len(status)


async def test_resizing(open_chat: Open) -> None:
    async with open_chat(size=(100, 30)) as chat:
        await chat.ready()
        await fill(chat, 3)
        for size in ((60, 20), (40, 12), (200, 60), (20, 8), (80, 24)):
            await chat.pilot.resize_terminal(*size)
            await chat.pilot.pause()
            lines = chat.seen().splitlines()
            assert len(lines) <= size[1]
            assert max(map(len, lines)) <= size[0]
            assert chat.composer.size.height >= 1
        assert "answer 2" in chat.seen()


async def test_copying(open_chat: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []

    def pasteboard(text: str) -> bool:
        copied.append(text)
        return True

    async with open_chat() as chat:
        await chat.ready()
        await fill(chat, 1)
        await chat.pilot.press("ctrl+o")  # by OSC 52, which the app remembers
        assert chat.app.clipboard == "answer 0"
        monkeypatch.setattr(clipboard, "has_pasteboard", lambda: True)
        monkeypatch.setattr(clipboard, "pbcopy", pasteboard)
        chat.composer.text = "some words"
        chat.composer.select_all()
        await chat.pilot.press("ctrl+c")  # copies what is selected instead of quitting
        await chat.pilot.pause()
        assert copied == ["some words"]
        assert chat.app.return_code is None


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
async def test_a_termination_closes_the_screen(open_chat: Open) -> None:
    import os
    import signal

    async with open_chat() as chat:
        await chat.ready()
        os.kill(os.getpid(), signal.SIGTERM)
        await chat.until(lambda: chat.app.return_code is not None)
        assert chat.app.return_code == 130
        assert str(chat.app.failure) == "terminated"


async def test_bubbles_are_one_per_entry(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.ready()
        await fill(chat, 2)
        assert [b.entry for b in chat.screen.query(Bubble)] == chat.transcript.entries


async def test_a_short_transcript_rests_on_the_editor(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.ready()
        at = chat.bubbles[-1].region
        assert at.bottom == chat.transcript.region.bottom
        assert chat.transcript.scroll_y == 0  # Textual's anchor alone would make it negative
        chat.transcript.release_anchor()
        chat.transcript.scroll_to(y=0, animate=False)
        await chat.pilot.pause()
        assert chat.bubbles[-1].region == at


async def test_a_click_elsewhere_leaves_the_editor_focused(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.ready()
        await chat.pilot.click(chat.transcript)
        await chat.pilot.click(chat.bubbles[0])
        await chat.pilot.press("tab", "x")
        assert chat.composer.text == "x"


async def test_other_commands_are_not_sent(open_chat: Open) -> None:
    """A typing error is not a question; a space in front makes it one."""
    async with open_chat() as chat:
        await chat.ready()
        chat.composer.text = "/imagine x"
        await chat.pilot.press("enter")
        await chat.until(lambda: "/imagine is no command" in chat.hint)
        assert chat.engine.asked == []
        chat.composer.text = " /imagine x"
        await chat.pilot.press("enter")
        await chat.until(lambda: len(chat.engine.asked) == 1)


@pytest.mark.parametrize("width", [60, 120])
async def test_the_keys_of_a_chosen_message_are_told(open_chat: Open, width: int) -> None:
    async with open_chat(size=(width, 24)) as chat:
        await chat.ready()
        await chat.ask("one")
        await chat.reply("1")
        assert "enter sends" in chat.seen()
        await chat.pilot.press("shift+tab")
        await chat.until(lambda: "c copy" in chat.seen())
        assert "←→ · esc ─" in chat.seen()
        await chat.pilot.press("escape")
        await chat.until(lambda: "enter sends" in chat.seen())


async def test_only_the_last_reply_can_be_gone_on_with(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.ready()
        await chat.ask("one")
        chat.engine.say("1")
        chat.engine.finish(FinishReason.LENGTH)
        await chat.until(lambda: "cut off at --max-tokens · ctrl+b goes on" in chat.seen())
        await chat.ask("two")
        await chat.until(lambda: "ctrl+b" not in chat.seen())
        assert "cut off at --max-tokens" in chat.seen()
        await chat.pilot.press("escape")
        chat.engine.finish(FinishReason.CANCELLED, new=0)
        await chat.until(lambda: "cut off at --max-tokens · ctrl+b goes on" in chat.seen())


async def test_keys_that_come_at_once_are_taken_in_order(open_chat: Open) -> None:
    """As after a moment in which the app was held up."""
    async with open_chat() as chat:
        await chat.ready()
        for character in "Why is it?":
            key = {" ": "space", "?": "question_mark"}.get(character, character)
            chat.app.post_message(events.Key(key, character))
        chat.app.post_message(events.Key("ctrl+j", None))
        chat.app.post_message(events.Key("x", "x"))
        chat.app.post_message(events.Key("enter", "\r"))
        chat.app.post_message(events.Key("n", "n"))
        await chat.until(lambda: chat.engine.asked)
        await chat.until(lambda: chat.composer.text == "n")
        assert chat.engine.asked[0][0] == [{"role": "user", "content": "Why is it?\nx"}]


async def test_enter_twice_at_once_sends_once(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.ready()
        chat.composer.text = "hello"
        for _ in range(2):
            chat.app.post_message(events.Key("enter", "\r"))
        await chat.until(lambda: chat.engine.asked and not chat.composer.text)
        await chat.pilot.press("a")
        await chat.until(lambda: chat.composer.text == "a")
        assert chat.engine.id == 1
        assert chat.screen.controller.queue == ()


async def test_what_comes_by_itself_leaves_a_reader_alone(open_chat: Open) -> None:
    """A message that has waited, and what the chat has to say."""
    async with open_chat() as chat:
        await chat.ready()
        await chat.ask("one")
        chat.engine.say("\n\n".join(f"line {i}" for i in range(100)))
        await chat.until(lambda: "line 99" in chat.seen())
        await chat.type("two")
        await chat.pilot.press("pageup", "pageup")
        await chat.until(lambda: "more below" in chat.seen())
        before = chat.transcript.scroll_y
        chat.engine.finish()
        await chat.until(lambda: chat.engine.id == 2)
        chat.engine.die()
        await chat.until(lambda: chat.screen.failure and not chat.screen.draining)
        await chat.pilot.pause()
        assert chat.transcript.scroll_y == before
        assert "more below" in chat.seen()
        await chat.pilot.press("ctrl+r")
        await chat.until(lambda: len(chat.engines) == 2)
        chat.engine.loaded()
        await chat.until(lambda: "enter sends" in chat.seen())
        assert chat.transcript.scroll_y == before
        await chat.ask("three")  # what a person sends is seen
        await chat.until(lambda: "▌ three" in chat.seen())


async def test_what_is_told_of_keys_is_true_of_a_persons_own(open_chat: Open) -> None:
    keys = {"send": "ctrl+s", "stop": "f9,escape", "again": "f8", "go_on": "f7"}
    async with open_chat(given=Given(keymap=keys)) as chat:
        assert "loading · f9 stops · ctrl+q quits" in chat.seen()
        await chat.ready()
        assert "ctrl+s sends · ctrl+j new line" in chat.seen()
        chat.composer.text = "one"
        await chat.pilot.press("ctrl+s")
        await chat.until(lambda: "f9 stops · ctrl+s queues" in chat.seen())
        chat.engine.say("1")
        chat.engine.finish(FinishReason.LENGTH)
        await chat.until(lambda: "cut off at --max-tokens · f7 goes on" in chat.seen())
        chat.engine.die()
        await chat.until(lambda: "f8 loads the model again." in chat.seen())
        assert "f8 loads the model ·" in chat.seen()


async def test_what_is_pasted_while_a_message_is_chosen(open_chat: Open, picture: Path) -> None:
    async with open_chat() as chat:
        await chat.ready()
        await chat.ask("one")
        await chat.reply("1")
        for pasted in (shlex.quote(str(picture)), "two"):
            await chat.pilot.press("shift+tab")
            await chat.until(lambda: chat.transcript.has_focus)
            chat.app.post_message(events.Paste(pasted))
            await chat.until(lambda: chat.composer.has_focus)
        await chat.until(lambda: chat.composer.text == "two")
        assert chat.tray.pictures == (look(picture),)
