"""Machines as `doctor` meets them, from what their systems answer."""

import struct
from dataclasses import dataclass, replace

from mlx_maverick import macs
from mlx_maverick.doctor import diagnosis, host, outlook
from mlx_maverick.doctor.diagnosis import Facts
from mlx_maverick.doctor.host import Device, Host, Place
from mlx_maverick.macs import GIB, Machine
from mlx_maverick.pressure import Pressure, Reading
from mlx_maverick.published_models import MODELS

from ..test_pressure import FakeLibSystem

GB = 10**9
PYTHON = {
    "python": "3.13.1",
    "architecture": "arm64",
    "open_files": 256,  # what macOS gives
    "packages": dict.fromkeys(host.PACKAGES, "1.2.3") | {"mlx": "0.32.4"},
}


def sysctls(chip: str, release: str, limit_mib: int = 0) -> dict[str, bytes]:
    return {
        "machdep.cpu.brand_string": chip.encode() + b"\0",
        "kern.osproductversion": release.encode() + b"\0",
        "iogpu.wired_limit_mb": struct.pack("<i", limit_mib),
        "sysctl.proc_translated": struct.pack("<i", 0),
    }


def mac_host(chip: str, release: str = "26.1", limit_mib: int = 0) -> Host:
    asked = host.mac(host.libsystem.declare(FakeLibSystem(sysctls(chip, release, limit_mib), b"")))
    return replace(asked, **PYTHON)


@dataclass(frozen=True)
class Recorded:
    """What differs between machines; `facts` adds the rest."""

    host: Host
    machine: Machine
    device: Device
    used: int = 20 * GB
    swap: int = 0
    pressure: Pressure = Pressure.NORMAL
    disk: int = 2000 * GB

    @property
    def facts(self) -> Facts:
        total, metal = self.machine.memory, self.device.kind == "Metal"
        reading = Reading(
            total=total,
            used=self.used,
            available=total - self.used,
            swap_used=self.swap,
            pressure=self.pressure,
            wired=4 * GB if metal else None,
            compressed=3 * GB if metal else None,
            free=5 * GB,
        )
        here = Place("this folder", "/Users/ada/models", self.disk, 4000 * GB)
        hub = Place("the Hub's cache", "/Users/ada/.cache/huggingface/hub", self.disk, 4000 * GB)
        outlooks = tuple(
            outlook.outlook(model, self.machine, self.device.element_bytes)
            for model in MODELS.values()
        )
        return diagnosis.Facts(
            self.host, self.device, self.machine, reading, (here, hub), outlooks, None
        )


def mac(size: int, chip: str, limit_mib: int = 0) -> Recorded:
    apple = f"Apple {chip}"
    machine = macs.this_machine_without_mlx(size * GIB, apple, metal=True)
    if limit_mib:
        machine = machine.with_limit(limit_mib << 20)
    return Recorded(
        mac_host(apple, limit_mib=limit_mib), machine, Device("Metal", apple, 2, None, None)
    )


M4_MAX = mac(128, "M4 Max")
M4_MAX_RAISED = mac(128, "M4 Max", 118784)
M3_ULTRA = mac(512, "M3 Ultra")
M1_MAX = mac(64, "M1 Max")
PRESSED = replace(
    mac(256, "M3 Ultra"), used=150 * GB, swap=7 * GB, pressure=Pressure.WARNING, disk=100 * GB
)
CPUINFO = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 9454\nstepping\t: 1\n"
LINUX = Recorded(
    replace(host.linux(CPUINFO, "6.18.44-cloud"), **PYTHON | {"architecture": "x86_64"}),
    macs.this_machine_without_mlx(32 * GIB, None, metal=False),
    Device("CPU", "AMD EPYC 9454", 4, None, None),
    used=2 * GB,
)
