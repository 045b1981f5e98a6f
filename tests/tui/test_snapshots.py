"""Whole screens, as they are to look: compared with the texts in `snapshots`.

To take them anew after a wanted change: UPDATE_SNAPSHOTS=1 pytest tests/tui/test_snapshots.py,
and read what changed in `git diff`.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mlx_maverick.errors import DoesNotFit
from mlx_maverick.events import FinishReason
from mlx_maverick.sampling import Sampling
from mlx_maverick.tui.chats import ChatsScreen
from mlx_maverick.tui.start.facts import Computer, Fact, Fit, Found, Prospect, Remark
from mlx_maverick.tui.start.trouble import TroubleScreen
from mlx_maverick.tui.start.ways import Asked, Kind, Way
from mlx_maverick.tui.start.welcome import WelcomeScreen
from mlx_maverick.tui.store import Store

from . import conftest
from .conftest import Chat, Open

SNAPSHOTS = Path(__file__).parent / "snapshots"
UPDATE = "UPDATE_SNAPSHOTS"
ANSWER = """\
Memory **bandwidth** decides: all weights that a token needs are read *once*.

1. Count the bytes that one token reads.
2. Divide the bandwidth by them; see `bench`.

| chip | bandwidth | at most |
|---|---:|---|
| M3 Ultra | 819 GB/s | 85 tok/s |
| M4 Max | 546 GB/s | 57 tok/s |

```python
def ceiling(bandwidth: float, bits: float) -> float:
    return bandwidth / (17e9 * bits / 8)  # tokens per second, if nothing else took any time
```

> Expect 50 to 70 % of that.
"""


class Clock:
    """Goes on when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(conftest, "Controller", partial(conftest.Controller, clock=clock))
    return clock


async def same(chat: Chat, name: str, shows: str) -> None:
    """Compare what is seen, once it `shows` this and stays as it is."""
    path = SNAPSHOTS / f"{name}.txt"
    await chat.until(lambda: shows in chat.seen())
    seen, before = chat.seen(), ""
    while seen != before:
        await asyncio.sleep(0.05)  # of drawing, which comes after the text
        await chat.pilot.pause()
        seen, before = chat.seen(), seen
    if os.environ.get(UPDATE):
        path.write_text(f"{seen}\n")
    wanted = path.read_text().splitlines()
    assert f"{seen}\n".splitlines() == wanted, f"looks otherwise; {UPDATE}=1 takes the new looks"


@pytest.mark.parametrize("columns", [60, 100])
async def test_a_conversation(open_chat: Open, columns: int) -> None:
    async with open_chat(size=(columns, 40)) as chat:
        await chat.ready()
        await chat.ask("How fast can a model be, and why?")
        await chat.reply(ANSWER)
        await same(chat, f"conversation-{columns}", "Expect 50")


async def test_versions_and_a_cut_reply(open_chat: Open) -> None:
    async with open_chat() as chat:
        await chat.ready()
        await chat.ask("A word?")
        await chat.reply("Bandwidth.")
        await chat.pilot.press("ctrl+g")
        await chat.until(lambda: chat.engine.id == 2)
        await chat.reply("Memory.")
        await chat.ask("A sentence, and say at length what it means")
        chat.engine.say("Memory is what ")
        chat.engine.finish(FinishReason.LENGTH)
        await same(chat, "versions", "goes on")


async def test_a_reply_comes_and_messages_wait(open_chat: Open, clock: Clock) -> None:
    async with open_chat() as chat:
        await chat.ready()
        await chat.ask("Tell me all")
        clock.now += 1
        chat.engine.prefill(0, 600)
        await chat.until(lambda: "0/600" in chat.status)
        clock.now += 2
        chat.engine.prefill(600, 600)
        chat.engine.say("It began ")
        await chat.until(lambda: "It began" in chat.seen())
        await chat.type("And then?")
        await chat.type("Why?")
        clock.now += 0.5
        chat.engine.say("long ago", 20)
        await same(chat, "streaming", "40.0 tok/s")


async def machine(*asked: Any) -> AsyncGenerator[Fact, None]:
    """What a Mac with 128 GB has and can run."""
    yield Computer("this Mac with 128 GB", "M4 Max", 137_438_953_472, 115_427_246_080, 128 * 10**9)
    yield Found(
        "/models/maverick-e4r6", "maverick-e4r6", "/models", 230_705_806_104, "e4r6", True,
        Fit.STREAMED, "about 4.6 tok/s",
    )  # fmt: skip
    yield Found(
        "owner/scout-4bit", "owner/scout-4bit", "the Hub's cache", 60 * 10**9, "4 bits", False,
        Fit.FITS, "at most 45 tok/s",
    )  # fmt: skip
    yield Found(
        "/models/fp8", "fp8", "/models", 417 * 10**9, "FP8", True, Fit.SOURCE, "", "convert fp8"
    )
    yield Remark("/Volumes/old could not be read: permission denied")
    yield Prospect(
        "maverick", "e2g128r4", Fit.RAISED, 118_451_895_064, 123_998_364_736, "at most 80 tok/s",
        "mlx-maverick convert maverick --recipe e2g128r4",
        "sudo sysctl iogpu.wired_limit_mb=118784",
    )  # fmt: skip
    yield Prospect("scout", "e2g128r4", Fit.NO, 0, 40 * 10**9, "", "", "")


async def test_the_first_screen(open_chat: Open) -> None:
    async with open_chat() as chat:
        chat.app.push_screen(WelcomeScreen(look=machine))
        await same(chat, "first", "Scout is too large")


async def test_a_model_that_cannot_be_loaded(open_chat: Open) -> None:
    async def ways(asked: Asked) -> list[Way]:
        command = "sudo sysctl iogpu.wired_limit_mb=118784"
        return [Way(Kind.STREAM), Way(Kind.CONTEXT, 8192), Way(Kind.COPY, command)]

    async with open_chat() as chat:
        error = DoesNotFit("maverick-e2g128r4 with 1,000,000 tokens needs 171.1 GB of 115.4 GB")
        chat.app.push_screen(TroubleScreen(error, Asked("/models/maverick-e2g128r4"), ways))
        await same(chat, "trouble", "8,192")


async def test_settings(open_chat: Open) -> None:
    sampling = Sampling(temperature=0.7, seed=1)
    async with open_chat(size=(100, 50), system="Be brief.", sampling=sampling) as chat:
        await chat.ready()
        await chat.pilot.press("ctrl+t")
        await same(chat, "settings", "Temperature")


async def test_chats(open_chat: Open, tmp_path: Path) -> None:
    day = time.mktime((2024, 5, 17, 12, 0, 0, 0, 0, -1))
    with Store.open(tmp_path / "chats.db", clock=lambda: day) as store:
        for question, reply in [
            ("How wide is the bus?", "Memory bandwidth is what decides, and 819 GB/s is much."),
            ("What is for dinner?", "Soup."),
            ("Bandwidth of the M4 Max?", "546 GB/s. " * 30),
        ]:
            number = store.create_chat("/models/maverick-e4r6", None, {})
            first = store.add_message(number, None, "user", question, (), True)
            answer = store.add_message(number, first, "assistant", "", (), False)
            store.append(answer, reply, [1])
            store.finish(answer, "", None)
        async with open_chat() as chat:
            chat.app.push_screen(ChatsScreen(store, 1, tmp_path))
            await chat.until(lambda: "Soup" in chat.seen() or "dinner" in chat.seen())
            await chat.pilot.press(*"bandw")
            await chat.until(lambda: "dinner" not in chat.seen())
            await same(chat, "chats", "much")
