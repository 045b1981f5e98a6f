"""What parent and worker say: requests are taken apart, events arrive in order."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mlx_maverick.errors import UsageError
from mlx_maverick.kv import KVOptions
from mlx_maverick.protocol import Cancel, Generate, Load, Outbox, Quit, parse
from mlx_maverick.sampling import Sampling
from mlx_maverick.streaming.options import ExpertOptions, Mode

HI = [{"role": "user", "content": "hi"}]


def test_requests() -> None:
    assert parse({"op": "load", "model": "m"}) == Load("m", None, KVOptions(), ExpertOptions())
    request = {"op": "load", "model": "m", "kv": {"bits": 8, "start": 5}}
    assert parse(request) == Load("m", None, KVOptions(8, 5), ExpertOptions())
    assert parse({"op": "cancel", "id": 3}) == Cancel(3)
    assert parse({"op": "quit"}) == Quit()
    options = {"temperature": 0, "seed": 4, "stop": ["\n"]}
    wanted = Sampling(temperature=0, seed=4, stop=("\n",))
    request = {"op": "generate", "id": 2, "messages": HI, "options": options}
    assert parse(request) == Generate(2, HI, wanted)
    request["options"] = {"logit_bias": {"5": 1.5}}  # JSON's keys are strings
    assert parse(request) == Generate(2, HI, Sampling(logit_bias={5: 1.5}))
    with pytest.raises(UsageError, match="object"):
        parse([])
    with pytest.raises(UsageError, match="names no token"):
        parse(request | {"options": {"logit_bias": {"five": 1}}})
    with pytest.raises(UsageError, match="of 5 bits"):
        parse({"op": "load", "model": "m", "kv": {"bits": 5}})
    with pytest.raises(UsageError, match="unknown option 'size'"):
        parse({"op": "load", "model": "m", "kv": {"size": 5}})


def load(experts: object) -> ExpertOptions:
    """What is understood of a load that says this of its experts."""
    request = parse({"op": "load", "model": "m", "experts": experts})
    assert isinstance(request, Load)
    return request.experts


def test_what_load_says_of_experts() -> None:
    options = ExpertOptions(Mode.STREAM, 90 * 10**9, True, False, Path("/tmp/routes"))
    assert load(json.loads(json.dumps(options.fields()))) == options
    assert load({"memory": "2GiB", "mode": "stream"}) == ExpertOptions(Mode.STREAM, 2**31)
    with pytest.raises(UsageError, match="unknown option 'slots'"):
        load({"slots": 5})
    with pytest.raises(UsageError, match="experts 'disk' is not possible"):
        load({"mode": "disk"})
    with pytest.raises(UsageError, match="look_ahead 'yes'"):
        load({"look_ahead": "yes"})
    with pytest.raises(UsageError, match="these are to be resident"):
        load({"mode": "resident", "memory": 5})
    with pytest.raises(UsageError, match="load: experts is an object"):
        load("stream")
    with pytest.raises(UsageError, match="5 is not a path"):
        load({"route_log": 5})


def test_a_slow_reader_gets_fewer_events_and_the_same_text() -> None:
    reading, writing = os.pipe()
    out = Outbox(writing)
    words = [f"word{i} " for i in range(20_000)]  # the pipe holds 64 KiB
    for word in words:
        out.put("token", id=1, text=word, ids=[7])
    out.put("memory", active=1)
    out.put("memory", active=2)
    out.put("token", id=2, text="other", ids=[8])
    out.put("finished", id=2)
    seen: list[dict[str, Any]] = []
    with os.fdopen(reading, "rb") as file:
        while not seen or seen[-1]["event"] != "finished":
            seen.append(json.loads(file.readline()))
    out.close()
    os.close(writing)
    first = [e for e in seen if e.get("id") == 1]
    assert "".join(e["text"] for e in first) == "".join(words)
    assert sum(len(e["ids"]) for e in first) == len(words)
    assert len(first) < len(words)
    assert [e["event"] for e in seen[len(first) :]] == ["memory", "token", "finished"]
    assert seen[len(first)]["active"] == 2


def test_a_reader_that_is_gone_is_no_trouble() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    out = Outbox(writing)
    out.put("token", id=1, text="x", ids=[1])
    out.put("finished", id=1)
    out.close()
    os.close(writing)
