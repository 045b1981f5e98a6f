"""Token ids to text as it arrives: whole characters only, and nothing of a stop string.

Knows nothing of models. mlx-lm's detokenizer turns ids into text; this holds back what may
yet become a stop string.
"""

from collections.abc import Sequence
from typing import Any


class TextStream:
    """The text of one reply. After `stopped` is true, nothing more comes."""

    def __init__(self, detokenizer: Any, stop: Sequence[str] = (), begun: Sequence[int] = ()):
        """`begun`: tokens before it, whose text is known already. Bytes of a character that they
        leave open count to the first one to come."""
        self._detokenizer, self._stop = detokenizer, tuple(stop)
        for id in begun:
            detokenizer.add_token(id)
            _ = detokenizer.last_segment
        self._held = ""
        self.stopped = False

    def add(self, id: int) -> str:
        """The text that became certain with this token; often empty."""
        self._detokenizer.add_token(id)
        return self._release(str(self._detokenizer.last_segment), final=False)

    def finish(self) -> str:
        """What was held back to the end. Bytes of a character that never became whole
        appear as U+FFFD."""
        self._detokenizer.finalize()
        return self._release(str(self._detokenizer.last_segment), final=True)

    def _release(self, text: str, final: bool) -> str:
        if self.stopped:
            return ""
        self._held += text
        found = [at for at in (self._held.find(s) for s in self._stop) if at >= 0]
        if found:
            self.stopped = True
            text, self._held = self._held[: min(found)], ""
            return text
        keep = 0 if final else max((self._overlap(s) for s in self._stop), default=0)
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins `stop`."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)
