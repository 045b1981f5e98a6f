"""The transcript: a window of sheets, following what comes, a message selected by keys."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.app import App, ComposeResult
from textual.message import Message
from textual.pilot import Pilot
from textual.widgets import Input

from mlx_maverick.tui.conversation import Draft, Picture
from mlx_maverick.tui.message import Bubble, Entry, Notice, Queued, Reply, Said
from mlx_maverick.tui.prose import Prose
from mlx_maverick.tui.thumbnail import Thumbnail
from mlx_maverick.tui.transcript import Transcript
from mlx_maverick.tui.window import WINDOW, Below, More

from .watched import Watched

STYLES = Path(__file__).parents[2] / "tui" / "maverick.tcss"


class Page(App[None]):
    CSS_PATH = STYLES
    ENABLE_COMMAND_PALETTE = False

    def __init__(self) -> None:
        super().__init__()
        self.said: list[Message] = []

    def compose(self) -> ComposeResult:
        yield Transcript(id="transcript")
        yield Input()

    def on_mount(self) -> None:
        self.query_one(Input).focus()

    def on_transcript_wanted(self, message: Transcript.Wanted) -> None:
        self.said.append(message)

    def on_transcript_copied(self, message: Transcript.Copied) -> None:
        self.said.append(message)

    def on_transcript_left(self, message: Transcript.Left) -> None:
        self.said.append(message)
        self.query_one(Input).focus()


class Look(Watched):
    """The app and short ways to look at it."""

    def __init__(self, app: Page, pilot: Pilot[None]):
        self.app, self.pilot = app, pilot
        self.transcript = app.query_one(Transcript)

    @property
    def sheets(self) -> list[Prose]:
        return list(self.transcript.query(Prose))

    @property
    def below(self) -> bool:
        return self.transcript.query_one(Below).display

    @property
    def selected(self) -> list[Entry]:
        return [b.entry for b in self.transcript.query(Bubble) if b.has_class("-selected")]

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()


@asynccontextmanager
async def look(*entries: Entry, size: tuple[int, int] = (80, 24)) -> AsyncIterator[Look]:
    app = Page()
    async with app.run_test(size=size) as pilot:
        made = Look(app, pilot)
        if entries:
            await made.transcript.show(list(entries))
        await pilot.pause()
        yield made


def turns(count: int) -> list[Entry]:
    made: list[Entry] = []
    for i in range(count):
        made += [Said(Draft(f"question {i}")), Reply(f"answer {i}", whole=True)]
    return made


def long(words: int, name: str = "word") -> str:
    return "\n\n".join(f"{name} {i}: " + "and so on " * 20 for i in range(words))


# The window.


async def test_the_window_counts_sheets() -> None:
    reply = Reply(long(400), "stopped", whole=True)  # about 85,000 characters
    async with look(*turns(3), reply, *turns(2)) as page:
        transcript = page.transcript
        assert len(page.sheets) == WINDOW
        assert transcript.hidden_before > 5
        assert transcript.hidden_after == 0
        assert "answer 1" in page.seen()
        earlier, later = transcript.query(More)
        assert f"{transcript.hidden_before} earlier" in str(earlier.render())
        assert not later.display
        assert [str(note.render()) for note in transcript.query(".note")] == ["stopped"]
        await transcript.first()
        await page.pilot.pause()
        assert transcript.hidden_before == 0
        assert len(page.sheets) == WINDOW
        assert [note.display for note in transcript.query(".note")] in ([], [False])
        assert "question 0" in page.seen()
        assert f"{transcript.hidden_after} later" in str(later.render())


async def test_paging_shows_everything_once() -> None:
    words = 300
    async with look(Reply(long(words), whole=True), size=(80, 30)) as page:
        await page.transcript.first()
        await page.pilot.pause()
        found: set[int] = set()
        last = -1
        for _ in range(200):
            numbers = [int(p.split(":")[0]) for p in page.seen().split("word ")[1:]]
            assert numbers == sorted(numbers)
            assert not numbers or numbers[0] <= last + 1  # nothing was passed over
            last = max([last, *numbers])
            found |= set(numbers)
            if page.transcript.following:
                break
            await page.transcript.page(1)
            await page.pilot.pause()
        assert found == set(range(words))
        assert len(page.sheets) <= WINDOW


async def test_show_replaces_and_keeps_in_view() -> None:
    old, new = turns(30), turns(30)
    async with look(*old) as page:
        assert "answer 29" in page.seen()
        await page.transcript.show([*old[:20], *new], keep=old[10])
        await page.until(lambda: "question 5" in page.seen())
        assert page.below
        assert page.transcript.entries == [*old[:20], *new]
        await page.transcript.show(new[:2])
        await page.until(lambda: "question 0" in page.seen())
        assert [b.entry for b in page.transcript.query(Bubble)] == new[:2]
        assert not page.below
        await page.transcript.show([])
        await page.pilot.pause()
        assert page.seen().strip("\n ▔▁▊▎") == "" or "question" not in page.seen()


async def test_a_picture_stands_above_its_message(picture: Path) -> None:
    said = Said(Draft("look", (Picture(picture, 40, 30, 1234),)))
    alone = Said(Draft("", (Picture(picture, 40, 30, 1234),)))
    async with look(said, alone) as page:
        lines = [line for line in page.seen().splitlines() if line.strip(" ▌")]
        assert sum("▣ my cat (1).png  40×30" in line for line in lines) == 2
        assert len(page.transcript.query(Thumbnail)) == 2
        names = [i for i, line in enumerate(lines) if "▣" in line]
        word = next(i for i, line in enumerate(lines) if "look" in line)
        assert names[0] < word < names[1]
        page.transcript.thumbnails = "off"
        await page.transcript.show([Said(said.draft)])
        await page.pilot.pause()
        assert not page.transcript.query(Thumbnail)
        assert "▣ my cat (1).png" in page.seen()


# While a reply comes.


def text_of(seen: str) -> list[str]:
    """Without the scrollbar and the last line, where the hint is."""
    return [line[:78].rstrip() for line in seen.splitlines()[:19]]


async def stream(page: Look, text: str, step: int = 50) -> None:
    for at in range(0, len(text), step):
        await page.transcript.grow(text[at : at + step])
        if at % (step * 50) == 0:
            await page.pilot.pause()


async def test_a_long_reply_stays_bounded_and_followed() -> None:
    text = long(500)
    async with look(Said(Draft("go")), Reply()) as page:
        await stream(page, text)
        await page.until(lambda: "word 499" in page.seen())
        assert page.transcript.following
        assert len(page.sheets) == WINDOW
        assert page.transcript.hidden_before > 5
        await page.transcript.finish("stopped")
        await page.until(lambda: "stopped" in page.seen())
        entry = page.transcript.entries[-1]
        assert isinstance(entry, Reply)
        assert (entry.text, entry.note, entry.whole) == (text, "stopped", True)
        streamed = page.seen()
        await page.transcript.show([Said(Draft("go")), Reply(text, "stopped", True)])
        await page.pilot.pause()
        assert page.seen() == streamed


async def test_text_is_shown_soon_and_not_each_time() -> None:
    async with look(Said(Draft("go")), Reply()) as page:
        laid = 0
        first = page.sheets[-1]
        changed = first.changed

        def counted(everything: bool = False) -> bool:
            nonlocal laid
            laid += 1
            return changed(everything)

        first.changed = counted  # type: ignore[method-assign]
        await page.transcript.grow("at once")
        assert laid == 1
        await page.pilot.pause()
        assert "at once" in page.seen()
        for _ in range(100):
            await page.transcript.grow(" more")
        assert laid < 20
        await page.until(lambda: page.seen().count("more") == 100)
        assert page.transcript._pace is None  # no timer is left


async def test_scrolling_up_releases_and_the_end_follows_again() -> None:
    async with look(Said(Draft("go")), Reply()) as page:
        transcript = page.transcript
        await stream(page, long(30))
        await page.until(lambda: "word 29" in page.seen())
        assert transcript.following
        assert not page.below
        await transcript.page(-1)
        await page.pilot.pause()
        assert not transcript.following
        assert "↓ more below" in page.seen()
        at, before = transcript.scroll_y, page.seen()
        await stream(page, "\n\n" + long(30, "other"))
        await transcript.finish("")
        await page.pilot.pause()
        assert transcript.scroll_y == at
        assert text_of(page.seen()) == text_of(before)
        for _ in range(30):
            await transcript.page(1)
            await page.pilot.pause()
        assert transcript.following
        assert not page.below
        assert "other 29" in page.seen()
        await transcript.add(Said(Draft("next")), Reply())
        await stream(page, long(20, "last"))
        await page.until(lambda: "last 19" in page.seen())


async def test_the_hint_leads_to_the_end() -> None:
    async with look(*turns(30)) as page:
        await page.transcript.first()
        await page.until(lambda: page.below)
        await page.pilot.click(Below)
        await page.until(lambda: "answer 29" in page.seen())
        assert not page.below
        assert page.transcript.hidden_after == 0


async def test_released_far_from_the_end_nothing_moves() -> None:
    async with look(*turns(15), Said(Draft("go")), Reply()) as page:
        await page.transcript.first()
        await page.pilot.pause()
        before = page.seen()
        await stream(page, long(200))
        await page.pilot.pause()
        assert text_of(page.seen()) == text_of(before)
        assert page.transcript.hidden_after > 5
        assert len(page.sheets) == WINDOW
        await page.transcript.last()
        await page.until(lambda: "word 199" in page.seen())


async def test_the_wheel_loads_more_at_the_edges() -> None:
    async with look(*turns(30)) as page:
        transcript = page.transcript
        for _ in range(400):
            await page.pilot._post_mouse_events([_scroll("Up")], Transcript, (5, 5))
            if not transcript.hidden_before:
                break
        assert transcript.hidden_before == 0
        for _ in range(400):
            await page.pilot._post_mouse_events([_scroll("Down")], Transcript, (5, 5))
            if transcript.following:
                break
        assert transcript.following
        assert "answer 29" in page.seen()
        await page.pilot._post_mouse_events([_scroll("Down")], Transcript, (5, 5))
        await page.until(lambda: transcript.following)


def _scroll(way: str) -> Any:
    from textual import events

    return events.MouseScrollUp if way == "Up" else events.MouseScrollDown


async def test_resizing_while_text_comes() -> None:
    text = long(60) + "\n\n```py\n" + "x = 1\n" * 100 + "```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    async with look(Said(Draft("go")), Reply()) as page:
        sizes = [(60, 20), (30, 12), (120, 40), (12, 8), (80, 24)]
        for at in range(0, len(text), 500):
            await page.transcript.grow(text[at : at + 500])
            await page.pilot.resize_terminal(*sizes[(at // 500) % len(sizes)])
            await page.pilot.pause()
        await page.transcript.finish("")
        await page.pilot.resize_terminal(80, 24)
        await page.until(lambda: "1 │ 2" in page.seen())
        assert page.transcript.following


async def test_links_that_are_defined_later_lead_somewhere_at_the_end() -> None:
    async with look(Said(Draft("go")), Reply()) as page:
        await page.transcript.grow("See [the page][p].\n\n" + long(40))
        await page.transcript.grow("\n\nMore.\n\n[p]: https://example.org\n")
        await page.until(lambda: "More." in page.seen())
        await page.transcript.finish("")
        await page.transcript.first()
        await page.until(lambda: "See the page." in page.seen())
        assert len(page.sheets) > 1


async def test_showing_it_anew_loses_nothing_that_came() -> None:
    said, reply = Said(Draft("go")), Reply()
    async with look(said, reply) as page:
        for i in range(10):
            await page.transcript.grow(f"part{i} ")  # the last ones are not shown yet
        await page.transcript.show([said, reply])
        await page.transcript.grow("end")
        await page.until(lambda: "end" in page.seen())
        assert " ".join(f"part{i}" for i in range(10)) + " end" in page.seen()


async def test_taking_back() -> None:
    before = turns(2)
    async with look(*before) as page:
        await page.transcript.add(Said(Draft("wrong")), Reply())
        await page.until(lambda: "wrong" in page.seen())
        await page.transcript.take_back()
        await page.until(lambda: "wrong" not in page.seen())
        assert page.transcript.entries == before
        await page.transcript.take_back()  # nothing is open
        assert page.transcript.entries == before


async def test_what_waits_stays_below() -> None:
    async with look(Said(Draft("go")), Reply("so")) as page:
        waits = Queued(Draft("later"))
        await page.transcript.add(waits)
        await page.until(lambda: "waits for the reply" in page.seen())
        notice = Notice("look out")
        await page.transcript.add(notice)
        assert page.transcript.entries[-2:] == [notice, waits]
        await page.transcript.grow(" far")
        await page.until(lambda: "so far" in page.seen())
        await page.transcript.remove_entries(waits, waits)
        await page.until(lambda: "later" not in page.seen())
        assert waits not in page.transcript.entries


# Keys.


async def test_selecting_a_message() -> None:
    entries = [Notice("hello"), *turns(3)]
    async with look(*entries) as page:
        assert page.selected == []
        await page.press("shift+tab")
        assert page.selected == [entries[-1]]
        await page.press("up", "k")
        assert page.selected == [entries[-3]]
        await page.press("j")
        assert page.selected == [entries[-2]]
        await page.press("home")
        assert page.selected == [entries[1]]  # notices are passed over
        await page.press("up")
        assert page.selected == [entries[1]]
        await page.press("end", "down")
        assert page.selected == [entries[-1]]
        await page.press("escape")
        assert page.selected == []
        assert page.app.query_one(Input).has_focus
        assert [m.typed for m in page.app.said if isinstance(m, Transcript.Left)] == [""]


async def test_the_selected_message_is_in_view() -> None:
    entries = turns(40)
    async with look(*entries) as page:
        await page.press("shift+tab")
        for at in range(len(entries) - 2, len(entries) - 9, -1):
            await page.press("up")
            assert page.selected == [entries[at]]
            bubble = next(b for b in page.transcript.query(Bubble) if b.entry is entries[at])
            await page.until(lambda b=bubble: page.transcript.region.contains_region(b.region))
        await page.press("home")
        await page.until(lambda: "question 0" in page.seen())
        for _ in range(8):
            await page.press("down")
            assert page.selected
        await page.press("end")
        await page.until(lambda: "answer 39" in page.seen())
        assert page.transcript.following


async def test_where_one_has_scrolled_to_is_selected() -> None:
    async with look(*turns(10)) as page:
        await page.transcript.first()
        await page.pilot.pause()
        await page.press("shift+tab")
        assert "question 0" in page.seen()
        (chosen,) = page.selected
        assert page.transcript.entries.index(chosen) < 12


async def test_copying() -> None:
    text = "Raw *text* \x1b[31m.\n\n```py\nx = 1\n```\n\n- a\n  ```\n  y\n  ```\n"
    said = Said(Draft("# as typed"))
    async with look(said, Reply(text, whole=True)) as page:
        await page.press("shift+tab", "c", "1", "2", "3", "up", "c", "1")
        copied = [m.text for m in page.app.said if isinstance(m, Transcript.Copied)]
        assert copied == [text.replace("\x1b", ""), "x = 1\n", "y\n", "# as typed"]
        lines = page.seen().splitlines()
        assert any("py" in line and line.endswith("1") for line in lines)
        assert any(line.endswith(" 2") for line in lines)


@pytest.mark.parametrize(
    ("key", "action"),
    [("e", "edit"), ("r", "regenerate"), ("g", "go_on"), ("left", "older"), ("right", "newer")],
)
async def test_wanting(key: str, action: str) -> None:
    entries = turns(2)
    async with look(*entries) as page:
        await page.press("shift+tab", "up", key)
        (message,) = page.app.said
        assert isinstance(message, Transcript.Wanted)
        assert (message.action, message.entry) == (action, entries[2])


async def test_other_letters_go_to_the_editor() -> None:
    async with look(*turns(2)) as page:
        await page.press("shift+tab", "H")
        (message,) = page.app.said
        assert isinstance(message, Transcript.Left)
        assert message.typed == "H"
        assert page.app.query_one(Input).has_focus


async def test_a_click_selects() -> None:
    entries = [Notice("hello"), *turns(2)]
    async with look(*entries) as page:
        bubbles = list(page.transcript.query(Bubble))
        await page.pilot.click(bubbles[0])
        assert page.selected == []
        assert page.app.query_one(Input).has_focus
        await page.pilot.click(bubbles[2])
        await page.pilot.pause()
        assert page.selected == [entries[2]]
        assert page.transcript.has_focus


async def test_selecting_text_does_not_select_the_message() -> None:
    from textual import events

    async with look(*turns(2)) as page:
        bubble = list(page.transcript.query(Bubble))[2]
        await page.pilot.mouse_down(bubble, offset=(3, 0))
        await page.pilot.hover(bubble, offset=(9, 0))
        await page.pilot.mouse_up(bubble, offset=(9, 0))
        await page.pilot._post_mouse_events([events.Click], bubble, (9, 0), button=1)
        await page.pilot.pause()
        # Whether the character under the pointer belongs to it depends on Textual's version.
        assert page.app.screen.get_selected_text() in ("uestio", "uestion")
        assert page.selected == []


async def test_without_messages_keys_do_nothing() -> None:
    async with look() as page:
        await page.press("shift+tab", "up", "down", "home", "end", "c", "1", "e", "left")
        assert page.app.said == []
        await page.press("escape")
        assert page.app.query_one(Input).has_focus


async def test_versions_and_notes_are_shown() -> None:
    said, reply = Said(Draft("x"), (1, 2)), Reply("y", "stopped", True, (2, 3))
    async with look(said, reply) as page:
        assert "‹ 1/2 ›" in page.seen()
        assert "‹ 2/3 ›  stopped" in page.seen()
        reply.version, reply.note = (3, 4), ""
        await page.transcript.update_entry(reply)
        await page.until(lambda: "‹ 3/4 ›" in page.seen())
        assert "stopped" not in page.seen()
        reply.version = (1, 1)
        await page.transcript.update_entry(reply)
        await page.until(lambda: "‹ 3/4 ›" not in page.seen())


async def test_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = "# head\n\n`code` [link](http://x)\n\n```py\nx = 'y'\n```\n\n> quote"
    async with look(Said(Draft("x")), Reply(text, "stopped", True)) as page:
        page.app.theme = "solarized-light"  # of which no colour is grey
        await page.press("shift+tab")
        for strip in page.app.screen._compositor.render_strips():
            for _, style, _ in strip:
                for colour in (style.color, style.bgcolor) if style else ():
                    if colour is not None and colour.triplet is not None:
                        assert len(set(colour.triplet)) == 1, (strip.text, colour)


# Whatever a model writes.


@pytest.mark.parametrize(
    "text",
    [
        "x" * 100_000,
        "中" * 20_000,
        "> " * 500 + "deep",
        "- " * 200 + "deep",
        "".join("  " * i + f"- {i}\n" for i in range(60)),
        "|" + " a |" * 100 + "\n|" + "---|" * 100 + "\n" + ("|" + " b |" * 100 + "\n") * 50,
        "[bold]x[/bold] [@click=app.quit]y[/] \x1b[31mz\x07\u202eq",
        "```\n" * 2001,
        "*" * 5000,
        "[" * 2000 + "](" * 2000,
        "שלום עולם \u202b\u2066 مرحبا\n\n" * 50,
        "\u200b\ufeff\u00ad e\u0301" * 500,
        "1. " * 300,
        "&#0;&#x202e;" * 100,
        "\n" * 5000 + "end",
    ],
)
@pytest.mark.parametrize("width", [12, 60])
async def test_nothing_breaks_it(text: str, width: int) -> None:
    async with look(Said(Draft(text)), Notice(text[:300]), Reply(), size=(width, 20)) as page:
        step = max(1, len(text) // 12)
        for at in range(0, len(text), step):
            await page.transcript.grow(text[at : at + step])
            await page.transcript._write()
            await page.pilot.pause()
        await page.transcript.finish("")
        await page.transcript.first()
        await page.pilot.pause()
        seen = page.seen()
        assert not set("\x1b\x07\r\u202e\u202b\u2066\x00") & set(seen)
        assert len(page.sheets) <= WINDOW
