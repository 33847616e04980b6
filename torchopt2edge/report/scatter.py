"""The first panel: latency against the task metric, or against the file's size without one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchopt2edge.report.label import Box, Place, Wish, nearest, place
from torchopt2edge.report.line import Line, is_share, metric_title
from torchopt2edge.report.look import INK, MUTED, Look, literal
from torchopt2edge.report.number import fixed
from torchopt2edge.report.scale import milliseconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAST, _MOST = 30.0, 420.0  # marker areas in square points
_BROKEN = 10.0  # points below the best: drawn at the edge, lest it flatten all the others


@dataclass(frozen=True)
class _Point:
    line: Line
    x: float
    y: float
    below: bool  # its value lies under the axis; drawn at the edge
    area: float

    @property
    def text(self) -> str:
        name = literal(f"{line_mark(self.line)}{self.line.name}")
        value = self.line.get(self.line.metric)
        return f"{name} ↓ {fixed(value, self.line.places)} %" if self.below else name


def line_mark(line: Line) -> str:
    """Return the winner's star or the tie's sign before a name, "" for the others."""
    return f"{line.mark} " if line.winner or line.tied else ""


def draw(axes: Axes, table: Sequence[Line], look: Look) -> Callable[[], None]:
    """Draw the panel; return what adds its labels once the figure's layout is final."""
    metric = table[0].metric if table else ""
    points = _points(table, metric)
    against = f"{metric_title(metric)} (%)" if is_share(metric) else metric_title(metric)
    against = against or "file size (MB)"
    axes.set_title(literal(f"Latency against {against.rsplit(' (', 1)[0]}", 80))
    if not points:
        _nothing(axes, "nothing was measured that can be compared")
        return lambda: None
    axes.set_ylabel(literal(against))
    axes.grid(True)
    milliseconds(
        axes, [end for point in points for end in _ends(point.line, "latency_ms", point.x)]
    )
    _limits(axes, points, metric)
    front = _front(points, metric)
    _stairs(axes, front)
    for point in sorted(points, key=_large_first):
        _mark(axes, point, look, metric)
    return lambda: _label(axes, points, front)


def _nothing(axes: Axes, text: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=MUTED)


def _points(table: Sequence[Line], metric: str) -> list[_Point]:
    seen = []
    for line in table:
        x, y = line.get("latency_ms"), line.get(metric or "size_mb")
        if not line.failed and x is not None and y is not None:
            seen.append((line, x, y))
    floor = _floor([y for _, _, y in seen]) if is_share(metric) else float("-inf")
    largest = max((line.get("size_mb") or 0.0 for line, _, _ in seen), default=0.0) or 1.0
    edge = min((y for _, _, y in seen if y >= floor), default=0.0)
    return [
        _Point(
            line,
            x,
            y if y >= floor else edge,
            y < floor,
            max(_LEAST, _MOST * (line.get("size_mb") or 0.0) / largest),
        )
        for line, x, y in seen
    ]


def _floor(values: Sequence[float]) -> float:
    """Return the value under which a minority of broken candidates leaves the axis."""
    if not values:
        return float("-inf")
    floor = max(values) - _BROKEN
    broken = [value for value in values if value < floor]
    return floor if broken and len(broken) <= len(values) / 2 else float("-inf")


def _ends(line: Line, metric: str, value: float) -> tuple[float, float]:
    """Return the interval's ends, or the value twice where there is no interval."""
    names = (
        ("latency_low_ms", "latency_high_ms")
        if metric == "latency_ms"
        else (f"{metric}_low", f"{metric}_high")
    )
    low, high = (line.get(name) for name in names)
    return (low, high) if low is not None and high is not None else (value, value)


def _limits(axes: Axes, points: Sequence[_Point], metric: str) -> None:
    shown = [point for point in points if not point.below]
    ends = [end for point in shown for end in _ends(point.line, metric, point.y)]
    low, high = min(ends), max(ends)
    if not metric:
        axes.set_ylim(0, high * 1.15)
        return
    room = max(high - low, 0.5 if is_share(metric) else 0.01 * abs(high)) or 1.0
    deeper = 0.22 if len(shown) < len(points) else 0.1
    axes.set_ylim(low - deeper * room, high + 0.1 * room)


def _front(points: Sequence[_Point], metric: str) -> list[_Point]:
    """Return the verdict's Pareto set as far as this plane shows it, fastest first."""
    front: list[_Point] = []
    sign = 1 if metric else -1
    members = [point for point in points if point.line.pareto and not point.below]
    for point in sorted(members, key=_by_latency):
        if not front or sign * point.y > sign * front[-1].y:
            front.append(point)
    return front


def _stairs(axes: Axes, front: Sequence[_Point]) -> None:
    if len(front) > 1:
        xs, ys = [point.x for point in front], [point.y for point in front]
        axes.step(xs, ys, where="post", color=MUTED, alpha=0.6, linewidth=1.4, zorder=1)


def _treads(axes: Axes, front: Sequence[_Point]) -> list[Box]:
    """Return the pixels of the staircase, over which no label goes."""
    pixels = [axes.transData.transform((point.x, point.y)) for point in front]
    boxes: list[Box] = []
    for (x0, y0), (x1, y1) in itertools.pairwise(pixels):
        boxes.append((x0, y0 - 1, x1, y0 + 1))
        boxes.append((x1 - 1, min(y0, y1), x1 + 1, max(y0, y1)))
    return boxes


def _by_latency(point: _Point) -> float:
    return point.x


def _large_first(point: _Point) -> float:
    return -point.area


def _height(axes: Axes, point: _Point) -> float:
    """Return where to draw the point: a broken one lies just above the axis."""
    low, high = axes.get_ylim()
    return low + 0.05 * (high - low) if point.below else point.y


def _mark(axes: Axes, point: _Point, look: Look, metric: str) -> None:
    colour, y = look.colour(point.line), _height(axes, point)
    left, right = _ends(point.line, "latency_ms", point.x)
    axes.hlines(y, left, right, color=colour, linewidth=1.2, alpha=0.55, zorder=2)
    if metric and not point.below:
        low, high = _ends(point.line, metric, point.y)
        axes.vlines(point.x, low, high, color=colour, linewidth=1.2, alpha=0.35, zorder=2)
    style: dict[str, Any] = {"marker": look.marker(point.line), "zorder": 4}
    hollow = point.line.out
    axes.scatter(
        [point.x],
        [y],
        s=point.area,
        facecolor="white" if hollow else colour,
        edgecolor=colour if hollow else "white",
        linewidth=1.4 if hollow else 0.9,
        **style,
    )
    if point.line.winner or point.line.tied:
        axes.scatter(
            [point.x],
            [y],
            s=(point.area**0.5 + 7) ** 2,
            facecolor="none",
            edgecolor=INK,
            linewidth=1.3,
            marker="o",
            zorder=5,
        )


def _label(axes: Axes, points: Sequence[_Point], front: Sequence[_Point]) -> None:
    """Name every point; where the plane is crowded, by its number in the panel below."""
    ordered = sorted(points, key=_importance)
    scale = axes.figure.dpi / 72
    wishes = []
    for point in ordered:
        x, y = axes.transData.transform((point.x, _height(axes, point)))
        half = (point.area**0.5 / 2 + (4 if point.line.winner or point.line.tied else 1)) * scale
        texts = (point.text, str(point.line.number))
        wishes.append(Wish(x, y, half, tuple(_size(axes, text, point.line) for text in texts)))
    frame = axes.get_window_extent()
    inside = (frame.x0 + 2, frame.y0 + 2, frame.x1 - 2, frame.y1 - 2)
    found = place(wishes, inside, reach=6 * scale, taken=_treads(axes, front))
    for point, wish, where in zip(ordered, wishes, found, strict=True):
        if where is not None:
            _write(axes, point, wish, where)


def _importance(point: _Point) -> tuple[bool, bool, bool, float]:
    line = point.line
    return not (line.winner or line.tied), not line.reference, not line.pareto, point.x


def _weight(line: Line) -> str:
    return "bold" if line.winner or line.tied else "normal"


def _size(axes: Axes, text: str, line: Line) -> tuple[float, float]:
    """Return the (width, height) of a label in pixels, with a little air."""
    probe = axes.text(0, 0, text, fontsize=8, fontweight=_weight(line))
    box = probe.get_window_extent()
    probe.remove()
    return box.width + 4, box.height + 3


def _write(axes: Axes, point: _Point, wish: Wish, where: Place) -> None:
    from matplotlib.patheffects import withStroke

    back = axes.transData.inverted()
    text = (point.text, str(point.line.number))[where.text]
    at = back.transform(((where.box[0] + where.box[2]) / 2, (where.box[1] + where.box[3]) / 2))
    if where.lead:
        end = back.transform(nearest(wish, where.box))
        ends = [point.x, end[0]], [_height(axes, point), end[1]]
        axes.plot(*ends, color=MUTED, linewidth=0.7, zorder=3)
    axes.text(
        at[0],
        at[1],
        text,
        fontsize=8,
        fontweight=_weight(point.line),
        color=MUTED if point.line.out else INK,
        ha="center",
        va="center",
        zorder=6,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )
