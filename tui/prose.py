"""A widget that shows one sheet of text: Markdown of a model's, or plain text.

Knows nothing of messages. It is one widget with the rows it needs, where Textual's own Markdown
is a widget for every paragraph and bullet: text that comes 50 times a second changes a row, not
the layout. What a model writes stays harmless: HTML is text (a reply about `List<String>` would
lose its half), entities cannot smuggle in control characters, and a link opens only on a click
and only in a browser or mail program.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from rich.segment import Segment
from textual.color import ColorParseError
from textual.content import Content
from textual.geometry import Region, Size
from textual.selection import Selection
from textual.strip import Strip
from textual.style import Style
from textual.widget import Widget

from ..cli.terminal import printable
from .highlight import Colours
from .layout import Page
from .rows import TAB, Row, Rows
from .sheets import Piece, Sheet

SPARE = 3  # rows that are added at a time while text comes: each addition moves all others
SCHEMES = ("http://", "https://", "mailto:")


@cache
def parser() -> MarkdownIt:
    """GitHub's flavour without raw HTML."""
    made = MarkdownIt("gfm-like", {"html": False})
    made.core.ruler.push("harmless", _harmless)
    return made


def _harmless(state: StateCore) -> None:
    _clean(state.tokens)


def _clean(tokens: list[Token]) -> None:
    """Take control characters out of decoded text (`&#x202e;`)."""
    for token in tokens:
        token.content = printable(token.content)
        if token.children:
            _clean(token.children)


@dataclass
class _Laid:
    """A piece as it was laid out."""

    source: str
    open: bool
    gap: bool
    rows: Rows
    colours: list[Colours] = field(default_factory=list)


class Prose(Widget):
    """A sheet. Call `changed` after it did."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "prose--h1",
        "prose--heading",
        "prose--bullet",
        "prose--quote",
        "prose--code",
        "prose--block",
        "prose--label",
        "prose--link",
    }
    DEFAULT_CSS = """
    Prose {
        width: 1fr;
        height: auto;
        & > .prose--h1 { color: $text-primary; text-style: bold underline; }
        & > .prose--heading { color: $text-primary; text-style: bold; }
        & > .prose--bullet { color: $text-primary; }
        & > .prose--quote { color: $text-muted; }
        & > .prose--code { color: $text-warning; background: $warning 10%; }
        & > .prose--block { background: $foreground 6%; }
        & > .prose--label { color: $text-muted; }
        & > .prose--link { text-style: underline; color: $text-accent; }
    }
    """

    def __init__(
        self,
        sheet: Sheet,
        environment: dict[str, Any] | None = None,
        first: bool = True,
        classes: str = "",
    ):
        super().__init__(classes=classes)
        self.auto_links = False  # else each move of the mouse draws the whole sheet
        self.sheet = sheet
        self.first = first  # of its message
        self._environment = {} if environment is None else environment  # where links lead
        self._laid: dict[Piece, _Laid] = {}
        self._order: list[Piece] = []
        self._rows: list[tuple[Row, int]] = []  # and the number of its piece's first line
        self._lines: list[str] = []
        self._width = self._tall = 0
        self._strips: dict[int, Strip] = {}
        self._styles_known: dict[str, Style] = {}

    def changed(self, everything: bool = False) -> bool:
        """Show what the sheet is now; `everything` if links may lead elsewhere. Whether it
        takes more or fewer rows."""
        if everything:
            self._laid.clear()
        if not self._width:
            return True
        before, was = self._rows, self._tall
        self._arrange(self._width)
        after = self._rows
        moved = was != self._tall
        same = 0
        for (old, _), (new, _) in zip(before, after, strict=False):
            if old is not new and not old.content.is_same(new.content):
                break
            same += 1
        if same == len(before) == len(after) and not moved:
            return False
        for y in [y for y in self._strips if y >= same]:
            del self._strips[y]
        dirty = Region(0, same, self._width, max(len(before), len(after)) - same)
        self.refresh(dirty, layout=moved)
        return moved

    def _arrange(self, width: int) -> None:
        if width != self._width:
            self._laid.clear()
            self._strips.clear()
            self._width = width
        rows: list[tuple[Row, int]] = []
        lines: list[str] = []
        laid: dict[Piece, _Laid] = {}
        for piece in self.sheet.pieces:
            laid[piece] = made = self._lay(piece, bool(laid))
            if made.gap:
                rows.append((_BLANK, len(lines)))
                lines.append("")
            base = len(lines)
            rows += [(row, base) for row in made.rows.rows]
            lines += made.rows.lines
        self._laid, self._rows, self._lines = laid, rows, lines
        self._tall = len(rows)
        if self.sheet.open:
            self._tall = -(-self._tall // SPARE) * SPARE

    def _lay(self, piece: Piece, inside: bool) -> _Laid:
        """The piece in rows. `inside`: there is something before it in this sheet."""
        known = self._laid.get(piece)
        if known and known.source == piece.source and known.open == piece.open:
            return known
        gap = piece.gap and (inside or not self.first)
        source = printable(piece.source)
        if piece.kind == "plain":
            rows = Rows()
            for line in source.split("\n"):
                rows.put(Content(line.expandtabs(TAB)), self._width)
            return _Laid(piece.source, piece.open, gap, rows)
        page = Page(
            self._width,
            piece.number,
            piece.first_fence,
            not piece.open,
            not piece.continued,
            known.colours if known else [],
        )
        rows = page.lay(parser().parse(source, self._environment))
        return _Laid(piece.source, piece.open, gap, rows, page.colours)

    # As Textual wants it.

    def get_content_width(self, container: Size, viewport: Size) -> int:
        return container.width

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        if width != self._width:
            self._arrange(width)
        return self._tall

    def render_line(self, y: int) -> Strip:
        if (width := self.size.width) != self._width:
            self._arrange(width)
        strip = self._strips.get(y)
        if strip is None:
            strip = self._strips[y] = self._strip(y)
        return strip

    def _strip(self, y: int) -> Strip:
        base = self.visual_style
        if y >= len(self._rows):
            return Strip.blank(self._width, base.rich_style)
        row, first = self._rows[y]
        line = first + row.line
        content = row.content
        if (selection := self.text_selection) is not None:
            content = self._selected(content, row, line, selection)
        head, text = content[: row.skip], content[row.skip :] if row.skip else content
        strip = Strip(self._segments(text, base)).apply_offsets(row.start, line)
        if row.skip:
            strip = Strip.join([Strip(self._segments(head, base)), strip])
        return strip.adjust_cell_length(self._width, base.rich_style)

    def _segments(self, content: Content, base: Style) -> list[Segment]:
        parts = content.render(base, end="", parse_style=self._look)
        return [Segment(text, look.rich_style) for text, look in parts]

    def _look(self, name: str | Style) -> Style:
        if isinstance(name, Style):
            return name
        if (known := self._styles_known.get(name)) is None:
            if name.startswith("."):
                known = self.get_visual_style(name[1:], partial=True)
            else:
                try:
                    known = Style.parse(name)
                except ColorParseError:  # a theme without that colour
                    known = Style.null()
            self._styles_known[name] = known
        return known

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._styles_known.clear()
        self._strips.clear()

    # Selecting with the mouse.

    def _selected(self, content: Content, row: Row, line: int, selection: Selection) -> Content:
        if (span := selection.get_span(line)) is None:
            return content
        length = len(self._lines[line])
        start, end = span[0], length if span[1] == -1 else min(span[1], length)
        shift = row.skip - row.start
        start, end = max(start + shift, row.skip), min(end + shift, len(content))
        if end <= start:
            return content
        look = Style.from_styles(self.screen.get_component_styles("screen--selection"))
        return content.stylize(look, start, end)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        return selection.extract("\n".join(self._lines)), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self._strips.clear()
        self.refresh()

    def action_link(self, target: str) -> None:
        """Called on a click on a link."""
        target = printable(target)
        if target.lower().startswith(SCHEMES):
            self.app.open_url(target)
            self.notify(target, title="Opened", markup=False)
        else:
            self.notify(target, title="Not opened: no web address", markup=False)


_BLANK = Row(Content(""), 0)
