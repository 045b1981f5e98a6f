"""`mlx-maverick bench --against`: this package and another one on the same folder, in turn.

Knows nothing of how a program is run and measured; `bench_subject` does.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec

from ..config import ModelConfig
from ..errors import UsageError
from ..hub import resolve
from ..units import gb
from . import options
from .bench_children import OURS, THEIRS, in_turn, paired, run_child
from .bench_subject import Figure, Report, Task, on_cpu
from .machine import aligned, machine

SEES = "mlx-vlm"
AGAINST = (THEIRS, SEES)
# What `bench_streaming` compares with.
STREAMED = ("resident", "mlx-vlm-offload", "mapped")
LEAST_LAYERS = 4  # mlx-lm's Llama 4 takes the fourth layer's cache for all global ones


@dataclass(frozen=True)
class Row:
    """One measurement: medians over the runs, by program, and how many times better ours is
    than each other program's, the median over the rounds."""

    name: str
    tokens: int | None  # context it is about, or tiles of the picture
    unit: str
    values: dict[str, float]
    ratios: dict[str, float]


@dataclass(frozen=True)
class Result:
    model: str
    sizes: dict[str, int]
    rows: list[Row]
    # Share of positions at which the program that computes in our type finds the same token
    # likeliest; in bf16 the log-probabilities of random weights are all but equal.
    agreement: dict[str, float]
    runs: int
    machine: dict[str, str]

    def table(self) -> Iterator[str]:
        """A column for each program; after the others' values how many times better ours is."""
        programs = list(self.rows[0].values)
        cells = [["", *programs]]
        for row in self.rows:
            about = "" if row.tokens is None else f" {row.tokens:,}"
            cells.append([row.name + about, *(_cell(row, program) for program in programs)])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for name, *values in cells:
            rest = "".join(f"  {v:>{w}}" for v, w in zip(values, widths[1:], strict=True))
            yield f"{name:<{widths[0]}}{rest}".rstrip()
        yield ""
        facts = {"model": self.model}
        facts["sizes"] = ", ".join(f"{name} {size:,}" for name, size in self.sizes.items())
        facts |= {f"same token as {p}": f"{share:.0%}" for p, share in self.agreement.items()}
        yield from aligned(facts | {"runs": str(self.runs)} | self.machine)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("comparing")
    group.add_argument(
        "--against",
        type=_against,
        metavar="PROGRAM",
        help=f"measure this program too, every run a process of its own, in turn: {THEIRS} for "
        f"text (or --convert), {SEES} for pictures; on a CPU also with weights cast to float32. "
        f"Or, for experts streamed with --expert-memory, some of {','.join(STREAMED)}: all "
        "experts in memory, mlx-vlm's moe_offload, and an imitation of mapping the whole file",
    )
    group.add_argument(
        "--float32",
        action="store_true",
        help="leave out the other program as it comes (bf16), which on a CPU takes many times "
        "as long as with its weights cast to float32",
    )
    group.add_argument(
        "--filled",
        type=options.wholes(1),
        default=[],
        metavar="N[,N]",
        help="measure also after so many tokens that are not prefilled: the caches are filled "
        "with random keys and values, for contexts that a prefill would take too long for",
    )
    group.add_argument(
        "--filled-prompt",
        type=options.whole(1),
        metavar="N",
        help="tokens to prefill after those, before decoding (default: 1)",
    )


def _against(text: str) -> str:
    """An argparse type: one of AGAINST, or some of STREAMED separated by commas."""
    parts = text.split(",")
    if text not in AGAINST and not (set(parts) <= set(STREAMED) and len(set(parts)) == len(parts)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither {' nor '.join(AGAINST)} nor some of {','.join(STREAMED)}"
        )
    return text


def run(args: argparse.Namespace, model: str, report: Callable[[str], None]) -> Result:
    """Raises UsageError for what cannot be compared, and MaverickError where a program fails."""
    folder = resolve(model)
    config = ModelConfig.from_folder(folder)
    task = Task("", str(folder), [], [], 0, 0, 0)
    if args.against == SEES:
        _check_pictures(args, config)
        task = replace(task, tiles=args.tiles)
    else:
        after = args.filled_prompt or 1
        _check_text(args, after, config)
        task = replace(
            task, prompts=args.prompt_tokens, filled=args.filled, filled_prompt=after,
            new_tokens=args.new_tokens,
        )  # fmt: skip
    load = replace(task, prompts=[], filled=[], tiles=0)
    reports = in_turn(
        _programs(args),
        args.runs,
        lambda program: _once(program, task),
        lambda program: _once(program, load),
        report,
    )
    return Result(
        model=folder.name,
        sizes=_sizes(config),
        rows=rows({program: [r.figures for r in runs] for program, runs in reports.items()}),
        agreement=_agreement({program: runs[0].likeliest for program, runs in reports.items()}),
        runs=args.runs,
        machine=machine() | {args.against: version(args.against)},
    )


def _check_pictures(args: argparse.Namespace, config: ModelConfig) -> None:
    if args.filled or args.filled_prompt:
        raise UsageError(f"--filled is about text; --against {SEES} measures pictures")
    if config.vision is None:
        raise UsageError("the model has no vision tower; give --synthetic with --vision-layers")
    if find_spec("mlx_vlm") is None:
        raise UsageError(f"{SEES} is not installed; install it with 'pip install {SEES}'")


def _check_text(args: argparse.Namespace, after: int, config: ModelConfig) -> None:
    if config.text.num_hidden_layers < LEAST_LAYERS:
        raise UsageError(f"{THEIRS} runs no Llama 4 of fewer than {LEAST_LAYERS} layers")
    if args.filled_prompt and not args.filled:
        raise UsageError("--filled-prompt comes after --filled; give both")
    longest = max([*args.prompt_tokens, *(filled + after for filled in args.filled)])
    needed = longest + args.new_tokens + 1
    most = min(config.text.max_position_embeddings, args.context or needed)
    if needed > most:
        raise UsageError(f"a context of {most} is too short for {needed} tokens in all")


def _programs(args: argparse.Namespace) -> list[str]:
    """Ours and theirs; on a CPU, where MLX's kernels are much faster in float32 and we use
    that, also theirs in float32."""
    if args.float32 and not on_cpu():
        raise UsageError("--float32 is about CPUs; on a GPU both compute in bf16")
    cast = [f"{args.against} float32"] if on_cpu() else []
    return [OURS, *([] if args.float32 else [args.against]), *cast]


def _once(program: str, task: Task) -> Report:
    words = json.dumps(asdict(task) | {"program": program})
    child = run_child(
        ["mlx_maverick.cli.bench_subject", words], f"{program} failed on {task.folder}"
    )
    # Other programs may print while they load; the report is the last line.
    said = json.loads(child.output.splitlines()[-1])
    figures = [Figure(**figure) for figure in said["figures"]]
    return Report([*figures, Figure("resident", "bytes", child.memory)], said["likeliest"])


def rows(runs: dict[str, list[list[Figure]]]) -> list[Row]:
    """Figures of every run of every program -> medians and ratios, by measurement."""
    made = []
    for i, figure in enumerate(runs[OURS][0]):
        values = {program: [run[i].value for run in every] for program, every in runs.items()}
        ours = values[OURS]
        faster = figure.unit.endswith("/s")  # more is better
        made.append(
            Row(
                name=figure.name,
                tokens=figure.tokens,
                unit=figure.unit,
                values={program: statistics.median(v) for program, v in values.items()},
                ratios={
                    program: paired(ours, theirs) if faster else paired(theirs, ours)
                    for program, theirs in values.items()
                    if program != OURS
                },
            )
        )
    return made


def _agreement(likeliest: dict[str, list[int]]) -> dict[str, float]:
    """Of the last program with ours."""
    ours, theirs = likeliest[OURS], likeliest[last := list(likeliest)[-1]]
    pairs = zip(ours, theirs, strict=True)
    return {last: statistics.mean(a == b for a, b in pairs)} if ours else {}


def _sizes(config: ModelConfig) -> dict[str, int]:
    text = config.text
    sizes = {
        "hidden": text.hidden_size, "layers": text.num_hidden_layers,
        "heads": text.num_attention_heads, "KV heads": text.num_key_value_heads,
        "experts": text.num_local_experts, "inner": text.intermediate_size,
        "chunk": text.attention_chunk_size, "vocabulary": text.vocab_size,
    }  # fmt: skip
    if config.vision is not None:
        sizes |= {
            "vision layers": config.vision.num_hidden_layers,
            "vision hidden": config.vision.hidden_size,
        }
    return sizes


def _cell(row: Row, program: str) -> str:
    value = row.values[program]
    text = gb(value) if row.unit == "bytes" else f"{value:,.{2 if value < 100 else 1}f} {row.unit}"
    return text if program == OURS else f"{text} {row.ratios[program]:>6.2f}x"
