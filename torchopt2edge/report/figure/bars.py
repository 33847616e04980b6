"""Charts of one number per candidate: the task metric, and bars of size, energy and start-up."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torchopt2edge.report.figure.axis import Axis, from_zero, padded
from torchopt2edge.report.figure.canvas import Canvas
from torchopt2edge.report.figure.figure import Figure
from torchopt2edge.report.figure.lanes import (
    DrawLane,
    IntervalMark,
    LaneChart,
    Segment,
    bar_lane,
    candidate_lane,
)
from torchopt2edge.report.figure.legend import LegendEntry
from torchopt2edge.report.figure.points import axis_floor
from torchopt2edge.report.figure.style import CandidateStyle
from torchopt2edge.report.text.numbers import fixed_interval, interval, significant
from torchopt2edge.report.text.row_view import RowView, is_percent, metric_title
from torchopt2edge.types import BASELINE

PHASES = (
    ("library_ms", "library load"),
    ("import_ms", "import"),
    ("load_ms", "session creation"),
    ("first_ms", "first inference"),
)
"""The parts of a start: the metric, and its title."""


@dataclass(frozen=True)
class Amount:
    """A metric that is drawn as bars from zero.

    Attributes:
        key: The figure's key.
        metric: The metric's name.
        title: What the figure shows.
        unit: What its axis counts.
        inner: A metric that is a part of it, "" without one.
        notes_title: What stands over the numbers where the part is known.
        caption: What the bars mean where the part is known.
    """

    key: str
    metric: str
    title: str
    unit: str
    inner: str = ""
    notes_title: str = ""
    caption: str = ""


AMOUNTS = (
    Amount(
        "file-size",
        "size_mb",
        "File size",
        "MB",
        "gzip_mb",
        "file / gzip",
        "Pale: the file. Full: the file compressed by gzip.",
    ),
    Amount("memory", "memory_mb", "Peak memory", "peak memory (MB)"),
    Amount("energy", "energy_mj", "Energy", "mJ per inference"),
)
"""Every metric that is drawn as bars."""


def metric_chart(views: Sequence[RowView], style: CandidateStyle) -> Figure | None:
    """Draw the task metric with its intervals.

    Args:
        views: The run's rows.
        style: Their colours and markers.

    Returns:
        The figure, or None where nothing was evaluated.
    """
    metric = views[0].metric if views else ""
    known = [(v, x) for v in views if not v.failed and (x := v.finite(metric)) is not None]
    if not known:
        return None
    percent = is_percent(metric)
    floor = axis_floor([value for _, value in known]) if percent else -math.inf
    shown = [(view, value) for view, value in known if value >= floor]
    ends = [end for view, value in shown for end in (value, *(view.finite_ends(metric) or ()))]

    def axis(left: float, right: float) -> Axis:
        whole = padded(ends, left, right)
        if not percent:
            return whole
        return Axis(max(0.0, whole.low), min(100.4, whole.high), left, right)

    def draw(view: RowView, value: float) -> DrawLane:
        if value < floor:
            return _off_axis(f"mark {'hollow ' if view.rejected else ''}{style.colour(view)}")
        bar = view.finite_ends(metric)
        marker, colour = style.marker(view), style.colour(view)
        return IntervalMark(value, bar, marker, colour, view.rejected).draw

    def note(view: RowView) -> str:
        return fixed_interval(view.value(metric), *view.ends(metric), view.decimals)

    title = metric_title(metric)
    arrow = " An arrow: the value lies further left." if len(shown) < len(known) else ""
    return LaneChart(
        "accuracy",
        f"{title} of every candidate",
        [candidate_lane(view, note(view), draw(view, value)) for view, value in known],
        axis,
        f"{title} (%)" if percent else title,
        guides=[(value, "dashed") for view, value in known if view.reference],
        caption="Marks are the values, bars their 95 % intervals; the dashed line is the "
        f"reference.{arrow}",
    ).figure()


def _off_axis(kind: str) -> DrawLane:
    """Return what draws an arrow at the left edge, for a value beyond it."""

    def draw(canvas: Canvas, axis: Axis, y: float) -> None:
        canvas.mark("triangle-left", axis.start + 7, y, 5.0, kind)

    return draw


def amount_chart(views: Sequence[RowView], style: CandidateStyle, amount: Amount) -> Figure | None:
    """Draw a metric as bars from zero.

    Args:
        views: The run's rows.
        style: Their colours and markers.
        amount: The metric.

    Returns:
        The figure, or None where it was not measured.
    """
    known = [(v, x) for v in views if not v.failed and (x := v.finite(amount.metric)) is not None]
    if not known:
        return None
    parted = any(amount.inner and view.finite(amount.inner) is not None for view, _ in known)

    def bar(view: RowView, value: float) -> DrawLane:
        colour = style.colour(view)
        part = view.finite(amount.inner)
        if part is None:
            return bar_lane([Segment(0.0, value, f"bar {colour}")])
        whole = Segment(0.0, value, f"bar pale {colour}")
        return bar_lane([whole, Segment(0.0, part, f"bar {colour}")])

    def note(view: RowView) -> str:
        whole = interval(view.value(amount.metric), *view.ends(amount.metric))
        part = significant(view.value(amount.inner))
        return f"{whole} / {part}" if part else whole

    return LaneChart(
        amount.key,
        amount.title,
        [candidate_lane(view, note(view), bar(view, value)) for view, value in known],
        lambda left, right: from_zero([value for _, value in known], left, right),
        amount.unit,
        notes_title=amount.notes_title if parted else "",
        caption=amount.caption if parted else "",
    ).figure()


def startup_chart(views: Sequence[RowView]) -> Figure | None:
    """Draw the time from the start of the process to the first answer, part by part.

    PyTorch's own import takes seconds and would hide the files' parts, so it is left out where
    there are files.

    Args:
        views: The run's rows.

    Returns:
        The figure, or None where no part was measured.
    """
    timed = [(view, parts) for view in views if not view.failed and (parts := _phases(view))]
    files = [(view, parts) for view, parts in timed if view.row.backend != BASELINE]
    shown = files or timed
    if not shown:
        return None
    used = sorted({at for _, parts in shown for at in parts})
    caption = "The process starts cold; the parts follow each other from left to right."
    if len(shown) < len(timed):
        caption += " PyTorch is in the table only."
    return LaneChart(
        "start-up",
        "Time to the first answer",
        [
            candidate_lane(view, f"{significant(sum(parts.values()))} ms", _stack(parts))
            for view, parts in shown
        ],
        lambda left, right: from_zero([sum(parts.values()) for _, parts in shown], left, right),
        "milliseconds to the first answer",
        legend=[LegendEntry(PHASES[at][1], f"bar phase-{at}") for at in used],
        caption=caption,
    ).figure()


def _phases(view: RowView) -> dict[int, float]:
    """Return the milliseconds of each part of the start that was measured."""
    values = ((at, view.finite(name)) for at, (name, _) in enumerate(PHASES))
    return {at: value for at, value in values if value is not None and value >= 0}


def _stack(parts: dict[int, float]) -> DrawLane:
    edges = [0.0, *itertools.accumulate(parts.values())]
    spans = zip(parts, itertools.pairwise(edges), strict=True)
    return bar_lane([Segment(*span, f"bar part phase-{at}") for at, span in spans])


def startup_cells(views: Sequence[RowView]) -> list[list[str]]:
    """Return the start-up table.

    Args:
        views: The run's rows.

    Returns:
        Cells, header first: each part of the start, and the latency after it.
    """
    names = (*PHASES, ("latency_ms", "steady state"))
    head = ["candidate", *(f"{title} ms" for _, title in names)]
    body = [
        [view.name, *(significant(view.value(name)) for name, _ in names)]
        for view in views
        if not view.failed and _phases(view)
    ]
    return [head, *body]
