"""`verify --source`: parts of the source are converted again and compared."""

import json
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_maverick.checkpoint import Checkpoint
from mlx_maverick.convert import convert
from mlx_maverick.convert.layout import Layout
from mlx_maverick.convert.manifest import MANIFEST
from mlx_maverick.convert.sample import sample
from mlx_maverick.errors import BadCheckpoint, UsageError

from . import damage

DOWN = "language_model.model.layers.3.feed_forward.experts.down_proj"


@pytest.fixture
def made(maverick_mini: Path, out: Path) -> Path:
    return convert(maverick_mini, out, "e3r6").folder


def everything(source: Path) -> int:
    """More than there are slices."""
    return 10 * len(Checkpoint.open(source).tensors)


@pytest.mark.parametrize("fast", [False, True])
def test_all_the_same(maverick_mini: Path, out: Path, fast: bool) -> None:
    convert(maverick_mini, out, "e3r6", fast=fast)
    found = sample(out, maverick_mini, everything(maverick_mini))
    assert found.parts == found.same > 250


def test_kept_quantisation(made: Path, tmp_path: Path) -> None:
    again = convert(made, tmp_path / "again", "keep").folder
    found = sample(again, made, everything(made))
    assert found.parts == found.same > 250


def change(folder: Path, name: str, values: mx.array) -> None:
    """As a clumsy program would: the bytes of one tensor, in their place."""
    tensor = Checkpoint.open(folder).tensors[name]
    with tensor.file.open("r+b") as file:
        file.seek(tensor.offset)
        file.write(bytes(values.view(mx.uint8)))


def test_one_wrong_code_is_found(made: Path, maverick_mini: Path) -> None:
    codes = damage.tensors(made)[f"{DOWN}.weight"]
    codes[7, 0, 0] ^= mx.array(1, mx.uint32)
    change(made, f"{DOWN}.weight", codes)
    with pytest.raises(BadCheckpoint, match="does not hold .*layers.3.*down_proj"):
        sample(made, maverick_mini, everything(maverick_mini))


def of_another_device(folder: Path) -> None:
    about = json.loads((folder / MANIFEST).read_text())
    about["tools"]["device"] = "gpu"
    (folder / MANIFEST).write_text(json.dumps(about))


def test_another_device_may_round_otherwise(made: Path, maverick_mini: Path) -> None:
    of_another_device(made)
    codes = damage.tensors(made)[f"{DOWN}.weight"]
    codes[7, 0, 0] ^= mx.array(1, mx.uint32)
    change(made, f"{DOWN}.weight", codes)
    found = sample(made, maverick_mini, everything(maverick_mini))
    assert found.same == found.parts - 1


@pytest.mark.parametrize("kind", ["scales", "biases"])
def test_but_not_hold_something_else(made: Path, maverick_mini: Path, kind: str) -> None:
    of_another_device(made)
    values = damage.tensors(made)[f"{DOWN}.{kind}"]
    values[7] = values[7] * 1.1
    change(made, f"{DOWN}.{kind}", values)
    with pytest.raises(BadCheckpoint, match="does not hold"):
        sample(made, maverick_mini, everything(maverick_mini))


def test_bf16_must_be_the_same(made: Path, maverick_mini: Path) -> None:
    of_another_device(made)
    name = "language_model.model.norm.weight"
    change(made, name, damage.tensors(made)[name] + 1)
    with pytest.raises(BadCheckpoint, match="model.norm"):
        sample(made, maverick_mini, everything(maverick_mini))


def test_another_source(made: Path, scout_mini: Path, tmp_path: Path, maverick_mini: Path) -> None:
    with pytest.raises(UsageError, match="another source"):
        sample(made, scout_mini)
    other = damage.copy(maverick_mini, tmp_path / "other")
    router = "language_model.model.layers.1.feed_forward.router.weight"
    change(other, router, mx.zeros((16, 128), mx.bfloat16))
    with pytest.raises(BadCheckpoint, match="router"):
        sample(made, other, everything(other))


def test_a_manifest_without_recipe(made: Path, maverick_mini: Path) -> None:
    damage.edit_json(made / MANIFEST, recipe=None)
    with pytest.raises(BadCheckpoint, match="names no recipe"):
        sample(made, maverick_mini)


def test_files_may_be_cut_otherwise(
    maverick_mini: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another version may do."""
    of = Layout.of
    with monkeypatch.context() as patch:
        patch.setattr(Layout, "of", lambda entries: of(entries, 300_000))
        convert(maverick_mini, out, "e4r4", fast=True)
    found = sample(out, maverick_mini, everything(maverick_mini))
    assert found.parts == found.same > 250


def test_another_recipe_than_it_says(made: Path, maverick_mini: Path) -> None:
    about = json.loads((made / MANIFEST).read_text())
    about["recipe"]["experts"]["bits"] = 4
    (made / MANIFEST).write_text(json.dumps(about))
    with pytest.raises(BadCheckpoint, match="as its recipe makes it"):
        sample(made, maverick_mini, everything(maverick_mini))
