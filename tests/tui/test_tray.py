"""The pictures above the editor: chips and thumbnails, by mouse and by keyboard."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from textual.app import App, ComposeResult
from textual.widgets import Input, Static

from mlx_maverick.tui.conversation import Picture
from mlx_maverick.tui.pictures import Tiling, look
from mlx_maverick.tui.thumbnail import Mode, Thumbnail
from mlx_maverick.tui.tray import Chip, Tray

from .test_thumbnail import until


class Host(App[None]):
    CSS_PATH = str(Path(__file__).parents[2] / "tui" / "maverick.tcss")

    def __init__(self, *pictures: Picture, thumbnails: Mode = "off"):
        super().__init__()
        self.pictures, self.mode = pictures, thumbnails

    def compose(self) -> ComposeResult:
        yield Static("above")
        yield Tray(id="tray")
        yield Input(select_on_focus=False)

    async def on_mount(self) -> None:
        self.tray.thumbnails = self.mode
        self.query_one(Input).focus()
        await self.tray.show(self.pictures)

    @property
    def tray(self) -> Tray:
        return self.query_one(Tray)

    @property
    def names(self) -> list[str]:
        return [p.path.stem for p in self.tray.pictures]

    def seen(self) -> list[str]:
        return [
            "".join(segment.text for segment in strip).rstrip()
            for strip in self.screen._compositor.render_strips()
        ]


Make = Callable[..., list[Picture]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(*names: str, size: tuple[int, int] = (672, 400)) -> list[Picture]:
        paths = [tmp_path / f"{name}.png" for name in names]
        for path in paths:
            Image.new("RGB", size, "red").save(path)
        return [look(path) for path in paths]

    return made


async def test_an_empty_one_takes_no_room(make: Make) -> None:
    host = Host()
    async with host.run_test() as pilot:
        assert not host.tray.display
        await host.tray.add(make("a")[0])
        await pilot.pause()
        assert host.tray.size.height == 1
        await host.tray.drop_last()
        await host.tray.drop_last()
        await pilot.pause()
        assert not host.tray.display


async def test_what_a_picture_costs_is_told_once_it_is_known(make: Make) -> None:
    host = Host(*make("a", "b"))
    async with host.run_test() as pilot:
        await pilot.pause()
        before = [line for line in host.seen() if "✕" in line]
        assert [re.fullmatch(r" ✕ [ab]\.png  672×400  1\.\d kB", line) for line in before]
        assert not any("token" in line for line in before)
        host.tray.tiling = Tiling(336, 144)
        await pilot.pause()
        after = [line for line in host.seen() if "✕" in line]
        assert [re.search("5 tiles  727 tokens$", line) is not None for line in after] == [True] * 2
        await host.tray.add(make("c")[0])
        await pilot.pause()
        assert sum("5 tiles  727 tokens" in line for line in host.seen()) == 3
        host.tray.tiling = None  # another model
        await pilot.pause()
        assert not any("token" in line for line in host.seen())


@pytest.mark.parametrize("columns", [20, 50, 60, 80])
async def test_a_long_name_leaves_the_numbers(make: Make, columns: int) -> None:
    host = Host(*make("long " * 40))
    async with host.run_test(size=(columns, 24)) as pilot:
        host.tray.tiling = Tiling(336, 144)
        await pilot.pause()
        (line,) = [line for line in host.seen() if "✕" in line]
        assert len(line) <= columns
        if columns >= 50:
            assert line.endswith("727 tokens")
            assert "…" in line
            assert "672×400" in line


async def test_removing_by_keyboard(make: Make) -> None:
    host = Host(*make("a", "b", "c"))
    async with host.run_test() as pilot:
        await pilot.press("shift+tab")
        assert host.focused is host.tray
        await pilot.pause()
        assert "backspace removes" in "\n".join(host.seen())
        await pilot.press("up", "up", "up", "down", "backspace")  # the second of three
        assert host.names == ["a", "c"]
        await pilot.press("delete")
        assert host.names == ["a"]
        await pilot.press("escape", "x")
        assert host.query_one(Input).value == "x"
        assert "backspace removes" not in "\n".join(host.seen())
        await pilot.press("shift+tab", "enter")
        assert host.names == []
        await pilot.pause()
        await pilot.press("y")  # the focus goes back with the last one
        assert host.query_one(Input).value == "xy"


async def test_removing_by_mouse_leaves_the_focus(make: Make) -> None:
    host = Host(*make("a", "b", "c"))
    async with host.run_test() as pilot:
        await pilot.pause()
        await pilot.click(list(host.query(Chip))[1])
        await pilot.pause()
        assert host.names == ["a", "c"]
        await pilot.press("x")
        assert host.query_one(Input).value == "x"


async def test_many(make: Make) -> None:
    """The newest is in view, and the rest by scrolling."""
    host = Host(*make(*"abcdefgh"), thumbnails="blocks")
    async with host.run_test(size=(60, 24)) as pilot:
        await pilot.pause()
        await until(lambda: all(t.loaded for t in host.query(Thumbnail)))
        await pilot.pause()
        chips = [line for line in host.seen() if "✕" in line]
        assert [line.split(".")[0] for line in chips] == [f" ✕ {c}" for c in "efgh"]
        assert host.tray.size.height == 8  # four lines of thumbnails
        assert all(len(line) <= 60 for line in host.seen())
        await pilot.press("shift+tab", *["up"] * 7)
        await pilot.pause()
        assert any(line.startswith(" ✕ a.") for line in host.seen())


async def test_thumbnails(make: Make) -> None:
    host = Host(*make("a", "b"), thumbnails="blocks")
    async with host.run_test(size=(80, 40)) as pilot:
        await until(lambda: all(t.loaded for t in host.query(Thumbnail)))
        await pilot.pause()
        blocks = [line for line in host.seen() if "▀" in line]
        assert blocks == [f" {'▀' * 24} {'▀' * 24}"] * 7
        await host.tray.drop(0)
        await pilot.pause()
        assert len(host.query(Thumbnail)) == 1
        host.tray.thumbnails = "off"
        await host.tray.show(host.tray.pictures)
        await pilot.pause()
        assert host.tray.size.height == 1
