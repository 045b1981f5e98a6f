"""A fake worker, and the chat with it."""

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from textual.pilot import Pilot

from mlx_maverick.client import Died, Failed, Loaded, Memory, Step, Text, WorkerEvent
from mlx_maverick.events import Finished, FinishReason, Prefill, Stats
from mlx_maverick.kv import KVOptions
from mlx_maverick.pressure import Pressure, Reading
from mlx_maverick.sampling import Sampling
from mlx_maverick.streaming.options import ExpertOptions
from mlx_maverick.tui.app import ChatApp
from mlx_maverick.tui.composer import Composer
from mlx_maverick.tui.controller import Controller
from mlx_maverick.tui.conversation import Picture
from mlx_maverick.tui.given import Given
from mlx_maverick.tui.keeper import Keeper
from mlx_maverick.tui.message import Bubble
from mlx_maverick.tui.screen import ChatScreen
from mlx_maverick.tui.settings.settings import Settings
from mlx_maverick.tui.status import Status
from mlx_maverick.tui.transcript import Transcript
from mlx_maverick.tui.tray import Tray

from .watched import SECONDS, Watched


class FakeEngine:
    """Notes what it is asked for; the test says what it answers."""

    def __init__(self, deliver: Callable[[WorkerEvent], None]):
        self.deliver = deliver
        self.loads: list[tuple[Any, ...]] = []
        self.asked: list[tuple[list[dict[str, Any]], Sampling]] = []
        self.cancelled: list[int] = []
        self.closed = False
        self.ending = threading.Event()  # not set: it is not over
        self.ending.set()

    def load(
        self,
        model: str,
        context: int | None = None,
        kv: KVOptions | None = None,
        experts: ExpertOptions | None = None,
    ) -> None:
        self.loads.append((model, context, kv, experts))

    def generate(self, messages: list[dict[str, Any]], sampling: Sampling) -> int:
        self.asked.append((messages, sampling))
        return len(self.asked)

    def cancel(self, id: int) -> None:
        self.cancelled.append(id)

    def close(self) -> bool:
        assert self.ending.wait(SECONDS)
        self.closed = True
        return True

    # What a test says.

    @property
    def id(self) -> int:
        return len(self.asked)

    def loaded(self, vision: bool = True, context: int = 1000) -> None:
        self.deliver(Loaded("fake", 5_000_000, 20_000_000, context, vision, 10**9))
        self.deliver(Memory(21_000_000, 0, 0, 0))

    def prefill(self, done: int, total: int) -> None:
        self.deliver(Step(self.id, Prefill(done, total)))

    def say(self, text: str, count: int = 1) -> None:
        self.deliver(Text(self.id, text, list(range(count))))

    def finish(
        self, reason: FinishReason = FinishReason.STOP, prompt: int = 10, new: int = 5
    ) -> None:
        self.deliver(Step(self.id, Finished(reason, Stats(prompt, 0, new, 0.1, 0.5, 1))))

    def refuse(self, message: str, kind: str = "UsageError", code: int = 2) -> None:
        self.deliver(Failed("generate", self.id, kind, message, code))

    def refuse_load(self, message: str, kind: str = "DoesNotFit", code: int = 4) -> None:
        self.deliver(Failed("load", None, kind, message, code))

    def die(self) -> None:
        self.deliver(Died(-6, ("libc++abi: out of memory",), Path("/logs/worker.log")))


class Chat(Watched):
    """The running app, and short ways to look at it."""

    def __init__(self, app: ChatApp, pilot: Pilot[None], engines: list[FakeEngine]):
        self.app, self.pilot, self.engines = app, pilot, engines

    @property
    def engine(self) -> FakeEngine:
        return self.engines[-1]

    @property
    def screen(self) -> ChatScreen:
        """The chat's, whatever is above it."""
        return next(s for s in self.app.screen_stack if isinstance(s, ChatScreen))

    @property
    def composer(self) -> Composer:
        return self.screen.query_one(Composer)

    @property
    def tray(self) -> Tray:
        return self.screen.query_one(Tray)

    @property
    def transcript(self) -> Transcript:
        return self.screen.query_one(Transcript)

    @property
    def bubbles(self) -> list[Bubble]:
        return list(self.screen.query(Bubble))

    @property
    def hint(self) -> str:
        hint = self.screen.query_one("#hint")
        return str(hint.render()) if hint.display else ""

    @property
    def status(self) -> str:
        return str(self.screen.query_one(Status).render())

    async def ready(self) -> "Chat":
        """The model is loaded, and says so."""
        self.engine.loaded()
        await self.until(lambda: "5.0 M parameters" in self.seen() and not self.screen.draining)
        return self

    async def ask(self, text: str) -> None:
        """Send a message."""
        before = self.engine.id
        self.composer.text = text
        await self.pilot.press("enter")
        await self.until(lambda: self.engine.id == before + 1 and self.bubbles)

    async def type(self, text: str) -> None:
        """Send a message, which may have to wait."""
        before = self.engine.id, len(self.screen.controller.queue)
        self.composer.text = text
        await self.pilot.press("enter")
        await self.until(
            lambda: (
                (self.engine.id, len(self.screen.controller.queue)) != before
                and not self.composer.text
            )
        )

    async def reply(self, text: str) -> None:
        """The whole answer."""
        before = self.engine.id
        self.engine.say(text)
        self.engine.finish()
        await self.until(lambda: not self.screen.draining or self.engine.id > before)


Open = Callable[..., AbstractAsyncContextManager[Chat]]


def reading() -> Reading:
    return Reading(10**11, 10**10, 9 * 10**10, 0, Pressure.NORMAL)


@pytest.fixture
def open_chat() -> Open:
    """`async with open_chat(size=..., pictures=..., **options) as chat`."""

    @asynccontextmanager
    async def opened(
        size: tuple[int, int] = (80, 30),
        pictures: tuple[Picture, ...] = (),
        keeper: Keeper | None = None,
        given: Given | None = None,
        **options: Any,
    ) -> AsyncIterator[Chat]:
        engines: list[FakeEngine] = []

        def connect(deliver: Callable[[WorkerEvent], None]) -> FakeEngine:
            engines.append(FakeEngine(deliver))
            return engines[-1]

        settings = Settings(**{"model": "folder", **options})
        controller = Controller(connect, settings, keeper, reading)
        controller.start()
        app = ChatApp(controller, given or Given(pictures))
        async with app.run_test(size=size) as pilot:
            yield Chat(app, pilot, engines)

    return opened


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "my cat (1).png"
    Image.new("RGB", (40, 30), "red").save(path)
    return path
