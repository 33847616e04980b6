"""One lane per candidate: its name, a stretch for marks over a shared axis, and its numbers.

On a phone the name and the numbers stand over the lane and the marks take the whole width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torchopt2edge.report.figure.style import Look
from torchopt2edge.report.html.svg.axis import Axis, label
from torchopt2edge.report.html.svg.canvas import Canvas, fit, width_of
from torchopt2edge.report.text.row_view import Line

WIDE, NARROW = 880.0, 332.0
_NAMES = 270.0  # a name takes no more of a wide page
_FOOT, _FOOT_TITLED = 22.0, 38.0
_OVER = 20.0
_EDGE = 10.0


@dataclass(frozen=True)
class Lane:
    """What stands beside one lane: the name, its class in the style sheet, and the numbers."""

    name: str
    note: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Sheet:
    """The geometry of a drawing in lanes; ``left`` to ``right`` is where marks go."""

    lanes: tuple[Lane, ...]
    wide: bool
    tall: float
    top: float
    left: float
    right: float

    @classmethod
    def of(
        cls, lanes: Sequence[Lane], wide: bool, tall: float, head: str = "", key: float = 0.0
    ) -> Sheet:
        """Lay out lanes ``tall`` pixels high; ``head`` is over their numbers, ``key`` over all."""
        top = key + (18.0 if head else 4.0)
        if not wide:
            return cls(tuple(lanes), wide, tall, top, _EDGE, NARROW - _EDGE)
        names = min(_NAMES, max((_width(x.name, x.kind) for x in lanes), default=0.0))
        notes = max((width_of(head), *(_width(x.note, x.kind) for x in lanes)))
        right = WIDE - (notes + 14 if notes else _EDGE)
        return cls(tuple(lanes), wide, tall, top, names + 16, right)

    @property
    def step(self) -> float:
        """The height from one lane to the next."""
        return self.tall if self.wide else self.tall + _OVER

    @property
    def foot(self) -> float:
        """Where the lanes end and the axis begins."""
        return self.top + self.step * len(self.lanes) + 4

    def middle(self, at: int) -> float:
        """Return the height of the middle of a lane's marks."""
        return self.top + self.step * (at + 1) - self.tall / 2

    def canvas(self, axis: Axis, title: str, head: str = "") -> Canvas:
        """Return a drawing with the lanes' names and numbers, the grid and the axis."""
        width = WIDE if self.wide else NARROW
        canvas = Canvas(width, self.foot + (_FOOT_TITLED if title else _FOOT))
        most = max(3, math.floor((self.right - self.left) / 62))
        for tick in axis.ticks(most):
            x = axis.at(tick)
            self.rule(canvas, x, "grid")
            canvas.text(x, self.foot + 15, label(tick), "muted mid")
        if title:
            canvas.text((self.left + self.right) / 2, self.foot + 33, title, "muted mid")
        if head:
            canvas.text(width if self.wide else width - 2, self.top - 7, head, "muted end")
        for at, lane in enumerate(self.lanes):
            self._write(canvas, at, lane)
        return canvas

    def rule(self, canvas: Canvas, x: float, kind: str) -> None:
        """Draw a vertical line through all lanes, though not through what is written there."""
        if self.wide:
            canvas.path([(x, self.top), (x, self.foot)], kind)
            return
        half = self.tall / 2
        middles = [self.middle(at) for at in range(len(self.lanes))]
        canvas.dashes([((x, y - half + 2), (x, y + half)) for y in middles], kind)

    def _write(self, canvas: Canvas, at: int, lane: Lane) -> None:
        width = WIDE if self.wide else NARROW
        y = self.middle(at) + 4 if self.wide else self.top + self.step * at + 14
        x, room = (self.left - 12, self.left - 14) if self.wide else (2, width - 14)
        if not self.wide:
            room -= _width(lane.note, lane.kind)
        name = fit(lane.name, room, lane.kind == "strong")
        canvas.text(x, y, name, f"{lane.kind} {'end' if self.wide else ''}".strip(), lane.name)
        canvas.text(width if self.wide else width - 2, y, lane.note, f"{lane.kind} num end".strip())


def _width(text: str, kind: str) -> float:
    return width_of(text, kind == "strong")


def lane(line: Line, note: str) -> Lane:
    """Return the lane of a candidate: the winner's is strong, that of one out of the race faint."""
    kind = "strong" if line.winner or line.tied else "faint" if line.out else ""
    sign = f"{line.mark} " if line.winner or line.tied or line.out else ""
    return Lane(f"{sign}{line.name}", note, kind)


def tone(look: Look, line: Line) -> str:
    """Return the class that gives a candidate the colour of its runtime."""
    return f"c{look.colour(line).lstrip('#').lower()}"


def finite(line: Line, name: str) -> float | None:
    """Return a metric that can be drawn: measured, and a number with an end."""
    value = line.get(name)
    return value if value is not None and math.isfinite(value) else None


def ends(line: Line, low: str, high: str) -> tuple[float, float] | None:
    """Return an interval that can be drawn; too few rounds give one without ends."""
    a, b = finite(line, low), finite(line, high)
    return None if a is None or b is None else (a, b)
