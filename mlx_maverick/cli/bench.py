"""`mlx-maverick bench`: load time, prefill and decode speed, memory, picture encoding time.

Knows nothing of converting (`bench_convert` does), of other programs (`bench_against`) or of the
chat (`bench_chat`).
"""

import argparse
import json
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..events import Finished
from ..streaming.stats import ExpertStats
from ..units import gb
from . import (
    bench_against,
    bench_chat,
    bench_convert,
    bench_quality,
    bench_streaming,
    bench_synthetic,
    options,
)
from .bench_subject import random_tiles
from .machine import aligned, machine
from .terminal import StatusLine

if TYPE_CHECKING:
    from ..maverick import Maverick

TILES = 13  # of a 4:3 picture that fills 12 of them, and the global one


@dataclass(frozen=True)
class Result:
    """Medians over the runs. Seconds, tokens per second, bytes."""

    model: str
    weights: int
    load_seconds: float
    prompt_tokens: int
    prefill_tps: float
    new_tokens: int
    decode_tps: float
    peak_memory: int
    picture_tiles: int | None  # None: the model sees no pictures
    picture_seconds: float | None
    experts: ExpertStats | None  # of the last run, where they are streamed
    runs: int
    machine: dict[str, str]

    def table(self) -> Iterator[str]:
        rows = [
            ("model", f"{self.model}, {gb(self.weights)} in memory"),
            ("load", f"{self.load_seconds:.2f} s"),
            ("prefill", f"{self.prefill_tps:,.1f} tok/s ({self.prompt_tokens} tokens)"),
            ("decode", f"{self.decode_tps:,.1f} tok/s ({self.new_tokens} tokens)"),
            ("peak memory", gb(self.peak_memory)),
        ]
        if (e := self.experts) is not None:
            tokens = self.prompt_tokens + self.new_tokens
            rows.append(("experts", f"{e.slots} of {e.experts} in {gb(e.slab_bytes)}"))
            rows.append(("  hits", f"{e.hit_rate:.1%}"))
            each = f"{gb(e.bytes_read / tokens)} a token of prompt and answer"
            rows.append(("  read", f"{each}, {gb(e.bandwidth)}/s"))
            rows.append(("  waited", f"{e.wait_seconds:.2f} s"))
        if self.picture_seconds is not None:
            rows.append(("picture", f"{self.picture_seconds:.3f} s ({self.picture_tiles} tiles)"))
        return aligned(dict(rows) | self.machine)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser, context="as many as the run takes")
    parser.add_argument(
        "--prompt-tokens",
        type=options.wholes(1),
        default=[512],
        metavar="N[,N]",
        help="lengths of the prompts (default: 512); more than one with --against",
    )
    parser.add_argument(
        "--new-tokens", type=options.whole(2), default=128, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--runs",
        type=options.whole(1),
        default=3,
        metavar="N",
        help="measured runs, after one that warms up (default: %(default)s)",
    )
    parser.add_argument(
        "--tiles",
        type=options.whole(1),
        default=TILES,
        metavar="N",
        help="of the picture (default: %(default)s, a large 4:3 one)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options.add_experts(parser)
    bench_against.add_arguments(parser)
    bench_streaming.add_arguments(parser)
    bench_synthetic.add_arguments(parser)
    bench_convert.add_arguments(parser)
    bench_chat.add_arguments(parser)
    bench_quality.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.quality:
        return bench_quality.run(args)
    if args.chat:
        return bench_chat.run(args)
    if args.convert is not None:
        return bench_convert.run(args)
    if args.model and args.synthetic is not None:
        raise UsageError("--synthetic makes the model; leave out --model")
    if args.synthetic is None:
        options.required_model(args)
    more = args.filled or args.filled_prompt or args.float32 or len(args.prompt_tokens) > 1
    if args.against is None and more:
        raise UsageError("--filled, --float32 and several --prompt-tokens need --against")
    bench_streaming.check(args)
    status = StatusLine()
    try:
        with bench_synthetic.folder(args, status.show) as model:
            result = _measure(args)(args, model, status.show)
    finally:
        status.clear()
    print(json.dumps(asdict(result)) if args.json else "\n".join(result.table()))
    return 0


def _measure(args: argparse.Namespace) -> Callable[..., Any]:
    if bench_streaming.is_wanted(args.against):
        return bench_streaming.run
    return bench_against.run if args.against else alone


def alone(args: argparse.Namespace, model_name: str, report: Callable[[str], None]) -> Result:
    """Load the model once, here, and measure it. Raises UsageError for a short context."""
    needed = args.prompt_tokens[0] + args.new_tokens
    context = args.context or needed
    if context < needed:
        raise UsageError(f"--context {context} is too short for {needed} tokens in all")
    from ..loading import Unread

    report(f"loading {model_name}")
    started = perf_counter()
    model = Unread.open(model_name, context, experts=options.experts(args)).load()
    return measure(model, args, perf_counter() - started, report)


def measure(
    model: "Maverick", args: argparse.Namespace, load_seconds: float, report: Callable[[str], None]
) -> Result:
    """Generate from random tokens and encode a picture, `args.runs` times after a warm-up."""
    import mlx.core as mx

    from .. import engine
    from ..sampling import Sampling

    # Plain tokens only, and the same ones each time.
    plain = [
        i for i in range(model.config.text.vocab_size) if i not in model.prompt.special.values()
    ]
    ids = random.Random(0).choices(plain, k=args.prompt_tokens[0])
    sampling = Sampling(max_tokens=args.new_tokens, seed=0)
    finished: list[Finished] = []
    pictures: list[float] = []
    tiles = random_tiles(model.config, args.tiles) if model.vision else None
    for i in range(args.runs + 1):
        report(f"run {i} of {args.runs}" if i else "warming up")
        cache = model.model.make_cache()
        events = engine.generate(
            model.model, cache, ids, sampling=sampling, context=model.context + 1
        )
        finished += [event for event in events if isinstance(event, Finished)]
        if tiles is not None:
            started = perf_counter()
            mx.eval(model.model.encode_image(tiles))
            pictures.append(perf_counter() - started)
    stats = [event.stats for event in finished[1:]]
    return Result(
        model=model.name,
        weights=model.nbytes,
        load_seconds=load_seconds,
        prompt_tokens=args.prompt_tokens[0],
        prefill_tps=statistics.median(s.prefill_tps for s in stats),
        new_tokens=args.new_tokens,
        decode_tps=statistics.median(s.decode_tps for s in stats),
        peak_memory=max(s.peak_memory for s in stats),
        picture_tiles=len(tiles) if tiles is not None else None,
        picture_seconds=statistics.median(pictures[1:]) if pictures else None,
        experts=stats[-1].experts,
        runs=args.runs,
        machine=machine(),
    )
