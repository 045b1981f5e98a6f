"""What this process takes of the machine's memory now.

Knows nothing of models. As in `pressure`, asking the system is apart from understanding the
answer, which is tested with recorded values.
"""

import ctypes
import functools
import os
import struct
import sys
from pathlib import Path
from typing import Any

from .errors import MaverickError

# <sys/resource.h>, struct rusage_info_v0: 16 bytes uuid;  Q user_time, system_time,
# pkg_idle_wkups, interrupt_wkups, pageins, wired_size, resident_size, phys_footprint,
# proc_start_abstime, proc_exit_abstime.
RUSAGE_INFO_V0 = 0
RUSAGE = struct.Struct("<16s10Q")
PHYS_FOOTPRINT = 8  # its place among the fields


def memory() -> int:
    """Bytes, as Activity Monitor shows them on a Mac (GPU memory included), resident ones on
    Linux. Raises MaverickError where the system does not tell."""
    if sys.platform == "darwin":
        return parse_mac(_mac_raw(_libproc()))
    elif sys.platform == "linux":
        return parse_linux(Path("/proc/self/statm").read_text(), os.sysconf("SC_PAGE_SIZE"))
    else:
        raise MaverickError(f"memory cannot be read on {sys.platform}; use macOS or Linux")


def parse_mac(raw: bytes) -> int:
    """The physical footprint in a struct rusage_info_v0."""
    if len(raw) < RUSAGE.size:
        raise MaverickError(f"macOS gave {len(raw)} bytes for rusage_info, not {RUSAGE.size}")
    return int(RUSAGE.unpack_from(raw)[PHYS_FOOTPRINT])


def parse_linux(statm: str, page_size: int) -> int:
    """The resident size in /proc/self/statm: size, resident, shared, ... in pages."""
    words = statm.split()
    if len(words) < 2 or not words[1].isdigit():
        raise MaverickError(f"/proc/self/statm holds {statm!r}")
    return int(words[1]) * page_size


@functools.cache
def _libproc() -> Any:
    lib = ctypes.CDLL("/usr/lib/libproc.dylib", use_errno=True)
    # int proc_pid_rusage(int pid, int flavor, rusage_info_t *buffer), <libproc.h>
    lib.proc_pid_rusage.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    lib.proc_pid_rusage.restype = ctypes.c_int
    return lib


def _mac_raw(lib: Any) -> bytes:
    buffer = ctypes.create_string_buffer(RUSAGE.size)
    if lib.proc_pid_rusage(os.getpid(), RUSAGE_INFO_V0, buffer) != 0:
        raise MaverickError(f"macOS refuses rusage ({os.strerror(ctypes.get_errno())})")
    return buffer.raw
