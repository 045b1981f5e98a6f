"""Which pasted texts are pictures, the first look at a file, and what a picture costs."""

import os
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.cells import cell_len

from mlx_maverick.cli.terminal import printable
from mlx_maverick.errors import BadImage, NotFound
from mlx_maverick.prompt import Prompt
from mlx_maverick.tui.conversation import Picture
from mlx_maverick.tui.pictures import Tiling, label, look, pasted, shortened, typed

MINI = Path(__file__).parents[1] / "reference" / "maverick-mini"


def test_look(picture: Path) -> None:
    assert look(picture) == Picture(picture, 40, 30, picture.stat().st_size)


def test_a_refusal_says_why(tmp_path: Path, picture: Path) -> None:
    with pytest.raises(NotFound, match=r"gone\.png does not exist"):
        look(tmp_path / "gone.png")
    with pytest.raises(BadImage, match="directory"):
        look(tmp_path)
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(BadImage, match=r"text\.png is not a picture"):
        look(text)
    for keep in (1, 9, 20):  # a cut header must never be another kind of error
        cut = tmp_path / "cut.png"
        cut.write_bytes(picture.read_bytes()[:keep])
        with pytest.raises(BadImage):
            look(cut)


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Path) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadImage, match="megapixels"):
        look(picture)


def test_what_a_drag_pastes(picture: Path) -> None:
    path = str(picture)
    for text in (
        path,
        f" {path}\n",
        shlex.quote(path),
        f'"{path}"',
        path.replace(" ", "\\ ").replace("(", "\\(").replace(")", "\\)") + " ",
        picture.as_uri(),
    ):
        assert pasted(text) == [picture], text
    other = picture.with_name("b.png")
    other.write_bytes(picture.read_bytes())
    for text in (
        f"{shlex.quote(path)} {other}",
        f"{path}\n{other}\n",
        f"{picture.as_uri()}\r\n{other.as_uri()}",
    ):
        assert pasted(text) == [picture, other], text


def test_what_is_text(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(picture.parent)
    (picture.parent / "cat.png").write_bytes(picture.read_bytes())
    (picture.parent / "notes.txt").write_text("x")
    for text in (
        "",
        " ",
        "cat.png",  # a name may be meant as a word
        f"look at {shlex.quote(str(picture))}",
        str(picture.parent / "gone.png"),
        str(picture.parent / "notes.txt"),
        str(picture.parent),
        "it's",
        "/" + "a" * 5000 + ".png",
        "\0.png",
        "~nobody-of-that-name/x.png",
        "x" * 100_000,
    ):
        assert pasted(text) == [], text[:80]


def test_what_is_typed(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(picture)
    escaped = path.replace(" ", "\\ ").replace("(", "\\(").replace(")", "\\)")
    for text in (path, f" {path} ", f'"{path}"', f"'{path}'", escaped, picture.as_uri()):
        assert typed(text) == picture, text
    monkeypatch.chdir(picture.parent)
    assert typed(picture.name) == Path(picture.name)
    assert typed("gone.png") == Path("gone.png")
    assert typed("~/gone.png") == Path.home() / "gone.png"
    assert typed("it's gone.png") == Path("it's gone.png")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    with pytest.raises(BadImage, match=r"pipe\.png is not a file"):
        look(pipe)


def test_what_a_picture_costs(tmp_path: Path) -> None:
    """As many tiles and tokens as the model is given."""
    prompt = Prompt.from_folder(MINI)
    tiling = Tiling.of(prompt.config)
    assert tiling is not None
    assert tiling == Tiling.of(prompt.config.vision)
    seen = set()
    for size in ((1, 1), (30, 40), (100, 20), (200, 150), (640, 480), (33, 999), (2000, 3000)):
        path = tmp_path / "a.png"
        Image.new("RGB", size).save(path)
        parts = [{"type": "image", "image": str(path)}, {"type": "text", "text": "x"}]
        without = prompt.encode([{"role": "user", "content": parts[1:]}])
        encoded = prompt.encode([{"role": "user", "content": parts}])
        picture = look(path)
        assert tiling.tiles(picture) == encoded.images[0].tiles
        assert tiling.tokens(picture) == len(encoded.ids) - len(without.ids)
        seen.add(tiling.tiles(picture))
    assert {1, 17} <= seen


def test_a_model_without_eyes_has_no_tiling() -> None:
    config = replace(Prompt.from_folder(MINI).config, vision=None)
    assert Tiling.of(config) is None
    assert Tiling.of(None) is None


PHOTO = Picture(Path("/photos/a holiday at the sea.jpeg"), 4032, 3024, 12_300_000)
MAVERICK = Tiling(336, 144)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (None, "a holiday at the sea.jpeg  4032×3024  12.3 MB  13 tiles  1,887 tokens"),
        (80, "a holiday at the sea.jpeg  4032×3024  12.3 MB  13 tiles  1,887 tokens"),
        (60, "a holiday…a.jpeg  4032×3024  12.3 MB  13 tiles  1,887 tokens"),
        (50, "a holida…a.jpeg  4032×3024  13 tiles  1,887 tokens"),
        (40, "a holida…a.jpeg  4032×3024  1,887 tokens"),
        (30, "a holiday…a.jpeg  1,887 tokens"),
        (15, "a holida…a.jpeg"),
        (5, "a ho…"),
        (1, "…"),
        (0, ""),
    ],
)
def test_a_label_fits(cells: int | None, expected: str) -> None:
    said = label(PHOTO, MAVERICK, cells)
    assert cells is None or cell_len(said) <= cells
    assert said == expected


def test_a_label_before_the_model_is_known() -> None:
    assert label(PHOTO) == "a holiday at the sea.jpeg  4032×3024  12.3 MB"
    small = Picture(Path("/a.png"), 40, 30, 500)
    assert label(small, MAVERICK) == "a.png  40×30  0.5 kB  1 tile  147 tokens"


def test_a_name_is_harmless() -> None:
    picture = Picture(Path("/x\x1b[31m\n\u202ey.png"), 1, 1, 1)
    assert label(picture) == "x[31m y.png  1×1  0.0 kB"


@given(st.text(max_size=40), st.integers(0, 30))
def test_shortening(text: str, cells: int) -> None:
    text = printable(text)
    short = shortened(text, cells)
    assert cell_len(short) <= cells
    if cell_len(text) <= cells:
        assert short == text
