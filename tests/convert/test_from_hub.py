"""Converting straight from a Hub: real processes, the real client, real HTTP."""

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_maverick.convert import convert
from mlx_maverick.convert.manifest import MANIFEST
from mlx_maverick.convert.verify import verify

from . import damage
from .remote.hub_server import GATED, Answer, Cut, Fault, HubServer, Request, Stall, Status

REPO = "meta-llama/Mini"
TOKEN = "hf_secret"
OF_THE_SOURCE = (MANIFEST, "README.md")  # name the source


@pytest.fixture
def hub(maverick_mini: Path, tmp_path: Path) -> Iterator[HubServer]:
    folder = damage.copy(maverick_mini, tmp_path / "repository")
    (folder / "LICENSE").write_text("Llama 4 Community License Agreement")
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: llama4\n---\nTheirs")
    with HubServer({REPO: folder}, TOKEN) as hub:
        yield hub


@pytest.fixture
def expected(hub: HubServer, tmp_path: Path) -> Path:
    """The same converted from the disk."""
    return convert(hub.repos[REPO], tmp_path / "expected", "e4r6").folder


def run(
    hub: HubServer, out: Path, *words: str, script: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """`convert` in a process of its own, after `script`."""
    code = f"{script}\nfrom mlx_maverick.cli.entry import entry; entry()"
    return subprocess.run(
        [sys.executable, "-c", code, "convert", REPO, "-r", "e4r6", "-o", str(out), *words],
        env=hub.environment(out.parent.parent / "hf") | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def same(out: Path, expected: Path) -> None:
    names = {p.name for p in expected.iterdir()}
    assert {p.name for p in out.iterdir()} == names
    for name in names - set(OF_THE_SOURCE):
        assert (out / name).read_bytes() == (expected / name).read_bytes(), name


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("mlx-maverick: ")
    for word in words:
        assert word in last
    assert TOKEN not in done.stderr


def test_the_same_bytes_as_from_the_disk(hub: HubServer, out: Path, expected: Path) -> None:
    done = run(hub, out)
    assert done.returncode == 0, done.stderr
    same(out, expected)
    verify(out)
    about = json.loads((out / MANIFEST).read_text())
    assert about["source"]["repo"] == REPO
    assert about["source"]["commit"] == hub.commit(REPO)
    card = (out / "README.md").read_text()
    assert f"base_model: {REPO}" in card
    assert hub.commit(REPO) in card
    assert (out / "LICENSE").read_text().startswith("Llama 4")
    # Nothing was downloaded to the disk, and the other host never saw the token.
    assert not list((out.parent.parent / "hf").rglob("*.safetensors"))
    assert hub.seen("cdn")
    assert not any(r.headers.get("Authorization") for r in hub.seen("cdn"))


def test_verify_against_the_hub(hub: HubServer, out: Path) -> None:
    assert run(hub, out).returncode == 0
    hub.move()  # the commit it was made from is asked for
    done = subprocess.run(
        [sys.executable, "-m", "mlx_maverick", "verify", str(out), "--source", REPO],
        env=hub.environment(out.parent.parent / "hf"), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "samples compared with the source, all the same to the byte" in done.stdout


def test_many_faults_change_nothing(hub: HubServer, out: Path, expected: Path) -> None:
    rng = random.Random(1)

    def fault(request: Request) -> Fault | None:
        faults = (Cut(500), Cut(), Status(503), Status(500), Status(429, {"Retry-After": "0"}),
                  Answer(missing=7), Answer(length=9), Status(403))  # fmt: skip
        return rng.choice(faults) if rng.random() < 0.3 else None

    hub.faults.choose("cdn", fault)
    done = run(hub, out, script=NO_WAITING)
    assert done.returncode == 0, done.stderr
    same(out, expected)


# Back-off is tested with `convert.remote`; here it would only take time.
NO_WAITING = """
from mlx_maverick.convert.remote import Repository
from mlx_maverick.convert.remote.patience import Patience
opened = Repository.open
short = Patience(first=0.001, longest=0.002)
Repository.open = staticmethod(lambda *words: opened(*words, patience=short))
"""
ALWAYS_NOTED = "from mlx_maverick.convert import pipeline; pipeline.SYNC_SECONDS = 0"


def test_a_lost_network_is_resumed_at_the_same_commit(
    hub: HubServer, out: Path, expected: Path
) -> None:
    begun_from, allowed = hub.commit(REPO), 40

    def lost(request: Request) -> Fault | None:
        return Status(503) if len(hub.seen("cdn")) > allowed else None

    hub.faults.choose("cdn", lost)
    refused(run(hub, out, script=ALWAYS_NOTED + NO_WAITING), 1, "is kept in", "same command")
    assert not out.exists()
    hub.faults.clear()
    hub.move()
    done = run(hub, out)
    assert done.returncode == 0, done.stderr
    assert "going on from there" in done.stderr
    same(out, expected)
    assert json.loads((out / MANIFEST).read_text())["source"]["commit"] == begun_from


def test_another_revision_does_not_go_on(hub: HubServer, out: Path) -> None:
    hub.faults.choose("cdn", lambda _: Status(503) if len(hub.seen("cdn")) > 40 else None)
    assert run(hub, out, script=ALWAYS_NOTED + NO_WAITING).returncode == 1
    hub.faults.clear()
    hub.move()
    refused(run(hub, out, "--revision", "main"), 2, "commit", hub.commit(REPO), "--restart")
    assert run(hub, out, "--revision", "main", "--restart").returncode == 0


def test_refusals(hub: HubServer, out: Path) -> None:
    refused(run(hub, out, HF_TOKEN="hf_wrong"), 1, "token")
    refused(run(hub, out, "--revision", "none"), 3, "none")
    refused(run(hub, out, HF_HUB_OFFLINE="1"), 3, "HF_HUB_OFFLINE")
    hub.faults.always("hub", GATED)
    refused(run(hub, out), 1, "licence", REPO)
    hub.faults.clear()
    for file in hub.repos[REPO].glob("*.safetensors*"):
        file.unlink()
    refused(run(hub, out), 3, "neither model.safetensors.index.json nor model.safetensors")
    assert list(out.parent.iterdir()) == []


def test_ctrl_c_while_headers_are_awaited(hub: HubServer, out: Path) -> None:
    hub.faults.always("cdn", Stall(0))
    code = "from mlx_maverick.cli.entry import entry; entry()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, "convert", REPO, "-o", str(out)],
        env=hub.environment(out.parent.parent / "hf"),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert hub.stalled.wait(60)
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=20)[1]
    assert child.returncode == 130
    assert said.splitlines()[-1] == "mlx-maverick: interrupted"


def test_plan_reads_the_config_alone(hub: HubServer, out: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlx_maverick", "plan", REPO, "--memory", "128GB"],
        env=hub.environment(out.parent.parent / "hf"), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{REPO} on a Mac with 128 GB")
    assert not hub.seen("cdn")
