"""Makes docs/chat.svg, from the chat itself: `python docs/screenshot.py`.

It talks with the model that comes with the package; all figures are this machine's.
"""

import asyncio
import os
import tempfile
from pathlib import Path

from mlx_maverick.client import Client
from mlx_maverick.paths import HOME_VARIABLE
from mlx_maverick.pressure import read
from mlx_maverick.sampling import Sampling
from mlx_maverick.tui.app import ChatApp
from mlx_maverick.tui.controller import Controller
from mlx_maverick.tui.conversation import Draft
from mlx_maverick.tui.keeper import Keeper
from mlx_maverick.tui.pictures import look
from mlx_maverick.tui.settings.settings import Settings
from mlx_maverick.tui.store import Store

QUESTIONS = (
    "Hello! My name is Ada.",
    "What is in the picture?",
    "Which shape is yellow?",
    "What is 7 times 8?",
    "Where is the blue square?",
    "What is my name?",
)


async def main(file: Path) -> None:
    with tempfile.TemporaryDirectory() as home:
        os.environ[HOME_VARIABLE] = home
        controller = Controller(
            Client,
            Settings("demo", sampling=Sampling(temperature=0)),
            Keeper(Store.open(Path(home) / "chats.db")),
            read,
        )
        app = ChatApp(controller)
        async with app.run_test(size=(96, 40)) as pilot:
            controller.start()
            for question in QUESTIONS:
                while controller.busy:
                    await asyncio.sleep(0.05)
                pictures = (look("demo"),) if "picture" in question else ()
                controller.send(Draft(question, pictures))
            while controller.busy:
                await asyncio.sleep(0.05)
            await pilot.pause()
            app.save_screenshot(str(file))
        controller.close()


if __name__ == "__main__":
    asyncio.run(main(Path(__file__).with_name("chat.svg")))
