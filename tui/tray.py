"""The pictures that go with the next message, one chip each, above the editor.

Knows nothing of the model. A chip goes away with a click, or the last one with backspace in
the empty editor.
"""

from textual import events
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from ..cli.terminal import printable
from ..units import gb
from .conversation import Picture


def label(picture: Picture) -> str:
    """'cat.jpg  640×480  1.2 MB'"""
    name = printable(" ".join(picture.path.name.split()))
    return f"{name}  {picture.width}×{picture.height}  {gb(picture.nbytes)}"


class Chip(Static):
    """One picture."""

    class Clicked(Message):
        def __init__(self, chip: "Chip"):
            super().__init__()
            self.chip = chip

    def __init__(self, picture: Picture):
        super().__init__(Content(f"✕ {label(picture)}"))
        self.picture = picture

    def on_click(self, event: events.Click) -> None:
        event.stop()
        self.post_message(self.Clicked(self))


class Tray(VerticalScroll, can_focus=False):
    """The chips; takes no room while there are none."""

    def __init__(self, *, id: str | None = None):
        super().__init__(id=id)
        self.pictures: tuple[Picture, ...] = ()

    def on_mount(self) -> None:
        self.display = bool(self.pictures)

    async def show(self, pictures: tuple[Picture, ...]) -> None:
        """Hold exactly these."""
        self.pictures = pictures
        self.display = bool(pictures)
        with self.app.batch_update():
            await self.remove_children()
            await self.mount_all(Chip(p) for p in pictures)
        self.scroll_end(animate=False)

    async def add(self, picture: Picture) -> None:
        await self.show((*self.pictures, picture))

    async def drop_last(self) -> None:
        await self.show(self.pictures[:-1])

    async def on_chip_clicked(self, event: Chip.Clicked) -> None:
        event.stop()
        gone = list(self.query(Chip)).index(event.chip)
        await self.show(self.pictures[:gone] + self.pictures[gone + 1 :])
