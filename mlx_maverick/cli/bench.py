"""`mlx-maverick bench`: load time, prefill and decode speed, memory, picture encoding time.

Knows nothing of converting; `bench_convert` does.
"""

import argparse
import json
import random
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..events import Finished
from ..units import gb
from . import bench_convert, options
from .machine import machine
from .terminal import StatusLine

if TYPE_CHECKING:
    import mlx.core as mx

    from ..maverick import Maverick


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
    runs: int
    machine: dict[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser, context="as many as the run takes")
    parser.add_argument(
        "--prompt-tokens",
        type=options.whole(1),
        default=512,
        metavar="N",
        help="default: %(default)s",
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
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    bench_convert.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.convert is not None:
        return bench_convert.run(args)
    if args.against:
        raise UsageError("--against is about --convert so far; give both")
    model_name = options.required_model(args)
    needed = args.prompt_tokens + args.new_tokens
    context = args.context or needed
    if context < needed:
        raise UsageError(f"--context {context} is too short for {needed} tokens in all")
    status = StatusLine()
    try:
        from ..maverick import load

        status.show(f"loading {model_name}")
        started = perf_counter()
        model = load(model_name, context=context)
        load_seconds = perf_counter() - started
        result = measure(model, args, load_seconds, status.show)
    finally:
        status.clear()
    print(json.dumps(asdict(result)) if args.json else table(result))
    return 0


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
    ids = random.Random(0).choices(plain, k=args.prompt_tokens)
    sampling = Sampling(max_tokens=args.new_tokens, seed=0)
    finished: list[Finished] = []
    pictures: list[float] = []
    tiles = picture_pixels(model)
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
        prompt_tokens=args.prompt_tokens,
        prefill_tps=statistics.median(s.prefill_tps for s in stats),
        new_tokens=args.new_tokens,
        decode_tps=statistics.median(s.decode_tps for s in stats),
        peak_memory=max(s.peak_memory for s in stats),
        picture_tiles=len(tiles) if tiles is not None else None,
        picture_seconds=statistics.median(pictures[1:]) if pictures else None,
        runs=args.runs,
        machine=machine(),
    )


def picture_pixels(model: "Maverick") -> "mx.array | None":
    """Tiles of a 4:3 picture that fills 12 of them, and the global one."""
    vision = model.config.vision
    if vision is None or model.model.vision is None:
        return None
    import mlx.core as mx

    side = vision.image_size
    mx.random.seed(0)
    return mx.random.uniform(-1, 1, (13, vision.num_channels, side, side))


def table(result: Result) -> str:
    rows = [
        ("model", f"{result.model}, {gb(result.weights)} in memory"),
        ("load", f"{result.load_seconds:.2f} s"),
        ("prefill", f"{result.prefill_tps:,.1f} tok/s ({result.prompt_tokens} tokens)"),
        ("decode", f"{result.decode_tps:,.1f} tok/s ({result.new_tokens} tokens)"),
        ("peak memory", gb(result.peak_memory)),
    ]
    if result.picture_seconds is not None:
        rows.append(("picture", f"{result.picture_seconds:.3f} s ({result.picture_tiles} tiles)"))
    rows += result.machine.items()
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
