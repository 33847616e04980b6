"""Charts of one lane per candidate: its name, its marks over a shared axis, and its numbers.

On a phone the name and the numbers stand over the lane, and the marks take the whole width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torchopt2edge.report.figure.axis import Axis, AxisFor, tick_text
from torchopt2edge.report.figure.canvas import Canvas, fit, width_of
from torchopt2edge.report.figure.figure import NARROW_PX, WIDE_PX, Figure, draw_figure
from torchopt2edge.report.figure.legend import Legend, LegendEntry
from torchopt2edge.report.text.row_view import RowView

DrawLane = Callable[[Canvas, Axis, float], None]
"""Draws the marks of a lane on a canvas, by its axis and the height of the lane's middle."""

_NAMES = 270.0  # the most that names take of a wide page
_FOOT, _FOOT_TITLED = 22.0, 38.0
_OVER = 20.0
_EDGE = 10.0
_TICK_ROOM = 62.0


@dataclass(frozen=True)
class Lane:
    """One lane.

    Attributes:
        name: What stands before it.
        draw: Draws its marks.
        note: The numbers behind it.
        kind: The class of its texts: ``strong``, ``faint`` or "".
        text: What the description says of it, if more than the note.
        short: Shorter numbers, for a phone on which the name has no room beside the note.
    """

    name: str
    draw: DrawLane
    note: str = ""
    kind: str = ""
    text: str = ""
    short: str = ""


def candidate_lane(view: RowView, note: str, draw: DrawLane, short: str = "") -> Lane:
    """Return the lane of a candidate.

    Args:
        view: Its row; the winner's lane is strong, that of a rejected candidate faint.
        note: The numbers behind it.
        draw: Draws its marks.
        short: Shorter numbers, for a phone.

    Returns:
        The lane.
    """
    kind = "strong" if view.chosen else "faint" if view.rejected else ""
    sign = f"{view.mark} " if view.chosen or view.rejected else ""
    return Lane(f"{sign}{view.name}", draw, note, kind, short=short)


@dataclass(frozen=True)
class LaneChart:
    """A chart of lanes over one axis.

    Attributes:
        key: Its name in the page's ids and of its file.
        title: What it shows.
        lanes: The lanes, top to bottom.
        axis: Makes the axis between two pixels.
        axis_title: What the axis counts.
        notes_title: What stands over the lanes' numbers.
        guides: Vertical lines through all lanes: a value and the line's class.
        legend: What colours and markers stand for.
        height: How high a lane is, in pixels, on a wide page and on a phone.
        indent: Room within the lanes, left of the axis.
        caption: What the marks mean.
        lead: What stands before the lanes' numbers in the description.
    """

    key: str
    title: str
    lanes: Sequence[Lane]
    axis: AxisFor
    axis_title: str = ""
    notes_title: str = ""
    guides: Sequence[tuple[float, str]] = ()
    legend: Sequence[LegendEntry] = ()
    height: tuple[float, float] = (26.0, 26.0)
    indent: float = 0.0
    caption: str = ""
    lead: str = ""

    def figure(self) -> Figure:
        """Draw it for a wide page and for a phone."""
        lanes = "; ".join(f"{x.name} {x.text or x.note}".strip() for x in self.lanes)
        return draw_figure(self.key, self.title, f"{self.lead}{lanes}", self._draw, self.caption)

    def _draw(self, wide: bool) -> Canvas:
        layout = _Layout.of(self, wide)
        axis = self.axis(layout.left + self.indent, layout.right)
        canvas = layout.canvas(self, axis)
        for value, kind in self.guides:
            layout.rule(canvas, axis.at(value), kind)
        for at, lane in enumerate(self.lanes):
            lane.draw(canvas, axis, layout.middle(at))
        return canvas


@dataclass(frozen=True)
class _Layout:
    """The geometry of a chart of lanes; ``left`` to ``right`` is where marks go."""

    count: int
    wide: bool
    height: float
    top: float
    left: float
    right: float
    legend: Legend

    @classmethod
    def of(cls, chart: LaneChart, wide: bool) -> _Layout:
        names = min(_NAMES, max((_width(x.name, x.kind) for x in chart.lanes), default=0.0))
        notes = max(width_of(chart.notes_title), *(_width(x.note, x.kind) for x in chart.lanes))
        right = WIDE_PX - (notes + 14 if notes else _EDGE)
        left, right = (names + 16, right) if wide else (_EDGE, NARROW_PX - _EDGE)
        width = WIDE_PX if wide else NARROW_PX
        legend = Legend(chart.legend, width, left if wide else 2.0)
        top = legend.height + (18.0 if chart.notes_title else 4.0)
        height = chart.height[0] if wide else chart.height[1]
        return cls(len(chart.lanes), wide, height, top, left, right, legend)

    @property
    def step(self) -> float:
        """The height from one lane to the next."""
        return self.height if self.wide else self.height + _OVER

    @property
    def foot(self) -> float:
        """Where the lanes end and the axis begins."""
        return self.top + self.step * self.count + 4

    def middle(self, at: int) -> float:
        """Return the height of the middle of a lane's marks."""
        return self.top + self.step * (at + 1) - self.height / 2

    def canvas(self, chart: LaneChart, axis: Axis) -> Canvas:
        """Return a drawing with the lanes' names and numbers, the grid, axis and legend."""
        width = WIDE_PX if self.wide else NARROW_PX
        canvas = Canvas(width, self.foot + (_FOOT_TITLED if chart.axis_title else _FOOT))
        for tick in axis.ticks(max(3, math.floor((self.right - self.left) / _TICK_ROOM))):
            x = axis.at(tick)
            self.rule(canvas, x, "grid")
            canvas.text(x, self.foot + 15, tick_text(tick), "muted mid")
        if chart.axis_title:
            middle = (self.left + self.right) / 2
            room = 2 * min(middle, width - middle)
            canvas.text(middle, self.foot + 33, fit(chart.axis_title, room), "muted mid")
        end = width if self.wide else width - 2
        if chart.notes_title:
            canvas.text(end, self.top - 7, chart.notes_title, "muted end")
        self.legend.draw(canvas)
        for at, lane in enumerate(chart.lanes):
            self._write(canvas, at, lane, end)
        return canvas

    def rule(self, canvas: Canvas, x: float, kind: str) -> None:
        """Draw a vertical line through all lanes, though not through what is written there."""
        if self.wide:
            canvas.path([(x, self.top), (x, self.foot)], kind)
            return
        half = self.height / 2
        middles = [self.middle(at) for at in range(self.count)]
        canvas.dashes([((x, y - half + 2), (x, y + half)) for y in middles], kind)

    def _write(self, canvas: Canvas, at: int, lane: Lane, end: float) -> None:
        strong = lane.kind == "strong"
        if self.wide:
            y, name = self.middle(at) + 4, fit(lane.name, self.left - 14, strong)
            canvas.text(self.left - 12, y, name, f"{lane.kind} end".strip(), lane.name)
            canvas.text(end, y, lane.note, f"{lane.kind} end".strip())
            return
        y, note, room = self.top + self.step * at + 14, lane.note, NARROW_PX - 14
        if lane.short and _width(lane.name, lane.kind) + _width(note, lane.kind) > room:
            note = lane.short
        name = fit(lane.name, room - _width(note, lane.kind), strong)
        canvas.text(2.0, y, name, lane.kind, lane.name)
        canvas.text(end, y, note, f"{lane.kind} end".strip())


def _width(text: str, kind: str) -> float:
    return width_of(text, kind == "strong")


@dataclass(frozen=True)
class IntervalMark:
    """A marker with a bar from one end of an interval to the other.

    Attributes:
        value: Where the marker is.
        ends: The interval, None without a finite one.
        marker: A name in `canvas.MARKERS`, or "circle".
        colour: Its colour class.
        hollow: Whether only its outline is drawn.
    """

    value: float
    ends: tuple[float, float] | None
    marker: str
    colour: str
    hollow: bool = False

    def draw(self, canvas: Canvas, axis: Axis, y: float) -> None:
        """Draw it.

        Args:
            canvas: What to draw on.
            axis: The axis of its values.
            y: Its height.
        """
        if self.ends and self.ends[0] < self.ends[1]:
            low, high = map(axis.at, self.ends)
            canvas.path([(low, y), (high, y)], f"whisker {self.colour}")
        kind = f"mark {'hollow ' if self.hollow else ''}{self.colour}"
        canvas.mark(self.marker, axis.at(self.value), y, 5.0, kind)


@dataclass(frozen=True)
class Segment:
    """A part of a bar, from one value to another, with its classes."""

    start: float
    end: float
    kind: str


def bar_lane(segments: Sequence[Segment]) -> DrawLane:
    """Return what draws a bar of one or several parts.

    Args:
        segments: The parts; a later one is drawn over an earlier one.

    Returns:
        The function that a `Lane` holds.
    """

    def draw(canvas: Canvas, axis: Axis, y: float) -> None:
        for part in segments:
            left = axis.at(part.start)
            canvas.rect(left, y - 7, (axis.at(part.end) - left, 14), part.kind)

    return draw
