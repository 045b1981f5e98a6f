import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_maverick.errors import BadCheckpoint, NotFound
from mlx_maverick.files import Folder, read_whole


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "b").write_bytes(bytes(range(100)))
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c").write_bytes(b"x")
    return Folder(tmp_path)


def read(folder: Folder, name: str, offset: int, size: int) -> bytes:
    buffer = bytearray(size)
    folder.read(name, offset, memoryview(buffer))
    return bytes(buffer)


def test_names_and_sizes(folder: Folder, tmp_path: Path) -> None:
    """Of files only, links to files included: so the Hub's cache keeps them."""
    (tmp_path / "link").symlink_to(tmp_path / "b")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert folder.sizes == {"a": 0, "b": 100, "link": 100}
    assert folder.where == str(tmp_path)
    assert folder.path("b") == tmp_path / "b"


def test_ranges(folder: Folder) -> None:
    assert read(folder, "b", 0, 100) == bytes(range(100))
    assert read(folder, "b", 99, 1) == b"\x63"
    assert read(folder, "b", 100, 0) == b""
    assert read_whole(folder, "b") == bytes(range(100))
    assert read_whole(folder, "a") == b""


def test_short_reads_are_continued(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call of the system gives at most 2 GB."""
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, views, at: preadv(file, [views[0][:7]], at))
    assert read(folder, "b", 3, 50) == bytes(range(3, 53))


def test_a_file_that_ends_too_early(folder: Folder, tmp_path: Path) -> None:
    for offset, size in [(0, 101), (99, 2), (100, 1), (10**9, 1)]:
        with pytest.raises(BadCheckpoint, match=f"{tmp_path}/b ends before byte {offset + size};"):
            read(folder, "b", offset, size)


def test_a_file_that_is_not_there(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=f"{tmp_path}/c is missing"):
        read(folder, "c", 0, 1)
    with pytest.raises(NotFound, match=f"{tmp_path} has no c"):
        read_whole(folder, "c")
    with pytest.raises(NotFound, match="is not a folder"):
        Folder(tmp_path / "nowhere")
    with pytest.raises(NotFound, match="is not a folder"):
        Folder(tmp_path / "b")


def test_a_file_that_cannot_be_read(folder: Folder, tmp_path: Path) -> None:
    """As no other user may; in a process of its own that is not root, who may read all."""
    with pytest.raises(BadCheckpoint, match=r"sub cannot be read \(Is a directory\)"):
        read(folder, "sub", 0, 1)
    (tmp_path / "b").chmod(0)
    code = (
        "import os, sys; from pathlib import Path; from mlx_maverick.files import Folder\n"
        "folder = Folder(Path(sys.argv[1])); os.chdir(folder.folder)\n"
        "folder.folder = Path('.'); os.getuid() or os.setuid(65534)\n"
        "folder.read('b', 0, memoryview(bytearray(1)))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert "BadCheckpoint: b cannot be read (Permission denied)" in done.stderr


def test_far_too_large_for_what_it_is(folder: Folder) -> None:
    """Before any memory is taken."""
    with pytest.raises(BadCheckpoint, match="b has 100 bytes, far more than such a file has"):
        read_whole(folder, "b", limit=99)
    assert len(read_whole(folder, "b", limit=100)) == 100
