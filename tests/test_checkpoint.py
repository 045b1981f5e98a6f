"""Folders of safetensors: what contradicts itself is refused before it is read."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from mlx_maverick.checkpoint import Checkpoint, read_header
from mlx_maverick.errors import BadCheckpoint, NotFound

SHARD = "model-00002-of-00004.safetensors"


def write(file: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return file


def entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def edit_index(folder: Path, **changes: str) -> None:
    index = folder / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    raw["weight_map"] |= changes
    index.write_text(json.dumps(raw))


def test_tensors_and_bytes(maverick_mini: Path) -> None:
    checkpoint = Checkpoint.open(maverick_mini)
    index = json.loads((maverick_mini / "model.safetensors.index.json").read_text())
    assert set(checkpoint.tensors) == set(index["weight_map"])
    assert checkpoint.nbytes == index["metadata"]["total_size"]
    assert len(checkpoint.files) == 4
    tensor = checkpoint.tensors["language_model.model.layers.1.feed_forward.router.weight"]
    assert (tensor.dtype, tensor.shape, tensor.nbytes) == ("BF16", (16, 128), 4096)
    assert tensor.size == 2048


def test_one_file_needs_no_index(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", {"a": entry(0, 8, [2])}, bytes(8))
    assert list(Checkpoint.open(tmp_path).tensors) == ["a"]


def test_no_folder_and_no_weights(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is not a folder"):
        Checkpoint.open(tmp_path / "nope")
    with pytest.raises(NotFound, match="neither"):
        Checkpoint.open(tmp_path)


def test_a_missing_shard(copy: Path) -> None:
    (copy / SHARD).unlink()
    with pytest.raises(NotFound, match=f"{SHARD} is missing .1 of 4"):
        Checkpoint.open(copy)


def test_a_truncated_shard(copy: Path) -> None:
    whole = (copy / SHARD).read_bytes()
    (copy / SHARD).write_bytes(whole[:-1])
    with pytest.raises(BadCheckpoint, match=f"{SHARD} is cut short"):
        Checkpoint.open(copy)
    (copy / SHARD).write_bytes(whole[:5])
    with pytest.raises(BadCheckpoint, match=f"{SHARD} is cut short"):
        Checkpoint.open(copy)


def test_an_extra_shard(copy: Path) -> None:
    (copy / "model-00005-of-00004.safetensors").write_bytes((copy / SHARD).read_bytes())
    with pytest.raises(BadCheckpoint, match="00005.*not listed"):
        Checkpoint.open(copy)


@pytest.mark.parametrize(
    "shard", ["../elsewhere.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\\b"]
)
def test_an_index_that_leaves_the_folder(copy: Path, shard: str) -> None:
    edit_index(copy, **{"language_model.lm_head.weight": shard})
    with pytest.raises(BadCheckpoint, match="not a file of the folder"):
        Checkpoint.open(copy)


def test_an_index_that_disagrees(copy: Path) -> None:
    edit_index(copy, **{"language_model.lm_head.weight": SHARD})
    with pytest.raises(BadCheckpoint, match="lm_head.weight is in model-00004"):
        Checkpoint.open(copy)
    edit_index(copy, **{"language_model.lm_head.weight": "model-00004-of-00004.safetensors"})
    edit_index(copy, stray=SHARD)
    with pytest.raises(BadCheckpoint, match="lacks stray"):
        Checkpoint.open(copy)


def test_a_tensor_the_index_does_not_list(copy: Path) -> None:
    index = copy / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    del raw["weight_map"]["language_model.lm_head.weight"]
    index.write_text(json.dumps(raw))
    with pytest.raises(BadCheckpoint, match="does not list"):
        Checkpoint.open(copy)


def test_one_tensor_in_two_shards(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.safetensors", {"x": entry(0, 4, [1])}, bytes(4))
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}})
    )
    with pytest.raises(BadCheckpoint, match="both"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": []}'])
def test_a_damaged_index(copy: Path, text: str) -> None:
    (copy / "model.safetensors.index.json").write_text(text)
    with pytest.raises(BadCheckpoint, match="index"):
        Checkpoint.open(copy)


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b"{", "damaged header"),
        (b"\xff\xfe{}", "damaged header"),
        ([], "damaged header"),
        ({"x": 1}, "entry for x"),
        ({"x": {"dtype": "F32"}}, "entry for x"),
        ({"x": entry(0, 4, ["1"])}, "disagree"),  # type: ignore[list-item]
        ({"x": entry(0, 8, [1])}, "disagree"),
        ({"x": entry(-4, 0, [1])}, "disagree"),
        ({"x": entry(0, 4, [1], "F4")}, "'F4'"),
        ({"x": entry(0, 8, [2])}, "cut short"),
        ({"x": entry(0, 4, [1]), "y": entry(2, 6, [1])}, "over another"),
    ],
)
def test_damaged_headers(tmp_path: Path, header: Any, why: str) -> None:
    file = write(tmp_path / "x.safetensors", header, bytes(6))
    with pytest.raises(BadCheckpoint, match=why):
        read_header(file)


def test_a_header_larger_than_the_file(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", 2**40) + b"{}")
    with pytest.raises(BadCheckpoint, match="larger than the file"):
        read_header(file)


def test_a_git_lfs_pointer_is_told(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(BadCheckpoint, match="Git LFS pointer"):
        read_header(file)


def test_a_header_above_the_limit_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    with file.open("wb") as handle:
        handle.write(struct.pack("<Q", 200_000_000))
        handle.truncate(300_000_000)  # sparse
    with pytest.raises(BadCheckpoint, match="limit"):
        read_header(file)


def test_a_tensor_twice_in_one_header(tmp_path: Path) -> None:
    """json would keep the last one."""
    one = json.dumps(entry(0, 8, [2]))
    write(tmp_path / "model.safetensors", f'{{"a": {one}, "a": {one}}}'.encode(), bytes(8))
    with pytest.raises(BadCheckpoint, match="model.safetensors stores a twice"):
        Checkpoint.open(tmp_path)
