"""A cache in a file: back bit for bit, or refused in one line."""

import errno
import json
import os
import shutil
import stat
import struct
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_maverick.cache import Cache, load, save
from mlx_maverick.cache import arrays as stored_arrays
from mlx_maverick.errors import BadCheckpoint, DoesNotFit, MaverickError, NotFound, UsageError
from mlx_maverick.kv import DENSE, KVOptions, allocated_bytes
from mlx_maverick.model import Llama4

from .drive import LENGTH, feed, outputs, text_config
from .test_fork import scribble

MODEL = "a model"
OPTIONS = [
    KVOptions(),
    KVOptions(8),
    KVOptions(4, 60),
    KVOptions(max_size=40),
    KVOptions(4, 55, 33),
]
each = pytest.mark.parametrize("options", OPTIONS, ids=str)


def filled(options: KVOptions, length: int) -> Cache:
    cache = Cache(text_config(), options)
    feed(cache, length, 12)
    return cache


def maker(options: KVOptions = DENSE, **changes: Any) -> Callable[[], Cache]:
    return lambda: Cache(text_config(), options, **changes)


@each
@pytest.mark.parametrize("length", [0, 1, 32, 40, 55, 60, 61, 64, 107])
def test_it_goes_on_with_the_same_bits(options: KVOptions, length: int, tmp_path: Path) -> None:
    cache = filled(options, length)
    save(tmp_path / "kv", cache, fingerprint=MODEL)
    restored = load(tmp_path / "kv", maker(options), fingerprint=MODEL).cache
    assert restored.length == length
    assert restored.nbytes == cache.nbytes == allocated_bytes(text_config(), length, 4, options)
    for a, b in zip(outputs(cache, length + 20), outputs(restored, length + 20), strict=True):
        assert bool(mx.array_equal(a, b))
    restored.rewind(restored.rewind(length + 2))
    feed(restored, LENGTH)


@each
@pytest.mark.parametrize("to", [100, 97, 96, 64, 61, 60, 40, 2, 0])
def test_also_after_a_rewind(options: KVOptions, to: int, tmp_path: Path) -> None:
    """To a place where the next step would begin something, too."""
    cache = filled(options, 104)
    landed = cache.rewind(to)
    save(tmp_path / "kv", cache, fingerprint=MODEL)
    restored = load(tmp_path / "kv", maker(options), fingerprint=MODEL).cache
    assert restored.length == landed
    feed(restored, LENGTH, 9)


def test_spare_room_is_not_in_the_file(tmp_path: Path) -> None:
    cache = Cache(text_config())
    cache.reserve(100_000)
    feed(cache, 40)
    save(tmp_path / "kv", cache, fingerprint=MODEL)
    token = 2 * 2 * 32 * 4
    values = (40 + 2 * 8) * token  # one global layer, and two whose chunk began at 32
    assert values < (tmp_path / "kv").stat().st_size < values + 4000
    restored = load(tmp_path / "kv", maker(), fingerprint=MODEL).cache
    assert restored.nbytes == allocated_bytes(text_config(), 40, 4)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
@pytest.mark.parametrize("options", [KVOptions(), KVOptions(4)], ids=str)
def test_all_types_of_values(dtype: mx.Dtype, options: KVOptions, tmp_path: Path) -> None:
    cache = Cache(text_config(), options)
    cache.begin(20)
    part = mx.random.normal((1, 2, 20, 32)).astype(dtype)
    held = [cache.update(i, part, -part) for i in range(3)]
    cache.advance(20)
    save(tmp_path / "kv", cache, fingerprint=MODEL)
    restored = load(tmp_path / "kv", maker(options), fingerprint=MODEL).cache
    restored.begin(1)
    for i in range(3):
        last = part[:, :, 19:]
        again = restored.update(i, last, -last)
        for old, new in zip(held[i], again, strict=True):
            a, b = (x if isinstance(x, mx.array) else x.dense() for x in (old, new))
            assert a.dtype == b.dtype == dtype
            assert bool(mx.array_equal(a, b[:, :, :20]))


def test_arrays_and_notes_come_back(tmp_path: Path) -> None:
    arrays = {
        "marks": mx.array(np.array([1, -(2**62), 3])),
        "pixels": mx.random.normal((2, 3, 4)).astype(mx.bfloat16),
        "flags": mx.array([True, False, True]),
        "strided": mx.arange(12).reshape(3, 4)[:, 1:3],
        "none": mx.zeros((0, 4)),
        "one": mx.array(2.5, mx.float16),
    }
    notes = {"title": 'a "quoted" title\nwith ü and \U0001f680', "header_crc32": '"x":"1"'}
    save(tmp_path / "kv", filled(KVOptions(), 5), fingerprint=MODEL, arrays=arrays, notes=notes)
    stored = load(tmp_path / "kv", maker(), fingerprint=MODEL)
    assert stored.notes == notes
    assert stored.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        back = stored.arrays[name]
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        assert bool(mx.array_equal(back, array))
    assert load(tmp_path / "kv", maker(), fingerprint=MODEL).cache.length == 5


def test_it_is_a_safetensors_file(tmp_path: Path) -> None:
    save(tmp_path / "kv.safetensors", filled(KVOptions(8), 40), fingerprint=MODEL)
    tensors, metadata = mx.load(str(tmp_path / "kv.safetensors"), return_metadata=True)
    assert tensors["layers.1.codes"].shape == (1, 4, 40, 8)
    assert metadata["format"] == "mlx-maverick KV cache"
    assert json.loads(metadata["state"])["length"] == 40


def test_the_network_goes_on_from_a_file(model: Llama4, tmp_path: Path) -> None:
    ids = mx.random.randint(0, 1000, (1, 90), key=mx.random.key(3))
    for options in (KVOptions(), KVOptions(8, 20, 40)):
        cache = model.make_cache(options)
        model(ids[:, :70], cache=cache)
        save(tmp_path / "kv", cache, fingerprint=MODEL)
        restored = load(tmp_path / "kv", lambda o=options: model.make_cache(o), fingerprint=MODEL)
        for i in range(70, 90):
            one = model(ids[:, i : i + 1], cache=cache)
            other = model(ids[:, i : i + 1], cache=restored.cache)
            assert bool(mx.array_equal(one, other))


def refused(path: Path, make: Callable[[], Cache], kind: type[MaverickError], said: str) -> None:
    with pytest.raises(kind, match=said) as error:
        load(path, make, fingerprint=MODEL)
    assert type(error.value) is kind
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A cache of 37 tokens, and an array of somebody's."""
    path = tmp_path / "kv"
    marks = {"marks": mx.arange(5)}
    save(path, filled(KVOptions(), 37), fingerprint=MODEL, arrays=marks, notes={"a": "b"})
    return path


def test_every_changed_byte_is_noticed(file: Path) -> None:
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    rng = np.random.default_rng(0)
    header = rng.permutation(8 + length)[:400]
    values = 8 + length + rng.permutation(len(data) - 8 - length)[:60]
    for at in [*range(8), *header.tolist(), *values.tolist(), len(data) - 1]:
        for flipped in (0x01, 0x20):
            changed = bytearray(data)
            changed[at] ^= flipped
            file.write_bytes(changed)
            refused(file, maker(), BadCheckpoint, "delete it, or name another file")
    file.write_bytes(data)
    assert load(file, maker(), fingerprint=MODEL).cache.length == 37


def test_a_file_cut_short_or_too_long(file: Path) -> None:
    data = file.read_bytes()
    for size in (0, 7, 8, 500, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:size])
        refused(file, maker(), BadCheckpoint, "delete it, or name another file")
    file.write_bytes(data + b"\0")
    refused(file, maker(), BadCheckpoint, "was changed")


def test_another_kind_of_file(tmp_path: Path, maverick_mini: Path) -> None:
    (tmp_path / "text").write_text("To be, or not to be, that is the question")
    refused(tmp_path / "text", maker(), BadCheckpoint, "header")
    shard = next(maverick_mini.glob("*.safetensors"))
    refused(shard, maker(), BadCheckpoint, "is not a KV cache that mlx-maverick saved")
    refused(tmp_path / "none", maker(), NotFound, "is not a file")
    refused(tmp_path, maker(), NotFound, "is not a file")


def test_another_model_or_version(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadCheckpoint, match="holds the KV cache of another model"):
        load(file, maker(), fingerprint="another")
    monkeypatch.setattr("mlx_maverick.cache.store.VERSION", "2")
    refused(file, maker(), BadCheckpoint, "another version of mlx-maverick .*'1', not '2'")


def test_other_options_are_named(tmp_path: Path) -> None:
    save(tmp_path / "kv", filled(KVOptions(8, 9, 40), 37), fingerprint=MODEL)
    for options, said in [
        (KVOptions(), "is to be that is not quantised with any number of tokens"),
        (KVOptions(4, 9, 40), "is to be of 4 bits from token 9 on with at most 40 tokens"),
        (KVOptions(8, 10, 40), "from token 10 on"),
        (KVOptions(8, 9, 41), "at most 41 tokens"),
    ]:
        refused(tmp_path / "kv", maker(options), UsageError, said)
        refused(tmp_path / "kv", maker(options), UsageError, "8 bits from token 9 .* 40 tokens")
        refused(tmp_path / "kv", maker(options), UsageError, "give the same --kv-bits")
    refused(tmp_path / "kv", maker(KVOptions(8, 9, 40), most=36), UsageError, "use a larger --con")


def forged(file: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> None:
    """Rewrite the header, with a checksum that is right."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    fields = json.loads(data[8 : 8 + length])
    metadata = fields["__metadata__"]
    state = json.loads(metadata["state"])
    rest = change(fields, state)
    metadata["state"] = json.dumps(state)
    metadata["header_crc32"] = stored_arrays.UNKNOWN
    text = json.dumps(fields, separators=(",", ":")).encode()
    crc = stored_arrays.zlib.crc32(text)
    text = text.replace(b'"header_crc32":"00000000"', f'"header_crc32":"{crc:08x}"'.encode())
    body = data[8 + length :] if rest is None else rest
    file.write_bytes(struct.pack("<Q", len(text)) + text + body)


def set_state(**values: Any) -> Callable[[Any, Any], None]:
    return lambda fields, state: state.update(values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_state(), None),
        (set_state(length=36), "has layers.0.keys as F32 .*, not F32"),
        (set_state(length=2**40), "positions"),
        (set_state(length=-1), "whole number"),
        (set_state(length=True), "whole number"),
        (set_state(length="37"), "whole number"),
        (set_state(length=[]), "whole number"),
        (set_state(length=64), "cannot begin at 32|not F32"),
        (set_state(length=65), "last chunk cannot begin at 32"),
        (set_state(chunk_start=31), "cannot begin at 31"),
        (set_state(chunk_start=64), "cannot begin at 64"),
        (set_state(turns=1), "do not make 1 turns"),
        (set_state(packed=1), "quantised at another place"),
        (set_state(chunk=64), "chunk or number of layers"),
        (set_state(layers=4), "chunk or number of layers"),
        (set_state(dtype="F64"), "its values are 'F64'"),
        (set_state(dtype="BF16"), "as F32 .*, not BF16"),
        (set_state(dtype=[]), "its values are"),
        (set_state(more=1), "not those of a cache"),
        (lambda f, s: s.pop("turns"), "not those of a cache"),
        (lambda f, s: f["__metadata__"].pop("crc32") and None, "lacks its crc32"),
        (lambda f, s: f["__metadata__"].update(crc32="{}"), "damaged in layers.0.keys"),
        (lambda f, s: f["__metadata__"].update(notes="[]"), "lacks its notes"),
        (lambda f, s: f["__metadata__"].update(options='{"bits": 3}'), "options that do not"),
        (lambda f, s: f["__metadata__"].update(options='{"a": 3}'), "options that do not"),
        (lambda f, s: f["__metadata__"].update(options="null"), "lacks its options"),
        (lambda f, s: f.update({"layers.0.keyz": f.pop("layers.0.keys")}), "lacks layers.0.keys"),
        (lambda f, s: f.update({"own.x": f.pop("layers.1.keys")}), "lacks layers.1.keys"),
        (lambda f, s: f.update({"layers.9.keys": f.pop("own.marks")}), "unknown layers.9.keys"),
        (lambda f, s: f["own.marks"].update(dtype="F8_E4M3", shape=[20]), "as F8_E4M3"),
        (lambda f, s: f["layers.1.keys"].update(shape=[1, 37, 2, 32]), r"as F32 \[1, 37"),
        (lambda f, s: f["layers.1.keys"].update(shape=[2, 37, 32, 1]), r"not F32 \[1, 2, 37"),
        (lambda f, s: f["layers.1.keys"].update(dtype="I32"), "as I32"),
    ],
)
def test_headers_that_lie(file: Path, change: Any, said: str | None) -> None:
    """Their checksum is right: somebody made them so."""
    forged(file, lambda fields, state: (change(fields, state), None)[1])
    if said is None:
        assert load(file, maker(), fingerprint=MODEL).cache.length == 37
    else:
        refused(file, maker(), BadCheckpoint, said)


def test_nothing_is_allocated_for_a_claim(file: Path) -> None:
    """A header that claims terabytes is refused before any are asked for."""

    def claim(fields: dict[str, Any], state: dict[str, Any]) -> None:
        state.update(length=2**20, chunk_start=2**20)
        for name in list(fields):
            if name.startswith(("layers.0", "layers.2")):
                del fields[name]
        fields["layers.1.keys"].update(shape=[2**20, 2, 2**20, 32])

    forged(file, claim)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    refused(file, maker(), BadCheckpoint, "which disagree")
    assert mx.get_peak_memory() - before < 10**6


def test_an_older_file_stays_until_the_new_one_is_whole(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()
    for error in (
        OSError(errno.ENOSPC, "no space"),
        OSError(errno.EIO, "I/O"),
        KeyboardInterrupt(),
    ):

        def fails(*args: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(os, "fsync", fails)
        with pytest.raises((MaverickError, KeyboardInterrupt)) as raised:
            save(file, filled(KVOptions(), 50), fingerprint=MODEL)
        if isinstance(raised.value, MaverickError):
            assert "\n" not in str(raised.value)
        assert file.read_bytes() == before
        assert [path.name for path in file.parent.iterdir()] == [file.name]
    monkeypatch.undo()
    save(file, filled(KVOptions(), 50), fingerprint=MODEL)
    assert load(file, maker(), fingerprint=MODEL).cache.length == 50
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 2000))
    with pytest.raises(DoesNotFit, match=r"needs .* kB and its disk has 2\.0 kB left"):
        save(tmp_path / "kv", filled(KVOptions(), 50), fingerprint=MODEL)
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    cache = filled(KVOptions(), 5)
    with pytest.raises(NotFound, match="make it first"):
        save(tmp_path / "no" / "kv", cache, fingerprint=MODEL)
    with pytest.raises(UsageError, match="is a folder"):
        save(tmp_path, cache, fingerprint=MODEL)
    (tmp_path / "file").write_text("x")
    with pytest.raises(MaverickError, match="cannot be written"):
        save(tmp_path / "file" / "kv", cache, fingerprint=MODEL)


def test_several_sequences_are_not_saved(tmp_path: Path) -> None:
    cache = Cache(text_config())
    cache.begin(2)
    for i in range(3):
        cache.update(i, mx.zeros((2, 2, 2, 32)), mx.zeros((2, 2, 2, 32)))
    cache.advance(2)
    with pytest.raises(ValueError, match="several sequences"):
        save(tmp_path / "kv", cache, fingerprint=MODEL)


def test_what_is_saved_is_independent_of_what_follows(tmp_path: Path) -> None:
    cache = filled(KVOptions(), 40)
    save(tmp_path / "kv", cache, fingerprint=MODEL)
    scribble(cache, 10)
    feed(load(tmp_path / "kv", maker(), fingerprint=MODEL).cache, 60)


def test_what_is_no_ordinary_file_is_not_replaced(tmp_path: Path) -> None:
    cache, pipe = filled(KVOptions(), 5), tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="not an ordinary file"):
        save(pipe, cache, fingerprint=MODEL)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    refused(pipe, maker(), NotFound, "is not a file")
    with pytest.raises(UsageError, match="not an ordinary file"):
        save("/dev/null", cache, fingerprint=MODEL)


def test_a_link_stays_one(tmp_path: Path) -> None:
    """What it leads to is replaced, or made."""
    (tmp_path / "elsewhere").mkdir()
    link, file = tmp_path / "link", tmp_path / "elsewhere" / "kv"
    link.symlink_to(file)
    for length in (5, 9):
        save(link, filled(KVOptions(), length), fingerprint=MODEL)
        assert link.is_symlink()
        assert load(file, maker(), fingerprint=MODEL).cache.length == length
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(MaverickError):
        load(link, maker(), fingerprint=MODEL)


def test_a_folder_that_cannot_be_written_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is read-only, whoever asks."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(MaverickError, match="its folder is read-only"):
        save(tmp_path / "kv", filled(KVOptions(), 5), fingerprint=MODEL)
