"""A list to choose from that grows while one looks at it.

Knows nothing of what is chosen. What is highlighted stays so when more comes: nothing moves
below a finger.
"""

from collections.abc import Iterable

from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from ..cli.terminal import printable


def line(text: str, style: str = "") -> Content:
    """Text exactly as it is, harmless."""
    return Content(printable(" ".join(text.split()))).stylize(style)


def heading(text: str) -> Option:
    """One that cannot be chosen."""
    return Option(line(text, "bold"), disabled=True)


def remark(text: str) -> Option:
    """The same, of less weight."""
    return Option(line(text), disabled=True)


class Choices(OptionList):
    """Options by id; the first that can be chosen is highlighted until a person moves on."""

    DEFAULT_CSS = """
    Choices > .option-list--option-disabled { color: $text-muted; }
    """

    def __init__(self, *, id: str | None = None):
        super().__init__(id=id, compact=True, markup=False)
        self._moved = False

    def show(self, options: Iterable[Option], whole: bool = True) -> None:
        """Replace them all. If they are not the `whole` yet, what comes may be better: nothing is
        highlighted that a person has not."""
        kept = self.highlighted_option.id if self._moved and self.highlighted_option else None
        top = self.scroll_y
        self.clear_options()
        self.add_options(options)
        ids = [None if option.disabled else option.id for option in self.options]
        if kept in ids and kept is not None:
            self.highlighted = ids.index(kept)
            self.scroll_to(y=top, animate=False)
        else:
            self._moved = False
            first = next((i for i, id in enumerate(ids) if id is not None), None)
            self.highlighted = first if whole else None

    def go_to(self, id: str) -> None:
        """Highlight an option."""
        self._moved = True
        self.highlighted = self.get_option_index(id)

    def action_cursor_up(self) -> None:
        self._moved = True
        super().action_cursor_up()

    def action_cursor_down(self) -> None:
        self._moved = True
        super().action_cursor_down()

    def action_page_up(self) -> None:
        self._moved = True
        super().action_page_up()  # type: ignore[no-untyped-call]
        if self.highlighted is None:  # there was only a heading above
            self.action_first()

    def action_page_down(self) -> None:
        self._moved = True
        super().action_page_down()  # type: ignore[no-untyped-call]
        if self.highlighted is None:
            self.action_last()
