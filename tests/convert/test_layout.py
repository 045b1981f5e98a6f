import json
from pathlib import Path

import mlx.core as mx
import pytest

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
    assert memoryview(arrays["c"].view(mx.uint16)).tobytes() == data[106:]


def test_data_begins_on_a_page_in_the_given_order() -> None:
    layout = Layout.of(ENTRIES)
    assert len(layout.shards[0].header) % PAGE == 0
    assert [e.name for e in layout.entries] == ["b", "a", "c"]
    offsets = [layout.places[n].offset - len(layout.shards[0].header) for n in "bac"]
    assert offsets == [0, 96, 106]


@pytest.mark.parametrize(
    ("limit", "groups"),
    [
        (122, ["bac"]),
        (121, ["ba", "c"]),
        (106, ["ba", "c"]),
        (96, ["b", "ac"]),
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
