"""Memory of streamed experts: what was said before is what is taken, and it is given back."""

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_maverick import engine_thread, memory
from mlx_maverick.errors import BadCheckpoint, DoesNotFit, UsageError
from mlx_maverick.events import Finished
from mlx_maverick.loading import load
from mlx_maverick.maverick import Maverick
from mlx_maverick.streaming import counts
from mlx_maverick.streaming.uncached import Uncached

from .conftest import Folder
from .drive import (
    CONTEXT,
    GREEDY,
    ask,
    ids,
    resident,
    said,
    settle,
    slab,
    streamed,
    streams,
)

# Buffers that MLX has in its cache are taken for smaller ones, up to two pages too large.
WASTE = 96 * 2**10


def active() -> int:
    """Bytes that arrays take; freed ones are not kept."""

    def ask() -> int:
        mx.clear_cache()
        return mx.get_active_memory()

    return engine_thread.run(ask)


@pytest.fixture
def no_gc() -> Iterator[None]:
    """Python does not look for circles: what is freed is freed without."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("rules", [(), ("routed@first,last=+1",), ("routed=bf16",)], ids=str)
@pytest.mark.parametrize("part", [0.0, 0.3, 0.7, 1.0])
def test_what_is_taken_is_what_was_budgeted(
    folder: Folder, part: float, rules: tuple[str, ...]
) -> None:
    path = folder("e4r4", *rules)
    given, before = slab(path, part), active()
    model = streamed(path, part)
    taken = active() - before
    held = streams(model)
    sizes = [places.memory(4) for bank in held.banks for places in bank.layers]
    assert held.nbytes == held.plan.nbytes == model.budget.slab
    assert given - max(sizes) < held.nbytes <= given
    whole = resident(path)
    # Bytes of the weights, but for tables that rotary embedding computes.
    assert model.nbytes - model.budget.weights == whole.nbytes - whole.budget.weights
    assert model.nbytes - held.nbytes < whole.nbytes
    assert 0 <= taken - model.nbytes <= WASTE


@pytest.mark.parametrize("part", [0.0, 0.3])
def test_a_long_prompt_stays_within_the_budget(folder: Folder, part: float) -> None:
    path, before = folder("e4r4"), active()
    model = streamed(path, part, context=1000)
    reply = ask(model, ids(900))
    assert 0 < reply.stats.peak_memory - before <= model.budget.total
    assert active() - before - model.nbytes <= WASTE  # and nothing of it is left


@pytest.fixture(scope="session")
def large(folder: Folder) -> Path:
    """One whose experts are larger than what a prompt needs for going through layers at once."""
    return folder("e4r4", "routed=bf16")


@pytest.fixture
def small(large: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The limit of a machine that has room for half of the experts."""
    rest = streamed(large).budget
    held = active()
    assert rest.slab is not None
    limit = held + rest.total - rest.slab + slab(large, 1.0) // 2
    assert limit < held + resident(large).budget.total
    monkeypatch.setattr(memory, "machine_limit", lambda: limit)
    return limit


def test_auto_streams_what_does_not_fit(large: Path, small: int) -> None:
    before = active()
    model = load(large, context=CONTEXT)
    plan = streams(model).plan
    assert 2 < plan.slots < plan.keys
    assert before + model.budget.total <= small
    # As much as there is: one more expert would not fit.
    assert small - before - model.budget.total < plan.banks[0].slot_bytes
    reply = ask(model, ids(900))
    assert reply.stats.peak_memory <= small
    assert reply.stats.experts is not None
    assert reply.stats.experts.misses > 0
    with pytest.raises(DoesNotFit):
        load(large, context=CONTEXT, experts="resident")


def test_auto_keeps_in_memory_what_fits(e4r4: Path) -> None:
    model = load(e4r4, context=CONTEXT)
    assert model.model.streams is None
    assert model.experts is None


def test_more_expert_memory_than_fits(large: Path, small: int) -> None:
    with pytest.raises(DoesNotFit, match=r"give at most --expert-memory \d+MB") as raised:
        load(large, context=CONTEXT, expert_memory=slab(large, 1.0))
    most = str(raised.value).split()[-1]
    assert load(large, context=CONTEXT, expert_memory=most).budget.total <= small


def test_not_even_the_smallest_slab_fits(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need, held = streamed(large).budget.total, active()
    monkeypatch.setattr(memory, "machine_limit", lambda: held + need - 1)
    for mode in ("auto", "stream"):
        with pytest.raises(DoesNotFit):
            load(large, context=CONTEXT, experts=mode)
    monkeypatch.setattr(memory, "machine_limit", lambda: held + need)
    least = load(large, context=CONTEXT)
    assert [bank.slots.count for bank in streams(least).banks] == [2]
    wanted = said(ask(least, ids(50)))
    monkeypatch.undo()
    assert said(ask(resident(large), ids(50))) == wanted


def test_expert_memory_for_less_than_two_slots(e4r4: Path) -> None:
    with pytest.raises(DoesNotFit, match="give more expert memory"):
        load(e4r4, context=CONTEXT, expert_memory=slab(e4r4, 0.0) - 1)
    load(e4r4, context=CONTEXT, expert_memory=slab(e4r4, 0.0))


def test_a_folder_as_it_was_published_cannot_be_streamed(maverick_mini: Path) -> None:
    with pytest.raises(UsageError, match="run 'mlx-maverick convert'"):
        load(maverick_mini, context=CONTEXT, experts="stream")


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "experts"]


def descriptors(path: Path) -> int:
    """How often the model's weights are open in this process."""
    file, count = (path / "model.safetensors").stat(), 0
    for number in os.listdir("/dev/fd"):
        try:
            found = os.fstat(int(number))
        except OSError:  # the one that the list was read with
            continue
        count += (found.st_dev, found.st_ino) == (file.st_dev, file.st_ino)
    return count


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("end", ["answered", "left", "cancelled", "failed"])
def test_all_is_given_back(
    e4r4: Path, tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory, threads and descriptors, when the model is dropped: at once."""
    ask(streamed(e4r4), ids(100))  # what is made once, and kept
    before, was = active(), len(threads())
    model: Maverick = streamed(e4r4, 0.2, look_ahead=end == "answered", route_log=tmp_path / "log")
    assert len(threads()) > was
    assert descriptors(e4r4) > 0
    settle(model)
    if end == "answered":
        ask(model, ids(100))
    elif end == "failed":
        with monkeypatch.context() as patch:
            patch.setattr(Uncached, "read", _fails)
            with suppress(BadCheckpoint):
                ask(model, ids(100))
    else:
        stream = model.stream_encoded(ids(100), **GREEDY)
        for _ in range(3):
            next(stream)
        if end == "cancelled":
            stream.cancel()
            assert isinstance(list(stream)[-1], Finished)
        del stream
    del model
    assert active() == before
    assert len(threads()) == was
    assert descriptors(e4r4) == 0


def _fails(self: Uncached, offset: int, view: memoryview) -> None:
    raise OSError(5, "fails")


# The warm start.


def test_counts_of_a_run_are_what_the_next_one_begins_with(e4r4: Path, home: Path) -> None:
    model = streamed(e4r4, 0.25)
    file = counts.place(model.fingerprint)
    assert home in file.parents
    assert not file.exists()
    ask(model, ids(200), max_tokens=20)
    used = counts.load(file, 4, 16)
    assert used[:3].sum() == 3 * (200 + 19)  # of the last layer nothing but last rows
    assert used[3].sum() == 1 + 19
    del model
    again = streamed(e4r4, 0.25)
    settle(again)
    (bank,) = streams(again).banks
    there = np.flatnonzero(bank.slots.slot_of >= 0)
    assert len(there) == bank.slots.count
    flat = used.reshape(-1)
    assert flat[there].min() >= np.delete(flat, there).max()
    assert not np.array_equal(there % 16, np.arange(len(there)) % 16)
    before = again.experts
    assert before is not None
    stored = sum(part.nbytes for part in bank.layers[0].parts)
    assert before.bytes_read == bank.slots.count * stored
    # And it goes on from there.
    ask(again, ids(50), max_tokens=1)
    assert counts.load(file, 4, 16).sum() == used.sum() + 3 * 50 + 1


@pytest.mark.parametrize("damage", [b"", b"nonsense", "short", "other"])
def test_damaged_counts_are_said_in_the_log_and_no_more(
    e4r4: Path, damage: bytes | str, caplog: pytest.LogCaptureFixture
) -> None:
    model = streamed(e4r4, 0.25)
    wanted, file = said(ask(model, ids(60))), counts.place(model.fingerprint)
    if damage == "short":
        file.write_bytes(file.read_bytes()[:-5])
    elif damage == "other":
        np.save(file, np.ones((4, 17), np.int64))
    else:
        assert isinstance(damage, bytes)
        file.write_bytes(damage)
    again = streamed(e4r4, 0.25)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(file) in caplog.text
    assert said(ask(again, ids(60))) == wanted
    assert counts.load(file, 4, 16).sum() > 0  # it is whole again


def test_counts_that_cannot_be_written(
    e4r4: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = streamed(e4r4)
    file = counts.place(model.fingerprint)
    file.parent.parent.mkdir(parents=True, exist_ok=True)
    file.parent.write_bytes(b"")  # a file where the folder should be
    wanted = said(ask(resident(e4r4), ids(60)))
    assert said(ask(model, ids(60))) == wanted
    assert "cannot be written" in caplog.text
