"""Live memory readings: parsing of recorded answers, and the calls that fetch them."""

import ctypes
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_maverick import libsystem, pressure
from mlx_maverick.errors import MaverickError
from mlx_maverick.pressure import Pressure, Reading, linux, mac

GIB = 2**30
PAGE = 16384  # Apple silicon


def vm_statistics64(**pages: int) -> bytes:
    """struct vm_statistics64 of <mach/vm_statistics.h>, written field by field."""
    fields = [
        ("I", "free"), ("I", "active"), ("I", "inactive"), ("I", "wire"),
        ("Q", "zero_fill"), ("Q", "reactivations"), ("Q", "pageins"), ("Q", "pageouts"),
        ("Q", "faults"), ("Q", "cow_faults"), ("Q", "lookups"), ("Q", "hits"), ("Q", "purges"),
        ("I", "purgeable"), ("I", "speculative"),
        ("Q", "decompressions"), ("Q", "compressions"), ("Q", "swapins"), ("Q", "swapouts"),
        ("I", "compressor"), ("I", "throttled"), ("I", "external"), ("I", "internal"),
        ("Q", "total_uncompressed"),
    ]  # fmt: skip
    unknown = set(pages) - {name for _, name in fields}
    assert not unknown
    # A value of its own in every other field, so that a wrong offset shows.
    return b"".join(
        struct.pack("<" + kind, pages.get(name, 7_000_000 + i))
        for i, (kind, name) in enumerate(fields)
    )


# A 256 GiB machine with a 215 GiB model wired.
PAGES = {
    "free": 827_216,  # pages read ahead (speculative) among them
    "active": 800_000,
    "inactive": 700_000,
    "wire": 14_300_000,
    "speculative": 20_000,
    "compressor": 150_000,
    "purgeable": 30_000,
    "external": 600_000,
}
MAC = mac.Raw(
    pressure_level=struct.pack("<i", 1),
    memsize=struct.pack("<Q", 256 * GIB),
    # <sys/sysctl.h>, struct xsw_usage: total, avail, used, pagesize, encrypted
    swapusage=struct.pack("<QQQII", 4 * GIB, 3 * GIB, 1 * GIB, PAGE, 1),
    vm_statistics=vm_statistics64(**PAGES),
    page_size=PAGE,
)


def test_the_structs_have_their_size_in_c() -> None:
    # offsetof(compressor_page_count) is 128 and the revision's end 152 in Apple's SDK.
    assert mac.VM_STATISTICS64.size == libsystem.HOST_VM_INFO64_REV1_COUNT * 4 == 152
    assert struct.calcsize("<4I9Q2I4Q") == 128
    assert mac.XSW_USAGE.size == 32


def test_mac_reading() -> None:
    used = (800_000 + 700_000 + 14_300_000 + 20_000 + 150_000 - 30_000 - 600_000) * PAGE
    assert mac.parse(MAC) == Reading(
        total=256 * GIB,
        used=used,
        available=256 * GIB - used,
        swap_used=1 * GIB,
        pressure=Pressure.NORMAL,
        wired=14_300_000 * PAGE,
        compressed=150_000 * PAGE,
        free=807_216 * PAGE,
    )


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0, Pressure.NORMAL),
        (1, Pressure.NORMAL),
        (2, Pressure.WARNING),
        (3, Pressure.WARNING),
        (4, Pressure.CRITICAL),
        (8, Pressure.CRITICAL),  # nothing is known beyond it, so nothing is milder
    ],
)
def test_mac_levels(level: int, expected: Pressure) -> None:
    assert mac.parse(replace(MAC, pressure_level=struct.pack("<i", level))).pressure is expected


def test_mac_wired_memory_is_pressure_even_at_a_normal_level() -> None:
    full = 256 * GIB // PAGE
    for spare, expected in [(0.5, Pressure.CRITICAL), (3, Pressure.WARNING), (8, Pressure.NORMAL)]:
        wire = full - int(spare * 10**9 / PAGE)
        pages = vm_statistics64(**(dict.fromkeys(PAGES, 0) | {"wire": wire}))
        assert mac.parse(replace(MAC, vm_statistics=pages)).pressure is expected


def test_mac_what_wired_memory_and_compressor_leave_is_watched_together() -> None:
    """Where files that could be given up hide that programs have nothing left to run in."""
    full = 256 * GIB // PAGE
    for spare, expected in [(1.9, Pressure.CRITICAL), (2.1, Pressure.WARNING)]:
        rest = int(spare * 10**9 / PAGE)
        pages = dict.fromkeys(PAGES, 0) | {
            "wire": full // 2, "compressor": full // 2 - rest, "external": rest, "active": rest,
        }  # fmt: skip
        reading = mac.parse(replace(MAC, vm_statistics=vm_statistics64(**pages)))
        assert reading.available > 1.8 * 10**9
        assert reading.pressure is expected


def test_mac_free_memory_is_told_but_not_judged() -> None:
    """macOS keeps next to none: the rest holds files, which it gives up."""
    pages = vm_statistics64(**(PAGES | {"free": 21_000, "external": 1_406_216}))
    reading = mac.parse(replace(MAC, vm_statistics=pages))
    assert reading.free == 1000 * PAGE
    assert reading.pressure is Pressure.NORMAL


def test_mac_small_machines_go_by_shares() -> None:
    """8 GiB: 1 GB available is an eighth of what it has, and no reason to end anything."""
    small = replace(MAC, memsize=struct.pack("<Q", 8 * GIB))
    for available, expected in [(0.6, 1), (0.5, 2), (0.14, 2), (0.13, 4)]:
        used = (8 * GIB - int(available * 10**9)) // PAGE
        pages = vm_statistics64(**(dict.fromkeys(PAGES, 0) | {"active": used}))
        assert mac.parse(replace(small, vm_statistics=pages)).pressure == expected


def test_mac_counters_that_race_stay_within_the_machine() -> None:
    none = vm_statistics64(**(dict.fromkeys(PAGES, 0) | {"purgeable": 5}))
    assert mac.parse(replace(MAC, vm_statistics=none)).used == 0
    more = vm_statistics64(**(PAGES | {"active": 2**31}))
    reading = mac.parse(replace(MAC, vm_statistics=more))
    assert (reading.used, reading.available) == (256 * GIB, 0)


def test_mac_longer_answers_of_newer_systems_are_fine_and_shorter_ones_refused() -> None:
    longer = replace(MAC, vm_statistics=MAC.vm_statistics + bytes(96))
    assert mac.parse(longer) == mac.parse(MAC)
    with pytest.raises(MaverickError, match="144 bytes for vm_statistics64"):
        mac.parse(replace(MAC, vm_statistics=MAC.vm_statistics[:144]))


class FakeLibSystem(SimpleNamespace):
    """C functions with libSystem's signatures, made of Python ones: ctypes really calls them."""

    def __init__(self, sysctls: dict[str, bytes], stats: bytes, result: int = 0):
        self.hosts = 0
        self.asked: list[int] = []

        def sysctlbyname(name: bytes, old: int, length: Any, new: Any, new_length: int) -> int:
            value = sysctls.get(name.decode())
            if value is None or length[0] < len(value) or new or new_length:
                return -1
            ctypes.memmove(old, value, len(value))
            length[0] = len(value)
            return 0

        def host_statistics64(host: int, flavor: int, out: int, count: Any) -> int:
            assert (host, flavor) == (0x1203, 4)
            self.asked.append(count[0])
            ctypes.memmove(out, stats, count[0] * 4)
            return result

        def mach_host_self() -> int:
            self.hosts += 1
            return 0x1203

        c_int, void, u32 = ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32
        size_p, u32_p = ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(u32)
        sysctl = ctypes.CFUNCTYPE(c_int, ctypes.c_char_p, void, size_p, void, ctypes.c_size_t)
        self.sysctlbyname = sysctl(sysctlbyname)
        self.host_statistics64 = ctypes.CFUNCTYPE(c_int, u32, c_int, void, u32_p)(host_statistics64)
        self.mach_host_self = ctypes.CFUNCTYPE(u32)(mach_host_self)

    __hash__ = object.__hash__


SYSCTLS = {
    "kern.memorystatus_vm_pressure_level": MAC.pressure_level,
    "hw.memsize": MAC.memsize,
    "vm.swapusage": MAC.swapusage,
}


def test_mac_calls_fetch_what_is_parsed_and_keep_one_host_port() -> None:
    lib = FakeLibSystem(SYSCTLS, MAC.vm_statistics)
    libsystem.declare(lib)
    for _ in range(3):
        raw = mac.raw(lib)
    assert replace(raw, page_size=PAGE) == MAC
    assert lib.asked == [38, 38, 38]
    assert lib.hosts == 1


def test_mac_calls_that_answer_less_are_not_filled_up() -> None:
    lib = FakeLibSystem(SYSCTLS | {"hw.memsize": bytes(4)}, MAC.vm_statistics)
    with pytest.raises(MaverickError, match=r"4 bytes for hw\.memsize"):
        mac.parse(mac.raw(libsystem.declare(lib)))


def test_mac_calls_that_fail_are_named() -> None:
    with pytest.raises(MaverickError, match=r"sysctl hw\.memsize"):
        mac.raw(
            libsystem.declare(
                FakeLibSystem(
                    {k: v for k, v in SYSCTLS.items() if k != "hw.memsize"}, MAC.vm_statistics
                )
            )
        )
    with pytest.raises(MaverickError, match=r"host_statistics64.*5"):
        mac.raw(libsystem.declare(FakeLibSystem(SYSCTLS, MAC.vm_statistics, result=5)))


MEMINFO = """MemTotal:       24684084 kB
MemFree:        24463692 kB
MemAvailable:   20406652 kB
Buffers:             560 kB
SwapTotal:       2097148 kB
SwapFree:        2000000 kB
HugePages_Total:       0
"""


def psi(some: float, full: float) -> str:
    return (
        f"some avg10={some:.2f} avg60=0.70 avg300=0.01 total=123456\n"
        f"full avg10={full:.2f} avg60=0.20 avg300=0.00 total=4567\n"
    )


def test_linux_reading() -> None:
    assert linux.parse(MEMINFO, psi(0, 0)) == Reading(
        total=24684084 * 1024,
        used=(24684084 - 20406652) * 1024,
        available=20406652 * 1024,
        swap_used=97148 * 1024,
        pressure=Pressure.NORMAL,
        wired=None,
        compressed=None,
        free=24463692 * 1024,
    )


@pytest.mark.parametrize(
    ("some", "full", "expected"),
    [
        (9.99, 0, Pressure.NORMAL),
        (10, 0, Pressure.WARNING),
        (30, 19, Pressure.WARNING),
        (30, 20, Pressure.CRITICAL),
        (100, 100, Pressure.CRITICAL),
    ],
)
def test_linux_stalls(some: float, full: float, expected: Pressure) -> None:
    """Of other programs too: while there is memory, they are at most a warning."""
    assert linux.parse(MEMINFO, psi(some, full)).pressure is min(expected, Pressure.WARNING)
    low = MEMINFO.replace("20406652", "1500000")
    assert linux.parse(low, psi(some, full)).pressure is max(expected, Pressure.WARNING)


@pytest.mark.parametrize(
    ("available", "expected"),
    [(2_000_000, Pressure.NORMAL), (1_500_000, Pressure.WARNING), (380_000, Pressure.CRITICAL)],
)
def test_linux_without_stall_information_goes_by_what_is_available(
    available: int, expected: Pressure
) -> None:
    text = MEMINFO.replace("20406652", str(available))
    assert linux.parse(text, None).pressure is expected
    assert linux.parse(text, psi(0, 0)).pressure is expected


def test_linux_without_the_key_says_so() -> None:
    with pytest.raises(MaverickError, match="MemAvailable"):
        linux.parse("MemTotal: 5 kB\n", None)


def test_linux_damaged_stall_information_says_so() -> None:
    with pytest.raises(MaverickError, match="'many'"):
        linux.parse(MEMINFO, "some avg10=many")


def test_linux_files(tmp_path: Path) -> None:
    with pytest.raises(MaverickError, match="meminfo cannot be read"):
        linux.raw(tmp_path)
    (tmp_path / "meminfo").write_text(MEMINFO)
    assert linux.raw(tmp_path) == (MEMINFO, None)
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure/memory").write_text(psi(1, 2))
    assert linux.raw(tmp_path) == (MEMINFO, psi(1, 2))


def test_this_machine() -> None:
    reading = pressure.read()
    assert 0 < reading.used < reading.total
    assert reading.used + reading.available == reading.total
    assert reading.swap_used >= 0
    assert isinstance(reading.pressure, Pressure)
