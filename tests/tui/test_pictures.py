"""Which pasted texts are pictures, and the first look at a file."""

import shlex
from pathlib import Path

import pytest
from PIL import Image

from mlx_maverick.errors import BadImage, NotFound
from mlx_maverick.tui.conversation import Picture
from mlx_maverick.tui.pictures import look, pasted, typed


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
