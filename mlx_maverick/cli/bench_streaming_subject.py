"""One way to keep a model's experts, measured from inside its own process.

Knows nothing of other runs or of tables. `bench_streaming` starts it as
`python -m mlx_maverick.cli.bench_streaming_subject TASK`; it prints a Report, both as JSON.
"""

import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import ModelConfig
from ..streaming.stats import ExpertStats
from .bench_disk import bytes_read, plain_reads
from .bench_offloaded import Mapped, MlxVlm
from .bench_streaming_task import DISK, Report, Task
from .bench_subject import Figure, Ours, Script

if TYPE_CHECKING:
    import mlx.core as mx


class Streamed(Ours):
    """This package, with experts in slots."""

    def stats(self) -> ExpertStats:
        assert self.model.streams is not None
        return self.model.streams.stats


class Resident(Ours):
    """This package, with all experts in memory; it notes which are chosen."""

    def __init__(self, folder: str, context: int):
        super().__init__(folder, context, experts="resident")
        self._seen: list[list[mx.array]] = []  # by layer with experts
        for layer in self.model.text.layers:
            if hasattr(layer.feed_forward, "experts"):
                self._seen.append([])
                layer.feed_forward.experts = _Watched(layer.feed_forward.experts, self._seen[-1])

    def stats(self) -> None:
        return None

    def routed(self) -> list[list[int]]:
        """The experts chosen since the last call, by layer."""
        chosen = [[int(e) for a in calls for e in np.array(a)] for calls in self._seen]
        for calls in self._seen:
            calls.clear()
        return chosen


class _Watched:
    """Routed experts, and a list of what they were asked for."""

    def __init__(self, experts: Any, seen: "list[mx.array]"):
        self._experts, self._seen = experts, seen

    def steps(self, routes: "list[tuple[mx.array, mx.array]]", *rest: Any) -> "list[mx.array]":
        self._seen.extend(chosen for _, chosen in routes)
        outputs: list[mx.array] = self._experts.steps(routes, *rest)
        return outputs


PROGRAMS: dict[str, Callable[[Task], Any]] = {
    "mlx-maverick": lambda t: Streamed(
        t.folder, t.context, experts="stream", expert_memory=t.memory, look_ahead=t.look_ahead,
        file_cache=t.file_cache,
    ),
    "resident": lambda t: Resident(t.folder, t.context),
    "mlx-vlm-offload": lambda t: MlxVlm(t.folder, t.memory),
    "mapped": lambda t: Mapped(t.folder, t.context, t.memory),
}  # fmt: skip


@dataclass(frozen=True)
class _Moment:
    """Where things stand at one time."""

    clock: float
    stats: ExpertStats | None
    disk: int | None

    @staticmethod
    def now(subject: Any) -> "_Moment":
        return _Moment(perf_counter(), subject.stats(), bytes_read())


def measure(task: Task) -> Report:
    """Load, decode `warm_tokens` and then `new_tokens`, prefill `prompt`: random tokens, the same
    ones in every process."""
    if task.program == DISK:
        rates = plain_reads(Path(task.folder)).items()
        return Report([Figure(name, "B/s", rate) for name, rate in rates])
    import mlx.core as mx

    config = ModelConfig.from_folder(Path(task.folder))
    draw, text = random.Random(0), config.text
    plain = [i for i in range(text.vocab_size) if i != config.patch_token_id]
    started = perf_counter()
    subject = PROGRAMS[task.program](task)
    figures = [Figure("load", "s", perf_counter() - started)]

    warm, count = task.warm_tokens, task.warm_tokens + task.new_tokens
    script = Script(draw.choices(plain, k=count))
    moments = []
    steps = subject.generate(subject.make_cache(), draw.choices(plain, k=1), 0, count, script)
    for done, _ in enumerate(steps, 1):
        if done in (warm, count):
            moments.append(_Moment.now(subject))
    figures += _figures("decode", task.new_tokens, *moments)
    likeliest = np.array(mx.concatenate(script.likeliest[:count])).tolist()
    decoded = subject.routed() if isinstance(subject, Resident) else []

    ids, cache = draw.choices(plain, k=task.prompt), subject.make_cache()
    start = _Moment.now(subject)
    for _ in subject.generate(cache, ids, 0, 1, script):
        figures += _figures("prefill", task.prompt, start, _Moment.now(subject))
    prefilled = subject.routed() if isinstance(subject, Resident) else []
    return Report(figures, likeliest, text.num_local_experts, decoded, prefilled)


def _figures(what: str, tokens: int, start: _Moment, end: _Moment) -> Iterator[Figure]:
    """What is said of some tokens."""
    seconds = end.clock - start.clock
    yield Figure(what, "tok/s", tokens / seconds)
    if start.disk is not None and end.disk is not None:
        yield Figure(f"{what}, from the disk per token", "bytes", (end.disk - start.disk) / tokens)
    if start.stats is None or end.stats is None:
        return
    stats = end.stats.since(start.stats)
    yield Figure(f"{what}, experts read", "", stats.misses)
    yield Figure(f"{what}, hit rate", "%", 100 * stats.hit_rate)
    if stats.bytes_read:  # the rest of the time is computing after the last router, and our own
        yield Figure(f"{what}, bandwidth while reading", "B/s", stats.bandwidth)
        yield Figure(f"{what}, waiting for reads", "%", 100 * stats.wait_seconds / seconds)
        yield Figure(f"{what}, until routers chose", "%", 100 * stats.sync_seconds / seconds)


if __name__ == "__main__":
    print(json.dumps(asdict(measure(Task(**json.loads(sys.argv[1]))))))
