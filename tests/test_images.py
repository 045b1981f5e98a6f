"""Pictures: the published rules exactly, every source, and nothing dropped silently."""

import base64
import contextlib
import http.server
import io
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_maverick.config import ModelConfig, VisionConfig
from mlx_maverick.errors import BadImage, NotFound, UsageError
from mlx_maverick.image_source import image_size, open_image
from mlx_maverick.images import best_grid, load_picture, preprocess

from .golden import REFERENCE, Golden

TILES = REFERENCE / "tiles-336"
GRIDS = json.loads((TILES / "grids.json").read_text())


@pytest.fixture(scope="module")
def config(maverick_mini: Path) -> ModelConfig:
    return ModelConfig.from_folder(maverick_mini)


@pytest.fixture(scope="module")
def full_size(config: ModelConfig) -> VisionConfig:
    assert config.vision is not None
    return replace(config.vision, image_size=336)


def agree(pixels: np.ndarray, wanted: mx.array) -> None:
    reference = np.array(wanted.astype(mx.float32))
    assert pixels.dtype == np.float32
    assert pixels.shape == reference.shape
    assert np.abs(pixels - reference).max() <= 1 / 64
    assert np.abs(pixels - reference).mean() < 0.004


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    x = np.linspace(0, 255, width).astype(np.uint8)[None].repeat(height, 0)
    y = np.linspace(0, 255, height).astype(np.uint8)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], axis=-1))


@pytest.mark.parametrize("case", GRIDS["grids"], ids=lambda c: f"{c['width']}x{c['height']}")
def test_grids_are_exact(case: dict[str, int]) -> None:
    assert list(best_grid(case["width"], case["height"], 336)) == case["tiles_hw"]
    rows, columns = case["tiles_hw"]
    assert case["tiles_total"] == rows * columns + (rows * columns > 1)


def test_there_are_24_grids() -> None:
    assert len(GRIDS["grids"]) == 24


@pytest.mark.parametrize("case", GRIDS["cases"], ids=lambda c: c["file"])
def test_pixels_at_the_real_tile_size(case: dict[str, str], full_size: VisionConfig) -> None:
    bits = np.load(TILES / "pixel_values.npz")[case["file"].removesuffix(".png")]
    pixels, grid = preprocess(TILES / case["file"], full_size)
    assert list(grid) == case["tiles_hw"]
    agree(pixels, mx.array(bits).view(mx.bfloat16))


def test_pixels_of_every_mode_and_shape(mini: Path, golden: Golden) -> None:
    """RGB, RGBA, L and P; enlarged, shrunk, and extremely wide or tall."""
    config = ModelConfig.from_folder(mini)
    for case in golden.cases("image"):
        pixels, grid = preprocess(golden.images(case)[0], config)
        assert list(grid) == case["tiles_hw"]
        agree(pixels, golden[f"{case['name']}.pixel_values"])


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_photo_never_arrives_sideways(config: ModelConfig, orientation: int) -> None:
    """The same picture, stored in each of the ways EXIF knows, looks the same."""
    upright = gradient(80, 40)
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }[orientation]
    stored = upright
    for operation in undo:
        stored = stored.transpose(operation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, "PNG", exif=exif)
    picture = load_picture(file.getvalue(), config)
    assert picture.size == (80, 40)
    assert picture.digest == load_picture(upright, config).digest


def test_a_phones_photo(config: ModelConfig) -> None:
    """HEIC, taken with the phone held upright: red grows to the right, green downwards."""
    photo = open_image(REFERENCE / "phone.heic")
    assert photo.size == (96, 48)
    for at, wanted in (((0, 0), (0, 0)), ((95, 0), (255, 0)), ((0, 47), (0, 255))):
        assert np.abs(np.subtract(photo.getpixel(at)[:2], wanted)).max() < 12  # type: ignore[index]
    assert preprocess(REFERENCE / "phone.heic", config)[1] == (1, 2)


def test_the_size_of_a_file_is_read_from_its_header(tmp_path: Path) -> None:
    file = io.BytesIO()
    gradient(60, 50).save(file, "PNG")
    (tmp_path / "cut.png").write_bytes(file.getvalue()[:60])
    assert image_size(tmp_path / "cut.png") == (60, 50)
    with pytest.raises(NotFound):
        image_size(tmp_path / "gone.png")


def test_transparency_is_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    assert open_image(clear).getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert open_image(half).getpixel((0, 0)) == (127, 127, 127)
    grey = Image.new("LA", (4, 4), (0, 0))
    assert open_image(grey).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    palette.info["transparency"] = 0
    assert open_image(palette).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    grey = Image.fromarray(np.full((4, 4), 32896, dtype=np.uint16))
    assert open_image(grey).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("value", "dtype"), [(0.5, np.float32), (128.0, np.float32), (128, np.int32), (32900, np.int32)]
)
def test_scientific_pictures_are_neither_black_nor_white(value: float, dtype: type) -> None:
    grey = Image.fromarray(np.full((4, 4), value, dtype=dtype))
    assert open_image(grey).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("value", [-1.0, 70000.0, float("nan")])
def test_values_of_no_known_scale_are_refused(value: float) -> None:
    with pytest.raises(BadImage, match="scale is unknown"):
        open_image(Image.fromarray(np.full((4, 4), value, dtype=np.float32)))


def test_a_callers_picture_is_not_altered() -> None:
    image = gradient(8, 4)
    image.getexif()[0x0112] = 6
    open_image(image)
    assert image.size == (8, 4)


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "HSV", "LAB", "F", "I"])
def test_other_modes_become_rgb(mode: str) -> None:
    assert open_image(Image.new(mode, (3, 2))).mode == "RGB"


def test_one_picture_in_every_form_is_one(config: ModelConfig, tmp_path: Path) -> None:
    image = gradient(60, 50)
    path = tmp_path / "ein bild.png"
    image.save(path)
    data = path.read_bytes()
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    digests = {
        load_picture(source, config).digest for source in (image, path, str(path), data, url)
    }
    assert len(digests) == 1
    picture = load_picture(path, config)
    assert load_picture(picture, config) is picture
    assert picture.tokens == picture.tiles * 4


def test_other_pictures_have_other_digests(config: ModelConfig) -> None:
    a, b = gradient(60, 50), gradient(60, 50)
    b.putpixel((0, 0), (255, 255, 255))
    assert load_picture(a, config).digest != load_picture(b, config).digest


def test_tiles_are_row_major_and_the_last_is_the_whole(config: ModelConfig) -> None:
    pixels, grid = preprocess(gradient(56 * 3, 56 * 2), config)
    assert grid == (2, 3)
    assert len(pixels) == 7
    red, green = pixels[:, 0].mean(axis=(1, 2)), pixels[:, 1].mean(axis=(1, 2))
    assert red[0] < red[1] < red[2]
    assert abs(red[0] - red[3]) < 0.01
    assert green[0] < green[3]
    assert abs(red[6]) < 0.02
    assert abs(green[6]) < 0.02


def test_padding_is_black_right_and_below(full_size: VisionConfig) -> None:
    pixels, grid = preprocess(Image.new("RGB", (300, 200), "white"), full_size)
    assert grid == (1, 1)
    assert (pixels[0, :, :224, :] == 1).all()
    assert (pixels[0, :, 224:, :] == -1).all()


class TestBadPictures:
    def test_missing(self, config: ModelConfig) -> None:
        with pytest.raises(NotFound, match="no-such.png does not exist"):
            preprocess("no-such.png", config)

    def test_not_a_picture(self, config: ModelConfig, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("no picture")
        for source in (path, b"no picture", b""):
            with pytest.raises(BadImage, match="not a picture"):
                preprocess(source, config)

    def test_a_folder(self, config: ModelConfig, tmp_path: Path) -> None:
        with pytest.raises(BadImage, match="cannot be read"):
            preprocess(tmp_path, config)

    def test_cut_short(self, config: ModelConfig) -> None:
        file = io.BytesIO()
        gradient(100, 100).save(file, "PNG")
        with pytest.raises(BadImage, match="damaged"):
            preprocess(file.getvalue()[:200], config)

    def test_no_pixels(self, config: ModelConfig) -> None:
        with pytest.raises(BadImage, match="empty"):
            preprocess(Image.new("RGB", (0, 10)), config)

    def test_200_megapixels(self, config: ModelConfig, tmp_path: Path) -> None:
        """Refused from the header: nothing of that size is decoded."""
        path = tmp_path / "huge.png"
        Image.new("1", (20000, 10000)).save(path)
        with pytest.raises(BadImage, match="megapixels"):
            preprocess(path, config)
        with pytest.raises(BadImage, match="110 megapixels"):
            preprocess(Image.new("1", (11000, 10000)), config)

    @pytest.mark.filterwarnings("error")
    def test_large_ones_within_the_limit_pass_without_a_warning(
        self, config: ModelConfig, tmp_path: Path
    ) -> None:
        path = tmp_path / "large.png"
        Image.new("1", (9500, 9500)).save(path)
        assert preprocess(path, config)[1] == (4, 4)

    @pytest.mark.parametrize("url", ["data:image/png,abc", "data:image/png;base64,§§", "data:"])
    def test_data_urls(self, config: ModelConfig, url: str) -> None:
        with pytest.raises(BadImage, match="data URL"):
            preprocess(url, config)

    def test_nothing_that_runs_programs(
        self, config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Pillow hands EPS to Ghostscript."""
        program = tmp_path / "gs"
        program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
        with pytest.raises(BadImage, match="not a picture"):
            preprocess(eps, config)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        "name", ["http://example.com:abc/x.png", "http://[::1", "http://"], ids=repr
    )
    def test_addresses(self, config: ModelConfig, name: str) -> None:
        with pytest.raises(BadImage, match="cannot be fetched"):
            preprocess(name, config)

    @pytest.mark.parametrize("name", ["~nosuchuser/cat.jpg", "a\0b.png"])
    def test_impossible_paths(self, config: ModelConfig, name: str) -> None:
        with pytest.raises(NotFound):
            preprocess(name, config)

    @pytest.mark.parametrize("source", [123, None, "", "file:///a.png", "ftp://a/b.png"])
    def test_other_things(self, config: ModelConfig, source: object) -> None:
        with pytest.raises(UsageError):
            preprocess(source, config)  # type: ignore[arg-type]

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
    def test_any_damage_is_a_bad_picture(self, config: ModelConfig, format: str) -> None:
        file = io.BytesIO()
        gradient(40, 30).save(file, format)
        whole, random = file.getvalue(), np.random.default_rng(0)
        for _ in range(60):
            data = bytearray(whole)
            for at in random.integers(0, len(data), 6):
                data[at] = random.integers(256)
            with contextlib.suppress(BadImage):
                assert preprocess(bytes(data), config)[0].dtype == np.float32

    def test_a_model_without_eyes(self, config: ModelConfig) -> None:
        with pytest.raises(UsageError, match="sees no pictures"):
            preprocess(gradient(5, 5), replace(config, vision=None))


class _Pictures(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path in ("/cat.png", "/my%20cat%C3%A9.png"):
            file = io.BytesIO()
            gradient(60, 50).save(file, "PNG")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(file.getvalue())
        elif self.path in ("/moved", "/file"):
            self.send_response(302)
            target = "/cat.png" if self.path == "/moved" else "file:///etc/passwd"
            self.send_header("Location", target)
            self.end_headers()
        else:
            self.send_error(404 if self.path == "/gone" else 500)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """A server on this machine that has a picture."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pictures)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_pictures_from_the_web(config: ModelConfig, web: str) -> None:
    wanted = load_picture(gradient(60, 50), config).digest
    assert load_picture(f"{web}/cat.png", config).digest == wanted
    assert load_picture(f"{web}/moved", config).digest == wanted
    assert load_picture(f"{web}/my caté.png", config).digest == wanted


def test_the_web_may_fail(config: ModelConfig, web: str) -> None:
    with pytest.raises(NotFound, match="404"):
        load_picture(f"{web}/gone", config)
    with pytest.raises(BadImage, match="500"):
        load_picture(f"{web}/broken", config)
    with pytest.raises(BadImage, match="302"):
        load_picture(f"{web}/file", config)
    with pytest.raises(BadImage, match="cannot be fetched"):
        load_picture("http://127.0.0.1:9/cat.png", config)
