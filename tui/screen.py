"""The chat's screen: transcript, what waits, pictures, editor, status line.

Knows nothing of the worker's protocol: the controller says what happened, this shows it.
"""

import asyncio
import re
from itertools import takewhile
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Static

from ..cli.terminal import printable
from ..errors import MaverickError
from ..paths import cache_dir
from ..units import gb
from . import happened
from .clipboard import has_pasteboard
from .clipboard import picture as clipboard_picture
from .composer import Composer
from .controller import Controller
from .conversation import Draft, Node
from .dialogs import Dialogs
from .given import Given
from .history import History
from .live import Live, Phase
from .message import Entry, Notice, Queued, Reply, Said
from .pictures import look, typed
from .status import Status
from .transcript import HELP, Transcript
from .tray import Tray
from .usable import tiling

DRAIN_SECONDS = 1 / 20
IMAGE = "/image"
KEYS = {
    Phase.LOADING: "loading · {stop} stops · {quit} quits",
    Phase.READY: "{send} sends · {newline} new line · ctrl+p all else",
    Phase.ANSWERING: "{stop} stops · {send} queues · ctrl+p all else",
    Phase.ENDED: "{again} loads the model · ctrl+p all else",
}
EDITING = "another version of an earlier message: {send} sends it, {stop} leaves it as it was"
UNANSWERED = "This message has no reply: {regenerate} asks for one."
AGAIN = "{again} loads the model again."
GO_ON = "{go_on} goes on"
# In these texts, where a person has not chosen others.
USUAL = {
    "stop": "esc", "quit": "ctrl+q", "send": "enter", "newline": "ctrl+j", "again": "ctrl+r",
    "regenerate": "ctrl+g", "go_on": "ctrl+b",
}  # fmt: skip


class ChatScreen(Screen[None]):
    """Joins the widgets and the controller."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", id="stop"),
        Binding("ctrl+g", "regenerate", "Another reply", id="regenerate"),
        Binding("ctrl+b", "go_on", "Go on with a cut reply", id="go_on"),
        Binding("ctrl+o", "copy_reply", "Copy the last reply", id="copy_reply"),
        Binding("ctrl+n", "new_chat", "New chat", id="new_chat"),
        Binding("ctrl+l", "chats", "Earlier chats", id="chats"),
        Binding("ctrl+t", "settings", "Settings", id="settings"),
        Binding("f3", "models", "Another model", id="models"),
        Binding("ctrl+r", "restart", "Load the model again", id="again"),
        Binding("shift+tab", "select", "Choose a message", id="select"),
        Binding("ctrl+home", "first", "First message", id="first"),
        Binding("ctrl+end", "last", "Last message", id="last"),
    ]

    def __init__(self, controller: Controller, given: Given):
        super().__init__()
        self.controller = controller
        self.failure: MaverickError | None = None  # why there is no model
        self._given = given
        own = {id: keys.split(",")[0].replace("escape", "esc") for id, keys in given.keymap.items()}
        self._keys = {**USUAL, **own}
        self._timer: Timer | None = None
        self._editing: Node | None = None  # the question that is asked in other words
        self._history = History()
        self._waiting: list[Queued] = []

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
        self._dialogs = Dialogs(self.app, self.controller, self.tell, self._given.models)
        self._transcript = self.query_one(Transcript)
        self._tray = self.query_one(Tray)
        self._composer = self.query_one(Composer)
        self._composer.focus()
        self.tell("")
        self._tray.thumbnails = self._transcript.thumbnails = self._given.thumbnails
        await self._tray.show(self._given.pictures)
        self._show_live(self.controller.live)
        if self.controller.conversation:
            await self._show_path()
        if self._given.notes:
            await self._transcript.add(*map(Notice, self._given.notes))
        self.controller.bind(self.post_message)
        if self.controller.settings.model is None:
            self._dialogs.models()

    def on_unmount(self) -> None:
        self.controller.bind(None)

    # The queue: drained at 20 Hz while something goes on.

    @on(happened.Wake)
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

    @on(happened.LiveChanged)
    def _live_changed(self, message: happened.LiveChanged) -> None:
        self._show_live(message.live)

    @on(happened.ModelReady)
    async def _ready(self, message: happened.ModelReady) -> None:
        model = message.model
        self.failure = None
        self.tell("")
        self._tray.tiling = tiling(self.controller.settings.model)
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

    @on(happened.ModelFailed)
    async def _failed(self, message: happened.ModelFailed) -> None:
        self.failure = message.error
        text = f"{message.error}\nNothing typed is lost. {self._with_keys(AGAIN)}"
        await self._transcript.add(Notice(text, error=True))
        if message.loading:
            self._dialogs.trouble(message.error)

    @on(happened.LoadingStopped)
    async def _stopped(self) -> None:
        await self._transcript.add(Notice(f"Loading was stopped. {self._with_keys(AGAIN)}"))

    @on(happened.Asked)
    async def _asked(self, message: happened.Asked) -> None:
        await self._remark(self.controller.conversation.parent(message.question))
        await self._transcript.add(self._entry(message.question), self._entry(message.reply))

    @on(happened.ReplyGrew)
    async def _grew(self, message: happened.ReplyGrew) -> None:
        await self._transcript.grow(message.text)

    @on(happened.ReplyEnded)
    async def _ended(self, message: happened.ReplyEnded) -> None:
        await self._transcript.finish(self._note(message.reply))

    @on(happened.PathChanged)
    async def _path_changed(self, message: happened.PathChanged) -> None:
        await self._show_path(message.at)

    @on(happened.QueueChanged)
    async def _queue_changed(self) -> None:
        await self._transcript.remove_entries(*self._waiting)
        self._waiting = [Queued(draft) for draft in self.controller.queue]
        await self._transcript.add(*self._waiting)

    @on(happened.MessageReturned)
    async def _returned(self, message: happened.MessageReturned) -> None:
        await self._transcript.take_back()
        await self._remark(self.controller.conversation.leaf)
        self._composer.put(message.draft.text)
        await self._tray.show((*message.draft.pictures, *self._tray.pictures))
        if message.error is not None:
            text = f"Not sent: {message.error}"
            await self._transcript.add(Notice(text, error=True))

    @on(happened.Trouble)
    async def _trouble(self, message: happened.Trouble) -> None:
        await self._transcript.add(Notice(message.text, error=True))

    # What a person writes.

    @on(Composer.Submitted)
    async def _submitted(self, message: Composer.Submitted) -> None:
        if not await self._send(message.text):
            self._composer.put_back(message.text)

    async def _send(self, text: str) -> bool:
        """Send a message or do what it commands; or say why not."""
        command, _, rest = text.strip().partition(" ")
        if command == IMAGE:
            if rest.strip():
                return await self._add_picture(typed(rest))
            self.tell(f"{IMAGE} needs the path of a picture")
            return False
        if re.fullmatch(r"/[a-z]+", command) and not text.startswith(" "):
            self.tell(
                f"{command} is no command; {IMAGE} PATH attaches a picture. "
                "A space before it sends it as text."
            )
            return False
        draft, node = Draft(text, self._tray.pictures), self._editing
        if not draft:
            return False
        refusal = self.controller.edit(node, draft) if node else self.controller.send(draft)
        self.tell(refusal)
        if refusal:
            return False
        self._editing = None
        self._history.add(text)
        await self._transcript.last()
        await self._tray.show(())
        return True

    @on(Composer.Recalled)
    async def _recalled(self, message: Composer.Recalled) -> None:
        if message.by < 0 and not self._draft() and (draft := self.controller.take_back()):
            await self._write(draft)
        elif (text := self._history.step(message.by, self._composer.text)) is not None:
            self._composer.replace_all(text)

    @on(Composer.Dropped)
    async def _dropped(self, message: Composer.Dropped) -> None:
        for path in message.paths:
            if not await self._add_picture(path):
                with self.prevent(Composer.Changed):  # which would take the reason away
                    self._composer.insert(f"{printable(str(path))} ")

    def on_paste(self, event: events.Paste) -> None:
        """With the focus elsewhere: as if it had been pasted into the editor."""
        if self.focused is not self._composer:
            self._composer.focus()
            self._composer.post_message(events.Paste(event.text))

    @on(Composer.Pasted)
    def _pasted(self) -> None:
        if has_pasteboard():
            self.run_worker(self._paste_picture(), exclusive=True, group="paste")
        else:
            self._composer.paste_text()

    async def _paste_picture(self) -> None:
        """A picture from the Mac's clipboard, or else what was copied here."""
        try:
            path = await asyncio.to_thread(clipboard_picture, cache_dir() / "pasted")
        except MaverickError as e:
            self.tell(str(e))
            return
        if path is None:
            self._composer.paste_text()
        else:
            await self._add_picture(path)

    @on(Composer.Emptied)
    async def _emptied(self) -> None:
        await self._tray.drop_last()

    @on(Composer.Paged)
    async def _paged(self, message: Composer.Paged) -> None:
        await self._transcript.page(message.pages)

    @on(Composer.Changed)
    def _typing(self) -> None:
        self.tell(self._with_keys(EDITING) if self._editing else "")

    # What a person does.

    async def action_stop(self) -> None:
        if self._editing is not None and not self.controller.busy:
            await self._write(Draft(""))
        else:
            self.controller.stop()

    def action_regenerate(self) -> None:
        self.tell(self.controller.regenerate())

    def action_go_on(self) -> None:
        self.tell(self.controller.go_on())

    def action_restart(self) -> None:
        if self.controller.settings.model is None:
            self._dialogs.models()  # to choose one
        else:
            self.controller.restart()

    def action_new_chat(self) -> None:
        self.tell(self.controller.new_chat())

    def action_chats(self) -> None:
        self._dialogs.chats()

    def action_settings(self) -> None:
        self._dialogs.settings()

    def action_models(self) -> None:
        self._dialogs.models()

    def action_copy_reply(self) -> None:
        if (reply := self._transcript.last_reply()) is not None:
            self._copy(reply.text, "the last reply")

    def action_select(self) -> None:
        self._transcript.focus()

    @on(Transcript.Wanted)
    async def _wanted(self, message: Transcript.Wanted) -> None:
        entry = message.entry
        if not isinstance(entry, Said | Reply) or (node := entry.node) is None:
            return
        match message.action:
            case "edit" if node.role == "user":
                await self.edit(node)
            case "edit":
                self.tell("only what you wrote can be edited: r asks for another reply")
            case "regenerate":
                self.tell(self.controller.regenerate(node))
            case "go_on":
                self.tell(self.controller.go_on(node))
            case "older":
                self.tell(self.controller.turn(node, -1))
            case "newer":
                self.tell(self.controller.turn(node, 1))

    @on(Transcript.Copied)
    def _copied(self, message: Transcript.Copied) -> None:
        self._copy(message.text, message.what)

    @on(Transcript.Left)
    def _left(self, message: Transcript.Left) -> None:
        self._composer.focus()
        self._composer.insert(message.typed)

    async def action_first(self) -> None:
        await self._transcript.first()

    async def action_last(self) -> None:
        await self._transcript.last()

    async def edit(self, node: Node) -> None:
        """Ask a question in other words."""
        await self._write(node.draft)
        self._editing = node
        self.tell(self._with_keys(EDITING))

    def tell(self, text: str) -> None:
        """One line above the editor, until something is typed."""
        self._say("#hint", text)

    # Helpers.

    def _draft(self) -> Draft:
        return Draft(self._composer.text, self._tray.pictures)

    async def _write(self, draft: Draft) -> None:
        """Hold this in the editor, as a new message."""
        self._editing = None
        with self.prevent(Composer.Changed):
            self._composer.replace_all(draft.text)
        self.tell("")
        await self._tray.show(draft.pictures)

    async def _show_path(self, at: Node | None = None) -> None:
        """Show the conversation anew."""
        path = self.controller.conversation.path()
        entries: list[Entry] = [self._entry(node) for node in path]
        above = takewhile(lambda entry: isinstance(entry, Notice), self._transcript.entries)
        kept = next((e for e, node in zip(entries, path, strict=True) if node is at), None)
        if path and path[-1].role == "user":
            entries.append(Notice(self._with_keys(UNANSWERED)))
        self._history = History([node.text for node in path if node.role == "user"])
        await self._transcript.show([*above, *entries], kept)

    async def _remark(self, node: Node | None) -> None:
        """What is said below a reply is another where something follows, and where no more."""
        for entry in self._transcript.entries:
            if isinstance(entry, Reply) and entry.node is node and node is not None:
                entry.note = self._note(node)
                await self._transcript.update_entry(entry)

    def _entry(self, node: Node) -> Entry:
        version = self.controller.conversation.version(node)
        if node.role == "user":
            return Said(node.draft, version, node)
        return Reply(node.text, self._note(node), node.whole, version, node)

    async def _add_picture(self, path: object) -> bool:
        """Attach a picture, or say why not."""
        if self.controller.vision is False:
            self.tell("this model sees no pictures")
            return False
        try:
            picture = look(str(path))
        except MaverickError as e:
            self.tell(str(e))
            return False
        self.tell("")
        await self._tray.add(picture)
        return True

    def _copy(self, text: str, what: str) -> None:
        self.app.copy_to_clipboard(printable(text))
        self.tell(f"copied {what}")

    def _say(self, where: str, text: str) -> None:
        widget = self.query_one(where, Static)
        widget.update(Content(printable(text)))
        widget.display = bool(text)

    def _show_live(self, live: Live) -> None:
        self.query_one(Status).live = live
        self._show_keys()

    def on_descendant_focus(self) -> None:
        self._show_keys()

    def _show_keys(self) -> None:
        choosing = self.focused is self._transcript
        self._composer.border_subtitle = (
            HELP if choosing else self._with_keys(KEYS[self.controller.phase])
        )

    def _with_keys(self, text: str) -> str:
        """A text of ours, with the keys as they are now."""
        return text.format_map(self._keys)

    def _note(self, reply: Node) -> str:
        """What is said below a reply that is not whole."""
        if reply.note and not reply.children and reply.whole:
            return f"{reply.note} · {self._with_keys(GO_ON)}"
        return reply.note
