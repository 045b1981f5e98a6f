"""The status line: memory pressure, model memory, prompt, context, speed.

Knows nothing of where the numbers come from. It has no timer: it renders when `live` changes.
"""

from textual.content import Content
from textual.geometry import Size
from textual.reactive import reactive
from textual.widget import Widget

from .live import Live

SEPARATOR = "  "
COLOURS = {"normal": "$success", "warning": "$warning", "critical": "$error bold"}


class Status(Widget):
    """As many lines as the fields need; a field is never broken."""

    live: reactive[Live] = reactive(Live(), layout=True)

    def lines(self, width: int) -> list[str]:
        """The fields, put into lines of at most `width` columns."""
        fields = self.live.fields()
        if self.live.pressure:
            fields.insert(0, f"● {self.live.pressure}")
        lines: list[str] = []
        for text in fields:
            longer = f"{lines[-1]}{SEPARATOR}{text}" if lines else text
            if lines and len(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(text)
        return lines

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return max(1, len(self.lines(width)))

    def render(self) -> Content:
        text = Content("\n".join(self.lines(self.content_size.width or 80)))
        if pressure := self.live.pressure:
            text = text.stylize(COLOURS.get(pressure, ""), 0, len(pressure) + 2)
        return text
