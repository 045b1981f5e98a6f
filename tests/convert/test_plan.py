import json
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import pytest

from mlx_maverick.checkpoint import Checkpoint, Tensor
from mlx_maverick.config import ModelConfig
from mlx_maverick.convert import plan as plan_module
from mlx_maverick.convert.layout import MAX_SHARD_BYTES
from mlx_maverick.convert.outputs import entries
from mlx_maverick.convert.plan import BLOCK_BYTES, Plan, make_plan, plan
from mlx_maverick.convert.published import shapes
from mlx_maverick.convert.recipe import Recipe
from mlx_maverick.errors import BadCheckpoint, DoesNotFit, MaverickError, NotFound, UsageError

from . import damage, full_size

ROUTER = "language_model.model.layers.1.feed_forward.router.weight"
GATE_UP = "language_model.model.layers.3.feed_forward.experts.gate_up_proj"


class Disk(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def full(tmp_path: Path) -> Callable[[Recipe], Plan]:
    checkpoint = full_size.checkpoint(tmp_path)
    return lambda recipe: plan(full_size.CONFIG, checkpoint, recipe)


@pytest.mark.parametrize(("name", "gigabytes"), [("e4r4", 227.2), ("e4r6", 230.7)])
def test_size_of_the_full_model(
    full: Callable[[Recipe], Plan], name: str, gigabytes: float
) -> None:
    made = full(Recipe.named(name))
    assert round(made.layout.nbytes / 1e9, 1) == gigabytes
    assert made.read_nbytes == sum(2 * prod(shape) for shape in full_size.SHAPES.values())
    assert all(shard.data_nbytes <= MAX_SHARD_BYTES for shard in made.layout.shards)


def test_no_slice_of_the_full_model_is_larger_than_an_expert(
    full: Callable[[Recipe], Plan],
) -> None:
    expert = 5120 * 16384 * 2
    for job in full(Recipe.named("e4r4")).jobs:
        is_expert = len(job.slice.tensor.shape) == 3
        assert job.slice.nbytes <= (expert if is_expert else BLOCK_BYTES)
        assert not is_expert or job.slice.stop - job.slice.start == 1


@pytest.mark.parametrize(
    "recipe",
    [Recipe.named("e4r4"), Recipe.named("e4r6"), Recipe.named("e3r5"), Recipe.named("e8r8")],
)
@pytest.mark.parametrize("block", [BLOCK_BYTES, 1000])
def test_the_jobs_fill_every_output_once(
    maverick_mini: Path, recipe: Recipe, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "BLOCK_BYTES", block)
    made = make_plan(maverick_mini, recipe)
    written = defaultdict(list)
    for job in made.jobs:
        share = job.slice.stop - job.slice.start
        for part in job.parts:
            for entry in entries(part.name, part.shape, part.quant):
                start = job.offset(entry.nbytes)
                end = start + entry.nbytes // job.slice.tensor.shape[0] * share
                written[entry.name].append((start, end))
    assert set(written) == set(made.layout.places)
    for name, ranges in written.items():
        ranges.sort()
        ends = [0, *(end for _, end in ranges)]
        assert [start for start, _ in ranges] == ends[:-1], name
        assert ends[-1] == made.layout.places[name].nbytes, name


def test_a_layers_tensors_are_together(full: Callable[[Recipe], Plan]) -> None:
    names = [
        e.name for e in full(Recipe.named("e4r4")).layout.entries if ".model.layers." in e.name
    ]
    layers = [name.split(".layers.")[0] + name.split(".")[3] for name in names]
    assert len(set(layers)) == 48 + 34
    assert sum(a != b for a, b in pairwise(layers)) == len(set(layers)) - 1


def test_biases_of_attention_stay_bf16() -> None:
    config = json.loads(json.dumps(full_size.CONFIG))
    config["text_config"]["attention_bias"] = True
    config["text_config"]["num_hidden_layers"] = 2
    del config["vision_config"]
    folder = Path("nowhere")
    tensors = {
        name: Tensor(name, "BF16", shape, folder / "model.safetensors", 0, 2 * prod(shape))
        for name, shape in shapes(ModelConfig.from_dict(config)).items()
    }
    layout = plan(config, Checkpoint(folder, tensors), Recipe.named("e4r6")).layout
    kinds = {e.name: e.dtype for e in layout.entries if "layers.1.self_attn.o_proj" in e.name}
    path = "language_model.model.layers.1.self_attn.o_proj"
    assert kinds == {
        f"{path}.weight": "U32", f"{path}.scales": "BF16", f"{path}.biases": "BF16",
        f"{path}.bias": "BF16",
    }  # fmt: skip


def test_too_little_disk(
    full: Callable[[Recipe], Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = full(Recipe.named("e4r4"))
    monkeypatch.setattr(plan_module.shutil, "disk_usage", lambda _: Disk(9, 9, 100 * 10**9))
    with pytest.raises(DoesNotFit, match=r"227\.2 GB.*has 100\.0 GB free"):
        made.check_room(tmp_path)
    monkeypatch.setattr(plan_module.shutil, "disk_usage", lambda _: Disk(9, 9, 228 * 10**9))
    made.check_room(tmp_path)


def refused(source: Path, error: type[MaverickError], match: str) -> None:
    with pytest.raises(error, match=match):
        make_plan(source, Recipe.named("e4r4"))


def test_missing_tensors(source: Path) -> None:
    damage.change(source, {ROUTER: None})
    refused(source, BadCheckpoint, f"lacks {ROUTER}.*1 of 1")


def test_wrong_shape(source: Path) -> None:
    damage.change(source, {ROUTER: mx.zeros((16, 64), mx.bfloat16)})
    refused(source, BadCheckpoint, rf"{ROUTER} of shape \[16, 64\].*\[16, 128\]")


def test_a_tensor_without_a_place(source: Path) -> None:
    damage.change(source, {"language_model.model.layers.9.x": mx.zeros((1,), mx.bfloat16)})
    refused(source, BadCheckpoint, r"layers\.9\.x.*no place")


def test_another_type(source: Path) -> None:
    damage.change(source, {ROUTER: mx.zeros((16, 128), mx.int16)})
    refused(source, BadCheckpoint, f"{ROUTER} as I16")


def test_rows_that_groups_do_not_divide(source: Path) -> None:
    """96 wide heads: o_proj gets 4 * 24 columns."""
    config = json.loads((source / "config.json").read_text())
    config["text_config"]["head_dim"] = 24
    damage.edit_json(source / "config.json", **config)
    changes = {}
    for i in range(8):
        path = f"language_model.model.layers.{i}.self_attn"
        shapes = {"q": (96, 128), "k": (48, 128), "v": (48, 128), "o": (128, 96)}
        for name, shape in shapes.items():
            changes[f"{path}.{name}_proj.weight"] = mx.zeros(shape, mx.bfloat16)
    damage.change(source, changes)
    refused(source, UsageError, r"o_proj\.weight has rows of 96")


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_fp8_tensors(source: Path, dtype: str) -> None:
    damage.change(source, {ROUTER: mx.zeros((16, 128), mx.uint8)})
    index = json.loads((source / damage.INDEX).read_text())
    damage.retype(source / index["weight_map"][ROUTER], ROUTER, dtype)
    refused(source, UsageError, "not supported yet")


def test_fp8_by_its_config_or_its_scales(source: Path) -> None:
    damage.change(source, {"x.weight_scale": mx.zeros((4,))})
    refused(source, UsageError, "x.weight_scale.*not supported yet")
    damage.edit_json(
        source / "config.json", quantization_config={"quant_method": "compressed-tensors"}
    )
    refused(source, UsageError, "compressed-tensors.*not supported yet")


def test_an_mlx_folder(source: Path) -> None:
    damage.edit_json(source / "config.json", quantization={"group_size": 64, "bits": 4})
    refused(source, UsageError, "quantised already")


def test_the_text_half(source: Path) -> None:
    config = json.loads((source / "config.json").read_text())["text_config"]
    damage.edit_json(source / "config.json", **config)
    refused(source, UsageError, "llama4_text")


def test_another_model(source: Path) -> None:
    damage.edit_json(source / "config.json", model_type="llama")
    refused(source, BadCheckpoint, "'llama'")


def test_no_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none", NotFound, "none")


def test_missing_shard(source: Path) -> None:
    (source / "model-00003-of-00004.safetensors").unlink()
    refused(source, NotFound, "model-00003-of-00004")


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


def test_an_index_that_leaves_the_folder(source: Path) -> None:
    index = json.loads((source / damage.INDEX).read_text())
    index["weight_map"][ROUTER] = "../model-00001-of-00004.safetensors"
    (source / damage.INDEX).write_text(json.dumps(index))
    refused(source, BadCheckpoint, "not a file of the folder")
