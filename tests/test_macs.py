"""Machines: sizes and limits in words, and what is assumed where only a size is given."""

import sys
from typing import Any

import mlx.core as mx
import pytest

from mlx_maverick import macs, memory
from mlx_maverick.errors import UsageError
from mlx_maverick.macs import GIB, mac, parse_limit, parse_memory

GB = 10**9


@pytest.mark.parametrize("text", ["128GB", "128", "128gb", "128 GiB", "128g", " 128GB "])
def test_memory_of_a_mac_is_binary(text: str) -> None:
    assert parse_memory(text) == 128 * 2**30


@pytest.mark.parametrize("text", ["", "0", "0GB", "-1", "12.5GB", "128MB", "128TB", "lots", "1e3"])
def test_what_is_no_memory_size(text: str) -> None:
    with pytest.raises(UsageError, match="such as 128GB"):
        parse_memory(text)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("230GB", 230 * GB), ("230.5gb", 230_500_000_000), ("214 GiB", 214 * GIB),
     ("219136MiB", 214 * GIB)],
)  # fmt: skip
def test_limits_are_as_sizes_are_printed(text: str, nbytes: int) -> None:
    assert parse_limit(text) == nbytes


@pytest.mark.parametrize("text", ["230", "", "GB", "230MB", "-1GB"])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(UsageError, match="230GB"):
        parse_limit(text)


@pytest.mark.parametrize(
    ("size", "limit", "bandwidth"),
    [(64, 48, 546), (96, 72, 819), (128, 107.5, 546), (192, 144, 800), (256, 222.6, 819),
     (512, 464, 819)],
)  # fmt: skip
def test_macs_by_their_memory(size: int, limit: float, bandwidth: int) -> None:
    machine = mac(size * GIB)
    assert size in macs.SIZES
    assert machine.limit / GIB == pytest.approx(limit, abs=1e-6)
    assert machine.raised_limit == memory.usable(size * GIB) > machine.limit
    assert machine.bandwidth == bandwidth * GB
    assert machine.chip is not None
    assert f"{bandwidth} GB/s: {machine.chip}" in machine.assumptions[1]


def test_what_older_macos_gives_is_said() -> None:
    assert "macOS 26 (older: 75 %, 206.2 GB)" in mac(256 * GIB).assumptions[0]
    assert "older macOS" in mac(192 * GIB).assumptions[0]


def test_another_size_has_no_usual_chip() -> None:
    machine = mac(48 * GIB)
    assert (machine.chip, machine.bandwidth, machine.limit) == (None, None, 36 * GIB)
    assert "--bandwidth" in machine.assumptions[1]


def test_given_limit_and_bandwidth_replace_what_was_assumed() -> None:
    machine = mac(256 * GIB).with_limit(192 * GIB).with_bandwidth(400 * GB)
    assert machine.limit == 192 * GIB
    assert machine.raised_limit == memory.usable(256 * GIB)
    assert machine.bandwidth == 400 * GB
    assert machine.assumptions == (
        "GPU limit 206.2 GB, as given", "memory bandwidth 400 GB/s, as given",
    )  # fmt: skip
    assert mac(256 * GIB).with_limit(254 * GIB).raised_limit == 254 * GIB
    for limit in (0, 257 * GIB):
        with pytest.raises(UsageError, match="--limit"):
            mac(256 * GIB).with_limit(limit)


def reads(monkeypatch: pytest.MonkeyPatch, platform: str, info: dict[str, Any], total: int) -> None:
    reading = memory.Reading(total, 0, total, 0, memory.Pressure.NORMAL)
    monkeypatch.setattr(macs.pressure, "read", lambda: reading)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(mx, "device_info", lambda: info)


@pytest.mark.parametrize(("chip", "bandwidth"), [("M3 Ultra", 819 * GB), ("M9 Ultra", None)])
def test_this_mac(chip: str, bandwidth: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    info = {"device_name": f"Apple {chip}", "max_recommended_working_set_size": 240 * GIB}
    reads(monkeypatch, "darwin", info, 256 * GIB)
    machine = macs.this_machine()
    assert machine.name == "this Mac with 256 GB"
    assert (machine.limit, machine.raised_limit) == (240 * GIB, 248 * GIB)
    assert (machine.chip, machine.bandwidth) == (chip, bandwidth)
    assert ("--bandwidth" in machine.assumptions[1]) == (bandwidth is None)


def test_elsewhere_no_limit_can_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    reads(monkeypatch, "linux", {"device_name": "cpu"}, 32 * GIB)
    machine = macs.this_machine()
    assert machine.name == "this machine with 32 GB"
    assert machine.limit == machine.raised_limit == 28 * GIB
    assert machine.chip is None
    reads(monkeypatch, "linux", {"device_name": "a GPU", "total_memory": 8 * GIB}, 32 * GIB)
    machine = macs.this_machine()
    assert machine.limit == machine.raised_limit == 7 * GIB


def test_without_mlx_a_mac_has_its_stock_limit() -> None:
    machine = macs.this_machine_without_mlx(128 * GIB, "Apple M4 Max", metal=True)
    assert (machine.name, machine.chip) == ("this Mac with 128 GB", "M4 Max")
    assert (machine.limit, machine.raised_limit) == (107.5 * GIB, 120 * GIB)
    assert machine.bandwidth == 546 * GB
    other = macs.this_machine_without_mlx(32 * GIB, "a CPU", metal=False)
    assert (other.name, other.chip) == ("this machine with 32 GB", None)
    assert other.limit == other.raised_limit == 28 * GIB


def test_what_is_known_of_the_ssd() -> None:
    assumed = mac(128 * GIB)
    assert assumed.ssd_words == "SSD 5.0 GB/s, assumed (Macs have 5 to 7, the newest 13)"
    measured = assumed.with_bandwidth(100 * GB).with_ssd(6.25 * GB, "measured").with_limit(GB)
    assert (measured.ssd, measured.ssd_words) == (6.25 * GB, "SSD 6.2 GB/s, measured")
