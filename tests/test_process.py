import mmap
import struct
import sys
from typing import Any

import pytest

from mlx_maverick import process
from mlx_maverick.errors import MaverickError

# struct rusage_info_v0 of a process on macOS, field by field as <sys/resource.h> has them.
UUID = bytes.fromhex("3f1a2b3c4d5e6f708192a3b4c5d6e7f8")
USER_TIME, SYSTEM_TIME = 812_345_678, 98_765_432
PACKAGE_WAKEUPS, INTERRUPT_WAKEUPS, PAGEINS = 12, 3456, 789
WIRED_SIZE, RESIDENT_SIZE, PHYS_FOOTPRINT = 0, 1_212_416_000, 1_534_197_760
STARTED, EXITED = 5_123_456_789_012, 0
RECORDED = UUID + b"".join(
    struct.pack("<Q", field)
    for field in (
        USER_TIME, SYSTEM_TIME, PACKAGE_WAKEUPS, INTERRUPT_WAKEUPS, PAGEINS,
        WIRED_SIZE, RESIDENT_SIZE, PHYS_FOOTPRINT, STARTED, EXITED,
    )
)  # fmt: skip


def test_what_macos_says() -> None:
    assert len(RECORDED) == 96
    assert process.parse_mac(RECORDED) == PHYS_FOOTPRINT
    assert process.parse_mac(RECORDED + bytes(64)) == PHYS_FOOTPRINT  # a later version's struct


def test_an_answer_that_is_too_short() -> None:
    with pytest.raises(MaverickError, match="gave 95 bytes"):
        process.parse_mac(RECORDED[:-1])


class Libproc:
    """As libproc's proc_pid_rusage answers."""

    def __init__(self, code: int):
        self.code = code

    def proc_pid_rusage(self, pid: int, flavor: int, buffer: Any) -> int:
        assert pid > 0
        assert flavor == process.RUSAGE_INFO_V0
        if self.code == 0:
            buffer.raw = RECORDED
        return self.code


def test_how_macos_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(process, "_libproc", lambda: Libproc(0))
    assert process.memory() == PHYS_FOOTPRINT
    monkeypatch.setattr(process, "_libproc", lambda: Libproc(-1))
    with pytest.raises(MaverickError, match="macOS refuses"):
        process.memory()


def test_what_linux_says() -> None:
    assert process.parse_linux("105811 19260 9373 801 0 25217 0\n", 4096) == 19260 * 4096
    assert process.parse_linux("5 7", 16384) == 7 * 16384


@pytest.mark.parametrize("text", ["", "105811", "a b c", "1 -2 3"])
def test_what_linux_never_says(text: str) -> None:
    with pytest.raises(MaverickError, match="/proc/self/statm holds"):
        process.parse_linux(text, 4096)


def test_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(MaverickError, match="cannot be read on win32"):
        process.memory()


def test_this_process() -> None:
    """What is taken is seen: these bytes are touched, and stay. They are mapped anew, as an
    allocator may have as many left from other tests."""
    before = process.memory()
    assert 10 << 20 < before < 64 << 30
    with mmap.mmap(-1, 64 << 20) as held:
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
        assert process.memory() - before > 48 << 20
