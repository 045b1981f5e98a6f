"""Markdown of a model's is shown as written, and does nothing."""

from typing import Any

import pytest
from textual.app import App, ComposeResult
from textual.widgets import Markdown

from mlx_maverick.tui.prose import Prose, parser


class Page(App[None]):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.opened: list[str] = []

    def compose(self) -> ComposeResult:
        yield Prose(self.text)

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
    app = Page(text)
    async with app.run_test() as pilot:
        prose = app.query_one(Prose)
        for at in range(0, len(text), max(1, len(text) // 8)):  # as it streams in
            await prose.append(text[at : at + max(1, len(text) // 8)])
        await prose.update(text)
        await pilot.pause()


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
    app = Page("x")
    async with app.run_test() as pilot:
        prose = app.query_one(Prose)
        prose.post_message(Markdown.LinkClicked(prose, href))
        await pilot.pause()
        assert app.opened == ([href] if opens else [])


def test_the_parser_is_githubs() -> None:
    def kinds(text: str) -> set[str]:
        tokens: list[Any] = parser().parse(text)
        return {t.type for t in tokens}

    assert "table_open" in kinds("| a |\n|---|\n| b |")
    assert "html_block" not in kinds("<table><tr></tr></table>")
