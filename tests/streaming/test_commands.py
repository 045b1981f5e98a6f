"""Streamed experts as the commands and the worker offer them."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_maverick.cli.main import main
from mlx_maverick.client import Client, Loaded, Memory, Step
from mlx_maverick.events import Finished, Prefill
from mlx_maverick.sampling import Sampling
from mlx_maverick.streaming.options import ExpertOptions

from ..test_client import Inbox
from ..test_worker import Child
from .conftest import Folder
from .drive import FOX, ask, assert_same, resident, slab, streamed

ENTRY = """
from mlx_maverick.cli.entry import entry
entry()
"""
# At the read number N of all, or of those that somebody waits for, a signal comes.
SIGNALLED = """
import os, threading
from mlx_maverick.streaming.reader import Reader
from mlx_maverick.streaming.uncached import Uncached
read, submit, count, lock = Uncached.read, Reader.submit, [0], threading.Lock()
begun = []
def submits(self, pieces, urgent):
    if urgent: begun.append(1)
    return submit(self, pieces, urgent)
def reads(self, offset, view):
    with lock:
        if begun or not {urgent}:
            count[0] += 1
        if count[0] == {at}:
            os.kill(os.getpid(), {signum})
    read(self, offset, view)
Uncached.read, Reader.submit = reads, submits
"""


def mb(folder: Path, part: float) -> str:
    return f"{slab(folder, part) / 1e6:.6f}MB"


def words(folder: Path, *more: object) -> list[str]:
    asked = ["generate", "--model", folder, "--temp", "0", "--context", "1000", *more]
    return [str(word) for word in asked]


def test_generate_says_what_a_model_in_memory_says(
    e4r4: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for more in (
        ["--experts", "resident"],
        ["--experts", "stream"],
        ["--experts", "stream", "--expert-memory", mb(e4r4, 0.2)],
        ["--expert-memory", mb(e4r4, 0.0), "--look-ahead"],
        ["--experts", "auto", "--expert-memory", "auto", "--file-cache"],
    ):
        assert main(words(e4r4, "-p", FOX * 3, "-m", "12", *more)) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        said.append(captured.out)
    assert len(said[0]) > 10
    assert said == said[:1] * 5


def test_json_has_what_streaming_did(e4r4: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = words(e4r4, "-p", FOX * 3, "-m", "9", "--json", "--look-ahead")
    assert main([*asked, "--expert-memory", mb(e4r4, 0.2)]) == 0
    experts = json.loads(capsys.readouterr().out)["stats"]["experts"]
    assert experts["experts"] == 64
    assert 2 < experts["slots"] < 16
    assert 0 < experts["slab_bytes"] <= slab(e4r4, 0.2)
    assert experts["misses"] > 0
    assert experts["hit_rate"] == experts["hits"] / (experts["hits"] + experts["misses"])
    assert experts["bytes_read"] >= experts["misses"] * 27648
    assert experts["read_seconds"] > 0
    assert experts["bandwidth"] == experts["bytes_read"] / experts["read_seconds"]
    assert experts["accuracy"] == experts["predicted_right"] / experts["predicted"]
    assert main(words(e4r4, "-p", "Hi", "-m", "2", "--json", "--experts", "resident")) == 0
    assert json.loads(capsys.readouterr().out)["stats"]["experts"] is None


@pytest.mark.parametrize(
    ("part", "ahead"), [(0.0, []), (0.4, ["--look-ahead"]), (1.0, ["--look-ahead"])]
)
def test_the_route_log_has_every_choice(
    e4r4: Path, tmp_path: Path, part: float, ahead: list[str]
) -> None:
    log, new = tmp_path / "routes", 10
    asked = words(e4r4, "-p", FOX * 3, "-m", new, "--route-log", log, *ahead)
    assert main([*asked, "--expert-memory", mb(e4r4, part)]) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    model = resident(e4r4)
    prompt = model.encode(FOX * 3)
    length = len(prompt.ids)
    chosen: dict[int, dict[int, int]] = {layer: {} for layer in (1, 3, 5, 7)}
    for line in lines:
        assert sorted(line) == ["expected", "experts", "layer", "position"]
        for i, expert in enumerate(line["experts"]):
            # Of a prompt's last step the last layer computes the last row alone.
            at = line["position"] + i if line["layer"] < 7 or i else max(
                line["position"], length - 1
            )  # fmt: skip
            assert at not in chosen[line["layer"]], line
            chosen[line["layer"]][at] = expert
    expected = _chosen(model, prompt, new)
    for layer, experts in chosen.items():
        first = length - 1 if layer == 7 else 0
        assert experts == {at: e for at, e in expected[layer].items() if at >= first}
    said = [line["expected"] for line in lines if line["expected"] is not None]
    assert bool(said) == (part < 1)  # where all are in memory nobody expects any
    assert all(0 <= expert < 16 for expected in said for expert in expected)


def _chosen(model: Any, prompt: Any, new: int) -> dict[int, dict[int, int]]:
    """What the routers of the model in memory choose, by layer and position."""
    seen: dict[int, dict[int, int]] = {}
    session = model.session()
    for number, layer in enumerate(model.model.text.layers):
        if hasattr(layer.feed_forward, "router"):
            seen[number] = {}
            moe, route = layer.feed_forward, layer.feed_forward._route

            def routed(rows: Any, number: int = number, route: Any = route) -> Any:
                out = route(rows)
                at = session.length
                if number == 7 and rows.shape[0] == 1:  # the last of a prompt's step
                    at = max(at, len(prompt.ids) - 1)
                for i, expert in enumerate(out[1].tolist()):
                    seen[number][at + i] = expert
                return out

            moe._route = routed
    ask(model, prompt, session, max_tokens=new)
    return seen


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--experts", "some"], "--experts"),
        (["--expert-memory", "lots"], "'lots' is not a size"),
        (["--expert-memory", "0GB"], "'0GB' is not a size"),
        (["--expert-memory", "-3GB"], "is not a size"),
        (["--experts", "resident", "--expert-memory", "1GB"], "these are to be resident"),
        (["--experts", "resident", "--look-ahead"], "these are to be resident"),
        (["--experts", "resident", "--route-log", "x"], "these are to be resident"),
        (["--route-log", "/no/such/folder/log"], "/no/such/folder/log cannot be written"),
    ],
)
def test_options_that_make_no_sense(
    e4r4: Path, capsys: pytest.CaptureFixture[str], more: list[str], why: str
) -> None:
    joined = ["=".join(more)] if "-3GB" in more else more
    assert main(words(e4r4, "-p", "Hi", "-m", "2", *joined)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert why in captured.err


def test_what_cannot_be_streamed(maverick_mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(maverick_mini, "-p", "Hi", "--experts", "stream")) == 2
    assert "run 'mlx-maverick convert'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("signum", "urgent", "at"),
    [
        (signal.SIGINT, False, 3),  # as it loads: at the warm start
        (signal.SIGINT, True, 60),
        (signal.SIGTERM, True, 1),
    ],
)
def test_a_signal_while_experts_are_read(
    e4r4: Path, tmp_path: Path, signum: signal.Signals, urgent: bool, at: int
) -> None:
    """It ends at once, and a prompt that was read in part is kept right."""
    cache = tmp_path / "kv"
    script = SIGNALLED.format(urgent=urgent, at=at, signum=int(signum)) + ENTRY
    asked = words(e4r4, "-p", FOX * 15, "--prompt-cache", cache, "--expert-memory", mb(e4r4, 0.1))
    done = subprocess.run(
        [sys.executable, "-c", script, *asked], capture_output=True, text=True, timeout=60
    )
    word = "terminated" if signum == signal.SIGTERM else "interrupted"
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == f"mlx-maverick: {word}\n"
    if cache.exists():
        model, wanted = streamed(e4r4), resident(e4r4)
        session, fresh = model.load_session(cache), wanted.session()
        for text in (FOX * 15, FOX * 2):
            prompt = model.encode(text)
            assert ask(model, prompt, session).ids == ask(wanted, prompt, fresh).ids
            assert_same(session, fresh)


LEFT = """
import sys
from mlx_maverick.loading import load
model = load(sys.argv[1], context=1000, expert_memory=int(sys.argv[2]), route_log=sys.argv[3])
streams = [model.stream("word " * 90, max_tokens=9) for _ in range(3)]
for stream, events in zip(streams, (1, 4, 12)):
    for _ in range(events): next(stream)
"""


@pytest.mark.parametrize("part", [0.0, 1.0])
def test_a_process_ends_with_replies_that_nobody_reads_on(
    e4r4: Path, tmp_path: Path, part: float
) -> None:
    """In the middle of a prompt, or of an answer; globals go last of all."""
    asked = [str(e4r4), str(slab(e4r4, part)), str(tmp_path / "log")]
    done = subprocess.run(
        [sys.executable, "-c", LEFT, *asked], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "log").read_text().endswith("}\n")


def test_the_worker_takes_the_options_and_says_what_was_done(folder: Folder) -> None:
    path = folder("e4r4")
    memory = slab(path, 0.2)
    child = Child()
    fields = ExpertOptions.of("stream", memory, look_ahead=True).fields()
    child.send(op="load", model=str(path), context=1000, experts=fields)
    loaded = child.next("loaded", "error")
    assert loaded["event"] == "loaded", loaded
    said = child.next("memory")["experts"]
    assert said["slab_bytes"] <= memory
    assert said["hits"] == said["misses"] == 0
    messages = [{"role": "user", "content": FOX}]
    for id in (1, 2):
        child.send(
            op="generate", id=id, messages=messages, options={"temperature": 0, "max_tokens": 4}
        )
        last: dict[str, Any] = {}
        while (event := child.next("memory", "finished", "error"))["event"] == "memory":
            last = event["experts"]
        assert event["event"] == "finished", event
        done = event["stats"]["experts"]
        assert done["hits"] + done["misses"] > 0
        assert done["predicted"] > 0
        assert last["hits"] + last["misses"] == done["hits"] + done["misses"]  # of this reply
    child.send(op="load", model=str(path), context=1000, experts={"mode": "somehow"})
    error = child.next("error", "loaded")
    assert (error["kind"], error["exit_code"]) == ("UsageError", 2)
    child.send(op="load", model=str(path), context=1000, experts={"memory": 5})
    assert child.next("error", "loaded")["kind"] == "DoesNotFit"
    assert child.end()[0] == 0


def test_a_worker_ends_while_it_reads(e4r4: Path) -> None:
    """Its parent goes away in the middle of a prompt."""
    child = Child()
    fields = ExpertOptions.of("stream", slab(e4r4, 0.0)).fields()
    child.send(op="load", model=str(e4r4), context=9000, experts=fields)
    assert child.next("loaded", "error")["event"] == "loaded"
    messages = [{"role": "user", "content": FOX * 150}]
    child.send(op="generate", id=1, messages=messages, options={})
    child.next("prefill")
    assert child.end()[0] == 0


def test_the_client_speaks_of_experts(e4r4: Path, tmp_path: Path) -> None:
    """What the chat shows comes this way."""
    inbox = Inbox()
    client = Client(inbox.events.put, log=tmp_path / "log")
    try:
        client.load(str(e4r4), 1000, experts=ExpertOptions.of("stream", slab(e4r4, 0.2)))
        assert inbox.next(Loaded).context == 1000
        assert inbox.next(Memory).experts.experts == 64
        client.generate([{"role": "user", "content": FOX}], Sampling(temperature=0, max_tokens=3))
        during = inbox.next(Memory).experts
        assert during.wanted > 0
        while not isinstance(step := inbox.next(Step).event, Finished):
            assert isinstance(step, Prefill)
        assert step.stats.experts is not None
        assert step.stats.experts.wanted >= during.wanted
        assert step.stats.new_tokens == 3
    finally:
        client.close()


@pytest.mark.parametrize("ending", ["", "reply.cancel()", "raise SystemExit(3)"])
def test_a_script_that_ends_before_its_reply(e4r4: Path, ending: str) -> None:
    """What is noted after a reply must not be computed while Python is taken down."""
    script = (
        "import sys\n"
        "from mlx_maverick import load\n"
        "reply = load(sys.argv[1], expert_memory='1MB').stream('hello', max_tokens=500)\n"
        "for count, event in enumerate(reply):\n"
        "    if count > 5:\n"
        "        break\n"
        f"{ending}\n"
    )
    command = [sys.executable, "-c", script, str(e4r4)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (ended.returncode, ended.stderr) == (3 if "Exit" in ending else 0, "")
