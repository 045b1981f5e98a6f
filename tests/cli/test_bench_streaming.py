"""`mlx-maverick bench` of streamed experts: that every program runs the same model, and that what
is said of it is so; not how fast anything is."""

import json
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_maverick.cli.bench_offloaded import Mapped
from mlx_maverick.cli.bench_streaming_result import _hottest, routing, rows
from mlx_maverick.cli.bench_streaming_subject import Resident
from mlx_maverick.cli.bench_streaming_task import Report
from mlx_maverick.cli.bench_subject import Figure
from mlx_maverick.cli.main import main
from mlx_maverick.model.experts import go_on

SIZES = [
    "--hidden", "64", "--layers", "4", "--expert-count", "16", "--vocabulary", "512",
    "--vision-layers", "1", "--vision-hidden", "88",
]  # fmt: skip
EXPERT = 3 * 64 * 128 * 4 // 8 + 3 * 64 * 128 // 64 * 2 * 2  # bytes in the file
OURS, OTHERS = "mlx-maverick", ["resident", "mlx-vlm-offload", "mapped"]
SHORT = ["--prompt-tokens", "8", "--new-tokens", "2", "--warm-tokens", "1", "--runs", "1"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic model whose routers follow Zipf's law."""
    folder = tmp_path_factory.mktemp("streaming") / "model"
    words = ["bench", "--synthetic", str(folder), *SIZES, "--inner", "128", "--zipf", "1"]
    assert main([*words, "--tiles", "1", "--runs", "1", "--prompt-tokens", "8"]) == 0
    return folder


def result(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["bench", *words, "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def test_all_programs(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slab = 12 * EXPERT
    words = ["--model", str(kept), "--against", ",".join(OTHERS), "--expert-memory"]
    words += [f"{slab / 1e6:.6f}MB", "--prompt-tokens", "150", "--new-tokens", "90", "--runs", "2"]
    said = result(capsys, *words, "--warm-tokens", "60")
    assert said["expert_bytes"] == 2 * 16 * EXPERT
    by_name = {row["name"]: row for row in said["rows"]}
    for name in ("load", "decode", "prefill", "resident"):
        assert list(by_name[name]["values"]) == [OURS, *OTHERS]
        assert min(by_name[name]["values"].values()) > 0
    assert set(by_name["decode"]["ratios"]) == set(OTHERS)
    assert by_name["resident"]["ratios"] == {}
    # All decode the same tokens, and find the same ones likeliest.
    assert said["agreement"] == dict.fromkeys(OTHERS, 1.0)
    streaming = [OURS, "mlx-vlm-offload", "mapped"]
    reads, hits = by_name["decode, experts read"], by_name["decode, hit rate"]
    assert list(reads["values"]) == list(hits["values"]) == streaming
    for program in streaming:
        # 12 slots for 32 experts, of which some are popular: some are there, some are not.
        assert 0 < reads["values"][program] < 2 * 90
        assert 30 < hits["values"][program] < 90
    needed = said["routing"]["in_prefill"]
    assert 12 < needed <= 17  # of the last layer's the last token's alone
    assert by_name["prefill, experts read"]["values"][OURS] <= needed
    assert said["routing"]["experts"] == 32
    assert 0.45 < said["routing"]["hottest_quarter"] < 0.85
    assert set(said["disk"]) == {"many experts at once", "one expert at a time"}
    assert min(said["disk"].values()) > 0
    # mlx-vlm's own copy of the model, which is gone now.
    assert said["repacked_bytes"] > said["expert_bytes"]
    assert [path.name for path in kept.parent.iterdir()] == ["model"]
    assert "mlx-vlm" in said["machine"]


def test_the_table(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", str(kept), "--against", "mapped", "--expert-memory", "0.1MB", *SHORT]
    assert main(["bench", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [OURS, "mapped"]
    decode = next(line for line in lines if line.startswith("decode  "))
    assert decode.endswith("x")
    assert decode.count(" tok/s") == 2
    assert any(line.endswith(" 442.4 kB, 4.42 times 100.0 kB") for line in lines)
    assert not any(line.startswith("hottest quarter") for line in lines)


def test_routers_of_no_law(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--synthetic", str(tmp_path / "model"), *SIZES[:-4], "--zipf", "0"]
    words += ["--against", "mapped", "--expert-memory", "0.1MB", "--new-tokens", "300"]
    said = result(capsys, *words, "--prompt-tokens", "2", "--warm-tokens", "1", "--runs", "1")
    assert "resident" not in said["rows"][0]["values"]  # only asked for its routers
    assert 0.2 < said["routing"]["hottest_quarter"] < 0.38
    other = ["--synthetic", str(tmp_path / "model"), *SIZES[:-4], "--zipf", "0.5"]
    assert main(["bench", *other]) == 2
    assert "was made with --zipf 0, not --zipf 0.5" in capsys.readouterr().err
    assert main(["bench", *other[:-2]]) == 2
    assert "with --zipf 0, not no --zipf" in capsys.readouterr().err
    assert main(["bench", *other[:-2], "--zipf", "0", "--recipe", "e8r4"]) == 2
    assert "other sizes" in capsys.readouterr().err


def test_the_file_cache(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--model", str(kept), "--against", "mapped", "--expert-memory", "0.1MB"]
    linux = sys.platform == "linux"
    assert main([*words, *SHORT, "--evict", "throughout"]) == (0 if linux else 2)
    captured = capsys.readouterr()
    assert "throughout each run" in captured.out if linux else "needs Linux" in captured.err


def test_a_system_that_empties_no_cache(
    kept: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_maverick.cli.bench_disk.sys.platform", "darwin")
    words = ["bench", "--model", str(kept), "--against", "mapped", "--expert-memory", "0.1MB"]
    assert main([*words, *SHORT, "--evict", "before"]) == 2
    assert "purge" in capsys.readouterr().err


def test_alone(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", str(kept), "--prompt-tokens", "8", "--new-tokens", "20", "--runs", "1"]
    words += ["--tiles", "1"]
    assert result(capsys, *words)["experts"] is None
    streamed = result(capsys, *words, "--experts", "stream", "--expert-memory", "0.1MB")["experts"]
    assert streamed["experts"] == 32
    assert 2 <= streamed["slots"] <= 6
    assert streamed["slab_bytes"] <= 100_000
    assert streamed["misses"] > 0
    assert main(["bench", *words, "--expert-memory", "0.1MB"]) == 0
    out = capsys.readouterr().out
    for word in ("experts", "  hits", "  read", "  waited"):
        assert f"\n{word}  " in out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--against", "mapped"], "give --expert-memory"),
        (["--against", "mapped,mlx-lm"], "neither mlx-lm nor mlx-vlm nor some of resident"),
        (["--against", "mapped,mapped"], "neither mlx-lm"),
        (["--against", "mapped", "--expert-memory", "much"], "not a size"),
        (["--against", "mapped", "--expert-memory", "1GB", "--experts", "resident"], "resident"),
        (["--against", "mapped", "--expert-memory", "1GB", "--filled", "8"], "about whole models"),
        (["--against", "mapped", "--expert-memory", "1GB", "--route-log", "x"], "leave it out"),
        (["--against", "mlx-lm", "--expert-memory", "1GB"], "models in memory"),
        (["--against", "mlx-lm", "--evict", "before"], "--evict needs --against with one of"),
        (["--evict", "before"], "--evict needs --against with one of"),
        (["--evict", "sometimes"], "invalid choice"),
        (["--zipf", "1"], "--zipf is about --synthetic"),
        (["--recipe", "e8r4"], "--recipe is about --synthetic"),
    ],
)
def test_wrong_combinations(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--model", "x", *words]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--zipf", "-1"], "not a number from 0 on"),
        (["--zipf", "nan"], "not a number from 0 on"),
        (["--zipf", "3"], "a router can give it 42%"),
        (["--zipf", "1", "--expert-count", "4"], "more --expert-count"),
        (["--dense-inner", "100"], "--dense-inner 100 is not a multiple of 64"),
        (["--recipe", "mine"], "mine"),
        (["--against", "mlx-vlm-offload", "--expert-memory", "1MB"], "without a vision tower"),
    ],
)
def test_wrong_models(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--hidden", "64", "--layers", "4", "--expert-count", "16", "--vocabulary", "512"]
    assert main(["bench", "--synthetic", *small, *words]) == 2
    assert why in capsys.readouterr().err


def test_converting_streams_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--zipf", "1"], ["--experts", "stream"], ["--evict", "before"]):
        assert main(["bench", "--convert", *words]) == 2
        assert "takes --expert-count alone" in capsys.readouterr().err


def test_a_program_that_fails_is_named(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--against", "mapped", "--expert-memory", "0.001MB", *SHORT]
    assert main(["bench", "--model", str(kept), *words]) == 1
    assert "mlx-maverick failed on" in capsys.readouterr().err


def test_mapped_experts_compute_what_those_in_memory_do(kept: Path) -> None:
    mapped, whole = Mapped(str(kept), 16, 3 * EXPERT), Resident(str(kept), 16)
    rows = mx.random.normal((9, 64))
    chosen = mx.array([3, 3, 0, 5, 3, 15, 0, 7, 3])
    for layer in (1, 3):
        ours, theirs = (
            subject.model.text.layers[layer].feed_forward.experts.steps(  # type: ignore[union-attr]
                [(rows, chosen), (rows[:1], chosen[2:3])], [], [], go_on
            )
            for subject in (mapped, whole)
        )
        for a, b in zip(ours, theirs, strict=True):
            assert np.allclose(np.array(a), np.array(b), atol=1e-6)
            assert np.abs(np.array(b)).max() > 1e-3
    # 0, 3, 5, 7 and 15, and 0 again, of which three are kept; twice.
    assert (mapped.stats().hits, mapped.stats().misses) == (0, 12)
    assert whole.routed() == [[3, 3, 0, 5, 3, 15, 0, 7, 3, 0]] * 2
    assert whole.routed() == [[], []]


def test_programs_need_not_have_all_figures() -> None:
    def figures(rate: float, *more: Figure) -> list[Figure]:
        return [Figure("decode", "tok/s", rate), *more]

    decode, wait = rows(
        {
            OURS: [figures(10, Figure("wait", "%", 3)), figures(30, Figure("wait", "%", 5))],
            "resident": [figures(20), figures(20)],
        },
        OURS,
    )
    assert decode.values == {OURS: 20, "resident": 20}
    assert decode.ratios == {"resident": 1}  # of 0.5 and 1.5
    assert (wait.values, wait.ratios) == ({OURS: 4}, {})


def test_what_routers_chose() -> None:
    report = Report([], [], 4, [[0, 0, 1, 0], [2, 1, 2, 1]], [[0, 0, 3, 0], [2]])
    said = routing(report)
    assert said.experts == 8
    assert said.in_prefill == 3
    # Layer 0: of 0, 1, 0, 3 most are 0, which took all of 0, 0, 0, 0; layer 1: 2, and 1, 1.
    assert said.hottest_quarter == 0.5
    # Few tokens, none of which says anything of the next.
    assert _hottest([0, 5, 1, 6, 2, 7], 8) == 0
