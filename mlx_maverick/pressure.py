"""What the machine's memory is doing now: used, available, swapped, and how pressed it is.

Knows nothing of models or mlx. A reading is a few system calls: cheap enough for several
a second. Asking the system (`_mac_raw`, `_linux_raw`) is apart from understanding the
answer (`parse_mac`, `parse_linux`), so that the latter is tested with recorded values.
"""

import ctypes
import functools
import os
import struct
import sys
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from .errors import MaverickError


class Pressure(IntEnum):
    """The levels of `kern.memorystatus_vm_pressure_level`.

    The kernel answers with libdispatch's flags (dispatch/source.h,
    DISPATCH_MEMORYPRESSURE_NORMAL, _WARN, _CRITICAL), not with its internal 0..3: the
    conversion is in xnu's bsd/kern/kern_memorystatus_notify.c.
    """

    NORMAL = 1
    WARNING = 2
    CRITICAL = 4


@dataclass(frozen=True)
class Reading:
    """One look at the machine's memory, in bytes."""

    total: int
    used: int  # what could not be handed to a program without swapping
    available: int
    swap_used: int
    pressure: Pressure


# Below these the machine is called pressed whatever its kernel says. macOS derives its level
# from the share of pageable memory that is compressed, and a model's weights are wired: they
# can fill the machine while the level is still normal. The absolute bounds are for big
# machines, where a share would be gigabytes; the shares for small ones.
LOW_AVAILABLE = {Pressure.CRITICAL: (10**9, 1 / 64), Pressure.WARNING: (4 * 10**9, 1 / 16)}


def by_available(total: int, available: int) -> Pressure:
    """The pressure that little available memory alone amounts to."""
    for level, (nbytes, share) in LOW_AVAILABLE.items():
        if available < min(nbytes, total * share):
            return level
    return Pressure.NORMAL


def read() -> Reading:
    """The machine's memory now. Raises MaverickError where the system does not tell."""
    if sys.platform == "darwin":
        return parse_mac(_mac_raw(_libsystem()))
    elif sys.platform == "linux":
        return parse_linux(*_linux_raw())
    else:
        raise MaverickError(f"memory cannot be read on {sys.platform}; use macOS or Linux")


# --- macOS ---------------------------------------------------------------------------------

# <mach/host_info.h>: HOST_VM_INFO64 is 4, and its revision 1 has 38 words of 32 bits. The
# kernel fills whole revisions up to the count asked for; later ones only append fields.
HOST_VM_INFO64 = 4
HOST_VM_INFO64_REV1_COUNT = 38

# <mach/vm_statistics.h>, struct vm_statistics64, revision 1 (natural_t is 32 bits):
#   I free, active, inactive, wire;  Q zero_fill, reactivations, pageins, pageouts, faults,
#   cow_faults, lookups, hits, purges;  I purgeable, speculative;  Q decompressions,
#   compressions, swapins, swapouts;  I compressor_page_count, throttled, external, internal;
#   Q total_uncompressed_pages_in_compressor.
VM_STATISTICS64 = struct.Struct("<4I9Q2I4Q4IQ")

# <sys/sysctl.h>, struct xsw_usage: Q total, avail, used;  I pagesize;  I encrypted.
XSW_USAGE = struct.Struct("<3Q2I")


@dataclass(frozen=True)
class MacRaw:
    """What macOS answered, as bytes in the layouts above."""

    pressure_level: bytes  # sysctl kern.memorystatus_vm_pressure_level, int
    memsize: bytes  # sysctl hw.memsize, uint64
    swapusage: bytes  # sysctl vm.swapusage, struct xsw_usage
    vm_statistics: bytes  # host_statistics64(HOST_VM_INFO64), struct vm_statistics64
    page_size: int


def parse_mac(raw: MacRaw) -> Reading:
    """A reading from macOS's answers. Raises MaverickError if one is too short."""
    (level,) = _unpack(struct.Struct("<i"), raw.pressure_level, "vm_pressure_level")
    (total,) = _unpack(struct.Struct("<Q"), raw.memsize, "hw.memsize")
    _, _, swap_used, _, _ = _unpack(XSW_USAGE, raw.swapusage, "vm.swapusage")
    vm = _unpack(VM_STATISTICS64, raw.vm_statistics, "vm_statistics64")
    _free, active, inactive, wire = vm[:4]
    purgeable, speculative = vm[13:15]
    compressor, _throttled, external, _internal = vm[19:23]
    # File-backed (external) and purgeable pages are given up without swapping.
    pages = active + inactive + wire + speculative + compressor - purgeable - external
    used = min(max(pages * raw.page_size, 0), total)
    available = total - used
    if level >= Pressure.CRITICAL:
        said = Pressure.CRITICAL
    else:
        said = Pressure.WARNING if level >= Pressure.WARNING else Pressure.NORMAL
    return Reading(total, used, available, swap_used, max(said, by_available(total, available)))


def _unpack(layout: struct.Struct, data: bytes, what: str) -> tuple[Any, ...]:
    if len(data) < layout.size:
        raise MaverickError(f"macOS gave {len(data)} bytes for {what}, not {layout.size}")
    return layout.unpack_from(data)


def _mac_raw(lib: Any) -> MacRaw:
    return MacRaw(
        pressure_level=_sysctl(lib, "kern.memorystatus_vm_pressure_level", 4),
        memsize=_sysctl(lib, "hw.memsize", 8),
        swapusage=_sysctl(lib, "vm.swapusage", XSW_USAGE.size),
        vm_statistics=_vm_statistics(lib),
        page_size=os.sysconf("SC_PAGE_SIZE"),
    )


@functools.cache
def _libsystem() -> Any:
    return declare(ctypes.CDLL("/usr/lib/libSystem.B.dylib", use_errno=True))


def declare(lib: Any) -> Any:
    """Give libSystem's functions their C types (<sys/sysctl.h>, <mach/mach_host.h>)."""
    size_p, count_p = ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_uint32)
    # int sysctlbyname(const char *, void *oldp, size_t *oldlenp, void *newp, size_t newlen)
    void = ctypes.c_void_p
    lib.sysctlbyname.argtypes = [ctypes.c_char_p, void, size_p, void, ctypes.c_size_t]
    lib.sysctlbyname.restype = ctypes.c_int
    # kern_return_t host_statistics64(host_t, host_flavor_t, host_info64_t out, count_t *)
    lib.host_statistics64.argtypes = [ctypes.c_uint32, ctypes.c_int, void, count_p]
    lib.host_statistics64.restype = ctypes.c_int
    lib.mach_host_self.argtypes = []
    lib.mach_host_self.restype = ctypes.c_uint32
    return lib


def _sysctl(lib: Any, name: str, size: int) -> bytes:
    buffer, length = ctypes.create_string_buffer(size), ctypes.c_size_t(size)
    if lib.sysctlbyname(name.encode(), buffer, ctypes.byref(length), None, 0) != 0:
        raise MaverickError(f"macOS refuses sysctl {name} ({os.strerror(ctypes.get_errno())})")
    return buffer.raw[: length.value]


@functools.cache
def _host_port(lib: Any) -> int:
    # Every mach_host_self() adds a reference that must be given back: asked once and kept.
    return int(lib.mach_host_self())


def _vm_statistics(lib: Any) -> bytes:
    # Of 64-bit words: the struct is aligned to 8 bytes.
    words = (ctypes.c_uint64 * (HOST_VM_INFO64_REV1_COUNT // 2))()
    count = ctypes.c_uint32(HOST_VM_INFO64_REV1_COUNT)
    result = lib.host_statistics64(_host_port(lib), HOST_VM_INFO64, words, ctypes.byref(count))
    if result != 0:
        raise MaverickError(f"macOS refuses host_statistics64 (kern_return_t {result})")
    return bytes(words)[: count.value * 4]


# --- Linux ---------------------------------------------------------------------------------

# Pressure stall information, the share of the last 10 s in which some or all tasks waited for
# memory, in per cent: https://docs.kernel.org/accounting/psi.html. What counts as much is a
# judgement; systemd-oomd acts at 60 % over 30 s, and here a reply is to be saved before that.
PSI_WARNING_SOME = 10.0
PSI_CRITICAL_FULL = 20.0


def parse_linux(meminfo: str, psi: str | None) -> Reading:
    """A reading from /proc/meminfo and, where the kernel has it, /proc/pressure/memory."""
    kib: dict[str, int] = {}
    for line in meminfo.splitlines():
        key, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdigit():
            kib[key] = int(words[0]) * 1024
    try:
        total, available = kib["MemTotal"], kib["MemAvailable"]
    except KeyError as e:
        raise MaverickError(f"/proc/meminfo has no {e.args[0]}") from None
    available = min(available, total)
    swap_used = kib.get("SwapTotal", 0) - kib.get("SwapFree", 0)
    level = max(_psi_level(psi), by_available(total, available))
    return Reading(total, total - available, available, swap_used, level)


def _psi_level(psi: str | None) -> Pressure:
    """`some avg10=1.00 avg60=... total=...`, then the same for `full`."""
    avg10 = {"some": 0.0, "full": 0.0}
    for line in (psi or "").splitlines():
        kind, *fields = line.split() or [""]
        for field in fields:
            key, _, value = field.partition("=")
            if key == "avg10":
                avg10[kind] = float(value)
    if avg10["full"] >= PSI_CRITICAL_FULL:
        return Pressure.CRITICAL
    return Pressure.WARNING if avg10["some"] >= PSI_WARNING_SOME else Pressure.NORMAL


def _linux_raw(proc: Path = Path("/proc")) -> tuple[str, str | None]:
    meminfo = (proc / "meminfo").read_text(encoding="ascii", errors="replace")
    try:
        psi = (proc / "pressure/memory").read_text(encoding="ascii")
    except OSError:  # absent in many containers; EOPNOTSUPP where it is switched off
        psi = None
    return meminfo, psi
