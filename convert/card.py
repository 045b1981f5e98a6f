"""The model card: README.md of the output, with the metadata that the Hub reads.

Knows nothing of how the weights were made beyond what it is told. Metadata:
https://huggingface.co/docs/hub/model-cards#model-card-metadata
"""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from mlx_maverick.files import read_whole
from mlx_maverick.names import TensorClass, tensor_class
from mlx_maverick.units import gb

from .plan import Plan

CARD = "README.md"
# Llama 4's licence, section 1.b.i, asks for these words where the weights are passed on.
BUILT_WITH = "Built with Llama"
LICENSE = {"license": "other", "license_name": "llama4", "license_link": "LICENSE"}


def card(plan: Plan, about: Mapping[str, Any]) -> bytes:
    """The card of a conversion of this identity (see `identity`)."""
    source, recipe = about["source"], about["recipe"]["name"]
    theirs = _metadata(plan)
    base = source.get("repo") or theirs.get("base_model")
    quantised = any(entry.name.endswith(".scales") for entry in plan.layout.entries)
    facts: dict[str, Any] = {
        "language": theirs.get("language"),
        "library_name": "mlx",
        "pipeline_tag": "image-text-to-text" if _has_vision(plan) else "text-generation",
        "tags": ["mlx", "llama", "llama-4", "mlx-maverick"],
        "base_model": base,
    }
    if base and quantised:
        facts["base_model_relation"] = "quantized"
    data = ModelCardData(
        **facts, **({key: theirs[key] for key in LICENSE if key in theirs} or LICENSE)
    )
    name = (source.get("repo") or source.get("folder")).rpartition("/")[2]
    text = "\n".join(_lines(plan, about, name, recipe))
    return f"---\n{data.to_yaml()}\n---\n\n{text}\n".encode()


def _lines(plan: Plan, about: Mapping[str, Any], name: str, recipe: str) -> Iterator[str]:
    source, tools = about["source"], about["tools"]
    commit = f" at commit `{source['commit']}`" if source.get("commit") else ""
    yield f"# {name}, {recipe}, for MLX"
    yield ""
    yield f"{BUILT_WITH}. Licence and use policy are those of the source: see the files beside."
    yield ""
    yield (
        f"Made from `{source.get('repo') or source['folder']}`{commit} ({source['form']}) by "
        f"mlx-maverick {tools['mlx-maverick']} with MLX {tools['mlx']}. {HOW[about['quantiser']]}"
    )
    yield ""
    yield "| weights | stored as | parameters | size |"
    yield "|---|---|---|---|"
    total = 0
    for kind, (stored, count, nbytes) in _classes(plan).items():
        yield f"| {kind} | {', '.join(sorted(stored))} | {_billions(count)} | {gb(nbytes)} |"
        total += nbytes
    yield f"| all | | | {gb(total)} |"
    yield ""
    if rules := about["recipe"].get("rules"):
        yield f"Rules of the recipe: {', '.join(f'`{rule}`' for rule in rules)}."
        yield ""
    yield "```sh"
    yield f"mlx-maverick chat --model {name}-{recipe}"
    yield "```"
    yield ""
    yield "The folder also loads in mlx-lm (text) and mlx-vlm. `maverick.json` has a SHA-256 of"
    yield "every file; `mlx-maverick verify` checks them."


HOW = {
    "none": "Codes, scales and biases are the source's.",
    "least squares": "Scales and biases are those of least squared error of the weights.",
    "min-max": "Scales and biases are those of each group's smallest and largest weight.",
}


def _classes(plan: Plan) -> dict[str, tuple[set[str], int, int]]:
    """By class of weights: how they are stored, how many there are, and bytes."""
    found: dict[str, tuple[set[str], int, int]] = {}
    groups = {e.name: e.shape[-1] for e in plan.layout.entries if e.name.endswith(".scales")}
    settings = plan.quants
    for entry in plan.layout.entries:
        path, _, kind = entry.name.rpartition(".")
        cls = str(tensor_class(entry.name) or TensorClass.NORM)
        stored, count, nbytes = found.setdefault(cls, (set(), 0, 0))
        quant = settings.get(path)
        if f"{path}.scales" not in groups or kind == "bias":
            stored.add(entry.dtype.lower())
            count += prod(entry.shape)
        elif kind == "weight" and quant:
            stored.add(f"{quant.bits} bits, groups of {quant.group_size}")
            count += prod(entry.shape) * 32 // quant.bits
        found[cls] = (stored, count, nbytes + entry.nbytes)
    return found


def _metadata(plan: Plan) -> dict[str, Any]:
    """That of the source's own card; nothing if it has none, or one that cannot be read."""
    if CARD not in plan.files.sizes:
        return {}
    try:
        text = read_whole(plan.files, CARD, limit=1 << 20).decode()
        return dict(ModelCard(text, ignore_metadata_errors=True).data.to_dict())  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001 - YAML of any kind; the card is a courtesy
        return {}


def _has_vision(plan: Plan) -> bool:
    return any(e.name.startswith("vision_model.") for e in plan.layout.entries)


def _billions(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"
