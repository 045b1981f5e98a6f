"""How fast a count grows: now, on average, and how long until it is full.

Knows nothing of what is counted and of clocks: it is told the time, in seconds.
"""

from collections import deque

WINDOW = 2.0  # seconds that "now" looks back


class Rate:
    """Of a count that starts at `count`. What it starts with does not count as speed."""

    def __init__(self, now: float, count: int = 0, window: float = WINDOW):
        self._window = window
        self._start = (now, count)
        self._seen: deque[tuple[float, int]] = deque([self._start])

    def add(self, now: float, count: int) -> None:
        """It is `count` now, all in all."""
        if now <= self._seen[-1][0]:  # came together with the last one
            self._seen[-1] = (self._seen[-1][0], count)
            if len(self._seen) == 1:
                self._start = self._seen[0]
        elif count != self._seen[-1][1]:
            self._seen.append((now, count))
        # Two of them stay whatever the time: a speed is the way from one to the next.
        while len(self._seen) > 2 and self._seen[1][0] <= now - self._window:
            self._seen.popleft()

    @property
    def average(self) -> float:
        """Per second, from the start to the newest count; 0 while there is only one."""
        return _per_second(self._start, self._seen[-1])

    def recent(self, now: float) -> float:
        """Per second, over the last seconds; or between the last two counts, if they are
        further apart. It falls while nothing comes that should have come."""
        times = len(self._seen)
        first = max((i for i in range(times) if self._seen[i][0] <= now - self._window), default=0)
        base = self._seen[max(0, min(first, times - 2))]
        last = self._seen[-1]
        speed = _per_second(base, last)
        step = (last[1] - self._seen[-2][1]) if times > 1 else 0
        waited = (now, last[1] + step)  # as if the next came now, as large as the last
        return min(speed, _per_second(base, waited)) if now > last[0] else speed

    def left(self, now: float, full: int) -> float:
        """Seconds until the count is `full`, as fast as it grew of late: 0 if it is full or
        nobody knows, but 1 if it should have been full by now."""
        time, count = self._seen[-1]
        speed = _per_second(self._seen[0], self._seen[-1])
        if not speed or count >= full:
            return 0.0
        return max(1.0, (full - count) / speed - (now - time))


def _per_second(a: tuple[float, int], b: tuple[float, int]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0]) if b[0] > a[0] else 0.0
