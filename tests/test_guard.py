"""The guard: when it reads, what it frees, and when it ends a reply, with a clock that is told
what time it is."""

import struct
from dataclasses import replace

import pytest

from mlx_maverick.errors import MaverickError
from mlx_maverick.guard import CONFIRM, EVERY, SHED_EVERY, Guard
from mlx_maverick.pressure import Reading, linux, mac

from .test_pressure import MAC, MEMINFO, PAGES, psi, vm_statistics64

GB = 10**9
FINE = mac.parse(MAC)
WARNED = mac.parse(replace(MAC, pressure_level=struct.pack("<i", 2)))
FULL = mac.parse(
    replace(MAC, vm_statistics=vm_statistics64(**(PAGES | {"wire": 15_100_000, "external": 0})))
)


class Scene:
    """A machine that has one reading after the other, the last one for ever, and a clock."""

    def __init__(self, *readings: Reading | MaverickError, every: float = EVERY):
        self.readings, self.now, self.reads, self.freed = list(readings), 100.0, 0, 0
        self.guard = Guard(self.read, lambda: self.now, every, self.free)

    def read(self) -> Reading:
        reading = self.readings[min(self.reads, len(self.readings) - 1)]
        self.reads += 1
        if isinstance(reading, MaverickError):
            raise reading
        return reading

    def free(self) -> None:
        self.freed += 1

    def run(self, seconds: float, step: float = 0.01) -> bool:
        """Whether the reply was ended within that time."""
        for _ in range(round(seconds / step)):
            if self.guard.check():
                return True
            self.now += step
        return False


@pytest.fixture(params=["fills up", "the kernel says so", "linux"])
def critical(request: pytest.FixtureRequest) -> Reading:
    """A critical reading, as systems say it."""
    return {
        "fills up": FULL,
        "the kernel says so": mac.parse(replace(MAC, pressure_level=struct.pack("<i", 4))),
        "linux": linux.parse(MEMINFO.replace("20406652", "900000"), psi(50, 30)),
    }[request.param]


def test_what_was_recorded() -> None:
    assert [r.pressure for r in (FINE, WARNED, FULL)] == [1, 2, 4]
    assert FULL.available < GB


def test_it_reads_when_due_however_often_it_is_asked() -> None:
    scene = Scene(FINE)
    assert scene.guard.reading is None
    assert not scene.guard.check()
    assert scene.guard.reading == FINE
    for _ in range(1000):
        assert not scene.guard.check()
    assert scene.reads == 1
    scene.now += EVERY
    assert not scene.guard.check()
    assert (scene.reads, scene.freed) == (2, 0)


def test_a_machine_at_ease_is_left_alone() -> None:
    scene = Scene(FINE)
    assert not scene.run(60)
    assert scene.freed == 0
    assert scene.reads == pytest.approx(60 / EVERY, abs=3)


def test_a_warning_frees_every_few_seconds_and_never_ends() -> None:
    scene = Scene(FINE, WARNED)
    assert not scene.run(EVERY + 4 * SHED_EVERY - 1)
    assert scene.freed == 4
    assert scene.guard.why is None


def test_what_critical_pressure_does(critical: Reading) -> None:
    """It frees, looks again at once, and ends the reply at the third look, CONFIRM later."""
    scene = Scene(FINE, critical)
    assert not scene.guard.check()
    scene.now += EVERY
    assert not scene.guard.check()
    assert (scene.reads, scene.freed) == (3, 1)
    scene.now += CONFIRM * 0.99
    assert not scene.guard.check()
    assert scene.reads == 3
    scene.now += CONFIRM * 0.02
    assert scene.guard.check()
    assert (scene.reads, scene.freed) == (4, 1)
    assert scene.guard.ended
    scene.readings = [FINE]
    scene.now += 3600
    assert scene.guard.check()  # for good
    assert scene.reads == 4


def test_why_it_ended_is_said() -> None:
    scene = Scene(FULL)
    assert scene.run(1)
    why = scene.guard.why
    assert why is not None
    assert f"{FULL.available / 1e6:.1f} MB of 274.9 GB available, 1.1 GB swapped" in why
    assert "close other programs" in why


def test_freeing_that_helps_ends_nothing(critical: Reading) -> None:
    scene = Scene(critical, FINE)
    assert not scene.run(60)
    assert scene.freed == 1


def test_one_odd_moment_ends_nothing(critical: Reading) -> None:
    """Critical even after freeing, but not CONFIRM later; and again, half a minute on."""
    scene = Scene(*[critical, critical, WARNED, *[FINE] * 60] * 2, FINE)
    assert not scene.run(90)
    assert scene.freed == 2


def test_what_happens_after_a_doubt_is_not_held_against_later_moments(critical: Reading) -> None:
    scene = Scene(critical, critical, FINE, critical, FINE, critical, critical, critical)
    assert not scene.run(CONFIRM + 2.1 * EVERY)
    assert scene.reads == 7
    assert scene.freed == 3
    assert scene.run(CONFIRM * 2)


def test_a_slow_layer_between_two_looks() -> None:
    """Nobody asks for seconds: the second look is late, and counts all the same."""
    scene = Scene(FULL)
    assert not scene.guard.check()
    scene.now += 30
    assert scene.guard.check()


def test_freeing_at_a_warning_waits_after_freeing_at_critical() -> None:
    scene = Scene(FULL, WARNED)
    assert not scene.run(SHED_EVERY - EVERY)
    assert scene.freed == 1


@pytest.mark.parametrize("before", [[], [FINE], [FULL], [FULL, FULL]])
def test_a_machine_that_does_not_tell_is_not_watched(before: list[Reading]) -> None:
    """Whenever it stops telling, even while the end is in doubt."""
    scene = Scene(*before, MaverickError("macOS refuses sysctl hw.memsize (denied)"))
    assert not scene.run(60)
    assert scene.reads == len(before) + 1
    assert scene.guard.problem == "macOS refuses sysctl hw.memsize (denied)"


def test_faults_of_what_frees_are_not_swallowed() -> None:
    def fail() -> None:
        raise RuntimeError("bug")

    with pytest.raises(RuntimeError):
        Guard(lambda: WARNED, lambda: 0.0, shed=fail).check()


def test_this_machine_is_watched_as_it_comes() -> None:
    guard = Guard()
    guard.check()
    assert guard.problem is None
    assert guard.reading is not None
