"""Where a source is, and what it is called."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from mlx_maverick.checkpoint import Checkpoint
from mlx_maverick.convert.origin import describe, opened
from mlx_maverick.errors import NotFound, UsageError
from mlx_maverick.files import Folder

from . import damage

REPO = "meta-llama/Llama-4-Maverick"
COMMITS = ("0123456789012345678901234567890123456789", "abcdef" * 6 + "abcd")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the Hub's with nothing in it, and nothing behind it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """What would be fetched from the Hub itself."""
    found: list[tuple[str, str | None]] = []

    class Repository:
        @staticmethod
        def open(repo: str, revision: str | None) -> Any:
            found.append((repo, revision))
            return SimpleNamespace(where=repo, commit=COMMITS[0], close=lambda: found.append("end"))

    remote = SimpleNamespace(Repository=Repository)
    monkeypatch.setitem(sys.modules, "mlx_maverick.convert.remote", remote)
    return found


def cached(hub: Path, source: Path, commit: str = COMMITS[0], main: bool = True) -> Path:
    """The repository in the cache, as huggingface_hub lays it out: links to blobs."""
    repo = hub / f"models--{REPO.replace('/', '--')}"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir(exist_ok=True)
    if main:
        (repo / "refs/main").write_text(commit)
    for file in source.iterdir():
        if file.is_file():
            (snapshot / file.name).symlink_to(file)
    return snapshot


def where(source: str | Path, revision: str | None = None, begun: Any = None) -> str:
    with opened(source, revision, begun) as files:
        return files.where


def test_a_folder(maverick_mini: Path) -> None:
    assert where(maverick_mini) == where(str(maverick_mini)) == str(maverick_mini)


def test_a_revision_of_a_folder(maverick_mini: Path) -> None:
    with pytest.raises(UsageError, match="is a folder and has no revision main; leave it out"):
        where(maverick_mini, "main")


def test_nothing(tmp_path: Path) -> None:
    for name in (tmp_path / "nope", "./a/b", "just-a-name"):
        with pytest.raises(NotFound, match="does not exist"):
            where(name)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NotFound, match="is a file"):
        where(file)


def test_a_repository_in_the_cache(hub: Path, maverick_mini: Path) -> None:
    snapshot = cached(hub, maverick_mini)
    assert where(REPO) == where(REPO, "main") == where(REPO, COMMITS[0]) == str(snapshot)
    with opened(REPO, None) as files:
        assert describe(files) == {"repo": REPO, "commit": COMMITS[0]}


@pytest.mark.parametrize(
    "gone", ["model-00003-of-00004.safetensors", "config.json", "tokenizer.json", damage.INDEX]
)
def test_a_cached_repository_that_lacks_files_is_not_used(
    hub: Path, maverick_mini: Path, gone: str, asked: list[Any]
) -> None:
    """`hf download --include` leaves such ones."""
    (cached(hub, maverick_mini) / gone).unlink()
    assert where(REPO) == REPO
    assert asked == [(REPO, None), "end"]


def test_a_cached_shard_that_is_cut_is_not_used(hub: Path, source: Path, asked: list[Any]) -> None:
    cached(hub, source)
    damage.cut(source / "model-00004-of-00004.safetensors")
    assert where(REPO, "main") == REPO
    assert asked == [(REPO, "main"), "end"]


def test_a_cached_repository_of_one_file(hub: Path, source: Path, asked: list[Any]) -> None:
    for file in source.glob("model*"):
        file.unlink()
    snapshot = cached(hub, source)
    assert where(REPO) == REPO
    damage.write(snapshot / "model.safetensors", {"a": damage.stored(mx.zeros(3))})
    assert where(REPO) == str(snapshot)


def test_what_was_begun_goes_on_at_its_commit(
    hub: Path, maverick_mini: Path, asked: list[Any]
) -> None:
    """Whatever the repository's main branch is by now; but a revision that is named counts."""
    old = cached(hub, maverick_mini, COMMITS[0])
    new = cached(hub, maverick_mini, COMMITS[1])
    begun = {"source": {"repo": REPO, "commit": COMMITS[0]}}
    assert where(REPO) == str(new)
    assert where(REPO, None, begun) == str(old)
    assert where(REPO, COMMITS[1], begun) == str(new)
    assert where(REPO, None, {"source": {"repo": "a/b", "commit": COMMITS[0]}}) == str(new)
    shutil.rmtree(old)
    assert where(REPO, None, begun) == REPO
    assert asked == [(REPO, COMMITS[0]), "end"]


def test_a_repository_is_closed_after_an_error(hub: Path, asked: list[Any]) -> None:
    with pytest.raises(ZeroDivisionError), opened(REPO, None):
        _ = 1 / 0
    assert asked[-1] == "end"


def test_what_is_read_over_the_network_has_a_commit() -> None:
    files: Any = SimpleNamespace(where=REPO, commit=COMMITS[0])
    assert describe(files) == {"repo": REPO, "commit": COMMITS[0]}


def test_the_cache_may_be_given_as_a_folder(hub: Path, maverick_mini: Path, tmp_path: Path) -> None:
    snapshot = cached(hub, maverick_mini)
    (tmp_path / "link").symlink_to(snapshot)
    for folder in (snapshot, tmp_path / "link"):
        assert describe(Folder(folder)) == {"repo": REPO, "commit": COMMITS[0]}


def test_a_folder_called_snapshots_is_no_cache(maverick_mini: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos/snapshots/mini"
    folder.parent.mkdir(parents=True)
    found = describe(Folder(damage.copy(maverick_mini, folder)))
    assert (found["folder"], found["commit"]) == ("mini", None)


class Counted(Folder):
    """A folder that counts what is read of it."""

    read_bytes = 0

    def read(self, name: str, offset: int, buffer: memoryview) -> None:
        self.read_bytes += len(buffer)
        super().read(name, offset, buffer)


@pytest.fixture
def twins(maverick_mini: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of one name, with the same in them."""
    for parent in ("a", "b"):
        (tmp_path / parent).mkdir()
    one, two = (damage.copy(maverick_mini, tmp_path / parent / "mini") for parent in ("a", "b"))
    return one, two


def test_a_sample_tells_folders_of_one_shape_apart(twins: tuple[Path, Path]) -> None:
    one, two = (Folder(folder) for folder in twins)
    assert describe(one) == describe(two)
    assert describe(one).keys() == {"folder", "commit", "sample"}
    assert "/" not in str(describe(one))  # it goes into a file that may be published
    values = damage.tensors(twins[1])
    damage.change(twins[1], {name: value * 1.01 for name, value in values.items()})
    assert describe(one) != describe(two)


def test_a_change_in_one_file_only(twins: tuple[Path, Path]) -> None:
    """Fine-tuning may leave most of a model alone."""
    one, two = twins
    wanted = describe(Folder(one))
    for shard in sorted(two.glob("*.safetensors")):
        held = damage.read(shard)
        changed = {n: t._replace(data=bytes(len(t.data))) for n, t in held.items()}
        damage.write(shard, changed)
        assert describe(Folder(two)) != wanted, shard.name
        shutil.copy(one / shard.name, shard)
    assert describe(Folder(two)) == wanted


def test_a_sample_takes_little(maverick_mini: Path) -> None:
    files = Counted(maverick_mini)
    headers = sum(
        min(t.offset for t in Checkpoint.of(files).tensors.values() if t.file == f)
        for f in Checkpoint.of(files).files
    )
    files.read_bytes = 0
    describe(files)
    index = (maverick_mini / damage.INDEX).stat().st_size
    assert files.read_bytes == headers + index + 4 * 4096
