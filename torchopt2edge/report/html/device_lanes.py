"""One lane a candidate with a mark for every device: an order that turns is marks that cross."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchopt2edge.report.html.blocks import Figure, figure
from torchopt2edge.report.html.svg.axis import Axis, positive, span
from torchopt2edge.report.html.svg.canvas import Canvas, fit, width_of
from torchopt2edge.report.html.svg.lanes import NARROW, WIDE, Lane, Sheet
from torchopt2edge.report.text.numbers import times_between
from torchopt2edge.report.text.row_view import plain
from torchopt2edge.stats.rounds import Interval

_STEP = 14.0  # from one device's mark to the next within a lane
_LOOKS = (  # a shape beside each colour; further devices begin anew
    ("o", "c0072b2"),
    ("s", "cd55e00"),
    ("D", "c009e73"),
    ("^", "ccc79a7"),
    ("v", "ce69f00"),
    ("P", "c56b4e9"),
    ("X", "c4d4d4d"),
)


@dataclass(frozen=True)
class Dot:
    """A ratio on the device of that number; one that does not count there is hollow."""

    device: int
    ratio: Interval
    hollow: bool = False


@dataclass(frozen=True)
class Abreast:
    """What a drawing holds: the devices, and by candidate its dots; ``axis`` names the ratio.

    ``limit`` is a ratio at which a line stands, beside the one at 1.
    """

    devices: Sequence[str]
    dots: Mapping[str, Sequence[Dot]]
    axis: str
    limit: float | None = None

    def figure(self, title: str, caption: str) -> Figure | None:
        """Return the drawing for a page and for a phone, None where there is nothing to draw."""
        if not any(self.dots.values()):
            return None
        said = "; ".join(
            f"{plain(name)}: {', '.join(map(self._said, dots))}"
            for name, dots in self.dots.items()
            if dots
        )
        return figure("ratio", title, said, self._draw, caption)

    def _said(self, dot: Dot) -> str:
        return f"{plain(self.devices[dot.device])} {times_between(dot.ratio)}"

    def _draw(self, wide: bool) -> Canvas:
        known = [(name, dots) for name, dots in self.dots.items() if dots]
        keys = self._places(wide)
        lanes = [Lane(plain(name)) for name, _ in known]
        tall = 12 + _STEP * len(self.devices)
        sheet = Sheet.of(lanes, wide, tall, key=keys[-1][1] + 12)
        edges = [] if self.limit is None else [self.limit]
        ends = [end for _, dots in known for dot in dots for end in dot.ratio]
        scale = span if max(ends) < 10 * min(ends) else positive
        axis = scale([1.0, *edges, *ends], sheet.left, sheet.right)
        canvas = sheet.canvas(axis, self.axis)
        sheet.rule(canvas, axis.at(1.0), "onset")
        for edge in edges:
            sheet.rule(canvas, axis.at(edge), "axis")
        self._key(canvas, keys)
        for at, (_, dots) in enumerate(known):
            for dot in dots:
                y = sheet.middle(at) + _STEP * (dot.device - (len(self.devices) - 1) / 2)
                _mark(canvas, axis, y, dot)
        return canvas

    def _key(self, canvas: Canvas, places: Sequence[tuple[float, float]]) -> None:
        for at, (x, y) in enumerate(places):
            marker, colour = _LOOKS[at % len(_LOOKS)]
            name = plain(self.devices[at])
            canvas.mark(marker, x + 6, y - 4, 5.0, f"mark {colour}")
            canvas.text(x + 16, y, fit(name, canvas.width - x - 18), "", name)

    def _places(self, wide: bool) -> list[tuple[float, float]]:
        """Return where each device's key goes; one that finds no room begins a new line."""
        most = WIDE if wide else NARROW
        x, y, found = 2.0, 12.0, list[tuple[float, float]]()
        for device in self.devices:
            width = width_of(plain(device)) + 34
            if x > 2 and x + width > most:
                x, y = 2.0, y + 18
            found.append((x, y))
            x += width
        return found


def _mark(canvas: Canvas, axis: Axis, y: float, dot: Dot) -> None:
    value, low, high = dot.ratio
    marker, colour = _LOOKS[dot.device % len(_LOOKS)]
    if low < high:
        canvas.path([(axis.at(low), y), (axis.at(high), y)], f"whisk {colour}")
    canvas.mark(marker, axis.at(value), y, 5.0, f"mark {'hollow ' if dot.hollow else ''}{colour}")
