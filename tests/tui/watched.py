"""A running app that a test looks at."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from textual.pilot import Pilot

SECONDS = 20


class Watched:
    """What is on its terminal, and waiting for it."""

    pilot: Pilot[Any]

    def seen(self) -> str:
        """The terminal, line by line."""
        strips = self.pilot.app.screen._compositor.render_strips()
        return "\n".join("".join(s.text for s in strip).rstrip() for strip in strips)

    async def until(self, true: Callable[[], Any]) -> None:
        """Wait until `true()`; fails with what is on the terminal."""
        end = time.monotonic() + SECONDS
        while not true():
            assert time.monotonic() < end, self.seen()
            await asyncio.sleep(0.01)
        await self.pilot.pause()
