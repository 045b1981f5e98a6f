"""How a conversion's events are shown: a live line, a plain line now and then, or JSON.

Knows nothing of how a checkpoint is converted.
"""

import json
import re
from collections import deque
from dataclasses import asdict
from time import monotonic
from typing import Any

from .. import process
from ..convert.progress import Converted, Event, Planned, Progress
from ..units import gb
from .terminal import StatusLine

PLAIN_SECONDS = 30.0  # between lines where no line can be rewritten
JSON_SECONDS = 1.0
WAIT_SECONDS = 5.0  # from when on it is said that nothing arrives
RATE_SECONDS = 30.0  # what "now" means in the rate: long enough to be steady
_LAYER = re.compile(r"\.layers\.(\d+)\.")


class Report:
    """Prints events: to stderr for people, to stdout as JSON lines with `as_json`."""

    def __init__(self, as_json: bool = False):
        self.line, self.as_json = StatusLine(), as_json
        self.start = monotonic()
        self._printed = self.start
        self._stage = ""
        self._seen: deque[tuple[float, int]] = deque()
        self._layers = 0

    def show(self, event: Event) -> None:
        if isinstance(event, Planned):
            self._layers = event.layers
            self._planned(event)
        elif isinstance(event, Progress):
            self._progress(event)
        else:
            self.line.clear()
            self._converted(event)

    def opening(self, source: str) -> None:
        """Before the first event, which over a network takes a while."""
        self.line.show(f"reading what {source} holds")

    def close(self) -> None:
        """Take the live line off the screen."""
        self.line.clear()

    def _planned(self, event: Planned) -> None:
        self.line.clear()
        if self.as_json:
            self._json("planned", asdict(event) | {"folder": str(event.folder)})
            return
        commit = f" at {event.commit[:12]}" if event.commit else ""
        self.line.say(
            f"{event.source}{commit}, {event.form}: {gb(event.to_read)} to read, {event.recipe} "
            f"makes {gb(event.nbytes)}, in at most {gb(event.memory)} of memory"
        )
        if "tokenizer.json" not in event.files:
            self.line.say("the source has no tokenizer.json: copy one in before you use the output")
        if event.kept:
            self.line.say(
                f"{event.kept} matrices have fewer bits already than {event.recipe} gives them; "
                "they stay as they are"
            )
        if event.done:
            share = event.done / event.to_read
            self.line.say(f"{event.folder} has {share:.0%} of it already; going on from there")

    def _progress(self, event: Progress) -> None:
        now = monotonic()
        if event.stage != self._stage:
            self._stage, self._seen = event.stage, deque()
        self._seen.append((now, event.done))
        # One that is older stays: pieces may take longer than that, over a network.
        while len(self._seen) > 2 and now - self._seen[1][0] >= RATE_SECONDS:
            self._seen.popleft()
        ended = event.done == event.total
        if self.as_json:
            if now - self._printed >= JSON_SECONDS or ended:
                self._printed = now
                facts = asdict(event) | {"layer": self._layer(event), "memory": process.memory()}
                self._json("progress", facts | {"rate": self._rate(), "eta": self._eta(event)})
        elif self.line.live:
            self.line.show(self._words(event))
        elif now - self._printed >= PLAIN_SECONDS:
            self._printed = now
            self.line.say(self._words(event))

    def _words(self, event: Progress) -> str:
        """Everything fits into 80 columns, on which the live line is cut off."""
        share = f"{event.stage} {event.done / max(event.total, 1):.0%}"
        words = [share, _of(event.done, event.total)]
        layer = self._layer(event)
        if layer is not None:
            words.append(f"layer {layer}/{self._layers}")
        if rate := self._rate():
            words.append(f"{gb(rate)}/s")
            eta = self._eta(event)
            words += [f"{duration(eta)} left"] if eta is not None else []
        if event.waited > WAIT_SECONDS:
            words.append(f"nothing for {duration(event.waited)}")
        words.append(f"RAM {gb(process.memory())}")
        if layer is None:
            words.append(event.what)
        return "  ".join(words)

    def _converted(self, event: Converted) -> None:
        seconds = monotonic() - self.start
        if self.as_json:
            facts = asdict(event) | {"folder": str(event.folder), "bytes": event.nbytes}
            self._json("converted", facts | {"seconds": round(seconds, 3)})
            return
        self.line.say(f"{event.folder}: {gb(event.nbytes)}, {event.recipe}, {duration(seconds)}")

    def _layer(self, event: Progress) -> int | None:
        """Counted from 0, as in the tensors' names; of the text model."""
        found = _LAYER.search(event.what)
        return int(found[1]) if found and not event.what.startswith("vision_model") else None

    def _rate(self) -> float | None:
        """Bytes per second, lately."""
        (first, before), (last, now) = self._seen[0], self._seen[-1]
        return (now - before) / (last - first) if last - first > 0 and now > before else None

    def _eta(self, event: Progress) -> float | None:
        rate = self._rate()
        return (event.total - event.done) / rate if rate else None

    def _json(self, kind: str, facts: dict[str, Any]) -> None:
        print(json.dumps({"event": kind, **facts}), flush=True)


def _of(done: int, total: int) -> str:
    """As '321.2/803.1 GB'."""
    (some, unit), (every, whole) = gb(done).split(), gb(total).split()
    return f"{some}/{every} {whole}" if unit == whole else f"{some} {unit}/{every} {whole}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
