import hashlib
import itertools
import random
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from zlib import crc32

import pytest

from mlx_maverick.convert import hashes
from mlx_maverick.convert.hashes import Extent, File, hash_files
from mlx_maverick.convert.progress import Progress

BLOCK = 64
SIZES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 10 * BLOCK + 7]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "READ_AT_ONCE", BLOCK)


def outcome(
    folder: Path, sizes: Mapping[str, int], extents: Mapping[str, Sequence[Extent]] | None = None
) -> tuple[dict[str, File], set[int], list[Progress]]:
    events, steps = [], hash_files(folder, sizes, extents)
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return *end.value, events


def extent(data: bytes, start: int, stop: int, job: int) -> Extent:
    return Extent(start, stop - start, crc32(data[start:stop]), job)


def test_files_of_many_sizes(tmp_path: Path) -> None:
    data = {f"{size}": random.Random(size).randbytes(size) for size in SIZES}
    for name, text in data.items():
        (tmp_path / name).write_bytes(text)
    files, changed, events = outcome(tmp_path, {n: len(t) for n, t in data.items()})
    assert files == {n: File(len(t), hashlib.sha256(t).hexdigest()) for n, t in data.items()}
    assert changed == set()
    assert events[-1].done == events[-1].total == sum(SIZES)
    assert all(event.stage == "hashing" for event in events)
    done = [event.done for event in events]
    assert done == sorted(done)


def test_every_changed_byte_names_its_job(tmp_path: Path) -> None:
    """Whatever the extents are cut into by the blocks that are read."""
    data = random.Random(1).randbytes(5 * BLOCK + 3)
    edges = [5, 6, 40, 3 * BLOCK, 3 * BLOCK + 1, 4 * BLOCK + 2, len(data)]  # the first 5: a header
    extents = [extent(data, *pair, job) for job, pair in enumerate(itertools.pairwise(edges))]
    random.Random(2).shuffle(extents)
    sizes = {"x": len(data)}
    (tmp_path / "x").write_bytes(data)
    assert outcome(tmp_path, sizes, {"x": extents})[1] == set()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x80
        (tmp_path / "x").write_bytes(changed)
        files, found, _ = outcome(tmp_path, sizes, {"x": extents})
        assert found == {e.job for e in extents if e.offset <= at < e.offset + e.nbytes}
        assert files["x"].sha256 == hashlib.sha256(changed).hexdigest()


def test_gaps_between_extents_and_several_of_one_job(tmp_path: Path) -> None:
    data = bytes(range(256)) * 2
    extents = [extent(data, 10, 90, 4), extent(data, 200, 201, 4), extent(data, 300, 500, 9)]
    for at, found in [(9, set()), (90, set()), (200, {4}), (499, {9}), (500, set()), (10, {4})]:
        changed = bytearray(data)
        changed[at] ^= 1
        (tmp_path / "x").write_bytes(changed)
        assert outcome(tmp_path, {"x": len(data)}, {"x": extents})[1] == found


def test_extents_beyond_the_end(tmp_path: Path) -> None:
    data = bytes(200)
    (tmp_path / "x").write_bytes(data[:100])
    extents = [extent(data, 0, 100, 1), extent(data, 50, 150, 2), extent(data, 150, 200, 3)]
    assert outcome(tmp_path, {"x": 200}, {"x": extents[::2]})[1] == {3}
    assert outcome(tmp_path, {"x": 200}, {"x": extents[1:]})[1] == {2, 3}


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        outcome(tmp_path, {"x": 5})


def test_nothing_to_hash(tmp_path: Path) -> None:
    assert outcome(tmp_path, {}) == ({}, set(), [])


def test_closed_early_it_ends_promptly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading these files would take for ever: their ends are never reached."""
    for n in range(8):
        (tmp_path / str(n)).symlink_to("/dev/zero")
    monkeypatch.setattr(hashes, "REPORT_SECONDS", 0.001)
    before = threading.active_count()
    steps = hash_files(tmp_path, {str(n): 1 for n in range(8)})
    assert next(steps).done >= 0
    steps.close()
    assert threading.active_count() == before
