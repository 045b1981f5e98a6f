"""Killed at any moment, a conversion is half done and says so; the same command ends it, to the
same bytes as one that nothing disturbed."""

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from typing import Any

import numpy as np
import pytest

from mlx_maverick.convert import (
    Converted,
    Planned,
    Progress,
    conversion,
    convert,
    identity,
    journal,
    layout,
    stream,
)
from mlx_maverick.convert.layout import Layout
from mlx_maverick.convert.progress import Event
from mlx_maverick.convert.recipe import Recipe
from mlx_maverick.convert.verify import verify
from mlx_maverick.convert.write import Output
from mlx_maverick.errors import BadCheckpoint, UsageError

from . import crash, damage
from .crash import RECIPE, contents, noted

RANDOM = random.Random(2026)
# Which step, how far into all of its kind, and how. Of all moments, and of those that matter most.
MOMENTS = [
    *[("pwrite", RANDOM.random(), how) for how in ("before", "torn", "after") * 4],
    *[("fsync", RANDOM.random(), how) for how in ("before", "after") * 2],
    *[("ftruncate", RANDOM.random(), how) for how in ("before", "after") * 2],
    *[("converting", RANDOM.random(), "after") for _ in range(3)],
    *[("write_bytes", RANDOM.random(), how) for how in ("torn", "after")],
    ("mkdir", 0, "after"), ("ftruncate", 0, "after"), ("pwrite", 0, "torn"),
    ("posix_fallocate", 0.5, "after"), ("converting", 1, "after"), ("write_bytes", 0, "before"),
    ("write_bytes", 1, "torn"), ("hashing", 0, "after"), ("hashing", 1, "after"),
    ("rename", 1, "before"), ("rename", 1, "after"), ("fsync", 1, "after"),
    ("unlink", 1, "before"), ("unlink", 1, "after"),
]  # fmt: skip


@dataclass(frozen=True)
class Undisturbed:
    files: dict[str, bytes]
    counts: Counter[str]  # of each kind of step
    seconds: float


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    crash.shrink(monkeypatch.setattr)


@pytest.fixture(scope="module")
def undisturbed(scout_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    out = tmp_path_factory.mktemp("undisturbed") / "model"
    with subprocess.Popen(
        crash.command("none", 0, "", scout_mini, out), stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "begun\n"
        start = time.monotonic()
        counts = Counter(child.stdout.read().split())
        seconds = time.monotonic() - start
    assert child.returncode == 0
    assert verify(out).recipe == RECIPE
    return Undisturbed(contents(out), counts, seconds)


@pytest.fixture
def partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


@pytest.fixture
def begun(scout_mini: Path, out: Path, partial: Path) -> Path:
    """The `.partial` folder of a conversion of which about half is done."""
    interrupt(scout_mini, out)
    return partial


def interrupt(source: Path, out: Path, share: float = 0.5, fast: bool = True) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.done > share * event.total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="is kept in .*: the same command goes on"):
        convert(source, out, RECIPE, stop, fast=fast)


def finish(source: Path, out: Path) -> list[Event]:
    """The events of the same command, given again."""
    events: list[Event] = []
    convert(source, out, RECIPE, events.append, fast=True)
    return events


def check(source: Path, out: Path, undisturbed: Undisturbed) -> None:
    """After any kill: `out` is not there or complete; and the same command does what is left."""
    partial = out.with_name(out.name + ".partial")
    if out.exists():
        assert verify(out).recipe == RECIPE
        assert contents(out).items() >= undisturbed.files.items()
        if not (out / journal.NAME).exists():
            assert contents(out) == undisturbed.files
            with pytest.raises(UsageError, match="exists already"):
                finish(source, out)
            return
        assert [type(event) for event in finish(source, out)] == [Converted]
    else:
        done = noted(partial) if (partial / journal.NAME).exists() else {}
        first, *rest = finish(source, out)
        assert isinstance(first, Planned)
        assert (first.done > 0) == (len(done) > 0)
        converted = [e for e in rest if isinstance(e, Progress) and e.stage == "converting"]
        assert len(converted) == undisturbed.counts["converting"] - len(done)
        assert all(event.done > first.done for event in converted)
    assert contents(out) == undisturbed.files
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize(("step", "share", "how"), MOMENTS)
def test_killed_at_a_step(
    scout_mini: Path, out: Path, undisturbed: Undisturbed, step: str, share: float, how: str
) -> None:
    if not undisturbed.counts[step]:
        pytest.skip(f"no {step} on this system")
    n = max(1, round(share * undisturbed.counts[step]))
    done = crash.run(step, n, how, scout_mini, out)
    # How often progress is told of hashing depends on the time it takes.
    assert done.returncode in ([-SIGKILL, 0] if step == "hashing" and share else [-SIGKILL])
    assert "Traceback" not in done.stderr
    check(scout_mini, out, undisturbed)


@pytest.mark.parametrize("share", [(i + RANDOM.random()) / 6 for i in range(6)])
def test_killed_at_a_time(
    scout_mini: Path, out: Path, undisturbed: Undisturbed, share: float
) -> None:
    with subprocess.Popen(
        crash.command("none", 0, "", scout_mini, out), stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "begun\n"
        try:
            child.wait(timeout=share * undisturbed.seconds)
        except subprocess.TimeoutExpired:
            child.kill()
    check(scout_mini, out, undisturbed)


def test_killed_again_and_again(scout_mini: Path, out: Path, undisturbed: Undisturbed) -> None:
    """Each run gets further than the one before, until one is done."""
    partial = out.with_name(out.name + ".partial")
    before = 0
    for n, how in [(200, "torn"), (250, "after"), (150, "before"), (100, "torn")]:
        assert crash.run("pwrite", n, how, scout_mini, out).returncode == -SIGKILL
        assert len(noted(partial)) > before
        before = len(noted(partial))
    assert crash.run("rename", 1, "before", scout_mini, out).returncode == -SIGKILL
    assert crash.run("unlink", 1, "before", scout_mini, out).returncode == -SIGKILL
    check(scout_mini, out, undisturbed)


def test_lost_files_are_forgotten_before_they_look_whole_again(
    scout_mini: Path, out: Path, begun: Path, undisturbed: Undisturbed
) -> None:
    """Killed just after a shard that was lost is given its size: nothing in it counts."""
    (begun / "model-00001-of-00003.safetensors").unlink()
    call = "posix_fallocate" if undisturbed.counts["posix_fallocate"] else "ftruncate"
    assert crash.run(call, 1, "after", scout_mini, out).returncode == -SIGKILL
    check(scout_mini, out, undisturbed)


def test_an_iterator_that_is_closed(
    scout_mini: Path, out: Path, partial: Path, undisturbed: Undisturbed
) -> None:
    events = stream(scout_mini, out, RECIPE, fast=True)
    assert isinstance(next(events), Planned)
    assert partial.is_dir()
    events.close()
    assert list(out.parent.iterdir()) == []  # nothing was done, nothing is kept
    for event in (events := stream(scout_mini, out, RECIPE, fast=True)):
        if isinstance(event, Progress) and event.stage == "hashing":
            events.close()
    assert len(noted(partial)) == undisturbed.counts["converting"]
    check(scout_mini, out, undisturbed)


# What differs from the conversion that was begun


def other_weights(source: Path) -> None:
    """Of the same shapes, so that only the sample of them tells."""
    damage.change(source, {name: value * 2 for name, value in damage.tensors(source).items()})


def other_config(source: Path) -> None:
    damage.edit_json(source / "config.json", extra=1)


@pytest.mark.parametrize("change", [other_weights, other_config])
def test_another_source_is_refused(source: Path, out: Path, partial: Path, change) -> None:
    interrupt(source, out)
    change(source)
    before = contents(partial)
    with pytest.raises(UsageError, match=r"source (sample|fingerprint) \w+, and this one has"):
        finish(source, out)
    assert contents(partial) == before


def test_another_recipe_quantiser_or_version_is_refused(
    scout_mini: Path, out: Path, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(begun)
    share = r"holds 5\d% of a conversion with "
    with pytest.raises(UsageError, match=share + "recipe name e4r4, and this one has name e4r6"):
        convert(scout_mini, out, "e4r6", fast=True)
    with pytest.raises(UsageError, match=share + "quantiser min-max, .* least squares; repeat"):
        convert(scout_mini, out, RECIPE)
    with monkeypatch.context() as patch:
        patch.setattr(identity, "__version__", "99.1")
        with pytest.raises(UsageError, match=r"tools mlx-maverick .*, and .* 99\.1; .*--restart$"):
            finish(scout_mini, out)
    # The one message is told, and not that the same command would go on.
    assert contents(begun) == before
    assert isinstance(finish(scout_mini, out)[0], Planned)


def test_restart_discards(scout_mini: Path, out: Path, begun: Path) -> None:
    events: list[Event] = []
    convert(scout_mini, out, "e4r6", events.append, fast=True, restart=True)
    assert isinstance(events[0], Planned)
    assert events[0].done == 0
    assert verify(out).recipe == "e4r6"
    assert list(out.parent.iterdir()) == [out]


def test_one_of_which_nothing_is_done_is_begun_anew(
    scout_mini: Path, out: Path, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With any recipe; and the files of the first, which may be as large as the disk, go."""
    assert crash.run("converting", 1, "", scout_mini, out).returncode == -SIGKILL
    assert crash.run("Planned", 1, "", scout_mini, out).returncode == -SIGKILL
    log = partial / journal.NAME
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])
    assert (partial / "model-00003-of-00003.safetensors").exists()
    monkeypatch.setattr(Layout.of, "__defaults__", (1 << 30,))
    convert(scout_mini, out, "e8r8", fast=True)
    assert verify(out).recipe == "e8r8"
    assert [p.name for p in out.glob("*.safetensors")] == ["model.safetensors"]


# What a power cut, a failing disk or a person does to the folder


def zeros(data: bytes) -> bytes:
    return data + bytes(300)


def torn(data: bytes) -> bytes:
    return data[:-7]


def half_zero(data: bytes) -> bytes:
    return data[:-200] + bytes(200)


@pytest.mark.parametrize("tear", [zeros, torn, half_zero])
def test_a_damaged_end_of_the_journal(
    scout_mini: Path, out: Path, begun: Path, undisturbed: Undisturbed, tear
) -> None:
    file = begun / journal.NAME
    before = noted(begun)
    file.write_bytes(tear(file.read_bytes()))
    after = noted(begun)
    assert after.items() <= before.items()
    assert len(before) - 20 < len(after) <= len(before)
    check(scout_mini, out, undisturbed)


@pytest.mark.parametrize("text", [b"", b"\0" * 4096, b"{", b"[1, 2]\n", b"\xff\n"])
def test_a_journal_without_a_first_line(
    scout_mini: Path, out: Path, begun: Path, undisturbed: Undisturbed, text: bytes
) -> None:
    """Nothing in the folder can be trusted."""
    (begun / journal.NAME).write_bytes(text)
    check(scout_mini, out, undisturbed)


def test_a_journal_of_another_version(scout_mini: Path, out: Path, begun: Path) -> None:
    """Hours may be in it: never discarded unasked."""
    file = begun / journal.NAME
    file.write_bytes(file.read_bytes().replace(b'"version": 2', b'"version": 1', 1))
    before = contents(begun)
    with pytest.raises(UsageError, match=r"another version of mlx-maverick.*--restart"):
        finish(scout_mini, out)
    assert contents(begun) == before
    convert(scout_mini, out, RECIPE, fast=True, restart=True)
    assert verify(out).recipe == RECIPE


def test_a_layout_of_another_version(
    scout_mini: Path, out: Path, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done lies elsewhere in files of the same names and sizes."""
    before = contents(begun)
    with monkeypatch.context() as patch:
        patch.setattr(layout, "_alignment", lambda entry: 0)
        with pytest.raises(UsageError, match=r"another version of mlx-maverick.*--restart$"):
            finish(scout_mini, out)
    assert contents(begun) == before
    assert isinstance(finish(scout_mini, out)[0], Planned)


def test_a_journal_that_lists_what_is_not_planned(
    scout_mini: Path, out: Path, begun: Path, undisturbed: Undisturbed
) -> None:
    file = begun / journal.NAME
    file.write_bytes(file.read_bytes() + b"[9999, 1, 2, 3]\n")
    finish(scout_mini, out)
    assert contents(out) == undisturbed.files


@pytest.mark.parametrize("size", [None, 0, -1, 1])
def test_a_shard_that_is_gone_or_of_another_size(
    scout_mini: Path, out: Path, partial: Path, undisturbed: Undisturbed, size: int | None
) -> None:
    """What was in it is done again, and no more."""
    interrupt(scout_mini, out, 0.9)
    shard = partial / "model-00001-of-00003.safetensors"
    if size is None:
        shard.unlink()
    else:
        with shard.open("r+b") as file:
            file.truncate(size if size == 0 else shard.stat().st_size + size)
    before = len(noted(partial))
    events = finish(scout_mini, out)
    again = sum(isinstance(e, Progress) and e.stage == "converting" for e in events)
    left = undisturbed.counts["converting"] - before
    assert left < again < undisturbed.counts["converting"]
    assert contents(out) == undisturbed.files


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_byte_that_flips_before_it_goes_on(
    scout_mini: Path, out: Path, begun: Path, undisturbed: Undisturbed, share: float
) -> None:
    """It is found when the files are hashed, and that piece alone is done again."""
    shard = begun / "model-00001-of-00003.safetensors"
    left = undisturbed.counts["converting"] - len(noted(begun))
    flip(shard, int(share * shard.stat().st_size))
    events = finish(scout_mini, out)
    done = sum(isinstance(e, Progress) and e.stage == "converting" for e in events)
    assert done == left + 1
    assert contents(out) == undisturbed.files


def test_a_disk_that_never_holds_what_is_written(
    scout_mini: Path, out: Path, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Output.write

    def wrong(self: Output, name: str, offset: int, data: np.ndarray) -> None:
        right(self, name, offset, data ^ 1 if name.endswith("lm_head.weight") else data)

    monkeypatch.setattr(Output, "write", wrong)
    with pytest.raises(BadCheckpoint, match=r"does not hold what.*twice.*is kept in"):
        finish(scout_mini, out)
    assert not out.exists()
    assert partial.exists()


def test_headers_and_documents_are_written_again(
    scout_mini: Path, out: Path, partial: Path, undisturbed: Undisturbed
) -> None:
    assert crash.run("rename", 1, "before", scout_mini, out).returncode == -SIGKILL
    flip(partial / "model-00001-of-00003.safetensors", 40)
    flip(partial / "config.json", 40)
    flip(partial / "maverick.json", 40)
    check(scout_mini, out, undisturbed)


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 0x10
    file.write_bytes(data)


@pytest.mark.parametrize("at", [20, 200_000])
def test_a_byte_that_flips_while_it_runs(
    scout_mini: Path,
    out: Path,
    partial: Path,
    undisturbed: Undisturbed,
    at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also in a header, of which no job knows: after everything was written, and again after
    what had changed was."""
    name = "model-00001-of-00003.safetensors"
    right = undisturbed.files[name][at]

    def after(step: Callable[..., Any]) -> Callable[..., Any]:
        def damaged(*args: Any) -> Any:
            if (partial / name).read_bytes()[at] == right:
                flip(partial / name, at)
            return step(*args)

        return damaged

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "verify_layout", after(conversion.verify_layout))
        patch.setattr(conversion, "hash_files", after(conversion.hash_files))
        with pytest.raises(BadCheckpoint, match="is kept in"):
            convert(scout_mini, out, RECIPE, fast=True)
    check(scout_mini, out, undisturbed)


def test_what_a_file_manager_leaves_is_removed(
    scout_mini: Path, out: Path, begun: Path, undisturbed: Undisturbed
) -> None:
    (begun / ".DS_Store").write_bytes(b"x")
    (begun / "._model-00001-of-00003.safetensors").write_bytes(b"x")
    finish(scout_mini, out)
    assert contents(out) == undisturbed.files


@pytest.mark.parametrize("name", ["notes.txt", "model-00004-of-00004.safetensors"])
def test_other_files_are_refused_by_name(
    scout_mini: Path, out: Path, begun: Path, undisturbed: Undisturbed, name: str
) -> None:
    """First, not after an hour; and when one comes later."""
    (begun / name).write_bytes(b"x")
    before = contents(begun)
    with pytest.raises(UsageError, match=f"{name}, not of this conversion"):
        finish(scout_mini, out)
    assert contents(begun) == before
    (begun / name).unlink()

    def add(event: Event) -> None:
        if isinstance(event, Progress) and event.done == event.total:
            (begun / name).write_bytes(b"x")

    with pytest.raises(UsageError, match=f"{name}, not of this conversion.*100% is kept"):
        convert(scout_mini, out, RECIPE, add, fast=True)
    (begun / name).unlink()
    check(scout_mini, out, undisturbed)


def test_an_unfinished_folder_is_no_output(
    scout_mini: Path, out: Path, begun: Path, undisturbed: Undisturbed
) -> None:
    """`--out model.partial`, as a shell completes it."""
    before = contents(begun)
    with pytest.raises(UsageError, match=rf"unfinished conversion is called.* {out} to go on"):
        finish(scout_mini, begun)
    assert contents(begun) == before
    check(scout_mini, out, undisturbed)


@pytest.mark.parametrize("other", ["source", "fast", "rules", "restart"])
def test_a_journal_left_in_the_output_is_of_one_conversion(
    maverick_mini: Path, scout_mini: Path, out: Path, other: str
) -> None:
    """As a kill just before the journal goes leaves it: another command is not done by it."""
    convert(maverick_mini, out, Recipe.parse("e4r4", ["lm_head=8"]))
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    (out / journal.NAME).write_bytes(b"")
    source = scout_mini if other == "source" else maverick_mini
    recipe = Recipe.parse("e4r4", ["lm_head=6" if other == "rules" else "lm_head=8"])
    with pytest.raises(UsageError, match="exists already"):
        convert(source, out, recipe, fast=other == "fast", restart=other == "restart")
    assert convert(maverick_mini, out, Recipe.parse("e4r4", ["lm_head=8"])).folder == out
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_a_partial_folder_is_never_the_output(
    maverick_mini: Path, out: Path, partial: Path
) -> None:
    """Not even one that was killed just before it got its name."""
    assert crash.run("rename", 1, "before", maverick_mini, out).returncode == -SIGKILL
    before = contents(partial)
    with pytest.raises(UsageError, match="unfinished conversion"):
        convert(maverick_mini, partial, RECIPE, fast=True)
    with pytest.raises(UsageError, match="unfinished conversion"):
        convert(maverick_mini, partial, RECIPE)
    assert contents(partial) == before
