import json
import shutil
from pathlib import Path

import pytest

from mlx_maverick.convert import Progress, convert
from mlx_maverick.convert.layout import Entry, Layout
from mlx_maverick.convert.manifest import MANIFEST
from mlx_maverick.convert.verify import verify, verify_layout
from mlx_maverick.errors import BadCheckpoint, NotFound

from . import damage

SHARD = "model.safetensors"


@pytest.fixture(scope="module")
def made(maverick_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "made"
    convert(maverick_mini, folder, "e4r4")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def test_a_converted_folder_is_whole(folder: Path) -> None:
    seen: list[Progress] = []
    manifest = verify(folder, seen.append)
    assert manifest.recipe == "e4r4"
    assert set(manifest.files) == {p.name for p in folder.iterdir()} - {MANIFEST}
    assert seen[-1].done == seen[-1].total == sum(f.size for f in manifest.files.values())


def test_one_flipped_bit(folder: Path) -> None:
    data = bytearray((folder / SHARD).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / SHARD).write_bytes(data)
    with pytest.raises(BadCheckpoint, match=rf"{SHARD} is not what was written"):
        verify(folder)


def test_a_changed_small_file(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    template.write_bytes(template.read_bytes()[::-1])
    with pytest.raises(BadCheckpoint, match=r"chat_template\.jinja is not what was written"):
        verify(folder)


def test_another_length_is_told_without_hashing(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    seen: list[Progress] = []
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json has 2 bytes instead of"):
        verify(folder, seen.append)
    assert seen == []


def test_a_missing_file(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json is missing"):
        verify(folder)


def test_a_cut_shard(folder: Path) -> None:
    damage.cut(folder / SHARD)
    with pytest.raises(BadCheckpoint, match="cut short"):
        verify(folder)


def test_an_index_that_disagrees(folder: Path) -> None:
    index = json.loads((folder / damage.INDEX).read_text())
    index["metadata"]["total_size"] += 1
    (folder / damage.INDEX).write_text(json.dumps(index))
    with pytest.raises(BadCheckpoint, match="counts"):
        verify(folder)


def test_a_shard_the_manifest_does_not_know(folder: Path) -> None:
    raw = json.loads((folder / MANIFEST).read_text())
    del raw["files"][SHARD]
    (folder / MANIFEST).write_text(json.dumps(raw))
    with pytest.raises(BadCheckpoint, match=f"{SHARD} is not listed"):
        verify(folder)


def test_a_folder_of_another_program(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    with pytest.raises(NotFound, match=r"maverick\.json"):
        verify(folder)


def test_headers_that_are_not_as_planned(tmp_path: Path) -> None:
    layout = Layout.of([Entry("a", "BF16", (4,))])
    (shard,) = layout.shards
    (tmp_path / shard.name).write_bytes(shard.header + bytes(8))
    verify_layout(tmp_path, layout)
    for entries in ([Entry("a", "F16", (4,))], [Entry("a", "BF16", (2, 2))], []):
        with pytest.raises(BadCheckpoint, match="was changed"):
            verify_layout(tmp_path, Layout.of(entries))
