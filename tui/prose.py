"""Markdown of a model's, shown as it was written and harmless.

Knows nothing of replies. Three things differ from Textual's own: HTML is text (a reply about
`List<String>` would lose its half), entities cannot smuggle in control characters, and a link
opens only on a click and only in a browser or mail program.
"""

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from textual.widgets import Markdown

from ..cli.terminal import printable

SCHEMES = ("http://", "https://", "mailto:")


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


class Prose(Markdown):
    """A Markdown widget for text of a model's."""

    def __init__(self, text: str = ""):
        super().__init__(printable(text), parser_factory=parser, open_links=False)

    def on_markdown_link_clicked(self, event: Markdown.LinkClicked) -> None:
        event.stop()
        event.prevent_default()
        target = printable(event.href)
        if target.lower().startswith(SCHEMES):
            self.app.open_url(target)
            self.notify(target, title="Opened", markup=False)
        else:
            self.notify(target, title="Not opened: no web address", markup=False)
