"""A repository on the Hub as a source of byte ranges: nothing of it needs to be on the disk.

Knows nothing of checkpoints. Every byte comes from one commit, fixed when it is opened.
"""

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from mlx_maverick import __version__
from mlx_maverick.errors import BadCheckpoint, MaverickError, NotFound

from .blocks import Blocks
from .patience import Failure, Patience, Tries
from .ranges import NETWORK_ERRORS, Ranges, hub_headers, is_address, network_failure
from .refusals import may_pass, refusal, seconds_to_wait
from .workers import Workers

CONNECTIONS = 8
PART_BYTES = 16 << 20  # of a large read; each part has a connection to itself
SMALL_BYTES = 64 << 10  # below this, reads go through `Blocks`
OPEN_TRIES = 4  # someone sits and waits, and the name may be mistyped
CLOSE_SECONDS = 1.0

_COMMIT = re.compile(r"[0-9a-f]{40}")


class Repository:
    """Implements `mlx_maverick.files.Files` for `owner/name` on the Hub.

    The token, HF_ENDPOINT and HF_HUB_OFFLINE are huggingface_hub's: what is in the environment
    when it is first imported. Close it, or use it in a `with`.
    """

    def __init__(
        self, repo: str, commit: str, sizes: dict[str, int], endpoint: str, patience: Patience
    ):
        """For `open`, which asks the Hub for these."""
        self.repo = repo
        self.commit = commit
        self._sizes = sizes
        self._ranges = Ranges(repo, commit, sizes, endpoint, patience)
        self._workers = Workers(CONNECTIONS, repo)
        self._blocks = Blocks(sizes, self._fetch)

    @staticmethod
    def open(
        repo: str,
        revision: str | None = None,
        *,
        endpoint: str | None = None,
        patience: Patience | None = None,
    ) -> "Repository":
        """Ask the Hub what a branch, tag or commit (the main branch by default) holds now.

        `endpoint` is instead of HF_ENDPOINT. Raises NotFound if there is no such repository or
        revision for this token, or in offline mode; MaverickError if the token is refused or
        the Hub cannot be reached.
        """
        patience = patience or Patience()
        api = HfApi(endpoint, library_name="mlx-maverick", library_version=__version__)
        api.endpoint = where = api.endpoint.rstrip("/")
        if not is_address(where):
            raise MaverickError(
                f"HF_ENDPOINT is {where!r}; make it https:// and a host, or unset it"
            )
        info = _ask(api, repo, revision, replace(patience, tries=min(OPEN_TRIES, patience.tries)))
        if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
            raise MaverickError(f"{where} gives {repo} no commit; check HF_ENDPOINT")
        sizes: dict[str, int] = {}
        for file in info.siblings or []:
            name, size = file.rfilename, file.size
            if "/" in name:
                continue
            if name in ("", ".", "..") or "\\" in name or not name.isprintable():
                raise BadCheckpoint(f"{repo} has a file called {name!r}; do not use it")
            if type(size) is not int or size < 0:
                raise MaverickError(f"{where} gives {repo}/{name} no size; check HF_ENDPOINT")
            sizes[name] = size
        return Repository(repo, info.sha, sizes, where, patience)

    @property
    def where(self) -> str:
        return self.repo

    @property
    def sizes(self) -> dict[str, int]:
        return self._sizes

    def path(self, name: str) -> Path:
        """For messages only: there is no such file."""
        return Path(self.repo) / name

    def read(self, name: str, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes) from `offset` of the file. From several threads at once.

        Interrupted, it raises at once, and the buffer is not touched afterwards. Raises
        NotFound without the file; BadCheckpoint if it ends too early, or the answers
        contradict the listing; MaverickError if it is gated or the network is lost.
        """
        size = self._sizes.get(name)
        if size is None:
            raise NotFound(f"{self.repo} has no {name}; is it a model?")
        if offset + len(buffer) > size:
            raise BadCheckpoint(
                f"{self.path(name)} ends before byte {offset + len(buffer)}; the checkpoint is "
                "damaged"
            )
        if len(buffer) < SMALL_BYTES:
            self._blocks.read(name, offset, buffer)
        else:
            self._fetch(name, offset, buffer)

    def close(self) -> None:
        """End reads that are under way (with MaverickError), threads and connections."""
        # First the sockets: threads that wait for a silent server end only then.
        self._ranges.sockets.shut_down()
        self._workers.close(CLOSE_SECONDS)
        self._ranges.sockets.close()

    def __enter__(self) -> "Repository":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _fetch(self, name: str, offset: int, buffer: memoryview) -> None:
        parts = max(1, -(-len(buffer) // PART_BYTES))
        cuts = [len(buffer) * i // parts for i in range(parts + 1)]
        self._workers.run(
            [
                partial(self._ranges.fetch, name, offset + start, buffer[start:stop])
                for start, stop in pairwise(cuts)
            ]
        )


def _ask(api: HfApi, repo: str, revision: str | None, patience: Patience) -> Any:
    """The Hub's ModelInfo: commit and sizes."""
    endpoint = str(api.endpoint)
    host = urlsplit(endpoint).hostname or endpoint
    hub_headers(with_token=True)  # a token that cannot be sent is an error here
    tries = Tries(patience, threading.Event())
    while True:
        try:
            with _quiet():
                return api.model_info(
                    repo, revision=revision, files_metadata=True, timeout=patience.stall
                )
        except HFValidationError:
            raise NotFound(f"{repo!r} is no name of a Hub repository; give owner/name") from None
        except OfflineModeIsEnabled:
            raise NotFound(
                f"{repo} is on the Hub, and HF_HUB_OFFLINE forbids asking it; unset it, or give "
                "a folder or a repository that is in the Hub's cache"
            ) from None
        except HfHubHTTPError as e:
            status, said = e.response.status_code, e.response.headers
            if not may_pass(status):
                raise refusal(status, said, endpoint, repo, repr(revision)) from None
            failure = Failure(f"{host} answers {status}", seconds_to_wait(said))
        except NETWORK_ERRORS as e:
            failure = network_failure(e, host)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise MaverickError(
                f"{endpoint} does not answer as the Hub does; check HF_ENDPOINT, proxies, and "
                "whether the network wants you to log in"
            ) from None
        if not tries.again(failure):
            raise MaverickError(
                f"{repo} cannot be opened now: {failure}; check the network and try again"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without huggingface_hub's warnings: it prints them itself, when no token is set."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
