"""Markdown of a model's is shown as written, and does nothing."""

from typing import Any

import pytest
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content

from mlx_maverick.tui.highlight import AGAIN, Colours
from mlx_maverick.tui.prose import Prose, parser
from mlx_maverick.tui.rows import Rows, breaks
from mlx_maverick.tui.sheets import Sheets


class Page(App[None]):
    """One sheet."""

    ENABLE_COMMAND_PALETTE = False

    def __init__(self, text: str, whole: bool = True) -> None:
        super().__init__()
        self.sheets = Sheets(text, whole)
        self.opened: list[str] = []

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Prose(self.sheets.sheets[0])

    @property
    def prose(self) -> Prose:
        return self.query_one(Prose)

    def open_url(self, url: str, *, new_tab: bool = True) -> None:
        self.opened.append(url)

    def seen(self) -> str:
        strips = self.screen._compositor.render_strips()
        return "\n".join("".join(s.text for s in strip).rstrip() for strip in strips)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a List<String> here", "a List<String> here"),
        ("<div>kept</div>", "<div>kept</div>"),
        ("[bold]no markup[/bold]", "[bold]no markup[/bold]"),
        ("[red]x", "[red]x"),
        ("**[@click=app.quit]x[/]**", "[@click=app.quit]x[/]"),
        ("`[b]c[/b]`", "[b]c[/b]"),
        ("```\n[b]d[/b]\n```", "[b]d[/b]"),
        ("# [b]e[/b]", "[b]e[/b]"),
        ("a \x1b]0;title\x07 \x1b[2J b", "a ]0;title [2J b"),
        ("```\n\x1b[31mred\n```", "[31mred"),
        ("x &#x202e;y&#13;z &amp; w", "x yz & w"),
        ("![alt &#x202e;text](http://a/b.png)", "alt text"),
    ],
)
async def test_shown_as_written(text: str, shown: str) -> None:
    app = Page(text)
    async with app.run_test() as pilot:
        await pilot.pause()
        seen = app.seen()
        assert shown in seen
        assert not set("\x1b\x07\r\u202e") & set(seen)


@pytest.mark.parametrize(
    "text",
    [
        "# ",
        "# 你好 !!! ...",
        "## \u200b",
        "```no-such-language\nx\n```",
        "```\x1b\nx",
        "> " * 500 + "deep",
        "- " * 200 + "deep",
        "| a | b |\n|---|---|\n| 1 |",
        "| a |\n|---|\n" + "| x |\n" * 50,
        "[a]: http://x\n\n[a]",
        "[x](<javascript:alert('\"]) y>)",
        "***\n---\n***",
        "~~" * 99,
        "\ufffd\ud800".encode("utf-8", "replace").decode(),
        "1. a\n\n   b\n2. c",
        "&#0; &#xD800; &bogus;",
    ],
)
async def test_nothing_breaks_it(text: str) -> None:
    app = Page("", whole=False)
    async with app.run_test() as pilot:
        for at in range(0, len(text), max(1, len(text) // 8)):  # as it streams in
            app.sheets.append(text[at : at + max(1, len(text) // 8)])
            app.prose.changed()
            await pilot.pause()
        app.sheets.finish()
        app.prose.changed()
        await pilot.pause()
        streamed = app.seen()
        app.prose.changed(everything=True)
        await pilot.pause()
        assert app.seen() == streamed
    again = Page(text)
    async with again.run_test() as pilot:
        await pilot.pause()
        assert again.seen() == streamed


@pytest.mark.parametrize(
    ("href", "opens"),
    [
        ("https://example.org/a", True),
        ("mailto:a@b.c", True),
        ("file:///etc/passwd", False),
        ("javascript:x", False),
        ("/etc/passwd", False),
        ("vscode://x", False),
    ],
)
async def test_links_open_in_a_browser_only(href: str, opens: bool) -> None:
    app = Page(f"see [it](<{href}>)")
    async with app.run_test() as pilot:
        await pilot.pause()
        await pilot.click(Prose, offset=(1, 0))
        await pilot.pause()
        assert app.opened == []
        await pilot.click(Prose, offset=(5, 0))
        await pilot.pause()
        assert app.opened == ([href] if opens else [])


def test_the_parser_is_githubs() -> None:
    def kinds(text: str) -> set[str]:
        tokens: list[Any] = parser().parse(text)
        return {t.type for t in tokens}

    assert "table_open" in kinds("| a |\n|---|\n| b |")
    assert "html_block" not in kinds("<table><tr></tr></table>")


LOOKS = """# One *big*

Text **bold** and `code`, a long line that is broken somewhere, because the page is narrow.

- first

  more
- second
  1. inner
  2. other

> quoted
> - item

```py
def f():
    return "a rather long string, too long"
```

| name | what it is |
|:--|--:|
| a | short |
| b | something that is too long for this |

---

    plain code

- a
- b
"""
PAGE = """
One big

Text bold and code, a long line that is
broken somewhere, because the page is
narrow.

• first

  more
• second
  1. inner
  2. other

▌ quoted
▌ • item

 py                                  1
 def f():
     return "a rather long string, too
 long"

 name │ what it is
──────┼─────────────────────────────────
 a    │ short
 b    │ something that is too long for
      │ this

────────────────────────────────────────

 plain code

• a
• b
"""


async def test_looks() -> None:
    app = Page(LOOKS)
    async with app.run_test(size=(40, 34)) as pilot:
        await pilot.pause()
        assert app.seen().strip() == PAGE.strip()


async def test_a_link_that_is_defined_elsewhere() -> None:
    app = Page("a [b] c\n\nd")
    async with app.run_test() as pilot:
        await pilot.pause()
        assert "a [b] c" in app.seen()
        parser().parse("[b]: https://example.org", app.prose._environment)
        app.prose.changed(everything=True)
        await pilot.pause()
        assert "a b c" in app.seen()
        await pilot.click(Prose, offset=(2, 0))
        assert app.opened == ["https://example.org"]


async def test_a_table_without_room() -> None:
    head = "|" + " name |" * 12
    app = Page(f"{head}\n|{'--|' * 12}\n|{' a long cell |' * 12}\n|x|")
    async with app.run_test(size=(60, 40)) as pilot:
        await pilot.pause()
        assert app.seen().count("name: a long cell") == 12
        assert "name: x" in app.seen()
        assert max(map(len, app.seen().splitlines())) <= 60


@pytest.mark.parametrize("width", [2, 3, 5, 9, 20, 60])
@pytest.mark.parametrize(
    "text",
    [
        "the quick brown fox jumps over the lazy dog",
        "x" * 100,
        "  in by four " + "y" * 30 + "   and spaces     ",
        "中文没有空格也要折行" * 5,
        "mixed 中文 and e\u0301 combining 👩\u200d👩\u200d👧 family " * 2,
        " " * 80,
        "",
    ],
)
def test_breaking(text: str, width: int) -> None:
    places = breaks(text, width)
    assert places == sorted(set(places))
    parts = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    assert "".join(parts) == text
    rows = Rows()
    rows.put(Content(text), width)
    assert max(row.content.cell_length for row in rows.rows[:-1] or rows.rows) <= width or (
        not text.strip()
    )
    for part in parts:
        assert cell_len(part.rstrip()) <= width
    for word in text.split()[1:]:
        if cell_len(word) <= width:
            assert any(word in part for part in parts)


CODE = r'''def f(x):
    """A string
    of lines."""
    y = """in
    more
    'than # one
    part"""
    return x  # done
'''


def test_colours_while_it_is_written() -> None:
    text = "".join(CODE.replace("f(", f"f{i}(") for i in range(30))
    whole = Colours("python").lines(text, whole=True)
    assert [line.plain for line in whole] == text.rstrip("\n").split("\n")
    made = Colours("python")
    kept = 0
    for at in range(0, len(text), 11):
        lines = made.lines(text[:at], whole=False)
        assert [line.plain for line in lines] == text[:at].rstrip("\n").split("\n")
        kept = max(kept, len(made._done))
        for mine, right in zip(lines[:-6], whole, strict=False):
            assert mine.is_same(right)
    assert kept > len(whole) - 2 * AGAIN  # so that it does not get slower with each line
    for mine, right in zip(made.lines(text, whole=True), whole, strict=True):
        assert mine.is_same(right)


def test_code_of_no_language() -> None:
    for language in ("", "no-such", "\x1b", "text"):
        lines = Colours(language).lines("a\n\tb\n", whole=True)
        assert [line.plain for line in lines] == ["a", "    b"]


async def test_a_selection_copies_lines_as_they_were_written() -> None:
    app = Page("- a list item that is longer than the page is wide\n\n```\ncode  here\n```")
    async with app.run_test(size=(24, 20)) as pilot:
        await pilot.pause()
        assert "• a list item that is" in app.seen()
        await pilot.mouse_down(Prose, offset=(2, 0))
        await pilot.hover(Prose, offset=(11, 5))
        await pilot.mouse_up(Prose, offset=(11, 5))
        await pilot.pause()
        text = app.screen.get_selected_text()
        assert text is not None
        assert text.startswith("a list item that is longer than the page is wide\n")
        assert text.splitlines()[-1].rstrip() == " code  here"
        await pilot.mouse_down(Prose, offset=(9, 1))
        await pilot.hover(Prose, offset=(8, 2))
        await pilot.mouse_up(Prose, offset=(8, 2))
        await pilot.pause()
        # Whether the character under the pointer belongs to it depends on Textual's version.
        text = app.screen.get_selected_text()
        assert text in ("than the page is wid", "than the page is wide")
        look = app.screen.get_component_rich_style("screen--selection").bgcolor
        marked = [
            segment.text
            for strip in app.screen._compositor.render_strips()
            for segment in strip
            if segment.style and segment.style.bgcolor == look and segment.text.strip()
        ]
        assert "than the page " + "".join(marked[1:]).strip() == text
        assert marked[0].strip() == "than the page"


async def test_blank_lines_in_one_item() -> None:
    text = "- a\n  - b\n\n  c\n- > - d\n  > ```\n  > e\n  > ```\n"
    text += "\n> - f\n> - g\n> ```\n> h\n> ```\n"
    app = Page(text)
    async with app.run_test(size=(40, 20)) as pilot:
        await pilot.pause()
        lines = [line.rstrip("12").rstrip() for line in app.seen().rstrip().splitlines()]
        assert lines == [
            "• a",
            "  ◦ b",
            "",
            "  c",
            "• ▌ ◦ d",
            "  ▌",
            "  ▌  e",
            "",
            "▌ • f",
            "▌ • g",
            "▌",  # after the list
            "▌",
            "▌  h",
        ]


async def test_a_new_width_changes_every_row() -> None:
    app = Page("word " * 40 + "\n\n- more", whole=False)
    async with app.run_test(size=(80, 20)) as pilot:
        await pilot.pause()
        wide = app.seen().strip().count("\n")
        await pilot.resize_terminal(30, 20)
        app.sheets.append(" and more\n\nend")
        app.prose.changed()
        await pilot.pause()
        assert app.seen().strip().count("\n") > 2 * wide
        assert max(map(len, app.seen().splitlines())) <= 30
        assert app.seen().strip().endswith("end")
