"""The candidates as points of a plane: latency against the task metric, or the file's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torchopt2edge.report.text.row_view import Line, is_share

_LEAST, _MOST = 30.0, 420.0  # marker areas in square points
_BROKEN = 10.0  # points below the best: drawn at the edge, lest it flatten all the others


@dataclass(frozen=True)
class Point:
    """A candidate in the plane: at ``x`` milliseconds, and ``y`` of the metric or in MB.

    One that is ``below`` the axis stands at its edge; ``area`` is its marker's, in square points.
    """

    line: Line
    x: float
    y: float
    below: bool
    area: float


def line_mark(line: Line) -> str:
    """Return the winner's star or the tie's sign before a name, "" for the others."""
    return f"{line.mark} " if line.winner or line.tied else ""


def placed(table: Sequence[Line], metric: str) -> list[Point]:
    """Return the lines that have a latency and the other value; "" is the file's size."""
    seen = []
    for line in table:
        x, y = line.get("latency_ms"), line.get(metric or "size_mb")
        if not line.failed and x is not None and y is not None:
            seen.append((line, x, y))
    floor = least_shown([y for _, _, y in seen]) if is_share(metric) else float("-inf")
    largest = max((line.get("size_mb") or 0.0 for line, _, _ in seen), default=0.0) or 1.0
    edge = min((y for _, _, y in seen if y >= floor), default=0.0)
    return [
        Point(
            line,
            x,
            y if y >= floor else edge,
            y < floor,
            max(_LEAST, _MOST * (line.get("size_mb") or 0.0) / largest),
        )
        for line, x, y in seen
    ]


def least_shown(values: Sequence[float]) -> float:
    """Return the value under which a minority of broken candidates leaves the axis."""
    if not values:
        return float("-inf")
    floor = max(values) - _BROKEN
    broken = [value for value in values if value < floor]
    return floor if broken and len(broken) <= len(values) / 2 else float("-inf")


def pareto_front(points: Sequence[Point], metric: str) -> list[Point]:
    """Return the verdict's Pareto set as far as this plane shows it, fastest first."""
    front: list[Point] = []
    sign = 1 if metric else -1
    members = [point for point in points if point.line.pareto and not point.below]
    for point in sorted(members, key=_by_latency):
        if not front or sign * point.y > sign * front[-1].y:
            front.append(point)
    return front


def _by_latency(point: Point) -> float:
    return point.x
