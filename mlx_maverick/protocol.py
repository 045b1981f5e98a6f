"""What parent and worker say to each other: one JSON object a line, both ways.

Knows nothing of models. `parse` takes requests apart; `Outbox` writes events in order.

Requests, told apart by `op`:
    load      model, context (tokens, or null for the default), kv (fields of KVOptions),
              experts (what ExpertOptions.of takes)
    generate  id, messages (pictures as paths; a last one of the assistant's that is `partial` is
              gone on with), options (fields of Sampling)
    cancel    id
    quit      as the end of stdin: stops what is going on and exits
Events, told apart by `event`:
    ready     version
    loading   done, total (layers; total 0 while unknown)
    loaded    name, parameters, nbytes, context, vision, limit (bytes that it may hold)
    prefill   id, done, total
    token     id, text, ids (of several tokens when the reader was slow; of none at the end)
    finished  id, reason, stats, problem (what memory was short of, or null)
    memory    active, cache, peak, kv (bytes), experts (of this reply, fields of ExpertStats; null
              where they are all in memory)
    error     op, id (null where there is none), kind, message, exit_code
"""

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from .errors import UsageError
from .kv import KVOptions
from .sampling import Sampling
from .streaming.options import ExpertOptions

READ_SIZE = 1 << 16
FLUSH_SECONDS = 2.0  # at exit, for a parent that no longer reads


@dataclass(frozen=True)
class Load:
    model: str
    context: int | None
    kv: KVOptions
    experts: ExpertOptions


@dataclass(frozen=True)
class Generate:
    id: int
    messages: list[dict[str, Any]]
    sampling: Sampling


@dataclass(frozen=True)
class Cancel:
    id: int


@dataclass(frozen=True)
class Quit:
    pass


Request = Load | Generate | Cancel | Quit


def parse(raw: Any) -> Request:
    """The request in a decoded line. Raises UsageError naming what is wrong with it."""
    if not isinstance(raw, dict):
        raise UsageError("a request is a JSON object")
    match raw.get("op"):
        case "load":
            context = raw.get("context")
            return Load(
                _typed(raw, "model", str),
                None if context is None else _int(raw, "context"),
                _made(KVOptions, KVOptions, raw.get("kv", {}), "load", "kv"),
                _made(ExpertOptions, ExpertOptions.of, raw.get("experts", {}), "load", "experts"),
            )
        case "generate":
            messages = _typed(raw, "messages", list)
            if not all(isinstance(m, dict) for m in messages):
                raise UsageError("generate: every message is an object")
            return Generate(_int(raw, "id"), messages, _sampling(raw.get("options", {})))
        case "cancel":
            return Cancel(_int(raw, "id"))
        case "quit":
            return Quit()
        case op:
            raise UsageError(f"unknown op {op!r}")


def _typed(raw: dict[str, Any], key: str, kind: type) -> Any:
    value = raw.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UsageError(f"{raw['op']}: {key} is {value!r}, not a {kind.__name__}")
    return value


def _int(raw: dict[str, Any], key: str) -> int:
    return int(_typed(raw, key, int))


def _sampling(options: Any) -> Sampling:
    if isinstance(options, dict) and isinstance(bias := options.get("logit_bias"), dict):
        try:  # JSON has no other keys than strings
            options = {**options, "logit_bias": {int(id): v for id, v in bias.items()}}
        except ValueError as e:
            raise UsageError(f"generate: logit_bias names no token ({e})") from None
    return _made(Sampling, Sampling, options, "generate", "options")


Made = TypeVar("Made", Sampling, KVOptions, ExpertOptions)


def _made(kind: type[Made], make: Callable[..., Made], options: Any, op: str, key: str) -> Made:
    """The dataclass that a JSON object stands for."""
    if not isinstance(options, dict):
        raise UsageError(f"{op}: {key} is an object")
    known = {f.name for f in fields(kind)}
    if unknown := sorted(set(options) - known):
        raise UsageError(f"{op}: unknown option {unknown[0]!r}")
    try:
        return make(**options)
    except TypeError as e:
        raise UsageError(f"{op}: {key} are of the wrong type ({e})") from None


class Outbox:
    """Events on their way to the parent, in order, written by a thread of their own."""

    def __init__(self, fd: int):
        self._fd = fd
        self._pending: deque[dict[str, Any]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._write, name="events", daemon=True)
        self._thread.start()

    def put(self, event: str, **values: Any) -> None:
        """Queue one event. What waits and says the same thing is brought up to date instead."""
        new = {"event": event, **values}
        with self._changed:
            last = self._pending[-1] if self._pending else None
            same = last and last["event"] == event and last.get("id") == new.get("id")
            if last is not None and same and event == "token":
                last["text"] += new["text"]
                last["ids"] += new["ids"]
            elif last is not None and same and event in ("prefill", "memory", "loading"):
                last.update(new)
            else:
                self._pending.append(new)
            self._changed.notify()

    def close(self) -> None:
        """Write what waits, unless the parent does not read it."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(FLUSH_SECONDS)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                if not self._pending:
                    return
                event = self._pending.popleft()
            line = memoryview(json.dumps(event).encode() + b"\n")
            try:
                while line:
                    line = line[os.write(self._fd, line) :]
            except OSError:
                # The parent is gone. Its end of stdin closed with it, which ends the worker.
                return


def lines(fd: int) -> Iterator[bytes]:
    """Lines of a descriptor until its end. Not a buffered file: a daemon thread that sleeps in
    one holds its lock, and the interpreter aborts at exit when it cannot take that."""
    rest = b""
    while data := os.read(fd, READ_SIZE):
        *whole, rest = (rest + data).split(b"\n")
        yield from (line for line in whole if line.strip())
    if rest.strip():
        yield rest
