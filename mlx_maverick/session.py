"""One conversation's KV cache, and what it holds: the basis of reusing a prefix.

Knows nothing of messages or text. A prompt is compared position by position with what the
cache was computed from; a changed picture is a changed prefix.
"""

from typing import Any

import mlx.core as mx
import numpy as np

from .cache import Cache
from .model import Llama4
from .prompt import Encoded

Marks = np.ndarray[Any, np.dtype[np.int64]]


class Session:
    """A KV cache that can be carried from one prompt to the next."""

    def __init__(self, model: Llama4):
        self._patch_id = model.config.patch_token_id
        self._marks: Marks = np.array([], dtype=np.int64)
        self.cache: Cache = model.make_cache()

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self.cache.length

    @property
    def nbytes(self) -> int:
        """Bytes the cache has allocated."""
        return self.cache.nbytes

    def begin(self, prompt: Encoded) -> int:
        """Rewind to what `prompt` shares with the cache, and return how many tokens that is:
        at least one is left, since the last token's logits are needed."""
        marks = prompt.fingerprint(self._patch_id)
        known = self._marks[: self.cache.length]
        length = min(len(known), len(marks) - 1)
        differ = np.flatnonzero(known[:length] != marks[:length])
        shared = int(differ[0]) if len(differ) else length
        self._marks = marks
        return self.cache.rewind(shared)

    def append(self, id: int) -> None:
        """Note a token the engine sampled."""
        self._marks = np.append(self._marks, id)


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
