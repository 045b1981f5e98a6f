"""What is said of programs that stream experts: medians, ratios, the choices of routers.

Knows nothing of how anything is run.
"""

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ..units import gb
from .bench_children import paired
from .bench_streaming_task import Report
from .bench_subject import Figure
from .machine import aligned

BEFORE, THROUGHOUT = "before", "throughout"
CACHES = {
    BEFORE: "emptied of the model before each run",
    THROUGHOUT: "emptied of the model before and throughout each run",
    None: "as it comes",
}
RATED = ("s", "tok/s")  # units of what can be better or worse


@dataclass(frozen=True)
class Row:
    """One measurement: medians over the runs, by program that has it, and how many times better
    ours is than each other program's, the median over the rounds."""

    name: str
    unit: str
    values: dict[str, float]
    ratios: dict[str, float]


@dataclass(frozen=True)
class Routing:
    """Which experts the measured tokens went through."""

    experts: int  # of all layers
    hottest_quarter: float  # see `_hottest`
    in_prefill: int  # experts that the prompt needs, each counted once


@dataclass(frozen=True)
class Result:
    model: str
    expert_memory: int
    expert_bytes: int  # of all experts, in the files
    prompt_tokens: int
    new_tokens: int
    rows: list[Row]
    disk: dict[str, float]  # bytes per second
    routing: Routing | None
    # Share of positions at which a program finds the same token likeliest as ours.
    agreement: dict[str, float]
    repacked_bytes: int | None  # by mlx-vlm, beside the model
    repack_seconds: float | None
    evict: str | None
    runs: int
    machine: dict[str, str]

    def table(self) -> Iterator[str]:
        """A column for each program; after the others' values how many times better ours is."""
        programs = list(self.rows[0].values)
        cells = [["", *programs]]
        cells += [[row.name, *(_cell(row, p) for p in programs)] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for name, *values in cells:
            rest = "".join(f"  {v:>{w}}" for v, w in zip(values, widths[1:], strict=True))
            yield f"{name:<{widths[0]}}{rest}".rstrip()
        yield ""
        yield from aligned(dict(self._facts()) | self.machine)

    def _facts(self) -> Iterator[tuple[str, str]]:
        times = self.expert_bytes / self.expert_memory
        yield "model", self.model
        yield "experts", f"{gb(self.expert_bytes)}, {times:.2f} times {gb(self.expert_memory)}"
        yield "tokens", f"{self.prompt_tokens:,} prefilled, {self.new_tokens:,} decoded"
        if r := self.routing:
            yield "hottest quarter", f"of the experts took {r.hottest_quarter:.1%} of the tokens"
            yield "the prompt needs", f"{r.in_prefill} of {r.experts} experts"
        for name, rate in self.disk.items():
            yield f"plain reads, {name}", f"{gb(rate)}/s"
        for program, share in self.agreement.items():
            yield f"same token as {program}", f"{share:.0%}"
        if self.repacked_bytes is not None:
            yield "mlx-vlm's repacking", f"{gb(self.repacked_bytes)}, {self.repack_seconds:.1f} s"
        yield "file cache", CACHES[self.evict]
        yield "runs", str(self.runs)


def rows(runs: dict[str, list[list[Figure]]], ours: str) -> list[Row]:
    """Figures of every run of every program -> medians and ratios, by measurement; not every
    program has every one."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for program, every in runs.items():
        for figures in every:
            for f in figures:
                found.setdefault((f.name, f.unit), {}).setdefault(program, []).append(f.value)
    made = []
    for (name, unit), values in found.items():
        mine = values.get(ours)
        ratios = {
            program: paired(mine, theirs) if unit == "tok/s" else paired(theirs, mine)
            for program, theirs in values.items()
            if mine and unit in RATED and program != ours
        }
        medians = {program: statistics.median(v) for program, v in values.items()}
        made.append(Row(name, unit, medians, ratios))
    return made


def routing(watched: Report) -> Routing:
    layers, experts = len(watched.decoded), watched.experts
    needed = sum(len(set(layer)) for layer in watched.prefilled)
    both = [a + b for a, b in zip(watched.decoded, watched.prefilled, strict=True)]
    hottest = statistics.mean(_hottest(layer, experts) for layer in both)
    return Routing(layers * experts, hottest, needed)


def _hottest(chosen: list[int], experts: int) -> float:
    """The share of every second token that went to those experts, a quarter of all, which most
    of the other tokens went to: of the same tokens, few in number, even chance would favour
    some."""
    counted = Counter(chosen[::2]).most_common(max(1, experts // 4))
    quarter = {expert for expert, _ in counted}
    return statistics.mean(float(expert in quarter) for expert in chosen[1::2])


def agreement(ours: Report, other: Report) -> float:
    """The share of positions at which both find the same token likeliest."""
    pairs = zip(ours.likeliest, other.likeliest, strict=True)
    return statistics.mean(float(a == b) for a, b in pairs)


def _cell(row: Row, program: str) -> str:
    value = row.values.get(program)
    if value is None:
        return "-"
    if row.unit in ("bytes", "B/s"):
        text = gb(value) + row.unit.removeprefix("bytes").replace("B/s", "/s")
    else:
        digits = 0 if row.unit == "" else 1 if row.unit == "%" or value >= 100 else 2
        text = f"{value:,.{digits}f} {row.unit}".strip()
    return f"{text} {row.ratios[program]:>6.2f}x" if program in row.ratios else text
