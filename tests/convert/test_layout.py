"""Which file and place every tensor gets, and that others read such files."""

import io
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_maverick.checkpoint import read_header
from mlx_maverick.convert.layout import PAGE, Entry, Layout

ENTRIES = [Entry("b", "U32", (3, 8)), Entry("a", "BF16", (5,)), Entry("c", "BF16", (2, 2, 2))]


def test_files_are_read_back_as_planned(tmp_path: Path) -> None:
    layout = Layout.of(ENTRIES)
    (shard,) = layout.shards
    assert shard.name == "model.safetensors"
    data = bytes(range(shard.data_nbytes))
    file = tmp_path / shard.name
    file.write_bytes(shard.header + data)
    assert layout.nbytes == file.stat().st_size
    for tensor in read_header(file):
        place = layout.places[tensor.name]
        assert (tensor.offset, tensor.nbytes) == (place.offset, place.nbytes)
    # MLX is the reader that counts.
    arrays, metadata = mx.load(str(file), return_metadata=True)
    assert metadata == {"format": "mlx"}
    assert arrays["b"].shape == (3, 8)
    assert memoryview(arrays["b"]).tobytes() == data[:96]
    assert memoryview(arrays["c"].view(mx.uint16)).tobytes() == data[96:112]


def test_data_begins_on_a_page_and_tensors_on_what_divides_their_size() -> None:
    layout = Layout.of(
        [
            Entry("norm", "BF16", (5120,)),  # 2,048 * 5
            Entry("page", "U32", (PAGE // 4,)),
            Entry("none", "U8", (0,)),
            Entry("odd", "BF16", (577,)),
            Entry("pages", "U8", (3, PAGE)),
            Entry("more", "U8", (2048,)),
        ]
    )
    header = len(layout.shards[0].header)
    assert header % PAGE == 0
    assert {name: place.offset - header for name, place in layout.places.items()} == {
        "page": 0, "pages": PAGE, "norm": 4 * PAGE, "more": 4 * PAGE + 10240,
        "odd": 4 * PAGE + 12288, "none": 4 * PAGE + 13442,
    }  # fmt: skip


SIZES = st.one_of(st.integers(1, 40), st.sampled_from([64, 96, 128, PAGE // 8, PAGE // 4, PAGE]))
FEW = st.integers(1, 5)
DTYPES = st.sampled_from(["U32", "BF16", "F16", "U8"])
SHAPES = st.one_of(st.tuples(SIZES), st.tuples(FEW, SIZES), st.tuples(FEW, FEW, FEW))
PATHS = st.sampled_from(["a.b", "a.c", "a", ""])
SOME = st.lists(st.tuples(DTYPES, SHAPES, PATHS), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(some=SOME, limit=st.sampled_from([1, 100, PAGE, 3 * PAGE, 1 << 30]))
def test_any_sizes_are_read_back_by_the_safetensors_library_and_mlx(
    some: list[tuple[str, tuple[int, ...], str]], limit: int
) -> None:
    """It refuses files with gaps between tensors, or bytes that belong to none."""
    entries = [Entry(f"{path}.{i}", dtype, shape) for i, (dtype, shape, path) in enumerate(some)]
    layout = Layout.of(entries, limit)
    assert layout == Layout.of(list(entries), limit)
    assert sorted(e.name for e in layout.entries) == sorted(e.name for e in entries)
    content = {e.name: np.random.default_rng(i).bytes(e.nbytes) for i, e in enumerate(entries)}
    for shard in layout.shards:
        assert shard.data_nbytes <= limit or len(shard.entries) == 1
        text = shard.header + b"".join(content[e.name] for e in shard.entries)
        loaded = mx.load(io.BytesIO(text), "safetensors")
        found = dict(safetensors.deserialize(text))
        assert loaded.keys() == found.keys() == {e.name for e in shard.entries}
        for entry in shard.entries:
            held, place = found[entry.name], layout.places[entry.name]
            assert (held["dtype"], tuple(held["shape"])) == (entry.dtype, entry.shape)
            assert bytes(held["data"]) == content[entry.name]
            assert memoryview(loaded[entry.name].view(mx.uint8)).tobytes() == content[entry.name]
            assert text[place.offset : place.offset + place.nbytes] == content[entry.name]
            assert place.offset % min(PAGE, entry.nbytes & -entry.nbytes) == 0


def test_small_tensors_of_a_module_come_first_if_that_saves_files() -> None:
    def matrix(path: str, words: int) -> list[Entry]:
        small = [Entry(f"{path}.{kind}", "U32", (2,)) for kind in ("scales", "biases")]
        return [Entry(f"{path}.weight", "U32", (words,)), *small]

    def files(entries: list[Entry]) -> list[str]:
        shards = Layout.of(entries, limit=80).shards
        return [" ".join(e.name.replace("eights", "") for e in s.entries) for s in shards]

    full = [*matrix("x.a", 20), *matrix("x.b", 20)]  # 80 bytes: as much as a file may hold
    small = "x.a.scales x.a.biases x.b.scales x.b.biases"
    assert files(full) == [small, "x.a.weight", "x.b.weight"]
    assert files([*full[:3], *matrix("y.b", 20)]) == [
        "x.a.weight", "x.a.scales x.a.biases", "y.b.weight", "y.b.scales y.b.biases",
    ]  # fmt: skip
    fitting = [*matrix("x.a", 16), *matrix("x.b", 16)]
    assert files(fitting) == [
        "x.a.weight x.a.scales x.a.biases", "x.b.weight x.b.scales x.b.biases",
    ]  # fmt: skip


def test_layouts_are_told_apart() -> None:
    digest = Layout.of(ENTRIES).digest
    assert digest == Layout.of(list(ENTRIES)).digest
    others = [Layout.of(ENTRIES, 106), Layout.of(ENTRIES[:2]), Layout.of(ENTRIES[::-1])]
    assert len({digest, *(other.digest for other in others)}) == 3  # the order given is no matter


@pytest.mark.parametrize(
    ("limit", "groups"),
    [
        (122, ["bca"]),
        (121, ["ba", "c"]),
        (106, ["ba", "c"]),
        (96, ["b", "ca"]),
        (1, ["b", "a", "c"]),
    ],
)
def test_a_shard_holds_no_more_than_the_limit(limit: int, groups: list[str]) -> None:
    layout = Layout.of(ENTRIES, limit)
    assert ["".join(e.name for e in s.entries) for s in layout.shards] == groups
    if len(groups) > 1:
        assert layout.shards[1].name == f"model-00002-of-{len(groups):05d}.safetensors"


def test_the_index_names_every_tensor_and_counts_bytes_without_headers() -> None:
    layout = Layout.of(ENTRIES, 96)
    index = json.loads(layout.index(parameters=77))
    assert index["metadata"] == {"total_size": 122, "total_parameters": 77}
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    assert index["weight_map"] == {"a": second, "b": first, "c": second}
