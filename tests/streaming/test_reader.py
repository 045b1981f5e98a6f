"""Threads that read: all that was asked for, what is waited for first, and nothing after an end."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from mlx_maverick.errors import Interrupted
from mlx_maverick.streaming.reader import Piece, Reader
from mlx_maverick.streaming.uncached import EndsEarly, Uncached

SIZE = 1 << 16
SECONDS = 30  # after which a test that hangs fails


@pytest.fixture
def data() -> bytes:
    return np.random.default_rng(3).bytes(SIZE)


@pytest.fixture
def file(tmp_path: Path, data: bytes) -> Iterator[Uncached]:
    path = tmp_path / "data"
    path.write_bytes(data)
    opened = Uncached.open(path)
    yield opened
    opened.close()


Start = Callable[[int], Reader]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a reader with so many threads."""
    readers = []

    def make(threads: int) -> Reader:
        readers.append(Reader(threads))
        return readers[-1]

    yield make
    for reader in readers:
        reader.close()


class Gate:
    """Targets that keep their thread until they are let go."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.let_in = 0

    def target(self, _: memoryview) -> None:
        self.let_in += 1
        self.entered.release()
        assert self.open.wait(SECONDS)

    def wait_for(self, count: int) -> None:
        """Until so many have come, each of which now keeps a thread."""
        for _ in range(count):
            assert self.entered.acquire(timeout=SECONDS)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


class Seen:
    """The order in which pieces came, by name."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pieces(self, file: Uncached, name: str, count: int = 1) -> list[Piece]:
        return [Piece(file, 0, 8, lambda _: self.names.append(name)) for _ in range(count)]


def into(file: Uncached, offset: int, nbytes: int) -> tuple[Piece, bytearray]:
    """A piece, and the memory that it goes to."""
    memory = bytearray(nbytes)
    return Piece(file, offset, nbytes, memoryview(memory)), memory


def finished(thread: threading.Thread) -> bool:
    thread.join(SECONDS)
    return not thread.is_alive()


def test_bytes_go_where_they_are_wanted(start: Start, file: Uncached, data: bytes) -> None:
    reader, taken = start(3), []
    pieces, memory = zip(*(into(file, at, 999) for at in range(0, 50_000, 999)), strict=True)
    read = reader.submit([*pieces, Piece(file, 7, 100, lambda b: taken.append(bytes(b)))], True)
    reader.wait(read)
    assert read.done
    assert b"".join(memory) == data[: 999 * len(memory)]
    assert taken == [data[7:107]]
    reader.wait(read)  # once more


def test_taken_bytes_are_those_of_the_piece_alone(
    start: Start, file: Uncached, data: bytes
) -> None:
    """Though a thread keeps its memory for the next one, larger or smaller."""
    reader, taken = start(1), []
    sizes = [10, 20_000, 5, 30_000, 1]
    for size in sizes:
        piece = Piece(file, size, size, lambda b: taken.append(bytes(b)))
        reader.wait(reader.submit([piece], True))
    assert taken == [data[size : 2 * size] for size in sizes]


def test_a_read_of_nothing_is_done(start: Start, file: Uncached, data: bytes) -> None:
    reader = start(1)
    read = reader.submit([], True)
    reader.wait(read)
    assert read.done
    piece, memory = into(file, 0, 10)  # the threads are still there
    reader.wait(reader.submit([piece], True))
    assert memory == data[:10]


def test_what_is_urgent_comes_first(start: Start, file: Uncached, gate: Gate) -> None:
    reader, seen = start(1), Seen()
    reader.submit([Piece(file, 0, 8, gate.target)], False)
    gate.wait_for(1)
    reads = [
        reader.submit(seen.pieces(file, name, 2), name[0] == "u")
        for name in ("l1", "u1", "l2", "u2")
    ]
    gate.open.set()
    while not all(read.done for read in reads):  # to wait would change the order
        assert reads[2].finished.wait(SECONDS)
    assert seen.names == ["u1", "u1", "u2", "u2", "l1", "l1", "l2", "l2"]


def test_urgent_pieces_overtake_between_pieces(start: Start, file: Uncached, gate: Gate) -> None:
    """A long read in the background keeps nobody waiting for all of it."""
    reader, seen = start(1), Seen()
    slow = reader.submit(
        [Piece(file, 0, 8, gate.target), *seen.pieces(file, "background", 5)], urgent=False
    )
    gate.wait_for(1)
    urgent = reader.submit(seen.pieces(file, "urgent", 2), True)
    gate.open.set()
    assert urgent.finished.wait(SECONDS)
    assert slow.finished.wait(SECONDS)
    assert seen.names == ["urgent"] * 2 + ["background"] * 5


def test_waiting_makes_a_read_urgent(start: Start, file: Uncached, gate: Gate) -> None:
    reader, seen = start(1), Seen()
    reader.submit([Piece(file, 0, 8, gate.target)], False)
    gate.wait_for(1)
    others = [reader.submit(seen.pieces(file, f"other {i}"), False) for i in range(3)]
    wanted = reader.submit(seen.pieces(file, "wanted", 2), False)
    waiter = threading.Thread(target=reader.wait, args=(wanted,))
    waiter.start()
    while wanted not in reader._work.urgent:  # the order is settled before the first is read
        assert waiter.is_alive()
    gate.open.set()
    assert finished(waiter)
    assert all(read.finished.wait(SECONDS) for read in others)
    assert seen.names == ["wanted", "wanted", "other 0", "other 1", "other 2"]


def test_nothing_is_written_once_a_read_is_given_up(
    start: Start, file: Uncached, gate: Gate
) -> None:
    reader, seen = start(2), Seen()
    after = threading.Event()
    late = []

    def target(stored: memoryview) -> None:
        gate.target(stored)
        late.append(after.is_set())

    pieces = [Piece(file, 0, 8, target), Piece(file, 0, 8, target), *seen.pieces(file, "x", 50)]
    read = reader.submit(pieces, True)
    gate.wait_for(2)

    def give_up() -> None:
        reader.give_up(read)
        after.set()

    giving_up = threading.Thread(target=give_up)
    giving_up.start()
    while read.queue:  # it has begun
        assert giving_up.is_alive()
    assert not after.is_set()  # as two pieces are being read
    gate.open.set()
    assert finished(giving_up)
    assert late == [False, False]
    assert not read.done
    reader.wait(reader.submit(seen.pieces(file, "next"), True))
    assert seen.names == ["next"]


def test_giving_up_what_has_not_begun(start: Start, file: Uncached, gate: Gate) -> None:
    reader, seen = start(1), Seen()
    reader.submit([Piece(file, 0, 8, gate.target)], True)
    gate.wait_for(1)
    for urgent in (True, False):
        read = reader.submit(seen.pieces(file, "given up", 3), urgent)
        reader.give_up(read)  # at once, though the only thread is kept
        reader.give_up(read)
        assert not read.done
        with pytest.raises(Interrupted):
            reader.wait(read)
    gate.open.set()
    reader.wait(reader.submit(seen.pieces(file, "next"), True))
    assert seen.names == ["next"]


def test_giving_up_what_is_done(start: Start, file: Uncached) -> None:
    reader, seen = start(1), Seen()
    read = reader.submit(seen.pieces(file, "done"), True)
    reader.wait(read)
    reader.give_up(read)
    assert read.done
    reader.wait(read)


def test_whoever_waits_for_what_is_given_up_hears_of_it(
    start: Start, file: Uncached, gate: Gate
) -> None:
    reader, heard = start(1), []
    read = reader.submit([Piece(file, 0, 8, gate.target)] * 3, True)
    gate.wait_for(1)

    def wait() -> None:
        try:
            reader.wait(read)
        except Interrupted as e:
            heard.append(e)

    waiter = threading.Thread(target=wait)
    waiter.start()
    giving_up = threading.Thread(target=reader.give_up, args=(read,))
    giving_up.start()
    gate.open.set()
    assert finished(waiter)
    assert finished(giving_up)
    # Unless it was read to the end before it could be given up.
    assert bool(heard) != read.done


def test_errors_belong_to_their_read(start: Start, file: Uncached, data: bytes) -> None:
    reader, seen = start(1), Seen()
    bad, _ = into(file, SIZE - 10, 11)
    read = reader.submit([*seen.pieces(file, "before"), bad, *seen.pieces(file, "after", 9)], True)
    with pytest.raises(EndsEarly, match=f"ends before byte {SIZE + 1}"):
        reader.wait(read)
    assert read.failed is bad
    assert not read.done
    assert seen.names == ["before"]
    with pytest.raises(EndsEarly):  # once more
        reader.wait(read)
    good, memory = into(file, SIZE - 10, 10)
    reader.wait(reader.submit([good], True))
    assert memory == data[-10:]


def test_the_first_error_counts_and_none_comes_before_the_rest_is_quiet(
    start: Start, file: Uncached, gate: Gate
) -> None:
    """Who hears of an error may use the memory again."""
    reader = start(2)
    first, _ = into(file, SIZE, 1)

    def late(stored: memoryview) -> None:
        gate.target(stored)
        raise ValueError("the second")

    slow = Piece(file, 0, 8, late)
    read = reader.submit([slow, first], True)
    gate.wait_for(1)
    while read.error is None:
        assert not read.finished.is_set()
    assert not read.finished.is_set()
    gate.open.set()
    with pytest.raises(EndsEarly):
        reader.wait(read)
    assert read.failed is first
    assert not read.running


def test_an_error_of_whoever_takes_the_bytes(start: Start, file: Uncached) -> None:
    reader = start(1)

    def refuse(_: memoryview) -> None:
        raise ValueError("no")

    piece = Piece(file, 0, 8, refuse)
    read = reader.submit([piece], False)
    with pytest.raises(ValueError, match="no"):
        reader.wait(read)
    assert read.failed is piece
    reader.wait(reader.submit(Seen().pieces(file, "next"), True))


def test_closing_releases_who_waits(start: Start, file: Uncached, gate: Gate) -> None:
    reader, seen, heard = start(1), Seen(), []
    running = reader.submit([Piece(file, 0, 8, gate.target)], True)
    gate.wait_for(1)
    reads = [
        reader.submit(seen.pieces(file, "too late", 3), True),
        reader.submit(seen.pieces(file, "too late", 3), False),
    ]

    def wait(index: int) -> None:
        try:
            reader.wait(reads[index])
        except Interrupted:
            heard.append(index)

    waiters = [threading.Thread(target=wait, args=(i,)) for i in range(2)]
    closing = threading.Thread(target=reader.close)
    for thread in (*waiters, closing):
        thread.start()
    assert all(finished(thread) for thread in waiters)  # while a piece is still being read
    assert sorted(heard) == [0, 1]
    assert closing.is_alive()
    gate.open.set()
    assert finished(closing)
    assert running.done
    assert seen.names == []
    after = reader.submit(seen.pieces(file, "after"), True)
    with pytest.raises(Interrupted):
        reader.wait(after)
    assert not after.done
    reader.give_up(after)
    reader.close()  # once more
    assert seen.names == []


def test_a_reader_that_nobody_has_any_more_ends_its_threads(start: Start, file: Uncached) -> None:
    before = {t.ident for t in threading.enumerate()}
    reader = Reader(3)
    threads = [t for t in threading.enumerate() if t.ident not in before]
    assert len(threads) == 3
    reader.wait(reader.submit(Seen().pieces(file, "x", 5), True))
    gone = weakref.ref(reader)
    del reader
    gc.collect()
    assert gone() is None
    assert all(finished(thread) for thread in threads)


def test_a_reader_that_one_of_its_threads_finds_to_be_garbage_ends_and_closes_its_files(
    file: Uncached,
) -> None:
    gate, files = threading.Event(), [Uncached.open(file.path)]
    before = {t.ident for t in threading.enumerate()}
    reader = Reader(2, files)
    threads = [t for t in threading.enumerate() if t.ident not in before]

    def collect(_: memoryview) -> None:
        assert gate.wait(SECONDS)
        gc.collect()

    circle: list[object] = [reader]
    circle.append(circle)
    reader.submit([Piece(files[0], 0, 5, collect)], True)
    gc.disable()
    try:
        del reader, circle
        gate.set()
        assert all(finished(thread) for thread in threads)
    finally:
        gc.enable()
    for closing in [t for t in threading.enumerate() if t.name == "closing"]:
        assert finished(closing)
    with pytest.raises(OSError, match="Bad file descriptor"):
        files[0].check()


def test_memory_is_not_kept_after_reading(start: Start, file: Uncached) -> None:
    class Memory(bytearray):
        pass

    reader = start(2)
    memory = Memory(8)
    gone = weakref.ref(memory)
    reader.wait(reader.submit([Piece(file, 0, 8, memoryview(memory))], True))
    del memory
    until = perf_counter() + SECONDS
    while gone() is not None:  # a thread lets go of it just after it has said that it is done
        assert perf_counter() < until


def test_many_reads_from_many_threads(start: Start, file: Uncached, data: bytes) -> None:
    """Each gets its own bytes, whatever the others ask for, wait for and give up."""
    reader, wrong = start(8), []

    def work(seed: int) -> None:
        draw = np.random.default_rng(seed)
        for _ in range(60):
            at = draw.integers(0, SIZE - 5000, int(draw.integers(1, 9))).tolist()
            pieces, memory = zip(*(into(file, a, 5000 - i) for i, a in enumerate(at)), strict=True)
            read = reader.submit(pieces, bool(draw.integers(2)))
            if draw.random() < 0.3:
                reader.give_up(read)
                kept = [bytes(m) for m in memory]
                if read.running or [bytes(m) for m in memory] != kept:
                    wrong.append("written after it was given up")
                continue
            reader.wait(read)
            if any(m != data[a : a + len(m)] for a, m in zip(at, memory, strict=True)):
                wrong.append("other bytes")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    assert all(finished(thread) for thread in threads)
    assert wrong == []
    assert not reader._work.urgent
    assert not reader._work.later


def test_what_is_counted(start: Start, file: Uncached, gate: Gate) -> None:
    reader = start(2)
    assert (reader.nbytes, reader.seconds) == (0, 0)
    pieces, _ = zip(*(into(file, at, 100) for at in range(0, 1000, 100)), strict=True)
    reader.wait(reader.submit(pieces, True))
    assert reader.nbytes == 1000
    after_one = reader.seconds
    assert after_one > 0
    assert reader.seconds == after_one  # nothing is under way
    bad, _ = into(file, SIZE, 50)
    with pytest.raises(EndsEarly):
        reader.wait(reader.submit([bad], True))
    assert reader.nbytes == 1000
    read = reader.submit([Piece(file, 0, 8, gate.target)], True)
    gate.wait_for(1)
    first = reader.seconds
    assert first > after_one
    assert reader.seconds > first  # it goes on while a read is under way
    gate.open.set()
    reader.wait(read)
    assert reader.nbytes == 1008
    last = reader.seconds
    assert last > first
    assert reader.seconds == last


def test_seconds_are_counted_once_however_many_threads_read(
    start: Start, file: Uncached, gate: Gate
) -> None:
    reader, began = start(4), perf_counter()
    reads = [reader.submit([Piece(file, 0, 8, gate.target)], True) for _ in range(4)]
    gate.wait_for(4)
    while reader.seconds < 0.02:
        pass
    gate.open.set()
    for read in reads:
        reader.wait(read)
    assert 0.02 <= reader.seconds <= perf_counter() - began
