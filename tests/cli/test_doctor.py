"""`mlx-maverick doctor`: what it prints of recorded machines, and on this one."""

import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_maverick import macs, pressure, sizing
from mlx_maverick.cli import doctor
from mlx_maverick.cli.main import main
from mlx_maverick.config import ModelConfig
from mlx_maverick.convert import convert
from mlx_maverick.convert.recipe import Recipe
from mlx_maverick.doctor import host
from mlx_maverick.doctor.diagnosis import Facts, findings
from mlx_maverick.doctor.host import Device
from mlx_maverick.errors import MaverickError
from mlx_maverick.fingerprint import model_fingerprint
from mlx_maverick.kv import DENSE, KVOptions, kv_bytes
from mlx_maverick.macs import Machine
from mlx_maverick.model import default_dtype
from mlx_maverick.streaming import counts

from ..doctor.recorded_machines import LINUX, M1_MAX, M3_ULTRA, M4_MAX, PRESSED, Recorded


def printed(facts: Facts) -> list[str]:
    """Lines with single spaces."""
    lines = list(doctor.lines(facts, findings(facts)))
    assert [line for line in lines if len(line) > 80] == []
    return [" ".join(line.split()) for line in lines]


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["doctor", "--json", *arguments]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def test_128_gb_as_it_comes() -> None:
    lines = printed(M4_MAX.facts)
    assert lines[0].endswith("on this Mac with 128 GB")
    for line in [
        "chip Apple M4 Max, 546 GB/s",
        "system macOS 26.1",
        "python 3.13.1, arm64",
        "mlx 0.32.4 on Metal",
        "open files 256 at once",
        "memory 137.4 GB: 20.0 GB in use, 117.4 GB available, nothing swapped",
        "4.0 GB wired, 3.0 GB compressed, 5.0 GB free",
        "pressure normal",
        "GPU limit 115.4 GB (stock)",
        "could be 128.8 GB until the next restart:",
        "sudo sysctl iogpu.wired_limit_mb=122880",
        "disk 2000.0 GB of 4000.0 GB free in this folder, /Users/ada/models",
        "What fits, with 32,768 tokens of context",
        "Maverick e2g128r4: 118.5 GB on disk, 124.0 GB in memory",
        "(recipes up to e2g128r4 with a raised limit)",
        "(recipes up to e6r8 as it is set, up to e8r8 with a raised limit)",
        "mlx-maverick convert --recipe e2g128r4 \\",
        "meta-llama/Llama-4-Maverick-17B-128E-Instruct",
        "sudo sysctl iogpu.wired_limit_mb=118784",
    ]:
        assert line in lines
    assert any(line.startswith("1. The GPU's limit is 115.4 GB") for line in lines)
    assert any(line.startswith("2. Llama 4 Maverick as e2g128r4") for line in lines)


def test_nothing_to_change() -> None:
    assert printed(M3_ULTRA.facts)[-2:] == ["What to change", "Nothing: this machine is ready."]


def test_what_fits_only_streamed() -> None:
    lines = printed(M1_MAX.facts)
    at = lines.index("Maverick e4r6: 230.7 GB on disk, 14 % of its experts in 31.3 GB of memory,")
    assert lines[at + 1] == "the others read from the SSD (5.0 GB/s, assumed): about 3.0 tok/s"
    assert "meta-llama/Llama-4-Maverick-17B-128E-Instruct" in lines
    assert any(line.startswith("1. Llama 4 Maverick as e4r6 (streamed) takes") for line in lines)


def test_what_has_more_bits_is_told_beside_what_fits() -> None:
    lines = printed(M4_MAX.facts)
    at = lines.index("Maverick e2g128r4: 118.5 GB on disk, 124.0 GB in memory")
    assert lines[at + 2] == "e4r6: 230.7 GB on disk, 44 % of its experts in 95.2 GB of memory,"
    assert "the SSD" not in " ".join(printed(M3_ULTRA.facts))


def test_elsewhere_there_is_no_gpu_limit() -> None:
    lines = printed(LINUX.facts)
    assert "model limit 30.1 GB" in lines
    assert "Maverick nothing: the smallest, e2g128r4, needs 141.6 GB" in lines
    text = " ".join(lines)
    assert "GPU limit" not in text
    assert "wired" not in text
    assert "5.0 GB free" not in text
    assert "assumed): at most 1.6 tok/s (by the SSD alone)" in text


def test_without_mlx() -> None:
    lines = printed(replace(M3_ULTRA.facts, device=Device(None, None, 2, None, "no such file")))
    assert "mlx 0.32.4 cannot be loaded" in lines
    assert "1. MLX cannot be loaded: no such file; install it again." in lines


@pytest.mark.parametrize("machine", [M4_MAX, M3_ULTRA, M1_MAX, PRESSED, LINUX])
def test_json_of_recorded_machines(machine: Recorded) -> None:
    facts = machine.facts
    said = json.loads(json.dumps(doctor.as_json(facts, findings(facts))))
    assert set(said) == {f.name for f in fields(Facts)} | {"version", "sysctl", "findings"}
    assert said["reading"]["pressure"] in ("normal", "warning", "critical")
    assert said["machine"]["limit"] == machine.machine.limit
    assert (said["sysctl"] is None) == (machine is LINUX)
    assert [one["model"] for one in said["outlooks"]] == ["maverick", "scout"]
    for finding in said["findings"]:
        assert set(finding) == {"kind", "what", "why", "do", "command"}


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "What to change" in captured.out
    said = as_json(capsys)
    assert said["machine"]["memory"] == said["reading"]["total"] == pressure.read().total
    assert said["host"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert said["folder"] is None


def test_a_model(maverick_mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", str(maverick_mini)]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index(f"{maverick_mini}: fits")
    assert "with 32,768 tokens of context" in lines[start + 1]
    assert "context     up to 1,048,576 tokens, up to 1,048,576 now" in lines
    folder = as_json(capsys, "--model", str(maverick_mini), "--context", "8192")["folder"]
    assert (folder["context"], folder["fits"], folder["fits_now"]) == (8192, True, True)


def test_a_model_with_another_kv_cache(
    maverick_mini: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--model", str(maverick_mini), "--context", "8192")
    whole = as_json(capsys, *model)["folder"]
    bits = as_json(capsys, *model, "--kv-bits", "8")["folder"]
    bounded = as_json(capsys, *model, "--max-kv-size", "1024")["folder"]
    config = ModelConfig.from_folder(maverick_mini).text
    sizes = [
        kv_bytes(config, 8192, 4, kv) for kv in (DENSE, KVOptions(8), KVOptions(max_size=1024))
    ]
    assert [folder["kv"] for folder in (whole, bits, bounded)] == sizes
    assert len(set(sizes)) == 3


@pytest.mark.parametrize("option", ["--context", "--kv-bits", "--max-kv-size"])
def test_what_is_about_a_model_needs_one(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", option, "8" if option == "--kv-bits" else "4096"]) == 2
    assert "give --model too" in capsys.readouterr().err


def test_a_model_that_does_not_fit_is_no_failure(
    maverick_mini: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = macs.this_machine()
    small = replace(here, memory=10**8, limit=6 * 10**7, raised_limit=6 * 10**7)
    monkeypatch.setattr(macs, "this_machine", lambda: small)
    assert main(["doctor", "--model", str(maverick_mini), "--context", "65536"]) == 0
    out = capsys.readouterr().out
    assert f"{maverick_mini}: does not fit\n" in out  # its experts are as they were published
    assert "this machine gives a model 60.0 MB" in " ".join(out.split())
    monkeypatch.setattr(macs, "this_machine", lambda: here)
    now = replace(pressure.read(), available=6 * 10**7)
    monkeypatch.setattr(pressure, "read", lambda: now)
    assert main(["doctor", "--model", str(maverick_mini), "--context", "65536"]) == 0
    assert f"{maverick_mini}: fits, but not what is available now\n" in capsys.readouterr().out


def half_of_its_experts(maverick_mini: Path) -> Machine:
    """This machine with room for half of the experts, at 128 tokens and as e4r4."""
    config, recipe = ModelConfig.from_folder(maverick_mini), Recipe.named("e4r4")
    size = sizing.size(config, recipe, 128, element_bytes=default_dtype().size)
    return replace(macs.this_machine(), limit=size.shared + size.experts // 2)


def test_a_model_that_can_be_streamed(
    maverick_mini: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    convert(maverick_mini, tmp_path / "out", "e4r4")
    model = ("--model", str(tmp_path / "out"), "--context", "128")
    whole = as_json(capsys, *model)
    assert (whole["folder"]["streamed"], whole["machine"]["ssd_source"]) == (None, "assumed")
    small = half_of_its_experts(maverick_mini)
    assert small.limit < whole["folder"]["total"]
    monkeypatch.setattr(macs, "this_machine", lambda: small)
    said = as_json(capsys, *model)
    folder = said["folder"]
    streamed = folder["streamed"]
    assert (folder["fits"], streamed["recipe"], streamed["share"]) == (False, None, 0.5)
    assert streamed["resident"] + streamed["room"] == streamed["memory"] == small.limit
    assert streamed["ssd_source"] == "measured"
    assert streamed["speed"]["ssd"] == said["machine"]["ssd"] != macs.SSD
    assert streamed["speed"]["hit_rate"] == 0.5
    assert streamed["speed"]["ceiling"] is True  # of this machine's memory nothing is known
    assert main(["doctor", *model]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"{tmp_path / 'out'}: does not fit, but can be streamed needs" in text
    assert "streamed 50 % of its experts in" in text
    assert "GB/s, measured): at most" in text
    assert "so its experts are streamed from the SSD, at most" in text
    assert "; for more speed, convert it with the smaller recipe " in text


def test_what_was_used_before_says_how_much_is_read(
    maverick_mini: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Half of the experts were used nine times as often as the others, and have room."""
    monkeypatch.setenv("MLX_MAVERICK_HOME", str(tmp_path / "home"))
    out = tmp_path / "out"
    convert(maverick_mini, out, "e4r4", fast=True)
    small = half_of_its_experts(maverick_mini)
    monkeypatch.setattr(macs, "this_machine", lambda: small)
    monkeypatch.setattr("mlx_maverick.streaming.ssd.bandwidth", lambda _: 5e9)

    def predicted() -> dict[str, Any]:
        model = ("--model", str(out), "--context", "128")
        speed: dict[str, Any] = as_json(capsys, *model)["folder"]["streamed"]["speed"]
        return speed

    even = predicted()
    assert even["hit_rate"] == 0.5
    used = np.ones((4, 16), np.int64)
    used[:, ::2] = 9
    counts.save(counts.place(model_fingerprint(out, default_dtype())), used)
    uneven = predicted()
    assert uneven["hit_rate"] == 0.9
    assert uneven["tps"] == pytest.approx(5 * even["tps"], rel=1e-3)  # a fifth of the misses
    counts.save(counts.place(model_fingerprint(out, default_dtype())), used * 0)
    assert predicted() == even


def test_what_is_no_model_to_run(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors"}
    (copy / "config.json").write_text(json.dumps(config))
    for model, code, said in [
        ("/no/such/folder", 3, "/no/such/folder does not exist"),
        (str(copy), 1, "to convert from, not to run (compressed-tensors)"),
    ]:
        assert main(["doctor", "--model", model]) == code
        captured = capsys.readouterr()
        assert said in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""


def test_a_reading_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise MaverickError("/proc/meminfo has no MemAvailable")

    monkeypatch.setattr(pressure, "read", fail)
    assert main(["doctor"]) == 1
    assert "MemAvailable" in capsys.readouterr().err


def test_mlx_that_cannot_be_loaded(
    maverick_mini: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The machine is judged all the same; a model cannot be."""
    gone = Device(None, None, 2, None, "built for macOS 14")
    monkeypatch.setattr(host, "device", lambda: gone)
    monkeypatch.setattr(macs, "this_machine", lambda: pytest.fail("loads mlx"))
    assert main(["doctor"]) == 0
    assert "built for macOS 14" in capsys.readouterr().out
    assert main(["doctor", "--model", str(maverick_mini)]) == 1
    assert "built for macOS 14" in capsys.readouterr().err
