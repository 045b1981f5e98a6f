"""A Hub on this machine: the endpoints a converter needs, over real HTTP, with faults on demand.

    with HubServer({"meta-llama/Mini": folder}) as hub:
        hub.faults.next("cdn", Cut(1000), Status(503))
        ... hub.endpoint ... hub.environment(tmp_path) ... hub.requests

Knows nothing of converters. One server under two names: 127.0.0.1 is the Hub, localhost the
"CDN" that large files are redirected to, with a signature that can be made to expire. A
request meets faults at one of three places: "api", "hub" (files), "cdn".
"""

import hashlib
import itertools
import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

LARGE = ".safetensors"  # these are redirected to the other host


@dataclass(frozen=True)
class Status:
    """An error instead of an answer."""

    code: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """The connection ends after so many bytes of the body; None: instead of an answer."""

    after: int | None = None


@dataclass(frozen=True)
class Stall:
    """Silence after so many bytes of the body, until the other side or the server closes;
    None: instead of an answer."""

    after: int | None = None


@dataclass(frozen=True)
class Answer:
    """An answer that is wrong in one of these ways. With `extra` bytes (zeros, in front) or
    `missing` ones (at the end) it is sent in chunks, with no length announced."""

    whole: bool = False  # 200 and the whole file
    shift: int = 0  # another range than was asked for, and it says so
    total: int = 0  # added to the file's size
    length: int = 0  # added to Content-Length, and to what is sent
    extra: int = 0
    missing: int = 0
    drop: str = ""  # a header left out
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Redirect:
    """To anywhere."""

    to: str


Fault = Status | Cut | Stall | Answer | Redirect

# As the Hub says it.
GATED = Status(
    403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model is restricted."}
)
NO_REPO = Status(404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
NO_REPO_WITHOUT_LOGIN = Status(401, {"X-Error-Message": "Invalid username or password."})
NO_REVISION = Status(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
NO_ENTRY = Status(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
BAD_TOKEN = Status(401, {"X-Error-Message": "Invalid credentials in Authorization header"})


@dataclass(frozen=True)
class Request:
    """One that was received."""

    place: str
    method: str
    path: str
    headers: Message

    @property
    def range(self) -> tuple[int, int] | None:
        """First and last byte asked for."""
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        return (int(found[1]), int(found[2])) if found else None


class Faults:
    """What goes wrong next at each place: once, always, or as a function says."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: dict[str, list[Fault | None]] = {}
        self._always: dict[str, Callable[[Request], Fault | None]] = {}

    def next(self, place: str, *faults: Fault | None) -> None:
        """The next requests meet these, one each; None is none."""
        with self._lock:
            self._next.setdefault(place, []).extend(faults)

    def always(self, place: str, fault: Fault) -> None:
        self.choose(place, lambda _: fault)

    def choose(self, place: str, chooser: Callable[[Request], Fault | None]) -> None:
        with self._lock:
            self._always[place] = chooser

    def clear(self) -> None:
        with self._lock:
            self._next.clear()
            self._always.clear()

    def of(self, request: Request) -> Fault | None:
        with self._lock:
            waiting = self._next.get(request.place)
            if waiting:
                return waiting.pop(0)
            chooser = self._always.get(request.place, lambda _: None)
        return chooser(request)  # without the lock: it may wait for other requests


class HubServer:
    """Folders as repositories, each with a branch `main`.

    With `token` set, every request to the Hub must carry it. Sizes and bytes are read from the
    folders at each request, so a test may change a file after its size was listed.
    """

    def __init__(self, repos: Mapping[str, Path], token: str | None = None):
        self.repos = dict(repos)
        self.token = token
        self.moves = 0
        self.faults = Faults()
        self.requests: list[Request] = []
        self.stalled = threading.Event()  # somebody waits for a Stall
        self.closing = threading.Event()
        self.signatures: set[str] = set()
        self._numbers = itertools.count(1)
        self._open = 0
        self._changed = threading.Condition()

        class Bound(_Handler):
            hub = self

        self._server = _Server(("127.0.0.1", 0), Bound)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def cdn(self) -> str:
        """The other host."""
        return f"http://localhost:{self._server.server_address[1]}"

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """This process's environment, for a child that shall use this Hub and nothing of ours."""
        inherited = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("HF_", "HUGGING")) and "proxy" not in k.lower()
        }
        mine = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home)}
        if token or self.token:
            mine["HF_TOKEN"] = token or str(self.token)
        return {**inherited, **mine}

    def commit(self, repo: str) -> str:
        """The newest; the files of all are the same."""
        return self.commits(repo)[-1]

    def commits(self, repo: str) -> list[str]:
        return [hashlib.sha1(f"{repo}{i}".encode()).hexdigest() for i in range(self.moves + 1)]

    def move(self) -> None:
        """Somebody pushes a commit to every repository."""
        self.moves += 1

    def seen(self, place: str) -> list[Request]:
        """The requests received at one place."""
        return [r for r in self.requests if r.place == place]

    def expire(self) -> None:
        """No signature given so far is valid any more."""
        self.signatures.clear()

    def sign(self) -> str:
        signature = str(next(self._numbers))
        self.signatures.add(signature)
        return signature

    def connections(self, change: int = 0) -> None:
        with self._changed:
            self._open += change
            self._changed.notify_all()

    def wait_until_left(self, timeout: float) -> bool:
        """Whether every client has closed its connections within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._open == 0, timeout)


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes

    def setup(self) -> None:
        self.hub.connections(+1)
        super().setup()

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.hub.connections(-1)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        on_cdn = self.headers.get("Host", "").startswith("localhost")
        api = path.startswith("/api/models/")
        place = "cdn" if on_cdn else "api" if api else "hub"
        request = Request(place, self.command, self.path, self.headers)
        self.hub.requests.append(request)
        fault = self.hub.faults.of(request)
        if isinstance(fault, Status):
            return self.refuse(fault)
        if isinstance(fault, Redirect):
            return self.reply(302, {"Location": fault.to})
        if isinstance(fault, Cut) and fault.after is None:
            self.close_connection = True
            return None
        if isinstance(fault, Stall) and fault.after is None:
            return self.stall()
        if on_cdn:
            return self.from_cdn(path, request, fault)
        if refused := self.checked():
            return self.refuse(refused)
        if api:
            return self.listing(path, fault)
        return self.from_hub(path, request, fault)

    def checked(self) -> Status | None:
        token, given = self.hub.token, self.headers.get("Authorization")
        if token is None or given == f"Bearer {token}":
            return None
        return BAD_TOKEN if given else NO_REPO_WITHOUT_LOGIN

    def listing(self, path: str, fault: Fault | None) -> None:
        """https://huggingface.co/docs/hub/api"""
        found = re.fullmatch(r"/api/models/(.+?)(?:/revision/(.+))?", path)
        repo, revision = found.groups() if found else ("", None)
        folder = self.hub.repos.get(repo)
        if folder is None:
            return self.refuse(NO_REPO)
        if revision not in (None, "main", *self.hub.commits(repo)):
            return self.refuse(NO_REVISION)
        siblings = [
            {"rfilename": p.relative_to(folder).as_posix(), "size": p.stat().st_size}
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        ]
        commit = revision if revision in self.hub.commits(repo) else self.hub.commit(repo)
        answer = {"id": repo, "sha": commit, "siblings": siblings}
        headers = {"Content-Type": "application/json"}
        if isinstance(fault, Answer):
            headers |= fault.headers
        return self.reply(200, headers, json.dumps(answer).encode())

    def from_hub(self, path: str, request: Request, fault: Fault | None) -> None:
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not found or found[1] not in self.hub.repos:
            return self.refuse(NO_REPO)
        repo, revision, name = found.groups()
        if revision not in ("main", *self.hub.commits(repo)):
            return self.refuse(NO_REVISION)
        file = self.hub.repos[repo] / name
        if not file.is_file():
            return self.refuse(NO_ENTRY)
        if name.endswith(LARGE):
            target = f"{self.hub.cdn}/{quote(f'{repo}/{name}')}?Signature={self.hub.sign()}"
            return self.reply(302, {"Location": target})
        return self.send(file, request, fault)

    def from_cdn(self, path: str, request: Request, fault: Fault | None) -> None:
        if self.headers.get("Authorization"):
            return self.refuse(Status(400))  # as S3 does: signature and token exclude each other
        if urlsplit(self.path).query.partition("Signature=")[2] not in self.hub.signatures:
            return self.refuse(Status(403))
        owner, name, file = path.strip("/").split("/", 2)
        return self.send(self.hub.repos[f"{owner}/{name}"] / file, request, fault)

    def refuse(self, status: Status) -> None:
        body = json.dumps({"error": status.headers.get("X-Error-Message", "")}).encode()
        self.reply(status.code, {"Content-Type": "application/json", **status.headers}, body)

    def reply(self, code: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(code)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def stall(self) -> None:
        self.close_connection = True
        self.hub.stalled.set()
        self.connection.settimeout(0.02)
        while not self.hub.closing.is_set():
            try:
                if self.connection.recv(1) == b"":
                    return
            except TimeoutError:
                continue

    def send(self, file: Path, request: Request, fault: Fault | None) -> None:
        """A range of a file, as asked for or as the fault has it."""
        size = file.stat().st_size
        answer = fault if isinstance(fault, Answer) else Answer()
        start, last = request.range or (0, size - 1)
        last = min(last, size - 1)
        if start >= size:
            return self.reply(416, {"Content-Range": f"bytes */{size}"})
        headers = dict(answer.headers)
        if answer.whole or request.range is None:
            code, start, last = 200, 0, size - 1
        else:
            code, start, last = 206, start + answer.shift, last + answer.shift
            headers["Content-Range"] = f"bytes {start}-{last}/{size + answer.total}"
        with file.open("rb") as handle:
            handle.seek(max(0, start))
            body = handle.read(last + 1 - start)
        if answer.length:
            body = (body + bytes(max(0, answer.length)))[: len(body) + answer.length]
        if answer.extra or answer.missing:
            headers["Transfer-Encoding"] = "chunked"
            body = bytes(answer.extra) + body[: len(body) - answer.missing]
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        else:
            headers["Content-Length"] = str(len(body))
        headers.pop(answer.drop, None)
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        if isinstance(fault, Cut | Stall):
            self.wfile.write(body[: fault.after])
            self.close_connection = True
            return self.stall() if isinstance(fault, Stall) else None
        self.wfile.write(body)
        return None
