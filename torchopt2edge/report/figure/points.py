"""The candidates as points of a plane: latency against the task metric, or the file's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torchopt2edge.report.text.row_view import RowView, is_percent

_LEAST_AREA, _MOST_AREA = 30.0, 420.0  # of a marker, in square pixels
_OFF_POINTS = 10.0  # below the best: such a point is drawn at the edge and does not set the axis


@dataclass(frozen=True)
class PlanePoint:
    """A candidate in the plane.

    Attributes:
        view: Its row.
        x: Its latency in milliseconds.
        y: Its task metric, or its size in MB where a run has no metric.
        below: Whether its value lies below the axis; then ``y`` is the axis' lower edge.
        area: The area of its marker in square pixels, which grows with the file.
    """

    view: RowView
    x: float
    y: float
    below: bool
    area: float


def marked_name(view: RowView) -> str:
    """Return a candidate's name behind the winner's star or the tie's sign.

    Args:
        view: The row.

    Returns:
        "★ name", "= name" or "name".
    """
    return f"{view.mark} {view.name}" if view.chosen else view.name


def plane_points(views: Sequence[RowView], metric: str) -> list[PlanePoint]:
    """Return the candidates that have both coordinates.

    Args:
        views: The run's rows.
        metric: The vertical axis: a task metric, or "" for the file's size.

    Returns:
        A point for each row with a finite latency and a finite other value.
    """
    known = [
        (view, x, y)
        for view in views
        if not view.failed
        and (x := view.finite("latency_ms")) is not None
        and (y := view.finite(metric or "size_mb")) is not None
    ]
    floor = axis_floor([y for _, _, y in known]) if is_percent(metric) else float("-inf")
    largest = max((view.finite("size_mb") or 0.0 for view, _, _ in known), default=0.0) or 1.0
    edge = min((y for _, _, y in known if y >= floor), default=0.0)
    return [
        PlanePoint(
            view,
            x,
            y if y >= floor else edge,
            y < floor,
            max(_LEAST_AREA, _MOST_AREA * (view.finite("size_mb") or 0.0) / largest),
        )
        for view, x, y in known
    ]


def axis_floor(values: Sequence[float]) -> float:
    """Return the value below which a candidate does not set the axis of a percentage.

    One collapsed candidate would flatten the differences between all the others.

    Args:
        values: The candidates' values in per cent.

    Returns:
        10 points below the best where a minority lies below it, else minus infinity.
    """
    if not values:
        return float("-inf")
    floor = max(values) - _OFF_POINTS
    below = [value for value in values if value < floor]
    return floor if below and len(below) <= len(values) / 2 else float("-inf")


def pareto_front(points: Sequence[PlanePoint], metric: str) -> list[PlanePoint]:
    """Return the verdict's Pareto set as far as this plane shows it.

    Args:
        points: The points.
        metric: The vertical axis, as in `plane_points`; of a size less is better.

    Returns:
        The members, the fastest first, each better than the one before in the other value.
    """
    front: list[PlanePoint] = []
    sign = 1 if metric else -1
    members = [point for point in points if point.view.pareto and not point.below]
    for point in sorted(members, key=_latency):
        if not front or sign * point.y > sign * front[-1].y:
            front.append(point)
    return front


def _latency(point: PlanePoint) -> float:
    return point.x
