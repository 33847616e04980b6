"""Latency against the task metric, or against the file's size where there is none."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torchopt2edge.report.figure.axis import Axis, from_zero, padded, tick_text, zero_or_log
from torchopt2edge.report.figure.canvas import Canvas, Point, fit, width_of
from torchopt2edge.report.figure.figure import NARROW_PX, WIDE_PX, Figure
from torchopt2edge.report.figure.label_placement import (
    Box,
    Label,
    Placement,
    nearest_point,
    place_labels,
)
from torchopt2edge.report.figure.legend import Legend
from torchopt2edge.report.figure.points import PlanePoint, marked_name, pareto_front, plane_points
from torchopt2edge.report.figure.style import CandidateStyle
from torchopt2edge.report.text.numbers import fixed, significant
from torchopt2edge.report.text.row_view import RowView, is_percent, metric_title

_LINE = 15.0  # the height of a label


def tradeoff_title(metric: str) -> str:
    """Return the title of the chart.

    Args:
        metric: The run's task metric, "" without one.

    Returns:
        "Latency against top-1", or "Latency against file size".
    """
    return f"Latency against {metric_title(metric) or 'file size'}"


def tradeoff_chart(views: Sequence[RowView], style: CandidateStyle) -> Figure | None:
    """Draw latency against the task metric, or against the file's size.

    Args:
        views: The run's rows.
        style: Their colours and markers.

    Returns:
        The figure, or None where no row has both values.
    """
    metric = views[0].metric if views else ""
    points = plane_points(views, metric)
    if not points:
        return None
    unit = " (%)" if is_percent(metric) else "" if metric else " (MB)"
    y_title = f"{metric_title(metric) or 'file size'}{unit}"
    description = "; ".join(
        f"{point.view.name} {significant(point.x)} ms, {_y_text(point, metric)}{unit}"
        for point in points
    )
    planes = [_Plane.of(points, style, metric, wide) for wide in (True, False)]
    numbered = [plane.draw(y_title) for plane in planes]
    wide, narrow = (plane.canvas.finish() for plane in planes)
    caption = _caption(points, metric, any(numbered))
    return Figure("trade-off", tradeoff_title(metric), description, wide, narrow, caption)


def _y_text(point: PlanePoint, metric: str) -> str:
    view = point.view
    return fixed(view.value(metric), view.decimals) if metric else fixed(view.value("size_mb"), 2)


def _caption(points: Sequence[PlanePoint], metric: str, numbered: bool) -> str:
    """Explain the marks that are there; ``numbered`` says whether a label is a number."""
    views = [point.view for point in points]
    sentences = (
        ("Left is faster.", True),
        ("Bars are 95 % intervals.", any(_x_ends(p) or _y_ends(p, metric) for p in points)),
        (
            "The step line is the Pareto set: nothing measured is better in both.",
            len(pareto_front(points, metric)) > 1,
        ),
        ("A hollow mark is a rejected candidate.", any(view.rejected for view in views)),
        ("A ring marks the winner.", any(view.winner for view in views)),
        ("A ring marks a tie.", any(view.tied for view in views)),
        ("A larger mark is a larger file.", len({point.area for point in points}) > 1),
        ("A number stands for the candidate with that number in the table.", numbered),
    )
    return " ".join(sentence for sentence, applies in sentences if applies)


def _x_ends(point: PlanePoint) -> tuple[float, ...]:
    return point.view.finite_ends("latency_ms") or ()


def _y_ends(point: PlanePoint, metric: str) -> tuple[float, ...]:
    return (point.view.finite_ends(metric) or ()) if metric else ()


@dataclass(frozen=True)
class _Plane:
    """The chart in one width: its points, their style, its axes and its legend."""

    points: Sequence[PlanePoint]
    style: CandidateStyle
    metric: str
    x: Axis
    y: Axis
    canvas: Canvas
    legend: Legend

    @classmethod
    def of(
        cls, points: Sequence[PlanePoint], style: CandidateStyle, metric: str, wide: bool
    ) -> _Plane:
        canvas = Canvas(WIDE_PX, 440) if wide else Canvas(NARROW_PX, 360)
        left, foot = (56.0 if wide else 40.0), canvas.height - 42
        legend = Legend(style.legend([point.view for point in points]), canvas.width)
        xs = [end for p in points for end in (p.x, *_x_ends(p))]
        x = zero_or_log(xs, left, canvas.width - 10)
        y = _vertical(points, metric, foot, legend.height + 26)
        return cls(points, style, metric, x, y, canvas, legend)

    def draw(self, y_title: str) -> bool:
        """Draw it, and return whether a candidate had room for its number only."""
        self.legend.draw(self.canvas)
        self._frame(y_title)
        front = self._front()
        if front:
            self.canvas.path(front, "front")
        for point in sorted(self.points, key=_large_first):
            self._mark(point)
        return self._labels(front)

    @property
    def _foot(self) -> float:
        return self.canvas.height - 42

    def _at(self, point: PlanePoint) -> Point:
        """Return a point's pixel; one below the axis lies just over its lower edge."""
        return self.x.at(point.x), self._foot - 14 if point.below else self.y.at(point.y)

    def _frame(self, y_title: str) -> None:
        left, right, foot, top = self.x.start, self.x.end, self._foot, self.y.end
        for tick in self.y.ticks(6):
            y = self.y.at(tick)
            self.canvas.path([(left, y), (right, y)], "grid")
            self.canvas.text(left - 7, y + 4, tick_text(tick), "muted end")
        for tick in self.x.ticks(8 if self.canvas.width > 500 else 5):
            x = self.x.at(tick)
            self.canvas.path([(x, top), (x, foot)], "grid")
            self.canvas.text(x, foot + 16, tick_text(tick), "muted mid")
        self.canvas.path([(left, foot), (right, foot)], "axis")
        self.canvas.text(0, top - 10, fit(f"↑ {y_title}", right - left), "muted")
        x_title = "latency (ms, logarithmic)" if self.x.log else "latency (ms)"
        self.canvas.text(right, foot + 35, f"{x_title} →", "muted end")

    def _front(self) -> list[Point]:
        """Return the corners of the step line through the Pareto set."""
        corners = [self._at(point) for point in pareto_front(self.points, self.metric)]
        steps = itertools.pairwise(corners)
        return [corner for a, b in steps for corner in (a, (b[0], a[1]), b)]

    def _mark(self, point: PlanePoint) -> None:
        (x, y), view = self._at(point), point.view
        colour = self.style.colour(view)
        if ends := _x_ends(point):
            low, high = map(self.x.at, ends)
            self.canvas.path([(low, y), (high, y)], f"whisker {colour}")
        if (ends := _y_ends(point, self.metric)) and not point.below:
            low, high = map(self.y.at, ends)
            self.canvas.path([(x, low), (x, high)], f"whisker soft {colour}")
        kind = f"mark {'hollow ' if view.rejected else ''}{colour}"
        self.canvas.mark(self.style.marker(view), x, y, _radius(point), kind)
        if view.chosen:
            self.canvas.mark("circle", x, y, _radius(point) + 4.5, "ring")

    def _labels(self, front: Sequence[Point]) -> bool:
        """Name every point; where the plane is crowded, by its number in the table.

        Returns whether a number was used.
        """
        ordered = sorted(self.points, key=_important_first)
        texts = [self._texts(point) for point in ordered]
        labels = [
            Label(*self._at(p), _radius(p) + 4, tuple((_label_width(p, t), _LINE) for t in both))
            for p, both in zip(ordered, texts, strict=True)
        ]
        placements = self._placed(ordered, labels, front)
        for point, both, label, where in zip(ordered, texts, labels, placements, strict=True):
            if where is None:
                continue
            if where.leader:
                self.canvas.path([(label.x, label.y), nearest_point(label, where.box)], "leader")
            kind = "strong" if point.view.chosen else "faint" if point.view.rejected else ""
            middle, foot = (where.box[0] + where.box[2]) / 2, where.box[3] - 4
            self.canvas.text(middle, foot, both[where.text], f"halo mid {kind}".strip())
        return any(where is not None and where.text for where in placements)

    def _placed(
        self, ordered: Sequence[PlanePoint], labels: Sequence[Label], front: Sequence[Point]
    ) -> list[Placement | None]:
        """Return the placements that show most names: one over a bar is better than a number."""
        frame = (self.x.start + 1, self.y.end - 4, self.x.end + 8, self._foot - 2)
        bars = [self._bar(p) for p in ordered if _y_ends(p, self.metric) and not p.below]
        steps = [_box(a, b) for a, b in itertools.pairwise(front)]
        tries = [place_labels(labels, frame, 8.0, taken) for taken in (steps + bars, steps, bars)]
        return max(tries, key=_names)

    def _texts(self, point: PlanePoint) -> tuple[str, str]:
        """Return the texts of a label, the best first: its name, or its number in the table."""
        view = point.view
        value = fixed(view.value(view.metric), view.decimals)
        tail = f" ↓ {value}{' %' if is_percent(view.metric) else ''}" if point.below else ""
        room = min(240.0, self.canvas.width * 0.5) - width_of(tail)
        return f"{fit(marked_name(view), room)}{tail}", str(view.number)

    def _bar(self, point: PlanePoint) -> Box:
        x, (low, high) = self._at(point)[0], _y_ends(point, self.metric)
        return _box((x, self.y.at(low)), (x, self.y.at(high)))


def _vertical(points: Sequence[PlanePoint], metric: str, foot: float, top: float) -> Axis:
    values = [end for p in points if not p.below for end in (p.y, *_y_ends(p, metric))]
    if not metric:
        return from_zero(values, foot, top, 0.15)
    axis = padded(values, foot - (28 if any(p.below for p in points) else 0), top)
    if is_percent(metric):
        return Axis(max(0.0, axis.low), min(100.5, axis.high), axis.start, axis.end)
    return axis


def _radius(point: PlanePoint) -> float:
    return max(4.0, min(10.0, math.sqrt(point.area) / 2))


def _large_first(point: PlanePoint) -> float:
    return -point.area


def _important_first(point: PlanePoint) -> tuple[bool, bool]:
    return not point.view.chosen, not point.view.pareto


def _label_width(point: PlanePoint, text: str) -> float:
    return width_of(text, point.view.chosen) + 4


def _names(placements: Sequence[Placement | None]) -> int:
    return sum(where is not None and where.text == 0 for where in placements)


def _box(a: Point, b: Point) -> Box:
    return min(a[0], b[0]) - 1, min(a[1], b[1]) - 1, max(a[0], b[0]) + 1, max(a[1], b[1]) + 1
