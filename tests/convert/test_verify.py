import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from mlx_maverick.convert import Progress, convert
from mlx_maverick.convert.hashes import File
from mlx_maverick.convert.layout import Entry, Layout
from mlx_maverick.convert.manifest import MANIFEST, Manifest, manifest
from mlx_maverick.convert.verify import verify, verify_layout
from mlx_maverick.errors import BadCheckpoint, NotFound

from . import damage

SHARD = "model.safetensors"


@pytest.fixture(scope="module")
def made(scout_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "made"
    convert(scout_mini, folder, "e4r4", fast=True)
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


NAMES = [
    MANIFEST, SHARD, damage.INDEX, "README.md", "chat_template.jinja", "config.json",
    "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
]  # fmt: skip


def test_these_are_all_files(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_any_flipped_bit(folder: Path, name: str) -> None:
    """In a shard, also of its header; the file that is named is the one."""
    data, rng = (folder / name).read_bytes(), random.Random(name)
    for i in range(30 if name == MANIFEST else 6):
        changed = bytearray(data)
        at = rng.randrange(2000 if i % 2 and name == SHARD else len(data))
        changed[at] ^= 1 << rng.randrange(8)
        (folder / name).write_bytes(changed)
        with pytest.raises(BadCheckpoint) as caught:
            verify(folder)
        assert str(folder / name) in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_short_or_gone(folder: Path, name: str) -> None:
    size = (folder / name).stat().st_size
    for left in (size - 1, size // 2, 0, None):
        if left is None:
            (folder / name).unlink()
        else:
            os.truncate(folder / name, left)
        with pytest.raises(NotFound if left is None and name == MANIFEST else BadCheckpoint) as e:
            verify(folder)
        assert name in str(e.value)


def test_bytes_that_are_swapped(folder: Path) -> None:
    """Everything of the same length and sum."""
    data = bytearray((folder / SHARD).read_bytes())
    data[-1000:-500], data[-500:] = data[-500:], data[-1000:-500]
    (folder / SHARD).write_bytes(data)
    with pytest.raises(BadCheckpoint, match=rf"{SHARD} is not what was written"):
        verify(folder)


def test_another_length_is_told_without_hashing(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    seen: list[Progress] = []
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json has 2 bytes instead of"):
        verify(folder, seen.append)
    assert seen == []


def rewrite(folder: Path, name: str, data: bytes) -> None:
    """A file, and what maverick.json says of it."""
    (folder / name).write_bytes(data)
    made = Manifest.read(folder)
    files = made.files | {name: File(len(data), hashlib.sha256(data).hexdigest())}
    (folder / MANIFEST).write_bytes(manifest({"recipe": {"name": made.recipe}}, files))


def test_an_index_that_disagrees(folder: Path) -> None:
    index = json.loads((folder / damage.INDEX).read_text())
    index["metadata"]["total_size"] += 1
    rewrite(folder, damage.INDEX, json.dumps(index).encode())
    with pytest.raises(BadCheckpoint, match="counts"):
        verify(folder)


def test_a_shard_the_manifest_does_not_know(folder: Path) -> None:
    files = Manifest.read(folder).files
    del files[SHARD]
    (folder / MANIFEST).write_bytes(manifest({"recipe": {"name": "e4r4"}}, files))
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
        with pytest.raises(BadCheckpoint, match=f"{shard.name} was changed"):
            verify_layout(tmp_path, Layout.of(entries))
    for data in (bytes(7), bytes(9)):
        (tmp_path / shard.name).write_bytes(shard.header + data)
        with pytest.raises(BadCheckpoint, match=f"{shard.name} was changed"):
            verify_layout(tmp_path, layout)


def test_all_damaged_files_are_named(folder: Path) -> None:
    for name in ("generation_config.json", "tokenizer_config.json"):
        data = bytearray((folder / name).read_bytes())
        data[5] ^= 1
        (folder / name).write_bytes(data)
    with pytest.raises(BadCheckpoint, match="generation_config.json.*tokenizer_config.json"):
        verify(folder)
    for path in list(folder.iterdir()):
        if path.name not in (MANIFEST, "config.json"):
            path.unlink()
    with pytest.raises(BadCheckpoint, match=r"is missing, .*is missing, and \d more"):
        verify(folder)
