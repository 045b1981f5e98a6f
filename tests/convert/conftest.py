"""Fixtures of the converter's tests."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import pytest

from mlx_maverick.convert import blocks, convert, remote
from mlx_maverick.convert.patience import Patience
from mlx_maverick.convert.remote import Repository

from . import damage
from .hub_server import HubServer
from .mini_hub import BIG, CONTENT, REPO


@dataclass(frozen=True)
class Pair:
    """A checkpoint and what was made of it."""

    source: Path
    folder: Path
    recipe: str


@pytest.fixture(scope="session", params=["e4r4", "e4r6"])
def pair(request: pytest.FixtureRequest, mini: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("converted") / f"{mini.name}-{request.param}"
    convert(mini, folder, request.param)
    return Pair(mini, folder, request.param)


@pytest.fixture
def source(maverick_mini: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return damage.copy(maverick_mini, tmp_path / "source")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "model"


@pytest.fixture(autouse=True)
def _out_parent(out: Path) -> None:
    out.parent.mkdir()


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    """What the repository REPO of `hub` holds."""
    folder = tmp_path / "mini"
    (folder / "original").mkdir(parents=True)
    (folder / "original" / "params.json").write_text("{}")
    (folder / "config.json").write_text('{"model_type": "llama4"}')
    (folder / BIG).write_bytes(CONTENT)
    return folder


@pytest.fixture
def own_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither the user's token nor proxies nor connections."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("NO_PROXY", "*")
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


@pytest.fixture
def hub(
    hub_folder: Path, own_session: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    """A Hub with REPO, and parts so small that its file has several."""
    monkeypatch.setattr(remote, "PART_BYTES", 100_000)
    monkeypatch.setattr(remote, "SMALL_BYTES", 10_000)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 20_000)
    with HubServer({REPO: hub_folder}) as hub:
        yield hub


@pytest.fixture
def waits() -> list[float]:
    """The seconds that `patience` would have waited."""
    return []


@pytest.fixture
def patience(waits: list[float]) -> Patience:
    def wait(stopped: threading.Event, seconds: float) -> bool:
        waits.append(seconds)
        return stopped.is_set()

    return Patience(wait=wait)


@pytest.fixture
def repository(hub: HubServer, patience: Patience) -> Iterator[Repository]:
    with Repository.open(REPO, endpoint=hub.endpoint, patience=patience) as repository:
        yield repository
