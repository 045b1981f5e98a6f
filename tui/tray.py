"""The pictures that go with the next message, above the editor: thumbnails, and one chip each.

Knows nothing of the model. A chip goes away with a click, the last one with backspace in the
empty editor, and any of them with the keys of the tray.
"""

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Static

from .conversation import Picture
from .pictures import Tiling, label
from .thumbnail import Mode, Thumbnail

__all__ = ["Chip", "Tray", "label"]

CROSS = "✕ "
SHARE = 5  # of the lines of the terminal, at most this part for thumbnails


class Chip(Widget):
    """One picture: what it is and what it costs."""

    class Clicked(Message):
        def __init__(self, chip: "Chip"):
            super().__init__()
            self.chip = chip

    def __init__(self, picture: Picture, tiling: Tiling | None):
        super().__init__()
        self.picture, self.tiling = picture, tiling

    def render(self) -> Content:
        room = self.content_size.width - len(CROSS)
        return Content(f"{CROSS}{label(self.picture, self.tiling, max(0, room))}")

    def on_click(self, event: events.Click) -> None:
        event.stop()
        self.post_message(self.Clicked(self))


class Tray(Vertical, can_focus=True):
    """Takes no room while it holds nothing. `thumbnails` counts from the next `show` on."""

    FOCUS_ON_CLICK = False  # a click removes one, and the person goes on writing
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,left", "move(-1)", "Previous picture", show=False),
        Binding("down,right", "move(1)", "Next picture", show=False),
        Binding("backspace,delete,enter", "remove", "Remove the picture", show=False),
        Binding("escape", "leave", "Back to the editor", show=False),
    ]

    def __init__(self, *, id: str | None = None):
        super().__init__(id=id)
        self.pictures: tuple[Picture, ...] = ()
        self.thumbnails: Mode = "auto"
        self._tiling: Tiling | None = None
        self._at = 0  # of the chip that the keys are about

    def compose(self) -> ComposeResult:
        yield Horizontal(classes="thumbnails")
        yield VerticalScroll(classes="chips", can_focus=False)
        yield Static("↑↓ choose · backspace removes · esc goes back", classes="keys", markup=False)

    def on_mount(self) -> None:
        self.display = bool(self.pictures)

    @property
    def tiling(self) -> Tiling | None:
        """How the model cuts pictures; None while that is not known."""
        return self._tiling

    @tiling.setter
    def tiling(self, tiling: Tiling | None) -> None:
        self._tiling = tiling
        for chip in self.query(Chip):
            chip.tiling = tiling
            chip.refresh()

    async def show(self, pictures: tuple[Picture, ...]) -> None:
        """Hold exactly these."""
        added = len(pictures) > len(self.pictures)
        self.pictures = pictures
        self.display = bool(pictures)
        small, chips = self.query_one(".thumbnails"), self.query_one(".chips")
        with self.app.batch_update():
            await small.remove_children()
            await chips.remove_children()
            await small.mount_all(Thumbnail(p, self.thumbnails, SHARE) for p in pictures)
            await chips.mount_all(Chip(p, self._tiling) for p in pictures)
        self._point(len(pictures) - 1 if added else self._at)

    async def add(self, picture: Picture) -> None:
        await self.show((*self.pictures, picture))

    async def drop_last(self) -> None:
        await self.drop(len(self.pictures) - 1)

    async def drop(self, at: int) -> None:
        """Remove the picture at that place, if there is one."""
        if 0 <= at < len(self.pictures):
            await self.show(self.pictures[:at] + self.pictures[at + 1 :])

    async def on_chip_clicked(self, event: Chip.Clicked) -> None:
        event.stop()
        await self.drop(list(self.query(Chip)).index(event.chip))

    def action_move(self, by: int) -> None:
        self._point(self._at + by)

    async def action_remove(self) -> None:
        await self.drop(self._at)

    def action_leave(self) -> None:
        self.screen.focus_next()

    def _point(self, at: int) -> None:
        self._at = max(0, min(at, len(self.pictures) - 1))
        for i, chip in enumerate(self.query(Chip)):
            chip.set_class(i == self._at, "chosen")
            if i == self._at:
                chip.scroll_visible(animate=False)
