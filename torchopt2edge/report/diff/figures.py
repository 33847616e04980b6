"""The figures of a comparison: latency after over before, and the task metric's difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torchopt2edge.report.diff.change import Change
from torchopt2edge.report.diff.compare import RunDiff
from torchopt2edge.report.diff.devices import DevicesDiff
from torchopt2edge.report.diff.limits import percent
from torchopt2edge.report.diff.text import difference, ratio
from torchopt2edge.report.figure.axis import padded
from torchopt2edge.report.figure.device_lanes import DeviceLanes, DeviceMark
from torchopt2edge.report.figure.figure import Figure
from torchopt2edge.report.figure.lanes import IntervalMark, Lane, LaneChart
from torchopt2edge.report.text.row_view import is_percent, metric_title, plain

LATENCY, ACCURACY = "against-latency", "against-accuracy"
"""The keys of the figures."""

_FURTHEST = 4.0  # an interval is drawn no further than so many times the largest change
_STYLES = {  # (marker, colour, hollow): a shape beside each colour
    "slower": ("triangle-right", "c-vermillion", False),
    "worse": ("triangle-left", "c-vermillion", False),
    "faster": ("triangle-left", "c-blue", False),
    "better": ("triangle-right", "c-blue", False),
    "same": ("circle", "c-grey", False),
    "inconclusive": ("diamond", "c-grey", True),
}
_RATIO_TITLE = "Latency, after over before"
_RATIO_CAPTION = (
    "Marks are the ratios, bars their 95 % intervals. The dashed line at 1 means no change."
)


def diff_figures(diff: RunDiff) -> dict[str, Figure]:
    """Draw the figures of a comparison.

    Args:
        diff: The comparison.

    Returns:
        The figures by their keys, without those that have nothing to show.
    """
    figures = (_latency(diff), _accuracy(diff))
    return {figure.key: figure for figure in figures if figure is not None}


def devices_diff_figures(diff: DevicesDiff) -> dict[str, Figure]:
    """Draw the figure of a comparison on several devices.

    Args:
        diff: The comparison.

    Returns:
        The figure by its key; nothing where no latency was compared.
    """
    marks = {
        name: [
            DeviceMark(at, change.effect, change.outcome == "inconclusive")
            for at, (_, each) in enumerate(diff.compared)
            if (change := each.change(name, "latency_ms")) is not None and change.effect is not None
        ]
        for name in diff.candidates
    }
    limit = diff.max_regression
    figure = DeviceLanes(
        LATENCY,
        f"{_RATIO_TITLE}, on every device",
        [device.device for device, _ in diff.compared],
        marks,
        "latency, after over before",
        f"{_RATIO_CAPTION} A hollow mark is inconclusive.{_limit_sentence(limit)}",
        None if limit is None else 1.0 + limit,
    ).figure()
    return {} if figure is None else {figure.key: figure}


def _limit_sentence(limit: float | None) -> str:
    return "" if limit is None else f" The line to its right is the limit of {percent(limit)}."


def _latency(diff: RunDiff) -> Figure | None:
    changes = [c for c in diff.changes if c.metric == "latency_ms" and _can_be_drawn(c)]
    limit = diff.max_regression
    limits = [] if limit is None else [1.0 + limit]
    caption = f"{_RATIO_CAPTION}{_limit_sentence(limit)}"
    return _chart((LATENCY, _RATIO_TITLE), changes, ratio, (1.0, limits), caption)


def _accuracy(diff: RunDiff) -> Figure | None:
    every = [c for c in diff.changes if c.kind == "difference" and _can_be_drawn(c)]
    metric, limit = every[0].metric if every else "", diff.max_regression
    points = is_percent(metric)
    limits = [-100.0 * limit] if points and limit is not None else []
    title = f"{metric_title(metric)}, after minus before{' (points)' if points else ''}"
    caption = (
        "Marks are the differences, bars their 95 % intervals. The dashed line means no change."
    )
    if limits:
        caption += f" The line to its left is the limit of {percent(limit or 0.0)}, in points."
    changes = [change for change in every if change.metric == metric]
    return _chart((ACCURACY, title), changes, difference, (0.0, limits), caption)


def _can_be_drawn(change: Change) -> bool:
    return change.effect is not None and math.isfinite(change.effect[0])


def _chart(
    name: tuple[str, str],
    changes: Sequence[Change],
    note: Callable[[Change], str],
    lines: tuple[float, Sequence[float]],
    caption: str,
) -> Figure | None:
    """Draw one lane per change; ``name`` is (key, title), ``lines`` no change and the limits."""
    if not changes:
        return None
    neutral, limits = lines
    values = [neutral, *limits, *_ends(changes, neutral)]
    return LaneChart(
        *name,
        [
            Lane(plain(c.candidate), _mark(c).draw, note(c), text=f"{note(c)}, {c.outcome}")
            for c in changes
        ],
        lambda left, right: padded(values, left, right),
        name[1],
        guides=[(neutral, "dashed"), *((limit, "axis") for limit in limits)],
        caption=caption,
    ).figure()


def _ends(changes: Sequence[Change], neutral: float) -> list[float]:
    """Return what the axis must hold: every value, and the interval's ends within reason."""
    effects = [change.effect for change in changes if change.effect]
    values = [effect[0] for effect in effects]
    least = 0.05 if neutral else 1.0
    reach = _FURTHEST * max(least, *(abs(value - neutral) for value in values))
    ends = [end for effect in effects for end in effect[1:] if math.isfinite(end)]
    return [*values, *(min(max(end, neutral - reach), neutral + reach) for end in ends)]


def _mark(change: Change) -> IntervalMark:
    value, low, high = change.effect or (0.0, 0.0, 0.0)
    marker, colour, hollow = _STYLES[change.outcome]
    ends = (low, high) if math.isfinite(high - low) else None
    return IntervalMark(value, ends, marker, colour, hollow)
