"""The model card, as the Hub and a person read it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from mlx_maverick.checkpoint import Checkpoint
from mlx_maverick.convert import convert
from mlx_maverick.convert.card import card
from mlx_maverick.convert.identity import identity
from mlx_maverick.convert.origin import describe
from mlx_maverick.units import gb

from .conftest import planned

Made = Callable[[str, str, bool], Path]
THEIRS = """---
base_model: meta-llama/Llama-4-Maverick-17B-128E
language: [ar, en]
license: other
license_name: llama4
license_link: https://example.org/licence
pipeline_tag: any-to-any
extra_gated_prompt: "**sign** here"
model-index: 4
---

# A poem
"""


def made(source: Path, recipe: str = "e4r6", *rules: str, fast: bool = False) -> ModelCard:
    """The card of a conversion that is not carried out."""
    plan = planned(source, recipe, *rules)
    return ModelCard(card(plan, identity(plan, describe(plan.files), fast)).decode())


def facts(card: ModelCard) -> dict[str, Any]:
    return dict(card.data.to_dict())


def rows(card: ModelCard) -> dict[str, list[str]]:
    lines = [line.split("|")[1:-1] for line in card.text.splitlines() if line.startswith("| ")]
    return {name.strip(): [cell.strip() for cell in cells] for name, *cells in lines[1:]}


def test_a_source_without_a_card(source: Path) -> None:
    (source / "LICENSE").write_text("do good")
    found = made(source)
    assert facts(found) == {
        "library_name": "mlx", "pipeline_tag": "image-text-to-text",
        "tags": ["mlx", "llama", "llama-4", "mlx-maverick"],
        "license": "other", "license_name": "llama4", "license_link": "LICENSE",
    }  # fmt: skip
    assert "Built with Llama. Licence and use policy are those of the source: see" in found.text
    (source / "LICENSE").unlink()
    found = made(source)
    assert "license_link" not in facts(found)  # it would lead nowhere
    assert "those of the source.\n" in found.text


def test_what_the_sources_card_says_is_taken_over(source: Path) -> None:
    (source / "README.md").write_text(THEIRS)
    found = made(source)
    assert facts(found) == {
        "library_name": "mlx", "pipeline_tag": "image-text-to-text", "language": ["ar", "en"],
        "tags": ["mlx", "llama", "llama-4", "mlx-maverick"],
        "base_model": "meta-llama/Llama-4-Maverick-17B-128E", "base_model_relation": "quantized",
        "license": "other", "license_name": "llama4",
        "license_link": "https://example.org/licence",
    }  # fmt: skip
    assert "poem" not in found.content
    assert "sign" not in found.content


def test_a_link_to_a_file_that_comes_along(source: Path) -> None:
    (source / "README.md").write_text("---\nlicense: other\nlicense_link: LICENSE.md\n---\n")
    assert "license_link" not in facts(made(source))
    (source / "LICENSE.md").write_text("do good")
    found = facts(made(source))
    assert (found["license"], found["license_link"]) == ("other", "LICENSE.md")
    assert "license_name" not in found  # it is not for us to add to theirs


def test_the_repository_is_the_base_model(source: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--meta-llama--Llama-4-Maverick/snapshots/0123abc"
    snapshot.parent.mkdir(parents=True)
    source.rename(snapshot)
    (snapshot / "README.md").write_text(THEIRS)
    found = made(snapshot)
    assert facts(found)["base_model"] == "meta-llama/Llama-4-Maverick"
    assert facts(found)["base_model_relation"] == "quantized"
    assert "# Llama-4-Maverick, e4r6, for MLX" in found.text
    assert "`meta-llama/Llama-4-Maverick` at commit `0123abc` (BF16)" in found.text


@pytest.mark.parametrize(
    "text",
    [b"", b"plain", b"---\n: :\n - [\n---\n", b"---\n- a\n---\n", b"---\nlicense: \n---\n",
     b"---\nlicense: \xff\n---\n", b"---\n" + b"x" * (2 << 20)],
)  # fmt: skip
def test_a_card_that_makes_no_sense(
    source: Path, text: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    (source / "README.md").write_bytes(text)
    assert facts(made(source))["license_name"] == "llama4"
    assert capfd.readouterr() == ("", "")


def test_sizes_add_up(pair: Any) -> None:
    found, tensors = ModelCard.load(pair.folder / "README.md"), Checkpoint.open(pair.folder)
    table = rows(found)
    assert table.pop("all") == ["", "", gb(tensors.nbytes)]
    experts, rest = (f"{bits} bits, groups of 64" for bits in (pair.recipe[1], pair.recipe[3]))
    assert table["routed experts"][0] == experts
    assert table["attention"][0] == table["lm_head"][0] == rest
    assert table["router"][0] == table["vision"][0] == table["norms"][0] == "bf16"
    source = Checkpoint.open(pair.source)
    count = sum(float(cells[1].removesuffix(" M")) for cells in table.values())
    total = sum(t.size for t in source.tensors.values())
    assert count == pytest.approx(total / 1e6, abs=0.005 * len(table))
    for name, below in {"routed experts": ".experts.", "vision": "vision_model."}.items():
        wanted = sum(t.size for n, t in source.tensors.items() if below in n)
        assert table[name][1] == f"{wanted / 1e6:.2f} M"
        written = sum(t.nbytes for n, t in tensors.tensors.items() if below in n)
        assert table[name][2] == gb(written)


def test_mixed_bits_are_listed(source: Path) -> None:
    found = made(source, "e4r6", "routed_down@first=8g32", "vision=8", "lm_head=bf16")
    table = rows(found)
    assert table["routed experts"][0] == "4 bits, groups of 64; 8 bits, groups of 32"
    assert table["vision"][0] == "8 bits, groups of 64; bf16"
    assert table["lm_head"][0] == "bf16"
    assert (
        "Rules of the recipe: `routed_down@first=8g32`, `vision=8`, `lm_head=bf16`." in found.text
    )
    assert "# source, e4r6-mixed, for MLX" in found.text


def test_a_model_that_is_not_quantised_is_none_of_quantised(source: Path) -> None:
    (source / "README.md").write_text(THEIRS)
    rules = ("routed", "shared", "dense", "attention", "embed", "lm_head")
    found = facts(made(source, "e8r8", *(f"{name}=bf16" for name in rules)))
    assert found["base_model"]
    assert "base_model_relation" not in found


def test_how_it_was_made(source: Path, in_form: Callable[[str], Path]) -> None:
    assert "least squared error" in made(source).text
    assert "smallest and largest weight" in made(source, fast=True).text
    kept = made(in_form("mlx-8bit"), "keep").text
    assert "are the source's" in kept
    assert "# mlx-8bit, for MLX" in kept
    assert "--model mlx-8bit\n" in kept
    assert "--model source-e4r6\n" in made(source).text
    assert "(FP8 (fbgemm))" in made(in_form("fbgemm")).text


def test_a_text_model_says_so(in_form: Callable[[str], Path]) -> None:
    found = made(in_form("mlx-lm"), "keep")
    assert facts(found)["pipeline_tag"] == "text-generation"
    assert "mlx-vlm" not in found.text
    assert "mlx-vlm" in made(in_form("mlx-8bit"), "keep").text


def test_the_same_card_for_the_same_conversion(source: Path, out: Path) -> None:
    (source / "README.md").write_text(THEIRS)
    convert(source, out, "e4r6")
    plan = planned(source, "e4r6")
    assert (out / "README.md").read_bytes() == card(
        plan, identity(plan, describe(plan.files), False)
    )
    assert str(source.parent) not in (out / "README.md").read_text()
