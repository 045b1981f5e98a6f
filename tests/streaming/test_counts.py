"""How often experts were used, kept between runs: whatever the file is like, loading goes on."""

import io
import logging
import os
import pickle
import stat
from pathlib import Path

import numpy as np
import pytest

from mlx_maverick import paths
from mlx_maverick.streaming import counts
from mlx_maverick.streaming.counts import MOST

from .full_disk import full_disk

SHAPE = (3, 4)
NONE = [[0] * 4] * 3


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "experts" / "print.npy"


def some() -> np.ndarray:
    return np.arange(12, dtype=np.int64).reshape(SHAPE)


def loaded(file: Path) -> list[list[int]]:
    found = counts.load(file, *SHAPE)
    assert found.shape == SHAPE
    assert found.dtype == np.int64
    found += 1  # it can be counted on
    return (found - 1).tolist()


def test_there_and_back(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert loaded(file) == NONE
    counts.save(file, some())
    assert loaded(file) == some().tolist()
    counts.save(file, some() * 2)
    assert loaded(file) == (some() * 2).tolist()
    assert caplog.records == []
    assert [p.name for p in file.parent.iterdir()] == ["print.npy"]
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLX_MAVERICK_HOME", str(tmp_path))
    assert counts.place("ab") == paths.cache_dir() / "experts" / "ab.npy"
    assert counts.place("ab") != counts.place("ba")
    # Where no folder can be made, a model is loaded all the same.
    monkeypatch.setenv("MLX_MAVERICK_HOME", "/dev/null/home")
    assert loaded(counts.place("ab")) == NONE
    counts.save(counts.place("ab"), some())


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def with_shape(shape: str) -> bytes:
    """A file that claims to be of another shape."""
    header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (118 - 1 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(96)


def npz() -> bytes:
    out = io.BytesIO()
    np.savez(out, counts=some())
    return out.getvalue()


DAMAGED = {
    "nothing": b"",
    "text": b"hello",
    "cut in its header": npy(some())[:50],
    "cut in its values": npy(some())[:-1],
    "another layer": npy(np.zeros((4, 4), np.int64)),
    "flat": npy(np.zeros(12, np.int64)),
    "floats": npy(some().astype(float)),
    "unsigned": npy(some().astype(np.uint64)),
    "negative": npy(some() - 1),
    "a header of no literal": npy(some()).replace(b"'descr'", b"lambda:"),
    "a huge shape": with_shape("(1 << 50, 4)"),
    "a large shape": with_shape(f"({2**50}, 4)"),
    "a shape beyond numbers": with_shape(f"({2**70}, 4)"),
    "a shape below zero": with_shape("(-3, 4)"),
    "an archive": npz(),
    "a broken archive": npz()[:40],
    "a pickle": pickle.dumps(some()),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files(file: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    file.parent.mkdir(parents=True)
    file.write_bytes(DAMAGED[kind])
    assert loaded(file) == NONE
    (said,) = caplog.records
    assert said.levelno == logging.WARNING
    assert str(file) in said.getMessage()
    counts.save(file, some())  # which mends it
    assert loaded(file) == some().tolist()


def test_a_pickle_is_not_run(file: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    file.parent.mkdir(parents=True)
    file.write_bytes(npy(np.array([Trap()], object)))
    assert loaded(file) == NONE
    assert not (tmp_path / "sprung").exists()


def test_a_folder_in_its_place(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.mkdir(parents=True)
    assert loaded(file) == NONE
    counts.save(file, some())
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * 2
    assert [p.name for p in file.parent.iterdir()] == ["print.npy"]  # nothing is left over


def test_what_was_counted_long_ago_fades(file: Path) -> None:
    counts.save(file, some() * MOST)
    found = np.array(loaded(file))
    assert MOST // 2 - 12 <= found.sum() <= MOST
    assert np.array_equal(np.argsort(found.reshape(-1)), np.arange(12))
    exact = np.zeros(SHAPE, np.int64)
    exact[1, 2] = MOST
    counts.save(file, exact)
    assert loaded(file) == exact.tolist()


def test_counts_whose_sum_is_beyond_numbers(file: Path) -> None:
    counts.save(file, np.full(SHAPE, 2**62, np.int64))
    assert 0 < np.array(loaded(file)).sum() <= MOST


def test_a_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("a file")
    file = tmp_path / "cache" / "experts" / "print.npy"
    counts.save(file, some())
    assert "cannot be written" in caplog.text
    assert "None" not in caplog.text


@pytest.mark.parametrize("size", [0, 128])  # in the header, or just after it
def test_a_full_disk(file: Path, size: int, caplog: pytest.LogCaptureFixture) -> None:
    """What was there stays, whole."""
    counts.save(file, some())
    with full_disk(size):
        counts.save(file, some() * 2)
    assert "cannot be written" in caplog.text
    assert "None" not in caplog.text
    assert loaded(file) == some().tolist()
    assert [p.name for p in file.parent.iterdir()] == ["print.npy"]
