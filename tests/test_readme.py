"""README is true: its Python runs, and its commands have the options it gives them."""

import re
import shlex
from pathlib import Path

import pytest

from mlx_maverick.cli.main import VERBS, _parser
from mlx_maverick.convert.recipe import Recipe
from mlx_maverick.published_models import MODELS
from mlx_maverick.tui.app import REMAPPABLE
from mlx_maverick.tui.settings.keys import defaults, described, keymap
from mlx_maverick.tui.settings.preferences import Preferences

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
TOML = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"mlx-maverick (?:" + "|".join(VERBS) + r")\b[^\n|]*", SHELL)


def test_there_is_something_to_check() -> None:
    assert len(PYTHON) == 6
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python(
    code: str, maverick_mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As printed, but with a model and a picture that are there, and shorter answers."""
    picture = maverick_mini / "golden/images/05_640x480_RGB.png"
    code = code.replace('"Maverick-e4r4"', repr(str(maverick_mini)))
    code = code.replace('"Maverick"', repr(str(maverick_mini)))
    code = code.replace('"Maverick-e4r6"', repr(str(tmp_path / "out")))
    code = code.replace('"photo.jpg"', repr(str(picture))).replace("=200", "=5")
    monkeypatch.chdir(tmp_path)  # some write files
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    if "landed" in names:
        assert names["landed"] == 3
        assert names["features"].shape == (13 * 4, 128)  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    words = shlex.split(command, comments=True)[1:]
    assert _parser(words[0]).parse_args(words).verb == words[0]


def test_the_recipe_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(TOML[0])
    recipe = Recipe.parse(str(tmp_path / "mine.toml")).resolved(MODELS["maverick"].config)
    layer = "language_model.model.layers.{}.feed_forward.experts.{}_proj.weight"
    quants = [recipe.quant(layer.format(*which)) for which in ((1, "up"), (1, "down"), (3, "up"))]
    assert [quant.bits for quant in quants if quant] == [4, 5, 3]


def test_the_config_of_the_chat(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(TOML[1])
    preferences = Preferences.read(tmp_path / "config.toml")
    assert (preferences.context, preferences.thumbnails) == (65536, "auto")
    known = described(REMAPPABLE)
    assert keymap(preferences.keys, known, defaults(REMAPPABLE)) == {"regenerate": "f5"}
    (listed,) = re.findall(r"^Keys can be given to (.*)$", README, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", listed)) == set(known)


def test_every_verb_is_shown() -> None:
    assert {verb for verb in VERBS if f"mlx-maverick {verb}" in README} == set(VERBS)


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)`|^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE)
