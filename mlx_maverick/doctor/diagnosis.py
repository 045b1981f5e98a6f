"""The diagnosis: what about a machine stands in the way of running Maverick, and what to do.

Knows nothing of how facts are found out. Every judgement is a function of `Facts`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..macs import Machine
from ..memory import MIN_CONTEXT, raise_limit, usable
from ..pressure import Pressure, Reading
from ..sizing import Verdict
from ..units import GB, gb
from .host import Device, Host, Place
from .outlook import Folder, Outlook

# What the wheels of MLX 0.32 are built for (macosx_14_0_arm64 is the lowest on PyPI).
LEAST_MACOS = 14
# macOS's own limit. A published checkpoint has 55 files and a converted one up to 80.
LEAST_OPEN_FILES = 256
# Bytes. macOS swaps out a little of what nobody uses at all times; a judgement.
MUCH_SWAP = 10**9


@dataclass(frozen=True)
class Facts:
    """All that is judged."""

    host: Host
    device: Device
    machine: Machine  # its memory and limits
    reading: Reading  # its memory now
    places: tuple[Place, ...]  # where models would be written first
    outlooks: tuple[Outlook, ...]  # the model that is recommended first
    folder: Folder | None  # the model asked about

    @property
    def available(self) -> int:
        """Bytes that a model could have right now."""
        return available(self.device, self.reading)

    @property
    def recommended(self) -> Outlook | None:
        """Of the models the first that fits."""
        return next((one for one in self.outlooks if one.best), None)


def available(device: Device, reading: Reading) -> int:
    """The same, before all facts are known."""
    return reading.available if device.free is None else device.free


@dataclass(frozen=True)
class Finding:
    """Something to change: what is the matter, why it matters, what to do about it."""

    kind: str  # its name for scripts
    what: str
    why: str
    do: str
    command: str | None = None  # that does it

    @property
    def text(self) -> str:
        return f"{self.what[:1].upper()}{self.what[1:]}: {self.why}; {self.do}."


def findings(facts: Facts) -> list[Finding]:
    """What should be changed, what matters most first."""
    found = (check(facts) for check in CHECKS)
    return [finding for finding in found if finding]


def python(facts: Facts) -> Finding | None:
    host = facts.host
    if host.mac and host.translated:
        return Finding(
            "rosetta",
            "this Python is for Intel chips and runs under Rosetta",
            "MLX is not built for it",
            "install a Python for Apple silicon (python.org, or the Homebrew in /opt/homebrew) "
            "and make the virtual environment again with it",
        )
    if host.mac and host.architecture != "arm64":
        return Finding(
            "intel", "this Mac has an Intel chip", "MLX needs Apple silicon", "use another Mac"
        )
    return None


def macos(facts: Facts) -> Finding | None:
    host = facts.host
    if not host.mac or not host.version or host.version[0] >= LEAST_MACOS:
        return None
    return Finding(
        "macos", f"this Mac runs {host.system}", f"MLX needs {LEAST_MACOS} or newer", "update macOS"
    )


def packages(facts: Facts) -> Finding | None:
    missing = [name for name, version in facts.host.packages.items() if version is None]
    if not missing:
        return None
    return Finding(
        "packages",
        f"not installed: {', '.join(missing)}",
        "mlx-maverick needs all its packages",
        "install it again in this Python's environment",
    )


def mlx(facts: Facts) -> Finding | None:
    if facts.device.kind or python(facts) or macos(facts) or not facts.host.packages["mlx"]:
        return None  # the cause has been told
    return Finding(
        "mlx",
        "MLX cannot be loaded",
        facts.device.problem or "it gives no reason",
        "install it again",
        "python3 -m pip install --force-reinstall mlx",
    )


def gpu(facts: Facts) -> Finding | None:
    kind = facts.device.kind
    if kind in (None, "Metal"):
        return None
    if facts.host.mac:
        return Finding(
            "metal",
            "MLX finds no Metal GPU on this Mac",
            "answers come at the speed of a CPU",
            "run it on the Mac itself, not in a virtual machine",
        )
    if kind == "CUDA":
        why = "MLX computes with CUDA here, where a model has to fit the GPU's own memory"
        return Finding("not-a-mac", "this is no Mac", why, "expect other speeds than a Mac's")
    return Finding(
        "not-a-mac",
        "this is no Mac",
        "MLX computes on the CPU here, at a CPU's speed",
        "convert or develop here, and run the model on a Mac",
    )


def size(facts: Facts) -> Finding | None:
    """Whether any recipe fits."""
    first, machine = facts.outlooks[0], facts.machine
    if first.best or facts.folder:
        return None
    other = facts.recommended
    ways = f"use {_name(other)}, or " if other else ""
    raised = ", even with a raised limit" if machine.raised_limit > machine.limit else ""
    return Finding(
        "memory",
        f"no recipe of Llama 4 {first.model.capitalize()} fits this memory",
        f"the smallest, {first.smallest}, needs {gb(first.smallest_memory)} and a model gets at "
        f"most {gb(machine.raised_limit)} here{raised}, which is too little to stream its experts "
        "from the SSD as well",
        f"{ways}use a Mac with more memory",
    )


def limit(facts: Facts) -> Finding | None:
    """Whether the GPU's limit should be another."""
    machine, best, mib = facts.machine, facts.recommended, facts.host.limit_mib
    stock = mib == 0
    if facts.host.mac and mib and machine.limit > usable(machine.memory):
        most = usable(machine.memory)
        return Finding(
            "limit-high",
            f"the GPU's limit leaves {gb(machine.memory - machine.limit)} to the system",
            f"a model that fills it stalls the Mac; {gb(machine.memory - most)} should be left",
            "set it lower",
            raise_limit(most, most),
        )
    if facts.folder or not best or not best.sysctl or not best.memory:
        return None
    return Finding(
        "limit",
        f"the GPU's limit is {gb(machine.limit)}" + (", the stock value" if stock else ""),
        f"{_name(best)} needs {gb(best.memory)}",
        "raise it until the next restart",
        best.sysctl,
    )


def model(facts: Facts) -> Finding | None:
    """Whether the folder asked about can be loaded."""
    folder = facts.folder
    if folder is None or folder.fits_now:
        return None
    need = f"this model needs {gb(folder.total)} with {folder.context:,} tokens of context"
    if not folder.fits:
        why = f"this machine gives a model {gb(folder.limit)}"
        ways = folder.advice or "use a smaller recipe"
        if folder.streamed:
            why += f", so its experts are streamed from the SSD, {folder.streamed.speed.words}"
            ways = f"for more speed, {ways}"
        return Finding("model", need, why, ways)
    shorter = folder.longest_now
    ways = f", or use --context {shorter}" if shorter >= MIN_CONTEXT else ""
    lacks = gb(folder.total - folder.available)
    return Finding(
        "in-use",
        need,
        f"{gb(folder.available)} are available right now",
        f"close programs that hold at least {lacks}{ways}",
    )


def room(facts: Facts) -> Finding | None:
    """Whether what is recommended could be loaded now."""
    best = facts.recommended
    if facts.folder or not best or not best.memory or best.memory <= facts.available:
        return None
    verb, other = "needs", ""
    if best.verdict == Verdict.STREAMED and best.streamed:
        verb = "takes up to"
        left = facts.available - best.streamed.resident
        other = f", or say --expert-memory {left // GB}GB" if left >= GB else ""
    return Finding(
        "in-use",
        f"{_name(best)} {verb} {gb(best.memory)} of memory",
        f"{gb(facts.available)} are available right now",
        f"close programs that hold at least {gb(best.memory - facts.available)} before loading "
        f"it{other}",
    )


def pressure(facts: Facts) -> Finding | None:
    now = facts.reading
    if now.pressure is Pressure.NORMAL:
        return None
    held = [f"{gb(now.available)} of {gb(now.total)} available"]
    for name, nbytes in (("wired", now.wired), ("compressed", now.compressed)):
        if nbytes is not None:
            held.append(f"{gb(nbytes)} {name}")
    ends = now.pressure is Pressure.CRITICAL
    return Finding(
        "pressure",
        f"memory pressure is {'critical' if ends else 'high'}",
        ", ".join(held),
        "close programs now, as a reply would soon be ended" if ends else "close programs",
    )


def swap(facts: Facts) -> Finding | None:
    if facts.reading.swap_used < MUCH_SWAP:
        return None
    return Finding(
        "swap",
        f"{gb(facts.reading.swap_used)} of memory are swapped out",
        "programs hold more than fits, and what comes back from the disk is slow",
        "close programs, or restart",
    )


def disk(facts: Facts) -> Finding | None:
    best, here = facts.recommended, facts.places[0]
    if facts.folder or not best or not best.disk or best.disk <= here.free:
        return None
    return Finding(
        "disk",
        f"{gb(here.free)} of disk are free in {here.name}",
        f"{_name(best)} takes {gb(best.disk)} of it",
        f"free {gb(best.disk - here.free)}, or convert with --out on another disk",
    )


def _name(one: Outlook) -> str:
    streamed = " (streamed)" if one.verdict == Verdict.STREAMED else ""
    return f"Llama 4 {one.model.capitalize()} as {one.best}{streamed}"


def open_files(facts: Facts) -> Finding | None:
    most = facts.host.open_files
    if most is None or most >= LEAST_OPEN_FILES:
        return None
    return Finding(
        "open-files",
        f"a process may have only {most} files open",
        "a model is spread over up to 80 files",
        "raise the limit in this shell",
        f"ulimit -n {LEAST_OPEN_FILES}",
    )


CHECKS: tuple[Callable[[Facts], Finding | None], ...] = (
    python, macos, packages, mlx, gpu, size, limit, model, pressure, room, swap, disk, open_files,
)  # fmt: skip
