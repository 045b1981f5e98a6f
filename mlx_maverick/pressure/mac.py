"""macOS's memory: the kernel's pressure level, and pages by what they are used for."""

import os
import struct
from dataclasses import dataclass
from typing import Any

from .. import libsystem
from ..errors import MaverickError
from .reading import Pressure, Reading, below, by_available

# <mach/vm_statistics.h>, struct vm_statistics64, revision 1 (natural_t is 32 bits):
#   I free, active, inactive, wire;  Q zero_fill, reactivations, pageins, pageouts, faults,
#   cow_faults, lookups, hits, purges;  I purgeable, speculative;  Q decompressions,
#   compressions, swapins, swapouts;  I compressor_page_count, throttled, external, internal;
#   Q total_uncompressed_pages_in_compressor.
VM_STATISTICS64 = struct.Struct("<4I9Q2I4Q4IQ")

# <sys/sysctl.h>, struct xsw_usage: Q total, avail, used;  I pagesize;  I encrypted.
XSW_USAGE = struct.Struct("<3Q2I")

# What is neither wired nor taken by the compressor is all that programs have to run in, those
# that draw the screen and answer the kernel's watchdog too. Less than this, and they wait for
# the compressor in turn. A judgement.
LEAST_FOR_PROGRAMS = (2 * 10**9, 1 / 32)


@dataclass(frozen=True)
class Raw:
    """What macOS answered, as bytes in the layouts above."""

    pressure_level: bytes  # sysctl kern.memorystatus_vm_pressure_level, int
    memsize: bytes  # sysctl hw.memsize, uint64
    swapusage: bytes  # sysctl vm.swapusage, struct xsw_usage
    vm_statistics: bytes  # host_statistics64(HOST_VM_INFO64), struct vm_statistics64
    page_size: int


def raw(lib: Any = None) -> Raw:
    """Ask macOS. Raises MaverickError where it refuses."""
    lib = lib or libsystem.load()
    return Raw(
        pressure_level=libsystem.sysctl(lib, "kern.memorystatus_vm_pressure_level", 4),
        memsize=libsystem.sysctl(lib, "hw.memsize", 8),
        swapusage=libsystem.sysctl(lib, "vm.swapusage", XSW_USAGE.size),
        vm_statistics=libsystem.vm_statistics(lib),
        page_size=os.sysconf("SC_PAGE_SIZE"),
    )


def parse(raw: Raw) -> Reading:
    """A reading from macOS's answers. Raises MaverickError if one is too short.

    The pressure is the worst of three. The kernel's level is the share of pageable memory that
    is not compressed (xnu's osfmk/vm/vm_compressor.h, AVAILABLE_NON_COMPRESSED_MEMORY): it
    counts what programs are using as if it could be had, and is a share of what is left when a
    model's weights are wired, so it is normal on a machine that they fill. Available memory
    sees that, and `LEAST_FOR_PROGRAMS` what wired memory and the compressor leave together.
    Free memory is told but not judged: macOS fills all of it with files.
    """
    (level,) = _unpack(struct.Struct("<i"), raw.pressure_level, "vm_pressure_level")
    (total,) = _unpack(struct.Struct("<Q"), raw.memsize, "hw.memsize")
    _, _, swap_used, _, _ = _unpack(XSW_USAGE, raw.swapusage, "vm.swapusage")
    vm = _unpack(VM_STATISTICS64, raw.vm_statistics, "vm_statistics64")
    free, active, inactive, wire = vm[:4]
    purgeable, speculative = vm[13:15]
    compressor, _throttled, external, _internal = vm[19:23]

    def nbytes(pages: int) -> int:  # counters are read one by one: together they may not add up
        return min(max(pages * raw.page_size, 0), int(total))

    # File-backed (external) and purgeable pages are given up without swapping.
    used = nbytes(active + inactive + wire + speculative + compressor - purgeable - external)
    available = total - used
    wired, compressed = nbytes(wire), nbytes(compressor)
    crowded = below(LEAST_FOR_PROGRAMS, total, total - wired - compressed)
    return Reading(
        total=total,
        used=used,
        available=available,
        swap_used=swap_used,
        pressure=max(
            _said(level),
            by_available(total, available),
            Pressure.CRITICAL if crowded else Pressure.NORMAL,
        ),
        wired=wired,
        compressed=compressed,
        # Pages read ahead are counted as free and as speculative.
        free=nbytes(free - speculative),
    )


def _said(level: int) -> Pressure:
    if level >= Pressure.CRITICAL:
        return Pressure.CRITICAL
    return Pressure.WARNING if level >= Pressure.WARNING else Pressure.NORMAL


def _unpack(layout: struct.Struct, data: bytes, what: str) -> tuple[Any, ...]:
    if len(data) < layout.size:
        raise MaverickError(f"macOS gave {len(data)} bytes for {what}, not {layout.size}")
    return layout.unpack_from(data)
