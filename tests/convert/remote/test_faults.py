"""A repository read over a network that fails: what passes is survived, what stays is told."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from mlx_maverick.convert.remote import Repository, blocks, ranges
from mlx_maverick.convert.remote import repository as remote
from mlx_maverick.convert.remote.patience import Patience
from mlx_maverick.errors import BadCheckpoint, MaverickError
from mlx_maverick.files import read_whole

from .hub_server import Answer, Cut, Fault, HubServer, Redirect, Request, Stall, Status
from .mini_hub import BIG, CONTENT, REPO, SIZE, TOKEN, read

# Failures that pass

PASSING: list[Fault] = [
    Cut(None),
    Cut(0),
    Cut(999),
    Stall(None),
    Stall(999),
    Status(429),
    Status(500),
    Status(503),
    Status(403),
    Status(404),
    Answer(whole=True),
    Answer(shift=1),
    Answer(total=1),
    Answer(length=-1),
    Answer(length=1),
    Answer(missing=1),
    Answer(missing=50_000),
    Answer(extra=1),
    Answer(extra=100_000),
    Answer(drop="Content-Range"),
    Answer(headers={"Content-Encoding": "gzip"}),
]


@pytest.mark.parametrize("fault", PASSING, ids=str)
def test_a_failure_that_passes(
    hub: HubServer, patience: Patience, waits: list[float], fault: Fault
) -> None:
    patience = replace(patience, stall=0.3 if isinstance(fault, Stall) else 30)
    with Repository.open(REPO, endpoint=hub.endpoint, patience=patience) as repository:
        waits.clear()
        hub.faults.next("cdn", fault, None, fault)
        assert read(repository, 3, 150_000) == CONTENT[3:150_003]
        assert 2 <= len(waits) <= 3
        hub.faults.next("hub", Status(500), Cut(None), Status(429))
        hub.expire()
        assert read(repository, 3, 150_000) == CONTENT[3:150_003]


def test_what_was_cut_is_resumed(repository: Repository, hub: HubServer) -> None:
    """However often: every byte that arrives starts the count afresh."""
    hub.faults.next("cdn", *[Cut(1000)] * 30)
    assert read(repository, 0, 90_000) == CONTENT[:90_000]
    starts = [r.range[0] for r in hub.seen("cdn") if r.range]
    assert starts == [1000 * i for i in range(31)]
    hub.faults.next("cdn", *[Answer(shift=1), Cut(1000)] * 10)
    assert read(repository, 0, 90_000) == CONTENT[:90_000]


def test_waits_grow_and_keep_to_what_is_asked(
    repository: Repository, hub: HubServer, waits: list[float]
) -> None:
    hub.faults.next("cdn", *[Status(503)] * 8)
    read(repository, 0, 50_000)
    assert all(2**i / 2 <= wait <= 2**i for i, wait in enumerate(waits[:6]))
    assert all(30 <= wait <= 60 for wait in waits[6:])
    waits.clear()
    hub.faults.next(
        "cdn",
        Status(429, {"Retry-After": "77"}),
        Status(429, {"RateLimit": '"resolvers";r=0;t=55'}),
        Status(503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),  # over
        Status(503, {"Retry-After": "soon"}),
        Status(429, {"Retry-After": "999999"}),
    )
    read(repository, 0, 50_000)
    assert 77 <= waits[0] <= 78
    assert 55 <= waits[1] <= 56
    assert waits[2] <= 4
    assert waits[3] <= 8
    assert 900 <= waits[4] <= 901


def test_an_expired_address_is_no_failure(
    repository: Repository, hub: HubServer, waits: list[float]
) -> None:
    read(repository, 0, 50_000)
    hub.expire()
    assert read(repository, 50_000, 50_000) == CONTENT[50_000:100_000]
    assert (len(hub.seen("hub")), waits) == (2, [])


def test_the_hub_is_asked_again_while_opening(
    hub: HubServer, patience: Patience, waits: list[float]
) -> None:
    hub.faults.next("api", Status(503), Cut(None), Status(429, {"Retry-After": "30"}))
    Repository.open(REPO, endpoint=hub.endpoint, patience=patience).close()
    assert len(waits) == 3
    assert waits[2] >= 30


def test_a_session_closed_by_others(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    closed = [huggingface_hub.get_session()]
    huggingface_hub.close_session()
    monkeypatch.setattr(
        ranges, "get_session", lambda: closed.pop() if closed else huggingface_hub.get_session()
    )
    assert read(repository) == CONTENT
    assert len(waits) == 1


@pytest.mark.parametrize("seed", range(3))
def test_every_byte_arrives_through_random_faults(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Large and small reads at once from eight threads, while a third of the requests fail."""
    monkeypatch.setattr(remote, "PART_BYTES", 30_000)
    monkeypatch.setattr(blocks, "BLOCKS", 4)
    chance, lock = random.Random(seed), threading.Lock()
    met: set[str] = set()

    def choose(request: Request) -> Fault | None:
        with lock:
            if chance.random() < 0.02:
                hub.expire()
            if chance.random() > 0.35:
                return None
            fault = chance.choice(PASSING)
            if isinstance(fault, Stall):
                fault = chance.choice([fault, Cut(5), Cut(7000)])
            if request.place == "hub":
                fault = Status(503)
            met.add(str(fault))
            return fault

    hub.faults.choose("cdn", choose)
    hub.faults.choose("hub", choose)
    patience = Patience(tries=40, wrong=40, stall=0.4, wait=lambda stopped, _: stopped.is_set())

    def some(number: int) -> None:
        mine = random.Random(1000 * seed + number)
        for _ in range(12):
            count = mine.choice([1, 100, 9_000, 60_000, 200_000])
            start = mine.randrange(SIZE - count)
            assert read(repository, start, count) == CONTENT[start : start + count]

    with (
        Repository.open(REPO, endpoint=hub.endpoint, patience=patience) as repository,
        ThreadPoolExecutor(8) as threads,
    ):
        list(threads.map(some, range(8)))
    assert len(met) >= len(PASSING) - 2


# Failures that stay


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Cut(None), "the connection to localhost was lost"),
        (Cut(0), "the connection to localhost was lost"),
        (Stall(0), "localhost fell silent"),
        (Status(503), "localhost answers 503"),
        (Status(403), "localhost answers 403"),
    ],
    ids=str,
)
def test_a_network_that_stays_lost(
    hub: HubServer, patience: Patience, waits: list[float], fault: Fault, told: str
) -> None:
    patience = replace(patience, tries=5, stall=0.2 if isinstance(fault, Stall) else 30)
    with Repository.open(REPO, endpoint=hub.endpoint, patience=patience) as repository:
        waits.clear()
        hub.faults.always("cdn", fault)
        with pytest.raises(MaverickError, match="run the same command again to resume") as caught:
            read(repository, 0, 50_000)
    assert told in str(caught.value)
    assert f"{REPO}/{BIG}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
    assert len(waits) == 4


def test_a_lost_network_is_given_up_after_minutes(
    repository: Repository, hub: HubServer, waits: list[float]
) -> None:
    hub.faults.always("cdn", Cut(None))
    with pytest.raises(MaverickError, match="cannot be read now"):
        read(repository, 0, 50_000)
    assert 150 < sum(waits) < 400


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Answer(whole=True), "answers 200 to a request for a part"),
        (Answer(shift=1), "sends another part"),
        (Answer(total=1), f"has {SIZE + 1} bytes of it, and {SIZE} are listed"),
        (Answer(length=-1), "announces another length"),
        (Answer(length=1), "announces another length"),
        (Answer(extra=1), "sends more than was asked for"),
        (Answer(drop="Content-Range"), "does not say which part"),
        (Answer(headers={"Content-Encoding": "gzip"}), "sends it compressed"),
    ],
    ids=str,
)
def test_answers_that_stay_wrong(
    repository: Repository, hub: HubServer, waits: list[float], fault: Fault, told: str
) -> None:
    hub.faults.always("cdn", fault)
    with pytest.raises(BadCheckpoint, match=f"{REPO}/{BIG} cannot be trusted") as caught:
        read(repository, 0, 50_000)
    assert told in str(caught.value)
    assert len(waits) == 3


def test_a_file_that_changed_its_size(
    repository: Repository, hub_folder: Path, hub: HubServer
) -> None:
    (hub_folder / BIG).write_bytes(CONTENT[:-10])
    with pytest.raises(BadCheckpoint, match=f"has {SIZE - 10} bytes of it"):
        read(repository, 0, 50_000)
    with pytest.raises(BadCheckpoint, match="has fewer bytes"):
        read(repository, SIZE - 3, 3)


def test_a_small_file_may_come_whole(repository: Repository, hub: HubServer) -> None:
    """200 is a right answer to a request for everything."""
    hub.faults.always("hub", Answer(whole=True))
    assert read_whole(repository, "config.json") == b'{"model_type": "llama4"}'


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("file:///etc/passwd", "redirected from http to file"),
        ("ftp://localhost/x", "redirected from http to ftp"),
        ("http://localhost:99999999/x", "redirected|connection"),
        ("/meta-llama/Mini/resolve/main/model.safetensors", "redirected without end"),
    ],
)
def test_redirects_that_are_not_followed(
    repository: Repository, hub: HubServer, target: str, told: str
) -> None:
    hub.faults.always("hub", Redirect(target))
    with pytest.raises(MaverickError, match=told):
        read(repository, 0, 50_000)


def test_a_relative_redirect_on_the_hub(
    repository: Repository, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the Hub answers for small files and renamed repositories."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.faults.next("hub", Redirect(f"/{REPO}/resolve/main/config.json"))
    assert read_whole(repository, "config.json") == b'{"model_type": "llama4"}'
    assert [r.headers["Authorization"] for r in hub.seen("hub")] == [f"Bearer {TOKEN}"] * 2
