"""A random-weight Llama 4 for benchmarks: its options, and the folder it is converted to.

Knows nothing of what is measured.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, prod
from pathlib import Path
from typing import Any

from .. import memory
from ..checkpoint import Checkpoint
from ..config import ModelConfig, read_json
from ..convert import published
from ..convert.recipe import Recipe
from ..errors import DoesNotFit, UsageError
from ..published_models import MODELS
from ..units import gb
from .bench_children import run_child
from .options import whole

RECIPE = "e4r4"
GROUP = 64  # columns that share a scale; every width is a multiple of it
VISION_HEAD = 88  # Maverick's; the tower's width is a multiple of it
SPECIAL = 64  # the least vocabulary: special tokens and a few words

# What is asked for where an option is left out. Maverick has hidden 5120 and 48 layers.
DEFAULTS = {
    "hidden": 512, "layers": 8, "expert_count": 128, "chunk": 8192, "vocabulary": 202048,
    "vision_layers": 0, "vision_hidden": 1408,
}  # fmt: skip

IN_PROPORTION = ("inner", "dense_inner", "kv_heads")  # to the hidden width


@dataclass(frozen=True)
class Geometry:
    """The sizes of one synthetic model; everything else is Maverick's, in proportion."""

    text: dict[str, int]  # keys of the text section of config.json
    vision: dict[str, int] | None
    recipe: str  # a name or a file
    zipf: float | None = None  # of the routers; see synthetic.write

    @property
    def config(self) -> ModelConfig:
        raw: dict[str, Any] = {"model_type": "llama4", "text_config": _published() | self.text}
        if self.vision is not None:
            raw["vision_config"] = MODELS["maverick"].raw["vision_config"] | self.vision
        return ModelConfig.from_dict(raw)

    @property
    def nbytes(self) -> int:
        """Of all tensors, converted. Raises UsageError and NotFound for a recipe that is none."""
        return memory.recipe_bytes(self.config, Recipe.parse(self.recipe))


def _published() -> dict[str, Any]:
    text: dict[str, Any] = MODELS["maverick"].raw["text_config"]
    return text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a model of random weights")
    group.add_argument(
        "--synthetic",
        nargs="?",
        const="",
        metavar="DIR",
        help="make a Llama 4 of random weights and convert it, instead of --model; "
        "without DIR for the time of the run, in DIR it is kept and taken the next time",
    )
    names = {
        "hidden": (GROUP, "width; heads and MLPs are in proportion to it"),
        "expert_count": (2, "experts of every second layer; with --convert 8 by default"),
        "layers": (4, "every second with experts, every fourth global"),
        "kv_heads": (1, "key heads, each with five heads of queries"),
        "inner": (GROUP, "width inside an expert"),
        "dense_inner": (GROUP, "width inside a dense MLP"),
        "chunk": (1, "tokens of an attention chunk"),
        "vocabulary": (SPECIAL, "tokens"),
        "vision_layers": (0, "layers of the vision tower; 0: none"),
        "vision_hidden": (VISION_HEAD, "width of the vision tower"),
    }
    for name, (least, what) in names.items():
        default = DEFAULTS.get(name, "in proportion to the hidden width")
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=whole(least),
            metavar="N",
            help=f"{what} (default: {default})",
        )
    group.add_argument(
        "--recipe",
        metavar="NAME|FILE",
        help=f"what it is converted to, as for convert (default: {RECIPE})",
    )
    group.add_argument(
        "--zipf",
        type=float,
        metavar="S",
        help="routers that choose experts by Zipf's law: the one at rank r in proportion to "
        "1 / r^S, different ones in each layer; 0: all as often (default: as random rows do)",
    )


def given(args: argparse.Namespace) -> dict[str, Any]:
    """What was asked for of the model, by option."""
    asked = {name: getattr(args, name) for name in (*DEFAULTS, *IN_PROPORTION, "recipe", "zipf")}
    return {name: value for name, value in asked.items() if value is not None}


def geometry(args: argparse.Namespace) -> Geometry:
    """Raises UsageError for widths that cannot be quantised, or options without --synthetic."""
    asked = DEFAULTS | given(args)
    if args.synthetic is None and given(args):
        option = next(iter(given(args))).replace("_", "-")
        raise UsageError(f"--{option} is about --synthetic; a model folder has its own")
    hidden, maverick = asked["hidden"], MODELS["maverick"].config.text
    inner = asked.get("inner", _rounded(hidden * maverick.intermediate_size / maverick.hidden_size))
    dense = asked.get("dense_inner", 2 * inner)
    for name, size in (("hidden", hidden), ("inner", inner), ("dense-inner", dense)):
        if size % GROUP:
            raise UsageError(f"--{name} {size} is not a multiple of {GROUP}, a group")
    # As many queries for each key as Maverick has, and heads of its size.
    groups = maverick.num_attention_heads // maverick.num_key_value_heads
    kv_heads = asked.get("kv_heads", max(1, hidden // maverick.head_dim // groups))
    text = {
        "hidden_size": hidden,
        "num_hidden_layers": asked["layers"],
        "num_local_experts": asked["expert_count"],
        "intermediate_size": inner,
        "intermediate_size_mlp": dense,
        "num_attention_heads": kv_heads * groups,
        "num_key_value_heads": kv_heads,
        "attention_chunk_size": asked["chunk"],
        "vocab_size": asked["vocabulary"],
    }
    _check_zipf(args.zipf, asked["expert_count"])
    vision = _vision(asked["vision_layers"], asked["vision_hidden"])
    return Geometry(text, vision, asked.get("recipe", RECIPE), args.zipf)


def _check_zipf(exponent: float | None, experts: int) -> None:
    if exponent is None:
        return
    from .. import synthetic_routing

    if not 0 <= exponent < inf:
        raise UsageError(f"--zipf {exponent} is not a number from 0 on")
    first = synthetic_routing.zipf(experts, exponent)[0]
    if first > max(synthetic_routing.MOST, 1 / experts):
        raise UsageError(
            f"--zipf {exponent} gives the first of {experts} experts {first:.0%} of all tokens, "
            f"and a router can give it {synthetic_routing.MOST:.0%}; ask for less, or for more "
            "--expert-count"
        )


def _vision(layers: int, width: int) -> dict[str, int] | None:
    if not layers:
        return None
    if width % VISION_HEAD:
        raise UsageError(f"--vision-hidden {width} is not a multiple of {VISION_HEAD}")
    own = MODELS["maverick"].raw["vision_config"]
    adapter = _rounded(width * own["projector_input_dim"] / own["hidden_size"])
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // VISION_HEAD,
        "intermediate_size": 4 * width,
        "projector_input_dim": adapter,
        "projector_output_dim": adapter,
        "vision_output_dim": adapter,
    }


def _rounded(size: float) -> int:
    return max(GROUP, round(size / GROUP) * GROUP)


@contextmanager
def folder(args: argparse.Namespace, report: Callable[[str], None]) -> Iterator[str]:
    """The model folder that `args` ask for: --model itself, or the synthetic one, which is
    made now, or found, and removed at the end unless it was given a place.

    Raises UsageError for wrong combinations, DoesNotFit where the disk or memory is too small,
    MaverickError where the conversion fails.
    """
    wanted = geometry(args)
    if args.synthetic is None:
        yield args.model
        return
    with tempfile.TemporaryDirectory(prefix="mlx-maverick-bench-") as temporary:
        out = Path(args.synthetic).expanduser() if args.synthetic else Path(temporary, "model")
        if out.exists():
            _same(out, wanted)
        else:
            _make(out, wanted, Path(temporary, "source"), report)
        yield str(out)


def _same(out: Path, wanted: Geometry) -> None:
    """Raises UsageError if `out` holds a model of other sizes, or with other routers."""
    from .. import synthetic

    config, expected = ModelConfig.from_folder(out), wanted.config
    same = config.text == expected.text and config.vision == expected.vision
    if not same or Checkpoint.open(out).nbytes != wanted.nbytes:
        raise UsageError(f"{out} holds a model of other sizes; remove it, or give another folder")
    zipf = read_json(out / "config.json").get(synthetic.ZIPF)
    if zipf != wanted.zipf:
        was, not_ = (f"--zipf {z:g}" if z is not None else "no --zipf" for z in (zipf, wanted.zipf))
        raise UsageError(
            f"{out} was made with {was}, not {not_}; remove it, or give another folder"
        )


def _make(out: Path, wanted: Geometry, source: Path, report: Callable[[str], None]) -> None:
    from .. import synthetic

    config = wanted.config
    bf16 = 2 * sum(map(prod, published.shapes(config).values()))
    size = wanted.nbytes
    free = shutil.disk_usage(source.parent).free
    if bf16 + size > free:
        raise DoesNotFit(
            f"the random checkpoint takes {gb(bf16)} on the disk and {gb(size)} converted, but "
            f"{gb(free)} are free; ask for fewer --layers or a smaller --hidden"
        )
    if size > memory.machine_limit():
        raise DoesNotFit(
            f"the random model takes {gb(size)}, and this machine can give "
            f"{gb(memory.machine_limit())}; ask for fewer --layers or a smaller --hidden"
        )
    report(f"writing a random checkpoint of {gb(bf16)}")
    source.mkdir()
    text = dict(wanted.text)
    layers, experts = text.pop("num_hidden_layers"), text.pop("num_local_experts")
    synthetic.write(source, layers, experts, vision=wanted.vision, zipf=wanted.zipf, **text)
    report(f"converting it to {wanted.recipe}")
    words = ["mlx_maverick", "convert", str(source), "--out", str(out)]
    words += ["--recipe", wanted.recipe, "--fast"]
    run_child(words, "the random checkpoint cannot be converted")
    shutil.rmtree(source)
