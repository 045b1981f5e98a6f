"""`mlx-maverick show`: what a model folder is, and what it needs to run.

Knows nothing of values: only config.json, safetensors headers and maverick.json are read, so
400 GB take no longer than 4. mlx is loaded only to ask for the machine's limit.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import hub, macs, memory, sizing
from ..checkpoint import Checkpoint, Tensor
from ..config import ModelConfig, Quantization, read_json
from ..convert import published
from ..convert.manifest import MANIFEST
from ..convert.recipe import OFFERED
from ..convert.rule import BITS
from ..doctor.outlook import Streamed, streamed_folder
from ..errors import BadCheckpoint, UsageError
from ..kv import DENSE, KVOptions
from ..memory import DEFAULT_CONTEXT
from ..names import TensorClass, canonical, tensor_class
from ..units import gb
from . import options
from .terminal import printable

HASHES = ("sample", "fingerprint")  # of maverick.json's source: of no use to a reader
OTHER = "other"  # tensors a Llama 4 does not have


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", metavar="MODEL", help="model folder, or demo")
    parser.add_argument("--model", help="the same, as an option")
    parser.add_argument(
        "--context",
        type=int,
        metavar="N",
        help=f"tokens to reckon memory for (default: {DEFAULT_CONTEXT}, or the model's maximum)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options.add_kv(parser)


def run(args: argparse.Namespace) -> int:
    if (args.folder is None) == (args.model is None):
        raise UsageError("give one model folder: mlx-maverick show MODEL")
    facts = describe(hub.resolve(args.folder or args.model), args.context, options.kv(args))
    if args.json:
        print(json.dumps(asdict(facts), indent=2, ensure_ascii=False))
    else:
        print(printable("\n".join(_lines(facts))))
    return 0


@dataclass(frozen=True)
class Share:
    """The weights of one class."""

    name: str
    tensors: int
    parameters: int
    nbytes: int
    bits_per_weight: float  # with the scales and biases of groups


@dataclass(frozen=True)
class Need:
    """Memory for running the model, in bytes, and whether this machine has it."""

    context: int
    weights: int
    kv: int
    working: int
    total: int
    machine_limit: int
    fits: bool
    advice: str | None  # if it does not
    streamed: Streamed | None  # if it does not, but runs with its experts read from the SSD


@dataclass(frozen=True)
class Facts:
    """What is printed; `--json` prints these names."""

    path: str
    layers: int
    moe_layers: int
    experts: int
    chunk: int
    max_context: int
    vision: bool
    format: str  # "published", "mlx-quantised", "mlx", or "foreign": not to be run
    stored_as: str
    parameters: int
    nbytes: int  # of the weight files
    files: int
    classes: list[Share]
    need: Need | None  # None for a foreign format
    recipes: dict[str, int]  # bytes that converting a published folder would come to
    maverick: dict[str, Any]  # recipe, source and tools of maverick.json


def describe(folder: Path, context: int | None = None, kv: KVOptions = DENSE) -> Facts:
    """Read a folder's headers. Raises NotFound, BadCheckpoint, or UsageError for a context, or
    a KV cache, that the model cannot have."""
    checkpoint = Checkpoint.open(folder)
    config = ModelConfig.from_folder(folder)
    text = config.text
    context = sizing.checked_context(config, context)
    form, stored_as = _format(checkpoint, config)
    classes = list(_shares(checkpoint, config.quantization))
    convertible = form == "published" or config.source_quantization in published.READ_METHODS
    recipes = OFFERED if convertible else ()
    return Facts(
        path=str(folder),
        layers=text.num_hidden_layers,
        moe_layers=sum(text.moe_layers),
        experts=text.num_local_experts,
        chunk=text.attention_chunk_size,
        max_context=text.max_position_embeddings,
        vision=any(share.name == TensorClass.VISION for share in classes),
        format=form,
        stored_as=stored_as,
        parameters=sum(share.parameters for share in classes),
        nbytes=sum(file.stat().st_size for file in checkpoint.files),
        files=len(checkpoint.files),
        classes=classes,
        need=_need(checkpoint, config, context, kv) if form != "foreign" else None,
        recipes={recipe.name: memory.recipe_bytes(config, recipe) for recipe in recipes},
        maverick=_made(folder),
    )


def _format(checkpoint: Checkpoint, config: ModelConfig) -> tuple[str, str]:
    """The kind of folder, and how its weights are stored."""
    sizes: dict[str, int] = {}
    for tensor in checkpoint.tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    if config.source_quantization or any(dtype.startswith("F8_") for dtype in sizes):
        fp8 = ["FP8"] if any(dtype.startswith("F8_") for dtype in sizes) else []
        how = [config.source_quantization] if config.source_quantization else []
        return "foreign", " ".join(fp8 + how)
    if config.quantization:
        default = config.quantization.default
        width = f"{default.bits} bits in groups of {default.group_size}"
        return "mlx-quantised", f"MLX quantised ({default.mode}, by default {width})"
    main = max(sizes, key=lambda dtype: sizes[dtype], default="no tensors")
    if any(name.endswith(published.GATE_UP) for name in checkpoint.tensors):
        return "published", f"{main}, as published"
    return "mlx", f"MLX, {main}, not quantised"


def _shares(checkpoint: Checkpoint, quantization: Quantization | None) -> Iterator[Share]:
    groups: dict[str, list[Tensor]] = {name: [] for name in [*TensorClass, OTHER]}
    for tensor in checkpoint.tensors.values():
        groups[tensor_class(canonical(tensor.name)) or OTHER].append(tensor)
    for name, tensors in groups.items():
        count = sum(_parameters(tensor, checkpoint, quantization) for tensor in tensors)
        size = sum(tensor.nbytes for tensor in tensors)
        if tensors:
            yield Share(str(name), len(tensors), count, size, size * 8 / count if count else 0.0)


def _parameters(tensor: Tensor, checkpoint: Checkpoint, settings: Quantization | None) -> int:
    """Weights a tensor stands for: of a packed matrix all that are packed into it, of its
    scales and biases none."""
    path, _, kind = tensor.name.rpartition(".")
    named = canonical(path)
    # FP8 checkpoints: `.weight_scale`, `.input_scale`, `.gate_up_proj_scale`.
    if kind.endswith("_scale"):
        return 0
    scales = checkpoint.tensors.get(f"{path}.scales")
    if scales is None or kind not in ("weight", "scales", "biases"):
        return tensor.size
    if kind != "weight":
        return 0
    if settings is None:
        raise BadCheckpoint(
            f"{tensor.file}: {path} is quantised, but config.json has no 'quantization'; "
            "convert the model again"
        )
    quant = settings.of(named) or settings.default
    columns = scales.shape[-1] * quant.group_size if scales.shape else 0
    bits = tensor.shape[-1] * 32 / columns if columns and tensor.shape else 0
    # Where config.json gives only a default, other bits are legal: older converters kept
    # single matrices at other bits without a word.
    legal = bits == quant.bits if named in settings.overrides else bits in BITS
    if not legal or tensor.shape[:-1] != scales.shape[:-1]:
        raise BadCheckpoint(
            f"{tensor.file}: {path} has shape {list(tensor.shape)} with scales "
            f"{list(scales.shape)}, which is not {quant.bits} bits in groups of "
            f"{quant.group_size} as config.json says; convert the model again"
        )
    return tensor.size // tensor.shape[-1] * columns


def _need(checkpoint: Checkpoint, config: ModelConfig, context: int, kv: KVOptions) -> Need:
    from ..model.llama4 import default_dtype  # loads mlx, as asking for the limit does

    machine, element = macs.this_machine(), default_dtype().size
    need = sizing.of_folder(config, checkpoint, context, kv, element)
    budget = need.budget
    fits = budget.total <= machine.limit
    return Need(
        context=context,
        weights=budget.weights,
        kv=budget.kv,
        working=budget.working,
        total=budget.total,
        machine_limit=machine.limit,
        fits=fits,
        advice=None if fits else memory.advice(budget, machine.limit),
        streamed=streamed_folder(need, machine),
    )


def _made(folder: Path) -> dict[str, Any]:
    if not (folder / MANIFEST).exists():
        return {}
    raw = read_json(folder / MANIFEST)
    return {key: raw[key] for key in ("recipe", "source", "tools") if key in raw}


def _lines(facts: Facts) -> Iterator[str]:
    def line(label: str, value: str) -> str:
        return f"{label:<14}{value}"

    yield facts.path
    experts = f"{facts.moe_layers} of them with {facts.experts} experts"
    vision = "with vision" if facts.vision else "no vision"
    yield line("model", f"Llama 4, {facts.layers} layers, {experts}, {vision}")
    yield line("attention", f"chunks of {facts.chunk:,}, up to {facts.max_context:,} tokens")
    yield line("format", facts.stored_as)
    yield line("parameters", _count(facts.parameters))
    files = "1 file" if facts.files == 1 else f"{facts.files} files"
    yield line("on disk", f"{gb(facts.nbytes)} in {files}")
    for key, value in facts.maverick.items():
        yield line(key, _words(value))

    yield f"\n{'':<16}{'parameters':>14}{'bits/weight':>14}{'size':>12}"
    for share in facts.classes:
        count = _count(share.parameters)
        yield f"{share.name:<16}{count:>14}{share.bits_per_weight:>14.2f}{gb(share.nbytes):>12}"

    if need := facts.need:
        yield f"\nmemory at {need.context:,} tokens"
        for label, size in [
            ("weights", need.weights),
            ("KV cache", need.kv),
            ("working room", need.working),
            ("total", need.total),
            ("this machine", need.machine_limit),
        ]:
            yield f"  {label:<14}{gb(size):>12}"
        yield f"  {'fits' if need.fits else f'does not fit: {need.advice}'}"
        if need.streamed:
            yield f"  streamed: {need.streamed.words}"
    else:
        yield "\ncannot be run as it is; it is a format to convert from"
    if facts.recipes:
        yield "\nconverted it would come to"
        for name, size in facts.recipes.items():
            yield f"  {name:<14}{gb(size):>12}"


def _count(number: int) -> str:
    """401583781376 -> '401.58 B'"""
    for size, unit in ((10**9, "B"), (10**6, "M"), (1000, "K")):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)


def _words(value: Any) -> str:
    """A fact of maverick.json on one line: the name if it has one, else its values."""
    if not isinstance(value, dict):
        return str(value)
    if "name" in value:
        return str(value["name"])
    return ", ".join(
        f"{key} {item}" for key, item in value.items() if item is not None and key not in HASHES
    )
