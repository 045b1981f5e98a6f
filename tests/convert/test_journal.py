import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_maverick.convert import journal
from mlx_maverick.convert.journal import NAME, Journal, read, refuse_other
from mlx_maverick.errors import DoesNotFit, MaverickError, UsageError

IDENTITY = {
    "recipe": {"name": "e4r4"},
    "quantiser": "min-max",
    "source": {"folder": "x"},
    "tools": {},
    "layout": "1f",
}


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / NAME, os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


def test_an_empty_one(file: int, tmp_path: Path) -> None:
    log = Journal(file, tmp_path)
    assert log.identity is None
    assert log.done == {}
    assert read(tmp_path) is None
    assert read(tmp_path / "nowhere") is None


def test_what_is_noted_is_read_again(file: int, tmp_path: Path) -> None:
    log = Journal(file, tmp_path)
    log.begin(IDENTITY)
    log.add({3: [1, 2], 0: [2**32 - 1]})
    log.add({5: [7]})
    for again in (log, Journal(file, tmp_path)):
        assert again.identity == IDENTITY
        assert again.done == {3: [1, 2], 0: [2**32 - 1], 5: [7]}
    assert read(tmp_path) == IDENTITY
    log.begin(IDENTITY)
    assert Journal(file, tmp_path).done == {}


def test_jobs_to_be_done_again(file: int, tmp_path: Path) -> None:
    log = Journal(file, tmp_path)
    log.begin(IDENTITY)
    log.add({1: [1], 2: [2], 3: [3]})
    log.forget(n for n in (1, 3))
    log.forget([])
    assert log.done == Journal(file, tmp_path).done == {2: [2]}
    log.add({3: [9]})
    assert log.done == Journal(file, tmp_path).done == {2: [2], 3: [9]}


def test_forgetting_is_an_addition(file: int, tmp_path: Path) -> None:
    """Nothing is rewritten: a kill cannot lose what else is noted."""
    log = Journal(file, tmp_path)
    log.begin(IDENTITY)
    log.add({1: [1], 2: [2]})
    before = (tmp_path / NAME).read_bytes()
    log.forget([1])
    assert (tmp_path / NAME).read_bytes() == before + b"[1]\n"


def test_cut_anywhere_it_lists_the_jobs_before(file: int, tmp_path: Path) -> None:
    """And the next note makes good what is cut."""
    log = Journal(file, tmp_path)
    log.begin(IDENTITY)
    for number in range(10):
        log.add({number: [number, 10**9]})
    text = (tmp_path / NAME).read_bytes()
    ends = [i + 1 for i, c in enumerate(text) if c == 10]
    for size in range(len(text)):
        (tmp_path / NAME).write_bytes(text[:size] + (bytes(40) if size % 2 else b""))
        cut = Journal(file, tmp_path)
        whole = sum(end <= size for end in ends)
        assert len(cut.done) == max(0, whole - 1)
        assert (cut.identity is None) == (whole == 0)
        if whole:
            cut.add({77: [1]})
            assert Journal(file, tmp_path).done == cut.done
            assert len(cut.done) == whole
            assert b"\0" not in (tmp_path / NAME).read_bytes()


@pytest.mark.parametrize("line", ["[]", "{}", "null", "5", '["a"]', "[1.5]", "[1, null]", "[true]"])
def test_lines_that_are_not_ours_end_it(file: int, tmp_path: Path, line: str) -> None:
    log = Journal(file, tmp_path)
    log.begin(IDENTITY)
    log.add({1: [1]})
    with (tmp_path / NAME).open("a") as more:
        more.write(line + "\n[2, 2]\n")
    again = Journal(file, tmp_path)
    assert again.done == {1: [1]}
    again.add({3: [3]})
    assert Journal(file, tmp_path).done == {1: [1], 3: [3]}


@pytest.mark.parametrize("version", [0, 1, 3, None, "2"])
def test_another_version(file: int, tmp_path: Path, version: object) -> None:
    (tmp_path / NAME).write_text(json.dumps({"version": version, **IDENTITY}) + "\n[1, 1]\n")
    with pytest.raises(UsageError, match=f"{tmp_path} was begun by another version.*--restart"):
        Journal(file, tmp_path)
    with pytest.raises(UsageError, match="another version"):
        read(tmp_path)


def test_a_note_is_written_and_synced_before_it_counts(
    file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Journal(file, tmp_path)
    log.begin(IDENTITY)
    seen: list[bytes] = []
    monkeypatch.setattr(journal, "sync", lambda _: seen.append((tmp_path / NAME).read_bytes()))
    log.add({4: [2]})
    assert seen[0].endswith(b"\n[4, 2]\n")


def test_short_writes_are_continued(
    file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, data[:3], at))
    log = Journal(file, tmp_path)
    log.begin(IDENTITY)
    log.add({4: [2]})
    assert Journal(file, tmp_path).done == {4: [2]}


@pytest.mark.parametrize(
    ("code", "error", "told"),
    [
        (errno.ENOSPC, DoesNotFit, "became full; make room"),
        (errno.EDQUOT, DoesNotFit, "became full; make room"),
        (errno.EIO, MaverickError, r"cannot be written \(Input/output error\)"),
    ],
)
def test_a_disk_that_fails(
    file: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    error: type[Exception],
    told: str,
) -> None:
    log = Journal(file, tmp_path)
    log.begin(IDENTITY)

    def fail(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with pytest.raises(error, match=told):
            log.add({1: [1]})
    assert log.done == {}
    log.add({2: [2]})
    assert Journal(file, tmp_path).done == {2: [2]}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"recipe": {"name": "e8r8"}}, "recipe name e4r4, and this one has name e8r8"),
        ({"quantiser": "least squares"}, "quantiser min-max, and this one has least squares"),
        ({"source": {"folder": "y"}}, "source folder x, and this one has folder y"),
        ({"source": {"folder": "x", "commit": "c"}}, "source commit null, .* commit c"),
        ({"tools": {"mlx": "1"}}, "tools mlx null, and this one has mlx 1"),
    ],
)
def test_the_difference_is_named(tmp_path: Path, change: dict[str, object], told: str) -> None:
    refuse_other(IDENTITY, dict(IDENTITY), tmp_path, 0.5)
    with pytest.raises(UsageError, match=f"holds 42% of a conversion with {told}"):
        refuse_other(IDENTITY, IDENTITY | change, tmp_path, 0.42)
    with pytest.raises(UsageError):
        refuse_other(IDENTITY | change, IDENTITY, tmp_path, 0.42)


@pytest.mark.parametrize("change", [{"layout": "2e"}, {"layout": None}])
def test_tensors_at_other_places_are_another_versions(
    tmp_path: Path, change: dict[str, object]
) -> None:
    """With recipe, source and tools as they are."""
    with pytest.raises(UsageError, match=f"{tmp_path} was begun by another version.*--restart"):
        refuse_other(IDENTITY | change, IDENTITY, tmp_path, 0.42)
