"""What a bank reads, when, and what it does about reads that fail."""
# ruff: noqa: F811

import os
import threading
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_maverick.errors import BadCheckpoint, Interrupted
from mlx_maverick.streaming.reader import Reader
from mlx_maverick.streaming.slots import NONE

from .synthetic import (
    KEYS,
    Experts,
    content_hash,
    experts,
    held,
)
from .test_bank import PACKED, folders, hashes, packed, read, reader, small_pieces  # noqa: F401

NONE_PINNED: frozenset[int] = frozenset()


def test_a_layer_is_ready_when_all_of_it_is(packed: Experts, reader: Reader) -> None:
    bank = packed.bank(KEYS - 1, mx.float32, reader)
    read(bank, 4, 5, 6)
    assert not bank.all_ready(4)
    read(bank, 7)
    assert bank.all_ready(4)
    assert not bank.all_ready(0)
    bank.release(bank.slot(5))
    assert not bank.all_ready(4)


def hold(made: Experts) -> None:
    """From now on reads wait, until they are let go."""
    for file in made.flaky:
        while file.waiting.acquire(blocking=False):
            pass
        file.gate.clear()


def let_go(made: Experts) -> None:
    for file in made.flaky:
        file.gate.set()


def test_what_is_being_read_is_not_ready(packed: Experts, reader: Reader) -> None:
    bank = packed.bank(4, mx.float32, reader)
    hold(packed)
    try:
        slot = bank.fetch(3, NONE_PINNED, 1)
        assert bank.slot(3) == slot
        assert not bank.ready(3)
        assert not bank.all_ready(0)
    finally:
        let_go(packed)
    bank.wait(3)
    assert bank.ready(3)
    assert not bank.ready(4)


def test_a_slot_that_is_being_read_into_changes_hands_when_that_has_ended(
    packed: Experts, hashes: dict[object, list[str]], reader: Reader
) -> None:
    bank = packed.bank(2, mx.float32, reader)
    hold(packed)
    try:
        slot = bank.fetch(3, NONE_PINNED, 1)
        assert any(file.waiting.acquire(timeout=10) for file in packed.flaky)
        filling = threading.Thread(target=bank.fill, args=(8, slot, 1))
        filling.start()
        filling.join(0.05)
        assert filling.is_alive()  # bytes of the other one are on their way
    finally:
        let_go(packed)
    filling.join(10)
    assert bank.slot(3) == NONE
    bank.wait(8)
    assert content_hash(held(bank, slot)) == hashes[PACKED, "BF16", mx.float32][8]


def test_warming_up_begins_with_what_was_used_most(packed: Experts, reader: Reader) -> None:
    bank = packed.bank(4, mx.float32, reader)
    bank.slots.uses[[9, 2, 6]] = [5, 9, 7]
    bank.warm()
    assert bank.slots.key_of.tolist() == [2, 6, 9, 0]
    for key in (2, 6, 9, 0):
        bank.wait(key)
    assert bank.fetch(1, NONE_PINNED, 1) == 3  # the one that was used least goes first


def test_warming_up_without_knowing_takes_some_of_every_layer(
    packed: Experts, reader: Reader
) -> None:
    bank = packed.bank(7, mx.float32, reader)
    bank.warm()
    assert bank.slots.key_of.tolist() == [0, 4, 8, 1, 5, 9, 2]


def test_spare_slots(packed: Experts, reader: Reader) -> None:
    """They are read ahead into, and nothing else is; what was read ahead and is wanted stays."""
    bank = packed.bank(5, mx.float32, reader, spare=2)
    assert bank.free == 3
    bank.warm()
    assert bank.slots.key_of.tolist() == [NONE, NONE, 0, 4, 8]
    bank.read_ahead(4, 1)  # is there
    assert sum(key != NONE for key in bank.slots.key_of) == 3
    bank.read_ahead(10, 1)
    bank.read_ahead(11, 1)
    assert {bank.slot(10), bank.slot(11)} == {0, 1}
    (slot,) = read(bank, 10)  # it has come true
    bank.slots.touch(np.array([10]), np.array([1]), 2)
    assert bank.slot(10) == slot
    bank.read_ahead(1, 3)
    bank.read_ahead(2, 3)
    assert bank.slot(10) == slot
    assert bank.free == 3
    pinned: set[int] = set()
    for key in (5, 6, 7):  # as many as there are free ones
        pinned.add(bank.fetch(key, pinned, 4))
    assert bank.fetch(9, pinned, 4) == NONE
    assert NONE not in pinned
    assert bank.slot(1) != NONE
    assert bank.slot(2) != NONE


def test_what_is_needed_now_is_not_read_over(packed: Experts, reader: Reader) -> None:
    """Where an expert that was read ahead is wanted together with one that was there."""
    bank = packed.bank(4, mx.float32, reader, spare=2)
    read(bank, 0, 5)
    bank.read_ahead(10, 1)
    pinned = {bank.slot(0), bank.slot(10)}
    for key in (0, 10):
        pinned.add(bank.fetch(key, pinned, 2))
    for key in (1, 2, 3):
        bank.read_ahead(key, 2)
    assert bank.slot(0) != NONE
    assert bank.slot(10) != NONE
    assert bank.slot(5) == NONE


def test_the_oldest_goes_first(packed: Experts, reader: Reader) -> None:
    bank = packed.bank(3, mx.float32, reader)
    for step, key in ((5, 1), (3, 2), (4, 3)):
        bank.fetch(key, NONE_PINNED, step)
    order = [bank.slot(2), bank.slot(3), bank.slot(1)]
    assert [bank.fetch(key, NONE_PINNED, 6 + key) for key in (4, 5, 6)] == order


def test_without_spare_slots_nothing_is_read_ahead(packed: Experts, reader: Reader) -> None:
    for slots, spare in ((4, 0), (2, 5)):
        bank = packed.bank(slots, mx.float32, reader, spare)
        assert bank.free == slots
        bank.read_ahead(3, 1)
        assert bank.slot(3) == NONE


def test_what_is_read_already_is_not_read_again(packed: Experts, reader: Reader) -> None:
    bank = packed.bank(4, mx.float32, reader)
    read(bank, 1, 2, 3)
    before = reader.nbytes
    assert before == 3 * sum(part.nbytes for part in packed.layers[0].parts)
    read(bank, 3, 2, 1)
    assert reader.nbytes == before


def test_giving_up_what_is_not_read(packed: Experts, reader: Reader) -> None:
    bank = packed.bank(4, mx.float32, reader)
    read(bank, 1)
    hold(packed)
    try:
        bank.fetch(2, {bank.slot(1)}, 1)
    finally:
        letting = threading.Timer(0.05, let_go, args=(packed,))
        letting.start()
        bank.release_unread([1, 2, 3])
        letting.join()
    assert bank.ready(1)


def broken(made: Experts, *keys: int) -> None:
    made.break_(set(keys))


def test_an_expert_that_cannot_be_read_is_named(packed: Experts, reader: Reader) -> None:
    bank = packed.bank(3, mx.float32, reader)
    read(bank, 1)
    broken(packed, 6)
    with pytest.raises(BadCheckpoint) as e:
        read(bank, 6)
    message = str(e.value)
    assert "expert 2 of layer 3 cannot be read from" in message
    assert "Input/output error" in message
    assert str(packed.folder / "model-0000") in message
    assert f"mlx-maverick verify {packed.folder}" in message
    assert bank.slot(6) == NONE
    assert bank.ready(1)
    with pytest.raises(BadCheckpoint):  # and again
        read(bank, 6)
    broken(packed)
    read(bank, 6)
    assert bank.ready(6)


def test_what_could_not_be_read_ahead_is_tried_once_more(packed: Experts, reader: Reader) -> None:
    bank = packed.bank(5, mx.float32, reader, spare=2)
    broken(packed, 6)
    bank.read_ahead(6, 1)
    failed = bank._reads[bank.slot(6)]
    assert failed.finished.wait(10)
    assert not bank.ready(6)
    broken(packed)
    read(bank, 6)
    assert bank.ready(6)


class Once(set[int]):
    """Experts whose bytes cannot be read the first time."""

    def __contains__(self, key: object) -> bool:
        there = super().__contains__(key)
        self.discard(key)  # type: ignore[arg-type]
        return there


def test_what_fails_while_it_is_waited_for_is_tried_once_more_too(
    packed: Experts, reader: Reader
) -> None:
    bank = packed.bank(5, mx.float32, reader, spare=2)
    packed.break_(Once({6}))
    hold(packed)
    try:
        bank.read_ahead(6, 1)
    finally:
        letting = threading.Timer(0.05, let_go, args=(packed,))
        letting.start()
    bank.wait(6)
    letting.join()
    assert bank.ready(6)


def test_once_more_is_once(packed: Experts, reader: Reader) -> None:
    bank = packed.bank(3, mx.float32, reader)
    broken(packed, 6)
    bank.fetch(6, NONE_PINNED, 1)
    assert bank._reads[bank.slot(6)].finished.wait(10)
    before = sum(file.reads for file in packed.flaky)
    with pytest.raises(BadCheckpoint, match="expert 2 of layer 3"):
        bank.wait(6)
    pieces = len(bank._pieces(6, 0))
    assert sum(file.reads for file in packed.flaky) - before <= pieces
    assert bank.slot(6) == NONE


def test_a_file_that_was_changed(tmp_path: Path, reader: Reader) -> None:
    """It is not asked for bytes at all: they would be of another model."""
    with experts(tmp_path, PACKED, "BF16") as made:
        bank = made.bank(6, mx.float32, reader, spare=2)
        read(bank, 0)
        for file in made.files:
            os.utime(file, ns=(1, 1))
        before = reader.nbytes
        with pytest.raises(BadCheckpoint, match=r"expert 1 of layer 1 .* changed while in use"):
            bank.fetch(1, NONE_PINNED, 1)
        bank.read_ahead(2, 1)  # whoever wants it will hear of it
        assert bank.slot(1) == bank.slot(2) == NONE
        assert bank.ready(0)
        assert reader.nbytes == before


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32])
def test_a_file_that_is_changed_before_it_is_read(
    tmp_path: Path, reader: Reader, dtype: mx.Dtype
) -> None:
    with experts(tmp_path, PACKED, "BF16") as made:
        bank = made.bank(3, dtype, reader)
        hold(made)
        bank.fetch(1, NONE_PINNED, 1)
        for file in made.files:
            os.utime(file, ns=(1, 1))
        let_go(made)
        with pytest.raises(BadCheckpoint, match=r"expert 1 of layer 1 .* changed while in use"):
            bank.wait(1)
        assert bank.slot(1) == NONE


def test_a_reader_that_has_ended(packed: Experts) -> None:
    """At exit: nobody is told that the disk is broken."""
    reader = Reader(1)
    bank = packed.bank(3, mx.float32, reader)
    reader.close()
    bank.fetch(1, NONE_PINNED, 1)
    with pytest.raises(Interrupted):
        bank.wait(1)
    assert bank.slot(1) == NONE


def test_an_interrupted_wait_takes_nothing_for_read(
    packed: Experts, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by Ctrl+C."""
    bank = packed.bank(3, mx.float32, reader)

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    hold(packed)
    try:
        bank.fetch(1, NONE_PINNED, 1)
        monkeypatch.setattr(reader, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            bank.wait(1)
        assert not bank.ready(1)
    finally:
        let_go(packed)
    monkeypatch.undo()
    bank.wait(1)
    assert bank.ready(1)


def test_how_many_are_read_at_once(packed: Experts, reader: Reader) -> None:
    """Small ones up to a bound; never all slots, of which one is computed with."""
    assert packed.bank(KEYS - 1, mx.float32, reader).ahead == KEYS - 2
    assert packed.bank(5, mx.float32, reader, spare=2).ahead == 2
    assert packed.bank(2, mx.float32, reader).ahead == 1
