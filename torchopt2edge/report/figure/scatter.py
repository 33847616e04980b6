"""The first panel: latency against the task metric, or against the file's size without one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torchopt2edge.report.figure.label_placement import Box, Place, Wish, nearest, place
from torchopt2edge.report.figure.latency_axis import milliseconds
from torchopt2edge.report.figure.points import Point, line_mark, pareto_front, placed
from torchopt2edge.report.figure.style import INK, MUTED, Look, literal
from torchopt2edge.report.text.numbers import fixed
from torchopt2edge.report.text.row_view import Line, is_share, metric_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(axes: Axes, table: Sequence[Line], look: Look) -> Callable[[], None]:
    """Draw the panel; return what adds its labels once the figure's layout is final."""
    metric = table[0].metric if table else ""
    points = placed(table, metric)
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
    front = pareto_front(points, metric)
    _stairs(axes, front)
    for point in sorted(points, key=_large_first):
        _mark(axes, point, look, metric)
    return lambda: _label(axes, points, front)


def _nothing(axes: Axes, text: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=MUTED)


def _ends(line: Line, metric: str, value: float) -> tuple[float, float]:
    """Return the interval's ends, or the value twice where there is no interval."""
    names = (
        ("latency_low_ms", "latency_high_ms")
        if metric == "latency_ms"
        else (f"{metric}_low", f"{metric}_high")
    )
    low, high = (line.get(name) for name in names)
    return (low, high) if low is not None and high is not None else (value, value)


def _limits(axes: Axes, points: Sequence[Point], metric: str) -> None:
    shown = [point for point in points if not point.below]
    ends = [end for point in shown for end in _ends(point.line, metric, point.y)]
    low, high = min(ends), max(ends)
    if not metric:
        axes.set_ylim(0, high * 1.15)
        return
    room = max(high - low, 0.5 if is_share(metric) else 0.01 * abs(high)) or 1.0
    deeper = 0.22 if len(shown) < len(points) else 0.1
    axes.set_ylim(low - deeper * room, high + 0.1 * room)


def _stairs(axes: Axes, front: Sequence[Point]) -> None:
    if len(front) > 1:
        xs, ys = [point.x for point in front], [point.y for point in front]
        axes.step(xs, ys, where="post", color=MUTED, alpha=0.6, linewidth=1.4, zorder=1)


def _treads(axes: Axes, front: Sequence[Point]) -> list[Box]:
    """Return the pixels of the staircase, over which no label goes."""
    pixels = [axes.transData.transform((point.x, point.y)) for point in front]
    boxes: list[Box] = []
    for (x0, y0), (x1, y1) in itertools.pairwise(pixels):
        boxes.append((x0, y0 - 1, x1, y0 + 1))
        boxes.append((x1 - 1, min(y0, y1), x1 + 1, max(y0, y1)))
    return boxes


def _large_first(point: Point) -> float:
    return -point.area


def _height(axes: Axes, point: Point) -> float:
    """Return where to draw the point: a broken one lies just above the axis."""
    low, high = axes.get_ylim()
    return low + 0.05 * (high - low) if point.below else point.y


def _mark(axes: Axes, point: Point, look: Look, metric: str) -> None:
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


def _label(axes: Axes, points: Sequence[Point], front: Sequence[Point]) -> None:
    """Name every point; where the plane is crowded, by its number in the panel below."""
    ordered = sorted(points, key=_importance)
    scale = axes.figure.dpi / 72
    wishes = []
    for point in ordered:
        x, y = axes.transData.transform((point.x, _height(axes, point)))
        half = (point.area**0.5 / 2 + (4 if point.line.winner or point.line.tied else 1)) * scale
        texts = _texts(point)
        wishes.append(Wish(x, y, half, tuple(_size(axes, text, point.line) for text in texts)))
    frame = axes.get_window_extent()
    inside = (frame.x0 + 2, frame.y0 + 2, frame.x1 - 2, frame.y1 - 2)
    found = place(wishes, inside, reach=6 * scale, taken=_treads(axes, front))
    for point, wish, where in zip(ordered, wishes, found, strict=True):
        if where is not None:
            _write(axes, point, wish, where)


def _texts(point: Point) -> tuple[str, str]:
    """Return what a point may be called: by its name, or by its number in the panel below."""
    line = point.line
    name = literal(f"{line_mark(line)}{line.name}")
    value = f" ↓ {fixed(line.get(line.metric), line.places)} %" if point.below else ""
    return f"{name}{value}", str(line.number)


def _importance(point: Point) -> tuple[bool, bool, bool, float]:
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


def _write(axes: Axes, point: Point, wish: Wish, where: Place) -> None:
    from matplotlib.patheffects import withStroke

    back = axes.transData.inverted()
    text = _texts(point)[where.text]
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
