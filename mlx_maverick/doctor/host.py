"""This computer as a place to run MLX: chip, system, Python, MLX's device, disks.

Knows nothing of models, and judges nothing (`diagnosis` does). Asking the system is apart from
understanding the answer, so that the latter is tested with recorded values.
"""

import os
import platform
import re
import resource
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import libsystem
from ..errors import MaverickError

# Those whose version explains a difference. All of them have to be there.
PACKAGES = (
    "mlx", "mlx-lm", "transformers", "tokenizers", "huggingface_hub", "numpy", "pillow", "textual",
)  # fmt: skip
LIMIT = "iogpu.wired_limit_mb"  # MiB the GPU may keep resident; 0: what macOS thinks right


@dataclass(frozen=True)
class Host:
    """The computer, its system, and this Python."""

    mac: bool
    chip: str | None  # "Apple M4 Max"
    system: str  # "macOS 26.1", "Linux 6.18.44"
    version: tuple[int, ...]  # of the system
    python: str
    architecture: str  # what this Python is built for: "arm64", "x86_64"
    translated: bool  # Python for Intel, run by Rosetta on an Apple chip
    limit_mib: int | None  # `LIMIT`; None where there is no such setting
    open_files: int | None  # at once, of one process; None: as many as it likes
    packages: dict[str, str | None]  # by name, their versions; None if not installed


@dataclass(frozen=True)
class Device:
    """What MLX computes on."""

    kind: str | None  # "Metal", "CUDA" or "CPU"; None if MLX cannot be loaded
    name: str | None
    element_bytes: int  # of a value that is not quantised, as models are computed there
    free: int | None  # bytes of its own memory, where that is not the machine's
    problem: str | None  # why it cannot be loaded


@dataclass(frozen=True)
class Place:
    """A folder, and the disk below it, in bytes."""

    name: str
    path: str
    free: int
    total: int


def this_host() -> Host:
    """Raises MaverickError where the system does not tell."""
    if sys.platform == "darwin":
        return mac(libsystem.load())
    elif sys.platform == "linux":
        return linux(_text(Path("/proc/cpuinfo")), platform.release())
    else:
        raise MaverickError(f"{sys.platform} is not supported; use macOS or Linux")


def mac(lib: Any) -> Host:
    """A Mac, asked through its libsystem."""
    release = libsystem.text(lib, "kern.osproductversion") or platform.mac_ver()[0]
    return Host(
        mac=True,
        chip=libsystem.text(lib, "machdep.cpu.brand_string") or None,
        system=f"macOS {release}",
        version=_numbers(release),
        translated=libsystem.number(lib, "sysctl.proc_translated") == 1,
        limit_mib=libsystem.number(lib, LIMIT),
        **_python(),
    )


def linux(cpuinfo: str, release: str) -> Host:
    """A Linux machine, by its /proc/cpuinfo and its kernel's release."""
    found = re.search(r"^model name\s*:\s*(\S.*)$", cpuinfo, re.MULTILINE)
    release = release.split("-")[0]
    return Host(
        mac=False,
        chip=found[1].strip() if found else None,  # ARM has none there
        system=f"Linux {release}",
        version=_numbers(release),
        translated=False,
        limit_mib=None,
        **_python(),
    )


def _python() -> dict[str, Any]:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {
        "python": platform.python_version(),
        "architecture": platform.machine(),
        "open_files": None if files == resource.RLIM_INFINITY else files,
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", release)[:3])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as e:
        raise MaverickError(f"{path} cannot be read ({e.strerror})") from None


def device() -> Device:
    """Loads MLX, if it can be loaded."""
    try:
        import mlx.core as mx

        from ..model.llama4 import default_dtype
    except ImportError as e:  # not there, or built for another chip or a later system
        return Device(None, None, 2, None, " ".join(str(e).split()))
    if mx.default_device().type == mx.DeviceType.cpu:
        kind = "CPU"
    else:
        kind = "Metal" if mx.metal.is_available() else "CUDA"
    info = mx.device_info()
    name, free = info.get("device_name"), info.get("free_memory")  # the latter with CUDA only
    return Device(
        kind=kind,
        name=str(name) if name else None,
        element_bytes=default_dtype().size,
        free=int(free) if free is not None else None,
        problem=None,
    )


def places() -> tuple[Place, ...]:
    """Where a model is converted to unless told otherwise, and the Hub's cache.

    Raises OSError for a current folder that is gone.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    return place("this folder", Path.cwd()), place("the Hub's cache", Path(HF_HUB_CACHE))


def place(name: str, path: Path) -> Place:
    """The disk below `path`, which need not be there yet."""
    there = next(p for p in (path, *path.absolute().parents) if os.path.exists(p))
    usage = shutil.disk_usage(there)
    return Place(name, str(path), usage.free, usage.total)
