"""How often a failed request is tried again, how long to wait before, and when to give up.

Knows nothing of HTTP: a `Failure` says in words what happened.
"""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

# A server that asks for a longer wait than this is asked again anyway: the Hub counts
# requests in windows of five minutes (https://huggingface.co/docs/hub/rate-limits).
LONGEST_ASKED = 900.0


class Failure(Exception):
    """A try that failed in a way that may pass: why, and the seconds the server asked to wait."""

    def __init__(self, why: str, after: float = 0.0):
        super().__init__(why)
        self.after = after


class Wrong(Failure):
    """An answer that contradicts what the Hub lists. Its bytes must not be used."""


@dataclass(frozen=True)
class Patience:
    """With the defaults a lost network is given up after five minutes or so."""

    tries: int = 12  # in a row, without a byte
    wrong: int = 4  # wrong answers in a row: they seldom become right
    connect: float = 15.0  # seconds
    stall: float = 30.0  # seconds without a byte
    first: float = 1.0  # seconds before the second try; doubles until `longest`
    longest: float = 60.0
    # Waits that many seconds, or until the event; tells whether the event came. Tests replace it.
    wait: Callable[[threading.Event, float], bool] = threading.Event.wait


class Tries:
    """The tries for one range since its last byte arrived."""

    def __init__(self, patience: Patience, stopped: threading.Event):
        self._patience = patience
        self._stopped = stopped
        self._failures = 0
        self._wrong = 0

    def progress(self) -> None:
        """Bytes arrived: the count starts afresh."""
        self._failures = self._wrong = 0

    def again(self, failure: Failure) -> bool:
        """Wait, then True; or False at once if that was the last try."""
        self._failures += 1
        self._wrong += isinstance(failure, Wrong)
        if self._failures >= self._patience.tries or self._wrong >= self._patience.wrong:
            return False
        doubled = self._patience.first * 2.0 ** (self._failures - 1)
        # The random part keeps eight connections, cut together, from returning together.
        pause = min(doubled, self._patience.longest) * random.uniform(0.5, 1.0)
        if failure.after:
            pause = max(pause, min(failure.after, LONGEST_ASKED) + random.uniform(0.0, 1.0))
        self._patience.wait(self._stopped, pause)
        return True
