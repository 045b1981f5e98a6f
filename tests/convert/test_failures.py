"""Conversions that fail, of `conversion.convert`: what is said, what is kept, and that the same
command ends them once the cause is mended."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlx_maverick.checkpoint import Checkpoint
from mlx_maverick.convert import Planned, Progress, convert
from mlx_maverick.convert import plan as plan_module
from mlx_maverick.convert.progress import Event, ignore
from mlx_maverick.errors import BadCheckpoint, DoesNotFit, MaverickError, NotFound, UsageError

from . import crash, damage
from .crash import RECIPE, contents, noted

GATE_UP = "language_model.model.layers.3.feed_forward.experts.gate_up_proj"
LM_HEAD = "language_model.lm_head.weight"
FIRST = "language_model.model.embed_tokens.weight"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    crash.shrink(monkeypatch.setattr)


@pytest.fixture(scope="module")
def expected(maverick_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What comes of the undamaged checkpoint; of a folder of that name, which the card has."""
    source = damage.copy(maverick_mini, tmp_path_factory.mktemp("whole") / "source")
    with pytest.MonkeyPatch.context() as patch:
        crash.shrink(patch.setattr)
        return contents(convert(source, source.with_name("made"), RECIPE, fast=True).folder)


@pytest.fixture
def partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def run(source: Path, out: Path, progress: Callable[[Event], None] = ignore) -> list[Event]:
    events: list[Event] = []

    def both(event: Event) -> None:
        events.append(event)
        progress(event)

    convert(source, out, RECIPE, both, fast=True)
    return events


def goes_on(source: Path, out: Path, expected: dict[str, bytes]) -> None:
    first = run(source, out)[0]
    assert isinstance(first, Planned)
    assert first.done > 0
    assert contents(out) == expected
    assert list(out.parent.iterdir()) == [out]


# The source


def poke(source: Path, name: str, where: tuple[int, ...], bits: int) -> int:
    """Change one BF16 value and nothing else of a file; what was there before."""
    tensor = Checkpoint.open(source).tensors[name]
    at = tensor.offset + 2 * int(np.ravel_multi_index(where, tensor.shape))
    with tensor.file.open("r+b") as file:
        file.seek(at)
        before = int.from_bytes(file.read(2), "little")
        file.seek(at)
        file.write(bits.to_bytes(2, "little"))
    return before


@pytest.mark.parametrize(
    ("name", "where", "told"),
    [
        (GATE_UP, (5, 3, 200), f"{GATE_UP} (expert 5)"),
        (LM_HEAD, (1023, 127), LM_HEAD),
        ("vision_model.layernorm_pre.bias", (0,), "vision_model.layernorm_pre.bias"),
    ],
)
@pytest.mark.parametrize("bad", [0x7FC0, 0x7F80, 0xFF80])  # NaN, infinity, minus infinity
def test_weights_that_are_no_numbers(
    source: Path,
    out: Path,
    partial: Path,
    expected: dict[str, bytes],
    name: str,
    where: tuple[int, ...],
    told: str,
    bad: int,
) -> None:
    good = poke(source, name, where, bad)
    with pytest.raises(BadCheckpoint) as caught:
        run(source, out)
    assert told in str(caught.value)
    assert f"% is kept in {partial}: the same command goes on" in str(caught.value)
    assert noted(partial)
    poke(source, name, where, good)
    goes_on(source, out, expected)


def test_when_the_first_weights_are_bad_nothing_is_kept(source: Path, out: Path) -> None:
    poke(source, FIRST, (0, 0), 0x7FC0)
    with pytest.raises(BadCheckpoint, match="download it again$"):
        run(source, out)
    assert list(out.parent.iterdir()) == []


def test_a_shard_that_changes_while_it_is_read(
    source: Path, out: Path, partial: Path, expected: dict[str, bytes]
) -> None:
    """Cut, gone, and not to be read."""
    shard = source / "model-00004-of-00004.safetensors"
    whole = shard.read_bytes()
    half = partial / "half"

    def cut() -> None:
        damage.cut(shard, len(whole) // 2)

    def not_a_file() -> None:
        shard.unlink()
        shard.mkdir()

    for change, error, told in [
        (cut, BadCheckpoint, "ends before byte"),
        (shard.unlink, NotFound, "is missing; download it again"),
        (not_a_file, BadCheckpoint, r"cannot be read \(Is a directory\)"),
    ]:
        with pytest.raises(error, match=f"{shard.name} {told}.*is kept in {partial}"):
            run(source, out, lambda e, c=change: c() if isinstance(e, Planned) else None)
        assert not out.exists()
        assert not half.exists()
        shutil.rmtree(shard) if shard.is_dir() else shard.unlink(missing_ok=True)
        shard.write_bytes(whole)
    goes_on(source, out, expected)


# The disk


def failing(monkeypatch: pytest.MonkeyPatch, call: str, code: int, after: int) -> None:
    """From the call of that number on, while it writes to other files than the journal."""
    real, calls = getattr(os, call), 0

    def counted(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(code, os.strerror(code))
        return real(*args)

    monkeypatch.setattr(os, call, counted)


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
@pytest.mark.parametrize("after", [80, 200])
@pytest.mark.parametrize(
    ("code", "error"),
    [(errno.ENOSPC, DoesNotFit), (errno.EFBIG, MaverickError), (errno.EIO, MaverickError)],
)
def test_a_disk_that_fails_halfway(
    source: Path,
    out: Path,
    partial: Path,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    after: int,
    code: int,
    error: type[MaverickError],
) -> None:
    """Also when what fails is the journal: everything is noted at once here."""
    with monkeypatch.context() as patch:
        patch.setattr("mlx_maverick.convert.pipeline.SYNC_SECONDS", 0.0)
        patch.delattr("fcntl.F_FULLFSYNC", raising=False)
        failing(patch, call, code, after)
        with pytest.raises(error) as caught:
            run(source, out)
    assert type(caught.value) is error
    assert str(partial) in str(caught.value)
    assert "% is kept in" in str(caught.value)
    assert noted(partial)
    goes_on(source, out, expected)


def test_a_disk_that_is_full_at_once_keeps_nothing(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the files are given their size."""
    for call, after in [("ftruncate", 0), ("ftruncate", 1), ("pwrite", 0), ("pwrite", 2)]:
        with monkeypatch.context() as patch:
            patch.delattr(os, "posix_fallocate", raising=False)
            failing(patch, call, errno.ENOSPC, after)
            with pytest.raises(DoesNotFit, match="became full; make room"):
                run(source, out)
        assert list(out.parent.iterdir()) == []


def test_a_disk_that_is_full_at_the_documents(
    source: Path,
    out: Path,
    partial: Path,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(self: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DoesNotFit, match=f"became full.*100% is kept in {partial}"):
            run(source, out)
    goes_on(source, out, expected)


def test_too_little_disk_is_said_first(
    maverick_mini: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is needed and what there is, before anything is written."""
    usage = type("Disk", (), {"free": 3_000_000})
    monkeypatch.setattr(plan_module.shutil, "disk_usage", lambda _: usage)
    seen: list[Event] = []
    with pytest.raises(DoesNotFit, match=rf"needs 7.4 MB, and the disk of {out.parent} has 3.0 MB"):
        convert(maverick_mini, out, "e4r4", seen.append)
    assert seen == []
    assert list(out.parent.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="on macOS files are sparse")
def test_what_is_on_the_disk_already_needs_no_room(
    source: Path, out: Path, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Progress):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, out, stop)
    before = contents(partial)
    usage = type("Disk", (), {"free": 4_100_000})
    monkeypatch.setattr(plan_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DoesNotFit, match=r"needs 4.3 MB, .* has 4.1 MB"):
        run(source, out)
    assert contents(partial) == before
    usage.free = 4_400_000
    assert run(source, out)


# The target, and what is asked for


def test_nothing_is_written_before_everything_is_checked(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    monkeypatch.setattr(Path, "mkdir", lambda self: made.append(self))
    with pytest.raises(UsageError, match="inside the source"):
        convert(source, source / "out", "e4r4")
    with pytest.raises(UsageError, match="recipe"):
        convert(source, out, "4bit")
    with pytest.raises(NotFound, match="not a folder"):
        convert(source, out / "a" / "b", "e4r4")
    damage.change(source, {LM_HEAD: None})
    with pytest.raises(BadCheckpoint, match="lacks"):
        convert(source, out, "e4r4")
    assert made == []


def test_an_existing_output_is_never_touched(maverick_mini: Path, out: Path) -> None:
    out.mkdir()
    for restart in (False, True):
        with pytest.raises(UsageError, match="exists already"):
            convert(maverick_mini, out, "e4r4", restart=restart)
    assert list(out.iterdir()) == []
    assert [p.name for p in out.parent.iterdir()] == [out.name]


def test_an_output_made_meanwhile(
    source: Path, out: Path, partial: Path, expected: dict[str, bytes]
) -> None:
    def make(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "hashing":
            out.mkdir(exist_ok=True)

    with pytest.raises(UsageError, match=f"{out} was created meanwhile.*100% is kept in {partial}"):
        run(source, out, make)
    out.rmdir()
    goes_on(source, out, expected)


def test_an_error_of_the_caller_is_the_callers(source: Path, out: Path, partial: Path) -> None:
    """What progress raises ends the conversion tidily, and comes back as it is."""
    error = RuntimeError("no paper")

    def fail(event: Event) -> None:
        if isinstance(event, Progress):
            raise error

    with pytest.raises(RuntimeError) as caught:
        run(source, out, fail)
    assert caught.value is error
    assert str(error) == "no paper"
    assert noted(partial)


def test_ctrl_c_in_any_step_says_what_is_kept(source: Path, out: Path, partial: Path) -> None:
    """Without a text of its own, as in a notebook."""

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.done > 0.3 * event.total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        run(source, out, stop)
    said = f"is kept in {partial}: the same command goes on"
    assert str(caught.value).startswith("interrupted; 3")
    assert str(caught.value).endswith(said)
