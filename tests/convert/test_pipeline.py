"""Reading ahead and writing behind: order, bounds, errors, interruptions."""

import errno
import os
import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from mlx_maverick.checkpoint import DTYPE_BITS, Tensor
from mlx_maverick.convert import pipeline
from mlx_maverick.convert.formats import Piece
from mlx_maverick.convert.journal import Journal
from mlx_maverick.convert.layout import Entry, Layout
from mlx_maverick.convert.pipeline import Reader, Writer
from mlx_maverick.convert.plan import Job, Part
from mlx_maverick.convert.progress import Clock
from mlx_maverick.convert.source import Raw, Slice
from mlx_maverick.convert.write import Output, output
from mlx_maverick.errors import BadCheckpoint, DoesNotFit

SECONDS = 20  # no test waits as long as that, unless something is wrong


def threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    for thread in threads("read"):  # may still be at what they began
        thread.join(SECONDS)
    assert threads("read") == threads("write") == []


# Reading


class Bytes:
    """Files whose every byte is its offset modulo 251; reads of them can be stopped."""

    where, sizes = "here", {"file": 1 << 30}

    def __init__(self) -> None:
        self.started: list[int] = []  # offsets
        self.change = threading.Condition()
        self.held: set[int] = set()
        self.bad: dict[int, Exception] = {}

    def path(self, name: str) -> Path:
        return Path(name)

    def read(self, name: str, offset: int, buffer: memoryview) -> None:
        with self.change:
            self.started.append(offset)
            self.change.notify_all()
            assert self.change.wait_for(lambda: offset not in self.held, SECONDS)
        if offset in self.bad:
            raise self.bad[offset]
        buffer[:] = expected(offset, len(buffer))

    def wait_for(self, *offsets: int) -> None:
        with self.change:
            assert self.change.wait_for(lambda: set(offsets) <= set(self.started), SECONDS)

    def release(self, *offsets: int) -> None:
        with self.change:
            self.held -= set(offsets)
            self.change.notify_all()


def expected(offset: int, size: int) -> bytes:
    return bytes(i % 251 for i in range(offset, offset + size))


def job(offset: int, size: int, dtype: str = "U8", slices: int = 1) -> Job:
    """To read `slices` tensors of `size` bytes, which lie together."""
    shape, parts = (size * 8 // DTYPE_BITS[dtype],), []
    for i in range(slices):
        tensor = Tensor(f"t{offset}.{i}", dtype, shape, Path("file"), offset + i * size, size)
        parts.append(Part(Piece(tensor.name, shape, 0, Raw(Slice.all(tensor))), None))
    return Job(tuple(parts))


def numbered(*jobs: Job) -> list[tuple[int, Job]]:
    return list(enumerate(jobs, start=10))


def test_jobs_come_in_order_with_the_bytes_of_their_slices() -> None:
    """Of one buffer that is used again, and aligned in it."""
    jobs = numbered(*(job(1000 * i, 100 - i, slices=3) for i in range(40)))
    with closing(Reader(Bytes(), jobs, Clock())) as reader:
        given = []
        for number, which, data in reader:
            given.append((number, which))
            first, *others = (part.ctypes.data for part in data.values())
            assert all((other - first) % pipeline.ALIGNED == 0 for other in others)
            assert {s: bytes(d) for s, d in data.items()} == {
                s: expected(s.offset, s.nbytes) for s in which.slices
            }
    assert given == jobs


def test_however_the_reads_end() -> None:
    files = Bytes()
    files.held = {0, 100}
    with closing(
        Reader(files, numbered(*(job(100 * i, 100) for i in range(4))), Clock())
    ) as reader:
        steps = iter(reader)
        threading.Thread(target=lambda: (files.wait_for(200, 300), files.release(0, 100))).start()
        assert [number for number, _, _ in steps] == [10, 11, 12, 13]


@pytest.mark.parametrize(("ahead", "jobs", "most"), [(350, 16, 350), (10_000, 5, 500)])
def test_what_is_read_ahead_is_bounded(
    monkeypatch: pytest.MonkeyPatch, ahead: int, jobs: int, most: int
) -> None:
    """Counting the job that is being worked on."""
    monkeypatch.setattr(pipeline, "AHEAD_BYTES", ahead)
    monkeypatch.setattr(pipeline, "AHEAD_JOBS", jobs)
    files = Bytes()
    with closing(
        Reader(files, numbered(*(job(100 * i, 100) for i in range(30))), Clock())
    ) as reader:
        for given, (_, which, _) in enumerate(reader):
            now = which.slices[0].offset
            files.wait_for(*range(now, min(now + most - 99, 2900), 100))  # as far as it may
            assert 100 * (len(files.started) - given) <= most


def test_one_larger_than_the_bound_comes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "AHEAD_BYTES", 250)
    files = Bytes()
    jobs = numbered(job(0, 100), job(1000, 900), job(2000, 100), job(3000, 100))
    with closing(Reader(files, jobs, Clock())) as reader:
        steps = iter(reader)
        assert next(steps)[0] == 10
        assert files.started == [0]
        assert next(steps)[0] == 11
        assert files.started == [0, 1000]
        assert [number for number, _, _ in steps] == [12, 13]


def test_an_error_comes_with_its_job() -> None:
    """Jobs before it are done, though it was known of earlier."""
    files = Bytes()
    files.bad[200] = BadCheckpoint("torn")
    files.held = {0}
    given: list[int] = []
    with closing(
        Reader(files, numbered(*(job(100 * i, 100) for i in range(4))), Clock())
    ) as reader:
        threading.Thread(target=lambda: (files.wait_for(200, 300), files.release(0))).start()
        with pytest.raises(BadCheckpoint, match="torn"):
            for number, _, _ in reader:
                given.append(number)
    assert given == [10, 11]


def test_values_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    class Zeros(Bytes):
        def read(self, name: str, offset: int, buffer: memoryview) -> None:
            buffer[:] = bytes(len(buffer))
            if offset == 200:
                buffer[6:8] = b"\x00\x7e"

    with closing(
        Reader(Zeros(), numbered(job(0, 100, "F16"), job(200, 100, "F16")), Clock())
    ) as reader:
        steps = iter(reader)
        next(steps)
        with pytest.raises(BadCheckpoint, match=r"t200\.0 of file holds infinite values or NaN"):
            next(steps)


def test_closed_early_the_rest_is_not_read() -> None:
    """And what is being read is not waited for: a network may have fallen silent."""
    files = Bytes()
    files.held = {100 * i for i in range(1, 100)}
    reader = Reader(files, numbered(*(job(100 * i, 100) for i in range(100))), Clock())
    next(iter(reader))
    files.wait_for(100, 200, 300, 400)
    reader.close()
    reader.close()
    assert len(threads("read")) == pipeline.READERS
    files.release(*files.held)
    for thread in threads("read"):
        thread.join(SECONDS)
    assert len(files.started) == pipeline.READERS + 1


# Writing

LAYOUT = Layout.of([Entry("a", "U8", (1000,)), Entry("b", "U8", (1000,))])


class Disk(Output):
    """One that can be stopped before a write, or fail then."""

    def __init__(self, folder: Path, journal: Journal, layout: Layout):
        super().__init__(folder, journal, layout)
        self.gate, self.at_gate = threading.Event(), threading.Event()
        self.gate.set()
        self.log: list[str] = []
        self.bytes = 0

    def write(self, name: str, offset: int, data: "np.ndarray") -> None:
        self.at_gate.set()
        assert self.gate.wait(SECONDS)
        super().write(name, offset, data)
        self.bytes += data.nbytes

    def sync(self) -> None:
        super().sync()
        self.log.append("sync")


@pytest.fixture
def disk(out: Path) -> Iterator[Disk]:
    with output(out, LAYOUT) as result:
        disk = Disk(result.folder, result.journal, LAYOUT)
        disk.journal.begin({})
        disk.prepare()
        yield disk


def ones(size: int) -> "np.ndarray":
    return np.ones(size, np.uint8)


def test_what_is_put_is_written_and_noted(disk: Disk) -> None:
    """A job's entries may be written in turns; each CRC is that of its whole range."""
    first, second, third = (np.random.default_rng(i).bytes(10) for i in range(3))
    with closing(Writer(disk, Clock())) as writer:
        writer.put(0, "a", 100, np.frombuffer(first, np.uint8))
        writer.put(1, "b", 0, np.frombuffer(third, "<u2"))
        writer.put(0, "a", 110, np.frombuffer(second, np.uint8))
        writer.end(7)
        writer.put(0, "a", 0, ones(4))
        writer.end(3)
        writer.finish()
    assert disk.journal.done == {7: [crc32(first + second), crc32(third)], 3: [crc32(b"\1" * 4)]}
    text = (disk.folder / LAYOUT.shards[0].name).read_bytes()
    a, b = (LAYOUT.places[name].offset for name in "ab")
    assert text[a : a + 120] == b"\1" * 4 + bytes(96) + first + second
    assert text[b : b + 10] == third


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_job_is_noted_only_when_it_is_durable(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(pipeline, "SYNC_SECONDS", seconds)
    add = disk.journal.add
    monkeypatch.setattr(
        disk.journal, "add", lambda done: (disk.log.append(str([*done])), add(done))
    )
    with closing(Writer(disk, Clock())) as writer:
        for number in range(3):
            writer.put(0, "a", 0, ones(5))
            writer.end(number)
        writer.put(0, "b", 0, ones(5))
        writer.finish()
    often = ["sync", "[0]", "sync", "[1]", "sync", "[2]"]
    assert disk.log == (["sync", "[0, 1, 2]"] if seconds else often)


def test_it_does_not_run_far_ahead_of_the_disk(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "BEHIND_BYTES", 100)
    disk.gate.clear()
    put = 0
    with closing(Writer(disk, Clock())) as writer:
        for i in range(30):
            if i == 3:  # 120 bytes wait: one more piece would wait until one is written
                threading.Timer(0.05, disk.gate.set).start()
            writer.put(0, "a", 0, ones(40))
            put += 40
            assert put - disk.bytes <= 100 + 40 + 40  # what is being written counts as waiting
        writer.finish()
    assert disk.bytes == put


def fail(*args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_error_comes_at_the_next_call(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Writer(disk, Clock())) as writer:
        writer.put(0, "a", 0, ones(5))
        writer.end(0)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", fail)
            with pytest.raises(DoesNotFit, match="full"):
                while True:
                    writer.put(0, "a", 0, ones(5))
            with pytest.raises(DoesNotFit, match="full"):
                writer.put(0, "a", 0, ones(5))
            writer.end(1)
            with pytest.raises(DoesNotFit, match="full"):
                writer.finish()
    assert 1 not in disk.journal.done


def test_an_error_frees_who_waits_for_room(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """All waiting pieces together would never be written."""
    monkeypatch.setattr(pipeline, "BEHIND_BYTES", 100)
    disk.gate.clear()
    with closing(Writer(disk, Clock())) as writer:
        for _ in range(3):
            writer.put(0, "a", 0, ones(50))
        disk.at_gate.wait(SECONDS)
        monkeypatch.setattr(os, "pwrite", fail)
        threading.Timer(0.05, disk.gate.set).start()
        with pytest.raises(DoesNotFit):
            writer.put(0, "a", 0, ones(50))


def test_an_error_of_the_note_comes_too(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Writer(disk, Clock())) as writer:
        writer.put(0, "a", 0, ones(5))
        writer.end(0)
        monkeypatch.setattr(disk.journal, "add", fail)
        with pytest.raises(OSError, match="No space"):
            writer.finish()


def test_after_an_error_elsewhere_whole_jobs_are_noted(disk: Disk) -> None:
    with pytest.raises(ZeroDivisionError), closing(Writer(disk, Clock())) as writer:
        writer.put(0, "a", 0, ones(5))
        writer.end(4)
        writer.put(0, "a", 5, ones(5))
        raise ZeroDivisionError
    assert list(disk.journal.done) == [4]


def test_interrupted_while_it_waits_it_is_still_ended(disk: Disk) -> None:
    """The last bytes take the disk a while; Ctrl-C then."""
    disk.gate.clear()

    def interrupt() -> None:
        disk.at_gate.wait(SECONDS)
        os.kill(os.getpid(), signal.SIGINT)
        while not disk.gate.wait(2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), closing(Writer(disk, Clock())) as writer:
        writer.put(0, "a", 0, ones(5))
        writer.end(0)
        try:
            threading.Thread(target=interrupt).start()
            writer.finish()
        finally:
            disk.gate.set()
    assert list(disk.journal.done) == [0]


def test_interrupted_again_it_gives_up_but_ends(disk: Disk) -> None:
    """When it is closed, nothing writes to the folder any more: its lock is given back then."""
    disk.gate.clear()
    waits = threading.Semaphore(0)

    class Telling(queue.SimpleQueue):
        """Says when someone is about to wait for it."""

        def get(self, *args: object) -> object:
            waits.release()
            return super().get(*args)

    def interrupt() -> None:
        assert waits.acquire(timeout=SECONDS)
        for _ in range(2):  # in `finish`, in `close`
            os.kill(os.getpid(), signal.SIGINT)
            # One that comes just before the thread falls asleep does not wake it (CPython).
            while not waits.acquire(timeout=2):
                os.kill(os.getpid(), signal.SIGINT)
        disk.gate.set()

    writer = Writer(disk, Clock())
    for number in range(20):
        writer.put(0, "a", 5 * number, ones(5))
        writer.end(number)
    assert disk.at_gate.wait(SECONDS)
    writer._written = Telling()
    helper = threading.Thread(target=interrupt)
    helper.start()
    with pytest.raises(KeyboardInterrupt), closing(writer):
        writer.finish()
    helper.join()
    assert disk.bytes == 5
    assert disk.journal.done == {}
    assert threads("write") == []


def test_while_one_is_awaited_its_job_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "HEARTBEAT_SECONDS", 0.001)
    arrived = threading.Event()

    class Slow(Bytes):
        def read(self, name: str, offset: int, buffer: memoryview) -> None:
            arrived.wait()
            super().read(name, offset, buffer)

    with closing(Reader(Slow(), numbered(job(0, 100)), Clock())) as reader:
        steps = iter(reader)
        waited = [next(steps) for _ in range(3)]
        assert [number for number, _, _ in waited] == [10, 10, 10]
        seconds = [said for _, _, said in waited]
        assert all(isinstance(said, float) for said in seconds)
        assert seconds == sorted(seconds)
        arrived.set()
        rest = list(steps)
        assert isinstance(rest[-1][2], dict)
