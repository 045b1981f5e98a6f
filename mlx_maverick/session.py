"""One conversation's KV cache, and what it holds: the basis of reusing a prefix.

Knows nothing of messages or text. A prompt is compared position by position with what the
cache was computed from; a changed picture is a changed prefix.
"""

from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from . import engine_thread
from .cache import store
from .errors import BadCheckpoint, UsageError
from .kv import KVOptions
from .model import Llama4
from .prompt import Encoded

if TYPE_CHECKING:
    from collections.abc import Mapping

MARKS = "marks"  # the tensor of a saved session


class Session:
    """A KV cache that can be carried from one prompt to the next, by one reply at a time."""

    def __init__(self, model: Llama4, kv: KVOptions | None = None, context: int | None = None):
        """`context` is the most tokens there will be, if known."""
        self._model = model
        self._marks = array("q")  # of each position; see Encoded.fingerprint
        self._turn = 0
        self.cache = model.make_cache(kv, context)

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self.cache.length

    @property
    def nbytes(self) -> int:
        """Bytes the cache has allocated."""
        return self.cache.nbytes

    def begin(self, prompt: Encoded) -> int:
        """Rewind to what `prompt` shares with the cache: at least one token is left, since the
        last token's logits are needed. Returns the number of this reply, for `check`."""
        marks = prompt.fingerprint(self._model.config.patch_token_id)
        known = np.array(self._marks, dtype=np.int64)[: self.cache.length]
        length = min(len(known), len(marks) - 1)
        differ = np.flatnonzero(known[:length] != marks[:length])
        self.cache.rewind(int(differ[0]) if len(differ) else length)
        self._marks = array("q", marks.tobytes())
        self._turn += 1
        return self._turn

    def check(self, turn: int) -> None:
        """Raises UsageError if another reply was begun since: the cache is now about that."""
        if turn != self._turn:
            raise UsageError(
                "this reply cannot go on: its session was used for another one; use a session "
                "for one reply after the other"
            )

    def append(self, id: int) -> None:
        """Note a token the engine sampled."""
        self._marks.append(id)

    def fork(self) -> "Session":
        """A copy that goes its own way; memory is shared until one of the two writes."""
        other = object.__new__(Session)
        other._model, other._marks, other._turn = self._model, self._marks[:], 0
        other.cache = engine_thread.run(self.cache.fork)
        return other

    def save(
        self,
        path: str | Path,
        notes: "Mapping[str, str] | None" = None,
        arrays: "Mapping[str, mx.array] | None" = None,
    ) -> None:
        """Write the cache to a safetensors file, whole or not at all. `notes` and `arrays` are
        kept with it. Raises MaverickError if the disk is full or the file cannot be written."""

        def write() -> None:
            marks = np.array(self._marks, dtype=np.int64)[: self.cache.length]
            held = {MARKS: mx.array(marks), **(arrays or {})}
            fingerprint = self._model.fingerprint
            store.save(path, self.cache, fingerprint=fingerprint, arrays=held, notes=notes or {})

        engine_thread.run(write)

    @staticmethod
    def load(
        path: str | Path, model: Llama4, kv: KVOptions | None, context: int | None
    ) -> "Session":
        """What `save` wrote. Raises NotFound, and BadCheckpoint or UsageError for a file that
        is damaged, or of another model or other cache options."""
        return Session.load_noted(path, model, kv, context)[0]

    @staticmethod
    def load_noted(
        path: str | Path, model: Llama4, kv: KVOptions | None, context: int | None
    ) -> "tuple[Session, dict[str, str], dict[str, mx.array]]":
        """The same with notes and arrays."""
        session = Session(model, kv, context)
        stored = store.load(path, session.cache, fingerprint=model.fingerprint)
        arrays = dict(stored.arrays)
        marks = np.array(arrays.pop(MARKS, mx.array([], dtype=mx.int64)))
        if marks.shape != (session.cache.length,) or marks.dtype != np.int64:
            raise BadCheckpoint(f"{path} does not say what its cache holds; make it again")
        session._marks = array("q", marks.tobytes())
        return session, dict(stored.notes), arrays


class PictureFeatures:
    """Features of a prompt's pictures, each encoded when its first patch is prefilled."""

    def __init__(self, model: Llama4, prompt: Encoded, kept: dict[str, mx.array]):
        """`kept`: encoded pictures by digest, read and added to."""
        self._model, self._images, self._kept = model, prompt.images, kept
        self._ends = np.cumsum([image.tokens for image in prompt.images])

    def between(self, first: int, last: int) -> mx.array:
        """Rows `first` to `last` of all pictures' features in order, [last - first, hidden]."""
        rows = []
        for image, end in zip(self._images, self._ends, strict=True):
            start = int(end) - image.tokens
            a, b = max(first, start), min(last, int(end))
            if a < b:
                rows.append(self._encoded(image.digest, image.pixels)[a - start : b - start])
        return mx.concatenate(rows) if len(rows) > 1 else rows[0]

    def _encoded(self, digest: str, pixels: Any) -> mx.array:
        if digest not in self._kept:
            features = self._model.encode_image(pixels)
            mx.eval(features)
            self._kept[digest] = features
        self._kept[digest] = self._kept.pop(digest)  # the last used is the last to be forgotten
        return self._kept[digest]
