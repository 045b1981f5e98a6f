"""One conversation's KV cache, and what it holds: the basis of reusing a prefix.

Knows nothing of messages or text. A prompt is compared position by position with what the
cache was computed from; a changed picture is a changed prefix.
"""

import copy
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from . import engine_thread
from .cache import Cache, store
from .errors import BadCheckpoint, UsageError
from .files import given
from .kv import KVOptions
from .model import Llama4
from .prompt import Encoded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .cache.store import Stored

MARKS = "marks"  # the tensor of a saved session


class Session:
    """A KV cache that can be carried from one prompt to the next, by one reply at a time."""

    def __init__(self, model: Llama4, fingerprint: str, kv: KVOptions, context: int):
        """`fingerprint` is the model's; `context` the most tokens there will be."""
        self._patch_id = model.config.patch_token_id
        self._fingerprint = fingerprint
        self._marks = array("q")  # of each position; see Encoded.fingerprint
        self._turn = 0
        self.reused: int | None = None  # tokens that the last prompt found here
        self.cache = model.make_cache(kv, context)

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self.cache.length

    @property
    def nbytes(self) -> int:
        """Bytes the cache has allocated."""
        return self.cache.nbytes

    def check_model(self, model: Llama4, fingerprint: str) -> None:
        """Raises UsageError if the cache is another model's."""
        if (fingerprint, model.config.text) != (self._fingerprint, self.cache.config):
            raise UsageError("the session is another model's; make one with this one's session()")

    def begin(self, prompt: Encoded) -> int:
        """Rewind to what `prompt` shares with the cache: at least one token is left, since the
        last token's logits are needed. Returns the number of this reply, for `check`."""
        self.cache.settle()  # of a reply that was left in the middle of its prompt
        marks = prompt.fingerprint(self._patch_id)
        known = np.array(self._marks, dtype=np.int64)[: self.cache.length]
        length = min(len(known), len(marks) - 1)
        differ = np.flatnonzero(known[:length] != marks[:length])
        self.reused = self.cache.rewind(int(differ[0]) if len(differ) else length)
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
        other = copy.copy(self)
        other._marks = self._marks[:]
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

        file = given(path)

        def write() -> None:
            cache = self.cache
            if cache.under_way or cache.length > len(self._marks):
                # A reply is in the middle of its prompt; or a token was computed, but its reply
                # failed before it was handed out.
                cache = cache.fork()
                cache.rewind(min(cache.length, len(self._marks)))
            marks = np.array(self._marks, dtype=np.int64)[: cache.length]
            held = {MARKS: mx.array(marks), **(arrays or {})}
            store.save(file, cache, fingerprint=self._fingerprint, arrays=held, notes=notes)

        engine_thread.run(write)

    def load(self, path: str | Path) -> "Stored":
        """Go on from what `save` wrote, in place of what is held; its notes and arrays.

        Raises NotFound, and BadCheckpoint or UsageError for a file that is damaged, or of
        another model or other cache options; the session is then as before.
        """
        cache = self.cache
        stored = engine_thread.run(
            store.load,
            given(path),
            lambda: Cache(cache.config, cache.options, cache.most),
            fingerprint=self._fingerprint,
        )
        marks = np.array(stored.arrays.pop(MARKS, mx.array([], dtype=mx.int64)))
        if marks.shape != (stored.cache.length,) or marks.dtype != np.int64:
            raise BadCheckpoint(f"{path} does not say what its KV cache is of; make it again")
        self._marks, self.cache = array("q", marks.tobytes()), stored.cache
        self._turn += 1
        return stored


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
