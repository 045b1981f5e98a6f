"""`mlx-maverick bench --against` and `--synthetic`: that they measure the same thing with every
program and say it right, not how fast anything is."""

import json
import re
import shlex
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from mlx_maverick.checkpoint import Checkpoint
from mlx_maverick.cli.bench_against import AGAINST, STREAMED, rows
from mlx_maverick.cli.bench_subject import Figure
from mlx_maverick.cli.bench_synthetic import geometry
from mlx_maverick.cli.main import _parser, main
from mlx_maverick.config import ModelConfig

SIZES = [
    "--hidden", "64", "--layers", "4", "--expert-count", "4", "--vocabulary", "512",
    "--chunk", "32", "--vision-layers", "1", "--vision-hidden", "88",
]  # fmt: skip
OURS, THEIRS, CAST = "mlx-maverick", "mlx-lm", "mlx-lm float32"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic model that a benchmark made and kept."""
    folder = tmp_path_factory.mktemp("synthetic") / "model"
    words = ["bench", "--synthetic", str(folder), *SIZES, "--tiles", "1", "--runs", "1"]
    assert main([*words, "--prompt-tokens", "8", "--new-tokens", "2"]) == 0
    return folder


def result(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["bench", *words, "--runs", "1", "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def test_what_is_kept_is_a_converted_model_of_these_sizes(kept: Path) -> None:
    config = ModelConfig.from_folder(kept)
    text = config.text
    assert (text.hidden_size, text.num_hidden_layers, text.vocab_size) == (64, 4, 512)
    assert (text.num_local_experts, text.attention_chunk_size) == (4, 32)
    assert config.vision is not None
    assert (config.vision.num_hidden_layers, config.vision.hidden_size) == (1, 88)
    expert = "language_model.model.layers.1.feed_forward.experts.gate_proj.weight"
    assert Checkpoint.open(kept).tensors[expert].dtype == "U32"


def test_against_mlx_lm(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", str(kept), "--against", "mlx-lm", "--new-tokens", "6"]
    said = result(
        capsys, *words, "--prompt-tokens", "20,70", "--filled", "90", "--filled-prompt", "9"
    )
    by_name = {(row["name"], row["tokens"]): row for row in said["rows"]}
    assert set(by_name) >= {
        ("load", None), ("load to first token", None), ("resident", None),
        ("prefill", 20), ("decode", 20), ("MLX's peak", 20),
        ("prefill", 70), ("decode", 70), ("MLX's peak", 70),
        ("prefill after 90 filled", 99), ("decode after 90 filled", 99),
        ("decode, by CPU second", 70),
    }  # fmt: skip
    for row in said["rows"]:
        assert list(row["values"]) == [OURS, THEIRS, CAST]
        assert min(row["values"].values()) > 0
        for program, ratio in row["ratios"].items():
            ours, theirs = row["values"][OURS], row["values"][program]
            # Of a single run the ratio of pairs is the quotient; larger is better for us.
            better = ours / theirs if row["unit"] == "tok/s" else theirs / ours
            assert ratio == pytest.approx(better)
    load, first = by_name["load", None], by_name["load to first token", None]
    for program in (OURS, THEIRS, CAST):
        assert first["values"][program] > load["values"][program]
    # Beyond two chunks of 32 as well: they computed the same thing.
    assert said["agreement"] == {CAST: 1.0}
    assert said["sizes"]["hidden"] == 64
    assert said["sizes"]["chunk"] == 32


def test_against_mlx_vlm(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--model", str(kept), "--against", "mlx-vlm", "--tiles", "2"]
    assert main([*words, "--float32", "--runs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[-1].strip() == "mlx-vlm float32"
    picture = next(line for line in lines if line.startswith("picture, tiles 2"))
    assert picture.endswith("x")
    assert picture.count(" s ") == 2
    assert any(line.startswith("mlx-vlm  ") for line in lines)
    assert any(line.startswith("sizes  ") and "vision hidden 88" in line for line in lines)


def test_a_synthetic_model_is_taken_again(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (kept / "model.safetensors").stat().st_mtime_ns
    alone = ["--prompt-tokens", "8", "--new-tokens", "2", "--tiles", "1"]
    said = result(capsys, "--synthetic", str(kept), *SIZES, *alone)
    assert (said["prompt_tokens"], said["picture_tiles"]) == (8, 1)
    assert (kept / "model.safetensors").stat().st_mtime_ns == before
    assert main(["bench", "--synthetic", str(kept), *SIZES, "--expert-count", "8"]) == 2
    assert "other sizes" in capsys.readouterr().err


def test_without_a_place_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    said = result(
        capsys,
        "--synthetic",
        *SIZES[:-4],
        "--kv-heads",
        "2",
        "--prompt-tokens",
        "8",
        "--new-tokens",
        "2",
    )
    assert said["picture_seconds"] is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--synthetic", "--model", "x"], "leave out --model"),
        (["--model", "x", "--hidden", "128"], "--hidden is about --synthetic"),
        (["--model", "x", "--vision-layers", "1"], "--vision-layers is about --synthetic"),
        (["--model", "x", "--filled", "100"], "need --against"),
        (["--model", "x", "--prompt-tokens", "100,200"], "need --against"),
        (["--model", "x", "--float32"], "need --against"),
        (["--synthetic", "--hidden", "100"], "not a multiple of 64"),
        (["--synthetic", "--vision-layers", "1", "--vision-hidden", "90"], "multiple of 88"),
        (["--synthetic", "--kv-heads", "0"], "not at least 1"),
        (["--synthetic", "--layers", "3"], "not at least 4"),
        (["--prompt-tokens", "512,x"], "list of whole numbers"),
        ([], "no model"),
    ],
)
def test_wrong_combinations(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    assert why in capsys.readouterr().err


def test_wrong_for_this_model(
    kept: Path, maverick_mini: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = ["bench", "--model", str(kept), "--against", "mlx-lm"]
    for words, why in (
        ([*text, "--filled-prompt", "8"], "give both"),
        ([*text, "--context", "600"], "too short for 641"),
        (["bench", "--model", str(kept), "--against", "mlx-vlm", "--filled", "8"], "about text"),
    ):
        assert main(words) == 2
        assert why in capsys.readouterr().err
    blind = json.loads((kept / "config.json").read_text())
    del blind["vision_config"]
    (tmp_path / "config.json").write_text(json.dumps(blind))
    assert main(["bench", "--model", str(tmp_path), "--against", "mlx-vlm"]) == 2
    assert "no vision tower" in capsys.readouterr().err


def test_mlx_vlm_that_is_not_installed(
    kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mlx_maverick.cli.bench_against.find_spec", lambda name: None)
    assert util.find_spec("mlx_vlm")  # only this test hides it
    assert main(["bench", "--model", str(kept), "--against", "mlx-vlm"]) == 2
    assert "pip install mlx-vlm" in capsys.readouterr().err


def test_a_program_that_fails_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Path(__file__).parents[1] / "reference" / "maverick-mini" / "config.json"
    (tmp_path / "config.json").write_text(config.read_text())
    assert main(["bench", "--model", str(tmp_path), "--against", "mlx-lm"]) == 1
    assert "mlx-maverick failed on" in capsys.readouterr().err


def test_the_model_must_fit_the_disk(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--synthetic", "--hidden", "5120", "--layers", "400"]
    assert main(words) == 4
    assert "smaller --hidden" in capsys.readouterr().err


def test_medians_and_ratios_of_runs_that_followed_each_other() -> None:
    def figures(rate: float, seconds: float) -> list[Figure]:
        return [Figure("decode", "tok/s", rate, 512), Figure("load", "s", seconds)]

    decode, load = rows(
        {
            OURS: [figures(10, 1), figures(30, 4), figures(20, 2)],
            THEIRS: [figures(5, 3), figures(30, 4), figures(5, 8)],
        }
    )
    assert (decode.name, decode.tokens, decode.unit) == ("decode", 512, "tok/s")
    assert decode.values == {OURS: 20, THEIRS: 5}
    assert decode.ratios == {THEIRS: 2}  # of 2, 1 and 4
    assert load.values == {OURS: 2, THEIRS: 4}
    assert load.ratios == {THEIRS: 3}  # of 3, 1 and 4


COMMANDS = re.findall(
    r"^mlx-maverick (bench .*)$",
    (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(),
    re.MULTILINE,
)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_documented_tables(command: str) -> None:
    """They are ones that this version takes."""
    args = _parser("bench").parse_args(shlex.split(command))
    assert all(other in (*AGAINST, *STREAMED) for other in args.against.split(","))
    assert geometry(args).config.text.num_local_experts == (args.expert_count or 128)


def test_there_are_such_commands() -> None:
    assert len(COMMANDS) == 13
