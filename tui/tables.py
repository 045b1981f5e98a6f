"""A table in the width there is: columns shrink and wrap, and one that is too wide is shown
row by row.

Knows nothing of Markdown.
"""

from textual.content import Content

from .rows import breaks

NARROWEST = 6  # columns of text
BETWEEN = "│"


def table(head: list[Content], body: list[list[Content]], width: int) -> list[Content]:
    """The rows of a table of at most `width` columns, if that is possible at all."""
    count = len(head)
    body = [[*row, *[Content("")] * (count - len(row))][:count] for row in body]
    room = width - 3 * (count - 1) - 2
    if count == 0:
        return []
    natural = [max(1, *(row[at].cell_length for row in [head, *body])) for at in range(count)]
    if sum(natural) > room:
        if room < NARROWEST * count:
            return _records(head, body, width)
        natural = _shrunk(natural, room)
    line = "┼".join("─" * (size + 2) for size in natural)
    rows = _row([cell.stylize_before("bold") for cell in head], natural)
    rows.append(Content(line).stylize(".prose--quote"))
    for cells in body:
        rows += _row(cells, natural)
    return rows


def _shrunk(natural: list[int], room: int) -> list[int]:
    """The widest columns give up what is missing."""
    low, high = 1, max(natural)
    while low < high:  # the greatest width of a column that fits
        middle = (low + high + 1) // 2
        if sum(min(size, middle) for size in natural) <= room:
            low = middle
        else:
            high = middle - 1
    return [min(size, low) for size in natural]


def _row(cells: list[Content], sizes: list[int]) -> list[Content]:
    parts = [_wrapped(cell, size) for cell, size in zip(cells, sizes, strict=True)]
    edge = Content(f" {BETWEEN} ").stylize(".prose--quote")
    rows = []
    for at in range(max(map(len, parts))):
        row = Content(" ")
        for column, (part, size) in enumerate(zip(parts, sizes, strict=True)):
            cell = part[at] if at < len(part) else Content("")
            row += cell.pad_right(max(0, size - cell.cell_length))
            if column + 1 < len(parts):
                row += edge
        rows.append(row)
    return rows


def _wrapped(cell: Content, size: int) -> list[Content]:
    rows = []
    for line in cell.split(allow_blank=True):
        places = breaks(line.plain, max(2, size))
        rows += [part.rstrip() for part in line.divide(places)] if places else [line]
    return rows


def _records(head: list[Content], body: list[list[Content]], width: int) -> list[Content]:
    """Each cell on rows of its own, after its column's name."""
    rows: list[Content] = []
    for cells in body or [[Content("")] * len(head)]:
        if rows:
            rows.append(Content("─" * width).stylize(".prose--quote"))
        for name, cell in zip(head, cells, strict=True):
            rows += _wrapped(name.stylize_before("bold") + ": " + cell, width)
    return rows
