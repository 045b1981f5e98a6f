"""Fixtures of the Hub's tests: a Hub on the loopback interface, and a repository of it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from mlx_maverick.convert.remote import Repository, blocks
from mlx_maverick.convert.remote import repository as repository_module
from mlx_maverick.convert.remote.patience import Patience

from .hub_server import HubServer
from .mini_hub import BIG, CONTENT, REPO


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
    monkeypatch.setattr(repository_module, "PART_BYTES", 100_000)
    monkeypatch.setattr(repository_module, "SMALL_BYTES", 10_000)
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
