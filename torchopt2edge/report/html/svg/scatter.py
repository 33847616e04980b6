"""Latency against the task metric, or against the file's size where there is none."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torchopt2edge.report.figure.label_placement import Box, Place, Wish, nearest, place
from torchopt2edge.report.figure.points import Point, line_mark, pareto_front, placed
from torchopt2edge.report.figure.style import Look, runtime_name
from torchopt2edge.report.html.blocks import Figure, figure
from torchopt2edge.report.html.svg.axis import Axis, from_zero, label, positive, span
from torchopt2edge.report.html.svg.canvas import Canvas, fit, width_of
from torchopt2edge.report.html.svg.lanes import NARROW, WIDE, ends, finite, tone
from torchopt2edge.report.text.numbers import fixed, significant
from torchopt2edge.report.text.row_view import Line, is_share, metric_title


@dataclass(frozen=True)
class _Plane:
    x: Axis
    y: Axis
    metric: str
    look: Look

    def at(self, point: Point) -> tuple[float, float]:
        """A broken candidate lies just over the floor, lest it flatten all the others."""
        return self.x.at(point.x), self.y.start - 14 if point.below else self.y.at(point.y)

    def radius(self, point: Point) -> float:
        return max(4.0, min(10.0, math.sqrt(point.area) / 2))


def pareto(table: Sequence[Line], look: Look) -> Figure | None:
    """Return the plot, None when nothing has both a latency and the other value."""
    metric = table[0].metric if table else ""
    other = metric or "size_mb"
    known = [x for x in table if finite(x, "latency_ms") is not None and finite(x, other)]
    points = placed(known, metric)
    if not points:
        return None
    against = metric_title(metric) or "file size"
    unit = " (%)" if is_share(metric) else "" if metric else " (MB)"
    title = f"Latency against {against}"
    said = "; ".join(
        f"{point.line.name} {significant(point.x)} ms, "
        f"{fixed(point.line.get(other), point.line.places if metric else 2)}{unit}"
        for point in points
    )

    def draw(wide: bool) -> Canvas:
        return _draw(points, look, metric, f"{against}{unit}", wide)

    return figure("pareto", title, said, draw, _caption(points, metric))


def _caption(points: Sequence[Point], metric: str) -> str:
    """Say what the marks mean that are there."""
    lines = [point.line for point in points]
    means = (
        ("Left is faster.", True),
        ("Bars are 95 % intervals.", any(len(_along(p) + _across(p, metric)) > 2 for p in points)),
        (
            "The step line is the Pareto set: nothing measured is better in both.",
            len(pareto_front(points, metric)) > 1,
        ),
        ("A hollow mark is out of the race.", any(line.out for line in lines)),
        ("A ring marks the winner.", any(line.winner for line in lines)),
        ("A ring marks a tie.", any(line.tied for line in lines)),
        ("A larger mark is a larger file.", len({point.area for point in points}) > 1),
        ("A number stands for the candidate with that number in the table.", len(points) > 1),
    )
    return " ".join(sentence for sentence, holds in means if holds)


def _draw(points: Sequence[Point], look: Look, metric: str, name: str, wide: bool) -> Canvas:
    canvas = Canvas(WIDE, 440) if wide else Canvas(NARROW, 360)
    left, foot = (56.0 if wide else 40.0), canvas.height - 42
    key = _key(canvas, points, look)
    x = positive([end for p in points for end in _along(p)], left, canvas.width - 10)
    y = _upward(points, metric, foot, key + 28)
    plane = _Plane(x, y, metric, look)
    _frame(canvas, plane, name)
    front = pareto_front(points, metric)
    steps = [plane.at(p) for p in front]
    stairs = [s for a, b in itertools.pairwise(steps) for s in (a, (b[0], a[1]), b)]
    if stairs:
        canvas.path(stairs, "stairs")
    for point in sorted(points, key=lambda p: -p.area):
        _mark(canvas, plane, point)
    _label(canvas, plane, points, stairs)
    return canvas


def _along(point: Point) -> tuple[float, ...]:
    return point.x, *(ends(point.line, "latency_low_ms", "latency_high_ms") or ())


def _across(point: Point, metric: str) -> tuple[float, ...]:
    found = ends(point.line, f"{metric}_low", f"{metric}_high") if metric else None
    return point.y, *(found or ())


def _upward(points: Sequence[Point], metric: str, foot: float, top: float) -> Axis:
    values = [end for p in points if not p.below for end in _across(p, metric)]
    if not metric:
        return from_zero(values, foot, top, 0.15)
    axis = span(values, foot - (28 if any(p.below for p in points) else 0), top)
    if is_share(metric):
        low, high = max(0.0, axis.low), min(100.5, axis.high)
        return Axis(low, high, axis.start, axis.end)
    return axis


def _frame(canvas: Canvas, plane: _Plane, name: str) -> None:
    left, right, foot = plane.x.start, plane.x.end, canvas.height - 42
    for tick in plane.y.ticks(6):
        y = plane.y.at(tick)
        canvas.path([(left, y), (right, y)], "grid")
        canvas.text(left - 7, y + 4, label(tick), "muted end")
    for tick in plane.x.ticks(8 if canvas.width > 500 else 5):
        x = plane.x.at(tick)
        canvas.path([(x, plane.y.end), (x, foot)], "grid")
        canvas.text(x, foot + 16, label(tick), "muted mid")
    canvas.path([(left, foot), (right, foot)], "axis")
    canvas.text(0, plane.y.end - 10, fit(f"↑ {name}", right - left), "muted")
    scale = "latency (ms, logarithmic)" if plane.x.log else "latency (ms)"
    canvas.text(right, foot + 35, f"{scale} →", "muted end")


def _key(canvas: Canvas, points: Sequence[Point], look: Look) -> float:
    """Say over the plot which colour is which runtime and which shape which scheme.

    Returns where it ends; what does not fit beside the others begins a line.
    """
    rows = [point.line.row for point in points]
    first = {row.backend: point.line for row, point in zip(rows, points, strict=True)}
    x, y = 6.0, 10.0
    entries = [(runtime_name(name), "", f"bar {tone(look, first[name])}") for name in first]
    schemes = dict.fromkeys(row.scheme for row in rows)
    entries += [(name, look.markers[name], "mark plain") for name in schemes]
    for text, marker, kind in entries:
        text = fit(text, 110)
        wide = width_of(text) + 26
        if x + wide > canvas.width + 17:  # the gap behind the last may lie outside
            x, y = 6.0, y + 18
        if marker:
            canvas.mark(marker, x, y, 4.5, kind)
        else:
            canvas.rect(x - 6, y - 2, (12, 4), kind)
        canvas.text(x + 9, y + 4, text, "muted")
        x += wide
    return y + 10


def _mark(canvas: Canvas, plane: _Plane, point: Point) -> None:
    (x, y), colour = plane.at(point), tone(plane.look, point.line)
    along = _along(point)[1:]
    if along:
        canvas.path([(plane.x.at(along[0]), y), (plane.x.at(along[1]), y)], f"whisk {colour}")
    across = _across(point, plane.metric)[1:]
    if across and not point.below:
        canvas.path([(x, plane.y.at(across[0])), (x, plane.y.at(across[1]))], f"whisk {colour}")
    hollow = "hollow " if point.line.out else ""
    radius = plane.radius(point)
    canvas.mark(plane.look.marker(point.line), x, y, radius, f"mark {hollow}{colour}")
    if point.line.winner or point.line.tied:
        canvas.mark("o", x, y, radius + 4.5, "ring")


def _label(
    canvas: Canvas, plane: _Plane, points: Sequence[Point], stairs: Sequence[tuple[float, float]]
) -> None:
    """Name every point; where the plane is crowded, by its number in the table."""
    ordered = sorted(points, key=lambda p: (not (p.line.winner or p.line.tied), not p.line.pareto))
    texts = [(_text(p, min(240.0, canvas.width * 0.5)), str(p.line.number)) for p in ordered]
    wishes = [
        Wish(*plane.at(p), plane.radius(p) + 4, tuple((_wide(p, t), 15.0) for t in both))
        for p, both in zip(ordered, texts, strict=True)
    ]
    frame = (plane.x.start + 1, plane.y.end - 4, plane.x.end + 8, canvas.height - 44)
    bars: list[Box] = [_bar(plane, p) for p in ordered if len(_across(p, plane.metric)) > 1]
    treads = [_box(a, b) for a, b in itertools.pairwise(stairs)]
    # A name over an error bar says more than a number beside it.
    tries = [place(wishes, frame, 8.0, taken) for taken in (treads + bars, treads, bars)]
    found = max(tries, key=_named)
    for point, both, wish, where in zip(ordered, texts, wishes, found, strict=True):
        if where is None:
            continue
        box, text = where.box, both[where.text]
        if where.lead:
            canvas.path([(wish.x, wish.y), nearest(wish, box)], "lead")
        strong = point.line.winner or point.line.tied
        kind = "strong" if strong else "faint" if point.line.out else ""
        canvas.text((box[0] + box[2]) / 2, box[3] - 4, text, f"halo mid {kind}".strip())


def _wide(point: Point, text: str) -> float:
    return width_of(text, point.line.winner or point.line.tied) + 4


def _named(found: Sequence[Place | None]) -> int:
    return sum(one is not None and one.text == 0 for one in found)


def _text(point: Point, room: float) -> str:
    name = f"{line_mark(point.line)}{point.line.name}"
    value = fixed(point.line.get(point.line.metric), point.line.places)
    tail = f" ↓ {value}{' %' if is_share(point.line.metric) else ''}" if point.below else ""
    return fit(name, room - width_of(tail)) + tail


def _bar(plane: _Plane, point: Point) -> Box:
    x, (low, high) = plane.at(point)[0], _across(point, plane.metric)[1:]
    return _box((x, plane.y.at(low)), (x, plane.y.at(high)))


def _box(a: tuple[float, float], b: tuple[float, float]) -> Box:
    return min(a[0], b[0]) - 1, min(a[1], b[1]) - 1, max(a[0], b[0]) + 1, max(a[1], b[1]) + 1
