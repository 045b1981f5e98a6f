"""`mlx-maverick bench --chat`: real runs, of a second or less."""

import json
from pathlib import Path

import pytest

from mlx_maverick.cli import bench_chat, bench_terminal
from mlx_maverick.cli.main import main
from mlx_maverick.errors import MaverickError


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {
        "RATES": (400.0,), "OLD": (0, 4), "SECONDS": 0.2, "IDLE_SECONDS": 0.1, "OPENED": 6,
        "CHATS": 2, "MESSAGES": 4,
    }  # fmt: skip
    for name, value in sizes.items():
        monkeypatch.setattr(bench_chat, name, value)


def test_json(maverick_mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--chat", "--model", str(maverick_mini), "--runs", "1", "--json"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert err == ""
    assert set(said) == {"rows", "paint", "opened", "search", "runs", "machine"}
    assert [(row["rate"], row["old"]) for row in said["rows"]] == [(400, 0), (400, 4)]
    for row in said["rows"]:
        # 80 tokens, and not one of them before its time.
        assert row["bare"] >= 79 / 400
        assert row["chat"] >= 79 / 400
        assert row["slower"] == pytest.approx(row["chat"] / row["bare"] - 1)
        assert row["busy"] > 0
        assert row["idle"] >= 0
    assert said["paint"] > 0
    assert said["opened"] > 0
    assert said["search"] > 0
    assert said["runs"] == 1
    assert "textual" in said["machine"]


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--chat", "--runs", "1"]) == 0
    head, first, second, *facts = capsys.readouterr().out.splitlines()
    assert head.split() == ["tok/s", "old", "messages", "bare", "chat", "slower", "busy", "idle"]
    assert first.split()[:2] == ["400", "0"]
    assert second.split()[:2] == ["400", "4"]
    # Its columns stand below their names.
    for name in ("bare", "chat"):
        assert first[head.index(name) :].split()[1] == "s"
    assert [line.split("  ")[0] for line in facts[:2]] == ["open 6 messages", "search 8"]
    assert not any(line.startswith("first paint") for line in facts)  # it needs a model


@pytest.mark.parametrize(
    ("option", "named"),
    [
        (["--against", "mlx-lm"], "--against"),
        (["--synthetic"], "--synthetic"),
        (["--convert", "x"], "--convert"),
        (["--context", "9"], "--context"),
        (["--expert-memory", "9GB"], "--expert-memory"),
        (["--float32"], "--float32"),
    ],
)
def test_mixed_options(option: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--chat", *option]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith(f"leave out {named}\n")


def test_a_model_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--chat", "--runs", "1", "--model", str(tmp_path / "gone")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "does not come up" in err
    assert "does not exist" in err


def test_a_program_that_ends_badly() -> None:
    with pytest.raises(MaverickError, match=r"^no calendar: it ended with 2 and said .*moon"):
        bench_terminal.run(["calendar", "moon"], {}, failure="no calendar")


def test_a_program_in_a_terminal() -> None:
    assert bench_terminal.run(["calendar", "2024", "2"], {}, failure="no calendar") > 0
    assert bench_terminal.run(["calendar", "2024"], {}, until="August", failure="none") > 0
