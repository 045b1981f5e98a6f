"""Makes docs/chat.svg, from the chat itself: `python docs/screenshot.py`.

The worker is that of `bench --chat`: it has no model, and answers with made-up text.
"""

import asyncio
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

from mlx_maverick.cli.bench_chat_worker import TEXT
from mlx_maverick.client import Client
from mlx_maverick.paths import HOME_VARIABLE
from mlx_maverick.pressure import Pressure, Reading
from mlx_maverick.tui.app import ChatApp
from mlx_maverick.tui.controller import Controller
from mlx_maverick.tui.conversation import Draft
from mlx_maverick.tui.keeper import Keeper
from mlx_maverick.tui.live import Phase
from mlx_maverick.tui.settings.settings import Settings
from mlx_maverick.tui.store import Store

TOKENS = len(TEXT) // 4 + 60
WORKER = (sys.executable, "-m", "mlx_maverick.cli.bench_chat_worker", "47", str(TOKENS))
READING = Reading(256 * 2**30, 9 * 2**30, 247 * 2**30, 0, Pressure.NORMAL)


async def main(file: Path) -> None:
    with tempfile.TemporaryDirectory() as home:
        os.environ[HOME_VARIABLE] = home
        controller = Controller(
            partial(Client, command=WORKER),
            Settings("Maverick-e4r6"),
            Keeper(Store.open(Path(home) / "chats.db")),
            lambda: READING,
        )
        app = ChatApp(controller)
        async with app.run_test(size=(96, 40)) as pilot:
            controller.start()
            while controller.phase is not Phase.READY:
                await asyncio.sleep(0.05)
            controller.send(Draft("How fast can a Mac decode a 4-bit Maverick, and why?"))
            while controller.live.context_used < 3000 + TOKENS - 30:
                await asyncio.sleep(0.05)
            await pilot.pause()
            app.save_screenshot(str(file))
        controller.close()


if __name__ == "__main__":
    asyncio.run(main(Path(__file__).with_name("chat.svg")))
