"""One program at work, measured from inside its own process: ours, mlx-lm or mlx-vlm.

Knows nothing of other runs or of tables. `bench_against` starts it as
`python -m mlx_maverick.cli.bench_subject TASK`; it prints a Report, both as JSON.
"""

import itertools
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, Protocol

from ..config import ModelConfig, TextConfig
from ..memory import PREFILL_STEP

if TYPE_CHECKING:
    import mlx.core as mx

Sampler = Callable[["mx.array"], "mx.array"]

WARM_UP = 32  # tokens of the prompt that the time to the first token is about


@dataclass(frozen=True)
class Task:
    """What to measure, with what."""

    program: str  # a key of PROGRAMS
    folder: str
    prompts: Sequence[int]  # lengths to prefill, each followed by decoding
    filled: Sequence[int]  # the same in caches that hold so many random keys and values
    filled_prompt: int  # tokens to prefill after those
    new_tokens: int
    tiles: int  # of the picture to encode; 0: none


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    name: str
    unit: str  # "s", "tok/s" or "bytes"
    value: float
    tokens: int | None = None  # context it is about


@dataclass(frozen=True)
class Report:
    """All of one process."""

    figures: list[Figure]
    likeliest: list[int]  # the likeliest token at each decoded position after a real prefill


class Subject(Protocol):
    """A loaded model. Caches are the program's own."""

    def make_cache(self) -> Any: ...

    def fill(self, cache: Any, length: int, room: int) -> None:
        """Put `length` random keys and values into it; `room` more tokens will come."""

    def generate(
        self, cache: Any, ids: list[int], filled: int, count: int, sample: Sampler
    ) -> Iterator[object]:
        """Prefill `ids` after the `filled` positions of the cache, and decode; `count` new
        tokens, one item for each as soon as it is known."""

    def encode(self, tiles: "mx.array") -> "mx.array": ...


class Ours:
    """This package."""

    def __init__(self, folder: str, context: int, **options: Any):
        """`options` are those of `load`."""
        from ..loading import load

        self.context = context
        self.model = load(folder, context=context, **options).model

    @staticmethod
    def of(task: Task) -> "Ours":
        filled = (filled + task.filled_prompt for filled in task.filled)
        longest = max([WARM_UP, *task.prompts, *filled])
        return Ours(task.folder, longest + task.new_tokens + 1)

    def make_cache(self) -> Any:
        return self.model.make_cache()

    def fill(self, cache: Any, length: int, room: int) -> None:
        import mlx.core as mx

        text, dtype = self.model.config.text, self.model.dtype
        cache.reserve(length + room)
        for start, end in cache.spans(length, PREFILL_STEP):
            cache.begin(end - start)
            for layer in range(text.num_hidden_layers):
                mx.eval(cache.update(layer, *_random(text, end - start, dtype)))
            cache.advance(end - start)

    def generate(
        self, cache: Any, ids: list[int], filled: int, count: int, sample: Sampler
    ) -> Iterator[object]:
        from .. import engine
        from ..choosing import Chooser
        from ..sampling import Sampling

        sampling, vocabulary = Sampling(max_tokens=count), self.model.config.text.vocab_size
        events = engine.generate(
            self.model, cache, [0] * filled + ids, sampling=sampling, context=self.context,
            chooser=Chooser(sampling, (), vocabulary, sampler=sample),
        )  # fmt: skip
        return (event for event in events if isinstance(event, engine.Sampled))

    def encode(self, tiles: "mx.array") -> "mx.array":
        return self.model.encode_image(tiles)


class MlxLm:
    """mlx-lm, as it comes or with its floating-point weights cast to float32."""

    def __init__(self, task: Task, float32: bool = False):
        import mlx.core as mx
        from mlx_lm import load

        self.text = ModelConfig.from_folder(task.folder).text
        self.model, _ = load(task.folder, lazy=True)
        if float32:
            self.model.set_dtype(mx.float32)
        mx.eval(self.model.parameters())
        self.dtype = mx.float32 if float32 else mx.bfloat16

    def make_cache(self) -> Any:
        return self.model.make_cache()

    def fill(self, cache: Any, length: int, room: int) -> None:
        import mlx.core as mx

        for start in range(0, length, PREFILL_STEP):
            count = min(PREFILL_STEP, length - start)
            for layer in cache:
                # As its model does before each step: chunked layers let go of what they may.
                if hasattr(layer, "maybe_trim_front"):
                    layer.maybe_trim_front()
                mx.eval(layer.update_and_fetch(*_random(self.text, count, self.dtype)))

    def generate(
        self, cache: Any, ids: list[int], filled: int, count: int, sample: Sampler
    ) -> Iterator[object]:
        import mlx.core as mx
        from mlx_lm.generate import generate_step

        steps: Iterator[object] = generate_step(
            mx.array(ids), self.model, prompt_cache=cache, max_tokens=count, sampler=sample,
            prefill_step_size=PREFILL_STEP,
        )  # fmt: skip
        return steps

    def encode(self, tiles: "mx.array") -> "mx.array":
        raise NotImplementedError("mlx-lm sees no pictures")


class MlxVlm:
    """The vision tower and projector of mlx-vlm; its text decoder is never read."""

    def __init__(self, task: Task, float32: bool = False):
        import mlx.core as mx
        from mlx_vlm.utils import load_model

        self.model = load_model(Path(task.folder), lazy=True)
        for part in (self.model.vision_model, self.model.multi_modal_projector):
            if float32:
                part.set_dtype(mx.float32)
            mx.eval(part.parameters())

    def encode(self, tiles: "mx.array") -> "mx.array":
        features: mx.array = self.model.multi_modal_projector(self.model.vision_model(tiles))
        return features


PROGRAMS: dict[str, Callable[[Task], Any]] = {
    "mlx-maverick": Ours.of,
    "mlx-lm": MlxLm,
    "mlx-lm float32": lambda task: MlxLm(task, float32=True),
    "mlx-vlm": MlxVlm,
    "mlx-vlm float32": lambda task: MlxVlm(task, float32=True),
}


class Script:
    """A sampler that takes tokens from a list, so that all programs decode the same ones
    through the same experts; what it would have taken is kept."""

    def __init__(self, tokens: Sequence[int]):
        self.tokens = itertools.cycle(tokens)  # a program may look further ahead than asked
        self.likeliest: list[mx.array] = []

    def __call__(self, logprobs: "mx.array") -> "mx.array":
        import mlx.core as mx

        self.likeliest.append(mx.argmax(logprobs, axis=-1))
        return self.likeliest[-1] * 0 + next(self.tokens)  # only known when the logits are


def measure(task: Task) -> Report:
    """Load the program and measure what `task` asks for."""
    import mlx.core as mx
    import numpy as np

    config = ModelConfig.from_folder(Path(task.folder))
    draw = random.Random(0)
    plain = [i for i in range(config.text.vocab_size) if i != config.patch_token_id]
    started = perf_counter()  # importing the program is part of loading, MLX is not
    subject = PROGRAMS[task.program](task)
    loaded = perf_counter() - started
    figures = [Figure("load", "s", loaded)]
    likeliest: list[int] = []
    if task.prompts or task.filled:
        ids = draw.choices(plain, k=WARM_UP)
        seconds = _generate(subject, ids, 0, Script(ids), 4)[0].wall
        figures.append(Figure("load to first token", "s", loaded + seconds))
    for filled, length in [
        *((0, length) for length in task.prompts),
        *((filled, task.filled_prompt) for filled in task.filled),
    ]:
        script = Script(draw.choices(plain, k=task.new_tokens))
        ids = draw.choices(plain, k=length)
        prefill, decode = _generate(subject, ids, filled, script, task.new_tokens)
        figures += _speeds(filled, length, task.new_tokens, prefill, decode)
        if not filled:
            likeliest += np.array(mx.concatenate(script.likeliest[: task.new_tokens])).tolist()
    if task.tiles:
        figures += _picture(subject, config, task.tiles)
    return Report(figures, likeliest)


@dataclass(frozen=True)
class Span:
    """Seconds of the clock, and of all cores."""

    wall: float
    cpu: float


def _now() -> Span:
    return Span(perf_counter(), process_time())


def _since(start: Span, end: Span | None = None) -> Span:
    end = end or _now()
    return Span(end.wall - start.wall, end.cpu - start.cpu)


def _generate(
    subject: Subject, ids: list[int], filled: int, script: Script, count: int
) -> tuple[Span, Span]:
    """What prefill took to the first token, and decoding from there to the last of `count`."""
    import mlx.core as mx

    mx.clear_cache()
    cache = subject.make_cache()
    if filled:
        subject.fill(cache, filled, len(ids) + count)
    mx.reset_peak_memory()
    times = [_now()]
    for _ in subject.generate(cache, ids, filled, count, script):
        times.append(_now())
    return _since(times[0], times[1]), _since(times[1], times[-1])


def _speeds(filled: int, length: int, new: int, prefill: Span, decode: Span) -> Iterator[Figure]:
    """What is said of one generation. On a CPU, where other programs take turns with this
    one, also by CPU second."""
    import mlx.core as mx

    context, after = filled + length, f" after {filled:,} filled" if filled else ""
    spans = [("prefill", length, prefill)] if length > 1 else []
    for name, tokens, span in (*spans, ("decode", new - 1, decode)):
        yield Figure(f"{name}{after}", "tok/s", tokens / span.wall, context)
        if on_cpu():
            yield Figure(f"{name}{after}, by CPU second", "tok/s", tokens / span.cpu, context)
    yield Figure(f"MLX's peak{after}", "bytes", mx.get_peak_memory(), context)


def on_cpu() -> bool:
    """Whether MLX computes on the CPU."""
    import mlx.core as mx

    return bool(mx.default_device().type == mx.DeviceType.cpu)


def _picture(subject: Subject, config: ModelConfig, tiles: int) -> Iterator[Figure]:
    """What it takes to encode random tiles, the second time, and MLX's peak of memory."""
    import mlx.core as mx

    pixels = random_tiles(config, tiles)
    span = Span(0, 0)
    for _ in range(2):  # the first one compiles kernels
        mx.clear_cache()
        mx.reset_peak_memory()
        started = _now()
        mx.eval(subject.encode(pixels))
        span = _since(started)
    yield Figure("picture, tiles", "s", span.wall, tiles)
    if on_cpu():
        yield Figure("picture, CPU seconds, tiles", "s", span.cpu, tiles)
    yield Figure("MLX's peak, tiles", "bytes", mx.get_peak_memory(), tiles)


def random_tiles(config: ModelConfig, tiles: int) -> "mx.array":
    """Pixels [tiles, channels, T, T], the same ones every time."""
    import mlx.core as mx

    assert config.vision is not None
    side = config.vision.image_size
    mx.random.seed(0)
    return mx.random.uniform(-1, 1, (tiles, config.vision.num_channels, side, side))


def _random(text: TextConfig, length: int, dtype: "mx.Dtype") -> "tuple[mx.array, mx.array]":
    """Keys and values [1, kv_heads, length, head_dim]."""
    import mlx.core as mx

    shape = (1, text.num_key_value_heads, length, text.head_dim)
    return mx.random.normal(shape).astype(dtype), mx.random.normal(shape).astype(dtype)


if __name__ == "__main__":
    print(json.dumps(asdict(measure(Task(**json.loads(sys.argv[1]))))))
