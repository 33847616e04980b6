"""The legend over a chart: what its colours and markers stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torchopt2edge.report.figure.canvas import Canvas, Point, fit, width_of

_LINE = 18.0
_TEXT = 16.0  # from the sign to its text
_GAP = 20.0


@dataclass(frozen=True)
class LegendEntry:
    """One entry: its text, the classes of its sign, and its marker ("" for a bar)."""

    text: str
    kind: str
    marker: str = ""


@dataclass(frozen=True)
class Legend:
    """Entries beside each other from ``left`` on; one that finds no room begins a new line."""

    entries: Sequence[LegendEntry]
    width: float
    left: float = 0.0

    @property
    def height(self) -> float:
        """How much room it takes, 0 without entries."""
        return self._places()[-1][1] + 12.0 if self.entries else 0.0

    def draw(self, canvas: Canvas) -> None:
        """Draw it at the top.

        Args:
            canvas: What to draw on.
        """
        for entry, (x, y) in zip(self.entries, self._places(), strict=True):
            if entry.marker:
                canvas.mark(entry.marker, x + 6, y - 4, 5.0, entry.kind)
            else:
                canvas.rect(x, y - 9, (11, 10), entry.kind)
            text = fit(entry.text, self.width - x - _TEXT)
            canvas.text(x + _TEXT, y, text, "muted", entry.text)

    def _places(self) -> list[Point]:
        x, y, places = self.left, 12.0, list[Point]()
        for entry in self.entries:
            width = _TEXT + width_of(entry.text)
            if x > self.left and x + width > self.width:
                x, y = self.left, y + _LINE
            places.append((x, y))
            x += width + _GAP
        return places
