"""This computer: what macOS and Linux answer about it, and what is found on this one."""

import struct
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_maverick import libsystem
from mlx_maverick.doctor import host
from mlx_maverick.doctor.host import LIMIT
from mlx_maverick.errors import MaverickError

from ..test_pressure import FakeLibSystem
from .recorded_machines import CPUINFO, sysctls


def asked(changes: dict[str, bytes | None] | None = None) -> host.Host:
    answers = {**sysctls("Apple M4 Max", "26.1"), **(changes or {})}
    known = {name: value for name, value in answers.items() if value is not None}
    return host.mac(libsystem.declare(FakeLibSystem(known, b"")))


def test_a_mac() -> None:
    mac = asked()
    assert (mac.mac, mac.chip, mac.system, mac.version) == (
        True,
        "Apple M4 Max",
        "macOS 26.1",
        (26, 1),
    )
    assert (mac.translated, mac.limit_mib) == (False, 0)


@pytest.mark.parametrize("value", [struct.pack("<i", 118784), struct.pack("<q", 118784)])
def test_a_limit_that_was_raised_whatever_its_width(value: bytes) -> None:
    assert asked({LIMIT: value}).limit_mib == 118784


def test_rosetta() -> None:
    assert asked({"sysctl.proc_translated": struct.pack("<i", 1)}).translated


def test_older_macs_lack_settings() -> None:
    mac = asked({"sysctl.proc_translated": None, LIMIT: None, "machdep.cpu.brand_string": None})
    assert (mac.translated, mac.limit_mib, mac.chip) == (False, None, None)


def test_linux() -> None:
    machine = host.linux(CPUINFO, "6.18.44-cloud-amd64")
    assert (machine.mac, machine.chip) == (False, "AMD EPYC 9454")
    assert (machine.system, machine.version) == ("Linux 6.18.44", (6, 18, 44))
    assert machine.limit_mib is None
    assert host.linux("processor\t: 0\nBogoMIPS\t: 50.00\n", "6.1").chip is None  # ARM


def test_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(MaverickError, match="win32 is not supported"):
        host.this_host()


def test_libsystem_is_only_on_macs() -> None:
    if sys.platform != "darwin":
        with pytest.raises(MaverickError, match="cannot be loaded"):
            libsystem.load()
    else:
        assert libsystem.text(libsystem.load(), "kern.osproductversion")


def test_this_one() -> None:
    here = host.this_host()
    assert here.mac == (sys.platform == "darwin")
    assert here.python == ".".join(map(str, sys.version_info[:3]))
    assert here.version[0] > 2
    assert here.packages["mlx"] is not None
    assert host._version("no-such-package-of-ours") is None


def test_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    device = host.device()
    on_cpu = mx.default_device().type == mx.DeviceType.cpu
    assert (device.kind == "CPU", device.element_bytes) == (on_cpu, 4 if on_cpu else 2)
    assert device.problem is None


def test_mlx_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    device = host.device()
    assert (device.kind, device.name, device.free) == (None, None, None)
    assert device.problem is not None
    assert "mlx.core" in device.problem


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here, hub = host.places()
    assert (here.name, here.path, hub.name) == ("this folder", str(tmp_path), "the Hub's cache")
    assert 0 < here.free < here.total
    missing = host.place("new", tmp_path / "not" / "there")  # on the disk that it would be on
    assert missing.total == here.total
    assert missing.path.endswith("not/there")
