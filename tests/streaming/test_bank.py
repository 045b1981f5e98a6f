"""Slots of memory: what is handed out is the expert asked for, whatever went on before."""

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_maverick.checkpoint import Tensor
from mlx_maverick.config import Quant
from mlx_maverick.disk import BLOCK
from mlx_maverick.errors import BadCheckpoint
from mlx_maverick.streaming import bank as module
from mlx_maverick.streaming.bank import Bank
from mlx_maverick.streaming.places import Part
from mlx_maverick.streaming.plan import BankPlan
from mlx_maverick.streaming.reader import Reader
from mlx_maverick.streaming.slab import Slab
from mlx_maverick.streaming.slots import NONE

from .synthetic import (
    EXPERTS,
    HIDDEN,
    INNER,
    KEYS,
    LAYERS,
    VALUES,
    Experts,
    content_hash,
    experts,
    held,
)

PACKED = Quant(32, 4)
FORMS = [
    (quant, stored, dtype)
    for quant, stored, dtype in product((PACKED, None), VALUES, VALUES.values())
]
NONE_PINNED: frozenset[int] = frozenset()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[object, Experts]]:
    """Experts of every form."""
    with ExitStack() as stack:
        yield {
            (quant, stored): stack.enter_context(
                experts(tmp_path_factory.mktemp("experts"), quant, stored)
            )
            for quant, stored in product((PACKED, None), VALUES)
        }


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch, folders: dict[object, Experts]) -> Iterator[None]:
    """Every expert is read in many pieces, that begin anywhere."""
    monkeypatch.setattr(module, "PIECE", 700)
    yield
    for made in folders.values():
        made.break_(set())


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader(4)
    yield reader
    reader.close()


@pytest.fixture
def packed(folders: dict[object, Experts]) -> Experts:
    """Of 4 bits with scales in bf16."""
    return folders[PACKED, "BF16"]


@pytest.fixture
def dense(folders: dict[object, Experts]) -> Experts:
    return folders[None, "F32"]


@pytest.fixture(scope="module")
def hashes(folders: dict[object, Experts]) -> dict[object, list[str]]:
    """By form and type, of every expert."""
    return {
        (quant, stored, dtype): [
            content_hash(folders[quant, stored].wanted(key, dtype)) for key in range(KEYS)
        ]
        for quant, stored, dtype in FORMS
    }


def read(bank: Bank, *keys: int) -> list[int]:
    """The slots of experts, once they are there."""
    pinned: set[int] = set()
    for key in keys:
        pinned.add(bank.fetch(key, pinned, 1))
    for key in keys:
        bank.wait(key)
    return [bank.slot(key) for key in keys]


@pytest.mark.parametrize(("quant", "stored", "dtype"), FORMS)
def test_bits_of_every_form(
    folders: dict[object, Experts],
    hashes: dict[object, list[str]],
    reader: Reader,
    quant: Quant | None,
    stored: str,
    dtype: mx.Dtype,
) -> None:
    """Values that are stored in another type are what MLX casts them to, and nothing is said of
    those that have no place there."""
    bank = folders[quant, stored].bank(3, dtype, reader)
    assert len(set(hashes[quant, stored, dtype])) == KEYS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for key in range(KEYS):
            (slot,) = read(bank, key)
            assert content_hash(held(bank, slot)) == hashes[quant, stored, dtype][key]


def bits(array: mx.array) -> np.ndarray:
    kind = mx.uint32 if array.dtype == mx.float32 else mx.uint16
    return np.array(mx.where(mx.isnan(array), mx.array(0, kind), array.view(kind)))


@pytest.mark.parametrize("stored", VALUES)
@pytest.mark.parametrize("dtype", VALUES.values())
@pytest.mark.parametrize("dense", [False, True])
def test_every_value_is_cast_as_mlx_does(stored: str, dtype: mx.Dtype, dense: bool) -> None:
    """All values of 16 bits; and of 32 those halfway between two others, and beside them."""
    short = np.arange(1 << 16, dtype=np.uint16)
    if stored == "F32":
        halves = mx.array(short).view(mx.float16).astype(mx.float32).view(mx.uint32)
        found = np.concatenate([short.astype(np.uint32) << 16, np.array(halves)])
        near = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x0FFF, 0x1000, 0x1001, 0x1FFF]
        raw = (found[:, None] + np.array(near, np.uint32)).reshape(-1)
    else:
        raw = short
    values = mx.array(raw).view(VALUES[stored])
    part = Part(Tensor("w", stored, (1, 1, len(raw)), Path("w"), 0, raw.nbytes), "weight")
    slab = Slab.of(part, 1, dtype, dense)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for at, nbytes, target in slab.targets(0, 1 << 20):
            data = raw.view(np.uint8)[at : at + nbytes]
            if isinstance(target, memoryview):
                target[:] = data
            else:
                target(memoryview(data))
    kept = slab.matrices.reshape(-1)
    wanted = values.astype(dtype)
    assert np.array_equal(np.array(mx.isnan(kept)), np.array(mx.isnan(wanted)))
    assert np.array_equal(bits(kept), bits(wanted))


KEY = st.integers(0, KEYS - 1)
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("use"), st.lists(KEY, min_size=1, max_size=4, unique=True)),
        st.tuples(st.just("fetch"), KEY),
        st.tuples(st.just("ahead"), KEY),
        st.tuples(st.just("release"), st.integers(0, KEYS - 1)),
        st.tuples(st.just("unread"), st.lists(KEY, max_size=4)),
        st.tuples(st.just("break"), st.sets(KEY, max_size=4)),
        st.tuples(st.just("touch"), KEY),
    ),
    min_size=5,
    max_size=40,
)


@pytest.mark.parametrize(
    ("quant", "stored", "dtype"),
    [
        (PACKED, "BF16", mx.bfloat16),  # as it is
        (PACKED, "BF16", mx.float32),  # in part
        (None, "F16", mx.float32),  # nothing of it
    ],
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    moves=MOVES,
    count=st.integers(2, KEYS),
    spare=st.integers(0, 3),
    warm=st.booleans(),
)
def test_no_slot_is_handed_out_with_anything_else_in_it(
    folders: dict[object, Experts],
    hashes: dict[object, list[str]],
    reader: Reader,
    quant: Quant | None,
    stored: str,
    dtype: mx.Dtype,
    moves: list[tuple[str, object]],
    count: int,
    spare: int,
    warm: bool,
) -> None:
    """Random wishes, evictions, reads ahead, releases and disk errors, in slots of any number."""
    made, wanted = folders[quant, stored], hashes[quant, stored, dtype]
    made.break_(set())
    bank = made.bank(count, dtype, reader, spare)
    broken: set[int] = set()
    if warm:
        bank.warm()

    def check(key: int) -> None:
        slot = bank.slot(key)
        assert slot != NONE
        assert content_hash(held(bank, slot)) == wanted[key]

    for step, (move, said) in enumerate(moves, 1):
        if move == "use":  # as a layer does
            assert isinstance(said, list)
            keys = said[: bank.free]
            bank.slots.touch(np.array(keys), np.ones(len(keys), np.int64), step)
            pinned = {bank.slot(key) for key in keys} - {NONE}
            for key in keys:
                slot = bank.fetch(key, pinned, step)
                assert slot != NONE
                pinned.add(slot)
            for key in keys:
                if bank.ready(key):
                    check(key)
                    continue
                try:
                    bank.wait(key)
                except BadCheckpoint:
                    assert key in broken
                    assert bank.slot(key) == NONE
                else:
                    check(key)
                    assert bank.ready(key)
            slots = [bank.slot(key) for key in keys if bank.slot(key) != NONE]
            assert len(set(slots)) == len(slots)  # none took another's
        elif move == "fetch":  # and nobody waits
            bank.fetch(said, NONE_PINNED, step)  # type: ignore[arg-type]
        elif move == "ahead":
            bank.read_ahead(said, step)  # type: ignore[arg-type]
        elif move == "release":
            assert isinstance(said, int)
            bank.release(said % bank.slots.count)
            assert bank.slots.key_of[said % bank.slots.count] == NONE
        elif move == "unread":
            bank.release_unread(said)  # type: ignore[arg-type]
            assert all(bank.ready(key) or bank.slot(key) == NONE for key in said)  # type: ignore[attr-defined]
        elif move == "break":
            broken |= said  # type: ignore[arg-type]
            made.break_(said)  # type: ignore[arg-type]
        else:
            bank.slots.touch(np.array([said]), np.array([1]), step)
        for key in range(KEYS):
            if bank.ready(key):
                check(key)
    for slot in range(bank.slots.count):  # no thread writes there any more
        bank.release(slot)


def addresses(bank: Bank) -> list[int]:
    """Of all arrays that are computed with."""
    m = bank.matrices
    arrays = [a for part in (m.gate_proj, m.up_proj, m.down_proj) for a in part.arrays]
    return [address(array) for array in arrays]


def address(array: mx.array) -> int:
    shown = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
    return np.array(shown, copy=False).ctypes.data


CPU = mx.default_device().type == mx.DeviceType.cpu
PAGE = 16384  # that Metal rounds each buffer to


@pytest.mark.parametrize(("quant", "stored", "dtype"), FORMS)
def test_memory_is_taken_once_and_to_the_byte(
    folders: dict[object, Experts],
    reader: Reader,
    quant: Quant | None,
    stored: str,
    dtype: mx.Dtype,
) -> None:
    made = folders[quant, stored]
    read(made.bank(2, dtype, reader), 0)  # what MLX keeps for good
    gc.collect()
    mx.clear_cache()  # of freed buffers, of which larger ones would be taken
    before = mx.get_active_memory()
    bank = made.bank(5, dtype, reader)
    gc.collect()
    assert bank.nbytes == BankPlan(tuple(made.layers), 5, dtype.size).nbytes
    taken = mx.get_active_memory() - before
    spare = 0 if CPU else PAGE * sum(1 for _ in made.layers[0].parts)
    assert bank.nbytes <= taken <= bank.nbytes + spare
    places = addresses(bank)
    assert all(place % BLOCK == 0 for place in places)
    for keys in ([0, 1, 2, 3, 4], [5, 6], [11, 10, 9, 8, 7], [0, 11, 5]):
        read(bank, *keys)
    gc.collect()
    assert addresses(bank) == places
    assert mx.get_active_memory() - before == taken
    del bank
    gc.collect()
    assert mx.get_active_memory() == before


def test_what_is_computed_with_is_the_memory_that_is_read_into(
    dense: Experts, reader: Reader
) -> None:
    """Also for matrices that are kept transposed on a CPU: no copy is made, at first or later."""
    bank = dense.bank(4, mx.float32, reader)
    m = bank.matrices
    for part, slab in zip((m.gate_proj, m.up_proj, m.down_proj), bank._slabs, strict=True):
        assert part._dense is not None
        assert address(part._dense) == address(part.matrix.weight) == slab.bytes.ctypes.data
    read(bank, 7)
    x = mx.random.normal((2, 64), key=mx.random.key(1))
    before = [address(part._dense) for part in (m.gate_proj, m.up_proj, m.down_proj)]  # type: ignore[arg-type]
    mx.eval(bank.matrices(x, mx.array([0, 0], mx.uint32)))
    assert [address(part._dense) for part in (m.gate_proj, m.up_proj, m.down_proj)] == before  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experts]:
    """Dense experts with values that can be computed with."""
    with experts(tmp_path_factory.mktemp("small"), None, "F32") as made:
        for i, file in enumerate(made.files):
            count = file.stat().st_size // 4
            values = np.random.default_rng(i).standard_normal(count).astype(np.float32)
            when = file.stat()
            file.write_bytes(values.tobytes())
            os.utime(file, ns=(when.st_atime_ns, when.st_mtime_ns))
        yield made


def computed(made: Experts, key: int, x: mx.array) -> mx.array:
    """SwiGLU with an expert's matrices, from its file."""
    gate, up, down = made.wanted(key, mx.float32)
    g = x @ gate.T
    return (g * mx.sigmoid(g) * (x @ up.T)) @ down.T


def rows(count: int = 2) -> mx.array:
    return mx.random.normal((count, 64), key=mx.random.key(1)) / 8


def close(a: mx.array, b: mx.array) -> bool:
    return bool(mx.allclose(a, b, rtol=1e-4, atol=1e-4).item())


def test_a_slot_is_computed_with(small: Experts, reader: Reader) -> None:
    bank = small.bank(3, mx.float32, reader)
    slots = read(bank, 7, 2)
    out = bank.matrices(rows(), mx.array(slots, mx.uint32))
    x = rows()
    assert close(out[0], computed(small, 7, x[:1])[0])
    assert close(out[1], computed(small, 2, x[1:])[0])


def test_a_slot_that_is_still_needed_is_not_overwritten(small: Experts, reader: Reader) -> None:
    """What was to be computed from it is, before another expert takes it."""
    bank = small.bank(2, mx.float32, reader)
    x = rows()
    mx.eval(x)
    slot, other = read(bank, 7, 2)
    out = bank.matrices(x, mx.array([slot, slot], mx.uint32))
    bank.used([slot], out)
    assert bank.fetch(11, {other}, 2) == slot
    bank.wait(11)
    assert content_hash(held(bank, slot)) == content_hash(small.wanted(11, mx.float32))
    assert close(out, computed(small, 7, x))


def test_nor_if_two_sequences_need_it(small: Experts, reader: Reader) -> None:
    """Neither of which anybody has looked at."""
    bank = small.bank(2, mx.float32, reader)
    x, y = rows(), rows(1)
    mx.eval(x, y)
    slot, other = read(bank, 7, 2)
    first = bank.matrices(x, mx.array([slot, slot], mx.uint32))
    bank.used([slot], first)
    second = bank.matrices(y, mx.array([slot], mx.uint32))
    bank.used([slot], second)
    assert bank.fetch(11, {other}, 2) == slot
    bank.wait(11)
    assert close(first, computed(small, 7, x))
    assert close(second, computed(small, 7, y))


def test_a_slot_is_free_once_all_is_settled(small: Experts, reader: Reader) -> None:
    """Nothing is kept of what was computed."""
    bank = small.bank(2, mx.float32, reader)
    slots = read(bank, 7, 2)
    gc.collect()
    before = mx.get_active_memory()
    out = bank.matrices(rows(500), mx.array(slots * 250, mx.uint32))
    bank.used(slots, out)
    mx.eval(out)
    bank.settled(slots)
    del out
    gc.collect()
    assert mx.get_active_memory() == before


def test_a_whole_bank(small: Experts, reader: Reader) -> None:
    """A slot for every expert: each layer's are one after the other, in the same memory."""
    bank = small.bank(100, mx.float32, reader, spare=2)
    assert bank.whole
    assert bank.slots.count == bank.free == KEYS
    assert not small.bank(KEYS - 1, mx.float32, reader).whole
    bank.warm()
    for key in reversed(range(KEYS)):
        assert bank.fetch(key, NONE_PINNED, 1) == key
        bank.wait(key)
    x = rows()
    for index in range(len(LAYERS)):
        assert bank.all_ready(index * EXPERTS)
        layer = bank.layer(index)
        start = address(bank.matrices.up_proj.matrix.weight)
        size = 4 * INNER * HIDDEN
        assert address(layer.up_proj.matrix.weight) == start + index * EXPERTS * size
        out = layer(x, mx.array([3, 0], mx.uint32))
        assert close(out[0], computed(small, index * EXPERTS + 3, x[:1])[0])
        assert close(out[1], computed(small, index * EXPERTS, x[1:])[0])
    for key in (2, 9, 4):
        bank.release(key)
    assert read(bank, 9, 4, 2) == [9, 4, 2]  # each has its own
