"""The settings' screen, with a person's keys."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import TextArea

from mlx_maverick.errors import MaverickError, NotFound
from mlx_maverick.kv import KVOptions
from mlx_maverick.sampling import Sampling
from mlx_maverick.tui.settings.preferences import Preferences
from mlx_maverick.tui.settings.row import Row
from mlx_maverick.tui.settings.screen import SettingsScreen
from mlx_maverick.tui.settings.settings import Settings
from mlx_maverick.tui.settings.system_prompt import RECOMMENDED

from ..watched import SECONDS, Watched

GIVEN = Settings("folder")


class Host(App[None]):
    """Opens the settings, and notes what they gave."""

    def __init__(self, screen: SettingsScreen):
        super().__init__()
        self.settings, self.given = screen, list[Settings | None]()

    def on_mount(self) -> None:
        self.push_screen(self.settings, self.given.append)


class Person(Watched):
    def __init__(self, app: Host, pilot: Pilot[None]):
        self.app, self.pilot = app, pilot

    @property
    def focused(self) -> str:
        """The field that has the focus."""
        row = next(w for w in self.app.focused.ancestors if isinstance(w, Row))  # type: ignore[union-attr]
        return row.field.name

    def row(self, name: str) -> Row:
        return next(row for row in self.app.settings.query(Row) if row.field.name == name)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def write(self, name: str, text: str) -> None:
        """Go to a field and put a text in it."""
        while self.focused != name:
            await self.press("tab")
        await self.press("end", "ctrl+u", *(events.Key(c, c).key for c in text))

    async def gives(self) -> Settings | None:
        await self.until(lambda: self.app.given)
        return self.app.given[0]


@asynccontextmanager
async def opened(
    config: Path, given: Settings = GIVEN, size: tuple[int, int] = (60, 40), **options: Any
) -> AsyncIterator[Person]:
    app = Host(SettingsScreen(given, config, **options))
    async with app.run_test(size=size) as pilot:
        person = Person(app, pilot)
        await person.until(lambda: "Nothing is changed." in person.seen())
        yield person


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


async def test_settings_are_changed_with_the_keyboard_alone(config: Path) -> None:
    async with opened(config) as person:
        assert person.focused == "system"
        await person.press(*"Rhyme", "enter", *"Now", "tab", "ctrl+u", "1", "down", "down", "up")
        assert person.focused == "top_p"
        await person.press("enter")
        assert person.focused == "min_p"
        await person.write("max_tokens", "50")
        await person.press("ctrl+s")
        assert await person.gives() == Settings(
            "folder", "Rhyme\nNow", sampling=Sampling(temperature=1.0, max_tokens=50)
        )
    assert not config.exists()


@pytest.mark.parametrize("size", [(60, 24), (100, 30), (200, 50), (30, 10)])
async def test_the_field_with_the_focus_is_in_view_with_its_name(
    config: Path, size: tuple[int, int]
) -> None:
    async with opened(config, size=size) as person:
        for row in person.app.settings.query(Row):
            assert person.focused == row.field.name
            assert row.field.label in person.seen()
            await person.press("tab")
            await person.pilot.pause()


async def test_all_that_is_wrong_is_said_beside_its_field_and_nothing_is_used(
    config: Path,
) -> None:
    async with opened(config) as person:
        await person.write("temperature", "700")
        await person.write("top_p", "0")
        seen = person.seen().splitlines()
        at = next(i for i, line in enumerate(seen) if "Temperature" in line)
        assert "✗ temperature 700.0 is not a number" in seen[at + 2]
        assert "✗ top_p 0 would allow no token" in person.seen()
        assert "Wrong: Temperature, Top p." in person.seen()
        await person.press("ctrl+s", "ctrl+g")
        assert (person.focused, person.app.given) == ("temperature", [])
        await person.write("temperature", "0")
        await person.write("top_p", ".5")
        assert "✗" not in person.seen()
        await person.press("ctrl+enter")
        assert await person.gives() == Settings("folder", sampling=Sampling(0, 0.5))
    assert not config.exists()


async def test_it_says_what_comes_of_a_change(config: Path) -> None:
    async with opened(config) as person:
        await person.write("seed", "5")
        assert "From the next reply on." in person.seen().splitlines()[-3]
        await person.press("ctrl+r")
        assert "begins by reading the whole chat again" in person.seen()
        await person.write("context", "65,536")
        await person.write("kv_bits", "8")
        assert "The model is loaded again: another context, KV cache." in person.seen()
        await person.press("ctrl+s")
        assert await person.gives() == Settings(
            "folder", RECOMMENDED, 65536, KVOptions(8), sampling=Sampling(seed=5)
        )


async def test_it_compares_with_what_the_model_was_loaded_with(config: Path) -> None:
    """A chat of yesterday, opened while another model is there."""
    async with opened(config, loaded=Settings("other")) as person:
        await person.write("seed", "5")
        assert "The model is loaded again: another model." in person.seen()


async def test_the_recommended_prompt_can_be_taken_out_again(config: Path) -> None:
    async with opened(config, Settings("folder", "My own.")) as person:
        await person.press("ctrl+r")
        assert person.row("system").text == RECOMMENDED
        assert "You are an expert conversationalist" in person.seen()
        await person.press("ctrl+z")
        assert person.row("system").text == "My own."


async def test_they_become_those_of_new_chats_and_comments_stay(config: Path) -> None:
    config.write_text("temperature = 0.9  # warm\n# end\n")
    async with opened(config) as person:
        await person.write("seed", "7")
        await person.press("ctrl+g")
        assert await person.gives() == Settings("folder", sampling=Sampling(seed=7))
    text = config.read_text()
    assert text.startswith("temperature = 0.6  # warm\n")
    assert text.endswith("# end\n")
    preferences = Preferences.read(config)
    assert Settings.merged(preferences.place()) == Settings("folder", sampling=Sampling(seed=7))


async def test_a_file_that_is_wrong_is_said_and_nothing_is_lost(config: Path) -> None:
    config.write_text("temperatur = 1\n")
    async with opened(config, size=(100, 40)) as person:
        await person.write("seed", "7")
        await person.press("ctrl+g")
        await person.until(lambda: "did you mean temperature?" in person.seen())
        assert config.read_text() == "temperatur = 1\n"
        await person.press("ctrl+s")
        assert await person.gives() == Settings("folder", sampling=Sampling(seed=7))


async def test_going_back_asks_where_something_would_be_lost(config: Path) -> None:
    async with opened(config) as person:
        await person.write("seed", "7")
        await person.press("escape")
        assert "esc again goes back without the changes" in person.seen()
        await person.press("8", "escape")  # not the second one: somebody went on writing
        assert person.app.given == []
        await person.press("escape")
        assert await person.gives() is None
    async with opened(config) as person:
        await person.press("escape")
        assert await person.gives() is None


async def test_the_buttons_do_what_their_keys_do(config: Path) -> None:
    for button, saved in (("use", False), ("use_in_new", True)):
        async with opened(config) as person:
            await person.write("seed", "7")
            await person.pilot.click(f"#{button}")
            assert await person.gives() == Settings("folder", sampling=Sampling(seed=7))
        assert config.exists() == saved
    async with opened(config) as person:
        await person.pilot.click("#leave")
        assert await person.gives() is None


async def test_another_model_is_looked_at_before_it_is_taken(config: Path) -> None:
    def look(model: str) -> None:
        looked.append((model, threading.current_thread() is threading.main_thread()))
        if model == "typo":
            raise NotFound("typo does not exist; \x1b[31mgive a folder")

    looked: list[tuple[str, bool]] = []
    async with opened(config, check_model=look) as person:
        await person.write("model", "typo")
        await person.press("ctrl+g")
        await person.until(lambda: "✗ typo does not exist; [31mgive a folder" in person.seen())
        assert (person.focused, person.app.given) == ("model", [])
        await person.press("ctrl+s")  # refused at once
        assert looked == [("typo", False)]
        await person.write("model", "right")
        assert "✗" not in person.seen()
        await person.press("ctrl+s")
        assert await person.gives() == Settings("right")
        assert looked[1:] == [("right", False)]
    async with opened(config, check_model=look) as person:
        await person.write("seed", "7")
        await person.press("ctrl+s")
        await person.gives()
    assert len(looked) == 2


async def test_what_is_written_while_a_model_is_looked_at_is_not_lost(config: Path) -> None:
    go_on = threading.Event()
    async with opened(config, check_model=lambda model: go_on.wait(SECONDS)) as person:
        await person.write("model", "right")
        await person.press("ctrl+s")
        await person.until(lambda: "Looking at the model" in person.seen())
        await person.press("e", "r")
        go_on.set()
        await person.until(lambda: "loaded again" in person.seen().splitlines()[-3])
        await person.pilot.pause()
        assert person.app.given == []
        await person.press("ctrl+s")
        assert await person.gives() == Settings("righter")


async def test_text_that_comes_in_is_made_harmless_and_what_was_there_stays(config: Path) -> None:
    given = Settings("[red]m\x1b[2J", "\x1b]0;title\x07[b]Be\r\nbrief.‮")
    async with opened(config, given) as person:
        assert "[red]m[2J" in person.seen()
        assert "]0;title[b]Be" in person.seen()
        assert "\x1b" not in person.seen() + person.row("system").text + person.row("model").text
        await person.write("seed", "7")
        person.app.post_message(events.Paste("1\x1b[31m2\n3"))
        await person.until(lambda: person.row("seed").text == "71[31m2")
        await person.write("seed", "7")
        await person.press("ctrl+s")
        # Nobody touched them.
        assert await person.gives() == Settings(
            given.model, given.system, sampling=Sampling(seed=7)
        )
    async with opened(config) as person:
        person.app.post_message(events.Paste("a\x1b[2Jb\r\nc\x07"))
        await person.until(lambda: person.row("system").text == "a[2Jb\nc")


async def test_no_timer_runs_while_nobody_writes(config: Path) -> None:
    async with opened(config) as person:
        for row in person.app.settings.query(Row):
            assert row.editor.cursor_blink is False
        assert isinstance(person.row("system").editor, TextArea)


async def test_without_colours_what_is_wrong_is_marked(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened(config) as person:
        assert person.app.no_color
        await person.write("seed", "x")
        assert "✗ seed 'x' is not a whole number" in person.seen()


async def test_a_full_disk_is_said(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise MaverickError(f"{path.name} cannot be written (No space left on device)")

    monkeypatch.setattr("mlx_maverick.tui.settings.preferences.write", full)
    async with opened(config) as person:
        await person.press("ctrl+g")
        await person.until(lambda: "No space left" in person.seen())
        assert person.app.given == []


async def test_what_was_typed_just_before_counts(config: Path) -> None:
    """Keys that come at once, as after a moment in which the app was held up."""
    async with opened(config) as person:
        await person.write("seed", "")
        for character in "17":
            person.app.post_message(events.Key(character, character))
        person.app.post_message(events.Key("ctrl+s", None))
        await person.until(lambda: person.app.given)
        (given,) = person.app.given
        assert given is not None
        assert given.sampling.seed == 17
