import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_maverick.convert.layout import Entry, Layout
from mlx_maverick.convert.write import MARKER, check_target, output
from mlx_maverick.errors import DoesNotFit, MaverickError, NotFound, UsageError

LAYOUT = Layout.of([Entry("a", "U32", (4,)), Entry("b", "BF16", (6,))], limit=16)


@pytest.fixture
def partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def test_slices_land_at_their_offsets_in_any_order(out: Path) -> None:
    with output(out) as result:
        result.preallocate(LAYOUT)
        result.write("b", 4, mx.array([3, 4, 5, 6], mx.bfloat16))
        result.write("a", 8, mx.array([3, 4], mx.uint32))
        result.write("b", 0, mx.array([1, 2], mx.bfloat16))
        result.write("a", 0, mx.array([1, 2], mx.uint32))
        result.add("config.json", b"{}")
    found = mx.load(str(out / "model-00001-of-00002.safetensors"))
    found |= mx.load(str(out / "model-00002-of-00002.safetensors"))
    assert found["a"].tolist() == [1, 2, 3, 4]
    assert found["b"].tolist() == [1, 2, 3, 4, 5, 6]
    assert sorted(p.name for p in out.iterdir()) == [
        "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    ]  # fmt: skip


def test_short_writes_are_continued(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, data[:5], at))
    with output(out) as result:
        result.preallocate(LAYOUT)
        result.write("a", 0, mx.array([1, 2, 3, 4], mx.uint32))
    assert mx.load(str(out / "model-00001-of-00002.safetensors"))["a"].tolist() == [1, 2, 3, 4]


def test_files_have_their_size_before_any_slice(out: Path) -> None:
    with output(out) as result:
        result.preallocate(LAYOUT)
        for shard in LAYOUT.shards:
            assert (result.folder / shard.name).stat().st_size == shard.nbytes


def test_without_posix_fallocate(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with output(out) as result:
        result.preallocate(LAYOUT)
        sizes = [(result.folder / shard.name).stat().st_size for shard in LAYOUT.shards]
    assert sizes == [shard.nbytes for shard in LAYOUT.shards]


def test_a_slice_cannot_reach_into_the_next_tensor(out: Path) -> None:
    with output(out) as result:
        result.preallocate(LAYOUT)
        with pytest.raises(ValueError, match="do not fit into a"):
            result.write("a", 12, mx.array([1, 2], mx.uint32))


@pytest.mark.parametrize("error", [KeyboardInterrupt, MaverickError, OSError])
def test_nothing_is_left_after_an_error(
    out: Path, partial: Path, error: type[BaseException]
) -> None:
    def fail() -> None:
        with output(out) as result:
            result.preallocate(LAYOUT)
            assert partial.is_dir()
            raise error("x")

    with pytest.raises(error):
        fail()
    assert list(out.parent.iterdir()) == []


def test_nothing_is_at_out_until_the_end(out: Path) -> None:
    with output(out) as result:
        result.preallocate(LAYOUT)
        assert not out.exists()
    assert out.is_dir()


def test_what_a_killed_run_left_is_replaced(out: Path, partial: Path) -> None:
    partial.mkdir()
    (partial / MARKER).touch()
    (partial / "model-00001-of-00002.safetensors").write_text("half")
    (partial / "foreign").write_text("of an older recipe")
    with output(out) as result:
        result.add("config.json", b"{}")
    assert [p.name for p in out.iterdir()] == ["config.json"]


def test_a_folder_of_somebody_else_is_left_alone(out: Path, partial: Path) -> None:
    partial.mkdir()
    (partial / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="not a conversion's"), output(out):
        pass
    assert (partial / "thesis.tex").read_text() == "x"
    assert not (partial / MARKER).exists()


def test_a_sub_folder_is_left_alone(out: Path, partial: Path) -> None:
    (partial / "photos").mkdir(parents=True)
    (partial / MARKER).touch()
    with pytest.raises(UsageError, match="photos"), output(out):
        pass
    assert (partial / "photos").is_dir()


def test_a_folder_in_use_is_refused_and_not_harmed(out: Path, partial: Path) -> None:
    with output(out) as result:
        result.add("config.json", b"{}")
        with pytest.raises(UsageError, match="another conversion"), output(out):
            pass
        assert (partial / "config.json").exists()
    assert (out / "config.json").exists()


def test_a_conversion_that_ends_while_another_starts(
    out: Path, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is renamed between our opening the marker and our lock on it."""
    partial.mkdir()
    (partial / MARKER).touch()
    (partial / "config.json").write_text("{}")

    def rename_first(file: int, operation: int) -> None:
        (partial / MARKER).unlink()
        partial.rename(out)

    monkeypatch.setattr(fcntl, "flock", rename_first)
    with pytest.raises(UsageError, match="another conversion"), output(out):
        pass
    assert [p.name for p in out.iterdir()] == ["config.json"]


def test_a_disk_without_locks(out: Path, partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(file: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with output(out) as result:
        result.add("config.json", b"{}")
    out.rename(out.with_name("other"))
    partial.mkdir()
    (partial / MARKER).touch()
    with pytest.raises(UsageError, match="left by another run"), output(out):
        pass


def test_an_out_made_meanwhile_is_not_replaced(out: Path, partial: Path) -> None:
    with pytest.raises(UsageError, match="meanwhile"), output(out):
        out.mkdir()
    assert list(out.iterdir()) == []
    assert not partial.exists()


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_becomes_full(
    out: Path, call: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    def write() -> None:
        with output(out) as result:
            result.preallocate(LAYOUT)
            result.write("a", 0, mx.array([1], mx.uint32))

    monkeypatch.setattr(os, call, full, raising=False)
    with pytest.raises(DoesNotFit, match="full"):
        write()
    assert list(out.parent.iterdir()) == []


def test_a_read_only_target(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(self: Path, *args: object, **more: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(MaverickError, match=r"cannot be created \(Read-only"), output(out):
        pass


def test_a_folder_without_permission(out: Path) -> None:
    """In a process of its own that is not root, who may write everywhere."""
    out.parent.chmod(0o555)
    write = (
        f"import os, sys; os.getuid() or os.setuid(65534)\nwith output(Path({str(out)!r})): pass"
    )
    # Imported first: another user may not be able to read where Python's packages are.
    code = f"from pathlib import Path\nfrom mlx_maverick.convert.write import output\n{write}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "MaverickError" in done.stderr
    assert "cannot be created (Permission denied)" in done.stderr


def test_targets_that_make_no_sense(tmp_path: Path, out: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    link = tmp_path / "link"
    link.symlink_to(source)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    for target, error, why in [
        (source, UsageError, "exists already"),
        (dangling, UsageError, "exists already"),
        (source / "new", UsageError, "inside the source"),
        (link / "new", UsageError, "inside the source"),
        (tmp_path / "no" / "new", NotFound, "not a folder"),
    ]:
        with pytest.raises(error, match=why):
            check_target(source, target)
    check_target(source, out)
