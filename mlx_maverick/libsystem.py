"""macOS's C library: settings by name (sysctl), and statistics of the host's memory.

Knows nothing of what the answers mean. Every function takes the library, so that another one
can stand in for it.
"""

import ctypes
import functools
import os
from typing import Any

from .errors import MaverickError

# <mach/host_info.h>: HOST_VM_INFO64 is 4, and its revision 1 has 38 words of 32 bits. The
# kernel fills whole revisions up to the count asked for; later ones only append fields.
HOST_VM_INFO64 = 4
HOST_VM_INFO64_REV1_COUNT = 38

MAX_TEXT = 256  # bytes; version and chip have some tens


@functools.cache
def load() -> Any:
    """The library of this Mac. Raises MaverickError elsewhere."""
    try:
        return declare(ctypes.CDLL("/usr/lib/libSystem.B.dylib", use_errno=True))
    except OSError as e:
        raise MaverickError(f"macOS's C library cannot be loaded ({e})") from None


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


def sysctl(lib: Any, name: str, size: int) -> bytes:
    """The value called `name`, of at most `size` bytes. Raises MaverickError without it."""
    value = _sysctl(lib, name, size)
    if value is None:
        raise MaverickError(f"macOS refuses sysctl {name} ({os.strerror(ctypes.get_errno())})")
    return value


def number(lib: Any, name: str) -> int | None:
    """The same as a number, of 32 or 64 bits; None where macOS has no such setting."""
    value = _sysctl(lib, name, 8)
    return None if value is None else int.from_bytes(value, "little", signed=True)


def text(lib: Any, name: str) -> str | None:
    """The same as text."""
    value = _sysctl(lib, name, MAX_TEXT)
    return None if value is None else value.split(b"\0")[0].decode(errors="replace").strip()


def _sysctl(lib: Any, name: str, size: int) -> bytes | None:
    buffer, length = ctypes.create_string_buffer(size), ctypes.c_size_t(size)
    if lib.sysctlbyname(name.encode(), buffer, ctypes.byref(length), None, 0) != 0:
        return None
    return buffer.raw[: length.value]


@functools.cache
def _host_port(lib: Any) -> int:
    # Every mach_host_self() adds a reference that must be given back: asked once and kept.
    return int(lib.mach_host_self())


def vm_statistics(lib: Any) -> bytes:
    """struct vm_statistics64 of <mach/vm_statistics.h>. Raises MaverickError."""
    # Of 64-bit words: the struct is aligned to 8 bytes.
    words = (ctypes.c_uint64 * (HOST_VM_INFO64_REV1_COUNT // 2))()
    count = ctypes.c_uint32(HOST_VM_INFO64_REV1_COUNT)
    result = lib.host_statistics64(_host_port(lib), HOST_VM_INFO64, words, ctypes.byref(count))
    if result != 0:
        raise MaverickError(f"macOS refuses host_statistics64 (kern_return_t {result})")
    return bytes(words)[: count.value * 4]
