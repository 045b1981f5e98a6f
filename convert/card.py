"""The model card: README.md of the output, with the metadata that the Hub reads.

Knows nothing of how the weights were made beyond what it is told. Metadata:
https://huggingface.co/docs/hub/model-cards#model-card-metadata
"""

from collections.abc import Iterator, Mapping
from math import prod
from shlex import quote
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from mlx_maverick.files import read_whole
from mlx_maverick.names import TensorClass, tensor_class
from mlx_maverick.units import gb

from .plan import Plan

CARD = "README.md"
# Llama 4's licence, section 1.b.i, asks for these words where the weights are passed on.
BUILT_WITH = "Built with Llama"
MAX_CARD_BYTES = 1 << 20
LICENSE = {"license": "other", "license_name": "llama4", "license_link": "LICENSE"}


def card(plan: Plan, about: Mapping[str, Any]) -> bytes:
    """The card of a conversion of this identity (see `identity`)."""
    source, recipe = about["source"], about["recipe"]["name"]
    theirs = _metadata(plan)
    base = source.get("repo") or theirs.get("base_model")
    facts: dict[str, Any] = {
        "language": theirs.get("language"),
        "library_name": "mlx",
        "pipeline_tag": "image-text-to-text" if _has_vision(plan) else "text-generation",
        "tags": ["mlx", "llama", "llama-4", "mlx-maverick"],
        "base_model": base,
    }
    if base and plan.quants:
        facts["base_model_relation"] = "quantized"
    data = ModelCardData(**facts, **_licence(plan, theirs))
    name = (source.get("repo") or source.get("folder")).rpartition("/")[2]
    text = "\n".join(_lines(plan, about, name, recipe))
    return f"---\n{data.to_yaml()}\n---\n\n{text}\n".encode()


def _lines(plan: Plan, about: Mapping[str, Any], name: str, recipe: str) -> Iterator[str]:
    source, tools = about["source"], about["tools"]
    commit = f" at commit `{source['commit']}`" if source.get("commit") else ""
    kept = plan.recipe is None
    yield f"# {name}, for MLX" if kept else f"# {name}, {recipe}, for MLX"
    yield ""
    licensed = any(document.startswith("LICENSE") for document in plan.documents)
    beside = ": see the files beside" if licensed else ""
    yield f"{BUILT_WITH}. Licence and use policy are those of the source{beside}."
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
        yield f"| {kind} | {'; '.join(sorted(stored))} | {_billions(count)} | {gb(nbytes)} |"
        total += nbytes
    yield f"| all | | | {gb(total)} |"
    yield ""
    if rules := about["recipe"].get("rules"):
        yield f"Rules of the recipe: {', '.join(f'`{rule}`' for rule in rules)}."
        yield ""
    yield "```sh"
    yield f"mlx-maverick chat --model {quote(name if kept else f'{name}-{recipe}')}"
    yield "```"
    yield ""
    others = "mlx-lm (text) and mlx-vlm" if _has_vision(plan) else "mlx-lm"
    yield f"The folder also loads in {others}. `maverick.json` has a SHA-256 of"
    yield "every file; `mlx-maverick verify` checks them."


HOW = {
    "none": "Codes, scales and biases are the source's.",
    "least squares": "Scales and biases are those of least squared error of the weights.",
    "min-max": "Scales and biases are those of each group's smallest and largest weight.",
}


def _classes(plan: Plan) -> dict[str, tuple[set[str], int, int]]:
    """By class of weights: how they are stored, how many there are, and bytes."""
    found: dict[str, tuple[set[str], int, int]] = {}
    for entry in plan.layout.entries:
        path, _, kind = entry.name.rpartition(".")
        cls = str(tensor_class(entry.name) or TensorClass.NORM)
        stored, count, nbytes = found.setdefault(cls, (set(), 0, 0))
        quant = plan.quants.get(path)
        if not quant or kind == "bias":
            stored.add(entry.dtype.lower())
            count += prod(entry.shape)
        elif kind == "weight":
            stored.add(f"{quant.bits} bits, groups of {quant.group_size}")
            count += prod(entry.shape) * 32 // quant.bits
        found[cls] = (stored, count, nbytes + entry.nbytes)
    return found


def _licence(plan: Plan, theirs: Mapping[str, Any]) -> dict[str, Any]:
    """What the source says of it, or Llama 4's; a link to a file only if there is one."""
    found = {key: theirs[key] for key in LICENSE if key in theirs} or dict(LICENSE)
    link = str(found.get("license_link"))
    if "://" not in link and link not in plan.documents:
        found.pop("license_link", None)
    return found


def _metadata(plan: Plan) -> dict[str, Any]:
    """That of the source's own card; nothing if it has none, or one that makes no sense."""
    if not 0 < plan.files.sizes.get(CARD, 0) <= MAX_CARD_BYTES:
        return {}
    text = read_whole(plan.files, CARD)
    if not text.startswith(b"---"):  # or huggingface_hub warns of it
        return {}
    try:
        return dict(ModelCard(text.decode(), ignore_metadata_errors=True).data.to_dict())  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001 - YAML of any kind; the card is a courtesy
        return {}


def _has_vision(plan: Plan) -> bool:
    return any(e.name.startswith("vision_model.") for e in plan.layout.entries)


def _billions(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"
