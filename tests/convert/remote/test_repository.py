"""A repository read over HTTP: huggingface_hub's own client against a Hub on this machine."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import huggingface_hub
import pytest

from mlx_maverick.convert.remote import Repository, blocks
from mlx_maverick.convert.remote import repository as remote
from mlx_maverick.convert.remote.patience import Patience
from mlx_maverick.errors import BadCheckpoint, MaverickError, NotFound
from mlx_maverick.files import Files, read_whole

from .hub_server import (
    BAD_TOKEN,
    GATED,
    NO_ENTRY,
    NO_REPO_WITHOUT_LOGIN,
    Answer,
    Fault,
    HubServer,
    Request,
    Status,
)
from .mini_hub import BIG, CONTENT, REPO, SIZE, TOKEN, read

# What is read


def test_names_sizes_and_commit(repository: Repository, hub: HubServer) -> None:
    files: Files = repository
    assert files.where == REPO
    assert files.sizes == {"config.json": 24, BIG: SIZE}
    assert files.path(BIG) == Path(REPO) / BIG
    assert repository.commit == hub.commit(REPO)


@pytest.mark.parametrize("revision", [None, "main", "the commit"])
def test_a_revision_is_resolved_once(
    hub: HubServer, patience: Patience, revision: str | None
) -> None:
    asked = hub.commit(REPO) if revision == "the commit" else revision
    with Repository.open(REPO, asked, endpoint=hub.endpoint + "/", patience=patience) as repository:
        assert repository.commit == hub.commit(REPO)
        read(repository)
        read_whole(repository, "config.json")
    assert len(hub.seen("api")) == 1
    assert all(f"/resolve/{repository.commit}/" in r.path for r in hub.seen("hub"))


def test_a_large_read_is_split(repository: Repository, hub: HubServer) -> None:
    assert read(repository, 7, SIZE - 7) == CONTENT[7:]
    parts = sorted(r.range for r in hub.seen("cdn") if r.range)
    assert len(parts) == 10
    assert {r.headers["Accept-Encoding"] for r in hub.seen("cdn")} == {"identity"}
    assert parts[0][0] == 7
    assert parts[-1][1] == SIZE - 1
    assert all(b[0] == a[1] + 1 for a, b in pairwise(parts))


def test_several_parts_are_in_flight(repository: Repository, hub: HubServer) -> None:
    together = threading.Barrier(remote.CONNECTIONS, timeout=10)

    def meet(_: Request) -> Fault | None:
        if len(hub.seen("cdn")) <= remote.CONNECTIONS:
            together.wait()
        return None

    hub.faults.choose("cdn", meet)
    assert read(repository) == CONTENT
    assert not together.broken


def test_a_signed_address_is_used_again(repository: Repository, hub: HubServer) -> None:
    read(repository, 0, 50_000)
    for start in range(0, SIZE - 50_000, 50_000):
        assert read(repository, start, 50_000) == CONTENT[start : start + 50_000]
    assert len(hub.seen("hub")) == 1


def test_small_reads_share_a_block(repository: Repository, hub: HubServer) -> None:
    for start in range(0, 60_000, 1000):
        assert read(repository, start, 1500) == CONTENT[start : start + 1500]
    assert len(hub.seen("cdn")) == 4  # the last one crosses into the fourth block
    assert read(repository, SIZE - 5, 5) == CONTENT[-5:]


def test_one_request_per_block_for_all_threads(repository: Repository, hub: HubServer) -> None:
    def slowly(_: Request) -> Fault | None:
        time.sleep(0.1)
        return None

    hub.faults.choose("cdn", slowly)
    with ThreadPoolExecutor(8) as threads:
        starts = range(0, 16_000, 1000)
        found = list(threads.map(lambda start: read(repository, start, 1000), starts))
    assert found == [CONTENT[start : start + 1000] for start in starts]
    assert len(hub.seen("cdn")) == 1


def test_old_blocks_are_forgotten(
    repository: Repository, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCKS", 2)
    for start in (0, 20_000, 0, 40_000, 0, 20_000):  # the fourth drops 20,000, not 0
        read(repository, start, 100)
    assert len(hub.seen("cdn")) == 4


def test_a_failed_block_is_fetched_again(repository: Repository, hub: HubServer) -> None:
    hub.faults.always("cdn", Answer(whole=True))
    with pytest.raises(BadCheckpoint):
        read(repository, 0, 10)
    hub.faults.clear()
    assert read(repository, 0, 10) == CONTENT[:10]


def test_what_is_not_there(repository: Repository) -> None:
    with pytest.raises(NotFound, match=f"{REPO} has no other.json"):
        read(repository, 0, 1, "other.json")
    with pytest.raises(BadCheckpoint, match="ends before byte"):
        read(repository, SIZE - 10, 11)
    read(repository, SIZE, 0)


# The token


def test_the_token_stays_with_the_hub(
    hub_folder: Path, patience: Patience, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with (
        HubServer({REPO: hub_folder}, token=TOKEN) as hub,
        Repository.open(REPO, endpoint=hub.endpoint, patience=patience) as repository,
    ):
        assert read(repository) == CONTENT
        hub.expire()  # resolved again: still only there
        assert read(repository) == CONTENT
        read_whole(repository, "config.json")
        for place in ("api", "hub"):
            assert {r.headers["Authorization"] for r in hub.seen(place)} == {f"Bearer {TOKEN}"}
        assert {r.headers["Authorization"] for r in hub.seen("cdn")} == {None}


def test_a_token_that_cannot_be_sent(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_sec\u200bret")
    with pytest.raises(MaverickError, match="characters that no token has") as caught:
        Repository.open(REPO, endpoint=hub.endpoint)
    assert "hf_sec" not in str(caught.value)
    assert hub.requests == []


# Refusals


def refused(hub: HubServer, repo: str = REPO, revision: str | None = None) -> MaverickError:
    patience = Patience(tries=2, wait=lambda *_: False)
    with pytest.raises(MaverickError) as caught:
        Repository.open(repo, revision, endpoint=hub.endpoint, patience=patience)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_gated_repository(hub: HubServer, repository: Repository) -> None:
    """The Hub shows its listing to everyone, and refuses the files."""
    hub.faults.always("hub", GATED)
    for count in (10, 50_000):
        with pytest.raises(MaverickError, match="gated") as caught:
            read(repository, 0, count)
        assert f"{hub.endpoint}/{REPO}" in str(caught.value)
        assert "set HF_TOKEN or run 'hf auth login'" in str(caught.value)
        assert caught.value.exit_code == 1
    assert len(hub.seen("hub")) <= 3  # no use to try again
    hub.faults.always("api", GATED)
    assert "gated" in str(refused(hub))


def test_repositories_that_are_not_there(hub: HubServer) -> None:
    for error in (refused(hub, "owner/nothing"), refused(hub, "nothing")):
        assert isinstance(error, NotFound)
        assert "private" in str(error)
        assert "hf auth login" in str(error)
    hub.faults.next("api", NO_REPO_WITHOUT_LOGIN)
    assert isinstance(refused(hub), NotFound)
    for name in ("a/b/c", "a--b/c", "../x", ".hidden/x", "", "a b/c", "x\n/y"):
        assert "no name of a Hub repository" in str(refused(hub, name))
        assert isinstance(refused(hub, name), NotFound)


def test_a_revision_that_is_not_there(hub: HubServer) -> None:
    error = refused(hub, revision="no/such")
    assert isinstance(error, NotFound)
    assert "'no/such'" in str(error)


def test_a_refused_token(hub: HubServer, repository: Repository) -> None:
    hub.faults.always("api", BAD_TOKEN)
    hub.faults.always("hub", BAD_TOKEN)
    assert "refuses the token" in str(refused(hub))
    with pytest.raises(MaverickError, match="refuses the token"):
        read(repository)


def test_other_refusals(hub: HubServer, repository: Repository) -> None:
    hub.faults.next("hub", NO_ENTRY)
    with pytest.raises(NotFound, match=f"has no {BIG}"):
        read(repository, 0, 50_000)
    said = {"X-Error-Message": "Please enable access\x1b[31m in your settings." + "x" * 500}
    hub.faults.next("api", Status(403, said), Status(418))
    error = refused(hub)
    assert "(Please enable access [31m in your settings.xxx" in str(error)
    assert len(str(error)) < 500
    assert "answers 418" in str(refused(hub))
    hub.faults.next("api", Status(200, {"Content-Type": "text/html"}))
    assert "does not answer as the Hub does" in str(refused(hub))


def test_nobody_is_there(hub: HubServer) -> None:
    patience = Patience(tries=2, wait=lambda *_: False)
    for endpoint, told in (
        ("http://127.0.0.1:9", "no connection to 127.0.0.1"),
        ("http://no-such-host.invalid", "no connection to no-such-host.invalid"),
        ("huggingface.co", "make it https://"),
        ("http://[x", "make it https://"),
    ):
        with pytest.raises(MaverickError) as caught:
            Repository.open(REPO, endpoint=endpoint, patience=patience)
        assert told in str(caught.value)
        assert caught.value.exit_code == 1


def test_offline(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    error = refused(hub)
    assert isinstance(error, NotFound)
    assert "HF_HUB_OFFLINE" in str(error)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["..", "back\\slash", "line\nbreak"])
def test_names_that_no_file_should_have(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    info = type("Info", (), {"sha": "0" * 40, "siblings": [type("F", (), {"rfilename": name})]})
    info.siblings[0].size = 1
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)
    with pytest.raises(BadCheckpoint, match="do not use it"):
        Repository.open(REPO, endpoint=hub.endpoint)
