"""A controller without an app."""

import time
from collections.abc import Callable
from typing import Any

from textual.message import Message

from mlx_maverick.pressure import Pressure, Reading
from mlx_maverick.tui.controller import Controller
from mlx_maverick.tui.conversation import Draft
from mlx_maverick.tui.keeper import Keeper
from mlx_maverick.tui.settings.settings import Settings

from .conftest import FakeEngine
from .watched import SECONDS


class Desk:
    """A controller with a fake worker, a clock that stands still, and what it posted."""

    def __init__(self, keeper: Keeper | None = None, **options: Any) -> None:
        self.engines: list[FakeEngine] = []
        self.now = 100.0
        self.readings = 0
        self.pressure = Pressure.NORMAL
        self.posted: list[Message] = []
        self.broken: OSError | None = None
        self.attempts = 0
        self.controller = Controller(
            self.connect,
            Settings("folder", **options),
            keeper,
            read_memory=self.read,
            clock=lambda: self.now,
        )
        self.controller.start()
        self.controller.bind(self.posted.append)

    @property
    def engine(self) -> FakeEngine:
        return self.engines[-1]

    def connect(self, deliver: Any) -> FakeEngine:
        self.attempts += 1
        if self.broken is not None:
            raise self.broken
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

    def wait(self, true: Callable[[], Any]) -> None:
        """Until it is so: what ends a worker is another thread."""
        end = time.monotonic() + SECONDS
        while not true():
            assert time.monotonic() < end
            time.sleep(0.001)

    def restart(self) -> None:
        """Load again, and wait until that has begun, or failed to."""
        before = self.attempts
        self.controller.restart()
        self.wait(lambda: self.attempts > before)

    def ready(self) -> "Desk":
        self.engine.loaded()
        self.drain()
        return self

    def ask(self, text: str, reply: str) -> None:
        """A message and its whole reply."""
        assert self.controller.send(Draft(text)) == ""
        self.answer(reply)

    def answer(self, reply: str, tokens: int = 1) -> None:
        """The reply to what was asked last."""
        self.engine.say(reply, tokens)
        self.engine.finish()
        self.drain()
