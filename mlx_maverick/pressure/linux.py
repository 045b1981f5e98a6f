"""Linux's memory: /proc/meminfo, and stalls from /proc/pressure/memory."""

from pathlib import Path

from ..errors import MaverickError
from .reading import Pressure, Reading, by_available

# Pressure stall information, the share of the last 10 s in which some or all tasks waited for
# memory, in per cent: https://docs.kernel.org/accounting/psi.html. What counts as much is a
# judgement; systemd-oomd acts at 60 % over 30 s, and here a reply is to be saved before that.
PSI_WARNING_SOME = 10.0
PSI_CRITICAL_FULL = 20.0


def parse(meminfo: str, psi: str | None) -> Reading:
    """A reading from /proc/meminfo and, where the kernel has it, /proc/pressure/memory.

    Stalls alone are never critical. They are counted for the whole machine: a container that
    swaps within its own limit stalls while we have gigabytes, and ending a reply would not help
    it. They are critical only when available memory is low as well, and a warning otherwise,
    which costs no more than buffers that are allocated again. Raises MaverickError for text
    that is none of these files.
    """
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
    low = by_available(total, available)
    stalled = _stalled(psi or "")
    if low is Pressure.NORMAL:
        stalled = min(stalled, Pressure.WARNING)
    free = kib.get("MemFree")
    return Reading(total, total - available, available, swap_used, max(low, stalled), free=free)


def _stalled(psi: str) -> Pressure:
    """`some avg10=1.00 avg60=... total=...`, then the same for `full`."""
    avg10 = {"some": 0.0, "full": 0.0}
    for line in psi.splitlines():
        kind, *fields = line.split() or [""]
        for field in fields:
            key, _, value = field.partition("=")
            if key == "avg10":
                avg10[kind] = _number(value)
    if avg10["full"] >= PSI_CRITICAL_FULL:
        return Pressure.CRITICAL
    return Pressure.WARNING if avg10["some"] >= PSI_WARNING_SOME else Pressure.NORMAL


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise MaverickError(f"/proc/pressure/memory holds {text!r} for a number") from None


def raw(proc: Path = Path("/proc")) -> tuple[str, str | None]:
    """What both files hold now. Raises MaverickError without the first."""
    try:
        meminfo = (proc / "meminfo").read_text(encoding="ascii", errors="replace")
    except OSError as e:
        raise MaverickError(f"{proc}/meminfo cannot be read ({e.strerror})") from None
    try:
        psi = (proc / "pressure/memory").read_text(encoding="ascii", errors="replace")
    except OSError:  # absent in many containers; EOPNOTSUPP where it is switched off
        psi = None
    return meminfo, psi
