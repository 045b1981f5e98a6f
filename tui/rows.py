"""Lines of text broken into rows of a terminal.

Knows nothing of widgets and Markdown. A row remembers which line it shows and from where, so
that a selection copies lines as they were written, not as they were broken.
"""

import re
from dataclasses import dataclass, field

from rich.cells import cell_len, get_character_cell_size
from textual.content import Content

TAB = 4
NOTHING = Content("")

_WORD = re.compile(r"\s*\S+\s*|\s+")


@dataclass(frozen=True, slots=True)
class Row:
    """`content` begins with `skip` characters that are no part of the line; what follows is the
    line from character `start` on."""

    content: Content
    line: int
    start: int = 0
    skip: int = 0


@dataclass
class Rows:
    """Rows that are laid out one below the other."""

    rows: list[Row] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def put(
        self,
        content: Content,
        width: int,
        first: Content = NOTHING,
        rest: Content = NOTHING,
        fill: str = "",
    ) -> None:
        """Add a line without line ends, `first` before its first row and `rest` before the
        others; `fill` is the style of whole rows."""
        number = len(self.lines)
        self.lines.append(first.plain + content.plain)
        room = max(2, width - max(first.cell_length, rest.cell_length))
        places = breaks(content.plain, room)
        parts = content.divide(places) if places else [content]
        for at, part in zip((0, *places), parts, strict=True):
            if part.cell_length > room or places:
                part = part.rstrip()  # what does not fit
            row = (rest if at else first) + part if (rest if at else first) else part
            if fill:
                row = row.pad_right(max(0, width - row.cell_length)).stylize_before(fill)
            if at:
                self.rows.append(Row(row, number, len(first) + at, len(rest)))
            else:
                self.rows.append(Row(row, number))

    def add(self, row: Content) -> None:
        """A row that is a line."""
        self.rows.append(Row(row, len(self.lines)))
        self.lines.append(row.plain.rstrip())

    def extend(self, other: "Rows") -> None:
        base = len(self.lines)
        self.rows += [Row(r.content, r.line + base, r.start, r.skip) for r in other.rows]
        self.lines += other.lines


def breaks(text: str, width: int) -> list[int]:
    """Where to break `text` so that no row is wider than `width` cells, which is 2 or more:
    between words, or inside a word that is too long."""
    if len(text) <= width and (text.isascii() or cell_len(text) <= width):
        return []
    narrow = text.isascii()
    places: list[int] = []
    used = 0
    for match in _WORD.finditer(text):
        word = match[0]
        size = len(word) if narrow else cell_len(word)
        bare = len(word.rstrip()) if narrow else cell_len(word.rstrip())
        if used and used + bare > width:
            places.append(match.start())
            used = 0
        if bare <= width:
            used = min(used + size, width)  # white space at the end takes no room
            continue
        for at, character in enumerate(word, match.start()):
            cells = 1 if narrow else get_character_cell_size(character)
            if used + cells > width:
                if character.isspace():
                    continue
                places.append(at)
                used = 0
            used += cells
    return places
