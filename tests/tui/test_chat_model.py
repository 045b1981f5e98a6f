"""The chat while a model is loaded, cannot be, or ends."""

from mlx_maverick.errors import DoesNotFit
from mlx_maverick.tui.conversation import Node
from mlx_maverick.tui.start.trouble import TroubleScreen
from mlx_maverick.tui.start.welcome import WelcomeScreen

from .conftest import Open


async def test_death(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.ready()
        await chat.ask("Why?")
        chat.engine.die()
        await chat.until(lambda: "killed by SIGABRT" in chat.seen())
        assert "out of memory" in chat.seen()
        assert chat.composer.text == "Why?"
        await chat.pilot.press("enter")
        assert "ctrl+r" in chat.hint
        assert chat.composer.text == "Why?"
        await chat.pilot.press("ctrl+r")
        assert len(chat.engines) == 2
        chat.engine.loaded()
        await chat.until(lambda: not chat.screen.draining)
        await chat.pilot.press("enter")
        await chat.until(lambda: chat.engine.id == 1)
        await chat.reply("because")
        assert "because" in chat.seen()
        assert chat.app.failure is None


async def test_death_after_some_words_keeps_them(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.ready()
        await chat.ask("Why?")
        chat.engine.say("Because")
        chat.engine.die()
        await chat.until(lambda: "ctrl+r loads" in chat.seen())
        assert "Because" in chat.seen()
        assert "broken off" in chat.seen()
        assert chat.composer.text == ""


async def test_death_while_idle_is_noticed(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.ready()
        assert not chat.screen.draining
        chat.engine.die()
        await chat.until(lambda: "killed by SIGABRT" in chat.seen())
        assert not chat.screen.draining


async def test_a_model_that_does_not_load(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.pilot.press("h", "i")
        chat.engine.refuse_load("needs 9 GB more")
        await chat.until(lambda: isinstance(chat.app.screen, TroubleScreen))
        assert "needs 9 GB more" in chat.seen()
        await chat.until(lambda: "Quit" in chat.seen())
        await chat.pilot.press("escape")
        await chat.until(lambda: chat.app.screen is chat.screen)
        assert chat.composer.text == "hi"
        await chat.pilot.press("ctrl+q")
        await chat.until(lambda: chat.app.return_code is not None)
        assert isinstance(chat.app.failure, DoesNotFit)
        assert str(chat.app.failure) == "needs 9 GB more"


async def test_ways_out_of_a_model_that_does_not_load(open_chat: Open) -> None:
    async with open_chat(context=8192) as chat:
        chat.engine.refuse_load("there is no folder", "NotFound", 3)
        await chat.until(lambda: "looking around failed" in chat.seen())
        await chat.pilot.press("enter")
        await chat.until(lambda: len(chat.engines) == 2)
        assert chat.engine.loads[0][:2] == ("folder", 8192)
        await chat.ready()
        assert chat.app.failure is None


async def test_a_chat_can_be_read_without_a_model(open_chat: Open) -> None:
    """Its own is gone, and no other one is chosen."""
    async with open_chat(model=None) as chat:
        chat.screen.controller.conversation.add(Node("user", "an old question"), None)
        await chat.until(lambda: isinstance(chat.app.screen, WelcomeScreen))
        await chat.pilot.press("escape")
        await chat.until(lambda: chat.app.screen is chat.screen)
        assert chat.app._exit is False
        assert "ctrl+r loads the model" in chat.seen()
        await chat.pilot.press("ctrl+r")
        await chat.until(lambda: isinstance(chat.app.screen, WelcomeScreen))


async def test_loading_shows_layers(open_chat: Open) -> None:
    from mlx_maverick.client import Loading

    async with open_chat() as chat:
        await chat.until(lambda: "loading" in chat.status)
        chat.engine.deliver(Loading(3, 48))
        await chat.until(lambda: "loading 3/48 layers" in chat.status)
