"""`mlx-maverick bench`: that it measures, not how fast it is."""

import json
from pathlib import Path

import pytest

from mlx_maverick.cli.main import main

ARGS = ["--prompt-tokens", "40", "--new-tokens", "6", "--runs", "2"]


def test_json(maverick_mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--model", str(maverick_mini), *ARGS, "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert captured.err == ""
    assert (result["prompt_tokens"], result["new_tokens"], result["runs"]) == (40, 6, 2)
    for key in ("load_seconds", "prefill_tps", "decode_tps", "picture_seconds"):
        assert result[key] > 0
    assert result["peak_memory"] >= result["weights"]
    assert result["picture_tiles"] == 13
    assert {"device", "memory", "system", "python", "mlx", "mlx-maverick"} <= set(result["machine"])


def test_table(scout_mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--model", str(scout_mini), *ARGS]) == 0
    out = capsys.readouterr().out
    for word in ("load", "prefill", "decode", "peak memory", "picture", "device", "mlx"):
        assert f"\n{word}" in out


def test_context_must_hold_the_tokens(
    maverick_mini: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--model", str(maverick_mini), *ARGS, "--context", "45"]) == 2
    assert "46 tokens" in capsys.readouterr().err
