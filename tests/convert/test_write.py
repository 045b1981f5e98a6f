import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlx_maverick import disk
from mlx_maverick.convert import write
from mlx_maverick.convert.journal import NAME
from mlx_maverick.convert.layout import Entry, Layout
from mlx_maverick.convert.write import Output, check_target, completed, output
from mlx_maverick.errors import DoesNotFit, MaverickError, NotFound, UsageError

LAYOUT = Layout.of([Entry("a", "U32", (4,)), Entry("b", "BF16", (6,))], limit=16)
FIRST, SECOND = (shard.name for shard in LAYOUT.shards)


@pytest.fixture
def partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def begin(out: Path, *, done: bool) -> None:
    """A `.partial` folder as a killed run leaves it."""
    try:
        with output(out, LAYOUT) as result:
            result.journal.begin({"x": 1})
            result.prepare()
            result.add("config.json", b"{}")
            result.journal.add({0: [0]})
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    if not done:
        file = out.with_name(out.name + ".partial") / NAME
        file.write_bytes(file.read_bytes().splitlines(keepends=True)[0])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def data(name: str, folder: Path) -> bytes:
    place = LAYOUT.places[name]
    return (folder / place.shard).read_bytes()[place.offset :][: place.nbytes]


def test_slices_land_at_their_offsets_in_any_order(out: Path) -> None:
    with output(out, LAYOUT) as result:
        result.prepare()
        result.write("b", 4, np.array([3, 4, 5, 6], "<u2"))
        result.write("a", 8, np.array([3, 4], "<u4"))
        result.write("b", 0, np.array([1, 2], "<u2"))
        result.write("a", 0, np.array([[1], [2]], "<u4"))
        result.add("config.json", b"{}")
        result.finish(out)
    assert data("a", out) == np.arange(1, 5, dtype="<u4").tobytes()
    assert data("b", out) == np.arange(1, 7, dtype="<u2").tobytes()
    for shard in LAYOUT.shards:
        assert (out / shard.name).read_bytes().startswith(shard.header)
    assert names(out) == ["config.json", FIRST, SECOND]
    assert names(out.parent) == [out.name]


def test_short_writes_are_continued(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, data[:5], at))
    with output(out, LAYOUT) as result:
        result.prepare()
        result.write("a", 0, np.array([1, 2, 3, 4], "<u4"))
        assert data("a", result.folder) == np.arange(1, 5, dtype="<u4").tobytes()


@pytest.mark.parametrize("fallocate", [True, False])
def test_files_have_their_size_before_any_slice(
    out: Path, monkeypatch: pytest.MonkeyPatch, fallocate: bool
) -> None:
    """Also where posix_fallocate is not there (macOS), or not supported (some disks)."""
    if fallocate:

        def unsupported(*args: object) -> None:
            raise OSError(errno.EOPNOTSUPP, "not supported")

        monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    else:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with output(out, LAYOUT) as result:
        assert result.missing() == {FIRST, SECOND}
        assert result.allocated() == 0
        result.prepare()
        assert result.missing() == set()
        sizes = {shard.name: shard.nbytes for shard in LAYOUT.shards}
        assert {name: (result.folder / name).stat().st_size for name in sizes} == sizes


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="not on macOS")
def test_space_that_is_there_already_is_counted(out: Path) -> None:
    with output(out, LAYOUT) as result:
        result.prepare()
        assert result.allocated() >= LAYOUT.nbytes


def test_what_is_there_in_its_size_is_kept_and_the_rest_begun_anew(out: Path) -> None:
    with output(out, LAYOUT) as result:
        result.prepare()
        for name in "ab":
            result.write(name, 0, np.full(3, 0x7777, "<u4"))
        with (result.folder / SECOND).open("ab") as file:
            file.write(b"x")
        assert result.missing() == {SECOND}
        result.prepare()
        assert data("a", result.folder) == b"\x77\x77\0\0" * 3 + bytes(4)
        assert data("b", result.folder) == bytes(12)


def test_a_slice_cannot_reach_into_the_next_tensor(out: Path) -> None:
    with output(out, LAYOUT) as result:
        result.prepare()
        with pytest.raises(ValueError, match="do not fit into a"):
            result.write("a", 12, np.array([1, 2], "<u4"))


def test_everything_written_is_synced_once(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(write, "sync_path", lambda path: synced.append(path.name))
    with output(out, LAYOUT) as result:
        result.prepare()
        result.sync()
        result.sync()
        result.write("b", 0, np.array([1], "<u2"))
        result.add("config.json", b"{}")
        result.sync()
        assert synced == [FIRST, SECOND, "config.json", SECOND]
        synced.clear()
        result.add("maverick.json", b"{}")
        result.finish(out)
    assert synced == ["maverick.json", out.name + ".partial", out.parent.name]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MaverickError, OSError, GeneratorExit])
def test_after_an_error_it_stays_if_a_job_is_done(
    out: Path, partial: Path, error: type[BaseException]
) -> None:
    def fail(done: dict[int, list[int]]) -> None:
        with output(out, LAYOUT) as result:
            result.journal.begin({})
            result.prepare()
            assert partial.is_dir()
            result.journal.add(done)
            raise error("x")

    with pytest.raises(error):
        fail({})
    assert list(out.parent.iterdir()) == []
    with pytest.raises(error):
        fail({1: [1]})
    assert names(partial) == [NAME, FIRST, SECOND]


def test_nothing_is_at_out_until_the_end(out: Path, partial: Path) -> None:
    with output(out, LAYOUT) as result:
        result.add("config.json", b"{}")
        assert not out.exists()
        result.finish(out)
        assert out.is_dir()
        assert not partial.exists()


def test_it_goes_on_with_what_a_killed_run_left(out: Path) -> None:
    begin(out, done=True)
    with output(out, LAYOUT) as result:
        assert result.journal.identity == {"x": 1}
        assert result.journal.done == {0: [0]}
        assert (result.folder / "config.json").exists()


def test_restart_empties_it(out: Path) -> None:
    begin(out, done=True)
    with output(out, LAYOUT, restart=True) as result:
        assert result.journal.identity is None
        assert names(result.folder) == [NAME]


def test_a_folder_of_somebody_else_is_left_alone(out: Path, partial: Path) -> None:
    partial.mkdir()
    (partial / "thesis.tex").write_text("x")
    for restart in (False, True):
        with pytest.raises(UsageError, match="not a conversion's"), output(out, LAYOUT, restart):
            pass
    assert names(partial) == ["thesis.tex"]


def test_a_file_of_that_name_is_left_alone(out: Path, partial: Path) -> None:
    partial.write_text("x")
    with pytest.raises(UsageError, match="not a conversion's"), output(out, LAYOUT):
        pass
    assert partial.read_text() == "x"


def test_an_empty_folder_of_that_name_is_taken(out: Path, partial: Path) -> None:
    """A run killed before it could put its journal there leaves one."""
    partial.mkdir()
    with output(out, LAYOUT) as result:
        result.finish(out)
    assert names(out.parent) == [out.name]


def test_a_sub_folder_is_left_alone(out: Path, partial: Path) -> None:
    begin(out, done=False)
    (partial / "photos").mkdir()
    with pytest.raises(UsageError, match="photos"), output(out, LAYOUT, restart=True):
        pass
    with pytest.raises(UsageError, match="photos"), output(out, LAYOUT) as result:
        result.clear()
    assert (partial / "photos").is_dir()


def test_the_error_under_way_is_the_one_to_tell(out: Path, partial: Path) -> None:
    with pytest.raises(DoesNotFit, match="no room"), output(out, LAYOUT) as result:
        (result.folder / "photos").mkdir()
        raise DoesNotFit("no room")
    assert (partial / "photos").is_dir()


def test_a_folder_in_use_is_refused_and_not_harmed(out: Path) -> None:
    with output(out, LAYOUT) as result:
        result.add("config.json", b"{}")
        for restart in (False, True):
            again = output(out, LAYOUT, restart)
            with pytest.raises(UsageError, match="another conversion; wait"), again:
                pass
        assert names(result.folder) == [NAME, "config.json"]
        result.finish(out)
    assert names(out) == ["config.json"]


def test_a_conversion_that_ends_while_another_starts(
    out: Path, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is renamed between our opening the journal and our lock on it."""
    begin(out, done=True)

    def rename_first(file: int, operation: int) -> None:
        (partial / NAME).unlink()
        partial.rename(out)

    monkeypatch.setattr(fcntl, "flock", rename_first)
    with pytest.raises(UsageError, match="another conversion"), output(out, LAYOUT):
        pass
    assert names(out) == ["config.json", FIRST, SECOND]
    assert names(out.parent) == [out.name]


def test_a_disk_without_locks(out: Path, partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(file: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with output(out, LAYOUT) as result:
        result.finish(out)
    begin(out.with_name("other"), done=True)
    other = output(out.with_name("other"), LAYOUT)
    with pytest.raises(UsageError, match="left by another run"), other:
        pass


def test_an_out_made_meanwhile_is_not_replaced(out: Path, partial: Path) -> None:
    with pytest.raises(UsageError, match="meanwhile"), output(out, LAYOUT) as result:
        result.journal.begin({})
        result.journal.add({1: [1]})
        out.mkdir()
        result.finish(out)
    assert list(out.iterdir()) == []
    assert names(partial) == [NAME]


def test_one_that_was_killed_before_its_last_step(out: Path, partial: Path) -> None:
    begin(out, done=True)
    assert not completed(out)
    assert not completed(partial)  # `--out` of another conversion, and not done
    assert (partial / NAME).exists()
    partial.rename(out)
    assert completed(out)
    assert names(out) == ["config.json", FIRST, SECOND]
    assert not completed(out)


def test_another_run_may_have_made_up_for_the_last_step(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with output(out, LAYOUT) as result:
        rename = Path.rename

        def and_completed(self: Path, target: Path) -> None:
            rename(self, target)
            assert completed(target)

        monkeypatch.setattr(Path, "rename", and_completed)
        result.finish(out)
    assert names(out) == []


def test_only_what_was_planned_stays(out: Path) -> None:
    with output(out, LAYOUT) as result:
        result.prepare()
        for name in (".DS_Store", "._config.json", "config.json"):
            result.add(name, b"x")
        result.tidy({FIRST, SECOND, "config.json"})
        assert names(result.folder) == [NAME, "config.json", FIRST, SECOND]
        with pytest.raises(UsageError, match="holds config.json, not of this conversion"):
            result.tidy({FIRST, SECOND})
        assert (result.folder / "config.json").exists()


CALLS = {
    "posix_fallocate": Output.prepare,
    "pwrite": lambda result: result.write("a", 0, np.array([1], "<u4")),
    "fsync": Output.sync,
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("code", "error", "told"),
    [
        (errno.ENOSPC, DoesNotFit, "became full; make room"),
        (errno.EDQUOT, DoesNotFit, "became full; make room"),
        (errno.EIO, MaverickError, "cannot be written"),
        (errno.EFBIG, MaverickError, r"cannot be written \(File too large\)"),  # FAT
    ],
)
def test_a_disk_that_fails(
    out: Path,
    call: str,
    code: int,
    error: type[Exception],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not hasattr(os, call):
        pytest.skip("not on macOS")

    def fail(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    with output(out, LAYOUT) as result:
        result.prepare()
        monkeypatch.setattr(os, call, fail)
        monkeypatch.setattr(os, "ftruncate", fail)
        monkeypatch.setattr(fcntl, "F_FULLFSYNC", None, raising=False)
        with pytest.raises(error, match=f"{result.folder} {told}"):
            CALLS[call](result)


def test_full_sync_where_there_is_one(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS; and disks there that do not have it."""
    asked: list[int] = []
    fsynced: list[int] = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(os, "fsync", fsynced.append)
    monkeypatch.setattr(fcntl, "fcntl", lambda file, what: asked.append(what))
    disk.sync(0)
    assert (asked, fsynced) == ([51], [])

    def unsupported(file: int, what: int) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "fcntl", unsupported)
    disk.sync(7)
    assert fsynced == [7]


def test_a_read_only_target(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(self: Path, *args: object, **more: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(MaverickError, match=r"cannot be created \(Read-only"), output(out, LAYOUT):
        pass


def test_a_folder_without_permission(out: Path) -> None:
    """In a process of its own that is not root, who may write everywhere."""
    out.parent.chmod(0o555)
    # Imported first: another user may not be able to read where Python's packages are.
    code = f"""
from pathlib import Path
from mlx_maverick.convert.layout import Layout
from mlx_maverick.convert.write import output
import os; os.getuid() or os.setuid(65534)
with output(Path({str(out)!r}), Layout.of([])): pass
"""
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
        (Path("."), UsageError, "exists already"),
        (Path("/"), UsageError, "exists already"),
        (tmp_path / "a.partial", UsageError, f"or {tmp_path}/a to go on with it"),
    ]:
        with pytest.raises(error, match=why):
            check_target(source, target)
    check_target(source, out)


def test_a_folder_with_what_the_finder_left_is_empty(out: Path, partial: Path) -> None:
    partial.mkdir()
    (partial / ".DS_Store").write_bytes(b"x")
    with output(out, LAYOUT) as result:
        result.clear()
        assert not (partial / ".DS_Store").exists()
