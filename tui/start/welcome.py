"""The first screen where no model is chosen: what this machine can run, and what is on it.

Knows nothing of how that is found out: it shows facts as they come.
"""

import re
import shlex
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from ... import hub
from ...errors import MaverickError
from ...kv import DENSE, KVOptions
from ...units import gb
from ..choices import Choices, heading, line, remark
from . import survey
from .facts import Computer, Fact, Fit, Found, Prospect, Remark

Look = Callable[[Sequence[str], int | None, KVOptions], AsyncGenerator[Fact, None]]

FITS = {
    Fit.FITS: "fits",
    Fit.STREAMED: "experts from the SSD",
    Fit.RAISED: "needs a raised GPU limit",
    Fit.NO: "too large for this machine",
    Fit.SOURCE: "has to be converted first",
}
MOST_REMARKS = 3
PAGE = re.compile(r"https?://(?:www\.)?huggingface\.co/([\w.-]+/[\w.-]+)")


class Field(Input):
    """Where a path or a repository is typed, pasted or dropped."""

    def _on_paste(self, event: events.Paste) -> None:
        # Both handlers would run, this one and the field's own.
        event.stop()
        event.prevent_default()
        if words := event.text.split("\n")[0].strip():
            self.replace(line(words).plain, *self.selection)


class WelcomeScreen(Screen[str | None]):
    """Dismisses with a model to load, as a path or `owner/name`, or None.

    `asked`: models used before, the latest first, and those that settings name. `context` and
    `kv` are what memory is reckoned with.
    """

    DEFAULT_CSS = """
    WelcomeScreen {
        layout: vertical;
        #machine { height: auto; padding: 1 1 0 1; }
        #models {
            height: 1fr; padding: 0 1; margin: 1 0 0 0; scrollbar-size-vertical: 1;
            background: transparent;
            & > .option-list--option-highlighted {
                color: $block-cursor-foreground;
                background: $block-cursor-background;
            }
        }
        #told { height: auto; max-height: 4; padding: 0 1; color: $text-warning; }
        #model { border: round $primary 60%; border-subtitle-color: $text-muted; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "list('cursor_up')", "Up", show=False),
        Binding("down", "list('cursor_down')", "Down", show=False),
        Binding("pageup", "list('page_up')", "Page up", show=False),
        Binding("pagedown", "list('page_down')", "Page down", show=False),
        Binding("ctrl+o", "copy_command", "Copy the command", id="copy_reply"),
        Binding("ctrl+r", "again", "Look again", id="again"),
        Binding("escape", "leave", "Back"),
    ]

    def __init__(
        self,
        asked: Sequence[str] = (),
        context: int | None = None,
        kv: KVOptions = DENSE,
        look: Look = survey.facts,
    ):
        super().__init__()
        self._request = (tuple(asked), context, kv)
        self._look_around = look
        self._looking = False
        self._computer: Computer | None = None
        self._models: dict[str, Found] = {}
        self._prospects: list[Prospect] = []
        self._remarks: list[str] = []

    def compose(self) -> ComposeResult:
        yield Static("", id="machine")
        choices = Choices(id="models")
        choices.can_focus = False  # keys come from the field, which always has the focus
        yield choices
        yield Static("", id="told")
        yield Field(placeholder="or type a folder, or owner/name from the Hub", id="model")

    def on_mount(self) -> None:
        self._choices, self._field = self.query_one(Choices), self.query_one(Field)
        self._field.cursor_blink = False  # a blinking cursor is a timer
        self._field.focus()
        self._tell("")
        self.action_again()

    def on_screen_resume(self) -> None:
        keys = {b.binding.action: key for key, b in self.active_bindings.items()}
        copy, again = keys.get("copy_command"), keys.get("again")
        self._field.border_subtitle = f"enter loads · {copy} copies · {again} looks again"

    # What comes.

    def action_again(self) -> None:
        """Look around from the start."""
        self._computer, self._models, self._prospects, self._remarks = None, {}, [], []
        self._looking = True
        self._show()
        self.run_worker(self._look(), exclusive=True)

    async def _look(self) -> None:
        try:
            async with aclosing(self._look_around(*self._request)) as found:
                async for fact in found:
                    self._take(fact)
                    self._show()
        except MaverickError as e:
            self._remarks.append(str(e))
        self._looking = False
        self._show()

    def _take(self, fact: Fact) -> None:
        match fact:
            case Computer():
                self._computer = fact
            case Found():
                self._models[fact.model] = fact
            case Prospect():
                self._prospects.append(fact)
            case Remark(text):
                self._remarks.append(text)

    def _show(self) -> None:
        self.query_one("#machine", Static).update(_machine(self._computer))
        self._choices.show(self._options())

    def _options(self) -> Iterator[Option]:
        yield heading("Models on this machine")
        for model, found in self._models.items():
            yield Option(_found(found), id=f"model {model}")
        if self._looking and not self._prospects:  # which come last
            yield remark("looking …")
        elif not self._models:
            yield remark("none found: in this folder, the Hub's cache, or LM Studio's")
        shown = self._remarks[:MOST_REMARKS]
        for text in shown:
            yield remark(text)
        if more := len(self._remarks) - len(shown):
            yield remark(f"and {more} more")
        if self._prospects:
            yield remark("")
            copies = any(one.convert for one in self._prospects)
            yield heading(f"What it can run{'; enter copies the command' if copies else ''}")
        for number, prospect in enumerate(self._prospects):
            if prospect.convert:
                yield Option(_prospect(prospect), id=f"prospect {number}")
            else:
                yield remark(
                    f"{prospect.model.capitalize()} is too large: the smallest, "
                    f"{prospect.recipe}, needs {gb(prospect.memory)}"
                )

    # What a person does.

    def action_list(self, action: str) -> None:
        getattr(self._choices, f"action_{action}")()

    def action_leave(self) -> None:
        self.dismiss(None)

    @on(Input.Submitted)
    def _submitted(self, message: Input.Submitted) -> None:
        if not message.value.strip():
            self._choices.action_select()
            return
        try:
            model = typed(message.value)
        except MaverickError as e:
            self._tell(str(e))
            return
        self.dismiss(model)

    @on(Input.Changed)
    def _typing(self) -> None:
        self._tell("")

    @on(OptionList.OptionSelected)
    def _selected(self, message: OptionList.OptionSelected) -> None:
        kind, _, rest = str(message.option_id).partition(" ")
        if kind == "prospect":
            self._copy(self._prospects[int(rest)].convert)
            return
        found = self._models[rest]
        if found.fit is not Fit.SOURCE:
            self.dismiss(found.model)
        elif found.command:
            self._copy(found.command, "It has to be converted first. ")
        else:
            self._tell("It has to be converted first, and is too large for this machine then, too.")

    def action_copy_command(self) -> None:
        if command := self._command():
            self._copy(command)
        else:
            self._tell("There is no command to copy.")

    def _command(self) -> str:
        """Of what is highlighted, or else the first."""
        option = self._choices.highlighted_option
        kind, _, rest = str(option.id if option else "").partition(" ")
        if kind == "prospect":
            return self._prospects[int(rest)].convert
        found = self._models.get(rest)
        if found and found.command:
            return found.command
        return next((one.convert for one in self._prospects if one.convert), "")

    def _copy(self, command: str, why: str = "") -> None:
        self.app.copy_to_clipboard(command)
        self._tell(f"{why}Copied: {command}\nRun it in another terminal, then look again.")

    def _tell(self, text: str) -> None:
        told = self.query_one("#told", Static)
        told.update(Content("\n").join(line(part) for part in text.split("\n")))
        told.display = bool(text)


def _machine(computer: Computer | None) -> Content:
    title = line("mlx-maverick", "bold") + line(": Llama 4, Maverick and Scout")
    if computer is None:
        return Content("\n").join([title, line("looking at this machine …", "dim")])
    name = f"{computer.name[:1].upper()}{computer.name[1:]}"
    chip = f", {computer.chip}" if computer.chip else ""
    more = ""
    if computer.raised > computer.limit:
        more = f", or {gb(computer.raised)} with a raised GPU limit"
    said = f"{name}{chip}: a model may take {gb(computer.limit)}{more}"
    return Content("\n").join([title, line(said)])


def _found(found: Found) -> Content:
    sees = "pictures" if found.vision else "text only"
    runs = _runs(found.fit, found.speed)
    if found.fit is Fit.STREAMED and found.command:
        runs.append("all in memory with a raised GPU limit")
    facts = [gb(found.disk), found.bits, sees, ", ".join(runs)]
    first = line(found.name, "bold") + Content("  ") + line(found.where, "dim")
    return Content("\n").join([first, line(" · ".join(filter(None, facts)))])


def _prospect(prospect: Prospect) -> Content:
    facts = [f"{gb(prospect.disk)} on disk", *_runs(prospect.fit, prospect.speed)]
    first = line(f"{prospect.model.capitalize()} as {prospect.recipe}", "bold")
    lines = [first + line(f": {', '.join(facts)}"), line(prospect.convert, "dim")]
    if prospect.sysctl:
        lines.append(line(f"and, after each restart, {prospect.sysctl}", "dim"))
    return Content("\n").join(lines)


def _runs(fit: Fit | None, speed: str) -> list[str]:
    return [text for text in (FITS.get(fit, "") if fit else "", speed) if text]


def typed(text: str) -> str:
    """The model that a person means: a folder, also as a terminal writes one that is dropped, or
    a repository, also by its page. Raises NotFound for what can be neither."""
    text = text.strip()
    if page := PAGE.match(text):
        return page[1]
    try:
        words = shlex.split(text)
    except ValueError:  # an open quote
        words = []
    if hub.is_demo(text):
        return text
    for word in (text, *(words if len(words) == 1 else ())):
        if word.startswith("file://"):
            word = unquote(urlsplit(word).path)
        try:
            path = Path(word).expanduser()
            if path.is_dir():
                return str(path.absolute())
        except (OSError, RuntimeError, ValueError):  # too long, no such user, a null byte
            continue
    hub.local(text)  # raises for what is no repository's name
    return text
