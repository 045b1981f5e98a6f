"""The chat with pictures."""

import shlex
from pathlib import Path

from textual import events

from mlx_maverick.tui.pictures import look
from mlx_maverick.tui.tray import Chip

from .conftest import Open


async def test_a_picture_by_command(open_chat: Open, picture: Path, tmp_path: Path) -> None:
    async with open_chat() as chat:
        await chat.ready()
        chat.composer.text = f"/image {tmp_path / 'gone.png'}"
        await chat.pilot.press("enter")
        await chat.until(lambda: "gone.png does not exist" in " ".join(chat.hint.split()))
        assert chat.composer.text.startswith("/image")  # to be corrected
        chat.composer.text = "/image"
        await chat.pilot.press("enter")
        await chat.until(lambda: "needs the path" in chat.hint)
        chat.composer.text = f"/image {picture}"
        await chat.pilot.press("enter")
        await chat.until(lambda: len(chat.screen.query(Chip)) == 1)
        assert chat.composer.text == ""
        assert "my cat (1).png  40×30" in chat.seen()
        assert chat.engine.id == 0
        await chat.ask("What?")
        assert chat.engine.asked[-1][0][-1]["content"] == [
            {"type": "image", "image": str(picture)},
            {"type": "text", "text": "What?"},
        ]
        assert not chat.screen.query(Chip)
        assert "▣ my cat (1).png" in chat.seen()


async def test_a_picture_alone(open_chat: Open, picture: Path) -> None:
    async with open_chat(pictures=(look(picture),)) as chat:
        await chat.ready()
        await chat.ask("")
        content = chat.engine.asked[-1][0][-1]["content"]
        assert content == [{"type": "image", "image": str(picture)}]


async def test_dragging_pictures_in(open_chat: Open, picture: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    async with open_chat() as chat:
        await chat.ready()
        chat.composer.post_message(events.Paste(shlex.quote(str(picture)) + " "))
        await chat.until(lambda: len(chat.screen.query(Chip)) == 1)
        assert chat.composer.text == ""
        chat.composer.post_message(events.Paste(f"{shlex.quote(str(picture))} {bad}"))
        await chat.until(lambda: "bad.png is not a picture" in " ".join(chat.hint.split()))
        assert len(chat.screen.query(Chip)) == 2
        assert "bad.png" in chat.composer.text  # neither attached nor dropped
        chat.composer.text = ""
        chat.composer.post_message(events.Paste("/usr/bin/env python"))
        await chat.until(lambda: chat.composer.text == "/usr/bin/env python")


async def test_removing_pictures(open_chat: Open, picture: Path) -> None:
    other = picture.with_name("dog.png")
    other.write_bytes(picture.read_bytes())
    third = picture.with_name("owl.png")
    third.write_bytes(picture.read_bytes())
    async with open_chat(pictures=(look(picture), look(other), look(third))) as chat:
        await chat.ready()
        await chat.pilot.click(chat.screen.query(Chip).first())
        await chat.until(lambda: len(chat.screen.query(Chip)) == 2)
        assert [p.path for p in chat.tray.pictures] == [other, third]
        await chat.pilot.press("a", "backspace")
        assert len(chat.tray.pictures) == 2
        await chat.pilot.press("backspace")
        await chat.until(lambda: len(chat.screen.query(Chip)) == 1)
        assert [p.path for p in chat.tray.pictures] == [other]


async def test_a_model_without_eyes(open_chat: Open, picture: Path) -> None:
    async with open_chat(pictures=(look(picture),)) as chat:
        chat.engine.loaded(vision=False)
        await chat.until(lambda: "It sees no" in chat.seen())
        chat.composer.text = "What?"
        await chat.pilot.press("enter")
        await chat.until(lambda: "sees no pictures" in chat.hint)
        assert chat.engine.id == 0
        assert chat.composer.text == "What?"
        chat.composer.text = f"/image {picture}"
        await chat.pilot.press("enter")
        await chat.until(lambda: "sees no pictures" in chat.hint)
        assert len(chat.tray.pictures) == 1


async def test_a_picture_that_was_deleted_after_attaching(open_chat: Open, picture: Path) -> None:
    async with open_chat(pictures=(look(picture),)) as chat:
        await chat.ready()
        picture.unlink()
        chat.composer.text = "see"
        await chat.pilot.press("enter")
        await chat.until(lambda: "is no file any more" in chat.hint)
        assert f"{picture.name} is no file any more: remove it" in chat.hint
        assert (chat.composer.text, chat.engine.asked) == ("see", [])
        chat.composer.text = ""
        await chat.pilot.press("backspace")
        await chat.until(lambda: chat.tray.pictures == ())
        await chat.ask("without")
