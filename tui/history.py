"""What was sent before, to be had again with the arrow keys.

Knows nothing of editors. What was being written is at the end, and is not lost on the way.
"""

from collections.abc import Sequence


class History:
    """A place in a list of texts, and the present one below them."""

    def __init__(self, texts: Sequence[str] = ()):
        self._texts: list[str] = []
        for text in texts:
            self.add(text)
        self.leave()

    def add(self, text: str) -> None:
        """A text was sent. Twice the same after each other counts once."""
        if text.strip() and text not in self._texts[-1:]:
            self._texts.append(text)
        self.leave()

    def leave(self) -> None:
        """What is written next is a new text."""
        self._at, self._present = len(self._texts), ""

    def step(self, by: int, shown: str) -> str | None:
        """The text so many places on, if there is one; `shown` is the one in the editor now. A
        changed one counts as new."""
        if self._at < len(self._texts) and shown != self._texts[self._at]:
            self._at = len(self._texts)
        if self._at == len(self._texts):
            self._present = shown
        if not 0 <= self._at + by <= len(self._texts):
            return None
        self._at += by
        return self._present if self._at == len(self._texts) else self._texts[self._at]
