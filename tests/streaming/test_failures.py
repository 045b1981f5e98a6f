"""Weight files that change, vanish or cannot be read while experts are read from them: an error
or the right answer, never a wrong one, and the next reply is right again."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_maverick.cli.main import main
from mlx_maverick.errors import BadCheckpoint
from mlx_maverick.events import Token
from mlx_maverick.loading import load
from mlx_maverick.prompt import Encoded
from mlx_maverick.streaming.reader import Piece, Read, Reader
from mlx_maverick.streaming.uncached import Uncached

from .conftest import Gate
from .drive import (
    FOX,
    GREEDY,
    Wanted,
    ask,
    ids,
    quiet,
    said,
    settle,
    slab,
    streamed,
    streams,
)

START = ids(45)
LONG = Encoded([*START.ids, *ids(90, 1).ids], [])  # one pass over four chunks of 32
SAYS = r"expert (\d+) of layer (\d+) cannot be read from (\S+) \((.*)\); see that .* load the model"


@pytest.fixture(scope="module")
def wanted(e4r4: Path) -> Wanted:
    return Wanted(e4r4)


@pytest.fixture
def copy(e4r4: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(e4r4, tmp_path / "copy"))


class Disk:
    """Reads of experts that fail while it is broken, or from the read number `after` on."""

    def __init__(self) -> None:
        self.after: int | None = None
        self.reads = self.failed = 0

    def failing(self) -> bool:
        self.reads += 1
        fails = self.after is not None and self.reads > self.after
        self.failed += fails
        return fails

    def breaks(self, after: int = 0) -> None:
        self.after, self.reads = after, 0

    def works(self) -> None:
        self.after = None


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk, read = Disk(), Uncached.read

    def reads(self: Uncached, offset: int, view: memoryview) -> None:
        if disk.failing():
            view[: len(view) // 2] = b"\xa5" * (len(view) // 2)  # some of it may be there
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        read(self, offset, view)

    monkeypatch.setattr(Uncached, "read", reads)
    return disk


def check(error: BaseException, folder: Path, why: str) -> None:
    """One line that says which expert of which layer of which file, and the exit code 1."""
    assert isinstance(error, BadCheckpoint)
    assert error.exit_code == 1
    found = re.match(SAYS, str(error))
    assert found, error
    expert, layer, file, reason = found.groups()
    assert int(expert) in range(16)
    assert int(layer) in (1, 3, 5, 7)
    assert Path(file) == folder / "model.safetensors"
    assert why in reason
    assert "\n" not in str(error)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def overwrite(file: Path) -> None:
    with file.open("r+b") as out:
        out.seek(file.stat().st_size // 3)
        out.write(bytes(file.stat().st_size // 3))


@pytest.mark.parametrize("damage", [truncate, overwrite])
def test_a_file_that_is_changed_in_place(
    copy: Path, wanted: Wanted, damage: Callable[[Path], None]
) -> None:
    file = copy / "model.safetensors"
    bytes, before = file.read_bytes(), file.stat()
    model = streamed(copy, 0.1)
    settle(model)
    session = model.session()
    ask(model, START, session)
    damage(file)
    for _ in range(2):
        with pytest.raises(BadCheckpoint) as raised:
            ask(model, LONG, session)
        check(raised.value, copy, "it was changed while in use")
        assert quiet(model)
    with file.open("r+b") as out:
        out.write(bytes)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    wanted.check(model, LONG, session)


@pytest.mark.parametrize("part", [0.5, 1.0])
def test_a_file_that_is_changed_between_asking_and_reading(
    copy: Path, gate: Callable[[], Gate], part: float
) -> None:
    """Reads of the warm start wait for long. What they bring then is not used."""
    _, go = gate()
    model = streamed(copy, part)
    overwrite(copy / "model.safetensors")
    go.set()
    settle(model)
    with pytest.raises(BadCheckpoint) as raised:
        ask(model, LONG)
    check(raised.value, copy, "it was changed while in use")


def replace_file(file: Path) -> None:
    other = file.with_suffix(".new")
    other.write_bytes(bytes(file.stat().st_size))
    other.replace(file)


@pytest.mark.parametrize("how", [replace_file, Path.unlink])
def test_a_file_that_is_replaced_or_deleted(
    copy: Path, wanted: Wanted, how: Callable[[Path], None]
) -> None:
    """What was opened is still there."""
    model = streamed(copy, 0.1)
    how(copy / "model.safetensors")
    assert said(ask(model, LONG)) == said(wanted(LONG)[0])


@pytest.mark.parametrize("after", [0, 1, 10, 40, 100, 200, 300])
def test_a_disk_that_fails_and_works_again(
    e4r4: Path, wanted: Wanted, disk: Disk, after: int
) -> None:
    """At any read of a pass over several chunks."""
    model = streamed(e4r4, 0.1)
    settle(model)
    session = model.session()
    ask(model, START, session)
    disk.breaks(after)
    with pytest.raises(BadCheckpoint) as raised:
        ask(model, LONG, session)
    check(raised.value, e4r4, "Input/output error")
    assert quiet(model)
    disk.works()
    for prompt in (LONG, START, LONG):
        wanted.check(model, prompt, session)


def test_a_disk_that_fails_at_a_token(e4r4: Path, wanted: Wanted, disk: Disk) -> None:
    """What was said so far is kept."""
    model = streamed(e4r4)
    session = model.session()
    expected, _ = wanted(START, max_tokens=20)
    stream = model.stream_encoded(START, session=session, **GREEDY | {"max_tokens": 20})
    got: list[int | None] = []
    with pytest.raises(BadCheckpoint) as raised:
        for event in stream:
            if isinstance(event, Token):
                got.append(event.id)
                if len(got) == 3:
                    disk.breaks()
    check(raised.value, e4r4, "Input/output error")
    disk.works()
    assert got == expected.ids[: len(got)]
    assert len(START.ids) + 3 <= session.length <= len(START.ids) + len(got)
    more = Encoded([*START.ids, *expected.ids[:3], *ids(20, 4).ids], [])
    wanted.check(model, more, session)
    assert session.reused == len(START.ids) + 3


def test_a_chat_goes_on_after_a_failure(e4r4: Path, wanted: Wanted, disk: Disk) -> None:
    model = streamed(e4r4)
    chats = [m.chat(temperature=0, max_tokens=6) for m in (model, wanted.model)]
    assert said(chats[0].send("Hello")) == said(chats[1].send("Hello"))
    disk.breaks(20)
    with pytest.raises(BadCheckpoint):
        chats[0].send(FOX * 4)
    disk.works()
    assert said(chats[0].send("And now?")) == said(chats[1].send("And now?"))
    assert chats[0].messages == chats[1].messages


def test_what_fails_before_it_is_wanted_is_read_again(
    e4r4: Path, wanted: Wanted, disk: Disk
) -> None:
    """At the warm start: of the whole model, and of a small slab."""
    for part in (1.0, 0.3):
        disk.breaks()
        model = streamed(e4r4, part)
        settle(model)
        assert disk.failed
        disk.works()
        assert said(ask(model, LONG)) == said(wanted(LONG)[0])


class Broken(Uncached):
    """A file none of which can be read."""

    def __init__(self, path: Path):
        self.path = path

    def read(self, offset: int, view: memoryview) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("part", [0.0, 0.3])
def test_failures_in_the_background_are_nobody_s(
    e4r4: Path, wanted: Wanted, part: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the warm start, and of the look-ahead."""
    submit, failed = Reader.submit, 0

    def submits(self: Reader, pieces: Iterable[Piece], urgent: bool) -> Read:
        nonlocal failed
        if not urgent:
            pieces = [replace(piece, file=Broken(piece.file.path)) for piece in pieces]
            failed += 1
        return submit(self, pieces, urgent)

    monkeypatch.setattr(Reader, "submit", submits)
    model = load(e4r4, context=1000, expert_memory=slab(e4r4, part or 0.1), look_ahead=True)
    begun = failed
    assert begun > 0
    for prompt in (START, LONG):
        how = {"max_tokens": 30}
        assert said(ask(model, prompt, **how)) == said(wanted(prompt, **how)[0])
    assert failed > begun
    assert model.experts is not None
    assert model.experts.predicted > 0


def test_an_expert_that_cannot_be_read_leaves_no_slot_that_claims_to_have_it(
    e4r4: Path, disk: Disk
) -> None:
    model = streamed(e4r4, 0.1)
    settle(model)
    disk.breaks(30)
    with pytest.raises(BadCheckpoint):
        ask(model, LONG)
    disk.works()
    for bank in streams(model).banks:
        for key, slot in enumerate(bank.slots.slot_of.tolist()):
            if slot >= 0:
                assert bank.slots.key_of[slot] == key
                assert bank.ready(key)


def test_the_command_says_it_in_one_line(
    e4r4: Path, disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    disk.breaks()
    asked = ["generate", "--model", str(e4r4), "--expert-memory", f"{slab(e4r4, 0.3) / 1e6:.6f}MB"]
    assert main([*asked, "-p", "Hello", "-m", "4"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    said = captured.err.removeprefix("mlx-maverick: ").rstrip("\n")
    check(BadCheckpoint(said), e4r4, "Input/output error")
