"""`mlx-maverick bench --quality`: the share of right answers, from real conversations."""

import json
from pathlib import Path

import pytest

from mlx_maverick.cli import bench_quality
from mlx_maverick.cli.bench_quality import RECIPES, answers, measure
from mlx_maverick.cli.main import main
from mlx_maverick.convert.recipe import Recipe
from mlx_maverick.demo.world import Conversation, Turn
from mlx_maverick.maverick import Maverick

BENCH = ["bench", "--quality"]


def test_answers_are_right_to_the_letter(demo: Maverick) -> None:
    """Each follows what the model itself said before."""
    turns = (
        Turn("greeting", "Hello!", "Hello! How can I help?"),
        Turn("name", "My name is Tom.", "Nice to meet you, Tom"),  # a dot is missing
        Turn("name", "What is my name?", "Your name is Tom."),
    )
    reported: list[int] = []
    right = answers(demo, [Conversation("Be brief.", turns)], reported.append)
    assert right == {"greeting": [True], "name": [False, True]}
    assert reported == [0]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BENCH, "--conversations", "3", "--recipe", "e2r4", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["model"], said["conversations"]) == ("demo", 3)
    (row,) = said["rows"]
    assert row["recipe"] == "e2r4"
    assert 1e6 < row["nbytes"] < 4e6
    assert set(row["right"]) == set(row["answers"]) == {"pictures", "words"}
    assert all(0 <= share <= 1 for share in row["kinds"].values())
    again = measure("demo", ("e2r4",), 3, "test", lambda text: None)
    assert again.rows[0].kinds == row["kinds"]


def test_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_quality, "RECIPES", ("e4r4",))
    assert main([*BENCH, "--conversations", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("4 conversations, ")
    assert lines[1].split() == ["recipe", "size", "with", "pictures", "without"]
    assert [line.split()[0] for line in lines[2:4]] == ["keep", "e4r4"]
    assert lines[2].split()[1:3] == ["6.4", "MB"]
    assert lines[3].count("%") == 2
    assert any(line.startswith("mlx ") for line in lines[4:])


def test_a_recipe_file_and_unseen_combinations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text('base = "e4r4"\nname = "mine"\n')
    words = [*BENCH, "--conversations", "1", "--unseen", "--recipe", str(tmp_path / "mine.toml")]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1 conversations of unseen combinations, ")
    assert lines[2].startswith("mine ")


def test_all_recipes_are_ones() -> None:
    assert [Recipe.parse(name).name for name in RECIPES] == list(RECIPES)
    assert RECIPES[-1] == "e2r4"


def test_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BENCH, "--against", "mlx-lm"]) == 2
    assert "leave out --against" in capsys.readouterr().err
    assert main([*BENCH, "--hidden", "128"]) == 2
    assert "leave out --hidden" in capsys.readouterr().err
    assert main([*BENCH, "--chat"]) == 2
    assert main([*BENCH, "--experts", "stream"]) == 2
    capsys.readouterr()
    assert main([*BENCH, "--conversations", "0"]) == 2
    assert main([*BENCH, "--recipe", "e9r9"]) == 2
    assert main([*BENCH, "--model", "nowhere"]) == 3
