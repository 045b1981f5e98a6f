"""`mlx-maverick plan`: what it prints, for a person and for a script."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlx_maverick import macs, memory
from mlx_maverick.cli.main import main
from mlx_maverick.convert.recipe import OFFERED
from mlx_maverick.kv import KVOptions, kv_bytes
from mlx_maverick.published_models import MODELS

from ..convert import full_size

GIB = 2**30


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """Lines with single spaces."""
    assert main(["plan", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines: list[str] = captured.out.splitlines()
    assert all(len(line) <= 100 for line in lines if "/" not in line)
    return [" ".join(line.split()) for line in lines]


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["plan", *arguments, "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def test_the_table_for_192_gb(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "--memory", "192GB")
    assert lines[0] == "Llama 4 Maverick on a Mac with 192 GB, with 32,768 tokens of context"
    assert "stock GPU limit 154.6 GB, 75 % of memory, as on older macOS (newer gives more)" in lines
    assert "memory bandwidth 800 GB/s: M2 Ultra, the usual chip with that memory" in lines
    assert "in memory: weights, 16-bit KV cache 2.8 GB, working room 2.7 GB" in lines
    assert "e2g128r4 118.5 GB 124.0 GB 72-97 fits" in lines
    assert "e3g128r6 170.3 GB 175.9 GB 54-67 raised limit" in lines
    assert "e3g128r6 sudo sysctl iogpu.wired_limit_mb=167936" in lines
    assert "e4r4 227.2 GB 232.7 GB ~7.2 streamed, 63 % of experts in 137.9 GB" in lines
    assert "SSD 5.0 GB/s, assumed (Macs have 5 to 7, the newest 13)" in lines
    assert "used more than others, so that fewer are read. Not measured" in lines
    repo = "meta-llama/Llama-4-Maverick-17B-128E-Instruct"
    assert lines[-8:] == [
        "Best: e3g128r6 needs 175.9 GB; within the limit of 154.6 GB the largest is e2r6.",
        f"mlx-maverick convert {repo} --recipe e3g128r6",
        "sudo sysctl iogpu.wired_limit_mb=167936 (until the next restart)",
        "",
        "With 4 bits, streamed: e4r6 with 62 % of its experts in 134.3 GB of memory and the",
        "others read from the SSD, about 6.7 tok/s.",
        f"mlx-maverick convert {repo} --recipe e4r6",
        "mlx-maverick generate --experts stream "
        '--model Llama-4-Maverick-17B-128E-Instruct-e4r6 -p "Hello"',
    ]
    assert len([line for line in lines if line.startswith("e") and " GB " in line]) == len(OFFERED)


def test_what_fits_is_not_told_about_what_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(printed(capsys, "--memory", "512"))
    assert "e8r8 427.5 GB 433.1 GB 41-48 fits" in text
    assert "streamed" not in text
    assert "SSD" not in text
    assert "sysctl" not in text


@pytest.mark.parametrize(("size", "share"), [("64GB", "14"), ("96GB", "26")])
def test_where_nothing_fits_experts_are_streamed(
    size: str, share: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(printed(capsys, "--memory", size))
    assert "Best: e4r6 needs 236.3 GB, and no recipe fits; with its experts streamed" in text
    assert f"there is room for {share} % of them." in text
    assert "generate --experts stream --model Llama-4-Maverick-17B-128E-Instruct-e4r6" in text
    assert "With 4 bits" not in text
    said = as_json(capsys, "--memory", size)
    assert (said["choice"]["recipe"], said["choice"]["verdict"]) == ("e4r6", "streamed")
    assert (said["more_bits"], said["refusal"]) == (None, None)


def test_nothing_fits(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(printed(capsys, "--memory", "16GB"))
    assert "No recipe fits a Mac with 16 GB" in text
    assert "use a Mac with 64 GB" in text
    assert "convert" not in text
    said = as_json(capsys, "--memory", "16GB")
    assert said["choice"] is said["more_bits"] is None
    assert said["refusal"].startswith("no recipe fits")


def test_the_speed_of_streaming(capsys: pytest.CaptureFixture[str]) -> None:
    slow = as_json(capsys, "--memory", "128GB", "--ssd", "2.5")
    assert (slow["machine"]["ssd"], slow["machine"]["ssd_source"]) == (2.5e9, "as given")
    row = next(row for row in slow["recipes"] if row["recipe"] == "e4r6")
    missed = (1 - row["hit_rate"]) * 24 * 3 * 5120 * 8192 * 4.5 / 8
    assert row["ssd_per_token"] == pytest.approx(missed, rel=1e-3)
    seconds = row["ssd_per_token"] / 2.5e9 + row["read_per_token"] / 546e9
    assert row["streamed"] == pytest.approx(1 / seconds, abs=0.05)
    assert row["streamed_full"] <= row["streamed"]
    assert slow["more_bits"]["streamed"] == row["streamed"]
    assert slow["more_bits"]["convert"].endswith(" --recipe e4r6")
    lines = printed(capsys, "--memory", "128GB", "--ssd", "14")
    assert "SSD 14.0 GB/s, as given" in lines
    assert "e4r6 230.7 GB 236.3 GB ~10 streamed, 44 % of experts in 95.2 GB" in lines


def test_the_speed_where_the_memorys_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "--memory", "48GB")
    assert "e4r6 230.7 GB 236.3 GB <3.2 streamed, 8 % of experts in 18.4 GB" in lines
    assert "<: what the SSD alone would allow, as the memory's bandwidth is unknown" in lines
    assert not any(line.startswith("~") for line in lines)


def test_the_disk_of_a_folder_is_measured(
    maverick_mini: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of this machine only, and only where the figure is of use."""
    short = ("--context", "256")  # streamed, a long one takes more than these few experts

    def ssd(model: Path, *options: str) -> tuple[float, str]:
        said = as_json(capsys, str(model), *short, *options)["machine"]
        return said["ssd"], said["ssd_source"]

    assert ssd(maverick_mini) == (macs.SSD, "assumed")
    need = as_json(capsys, str(maverick_mini), *short)["recipes"][-1]["memory"]
    small = replace(macs.this_machine(), limit=need - 1, raised_limit=need - 1)
    monkeypatch.setattr(macs, "this_machine", lambda: small)
    measured, source = ssd(maverick_mini)
    assert source == "measured"
    assert measured > 0
    assert ", measured" in " ".join(printed(capsys, str(maverick_mini), *short))
    assert ssd(maverick_mini, "--ssd", "3") == (3e9, "as given")
    alone = tmp_path / "alone"  # without weights
    alone.mkdir()
    (alone / "config.json").write_text(json.dumps(full_size.CONFIG))
    monkeypatch.setattr(macs, "this_machine", lambda: macs.mac(64 * GIB))
    assert ssd(alone) == (macs.SSD, "assumed")
    monkeypatch.setattr("mlx_maverick.streaming.ssd.bandwidth", lambda _: 7e9)
    assert ssd(alone) == (7e9, "measured")
    assert ssd(alone, "--memory", "64GB") == (macs.SSD, "assumed")


def test_json_has_everything_as_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    said = as_json(capsys, "--memory", "256GB", "--context", "131072", "--kv-bits", "8")
    assert (said["model"], said["context"], said["kv_bits"]) == ("maverick", 131072, 8)
    assert said["max_kv_size"] is None
    machine = said["machine"]
    assert machine["memory"] == 256 * GIB
    assert machine["limit"] == pytest.approx(222.6 * GIB)
    assert (machine["raised_limit"], machine["bandwidth"]) == (248 * GIB, 819e9)
    rows = {row["recipe"]: row for row in said["recipes"]}
    assert list(rows) == [recipe.name for recipe in OFFERED]
    for row in rows.values():
        assert row["memory"] == row["weights"] + row["kv"] + row["working"]
        assert row["streamed_resident"] < row["memory"]
        assert 0 <= row["expert_share"] <= 1
    assert rows["e4r4"]["kv"] / GIB == pytest.approx(7.1 * 8.5 / 16, abs=0.03)
    e4r4, e8r8 = rows["e4r4"], rows["e8r8"]
    assert (e4r4["verdict"], e4r4["sysctl"]) == ("fits", None)
    assert e4r4["ceiling"] == pytest.approx(90, abs=0.5)
    assert e4r4["ceiling_full"] == pytest.approx(
        819e9 / (e4r4["read_per_token"] + e4r4["kv"]), abs=0.1
    )
    assert (e4r4["streamed"], e4r4["streamed_full"], e4r4["hit_rate"]) == (None, None, None)
    assert (e8r8["verdict"], e8r8["ceiling"], e8r8["ceiling_full"]) == ("streamed", None, None)
    assert e8r8["hit_rate"] == pytest.approx(e8r8["expert_share"], abs=1e-3)
    assert said["choice"]["recipe"] == "e4r6"
    assert said["choice"]["convert"].endswith("--recipe e4r6")


def test_a_quantised_and_a_bounded_cache(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "--memory", "256GB", "--kv-bits", "4", "--max-kv-size", "8192")
    # 48 layers of 8,192 tokens, each of 2 * 1,024 values of 4.5 bits.
    assert "in memory: weights, 4-bit KV cache 453.0 MB, working room 2.7 GB" in lines
    assert "layers that attend to everything hold at most 8,192 tokens of it" in lines
    assert not any(line.startswith("Note") for line in lines)
    said = as_json(capsys, "--memory", "256GB", "--kv-bits", "4", "--max-kv-size", "8192")
    assert said["max_kv_size"] == 8192
    assert {row["kv"] for row in said["recipes"]} == {48 * 8192 * 2048 * 9 // 16}


def test_a_cache_that_is_quantised_later_on(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--memory", "256GB", "--kv-bits", "8")
    at_once = as_json(capsys, *options)
    later = as_json(capsys, *options, "--quantized-kv-start", "30000")
    assert (at_once["quantized_kv_start"], later["quantized_kv_start"]) == (0, 30000)
    text = MODELS["maverick"].config.text
    assert later["recipes"][0]["kv"] == kv_bytes(text, 32768, options=KVOptions(8, 30000))
    assert later["recipes"][0]["kv"] > at_once["recipes"][0]["kv"]


def test_scout_and_folders(
    maverick_mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(capsys, "--model", "scout", "--memory", "192GB")
    assert "e4r4 62.4 GB 67.9 GB 67-88 fits" in lines
    assert "convert meta-llama/Llama-4-Scout-17B-16E-Instruct --recipe e8r8" in lines[-1]
    lines = printed(capsys, str(maverick_mini), "--memory", "64GB")
    assert lines[0].startswith(str(maverick_mini))
    spaced = tmp_path / "my model"
    spaced.mkdir()
    (spaced / "config.json").write_bytes((maverick_mini / "config.json").read_bytes())
    assert f"convert '{spaced}' --recipe" in printed(capsys, str(spaced), "--memory", "64GB")[-1]


def test_another_recipe_is_listed_by_its_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text('base = "e3r6"\nname = "mine"\n[bits]\nlm_head = 8\n')
    rows = as_json(
        capsys, "--memory", "256GB", "--recipe", str(tmp_path / "mine.toml"),
        "--set", "routed@first,last=+1",
    )["recipes"]  # fmt: skip
    names = [row["recipe"] for row in rows]
    assert names == sorted(names, key=lambda name: [r["disk"] for r in rows if r["recipe"] == name])
    mixed = rows[names.index("mine-mixed")]
    e3r6, e4r6 = rows[names.index("e3r6")], rows[names.index("e4r6")]
    head = 202048 * 5120 * 2 // 8
    steps = (e4r6["weights"] - e3r6["weights"]) * 2 // 24  # two of 24 layers
    assert mixed["weights"] == e3r6["weights"] + head + steps


def test_limit_and_bandwidth(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(
        capsys, "--memory", "256GB", "--limit", "206GB", "--bandwidth", "400", "--context", "8192"
    )
    assert "GPU limit 206.0 GB, as given" in lines
    assert "e4r4 227.2 GB 231.5 GB 37-44 raised limit" in lines


def test_this_machine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    mine = macs.mac(256 * GIB)
    monkeypatch.setattr(macs, "this_machine", lambda: mine)
    monkeypatch.setattr("mlx_maverick.model.llama4.default_dtype", lambda: _Size(2))
    assert "e4r6 230.7 GB 236.3 GB 54-66 fits" in printed(capsys)
    monkeypatch.setattr("mlx_maverick.model.llama4.default_dtype", lambda: _Size(4))
    assert any("32-bit KV cache 5.6 GB" in line for line in printed(capsys))


class _Size:
    def __init__(self, size: int):
        self.size = size


def test_the_machine_this_runs_on(capsys: pytest.CaptureFixture[str]) -> None:
    said = as_json(capsys)
    assert said["machine"]["memory"] == memory.read().total
    assert said["machine"]["name"].startswith("this ")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--memory", "lots"], 2, "such as 128GB"),
        (["--memory", "128GB", "--limit", "200GB"], 2, "--limit 200.0 GB is not possible"),
        (["--memory", "128GB", "--limit", "100"], 2, "'100' is not a limit"),
        (["--memory", "128GB", "--context", "1048577"], 2, "1 to 1048576"),
        (["--memory", "128GB", "--context", "0"], 2, "--context"),
        (["--memory", "128GB", "--kv-bits", "3"], 2, "--kv-bits"),
        (["--memory", "128GB", "--max-kv-size", "15"], 2, "--max-kv-size: 15 is not at least 16"),
        (["--memory", "128GB", "--bandwidth", "0"], 2, "--bandwidth"),
        (["--memory", "128GB", "--ssd", "0"], 2, "--ssd: 0 is not above 0"),
        (["--memory", "128GB", "--ssd", "fast"], 2, "--ssd: invalid number value: 'fast'"),
        (["--memory", "128GB", "--recipe", "e7r4"], 2, "no 7-bit"),
        (["--memory", "128GB", "--set", "dense@1=6"], 2, "layer 1 has no dense"),
        (["scout", "--memory", "128GB", "--set", "dense=6"], 2, "this model has no dense"),
        (["--memory", "128GB", "--recipe", "none.toml"], 3, "none.toml"),
        (["maverick", "--model", "scout"], 2, "give one model"),
        (["/no/such/folder", "--memory", "128GB"], 3, "/no/such/folder does not exist"),
    ],
)
def test_errors(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *arguments]) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_repository_needs_no_download(capsys: pytest.CaptureFixture[str]) -> None:
    """Those of the published models not even a network."""
    for repo in ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "scout"):
        assert main(["plan", repo, "--memory", "128GB"]) == 0
        assert capsys.readouterr().out.startswith("Llama 4 Scout on a Mac with 128 GB")
