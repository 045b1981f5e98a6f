"""The main path on the published format: every step, and what a caller sees of it."""

import json
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_maverick.checkpoint import Checkpoint
from mlx_maverick.config import ModelConfig, Quant
from mlx_maverick.convert import Converted, Planned, Progress, convert, formats, stream
from mlx_maverick.convert import plan as plan_module
from mlx_maverick.convert.manifest import MANIFEST
from mlx_maverick.convert.outputs import outputs
from mlx_maverick.convert.plan import Job
from mlx_maverick.convert.recipe import Recipe
from mlx_maverick.convert.values import BLOCK_WEIGHTS
from mlx_maverick.convert.verify import verify
from mlx_maverick.errors import BadCheckpoint, NotFound, UsageError

from . import damage
from .conftest import Pair, planned

CARD = "README.md"
LAYER = "language_model.model.layers.1"


def bits_of(recipe: str) -> tuple[int, int]:
    return int(recipe[1]), int(recipe[3])


def test_dequantised_matrices_are_near_the_source(pair: Pair) -> None:
    """With the default settings; catches a swapped gate and up, a transposition, the wrong
    expert."""
    source, made = damage.tensors(pair.source), damage.tensors(pair.folder)
    config = ModelConfig.from_folder(pair.folder)
    assert config.quantization
    for name, values in source.items():
        if name in made and f"{name.removesuffix('.weight')}.scales" not in made:
            assert mx.array_equal(made[name].view(mx.uint16), values.view(mx.uint16)), name
            continue
        paths = {name.removesuffix(".weight"): values}
        if name.endswith("gate_up_proj"):
            gate, up = mx.split(values, 2, axis=-1)
            path = name.removesuffix("gate_up_proj")
            paths = {f"{path}gate_proj": mx.swapaxes(gate, 1, 2)}
            paths[f"{path}up_proj"] = mx.swapaxes(up, 1, 2)
        elif name.endswith("experts.down_proj"):
            paths = {name: mx.swapaxes(values, 1, 2)}
        for path, matrix in paths.items():
            quant = config.quantization.of(path)
            assert quant is not None
            scales, biases = (
                made[f"{path}.{kind}"].astype(mx.float32) for kind in ("scales", "biases")
            )
            back = mx.dequantize(
                made[f"{path}.weight"], scales, biases, quant.group_size, quant.bits
            )
            # Of evenly spread weights the error is a twelfth of the squared step; random ones
            # of another place would be off by more than the weights themselves.
            wanted = matrix.astype(mx.float32)
            error = mx.square(back - wanted).mean()
            assert error < 0.15 * mx.square(scales).mean() < 0.1 * mx.square(wanted).mean(), path


def test_two_runs_give_the_same_bytes(pair: Pair, out: Path) -> None:
    convert(pair.source, out, pair.recipe)
    names = sorted(p.name for p in pair.folder.iterdir())
    assert sorted(p.name for p in out.iterdir()) == names
    for name in names:
        assert (out / name).read_bytes() == (pair.folder / name).read_bytes(), name


@pytest.mark.parametrize(
    ("recipe", "rules", "several"),
    [
        ("e2g128r5g32", [], True),
        ("e3r6", ["routed@first,last=+1", "attention_v=8g32", "dense@0-3=bf16"], False),
        ("e8r8", ["router=8", "vision=8", "projector=4g32"], False),
        ("e4r4", ["routed=bf16", "shared=bf16", "dense=bf16", "attention=bf16", "embed=bf16",
                  "lm_head=bf16"], True),
    ],
)  # fmt: skip
def test_the_plan_predicts_every_byte(
    mini: Path, out: Path, recipe: str, rules: list[str], several: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if several:  # small files
        of = plan_module.Layout.of
        monkeypatch.setattr(plan_module.Layout, "of", lambda entries: of(entries, 300_000))
    rules = [rule for rule in rules if not (rule.startswith("dense") and "scout" in mini.name)]
    plan, wanted = planned(mini, recipe, *rules), Recipe.parse(recipe, rules)
    convert(mini, out, wanted, fast=True)
    sizes = {p.name: p.stat().st_size for p in out.iterdir() if p.name not in (MANIFEST, CARD)}
    assert plan.sizes == sizes
    assert plan.nbytes == sum(sizes.values())
    assert plan.layout.nbytes == sum(s for n, s in sizes.items() if n.endswith(".safetensors"))
    assert (len(plan.layout.shards) > 4) == several
    found = {n: (t.dtype, t.shape) for n, t in Checkpoint.open(out).tensors.items()}
    entries = outputs(ModelConfig.from_folder(mini), wanted)
    assert found == {e.name: (e.dtype, e.shape) for e in entries}
    assert verify(out).recipe == wanted.name


def test_config_and_index(pair: Pair) -> None:
    config = ModelConfig.from_folder(pair.folder)
    assert config.quantization
    experts, rest = bits_of(pair.recipe)
    assert config.quantization.of(f"{LAYER}.feed_forward.experts.up_proj") == Quant(64, experts)
    assert config.quantization.of(f"{LAYER}.self_attn.q_proj") == Quant(64, rest)
    assert config.quantization.of("language_model.lm_head") == Quant(64, rest)
    written = json.loads((pair.folder / "config.json").read_text())
    source = json.loads((pair.source / "config.json").read_text())
    assert written.pop("quantization") == written.pop("quantization_config")
    assert written == source
    index = json.loads((pair.folder / damage.INDEX).read_text())
    parameters = sum(t.size for t in Checkpoint.open(pair.source).tensors.values())
    size = sum(t.nbytes for t in Checkpoint.open(pair.folder).tensors.values())
    assert index["metadata"] == {"total_size": size, "total_parameters": parameters}


def test_rules_are_written_for_each_path(maverick_mini: Path, out: Path) -> None:
    """The default, once, and what differs from it: so that every reader finds the same bits."""
    rules = ["routed_down@first=8g32", "attention_v=8", "vision=8", "shared=bf16"]
    convert(maverick_mini, out, Recipe.parse("e4r6", rules), fast=True)
    section = json.loads((out / "config.json").read_text())["quantization"]
    assert (section["bits"], section["group_size"]) in [(4, 64), (6, 64), (8, 64)]
    settings = ModelConfig.from_folder(out).quantization
    assert settings is not None
    held = damage.tensors(out)
    for path, wanted in {
        f"{LAYER}.feed_forward.experts.down_proj": Quant(32, 8),
        "language_model.model.layers.3.feed_forward.experts.down_proj": Quant(64, 4),
        f"{LAYER}.self_attn.v_proj": Quant(64, 8), f"{LAYER}.self_attn.k_proj": Quant(64, 6),
        "vision_model.model.layers.2.mlp.fc1": Quant(64, 8),
    }.items():  # fmt: skip
        assert settings.of(path) == wanted
        scales = held[f"{path}.scales"]
        columns = held[f"{path}.weight"].shape[-1] * 32 // wanted.bits
        assert columns == scales.shape[-1] * wanted.group_size
    packed = {name.removesuffix(".scales") for name in held if name.endswith(".scales")}
    assert {key for key in section if "." in key} < packed
    assert f"{LAYER}.feed_forward.shared_expert.up_proj" not in packed


def test_the_folder_is_whole_and_has_the_tokenizer(pair: Pair) -> None:
    assert verify(pair.folder).recipe == pair.recipe
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
                 "generation_config.json", "preprocessor_config.json"):  # fmt: skip
        assert (pair.folder / name).read_bytes() == (pair.source / name).read_bytes()
    assert not (pair.folder / "golden").exists()
    assert not list(pair.folder.glob(".*"))
    assert not pair.folder.with_name(pair.folder.name + ".partial").exists()


def test_no_block_size_changes_a_byte(
    maverick_mini: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with the full-size model: an embedding in many blocks, an expert in several."""
    usual = convert(maverick_mini, out.with_name("usual"), "e4r4").folder
    monkeypatch.setattr(formats, "BLOCK_BYTES", 20_000)
    of_any = dict.fromkeys(BLOCK_WEIGHTS, 100 * 128)
    monkeypatch.setattr("mlx_maverick.convert.values.BLOCK_WEIGHTS", of_any)
    convert(maverick_mini, out, "e4r4")
    for file in usual.iterdir():
        assert file.read_bytes() == (out / file.name).read_bytes()


def test_nothing_larger_than_an_expert_is_read_at_once(
    maverick_mini: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "BLOCK_BYTES", 10_000)
    shards = {file.stat().st_ino for file in maverick_mini.glob("*.safetensors")}
    sizes, preadv = Counter[int](), os.preadv

    def spy(file: int, buffers: list[memoryview], offset: int) -> int:
        if os.fstat(file).st_ino in shards:
            sizes[sum(len(b) for b in buffers)] += 1
        return preadv(file, buffers, offset)

    monkeypatch.setattr(os, "preadv", spy)
    monkeypatch.setattr(mx, "load", None)  # would read whole tensors
    planned(maverick_mini, "e4r4")
    headers = set(sizes)
    sizes.clear()
    convert(maverick_mini, out, "e4r4", fast=True)
    gate_up, down = 128 * 256 * 2, 128 * 128 * 2  # of one expert
    assert (sizes[gate_up], sizes[down]) == (4 * 16, 4 * 16)
    assert max(set(sizes) - headers - {gate_up, down}) <= 10_000


def test_the_work_does_not_grow_with_the_square_of_the_jobs(
    maverick_mini: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full-size Maverick has ten thousand: summing them up for each event took ten minutes."""
    asked, nbytes = [], Job.nbytes.fget
    monkeypatch.setattr(Job, "nbytes", property(lambda job: asked.append(1) or nbytes(job)))
    convert(maverick_mini, out, "e4r4", fast=True)
    assert len(asked) < 10 * len(planned(maverick_mini, "e4r4").jobs)


def test_mlx_keeps_little_and_its_limit_is_given_back(maverick_mini: Path, out: Path) -> None:
    before = mx.set_cache_limit(123_456_789)
    try:
        convert(maverick_mini, out, "e4r4", fast=True)
        assert mx.set_cache_limit(before) == 123_456_789
    finally:
        mx.set_cache_limit(before)


def test_the_events(maverick_mini: Path, out: Path) -> None:
    events = list(stream(maverick_mini, out, "e4r4", fast=True))
    first, last, steps = events[0], events[-1], events[1:-1]
    assert isinstance(first, Planned)
    assert isinstance(last, Converted)
    assert (first.source, first.commit, first.form) == (str(maverick_mini), None, "BF16")
    assert (first.recipe, first.folder, first.layers) == ("e4r4", Path(f"{out}.partial"), 8)
    tensors = Checkpoint.open(maverick_mini)
    assert (first.to_read, first.done) == (tensors.nbytes, 0)
    assert first.weights == last.weights == sum(t.size for t in tensors.tensors.values())
    for stage in ("converting", "hashing"):
        seen = [p for p in steps if isinstance(p, Progress) and p.stage == stage]
        assert all(a.done <= b.done for a, b in pairwise(seen))
        assert {p.total for p in seen} == {seen[-1].done}
        assert seen[-1].total > 0
    whats = [p.what for p in steps if isinstance(p, Progress)]
    assert any("experts.gate_up_proj (expert 15)" in what for what in whats)
    assert last.folder == out
    assert last.recipe == "e4r4"
    sizes = {p.name: p.stat().st_size for p in out.iterdir()}
    assert set(last.files) == set(sizes)
    assert last.nbytes == sum(sizes.values())
    # maverick.json, the journal and the card come on top of what is planned
    assert 0 < last.nbytes - first.nbytes < plan_module.MARGIN_BYTES
    assert last.seconds > 0
    assert last.stages.reading > 0
    assert last.stages.writing > 0


def test_a_callback_sees_the_same(maverick_mini: Path, out: Path) -> None:
    seen: list[object] = []
    assert convert(maverick_mini, out, "e4r4", seen.append, fast=True) is seen[-1]
    assert isinstance(seen[0], Planned)


def test_a_recipe_may_be_its_name_a_file_or_itself(maverick_mini: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('base = "e4r4"\nname = "mine"\n[bits]\nrouted_down = 5\n')
    made = convert(maverick_mini, tmp_path / "a", str(file), fast=True)
    assert (made.recipe, verify(made.folder).recipe) == ("mine", "mine")
    about = json.loads((made.folder / MANIFEST).read_text())
    assert about["recipe"]["rules"] == ["routed_down=5"]
    convert(maverick_mini, tmp_path / "b", Recipe.parse(str(file)), fast=True)
    for path in made.folder.iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("recipe", "why"), [("4bit", "no recipe '4bit'"), ("e7r4", "no 7-bit"), ("keep", "nothing to")]
)
def test_recipes_that_make_no_sense(maverick_mini: Path, out: Path, recipe: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        convert(maverick_mini, out, recipe)
    assert list(out.parent.iterdir()) == []


def test_nothing_is_written_before_everything_is_checked(source: Path, out: Path) -> None:
    def refused(kind: type[Exception], why: str, source: Path = source, out: Path = out) -> None:
        with pytest.raises(kind, match=why) as caught:
            convert(source, out, "e4r4")
        assert "\n" not in str(caught.value)

    before = sorted(source.iterdir())
    refused(UsageError, "inside the source", out=source / "out")
    refused(NotFound, "does not exist", source=Path("/nowhere/at/all"))
    refused(NotFound, "not a folder; create it", out=out.parent / "no" / "model")
    refused(UsageError, "exists already", out=out.parent)
    damage.change(source, {"language_model.lm_head.weight": None})
    refused(BadCheckpoint, "lacks")
    assert sorted(source.iterdir()) == before
    assert list(out.parent.iterdir()) == []
