"""Byte ranges of a repository's files over HTTP, as often as it takes, checked.

Knows nothing of formats or threads. The Hub redirects what is large to another host with a
signed address. The token stays with the Hub; the signed address is kept until it expires,
because the Hub limits how often it is asked (https://huggingface.co/docs/hub/rate-limits).
"""

import re
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, closing
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import get_session, hf_hub_url
from huggingface_hub.utils import build_hf_headers

from mlx_maverick import __version__
from mlx_maverick.errors import BadCheckpoint, MaverickError

from .patience import Failure, Patience, Tries, Wrong
from .refusals import LOGIN, may_pass, one_line, refusal, seconds_to_wait
from .sockets import Sockets
from .workers import Call, Stopped

try:  # the HTTP library that huggingface_hub uses: httpx2 since its 2.0
    from huggingface_hub.utils import httpx
except ImportError:  # before its 1.31
    import httpx  # type: ignore[import-not-found,no-redef,unused-ignore]

HOPS = 10  # redirects followed for one request
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
# Anything else makes the HTTP library fail with a message that shows the token.
_AUTHORIZATION = re.compile(r"Bearer [\x21-\x7e]+")
# A closed client is no HTTPError: someone else in this program ended huggingface_hub's session.
NETWORK_ERRORS = (httpx.HTTPError, RuntimeError)


def hub_headers(with_token: bool) -> dict[str, str]:
    """Who asks, and the token huggingface_hub finds. Raises MaverickError for a bad one."""
    headers = build_hf_headers(
        token=None if with_token else False,
        library_name="mlx-maverick",
        library_version=__version__,
    )
    if not _AUTHORIZATION.fullmatch(headers.get("authorization", "Bearer x")):
        raise MaverickError(
            f"the Hub token holds characters that no token has; {LOGIN} with the right one"
        )
    return headers


def is_address(url: str) -> bool:
    """Whether this is the address of a host that speaks HTTP."""
    try:
        scheme, host, _ = _origin(url)
    except ValueError:  # no port is that large; a bracket is missing
        return False
    return scheme in ("http", "https") and bool(host)


def network_failure(error: Exception, host: str) -> Failure:
    """What an exception of the HTTP library means."""
    if isinstance(error, httpx.ConnectTimeout):
        return Failure(f"{host} does not answer")
    if isinstance(error, httpx.TimeoutException):
        return Failure(f"{host} fell silent")
    if isinstance(error, httpx.ConnectError):
        return Failure(f"no connection to {host}: {one_line(str(error))}")
    return Failure(f"the connection to {host} was lost: {one_line(str(error))}")


class Ranges:
    """GET with a range, for the files of one commit. From several threads at once."""

    def __init__(
        self, repo: str, commit: str, sizes: Mapping[str, int], endpoint: str, patience: Patience
    ):
        self._repo = repo
        self._commit = commit
        self._sizes = sizes
        self._endpoint = endpoint
        self._patience = patience
        self._signed: dict[str, str] = {}  # name -> where the Hub redirected to
        self.sockets = Sockets()

    def fetch(self, name: str, offset: int, target: memoryview, call: Call) -> None:
        """Fill `target` from `offset` of a file; what was cut goes on where it was cut.

        Raises MaverickError when the network stays lost or the Hub refuses, BadCheckpoint when
        the answers keep contradicting the Hub's listing, Stopped when nobody waits any more.
        """
        tries = Tries(self._patience, call.stopped)
        filled = 0
        while filled < len(target):
            if call.stopped.is_set():
                raise Stopped
            before = filled
            try:
                with closing(self._stream(name, offset + filled, len(target) - filled)) as chunks:
                    for chunk in chunks:
                        call.write(target[filled : filled + len(chunk)], chunk)
                        filled += len(chunk)
            except Wrong as wrong:
                filled = before
                if not tries.again(wrong):
                    raise BadCheckpoint(
                        f"{self._repo}/{name} cannot be trusted: {wrong}; check proxies and "
                        "HF_ENDPOINT, or run the same command again"
                    ) from None
            except Failure as failure:
                if filled > before:
                    tries.progress()
                else:
                    self._signed.pop(name, None)  # perhaps the Hub names a better host
                if filled < len(target) and not tries.again(failure):
                    raise MaverickError(
                        f"{self._repo}/{name} cannot be read now: {failure}; run the same "
                        "command again to resume"
                    ) from None

    def _stream(self, name: str, start: int, count: int) -> Generator[bytes]:
        """One try: `count` bytes at most; fewer, or anything else unexpected, raise Failure."""
        home = hf_hub_url(self._repo, name, revision=self._commit, endpoint=self._endpoint)
        url = self._signed.get(name, home)
        kept = url != home
        for _ in range(HOPS):
            host = urlsplit(url).hostname or url
            try:
                with self._get(url, start, count) as response:
                    if response.has_redirect_location:
                        url = self._redirected(url, response, name)
                        continue
                    status = response.status_code
                    if kept and 400 <= status < 500 and not may_pass(status):
                        # Most likely the signature expired; the Hub gives a new one.
                        self._signed.pop(name, None)
                        url, kept = home, False
                        continue
                    self._check(url, response, name, start, count)
                    if not self._is_hub(url):
                        self._signed[name] = url
                    yield from _body(response, count, host)
                    return
            except NETWORK_ERRORS as e:
                raise network_failure(e, host) from None
        raise MaverickError(
            f"{self._repo}/{name} is redirected without end; check HF_ENDPOINT and proxies"
        )

    def _get(self, url: str, start: int, count: int) -> AbstractContextManager[Any]:
        headers = hub_headers(with_token=self._is_hub(url))
        headers["range"] = f"bytes={start}-{start + count - 1}"
        headers["accept-encoding"] = "identity"  # ranges of a compressed file are no use
        wait = self._patience
        return get_session().stream(
            "GET",
            url,
            headers=headers,
            # By hand, so that it is decided here who sees the token.
            follow_redirects=False,
            timeout=(wait.connect, wait.stall, wait.stall, wait.stall),
            extensions={"trace": self.sockets.trace},
        )

    def _is_hub(self, url: str) -> bool:
        return _origin(url) == _origin(self._endpoint)

    def _redirected(self, url: str, response: Any, name: str) -> str:
        target = str(response.next_request.url)
        old, new = urlsplit(url).scheme, urlsplit(target).scheme
        if not is_address(target) or (old, new) == ("https", "http"):
            raise MaverickError(
                f"{self._repo}/{name} is redirected from {old} to {new}, which is not followed; "
                "check HF_ENDPOINT and proxies"
            )
        return target

    def _check(self, url: str, response: Any, name: str, start: int, count: int) -> None:
        status, headers, size = response.status_code, response.headers, self._sizes[name]
        host = urlsplit(url).hostname
        if may_pass(status):
            raise Failure(f"{host} answers {status}", seconds_to_wait(headers))
        if status == 416:
            raise Wrong(f"{host} has fewer bytes than the {size} that are listed")
        if status >= 400 and not self._is_hub(url):
            raise Failure(f"{host} answers {status}")
        if status >= 300:
            raise refusal(status, headers, self._endpoint, self._repo, name)
        if status != 206 and not (status == 200 and count == size):
            raise Wrong(f"{host} answers {status} to a request for a part")
        if headers.get("content-encoding", "identity") != "identity":
            raise Wrong(f"{host} sends it compressed")
        if status == 206:
            found = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
            if not found:
                raise Wrong(f"{host} does not say which part it sends")
            first, last, total = map(int, found.groups())
            if total != size:
                raise Wrong(f"{host} has {total} bytes of it, and {size} are listed")
            if (first, last) != (start, start + count - 1):
                raise Wrong(f"{host} sends another part than was asked for")
        if headers.get("content-length", str(count)) != str(count):
            raise Wrong(f"{host} announces another length than was asked for")


def _body(response: Any, count: int, host: str) -> Generator[bytes]:
    left = count
    for chunk in response.iter_raw():
        if len(chunk) > left:
            raise Wrong(f"{host} sends more than was asked for")
        left -= len(chunk)
        yield chunk
    if left:
        raise Failure(f"{host} sent {count - left} of {count} bytes")


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
