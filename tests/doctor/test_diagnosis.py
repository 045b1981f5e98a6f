"""What recorded machines are told to change."""

from dataclasses import replace
from pathlib import Path

import pytest

from mlx_maverick.cli import doctor
from mlx_maverick.doctor import outlook
from mlx_maverick.doctor.diagnosis import Facts, Finding, findings
from mlx_maverick.doctor.host import Device
from mlx_maverick.macs import GIB
from mlx_maverick.pressure import Pressure

from .recorded_machines import (
    LINUX,
    M1_MAX,
    M3_ULTRA,
    M4_MAX,
    M4_MAX_RAISED,
    PRESSED,
    Recorded,
    mac,
)

GB = 10**9


def told(facts: Facts) -> dict[str, Finding]:
    return {finding.kind: finding for finding in findings(facts)}


@pytest.mark.parametrize(
    ("machine", "kinds"),
    [
        (M4_MAX, ["limit", "in-use"]),
        (M4_MAX_RAISED, ["in-use"]),
        (M3_ULTRA, []),
        (M1_MAX, ["in-use"]),
        (PRESSED, ["pressure", "in-use", "swap", "disk"]),
        (LINUX, ["not-a-mac", "memory"]),
    ],
)
def test_recorded_machines(machine: Recorded, kinds: list[str]) -> None:
    assert [finding.kind for finding in findings(machine.facts)] == kinds


def test_128_gb_as_it_comes() -> None:
    found = told(M4_MAX.facts)
    assert found["limit"].text == (
        "The GPU's limit is 115.4 GB, the stock value: Llama 4 Maverick as e2g128r4 needs "
        "124.0 GB; raise it until the next restart."
    )
    assert found["limit"].command == "sudo sysctl iogpu.wired_limit_mb=118784"
    assert "124.0 GB of memory: 117.4 GB are available right now" in found["in-use"].text
    assert "at least 6.6 GB" in found["in-use"].text


def test_128_gb_with_programs_closed() -> None:
    assert list(told(replace(M4_MAX, used=10 * GB).facts)) == ["limit"]
    assert told(replace(M4_MAX_RAISED, used=10 * GB).facts) == {}


def test_a_limit_that_was_set_is_not_called_stock() -> None:
    text = told(mac(128, "M4 Max", 100 * 1024).facts)["limit"].text
    assert text.startswith("The GPU's limit is 107.4 GB: ")


def test_a_limit_that_leaves_the_system_too_little() -> None:
    found = told(mac(128, "M4 Max", 126 * 1024).facts)["limit-high"]
    assert "leaves 2.1 GB to the system" in found.text
    assert found.command == f"sudo sysctl iogpu.wired_limit_mb={120 * 1024}"
    assert "limit-high" not in told(mac(128, "M4 Max", 120 * 1024).facts)


def test_64_gb() -> None:
    """Streamed, it takes all that there is; less is a matter of an option."""
    text = told(M1_MAX.facts)["in-use"].text
    assert text.startswith("Llama 4 Maverick as e4r6 (streamed) takes up to 51.5 GB of memory:")
    assert "at least 2.8 GB before loading it, or say --expert-memory 28GB." in text
    full = told(replace(M1_MAX, used=50 * GB).facts)["in-use"].text
    assert full.endswith("at least 32.8 GB before loading it.")  # not even the rest has room


def test_too_little_to_stream() -> None:
    text = told(LINUX.facts)["memory"].text
    assert "needs 141.6 GB and a model gets at most 30.1 GB here, which is too little to" in text
    assert "use Llama 4 Scout as e4r6 (streamed), or use a Mac with more memory." in text


def test_a_mac_under_warning_is_told_by_how_much() -> None:
    found = told(PRESSED.facts)
    assert "high: 124.9 GB of 274.9 GB available, 4.0 GB wired, 3.0 GB compressed" in (
        found["pressure"].text
    )
    assert "7.0 GB of memory are swapped out" in found["swap"].text
    assert "at least 111.4 GB" in found["in-use"].text
    assert "takes 230.7 GB" in found["disk"].text
    assert "free 130.7 GB, or convert with --out" in found["disk"].text
    critical = replace(PRESSED, pressure=Pressure.CRITICAL).facts
    assert "critical" in told(critical)["pressure"].text


@pytest.mark.parametrize(("swap", "much"), [(0, False), (999 * 10**6, False), (GB, True)])
def test_a_little_swap_is_normal(swap: int, much: bool) -> None:
    assert ("swap" in told(replace(M3_ULTRA, swap=swap).facts)) is much


def test_the_disk_has_to_hold_the_recommended_recipe() -> None:
    disk = M3_ULTRA.facts.outlooks[0].disk
    assert disk == pytest.approx(427.5e9, rel=1e-3)
    assert told(replace(M3_ULTRA, disk=disk).facts) == {}
    assert list(told(replace(M3_ULTRA, disk=disk - 1).facts)) == ["disk"]


def changed(machine: Recorded = M3_ULTRA, device: Device | None = None, **host: object) -> Facts:
    """A machine with another Python or system, or without its GPU."""
    facts = machine.facts
    return replace(facts, host=replace(facts.host, **host), device=device or facts.device)  # type: ignore[arg-type]


NO_MLX = Device(None, None, 2, None, "No module named 'mlx'")


def test_rosetta_is_told_instead_of_what_follows_from_it() -> None:
    found = told(changed(translated=True, architecture="x86_64", device=NO_MLX))
    assert list(found) == ["rosetta"]
    assert "Python for Apple silicon" in found["rosetta"].text


def test_an_intel_mac() -> None:
    assert list(told(changed(architecture="x86_64", device=NO_MLX))) == ["intel"]


@pytest.mark.parametrize(("release", "old"), [((13, 7), True), ((14, 0), False), ((), False)])
def test_old_macos(release: tuple[int, ...], old: bool) -> None:
    found = told(changed(version=release, system="macOS 13.7"))
    assert ("macos" in found) is old
    if old:
        assert (
            found["macos"].text == "This Mac runs macOS 13.7: MLX needs 14 or newer; update macOS."
        )


def test_mlx_that_cannot_be_loaded() -> None:
    found = told(changed(device=NO_MLX))
    assert list(found) == ["mlx"]
    assert "No module named 'mlx'" in found["mlx"].text
    assert "pip install" in (found["mlx"].command or "")


def test_packages_that_are_missing() -> None:
    packages = M3_ULTRA.host.packages | {"mlx": None, "pillow": None}
    found = told(changed(packages=packages, device=NO_MLX))
    assert list(found) == ["packages"]
    assert "mlx, pillow" in found["packages"].text


def test_a_mac_without_metal() -> None:
    assert list(told(changed(device=Device("CPU", "Apple M3", 4, None, None)))) == ["metal"]


def test_cuda_has_memory_of_its_own() -> None:
    facts = replace(LINUX.facts, device=Device("CUDA", "NVIDIA H200", 2, 100 * GB, None))
    assert facts.available == 100 * GB
    assert "CUDA" in told(facts)["not-a-mac"].text


@pytest.mark.parametrize(("most", "low"), [(255, True), (256, False), (None, False)])
def test_open_files(most: int | None, low: bool) -> None:
    found = told(changed(open_files=most))
    assert ("open-files" in found) is low
    if low:
        assert found["open-files"].command == "ulimit -n 256"


# --- a folder ------------------------------------------------------------------------------


def with_folder(maverick_mini: Path, machine: Recorded, limit: int, available: int) -> Facts:
    """The small checkpoint on a machine that has next to nothing for it."""
    facts = machine.facts
    need = doctor.need(maverick_mini, 2048, 4)
    small = replace(facts.machine, limit=limit, raised_limit=limit, memory=4 * limit)
    reading = replace(facts.reading, available=available)
    folder = outlook.folder("mini", need, small, available, mac=facts.host.mac)
    return replace(facts, machine=small, reading=reading, folder=folder)


def test_a_folder_that_fits(maverick_mini: Path) -> None:
    facts = with_folder(maverick_mini, M3_ULTRA, 400 * GB, 300 * GB)
    assert told(facts) == {}
    folder = facts.folder
    assert folder is not None
    assert (folder.fits, folder.fits_now, folder.advice) == (True, True, None)
    assert folder.total == folder.weights + folder.kv + folder.working
    assert folder.longest == folder.longest_now == 1048576


def test_a_folder_that_fits_but_not_now(maverick_mini: Path) -> None:
    need = doctor.need(maverick_mini, 2048, 4).budget.total
    facts = with_folder(maverick_mini, M3_ULTRA, GIB, need - 300_000)
    folder, found = facts.folder, told(facts)
    assert folder is not None
    assert (folder.fits, folder.fits_now) == (True, False)
    assert 1024 <= folder.longest_now < 2048 < folder.longest
    assert list(found) == ["in-use"]
    assert "close programs that hold at least 300.0 kB" in found["in-use"].text
    assert f"use --context {folder.longest_now}" in found["in-use"].text
    budget = doctor.need(maverick_mini, 768, 4).budget
    facts = with_folder(maverick_mini, M3_ULTRA, GIB, budget.total)
    assert facts.folder is not None
    assert facts.folder.longest_now == 768  # which is no help
    assert "--context" not in told(facts)["in-use"].text


def test_a_folder_that_does_not_fit(maverick_mini: Path) -> None:
    need = doctor.need(maverick_mini, 2048, 4).budget.total
    facts = with_folder(maverick_mini, LINUX, need - 300_000, GB)
    found = told(facts)
    assert facts.folder is not None
    assert not facts.folder.fits
    assert list(found) == ["not-a-mac", "model"]
    assert found["model"].text.startswith("This model needs ")
    assert f"use --context {facts.folder.longest}" in found["model"].text
    assert "sysctl" not in found["model"].text
    on_a_mac = told(with_folder(maverick_mini, M3_ULTRA, need - 300_000, GB))["model"]
    assert "sudo sysctl iogpu.wired_limit_mb=" in on_a_mac.text
