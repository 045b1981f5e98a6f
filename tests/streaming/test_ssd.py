"""The short test of a disk: what it reads, and how much."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from mlx_maverick.checkpoint import Checkpoint, read_header
from mlx_maverick.disk import BLOCK
from mlx_maverick.errors import BadCheckpoint, NotFound
from mlx_maverick.streaming import ssd
from mlx_maverick.streaming.uncached import Uncached

LAYER = "language_model.model.layers.1.feed_forward"
EXPERTS = f"{LAYER}.experts.gate_proj.weight"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Offset and bytes of every read."""
    seen: list[tuple[int, int]] = []
    real = Uncached.read

    def read(self: Uncached, offset: int, view: memoryview) -> None:
        seen.append((offset, view.nbytes))
        real(self, offset, view)

    monkeypatch.setattr(Uncached, "read", read)
    return seen


def write(folder: Path, *tensors: tuple[str, list[int]]) -> Path:
    """A folder with one file of uint8 tensors."""
    folder.mkdir(exist_ok=True)
    entries, end = {}, 0
    for name, shape in tensors:
        size = int(np.prod(shape))
        entries[name] = {"dtype": "U8", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(entries).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return folder


def test_all_experts_of_a_small_model_are_read_once(
    tmp_path: Path, reads: list[tuple[int, int]]
) -> None:
    """Whole blocks of each, in any order, and of nothing else."""
    folder = write(
        tmp_path / "m",
        (f"{LAYER}.router.weight", [16, 5000]),
        (EXPERTS, [16, 5, 4096]),
        (f"{LAYER}.shared_expert.up_proj.weight", [100, 4096]),
    )
    found = ssd.bandwidth(folder, seconds=60)
    assert found is not None
    assert found > 0
    tensor = Checkpoint.open(folder).tensors[EXPERTS]
    each = tensor.nbytes // 16
    assert len(reads) == 16
    assert reads != sorted(reads)
    for expert, (offset, nbytes) in enumerate(sorted(reads)):
        start = tensor.offset + expert * each
        assert start <= offset < start + BLOCK
        assert offset + nbytes <= start + each < offset + nbytes + BLOCK
        assert offset % BLOCK == nbytes % BLOCK == 0


def test_experts_are_read_in_pieces_up_to_a_bound(
    tmp_path: Path, reads: list[tuple[int, int]]
) -> None:
    folder = write(tmp_path / "m", (EXPERTS, [8, 2304, 4096]))  # sparse: 9 MiB each
    assert ssd.bandwidth(folder, seconds=60, most=24 << 20) is not None
    assert {nbytes for _, nbytes in reads} <= {4 << 20, (1 << 20) - BLOCK, 1 << 20}
    assert 24 << 20 <= sum(nbytes for _, nbytes in reads) < 28 << 20


def test_the_time_is_bounded(tmp_path: Path, reads: list[tuple[int, int]]) -> None:
    folder = write(tmp_path / "m", (EXPERTS, [64, 1024, 4096]))
    assert ssd.bandwidth(folder, seconds=0) is not None
    assert 1 <= len(reads) <= ssd.THREADS  # of each thread one at most


def test_experts_as_published_are_read_too(mini: Path) -> None:
    assert ssd.bandwidth(mini) is not None


def test_experts_may_be_tensors_of_their_own(tmp_path: Path, reads: list[tuple[int, int]]) -> None:
    names = [f"{LAYER}.experts.{expert}.gate_proj.weight" for expert in range(3)]
    assert ssd.bandwidth(write(tmp_path / "m", *((name, [6, 4096]) for name in names)))
    assert [nbytes for _, nbytes in reads] == [5 * BLOCK] * 3


def test_a_model_without_experts_worth_reading(tmp_path: Path) -> None:
    small = [(EXPERTS, [16, 10, 10]), (f"{LAYER}.shared_expert.up_proj.weight", [100, 4096])]
    assert ssd.bandwidth(write(tmp_path / "m", *small)) is None
    with pytest.raises(NotFound):
        ssd.bandwidth(tmp_path)


def test_a_file_that_shrinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "m", (EXPERTS, [16, 5, 4096]))
    file = folder / "model.safetensors"
    assert read_header(file)
    before = Checkpoint.open(folder)
    monkeypatch.setattr(Checkpoint, "open", lambda _: before)
    open_before = len(os.listdir("/dev/fd"))
    os.truncate(file, 3 * BLOCK)
    with pytest.raises(BadCheckpoint, match="model.safetensors cannot be read .it ends before"):
        ssd.bandwidth(folder)
    file.unlink()
    with pytest.raises(BadCheckpoint, match="model.safetensors cannot be opened .No such file"):
        ssd.bandwidth(folder)
    assert len(os.listdir("/dev/fd")) == open_before
