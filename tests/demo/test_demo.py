"""The model that comes with the package, as people meet it: by name, offline, at once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mlx_maverick
from mlx_maverick import hub
from mlx_maverick.cli.main import main
from mlx_maverick.convert import convert
from mlx_maverick.demo import folder
from mlx_maverick.demo.scenes import SAMPLE
from mlx_maverick.errors import NotFound
from mlx_maverick.image_source import DEMO_PICTURE, image_size, open_image
from mlx_maverick.loading import load
from mlx_maverick.maverick import Maverick

SHOWN = "A red circle, a yellow star and a blue square."
ASK = ["generate", "--temp", "0", "--model"]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder or file is called demo here."""
    monkeypatch.chdir(tmp_path)


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASK, "demo", "--image", "demo", "-p", "What is in the picture?"]) == 0
    assert capsys.readouterr() == (SHOWN + "\n", "")


def test_what_is_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "demo", "--recipe", "e4r4"]) == 0
    assert main(["verify", "demo-e4r4", "--source", "demo"]) == 0
    capsys.readouterr()
    for experts in ("resident", "stream"):
        question = ["-i", "demo", "-p", "What is in the picture?", "--experts", experts]
        assert main([*ASK, "demo-e4r4", *question]) == 0
        assert capsys.readouterr().out == SHOWN + "\n"
    source = json.loads(Path("demo-e4r4/maverick.json").read_text())["source"]
    assert source["folder"] == "demo"


TALK = (
    ("Hello!", "Hello! How can I help?"),
    ("My name is Anna.", "Nice to meet you, Anna."),
    ("What is 3 plus 4?", "7."),
    ("What is in the picture?", SHOWN),
    ("What colour is the star?", "Yellow."),
    ("Where is the blue square?", "At the bottom right."),
    ("Is there a triangle?", "No."),
    ("How do you spell cat?", "C-A-T."),
    ("What is the opposite of hot?", "Cold."),
    ("What is my name?", "Your name is Anna."),
    ("Who won the match?", "Sorry, I do not know that. I am only a tiny demo."),
)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kv_bits": 8},
        {"kv_bits": 8, "quantized_kv_start": 100},
        {"max_kv_size": 512},
    ],
    ids=str,
)
def test_python(options: dict[str, Any]) -> None:
    talk(load("demo", context=4096, **options))


def test_with_most_experts_on_the_disk(tmp_path: Path) -> None:
    convert("demo", tmp_path / "e8r8", "e8r8")
    model = load(tmp_path / "e8r8", context=4096, experts="stream", expert_memory="700kB")
    talk(model)


def talk(model: Maverick) -> None:
    chat = model.chat(temperature=0)
    for question, answer in TALK:
        images = ["demo"] if "picture" in question else []
        assert chat.send(question, images=images).text == answer


def test_a_chat_is_kept_in_a_file(demo: Maverick, tmp_path: Path) -> None:
    chat = demo.chat(temperature=0)
    chat.send("My name is Anna.")
    chat.send("What is in the picture?", images=["demo"])
    chat.save(tmp_path / "talk")
    again = load("demo", context=4096).load_chat(tmp_path / "talk")
    assert again.send("Where is the star?").text == "At the top right."
    assert again.send("What is my name?").text == "Your name is Anna."


def test_it_needs_nothing_but_the_package(tmp_path: Path) -> None:
    """Nothing that training needs is loaded, and no network is there."""
    code = (
        "import socket, sys\n"
        "def offline(*_): raise OSError('offline')\n"
        "socket.socket.connect = offline\n"
        "from mlx_maverick import load\n"
        "print(load('demo').generate('Hello!', temperature=0).text)\n"
        "print('torch' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.stdout.splitlines() == ["Hello! How can I help?", "False"], run.stderr


def test_a_model_folder_of_that_name_comes_first(maverick_mini: Path, tmp_path: Path) -> None:
    assert hub.resolve("demo") == hub.DEMO_FOLDER
    (tmp_path / "demo").mkdir()  # which holds anything, but no model
    assert hub.resolve("demo") == hub.DEMO_FOLDER
    assert hub.resolve("./demo") == hub.resolve(Path("demo")) == Path("demo")
    (tmp_path / "demo" / "config.json").write_bytes((maverick_mini / "config.json").read_bytes())
    assert hub.resolve("demo") == Path("demo")


@pytest.mark.parametrize("words", [["show", "./demo"], ["show", "--model", "./demo"]])
def test_a_path_is_never_the_name(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 3
    assert "demo does not exist" in capsys.readouterr().err
    assert main([word.removeprefix("./") for word in words]) == 0
    assert "4 of them with 8 experts" in capsys.readouterr().out


def test_into_a_folder_of_that_name(capsys: pytest.CaptureFixture[str]) -> None:
    Path("demo").mkdir()
    assert main(["convert", "demo", "--recipe", "e4r4", "--out", "demo/e4r4"]) == 0
    assert main(["convert", "demo", "--recipe", "e4r4", "--out", str(hub.DEMO_FOLDER / "x")]) == 2
    assert "inside the source" in capsys.readouterr().err


def test_a_picture_of_that_name_comes_first(tmp_path: Path) -> None:
    assert image_size("demo") == (SAMPLE.width, SAMPLE.height)
    for path in (Path("demo"), "./demo"):
        with pytest.raises(NotFound):
            open_image(path)
    Image.new("RGB", (7, 5)).save(tmp_path / "demo", "png")
    assert open_image("demo").size == (7, 5)


def test_the_picture_is_of_its_world() -> None:
    """Another Pillow may draw edges otherwise."""
    drawn, shipped = (np.asarray(i, int) for i in (SAMPLE.picture, Image.open(DEMO_PICTURE)))
    assert np.abs(drawn - shipped).mean() < 1


def test_the_folder_is_what_training_makes(tmp_path: Path) -> None:
    """The tokenizer of another release of `tokenizers` may be written otherwise."""
    folder.write(tmp_path / "made")
    made = {p.name: p.read_text() for p in (tmp_path / "made").iterdir()}
    tokenizers = [made.pop("tokenizer.json"), (hub.DEMO_FOLDER / "tokenizer.json").read_text()]
    shipped = {name: (hub.DEMO_FOLDER / name).read_text() for name in made}
    assert made == shipped
    ours, theirs = (json.loads(text)["model"]["vocab"].keys() for text in tokenizers)
    assert len(ours & theirs) > 0.95 * len(ours)


def test_its_size() -> None:
    assert (hub.DEMO_FOLDER / "model.safetensors").stat().st_size < 8e6
    assert Path(mlx_maverick.__file__).parent in hub.DEMO_FOLDER.parents
