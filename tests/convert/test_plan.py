"""Plans: full-size ones to the byte, and what is refused before anything is written."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from math import prod
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import pytest

from mlx_maverick.checkpoint import Checkpoint, Tensor
from mlx_maverick.config import ModelConfig
from mlx_maverick.convert import plan as plan_module
from mlx_maverick.convert.conversion import peak_bytes
from mlx_maverick.convert.formats import BLOCK_BYTES
from mlx_maverick.convert.layout import MAX_SHARD_BYTES, PAGE, Layout
from mlx_maverick.convert.outputs import outputs
from mlx_maverick.convert.plan import Plan, plan
from mlx_maverick.convert.published import shapes
from mlx_maverick.convert.recipe import OFFERED, Recipe
from mlx_maverick.errors import BadCheckpoint, DoesNotFit, NotFound, UsageError
from mlx_maverick.files import Folder

from . import damage, full_size
from .conftest import planned, refused

ROUTER = "language_model.model.layers.1.feed_forward.router.weight"
GATE_UP = "language_model.model.layers.3.feed_forward.experts.gate_up_proj"
FORMS = ("BF16", "compressed", "fbgemm")
EXPERT = 5120 * 16384 * 2  # bytes of the gate and up of one, in BF16

Full = Callable[..., Plan]


class Disk(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Full:
    """The plan of the full-size model: by recipe, rules and format."""
    folder = tmp_path_factory.mktemp("full")

    def make(recipe: str, *rules: str, form: str = "BF16") -> Plan:
        checkpoint, config = full_size.checkpoint(folder, form), full_size.config(form)
        return plan(config, checkpoint, Recipe.parse(recipe, rules), Folder(folder))

    return make


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        ("e2g128r4", 118.5), ("e2r4", 130.5), ("e2r6", 134.1), ("e3g128r6", 170.3),
        ("e3r6", 182.4), ("e4r4", 227.1), ("e4r6", 230.7), ("e4r8", 234.2), ("e5r8", 282.6),
        ("e6r8", 330.9), ("e8r8", 427.5),
    ],
)  # fmt: skip
def test_size_of_the_full_model(full: Full, name: str, gigabytes: float) -> None:
    """Those of facts.md, which leave the headers and the norms out."""
    made = full(name)
    entries = outputs(ModelConfig.from_dict(full_size.CONFIG), Recipe.named(name))
    assert made.layout == Layout.of(entries)
    assert made.nbytes / 1e9 == pytest.approx(gigabytes, abs=0.07)
    exact = sum(prod(e.shape) * {"U32": 4, "BF16": 2}[e.dtype] for e in entries)
    assert sum(shard.data_nbytes for shard in made.layout.shards) == exact
    assert 0 < made.layout.nbytes - exact < 2 * 10**6  # headers
    assert made.weights == sum(map(prod, full_size.SHAPES.values()))
    assert all(shard.data_nbytes <= MAX_SHARD_BYTES for shard in made.layout.shards)


def test_rules_change_the_size_by_what_they_say(full: Full) -> None:
    less = full("e4r4").layout.nbytes
    more = full("e4r4", "routed_down@first,last=5", "lm_head=8g32").layout.nbytes
    change = 2 * 128 * 5120 * 8192 // 8 + 202048 * 5120 * (4 + 0.5) / 8
    assert more - less == pytest.approx(change, abs=2 * PAGE * 100)
    assert (more - less - change) % PAGE == 0  # headers are whole pages


@pytest.mark.parametrize("form", FORMS)
def test_the_format_changes_nothing_of_the_output(full: Full, form: str) -> None:
    assert full("e3r6", form=form).layout == full("e3r6").layout


@pytest.mark.parametrize("form", FORMS)
def test_no_slice_of_the_full_model_is_larger_than_an_expert(full: Full, form: str) -> None:
    made = full("e4r4", form=form)
    for job in made.jobs:
        routed = ".experts." in str(job)
        assert job.nbytes <= (EXPERT if routed else BLOCK_BYTES)
        assert len({part.piece.name for part in job.parts}) == len(job.parts) <= 2
    assert made.read_nbytes == full_size.checkpoint(Path(), form).nbytes


@pytest.mark.parametrize(
    ("form", "experts", "read"),
    [
        ("BF16", 2 * 128 * 24, 803.2),  # gate and up lie together
        ("fbgemm", 2 * 128 * 24, 413.9),
        ("compressed", 3 * 128 * 24, 416.7),
    ],
)
def test_jobs_of_the_full_model(full: Full, form: str, experts: int, read: float) -> None:
    made = full("e4r6", form=form)
    count = Counter(".experts." in str(job) for job in made.jobs)
    assert count[True] == experts
    # 1 061 published tensors, 48 of them experts; the larger matrices in blocks.
    assert 1061 - 48 < count[False] < 2000
    assert made.read_nbytes / 1e9 == pytest.approx(read, abs=0.06)
    slices = [slice for job in made.jobs for slice in job.slices]
    assert len(set(slices)) == len(slices)  # nothing is read twice


@pytest.mark.parametrize("recipe", OFFERED, ids=lambda recipe: recipe.name)
def test_a_layers_experts_are_together(full: Full, recipe: Recipe) -> None:
    """In a run of each file, and in no more files than that takes; except at 2 bits, where a
    layer's experts would nearly fill a file and begin wherever the last one's ended."""
    shards = full(recipe.name).layout.shards
    files: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    for shard in shards:
        layers = [e.name.rsplit(".", 2)[0] for e in shard.entries if _routed(e.name)]
        runs = [layer for layer, _ in groupby(layers)]
        assert len(set(runs)) == len(runs)
        files.update(runs)
        for entry in shard.entries:
            if _routed(entry.name):
                nbytes[entry.name.rsplit(".", 2)[0]] += entry.nbytes
    assert len(files) == 24
    for layer, count in files.items():
        least = -(-nbytes[layer] // MAX_SHARD_BYTES)
        assert count <= (2 if recipe.experts.bits == 2 else least), layer
    # Not one file for each of the 216 tensors, nor small ones between large ones.
    assert len(shards) <= 1.6 * sum(shard.nbytes for shard in shards) / MAX_SHARD_BYTES


@pytest.mark.parametrize(
    ("recipe", "rules"),
    [*((recipe.name, ()) for recipe in OFFERED),
     ("e3g32r6", ("routed@first,last=+1", "routed_down=5g32")), ("e4r4", ("routed=bf16",))],
)  # fmt: skip
def test_every_expert_lies_on_pages(full: Full, recipe: str, rules: tuple[str, ...]) -> None:
    """Of Apple silicon: reading past the system's file cache asks for that."""
    assert PAGE == 16 << 10
    layout = full(recipe, *rules).layout
    experts = [entry for entry in layout.entries if _routed(entry.name)]
    assert len(experts) == 24 * 3 * (1 if rules == ("routed=bf16",) else 3)
    for entry in experts:
        each = entry.nbytes // entry.shape[0]
        assert entry.shape[0] == 128
        assert each % PAGE == layout.places[entry.name].offset % PAGE == 0, entry.name


def _routed(name: str) -> bool:
    return ".feed_forward.experts." in name


def test_biases_of_attention_stay_bf16(tmp_path: Path) -> None:
    config = json.loads(json.dumps(full_size.CONFIG))
    config["text_config"]["attention_bias"] = True
    config["text_config"]["num_hidden_layers"] = 2
    del config["vision_config"]
    tensors = {
        name: Tensor(name, "BF16", shape, tmp_path / "model.safetensors", 0, 2 * prod(shape))
        for name, shape in shapes(ModelConfig.from_dict(config)).items()
    }
    recipe = Recipe.named("e4r6")
    layout = plan(config, Checkpoint(tmp_path, tensors), recipe, Folder(tmp_path)).layout
    kinds = {e.name: e.dtype for e in layout.entries if "layers.1.self_attn.o_proj" in e.name}
    path = "language_model.model.layers.1.self_attn.o_proj"
    assert kinds == {
        f"{path}.weight": "U32", f"{path}.scales": "BF16", f"{path}.biases": "BF16",
        f"{path}.bias": "BF16",
    }  # fmt: skip


def test_too_little_disk(full: Full, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = full("e4r4")

    def free(gigabytes: float) -> None:
        disk = Disk(9, 9, int(gigabytes * 1e9))
        monkeypatch.setattr(plan_module.shutil, "disk_usage", lambda _: disk)

    free(100)
    with pytest.raises(DoesNotFit, match=r"needs 227\.2 GB.*has 100\.0 GB free; make room"):
        made.check_room(tmp_path)
    made.check_room(tmp_path, there=130 * 10**9)  # of an earlier run
    free(228)
    made.check_room(tmp_path)


def test_two_sources_have_two_fingerprints(source: Path, tmp_path: Path) -> None:
    before = planned(source, "e4r4").fingerprint
    again = damage.copy(source, tmp_path / "again")
    assert planned(again, "e8r8").fingerprint == before
    damage.edit_json(again / "config.json", torch_dtype="float16")
    assert planned(again, "e4r4").fingerprint != before
    damage.change(source, {ROUTER: mx.zeros((16, 128))})
    assert planned(source, "e4r4").fingerprint != before


# What is refused


def test_missing_tensors(source: Path) -> None:
    damage.change(source, {ROUTER: None})
    refused(source, BadCheckpoint, f"lacks {ROUTER} .1 of \\d+ tensors are missing.; download")


def test_a_missing_half(source: Path) -> None:
    """Only an MLX folder may do without pictures: mlx-lm drops them."""
    names = [n for n in damage.tensors(source) if n.startswith(("vision", "multi"))]
    damage.change(source, dict.fromkeys(names))
    refused(source, BadCheckpoint, f"{len(names)} of")


def test_wrong_shape(source: Path) -> None:
    damage.change(source, {ROUTER: mx.zeros((16, 64), mx.bfloat16)})
    refused(source, BadCheckpoint, rf"{ROUTER} of shape \[16, 64\].*\[16, 128\]")


def test_experts_the_other_way_round(source: Path) -> None:
    damage.change(source, {GATE_UP: mx.zeros((16, 256, 128), mx.bfloat16)})
    refused(source, BadCheckpoint, rf"{GATE_UP} of shape \[16, 256, 128\].*\[16, 128, 256\]")


def test_a_tensor_without_a_place(source: Path) -> None:
    damage.change(source, {"language_model.model.layers.9.x": mx.zeros((1,), mx.bfloat16)})
    refused(source, BadCheckpoint, r"layers\.9\.x.*no place")


def test_rows_that_groups_do_not_divide(source: Path) -> None:
    """24 wide heads: o_proj gets 4 * 24 columns."""
    config = json.loads((source / "config.json").read_text())
    config["text_config"]["head_dim"] = 24
    damage.edit_json(source / "config.json", **config)
    changes: dict[str, mx.array | damage.Stored | None] = {}
    for i in range(8):
        path = f"language_model.model.layers.{i}.self_attn"
        sizes = {"q": (96, 128), "k": (48, 128), "v": (48, 128), "o": (128, 96)}
        for name, shape in sizes.items():
            changes[f"{path}.{name}_proj.weight"] = mx.zeros(shape, mx.bfloat16)
    damage.change(source, changes)
    refused(source, UsageError, r"o_proj\.weight has rows of 96.*groups of 64.*smaller groups")
    assert planned(source, "e4r4", "attention_o=4g32")


def test_a_rule_about_what_the_model_does_not_have(source: Path) -> None:
    for rule, why in [("routed@2=5", "layer 2 has no routed"), ("dense@9=5", "no layer 9")]:
        with pytest.raises(UsageError, match=why):
            planned(source, "e4r4", rule)


def test_the_text_half(source: Path) -> None:
    config = json.loads((source / "config.json").read_text())["text_config"]
    damage.edit_json(source / "config.json", **config)
    refused(source, UsageError, "text half alone.*llama4_text.*complete")


def test_another_model(source: Path) -> None:
    damage.edit_json(source / "config.json", model_type="llama")
    refused(source, BadCheckpoint, "'llama'")


def test_no_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none", NotFound, "none is not a folder")


def test_no_config(source: Path) -> None:
    (source / "config.json").unlink()
    refused(source, NotFound, r"has no config\.json; is it a model")


def test_a_damaged_config(source: Path) -> None:
    (source / "config.json").write_text('{"model_type": ')
    refused(source, BadCheckpoint, r"config\.json cannot be read")


def test_no_safetensors(source: Path) -> None:
    for file in source.glob("*.safetensors*"):
        file.unlink()
    (source / "pytorch_model.bin").write_bytes(b"x")
    refused(source, NotFound, r"neither model\.safetensors\.index\.json nor model\.safetensors")


def test_missing_shard(source: Path) -> None:
    (source / "model-00003-of-00004.safetensors").unlink()
    refused(source, NotFound, "model-00003-of-00004.*1 of 4 shards")


def test_truncated_shard(source: Path) -> None:
    damage.cut(source / "model-00002-of-00004.safetensors")
    refused(source, BadCheckpoint, "model-00002-of-00004.*cut short")


def test_extra_shard(source: Path) -> None:
    (source / "model-00005-of-00005.safetensors").write_bytes(b"")
    refused(source, BadCheckpoint, "model-00005-of-00005.*not listed")


def test_a_header_larger_than_the_file(source: Path) -> None:
    with (source / "model-00001-of-00004.safetensors").open("r+b") as file:
        file.write((1 << 40).to_bytes(8, "little"))
    refused(source, BadCheckpoint, "larger than the file")


def test_a_header_that_lies(source: Path) -> None:
    """Of a tensor's shape, its type, and where it ends."""
    file = source / json.loads((source / damage.INDEX).read_text())["weight_map"][ROUTER]
    held = damage.read(file)
    for lie in ({"shape": (16, 129)}, {"dtype": "F32"}, {"data": held[ROUTER].data + b"x"}):
        damage.write(file, held | {ROUTER: held[ROUTER]._replace(**lie)})
        refused(source, BadCheckpoint, f"gives {ROUTER} .*disagree")
    damage.write(file, held)
    assert planned(source, "e4r4")


def test_a_pointer_instead_of_the_file(source: Path) -> None:
    text = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (source / "model-00001-of-00004.safetensors").write_bytes(text)
    refused(source, BadCheckpoint, "Git LFS pointer.*hf download")


def test_an_index_that_leaves_the_folder(source: Path) -> None:
    index = json.loads((source / damage.INDEX).read_text())
    index["weight_map"][ROUTER] = "../model-00001-of-00004.safetensors"
    (source / damage.INDEX).write_text(json.dumps(index))
    refused(source, BadCheckpoint, "not a file of the folder")


def test_a_damaged_side_file(source: Path) -> None:
    (source / "generation_config.json").write_text("[")
    refused(source, BadCheckpoint, r"generation_config\.json")


def test_memory_does_not_grow_with_the_model(full: Full) -> None:
    """One MoE layer and all 48: the largest slice is what counts."""
    made = full("e4r4")
    one = replace(made, jobs=tuple(j for j in made.jobs if ".layers.1." in str(j)))
    assert len(one.jobs) < len(made.jobs) / 20
    assert peak_bytes(made) == peak_bytes(one) < 2e9
