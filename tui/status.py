"""The status line: memory pressure, speed, context, the model's memory, experts.

Knows nothing of where the numbers come from. It has no timer: it renders when `live` changes.
"""

from collections.abc import Iterator, Sequence

from textual.content import Content
from textual.geometry import Size
from textual.reactive import reactive
from textual.widget import Widget

from .live import HEIGHTS, HISTORY, LEVELS, Field, Live

SEPARATOR = "  "
MOST_LINES = 2
COLUMNS_PER_BEAT = 8  # of the width, for each reading of the history that is shown
COLOURS = {"normal": "$success", "warning": "$warning", "critical": "$error bold"}

Row = list[tuple[Field, str]]  # fields, and what is said of them


def arrange(fields: Sequence[Field], width: int, most: int = MOST_LINES) -> list[Row]:
    """At most `most` lines of at most `width` columns, with longer forms where there is room,
    the most important fields first. If not even the shorter ones fit, extras are left out, then
    the shortest forms are taken, and at last other fields are left out."""
    for kept, forms in _attempts(fields, width):
        if (rows := _rows(kept, forms, width, most)) is not None:
            return _filled(kept, forms, width, most, rows)
    return []


def _attempts(fields: Sequence[Field], width: int) -> Iterator[tuple[list[Field], list[int]]]:
    """What may be shown and in which forms, the best first."""
    yield list(fields), [0] * len(fields)
    kept = list(fields)
    yield kept, [field.usual for field in kept]
    for extra in [field for field in reversed(fields) if field.extra]:
        kept = [field for field in kept if field is not extra]
        yield kept, [field.usual for field in kept]
    # One that is too wide alone would keep all others out.
    kept = [field for field in kept if len(field.forms[-1]) <= width]
    while kept:
        yield kept, [len(field.forms) - 1 for field in kept]
        kept = kept[:-1]


def _filled(
    fields: Sequence[Field], forms: list[int], width: int, most: int, rows: list[Row]
) -> list[Row]:
    """`rows` with longer forms where there is room, one step each and again. That of the first
    field comes late, the history of the pressure: it is an ornament beside the numbers."""
    important = [at for at, field in enumerate(fields) if at and not field.extra]
    extras = [at for at, field in enumerate(fields) if at and field.extra]
    for group in ([*important, 0], extras):
        grown = bool(fields)
        while grown:
            grown = False
            for at in group:
                longer = [form - (i == at) for i, form in enumerate(forms)]
                if forms[at] and (more := _rows(fields, longer, width, most)) is not None:
                    forms, rows, grown = longer, more, True
    return rows


def _rows(
    fields: Sequence[Field], chosen: Sequence[int], width: int, most: int
) -> list[Row] | None:
    """The fields in these forms, line after line; None if they do not fit."""
    rows: list[Row] = []
    left = 0
    for field, form in zip(fields, chosen, strict=True):
        text = field.forms[form]
        left -= len(SEPARATOR) + len(text)
        if not rows or left < 0:
            left = width - len(text)
            rows.append([])
        if left < 0 or len(rows) > most:
            return None
        rows[-1].append((field, text))
    return rows


class Status(Widget):
    """As many lines as the fields need, up to MOST_LINES; a field is never broken."""

    live: reactive[Live] = reactive(Live())

    def __init__(self, *, id: str | None = None):
        super().__init__(id=id)
        self._taken: tuple[object, int] = (None, 0)  # lines, in a phase at a width
        self._arranged: tuple[object, list[Row]] = (None, [])

    def rows(self, width: int) -> list[Row]:
        if self._arranged[0] != (self.live, width):
            fields = self.live.fields(min(HISTORY, width // COLUMNS_PER_BEAT))
            self._arranged = ((self.live, width), arrange(fields, width))
        return self._arranged[1]

    def lines(self, width: int) -> list[str]:
        """What is said, in lines of at most `width` columns."""
        return [SEPARATOR.join(text for _, text in row) for row in self.rows(width)]

    def watch_live(self) -> None:
        # The layout of the screen is costly, and numbers change four times a second.
        if self.is_mounted and self._height(self.content_size.width) != self.content_size.height:
            self.refresh(layout=True)

    def _height(self, width: int) -> int:
        """Lines needed. It does not shrink while a reply comes: the text above would jump
        with every number that gains or loses a digit."""
        when, before = self._taken
        now = (self.live.phase, width)
        lines = max(1, len(self.rows(width)), before if when == now else 0)
        self._taken = (now, lines)
        return lines

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return self._height(width)

    def render(self) -> Content:
        rows = self.rows(self.content_size.width or 80)
        return Content("\n").join(
            Content(SEPARATOR).join(_coloured(field, text) for field, text in row) for row in rows
        )


def _coloured(field: Field, text: str) -> Content:
    content = Content(text)
    if not field.level:
        return content
    content = content.stylize(COLOURS[field.level])
    for at, character in enumerate(text):
        if character in HEIGHTS:  # a reading of its own
            content = content.stylize(COLOURS.get(LEVELS[HEIGHTS.index(character)], ""), at, at + 1)
    return content
