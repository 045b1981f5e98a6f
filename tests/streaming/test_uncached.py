"""Reading past the file cache: always the file's bytes, and an error where there are none.

On Linux on the disk that the tests run on; what is asked of macOS is recorded.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from mlx_maverick.disk import BLOCK
from mlx_maverick.streaming.uncached import Changed, EndsEarly, Uncached

SIZE = 40 * BLOCK + 1234


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "model.safetensors"
    file.write_bytes(np.random.default_rng(7).bytes(SIZE))
    os.sync()  # what is not on the disk yet cannot leave the cache
    return file


@pytest.fixture
def room() -> memoryview:
    """Memory that begins at a block's boundary."""
    return memoryview(mmap.mmap(-1, SIZE + BLOCK))


@pytest.fixture
def on_disk(path: Path) -> Iterator[Path]:
    """The same where it is on a disk for sure: /tmp may be in memory."""
    with TemporaryDirectory(dir="/var/tmp") as folder:
        file = Path(shutil.copy(path, folder))
        os.sync()
        yield file


def refuse(*_: int) -> object:
    raise AssertionError("asked for on a system that is none")


@pytest.mark.parametrize("keep_cached", [False, True])
@pytest.mark.parametrize("platform", ["linux", "darwin", "freebsd14"])
@pytest.mark.parametrize(
    ("offset", "nbytes", "place"),
    [
        (0, 4 * BLOCK, 0),  # all of them whole blocks
        (8 * BLOCK, 32 * BLOCK, BLOCK),
        (8 * BLOCK + 8, 4 * BLOCK, 0),
        (8 * BLOCK, 4 * BLOCK + 1, 0),
        (8 * BLOCK, 4 * BLOCK, 16),
        (40 * BLOCK, 1234, 0),  # to the end
        (0, SIZE, 0),
        (3, 0, 0),
        (SIZE - 1, 1, 5),
    ],
)
def test_reads_what_is_there(
    path: Path, room: memoryview, offset: int, nbytes: int, place: int, platform: str,
    keep_cached: bool,
) -> None:  # fmt: skip
    file = Uncached.open(path, keep_cached, platform=platform, control=lambda *_: 0)
    with room[place : place + nbytes] as view:
        file.read(offset, view)
        assert bytes(view) == path.read_bytes()[offset : offset + nbytes]
    assert bytes(room[:place]) == bytes(place)  # nothing beside it
    assert not any(room[place + nbytes :])
    assert file.size == SIZE
    file.close()
    file.close()


def test_reads_into_arrays_of_any_shape(path: Path) -> None:
    array = np.zeros((4, 16, 64), np.uint32)
    file = Uncached.open(path)
    file.read(100, memoryview(array))
    assert array.tobytes() == path.read_bytes()[100 : 100 + array.nbytes]
    file.close()


def test_many_threads_read_one_file(path: Path) -> None:
    file, whole = Uncached.open(path), path.read_bytes()

    def same(number: int) -> bool:
        buffer = bytearray(3 * BLOCK + number)
        file.read(number * 997, memoryview(buffer))
        return buffer == whole[number * 997 :][: len(buffer)]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(same, range(100)))
    file.close()


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize("nbytes", [2 * BLOCK, 2 * BLOCK + 1])
def test_a_file_that_ends_early(path: Path, room: memoryview, nbytes: int, platform: str) -> None:
    file = Uncached.open(path, platform=platform, control=lambda *_: 0)
    with room[:nbytes] as view, pytest.raises(EndsEarly) as caught:
        file.read(39 * BLOCK, view)
    assert caught.value.strerror == f"it ends before byte {39 * BLOCK + nbytes}"
    assert caught.value.filename == str(path)
    file.close()


def test_a_file_cut_short_while_it_is_open(path: Path, room: memoryview) -> None:
    file = Uncached.open(path)
    file.check()
    os.truncate(path, 5 * BLOCK)
    with pytest.raises(Changed) as caught:
        file.check()
    assert caught.value.strerror == "it was changed while in use"
    with room[: 8 * BLOCK] as view, pytest.raises(EndsEarly):
        file.read(0, view)
    file.close()


def test_a_file_written_to_while_it_is_open(path: Path) -> None:
    file, before = Uncached.open(path), path.stat()
    with path.open("r+b") as other:
        other.write(b"other")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # clocks may be coarse
    with pytest.raises(Changed):
        file.check()
    file.close()


def test_a_file_taken_away_is_still_read(path: Path, room: memoryview) -> None:
    file, whole = Uncached.open(path), path.read_bytes()
    path.unlink()
    path.write_bytes(b"another")
    file.check()
    with room[: 8 * BLOCK] as view:
        file.read(BLOCK, view)
        assert bytes(view) == whole[BLOCK : 9 * BLOCK]
    file.close()


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="it is not a file"):
        Uncached.open(tmp_path)
    with pytest.raises(FileNotFoundError):
        Uncached.open(tmp_path / "gone")


def test_what_is_set_on_a_mac(path: Path) -> None:
    said: list[tuple[int, int]] = []

    def record(_: int, command: int, value: int) -> object:
        return said.append((command, value))

    Uncached.open(path, platform="darwin", control=record).close()
    assert said == [(45, 0), (48, 1)]  # F_RDAHEAD off, F_NOCACHE on
    said.clear()
    Uncached.open(path, keep_cached=True, platform="darwin", control=record).close()
    assert said == [(45, 0)]
    Uncached.open(path, platform="linux", control=refuse).close()


def test_a_mac_that_refuses(path: Path) -> None:
    open_before = len(os.listdir("/dev/fd"))
    raised = OSError(errno.ENOTSUP, "not supported")  # by its file system

    def refused(*_: int) -> object:
        raise raised

    file = Uncached.open(path, platform="darwin", control=refused)
    file.check()
    file.close()
    raised = OSError(errno.EIO, "input/output error")
    with pytest.raises(OSError, match="input/output error"):
        Uncached.open(path, platform="darwin", control=refused)
    assert len(os.listdir("/dev/fd")) == open_before


@pytest.mark.parametrize("refusing", ["open", "preadv"])
def test_a_file_system_that_reads_only_through_the_cache(
    path: Path, room: memoryview, monkeypatch: pytest.MonkeyPatch, refusing: str
) -> None:
    """Some say so when a file is opened, others when it is read."""
    flag, real_open, real_preadv = getattr(os, "O_DIRECT", 0), os.open, os.preadv
    direct: list[int] = []
    tried: list[int] = []

    def opening(name: Path, flags: int) -> int:
        if not flag or not flags & flag:
            return real_open(name, flags)
        if refusing == "open":
            raise OSError(errno.EINVAL, "invalid argument")
        direct.append(real_open(name, flags))
        return direct[0]

    def reading(file: int, buffers: list[memoryview], offset: int) -> int:
        if file in direct:
            tried.append(offset)
            raise OSError(errno.EINVAL, "invalid argument")
        return real_preadv(file, buffers, offset)

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "preadv", reading)
    file = Uncached.open(path)
    with room[: 8 * BLOCK] as view:
        for block in (1, 2, 3):
            file.read(block * BLOCK, view)
            assert bytes(view) == path.read_bytes()[block * BLOCK :][: 8 * BLOCK]
    assert len(tried) <= 1  # once is enough to know
    file.close()


def test_every_descriptor_is_closed(path: Path) -> None:
    before = len(os.listdir("/dev/fd"))
    for keep_cached in (False, True):
        file = Uncached.open(path, keep_cached)
        assert len(os.listdir("/dev/fd")) > before
        file.close()
    assert len(os.listdir("/dev/fd")) == before


if sys.platform == "linux":

    def cached_pages(path: Path) -> int:
        """Pages of a file that the system's cache holds."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
        with path.open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as memory:
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            pages = (ctypes.c_ubyte * (-(-SIZE // mmap.PAGESIZE)))()
            if libc.mincore(address, SIZE, pages):
                raise OSError(ctypes.get_errno(), "mincore")
            return sum(page & 1 for page in pages)

    @pytest.mark.parametrize(("offset", "nbytes"), [(0, 16 * BLOCK), (8, 16 * BLOCK - 16)])
    def test_the_cache_of_linux_is_left_as_it_is(
        on_disk: Path, room: memoryview, offset: int, nbytes: int
    ) -> None:
        path = on_disk
        with path.open("rb") as other:
            os.posix_fadvise(other.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert cached_pages(path) == 0
        file, keeping = Uncached.open(path), Uncached.open(path, keep_cached=True)
        with room[:nbytes] as view:
            file.read(offset, view)
            assert cached_pages(path) == 0
            keeping.read(offset, view)
            assert cached_pages(path) == 16  # and nothing after it
            file.read(20 * BLOCK + offset, view)
            assert cached_pages(path) == 16
            keeping.read(20 * BLOCK + offset, view)
            file.read(offset, view)
            assert cached_pages(path) >= 16
        file.close()
        keeping.close()

    def test_whole_blocks_go_past_the_cache(
        path: Path, room: memoryview, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        past: list[bool] = []
        real = os.preadv

        def reading(file: int, buffers: list[memoryview], offset: int) -> int:
            past.append(bool(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT))
            return real(file, buffers, offset)

        monkeypatch.setattr(os, "preadv", reading)
        file = Uncached.open(path)
        for offset, nbytes, place in ((0, BLOCK, 0), (8, BLOCK, 0), (0, 8, 0), (0, BLOCK, 8)):
            with room[place : place + nbytes] as view:
                file.read(offset, view)
        assert past == [True, False, False, False]
        file.close()
