"""Thumbnails: what they look like, where they are shown, and files that are no pictures."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from textual.app import App, ComposeResult
from textual.containers import VerticalScroll

from mlx_maverick.tui import thumbnail
from mlx_maverick.tui.conversation import Picture
from mlx_maverick.tui.pictures import look
from mlx_maverick.tui.thumbnail import Mode, Thumbnail, blocks, fitted, possible, small

SECONDS = 20
RED, BLUE = (255, 0, 0), (0, 0, 255)


class Host(App[None]):
    def __init__(self, *pictures: Picture, mode: Mode = "blocks", share: int = 3):
        super().__init__()
        self.pictures, self.mode, self.share = pictures, mode, share

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield from (Thumbnail(p, self.mode, self.share) for p in self.pictures)

    @property
    def small(self) -> list[Thumbnail]:
        return list(self.query(Thumbnail))


async def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


@pytest.fixture
def halves(tmp_path: Path) -> Picture:
    """Red above, blue below; 4000 x 2000."""
    image = Image.new("RGB", (4000, 2000), RED)
    image.paste(BLUE, (0, 1000, 4000, 2000))
    image.save(tmp_path / "halves.png")
    return look(tmp_path / "halves.png")


def colours(host: Host) -> list[list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """Of each cell that is a half block on the terminal: above, below."""
    found = []
    for strip in host.screen._compositor.render_strips():
        row = []
        for segment in strip:
            if "▀" in segment.text:
                assert segment.style is not None
                assert segment.style.color is not None
                assert segment.style.bgcolor is not None
                above, below = segment.style.color, segment.style.bgcolor
                row += [(tuple(above.get_truecolor()), tuple(below.get_truecolor()))] * len(
                    segment.text
                )
        if row:
            found.append(row)
    return found


async def test_a_picture_in_blocks(halves: Picture) -> None:
    host = Host(halves)
    async with host.run_test(size=(80, 30)) as pilot:
        await until(lambda: host.small[0].loaded)
        await pilot.pause()
        assert host.small[0].size == (24, 6)  # 24 x 12 pixels
        assert colours(host) == [[(RED, RED)] * 24] * 3 + [[(BLUE, BLUE)] * 24] * 3


async def test_its_share_of_the_lines(halves: Picture) -> None:
    host = Host(halves)
    async with host.run_test(size=(80, 30)) as pilot:
        await until(lambda: host.small[0].loaded)
        await pilot.resize_terminal(80, 12)
        await pilot.pause()
        assert host.small[0].size == (16, 4)
        assert colours(host) == [[(RED, RED)] * 16] * 2 + [[(BLUE, BLUE)] * 16] * 2
        await pilot.resize_terminal(80, 2)
        await pilot.pause()
        assert colours(host) == []


@pytest.mark.parametrize(
    ("mode", "columns", "colour", "no_color", "shown"),
    [
        ("auto", 60, "truecolor", False, True),
        ("auto", 59, "truecolor", False, False),
        ("blocks", 40, "truecolor", False, True),
        ("off", 80, "truecolor", False, False),
        ("auto", 80, "", False, False),  # 16 colours
        ("auto", 80, "truecolor", True, False),
        ("blocks", 80, "truecolor", True, True),
    ],
)
async def test_where_it_is_shown(
    halves: Picture,
    monkeypatch: pytest.MonkeyPatch,
    mode: Mode,
    columns: int,
    colour: str,
    no_color: bool,
    shown: bool,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLORTERM", colour)
    monkeypatch.setenv("NO_COLOR", "1")
    if not no_color:
        monkeypatch.delenv("NO_COLOR")
    host = Host(halves, mode=mode)
    async with host.run_test(size=(columns, 30)) as pilot:
        if shown or columns < 60:
            await until(lambda: host.small[0].loaded)
        await pilot.pause()
        assert bool(colours(host)) is shown
        assert bool(host.small[0].size.area) is shown
        if columns == 59:
            await pilot.resize_terminal(60, 30)
            await pilot.pause()
            assert colours(host)


def test_colours() -> None:
    assert possible("auto", "256", False)
    assert not possible("auto", "standard", False)
    assert not possible("auto", None, False)
    assert possible("blocks", None, False)


@pytest.mark.parametrize(
    ("size", "cells"),
    [
        ((4000, 2000), (24, 6)),
        ((2000, 4000), (8, 8)),
        ((10_000, 10), (24, 1)),
        ((10, 10_000), (1, 8)),
        ((3, 4), (3, 2)),
        ((1, 1), (1, 1)),
    ],
)
def test_fitting(size: tuple[int, int], cells: tuple[int, int]) -> None:
    assert fitted(*size, 24, 8) == cells


async def test_files_that_are_no_pictures(tmp_path: Path, halves: Picture) -> None:
    """They take no room in the end, and what comes after them is shown."""
    cut = tmp_path / "cut.png"
    cut.write_bytes(halves.path.read_bytes()[:200])
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    gone = tmp_path / "gone.png"
    broken = [Picture(path, 400, 300, 1) for path in (cut, text, gone, tmp_path)]
    empty = Picture(text, 0, 0, 0)
    host = Host(*broken, empty, halves)
    async with host.run_test(size=(80, 60)) as pilot:
        await until(lambda: host.small[-1].loaded)
        await pilot.pause()
        assert [t.size.area > 0 for t in host.small] == [False] * 5 + [True]
        assert len(colours(host)) == 6


async def test_removed_before_it_is_there(halves: Picture) -> None:
    host = Host(*[halves] * 5)
    async with host.run_test(size=(80, 30)) as pilot:
        await host.query(Thumbnail).remove()
        await pilot.pause()
        assert colours(host) == []


def test_a_photo_that_lies_on_its_side(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    image = Image.new("RGB", (2000, 1000), RED)
    image.paste(BLUE, (1000, 0, 2000, 1000))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image.save(path, exif=exif, quality=95)
    shown = small(look(path), 0)
    assert shown is not None
    assert shown.size == (8, 16)
    top, bottom = shown.getpixel((4, 2)), shown.getpixel((4, 13))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[0] > 200 > 50 > top[2]
    assert bottom[2] > 200 > 50 > bottom[0]


def test_every_kind_of_picture(tmp_path: Path) -> None:
    """Palettes, grey, transparency (on white), animation."""
    for mode, suffix in (
        ("P", "gif"),
        ("L", "png"),
        ("1", "png"),
        ("CMYK", "jpg"),
        ("I;16", "png"),
    ):
        path = tmp_path / f"{mode.replace(';', '')}.{suffix}"
        Image.new(mode, (50, 40)).save(path)
        shown = small(look(path), 0)
        assert shown is not None, mode
        assert shown.mode == "RGB"
    path = tmp_path / "clear.png"
    Image.new("RGBA", (50, 40), (0, 0, 0, 0)).save(path)
    clear = small(look(path), 0)
    assert clear is not None
    assert clear.getpixel((0, 0)) == (255, 255, 255)


def test_a_large_one_is_not_decoded(
    tmp_path: Path, halves: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    jpeg = tmp_path / "large.jpg"
    Image.new("RGB", (4000, 2000)).save(jpeg)
    monkeypatch.setattr(thumbnail, "MOST_PIXELS", 7_999_999)
    assert small(halves, 1) is None
    assert small(look(jpeg), 1) is not None  # at an eighth
    monkeypatch.setattr(thumbnail, "MOST_JPEG_PIXELS", 7_999_999)
    assert small(look(jpeg), 2) is None


def test_a_file_that_changed_is_decoded_again(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (5, 4), RED).save(path)
    picture = look(path)
    for changed, colour in ((1, RED), (1, RED), (2, BLUE)):
        shown = small(picture, changed)
        assert shown is not None
        assert shown.getpixel((0, 0)) == colour
        Image.new("RGB", (5, 4), BLUE).save(path)


def test_blocks() -> None:
    image = Image.new("RGB", (2, 4), RED)
    image.putpixel((1, 3), BLUE)
    first, second = blocks(image, 2, 2)
    assert first.text == second.text == "▀▀"
    cell = list(second)[-1].style
    assert cell is not None
    assert cell.color is not None
    assert cell.bgcolor is not None
    assert (cell.color.get_truecolor(), cell.bgcolor.get_truecolor()) == (RED, BLUE)
