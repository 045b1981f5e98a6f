"""A model that cannot be loaded: why, and the ways out to choose from.

Knows nothing of what is possible: that is asked for, and shown when it is known.
"""

from collections.abc import Awaitable, Callable, Iterator
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from ...errors import BadCheckpoint, DoesNotFit, MaverickError, NotFound, UsageError
from ..choices import Choices, line, remark
from . import survey
from .ways import Asked, Kind, Way

__all__ = ["Asked", "Kind", "TroubleScreen", "Way"]

ALWAYS = (Way(Kind.AGAIN), Way(Kind.ANOTHER), Way(Kind.QUIT))
# About the model or what was asked of it; of a process that died nothing can be reckoned.
RECKONED = (DoesNotFit, UsageError, NotFound, BadCheckpoint)


class TroubleScreen(ModalScreen[Way | None]):
    """Dismisses with a way out, never one to copy, or None for none (escape).

    `asked` is what could not be loaded, for `error`.
    """

    DEFAULT_CSS = """
    TroubleScreen {
        align: center middle;
        & > Vertical {
            width: 90%; max-width: 96; min-width: 40; height: auto; max-height: 100%;
            padding: 0 1; background: $surface; border: round $error;
            border-title-color: $text-error; border-subtitle-color: $text-muted;
        }
        VerticalScroll { height: auto; max-height: 35vh; scrollbar-size-vertical: 1; }
        #ways { height: auto; max-height: 40vh; margin: 1 0 0 0; background: transparent; }
        #told { height: auto; max-height: 2; color: $text-warning; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Close")]

    def __init__(
        self,
        error: MaverickError,
        asked: Asked,
        find: Callable[[Asked], Awaitable[list[Way]]] = survey.ways,
    ):
        super().__init__()
        self.error, self.asked = error, asked
        self._find = find
        self._ways: list[Way] | None = None  # not known yet
        self._problem = ""  # why it never will be

    def compose(self) -> ComposeResult:
        with Vertical() as box:
            box.border_title = "This model cannot be loaded"
            box.border_subtitle = "enter chooses · escape closes"
            with VerticalScroll():  # tab leads there, to scroll what is long
                yield Static(line(str(self.error)))
            yield Choices(id="ways")
            yield Static("", id="told")

    def on_mount(self) -> None:
        self._choices = self.query_one(Choices)
        self._choices.focus()
        self._tell("")
        if isinstance(self.error, RECKONED):
            self.run_worker(self._reckon())
        else:
            self._ways = []
        self._show()

    async def _reckon(self) -> None:
        try:
            self._ways = await self._find(self.asked)
        except MaverickError as e:
            said = str(self.error) in str(e)  # as of a folder that is none of a model
            self._ways, self._problem = [], "" if said else str(e)
        self._show()

    @property
    def ways(self) -> tuple[Way, ...]:
        """Those shown, the best first."""
        return (*(self._ways or ()), *ALWAYS)

    def _show(self) -> None:
        self._choices.show(self._options(), whole=self._ways is not None)

    def _options(self) -> Iterator[Option]:
        if self._ways is None:
            yield remark("reckoning what would do …")
        elif self._problem:
            yield remark(self._problem)
        for way in self.ways:
            yield Option(line(way.words), id=_id(way))

    @on(OptionList.OptionSelected)
    def _selected(self, message: OptionList.OptionSelected) -> None:
        way = next(way for way in self.ways if _id(way) == message.option_id)
        if way.kind is not Kind.COPY:
            self.dismiss(way)
            return
        self.app.copy_to_clipboard(str(way.value))
        self._tell("Copied. Run it in another terminal, then try again.")
        self._choices.go_to(_id(Way(Kind.AGAIN)))

    def action_leave(self) -> None:
        self.dismiss(None)

    def _tell(self, text: str) -> None:
        told = self.query_one("#told", Static)
        told.update(Content(text))
        told.display = bool(text)


def _id(way: Way) -> str:
    return f"{way.kind} {way.value}"
