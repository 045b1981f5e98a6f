"""The one screen of the chat: transcript, pictures, editor, status line.

Knows nothing of the worker's protocol: the controller says what happened, this shows it.
"""

import re
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Static

from ..cli.terminal import printable
from ..errors import MaverickError
from ..units import gb
from . import controller as chat
from .composer import Composer
from .conversation import Draft, Picture
from .live import Live, Phase
from .message import Notice, Reply, Said
from .pictures import look, typed
from .status import Status
from .transcript import Transcript
from .tray import Tray

DRAIN_SECONDS = 1 / 20
IMAGE = "/image"
KEYS = {
    Phase.LOADING: "loading · ctrl+q quits",
    Phase.READY: "enter sends · ctrl+j new line · ctrl+q quits",
    Phase.ANSWERING: "esc stops · ctrl+q quits",
    Phase.ENDED: "ctrl+r starts the model again · ctrl+q quits",
}


class ChatScreen(Screen[None]):
    """Joins the widgets and the controller."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop"),
        Binding("ctrl+r", "restart", "Start the model again"),
        Binding("ctrl+o", "copy_reply", "Copy the last reply"),
    ]

    def __init__(self, controller: chat.Controller, pictures: tuple[Picture, ...] = ()):
        super().__init__()
        self.controller = controller
        self.failure: MaverickError | None = None  # why there is no model
        self._given = pictures
        self._timer: Timer | None = None

    @property
    def draining(self) -> bool:
        """Whether a timer runs; none does while nothing goes on."""
        return self._timer is not None

    def compose(self) -> ComposeResult:
        yield Transcript(id="transcript")
        yield Tray(id="tray")
        yield Static("", id="hint", markup=False)
        yield Composer(id="composer")
        yield Status(id="status")

    async def on_mount(self) -> None:
        self._transcript = self.query_one(Transcript)
        self._tray = self.query_one(Tray)
        self._composer = self.query_one(Composer)
        self._composer.focus()
        self._tell("")
        await self._tray.show(self._given)
        self._show_live(self.controller.live)
        self.controller.bind(self.post_message)

    def on_unmount(self) -> None:
        self.controller.bind(None)

    # The queue: drained at 20 Hz while something goes on.

    @on(chat.Wake)
    def _woken(self) -> None:
        if self._timer is None:
            self._timer = self.set_interval(DRAIN_SECONDS, self._drain)
            self._drain()

    def _drain(self) -> None:
        self.controller.drain()
        if not self.controller.busy and self._timer is not None:
            self._timer.stop()
            self._timer = None

    # What the controller says.

    @on(chat.LiveChanged)
    def _live_changed(self, message: chat.LiveChanged) -> None:
        self._show_live(message.live)

    @on(chat.ModelReady)
    async def _ready(self, message: chat.ModelReady) -> None:
        model = message.model
        self.failure = None
        self._tell("")
        sees = (
            f"Type {IMAGE} PATH or drag a picture in." if model.vision else "It sees no pictures."
        )
        count = model.parameters
        size = f"{count / 1e9:.1f} B" if count >= 10**8 else f"{count / 1e6:.1f} M"
        await self._transcript.add(
            Notice(
                f"{model.name}: {size} parameters, {gb(model.nbytes)}, "
                f"{model.context:,} tokens of context. {sees}"
            )
        )

    @on(chat.ModelFailed)
    async def _failed(self, message: chat.ModelFailed) -> None:
        self.failure = message.error
        if not self._transcript.entries and self._draft() == Draft("", self._given):
            self.app.exit(return_code=message.error.exit_code)  # nothing here to lose
            return
        text = f"{message.error}\nNothing typed is lost. ctrl+r starts the model again."
        await self._transcript.add(Notice(text, error=True))

    @on(chat.ReplyGrew)
    async def _grew(self, message: chat.ReplyGrew) -> None:
        await self._transcript.grow(message.text)

    @on(chat.ReplyEnded)
    async def _ended(self, message: chat.ReplyEnded) -> None:
        await self._transcript.finish(message.note)

    @on(chat.MessageReturned)
    async def _returned(self, message: chat.MessageReturned) -> None:
        await self._transcript.take_back()
        self._composer.put(message.draft.text)
        await self._tray.show((*message.draft.pictures, *self._tray.pictures))
        if message.error is not None:
            text = f"Not sent: {message.error}"
            await self._transcript.add(Notice(text, error=True))

    @on(chat.Trouble)
    async def _trouble(self, message: chat.Trouble) -> None:
        await self._transcript.add(Notice(message.text, error=True))

    # What a person does.

    @on(Composer.Submitted)
    async def _submitted(self, message: Composer.Submitted) -> None:
        command, _, rest = message.text.strip().partition(" ")
        if command == IMAGE:
            if not rest.strip():
                self._tell(f"{IMAGE} needs the path of a picture")
            elif await self._add_picture(typed(rest)):
                self._composer.clear()
            return
        if re.fullmatch(r"/[a-z]+", command) and not message.text.startswith(" "):
            self._tell(
                f"{command} is no command; {IMAGE} PATH attaches a picture. "
                "A space before it sends it as text."
            )
            return
        draft = self._draft()
        if not draft:
            return
        if refusal := self.controller.send(draft):
            self._tell(refusal)
            return
        self._tell("")
        self._composer.clear()
        await self._tray.show(())
        await self._transcript.add(Said(draft), Reply())

    @on(Composer.Dropped)
    async def _dropped(self, message: Composer.Dropped) -> None:
        for path in message.paths:
            if not await self._add_picture(path):
                with self.prevent(Composer.Changed):  # which would take the reason away
                    self._composer.insert(f"{printable(str(path))} ")

    @on(Composer.Emptied)
    async def _emptied(self) -> None:
        await self._tray.drop_last()

    @on(Composer.Paged)
    async def _paged(self, message: Composer.Paged) -> None:
        await self._transcript.page(message.pages)

    @on(Composer.Changed)
    def _typing(self) -> None:
        self._tell("")

    def action_stop(self) -> None:
        self.controller.stop()

    def action_restart(self) -> None:
        self.controller.restart()

    def action_copy_reply(self) -> None:
        if (reply := self._transcript.last_reply()) is not None:
            self.app.copy_to_clipboard(printable(reply.text))
            self._tell("copied the last reply")

    # Helpers.

    def _draft(self) -> Draft:
        return Draft(self._composer.text, self._tray.pictures)

    async def _add_picture(self, path: object) -> bool:
        """Attach a picture, or say why not."""
        if self.controller.vision is False:
            self._tell("this model sees no pictures")
            return False
        try:
            picture = look(str(path))
        except MaverickError as e:
            self._tell(str(e))
            return False
        self._tell("")
        await self._tray.add(picture)
        return True

    def _tell(self, text: str) -> None:
        """One line above the editor, until something is typed."""
        hint = self.query_one("#hint", Static)
        hint.update(Content(printable(text)))
        hint.display = bool(text)

    def _show_live(self, live: Live) -> None:
        self.query_one(Status).live = live
        self._composer.border_subtitle = KEYS[live.phase]
