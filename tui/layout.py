"""Markdown laid out in rows: what a paragraph, a list, a quote, a code block looks like.

Knows nothing of widgets; styles that begin with a dot are the widget's to define.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from markdown_it.token import Token
from textual.content import Content, Span
from textual.style import Style

from .highlight import Colours
from .rows import NOTHING, Rows
from .tables import table

BULLETS = ("• ", "◦ ", "▪ ")
BAR = "▌ "
ROOM = 16  # columns that quotes and lists in each other leave for text

_SPACE = re.compile(r"\s+")
_MARKS = {"em": "italic", "strong": "bold", "s": "strike"}


@dataclass
class _Box:
    """A quote or a list item around text."""

    first: Content = NOTHING
    rest: Content = NOTHING
    used: bool = False


@dataclass
class _List:
    ordered: bool
    next: int
    depth: int


@dataclass
class Page:
    """Lays out the tokens of one piece of Markdown."""

    width: int
    number: int | None = None  # of the first list item, instead of the one written
    first_code: int = 1
    whole: bool = True
    headed: bool = True  # whether a code block at the beginning says its language and number
    colours: list[Colours] = field(default_factory=list)  # of its code blocks; kept between calls
    rows: Rows = field(default_factory=Rows)

    def lay(self, tokens: Sequence[Token]) -> Rows:
        """The rows of `tokens`. Raises nothing: whatever a model writes is shown somehow."""
        self._boxes: list[_Box] = []
        self._lists: list[_List] = []
        self._gap = False
        self._codes = self._fences = 0
        cells: list[list[Content]] = []
        look, hidden = "", False
        for token in tokens:
            match token.type:
                case "blockquote_open":
                    self._enter(Content(BAR).stylize(".prose--quote"))
                case "bullet_list_open" | "ordered_list_open":
                    self._list(token)
                case "list_item_open":
                    self._item()
                case "blockquote_close" | "list_item_close":
                    self._leave(token.type == "list_item_close")
                case "bullet_list_close" | "ordered_list_close":
                    self._lists.pop()
                    self._gap = self._gap or not self._lists
                case "heading_open":
                    look = ".prose--h1" if token.tag in ("h1", "h2") else ".prose--heading"
                    hidden = False
                case "paragraph_open":
                    look, hidden = "", token.hidden
                case "inline" if cells:
                    cells[-1].append(inline(token))
                case "inline":
                    content = inline(token)
                    self._text(content.stylize_before(look) if look else content, not hidden)
                case "fence" | "code_block":
                    self._code(token)
                case "hr":
                    self._text(Content("─" * self._room).stylize(".prose--quote"))
                case "table_open":
                    cells = [[]]
                case "tr_open" if cells[-1]:
                    cells.append([])
                case "table_close":
                    self._table(cells)
                    cells = []
        return self.rows

    # Boxes.

    @property
    def _room(self) -> int:
        return max(2, self.width - sum(b.rest.cell_length for b in self._boxes))

    def _enter(self, first: Content, rest: Content | None = None) -> None:
        wide = self._room - first.cell_length < ROOM
        self._boxes.append(_Box() if wide else _Box(first, first if rest is None else rest))

    def _leave(self, item: bool) -> None:
        box = self._boxes.pop()
        if item and not box.used:  # an item without text
            self._boxes.append(box)
            self._text(NOTHING, gap=False)
            self._boxes.pop()

    def _list(self, token: Token) -> None:
        ordered = token.type == "ordered_list_open"
        start = int(token.attrs.get("start", 1)) if ordered else 1
        if self.number is not None and not self._lists and ordered:
            start = self.number
        depth = sum(1 for made in self._lists if not made.ordered)
        self._lists.append(_List(ordered, start, depth))

    def _item(self) -> None:
        made = self._lists[-1]
        sign = f"{made.next}. " if made.ordered else BULLETS[made.depth % len(BULLETS)]
        made.next += 1
        self._enter(Content(sign).stylize(".prose--bullet"), Content(" " * len(sign)))

    def _around(self) -> tuple[Content, Content]:
        """What comes before the first row of some text, and before the others."""
        first = rest = NOTHING
        for box in self._boxes:
            first += box.rest if box.used else box.first
            rest += box.rest
            box.used = True
        return first, rest

    def _space(self) -> None:
        """A blank row between what is there and what comes, if there should be one."""
        if self._gap and self.rows.rows:
            around = NOTHING
            for box in self._boxes:
                if not box.used:
                    break
                around += box.rest
            self.rows.add(around)

    # What they hold.

    def _text(self, content: Content, gap: bool = True) -> None:
        if gap:
            self._gap = self._gap or all(box.used for box in self._boxes)
            self._space()
        first, rest = self._around()
        for line in content.split(allow_blank=True):
            self.rows.put(line, self.width, first, rest)
            first = rest
        self._gap = gap

    def _code(self, token: Token) -> None:
        language = token.info.split()[0] if token.type == "fence" and token.info.strip() else ""
        at = self._codes
        self._codes += 1
        if at == len(self.colours) or self.colours[at].language != language:
            self.colours[at:] = [Colours(language)]
        self._space()
        first, rest = self._around()
        if token.type == "fence" and (at or self.headed):
            sign = str(self.first_code + self._fences)
            self._fences += 1
            room = self._room - len(sign) - 2
            name = Content(f" {language}").truncate(room, pad=True)
            head = (name + f"{sign} ").stylize(".prose--label")
            self.rows.put(head, self.width, first, rest, ".prose--block")
            first = rest
        edge = Content(" ")
        for line in self.colours[at].lines(token.content, self.whole):
            self.rows.put(line, self.width, first + edge, rest + edge, ".prose--block")
            first = rest
        self._gap = True

    def _table(self, cells: list[list[Content]]) -> None:
        self._space()
        first, rest = self._around()
        for row in table(cells[0], cells[1:], self._room):
            self.rows.add(first + row)
            first = rest
        self._gap = True


def inline(token: Token) -> Content:
    """Text with emphasis, code and links."""
    text: list[str] = []
    spans: list[Span] = []
    opened: list[tuple[str | Style, int]] = []
    at = 0
    for child in token.children or ():
        kind, part = child.type, ""
        if kind == "text":
            part = _SPACE.sub(" ", child.content)
        elif kind == "softbreak":
            part = " "
        elif kind == "hardbreak":
            part = "\n"
        elif kind == "code_inline":
            part = child.content
            spans.append(Span(at, at + len(part), ".prose--code"))
        elif kind == "image":
            name = "".join(inner.content for inner in child.children or ())
            part = f"🖼 {name or child.attrs.get('src', '')}"
            spans.append(Span(at, at + len(part), _link(child.attrs.get("src", ""))))
        elif kind == "link_open":
            opened.append((_link(child.attrs.get("href", "")), at))
            opened.append((".prose--link", at))
        elif kind == "link_close":
            for _ in range(2):
                look, start = opened.pop()
                spans.append(Span(start, at, look))
        elif kind.endswith("_open"):
            opened.append((_MARKS.get(kind.removesuffix("_open"), ""), at))
        elif kind.endswith("_close"):
            look, start = opened.pop()
            spans.append(Span(start, at, look))
        else:
            part = child.content
        text.append(part)
        at += len(part)
    return Content("".join(text), [s for s in spans if s.end > s.start])


def _link(target: object) -> Style:
    return Style.from_meta({"@click": f"link({str(target)!r})"})
