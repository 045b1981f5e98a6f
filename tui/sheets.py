"""A message cut into pieces that can be parsed alone, and these into sheets of a few screens.

Knows nothing of widgets. A piece is a paragraph, a list item, a code block, a table: text comes
at the end, so only the last piece is ever parsed again, and only sheets in view are laid out.
What is longer than a sheet is cut at a line's end: a code block is closed and opened again, a
table repeats its head, a list goes on counting.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

LIMIT = 4000  # characters of a piece, and of a sheet

_FENCE = re.compile(r"(`{3,}|~{3,})(.*)")
_HEADING = re.compile(r"#{1,6}(?:[ \t]|$)")
_ITEM = re.compile(r"(?:([-+*])|(\d{1,9})([.)]))([ \t]+)(?=\S)")
_STARTS_LIST = re.compile(r"(?:[-+*]|1[.)])[ \t]+\S")  # what may interrupt a paragraph
_RULER = re.compile(r"[ \t]*\|?(?:[ \t]*:?-+:?[ \t]*\|)*[ \t]*:?-*:?[ \t]*$")  # under a head
_RULE = re.compile(r"(?:(?:\*[ \t]*){3,}|(?:_[ \t]*){3,}|(?:-[ \t]*){3,})$")
_DEFINITION = re.compile(r" {0,3}\[[^\[\]]{1,999}\]:[ \t]*\S")


@dataclass(eq=False)
class Piece:
    """Some lines of a message."""

    source: str = ""
    kind: str = "text"  # heading, rule, item, quote, fence; plain
    gap: bool = True  # a blank line before it
    number: int | None = None  # of a list item, where counting goes on
    continued: bool = False  # the piece before was cut
    fences: int = 0  # code blocks that begin in it
    first_fence: int = 1  # the number of the first of them in the message
    open: bool = True  # text may still come


@dataclass(eq=False)
class Sheet:
    """What one widget shows."""

    pieces: list[Piece] = field(default_factory=list)
    open: bool = False  # it is the last, and text may still come

    @property
    def size(self) -> int:
        return sum(len(p.source) for p in self.pieces)


@dataclass
class _Fence:
    opening: str
    marker: str
    indent: int
    floor: int  # a line with less indentation has left the list the block is in


class Sheets:
    """A message of Markdown that grows. `sheets` is never empty; the last one may change."""

    def __init__(self, text: str = "", whole: bool = False):
        self.sheets = [Sheet(open=True)]
        self.definitions: list[str] = []  # lines that say where links lead
        self._piece: Piece | None = None
        self._draft: Piece | None = None  # shows a line that has only begun
        self._spare: Piece | None = None  # was one; the same object, so that it is shown faster
        self._lines: list[str] = []  # of the piece, as written
        self._rest = ""  # a line that has not ended
        self._size = 0
        self._kind = ""
        self._gap = False  # a blank line has been since the last line of text
        self._fence: _Fence | None = None
        self._quoted = False  # in a code block in a quote
        self._dedent = 0
        self._number: int | None = None  # of the item before
        self._mark = ""  # of the list
        self._fences = 0
        self.append(text)
        if whole:
            self.finish()

    def append(self, text: str) -> None:
        """More text at the end."""
        self._withdraw()
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._take(line.removesuffix("\r"))
        while len(self._rest) > LIMIT:
            self._break()
        if self._gap and self._fence is None and self._rest[:1].strip():
            self._close()  # whatever the line will be, it begins something
        if self._piece is not None:
            self._piece.source = self._source(self._rest)
        elif self._rest.strip():
            self._draft = self._made(self._rest)
            self._draft.source = self._rest
            self._place(self._draft)

    def finish(self) -> None:
        """No more text comes."""
        self._withdraw()
        line, self._rest = self._rest, ""
        if line:
            self._take(line)
        self._close()
        if not self.sheets[-1].pieces and len(self.sheets) > 1:
            self.sheets.pop()
        self.sheets[-1].open = False

    def pieces(self) -> Iterator[Piece]:
        for sheet in self.sheets:
            yield from sheet.pieces

    def _withdraw(self) -> None:
        if self._draft is not None:
            self.sheets[-1].pieces.remove(self._draft)
            self._spare, self._draft = self._draft, None

    # Lines.

    def _take(self, line: str) -> None:
        if len(line) > LIMIT:
            rest, self._rest = self._rest, line
            while len(self._rest) > LIMIT:
                self._break()
            line, self._rest = self._rest, rest
        if self._dedent:
            if line.strip() and _margin(line) < min(self._dedent, 2):
                self._dedent, self._fence = 0, None  # out of the list item that was cut
            line = line[min(self._dedent, _margin(line)) :]
        text = line.lstrip(" \t")
        indent = _margin(line.expandtabs(4)) if text else 0
        if self._fence is not None:
            if not text or indent >= self._fence.floor:
                self._code(line, text)
                return
            self._fence = None
        if not text:
            self._gap = True
            if self._piece is not None:
                self._add(line)
            return
        if self._piece is None or self._begins(line, indent):
            self._close()
            self._open(line)
        self._gap = False
        self._add(line)
        self._look(line, text, indent)
        if self._kind in ("heading", "rule"):
            self._close()

    def _begins(self, line: str, indent: int) -> bool:
        """Whether `line` begins a piece: nothing before it can go on in it."""
        if indent:
            if self._kind == "item":
                return False
            if self._gap or indent > 3:
                return self._gap
            line = line.lstrip(" ")
        fence = _FENCE.match(line)
        if self._gap or _HEADING.match(line) or (fence and _opens(fence)):
            return True
        if _RULE.match(line) and (line[0] != "-" or self._kind != "text"):
            return True  # after text three dashes make it a heading
        if line.startswith(">"):
            return self._kind != "quote"
        if self._kind == "item":
            return bool(_ITEM.match(line))
        return bool(_STARTS_LIST.match(line))

    def _made(self, line: str) -> Piece:
        """The piece that `line` begins."""
        number, kind = None, "text"
        bare = line.lstrip(" ") if _margin(line) < 4 else line
        if _RULE.match(bare):
            kind = "rule"
        elif item := _ITEM.match(line):
            kind = "item"
            if item[2]:
                going_on = self._number is not None and item[3] == self._mark
                number = (self._number or 0) + 1 if going_on else int(item[2])
        elif _HEADING.match(bare):
            kind = "heading"
        elif bare.startswith(">"):
            kind = "quote"
        elif (fence := _FENCE.match(bare)) and _opens(fence):
            kind = "fence"
        gap = self._gap or kind != "item" or self._kind != "item"
        piece, self._spare = self._spare or Piece(), None
        piece.kind, piece.gap, piece.number = kind, gap, number
        piece.first_fence = self._fences + 1
        return piece

    def _open(self, line: str) -> None:
        piece = self._made(line)
        item = _ITEM.match(line) if piece.kind == "item" else None
        self._kind, self._number = piece.kind, piece.number
        self._mark = (item[3] or "") if item else ""
        self._quoted = False
        self._start(piece)

    def _start(self, piece: Piece) -> None:
        self._piece, self._lines, self._size = piece, [], 0
        self._place(piece)

    def _place(self, piece: Piece) -> None:
        if self.sheets[-1].pieces and self.sheets[-1].size > LIMIT * 3 // 4:
            self._turn([])
        self.sheets[-1].pieces.append(piece)

    def _add(self, line: str, cut: bool = True) -> None:
        if cut and self._lines and self._size + len(line) > LIMIT:
            before = self._dedent
            self._cut()
            if self._dedent != before:
                line = line[min(self._dedent, _margin(line)) :]
        self._lines.append(line)
        self._size += len(line) + 1
        last = self.sheets[-1]
        if len(last.pieces) > 1 and last.size - len(last.pieces[-1].source) + self._size > LIMIT:
            self._turn([last.pieces.pop()])

    def _turn(self, pieces: list[Piece]) -> None:
        self.sheets[-1].open = False
        self.sheets.append(Sheet(pieces, open=True))

    def _look(self, line: str, text: str, indent: int) -> None:
        """What a line outside of code says: a code block begins, a link is defined."""
        floor = 0
        if self._kind == "item":
            floor = 2
            if not indent and (item := _ITEM.match(line)):
                text, indent = line[item.end() :], item.end()
        elif indent >= 4:
            return
        inner = text.lstrip("> \t") if self._kind == "quote" else text
        fence = _FENCE.match(inner)
        if fence is not None and (self._quoted or _opens(fence)):
            if not self._quoted:
                self._fences += 1
                if self._piece is not None:
                    self._piece.fences += 1
            if self._kind == "quote":  # where it ends is left to the parser
                self._quoted = not self._quoted
            else:
                self._fence = _Fence(inner, fence[1], indent, min(indent, floor))
        elif not self._quoted and _DEFINITION.match(line):
            before = self._lines[-2] if len(self._lines) > 1 else ""
            if not before.strip() or before in self.definitions[-1:]:  # else it is just text
                self.definitions.append(line)

    def _code(self, line: str, text: str) -> None:
        assert self._fence is not None
        marker = self._fence.marker
        run = len(text) - len(text.lstrip(marker[0]))
        ends = run >= len(marker) and not text[run:].strip()
        self._add(line, cut=not ends)
        if ends:
            self._fence, self._gap = None, False
            if self._kind == "fence":
                self._close()

    # Cutting.

    def _cut(self) -> None:
        """Go on in a new piece, because this one is long enough."""
        assert self._piece is not None
        head: list[str] = []
        self._piece.source = self._source()
        if self._fence is not None:
            self._piece.source += f"\n{' ' * self._fence.indent}{self._fence.marker}"
            head = [self._fence.opening]
            self._dedent = self._dedent or self._fence.indent
            self._fence.indent = self._fence.floor = 0
        elif len(self._lines) > 1 and "|" in self._lines[0] and _RULER.match(self._lines[1]):
            head = self._lines[:2]
        elif self._kind == "item":
            self._dedent = self._dedent or _margin(self._lines[-1])
        self._piece.open = False
        kind = self._kind if self._kind in ("fence", "quote") else "text"
        self._start(Piece(kind=kind, gap=False, continued=True, first_fence=self._fences + 1))
        self._lines = head

    def _break(self) -> None:
        """Take the beginning of a line that is too long."""
        at = self._rest.rfind(" ", LIMIT // 2, LIMIT) + 1 or LIMIT
        line, self._rest = self._rest[:at], self._rest[at:]
        self._take(line)
        if self._piece is not None and self._size >= LIMIT // 2:
            self._cut()

    def _close(self) -> None:
        """The piece is whole."""
        if self._piece is not None:
            self._piece.source = self._source()
            self._piece.open = False
        self._piece, self._lines, self._fence, self._dedent = None, [], None, 0

    def _source(self, rest: str = "") -> str:
        return "\n".join([*self._lines, rest] if rest else self._lines).rstrip("\n")


def _opens(fence: re.Match[str]) -> bool:
    return not (fence[1][0] == "`" and "`" in fence[2])


def _margin(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def plain(text: str) -> list[Sheet]:
    """Sheets of text that is no Markdown; at least one."""
    sheets = [Sheet()]
    size = 0
    part: list[str] = []

    def end(continued: bool) -> None:
        nonlocal size
        source = "\n".join(part)
        sheets[-1].pieces.append(Piece(source, "plain", False, None, continued, open=False))
        part.clear()
        size = 0

    for line in text.split("\n"):
        for at in range(0, len(line) or 1, LIMIT):
            if part and size + len(line) > LIMIT:
                end(continued=False)
                sheets.append(Sheet())
            part.append(line[at : at + LIMIT])
            size += len(part[-1]) + 1
    end(continued=False)
    return sheets
